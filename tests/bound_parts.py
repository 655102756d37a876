"""Objects that the tokens of tests are bound to, and tokens bound to them."""

from tests.support import ACCOUNT, ACCOUNT_UID, NAMESPACE, good_claims, token_of
from webhook.token.bound_objects import Kind, ObjectKey

SA = ObjectKey(Kind.SERVICE_ACCOUNT, NAMESPACE, ACCOUNT)
POD = ObjectKey(Kind.POD, NAMESPACE, "p-0")
SECRET = ObjectKey(Kind.SECRET, NAMESPACE, "s-0")
NODE = ObjectKey(Kind.NODE, "", "n-0")
UIDS = {SA: ACCOUNT_UID, POD: "u-pod", SECRET: "u-secret", NODE: "u-node"}
_CLAIMS = {SA: "serviceaccount", POD: "pod", SECRET: "secret", NODE: "node"}


class StillSource:
    """The part of ObjectSource that does nothing in a fake."""

    def start(self) -> None:
        pass

    def problem(self) -> str:
        return ""

    def warning(self) -> str:
        return ""

    def close(self) -> None:
        pass


def bound_token(*keys: ObjectKey, uid: str = "", **claims: object) -> str:
    """Sign a token that is bound to objects; ``uid`` replaces the UID that they have."""
    bound = {_CLAIMS[key]: {"name": key.name, "uid": uid or UIDS[key]} for key in keys}
    account = {"name": SA.name, "uid": UIDS[SA]}
    private = {"namespace": NAMESPACE, "serviceaccount": account, **bound}
    return token_of(good_claims(**{"kubernetes.io": private}, **claims))
