"""Objects in a file, which is read again when it changes.

Invariant: the objects in use are those of a file that could be parsed; a broken file changes
nothing.
"""

import logging
from pathlib import Path
from typing import Final

from keys.file_watch import FileWatch, is_news
from keys.messages import shown_path
from webhook.errors import ConfigurationError, ConfiguredFileError
from webhook.objects.documents import Objects, parse_objects
from webhook.token.bound_objects import Absence, Lookup, ObjectKey

_POLL_SECONDS: Final = 0.2
_logger = logging.getLogger("leeway")


class FileObjects:
    """The objects in one file, polled every ``poll_seconds``.

    Raises ConfigurationError if the file cannot be used.
    """

    def __init__(self, path: Path, poll_seconds: float = _POLL_SECONDS) -> None:
        self._path = path
        self._warning = ""
        self._watch = FileWatch((path,), self._reload, "leeway-objects-file", poll_seconds)
        self._objects = self._load()

    def start(self) -> None:
        """Start to follow the file."""
        self._watch.start()

    def find(self, key: ObjectKey, uid: str) -> Lookup:  # noqa: ARG002 - the file knows every UID
        """Return the state of an object in the file."""
        return self._objects.get(key, Absence.GONE)

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:  # noqa: ARG002
        """Return the state of an object in the file."""
        return self._objects.get(key, Absence.GONE)

    def problem(self) -> str:
        """Return an empty text: without objects there is no start."""
        return ""

    def warning(self) -> str:
        """Return what is wrong with a new content of the file, empty if nothing is."""
        return self._warning

    def close(self) -> None:
        """Stop following the file."""
        self._watch.close()

    def _reload(self) -> bool:
        before = self._warning
        try:
            self._objects = self._load()
        except ConfigurationError as error:
            self._warning = f"{error}; the previous content stays in use"
            if is_news(self._warning, before):
                _logger.error("the objects were not read again: %s", self._warning)
            return False
        self._warning = ""
        _logger.info("%d objects were read from %s", len(self._objects), shown_path(self._path))
        return True

    def _load(self) -> Objects:
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise ConfiguredFileError(
                f"{shown_path(self._path)}, the file of objects, cannot be read: {error.strerror}"
            ) from error
        return parse_objects(data, shown_path(self._path))
