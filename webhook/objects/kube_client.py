"""Sends requests to an API server.

Invariants:

1. Every request ends at its deadline, and its response is limited in size.
2. Credentials that were refused are read again for the next request. If that fails, there are no
   requests and no further attempts until a delay has passed, which grows with each failure.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final
from urllib.parse import urlencode

import msgspec

from webhook.errors import APIServerError, ConfigurationError
from webhook.objects.cluster import Cluster
from webhook.objects.credential_plugin import PluginFailedError
from webhook.outbound.errors import OutboundError
from webhook.outbound.https import ClientResponse, Deadline

_FIRST_DELAY_SECONDS: Final = 1.0
_MAX_DELAY_SECONDS: Final = 60.0


class _Status(msgspec.Struct):
    kind: str = ""
    reason: str = ""


class KubeClient:
    """An API server and an identity there, as ``Cluster`` finds them.

    Makes no connection yet. Raises ConfigurationError, but not if a credential plugin fails: then
    each request raises its error.
    """

    def __init__(self, kubeconfig: Path | None = None, context: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = Lock()
        self._cluster: Cluster | None = None
        self._failure: APIServerError | None = None
        self._failures = 0
        self._retry_at = 0.0
        try:
            self._cluster = Cluster(kubeconfig, context)
        except PluginFailedError as error:
            self._note_failure(error)

    def get(
        self, path: str, query: Mapping[str, str], accept: str, seconds: float, max_bytes: int
    ) -> ClientResponse:
        """Send a GET request; the body of the response has yet to be read. Raises APIServerError.

        ``seconds`` is the limit for all of it, including the body.
        """
        deadline = Deadline(seconds)  # invariant 1
        cluster, identity = self._ready(deadline)
        target = cluster.path + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = cluster.client.get(
                target, {"Accept": accept, **identity}, deadline, max_bytes
            )
            if response.status == 200:
                return response
            failure = _failure(response)
        except OutboundError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                self._forget(cluster)
            raise APIServerError(str(error)) from error
        if failure.code == 401:
            self._forget(cluster)
        raise failure

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.client.close()

    def _ready(self, deadline: Deadline) -> tuple[Cluster, dict[str, str]]:
        # A plugin may be slow, and is run by one thread at a time.
        if not self._lock.acquire(timeout=deadline.seconds):
            raise APIServerError("its credentials are still being read")
        try:
            if self._failure is not None and monotonic() < self._retry_at:
                raise self._failure.with_traceback(None)  # invariant 2
            try:
                if self._cluster is None:
                    self._cluster = Cluster(self._kubeconfig, self._context)
                found = self._cluster, self._cluster.headers()
            except APIServerError as error:
                raise self._note_failure(error) from error.__cause__
            except ConfigurationError as error:
                failure = APIServerError("its kubeconfig could not be read again")
                raise self._note_failure(failure) from error
            except Exception as error:  # a missing token file, or an error of the client
                failure = APIServerError("the credentials could not be read again")
                raise self._note_failure(failure) from error
            self._failure, self._failures = None, 0
            return found
        finally:
            self._lock.release()

    def _note_failure(self, failure: APIServerError) -> APIServerError:
        """Start a delay without attempts, and return its reason."""
        delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**self._failures)
        self._retry_at = monotonic() + delay
        self._failures = min(self._failures + 1, 16)
        self._failure = failure
        if self._cluster is not None:
            self._cluster.client.close()
            self._cluster = None
        return failure

    def _forget(self, cluster: Cluster) -> None:
        with self._lock:
            if self._cluster is cluster:
                cluster.client.close()
                self._cluster = None


def _failure(response: ClientResponse) -> APIServerError:
    with response:
        try:
            data = response.read()
            status = msgspec.json.decode(data, type=_Status)
        except (OutboundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            status = _Status()
    is_status = status.kind == "Status" and status.reason.isalnum()
    # Not its message, which names the user: /readyz shows this to everybody.
    text = f"HTTP {response.status}" + (f" {status.reason[:64]}" if is_status else "")
    is_not_found = response.status == 404 and is_status and status.reason == "NotFound"
    return APIServerError(text, response.status, is_not_found=is_not_found)
