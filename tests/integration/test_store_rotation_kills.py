"""Three replicas rotate keys in a real etcd, and are killed at random moments, one or all.

TEST_KILLS sets how often (200 are three years), TEST_KILL_SEED repeats the delays of a run.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from keys.encryption import create_encryption_key_file, read_encryption_keys
from keys.keyring import Keyring, KeyState
from keys.pem import generate_signing_key
from keys.rotation import MARK_SECONDS, StepKind, due_step
from tests.etcd_cluster import EtcdCluster
from tests.integration import test_rotation_kills
from tests.integration.rotation_worker import DAY, MAX_AGE, POLICY, Shared
from tests.integration.store_rotation_worker import PAUSED, nothing, open_store
from tests.integration.test_rotation_kills import Observer, Workers
from webhook.backends.etcd import EtcdBackend
from webhook.etcd.client import EtcdClient
from webhook.setup.first_records import first_records
from webhook.store_keys.changes import Caution, KeyStore, advance, first_key_records
from webhook.store_keys.contents import Vault
from webhook.store_keys.seen import SeenFile

KILLS = int(os.environ.get("TEST_KILLS", "10"))
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
START = test_rotation_kills.START
SECONDS_PER_KILL = test_rotation_kills.SECONDS_PER_KILL
REPLICAS = 3
LONGEST_SECONDS = 0.03
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("store_rotation_worker.py")
STORE_ID = "5d1e" * 8


@pytest.fixture
def place(etcd: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> Path:
    """Return a folder for replicas of a new store, with its first signing key."""
    create_encryption_key_file(tmp_path / "store.key")
    prefix = etcd_prefix.rstrip("/")
    (tmp_path / "endpoints").write_text("\n".join([prefix, *etcd.endpoints]))
    vault = Vault(STORE_ID, read_encryption_keys([tmp_path / "store.key"]))
    key = first_key_records({}, vault, generate_signing_key("ES256"), START)
    with closing(
        EtcdBackend(EtcdClient(etcd.endpoints), prefix, follow=False, writer="test")
    ) as backend:
        assert backend.initialise([*first_records(), *key], STORE_ID)
    return tmp_path


def opened(place: Path, name: str) -> KeyStore:
    data_dir = place / name
    data_dir.mkdir()
    store = open_store(place, name, follow=False)
    return KeyStore(store, read_encryption_keys([place / "store.key"]), SeenFile(data_dir))


@contextmanager
def running(place: Path) -> Iterator[tuple[Workers, Shared]]:
    (place / "shared").write_bytes(bytes(8 * (1 + test_rotation_kills.WORKERS)))
    shared = Shared(place / "shared")
    shared.set_clock(START)
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        workers = Workers(process, shared)
        try:
            yield workers, shared
        finally:
            workers.kill(range(REPLICAS))
            assert process.stdin is not None
            process.stdin.close()
    assert process.returncode == 0


def settled(workers: Workers, keys: KeyStore) -> Keyring:
    """Wait until no replica has anything left to do at the present clock; return the keys."""
    version = -1
    while keys.present().version != version:
        version = keys.present().version
        workers.wait()
        keys.store.change(nothing)
    return keys.present().keyring


@pytest.mark.bad_input(70)
def test_killed_replicas_leave_one_active_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_rotation_kills, "WORKERS", REPLICAS)
    keys = opened(place, "observer")
    observer = Observer(place / "tokens")
    # Only the very first key signs at once.
    observer.published[keys.present().keyring.keys[0].kid] = START - MAX_AGE
    rng = random.Random(SEED)
    with running(place) as (workers, shared):
        workers.wait()
        now, kept = START, 0
        for kill in range(KILLS):
            where = f"TEST_KILL_SEED={SEED}, kill {kill}"
            kill_at, wants_step = now + rng.randrange(SECONDS_PER_KILL), rng.random() < 0.5
            ends, killed = now + SECONDS_PER_KILL, False
            while now < ends or not killed:
                shared.set_clock(PAUSED)
                observer.see(settled(workers, keys), now)
                now += rng.randrange(600, DAY // 2)
                due = due_step(keys.present().keyring, POLICY, now) is not None
                shared.set_clock(now)
                slots: list[int] = []
                if not killed and now >= kill_at and (due or not wants_step):
                    killed, slots = True, rng.sample(range(REPLICAS), rng.choice([1, REPLICAS]))
                    time.sleep(rng.uniform(0, LONGEST_SECONDS))
                    workers.kill(slots)
                    workers.replace(slots)
                keyring = settled(workers, keys)
                observer.see(keyring, now)
                observer.read_tokens()
                observer.check(keyring, now)
                # Replicas that start at once wait first, and follow the clock in steps.
                is_kept = len(slots) < REPLICAS and now - keyring.clock < MARK_SECONDS
                assert not is_kept or due_step(keyring, POLICY, now) is None, where
                kept += is_kept
    print(
        f"TEST_KILL_SEED={SEED}: {KILLS} kills in {(now - START) / DAY / 365:.1f} years, "
        f"{len(observer.published)} keys, {observer.signed} tokens"
    )
    assert len(observer.published) >= (now - START) // POLICY.rotate_every * 8 // 10
    assert kept > 10 * KILLS
    final = keys.present()
    assert (final.unopened, final.strangers) == ({}, ())


@pytest.mark.bad_input(70)
def test_replicas_that_rotate_at_once_make_one_step(place: Path) -> None:
    def take(keys: KeyStore, at: int, barrier: threading.Barrier, into: list[StepKind]) -> None:
        barrier.wait()
        into.extend(step.kind for step in advance(keys, POLICY, lambda: at, trusting).steps)

    replicas = [opened(place, f"at-once-{number}") for number in range(4)]
    trusting = Caution(lambda _version: 1000 * DAY, None, is_followed=True)
    taken = []
    now = START
    for wanted in (StepKind.PUBLISH, StepKind.ACTIVATE, StepKind.RETIRE):
        now += {
            StepKind.PUBLISH: POLICY.rotate_every - POLICY.publish_seconds,
            StepKind.ACTIVATE: POLICY.publish_seconds,
            StepKind.RETIRE: POLICY.keep_seconds,
        }[wanted]
        barrier = threading.Barrier(len(replicas))
        found: list[StepKind] = []

        threads = [
            threading.Thread(target=take, args=(keys, now, barrier, found)) for keys in replicas
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken.append(found)
    assert taken == [[StepKind.PUBLISH], [StepKind.ACTIVATE], [StepKind.RETIRE]]
    replicas[0].store.change(nothing)
    stored = replicas[0].present()
    assert [key.state for key in stored.keyring.keys] == [KeyState.RETIRED, KeyState.ACTIVE]
    assert (stored.unopened, stored.strangers) == ({}, ())
