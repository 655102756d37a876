"""``leeway store``: status, export and import."""

import json
import os
import re
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given

from tests.unit.webhook.cli.cli_support import Leeway, run_process
from tests.unit.webhook.cli.test_audit import CALLER, lines
from tests.unit.webhook.cli.test_names import NAMES, assert_harmless
from tests.unit.webhook.rbac.store_contents import stores
from webhook.backends.sqlite import SQLiteBackend
from webhook.cli.store import parsed, rendered
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import document_of
from webhook.rbac.records import Revocation, revocation_record

HASH = f"$2b$10${'A' * 21}.{'b' * 31}"
HASH_OF_X = "$2b$04$JveZZJjuyLENgLrz9CGkk.Vq3UwNHrI0Pv5dHy1N3xEVk0hagKclC"
JTI = "23c4d832-c540-422a-9e85-304452db3136"


@pytest.fixture
def filled(leeway: Leeway, data_dir: Path) -> Path:
    """Return a data directory with a user, a role, a group and revocations of its own."""
    for words in (
        "user add alice:sesame-opens-the-door",
        "role add app",
        "role grant-permission app read /app/ --prefix",
        "role grant-permission app readwrite x xx",
        "user grant-role alice app",
        "group grant-role devs app",
        f"revoke jti {JTI}",
        "revoke serviceaccount argo-run/loofah",
    ):
        leeway(*words.split(), "--data-dir", data_dir).assert_done()
    return data_dir


@pytest.fixture
def other(made: Path, tmp_path: Path) -> Path:
    """Return another data directory, as `leeway init` makes it."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "leeway.yaml").write_bytes((made / "leeway.yaml").read_bytes())
    (folder / "auth.db").write_bytes((made / "auth.db").read_bytes())
    return folder


def exported(leeway: Leeway, data_dir: Path) -> Any:
    """Return the members of an export, but those on where it is from."""
    members = json.loads(leeway("store", "export", "-o", "json", "--data-dir", data_dir).out)
    del members["metadata"]
    return members


def test_status(leeway: Leeway, filled: Path) -> None:
    out = leeway("store", "status", "--data-dir", filled).assert_done()
    assert out == (
        f"Kind: sqlite\nPath: {filled}/auth.db\nRevision: 9\nAuthRevision: 15\n"
        "Authentication Status: true\nUsers: 3\nRoles: 3\nPermissions: 4\nGroups: 1\n"
        "Revocations: 2\nTokens: 0\n"
    )
    value = {
        "kind": "sqlite",
        "path": f"{filled}/auth.db",
        "revision": 9,
        "authRevision": 15,
        "authEnabled": True,
        "records": {
            "users": 3,
            "roles": 3,
            "permissions": 4,
            "groups": 1,
            "revocations": 2,
            "tokens": 0,
        },
    }
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        found = read(leeway("store", "status", "-o", output, "--data-dir", filled).assert_done())
        assert found == value


def test_the_document(leeway: Leeway, filled: Path) -> None:
    text = leeway("store", "export", "--data-dir", filled).assert_done()
    password_hash = r"\$2b\$10\$[./A-Za-z0-9]{53}"
    time = r"'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ'"
    wanted = f"""\
apiVersion: leeway.dev/v1
kind: Store
metadata: {{revision: 9, authRevision: 15, position: POSITION}}
tokenLifetime: {{seconds: 31536000}}
users:
- name: alice
  passwordHash: HASH
  roles: [app]
- name: kube-apiserver
  noPassword: true
  roles: [kube-apiserver]
- name: root
  noPassword: true
  roles: [root]
roles:
- name: app
  permissions:
  - {{permission: READ, prefix: /app/}}
  - {{permission: READWRITE, key: x, rangeEnd: xx}}
- name: kube-apiserver
  permissions:
  - {{permission: WRITE, key: /leeway/subjectaccessreviews}}
  - {{permission: WRITE, key: /leeway/tokenreviews}}
- name: root
  permissions: []
groups:
- name: devs
  roles: [app]
