"""The sections of the store and of the keys: what is allowed, and what an error says."""

import pytest

from tests.unit.webhook.config.test_model import SOURCE, parse
from webhook.config.store import EtcdSection, SQLiteSection, StoreSection
from webhook.errors import ConfigurationError

KID = "hVmV8pPEGHPdRfhsPpi3WGK7hN3Jb6b1oVLDCxmh-Es"
CONTRACT = """\
store:
  etcd:
    endpoints: [https://10.0.0.11:2379, https://10.0.0.12:2379, https://10.0.0.13:2379]
    prefix: /leeway
    caFile: tls/etcd-ca.crt
    certFile: tls/etcd-client.crt
    keyFile: tls/etcd-client.key
    username: ""
    passwordFile: ""
    maxStaleness: 3s
    consistency: bounded
keys:
  store: folder
  encryptionKeyFiles: []
  refused: []
"""


def etcd(text: str) -> EtcdSection:
    section = parse(f"store: {{etcd: {{{text}}}}}").store.etcd
    assert section is not None
    return section


def test_section_of_the_contract() -> None:
    made = parse(CONTRACT)
    assert made.store.sqlite is None
    assert made.store.etcd == EtcdSection(
        endpoints=("https://10.0.0.11:2379", "https://10.0.0.12:2379", "https://10.0.0.13:2379"),
        ca_file="tls/etcd-ca.crt",
        cert_file="tls/etcd-client.crt",
        key_file="tls/etcd-client.key",
    )
    assert made.store.etcd.is_encrypted
    assert made.keys == parse("{}").keys


@pytest.mark.parametrize("text", ["{}", "store: {}", "store: {etcd: }", "store: {sqlite: }"])
def test_without_either_it_is_sqlite(text: str) -> None:
    assert parse(text).store == StoreSection(sqlite=SQLiteSection())


@pytest.mark.parametrize(
    "text",
    [
        "endpoints: ['https://etcd-0.etcd:2379'], caFile: ca.crt",
        "endpoints: ['https://[2001:db8::1]:2379', 'https://[2001:db8::2]:2379'], caFile: ca.crt",
        "endpoints: ['https://a:1'], caFile: c, username: leeway, passwordFile: p",
        "endpoints: ['https://a:1'], caFile: c, certFile: d, keyFile: e, username: u, "
        "passwordFile: p",
        "endpoints: ['http://127.0.0.1:2379', 'http://127.9.9.9:1', 'http://[::1]:2379']",
        "endpoints: ['http://localhost:2379'], username: leeway, passwordFile: p",
        "endpoints: ['http://LOCALHOST:2379'], prefix: /a/b-c_d.e",
        "endpoints: ['http://localhost:1'], maxStaleness: 500ms, consistency: strict",
        "endpoints: ['http://localhost:1'], maxStaleness: 30s",
    ],
)
def test_what_is_allowed(text: str) -> None:
    assert etcd(text).endpoints


ONE = "endpoints: ['https://a:1']"
LOCAL = "endpoints: ['http://[::1]:1']"


