"""Set-ups with one fault each, and what ``leeway doctor`` has to say of it."""

from collections.abc import Callable
from dataclasses import dataclass

from webhook.doctor.findings import Status

from .doctor_patient import (
    ETCETERA,
    Patient,
    add_configuration,
    add_weak_key,
    age_pending,
    client_pair,
    cut_key,
    damage_store,
    no_server,
    old_ca,
    old_crl,
    old_kubeconfig,
    other_ca,
    server_pair,
    set_flag,
    set_state,
    trust_other_ca,
    use_server_certificate,
)


@dataclass(frozen=True)
class Fault:
    """What is planted, and what is to be found.

    ``mends`` tells whether the fix is a command that makes it whole again by itself, and
    ``hides`` which checks cannot be made.
    """

    name: str
    plant: Callable[[Patient], object]
    check: str
    words: tuple[str, ...]
    fix: str
    status: Status = Status.FAILURE
    mends: bool = False
    hides: tuple[str, ...] = ()


NEED_KEYS = ("key schedule", "published keys")
NEED_CONFIGURATION = (
    "key schedule",
    "server port",
    "store",
    "auth",
    "users",
    "permissions",
    "objects",
    "trusted issuers",
    "server",
    "discovery document",
    "published keys",
    "API audiences",
)
NEED_STORE = ("auth", "users", "permissions")
NEED_SERVER = ("discovery document", "published keys")
NEED_CA = (
    "server certificate",
    "kube-apiserver certificate",
    "root certificate",
    "tokenreview.yaml",
    "subjectaccessreview.yaml",
    "root.yaml",
    "server",
    *NEED_SERVER,
)
WARNING = Status.WARNING

