"""Single bits flipped in a database: noticed, or of no consequence.

TEST_FLIPS sets how many random ones there are beside all of the header and TEST_FLIP_SEED
repeats a run; the seed is in each message.
"""

import os
import random
from pathlib import Path

import pytest

from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.records import TokenRecord, token_record

FLIPS = int(os.environ.get("TEST_FLIPS", "2500"))
SEED = int(os.environ.get("TEST_FLIP_SEED", "0")) or random.SystemRandom().getrandbits(32)
HEADER_BYTES = 100


def write_store(path: Path) -> None:
    """Fill a few pages: some records span two, and some pages have been freed."""
    store = AuthStore.loaded(SQLiteBackend(path))
    for name in ("root", "r", "s"):
        store.change(changes.add_role, name)
    for number in range(12):
        store.change(changes.add_user, f"user{number}", b"$2b$10$" + b"x" * 53)
        store.change(changes.grant_role, f"user{number}", "r" if number % 2 else "s")
    for number in range(12):
        span = b"/%d/" % number, b"/%d0" % number
        store.change(changes.grant_permission, "r", Permission(*span, PermissionType(number % 3)))
    store.change(
        changes.grant_permission, "s", Permission(b"large" * 1500, b"\0", PermissionType.WRITE)
    )
    store.change(
        changes.grant_permission, "s", Permission(b"gone" * 3000, b"", PermissionType.READ)
    )
    store.change(changes.revoke_permission, "s", b"gone" * 3000, b"")
    store.change(changes.grant_group_role, "g", "r")
    store.change(lambda state: [token_record(b"d" * 32, TokenRecord("user1", 5.0))])
    store.change(changes.delete_user, "user3")
    store.close()


def state_of(path: Path) -> tuple[object, ...]:
    store = AuthStore.loaded(SQLiteBackend(path))
    try:
        state = store.state
        return (
            state.revision,
            state.meta,
            dict(state.users),
            dict(state.roles),
            dict(state.groups),
            dict(state.tokens),
        )
    finally:
        store.close()


def outcome(path: Path, intact: tuple[object, ...]) -> str:
    """Return ``same`` or ``refused``, or what should not have happened."""
    try:
        found = state_of(path)
    except StoreError as error:
        text = str(error)
        return "refused" if "damaged" in text or "restore" in text else f"unclear: {text}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "same" if found == intact else "ANOTHER STATE, silently"


@pytest.mark.bad_input(51)
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    write_store(path)
    content = path.read_bytes()
    intact = state_of(path)
    rng = random.Random(SEED)
    header = range(HEADER_BYTES * 8)
    bits = [*header, *rng.sample(range(len(header), len(content) * 8), FLIPS)]
    wrong: list[str] = []
    outcomes: dict[str, int] = {}
    for bit in bits:
        for file in tmp_path.glob("flipped*"):
            file.unlink()
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped.db").write_bytes(flipped)
        found = outcome(tmp_path / "flipped.db", intact)
        outcomes[found] = outcomes.get(found, 0) + 1
        if found not in ("same", "refused"):
            wrong.append(f"bit {bit % 8} of byte {bit // 8}: {found}")
    print(f"TEST_FLIP_SEED={SEED}: {outcomes}")
    assert not wrong, f"TEST_FLIP_SEED={SEED}, {len(content)} bytes:\n" + "\n".join(wrong[:50])
    assert outcomes["refused"] > len(bits) // 4


@pytest.mark.bad_input(51)
def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    write_store(path)
    content = path.read_bytes()
    intact = state_of(path)
    for length in (1, 50, 99, 100, 512, 4095, 4096, len(content) // 2, len(content) - 1):
        for file in tmp_path.glob("cut*"):
            file.unlink()
        (tmp_path / "cut.db").write_bytes(content[:length])
        whole = ["same"] if not any(content[length:]) else []  # the last page may end in zeros
        assert outcome(tmp_path / "cut.db", intact) in ("refused", *whole), length


@pytest.mark.bad_input(51)
def test_a_page_of_zeros_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    write_store(path)
    content = path.read_bytes()
    intact = state_of(path)
    for start in range(0, len(content), 4096):
        for file in tmp_path.glob("zeros*"):
            file.unlink()
        (tmp_path / "zeros.db").write_bytes(content[:start] + bytes(4096) + content[start + 4096 :])
        assert outcome(tmp_path / "zeros.db", intact) in ("refused", "same"), start
