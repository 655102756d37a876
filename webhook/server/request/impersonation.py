"""``kubectl --as``: a caller with the role ``root`` acts as somebody else.

Source: kubernetes ``apiserver/pkg/endpoints/filters/impersonation.go``: the header fields, and the
groups that are added.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from webhook.server.request.message import RequestError
from webhook.token.claims import USERNAME_PREFIX, is_dns_label, is_dns_subdomain
from webhook.token.outcome import AUTHENTICATED_GROUP, groups_of

_EXTRA_PREFIX: Final = "impersonate-extra-"
_KNOWN: Final = ("impersonate-user", "impersonate-group", "impersonate-uid")
_ANONYMOUS: Final = "system:anonymous"
_UNAUTHENTICATED_GROUP: Final = "system:unauthenticated"
Wanted = tuple[str, tuple[str, ...], str, dict[str, tuple[str, ...]]]


def wanted_identity(fields: Iterable[tuple[bytes, bytes]]) -> Wanted:
    """Return the user, groups, UID and extra in the header fields ``Impersonate-…``.

    Raises RequestError 400 for groups without a user, and for a field that is duplicated or
    unknown.
    """
    values: dict[str, list[str]] = {}
    for raw_name, value in fields:
        values.setdefault(raw_name.decode("latin-1"), []).append(value.decode("utf-8", "replace"))
    extra = {}
    for name, texts in values.items():
        if name.startswith(_EXTRA_PREFIX):
            extra[unquote(name.removeprefix(_EXTRA_PREFIX))] = tuple(texts)
        elif name not in _KNOWN or (name != "impersonate-group" and len(texts) > 1):
            raise RequestError(
                400, f"header {name[:64]} is not known, or appears twice; send it once"
            )
    user = values.get("impersonate-user", [""])[0]
    if not user:
        raise RequestError(400, "Impersonate-User is missing or empty; name the user to act as")
    groups = tuple(values.get("impersonate-group", ()))
    return user, _completed(user, groups), values.get("impersonate-uid", [""])[0], extra


def _completed(user: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    if user == _ANONYMOUS:
        known = _UNAUTHENTICATED_GROUP in groups
        return groups if known else (*groups, _UNAUTHENTICATED_GROUP)
    if not groups and user.startswith(USERNAME_PREFIX):
        namespace, _, name = user.removeprefix(USERNAME_PREFIX).partition(":")
        if is_dns_label(namespace) and is_dns_subdomain(name):
            return groups_of(namespace)
    if AUTHENTICATED_GROUP in groups or _UNAUTHENTICATED_GROUP in groups:
        return groups
    return (*groups, AUTHENTICATED_GROUP)