@pytest.mark.parametrize(
    ("text", "found", "allowed"),
    [
        ("prefix: /leeway", "endpoints", "required"),
        ("endpoints: []", "0 entries", "1 to 16 are allowed"),
        (f"endpoints: {[f'https://a:{n}' for n in range(1, 18)]}", "17 entries", "1 to 16"),
        ("endpoints: ['10.0.0.11:2379']", "'10.0.0.11:2379'", "https://HOST:PORT"),
        ("endpoints: ['https://a']", "'https://a'", "https://HOST:PORT"),
        ("endpoints: ['https://a:0x1']", "'https://a:0x1'", "https://HOST:PORT"),
        ("endpoints: ['https://a:65536']", "'https://a:65536'", "https://HOST:PORT"),
        ("endpoints: ['https://a:0']", "'https://a:0'", "https://HOST:PORT"),
        ("endpoints: ['https://a:1/']", "'https://a:1/'", "https://HOST:PORT"),
        ("endpoints: ['https://-a:1']", "'https://-a:1'", "https://HOST:PORT"),
        ("endpoints: ['https://[::1:1']", "'https://[::1:1'", "https://HOST:PORT"),
        ("endpoints: ['https://a:1/v3']", "'https://a:1/v3'", "https://HOST:PORT"),
        ("endpoints: ['https://:1']", "'https://:1'", "https://HOST:PORT"),
        ("endpoints: ['https://é:1']", "é", "https://HOST:PORT"),
        ("endpoints: ['https://[::g]:1']", "'https://[::g]:1'", "https://HOST:PORT"),
        ("endpoints: ['https://[1::2::3]:1']", "'https://[1::2::3]:1'", "https://HOST:PORT"),
        ("endpoints: ['unix:///etcd.sock']", "'unix:///etcd.sock'", "https://HOST:PORT"),
        ("endpoints: ['https://root:pw@a:1']", "not shown", "password of passwordFile"),
        ("endpoints: ['https://a:1?x']", "not shown", "https://HOST:PORT"),
        ("endpoints: ['http://10.0.0.11:2379']", "'http://10.0.0.11:2379'", "this machine only"),
        ("endpoints: ['http://127.0.0.1.a:1']", "127.0.0.1.a", "this machine only"),
        ("endpoints: ['http://localhost.a:1']", "localhost.a", "this machine only"),
        ("endpoints: ['http://[::2]:1']", "'http://[::2]:1'", "this machine only"),
        ("endpoints: ['http://0.0.0.0:1']", "'http://0.0.0.0:1'", "this machine only"),
        ("endpoints: ['https://a:1', 'https://A:1'], caFile: c", "'https://a:1' twice", "once"),
        ("endpoints: ['https://a:1', 'http://[::1]:1'], caFile: c", "http and https", "one of"),
        (ONE, "caFile is missing", "https endpoints need"),
        (f"{ONE}, caFile: c, certFile: d", "certFile is given without keyFile", "both or neither"),
        (f"{ONE}, caFile: c, keyFile: d", "keyFile is given without certFile", "both or neither"),
        (f"{LOCAL}, username: u", "username is given without passwordFile", "both or neither"),
        (f"{LOCAL}, passwordFile: u", "passwordFile is given without", "both or neither"),
        (f"{LOCAL}, username: 'u:hunter2', passwordFile: p", "holds a colon", "passwordFile"),
        (f"{LOCAL}, username: \"a\\tb\", passwordFile: p", "a control character", "the name of"),
        (f"{LOCAL}, caFile: c", "caFile, certFile and keyFile", "need https endpoints"),
        (f"{LOCAL}, certFile: c, keyFile: d", "certFile and keyFile", "need https endpoints"),
        (f'{ONE}, caFile: "a\\0b"', r"caFile is 'a\x00b'", "without NUL"),
        (f"{LOCAL}, prefix: leeway", "'leeway'", "begins with /"),
        (f"{LOCAL}, prefix: ''", "''", "begins with /"),
        (f"{LOCAL}, prefix: /", "'/'", "does not end with it"),
        (f"{LOCAL}, prefix: /leeway/", "'/leeway/'", "does not end with it"),
        (f"{LOCAL}, prefix: /a//b", "'/a//b'", "no // and no spaces"),
        (f"{LOCAL}, prefix: /a b", "'/a b'", "no spaces"),
        (f'{LOCAL}, prefix: "/a\\0b"', r"'/a\x00b'", "a text of at most 256 bytes"),
        (f"{LOCAL}, prefix: /{'é' * 128}", "é", "a text of at most 256 bytes"),
        (f"{LOCAL}, maxStaleness: 499ms", "0.499s", "0.5s to 30s"),
        (f"{LOCAL}, maxStaleness: 31s", "31s", "0.5s to 30s"),
        (f"{LOCAL}, maxStaleness: 3", "3", "with a unit"),
        (f"{LOCAL}, consistency: eventual", "'eventual'", "'bounded' or 'strict'"),
        (f"{LOCAL}, user: u", "user", "endpoints, prefix, caFile, certFile, keyFile, username"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, found: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        etcd(text)
    message = str(raised.value)
    assert message.startswith(f"{SOURCE}: store.etcd")
    assert found in message
    assert allowed in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "environment", "source"),
    [
        ("store: {etcd: {endpoints: ['http://[::1]:1']}, sqlite: {}}", {}, SOURCE),
        (
            "store: {sqlite: {path: auth.db}}", {"LEEWAY_STORE_ETCD_ENDPOINTS": "http://[::1]:1"},
            "environment variable LEEWAY_STORE_ETCD_ENDPOINTS",
        ),
        (
            "store: {etcd: {endpoints: ['http://[::1]:1']}}", {"LEEWAY_STORE_SQLITE_PATH": "a"},
            "environment variable LEEWAY_STORE_SQLITE_PATH",
        ),
    ],
)  # fmt: skip
def test_both_kinds_of_store(text: str, environment: dict[str, str], source: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text, environment)
    assert str(raised.value) == (
        f"{source}: store: sqlite and etcd are both given; one of them is allowed"
    )


def test_every_field_can_be_set_in_the_environment() -> None:
    environment = {
        "LEEWAY_STORE_ETCD_ENDPOINTS": "https://a:1, https://b:1",
        "LEEWAY_STORE_ETCD_PREFIX": "/p",
        "LEEWAY_STORE_ETCD_CA_FILE": "ca",
        "LEEWAY_STORE_ETCD_CERT_FILE": "cert",
        "LEEWAY_STORE_ETCD_KEY_FILE": "key",
        "LEEWAY_STORE_ETCD_USERNAME": "u",
        "LEEWAY_STORE_ETCD_PASSWORD_FILE": "p",
        "LEEWAY_STORE_ETCD_MAX_STALENESS": "2s",
        "LEEWAY_STORE_ETCD_CONSISTENCY": "strict",
        "LEEWAY_KEYS_STORE": "etcd",
        "LEEWAY_KEYS_ENCRYPTION_KEY_FILES": "new.key, old.key",
        "LEEWAY_KEYS_REFUSED": KID,
    }
    made = parse("{}", environment)
    section = made.store.etcd
    assert section is not None
    assert section.endpoints == ("https://a:1", "https://b:1")
    assert (section.prefix, section.ca_file) == ("/p", "ca")
    assert (section.cert_file, section.key_file) == ("cert", "key")
    assert (section.username, section.password_file) == ("u", "p")
    assert (section.max_staleness, section.consistency) == (2.0, "strict")
    assert (made.keys.store, made.keys.refused) == ("etcd", (KID,))
    assert made.keys.encryption_key_files == ("new.key", "old.key")


STORE = "store: {etcd: {endpoints: ['http://[::1]:1']}}\n"


@pytest.mark.parametrize(
    ("text", "path", "found", "allowed"),
    [
        ("keys: {store: etcd}", "keys", "needs encryptionKeyFiles", "leeway keys encryption-key"),
        (
            "keys: {store: etcd, encryptionKeyFiles: [a]}",
            "keys.store is etcd", "there is no store.etcd", "keys.store: folder is allowed",
        ),
        ("keys: {store: sqlite}", "keys.store", "'sqlite'", "'folder' or 'etcd'"),
        ("keys: {encryptionKeyFiles: ['']}", "keys", "an empty path", "paths of files"),
        ("keys: {encryptionKeyFiles: [a, a]}", "keys", "'a' twice", "each once"),
        ('keys: {encryptionKeyFiles: ["\\0"]}', "keys", r"'\x00'", "without NUL"),
        ("keys: {encryptionKeyFiles: a}", "keys.encryptionKeyFiles", "'a'", "a list"),
        ("keys: {refused: [abc]}", "keys", "'abc'", "the kids that `leeway keys list` shows"),
        (f"keys: {{refused: ['{KID[:-1]}.']}}", "keys", "not shown", "43 letters, digits"),
    ],
)  # fmt: skip
def test_keys(text: str, path: str, found: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    message = str(raised.value)
    for part in (SOURCE, path, found, allowed):
        assert part in message


def test_keys_in_the_store() -> None:
    made = parse(f"{STORE}keys: {{store: etcd, encryptionKeyFiles: [a, b], refused: ['{KID}']}}")
    assert made.keys.encryption_key_files == ("a", "b")
    # To move the keys the other way the files are still needed.
    assert parse(f"{STORE}keys: {{encryptionKeyFiles: [a]}}").keys.store == "folder"
