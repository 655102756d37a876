"""Finds an API server and the credentials for it, from a kubeconfig or the Pod's service account.

The ``kubernetes`` client merges kubeconfig files, loads their certificates and renews a Pod's own
token. Plugins are run by ``credential_plugin``, because after one fails the client goes on without
credentials, and it logs what the plugin printed.

Invariants:

1. A Cluster has credentials: no request is anonymous.
2. The inline keys of a kubeconfig are on disk only while they are loaded, in a private folder, and
   no error shows any part of them.
3. A kubeconfig and the private files that it names are readable by their owner only.
"""

import base64
import os
import re
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote

import yaml

from keys.errors import KeysError
from keys.files import check_credential_file
from keys.messages import shown, shown_path
from webhook.errors import APIServerError, ConfigurationError, ConfiguredFileError
from webhook.https_url import HTTPSAddress, parse_https_url
from webhook.objects.credential_plugin import run_plugin
from webhook.outbound.https import Client, Proxy, client_context, endpoint_of

_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
_AUTHORIZATION: Final = re.compile(r"[!-~]+ [!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,254}|::[0-9A-Fa-f:]*")
_PROXY: Final = re.compile(
    r"http://(?:([^/?#@\s]*)@)?([A-Za-z0-9][-A-Za-z0-9._]*)(?::(\d{1,5}))?/?"
)
_DEFAULT_PROXY_PORT: Final = 80


class Cluster:
    """An API server: a client for it, and the credentials to send with each request.

    Without ``kubeconfig`` it is the cluster that this Pod runs in, else that of kubectl's
    kubeconfig; without ``context`` the current one. Makes no connection. Raises ConfigurationError,
    and PluginFailedError if a credential plugin fails.
    """

    def __init__(self, kubeconfig: Path | None, context: str) -> None:
        # Imported here, since it takes half a second.
        from kubernetes.client import Configuration
        from kubernetes.config import ConfigException

        self._source = _source(kubeconfig, context)
        self._configuration: Any = Configuration()
        where = f"{self._source}, which objects.kubernetes needs,"
        with TemporaryDirectory(prefix="leeway-") as folder:  # invariant 2
            try:
                proxy = self._load(kubeconfig, context, folder)
                tls = _tls_context(self._configuration)
                address = parse_https_url(self._configuration.host)
            except KeysError as error:
                raise ConfigurationError(f"{where} cannot be used: {error}") from None
            except OSError as error:
                why = error.strerror or "its TLS files cannot be used"
                raise ConfiguredFileError(f"{where} cannot be read: {why}") from None
            except (
                ConfigException, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError,
            ):  # fmt: skip
                # Its message may show the credentials (invariant 2).
                raise ConfigurationError(
                    f"{where} cannot be used; see what `kubectl config view` and `kubectl version` "
                    "say with it"
                ) from None
        if not (self._configuration.cert_file or self._configuration.api_key):  # invariant 1
            raise ConfigurationError(
                f"{where} has no credentials for the user of its context; anonymous requests are "
                "not sent"
            )
        for name in ("ssl_ca_cert", "cert_file", "key_file"):
            setattr(self._configuration, name, None)
        self.path = "" if address.target == "/" else address.target.rstrip("/")
        self.client = Client(
            endpoint_of(address)._replace(server_name=self._server_name(address)), tls, proxy
        )

    def headers(self) -> dict[str, str]:
        """Return the header fields with the credentials. Raises APIServerError."""
        found = self._configuration.auth_settings().values()
        text = "".join(str(setting["value"]) for setting in found if setting["value"])
        if not text:
            return {}  # it has a client certificate
        scheme, _, token = text.strip().partition(" ")
        text = f"{scheme} {token.strip()}"
        if not _AUTHORIZATION.fullmatch(text):
            raise APIServerError(
                f"the token of {self._source} has a space or a character that is not printable "
                "ASCII; nothing was sent"
            )
        return {"Authorization": text}

    def _server_name(self, address: HTTPSAddress) -> str:
        name = str(getattr(self._configuration, "tls_server_name", None) or address.host)
        if not _HOST.fullmatch(name):
            raise ConfigurationError(
                f"the tls-server-name of {self._source} cannot be used; a host name is allowed"
            )
        return name

    def _load(self, kubeconfig: Path | None, context: str, folder: str) -> Proxy | None:
        if _is_in_cluster(kubeconfig):
            import kubernetes.config

            config: Any = kubernetes.config  # typed in some of its releases only
            config.load_incluster_config(client_configuration=self._configuration)
            return None
        loader = _loader(kubeconfig, context, folder, self._source)
        loader.load_and_set(self._configuration)
        text = loader.section_of_cluster().get("proxy-url")
        return _proxy_of(text, self._source) if text else None


