"""``leeway user``, ``role``, ``auth``, ``group`` and ``can-i``."""

import base64
import json
from pathlib import Path

import pytest

from tests.unit.webhook.cli.cli_support import Leeway

SESSION = [
    ("user add --create root:root-Zb6mXq9RtY3kPw", "User root created\n"),
    ("role add root", "Role root created\n"),
    ("user grant-role root root", "Role root is granted to user root\n"),
    ("user get root", "User: root\nRoles: root\n"),
    ("role add role1", "Role role1 created\n"),
    ("role grant-permission --prefix=true role1 read /xxx/", "Role role1 updated\n"),
    ("role get role1", "Role role1\nKV Read:\n\t[/xxx/, /xxx0) (prefix /xxx/)\nKV Write:\n"),
    ("user add alice:pw", "User alice created\n"),
    ("user grant-role alice role1", "Role role1 is granted to user alice\n"),
    ("auth enable", "Authentication Enabled\n"),
    ("role add admin", "Role admin created\n"),
    ("role grant-permission admin readwrite hello helly", "Role admin updated\n"),
    ("user grant-role alice admin", "Role admin is granted to user alice\n"),
    ("can-i write hello --user alice", "yes, granted by role admin\n"),
    ("can-i read /xxx/ --prefix --user alice", "yes, granted by role role1\n"),
    ("auth status", "Authentication Status: true\nAuthRevision: 11\n"),
    ("user get alice --detail=false", "User: alice\nRoles: admin role1\n"),
    ("group grant-role devs role1", "Role role1 is granted to group devs\n"),
    ("group list", "devs\n"),
    ("group get devs", "Group: devs\nRoles: role1\n"),
    ("can-i read /xxx/a --user bob --group devs", "yes, granted by role role1\n"),
    ("group revoke-role devs role1", "Role role1 is revoked from group devs\n"),
    ("group get devs", "Group: devs\nRoles:\n"),
    (
        "role revoke-permission role1 --prefix /xxx/",
        "Permission of range [/xxx/, /xxx0) is revoked from role role1\n",
    ),
    ("role grant-permission role1 write --from-key z", "Role role1 updated\n"),
    (
        "role revoke-permission role1 --from-key z",
        "Permission of range [z, <open ended> is revoked from role role1\n",
    ),
    ("role grant-permission role1 write one", "Role role1 updated\n"),
    ("role revoke-permission role1 one", "Permission of key one is revoked from role role1\n"),
    ("user revoke-role alice role1", "Role role1 is revoked from user alice\n"),
    ("role delete role1", "Role role1 deleted\n"),
    ("role list", "admin\nroot\n"),
    ("user list", "alice\nroot\n"),
    ("user delete alice", "User alice deleted\n"),
    ("auth disable", "Authentication Disabled\n"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the data directory."""
    return tmp_path


def test_the_words_of_etcdctl(leeway: Leeway, folder: Path) -> None:
    for line, printed in SESSION:
        done = leeway(*line.split(), "--data-dir", folder)
        assert (done.code, done.out, done.err) == (0, printed, ""), line


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "line",
    [
        "user add alice:pw", "user delete alice", "user get alice", "user list",
        "user passwd alice:pw", "user grant-role alice r", "user revoke-role alice r",
        "role add r", "role delete r", "role get r", "role list",
        "role grant-permission r read a", "role revoke-permission r a",
        "auth enable", "auth disable", "auth status",
        "group grant-role devs r", "group revoke-role devs r", "group get devs", "group list",
        "can-i read a --user alice",
        "revoke jti x", "revoke serviceaccount a/b", "revoke user alice", "revoke list",
    ],
)  # fmt: skip
def test_no_command_creates_a_store_without_create(leeway: Leeway, folder: Path, line: str) -> None:
    (folder / "notes.txt").write_text("of something else")
    done = leeway(*line.split(), "--data-dir", folder)
    done.assert_failed(3, f"{folder} is not a data directory", "leeway.yaml", "leeway init")
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]


@pytest.mark.fault(32)
@pytest.mark.parametrize("line", ["user add alice --no-password", "role add r"])
def test_create_is_for_folders_that_are_not_a_data_directory(
    leeway: Leeway, folder: Path, data_dir: Path, line: str
) -> None:
    leeway(*line.split(), "--create", "--data-dir", folder).assert_done()
    leeway("user", "list", "--data-dir", folder).assert_done()
    # A lost store is not created again: auth would be disabled.
    (data_dir / "auth.db").unlink()
    done = leeway(*line.split(), "--create", "--data-dir", data_dir)
    done.assert_failed(3, "auth.db is missing")
    assert not (data_dir / "auth.db").exists()


NO = [
    ("can-i write hey --user root2", "no, nothing lets root2 write hey\n"),
    ("can-i read a c --user root2", "no, nothing lets root2 read [a, c)\n"),
    ("can-i read a --from-key --user root2", "no, nothing lets root2 read [a, <open ended>\n"),
]


@pytest.mark.parametrize(("line", "printed"), NO, ids=[line for line, _ in NO])
def test_no_is_exit_code_1(leeway: Leeway, data_dir: Path, line: str, printed: str) -> None:
    done = leeway(*line.split(), "--data-dir", data_dir)
    assert (done.code, done.out, done.err) == (1, printed, "")


WRONG = [
    ("user add root:x", "user name already exists"),
    ("user add :x", "user name is empty"),
    ("user add a:", "password is empty"),
    (f"user add a:{'x' * 73}", "73 bytes"),
    ("user add a --no-password --new-user-password x", "mutually exclusive"),
    ("user get nobody", "user name not found"),
    ("user delete nobody", "user name not found"),
    ("user delete root", "invalid auth management"),
    ("user passwd nobody", "user name not found"),
    ("user grant-role root nothing", "role name not found"),
    ("user revoke-role kube-apiserver root", "role is not granted"),
    ("role add root", "role name already exists"),
    ("role get nothing", "role name not found"),
    ("role delete root", "invalid auth management"),
    ("role grant-permission root execute k", "execute"),
    ("role grant-permission root read b a", "invalid auth management"),
    ("role grant-permission root read a b --prefix", "unexpected RANGE_END"),
    ("role grant-permission root read a --prefix --from-key", "mutually exclusive"),
    ("role revoke-permission root a", "permission is not granted"),
    ("group grant-role g nothing", "role name not found"),
    ("group revoke-role g root", "role is not granted"),
    ("can-i read b a --user u", "there is no key from KEY"),
    ("can-i read a", "--user"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line[:40] for line, _ in WRONG])
def test_wrong(leeway: Leeway, data_dir: Path, line: str, words: str) -> None:
    leeway(*line.split(), "--data-dir", data_dir).assert_failed(2, words)


SIGNER = {
    "verb": "approve",
    "group": "certificates.k8s.io",
    "resource": "signers",
    "name": "kubernetes.io/kubelet-serving",
}
SIGNER_KEY = "/registry/certificates.k8s.io/signers:approve/kubernetes.io%2Fkubelet-serving"


@pytest.mark.fault(11)
def test_a_request_is_shown_with_its_key(leeway: Leeway, data_dir: Path, tmp_path: Path) -> None:
    def ask(request: object, *words: str, stdin: str = "") -> tuple[int, list[str]]:
        text = request if isinstance(request, str) else json.dumps(request)
        done = leeway("can-i", "--request", text, *words, "--data-dir", data_dir, stdin=stdin)
        assert done.err == ""
        return done.code, done.out.splitlines()

    needs, no = f"WRITE on {SIGNER_KEY}", f"no, no role of jane grants WRITE on {SIGNER_KEY}"
    assert ask(SIGNER, "--user", "jane") == (1, [needs, no])
    for line in (
        "role add signer",
        f"role grant-permission --prefix signer write {SIGNER_KEY.rpartition('/')[0]}/",
        "group grant-role signers signer",
    ):
        leeway(*line.split(), "--data-dir", data_dir).assert_done()
    yes = (0, [needs, "yes, granted by role signer"])
    assert ask(SIGNER, "--user", "jane", "--group", "signers") == yes
    spec = {"user": "jane", "resourceAttributes": SIGNER, "groups": ["signers"]}
    assert ask(spec) == yes
    assert ask({"kind": "SubjectAccessReview", "spec": spec}) == yes
    beta = {"user": "jane", "resourceAttributes": SIGNER, "group": ["signers"]}
    review = {"apiVersion": "authorization.k8s.io/v1beta1", "spec": beta}
    assert ask("-", stdin=json.dumps(review)) == yes
    (tmp_path / "r.json").write_text(json.dumps(review))
    assert ask(f"@{tmp_path / 'r.json'}") == yes
    assert ask(review, "--user", "x", "--group", "others")[0] == 1
    path = {"verb": "get", "path": "/metrics\x1b"}
    assert ask(path, "--user", "x")[1][0] == "READ on /metrics\\u001b"
    shown = leeway("can-i", "--request", json.dumps(spec), "-o", "json", "--data-dir", data_dir)
    assert json.loads(shown.out) == {
        "allowed": True,
        "roles": ["signer"],
        "reason": "granted by role signer",
        "permissions": ["WRITE"],
        "keys": [
            {
                "key": base64.b64encode(SIGNER_KEY.encode()).decode(),
                "rangeEnd": "",
                "text": SIGNER_KEY,
            }
        ],
    }


PATHS = [
    (("read", "/", "--prefix"), True),
    (("write", "/", "0"), True),
    (("readwrite", "/", "--from-key"), True),
    (("read", "/re", "--prefix"), True),
    (("read", "/a", "/z"), True),
    (("read", "/"), False),
    (("read", "/registry/", "--prefix"), False),
    (("read", "/registry", "/registry0"), False),
    (("read", "/api/", "--prefix"), False),
    (("read", "/s", "/z"), False),
    (("read", "", "--prefix"), False),
]


@pytest.mark.fault(54)
@pytest.mark.parametrize(("words", "warns"), PATHS, ids=[" ".join(words) for words, _ in PATHS])
def test_a_grant_on_all_paths_warns_of_what_else_it_covers(
    leeway: Leeway, data_dir: Path, words: tuple[str, ...], warns: bool
) -> None:
    leeway("role", "add", "reader", "--data-dir", data_dir).assert_done()
    done = leeway("role", "grant-permission", "reader", *words, "--data-dir", data_dir)
    assert (done.code, done.out) == (0, "Role reader updated\n")
    assert ("warning" in done.err) is warns
    assert not warns or ("/registry/" in done.err and done.err.count("\n") == 1)


@pytest.mark.fault(53)
def test_a_request_of_the_root_of_a_cluster(leeway: Leeway, data_dir: Path) -> None:
    words = ("can-i", "--request", json.dumps(SIGNER), "--user", "root", "--data-dir", data_dir)
    done = leeway(*words)
    assert done.code == 1
    assert "authorizer.allowRoot" in done.out
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("authorizer: {allowRoot: true}\n")
    assert leeway(*words).assert_done().endswith("yes, granted by role root\n")


BAD_REQUESTS = [
    (("--request", "{"), "not JSON"),
    (("--request", "[]"), "JSON object with a verb"),
    (("--request", '{"verb":"get"}'), "names no user"),
    (("--request", '{"spec":1}'), "spec must be an object"),
    (("--request", '{"verb":1}', "--user", "u"), "verb must be a string"),
    (("--request", "{}", "--prefix"), "give either --request, or"),
    (("read", "k", "--request", "{}"), "give either --request, or"),
    (("--user", "u"), "--request"),
    (("read", "--user", "u"), "--request"),
]


@pytest.mark.parametrize(("words", "why"), BAD_REQUESTS, ids=[str(w) for w, _ in BAD_REQUESTS])
def test_text_that_is_not_a_request(
    leeway: Leeway, data_dir: Path, words: tuple[str, ...], why: str
) -> None:
    leeway("can-i", *words, "--data-dir", data_dir).assert_failed(2, why)


INVALID = "leeway: etcdserver: invalid auth management; "


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "user delete root",
            f"{INVALID}the user root cannot be deleted while auth is enabled; "
            "run `leeway auth disable` first",
        ),
        (
            "user revoke-role root root",
            f"{INVALID}the user root cannot lose the role root while auth is enabled; "
            "run `leeway auth disable` first",
        ),
        (
            "role delete root",
            f"{INVALID}the role root cannot be deleted while auth is enabled; "
            "run `leeway auth disable` first",
        ),
        (
            "role grant-permission root read b a",
            f"{INVALID}RANGE_END a does not come after KEY b; give the one that sorts first as KEY",
        ),
        (
            "role grant-permission root read b b",
            f"{INVALID}RANGE_END b does not come after KEY b; give the one that sorts first as KEY",
        ),
        (
            "role grant-permission root read EMPTY",
            f"{INVALID}the key is empty; name a key, or grant all keys with `--prefix ''`",
        ),
        (
            "user get nobody",
            "leeway: etcdserver: user name not found; `leeway user list` shows the users",
        ),
        (
            "role get nothing",
            "leeway: etcdserver: role name not found; `leeway role list` shows the roles",
        ),
        (
            "role revoke-permission root a",
            "leeway: etcdserver: permission is not granted to the role; `leeway role get` shows "
            "what is granted; revoke a range as it was granted",
        ),
        (
            "group revoke-role g root",
            "leeway: etcdserver: role is not granted to the user; `leeway user get` and "
            "`leeway group get` show the roles of a user and of a group",
        ),
    ],
    ids=lambda value: value[:35],
)
def test_the_texts_of_etcd_are_followed_by_advice(
    leeway: Leeway, data_dir: Path, line: str, message: str
) -> None:
    words = ["" if word == "EMPTY" else word for word in line.split()]
    done = leeway(*words, "--data-dir", data_dir)
    assert (done.code, done.out, done.err) == (2, "", f"{message}\n")


@pytest.mark.fault(37)
def test_all_keys_are_granted_as_the_advice_says(leeway: Leeway, data_dir: Path) -> None:
    command = ["role", "grant-permission", "kube-apiserver", "read", "", "--prefix"]
    leeway(*command, "--data-dir", data_dir).assert_done()
    question = ["can-i", "read", "", "--prefix", "--user", "kube-apiserver"]
    leeway(*question, "--data-dir", data_dir).assert_done()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("user get root", {"name": "root", "roles": ["root"]}),
        ("user list", ["kube-apiserver", "root"]),
        ("role list", ["kube-apiserver", "root"]),
        ("group list", []),
        ("group get g", {"name": "g", "roles": []}),
        ("auth status", {"enabled": True, "authRevision": 9}),
        (
            "can-i read a --user u",
            {"allowed": False, "roles": [], "uncovered": [{"key": "YQ==", "rangeEnd": ""}]},
        ),
    ],
    ids=str,
)
def test_json(leeway: Leeway, data_dir: Path, line: str, value: object) -> None:
    done = leeway(*line.split(), "-o", "json", "--data-dir", data_dir)
    assert json.loads(done.out) == value


def test_a_password_is_read_from_standard_input(leeway: Leeway, data_dir: Path) -> None:
    leeway("user", "add", "a", "--data-dir", data_dir, stdin="one\n").assert_done()
    done = leeway("user", "passwd", "a", "--data-dir", data_dir, stdin="two\n")
    assert done.assert_done() == "Password updated\n"
    leeway("user", "passwd", "a", "--data-dir", data_dir, stdin="").assert_failed(2, "is empty")


def test_no_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    leeway("user", "list", "--data-dir", tmp_path / "none").assert_failed(3, "leeway init")


def test_a_data_directory_that_lost_its_store(leeway: Leeway, data_dir: Path) -> None:
    (data_dir / "auth.db").unlink()
    leeway("user", "list", "--data-dir", data_dir).assert_failed(3, "auth.db", "missing")
    (data_dir / "auth.db").touch()
    leeway("user", "list", "--data-dir", data_dir).assert_failed(3, "damaged")


@pytest.mark.parametrize(
    "words",
    [
        ("user", "add", "\udcff", "--no-password"),
        ("role", "add", "a\udcff"),
        ("group", "grant-role", "\udcff", "root"),
    ],
    ids=ascii,
)
def test_a_name_that_is_not_text_is_refused(
    leeway: Leeway, data_dir: Path, words: tuple[str, ...]
) -> None:
    """The bytes of an argument that are not UTF-8 arrive as lone surrogates."""
    leeway(*words, "--data-dir", data_dir).assert_failed(2, "UTF-8")
    for kind in ("user", "role", "group"):
        listed = leeway(kind, "list", "-o", "json", "--data-dir", data_dir).assert_done()
        assert "ud" not in listed
