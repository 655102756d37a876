"""The API server of ``docs/signer.md``: a kube-apiserver and an etcd, without controllers.

It has the keys in ``etc/kubernetes/pki``, or asks a signer, as the file ``signing`` says: ``keys``,
or the path of a socket. When that changes it starts again; once it is ready, ``signing`` is copied
to ``ready``. Its administrator's kubeconfig is ``admin.kubeconfig``.
"""

import shutil
import time
from pathlib import Path
from typing import Final

from keys.pem import private_key_pem, public_key_pem
from tests.apiserver.cluster import SIGNING_KEY, make_authority, running_api_server
from tests.differential.pair import running_etcd

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
SIGNING, READY = Path("signing"), Path("ready")
PKI: Final = Path("etc/kubernetes/pki")
POLL_SECONDS: Final = 0.1


def flags_for(signing: str) -> dict[str, str | None]:
    """Return the flags that kubeadm, or the patch for kubeadm, gives kube-apiserver."""
    flags: dict[str, str | None] = {
        "service-account-issuer": ISSUER,
        "api-audiences": None,
        "service-account-key-file": str(PKI / "sa.pub"),
        "service-account-signing-key-file": str(PKI / "sa.key"),
    }
    if signing != "keys":
        flags |= dict.fromkeys(("service-account-key-file", "service-account-signing-key-file"))
        flags["service-account-signing-endpoint"] = signing
    return flags


def main() -> None:
    """Run until the process is killed."""
    PKI.mkdir(parents=True)
    (PKI / "sa.key").touch(0o600)
    (PKI / "sa.key").write_bytes(private_key_pem(SIGNING_KEY.private_key))
    (PKI / "sa.pub").write_bytes(public_key_pem(SIGNING_KEY.verification_key.public_key))
    authority = make_authority()
    Path("servers").mkdir()
    SIGNING.write_text("keys")
    with running_etcd(Path("servers")) as etcd_port:
        for number in range(100):
            signing = SIGNING.read_text()
            folder = Path("servers") / f"kube-apiserver-{number}"
            with running_api_server(folder, etcd_port, authority, flags_for(signing)) as server:
                shutil.copyfile(server.kubeconfig, "admin.kubeconfig")
                READY.write_text(signing)
                while SIGNING.read_text() in ("", signing):
                    time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
