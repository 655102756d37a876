"""Which values a message can repeat, and errors of libraries in plain words."""

import ssl
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.messages import (
    HIDDEN,
    could_be_secret,
    describe_os_error,
    describe_validation,
    shown,
    shown_path,
)

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"

SECRETS = [
    pytest.param(JWT, id="jwt"),
    pytest.param(JWT[:12], id="start-of-a-jwt"),
    pytest.param(f"Bearer {JWT}", id="bearer"),
    pytest.param("bearer x", id="any-bearer"),
    pytest.param(PEM, id="pem"),
    pytest.param("-----BEGIN CERTIFICATE-----", id="first-line-of-a-pem"),
    pytest.param("https://user:hunter2@idp.example/keys", id="user-and-password"),
    pytest.param("https://hunter2@idp.example", id="user"),
    pytest.param("//user:hunter2@idp.example", id="without-scheme"),
    pytest.param("https:/user:hunter2@idp.example/keys", id="one-slash"),
    pytest.param(r"https:\\user:hunter2@idp.example/keys", id="backslashes"),
    pytest.param("user:hunter2@idp.example/keys", id="no-slashes"),
    pytest.param("https://user:hunt/er2@idp.example/keys", id="slash-in-a-password"),
    pytest.param("https://idp.example/keys?sig=hunter2", id="query"),
    pytest.param("https://idp.example/keys#hunter2", id="fragment"),
    pytest.param("a\nb", id="two-lines"),
    pytest.param("07401b.f395accd246ae52d", id="bootstrap-token"),
    pytest.param("q83vEjRWeJq83vEjRWeJ", id="random"),
    pytest.param("da39a3ee5e6b4b0d3255bfef95601890afd80709", id="hex"),
    pytest.param("Zk3_x-QpR8_v-TnW2_y-LsD5_a-JfH7_c-Mb", id="base64url"),
]


@pytest.mark.fault(16)
@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_hidden(text: str) -> None:
    assert could_be_secret(text)
    assert shown(text) == shown([text]) == shown({"a": text}) == HIDDEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "leeway.dev/v2",
        "https://kubernetes.default.svc.cluster.local",
        "https://oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE",
        "https://[::1]:8443/openid/v1/jwks",
        "https://idp.example:8443/keys@2",
        '"aks-cluster-1.hcp.example.azmk8s.io"',
        "kubernetes/serviceaccount",
        "/etc/kubernetes/pki/sa-2026.pub",
        "66bff4eb-5231-4bfa-b116-b20312443c46",
        "127.0.0.1:8443",
        "trusted-issuers-of-the-production-cluster",
        "1h30m",
        "admin@example.com",
        "a\0b",
    ],
)
def test_anything_else_is_shown(text: str) -> None:
    assert shown(text) == repr(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
        ("a" * 200, repr("a" * 128)),
        (10**5000, "a int that is too large to be shown"),
    ],
    ids=["float", "none", "list", "long", "endless-number"],
)
def test_other_values(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("path", "is_shown"),
    [
        ("/data/keys/bW9zdC1vZi10aGVtLWFyZS1rZXlz0aGlzLWlz.pem", True),
        ("/tmp/pytest-of-root/pytest-0/test_a_file_0/tls/server.key", True),
        ("/var/run/secrets/kubernetes.io/serviceaccount/token", True),
        ("/var/lib/kubelet/..2026_11_30_13_00_00.123456789/token", True),
        (f"/data/{JWT}", False),
        (f"/data/{PEM}", False),
        ("/data/https:/user:hunter2@idp.example", False),
        ("/data/user:hunter2@idp.example", False),
        ("/data/q83vEjRWeJq83vEjRWeJ", False),
    ],
)
def test_paths(path: str, is_shown: bool) -> None:
    assert (shown_path(Path(path)) == path) is is_shown


