import threading
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from tests.memory_backend import MemoryBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthFailedError, InvalidPasswordError
from webhook.rbac.passwords import Passwords

CHEAP = Passwords(4)


@pytest.mark.parametrize("password", ["x", "é" * 36, "a" * 72, "nul\0nul", "\ud800", " "])
def test_a_password_fits_its_hash_and_no_other(password: str) -> None:
    hashed = CHEAP.hash(password)
    CHEAP.check(password, hashed)
    for other in (password + "x", password[:-1], "", "-"):
        with pytest.raises(AuthFailedError):
            CHEAP.check(other, hashed)
    assert CHEAP.hash(password) != hashed


@pytest.mark.parametrize("password", ["", "a" * 73, "é" * 37])
def test_values_that_are_not_a_password(password: str) -> None:
    with pytest.raises(InvalidPasswordError) as refused:
        CHEAP.hash(password)
    assert not password or password not in str(refused.value)


def test_bcrypt_would_take_the_first_72_bytes_of_a_longer_one() -> None:
    hashed = CHEAP.hash("a" * 72)
    with pytest.raises(AuthFailedError):
        CHEAP.check("a" * 73, hashed)


@pytest.mark.parametrize("password_hash", [None, b""])
@pytest.mark.parametrize("password", ["", "-", "x", "a" * 100])
def test_a_user_without_a_password(password: str, password_hash: bytes | None) -> None:
    with pytest.raises(AuthFailedError):
        CHEAP.check(password, password_hash)


def test_the_cost_is_in_the_hash_and_one_of_another_cost_still_fits() -> None:
    hashed = Passwords(5).hash("x")
    assert hashed.startswith(b"$2b$05$")
    CHEAP.check("x", hashed)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the work, 2 to the cost, of each call of bcrypt."""
    done: list[int] = []

    def checkpw(password: bytes, hashed: bytes) -> bool:
        done.append(2 ** int(hashed[4:6]))
        return hashed.endswith(b"is " + password)

    def hashpw(password: bytes, salt: bytes) -> bytes:
        raise AssertionError((password, salt))

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    monkeypatch.setattr(bcrypt, "hashpw", hashpw)
    return done


@pytest.mark.bad_input(45)
@pytest.mark.parametrize("configured", [4, 8, 10, 12])
@pytest.mark.parametrize("costs", [(8,), (10,), (4, 10), (4, 8, 12), (14, 5), ()])
def test_a_refusal_takes_the_same_work_for_all(
    work: list[int], configured: int, costs: tuple[int, ...]
) -> None:
    store = AuthStore.loaded(MemoryBackend())
    for cost in costs:
        store.change(changes.add_user, f"u{cost}", b"$2b$%02d$is right" % cost)
    store.change(changes.add_user, "certified")
    passwords, state = Passwords(configured), store.state
    hashes = [None, b"", *(user.password_hash for user in state.users.values())]
    for password_hash in hashes:
        for password in ("wrong", "", "a" * 100):
            work.clear()
            with pytest.raises(AuthFailedError):
                passwords.check(password, password_hash, state.highest_password_cost)
            assert sum(work) == 2 ** max(configured, *costs, 0)
    for cost in costs:
        work.clear()
        passwords.check("right", store.user(f"u{cost}").password_hash, state.highest_password_cost)
        assert work == [2**cost]


def test_the_highest_cost_follows_each_change() -> None:
    store = AuthStore.loaded(MemoryBackend())

    def set_password(name: str, cost: int) -> None:
        store.change(changes.change_password, name, b"$2b$%02d$x" % cost)

    def found() -> int:
        return store.state.highest_password_cost

    assert found() == 0
    for name, cost, highest in (("a", 8, 8), ("b", 12, 12), ("c", 12, 12), ("d", 10, 12)):
        store.change(changes.add_user, name, b"$2a$%02d$x" % cost)
        assert found() == highest
    store.change(changes.add_user, "certified")
    store.change(changes.delete_user, "b")
    assert found() == 12
    set_password("c", 4)
    assert found() == 10
    set_password("a", 11)
    assert found() == 11
    for name in ("a", "c", "d"):
        store.change(changes.delete_user, name)
    assert found() == 0


def test_the_hash_of_no_user_is_a_valid_hash() -> None:
    with pytest.raises(AuthFailedError):
        Passwords(4).check("x", None, 5)


@pytest.mark.bad_input(45)
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_bounded_number_is_checked_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    passwords, checkpw = Passwords(4, at_once), bcrypt.checkpw
    hashed = passwords.hash("x")
    lock, running, most = threading.Lock(), 0, 0
    all_there = threading.Barrier(at_once)

    def counted(password: bytes, password_hash: bytes) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_there.wait(10)
        matches = checkpw(password, password_hash)
        with lock:
            running -= 1
        return matches

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    with ThreadPoolExecutor(8) as pool:
        for checked in [pool.submit(passwords.check, "x", hashed) for _ in range(8)]:
            checked.result(10)
    assert most == at_once