def _is_in_cluster(kubeconfig: Path | None) -> bool:
    return kubeconfig is None and bool(os.environ.get(_IN_CLUSTER))


def _source(kubeconfig: Path | None, context: str) -> str:
    if _is_in_cluster(kubeconfig):
        return "the service account of this Pod"
    name = shown_path(kubeconfig) if kubeconfig else "kubectl's own kubeconfig"
    return f"{name} with context {shown(context, 64)}" if context else name


def _loader(kubeconfig: Path | None, context: str, folder: str, source: str) -> Any:
    import kubernetes.config.kube_config

    kube_config: Any = kubernetes.config.kube_config

    class Loader(kube_config.KubeConfigLoader):  # type: ignore[misc]
        """The client's loader, with plugins run by ``run_plugin``."""

        def section_of_cluster(self) -> dict[str, Any]:
            section: dict[str, Any] = self._cluster.value
            return section

        def private_paths(self) -> list[str]:
            user = self._user.value if self._user else {}
            base = self._get_base_path(self._user.path) if self._user else ""
            names = [user.get(name) for name in ("tokenFile", "client-key")]
            return [os.path.join(base, name) for name in names if isinstance(name, str)]  # noqa: PTH118

        def _load_from_exec_plugin(self) -> bool | None:
            if "exec" not in self._user:
                return None
            base = self._get_base_path(self._cluster.path)
            found = run_plugin(self._user["exec"].value, self._cluster.value, base, source)
            if found.expiration_timestamp:
                self.expiry = kube_config.parse_rfc3339(found.expiration_timestamp)
            if found.token:
                self.token = f"Bearer {found.token}"
                return True
            for name, pem in (
                ("cert_file", found.client_certificate_data),
                ("key_file", found.client_key_data),
            ):
                path = Path(folder) / name
                path.write_text(pem)
                setattr(self, name, str(path))
            return True

    if kubeconfig is not None:
        # The client would ignore a missing file.
        kubeconfig.read_bytes()
    paths = str(kubeconfig) if kubeconfig else kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    merger = kube_config.KubeConfigMerger(paths)
    for path in merger.paths:  # invariant 3
        check_credential_file(Path(path))
    loader = Loader(merger.config, context or None, config_base_path=None, temp_file_path=folder)
    for path in loader.private_paths():
        check_credential_file(Path(path))
    return loader


def _tls_context(configuration: Any) -> ssl.SSLContext:
    context = client_context(configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _proxy_of(text: object, source: str) -> Proxy:
    match = _PROXY.fullmatch(str(text))
    port = int(match[3] or _DEFAULT_PROXY_PORT) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise ConfigurationError(
            f"the proxy-url of {source} cannot be used; http://HOST:PORT is allowed, "
            "https and socks5 are not supported"
        )
    authorization = ""
    if match[1]:
        encoded = base64.b64encode(unquote(match[1]).encode("utf-8")).decode("ascii")
        authorization = f"Basic {encoded}"
    return Proxy(match[2], port, authorization)
