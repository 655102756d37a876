"""Refuses requests that a page of another site makes a browser send.

A browser that holds a client certificate shows it with every request, whichever page has caused it.
A request that changes something must therefore come from a page of this server, or from no page.

Source: Go ``net/http/csrf.go`` (CrossOriginProtection); W3C Fetch Metadata, ``Sec-Fetch-Site``.
"""

from typing import Final

from webhook.server.request.message import Request, RequestError

_SAFE_METHODS: Final = ("GET", "HEAD")
# "none" is a request that the user made, as with a bookmark.
_OWN_SITES: Final = (b"same-origin", b"none")
_DEFAULT_PORT: Final = b":443"


def refuse_cross_site(request: Request) -> None:
    """Raise an error for a request that a page of another site may have caused.

    Checks, in order:

    1. GET and HEAD change nothing here, and pass.
    2. Each ``Sec-Fetch-Site`` is ``same-origin`` or ``none``. A page on another port of this host
       is ``same-site``, and another origin.
    3. Each ``Origin`` is https and the ``Host`` that was asked. Older browsers send it alone.
       A name that an attacker made resolve to this server is not one of its certificate.

    Programs other than browsers send neither field. Raises RequestError 403.
    """
    # Check 1.
    if request.method in _SAFE_METHODS:
        return
    host = b""
    origins: list[bytes] = []
    for name, value in request.headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origins.append(value)
        # Check 2.
        elif name == b"sec-fetch-site" and value not in _OWN_SITES:
            raise _refused("Sec-Fetch-Site", value)
    # Check 3.
    for origin in origins:
        if not host or _normal(origin) != b"https://" + _normal(host):
            raise _refused("Origin", origin)


def _normal(name: bytes) -> bytes:
    return name.lower().removesuffix(_DEFAULT_PORT)


def _refused(field: str, value: bytes) -> RequestError:
    shown = value[:128].decode("ascii", "backslashreplace")
    return RequestError(
        403,
        f"{field} is {shown!r}, so a web page of another site has caused this request; requests "
        "that change something are served to pages of this server and to programs only",
    )
