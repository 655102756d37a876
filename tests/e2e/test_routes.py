"""Every route, and which callers are answered: contract section 4; bad input 34, 35 and 37."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keys.pki import make_ca, make_client_certificate
from webhook.config.load import load_configuration
from webhook.server.reload.live_application import LiveApplication
from webhook.skew.report import SKEW_PATH

from .auth import (
    BAD_TOKEN,
    DENIED,
    NO_IDENTITY,
    PASSWORD,
    RANGE_REVIEWS,
    as_root,
    auth_server,
    b64,
    grant,
    log_in,
    refusal,
)
from .harness import HOST, REVIEWS, REVIEWS_BETA, Answer, RunningServer

WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
MAY_I = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
WHAT_MAY_I = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
MAY_THEY = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
MAY_THEY_BETA = "/apis/authorization.k8s.io/v1beta1/subjectaccessreviews"
TOKEN = "/api/v1/namespaces/<namespace>/serviceaccounts/<name>/token"
GET_POD = {"resourceAttributes": {"verb": "get", "resource": "pods", "name": "p", "namespace": "a"}}

PUBLIC = (
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
    "/version",
    "/version/",
    "/livez",
    "/livez/ping",
    *(
        f"/{name}{check}"
        for name in ("readyz", "healthz")
        for check in ("", "/ping", "/store", "/signing-key", "/issuer-keys")
    ),
)
HEALTH = ("/livez/", "/readyz/", "/healthz/")
# With a slash at the end as well, as the kubernetes client of Python asks.
DISCOVERY = ("/api", "/api/v1", "/apis", "/apis/<name>", "/apis/<name>/<version>")
# Readable with any identity.
READ = (
    "/metrics",
    *DISCOVERY,
    *(f"{path}/" for path in DISCOVERY),
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/api/<version>",
    "/openapi/v3/apis/<name>/<version>",
)
# With any identity, and a body.
ASKED: dict[str, object] = {
    WHO_AM_I: {},
    MAY_I: {"spec": GET_POD},
    WHAT_MAY_I: {"spec": {"namespace": "a"}},
}
# The key that must be written, and a body where there is one.
NEEDS_KEY: dict[str, tuple[str, object]] = {
    REVIEWS: ("/leeway/tokenreviews", {"spec": {"token": "a.b.c"}}),
    REVIEWS_BETA: ("/leeway/tokenreviews", {"spec": {"token": "a.b.c"}}),
    MAY_THEY: ("/leeway/subjectaccessreviews", {"spec": GET_POD | {"user": "alice"}}),
    MAY_THEY_BETA: ("/leeway/subjectaccessreviews", {"spec": GET_POD | {"user": "alice"}}),
    RANGE_REVIEWS: (
        "/leeway/subjectaccessreviews",
        {"spec": {"user": "alice", "permission": "READ", "key": b64(b"k")}},
    ),
    TOKEN: ("/leeway/serviceaccounts/argo-run/loofah/token", {"spec": {}}),
    SKEW_PATH: ("/leeway/skew", None),
}
# The key of these must be read.
READS_KEY = (SKEW_PATH,)
PERMISSION = {"permType": "READ", "key": b64(b"k")}
# For root, in this order; only "authenticate" is for all users.
ETCD: dict[str, object] = {
    "status": {},
    "enable": {},
    "user/add": {"name": "eve", "password": PASSWORD},
    "user/list": {},
    "user/get": {"name": "eve"},
    "user/changepw": {"name": "eve", "password": PASSWORD + "2"},
    "authenticate": {"name": "eve", "password": PASSWORD + "2"},
    "role/add": {"name": "r"},
    "role/list": {},
    "role/grant": {"name": "r", "perm": PERMISSION},
    "role/get": {"role": "r"},
    "user/grant": {"user": "eve", "role": "r"},
    "user/revoke": {"name": "eve", "role": "r"},
    "role/revoke": {"role": "r", "key": PERMISSION["key"]},
    "role/delete": {"role": "r"},
    "user/delete": {"name": "eve"},
    "disable": {},
}
ROUTES = [
    *(("GET", path) for path in (*PUBLIC, *READ)),
    *(("GET" if path in READS_KEY else "POST", path) for path in (*ASKED, *NEEDS_KEY)),
    *(("POST", f"/v3/auth/{name}") for name in ETCD),
]
NOT_PUBLIC = [route for route in ROUTES if route[1] not in (*PUBLIC, "/v3/auth/authenticate")]


@dataclass
class Caller:
    """A caller with a certificate, a token, or neither."""

    context: ssl.SSLContext
    headers: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server with users who have no permission, or that for one key."""
    with auth_server(tmp_path_factory.mktemp("routes"), BCRYPT_COST="4") as running:
        for key, path in {key: path for path, (key, _) in NEEDS_KEY.items()}.items():
            as_root(
                running,
                ("role/add", {"name": key}),
                ("role/grant", grant(key, "READ" if path in READS_KEY else "WRITE", key.encode())),
                # By certificate, and by service account token.
                ("user/add", {"name": key[1:].replace("/", "."), "options": NO_PASSWORD}),
                ("user/grant", {"user": key[1:].replace("/", "."), "role": key}),
                ("user/add", {"name": account_of(key), "options": NO_PASSWORD}),
                ("user/grant", {"user": account_of(key), "role": key}),
            )
        as_root(running, ("user/add", {"name": "alice", "password": PASSWORD}))
        yield running


