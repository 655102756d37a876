"""Tokens with random faults, and the faults that Leeway and kube-apiserver judge differently."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from keys.jws import SigningKey
from tests.e2e.harness import AUDIENCE
from tests.secrets_made import token_made
from tests.support import JSONObject, as_json, b64, header_of, raw_signature, signing_key

from .cluster import ISSUER, NAMESPACE, SIGNING_KEY

OTHER_KEY = signing_key("RS256", "foreign")
JSON_VALUES: Final[tuple[object, ...]] = (
    None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 10**30, "", "a", "0", [], [""], ["a"], [1], {},
    {"a": 1}, [[]],
)  # fmt: skip


@dataclass
class Draft:
    """A token before it is signed.

    ``objects`` has the name and the UID of an object of each kind that the token can be bound to.
    ``claims_text`` is signed in the place of ``claims`` where it is given.
    """

    random: random.Random
    now: int
    account_uid: str
    objects: Mapping[str, Mapping[str, str]]
    header: JSONObject = field(default_factory=lambda: header_of(SIGNING_KEY))
    claims: dict[str, Any] = field(default_factory=dict)
    key: SigningKey = SIGNING_KEY
    algorithm: str = "RS256"
    audiences: Sequence[str] = (AUDIENCE,)
    claims_text: bytes = b""
    after: list[Callable[[str], str]] = field(default_factory=list)
    chosen: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.claims = {
            "aud": [AUDIENCE],
            "exp": self.now + 3600,
            "iat": self.now - 10,
            "iss": ISSUER,
            "jti": f"{self.random.getrandbits(128):032x}",
            "kubernetes.io": {
                "namespace": NAMESPACE,
                "serviceaccount": {"name": "other", "uid": self.account_uid},
            },
            "nbf": self.now - 10,
            "sub": f"system:serviceaccount:{NAMESPACE}:other",
        }

    @property
    def private(self) -> dict[str, Any]:
        """The ``kubernetes.io`` claims, or what replaces them."""
        found = self.claims.get("kubernetes.io")
        return found if isinstance(found, dict) else {}

    def choose(self, *values: Any) -> Any:
        """Choose a value, and record it for the report of a difference."""
        value = deepcopy(self.random.choice(values))  # another mutation may add to it
        self.chosen.append(value if not isinstance(value, str | bytes) else value[:100])
        return value

    def sign(self) -> str:
        claims = self.claims_text or as_json(self.claims)
        signed = f"{b64(as_json(self.header))}.{b64(claims)}"
        token = f"{signed}.{b64(raw_signature(signed.encode(), self.key, self.algorithm))}"
        for change in self.after:
            token = change(token)
        token_made(token.strip())
        return token


Mutation = Callable[[Draft], None]
MUTATIONS: Final[dict[str, Mutation]] = {}


def mutation(change: Mutation) -> Mutation:
    MUTATIONS[change.__name__.replace("_", " ")] = change
    return change


# The whole list of differences: names of mutations, and why the verdicts differ.
ONLY_LEEWAY_REFUSES: Final = {
    "header member": "bad-input 4 to 6 and 9: crit, b64, jku, x5u, x5c, jwk, cty and zip",
    "header typ": "bad-input 9: `typ` is JWT or absent",
    "header alg PS": "bad-input 3 and 14: a key is bound to one algorithm",
    "header alg longer": "bad-input 3: the same, for RS384 and RS512",
    "header kid null": "bad-input 8: a `kid` is text",
    "leftover bits": "bad-input 11: base64 has one spelling",
    "missing claim": "bad-input 22: iat and aud are required too",
    "aud": "bad-input 21: a token is for somebody, and every audience is text that is not empty",
    "sub": "bad-input 24: `sub` says what `kubernetes.io` says",
    "two objects": "bad-input 26: a token is bound to one object",
    "time": "bad-input 18: no time is beyond the year 9999, and `iat` is one",
    "warnafter": "bad-input 18: the same",
    "odd jti": "`jti` is ASCII text, as every UUID is",
    "white space": "kube-apiserver reads up to a space, and ignores what follows it",
    "member in another case": "Go reads members in any case; two readers must not disagree",
}
ONLY_KUBERNETES_REFUSES: Final = {
    "white space": "contract 4: surrounding ASCII white space is stripped",
    "header nonce": "a header member that Leeway does not know is not looked at",
}


@mutation
def nothing(draft: Draft) -> None:
    """Leave the token good."""


@mutation
def header_member(draft: Draft) -> None:
    name = draft.choose(
        "jku", "x5u", "x5c", "x5t", "jwk", "crit", "b64", "cty", "zip", "enc", "foo", "KID"
    )
    draft.header[name] = draft.choose(*JSON_VALUES, "https://example.com/jwks", "DEF", ["b64"])


@mutation
def header_nonce(draft: Draft) -> None:
    draft.header["nonce"] = draft.choose(*JSON_VALUES)


@mutation
def header_typ(draft: Draft) -> None:
    draft.header["typ"] = draft.choose("JWT", "jwt", "at+jwt", "JOSE", *JSON_VALUES)


@mutation
def header_alg(draft: Draft) -> None:
    draft.header["alg"] = draft.choose(
        "none", "None", "HS256", "RS384", "RS512", "ES256", "EdDSA", "rs256", *JSON_VALUES
    )


@mutation
def header_alg_PS(draft: Draft) -> None:  # noqa: N802
    draft.header["alg"] = draft.algorithm = draft.choose("PS256", "PS384", "PS512")


@mutation
def header_alg_longer(draft: Draft) -> None:
    draft.header["alg"] = draft.algorithm = draft.choose("RS384", "RS512")


@mutation
def header_kid(draft: Draft) -> None:
    value = draft.choose(
        "", "unknown", "../../etc/passwd", "\0", "k" * 2000, OTHER_KEY.verification_key.kid, None
    )
    draft.header.pop("kid", None)
    if value is not None:
        draft.header["kid"] = value


@mutation
def header_kid_type(draft: Draft) -> None:
    draft.header["kid"] = draft.choose(
        *(value for value in JSON_VALUES if not isinstance(value, str | None))
    )


@mutation
def header_kid_null(draft: Draft) -> None:
    draft.header["kid"] = None


@mutation
def foreign_key(draft: Draft) -> None:
    draft.key = OTHER_KEY


@mutation
def missing_claim(draft: Draft) -> None:
    draft.claims.pop(draft.random.choice(sorted(draft.claims)))


@mutation
def extra_claim(draft: Draft) -> None:
    name = draft.choose("email", "nonce", "azp", "act", "EXP", "roles", "x" * 300)
    draft.claims[name] = draft.choose(*JSON_VALUES)


@mutation
def aud(draft: Draft) -> None:
    draft.claims["aud"] = draft.choose(
        AUDIENCE, [], "", [""], [AUDIENCE, AUDIENCE], ["elsewhere"], [AUDIENCE, "elsewhere"],
        [AUDIENCE, 1], [[AUDIENCE]], AUDIENCE + "/", AUDIENCE.upper(), *JSON_VALUES,
    )  # fmt: skip


@mutation
def asked_audiences(draft: Draft) -> None:
    draft.audiences = draft.choose((), ("elsewhere",), ("elsewhere", AUDIENCE), (AUDIENCE,) * 2)


@mutation
def iss(draft: Draft) -> None:
    draft.claims["iss"] = draft.choose(
        ISSUER + "/", ISSUER.upper(), "x" + ISSUER, "https://other.example", *JSON_VALUES
    )


@mutation
def jti(draft: Draft) -> None:
    draft.claims["jti"] = draft.choose("", "a b", "j" * 3000, *JSON_VALUES[1:])


@mutation
def odd_jti(draft: Draft) -> None:
    draft.claims["jti"] = draft.choose("\u00e9", None)


@mutation
def sub(draft: Draft) -> None:
    draft.claims["sub"] = draft.choose(
        "", f"system:serviceaccount:{NAMESPACE}:reader", "system:serviceaccount:x:other",
        f"system:serviceaccount:{NAMESPACE}:other:x", f"SYSTEM:serviceaccount:{NAMESPACE}:other",
        "admin", *JSON_VALUES,
    )  # fmt: skip


@mutation
def time(draft: Draft) -> None:
    name = draft.choose("exp", "nbf", "iat")
    draft.claims[name] = draft.choose(
        draft.now - 7200, draft.now - 1000, draft.now, draft.now + 1000, draft.now + 7200,
        draft.now + 0.5, str(draft.now), -draft.now, 1e10, 253402300799, 253402300800, 10**18,
        2**63 - 1, 2**63, -(2**63), *JSON_VALUES,
    )  # fmt: skip


@mutation
def private_claims(draft: Draft) -> None:
    draft.claims["kubernetes.io"] = draft.choose(*JSON_VALUES)


@mutation
def namespace(draft: Draft) -> None:
    draft.private["namespace"] = draft.choose("", "default", "DEMO", "nowhere", *JSON_VALUES)


@mutation
def account(draft: Draft) -> None:
    draft.private["serviceaccount"] = draft.choose(
        {}, {"name": "other"}, {"uid": draft.account_uid}, {"name": "gone", "uid": "1"},
        {"name": "reader", "uid": draft.account_uid}, {"name": "other", "uid": "another"},
        {"name": "", "uid": ""}, {"name": "other", "uid": draft.account_uid, "x": 1}, *JSON_VALUES,
    )  # fmt: skip


def _bind(draft: Draft, kind: str, value: object) -> None:
    for other in draft.objects:
        draft.private.pop(other, None)
    draft.private[kind] = value


@mutation
def bound_object(draft: Draft) -> None:
    kind = draft.random.choice(sorted(draft.objects))
    changed = {**draft.objects[kind], "uid": "1"}
    value = draft.choose(
        changed, {"name": "gone", "uid": "1"}, {"name": "gone"}, {"uid": "1"}, {},
        {"name": "", "uid": ""}, *JSON_VALUES,
    )  # fmt: skip
    _bind(draft, kind, value)


@mutation
def good_bound_object(draft: Draft) -> None:
    kind = draft.random.choice(sorted(draft.objects))
    _bind(draft, kind, dict(draft.objects[kind]))


@mutation
def two_objects(draft: Draft) -> None:
    first, second = draft.random.sample(sorted(draft.objects), 2)
    for kind in (first, second):
        draft.private[kind] = dict(draft.objects[kind])


@mutation
def warnafter(draft: Draft) -> None:
    draft.private["warnafter"] = draft.choose(
        draft.now - 100, draft.now + 100, str(draft.now), -1, 1.5, 10**18, *JSON_VALUES
    )


@mutation
def duplicate_member(draft: Draft) -> None:
    name = draft.random.choice(sorted(draft.claims))
    value = json.dumps(draft.claims[name])
    draft.claims_text = as_json(draft.claims)[:-1] + f',"{name}":{value}}}'.encode()


@mutation
def spaced_json(draft: Draft) -> None:
    draft.claims_text = json.dumps(draft.claims, indent=draft.choose(1, "\t", "\r\n")).encode()


@mutation
def odd_json(draft: Draft) -> None:
    text = as_json(draft.claims)
    draft.claims_text = draft.choose(
        b"\xef\xbb\xbf" + text, text + b"x", text[:-1], b" " + text + b" ", b"[]", b"null", b'""',
        text.decode().encode("utf-16"), text.replace(b"demo", b"de\xffmo"), text + text, b"{}",
        text.replace(b'"exp"', b'"\\u0065xp"'),
    )  # fmt: skip


@mutation
def member_in_another_case(draft: Draft) -> None:
    name = draft.choose("sub", "exp", "nbf", "iss", "aud")
    text = as_json(draft.claims)
    draft.claims_text = text.replace(f'"{name}"'.encode(), f'"{name.upper()}"'.encode())


@mutation
def changed_bit(draft: Draft) -> None:
    place, bit = draft.random.random(), 1 << draft.random.randrange(6)

    def change(token: str) -> str:
        at = int(place * (len(token) - 1))  # the last character has leftover bits
        return token[:at] + chr(ord(token[at]) ^ bit) + token[at + 1 :]

    draft.after.append(change)


@mutation
def leftover_bits(draft: Draft) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def change(token: str) -> str:
        if token[-1] not in alphabet:
            return token
        return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]

    draft.after.append(change)


@mutation
def cut_short(draft: Draft) -> None:
    keep = draft.random.random()
    draft.after.append(lambda token: token[: int(keep * len(token))] or "x")


_SEGMENTS: Final[dict[str, Callable[[str], str]]] = {
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "two segments": lambda token: token.rpartition(".")[0],
    "an empty fourth": lambda token: token + ".",
    "a fourth": lambda token: token + ".e30",
    "an empty first": lambda token: "." + token,
    "an empty second": lambda token: token.replace(".", "..", 1),
    "padding": lambda token: token + "=",
    "more padding": lambda token: token + "==",
    "the other alphabet": lambda token: token.replace("-", "+").replace("_", "/"),
}


@mutation
def other_segments(draft: Draft) -> None:
    draft.after.append(_SEGMENTS[draft.choose(*_SEGMENTS)])


@mutation
def white_space(draft: Draft) -> None:
    before, behind = draft.choose(" ", "\n", "\t", ""), draft.choose(" ", "\n", "\r\n", "\t")
    draft.after.append(lambda token: before + token + behind)


@mutation
def signature_size(draft: Draft) -> None:
    assert isinstance(draft.key.private_key, rsa.RSAPrivateKey)
    extra = draft.choose("AA", "AAAA", "")
    draft.after.append(lambda token: token + extra if extra else token[:-4])
