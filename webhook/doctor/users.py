"""Checks the store's users for the certificates that ``init`` makes, and their permissions."""

from webhook.doctor.findings import MissingError, Verdict, failure, ok
from webhook.doctor.fixes import Fixes
from webhook.kube.request_keys import ACCESS_REVIEWS_KEY, TOKEN_REVIEWS_KEY
from webhook.rbac.access import is_key_permitted
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import PermissionType
from webhook.setup.first_records import API_SERVER_USER, ROOT_USER


def check_auth(store: AuthStore, fixes: Fixes) -> Verdict:
    """Check that auth is enabled."""
    if not store.enabled:
        finding = "auth is disabled: every client certificate is allowed to do anything"
        return failure(finding, fixes.leeway("auth", "enable"))
    return ok(f"auth is enabled, revision {store.revision}")


def check_users(store: AuthStore, fixes: Fixes) -> Verdict:
    """Check that the users of the certificates exist, and that root has the role root."""
    users = store.state.users
    for name in (ROOT_USER, API_SERVER_USER):
        if name not in users:
            return failure(
                f"the user {name}, named in tls/{name}.crt, does not exist",
                f"{fixes.leeway('user', 'add', name, '--no-password')} && "
                f"{fixes.leeway('user', 'grant-role', name, name)}",
            )
    if not users[ROOT_USER].has_root_role:
        finding = "the user root does not have the role root, so nobody is allowed to manage users"
        return failure(finding, fixes.leeway("user", "grant-role", ROOT_USER, ROOT_USER))
    return ok(f"{len(users)} users, {ROOT_USER} and {API_SERVER_USER} among them")


def check_permissions(store: AuthStore, fixes: Fixes) -> Verdict:
    """Check that kube-apiserver's user is allowed to send reviews."""
    if API_SERVER_USER not in store.state.users:
        raise MissingError(f"it needs the user {API_SERVER_USER}, which does not exist")
    for key in (TOKEN_REVIEWS_KEY, ACCESS_REVIEWS_KEY):
        if is_key_permitted(store.state, API_SERVER_USER, (), PermissionType.WRITE, key):
            continue
        text = key.decode("ascii")
        finding = f"{API_SERVER_USER} may not write {text}: its reviews are answered 403"
        if API_SERVER_USER in store.state.users[API_SERVER_USER].roles:
            words = ["role", "grant-permission", API_SERVER_USER, "write", text]
        else:
            words = ["user", "grant-role", API_SERVER_USER, API_SERVER_USER]
        return failure(finding, fixes.leeway(*words))
    return ok(f"{API_SERVER_USER} may send TokenReviews and SubjectAccessReviews")