NO_PASSWORD = {"no_password": True}


def account_name(key: str) -> str:
    return key.rpartition("/")[2]


def account_of(key: str) -> str:
    return f"system:serviceaccount:demo:{account_name(key)}"


@pytest.fixture(scope="module")
def callers(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Caller]:
    """Return callers with no permission, with one, and without an identity."""
    now = datetime.now(UTC)

    def certificate(user: str) -> Caller:
        made = server.client_certificate(user, now)
        return Caller(server.context_of(made, tmp_path_factory.mktemp("certificate")))

    def bearer(token: str) -> Caller:
        return Caller(server.context(""), {"Authorization": f"Bearer {token}"})

    found = {
        "nobody": Caller(server.context("")),
        "root": Caller(server.context("root")),
        "certificate": certificate("stranger"),
        "service account": bearer(server.sign("stranger")),
        "auth token": bearer(log_in(server, "alice", PASSWORD)),
        "nonsense": bearer("no.such.token"),
        "basic": Caller(server.context(""), {"Authorization": "Basic cm9vdDpyb290"}),
        "expired": bearer(server.sign(ahead=-7200)),
        "of another audience": bearer(server.sign(audiences=["vault"])),
        "bad signature": bearer(server.sign()[:-8] + "AAAAAAAA"),
    }
    for key, _ in NEEDS_KEY.values():
        found[f"{key} by certificate"] = certificate(key[1:].replace("/", "."))
        found[f"{key} by token"] = bearer(server.sign(account_name(key)))
    return found


WITHOUT_PERMISSION = ("certificate", "service account", "auth token")
NOT_ACCEPTED = ("nonsense", "basic", "expired", "of another audience", "bad signature")


def concrete(template: str) -> str:
    """Fill in the parameters of a route; the group is one that exists."""
    group = "authentication.k8s.io" if "/<version>" in template else "apps"
    path = template.replace("<namespace>", "argo-run").replace("<version>", "v1")
    return path.replace("<name>", "loofah" if template == TOKEN else group)


def body_of(path: str) -> bytes | None:
    if path in ASKED:
        value = ASKED[path]
    elif path in NEEDS_KEY and path not in READS_KEY:
        value = NEEDS_KEY[path][1]
    elif path.startswith("/v3/auth/"):
        value = ETCD[path.removeprefix("/v3/auth/")]
    else:
        return None
    return json.dumps(value).encode()


