"""Checks what is in a data directory: certificates, kubeconfigs, the store, and what they name."""

from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509

from keys.errors import KeysError
from keys.files import read_public_file
from keys.keyring import Keyring
from webhook.assembly import authenticator_of, issuer_keys_of, source_of, store_of
from webhook.config.load import FILE_NAME
from webhook.config.model import Configuration
from webhook.config.paths import DEFAULT_HOSTS, KUBECONFIG_FOLDER, TLS_FOLDER, crl_beside
from webhook.doctor import certificates
from webhook.doctor.certificates import CLIENT_USAGE, SERVER_USAGE, check_leaf
from webhook.doctor.etcd import Cluster
from webhook.doctor.findings import (
    Examination,
    MissingError,
    Prerequisite,
    Status,
    Verdict,
    failure,
    ok,
    warning,
)
from webhook.doctor.fixes import Fixes
from webhook.doctor.handshake import refusal
from webhook.doctor.kubeconfigs import check_kubeconfig
from webhook.doctor.users import check_auth, check_permissions, check_users
from webhook.errors import LeewayError
from webhook.kube.access_review import ACCESS_REVIEW_PATH
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac.auth_store import AuthStore
from webhook.setup.first_records import API_SERVER_USER, ROOT_USER
from webhook.setup.kubeconfig import Kubeconfig, parse_kubeconfig

# Each kubeconfig with the route that it must name, and its user.
_KUBECONFIGS: Final = {
    "tokenreview": (TOKEN_REVIEW_PATH, API_SERVER_USER),
    "subjectaccessreview": (ACCESS_REVIEW_PATH, API_SERVER_USER),
    "root": ("/", ROOT_USER),
}
_CA: Final = "tls/ca.crt"


def hosts_of(data_dir: Path) -> list[str]:
    """Return the server's names that clients use: from its kubeconfigs, then its certificate."""
    hosts = [found.server.host for found in _kubeconfigs(data_dir).values()]
    with suppress(KeysError):
        pem = read_public_file(data_dir / TLS_FOLDER / "server.crt")
        dns, addresses = certificates.names_of(certificates.load_certificates(pem, "")[0])
        hosts += [name for name in (*dns, *addresses) if name not in DEFAULT_HOSTS]
    return list(dict.fromkeys(hosts))


def examine_certificates(
    exam: Examination, data_dir: Path, fixes: Fixes, now: datetime
) -> Prerequisite[bytes]:
    """Check the CA, its certificates and its list of revoked ones; return the CA's certificate."""
    folder = data_dir / TLS_FOLDER
    server, hosts = folder / "server.crt", [k.server.host for k in _kubeconfigs(data_dir).values()]
    ca = exam.load(
        "CA certificate",
        lambda: read_public_file(data_dir / _CA),
        lambda pem: certificates.check_ca(pem, _CA, now, fixes.restore(TLS_FOLDER)),
        fixes.restore(_CA),
    )

    def check(name: str, fix: str) -> Verdict:
        pem = read_public_file(folder / f"{name}.crt")
        private_key = read_public_file(folder / f"{name}.key")
        usage, user = (SERVER_USAGE, "") if name == "server" else (CLIENT_USAGE, name)
        path = f"tls/{name}.crt"
        renew = fixes.renew(name)
        verdict = check_leaf(pem, private_key, ca.get(), usage, now, path, fix, user, renew=renew)
        return _with_handshake(verdict, pem, private_key, ca.get(), usage, path, fix)

    remake = fixes.remake_server()
    exam.check("server certificate", lambda: check("server", remake), remake)
    exam.check(
        "server names",
        lambda: certificates.check_hosts(read_public_file(server), "tls/server.crt", hosts, remake),
        remake,
    )
    for user in (API_SERVER_USER, ROOT_USER):
        fix = fixes.remake_client(user)
        exam.check(f"{user} certificate", partial(check, user, fix), fix)
    crl = crl_beside(data_dir / _CA)
    if crl is not None:
        fix = fixes.leeway("cert", "renew", "ca.crl")
        exam.check(
            "revoked certificates",
            lambda: certificates.check_crl(read_public_file(crl), ca.get(), now, "tls/ca.crl", fix),
            fix,
        )
    return ca


def _with_handshake(
    verdict: Verdict,
    pem: bytes,
    private_key: bytes,
    ca: bytes,
    usage: x509.ObjectIdentifier,
    name: str,
    fix: str,
) -> Verdict:
    """Return the verdict on a certificate, or a failure if a handshake fails with it."""
    if verdict.status is Status.FAILURE or not (pem and private_key):
        return verdict
    refused = refusal(pem, private_key, ca, usage)
    return failure(f"{name} is refused in a TLS handshake: {refused}", fix) if refused else verdict


