import os
import stat
from pathlib import Path

import pytest
import yaml

from keys.errors import InvalidKeyError, KeyFileError, UnusableKeyError
from keys.folder import load_keyring
from keys.keyring import KeyState
from keys.pem import private_key_pem, public_key_pem
from tests.support import NOW, signing_key
from webhook.config.load import load_configuration
from webhook.config.paths import tls_files
from webhook.errors import ConfigurationError, DataDirectoryError
from webhook.setup.init import InitOptions, initialise

OPTIONS = InitOptions(algorithm="ES256")
PUBLIC = {"tls/ca.crt", "tls/server.crt", "tls/kube-apiserver.crt", "tls/root.crt"}
FILES = PUBLIC | {
    "auth.db",
    "leeway.yaml",
    "keys/schedule.json",
    "tls/ca.key",
    "tls/server.key",
    "tls/kube-apiserver.key",
    "tls/root.key",
    "kubeconfig/tokenreview.yaml",
    "kubeconfig/subjectaccessreview.yaml",
    "kubeconfig/root.yaml",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_files_that_are_made(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    before = os.umask(umask)
    try:
        made = initialise(folder, OPTIONS, NOW)
    finally:
        os.umask(before)
    kid = load_keyring(folder / "keys").signing_key().verification_key.kid
    files = FILES | {f"keys/{kid}.pem"}
    assert contents(folder).keys() == files
    assert {str(path.relative_to(folder)) for path in made} == files
    assert len(made) == len(files)
    for path in [folder, *folder.rglob("*")]:
        name = str(path.relative_to(folder))
        assert mode(path) == (0o700 if path.is_dir() else 0o644 if name in PUBLIC else 0o600), name
    tls_files(folder)
    assert load_configuration(folder, {}, {}).issuer == "https://leeway.default.svc"


def test_twice_changes_nothing(tmp_path: Path) -> None:
    initialise(tmp_path, OPTIONS, NOW)
    before = contents(tmp_path)
    options = InitOptions("https://other.example", ["x"], ["h.example"], "RS256")
    assert initialise(tmp_path, options, NOW + 10**7) == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", sorted(FILES - {"tls/ca.crt", "tls/ca.key"}))
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    """Any single file that exists stays unchanged, even if it is useless."""
    initialise(tmp_path, OPTIONS, NOW)
    before = contents(tmp_path)
    removed = [name]
    if name.startswith("tls/"):
        other = name[:-3] + ("key" if name.endswith("crt") else "crt")
        removed.append(other)
    for gone in removed:
        (tmp_path / gone).unlink()
    made = initialise(tmp_path, OPTIONS, NOW)
    after = contents(tmp_path)
    assert {k: v for k, v in after.items() if k not in removed} == {
        k: v for k, v in before.items() if k not in removed
    }
    if name != "keys/schedule.json":
        # A key without schedule is used as it is; everything else is made again.
        assert sorted(str(path.relative_to(tmp_path)) for path in made) == sorted(removed)


@pytest.mark.parametrize("pair", ["ca", "server", "kube-apiserver", "root"])
@pytest.mark.parametrize("missing", ["crt", "key"])
def test_half_a_pair_is_refused(pair: str, missing: str, tmp_path: Path) -> None:
    initialise(tmp_path, OPTIONS, NOW)
    gone = tmp_path / "tls" / f"{pair}.{missing}"
    gone.unlink()
    before = contents(tmp_path)
    with pytest.raises(DataDirectoryError) as raised:
        initialise(tmp_path, OPTIONS, NOW)
    assert str(gone) in str(raised.value)
    assert " and run `leeway init` again" in str(raised.value)
    assert contents(tmp_path) == before


def test_own_configuration_is_kept_and_used(tmp_path: Path) -> None:
    text = "issuer: https://mine.example\nserver: {bind: '0.0.0.0:9999'}\n"
    (tmp_path / "leeway.yaml").write_text(text)
    initialise(tmp_path, InitOptions(hosts=["h.example"], algorithm="ES256"), NOW)
    assert (tmp_path / "leeway.yaml").read_text() == text
    kubeconfig = yaml.safe_load((tmp_path / "kubeconfig" / "root.yaml").read_text())
    assert kubeconfig["clusters"][0]["cluster"]["server"] == "https://h.example:9999"


def test_the_environment_is_that_of_the_own_configuration(tmp_path: Path) -> None:
    text = "store: {etcd: {endpoints: ['https://a:2379'], prefix: /leeway, caFile: tls/etcd.crt}}\n"
    (tmp_path / "leeway.yaml").write_text(text)
    # Without the file a CA would be missing here.
    environment = {"LEEWAY_STORE_ETCD_ENDPOINTS": "https://127.0.0.1:2379"}
    made = initialise(tmp_path, OPTIONS, NOW, environment)
    # A store in etcd is no file.
    assert tmp_path / "auth.db" not in made
    assert tmp_path / "tls/ca.crt" in made
    configuration = load_configuration(tmp_path, environment, {})
    assert configuration.store.etcd is not None
    assert configuration.store.etcd.endpoints == ("https://127.0.0.1:2379",)


def test_own_signing_key_is_kept(tmp_path: Path) -> None:
    initialise(tmp_path, OPTIONS, NOW)
    other = tmp_path / "other"
    (other / "keys").mkdir(parents=True)
    (source,) = (tmp_path / "keys").glob("*.pem")
    target = other / "keys" / "mine.pem"
    target.touch(0o600)
    target.write_bytes(source.read_bytes())
    made = initialise(other, InitOptions(algorithm="RS256"), NOW)
    assert other / "keys" / "schedule.json" in made
    assert {path.name for path in (other / "keys").iterdir()} == {"mine.pem", "schedule.json"}
    assert load_keyring(other / "keys").signing_key().verification_key.algorithm == "ES256"
    assert initialise(other, InitOptions(algorithm="RS256"), NOW) == []


def pem(name: str) -> bytes:
    return private_key_pem(signing_key("ES256", name).private_key)


def lay(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


@pytest.mark.fault(8)
def test_a_key_added_later_only_verifies(tmp_path: Path) -> None:
    lay(tmp_path / "keys" / "sa.pem", pem("own"))
    initialise(tmp_path, OPTIONS, NOW)
    lay(tmp_path / "keys" / "another.pem", pem("another"))
    assert initialise(tmp_path, OPTIONS, NOW) == []
    keyring = load_keyring(tmp_path / "keys")
    own, another = (signing_key("ES256", name).verification_key for name in ("own", "another"))
    assert keyring.signing_key().verification_key.kid == own.kid
    assert keyring.key(another.kid).state is KeyState.VERIFY_ONLY


@pytest.mark.fault(8)
def test_with_public_keys_only_a_signing_key_is_made(tmp_path: Path) -> None:
    public = public_key_pem(signing_key("ES256").verification_key.public_key)
    lay(tmp_path / "keys" / "old.pem", public)
    initialise(tmp_path, OPTIONS, NOW)
    keyring = load_keyring(tmp_path / "keys")
    assert len(keyring.keys) == 2
    assert keyring.signing_key().verification_key.algorithm == "ES256"


REFUSED_KEYS = [
    pytest.param({"sa.pem": pem("own") + pem("another")}, 0o600, "one is allowed", id="two-keys"),
    pytest.param({"sa.pem": pem("own")}, 0o644, "chmod 600", id="readable-by-others"),
    pytest.param({"sa.pem": pem("own")}, 0o640, "chmod 600", id="readable-by-a-group"),
    pytest.param({"sa.pem": b""}, 0o600, "empty", id="empty"),
    pytest.param({"sa.pem": pem("own")[:100]}, 0o600, "restore it", id="cut"),
    pytest.param(
        {"sa.pem": pem("own"), "another.pem": pem("another")},
        0o600,
        "2 keys is in use (another.pem, sa.pem)",
        id="two-files",
    ),
    pytest.param({"schedule.json": b"{"}, 0o600, "restore it", id="schedule"),
]


@pytest.mark.bad_input(39)
@pytest.mark.fault(8)
@pytest.mark.parametrize(("files", "mode", "why"), REFUSED_KEYS)
def test_keys_that_the_server_would_refuse(
    tmp_path: Path, files: dict[str, bytes], mode: int, why: str
) -> None:
    for name, data in files.items():
        lay(tmp_path / "keys" / name, data, mode)
    before = contents(tmp_path)
    with pytest.raises(InvalidKeyError) as raised:
        initialise(tmp_path, OPTIONS, NOW)
    assert why in str(raised.value)
    assert str(tmp_path / "keys") in str(raised.value)
    assert contents(tmp_path) == before


@pytest.mark.bad_input(39)
@pytest.mark.fault(8)
@pytest.mark.parametrize("name", ["tls/root.key", "tls/server.key", "kubeconfig/root.yaml"])
def test_private_files_that_others_can_read(tmp_path: Path, name: str) -> None:
    initialise(tmp_path, OPTIONS, NOW)
    (tmp_path / name).chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600") as raised:
        initialise(tmp_path, OPTIONS, NOW)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param(InitOptions(issuer="http://a"), ConfigurationError, id="issuer"),
        pytest.param(InitOptions(issuer='https://a"\nx: 1'), ConfigurationError, id="issuer-YAML"),
        pytest.param(InitOptions(audiences=[""]), ConfigurationError, id="audience-empty"),
        pytest.param(InitOptions(audiences=["a\n- b"]), ConfigurationError, id="audience-newline"),
        pytest.param(InitOptions(hosts=["é.example"]), UnusableKeyError, id="host"),
        pytest.param(InitOptions(hosts=[""]), UnusableKeyError, id="host-empty"),
        pytest.param(InitOptions(hosts=["a" * 254]), UnusableKeyError, id="host-long"),
        pytest.param(InitOptions(hosts=["ok.example", "é"]), UnusableKeyError, id="second-host"),
    ],
)
def test_wrong_options_create_nothing(
    options: InitOptions, error: type[Exception], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    with pytest.raises(error):
        initialise(folder, options, NOW)
    assert not folder.exists()


@pytest.mark.parametrize(
    "text", ["a", 'quote"', "back\\slash", "#hash", "a: b", "[x]", "*star", "&anchor", "!tag", "no"]
)
def test_audience_is_written_unchanged(text: str, tmp_path: Path) -> None:
    initialise(tmp_path, InitOptions(audiences=[text, "b"], algorithm="ES256"), NOW)
    assert load_configuration(tmp_path, {}, {}).audiences == (text, "b")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError, match=r"cannot be created: .*Not a directory"):
        initialise(tmp_path / "file" / "data", OPTIONS, NOW)


@pytest.mark.parametrize(
    ("hosts", "server"),
    [
        ([], "https://127.0.0.1:8443"),
        (["leeway.example", "10.0.0.1"], "https://leeway.example:8443"),
        (["::1"], "https://[::1]:8443"),
        # Longer than a common name may be.
        ([f"{'a' * 60}.{'b' * 60}.example"], f"https://{'a' * 60}.{'b' * 60}.example:8443"),
    ],
)
def test_kubeconfigs(hosts: list[str], server: str, tmp_path: Path) -> None:
    initialise(tmp_path, InitOptions(hosts=hosts, algorithm="ES256"), NOW)
    for name, path, user in (
        ("tokenreview", "/apis/authentication.k8s.io/v1/tokenreviews", "kube-apiserver"),
        (
            "subjectaccessreview",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "kube-apiserver",
        ),
        ("root", "", "root"),
    ):
        document = yaml.safe_load((tmp_path / "kubeconfig" / f"{name}.yaml").read_text())
        assert document["clusters"][0]["cluster"]["server"] == server + path
        assert document["users"][0]["name"] == user
        assert document["current-context"] == document["contexts"][0]["name"]


def test_files_of_a_data_dir_that_exists_with_a_wide_mode(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    initialise(folder, OPTIONS, NOW)
    assert mode(folder / "keys") == 0o700
    assert {mode(path) for path in (folder / "keys").iterdir()} == {0o600}
