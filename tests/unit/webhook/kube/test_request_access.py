"""Which user of a cluster is Leeway's root: none, unless configured."""

import pytest

from tests.memory_backend import MemoryBackend
from webhook.kube.request_access import decide, decide_for_cluster
from webhook.kube.request_keys import Attributes, NonResourceAttributes, ResourceAttributes
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore

SECRET = ResourceAttributes("get", "", "secrets", "", "kube-system", "s")
# Slashes in them were never allowed, not even for root.
SIGNER = ResourceAttributes("approve", "certificates.k8s.io", "signers", name="kubernetes.io/a")


def a_store() -> AuthStore:
    store = AuthStore.loaded(MemoryBackend())
    store.change(changes.add_role, "root")
    for user in ("root", "jane"):
        store.change(changes.add_user, user)
        store.change(changes.grant_role, user, "root")
    store.change(changes.grant_group_role, "admins", "root")
    return store


STORE = a_store()


@pytest.mark.fault(11, 53)
@pytest.mark.parametrize(
    "request_", [SECRET, SIGNER, NonResourceAttributes("get", "/metrics")], ids=repr
)
@pytest.mark.parametrize(
    ("user", "groups", "allow_root", "allowed"),
    [
        pytest.param("root", (), False, False, id="root"),
        pytest.param("root", ("system:authenticated",), False, False, id="root-in-other-groups"),
        pytest.param("root", (), True, True, id="root-where-configured"),
        pytest.param("root", ("admins",), False, True, id="root-by-a-group"),
        pytest.param("jane", (), False, True, id="another-user-with-the-role"),
        pytest.param("joe", ("admins",), False, True, id="group"),
        pytest.param("Root", (), True, False, id="another-case"),
        pytest.param("", ("root",), False, False, id="group-of-that-name"),
    ],
)
def test_the_root_of_a_cluster(
    request_: Attributes, user: str, groups: tuple[str, ...], allow_root: bool, allowed: bool
) -> None:
    decision = decide_for_cluster(STORE.state, user, groups, request_, allow_root=allow_root)
    assert bool(decision.roles) is allowed
    is_told = "authorizer.allowRoot" in decision.reason
    assert is_told is (user == "root" and not allowed)
    # Leeway's own root is allowed everything.
    assert decide(STORE.state, "root", (), request_).roles == ("root",)
