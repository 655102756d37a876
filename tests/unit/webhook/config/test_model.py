"""Every configuration error names its source, the field, the value and what is allowed."""

import json
import re
from pathlib import Path

import pytest

from keys.keyring import Keyring
from keys.rotation import RotationPolicy
from webhook.assembly import (
    authenticator_of,
    issuer_keys_of,
    policy_of,
    rotation_policy_of,
)
from webhook.config.load import load_configuration, parse_configuration
from webhook.config.model import SIGNER_ALGORITHMS, Configuration, SignerSection
from webhook.config.section import Duration
from webhook.config.store import SQLiteSection
from webhook.errors import ConfigurationError, DataDirectoryError

CONTRACT = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.default.svc
jwksURI: ""
audiences: [https://kubernetes.default.svc]
leeway: {notBefore: 60s, issuedAt: 60s, expiry: 60s}
tokens:
  defaultExpiration: 1h
  minExpiration: 10m
  maxExpiration: 24h
  extend: true
trustedIssuers:
- url: https://kubernetes.default.svc.cluster.local
  audiences: [https://kubernetes.default.svc]
  keys: {jwksFile: cluster-jwks.json}
  legacy: false
server: {bind: 127.0.0.1:8443, workers: 2, maxBodyBytes: 3145728}
store: {sqlite: {path: auth.db}}
objects: {source: none}
mapping: {roleGroupPrefix: "leeway:role:"}
authorizer: {allowRoot: false}
signer: {socket: /run/leeway/signer.sock, refreshHint: 60s, group: ""}
"""
URL = "https://cluster.example"
SOURCE = "/data/leeway.yaml"


def parse(
    text: str, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Configuration:
    return parse_configuration(text, SOURCE, environment or {}, flags or {})


def test_file_of_the_contract() -> None:
    configuration = parse(CONTRACT)
    assert configuration.leeway.not_before == 60.0
    assert configuration.tokens.max_expiration == 86400.0
    (issuer,) = configuration.trusted_issuers
    assert issuer.keys.jwks_file == "cluster-jwks.json"
    assert not issuer.legacy
    assert configuration.server.workers == 2


DAY = 86400


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("{}", RotationPolicy(3600, 365 * DAY)),
        ("tokens: {extend: false}", RotationPolicy(3600, DAY)),
        ("tokens: {maxExpiration: 9000h}", RotationPolicy(3600, 375 * DAY)),
        (
            "tokens: {extend: false, maxExpiration: 1h}\n"
            "auth: {tokenProvider: jwt, authTokenTTL: 2h}",
            RotationPolicy(3600, 7200),
        ),
        (
            "keys: {rotateEvery: 30d, algorithm: ES256}",
            RotationPolicy(3600, 365 * DAY, 30 * DAY, "ES256"),
        ),
        ("keys: {rotateEvery: 0}", RotationPolicy(3600, 365 * DAY)),
        # A signer's tokens, which kube-apiserver extends, live for maxExpiration at most.
        ("signer: {}", RotationPolicy(3600, 365 * DAY, 0, "", 60, SIGNER_ALGORITHMS)),
        (
            "signer: {refreshHint: 1h}\ntokens: {maxExpiration: 9000h}",
            RotationPolicy(3600, 375 * DAY, 0, "", 3600, SIGNER_ALGORITHMS),
        ),
        (
            "signer: {refreshHint: 1500ms}\nkeys: {rotateEvery: 1d, algorithm: ES384}",
            RotationPolicy(3600, 365 * DAY, DAY, "ES384", 2, SIGNER_ALGORITHMS),
        ),
    ],
)
def test_rotation_of_signing_keys(text: str, policy: RotationPolicy) -> None:
    assert rotation_policy_of(parse(text)) == policy


def test_defaults_are_those_of_the_contract() -> None:
    without = CONTRACT[: CONTRACT.index("trustedIssuers")] + CONTRACT[CONTRACT.index("server") :]
    given, default = parse(without), parse("{}")
    assert given.leeway.issued_at_seconds == default.leeway.issued_at_seconds == 60
    for field in Configuration.__struct_fields__:
        if field not in ("leeway", "signer"):
            assert getattr(given, field) == getattr(default, field), field
    assert given.leeway.not_before == default.leeway.not_before
    assert given.leeway.expiry == default.leeway.expiry
    # Whether there is a section says whether the signer is used.
    assert default.signer is None
    assert given.signer == given.signer_settings == default.signer_settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("{}", 60),
        ("leeway: {notBefore: 30s}", 60),
        ("leeway: {notBefore: 120s}", 120),
        ("leeway: {notBefore: 120s, issuedAt: 60s}", 60),
        ("leeway: {notBefore: 120s, issuedAt: 0s}", 0),
        ("leeway: {issuedAt: 300s}", 300),
    ],
)
def test_issued_at_follows_not_before(text: str, seconds: float) -> None:
    assert parse(text).leeway.issued_at_seconds == seconds


@pytest.mark.parametrize(
    ("text", "path", "found", "allowed"),
    [
        ("x: 1", "", "x", "apiVersion, kind, issuer, jwksURI, audiences, leeway"),
        ("Issuer: a", "", "Issuer", "issuer"),
        ("leeway: {notbefore: 1s}", "leeway", "notbefore", "notBefore, issuedAt, expiry"),
        ("server: {sqlite: {}}", "server", "sqlite", "bind, workers, maxBodyBytes"),
        ("store: {sqlite: {file: a}}", "store.sqlite", "file", "path"),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{jwksFile: a}}, x: 1}}]",
            "trustedIssuers[0]", "x", "url, keys, audiences, legacy",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{file: a}}}}]",
            "trustedIssuers[0].keys", "file", "jwksFile, publicKeyFiles",
        ),
        ("apiVersion: leeway.dev/v2", "", "leeway.dev/v2", "leeway.dev/v1"),
        ("apiVersion: 1", "apiVersion", "1", "str"),
        ("kind: Configuration", "", "Configuration", "LeewayConfiguration"),
        ("leeway: {notBefore: false}", "leeway.notBefore", "False", "60s"),
        ("keys: {rotateEvery: false}", "keys.rotateEvery", "False", "60s"),
        ("store: {sqlite: {path: ''}}", "store.sqlite", "empty", "auth.db"),
        (r'store: {sqlite: {path: "a\0b"}}', "store.sqlite", r"a\x00b", "without NUL"),
        (r'objects: {file: {path: "a\0b"}}', "objects.file", r"a\x00b", "without NUL"),
        (
            r'objects: {kubernetes: {kubeconfig: "a\0b"}}',
            "objects.kubernetes", r"a\x00b", "without NUL",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{publicKeyFiles: [\"a\\0\"]}}}}]",
            "trustedIssuers[0].keys", r"a\x00", "without NUL",
        ),
        ("issuer: http://a.example", "issuer", "http://a.example", "https URL"),
        ("issuer: https://a.example?x", "issuer", "not shown", "without query"),
        ("issuer: https://a.example#x", "issuer", "not shown", "fragment"),
        ("issuer: https://u@a.example", "issuer", "not shown", "https URL"),
        ("issuer: ''", "issuer", "''", "https URL"),
        ("issuer: 5", "issuer", "5", "str"),
        ("issuer:", "issuer", "null", "str"),
        ("jwksURI: http://a.example/x", "jwksURI", "http://a.example/x", "https URL"),
        ("audiences: []", "audiences", "[]", "entries"),
        ("audiences: ['']", "audiences", "['']", "empty"),
        ("audiences: ['é']", "audiences", "é", "ASCII"),
        ("audiences: a", "audiences", "'a'", "expected a list"),
        ("audiences: [1]", "audiences[0]", "1", "str"),
        ("leeway: {notBefore: 301s}", "leeway", "5m1s", "0s to 5m"),
        ("leeway: {notBefore: 1h}", "leeway", "1h", "0s to 5m"),
        ("leeway: {issuedAt: 301s}", "leeway", "5m1s", "0s to 5m"),
        ("leeway: {expiry: 301s}", "leeway", "5m1s", "0s to 5m"),
        ("leeway: {notBefore: -1s}", "leeway.notBefore", "'-1s'", "60s, 10m or 1h30m"),
        ("leeway: {notBefore: 60}", "leeway.notBefore", "60", "with a unit"),
        ("leeway: {issuedAt: 60}", "leeway.issuedAt", "60", "with a unit"),
        ("leeway: {notBefore: 1 minute}", "leeway.notBefore", "'1 minute'", "60s, 10m or 1h30m"),
        ("leeway: {notBefore: true}", "leeway.notBefore", "True", "with a unit"),
        ("leeway: {notBefore: [1]}", "leeway.notBefore", "[1]", "with a unit"),
        ("leeway: []", "leeway", "[]", "object"),
        ("tokens: {minExpiration: 9m59s}", "tokens", "9m59s", "10m to"),
        ("tokens: {maxExpiration: 5m}", "tokens", "5m", "10m to"),
        ("tokens: {maxExpiration: 60000d}", "tokens", "1440000h", "10m to"),
        ("tokens: {defaultExpiration: 25h}", "tokens", "25h", "10m to 24h"),
        ("tokens: {minExpiration: 2h}", "tokens", "1h", "2h to 24h"),
        ("keys: {rotateEvery: 1h}", "keys", "1h", "24h to 87600h"),
        ("keys: {rotateEvery: 4000d}", "keys", "96000h", "24h to 87600h"),
        ("keys: {rotateEvery: 30}", "keys.rotateEvery", "30", "with a unit"),
        ("keys: {algorithm: HS256}", "keys.algorithm", "'HS256'", "'RS256' or 'ES256'"),
        ("keys: {algorithm: EdDSA}\nsigner: {}", "", "'EdDSA'", "RS256, ES256, ES384, ES512 are"),
        ("signer: {socket: signer.sock}", "signer", "'signer.sock'", "the absolute path"),
        ("signer: {socket: '@leeway'}", "signer", "'@leeway'", "no abstract socket"),
        (r'signer: {socket: "\0leeway"}', "signer", r"'\x00leeway'", "no abstract socket"),
        ("signer: {socket: /run/leeway/}", "signer", "'/run/leeway/'", "the absolute path"),
        ("signer: {socket: ''}", "signer", "''", "the absolute path"),
        (f"signer: {{socket: /{'s' * 107}}}", "signer", "sss", "of at most 107 bytes"),
        ("signer: {socket: /run/a%41/b}", "signer", "'/run/a%41/b'", "without %, ? and #"),
        ("signer: {refreshHint: 0s}", "signer", "0s", "1s to 1h"),
        ("signer: {refreshHint: 61m}", "signer", "1h1m", "1s to 1h"),
        ("signer: {refreshHint: 60}", "signer.refreshHint", "60", "with a unit"),
        ("signer: {group: 'a:b'}", "signer", "'a:b'", "name or number of a group"),
        ("signer: {sockets: a}", "signer", "sockets", "socket, refreshHint, group"),
        ("signer: true", "signer", "true", "an object"),
        ("tokens: {extend: 1}", "tokens.extend", "1", "expected true or false"),
        ("tokens: {extend: 'no'}", "tokens.extend", "'no'", "expected true or false"),
        ("server: {bind: '8443'}", "server", "'8443'", "HOST:PORT"),
        ("server: {bind: 'a:65536'}", "server", "'a:65536'", "HOST:PORT"),
        ("server: {bind: ':8443'}", "server", "':8443'", "HOST:PORT"),
        ("server: {bind: '::1:8443'}", "server", "'::1:8443'", "HOST:PORT"),
        ("server: {workers: 0}", "server", "0", "1 to 64"),
        ("server: {workers: 65}", "server", "65", "1 to 64"),
        ("server: {workers: two}", "server.workers", "'two'", "expected a whole number"),
        ("server: {workers: 1.5}", "server.workers", "1.5", "expected a whole number"),
        ("server: {workers: true}", "server.workers", "true", "expected a whole number"),
        ("server: {maxBodyBytes: 1023}", "server", "1023", "1024 to"),
        ("server: {maxBodyBytes: 67108865}", "server", "67108865", "67108864"),
        ("server: {maxWorkerBytes: 134217727}", "server", "134217727", "134217728 to"),
        ("server: {maxWorkerBytes: 68719476737}", "server", "68719476737", "68719476736"),
        ("server: {maxWorkerBytes: 384Mi}", "server.maxWorkerBytes", "'384Mi'", "a whole number"),
        ("objects: {source: magic}", "objects.source", "'magic'", "none"),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{}}}}]",
            "trustedIssuers[0].keys", "", "jwksFile, publicKeyFiles, jwksURL and discoveryURL",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{jwksFile: a, publicKeyFiles: [b]}}}}]",
            "trustedIssuers[0].keys", "", "jwksFile, publicKeyFiles, jwksURL and discoveryURL",
        ),
        *[
            (
                f"trustedIssuers: [{{url: '{URL}', keys: {{{keys}}}}}]",
                "trustedIssuers[0].keys", found, allowed,
            )
            for keys, found, allowed in [
                ("jwksURL: 'http://a.example/keys'", "'http://a.example/keys'", "https URL"),
                ("jwksURL: 'https://u@a.example'", "not shown", "without a user"),
                ("jwksURL: 'https://a.example/#x'", "not shown", "fragment"),
                ("jwksURL: a", "jwksURL is 'a'", "https URL"),
                ("discoveryURL: 'http://a'", "discoveryURL is 'http://a'", "https URL"),
                ("jwksURL: 'https://a', discoveryURL: 'https://a'", "jwksURL", "one of jwksFile"),
                ("jwksURL: 'https://a', jwksFile: a", "jwksURL", "one of jwksFile"),
                ("discoveryURL: 'https://a', publicKeyFiles: [a]", "", "one of jwksFile"),
                ("jwksFile: a, caFile: b", "caFile", "need jwksURL or discoveryURL"),
                ("publicKeyFiles: [a], tokenFile: b", "tokenFile", "need jwksURL or discoveryURL"),
                ("caFile: b", "", "one of jwksFile"),
                ("jwksURI: 'https://a'", "jwksURI", "jwksURL, discoveryURL, caFile, tokenFile"),
            ]
        ],
        (f"trustedIssuers: [{{url: '{URL}'}}]", "trustedIssuers[0]", "keys", "required"),
        (
            "trustedIssuers: [{url: kubernetes/serviceaccount, legacy: true,"
            " keys: {discoveryURL: 'https://a'}}]",
            "trustedIssuers[0]", "kubernetes/serviceaccount", "with keys.discoveryURL an https URL",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{jwksFile: a}}, leeway: {{expiry: 301s}}}}]",
            "trustedIssuers[0].leeway", "5m1s", "0s to 5m",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{jwksFile: a}}, leeway: {{expiry: 5}}}}]",
            "trustedIssuers[0].leeway.expiry", "5", "with a unit",
        ),
        (
            f"trustedIssuers: [{{url: '{URL}', keys: {{jwksFile: a}}, leeway: {{exp: 5s}}}}]",
            "trustedIssuers[0].leeway", "exp", "notBefore, issuedAt, expiry",
        ),
        (
            "trustedIssuers: [{url: 'http://a', keys: {jwksURL: 'https://a'}}]",
            "trustedIssuers[0]", "http://a", "with keys.jwksURL an https URL",
        ),
        (
            "trustedIssuers: [{url: kubernetes/serviceaccount, keys: {jwksURL: 'https://a'}}]",
            "trustedIssuers[0]", "kubernetes/serviceaccount", "with keys.jwksURL an https URL",
        ),
        (
            "trustedIssuers: [{url: '', keys: {jwksFile: a}}]",
            "trustedIssuers[0]", "''", "is not empty",
        ),
        (
            'trustedIssuers: [{url: "a\\e[31m", keys: {jwksFile: a}}]',
            "trustedIssuers[0]", r"'a\x1b[31m'", "no control characters",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) and ":" in value else "",
)  # fmt: skip
def test_error_names_source_path_found_and_allowed(
    text: str, path: str, found: str, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    message = str(raised.value)
    assert message.startswith(f"{SOURCE}: ")
    assert path in message
    assert found in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "environment", "flags", "start"),
    [
        (r'issuer: "https://\ud800.example"', {}, {}, f"{SOURCE}: issuer: "),
        (r'jwksURI: "https://a.example/\udfff"', {}, {}, f"{SOURCE}: jwksURI: "),
        # Both halves, of which YAML makes no pair.
        (r'issuer: "https://\ud83d\ude00.example"', {}, {}, f"{SOURCE}: issuer: "),
        (r'audiences: [a, "\ud800"]', {}, {}, f"{SOURCE}: audiences[1]: "),
        (r'audiences: !!set {"\ud800"}', {}, {}, f"{SOURCE}: audiences[0]: "),
        (r'leeway: {expiry: "\ud800"}', {}, {}, f"{SOURCE}: leeway.expiry: "),
        (r'server: {logLevel: "\ud800"}', {}, {}, f"{SOURCE}: server.logLevel: "),
        (r'server: {bind: "\ud800:1"}', {}, {}, f"{SOURCE}: server.bind: "),
        (r'store: {sqlite: {path: "\ud800"}}', {}, {}, f"{SOURCE}: store.sqlite.path: "),
        (r'objects: {file: {path: "\ud800"}}', {}, {}, f"{SOURCE}: objects.file.path: "),
        (
            r'objects: {kubernetes: {context: "\ud800"}}', {}, {},
            f"{SOURCE}: objects.kubernetes.context: ",
        ),
        (
            r'mapping: {roleGroupPrefix: "\ud800"}', {}, {},
            f"{SOURCE}: mapping.roleGroupPrefix: ",
        ),
        (
            r'trustedIssuers: [{url: "https://\ud800", keys: {jwksFile: a}}]', {}, {},
            f"{SOURCE}: trustedIssuers[0].url: ",
        ),
        (
            f'trustedIssuers: [{{url: "{URL}", keys: {{publicKeyFiles: [a, "\\udc80"]}}}}]', {}, {},
            f"{SOURCE}: trustedIssuers[0].keys.publicKeyFiles[1]: ",
        ),
        (r'a: &a {b: *a, c: "\ud800"}', {}, {}, f"{SOURCE}: a.c: "),
        # Names.
        (r'"\ud800": 1', {}, {}, f"{SOURCE}: found "),
        (r'server: {"\ud800": 1}', {}, {}, f"{SOURCE}: server: found "),
        (r'trustedIssuers: [{"\ud800": 1}]', {}, {}, f"{SOURCE}: trustedIssuers[0]: found "),
        # Bytes that are not UTF-8 arrive as lone surrogates.
        (
            "{}", {"LEEWAY_ISSUER": "https://\udc80"}, {},
            "environment variable LEEWAY_ISSUER: issuer: ",
        ),
        ("{}", {}, {"server.bind": "\udc80:1"}, "flag --bind: server.bind: "),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_half_a_surrogate_pair_is_refused_everywhere(
    text: str, environment: dict[str, str], flags: dict[str, object], start: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text, environment, flags)
    message = str(raised.value)
    assert message.startswith(start)
    assert re.search(r"found '.*\\ud[8c-f]\S+'; text that UTF-8 can encode is allowed", message)
    assert message.isprintable()
    message.encode("utf-8")


def test_a_duplicate_name_is_shown_escaped() -> None:
    found = r"at line 2, column 1: the field \\ud800 appears twice"
    with pytest.raises(ConfigurationError, match=found) as raised:
        parse('"\\ud800": 1\n"\\ud800": 2')
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "text", "a: [", "\tx: 1", "a: 1\na: 2", "leeway: {expiry: 1s, expiry: 2s}",
     "{" * 5000, "!!python/object/apply:os.system [id]", "a: *x", "a: !!binary x", "1: 2",
     "? [a]\n: b", "issuer: 2020-13-45", "server: {workers: 0b_}", "a: " + "9" * 5000,
     "a: !!int ''", "a: !!bool x", "a: !!timestamp x"],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_text_that_is_not_a_configuration(text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert str(raised.value).startswith(SOURCE)


def test_file_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="leeway init") as raised:
        load_configuration(tmp_path, {}, {})
    assert str(tmp_path / "leeway.yaml") in str(raised.value)
    (tmp_path / "leeway.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8; save it as UTF-8"):
        load_configuration(tmp_path, {}, {})
    (tmp_path / "leeway.yaml").write_text("server: {workers: 3}")
    assert load_configuration(tmp_path, {}, {}).server.workers == 3


@pytest.mark.parametrize(
    ("environment", "flags", "bind"),
    [
        ({}, {}, "file:1"),
        ({"LEEWAY_SERVER_BIND": "env:2"}, {}, "env:2"),
        ({"LEEWAY_SERVER_BIND": "env:2"}, {"server.bind": None}, "env:2"),
        ({"LEEWAY_SERVER_BIND": "env:2"}, {"server.bind": "flag:3"}, "flag:3"),
        ({}, {"server.bind": "flag:3"}, "flag:3"),
    ],
)
def test_flag_beats_environment_beats_file(
    environment: dict[str, str], flags: dict[str, object], bind: str
) -> None:
    assert parse("server: {bind: 'file:1'}", environment, flags).server.bind == bind
    if environment or flags.get("server.bind"):
        assert parse("{}", environment, flags).server.bind == bind


def test_every_field_can_be_set_in_the_environment() -> None:
    environment = {
        "LEEWAY_ISSUER": "https://env.example",
        "LEEWAY_JWKS_URI": "https://env.example/keys",
        "LEEWAY_AUDIENCES": "a, b",
        "LEEWAY_LEEWAY_NOT_BEFORE": "1s",
        "LEEWAY_LEEWAY_ISSUED_AT": "2s",
        "LEEWAY_LEEWAY_EXPIRY": "3s",
        "LEEWAY_TOKENS_DEFAULT_EXPIRATION": "20m",
        "LEEWAY_TOKENS_MIN_EXPIRATION": "11m",
        "LEEWAY_TOKENS_MAX_EXPIRATION": "2h",
        "LEEWAY_TOKENS_EXTEND": "false",
        "LEEWAY_SERVER_BIND": "0.0.0.0:1",
        "LEEWAY_SERVER_WORKERS": "5",
        "LEEWAY_SERVER_MAX_BODY_BYTES": "2048",
        "LEEWAY_SERVER_MAX_WORKER_BYTES": "268435456",
        "LEEWAY_STORE_SQLITE_PATH": "other.db",
        "LEEWAY_OBJECTS_SOURCE": "none",
        "LEEWAY_MAPPING_ROLE_GROUP_PREFIX": "",
        "LEEWAY_AUTHORIZER_ALLOW_ROOT": "true",
        "LEEWAY_SIGNER_SOCKET": "/run/other.sock",
        "LEEWAY_SIGNER_REFRESH_HINT": "5m",
        "LEEWAY_SIGNER_GROUP": "1001",
        "PATH": "/bin",
        "LEEWAY_DATA_DIR": "/x",
    }
    made = parse(CONTRACT, environment)
    assert made.issuer == "https://env.example"
    assert made.jwks_uri == "https://env.example/keys"
    assert made.audiences == ("a", "b")
    leeway = made.leeway
    assert (leeway.not_before, leeway.issued_at_seconds, leeway.expiry) == (1.0, 2.0, 3.0)
    tokens = made.tokens
    assert (tokens.default_expiration, tokens.min_expiration, tokens.max_expiration) == (
        1200.0, 660.0, 7200.0,
    )  # fmt: skip
    assert not tokens.extend
    assert (made.server.bind, made.server.workers) == ("0.0.0.0:1", 5)
    assert made.server.max_body_bytes == 2048
    assert made.server.max_worker_bytes == 268435456
    assert made.store.sqlite == SQLiteSection(path="other.db")
    assert made.mapping.role_group_prefix == ""
    assert made.authorizer.allow_root
    assert made.signer == SignerSection(
        socket="/run/other.sock", refresh_hint=Duration(300), group="1001"
    )
    assert parse("{}", {"LEEWAY_SIGNER_GROUP": "kube"}).signer == SignerSection(group="kube")


LONGER = {"LEEWAY_TOKENS_DEFAULT_EXPIRATION": "48h", "LEEWAY_TOKENS_MAX_EXPIRATION": "72h"}


@pytest.mark.parametrize(
    ("text", "environment", "flags", "bind", "hours"),
    [
        ("{}", LONGER, {}, "127.0.0.1:8443", 48),
        (
            "tokens: {defaultExpiration: 48h}", {"LEEWAY_TOKENS_MAX_EXPIRATION": "72h"}, {},
            "127.0.0.1:8443", 48,
        ),
        ("server: {bind: x}", {}, {"server.bind": "a:1"}, "a:1", 1),
        ("{}", {"LEEWAY_SERVER_BIND": "x"}, {"server.bind": "a:1"}, "a:1", 1),
        ("server: {bind: x}", {"LEEWAY_SERVER_BIND": "a:1"}, {}, "a:1", 1),
    ],
)  # fmt: skip
def test_sources_are_validated_together(
    text: str, environment: dict[str, str], flags: dict[str, object], bind: str, hours: int
) -> None:
    configuration = parse(text, environment, flags)
    assert configuration.server.bind == bind
    assert configuration.tokens.default_expiration == hours * 3600.0


@pytest.mark.parametrize(
    ("environment", "flags", "source"),
    [
        ({"LEEWAY_SERVER_WORKERS": "many"}, {}, "environment variable LEEWAY_SERVER_WORKERS: "),
        ({"LEEWAY_SERVER_WORKERS": "0"}, {}, "environment variable LEEWAY_SERVER_WORKERS: "),
        ({"LEEWAY_SERVER_WORKERS": "٣"}, {}, "environment variable LEEWAY_SERVER_WORKERS: "),
        ({"LEEWAY_SERVER_WORKERS": "²"}, {}, "environment variable LEEWAY_SERVER_WORKERS: "),
        ({"LEEWAY_TOKENS_EXTEND": "yes"}, {}, "environment variable LEEWAY_TOKENS_EXTEND: "),
        ({"LEEWAY_LEEWAY_EXPIRY": "1h"}, {}, "environment variable LEEWAY_LEEWAY_EXPIRY: "),
        ({"LEEWAY_AUDIENCES": ""}, {}, "environment variable LEEWAY_AUDIENCES: "),
        ({"LEEWAY_ISSUER": "x"}, {}, "environment variable LEEWAY_ISSUER: "),
        ({}, {"server.bind": "x"}, "flag --bind: "),
        ({}, {"server.workers": 0}, "flag --workers: "),
        ({"LEEWAY_SERVER_BIND": "a:1"}, {"server.workers": 0}, "flag --workers: "),
        # Two that are valid together, and one that is not.
        (
            LONGER | {"LEEWAY_SERVER_WORKERS": "0"}, {},
            "environment variable LEEWAY_SERVER_WORKERS: ",
        ),
        (
            LONGER | {"LEEWAY_TOKENS_MAX_EXPIRATION": "30h"}, {},
            "environment variable LEEWAY_TOKENS_DEFAULT_EXPIRATION: ",
        ),
        # Two that are wrong: the first of them.
        (
            {"LEEWAY_SERVER_WORKERS": "0", "LEEWAY_ISSUER": "x"}, {"server.bind": "x"},
            "environment variable LEEWAY_ISSUER: ",
        ),
    ],
)  # fmt: skip
def test_error_names_environment_or_flag(
    environment: dict[str, str], flags: dict[str, object], source: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse("{}", environment, flags)
    assert str(raised.value).startswith(source)


@pytest.mark.parametrize(
    "text", ["server:", "server: []", "server: x", "leeway: 1", "tokens: [1]", "store: {sqlite: 1}"]
)
def test_section_of_another_type_beside_environment_and_flags(text: str) -> None:
    environment = {"LEEWAY_LEEWAY_EXPIRY": "1s", "LEEWAY_STORE_SQLITE_PATH": "x"}
    with pytest.raises(ConfigurationError) as raised:
        parse(text, environment, {"server.bind": "a:1"})
    assert str(raised.value).startswith(SOURCE)


@pytest.mark.parametrize(
    ("general", "own", "seconds"),
    [
        ("{}", "{}", (60, 60, 60)),
        ("{expiry: 5s}", "{}", (60, 60, 5)),
        ("{expiry: 5s}", "{notBefore: 90s}", (90, 90, 5)),
        ("{expiry: 5s}", "{expiry: 0s}", (60, 60, 0)),
        ("{notBefore: 100s}", "{notBefore: 0s}", (0, 60, 60)),
        ("{issuedAt: 10s}", "{notBefore: 90s}", (90, 10, 60)),
        ("{issuedAt: 10s}", "{issuedAt: 70s}", (60, 70, 60)),
        ("{notBefore: 10s, expiry: 20s}", "{issuedAt: 300s}", (10, 300, 20)),
    ],
)
def test_leeway_of_one_issuer(
    tmp_path: Path, general: str, own: str, seconds: tuple[float, float, float]
) -> None:
    keys = "keys: {jwksURL: 'https://a.example'}"
    issuers = f"trustedIssuers: [{{url: '{URL}', {keys}, leeway: {own}}}]"
    configuration = parse(f"leeway: {general}\n{issuers}")
    (issuer,) = issuer_keys_of(tmp_path, configuration).issuers
    leeway = issuer.leeway
    assert leeway is not None
    assert (leeway.not_before, leeway.issued_at, leeway.expiry) == seconds


@pytest.mark.parametrize("url", ["https://a.example/keys?appid=1", "https://192.0.2.2:16443/x"])
def test_remote_keys(tmp_path: Path, url: str) -> None:
    for name in ("jwksURL", "discoveryURL"):
        keys = f"{{{name}: '{url}', caFile: ca.crt, tokenFile: /var/run/token}}"
        configuration = parse(f"trustedIssuers: [{{url: '{URL}', keys: {keys}}}]")
        section = configuration.trusted_issuers[0].keys
        assert (section.ca_file, section.token_file) == ("ca.crt", "/var/run/token")
        issuer_keys = issuer_keys_of(tmp_path, configuration)
        assert issuer_keys.issuers[0].keys == {}
        assert f"the keys of issuer {URL} have not been fetched yet" in issuer_keys.problem()


@pytest.mark.fault(55)
@pytest.mark.parametrize("prefix", ["system:", "system:x:", "system", "sys", "s"])
def test_no_role_becomes_a_group_of_kubernetes(prefix: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(f"mapping: {{roleGroupPrefix: '{prefix}'}}")
    text = str(raised.value)
    assert f"{SOURCE}: mapping: roleGroupPrefix is {prefix!r}" in text
    assert "system:masters" in text


@pytest.mark.parametrize("prefix", ["", "leeway:role:", "systems:", "a:system:", "System:", "x"])
def test_other_prefixes_of_role_groups(prefix: str) -> None:
    assert parse(f"mapping: {{roleGroupPrefix: '{prefix}'}}").mapping.role_group_prefix == prefix


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    "url",
    [
        "kubernetes/serviceaccount",
        "kubernetes.default.svc",
        '"aks-cluster-1.hcp.example.azmk8s.io"',
        "http://a.example?x#y",
        "clúster 7",
        URL,
    ],
)
@pytest.mark.parametrize("keys", ["publicKeyFiles: [a]", "jwksFile: a"])
def test_the_issuer_of_keys_in_files_may_be_any_text(url: str, keys: str) -> None:
    section = f"{{url: {json.dumps(url)}, legacy: true, keys: {{{keys}}}}}"
    (issuer,) = parse(f"trustedIssuers: [{section}]").trusted_issuers
    assert (issuer.url, issuer.legacy) == (url, True)


@pytest.mark.fault(5)
def test_entries_may_share_an_issuer_also_our_own(tmp_path: Path) -> None:
    entries = [
        f"{{url: '{URL}', keys: {{jwksURL: '{URL}/a'}}, audiences: [a], leeway: {{expiry: 1s}}}}",
        f"{{url: '{URL}', keys: {{jwksURL: '{URL}/b'}}, legacy: true}}",
        f"{{url: 'https://leeway.default.svc', keys: {{jwksURL: '{URL}/c'}}}}",
    ]
    configuration = parse(f"trustedIssuers: [{', '.join(entries)}]")
    first, second, own = issuer_keys_of(tmp_path, configuration).issuers
    assert (first.url, second.url, own.url) == (URL, URL, configuration.issuer)
    assert (first.audiences, first.legacy) == (("a",), False)
    assert (second.audiences, second.legacy) == (configuration.audiences, True)
    assert first.leeway is not None
    assert second.leeway is not None
    assert (first.leeway.expiry, second.leeway.expiry) == (1, 60)


def test_configuration_reaches_the_parts(tmp_path: Path) -> None:
    configuration = parse("leeway: {notBefore: 7s, expiry: 9s}\ntokens: {maxExpiration: 2h}")
    policy = policy_of(configuration)
    assert (policy.default_seconds, policy.min_seconds, policy.max_seconds) == (3600, 600, 7200)
    authenticator = authenticator_of(tmp_path, configuration, Keyring())
    leeway = authenticator._leeway
    assert (leeway.not_before, leeway.issued_at, leeway.expiry) == (7, 60, 9)
