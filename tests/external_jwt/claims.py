"""The claims that kube-apiserver has signed, mutations of them, and which of them no one may sign.

``forbidden`` decides with the standard library, and reads as Go does: the names of members in any
case, with the letters that Unicode folds to ASCII. It names what is surely wrong; a policy may be
stricter. Source: contract of ``leeway signer``; kubernetes ``pkg/serviceaccount/claims.go``.
"""

import base64
import json
import math
import random
import re
import uuid
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

JSONObject = dict[str, Any]
ISSUER = "https://leeway.default.svc"
AUDIENCE = "https://kubernetes.default.svc"
NAMESPACE, ACCOUNT = "argo-run", "loofah"
TOO_LONG = 1_000_000
_TEXT = re.compile(r"[A-Za-z0-9_-]+")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TOP = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "kubernetes.io")
_PRIVATE = ("namespace", "serviceaccount", "pod", "secret", "node", "warnafter")
_REFERENCE = ("name", "uid")


@dataclass(frozen=True)
class Limits:
    """The limits that a signer is configured with; times are in seconds."""

    issuer: str = ISSUER
    leeway: int = 60
    longest: int = 86_400


def pod_claims(now: float, **changes: object) -> JSONObject:
    """Return the claims of a Pod's token as kube-apiserver 1.36 makes them."""
    return account_claims(now, **{"exp": int(now) + 3607} | changes) | {
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "node": {"name": "node-1", "uid": "9b1d6d0c-27a1-4c83-8a5c-1d26c5b3a6a1"},
            "pod": {"name": "loofah-7d4b9", "uid": "5e2a9d76-3b7e-4c52-8f1e-6f5f6fb1c0aa"},
            "serviceaccount": {"name": ACCOUNT, "uid": "66bff4eb-5231-4bfa-b116-b20312443c46"},
            "warnafter": int(now) + 3607,
        }
    }


def account_claims(now: float, **changes: object) -> JSONObject:
    """Return the claims of ``kubectl create token``; a change to None removes a member."""
    claims = {
        "aud": [AUDIENCE],
        "exp": int(now) + 3600,
        "iat": int(now),
        "iss": ISSUER,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": ACCOUNT, "uid": "66bff4eb-5231-4bfa-b116-b20312443c46"},
        },
        "nbf": int(now),
        "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
    } | changes
    return {name: value for name, value in claims.items() if value is not None}


def bound_claims(now: float, kind: str) -> JSONObject:
    """Return the claims of a token bound to a Secret or a Node."""
    claims = account_claims(now)
    claims["kubernetes.io"][kind] = {"name": "one", "uid": "0c6e8b36-9e0e-4d5a-8f06-3c9b4e1f2a77"}
    return claims


def as_go(value: object) -> bytes:
    """Encode as ``encoding/json`` does: sorted, without spaces, and with HTML escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# Claims that must not be signed ------------------------------------------------------------------


def forbidden(text: str, now: float, limits: Limits) -> str:
    """Return why claims, as they are in a request, must not be signed; "" if nothing is wrong."""
    try:
        return _forbidden(_read(text), now, limits)
    except _WrongError as error:
        return str(error)


class _WrongError(Exception):
    pass


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object, in their order and as often as they appear."""


def _read(text: str) -> object:
    if len(text) > TOO_LONG:
        raise _WrongError("too long")
    if not _TEXT.fullmatch(text):
        raise _WrongError("not base64url without padding")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise _WrongError("not base64url") from None
    if b64(data) != text:
        raise _WrongError("another spelling of base64url")
    try:
        return json.loads(data.decode(), object_pairs_hook=_Object, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise _WrongError("not JSON in UTF-8") from None


def _constant(name: str) -> None:
    raise _WrongError(f"{name} is not JSON")


def _fold(name: str) -> str:
    """Fold as Go does: two letters outside ASCII are equal to letters of it."""
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


def _members(value: object, known: Iterable[str], what: str) -> JSONObject:
    """Return the members of an object, each there once however it is written."""
    if not isinstance(value, _Object):
        raise _WrongError(f"{what} is not an object")
    names = [name for name, _ in value]
    if len({_fold(name) for name in names}) != len(names):
        raise _WrongError(f"a member of {what} is there twice")
    for name in names:
        if name not in known and _fold(name) in known:
            raise _WrongError(f"a member of {what} is in other capitals")
    return dict(value)


def _forbidden(value: object, now: float, limits: Limits) -> str:
    _check_below(value)
    claims = _members(value, _TOP, "the payload")
    private = _members(claims.get("kubernetes.io"), _PRIVATE, "kubernetes.io")
    if claims.get("iss") != limits.issuer:
        return "another issuer"
    namespace = _text(private.get("namespace"), "namespace")
    account = _reference(private.get("serviceaccount"), "serviceaccount")
    if not _LABEL.fullmatch(namespace):
        return "not a namespace"
    if claims.get("sub") != f"system:serviceaccount:{namespace}:{account}":
        return "sub contradicts"
    audiences = claims.get("aud")
    audiences = [audiences] if isinstance(audiences, str) else audiences
    # An object is a list here too.
    if not isinstance(audiences, list) or isinstance(audiences, _Object) or not audiences:
        return "no audience"
    if not all(isinstance(audience, str) and audience for audience in audiences):
        return "an audience that is empty or not a string"
    if not isinstance(claims.get("jti", ""), str):
        return "jti is not a string"
    return _wrong_binding(private) or _wrong_times(claims, private, now, limits)


def _check_below(value: object) -> None:
    """Refuse what is duplicated at any depth."""
    if isinstance(value, _Object):
        _members(value, (), "an object")
        for _, member in value:
            _check_below(member)
    elif isinstance(value, list):
        for item in value:
            _check_below(item)
    elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise _WrongError("half of a surrogate pair")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongError(f"{what} is not a string")
    return value


def _reference(value: object, what: str, *, uid: bool = True) -> str:
    members = _members(value, _REFERENCE, what)
    name = _text(members.get("name"), f"the name of {what}")
    if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
        # A part of a subdomain may be longer than a label, but no name here is.
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) or len(name) > 253:
            raise _WrongError(f"the name of {what} is not allowed")
        if re.search(r"\.\.|-\.|\.-", name):
            raise _WrongError(f"the name of {what} is not allowed")
    if uid or not isinstance(members.get("uid", ""), str):
        _text(members.get("uid"), f"the uid of {what}")
    return name


