"""TokenRequest over HTTP, with no source of objects: contract section 4."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import claims_in

from .auth import PASSWORD, as_root
from .harness import AUDIENCE, LEEWAY, REVIEWS, Answer, RunningServer

V1 = "authentication.k8s.io/v1"
PROTOBUF = "application/vnd.kubernetes.protobuf"
POD = {"kind": "Pod", "apiVersion": "v1", "name": "p-0", "uid": "u-1"}
DAY = 86_400


def path_of(namespace: str = "argo-run", name: str = "loofah") -> str:
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"


def post(
    server: RunningServer,
    spec: object = None,
    path: str = "",
    user: str = "root",
    **members: object,
) -> Answer:
    body = json.dumps({"spec": {} if spec is None else spec} | members).encode()
    answer = server.request("POST", path or path_of(), body, context=server.context(user))
    if answer.status == 201:
        server.tokens.append(answer.json["status"]["token"])
    return answer


def claims_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 201, answer
    return claims_in(answer.json["status"]["token"])


def test_absent_members_have_defaults(server: RunningServer) -> None:
    answer = post(server)
    claims = claims_of(answer)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "warning" not in answer.headers
    value = answer.json
    assert (value["kind"], value["apiVersion"]) == ("TokenRequest", V1)
    assert value["spec"] == {
        "audiences": [AUDIENCE],
        "expirationSeconds": 3600,
        "boundObjectRef": None,
    }
    metadata = value["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("loofah", "argo-run")
    assert claims["kubernetes.io"]["serviceaccount"] == {"name": "loofah", "uid": metadata["uid"]}
    assert claims["exp"] - claims["iat"] == 3600
    review = server.post_review(value["status"]["token"]).json
    assert review["status"]["user"]["username"] == "system:serviceaccount:argo-run:loofah"
    # The UID is the same each time, although none is given.
    assert post(server).json["metadata"]["uid"] == metadata["uid"]
    assert post(server, path=path_of("other")).json["metadata"]["uid"] != metadata["uid"]


def seconds_until_expiration(answer: Answer) -> int:
    until = datetime.strptime(answer.json["status"]["expirationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    return int(until.replace(tzinfo=UTC).timestamp()) - int(claims_of(answer)["iat"])


# Requested seconds; answered seconds; the token's lifetime; the Warning header.
@pytest.mark.parametrize(
    ("spec", "told", "lives", "warning"),
    [
        pytest.param({"expirationSeconds": 600}, 600, 600, "", id="least"),
        pytest.param({"expirationSeconds": DAY}, DAY, DAY, "", id="maximum"),
        pytest.param(
            {"expirationSeconds": DAY + 1},
            DAY,
            DAY,
            "requested expiration of 86401 seconds shortened to 86400 seconds",
            id="over-the-maximum",
        ),
        pytest.param(
            {"expirationSeconds": 1 << 32},
            DAY,
            DAY,
            "requested expiration of 4294967296 seconds shortened to 86400 seconds",
            id="most",
        ),
        pytest.param(
            {"expirationSeconds": 3607, "boundObjectRef": POD}, 3607, 3607, "", id="not-looked-up"
        ),
        pytest.param({"expirationSeconds": 3607}, 3607, 3607, "", id="not-bound"),
        pytest.param(
            {"expirationSeconds": 3607, "boundObjectRef": POD, "audiences": ["vault"]},
            3607,
            3607,
            "",
            id="another-audience",
        ),
        pytest.param(
            {"expirationSeconds": 3608, "boundObjectRef": POD}, 3608, 3608, "", id="another-time"
        ),
    ],
)
@pytest.mark.fault(45)
def test_how_long_it_lives(
    server: RunningServer, spec: dict[str, object], told: int, lives: int, warning: str
) -> None:
    answer = post(server, spec)
    claims = claims_of(answer)
    assert answer.json["spec"]["expirationSeconds"] == told
    assert seconds_until_expiration(answer) == told
    assert claims["exp"] - claims["iat"] == lives
    assert "warnafter" not in claims["kubernetes.io"]
    assert answer.headers.get("warning", "") == (f'299 - "{warning}"' if warning else "")


@pytest.mark.parametrize(
    ("reference", "claim"),
    [
        (POD, {"pod": {"name": "p-0", "uid": "u-1"}}),
        (POD | {"apiVersion": ""}, {"pod": {"name": "p-0", "uid": "u-1"}}),
        (POD | {"apiVersion": "v2"}, {"pod": {"name": "p-0", "uid": "u-1"}}),
        (POD | {"kind": "Secret"}, {"secret": {"name": "p-0", "uid": "u-1"}}),
        (POD | {"kind": "Node"}, {"node": {"name": "p-0", "uid": "u-1"}}),
    ],
)
def test_without_objects_the_bound_object_is_not_checked(
    server: RunningServer, reference: dict[str, object], claim: dict[str, object]
) -> None:
    answer = post(server, {"boundObjectRef": reference})
    assert claims_of(answer)["kubernetes.io"].items() >= claim.items()
    # As sent, without empty members.
    sent = {name: value for name, value in reference.items() if value}
    assert answer.json["spec"]["boundObjectRef"] == sent


def cause(field: str, message: str, reason: str = "FieldValueInvalid") -> dict[str, str]:
    return {"reason": reason, "message": message, "field": field}


def seconds(value: int, why: str) -> dict[str, str]:
    message = f"Invalid value: {value}: may not specify a duration {why}"
    return cause("spec.expirationSeconds", message)


TOO_SHORT, TOO_LONG = "less than 10 minutes", "larger than 2^32 seconds"


@pytest.mark.parametrize(
    ("spec", "members", "name", "expected"),
    [
        ({"expirationSeconds": 599}, {}, "", seconds(599, TOO_SHORT)),
        ({"expirationSeconds": 0}, {}, "", seconds(0, TOO_SHORT)),
        ({"expirationSeconds": -1}, {}, "", seconds(-1, TOO_SHORT)),
        ({"expirationSeconds": (1 << 32) + 1}, {}, "", seconds((1 << 32) + 1, TOO_LONG)),
        (
            {},
            {"metadata": {"name": "default"}},
            "loofah",
            cause(
                "metadata.name",
                'Invalid value: "default": must match the service account name if specified',
            ),
        ),
        (
            {"boundObjectRef": POD | {"uid": ""}},
            {},
            "",
            cause(
                "spec.boundObjectRef.uid",
                "Required value: no source of objects is configured that it could be looked up in",
                "FieldValueRequired",
            ),
        ),
        (
            {"audiences": ["vault", "a\nb"]},
            {},
            "",
            cause(
                "spec.audiences[1]",
                r'Invalid value: "a\nb": must be printable text, and not empty',
            ),
        ),
    ],
)
def test_422(
    server: RunningServer,
    spec: dict[str, object],
    members: dict[str, Any],
    name: str,
    expected: dict[str, str],
) -> None:
    answer = post(server, spec, **members)
    status = answer.json
    assert (answer.status, status["code"], status["reason"]) == (422, 422, "Invalid")
    named = {"name": name} if name else {}
    assert status["details"] == named | {
        "group": "authentication.k8s.io",
        "kind": "TokenRequest",
        "causes": [expected],
    }
    assert status["message"] == (
        f'TokenRequest.authentication.k8s.io "{name}" is invalid: {expected["field"]}: '
        f"{expected['message']}"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"boundObjectRef": POD | {"kind": "ConfigMap"}},
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            {"boundObjectRef": POD | {"kind": "Deployment", "apiVersion": "apps/v1"}},
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        ({"boundObjectRef": POD | {"name": ""}}, "Name parameter required."),
        (
            {"boundObjectRef": POD | {"name": "../p"}},
            """Name parameter invalid: "../p": may not contain '/'""",
        ),
        ({"expirationSeconds": "600"}, "spec.expirationSeconds must be a whole number of seconds"),
        ({"audiences": "vault"}, "spec.audiences must be a list of strings"),
        ([], "spec must be an object with audiences, boundObjectRef, expirationSeconds"),
    ],
)
def test_400(server: RunningServer, spec: object, message: str) -> None:
    answer = post(server, spec)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert answer.json["message"] == message
    assert "details" not in answer.json


@pytest.mark.fault(10)
@pytest.mark.parametrize("body", [b"{}", b'{"spec":null}', b'{"spec":{}}'])
def test_a_request_without_spec_has_the_defaults(server: RunningServer, body: bytes) -> None:
    answer = server.request("POST", path_of(), body, context=server.context("root"))
    assert claims_of(answer)["aud"] == [AUDIENCE]
    server.tokens.append(answer.json["status"]["token"])
    assert answer.json["spec"]["expirationSeconds"] == 3600


@pytest.mark.fault(62)
def test_400_for_another_namespace(server: RunningServer) -> None:
    metadata = {"namespace": "prod", "name": "default"}
    answer = post(server, metadata=metadata)
    assert (answer.status, answer.json["message"]) == (
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    # The types of all members are checked first.
    answer = post(server, {"audiences": 1}, metadata=metadata)
    assert answer.json["message"] == "spec.audiences must be a list of strings"


@pytest.mark.fault(62)
def test_audiences_are_kept_unchanged(server: RunningServer) -> None:
    sent = ["b", "a", "b", "café"]
    answer = post(server, {"audiences": sent})
    assert claims_of(answer)["aud"] == answer.json["spec"]["audiences"] == sent
    review = server.post_review(answer.json["status"]["token"], ["café"]).json
    assert review["status"]["audiences"] == ["café"]


@pytest.mark.fault(62)
def test_an_unknown_field_is_ignored_with_a_warning(server: RunningServer) -> None:
    answer = post(server, {"expirationSecond": 600, "boundObjectRef": POD | {"namespace": "x"}})
    assert claims_of(answer)["exp"] - claims_of(answer)["iat"] == 3600
    # Headers of one name are put together by the client.
    assert answer.headers["warning"] == r'299 - "unknown field \"spec.boundObjectRef.namespace\""'


@pytest.mark.fault(10)
def test_409_for_another_uid(server: RunningServer) -> None:
    answer = post(server, metadata={"uid": "of-another"})
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    assert answer.json["details"] == {
        "name": "loofah",
        "group": "authentication.k8s.io",
        "kind": "TokenRequest",
    }
    uid = post(server).json["metadata"]["uid"]
    assert answer.json["message"] == (
        'Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "loofah": the UID in '
        f"the token request (of-another) does not match the UID of the service account ({uid})"
    )
    assert post(server, metadata={"uid": uid}).status == 201


@pytest.mark.parametrize(
    ("namespace", "name", "status"),
    [
        ("Argo", "loofah", 404),
        ("a.b", "loofah", 404),
        ("argo-run", "Loofah", 404),
        ("argo-run", "-a", 404),
        ("argo-run", "..", 400),
        ("argo-run", "a%00b", 404),
        ("argo-run", "a" * 254, 404),
        ("a" * 64, "loofah", 404),
        ("argo-run", "a.b-c.0", 201),
        # An encoded slash is a slash, as for any proxy.
        ("argo-run", "x%2Ftoken", 404),
        ("x%2F..%2Fargo-run", "loofah", 404),
        ("argo-run", "%C3%A4", 400),
        ("argo-run", "", 404),
    ],
)
def test_the_names_of_the_path(
    server: RunningServer, namespace: str, name: str, status: int
) -> None:
    answer = post(server, path=path_of(namespace, name))
    assert answer.status == status, answer
    assert answer.json["kind"] == ("TokenRequest" if status == 201 else "Status")
    if status == 404 and name and "%2F" not in name + namespace:
        kind = "serviceaccounts" if namespace == "argo-run" else "namespaces"
        assert answer.json["details"]["kind"] == kind


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/yaml"}, b"spec: {}", 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"{}", 415),
        ({"Content-Type": PROTOBUF}, b"{}", 400),
        ({"Content-Type": "application/json"}, b"", 400),
        ({"Content-Type": "application/json"}, b'{"spec":{},"spec":{}}', 400),
        ({"Content-Type": "application/json; charset=utf-8"}, b'{"spec":{}}', 201),
        ({}, b'{"spec":{}}', 201),
        ({}, b" " * 3_200_000, 413),
    ],
)
def test_bodies(server: RunningServer, headers: dict[str, str], body: bytes, status: int) -> None:
    context = server.context("root")
    answer = server.request("POST", path_of(), body, headers, context)
    assert answer.status == status, answer
    if status == 201:
        server.tokens.append(answer.json["status"]["token"])
    else:
        assert answer.json["code"] == status


@pytest.mark.bad_input(31)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_methods(server: RunningServer, method: str) -> None:
    answer = server.request(method, path_of(), context=server.context("root"))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json["reason"] == "MethodNotAllowed"


@pytest.fixture(scope="module")
def lead(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, bytes], Answer]:
    """Create a team lead on the command line: one role with one grant."""
    as_root(
        server,
        ("role/add", {"name": "tokens-of-argo-run"}),
        ("user/add", {"name": "lead", "options": {"no_password": True}}),
        ("user/grant", {"user": "lead", "role": "tokens-of-argo-run"}),
    )
    command = [LEEWAY, "role", "grant-permission", "--prefix", "tokens-of-argo-run", "write"]
    command += ["/leeway/serviceaccounts/argo-run/", "--data-dir", str(server.data_dir)]
    subprocess.run(command, check=True, capture_output=True)
    folder: Path = tmp_path_factory.mktemp("lead")
    context = server.context_of(server.client_certificate("lead", datetime.now(UTC)), folder)
    return lambda method, path, body: server.request(method, path, body, context=context)


Lead = Callable[[str, str, bytes], Answer]


@pytest.mark.parametrize("name", ["loofah", "default", "a.b", "token"])
def test_a_team_lead_issues_the_tokens_of_one_namespace(
    server: RunningServer, lead: Lead, name: str
) -> None:
    answer = lead("POST", path_of(name=name), b'{"spec":{"audiences":["vault"]}}')
    assert answer.status == 201, answer
    server.tokens.append(answer.json["status"]["token"])


@pytest.mark.parametrize(
    "path",
    [
        path_of("argo"),
        path_of("argo-run-2"),
        path_of("default"),
        path_of("kube-system", "argo-run"),
        REVIEWS,
        "/apis/authentication.k8s.io/v1beta1/tokenreviews",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "/apis/leeway.dev/v1/rangeaccessreviews",
    ],
)
def test_a_team_lead_is_allowed_nothing_else(lead: Lead, path: str) -> None:
    answer = lead("POST", path, b'{"spec":{"token":"a"}}')
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "user 'lead' may not write /leeway/" in answer.json["message"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("user/list", b"{}"),
        ("user/add", json.dumps({"name": "eve", "password": PASSWORD}).encode()),
        ("user/grant", b'{"user":"lead","role":"root"}'),
        ("role/grant", b'{"name":"tokens-of-argo-run","perm":{"permType":"WRITE","key":"AA=="}}'),
        ("disable", b"{}"),
    ],
)
def test_a_team_lead_grants_nothing(lead: Lead, name: str, body: bytes) -> None:
    answer = lead("POST", f"/v3/auth/{name}", body)
    assert (answer.status, answer.json["code"]) == (403, 7)


def test_a_team_lead_can_list_its_permissions(lead: Lead) -> None:
    answer = lead("POST", "/v3/auth/user/get", b'{"name":"lead"}')
    assert answer.json["roles"] == ["tokens-of-argo-run"]
    answer = lead("POST", "/v3/auth/role/get", b'{"role":"tokens-of-argo-run"}')
    assert len(answer.json["perm"]) == 1
