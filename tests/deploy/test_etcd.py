"""deploy/kustomize/etcd, deploy/compose and deploy/etcd: the etcd that replicas share."""

import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.deploy_schemas import DEPLOY, assert_container_restricted, assert_restricted
from tests.deploy.deployed import loopback_addresses, make_certs, members_running
from tests.deploy.test_kustomize import only, rendered

MEMBERS = 3
needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def flags_of(arguments: list[str]) -> dict[str, str]:
    found = (argument.removeprefix("--").partition("=") for argument in arguments)
    return {name: value for name, _, value in found}


@needs_kubectl
def test_members_keep_the_restricted_standard_and_their_data() -> None:
    spec = only("etcd", "StatefulSet")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert_restricted({**pod, "containers": []})
    assert_container_restricted(container, pod["securityContext"], needed_mebibytes=512)
    flags = flags_of(container["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (claim,) = spec["volumeClaimTemplates"]
    assert Path(flags["data-dir"]).parent == Path(mounts[claim["metadata"]["name"]])
    (secret,) = pod["volumes"]
    assert secret["secret"]["secretName"] == "leeway-etcd-server"
    files = {value for value in flags.values() if value.startswith(mounts["tls"])}
    assert {Path(file).name for file in files} == {
        "etcd-ca.crt",
        "etcd-server.crt",
        "etcd-server.key",
    }


@needs_kubectl
def test_members_have_the_names_that_leeway_and_the_page_use() -> None:
    stateful = only("etcd", "StatefulSet")
    name, service = stateful["metadata"]["name"], only("etcd", "Service")["metadata"]["name"]
    namespace = stateful["metadata"]["namespace"]
    assert stateful["spec"]["serviceName"] == service
    hosts = [f"{name}-{number}.{service}.{namespace}.svc" for number in range(MEMBERS)]
    assert stateful["spec"]["replicas"] == MEMBERS
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    flags = flags_of(container["args"])
    assert flags["initial-cluster"].split(",") == [
        f"{name}-{number}=https://{host}:2380" for number, host in enumerate(hosts)
    ]
    configuration = yaml.safe_load(only("base", "ConfigMap")["data"]["leeway.yaml"])
    endpoints = configuration["store"]["etcd"]["endpoints"]
    assert endpoints == [f"https://{host}:2379" for host in hosts]
    page = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    assert re.findall(r"--host (leeway-etcd-\S+)", page) == hosts
    assert "--host 127.0.0.1\n" in page


@needs_kubectl
def test_only_leeway_reaches_the_clients_port() -> None:
    policy = only("etcd", "NetworkPolicy")["spec"]
    (client,) = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "client"]
    (source,) = client["from"]
    leeway = only("base", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= leeway.items()
    member = only("etcd", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert not source["podSelector"]["matchLabels"].items() <= member.items()
    for document in rendered("etcd"):
        spec = document["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        assert selector.get("matchLabels", selector).items() <= member.items()


def test_certificates_are_made_once_and_verify(tmp_path: Path) -> None:
    hosts = ["--host", "etcd-0", "--host", "127.0.0.1", "--host", "::1"]
    made = make_certs("--dir", tmp_path, *hosts)
    assert (made.returncode, made.stderr) == (0, "")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == [
        f"etcd-{name}.{kind}" for name in ("ca", "client", "server") for kind in ("crt", "key")
    ]
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    again = make_certs("--dir", tmp_path, *hosts)
    assert (again.returncode, again.stdout.count("is there already")) == (0, 3)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, purpose in (
        ("server", "sslserver"),
        ("server", "sslclient"),
        ("client", "sslclient"),
    ):
        verify = [
            "openssl",
            "verify",
            "-CAfile",
            str(tmp_path / "etcd-ca.crt"),
            "-purpose",
            purpose,
        ]
        subprocess.run(
            [*verify, str(tmp_path / f"etcd-{name}.crt")], check=True, capture_output=True
        )
    show = ["openssl", "x509", "-noout", "-ext", "subjectAltName"]
    shown = subprocess.run(
        [*show, "-in", str(tmp_path / "etcd-server.crt")], check=True, capture_output=True
    )
    text = shown.stdout.decode()
    assert "DNS:etcd-0, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1" in text
    ssl.create_default_context(cafile=tmp_path / "etcd-ca.crt").load_cert_chain(
        tmp_path / "etcd-client.crt", tmp_path / "etcd-client.key"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the name or address of each member with --host"),
        (["--host"], "--host needs a value"),
        (["--host", "a,IP:10.0.0.1"], "--host is 'a,IP:10.0.0.1'; a DNS name or an IP address"),
        (["--host", "a", "--days", "0"], "--days is '0'; 1 to 3650 are allowed"),
        (["--host", "a", "--days", "3651"], "--days is '3651'; 1 to 3650 are allowed"),
        (["--host", "a", "--dir", ""], "--dir is empty"),
        (["a"], "unknown argument a"),
    ],
)
def test_wrong_arguments_of_the_script(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = make_certs(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"make-certs.sh: {message}")
    assert list(tmp_path.iterdir()) == []


def test_script_says_what_is_missing_for_a_renewal(tmp_path: Path) -> None:
    assert make_certs("--dir", tmp_path, "--host", "a").returncode == 0
    (tmp_path / "etcd-client.crt").unlink()
    done = make_certs("--dir", tmp_path, "--host", "a")
    assert done.returncode == 2
    assert "etcd-client.key is there without its certificate" in done.stderr
    (tmp_path / "etcd-client.key").unlink()
    (tmp_path / "etcd-ca.key").rename(tmp_path / "away")
    done = make_certs("--dir", tmp_path, "--host", "a")
    assert done.returncode == 2
    assert "etcd-ca.key, which signs etcd-client.crt, is missing" in done.stderr
    (tmp_path / "away").rename(tmp_path / "etcd-ca.key")
    assert make_certs("--dir", tmp_path, "--host", "a").returncode == 0


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def test_compose_starts_three_members_and_two_replicas(compose: Any) -> None:
    services = compose["services"]
    members = {name: service for name, service in services.items() if name.startswith("etcd-")}
    assert len(members) == MEMBERS
    for name, service in members.items():
        environment = service["environment"]
        flags = flags_of(service["command"][1:])
        assert flags["name"] == name
        cluster = dict(part.split("=") for part in environment["ETCD_INITIAL_CLUSTER"].split(","))
        assert cluster[name] == flags["initial-advertise-peer-urls"]
        assert cluster.keys() == members.keys()
        assert f"./{name}:{environment['ETCD_DATA_DIR']}" in service["volumes"]
    configuration = yaml.safe_load((DEPLOY / "compose" / "leeway.yaml").read_text())
    assert configuration["store"]["etcd"]["endpoints"] == [
        flags_of(service["command"][1:])["advertise-client-urls"] for service in members.values()
    ]
    replicas = [service for service in services.values() if "depends_on" in service]
    assert len({tuple(replica["ports"]) for replica in replicas}) == 2
    for replica in replicas:
        assert replica["depends_on"] == list(members)


def test_members_of_compose_serve(compose: Any, tmp_path: Path) -> None:
    members = {name: each for name, each in compose["services"].items() if name[:5] == "etcd-"}
    addresses = dict(zip(members, loopback_addresses(len(members)), strict=True))
    certs = tmp_path / "certs"
    # A peer connects from 127.0.0.1, and its certificate has to name the address it comes from.
    hosts = [*addresses.values(), "127.0.0.1"]
    done = make_certs("--dir", certs, *(word for host in hosts for word in ("--host", host)))
    assert done.returncode == 0
    environments = [
        {
            name: value.replace("/certs/", f"{certs}/").replace(
                "/var/lib/etcd", str(tmp_path / each)
            )
            for name, value in member["environment"].items()
        }
        for each, member in members.items()
    ]
    commands = [member["command"] for member in members.values()]
    assert {command[0] for command in commands} == {"etcd"}
    with members_running(addresses, [command[1:] for command in commands], environments, tmp_path):
        assert all((tmp_path / name / "member").is_dir() for name in members)


def test_compose_keeps_root_and_capabilities_away(compose: Any) -> None:
    for service in compose["services"].values():
        assert service["user"].startswith("${LEEWAY_USER:?")
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    volumes = [text for each in compose["services"].values() for text in each["volumes"]]
    assert {text for text in volumes if "certs" in text} == {"./certs:/certs:ro"}
