"""``python store_rotation_worker.py FOLDER``: a warm process that forks replicas to be killed.

FOLDER has ``endpoints``, a line with the prefix and one for each endpoint of etcd, ``store.key``,
``shared`` and ``tokens``, which are those of ``rotation_worker.py``. For each line of standard
input, the number of a slot, it forks a replica and prints its process id.
"""

import os
import signal
import sys
from pathlib import Path
from time import sleep

import msgspec

from keys import jws
from keys.encryption import read_encryption_keys
from tests.integration.rotation_worker import LEEWAY, POLICY, Shared
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState
from webhook.store_keys.changes import KeyStore
from webhook.store_keys.seen import SeenFile
from webhook.store_keys.watcher import StoreKeyWatcher

PAUSED = 0
"""The clock while it is moved: otherwise half a day could pass within one look at the keys. Its
token would have the time before the step that made its key active, and a key that it makes would be
noticed half a day late."""


def open_store(folder: Path, name: str, *, follow: bool) -> AuthStore:
    """Open the store, and load it. Imports gRPC: only after a fork."""
    from webhook.backends.etcd import EtcdBackend, boottime
    from webhook.etcd.client import EtcdClient

    prefix, *endpoints = (folder / "endpoints").read_text().split()
    backend = EtcdBackend(EtcdClient(endpoints), prefix, follow=follow, writer=name)
    return AuthStore.loaded(backend, boottime)


def nothing(_state: AuthState) -> list[Record]:
    """Change nothing, with a state that has everything that was acknowledged before."""
    return []


def _work(folder: Path, slot: int) -> None:
    shared = Shared(folder / "shared")
    log = os.open(folder / "tokens", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    data_dir = folder / f"replica{slot}"
    data_dir.mkdir(exist_ok=True)
    store = open_store(folder, f"replica{slot}", follow=True)
    keys = KeyStore(store, read_encryption_keys([folder / "store.key"]), SeenFile(data_dir))
    now = shared.clock()

    def clock() -> float:
        return now

    # One moment for each poll, so that its two clocks agree.
    watcher = StoreKeyWatcher(keys, POLICY, clock=clock, steady=clock)
    parent = os.getppid()
    while os.getppid() == parent:
        moment = shared.clock()
        if moment == PAUSED:
            shared.count_look(slot)
            sleep(0.002)
            continue
        now = moment
        try:
            store.change(nothing)
            watcher.poll()
            store.change(nothing)
        except StoreUnavailableError:
            continue
        watcher.catch_up()
        dies = now + POLICY.token_seconds + LEEWAY
        token = jws.sign(msgspec.json.encode({"exp": dies}), watcher.keyring.signing_key())
        os.write(log, f"\n{now} {token} whole\n".encode())
        shared.count_look(slot)
        sleep(0.002)


def main() -> None:
    """Fork replicas until standard input ends."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The system reaps them: their killer does not wait.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                _work(Path(sys.argv[1]), int(line))
            except Exception as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        os.write(1, b"%d\n" % pid)


if __name__ == "__main__":
    main()
