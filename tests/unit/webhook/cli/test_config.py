"""``leeway config``: what takes effect, from where, and whether a server would start with it."""

import json
from pathlib import Path

import pytest
import yaml

from tests.unit.webhook.cli.cli_support import Leeway
from webhook.config.load import environment_names
from webhook.config.model import Configuration


def fields(leeway: Leeway, data_dir: Path, *flags: str) -> dict[str, tuple[object, str]]:
    out = leeway("config", "show", "-o", "json", *flags, "--data-dir", data_dir).assert_done()
    return {entry["field"]: (entry["value"], entry["origin"]) for entry in json.loads(out)}


def test_each_field_with_its_origin(
    leeway: Leeway, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "leeway.yaml").write_text(
        "apiVersion: leeway.dev/v1\nkind: LeewayConfiguration\nissuer: https://i.example\n"
        "leeway: {notBefore: 2m}\nserver: {workers: 3, bind: '127.0.0.1:1'}\n"
        "trustedIssuers:\n- url: https://o.example\n  keys: {jwksFile: o.json}\n"
    )
    monkeypatch.setenv("LEEWAY_SERVER_WORKERS", "4")
    monkeypatch.setenv("LEEWAY_SERVER_BIND", "127.0.0.1:2")
    found = fields(leeway, data_dir, "--bind", "127.0.0.1:3", "--log-level", "debug")
    assert set(environment_names().values()) <= found.keys()
    expected = {
        "issuer": ("https://i.example", "file"),
        "leeway.notBefore": ("2m", "file"),
        "leeway.issuedAt": ("2m", "default"),
        "leeway.expiry": ("1m", "default"),
        "server.workers": (4, "environment LEEWAY_SERVER_WORKERS"),
        "server.bind": ("127.0.0.1:3", "flag"),
        "server.logLevel": ("debug", "flag"),
        "server.logFormat": ("json", "default"),
        "tokens.extend": (True, "default"),
        "audiences": (list(Configuration().audiences), "default"),
        "trustedIssuers[0].url": ("https://o.example", "file"),
        "trustedIssuers[0].keys.jwksFile": ("o.json", "file"),
        "trustedIssuers[0].legacy": (False, "default"),
        "store.sqlite.path": ("auth.db", "default"),
        "store.etcd.endpoints": (None, "default"),
        "store.etcd.maxStaleness": (None, "default"),
    }
    assert {name: found[name] for name in expected} == expected


def test_a_store_in_etcd(leeway: Leeway, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kid = "hVmV8pPEGHPdRfhsPpi3WGK7hN3Jb6b1oVLDCxmh-Es"
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(
            "store: {etcd: {endpoints: ['http://127.0.0.1:1'], username: leeway, passwordFile: p}}"
            f"\nkeys: {{refused: ['{kid}']}}\n"
        )
    monkeypatch.setenv("LEEWAY_STORE_ETCD_PREFIX", "/other")
    found = fields(leeway, data_dir)
    assert set(environment_names().values()) <= found.keys()
    expected = {
        "store.sqlite.path": (None, "default"),
        "store.etcd.endpoints": (["http://127.0.0.1:1"], "file"),
        "store.etcd.prefix": ("/other", "environment LEEWAY_STORE_ETCD_PREFIX"),
        "store.etcd.passwordFile": ("p", "file"),
        "store.etcd.maxStaleness": ("3s", "default"),
        "store.etcd.consistency": ("bounded", "default"),
        "keys.store": ("folder", "default"),
        "keys.refused": ([kid], "file"),
    }
    assert {name: found[name] for name in expected} == expected


def test_text_and_yaml_have_the_same_content(leeway: Leeway, data_dir: Path) -> None:
    found = fields(leeway, data_dir)
    out = leeway("config", "show", "-o", "yaml", "--data-dir", data_dir).assert_done()
    assert {e["field"]: (e["value"], e["origin"]) for e in yaml.safe_load(out)} == found
    lines = leeway("config", "show", "--data-dir", data_dir).assert_done().splitlines()
    assert lines[0].split() == ["FIELD", "VALUE", "ORIGIN"]
    assert [line.split()[0] for line in lines[1:]] == list(found)


@pytest.mark.bad_input(61)
def test_values_that_could_be_secret_are_not_shown(leeway: Leeway, data_dir: Path) -> None:
    random = "q83vEjRWq83vEjRWq83v"
    url = "https://k.example/jwks?key=hunter2hunter2"
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"objects: {{file: {{path: {random}}}}}\n")
        file.write(f"trustedIssuers: [{{url: https://o.example, keys: {{jwksURL: '{url}'}}}}]\n")
    for output in ("text", "json", "yaml"):
        out = leeway("config", "show", "-o", output, "--data-dir", data_dir).assert_done()
        assert random not in out
        assert "hunter2" not in out
        assert out.count("(not shown)") == 2
    (data_dir / "leeway.yaml").unlink()


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("issuer: http://x", ()),
        ("nope: 1", ()),
        ("server: {workers: none}", ()),
        ("", ("--workers", "99")),
        ("", ("--bind", "nowhere")),
        ("{", ()),
    ],
)
def test_validate_reports_what_serve_would(
    leeway: Leeway, data_dir: Path, line: str, flags: tuple[str, ...]
) -> None:
    where = ("--data-dir", data_dir)
    path = data_dir / "leeway.yaml"
    assert leeway("config", "validate", *where).assert_done() == f"{path} is valid\n"
    text = path.read_text()
    start = line.partition(":")[0]
    kept = [entry for entry in text.splitlines() if not entry.startswith(f"{start}:")]
    path.write_text("\n".join([*kept, line, ""]))
    error = leeway("config", "validate", *flags, *where).assert_failed(2)
    assert leeway("serve", *flags, *where).assert_failed(2) == error
    assert leeway("config", "show", *flags, *where).assert_failed(2) == error


def test_no_configuration(leeway: Leeway, tmp_path: Path) -> None:
    for command in ("show", "validate"):
        leeway("config", command, "--data-dir", tmp_path).assert_failed(3, "leeway init")
