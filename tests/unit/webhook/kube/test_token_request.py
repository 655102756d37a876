"""TokenRequest: requests and answers."""

import json
from typing import Any

import pytest

from keys.keyring import Keyring
from tests.support import ACCOUNT, AUDIENCE, ISSUER, NAMESPACE, NOW, signing_key
from webhook.errors import InvalidReviewError
from webhook.kube.token_request import (
    BoundObjectReference,
    TokenRequest,
    parse_token_request,
    render_token_request,
)
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenPolicy, TokenSpec, issue_token

V1 = "authentication.k8s.io/v1"
POD = {"kind": "Pod", "apiVersion": "v1", "name": "p-0", "uid": "u-1"}
KEYRING = Keyring().with_new_key(signing_key("ES256"), 0)
POLICY = TokenPolicy(ISSUER, (AUDIENCE,), 3600, 600, 86400, extend=True)


def parse(value: object) -> TokenRequest:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_token_request(body, NAMESPACE, ACCOUNT)


def asked(**members: Any) -> TokenRequest:
    return TokenRequest(NAMESPACE, ACCOUNT, **members)


READ = [
    pytest.param({"spec": {}}, asked(), id="nothing"),
    pytest.param({}, asked(), id="no-spec"),
    pytest.param({"spec": None}, asked(), id="null-spec"),
    pytest.param(
        {
            "kind": "TokenRequest",
            "apiVersion": V1,
            "metadata": {"creationTimestamp": None, "labels": {"a": "b"}},
            "spec": {"audiences": None, "boundObjectRef": None, "expirationSeconds": None},
            "status": {"token": "of the client", "expirationTimestamp": None},
        },
        asked(),
        id="nulls",
    ),
    pytest.param({"spec": {"audiences": []}}, asked(), id="no-audience"),
    pytest.param({"metadata": None, "spec": {}}, asked(), id="no-metadata"),
    pytest.param(
        {"metadata": {"name": ACCOUNT, "namespace": NAMESPACE, "uid": "u"}, "spec": {}},
        asked(uid="u", sent_name=ACCOUNT, sent_namespace=NAMESPACE),
        id="names",
    ),
    pytest.param(
        {"metadata": {"name": "", "namespace": ""}, "spec": {}}, asked(), id="empty-names"
    ),
    pytest.param(
        {
            "more": 1,
            "metadata": {"more": 1},
            "spec": {"expirationSecond": 1, 'a"b': 1, "boundObjectRef": {"namespace": "a"}},
        },
        asked(
            bound=BoundObjectReference(),
            unknown_fields=("spec.expirationSecond", "spec.boundObjectRef.namespace"),
        ),
        id="unknown-fields",
    ),
    pytest.param(
        {"spec": {f"f{n}": n for n in range(9)}},
        asked(unknown_fields=tuple(f"spec.f{n}" for n in range(8))),
        id="many-unknown-fields",
    ),
    pytest.param(
        {"spec": {"audiences": ["a", "b"], "expirationSeconds": 600, "boundObjectRef": POD}},
        asked(
            audiences=("a", "b"),
            expiration_seconds=600,
            bound=BoundObjectReference("Pod", "v1", "p-0", "u-1"),
        ),
        id="all",
    ),
    pytest.param(
        {"spec": {"boundObjectRef": {}}},
        asked(bound=BoundObjectReference("", "", "", "")),
        id="empty-reference",
    ),
    pytest.param(
        {"spec": {"expirationSeconds": 0}}, asked(expiration_seconds=0), id="0-is-not-none"
    ),
    pytest.param({"spec": {"expirationSeconds": -5}}, asked(expiration_seconds=-5), id="negative"),
]


@pytest.mark.fault(10, 62)
@pytest.mark.parametrize(("value", "expected"), READ)
def test_read(value: object, expected: TokenRequest) -> None:
    assert parse(value) == expected


def spec(**members: object) -> dict[str, object]:
    return {"spec": members}


def reference(**members: object) -> dict[str, object]:
    return spec(boundObjectRef=POD | members)


