"""Which requests count as those of a page of another site."""

import pytest

from webhook.server.request.cross_site import refuse_cross_site
from webhook.server.request.message import Headers, Request, RequestError

pytestmark = pytest.mark.fault(56)
HOST = (b"host", b"leeway.example:8443")
OWN = (b"origin", b"https://leeway.example:8443")


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        pytest.param([HOST], True, id="no browser"),
        pytest.param([HOST, OWN], True, id="own page"),
        pytest.param([OWN, HOST], True, id="in any order"),
        pytest.param([HOST, (b"origin", b"https://LEEWAY.example:8443")], True, id="case"),
        pytest.param(
            [(b"host", b"leeway.example"), (b"origin", b"https://leeway.example:443")],
            True,
            id="default port",
        ),
        pytest.param(
            [(b"host", b"leeway.example:443"), (b"origin", b"https://leeway.example")],
            True,
            id="default port in Host",
        ),
        pytest.param([(b"host", b"[::1]:8443"), (b"origin", b"https://[::1]:8443")], True, id="v6"),
        pytest.param([OWN], False, id="without Host"),
        pytest.param([(b"host", b""), (b"origin", b"https://")], False, id="empty Host"),
        pytest.param([HOST, OWN, (b"origin", b"null")], False, id="a second origin"),
        pytest.param([HOST, (b"origin", b"https://leeway.example")], False, id="another port"),
        pytest.param([HOST, (b"origin", b"\xff\x00")], False, id="no text"),
        pytest.param([HOST, OWN, (b"sec-fetch-site", b"same-site")], False, id="same site"),
        pytest.param([HOST, OWN, (b"sec-fetch-site", b"")], False, id="empty"),
    ],
)
def test_a_change(headers: list[tuple[bytes, bytes]], is_served: bool) -> None:
    request = Request("POST", "/v3/auth/disable", headers=Headers(headers))
    if is_served:
        refuse_cross_site(request)
    else:
        with pytest.raises(RequestError) as caught:
            refuse_cross_site(request)
        assert caught.value.code == 403
    request.method = "GET"
    refuse_cross_site(request)
