"""The pages show what the script makes and what the types allow."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from keys.pem import generate_signing_key, parse_private_key, public_key_pem
from tests.deploy.deploy_schemas import AUTHORIZATION, DEPLOY, KUBEADM, ROOT, assert_fields
from tests.deploy.signer_patch import ENDPOINT, operations
from tests.deploy.test_alerts import rules
from tests.deploy.test_kind import flags, patches, run_script
from tests.docs.shell import steps_of
from tests.secrets_made import folder_made
from webhook.cli.serve import prepare_to_serve
from webhook.config.load import load_configuration
from webhook.config.paths import tls_files
from webhook.signer.service import RESULTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "kind"
    assert run_script("--dir", str(folder), "--authorizer").returncode == 0
    return folder


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def yaml_blocks(name: str) -> list[Any]:
    return [
        yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", page(name), re.M | re.S)
    ]


def test_kubeadm_page_says_for_both_versions_what_kind_is_told(made: Path) -> None:
    shown = {block["apiVersion"]: block for block in yaml_blocks("kubeadm")}
    assert shown.keys() == KUBEADM.keys()
    for version, block in shown.items():
        assert_fields(block, KUBEADM[version])
        api_server = patches(made)[version]["apiServer"]
        assert block["apiServer"]["extraVolumes"] == api_server["extraVolumes"]
        assert flags(block).items() <= flags(patches(made)[version]).items()
        assert len(flags(block)) == 1


def test_signer_page_tells_kubeadm_what_kind_is_told(tmp_path: Path) -> None:
    (block,) = yaml_blocks("signer")
    assert_fields(block, KUBEADM[block["apiVersion"]])
    assert run_script("--dir", str(tmp_path / "kind"), "--signer").returncode == 0
    told = flags(patches(tmp_path / "kind")[block["apiVersion"]], "controllerManager")
    assert flags(block, "controllerManager").items() <= told.items()
    assert not flags(block)


def test_signer_page_names_the_flag_the_position_and_the_reasons() -> None:
    text = page("signer")
    assert f"\n{ENDPOINT}\n" in text
    (first, *_) = [each for each in operations() if each["path"] != operations()[0]["path"]]
    assert f"testing value {first['path']} failed" in text
    table = text.partition("| `reason` |")[2].partition("\n\n")[0]
    assert set(RESULTS["Sign"]) <= set(re.findall(r"`([A-Z][A-Za-z]+)`", table))


def public_key_of(pem: bytes) -> bytes:
    if b"PRIVATE KEY" not in pem:
        return pem
    return public_key_pem(parse_private_key(pem, "a key").verification_key.public_key)


def test_signer_page_never_gives_a_retired_key_back(tmp_path: Path) -> None:
    data, pki = tmp_path / "etc" / "leeway", tmp_path / "etc" / "kubernetes" / "pki"

    def leeway(*words: str) -> None:
        command = [f"{Path(sys.executable).parent}/leeway", *words, "--data-dir", str(data)]
        subprocess.run(command, check=True, capture_output=True)

    leeway("init")
    (stolen,) = (data / "keys").glob("*.pem")
    pki.mkdir(parents=True)
    (pki / "sa.key").write_bytes(stolen.read_bytes())
    (pki / "sa.pub").write_bytes(public_key_of(stolen.read_bytes()))
    before = {path.name: path.read_bytes() for path in pki.iterdir()}
    old = public_key_pem(generate_signing_key("RS256").verification_key.public_key)
    (data / "keys" / "old.pem").write_bytes(old)
    (data / "keys" / "old.pem").chmod(0o600)
    for words in (["rotate"], ["rotate", "--force"], ["retire", stolen.stem, "--force"]):
        leeway("keys", *words)
    assert stolen.exists()

    commands = [step.command for step in steps_of(page("signer").partition("## The way back")[2])]
    script = "\n".join(
        ["set -e", *commands[: commands.index("kubectl create token default > last-token")]]
    )
    script = script.replace("/etc/", f"{tmp_path}/etc/")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    schedule = json.loads((data / "keys" / "schedule.json").read_text())["keys"]
    (active,) = (key["file"] for key in schedule if key["state"] == "active")
    signing = (data / "keys" / active).read_bytes()
    assert (pki / "sa.key").read_bytes() == signing
    assert stat.S_IMODE((pki / "sa.key").stat().st_mode) == 0o600
    blocks = re.findall(rb"-----BEGIN.*?-----END[^\n]*\n", (pki / "sa.pub").read_bytes(), re.S)
    assert set(blocks) == {public_key_of(signing), old}
    assert done.stdout == f"{len(blocks)}\n"
    assert {name: (pki / f"{name}.~1~").read_bytes() for name in before} == before


def test_authorizer_page_shows_the_file_of_the_script(made: Path) -> None:
    (block,) = yaml_blocks("authorizer")
    assert_fields(block, AUTHORIZATION)
    assert block == yaml.safe_load((made / "api-server" / "authorization.yaml").read_text())


def test_authorizer_page_gives_the_flags_the_times_of_the_file() -> None:
    (block,) = yaml_blocks("authorizer")
    webhook = block["authorizers"][-1]["webhook"]
    text = page("authorizer")
    assert f"webhook-cache-authorized-ttl={webhook['authorizedTTL']}\n" in text
    assert f"webhook-cache-unauthorized-ttl={webhook['unauthorizedTTL']}\n" in text


def test_kind_page_lists_the_options_of_the_script() -> None:
    usage = run_script("--help").stdout
    documented = set(re.findall(r"^\| `(--[a-z-]+)", page("kind"), re.M))
    assert documented == set(re.findall(r"^  (--[a-z-]+)", usage, re.M))


def test_monitoring_page_lists_the_alerts() -> None:
    documented = set(re.findall(r"`(Leeway[A-Za-z]+)`", page("monitoring")))
    assert documented == {rule["alert"] for rule in rules() if "alert" in rule}


def test_monitoring_page_scrapes_the_jobs_of_the_rules() -> None:
    scraped = {
        job["job_name"] for block in yaml_blocks("monitoring") for job in block["scrape_configs"]
    }
    texts = " ".join(rule["expr"] for rule in rules())
    assert scraped == set(re.findall(r'job="([^"]*)"', texts))


def test_kubernetes_page_names_the_address_the_components_and_the_secrets() -> None:
    text = page("kubernetes") + page("monitoring")
    overlay = (DEPLOY / "kustomize" / "overlays" / "example" / "kustomization.yaml").read_text()
    (address,) = re.findall(r"value: ([0-9.]+)", overlay)
    assert f"--host {address}" in text
    for component in (DEPLOY / "kustomize" / "components").iterdir():
        assert f"`{component.name}`" in text
    manifests = "".join(path.read_text() for path in (DEPLOY / "kustomize").rglob("*.yaml"))
    wanted = set(re.findall(r"secretName: ([a-z-]+)", manifests)) | {"leeway-metrics-client"}
    assert set(re.findall(r"create secret generic ([a-z-]+)", text)) == wanted


@pytest.mark.fault(59)
def test_a_kubeadm_node_gets_no_key_that_could_make_an_identity(tmp_path: Path) -> None:
    commands = [step.command for step in steps_of(page("kubeadm").partition("## 2.")[0])]
    node = tmp_path / "node"
    script = "\n".join(["set -e", *commands]).replace("/etc/leeway", str(node))
    # Anybody can run it so: only root may give a file to another user.
    script = script.replace("-o 65532 -g 65532", f"-o {os.getuid()} -g {os.getgid()}")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, env=environment)
    folder_made(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bind = f"127.0.0.1:{listener.getsockname()[1]}"
    configuration = load_configuration(node, {}, {"server.bind": bind})
    prepare_to_serve(node, configuration, tls_files(node))
    private = {
        str(path.relative_to(node))
        for path in node.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    }
    signing = {f"keys/{path.name}" for path in (node / "keys").glob("*.pem")}
    assert private == {"tls/server.key"} | signing
    assert len(signing) == 1
