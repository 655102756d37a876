"""Replicas that share a store, each with a clock of its own, for the tests of this folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keys.encryption import EncryptionKey, EncryptionKeys, new_encryption_key, parse_encryption_key
from keys.keyring import Keyring, KeyState
from keys.rotation import RotationPolicy
from tests.memory_backend import MemoryBackend
from webhook.rbac.auth_store import AuthStore
from webhook.store_keys.changes import Caution, KeyStore, advance, generate_key
from webhook.store_keys.seen import SeenFile
from webhook.store_keys.watcher import StoreKeyWatcher

DAY = 86400
T = 1_800_000_000
MAX_AGE = 3600
# Seconds that the leeways of `iat` and `exp` can add to a token's life.
LEEWAY = 300
POLICY = RotationPolicy(
    jwks_max_age=MAX_AGE, token_seconds=DAY, rotate_every=30 * DAY, algorithm="ES256"
)
BY_HAND = replace(POLICY, rotate_every=0)
PUBLISH, KEEP = POLICY.publish_seconds, POLICY.keep_seconds


def new_key() -> EncryptionKey:
    return parse_encryption_key(new_encryption_key(), "a.key")


A, B = new_key(), new_key()
ONLY_A, ONLY_B = EncryptionKeys((A,)), EncryptionKeys((B,))
A_FIRST, B_FIRST = EncryptionKeys((A, B)), EncryptionKeys((B, A))


class World:
    """A store, and what time it really is."""

    def __init__(self, folder: Path, *, with_key: bool = True) -> None:
        self.folder = folder
        self.backend = MemoryBackend()
        self.backend_of_replicas: Any = self.backend
        self.true = float(T)
        self.replicas: list[Replica] = []
        if with_key:
            generate_key(self.keys("first"), "ES256", POLICY, T)

    def keys(
        self, name: str = "command", encryption: EncryptionKeys = ONLY_A, *, is_loaded: bool = True
    ) -> KeyStore:
        """Return the keys as a command on the machine of a replica opens them."""
        data_dir = self.folder / name
        data_dir.mkdir(exist_ok=True)
        backend = self.backend if name in ("command", "absent") else self.backend_of_replicas
        store = AuthStore.loaded(backend) if is_loaded else AuthStore(backend)
        return KeyStore(store, encryption, SeenFile(data_dir))

    def keyring(self) -> Keyring:
        """Return the keys as anybody with the encryption keys sees them."""
        return self.keys().present().keyring

    def add(self, name: str, **options: object) -> "Replica":
        found = Replica(self, name, **options)  # type: ignore[arg-type]
        self.replicas.append(found)
        return found

    def pass_time(self, seconds: float, step: float = 20.0) -> None:
        """Let time pass while every replica polls."""
        ends = self.true + seconds
        while self.true < ends:
            self.true = min(ends, self.true + step)
            for replica in self.replicas:
                replica.watcher.poll()

    def skip(self, seconds: float) -> None:
        """Let time pass in which a server that is not here keeps the keys and takes the steps."""
        ends = self.true + seconds
        while self.true < ends:
            self.true = min(ends, self.true + 3000)
            caution = Caution(lambda _version: 4000, int(self.true), is_followed=True)
            advance(self.keys("absent"), POLICY, lambda: int(self.true), caution)

    def state(self, kid: str) -> KeyState:
        return self.keyring().key(kid).state


class Replica:
    """A worker of a replica. Its clock is ``ahead`` seconds ahead of the true time."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        policy: RotationPolicy = POLICY,
        encryption: EncryptionKeys = ONLY_A,
        ahead: float = 0.0,
        on_change: Callable[[Keyring], None] = lambda _keyring: None,
        is_loaded: bool = True,
    ) -> None:
        self.world = world
        self.ahead = ahead
        self.keys = world.keys(name, encryption, is_loaded=is_loaded)
        self.watcher = StoreKeyWatcher(
            self.keys,
            policy,
            on_change,
            refresh=self.keys.store.refresh if is_loaded else lambda: None,
            clock=lambda: self.world.true + self.ahead,
            steady=lambda: self.world.true,
            boot=lambda: self.world.true,
        )
        self.watcher.poll()

    @property
    def now(self) -> float:
        return self.world.true + self.ahead

    @property
    def active(self) -> str:
        return self.watcher.keyring.signing_key().verification_key.kid


def states(keyring: Keyring) -> list[KeyState]:
    return [key.state for key in keyring.keys]


def messages(records: Sequence[object]) -> str:
    return "\n".join(str(record) for record in records)