WRONG: dict[str, tuple[object, str]] = {
    "empty": (b"", "not JSON"),
    "list": ([], "not a JSON object"),
    "utf-16": (json.dumps(spec()).encode("utf-16"), "not JSON"),
    "deep": (b'{"spec":' + b"[" * 100_000, "not JSON"),
    "cut": (b'{"spec":{"audiences":["a"', "not JSON"),
    "kind": ({"kind": "TokenReview"} | spec(), "serves 'TokenRequest'"),
    "version": ({"apiVersion": "authentication.k8s.io/v1beta1"} | spec(), V1),
    "null": (b"null", "not a JSON object"),
    "list-spec": ({"spec": []}, "spec must be an object with audiences"),
    "spec-twice": (b'{"spec":{},"spec":{}}', "appears twice"),
    "seconds-twice": (
        b'{"spec":{"expirationSeconds":600,"expirationSeconds":86400}}',
        "appears twice",
    ),
    "case-of-spec": ({"Spec": {}} | spec(), "written spec"),
    "case-of-seconds": (spec(ExpirationSeconds=600), "written spec.expirationSeconds"),
    "case-of-name": ({"metadata": {"Name": "a"}} | spec(), "written metadata.name"),
    "case-of-uid": (reference(UID="u"), "written spec.boundObjectRef.uid"),
    "metadata": ({"metadata": []} | spec(), "metadata must be an object"),
    "name-number": ({"metadata": {"name": 1}} | spec(), "metadata.name must be a string"),
    "uid-list": ({"metadata": {"uid": []}} | spec(), "metadata.uid must be a string"),
    "audience": (spec(audiences="a"), "list of strings"),
    "audience-null": (spec(audiences=[None]), "list of strings"),
    "audience-number": (spec(audiences=[1]), "list of strings"),
    "audiences-object": (spec(audiences={"a": 1}), "list of strings"),
    "seconds-text": (spec(expirationSeconds="600"), "whole number"),
    "seconds-float": (spec(expirationSeconds=600.5), "whole number"),
    "seconds-whole-float": (b'{"spec":{"expirationSeconds":600.0}}', "whole number"),
    "seconds-exponent": (b'{"spec":{"expirationSeconds":6e2}}', "whole number"),
    "seconds-true": (spec(expirationSeconds=True), "whole number"),
    "seconds-false": (spec(expirationSeconds=False), "whole number"),
    "seconds-list": (spec(expirationSeconds=[600]), "whole number"),
    "seconds-over-int64": (spec(expirationSeconds=1 << 63), "whole number"),
    "seconds-under-int64": (spec(expirationSeconds=-(1 << 64)), "whole number|not JSON"),
    "seconds-5000-digits": (b'{"spec":{"expirationSeconds":' + b"9" * 5000 + b"}}", "not JSON"),
    "seconds-nan": (b'{"spec":{"expirationSeconds":NaN}}', "not JSON"),
    "reference-text": (spec(boundObjectRef="Pod"), "must be an object"),
    "reference-list": (spec(boundObjectRef=[POD]), "must be an object"),
    "reference-kind": (reference(kind=1), "spec.boundObjectRef.kind must be a string"),
    "reference-uid": (reference(uid={}), "spec.boundObjectRef.uid must be a string"),
}


@pytest.mark.bad_input(27, 28, 29, 30, 31)
@pytest.mark.parametrize(("value", "why"), WRONG.values(), ids=WRONG)
def test_bodies_that_are_not_a_token_request(value: object, why: str) -> None:
    with pytest.raises(InvalidReviewError, match=why) as caught:
        parse(value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def render(request: TokenSpec, answered: TokenRequest) -> dict[str, object]:
    issued = issue_token(request, POLICY, KEYRING, NOW + 0.9)
    value = json.loads(render_token_request(answered, issued))
    assert value["status"].pop("token") == issued.token
    # The token appears nowhere else.
    assert issued.token.rpartition(".")[2] not in json.dumps(value)
    assert isinstance(value, dict)
    return value


def test_answer() -> None:
    answer = render(TokenSpec(NAMESPACE, ACCOUNT, "u"), asked(uid="u"))
    assert answer == {
        "kind": "TokenRequest",
        "apiVersion": V1,
        "metadata": {
            "name": ACCOUNT,
            "namespace": NAMESPACE,
            "uid": "u",
            "creationTimestamp": "2027-01-15T08:00:00Z",
        },
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": None},
        "status": {"expirationTimestamp": "2027-01-15T09:00:00Z"},
    }


@pytest.mark.parametrize(
    ("seconds", "told", "until"),
    [
        pytest.param(3607, 3607, "2027-01-15T09:00:07Z", id="extended"),
        pytest.param(1 << 32, 86400, "2027-01-16T08:00:00Z", id="shortened"),
    ],
)
def test_answer_says_what_is_granted(seconds: int, told: int, until: str) -> None:
    request = TokenSpec(
        NAMESPACE,
        ACCOUNT,
        expiration_seconds=seconds,
        pod=ObjectReference("p-0", "u-1"),
        objects_confirmed=True,
    )
    bound = BoundObjectReference("Pod", "v1", "p-0", "u-1")
    answer = render(request, asked(bound=bound))
    assert answer["spec"] == {
        "audiences": [AUDIENCE],
        "expirationSeconds": told,
        "boundObjectRef": POD,
    }
    assert answer["status"] == {"expirationTimestamp": until}