def send(server: RunningServer, caller: Caller, method: str, path: str) -> Answer:
    answer = server.request(method, concrete(path), body_of(path), caller.headers, caller.context)
    if path == TOKEN and answer.status == 201:
        server.tokens.append(answer.json["status"]["token"])
    return answer


def assert_status(answer: Answer, code: int, reason: str) -> None:
    status = answer.json
    assert (answer.status, status["code"], status["reason"]) == (code, code, reason)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert status["message"]
    assert ("www-authenticate" in answer.headers) is (code == 401)


def test_the_table_names_every_route(server: RunningServer) -> None:
    app = LiveApplication(server.data_dir, lambda: load_configuration(server.data_dir, {}, {}))
    try:
        routes = app.routes()
    finally:
        app.store.close()
    assert sorted(routes) == sorted(ROUTES)


@pytest.mark.parametrize("path", [*PUBLIC, "/v3/auth/authenticate"])
def test_public_routes(server: RunningServer, callers: dict[str, Caller], path: str) -> None:
    for name in ("nobody", "root", *WITHOUT_PERMISSION, *NOT_ACCEPTED):
        if path.startswith("/v3"):
            body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
            caller = callers[name]
            answer = server.request("POST", path, body, caller.headers, caller.context)
        else:
            answer = send(server, callers[name], "GET", path)
        assert answer.status == 200, name


@pytest.mark.bad_input(37)
@pytest.mark.parametrize(("method", "path"), NOT_PUBLIC)
def test_without_identity(
    server: RunningServer, callers: dict[str, Caller], method: str, path: str
) -> None:
    for name in ("nobody", *NOT_ACCEPTED):
        answer = send(server, callers[name], method, path)
        if path.startswith("/v3"):
            assert refusal(answer) == (NO_IDENTITY if name == "nobody" else BAD_TOKEN), name
        else:
            assert_status(answer, 401, "Unauthorized")


@pytest.mark.bad_input(34)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_with_a_foreign_certificate(
    server: RunningServer, tmp_path: Path, method: str, path: str
) -> None:
    now = datetime.now(UTC)
    ca = make_ca("leeway CA", now)
    foreign = Caller(server.context_of(make_client_certificate(ca, "root", now), tmp_path))
    # The handshake fails, for public routes too. With TLS 1.3 that shows at the first answer.
    with pytest.raises((ConnectionError, ssl.SSLError, http.client.RemoteDisconnected)):
        send(server, foreign, method, path)


@pytest.mark.parametrize(("method", "path"), NOT_PUBLIC)
@pytest.mark.parametrize("name", WITHOUT_PERMISSION)
def test_with_an_identity_that_has_no_permission(
    server: RunningServer, callers: dict[str, Caller], name: str, method: str, path: str
) -> None:
    answer = send(server, callers[name], method, path)
    if path.startswith("/v3"):
        assert refusal(answer) == DENIED
    elif path in NEEDS_KEY:
        assert_status(answer, 403, "Forbidden")
        verb = "read" if path in READS_KEY else "write"
        assert f"may not {verb} {NEEDS_KEY[path][0]};" in answer.json["message"]
    else:
        assert answer.status == (200 if method == "GET" else 201)


@pytest.mark.parametrize("path", NEEDS_KEY)
@pytest.mark.parametrize("by", ["certificate", "token"])
def test_with_the_permission(
    server: RunningServer, callers: dict[str, Caller], by: str, path: str
) -> None:
    for other, (key, _) in NEEDS_KEY.items():
        caller = callers[f"{key} by {by}"]
        answer = send(server, caller, "GET" if path in READS_KEY else "POST", path)
        if key == NEEDS_KEY[path][0]:
            assert answer.status == (200 if path in READS_KEY else 201), other
        else:
            assert_status(answer, 403, "Forbidden")


@pytest.mark.parametrize(("method", "path"), [r for r in ROUTES if not r[1].startswith("/v3")])
def test_root_is_allowed_to_do_anything(
    server: RunningServer, callers: dict[str, Caller], method: str, path: str
) -> None:
    answer = send(server, callers["root"], method, path)
    assert answer.status == (200 if method == "GET" else 201)


