"""Looks for secrets in everything that a run of the suite leaves: row 56 of bad input.

Invariants:

1. A secret is looked for by pieces of WINDOW characters of both its ends, plain and in base64, so
   that a line that is cut, wrapped or encoded once more still shows it.
2. What holds a secret by design is told by its whole content: a file of nothing but a private key,
   a kubeconfig, a file of nothing but a token. All else is searched, and logs and databases always.
3. A core file is a finding whatever is in it: keys are there as numbers, in no form of a text.
4. A finding names the place and the kind of secret, never the secret.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.dsa import DSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

WINDOW = 16
TOKEN, PASSWORD, KEY, MEMORY = "token", "password", "private key", "process's memory"
# Not written by the tests: installed packages, and etcd beside Leeway in differential tests.
NOT_OURS = {"site-packages", "etcd"}
_ALWAYS_SEARCHED = {".log", ".db", ".db-journal"}
# No file that holds a secret by design is as large.
_LARGE = 1 << 20
_RUN = re.compile(rb"[A-Za-z0-9+/_=-]{%d,}" % WINDOW)
_PEM = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\n.*?-----END (?:[A-Z]+ )?PRIVATE KEY-----", re.S
)
_KEY_FILE = re.compile(rb"(?:-----BEGIN [A-Z ]+-----\s[A-Za-z0-9+/=\s]*(?:-----END [A-Z -]*\s*)?)+")
_TOKEN_FILE = re.compile(rb"\s*[\w-]+\.[\w-]+\.[\w-]+\s*")
# By its lines, as some files of tests are not YAML.
_CREDENTIAL = re.compile(rb"^ +\"?(token|client-key-data)\"?: [\"'*]?([\w+/=.-]+)", re.M)
_LONGEST_REVIEW = 65536
# What a test sends.
_REVIEW = re.compile(
    rb"\s*(?:\{.*\"kind\": ?\"TokenReview\".*\}|.*^kind: TokenReview$.*)\s*", re.M | re.S
)
_KUBECONFIG = re.compile(rb"^(?:kind: Config|  \"kind\": \"Config\",?)$", re.M)


class Secret(NamedTuple):
    """Bytes that must not be shown, and their kind."""

    kind: str
    value: bytes


class Found(NamedTuple):
    """Where a secret was seen."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"a {self.kind} is in {self.place}"


def token_secret(token: str) -> Secret:
    """Return the secret part of a token: its signature. Header and claims may be shown."""
    return Secret(TOKEN, token.rpartition(".")[2].encode())


@cache
def key_secrets(pem: bytes) -> list[Secret]:
    """Return the private numbers of a PEM key; an empty list if it cannot be read."""
    try:
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError):
        return []
    if isinstance(key, RSAPrivateKey):
        numbers = key.private_numbers()
        return [_number(value) for value in (numbers.d, numbers.p, numbers.q)]
    if isinstance(key, EllipticCurvePrivateKey):
        return [_number(key.private_numbers().private_value)]
    if isinstance(key, DSAPrivateKey):
        return [_number(key.private_numbers().x)]
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return [Secret(KEY, raw)]


def _number(value: int) -> Secret:
    return Secret(KEY, value.to_bytes((value.bit_length() + 7) // 8, "big"))


def secrets_in(data: bytes) -> list[Secret]:
    """Return the secrets of a file that holds some by design (invariant 2)."""
    found = [secret for pem in _PEM.findall(data) for secret in key_secrets(pem)]
    if _TOKEN_FILE.fullmatch(data):
        found.append(token_secret(data.decode().strip()))
    if _KUBECONFIG.search(data):
        for name, value in _CREDENTIAL.findall(data):
            if name == b"token":
                found.append(token_secret(value.decode()))
            else:
                with suppress(binascii.Error):
                    found += key_secrets(base64.b64decode(value + b"==="))
    return found


def holds_secrets_by_design(data: bytes) -> bool:
    if b"PRIVATE KEY-----" in data[:40] and _KEY_FILE.fullmatch(data):
        return True
    if len(data) < _LONGEST_REVIEW and _REVIEW.fullmatch(data):
        return True
    return bool(_TOKEN_FILE.fullmatch(data) or _KUBECONFIG.search(data))


def windows_of(secrets: Iterable[Secret]) -> dict[bytes, str]:
    """Return the pieces to look for, each with its kind (invariant 1).

    A secret of fewer than WINDOW characters could be anything, and has none.
    """
    windows = {}
    for kind, value in set(secrets):
        texts = _encoded(value) if kind == KEY else [value]
        for text in texts:
            # Two of each end that do not overlap: a line break can only spoil one.
            for start in (0, WINDOW, len(text) - 2 * WINDOW, len(text) - WINDOW):
                piece = text[max(start, 0) :][:WINDOW]
                if len(piece) == WINDOW:
                    for form in (piece, *_encoded(piece)):
                        windows[form[:WINDOW]] = kind
    return windows


def _encoded(data: bytes) -> Iterator[bytes]:
    """Yield the base64 of data at each offset in a longer text, without its neighbours."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + data)
        inner = text[(0, 2, 3)[before] : len(text) // 4 * 4 - 4]
        yield inner
        if b"+" in inner or b"/" in inner:
            yield inner.replace(b"+", b"-").replace(b"/", b"_")


class Search:
    """A search for some windows; it searches the same text only once."""

    def __init__(self, windows: Mapping[bytes, str]) -> None:
        self._windows = windows
        self._clean: set[bytes] = set()

    def kinds_in(self, data: bytes) -> set[str]:
        """Return the kinds of secrets that data holds."""
        kinds = set()
        for run in set(_RUN.findall(data)) - self._clean:
            found = {
                self._windows[piece]
                for start in range(len(run) - WINDOW + 1)
                if (piece := run[start : start + WINDOW]) in self._windows
            }
            kinds |= found
            if not found and len(run) < 1000:
                self._clean.add(run)
        return kinds


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder, except links and those of others."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in NOT_OURS)
        for path in (Path(parent, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink():
                yield path


def _is_core_file(data: bytes) -> bool:
    # ELF, and of the type ET_CORE in either order of bytes.
    return data.startswith(b"\x7fELF") and data[16:18] in (b"\x04\x00", b"\x00\x04")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:  # made by a test; a file without read permission shows no secret
        return b""


def search(
    folders: Iterable[Path],
    made: Iterable[Secret],
    shown: Mapping[str, bytes],
    more_files: Iterable[Path] = (),
) -> tuple[int, list[Found]]:
    """Search files and output for secrets that were made and those that files hold.

    Returns how many bytes were searched, and the findings.
    """
    secrets = set(made)
    searched = [path for path in more_files if path.is_file()]
    for path in (path for folder in folders for path in files_below(folder)):
        data = _read(path) if path.stat().st_size < _LARGE else b""
        if path.suffix not in _ALWAYS_SEARCHED and holds_secrets_by_design(data):
            secrets.update(secrets_in(data))
        else:
            searched.append(path)
    looking = Search(windows_of(secrets))
    count = 0
    findings = []
    for path in searched:
        data = _read(path)
        count += len(data)
        kinds = looking.kinds_in(data) | ({MEMORY} if _is_core_file(data) else set())
        findings += [Found(kind, str(path)) for kind in sorted(kinds)]
    for place, data in shown.items():
        count += len(data)
        findings += [Found(kind, place) for kind in sorted(looking.kinds_in(data))]
    return count, findings
