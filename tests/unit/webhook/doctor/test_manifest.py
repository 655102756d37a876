"""Manifests of kube-apiserver, as kubeadm writes them and as people do."""

from typing import Any

import pytest
import yaml

from webhook.doctor import api_server_flags as flags
from webhook.doctor.findings import Status
from webhook.doctor.manifest import Manifest, parse_manifest
from webhook.errors import ConfigurationError

VOLUMES = [
    {"name": "etc", "hostPath": {"path": "/etc/kubernetes"}},
    {"name": "hook", "hostPath": {"path": "/var/lib/leeway"}},
    {"name": "secret", "secret": {"secretName": "s"}},
]


def manifest(*words: str, field: str = "command", mounts: Any = ()) -> Manifest:
    container = {"name": "k", "volumeMounts": list(mounts)}
    container[field] = ["/usr/local/bin/kube-apiserver", *words]
    spec = {"containers": [{"name": "other"}, container], "volumes": VOLUMES}
    return parse_manifest(yaml.safe_dump({"kind": "Pod", "spec": spec}).encode(), "m.yaml")


@pytest.mark.parametrize("field", ["command", "args"])
def test_flags_as_pflag_takes_them(field: str) -> None:
    found = manifest("--a=1", "--b", "2", "--c", "--d_e=x=y", "--a=3", "word", field=field)
    assert found.flags == {"a": ["1", "3"], "b": ["2"], "c": [""], "d-e": ["x=y"]}
    assert (found.value("a"), found.value("none")) == ("3", "")
    assert manifest("--l=a,b", "--l=c").values("l") == ["a", "b", "c"]


def pod(**container: object) -> bytes:
    spec = {"containers": [{"name": "other", "command": ["/healthcheck"]}, container]}
    return yaml.safe_dump({"kind": "Pod", "spec": spec}).encode()


BINARY = "/usr/local/bin/kube-apiserver"
STARTED = [
    pytest.param(
        {
            "command": ["/go-runner"],
            "args": ["--log-file=/var/log/kube-apiserver.log", "--also-stdout", BINARY, "--a=1"],
        },
        id="kops",
    ),
    pytest.param({"command": ["kube-log-runner", "-log-file", "x.log", BINARY, "--a=1"]}, id="old"),
    pytest.param(
        {"command": ["/bin/sh", "-c", f"exec {BINARY} --a=1 1>>/var/log/k.log 2>&1"]}, id="kube-up"
    ),
    pytest.param(
        {"command": ["/bin/bash", "-euo", "pipefail", "-c"], "args": [f"{BINARY} --a=1 | tee x"]},
        id="bash",
    ),
    pytest.param(
        {
            "command": [
                "sh",
                "-ec",
                f"mkdir -p /x; ulimit -n 9 &&\n{BINARY} \\\n  --a='1' >x; ls --b",
            ]
        },
        id="script",
    ),
    pytest.param({"command": ["sh", "-c", "kube-apiserver --a 1 2> /x"]}, id="spaced redirection"),
    pytest.param({"command": ["/hyperkube", "kube-apiserver", "--a=1"]}, id="hyperkube"),
    pytest.param({"command": ["/hyperkube", "apiserver"], "args": ["--a=1"]}, id="old hyperkube"),
    pytest.param({"args": ["tini", "--", "kube-apiserver", "--a=1"]}, id="tini"),
]


@pytest.mark.fault(28)
@pytest.mark.parametrize("container", STARTED)
def test_kube_apiserver_is_found_however_it_is_started(container: Any) -> None:
    assert parse_manifest(pod(**container), "m.yaml").flags == {"a": ["1"]}


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "text", [b"---\n%s", b"%s---\n", b"%s...\n", b"# kops\n---\n%s\n---\n# end\n"]
)
def test_a_manifest_can_have_document_separators(text: bytes) -> None:
    manifest = pod(command=["kube-apiserver", "--a=1"])
    assert parse_manifest(text % manifest, "m.yaml").flags == {"a": ["1"]}


