"""A store, and what finds callers with it: for the tests of callers."""

import asyncio
from datetime import UTC, datetime

from keys.pki import make_ca, make_client_certificate
from tests.memory_backend import MemoryBackend
from tests.support import (
    ACCOUNT,
    ACCOUNT_UID,
    AUDIENCE,
    ISSUER,
    JTI,
    LEEWAY,
    NAMESPACE,
    NOW,
    signing_key,
)
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import ROOT, Permission, PermissionType
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses
from webhook.server.request.caller import Callers
from webhook.server.request.message import Caller, Headers, Request, settled
from webhook.server.request.verifier import TokenVerifier
from webhook.token.authenticator import Authenticator, TrustedIssuer

FOREIGN_ISSUER = "https://other.example"
KEY = b"/leeway/tokenreviews"
SUBJECT = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated")
SERVICE_ACCOUNT = Caller(
    SUBJECT,
    GROUPS,
    ACCOUNT_UID,
    {"authentication.kubernetes.io/credential-id": (f"JTI={JTI}",)},
    by_token=True,
)
START = datetime.fromtimestamp(NOW, UTC)
CA = make_ca("leeway CA", START)


class Parts:
    """A store with auth enabled, and what finds callers with it."""

    def __init__(self) -> None:
        self.store = AuthStore.loaded(MemoryBackend())
        self.store.change(changes.add_user, ROOT)
        self.store.change(changes.add_role, ROOT)
        self.store.change(changes.grant_role, ROOT, ROOT)
        self.store.change(changes.add_user, "alice")
        self.store.change(changes.add_role, "reviewer")
        self.store.change(
            changes.grant_permission, "reviewer", Permission(KEY, b"", PermissionType.WRITE)
        )
        self.store.change(changes.enable)
        self.tokens = SimpleTokens(self.store, TokenUses(self.store))
        issuers = [
            TrustedIssuer(ISSUER, [AUDIENCE], [signing_key("RS256").verification_key]),
            TrustedIssuer(FOREIGN_ISSUER, [AUDIENCE], [signing_key("ES256").verification_key]),
            TrustedIssuer(
                ISSUER, [AUDIENCE], [signing_key("ES384").verification_key], is_foreign=True
            ),
        ]
        verifier = TokenVerifier(Authenticator(issuers, LEEWAY), lambda: NOW)
        self.callers = Callers(self.store, self.tokens, verifier, ISSUER, (AUDIENCE,), lambda: NOW)

    def find(self, request: Request) -> Caller | None:
        return asyncio.run(settled(self.callers.find(request)))

    def log_in(self, name: str) -> str:
        return self.tokens.assign(self.store.user(name), NOW)


def request_on(store: AuthStore, body: bytes = b"", caller: Caller | None = None) -> Request:
    """Return a request of a caller, whose answer rests on a store as it is now."""
    return Request("POST", "/", body=body, caller=caller, basis=store.basis())


def request_of(*authorization: str, certificate_of: str = "", start: datetime = START) -> Request:
    headers = Headers((b"authorization", value.encode("latin-1")) for value in authorization)
    certificate = b""
    if certificate_of:
        certificate = make_client_certificate(CA, certificate_of, start).certificate
    return Request("POST", "/", headers=headers, certificate=certificate.decode("ascii"))
