"""Checks the kubeconfig files with which API servers and people call Leeway."""

from datetime import datetime

from webhook.doctor.certificates import CLIENT_USAGE, check_leaf, load_certificates
from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.setup.kubeconfig import Kubeconfig


def check_kubeconfig(
    kubeconfig: Kubeconfig,
    path: str,
    ca: bytes,
    user: str,
    now: datetime,
    name: str,
    fix: str,
) -> Verdict:
    """Check that a kubeconfig names a route, trusts the CA, and has a client certificate from it.

    ``path`` is that of the route, ``/`` if clients add their own.
    """
    if kubeconfig.is_insecure:
        finding = f"{name} has insecure-skip-tls-verify: any server is accepted"
        return failure(finding, fix)
    if kubeconfig.server.target != path:
        finding = f"{name} leads to {kubeconfig.server.display_target}, not to {path}"
        return failure(finding, fix)
    missing = [
        field
        for field, value in (
            ("certificate-authority-data", kubeconfig.ca),
            ("client-certificate-data", kubeconfig.certificate),
            ("client-key-data", kubeconfig.private_key),
        )
        if not value
    ]
    if missing:
        return warning(
            f"{name} does not contain {' and '.join(missing)}, so it is not checked", fix
        )
    trusted = set(load_certificates(kubeconfig.ca, f"the CA in {name}"))
    if not trusted & set(load_certificates(ca, "tls/ca.crt")):
        return failure(f"{name} trusts another CA than that in tls/ca.crt", fix)
    verdict = check_leaf(
        kubeconfig.certificate,
        kubeconfig.private_key,
        ca,
        CLIENT_USAGE,
        now,
        f"the client certificate in {name}",
        fix,
        user,
    )
    if verdict.fix:
        return verdict
    return ok(f"{kubeconfig.server.display} as {user}, {verdict.finding.partition(',')[0]}")
