"""The log-in to etcd, renewed when etcd says so.

Invariants:

1. One log-in at a time for each endpoint, however many requests wait for it. It goes on when they
   give up, since checking a password can take longer than a request may.
2. A password that was refused is not tried again for ``_PAUSE_SECONDS``, unless its file changes.
3. Neither the password nor the token is in an error or a repr, whatever etcd answers.
"""

from collections.abc import Callable
from threading import Event, Lock
from time import monotonic
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.channels import Connection
from webhook.etcd.credentials import EtcdLogin
from webhook.etcd.errors import (
    AUTH_FAILED,
    AUTH_NOT_ENABLED,
    Code,
    CredentialFileError,
    EtcdError,
    LoginRefusedError,
    NotSentError,
    error_of_status,
)
from webhook.etcd.methods import AUTHENTICATE

_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 1.0
_METADATA: Final = (("hasleader", "true"),)
_HIDDEN: Final = "[hidden]"


class Session:
    """The token of a user. ``clock`` returns seconds."""

    def __init__(self, login: EtcdLogin, clock: Callable[[], float] = monotonic) -> None:
        self._login = login
        self._clock = clock
        self._lock = Lock()
        self._token: str | None = None
        self._logins: dict[str, _Login] = {}
        self._password = ""
        self._refused = ""
        self._refused_until = 0.0

    @property
    def present(self) -> str | None:
        """The token, empty if etcd's auth is disabled, None before the first log-in."""
        return self._token

    def token(self, connection: Connection, deadline: float) -> str:
        """Return the token, after a log-in if there is none yet; empty if etcd's auth is disabled.

        Raises an EtcdError that is definite.
        """
        token = self._token
        return self._renew(None, connection, deadline) if token is None else token

    def renew(self, stale: str, connection: Connection, deadline: float) -> str:
        """Return another token than ``stale``, which etcd did not accept. Raises like ``token``."""
        return self._renew(stale, connection, deadline)

    def hide(self, text: str) -> str:
        """Return a text of the server without the token and the password (invariant 3)."""
        for secret in (self._token, self._password):
            if secret:
                text = text.replace(secret, _HIDDEN)
        return text

    def _renew(self, stale: str | None, connection: Connection, deadline: float) -> str:
        with self._lock:
            token = self._token
            if token is not None and token != stale:
                return token
            login = self._logins.get(connection.endpoint)
            is_first = login is None
            if login is None:
                login = self._logins[connection.endpoint] = _Login()  # Invariant 1.
        if is_first:
            self._start(login, connection)
        if not login.ended.wait(max(0.0, deadline - self._clock())):
            raise NotSentError.at(
                connection.endpoint, "the log-in took too long", Code.DEADLINE_EXCEEDED
            )
        if login.failure is not None:
            raise login.failure()
        return login.token

    def _start(self, login: "_Login", connection: Connection) -> None:
        endpoint = connection.endpoint
        try:
            password = self._login.read_password()
            if password == self._refused and self._clock() < self._refused_until:  # Invariant 2.
                return self._end(login, endpoint, failure=lambda: _refused(endpoint))
            self._password = password
            request = rpc.AuthenticateRequest(name=self._login.username, password=password)
            call = connection.unary(AUTHENTICATE.path).future(
                request.SerializeToString(), timeout=_SECONDS, metadata=_METADATA
            )
        except CredentialFileError as error:
            message = str(error)
            return self._end(login, endpoint, failure=lambda: CredentialFileError(message))
        except (NotSentError, ValueError):
            return self._end(login, endpoint, failure=connection.closed_error)
        except BaseException:
            # Whoever waits has to be told, whatever this is.
            self._end(login, endpoint, failure=lambda: NotSentError.at(endpoint, "no log-in"))
            raise
        connection.hold()
        call.add_done_callback(lambda done: self._ended(login, connection, done))
        return None

    def _ended(self, login: "_Login", connection: Connection, call: "grpc.Future[bytes]") -> None:
        connection.release()
        endpoint = connection.endpoint
        try:
            token = AUTHENTICATE.parse(call.result()).token
        except grpc.RpcError as error:
            code, text = status_of(error)
        except (grpc.FutureCancelledError, DecodeError):
            code, text = Code.INTERNAL, "no answer that can be read"
        else:
            if token and token.isascii() and token.isprintable():
                return self._end(login, endpoint, token=token)
            code, text = Code.INTERNAL, "a token that cannot be used"
        if (code, text) == (Code.FAILED_PRECONDITION, AUTH_NOT_ENABLED):
            return self._end(login, endpoint, token="")
        if (code, text) == (Code.INVALID_ARGUMENT, AUTH_FAILED):
            self._refused, self._refused_until = self._password, self._clock() + _PAUSE_SECONDS
            return self._end(login, endpoint, failure=lambda: _refused(endpoint))
        # The texts of servers are limited there, and those of gRPC shortened.
        failed = error_of_status(code, self.hide(text), endpoint, AUTHENTICATE.name)
        is_late = code is Code.DEADLINE_EXCEEDED
        why = "it took too long" if is_late else failed.text or code.name
        return self._end(
            login, endpoint, failure=lambda: NotSentError.at(endpoint, f"log-in: {why}", code)
        )

    def _end(
        self,
        login: "_Login",
        endpoint: str,
        *,
        token: str | None = None,
        failure: "Callable[[], EtcdError] | None" = None,
    ) -> None:
        with self._lock:
            if token is not None:
                self._token = login.token = token
            login.failure = failure
            del self._logins[endpoint]
        login.ended.set()


class _Login:
    """A log-in: its token, or a function that makes the error for one more request."""

    def __init__(self) -> None:
        self.ended = Event()
        self.token = ""
        self.failure: Callable[[], EtcdError] | None = None


def status_of(error: grpc.RpcError) -> tuple[Code, str]:
    """Return the status of a call that failed."""
    if not isinstance(error, grpc.Call):
        return Code.UNKNOWN, ""
    return Code(error.code().value[0]), error.details() or ""


def _refused(endpoint: str) -> LoginRefusedError:
    return LoginRefusedError(
        f"etcd at {endpoint} refused the user name or the password of its configured user",
        code=Code.INVALID_ARGUMENT,
        text=AUTH_FAILED,
        endpoint=endpoint,
        is_definite=True,
    )