def examine_kubeconfigs(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    ca: Prerequisite[bytes],
    fixes: Fixes,
    now: datetime,
) -> None:
    """Check each kubeconfig, and that all name the port that the server listens on."""
    for stem, (path, user) in _KUBECONFIGS.items():
        name = f"{KUBECONFIG_FOLDER}/{stem}.yaml"
        fix = fixes.copied(fixes.remake(name))

        def check(name: str = name, path: str = path, user: str = user, fix: str = fix) -> Verdict:
            found = parse_kubeconfig((data_dir / name).read_bytes(), name)
            verdict = check_kubeconfig(found, path, ca.get(), user, now, name, fix)
            pem, key = found.certificate, found.private_key
            what = f"the client certificate in {name}"
            return _with_handshake(verdict, pem, key, ca.get(), CLIENT_USAGE, what, fix)

        exam.check(f"{stem}.yaml", check, fix)
    exam.check(
        "server port",
        lambda: _check_ports(_kubeconfigs(data_dir), configuration.get().server.bind, fixes),
        fixes.init(),
    )


def _check_ports(found: dict[str, Kubeconfig], bind: str, fixes: Fixes) -> Verdict:
    port = int(bind.rpartition(":")[2])
    others = {stem: k.server.port for stem, k in found.items() if k.server.port != port}
    if not others:
        return ok(f"port {port} in {FILE_NAME} and in {len(found)} kubeconfigs")
    names = [f"{KUBECONFIG_FOLDER}/{stem}.yaml" for stem in others]
    ports = " and ".join(map(str, dict.fromkeys(others.values())))
    finding = f"server.bind is {bind}, but {', '.join(names)} lead to port {ports}"
    return warning(finding, f"{fixes.remake(*names)}   # unless something in front forwards it")


def _kubeconfigs(data_dir: Path) -> dict[str, Kubeconfig]:
    """Return the kubeconfigs that can be read; the others fail their own checks."""
    found = {}
    for stem in _KUBECONFIGS:
        with suppress(LeewayError, OSError):
            data = (data_dir / KUBECONFIG_FOLDER / f"{stem}.yaml").read_bytes()
            found[stem] = parse_kubeconfig(data, stem)
    return found


def examine_store(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    fixes: Fixes,
    cluster: Prerequisite[Cluster] | None = None,
) -> None:
    """Check the store, its users and their permissions; it is opened read-only.

    ``cluster`` is that of a store in etcd.
    """

    def load() -> AuthStore:
        if cluster is not None:
            cluster.get()  # one that nobody answers for has a check of its own
        store = store_of(data_dir, configuration.get(), read_only=True)
        store.close()  # its state is in memory
        return store

    store = exam.load(
        "store",
        load,
        lambda found: ok(f"intact, {len(found.state.users)} users, {len(found.state.roles)} roles"),
        # After a crash the store must be opened for writing to be recovered; that command does so.
        f"{fixes.leeway('auth', 'status')}   # if that fails too, restore it from a backup",
    )
    users = fixes.leeway("user", "list")
    exam.check("auth", lambda: check_auth(store.get(), fixes), users)
    exam.check("users", lambda: check_users(store.get(), fixes), users)
    exam.check("permissions", lambda: check_permissions(store.get(), fixes), users)


def examine_sources(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    keyring: Prerequisite[Keyring],
) -> None:
    """Check the source of objects and the keys of trusted issuers; nothing is fetched."""
    edit = f"edit {data_dir / FILE_NAME}, or the file that is named"
    exam.check("objects", lambda: _check_objects(data_dir, configuration.get()), edit)
    exam.check(
        "trusted issuers", lambda: _check_issuers(data_dir, configuration.get(), keyring), edit
    )


def _check_objects(data_dir: Path, configuration: Configuration) -> Verdict:
    source = source_of(data_dir, configuration)
    if source is None:
        return ok("source none: bound objects are not checked")
    source.close()
    return ok(f"source {configuration.objects.source} can be read")


def _check_issuers(
    data_dir: Path, configuration: Configuration, keyring: Prerequisite[Keyring]
) -> Verdict:
    own = Keyring()
    with suppress(MissingError):  # our own keys have a check of their own
        own = keyring.get()
    with closing(issuer_keys_of(data_dir, configuration)) as found:
        authenticator_of(data_dir, configuration, own, issuer_keys=found)
        keys = [f"{issuer.url} ({len(issuer.keys)} keys)" for issuer in found.issuers]
        skipped = found.skipped()
    if skipped:
        fix = "remove these keys from the file, or leave them: tokens they signed are refused"
        return warning("; ".join(skipped), fix)
    return ok(", ".join(keys) or "none")
