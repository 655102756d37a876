"""A gRPC client of a signer: what kube-apiserver sends, over a Unix socket."""

from pathlib import Path
from types import TracebackType

import grpc

from tests.external_jwt.messages import (
    Keys,
    Signed,
    read_keys,
    read_max_expiration,
    read_signed,
    sign_request,
)

SERVICE = "/v1.ExternalJWTSigner"
TIMEOUT = 30.0
# As kube-apiserver names the host of a socket.
_AUTHORITY = "localhost"


class SignerClient:
    """One connection. Raises grpc.RpcError for a call that does not succeed."""

    def __init__(self, socket: Path, timeout: float = TIMEOUT) -> None:
        # Channels with the same options share their connection unless this is set.
        options = [("grpc.default_authority", _AUTHORITY), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        self.timeout = timeout
        self.sign_call: grpc.UnaryUnaryMultiCallable[str, Signed] = self.channel.unary_unary(
            f"{SERVICE}/Sign", request_serializer=sign_request, response_deserializer=read_signed
        )
        self.fetch_call: grpc.UnaryUnaryMultiCallable[bytes, Keys] = self.channel.unary_unary(
            f"{SERVICE}/FetchKeys", request_serializer=None, response_deserializer=read_keys
        )
        self.metadata_call: grpc.UnaryUnaryMultiCallable[bytes, int] = self.channel.unary_unary(
            f"{SERVICE}/Metadata",
            request_serializer=None,
            response_deserializer=read_max_expiration,
        )

    def sign(self, claims: str) -> Signed:
        # Waiting for a connection, as kube-apiserver does.
        return self.sign_call(claims, timeout=self.timeout, wait_for_ready=True)

    def fetch_keys(self) -> Keys:
        return self.fetch_call(b"", timeout=self.timeout, wait_for_ready=True)

    def max_expiration(self) -> int:
        return self.metadata_call(b"", timeout=self.timeout, wait_for_ready=True)

    def call(self, path: str, request: bytes, compression: grpc.Compression | None = None) -> bytes:
        """Send any bytes to any method."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            path, request_serializer=None, response_deserializer=None
        )
        return call(request, timeout=self.timeout, wait_for_ready=True, compression=compression)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> "SignerClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