FAULTS = [
    Fault(
        "the directory is open to others",
        lambda p: p.data_dir.chmod(0o755),
        "data directory",
        ("open to group or others", "0755"),
        "chmod 700",
        mends=True,
    ),
    Fault(
        "a private key can be read by others",
        lambda p: (p.data_dir / "tls" / "ca.key").chmod(0o644),
        "private files",
        ("tls/ca.key", "0644"),
        "chmod 600",
        mends=True,
        hides=("signing keys", *NEED_KEYS),
    ),
    Fault(
        "the store can be read by others",
        lambda p: (p.data_dir / "auth.db").chmod(0o640),
        "private files",
        ("auth.db", "0640"),
        "chmod 600",
        mends=True,
        hides=("signing keys", *NEED_KEYS),
    ),
    Fault(
        "a value out of range",
        lambda p: add_configuration(p, "leeway: {notBefore: 10m}"),
        "configuration",
        ("leeway.yaml", "notBefore is 10m", "0s to 5m"),
        "edit",
        hides=NEED_CONFIGURATION,
    ),
    Fault(
        "an unknown field",
        lambda p: add_configuration(p, "isuer: https://i.example"),
        "configuration",
        ("unknown field isuer",),
        "edit",
        hides=NEED_CONFIGURATION,
    ),
    Fault(
        "the configuration is missing",
        lambda p: (p.data_dir / "leeway.yaml").unlink(),
        "configuration",
        ("leeway.yaml is missing",),
        "edit",
        hides=NEED_CONFIGURATION,
    ),
    Fault(
        "no key is active",
        lambda p: set_state(p, "verify-only", "verify-only"),
        "signing keys",
        ("none of 2 keys is active",),
        "leeway keys generate",
        hides=NEED_KEYS,
    ),
    Fault(
        "two keys are active",
        lambda p: set_state(p, "active", "active"),
        "signing keys",
        ("2 signing keys are active",),
        "restore",
        hides=NEED_KEYS,
    ),
    Fault(
        "a weak key",
        add_weak_key,
        "signing keys",
        ("old.pem", "1024 bits"),
        "move the file",
        hides=NEED_KEYS,
    ),
    Fault("a key cut short", cut_key, "signing keys", (".pem",), "restore", hides=NEED_KEYS),
    Fault(
        "a pending key that was forgotten",
        age_pending,
        "key schedule",
        ("is pending since", "may sign since"),
        "leeway keys rotate",
        WARNING,
        mends=True,
    ),
    Fault(
        "an expired CA",
        old_ca,
        "CA certificate",
        ("tls/ca.crt expired on",),
        "restore",
        hides=NEED_CA,
    ),
    Fault(
        "a certificate with the key of another",
        lambda p: p.write("tls/server.key", (p.data_dir / "tls" / "root.key").read_bytes()),
        "server certificate",
        ("tls/server.crt", "another certificate"),
        "leeway init",
        mends=True,
    ),
    Fault(
        "an expired certificate",
        lambda p: server_pair(p, -400),
        "server certificate",
        ("tls/server.crt expired on",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a certificate that expires soon",
        lambda p: server_pair(p, -355.5),
        "server certificate",
        ("tls/server.crt expires on", "in 9 days"),
        "leeway init",
        WARNING,
        mends=True,
    ),
    Fault(
        "a certificate of tomorrow",
        lambda p: server_pair(p, 1),
        "server certificate",
        ("is not valid before",),
        "chronyc makestep",
    ),
    Fault(
        "a certificate of another CA",
        lambda p: server_pair(p, 0, ca=other_ca()),
        "server certificate",
        ("not signed by the CA in tls/ca.crt",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a certificate for another host",
        lambda p: server_pair(p, 0, "hook.example"),
        "server names",
        ("for hook.example", "not for 127.0.0.1"),
        "leeway init --host 127.0.0.1 --host hook.example",
        mends=True,
    ),
    Fault(
        "an expired client certificate",
        lambda p: client_pair(p, "kube-apiserver", "kube-apiserver", -400),
        "kube-apiserver certificate",
        ("tls/kube-apiserver.crt expired on",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a server's certificate as a client's",
        use_server_certificate,
        "kube-apiserver certificate",
        ("lacks the extended key usage clientAuth",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a certificate of another user",
        lambda p: client_pair(p, "root", "alice"),
        "root certificate",
        ("user 'alice', not 'root'",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a list of revoked certificates that has run out",
        old_crl,
        "revoked certificates",
        ("tls/ca.crl is valid from", "leeway cert renew ca.crl"),
        "leeway cert renew ca.crl",
        mends=True,
    ),
    Fault(
        "a kubeconfig for another route",
        lambda p: p.edit("kubeconfig/tokenreview.yaml", "/v1/tokenreviews", "/v1/reviews"),
        "tokenreview.yaml",
        ("leads to /apis/authentication.k8s.io/v1/reviews",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a kubeconfig that trusts another CA",
        trust_other_ca,
        "subjectaccessreview.yaml",
        ("trusts another CA",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a kubeconfig with an expired certificate",
        old_kubeconfig,
        "root.yaml",
        ("the client certificate in kubeconfig/root.yaml expired on",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a kubeconfig that believes everybody",
        lambda p: p.edit_kubeconfig("root", "cluster", "insecure-skip-tls-verify", True),
        "root.yaml",
        ("insecure-skip-tls-verify",),
        "leeway init",
        mends=True,
    ),
    Fault(
        "a kubeconfig that is missing",
        lambda p: (p.data_dir / "kubeconfig" / "tokenreview.yaml").unlink(),
        "tokenreview.yaml",
        ("No such file", "tokenreview.yaml"),
        "leeway init",
        mends=True,
    ),
    Fault(
        "another port",
        lambda p: p.edit("leeway.yaml", p.server.removeprefix("https://"), "0.0.0.0:1"),
        "server port",
        ("server.bind is 0.0.0.0:1,", "kubeconfig/tokenreview.yaml", "lead to port"),
        "leeway init",
        WARNING,
        mends=True,
    ),
    Fault(
        "no store",
        lambda p: (p.data_dir / "auth.db").unlink(),
        "store",
        ("auth.db is missing",),
        "restore it from a backup",
        hides=NEED_STORE,
    ),
    Fault(
        "a bit flipped in the store",
        damage_store,
        "store",
        ("auth.db is damaged",),
        "restore it from a backup",
        hides=NEED_STORE,
    ),
    Fault(
        "auth is disabled",
        lambda p: p.leeway("auth", "disable"),
        "auth",
        ("auth is disabled",),
        "leeway auth enable",
        mends=True,
    ),
    Fault(
        "the API server's user is gone",
        lambda p: p.leeway("user", "delete", "kube-apiserver"),
        "users",
        ("no user kube-apiserver",),
        "leeway user add kube-apiserver",
        mends=True,
        hides=("permissions",),
    ),
    Fault(
        "the API server may not send reviews",
        lambda p: p.leeway("role", "revoke-permission", "kube-apiserver", "/leeway/tokenreviews"),
        "permissions",
        ("kube-apiserver may not write /leeway/tokenreviews", "403"),
        "leeway role grant-permission kube-apiserver write /leeway/tokenreviews",
        mends=True,
    ),
    Fault(
        "the API server has lost its role",
        lambda p: p.leeway("user", "revoke-role", "kube-apiserver", "kube-apiserver"),
        "permissions",
        ("kube-apiserver may not write /leeway/tokenreviews",),
        "leeway user grant-role kube-apiserver kube-apiserver",
        mends=True,
    ),
    Fault(
        "a file of objects that is missing",
        lambda p: add_configuration(p, "objects: {source: file, file: {path: objects.yaml}}"),
        "objects",
        ("objects.yaml", "cannot be read"),
        "edit",
    ),
    Fault(
        "a kubeconfig for objects that is missing",
        lambda p: add_configuration(
            p, "objects: {source: kubernetes, kubernetes: {kubeconfig: none.yaml}}"
        ),
        "objects",
        ("none.yaml",),
        "edit",
    ),
    Fault(
        "a trusted issuer without its keys",
        lambda p: add_configuration(
            p, "trustedIssuers: [{url: https://i.example, keys: {jwksFile: jwks.json}}]"
        ),
        "trusted issuers",
        ("https://i.example", "jwks.json cannot be"),
        "edit",
    ),
    Fault(
        "no server",
        no_server,
        "server",
        ("nothing listens at https://127.0.0.1:",),
        "leeway serve",
        hides=NEED_SERVER,
    ),
    Fault(
        "a server with another issuer",
        lambda p: p.edit("leeway.yaml", "https://leeway.default.svc", "https://i.example"),
        "discovery document",
        ("'https://leeway.default.svc'", "'https://i.example'"),
        "kill -HUP",
    ),
    Fault(
        "a server with older keys",
        lambda p: p.leeway("keys", "generate"),
        "published keys",
        ("does not publish",),
        "kill -HUP",
        WARNING,
    ),
    Fault(
        "tokens are not asked about",
        set_flag("authentication-token-webhook-config-file", None),
        "token flags",
        ("--authentication-token-webhook-config-file is not set",),
        "add --authentication-token-webhook-config-file=",
    ),
    Fault(
        "an unknown version of TokenReview",
        set_flag("authentication-token-webhook-version", "v2"),
        "token flags",
        ("'v2'", "v1 and v1beta1"),
        "set --authentication-token-webhook-version=v1",
    ),
    Fault(
        "verdicts are kept for an hour",
        set_flag("authentication-token-webhook-cache-ttl", "1h0m0s"),
        "token cache",
        ("a revoked token works for up to 1h more",),
        "set --authentication-token-webhook-cache-ttl=2m",
        WARNING,
    ),
    Fault(
        "no webhook among the authorizers",
        set_flag("authorization-mode", "Node,RBAC"),
        "access flags",
        ("--authorization-mode is Node,RBAC",),
        "set --authorization-mode=Node,RBAC,Webhook",
    ),
    Fault(
        "an authorizer without its file",
        set_flag("authorization-webhook-config-file", None),
        "access flags",
        ("names Webhook, but --authorization-webhook-config-file is not set",),
        "add --authorization-webhook-config-file=",
    ),
    Fault(
        "an unknown version of SubjectAccessReview",
        set_flag("authorization-webhook-version", "v2"),
        "access flags",
        ("'v2'", "v1 and v1beta1"),
        "set --authorization-webhook-version=v1",
    ),
    Fault(
        "two configurations of authorizers",
        set_flag("authorization-config", f"{ETCETERA}/authorization.yaml"),
        "access flags",
        ("does not start with --authorization-config beside --authorization-mode",),
        "remove --authorization-mode",
    ),
    Fault(
        "a file that is not mounted",
        lambda p: setattr(p, "mounts", False),
        "webhook files",
        (f"{ETCETERA}/tokenreview.yaml", "no hostPath volume"),
        "add a volume",
    ),
    Fault(
        "an API server with another name",
        set_flag("api-audiences", "https://kubernetes.example"),
        "API audiences",
        ("--api-audiences is https://kubernetes.example", "no token is for both"),
        "set --api-audiences=https://kubernetes.example,https://kubernetes.default.svc",
    ),
    Fault(
        "a flag that stands twice",
        lambda p: p.more_flags.append("--authorization_webhook_version=v1"),
        "flags once",
        ("--authorization-webhook-version stands 2 times",),
        "remove all but one",
    ),
]
