"""A gRPC server in this process that answers etcd's methods as a test says.

    with ScriptedEtcd() as etcd:
        etcd.on["Range"] = lambda request, context: rpc.RangeResponse(count=1)
        etcd.refuse("Txn", grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")

Status is answered without being told to. A method without an answer is UNIMPLEMENTED.
"""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.message import Message

from webhook.etcd import rpc_pb2 as rpc

HOST = "127.0.0.1"
HEADER = rpc.ResponseHeader(cluster_id=1, member_id=2, revision=10, raft_term=3)
_SECONDS = 10.0
Reply = Message | bytes | Iterator[Message]
Handler = Callable[[Any, grpc.ServicerContext], Reply]

REQUESTS: dict[str, type[Message]] = {
    "Range": rpc.RangeRequest,
    "Put": rpc.PutRequest,
    "DeleteRange": rpc.DeleteRangeRequest,
    "Txn": rpc.TxnRequest,
    "Compact": rpc.CompactionRequest,
    "Watch": rpc.WatchRequest,
    "LeaseGrant": rpc.LeaseGrantRequest,
    "LeaseRevoke": rpc.LeaseRevokeRequest,
    "LeaseKeepAlive": rpc.LeaseKeepAliveRequest,
    "LeaseTimeToLive": rpc.LeaseTimeToLiveRequest,
    "Authenticate": rpc.AuthenticateRequest,
    "AuthStatus": rpc.AuthStatusRequest,
    "UserGet": rpc.AuthUserGetRequest,
    "RoleGet": rpc.AuthRoleGetRequest,
    "Status": rpc.StatusRequest,
    "Alarm": rpc.AlarmRequest,
    "MemberList": rpc.MemberListRequest,
}


@dataclass(frozen=True, slots=True)
class Call:
    """What arrived."""

    name: str
    path: str
    request: Any
    metadata: dict[str, str]


class ScriptedEtcd(grpc.GenericRpcHandler):
    """One member, at ``url``."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.on: dict[str, Handler] = {"Status": lambda *_: rpc.StatusResponse(header=HEADER)}
        self.calls: list[Call] = []
        self._streams = 0
        self._changed = Condition()
        self._pool = ThreadPoolExecutor(16, "scripted-etcd")
        self._server = grpc.server(self._pool, handlers=[self], options=[("grpc.so_reuseport", 0)])
        if credentials is None:
            self.port = self._server.add_insecure_port(f"{HOST}:0")
            self.url = f"http://{HOST}:{self.port}"
        else:
            self.port = self._server.add_secure_port(f"{HOST}:0", credentials)
            self.url = f"https://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()

    def refuse(self, name: str, code: grpc.StatusCode, text: str) -> None:
        """Answer a method with a status from now on."""

        def refuse(_request: object, context: grpc.ServicerContext) -> NoReturn:
            context.abort(code, text)

        self.on[name] = refuse

    def names(self) -> list[str]:
        """The methods that were called, in order."""
        return [call.name for call in self.calls]

    def of(self, name: str) -> list[Call]:
        """The calls of a method."""
        return [call for call in self.calls if call.name == name]

    def wait_for_streams(self, count: int) -> None:
        """Wait until so many streams are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._streams == count, _SECONDS), self._streams

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        name = details.method.rpartition("/")[2]
        if name not in self.on:
            return None
        metadata = {key: str(value) for key, value in details.invocation_metadata}

        def record(data: bytes) -> Any:
            request = REQUESTS[name].FromString(data)
            self.calls.append(Call(name, details.method, request, metadata))
            return request

        def one(data: bytes, context: grpc.ServicerContext) -> bytes:
            answer = self.on[name](record(data), context)
            assert isinstance(answer, Message | bytes)
            return _encoded(answer)

        def many(data: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._counted():
                answers = self.on[name](record(next(data)), context)
                assert isinstance(answers, Iterator)
                for answer in answers:
                    yield _encoded(answer)

        if name == "Watch":
            return grpc.stream_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(one)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._streams += change
            self._changed.notify_all()


def until_cancelled(context: grpc.ServicerContext) -> None:
    """Wait until the client ends the call."""
    with (ended := Condition()):
        if context.add_callback(lambda: _notify(ended)):
            ended.wait(_SECONDS)


def _notify(condition: Condition) -> None:
    with condition:
        condition.notify_all()


def closed_port() -> int:
    """Return a port where nothing listens."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _encoded(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
