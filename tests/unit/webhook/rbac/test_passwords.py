import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import bcrypt
import pytest

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
def test_what_is_not_a_password(password: str) -> None:
    with pytest.raises(InvalidPasswordError) as refused:
        CHEAP.hash(password)
    assert not password or password not in str(refused.value)


def test_bcrypt_would_take_the_first_72_bytes_of_a_longer_one() -> None:
    hashed = CHEAP.hash("a" * 72)
    with pytest.raises(AuthFailedError):
        CHEAP.check("a" * 73, hashed)


@pytest.mark.parametrize("password_hash", [None, b""])
@pytest.mark.parametrize("password", ["", "-", "x", "a" * 100])
def test_nobody_has_a_password(password: str, password_hash: bytes | None) -> None:
    with pytest.raises(AuthFailedError):
        CHEAP.check(password, password_hash)


def test_the_cost_is_in_the_hash_and_one_of_another_cost_still_fits() -> None:
    hashed = Passwords(5).hash("x")
    assert hashed.startswith(b"$2b$05$")
    CHEAP.check("x", hashed)


def test_a_refusal_takes_the_same_time_for_all() -> None:
    passwords = Passwords(8)
    hashed = passwords.hash("right")

    def seconds(password: str, password_hash: bytes | None) -> float:
        taken = []
        for _ in range(7):
            started = time.perf_counter()
            with pytest.raises(AuthFailedError):
                passwords.check(password, password_hash)
            taken.append(time.perf_counter() - started)
        return median(taken)

    wrong = seconds("wrong", hashed)
    for taken in (seconds("right", None), seconds("", hashed), seconds("a" * 100, hashed)):
        assert 0.5 < taken / wrong < 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_bad_input_45_only_so_many_are_checked_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
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