def others_of(path: str) -> set[str]:
    """Return paths that resemble a served one, and are not served."""
    path = concrete(path)
    head, _, last = path.rpartition("/")
    return {
        f"{path}/",
        f"/{path}",
        f"{path}/x",
        f"{path};x",
        f"{path}%20",
        f"{path}%00",
        f"{path}.json",
        f"/x/..{path}",
        path.upper(),
        f"/x{path}",
        f"{head}//{last}",
        f"{head}/./{last}",
    } - {path, *(concrete(served) for served in (*PUBLIC, *READ))}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_other_paths_are_404_to_callers_with_an_identity(
    server: RunningServer, callers: dict[str, Caller], method: str, path: str
) -> None:
    body = body_of(path)
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(server.client(callers["certificate"].context))
        nobody = stack.enter_context(server.client(callers["nobody"].context))
        for other in sorted(others_of(path)):
            for connection, unknown in ((known, False), (nobody, True)):
                connection.request(method, other, body)
                response = connection.getresponse()
                answer = Answer(response.status, dict(response.getheaders()), response.read())
                if other.startswith("/v3/"):
                    # There etcd's answers apply; the calls check the caller.
                    assert answer.status in (400, 404), other
                    continue
                expected = 401 if unknown and not other.startswith(HEALTH) else 404
                # Any other group or version is unknown.
                assert answer.status == expected, other
                assert answer.json["kind"] == "Status"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_other_methods(
    server: RunningServer, callers: dict[str, Caller], method: str, path: str
) -> None:
    with (
        server.client(callers["root"].context) as known,
        server.client(callers["nobody"].context) as nobody,
    ):
        for other in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            if other == method:
                continue
            is_open = path in PUBLIC or path.startswith("/v3/")
            for connection, expected in ((known, 405), (nobody, 405 if is_open else 401)):
                connection.request(other, concrete(path), b"{}")
                response = connection.getresponse()
                response.read()
                assert response.status == expected, other
                assert ("allow" in response.headers) is (expected == 405)


PROXY_HEADERS = (
    "X-Forwarded-User: root",
    "X-Remote-User: root",
    "X-Remote-Group: system:masters",
    "X-SSL-Client-CN: root",
    "X-SSL-Client-Verify: SUCCESS",
    "X-SSL-Client-S-DN: CN=root",
    "SSL-Client-Subject-DN: CN=root",
    "SSL-Client-Verify: SUCCESS",
    'X-Forwarded-Client-Cert: Subject="CN=root"',
    "X-Forwarded-Tls-Client-Cert-Info: Subject%3D%22CN%3Droot%22",
    "Client-Cert: :MIIB:",
    "Forwarded: for=127.0.0.1;by=root;user=root",
    "X-Forwarded-For: 127.0.0.1",
    "Remote-User: root",
    "REMOTE_USER: root",
    "X_Remote_User: root",
    "SSL_CLIENT_S_DN_CN: root",
    "HTTP_X_REMOTE_USER: root",
    "Impersonate-User: root",
    "Impersonate_User: root",
    "Grpc-Metadata-Authorization: root",
    "Cookie: user=root",
)


def raw(server: RunningServer, caller: Caller, path: str, *headers: str) -> tuple[int, bytes]:
    """Send headers unchanged; return the status and the body of the answer."""
    body = body_of(path) or b""
    lines = [f"POST {concrete(path)} HTTP/1.1", f"Host: {HOST}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in caller.headers.items()]
    data = "\r\n".join([*lines, *headers, "", ""]).encode() + body
    head, _, rest = server.exchange(data, caller.context).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), rest