revocations:
- {{jti: {JTI}, before: TIME, until: TIME}}
- {{subject: 'system:serviceaccount:argo-run:loofah', before: TIME, until: TIME}}
auth: {{enabled: true}}
"""
    found = re.sub(time, "TIME", re.sub(password_hash, "HASH", text))
    found = re.sub(r"position: sqlite-[0-9a-f]{16}-[0-9a-f]{16}", "position: POSITION", found)
    assert found == wanted
    as_json = leeway("store", "export", "-", "-o", "json", "--data-dir", filled).assert_done()
    assert json.loads(as_json) == yaml.safe_load(text)


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_a_file_is_private_and_never_overwritten_silently(
    leeway: Leeway, filled: Path, tmp_path: Path, output: str
) -> None:
    path, where = tmp_path / "backup", ("-o", output, "--data-dir", filled)
    before = os.umask(0)
    try:
        out = leeway("store", "export", path, *where).assert_done()
        assert out == f"Revision 9 of the store written to {path}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.write_text("mine")
        path.chmod(0o644)
        leeway("store", "export", path, *where).assert_failed(2, "exists", "--force")
        assert path.read_text() == "mine"
        leeway("store", "export", path, "--force", *where).assert_done()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert path.read_text() == leeway("store", "export", *where).assert_done()
    # Nothing unfinished is left beside it.
    assert {entry.name for entry in tmp_path.iterdir()} == {"backup", "data"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_file_belongs_to_who_exports(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "backup.yaml"
    path.write_text("theirs")
    for owned in (folder, path):
        os.chown(owned, 65534, 65534)
    for name, force in (
        (path, "--force"),
        (folder / "new.yaml", "--force"),
        (folder / "x", "-ojson"),
    ):
        leeway("store", "export", name, force, "--data-dir", filled).assert_done()
        assert (name.stat().st_uid, stat.S_IMODE(name.stat().st_mode)) == (0, 0o600)


def test_a_link_is_replaced_and_not_followed(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("theirs")
    link.symlink_to(target)
    leeway("store", "export", link, "--data-dir", filled).assert_failed(2, "exists")
    leeway("store", "export", link, "--force", "--data-dir", filled).assert_done()
    assert target.read_text() == "theirs"
    assert not link.is_symlink()


def test_a_file_that_cannot_be_written(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "backup.yaml"
    for force in ((), ("--force",)):
        error = leeway("store", "export", path, *force, "--data-dir", filled).assert_failed(3)
        assert error == f"leeway: {path}: No such file or directory\n"
    leeway("store", "export", tmp_path, "--data-dir", filled).assert_failed(2, "is a directory")
    leeway("store", "export", "", "--data-dir", filled).assert_failed(2, "FILE is empty")


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_is_no_file_is_not_replaced(
    leeway: Leeway, filled: Path, tmp_path: Path, force: tuple[str, ...]
) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        leeway("store", "export", path, *force, "--data-dir", filled).assert_failed(2, "not a file")
    assert stat.S_ISFIFO(link.stat().st_mode)
    assert link.is_symlink()


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_export_and_import_make_another_store_equal(
    leeway: Leeway, filled: Path, other: Path, tmp_path: Path, output: str
) -> None:
    path = tmp_path / "backup"
    leeway("store", "export", path, "-o", output, "--data-dir", filled).assert_done()
    out = leeway("store", "import", path, "--data-dir", other).assert_done()
    times = r"tokens issued up to \S+Z, kept until \S+Z"
    assert re.sub(times, "TIMES", out) == (
        "~ auth revision: 1048591, and all auth tokens end\n"
        "~ lifetime of tokens: up to 31536000s\n"
        f"+ revocation of jti {JTI}: TIMES\n"
        "+ revocation of subject system:serviceaccount:argo-run:loofah: TIMES\n"
        "+ role app\n"
        "+ role app: READ [/app/, /app0)\n"
        "+ role app: READWRITE [x, xx)\n"
        "+ user alice, with a password\n"
        "+ user alice: role app\n"
        "+ group devs: role app\n"
        "10 changes made; the store is at revision 2\n"
    )
    assert exported(leeway, other) == exported(leeway, filled)
    again = leeway("store", "import", path, "--prune", "--data-dir", other).assert_done()
    assert again == "No differences; the store is at revision 2\n"


def test_standard_input(leeway: Leeway, filled: Path, other: Path) -> None:
    for output in ("yaml", "json"):
        text = leeway("store", "export", "-o", output, "--data-dir", filled).assert_done()
        leeway("store", "import", "-", "--data-dir", other, stdin=text).assert_done()
    assert exported(leeway, other) == exported(leeway, filled)


ROLES = """\
apiVersion: leeway.dev/v1
kind: Store
roles:
- name: team-a
  permissions:
  - {permission: READ, prefix: /team-a/}
