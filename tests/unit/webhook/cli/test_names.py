"""Names with arbitrary characters: what a terminal and a program see of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from keys.jws import SigningKey
from tests.support import good_claims, token_of
from tests.unit.webhook.cli.cli_support import Leeway

pytestmark = pytest.mark.fault(51)
NAMES = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "line-feed": "alice\nroot",
    "carriage-return": "alice\rroot",
    "c1": "\x9b31mred",
    "delete": "a\x7f\x08b",
    "bidi-override": "\u202egnp.exe",
    "bidi-isolate": "a\u2066b\u2069",
    "tag": "a\U000e0041b",
    "line-separator": "a\u2028b",
    "64-KiB": "\u202e" + "n" * 65536,
}


def assert_harmless(text: str) -> None:
    """Assert that a text moves no cursor and starts no line of its own."""
    left = text.replace("\n", "").replace("\t", "")
    assert left.isprintable(), ascii("".join(c for c in left if not c.isprintable())[:80])


@pytest.mark.bad_input(62)
@pytest.mark.parametrize("name", ["escape", "line-feed", "c1", "bidi-override"])
def test_the_name_of_a_data_directory_is_shown_escaped(
    leeway: Leeway, tmp_path: Path, name: str
) -> None:
    where = ("--data-dir", tmp_path / NAMES[name].replace("/", ""))
    for words in (
        ("init",),
        ("init",),
        ("cert", "create", "lead"),
        ("cert", "revoke", "lead"),
        ("cert", "list"),
        ("keys", "list"),
        ("config", "show"),
        ("config", "validate"),
        ("auth", "status"),
    ):
        assert_harmless(leeway(*words, *where).assert_done())
    assert_harmless(leeway("doctor", *where).out)


@pytest.mark.bad_input(62)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_stored_and_shown_escaped(leeway: Leeway, data_dir: Path, name: str) -> None:
    where = ("--data-dir", data_dir)
    words: tuple[str, ...]
    for words in (
        ("user", "add", name, "--no-password"),
        ("role", "add", name),
        ("role", "grant-permission", name, "read", name, "--prefix"),
        ("user", "grant-role", name, name),
        ("group", "grant-role", name, name),
        ("revoke", "user", name),
    ):
        out = leeway(*words, *where).assert_done()
        assert_harmless(out)
        assert out.count("\n") == 1
    for kind in ("user", "role", "group"):
        text = leeway(kind, "list", *where).assert_done()
        assert_harmless(text)
        as_json = leeway(kind, "list", *where, "-o", "json").assert_done()
        assert_harmless(as_json)
        assert name in json.loads(as_json)
        assert len(text.splitlines()) == len(json.loads(as_json))
        as_yaml = leeway(kind, "list", *where, "-o", "yaml").assert_done()
        assert_harmless(as_yaml)
        assert name in yaml.safe_load(as_yaml)
    for words in (
        ("user", "get", name),
        ("user", "get", name, "--detail"),
        ("role", "get", name),
        ("group", "get", name),
        ("can-i", "read", f"{name}x", "--user", name),
        ("revoke", "list"),
    ):
        for output in ("text", "json", "yaml"):
            ran = leeway(*words, *where, "-o", output)
            assert (ran.code, ran.err) == (0, "")
            assert_harmless(ran.out)
    ran = leeway("can-i", "write", name, "--user", name, *where)
    assert ran.code == 1
    assert_harmless(ran.out)
    for line in (data_dir / "audit.log").read_text("utf-8").splitlines():
        assert_harmless(line)
        assert len(line) < 4096
        json.loads(line)


WRONG = [
    ("user", "get", "{}"),
    ("role", "grant-permission", "root", "{}", "k"),
    ("{}",),
    ("user", "{}"),
    ("user", "list", "--{}"),
    ("user", "list", "-o", "{}"),
    ("keys", "retire", "{}"),
    ("revoke", "jti", "{}"),
    ("revoke", "serviceaccount", "{}"),
    ("token", "create", "{}", "-n", "{}"),
    ("token", "review", "@{}"),
    ("token", "review", "x", "--at", "{}"),
    ("skew", "--server", "{}"),
    ("init", "--host", "{}"),
    ("init", "--issuer", "{}"),
    ("cert", "renew", "{}"),
    ("cert", "revoke", "{}"),
    ("--data-dir", "/nowhere/{}", "user", "list"),
]


@pytest.mark.bad_input(62)
@pytest.mark.parametrize("words", WRONG, ids=" ".join)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_errors(
    leeway: Leeway, data_dir: Path, tmp_path: Path, words: tuple[str, ...], name: str
) -> None:
    place = tmp_path / "new" if words[0] == "init" else data_dir
    where = () if words[0].startswith("-") else ("--data-dir", place)
    ran = leeway(*(word.format(name) for word in words), *where)
    assert ran.code in (1, 2, 3)
    assert_harmless(ran.err)
    assert ran.err.count("\n") == 1
    assert len(ran.err) < 3000


@pytest.mark.bad_input(62)
def test_names_in_a_token(leeway: Leeway, made: Path, own_key: SigningKey) -> None:
    name = NAMES["escape"] + NAMES["bidi-override"]
    token = token_of(good_claims(aud=[name], note=name), own_key, {"alg": "ES256", "x": name})
    for command, where in (("inspect", ()), ("review", ("--data-dir", made))):
        for output in ("text", "json", "yaml"):
            ran = leeway("token", command, token, *where, "-o", output)
            assert_harmless(ran.out)
            assert_harmless(ran.err)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_the_audit_log_is_not_written_through_a_link(
    leeway: Leeway, data_dir: Path, tmp_path: Path, kind: str
) -> None:
    target, path = tmp_path / "target", data_dir / "audit.log"
    target.write_text("mine")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(target),
        "dangling": lambda: path.symlink_to(tmp_path / "none"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    ran = leeway("role", "add", "r", "--data-dir", data_dir)
    assert (ran.code, ran.out) == (0, "Role r created\n")
    assert ran.err.startswith(f"leeway: warning: this was done, but not written to {path}: ")
    assert target.read_text() == "mine"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["tls/lead.key", "kubeconfig/lead.yaml", "tls/ca.crl"])
def test_no_file_of_a_certificate_is_written_through_a_link(
    leeway: Leeway, data_dir: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (data_dir / name).symlink_to(target)
    command = ("revoke", "root") if name.endswith("crl") else ("create", "lead")
    assert leeway("cert", *command, "--data-dir", data_dir).code in (2, 3)
    assert target.read_text() == "mine"
