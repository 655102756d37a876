"""Tokens, reviews and keys of a real kube-apiserver 1.36, and a real clock-skew incident."""

import json
import shutil
from pathlib import Path

import pytest

from keys.encoding import encode_base64url
from keys.jwk import jwks_document, kid_of, parse_jwks
from keys.keyring import Keyring
from tests.support import (
    JSONObject,
    as_json,
    b64,
    claims_in,
    read_object,
    sign_text,
    signing_key,
    unb64,
)
from webhook.assembly import authenticator_of
from webhook.config.load import load_configuration
from webhook.kube.token_review import parse_token_review, render_token_review
from webhook.token.authenticator import Authenticator
from webhook.token.claims import ObjectReference, build_projected

CLUSTER = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.example
trustedIssuers:
- url: https://kubernetes.default.svc
  audiences: [https://kubernetes.default.svc]
  keys: {jwksFile: cluster-jwks.json}
"""
ERROR_PREFIX = "[invalid bearer token, "


@pytest.fixture(scope="session")
def recorded(vectors: Path) -> JSONObject:
    return read_object((vectors / "kubernetes" / "tokens.json").read_bytes())


@pytest.fixture(scope="session")
def incident(vectors: Path) -> JSONObject:
    return read_object((vectors / "kubernetes" / "incident.json").read_bytes())


@pytest.fixture
def cluster(vectors: Path, tmp_path: Path) -> Authenticator:
    shutil.copy(vectors / "kubernetes" / "jwks.json", tmp_path / "cluster-jwks.json")
    return _authenticator(tmp_path, CLUSTER)


def _authenticator(folder: Path, configuration: str) -> Authenticator:
    (folder / "leeway.yaml").write_text(configuration)
    return authenticator_of(folder, load_configuration(folder, {}, {}), Keyring())


def _review(authenticator: Authenticator, token: str, audiences: object, now: float) -> JSONObject:
    spec = {"token": token} if audiences is None else {"token": token, "audiences": audiences}
    body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": spec}
    request = parse_token_review(json.dumps(body).encode(), "v1")
    outcome = authenticator.authenticate(request.token, request.audiences, now)
    return read_object(render_token_review(request, outcome))


@pytest.mark.parametrize("number", range(5))
def test_review_is_what_kubernetes_answered(
    recorded: JSONObject, cluster: Authenticator, number: int
) -> None:
    case = recorded["reviews"][number]
    token = recorded["tokens"][case["token"]]
    answer = _review(cluster, token, case["audiences"], recorded["now_unix"])
    if case["status"].get("authenticated"):
        assert answer["status"] == case["status"]
        assert answer["metadata"] == {"creationTimestamp": None}
    else:
        # The recorded error wraps that of the token authenticator in what the API server adds.
        phrase = case["status"]["error"].removeprefix(ERROR_PREFIX).removesuffix("]")
        assert phrase.startswith("token audiences")
        assert phrase in answer["status"]["error"]
        assert answer["status"].keys() == {"authenticated", "error"}
        assert answer["status"]["authenticated"] is False
        assert answer["metadata"]["annotations"] == {"leeway.dev/reason": "AudienceMismatch"}


def test_every_recorded_review_is_tested(recorded: JSONObject) -> None:
    assert len(recorded["reviews"]) == 5
    assert sum(case["status"].get("authenticated", False) for case in recorded["reviews"]) == 4


@pytest.mark.parametrize(
    ("name", "offset", "accepted"),
    [
        pytest.param("default", 3600 - 13 + 60, True, id="exp-at-leeway"),
        pytest.param("default", 3600 - 13 + 61, False, id="exp-past-leeway"),
        pytest.param("pod_bound_warnafter", 7200, True, id="extended-past-warnafter"),
        pytest.param("default", -13 - 60, True, id="nbf-at-leeway"),
        pytest.param("default", -13 - 61, False, id="nbf-past-leeway"),
    ],
)
def test_recorded_token_at_another_time(
    recorded: JSONObject, cluster: Authenticator, name: str, offset: int, accepted: bool
) -> None:
    answer = _review(cluster, recorded["tokens"][name], None, recorded["now_unix"] + offset)
    assert answer["status"]["authenticated"] is accepted
    assert ("user" in answer["status"]) is accepted


def test_stale_token_note(recorded: JSONObject, cluster: Authenticator) -> None:
    now = recorded["now_unix"]
    token = recorded["tokens"]["pod_bound_warnafter"]
    warn_after = claims_in(token)["kubernetes.io"]["warnafter"]
    fresh = _review(cluster, token, None, now)
    assert "leeway.dev/stale-token" not in fresh["status"]["user"]["extra"]
    stale = _review(cluster, token, None, warn_after + 17)
    assert stale["status"]["user"]["extra"]["leeway.dev/stale-token"] == [
        "subject: system:serviceaccount:argo-run:loofah, seconds after warning threshold: 17"
    ]


def test_kid_and_jwks_are_what_kubernetes_makes(vectors: Path) -> None:
    document = (vectors / "kubernetes" / "jwks.json").read_bytes()
    recorded_key = json.loads(document)["keys"][0]
    (key,) = parse_jwks(document).keys
    assert kid_of(key.public_key) == recorded_key["kid"]
    assert key.kid == recorded_key["kid"]
    assert list(json.loads(jwks_document([key]))["keys"][0].items()) == list(recorded_key.items())


@pytest.mark.parametrize("name", ["default", "audience_vault", "pod_bound", "pod_bound_warnafter"])
def test_claims_are_built_as_kubernetes_builds_them(recorded: JSONObject, name: str) -> None:
    payload = unb64(recorded["tokens"][name].split(".")[1])
    claims = json.loads(payload)
    private = claims["kubernetes.io"]
    objects = {
        kind: ObjectReference(**private[kind])
        for kind in ("serviceaccount", "pod", "secret", "node")
        if kind in private
    }
    warn_after = private.get("warnafter")
    _, built = build_projected(
        issuer=claims["iss"],
        namespace=private["namespace"],
        service_account=objects.pop("serviceaccount"),
        audiences=claims["aud"],
        now=claims["iat"] + 0.9,
        expiration_seconds=claims["exp"] - claims["iat"],
        warn_after_seconds=warn_after and warn_after - claims["iat"],
        **objects,
    )
    ours, theirs = json.loads(built), json.loads(payload)
    assert ours["jti"] != theirs["jti"]
    ours["jti"] = theirs["jti"]
    # Equal texts: also the order of the members, and no white space.
    assert json.dumps(ours, separators=(",", ":")).encode() == payload
    assert built.replace(json.loads(built)["jti"].encode(), theirs["jti"].encode()) == payload


def _incident_setup(folder: Path, incident: JSONObject, leeway: str) -> tuple[Authenticator, str]:
    claims = incident["claims"]
    key = signing_key("RS256")
    (folder / "jwks.json").write_bytes(jwks_document([key.verification_key]))
    configuration = CLUSTER.replace("cluster-jwks.json", "jwks.json").replace(
        "https://kubernetes.default.svc", claims["iss"]
    )
    authenticator = _authenticator(folder, configuration + leeway)
    header = as_json({"alg": "RS256", "kid": key.verification_key.kid})
    return authenticator, sign_text(f"{b64(header)}.{b64(as_json(claims))}", key)


def test_incident_is_refused_with_its_numbers(tmp_path: Path, incident: JSONObject) -> None:
    authenticator, token = _incident_setup(tmp_path, incident, "")
    answer = _review(authenticator, token, None, incident["server_unix"])
    assert answer["status"] == {
        "authenticated": False,
        "error": "service account token is not valid yet: nbf is 106s ahead of this server's "
        "clock (leeway 60s, 46s short)",
    }
    assert incident["skew_seconds"] == 106
    assert answer["metadata"]["annotations"] == {
        "leeway.dev/reason": "NotYetValid",
        "leeway.dev/skew-seconds": "106",
    }


def test_incident_is_accepted_with_more_leeway(tmp_path: Path, incident: JSONObject) -> None:
    authenticator, token = _incident_setup(tmp_path, incident, "leeway: {notBefore: 120s}\n")
    answer = _review(authenticator, token, None, incident["server_unix"])
    assert answer["status"]["authenticated"] is True
    assert answer["status"]["user"]["username"] == "system:serviceaccount:argo-run:loofah"
    assert answer["status"]["audiences"] == incident["claims"]["aud"]


def test_incident_with_a_short_leeway_for_iat(tmp_path: Path, incident: JSONObject) -> None:
    leeway = "leeway: {notBefore: 120s, issuedAt: 60s}\n"
    authenticator, token = _incident_setup(tmp_path, incident, leeway)
    answer = _review(authenticator, token, None, incident["server_unix"])
    assert answer["status"]["authenticated"] is False
    assert answer["metadata"]["annotations"]["leeway.dev/reason"] == "IssuedInFuture"


def test_base64url_of_recorded_tokens_is_ours(recorded: JSONObject) -> None:
    for token in recorded["tokens"].values():
        for segment in token.split("."):
            assert encode_base64url(unb64(segment)) == segment