def _wrong_binding(private: JSONObject) -> str:
    bound = [kind for kind in ("pod", "secret", "node") if private.get(kind) is not None]
    for kind in bound:
        _reference(private[kind], kind, uid=not (kind == "node" and "pod" in bound))
    if len(bound) > 1 and bound != ["pod", "node"]:
        return "bound to two objects"
    for name, value in private.items():
        if name not in _PRIVATE and isinstance(value, list):
            return "an unknown binding"
    return ""


def _wrong_times(claims: JSONObject, private: JSONObject, now: float, limits: Limits) -> str:
    exp, iat, nbf = (_time(claims.get(name), name) for name in ("exp", "iat", "nbf"))
    if private.get("warnafter") is not None:
        _time(private["warnafter"], "warnafter")
    if not iat < exp <= iat + limits.longest:
        return "exp is not within the maximum"
    if nbf >= exp:
        return "never valid"
    # A clock that counts whole seconds is up to one behind.
    if not now - limits.leeway - 1 < iat < now + limits.leeway + 1:
        return "iat is not within the leeway"
    return ""


def _time(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _WrongError(f"{name} is not a number")
    return value


# Mutations ---------------------------------------------------------------------------------

_VALUES: list[object] = [
    None, True, False, 0, -1, 1, 0.5, 1e30, 10**30, -(10**12), "", "a", " ", "\0", "é", "\u212a",
    "\ud800", ISSUER, ISSUER + "/", ISSUER.upper(), "kubernetes/serviceaccount", AUDIENCE,
    [AUDIENCE], [], [[]], {}, ["a"] * 101, ["a", ""], [None], [AUDIENCE, 1], {"name": "a"},
    {"name": "a", "uid": "b"}, {"name": "a", "uid": ""}, {"name": "A", "uid": "b"},
    {"name": "a..b", "uid": "c"}, {"name": "a.b", "uid": "c"}, "kube-system", "kube.system", "a:b",
    "system:serviceaccount:kube-system:admin", "system:admin", NAMESPACE, ACCOUNT, "x" * 254,
    "system:serviceaccount:argo-run:loofah\n",
]  # fmt: skip
_NAMES = [
    *_TOP, *_PRIVATE, *_REFERENCE, "ISS", "Sub", "AUD", "eXp", "\u017fub", "\u212aubernetes.io",
    "Kubernetes.io", "Namespace", "serviceAccount", "Pod", "\u017fecret", "Name", "UID", "x", "",
    "groups", "validatingWebhookConfiguration", "kubernetes.io/serviceaccount/namespace",
]  # fmt: skip
_SECONDS = [0, 1, 30, 59, 60, 61, 62, 90, 600, 3600, 86_399, 86_400, 86_401, 31_536_000]
_BYTES = b'{}[]":,\\ \n\t\0\xff\xef\xbb\xbfaAeE0123456789.-+'


class Mutator:
    """Makes requests from good claims, all from one seed."""

    def __init__(self, seed: int, now: float) -> None:
        self._random = random.Random(seed)
        self._now = now
        self.good = [
            account_claims(now),
            pod_claims(now),
            bound_claims(now, "secret"),
            bound_claims(now, "node"),
        ]
        for claims in self.good:
            claims["jti"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        self._steps: list[Callable[[JSONObject], None]] = [
            self._set, self._set, self._remove, self._rename, self._add, self._move_time,
            self._move_time, self._move_all_times, self._rename_account,
        ]  # fmt: skip

    def request(self) -> str:
        """Return the text of a request."""
        claims = deepcopy(self._random.choice(self.good))
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            self._random.choice(self._steps)(claims)
        # A lone surrogate has no UTF-8, so that it is written with its escape.
        data = json.dumps(claims, separators=(",", ":")).encode("ascii")
        if self._random.random() < 0.2:
            data = self._change_json(data)
        if self._random.random() < 0.1:
            data = self._change_bytes(data)
        text = b64(data)
        return self._change_text(text) if self._random.random() < 0.1 else text

    def _place(self, claims: JSONObject) -> JSONObject:
        """Return the claims or an object in them."""
        places = [claims]
        for place in places:
            places += [value for value in place.values() if isinstance(value, dict)]
        return self._random.choice(places)

    def _set(self, claims: JSONObject) -> None:
        place = self._place(claims)
        if place:
            place[self._random.choice(list(place))] = deepcopy(self._random.choice(_VALUES))

    def _remove(self, claims: JSONObject) -> None:
        place = self._place(claims)
        if place:
            del place[self._random.choice(list(place))]

    def _rename(self, claims: JSONObject) -> None:
        place = self._place(claims)
        if place:
            value = place.pop(self._random.choice(list(place)))
            place[self._random.choice(_NAMES)] = value

    def _add(self, claims: JSONObject) -> None:
        self._place(claims)[self._random.choice(_NAMES)] = deepcopy(self._random.choice(_VALUES))

    def _rename_account(self, claims: JSONObject) -> None:
        """Change the account everywhere, so that the claims agree."""
        names = ("kube-system", "a.b", "a_b", "A", "a-", "x" * 63, "x" * 64, "x" * 254, "", "a:b")
        namespace, name = self._random.choice(names), self._random.choice(names)
        private = claims.get("kubernetes.io")
        if isinstance(private, dict) and isinstance(private.get("serviceaccount"), dict):
            private["namespace"], private["serviceaccount"]["name"] = namespace, name
            claims["sub"] = f"system:serviceaccount:{namespace}:{name}"

    def _seconds(self) -> float:
        seconds = self._random.choice(_SECONDS) * self._random.choice((-1, 1))
        return seconds + self._random.choice((0, 0, 0, 0.5))

    def _move_time(self, claims: JSONObject) -> None:
        name = self._random.choice(("exp", "iat", "nbf"))
        claims[name] = int(self._now) + self._seconds()

    def _move_all_times(self, claims: JSONObject) -> None:
        seconds = int(self._seconds())
        for name in ("exp", "iat", "nbf"):
            if isinstance(claims.get(name), int):
                claims[name] += seconds

    def _change_json(self, data: bytes) -> bytes:
        """Change how the claims are written, or write a member twice."""
        name, value = self._random.choice(_NAMES), self._random.choice(_VALUES)
        member = json.dumps({name: value})[1:-1].encode("ascii")
        escaped = f'"\\u{ord(name[0]):04x}{name[1:]}":1'.encode() if name else b'"":1'
        return self._random.choice(
            (
                data[:-1] + b"," + member + b"}",
                b"{" + member + b"," + data[1:],
                data[:-1] + b"," + escaped + b"}",
                data + data,
                data + b" ",
                b"\n" + data,
                b"\xef\xbb\xbf" + data,
                b"[" + data + b"]",
                data.decode("ascii").encode("utf-16"),
                data.replace(b":", b" : ", 3),
                data.replace(b"/", b"\\/"),
                data[:-1] + b",}",
                data.replace(b'"', b"'"),
                b"[" * 2000 + b"]" * 2000,
                data[:-1] + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
                data[:-1] + b',"x":NaN}',
                data[:-1] + b',"x":1e999}',
                data[:-1] + b',"x":01}',
            )
        )

    def _change_bytes(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.choice((1, 1, 2, 5))):
            at = self._random.randrange(len(changed) + 1)
            match self._random.randrange(4):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << self._random.randrange(8)
                case 1 if at < len(changed):
                    del changed[at : at + self._random.choice((1, 1, 10))]
                case 2:
                    changed.insert(at, self._random.choice(_BYTES))
                case _:
                    del changed[at:]
            if not changed:
                break
        return bytes(changed)

    def _change_text(self, text: str) -> str:
        at = self._random.randrange(len(text) + 1)
        return self._random.choice(
            (
                text + "=",
                text + "=" * (-len(text) % 4),
                text[:at],
                text[:at] + "\n" + text[at:],
                text[:at] + self._random.choice("+/ =.%\0é") + text[at:],
                text.replace("-", "+").replace("_", "/"),
                text[:-1] + self._random.choice("ABCDEFGHwxyz0189-_"),
                text + "A",
                "",
            )
        )