MOUNTS = [
    {"name": "etc", "mountPath": "/etc/kubernetes/"},
    {"name": "hook", "mountPath": "/etc/kubernetes/leeway"},
    {"name": "secret", "mountPath": "/etc/kubernetes/leeway/secret"},
    {"name": "hook", "mountPath": "/one.yaml", "subPath": "files/one.yaml"},
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.crt"),
        ("/etc/kubernetes/leeway/t.yaml", "/var/lib/leeway/t.yaml"),
        ("/etc/kubernetes/leeway/../t.yaml", "/etc/kubernetes/t.yaml"),
        ("/etc/kubernetes/leeway/secret/t.yaml", ""),
        ("/etc/kubernetes-x/t.yaml", ""),
        ("/one.yaml", "/var/lib/leeway/files/one.yaml"),
        ("/opt/t.yaml", ""),
        ("t.yaml", ""),
    ],
)
def test_the_host_path_of_a_flag(path: str, expected: str) -> None:
    assert manifest(mounts=MOUNTS).host_path(path) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "not a mapping"),
        (b"[1]", "not a mapping"),
        (b"a: [", "not YAML at line 1"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: *b", "not YAML"),
        (b"[" * 3000, "not YAML"),
        (b"a: !!bool x", "not YAML"),
        (b"a: 2020-13-45", "not YAML"),
        (b"kind: Deployment", "'Deployment'"),
        (b"kind: Pod\nspec: 1", "no container"),
        (b"kind: Pod\nspec: {containers: [{command: [etcd]}, 3]}", "no container"),
        (b"kind: Pod\nspec: {containers: [{command: kube-apiserver}]}", "no container"),
        (b"kind: Pod\nspec: {containers: [{command: [sh, -c, sleep 1]}]}", "no container"),
        (b"kind: Pod\nspec: {containers: [{command: [sh, kube-apiserver.sh]}]}", "no container"),
        (b"kind: Pod\nspec: {containers: [{command: [apiserver]}]}", "no container"),
        (b'kind: Pod\nspec: {containers: [{command: [sh, -c, "k \'"]}]}', "quote that is not"),
    ],
)
def test_text_that_is_not_a_manifest(text: bytes, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part) as caught:
        parse_manifest(text, "m.yaml")
    assert str(caught.value).startswith("m.yaml ")


# Faults are in the end-to-end table; here are good manifests.
FINE = [
    (flags.check_access_flags, (), "no SubjectAccessReviews are sent"),
    (flags.check_access_flags, ("--authorization-config=/a.yaml",), "/a.yaml says"),
    (flags.check_token_cache, (), "up to 2m more"),
    (flags.check_token_cache, ("--authentication-token-webhook-cache-ttl=0s",), "up to 0s"),
    (flags.check_mounts, (), "no file is needed"),
    (flags.check_flags_once, ("--service-account-issuer=a", "--service-account-issuer=b"), ""),
    (lambda m: flags.check_audiences(m, ["b"]), ("--api-audiences=a,b",), "b in --api-audiences"),
    (
        lambda m: flags.check_audiences(m, ["b"]),
        ("--service-account-issuer=a", "--service-account-issuer=b"),
        "b in --service-account-issuer",
    ),
]


@pytest.mark.parametrize(("check", "words", "part"), FINE)
def test_good_manifests(check: Any, words: tuple[str, ...], part: str) -> None:
    verdict = check(manifest(*words))
    assert verdict.status is Status.OK, verdict
    assert part in verdict.finding


WRONG = [
    (flags.check_token_cache, ("--authentication-token-webhook-cache-ttl=2",), "'2'"),
    (flags.check_token_flags, (), "is not set"),
    (lambda m: flags.check_audiences(m, ["b"]), (), "--api-audiences is not set"),
    (
        lambda m: flags.check_audiences(m, ["b"]),
        ("--api-audiences=a", "--service-account-issuer=b"),
        "--api-audiences is a,",
    ),
    (
        flags.check_access_flags,
        ("--authorization-webhook-config-file=/a",),
        "--authorization-mode is not set",
    ),
]


