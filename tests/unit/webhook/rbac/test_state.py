import pytest

from webhook.rbac.errors import StoreError
from webhook.rbac.records import KEY, REPLICA, SCHEDULE, Record, permission_id
from webhook.rbac.state import AuthState


def test_records_about_signing_keys_are_kept_as_they_are() -> None:
    state = AuthState()
    state.apply(3, [Record(KEY, b"k", b"\x80sealed"), Record(SCHEDULE, b"own", b"")])
    assert state.sealed == {(KEY, b"k"): b"\x80sealed", (SCHEDULE, b"own"): b""}
    assert state.sealed_revision == 3
    state.apply(4, [Record("user", b"nobody", None)])
    assert state.sealed_revision == 3
    state.apply(5, [Record(KEY, b"k", None), Record(REPLICA, b"gone", None)])
    assert (state.sealed, state.sealed_revision) == ({(SCHEDULE, b"own"): b""}, 5)
    copied = state.copy()
    state.apply(6, [Record(SCHEDULE, b"own", None)])
    assert (copied.sealed, copied.sealed_revision) == ({(SCHEDULE, b"own"): b""}, 5)


@pytest.mark.parametrize("value", [b"", None])
def test_a_record_of_an_unknown_kind_is_an_error(value: bytes | None) -> None:
    """An older version would let in what the record of a newer one forbids."""
    with pytest.raises(StoreError, match="'quota', which this version does not know; use the vers"):
        AuthState().apply(1, [Record("quota", b"", value)])


UNREADABLE = [
    *(Record(kind, b"a", b"\xc1") for kind in ("user", "group", "token", "revocation")),
    *(Record(kind, b"\xff", b"") for kind in ("role", "user", "group", "permission")),
    Record("revocation", b"\xff", None),
    Record("meta", b"auth", b"\x01"),
    Record("lifetime", b"own", b""),
    Record("permission", permission_id("r", b"k", b""), b""),
    Record("permission", permission_id("r", b"k", b""), b"\x09"),
]


@pytest.mark.parametrize("record", UNREADABLE, ids=lambda record: f"{record.kind} {record.value!r}")
def test_a_record_that_cannot_be_read_is_an_error_with_its_kind(record: Record) -> None:
    with pytest.raises(StoreError, match=f"kind '{record.kind}' that cannot be read; restore it"):
        AuthState().apply(1, [record])


def test_a_record_of_a_hundred_thousand_levels() -> None:
    """A field that is not known is skipped, however deep it is."""
    value = b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(StoreError, match="kind 'meta' that cannot be read"):
        AuthState().apply(1, [Record("meta", b"auth", value)])
