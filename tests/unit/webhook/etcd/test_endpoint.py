"""The URLs of endpoints."""

import pytest

from webhook.etcd.endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("url", "target", "is_encrypted"),
    [
        ("https://10.0.0.1:2379", "dns:///10.0.0.1:2379", True),
        ("https://etcd-0.etcd.ns.svc:2379/", "dns:///etcd-0.etcd.ns.svc:2379", True),
        ("https://[2001:db8::1]:2379", "dns:///[2001:db8::1]:2379", True),
        ("http://127.0.0.1:1", "dns:///127.0.0.1:1", False),
    ],
)
def test_endpoints(url: str, target: str, is_encrypted: bool) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.url, endpoint.target, endpoint.is_encrypted) == (url, target, is_encrypted)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.1:2379",
        "https://10.0.0.1",
        "https://10.0.0.1:0",
        "https://10.0.0.1:65536",
        "https://10.0.0.1:2379/path",
        "https://10.0.0.1:2379?a=b",
        "https://a b:2379",
        "https://a:2379\n",
        "unix:///run/etcd.sock:1",
        "HTTPS://10.0.0.1:2379",
        "https://-a:2379",
    ],
)
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError, match="is not an endpoint of etcd"):
        parse_endpoint(url)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ValueError, match="is not an endpoint") as caught:
        parse_endpoint("https://user:Ht5Mx8Zb1@10.0.0.1:2379")
    assert "Ht5Mx8Zb1" not in str(caught.value)