- {name: root, permissions: []}
users:
- {name: root, roles: [root]}
- {name: alice, roles: [team-a], passwordHash: %s}
auth: {enabled: true}
"""


def test_a_dry_run_prints_what_an_import_does(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(ROLES % HASH)
    where = ("--prune", "--data-dir", filled)
    before = (filled / "auth.db").read_bytes()
    audited = lines(filled)
    dry = leeway("store", "import", path, "--dry-run", *where).assert_done()
    assert (filled / "auth.db").read_bytes() == before
    assert lines(filled) == audited
    differences = (
        "- user alice: role app\n"
        "- user kube-apiserver\n"
        "- group devs: role app\n"
        "- role app\n"
        "- role kube-apiserver\n"
        "+ role team-a\n"
        "+ role team-a: READ [/team-a/, /team-a0)\n"
        "~ user alice: password: changed\n"
        "+ user alice: role team-a\n"
    )
    assert dry == differences + (
        "9 differences, nothing was changed; --at 9 in place of --dry-run makes exactly these "
        "changes\n"
    )
    for wrong in ("0", "8", "10"):
        for more in ((), ("--dry-run",)):
            error = leeway("store", "import", path, "--at", wrong, *more, *where).assert_failed(1)
            assert f"the store is at revision 9, not {wrong}, so nothing was changed" in error
    done = leeway("store", "import", path, "--at", "9", *where).assert_done()
    assert done == differences + "9 changes made; the store is at revision 10\n"
    again = leeway("store", "import", path, *where, "--dry-run").assert_done()
    assert again == "No differences; the store is at revision 10\n"
    log = (filled / "audit.log").read_text()
    for text in (dry, done, again, log):
        assert "$2b$" not in text
        assert "b" * 31 not in text


def test_each_change_is_audited_as_that_of_a_command(
    leeway: Leeway, filled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(ROLES % HASH + "groups: []\nrevocations: []\n")
    before = len(lines(filled))
    leeway(
        "store", "import", path, "--prune", "--prune-revocations", "--data-dir", filled
    ).assert_done()
    found = lines(filled)[before:]
    about: list[tuple[str, dict[str, object]]] = [
        ("user.revoke-role", {"user": "alice", "role": "app"}),
        ("group.revoke-role", {"group": "devs", "role": "app"}),
        ("user.delete", {"user": "kube-apiserver"}),
        ("role.delete", {"role": "app"}),
        ("role.delete", {"role": "kube-apiserver"}),
        ("role.add", {"role": "team-a"}),
        (
            "role.grant-permission",
            {"role": "team-a", "permission": "READ", "keys": "[/team-a/, /team-a0)"},
        ),
        ("user.passwd", {"user": "alice"}),
        ("user.grant-role", {"user": "alice", "role": "team-a"}),
        # What makes tokens valid again comes last.
        ("revoke.delete", {"jti": JTI}),
        ("revoke.delete", {"subject": "system:serviceaccount:argo-run:loofah"}),
        ("store.import", {"changes": 11, "storeRevision": 10}),
    ]
    head = {"event": "audit", "outcome": "done", "via": "command", "caller": CALLER}
    revisions = [line.pop("revision") for line in found]
    for line, (action, fields) in zip(found, about, strict=True):
        del line["time"], line["level"], line["message"]
        assert line == {**head, "action": action, **fields}
    assert revisions == [*range(16, 25), 24, 24, 24]
    status = json.loads(leeway("auth", "status", "-o", "json", "--data-dir", filled).out)
    assert status["authRevision"] == 24


def test_without_prune_the_rest_is_kept_and_counted(
    leeway: Leeway, filled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "none.json"
    document: dict[str, object] = {"apiVersion": "leeway.dev/v1", "kind": "Store"}
    document |= {"users": [], "roles": [], "groups": [], "revocations": []}
    path.write_text(json.dumps(document | {"auth": {"enabled": False}}))
    before = exported(leeway, filled)
    out = leeway("store", "import", path, "--data-dir", filled).assert_done()
    assert out == (
        "kept without --prune: 3 users, 2 roles, 1 group, auth, which stays enabled\n"
        "kept without --prune-revocations: 2 revocations\n"
        "No differences; the store is at revision 9\n"
    )
    assert exported(leeway, filled) == before


def test_a_permission_on_every_object_is_a_warning(leeway: Leeway, filled: Path) -> None:
    granted = "roles: [{name: all, permissions: [{permission: READ, prefix: /}]}]\n"
    text = f"{GOOD}{granted}"
    first = leeway("store", "import", "-", "--data-dir", filled, stdin=text)
    assert first.code == 0
    assert first.err.startswith("leeway: warning: [/, 0) includes more than paths: every object")
    assert first.err.count("\n") == 1
    leeway("store", "import", "-", "--data-dir", filled, stdin=text).assert_done()


GOOD = "apiVersion: leeway.dev/v1\nkind: Store\nauth: {enabled: true}\n"
BAD = [
    ("empty", "", "it must be an object, not null"),
    ("not-yaml", "a: [", "is not YAML at line"),
    ("two-documents", f"{GOOD}---\n{GOOD}", "is not YAML"),
    ("duplicate", f"{GOOD}kind: Store\n", "the field kind appears twice"),
    ("duplicate-below", f"{GOOD}metadata: {{revision: 1, revision: 2}}", "revision appears twice"),
    ("tag", f"{GOOD}users: !!python/object:os.system []\n", "is not YAML"),
    ("not-json", '{"kind": "Store"', "not JSON: it ends too early"),
    ("json-duplicate", '{"kind": "Store", "kind": "Store"}', "the member 'kind' appears twice"),
    ("deep", "[" * 20_000, "is not YAML"),
    ("deep-json", '{"a":' * 20_000, "nested too deep"),
    ("json-duplicate-secret", f'{{"{HASH_OF_X}": 1, "{HASH_OF_X}": 2}}', "could be a secret"),
    ("json-number", '{"kind": [1e999]}', "not JSON: Number out of range; nothing was changed"),
    ("unknown", f"{GOOD}tokens: []\n", "unknown field tokens"),
    ("aliases", f"a: &a [{'x, ' * 2000}]\nb: [{'*a, ' * 100}]\n", "repeat more than 100000 values"),
    (
        "aliases-in-a-name",
        "a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
        + "? *a59\n: 1\n",
        "is not YAML",
    ),
    ("bool-name", f"{GOOD}users: [{{name: no, roles: []}}]\n", "users[0].name must be a string"),
    ("secret", f"{GOOD}{HASH}: 1\n", "could be a secret"),
    ("token", f"{GOOD}users: [{{name: x, roles: [], eyJhbGciOiJ9.a.b: 1}}]\n", "be a secret"),
]


@pytest.mark.parametrize(("text", "part"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_document_is_refused_and_nothing_is_changed(
    leeway: Leeway, filled: Path, tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    before = (filled / "auth.db").read_bytes()
    error = leeway("store", "import", path, "--prune", "--data-dir", filled).assert_failed(2, part)
    assert str(path) in error
    assert "nothing was changed" in error
    assert HASH not in error
    assert HASH_OF_X not in error
    assert "eyJ" not in error
    assert (filled / "auth.db").read_bytes() == before


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_half_a_document_is_refused(
    leeway: Leeway, filled: Path, tmp_path: Path, output: str
) -> None:
    text = leeway("store", "export", "-o", output, "--data-dir", filled).assert_done().rstrip()
    path = tmp_path / "half"
    before = (filled / "auth.db").read_bytes()
    for end in (*range(0, len(text), 23), *range(len(text) - 40, len(text))):
        path.write_text(text[:end])
        ran = leeway("store", "import", path, "--prune", "--data-dir", filled)
        assert ran.code == 2, text[:end][-40:]
    assert (filled / "auth.db").read_bytes() == before
    path.write_text(text)
    assert "No differences" in leeway("store", "import", path, "--data-dir", filled).assert_done()


def test_a_document_that_locks_out_is_refused(leeway: Leeway, filled: Path) -> None:
    before = (filled / "auth.db").read_bytes()
    where = ("--prune", "--data-dir", filled)
    text = f"{GOOD}users: []\n"
    error = leeway("store", "import", "-", *where, stdin=text).assert_failed(2)
    assert error.startswith("leeway: standard input: users lacks root, ")
    assert error.endswith("; nothing was changed\n")
    assert (filled / "auth.db").read_bytes() == before


@pytest.mark.parametrize("data", [b"\xff\xfe", b"kind: \xed\xa0\x80"])
def test_a_document_that_is_not_utf_8(
    leeway: Leeway, filled: Path, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    leeway("store", "import", path, "--data-dir", filled).assert_failed(2, "is not UTF-8")


@pytest.mark.parametrize("output", ["yaml", "json"])
@given(store=stores())
def test_what_is_written_is_read(store: AuthStore, output: str) -> None:
    document = document_of(store.state)
    text = rendered(document, output)
    assert parsed(text, "backup") == msgspec.json.decode(msgspec.json.encode(document))
    assert text.isascii() or output == "json"


def test_a_document_is_utf_8_in_every_locale(leeway: Leeway, filled: Path, other: Path) -> None:
    for output in ("yaml", "json"):
        leeway("user", "add", f"é{output}", "--no-password", "--data-dir", filled).assert_done()
        ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:backslashreplace"}
        written = run_process(
            "store", "export", "-o", output, "--data-dir", filled, environment=ascii_only
        ).assert_done()
        run_process(
            *("store", "import", "-", "--data-dir", other),
            stdin=written.encode(),
            environment=ascii_only,
        ).assert_done()
    assert exported(leeway, other) == exported(leeway, filled)


USAGE = [
    (("import",), "Missing argument"),
    (("import", "x", "--at", "-1"), "--at"),
    (("import", "x", "--at", "last"), "--at"),
    (("export", "-o", "text"), "-o"),
    (("export", "a", "b"), "too many arguments"),
    (("status", "-o", "xml"), "-o"),
]


@pytest.mark.parametrize(("words", "part"), USAGE)
def test_wrong_usage(leeway: Leeway, filled: Path, words: tuple[str, ...], part: str) -> None:
    leeway("store", *words, "--data-dir", filled).assert_failed(2, part)


@pytest.mark.bad_input(62)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_exported_and_imported_and_shown_escaped(
    leeway: Leeway, filled: Path, other: Path, tmp_path: Path, name: str
) -> None:
    for words in (
        ("user", "add", name, "--no-password"),
        ("role", "add", name),
        ("role", "grant-permission", name, "read", name, "--prefix"),
        ("user", "grant-role", name, name),
        ("group", "grant-role", name, name),
    ):
        leeway(*words, "--data-dir", filled).assert_done()
    for output in ("yaml", "json"):
        text = leeway("store", "export", "-o", output, "--data-dir", filled).assert_done()
        assert_harmless(text)
        out = leeway("store", "import", "-", "--data-dir", other, stdin=text).assert_done()
        assert_harmless(out)
    assert exported(leeway, other) == exported(leeway, filled)


def test_a_document_that_cannot_be_read(leeway: Leeway, made: Path, tmp_path: Path) -> None:
    error = leeway("store", "import", tmp_path / "no", "--data-dir", made).assert_failed(3)
    assert error == f"leeway: {tmp_path}/no: No such file or directory\n"


def test_a_file_without_an_end(leeway: Leeway, filled: Path) -> None:
    error = leeway("store", "import", "/dev/zero", "--data-dir", filled).assert_failed(2)
    assert error == (
        "leeway: /dev/zero: it has more than 128 MiB, which is too long; nothing was changed\n"
    )


@pytest.mark.bad_input(62)
def test_names_that_look_alike_are_told_apart(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "roles.yaml"
    text = "\N{CYRILLIC SMALL LETTER A}lice"
    path.write_text(f"{GOOD}users: [{{name: {text}, noPassword: true, roles: [app]}}]\n")
    out = leeway("store", "import", path, "--dry-run", "--data-dir", filled).assert_done()
    assert out.startswith(
        "+ user '\\u0430lice', without a password\n+ user '\\u0430lice': role app\n"
    )


def test_the_end_of_all_auth_tokens_after_a_restore(
    leeway: Leeway, filled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "backup.yaml"
    leeway("store", "export", path, "--data-dir", filled).assert_done()
    out = leeway("store", "import", path, "--restored", "--data-dir", filled).assert_done()
    assert out == (
        f"~ auth revision: {15 + 2**20}, and all auth tokens end\n"
        "1 change made; the store is at revision 10\n"
    )
    status = json.loads(leeway("auth", "status", "-o", "json", "--data-dir", filled).out)
    assert status["authRevision"] == 15 + 2**20
    again = leeway("store", "import", path, "--data-dir", filled).assert_done()
    assert again == "No differences; the store is at revision 10\n"


def test_times_after_the_last_year(leeway: Leeway, filled: Path, tmp_path: Path) -> None:
    """A clock, or whoever may write to the store, can have put anything there."""
    far = [
        revocation_record("jti", "far", Revocation(1 << 60, 1e300)),
        revocation_record("jti", "past", Revocation(-(1 << 60), 1e12)),
    ]
    with closing(AuthStore.loaded(SQLiteBackend(filled / "auth.db"))) as store:
        store.change(lambda _: far)
    listed = leeway("revoke", "list", "--data-dir", filled).assert_done()
    assert re.search(r"jti far +after 9999-12-31T23:59:59Z +after 9999-12-31T23:59:59Z\n", listed)
    assert re.search(r"jti past +before 0001-01-01T00:00:00Z +after", listed)
    path = tmp_path / "backup.yaml"
    leeway("store", "export", path, "--data-dir", filled).assert_done()
    assert "{jti: far, before: '9999-12-31T23:59:59Z', until: never}" in path.read_text()
    assert "{jti: past, before: '0001-01-01T00:00:00Z', until: never}" in path.read_text()
    leeway("store", "import", path, "--data-dir", filled).assert_done()
