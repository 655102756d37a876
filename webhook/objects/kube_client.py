"""How an API server is reached: the ``kubernetes`` client's address, TLS and credentials.

The client reads kubeconfig files, runs their credential plugins and reads a Pod's own token again;
requests and answers are ours, since its own would read every object whole.

Invariants:

1. Every request ends: each has a limit for the connection, for each read, and for its size.
2. No request is tried again here and no redirect is followed: both are for the caller to judge.
3. Nothing of a kubeconfig stays in a file but what has been one: its inline keys are on disk while
   they are loaded, in a private folder, and no error shows any of it.
4. Credentials that are refused are read again for the next request.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Final, cast
from urllib.parse import urlencode

import msgspec
import urllib3
import yaml
from urllib3.exceptions import HTTPError, SSLError

from webhook.errors import APIServerError, ConfigurationError
from webhook.version import VERSION

CONNECT_SECONDS: Final = 2.0
_MAX_ERROR_BYTES: Final = 65536
# Four watches, and the threads that look up: of reviews, and of requests for tokens.
_MAX_CONNECTIONS: Final = 24
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
Response = urllib3.BaseHTTPResponse


class _Status(msgspec.Struct):
    kind: str = ""
    reason: str = ""


class Connection:
    """One API server and one identity there.

    Without ``kubeconfig`` it is the cluster that this runs in, else kubectl's; without
    ``context`` the current one. Connects to nothing yet. Raises ConfigurationError.
    """

    def __init__(self, kubeconfig: Path | None = None, context: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = Lock()
        self._client: Any = self._load()

    def get(
        self, path: str, query: Mapping[str, str], accept: str, read_seconds: float
    ) -> Response:
        """Ask for something; its body has not been read. Raises APIServerError."""
        client = self._current()
        url = client.configuration.host.rstrip("/") + path
        if query:
            url += "?" + urlencode(query)
        try:
            headers = {"Accept": accept, "User-Agent": f"leeway/{VERSION}", **_identity(client)}
        except Exception as error:  # of a credential plugin, or of a token file that is gone
            self._forget(client)
            raise APIServerError("the credentials could not be read again") from error
        try:
            response = client.rest_client.pool_manager.request(
                "GET",
                url,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            if response.status == 200:
                return cast(Response, response)
            failure = _failure(response)
        except (HTTPError, OSError, ValueError) as error:
            if isinstance(error, SSLError):
                self._forget(client)
            raise APIServerError(why(error)) from error
        if failure.code == 401:
            self._forget(client)
        raise failure

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _current(self) -> Any:
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._load()
                except ConfigurationError as error:
                    raise APIServerError("its kubeconfig could not be read again") from error
            return self._client

    def _forget(self, client: Any) -> None:
        with self._lock:
            if self._client is client:
                self._client = None

    def _load(self) -> Any:
        # Takes half a second: only for those who use it.
        from kubernetes.client import ApiClient, Configuration

        configuration = Configuration()
        configuration.retries = False
        configuration.connection_pool_maxsize = _MAX_CONNECTIONS
        with TemporaryDirectory(prefix="leeway-") as folder:
            try:
                self._read(configuration, folder)
                context = _tls_context(configuration)
            except OSError as error:
                why_not = error.strerror or "its TLS files cannot be used"
                raise ConfigurationError(f"{self._where()} cannot be read: {why_not}") from None
            except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
                # Their own words may show the credentials.
                raise ConfigurationError(
                    f"{self._where()} cannot be used; see what `kubectl config view` and `kubectl "
                    "version` say with it"
                ) from None
            for name in ("ssl_ca_cert", "cert_file", "key_file"):
                setattr(configuration, name, None)
            client = ApiClient(configuration)
        client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context
        return client

    def _read(self, configuration: Any, folder: str) -> None:
        from kubernetes import config as kubernetes_config

        # Some of its releases have types, others have not.
        config: Any = kubernetes_config
        try:
            if self._kubeconfig is None and os.environ.get(_IN_CLUSTER):
                config.load_incluster_config(client_configuration=configuration)
                return
            if self._kubeconfig is not None:
                # Missing ones it would pass over.
                self._kubeconfig.read_bytes()
            config.load_kube_config(
                str(self._kubeconfig) if self._kubeconfig else None,
                self._context or None,
                configuration,
                persist_config=False,
                temp_file_path=folder,
            )
        except config.ConfigException as error:
            raise ValueError from error

    def _where(self) -> str:
        if self._kubeconfig is None and os.environ.get(_IN_CLUSTER):
            return "the service account of this Pod, which objects.kubernetes needs,"
        name = str(self._kubeconfig) if self._kubeconfig else "kubectl's own kubeconfig"
        context = f" with context {self._context[:64]!r}" if self._context else ""
        return f"{name}{context}, which objects.kubernetes needs,"


def why(error: Exception) -> str:
    """Say in a few words why a request failed, without what was sent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    # Of one that was refused, too, urllib3 says that it timed out: hence last.
    is_slow = isinstance(error, urllib3.exceptions.TimeoutError)
    return "no answer in time" if is_slow else "the connection broke off"


def _identity(client: Any) -> dict[str, str]:
    settings = client.configuration.auth_settings().values()
    return {setting["key"]: setting["value"] for setting in settings if setting["value"]}


def _tls_context(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _failure(response: Response) -> APIServerError:
    with response:
        data = response.read(_MAX_ERROR_BYTES)
    try:
        status = msgspec.json.decode(data, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status = _Status()
    is_status = status.kind == "Status" and status.reason.isalnum()
    # Not its message, which names the user: this is shown to everybody who asks /readyz.
    text = f"HTTP {response.status}" + (f" {status.reason[:64]}" if is_status else "")
    is_not_found = response.status == 404 and is_status and status.reason == "NotFound"
    return APIServerError(text, response.status, is_not_found=is_not_found)
