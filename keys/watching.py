"""What a server needs of the signing keys, wherever they are: see ``keys.folder_watch``.

The other implementation is ``webhook.store_keys.watcher``, for keys in a store.
"""

from typing import Final, Protocol

from keys.keyring import Keyring
from keys.rotation import RotationPolicy

PROOF_SECONDS: Final = 300.0
"""How old the proof of a keyring can be that signs, or is published; ``PROPAGATION_SECONDS`` and
``MARGIN_SECONDS`` of ``keys.rotation`` allow for it."""


class KeyWatcher(Protocol):
    """Follows the signing keys in a thread, and takes the steps that are due.

    It calls the function that its constructor was given with every keyring after the first.
    """

    @property
    def keyring(self) -> Keyring:
        """The keys in use. Its ``refusal`` is why they sign nothing, if they do not."""

    def start(self) -> None:
        """Take the steps that are due, then follow the keys; in a server after the fork."""

    def close(self) -> None:
        """Stop following the keys."""

    def use(self, policy: RotationPolicy) -> None:
        """Change the policy; to be called before the first token is signed under the new one."""

    def poll(self) -> None:
        """Take over the present keys, and take the steps that are due."""

    def catch_up(self) -> None:
        """Take over the present keys, because a token has a key that is not known here.

        Raises an error if those that are stored cannot be used.
        """

    def problem(self) -> str:
        """Return why the present keys are not in use, empty if they are."""

    def step_problem(self) -> str:
        """Return why a step that was due could not be taken, empty if it could."""

    def proof(self) -> float:
        """Return the CLOCK_BOOTTIME, in seconds, at which the keyring was that of its source.

        Infinity for keys in a folder, minus infinity before any keys were read.
        """