@pytest.mark.bad_input(57)
@pytest.mark.parametrize(
    "part", ["eyJ", "//", "//a", ":", ":a", "a.", "A1", "-----BEGIN", "bearer "]
)
def test_it_takes_linear_time(part: str) -> None:
    # A pattern that tries each start to the end would take far too long.
    could_be_secret(part * 1_000_000)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct in another one."""

    uid: str = ""
    names: tuple[str, ...] = ()


class Outer(msgspec.Struct):
    """A struct with a field of each kind."""

    exp: Annotated[int, msgspec.Meta(le=253402300799, ge=0)] = 0
    ratio: float = 0.0
    on: bool = True
    key: bytes = b""
    name: Annotated[str, msgspec.Meta(min_length=2)] = "ab"
    inner: Inner | None = None
    needed: Annotated[list[int], msgspec.Meta(max_length=1)] = []


class Needs(msgspec.Struct, rename="camel"):
    """A struct with a required field."""

    range_end: str


VALIDATION = [
    (Outer, "text", "it must be an object, not a string"),
    (Outer, {"exp": "1"}, "exp must be a whole number, not a string"),
    (Outer, {"exp": 253402300800}, "exp must be a whole number of at most 253402300799"),
    (Outer, {"exp": -1}, "exp must be a whole number of at least 0"),
    (Outer, {"ratio": None}, "ratio must be a number, not null"),
    (Outer, {"on": 1}, "on must be true or false, not a whole number"),
    (Outer, {"key": "%"}, "key: Invalid base64 encoded string"),
    (Outer, {"name": "a"}, "name must be a string of at least 2 characters"),
    (Outer, {"needed": [1, 2]}, "needed must be a list of at most 1 entries"),
    (Outer, {"inner": []}, "inner must be an object or null, not a list"),
    (Outer, {"inner": {"uid": 1}}, "inner.uid must be a string, not a whole number"),
    (
        Outer,
        {"inner": {"names": ["a", 1]}},
        "inner.names[1] must be a string, not a whole number",
    ),
    (Outer, {"inner": {"x": 1}}, "unknown field inner.x"),
    (Needs, {}, "rangeEnd is missing"),
    (dict[str, Needs], {"a": {}}, "[...].rangeEnd is missing"),
]


@pytest.mark.fault(40)
@pytest.mark.parametrize(("kind", "value", "words"), VALIDATION, ids=[c[2] for c in VALIDATION])
def test_msgspec(kind: type, value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    assert describe_validation(caught.value) == words
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    assert describe_validation(caught.value) == words


DECODING = [
    (b"", "not JSON: it ends too early"),
    (b"[1", "not JSON: it ends too early"),
    (b"{a}", "not JSON: object keys must be strings at byte 1"),
    (b"[1]]", "not JSON: trailing characters at byte 4"),
    (b'"\xff"', "not JSON: not UTF-8"),
    ('{"a": "\ud800"}'.encode("utf-16", "surrogatepass"), "not JSON: invalid character at byte 0"),
]


@pytest.mark.fault(40)
@pytest.mark.parametrize(("data", "words"), DECODING, ids=[ascii(c[0]) for c in DECODING])
def test_json(data: bytes, words: str) -> None:
    with pytest.raises(EncodingError) as caught:
        decode_json(data)
    assert str(caught.value) == words


OS_ERRORS = [
    (FileNotFoundError(2, "No such file or directory", "/a/b"), "/a/b: No such file or directory"),
    (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
    (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    (TimeoutError("timed out"), "timed out"),
    (OSError(), "OSError"),
    (
        ssl.SSLCertVerificationError(
            1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:1006)"
        ),
        "certificate verify failed: expired",
    ),
]


@pytest.mark.fault(40)
@pytest.mark.parametrize(("error", "words"), OS_ERRORS, ids=[c[1] for c in OS_ERRORS])
def test_the_operating_system(error: OSError, words: str) -> None:
    assert describe_os_error(error) == words