@pytest.mark.bad_input(35)
@pytest.mark.parametrize("header", PROXY_HEADERS)
def test_no_header_gives_an_identity(
    server: RunningServer, callers: dict[str, Caller], header: str
) -> None:
    """CVE-2018-16886: identities that a proxy claims for others, or that a client pretends."""
    nobody, stranger = callers["nobody"], callers["certificate"]
    refused = 403 if header.startswith("Impersonate-") else 201
    assert raw(server, nobody, WHO_AM_I, header)[0] == 401
    assert raw(server, nobody, REVIEWS, header)[0] == 401
    assert raw(server, nobody, "/v3/auth/user/list", header)[0] == 400
    assert raw(server, stranger, REVIEWS, header)[0] == 403
    status, body = raw(server, stranger, WHO_AM_I, header)
    assert status == refused
    if status == 201:
        assert json.loads(body)["status"]["userInfo"] == {
            "username": "stranger",
            "groups": ["system:authenticated"],
        }
    status, body = raw(server, stranger, "/v3/auth/user/list", header)
    assert (status, json.loads(body)["code"]) in ((403, 7), (401, 16))


@pytest.mark.bad_input(35)
@pytest.mark.parametrize("name", WITHOUT_PERMISSION)
@pytest.mark.parametrize("path", [WHO_AM_I, MAY_I, REVIEWS, TOKEN])
def test_only_root_acts_as_another(
    server: RunningServer, callers: dict[str, Caller], name: str, path: str
) -> None:
    for headers in (
        ("Impersonate-User: root",),
        ("impersonate-user: stranger",),
        ("IMPERSONATE-USER: kube-apiserver", "Impersonate-Group: system:masters"),
    ):
        status, body = raw(server, callers[name], path, *headers)
        assert status == 403
        assert b"may not act as" in body
    # Bad headers do not bypass it.
    for headers in (("Impersonate-Group: system:masters",), ("Impersonate-User: ",)):
        assert raw(server, callers[name], path, *headers)[0] == 400


def test_root_impersonates_users_with_and_without_permission(
    server: RunningServer, callers: dict[str, Caller]
) -> None:
    key = NEEDS_KEY[REVIEWS][0]
    for user, status in (("stranger", 403), (account_of(key), 201), ("root", 201)):
        assert raw(server, callers["root"], REVIEWS, f"Impersonate-User: {user}")[0] == status


def test_root_is_allowed_all_calls_of_etcd(
    server: RunningServer, callers: dict[str, Caller]
) -> None:
    """The last test here: disabling auth ends all auth tokens."""
    try:
        for name in ETCD:
            answer = send(server, callers["root"], "POST", f"/v3/auth/{name}")
            assert answer.status == 200, (name, answer)
    finally:
        as_root(server, ("enable", {}))


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/livez/ping", 200, "ok"),
        ("/readyz/issuer-keys", 200, "ok"),
        ("/healthz/store?verbose", 200, "ok"),
        ("/readyz?exclude=issuer-keys&exclude=store", 200, "ok"),
        ("/readyz?verbose&exclude=store", 200, "[+]store excluded: ok"),
        ("/livez?verbose&exclude=store", 200, 'no matches for "store"'),
        ("/readyz/no-such", 404, "could not find the requested resource"),
        ("/livez/store", 404, "could not find the requested resource"),
        ("/readyz/", 404, "could not find the requested resource"),
    ],
)
def test_health_checks_by_name_are_public(
    server: RunningServer, path: str, status: int, text: str
) -> None:
    answer = server.request("GET", path, context=server.context(""))
    assert answer.status == status
    assert text in answer.body.decode()
    assert server.request("HEAD", path, context=server.context("")).status == status


@pytest.mark.fault(15)
@pytest.mark.parametrize("value", ["Bearer  {}", "Token {}", "Bearer Bearer {}", "Bearer"])
def test_an_authorization_header_of_another_form(server: RunningServer, value: str) -> None:
    token = server.sign()
    headers = {"Authorization": value.format(token)}
    answer = server.request("GET", "/metrics", None, headers, server.context(""))
    assert_status(answer, 401, "Unauthorized")
    assert "send the word Bearer, one space and the token" in answer.json["message"]
    assert token not in answer.body.decode()
    assert token not in server.log()