@pytest.mark.parametrize(("check", "words", "part"), WRONG)
def test_bad_manifests(check: Any, words: tuple[str, ...], part: str) -> None:
    verdict = check(manifest(*words))
    assert verdict.status is Status.FAILURE, verdict
    assert part in verdict.finding
    assert verdict.fix


ALLOWED, REFUSED = (f"--authorization-webhook-cache-{a}authorized-ttl" for a in ("", "un"))
ASKED = ("--authorization-webhook-config-file=/a", "--authorization-mode=Webhook")
CONFIG = ("--authorization-config=/etc/a.yaml",)


def authorizers(*webhooks: dict[str, object]) -> bytes:
    entries: list[dict[str, object]] = [{"type": "RBAC", "name": "rbac"}]
    entries += [
        {"type": "Webhook", "name": f"w{number}", "webhook": webhook}
        for number, webhook in enumerate(webhooks)
    ]
    document = {"kind": "AuthorizationConfiguration", "authorizers": entries}
    return yaml.safe_dump(document).encode()


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("words", "file", "status", "parts"),
    [
        ((), None, Status.OK, ("nothing is cached",)),
        (
            ASKED,
            None,
            Status.OK,
            (
                "works for up to 5m more (authorization-webhook-cache-authorized-ttl, the default)",
                "; a new one may take 30s",
            ),
        ),
        (
            (*ASKED, f"{ALLOWED}=10s", f"{REFUSED}=0"),
            None,
            Status.OK,
            ("up to 10s more (authorization-webhook-cache-authorized-ttl)", "take 0s"),
        ),
        ((*ASKED, f"{ALLOWED}=1h"), None, Status.WARNING, ("up to 1h more",)),
        ((*ASKED, f"{ALLOWED}=5"), None, Status.FAILURE, ("-authorized-ttl: '5'",)),
        (CONFIG, None, Status.OK, ("as long as /etc/a.yaml sets, 5m by default",)),
        (CONFIG, authorizers(), Status.OK, ("/etc/a.yaml names no webhook",)),
        (
            CONFIG,
            authorizers({}),
            Status.OK,
            (
                "up to 5m more (authorizedTTL of authorizer w0, the default)",
                "; a new one may take 30s",
            ),
        ),
        (
            CONFIG,
            authorizers({"authorizedTTL": "1m"}, {"authorizedTTL": "2m", "unauthorizedTTL": "0s"}),
            Status.OK,
            ("up to 2m more (authorizedTTL of authorizer w1)", "take 30s"),
        ),
        (
            CONFIG,
            authorizers({"cacheAuthorizedRequests": False, "authorizedTTL": "9h"}),
            Status.OK,
            ("up to 0s more (cacheAuthorizedRequests of authorizer w0)",),
        ),
        (CONFIG, authorizers({"authorizedTTL": "20m"}), Status.WARNING, ("up to 20m more",)),
        (CONFIG, authorizers({"authorizedTTL": 5}), Status.FAILURE, ("of authorizer w0: '5'",)),
    ],
)
def test_how_long_an_answer_about_access_is_kept(
    words: tuple[str, ...], file: bytes | None, status: Status, parts: tuple[str, ...]
) -> None:
    verdict = flags.check_access_cache(manifest(*words), file)
    assert verdict.status is status, verdict
    for part in parts:
        assert part in verdict.finding
    assert (verdict.fix == "") is (status is Status.OK)


def test_a_file_that_is_not_an_authorization_configuration() -> None:
    for text in (b"kind: Pod", b"[1]", b"a: ["):
        verdict = flags.check_access_cache(manifest(*CONFIG), text)
        assert verdict.status is Status.FAILURE
        assert verdict.finding.startswith("/etc/a.yaml is not")
