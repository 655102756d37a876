import json

import pytest

from webhook.errors import KeysUnavailableError
from webhook.https_url import parse_https_url
from webhook.trusted_issuers.documents import parse_openid_configuration, refresh_seconds

ISSUER = "https://a.example"


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("https://a.example", "a.example", 443, "/", "a.example"),
        ("https://A.Example:443/x/y?z=1&a", "a.example", 443, "/x/y?z=1&a", "a.example"),
        ("https://a:6443?x", "a", 6443, "/?x", "a:6443"),
        ("https://192.0.2.2:16443/openid/v1/jwks", "192.0.2.2", 16443, "/openid/v1/jwks",
         "192.0.2.2:16443"),
        ("https://[2001:DB8::1]/x", "2001:db8::1", 443, "/x", "[2001:db8::1]"),
        ("https://[::1]:8443", "::1", 8443, "/", "[::1]:8443"),
    ],
)  # fmt: skip
def test_url(url: str, host: str, port: int, target: str, authority: str) -> None:
    address = parse_https_url(url)
    assert (address.url, address.host, address.port, address.target) == (url, host, port, target)
    assert address.authority == authority


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(
    "url",
    ["", "https://", "http://a.example", "HTTPS://a.example", "file:///etc/passwd", "//a.example",
     "https://user@a.example", "https://user:pass@a.example/x", "https://a.example/#x",
     "https://a.example:0", "https://a.example:65536", "https://a.example:x", "https://a.example:",
     "https://a b/", "https://a/ x", "https://a/\r\nX: y", "https://a\n", "https://a/é",
     "https://é.example", "https://[::1", "https://::1/", "https://a\\b", "https:/a", "https://-a",
     "https://a@b", "https://?x", "https://" + "a" * 300],
)  # fmt: skip
def test_url_that_is_not_fetched(url: str) -> None:
    with pytest.raises(ValueError, match="an https URL without user and fragment is allowed"):
        parse_https_url(url)


def document(**changes: object) -> bytes:
    members = {"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks"} | changes
    return json.dumps({name: value for name, value in members.items() if value != ""}).encode()


def test_openid_configuration() -> None:
    address = parse_openid_configuration(document(response_types_supported=["id_token"]), ISSUER)
    assert address == parse_https_url("https://keys.example/jwks")


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "issuer 'None'; it must say 'https://a.example'"),
        (document(issuer="https://a.example/"), "issuer 'https://a.example/'"),
        (document(issuer="https://A.example"), "issuer 'https://A.example'"),
        (document(issuer="https://b.example"), "issuer 'https://b.example'"),
        (document(issuer=["https://a.example"]), "it must say"),
        (document(issuer="x" * 10000), "it must say"),
        (b'{"issuer":"https://b.example",' + document()[1:], "appears twice"),
        (document(jwks_uri=""), "has no jwks_uri"),
        (document(jwks_uri=None), "has no jwks_uri"),
        (document(jwks_uri="http://a.example/x"), "'http://a.example/x'; an https URL"),
        (document(jwks_uri="/x"), "an https URL"),
        (document(jwks_uri="https://u:p@a.example"), "an https URL"),
        (document(jwks_uri="https://a/\r\nX: y"), "an https URL"),
    ],
)
def test_bad_openid_configuration(data: bytes, why: str) -> None:
    with pytest.raises(KeysUnavailableError) as raised:
        parse_openid_configuration(data, ISSUER)
    text = str(raised.value)
    assert text.startswith("the ")
    assert why in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", 300),
        ("public", 300),
        ("max-age=0", 300),
        ("max-age=299", 300),
        ("max-age=301", 301),
        ("public, max-age=3600", 3600),
        ("max-age=3601", 3600),
        ("max-age=31536000, immutable", 3600),
        ("max-age=" + "9" * 18, 3600),
        ("max-age=" + "9" * 19, 300),
        ('Public , MAX-AGE="900"', 900),
        ("s-maxage=900", 300),
        ("max-age=-900", 300),
        ("max-age=9e2", 300),
        ("max-age=900, no-store", 300),
        ("no-cache, max-age=900", 300),
    ],
)
def test_refresh_is_within_five_minutes_and_an_hour(cache_control: str, seconds: float) -> None:
    assert refresh_seconds(cache_control) == seconds
