"""Objects in a file that changes, breaks and disappears."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import wait_until
from webhook.errors import ConfigurationError
from webhook.objects.file import FileObjects
from webhook.token.bound_objects import Absence, Kind, ObjectKey, ObjectState

NODE = ObjectKey(Kind.NODE, "", "n")
POLL_SECONDS = 0.01


def text_of(uid: str, name: str = "n") -> str:
    metadata = {"name": name, "uid": uid}
    return json.dumps({"kind": "Node", "apiVersion": "v1", "metadata": metadata})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "objects.json"
    path.write_text(text_of("a"))
    return path


@pytest.fixture
def objects(path: Path) -> Iterator[FileObjects]:
    found = FileObjects(path, POLL_SECONDS)
    found.start()
    yield found
    found.close()


def uid_of(objects: FileObjects) -> str:
    answer = objects.find(NODE, "x")
    return answer.uid if isinstance(answer, ObjectState) else ""


def test_existing_and_missing_objects(objects: FileObjects) -> None:
    missing = ObjectKey(Kind.NODE, "", "m")
    assert objects.find(NODE, "a") == objects.look_up(NODE) == ObjectState("a")
    assert objects.find(missing, "a") is objects.look_up(missing, "a") is Absence.GONE
    assert objects.warning() == ""


def test_file_overwritten(objects: FileObjects, path: Path) -> None:
    path.write_text(text_of("another"))
    wait_until(lambda: uid_of(objects) == "another")


def test_file_replaced(objects: FileObjects, path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text(text_of("b"))
    new.rename(path)
    wait_until(lambda: uid_of(objects) == "b")


def test_a_removed_object_is_gone(objects: FileObjects, path: Path) -> None:
    path.write_text(text_of("b", "m"))
    wait_until(lambda: objects.find(NODE, "a") is Absence.GONE)


BROKEN = [
    pytest.param(lambda path: path.write_text("{"), "stays in use", id="broken"),
    pytest.param(lambda path: path.write_text(""), "has no ServiceAccount", id="empty"),
    pytest.param(Path.unlink, "cannot be read: No such file", id="deleted"),
]


@pytest.mark.parametrize(("broken", "part"), BROKEN)
def test_broken(
    objects: FileObjects,
    path: Path,
    broken: Callable[[Path], object],
    part: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(path)
    wait_until(lambda: objects.warning() != "")
    assert part in objects.warning()
    assert "the previous content stays in use" in objects.warning()
    assert uid_of(objects) == "a"
    # Read repeatedly, and reported once.
    time.sleep(POLL_SECONDS * 10)
    assert caplog.text.count(objects.warning()) == 1
    path.write_text(text_of("repaired"))
    wait_until(lambda: uid_of(objects) == "repaired")
    wait_until(lambda: objects.warning() == "")


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("a: [", "is not YAML")],
    ids=["missing", "json", "yaml"],
)
def test_no_start_without_a_valid_file(tmp_path: Path, content: str | None, part: str) -> None:
    path = tmp_path / "objects"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        FileObjects(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_close_without_start(path: Path) -> None:
    FileObjects(path).close()
