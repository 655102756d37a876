"""Limits of the gRPC server, against a real client."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer

import grpc
import pytest

from tests.external_jwt.client import SignerClient
from tests.secrets_made import token_made
from tests.support import wait_until
from tests.unit.webhook.signer.claims_parts import NOW, claims, segment
from tests.unit.webhook.signer.test_service import Seen, terms
from webhook.errors import DataDirectoryError
from webhook.signer.grpc_server import MAX_CALLS, MAX_MESSAGE_BYTES, GRPCServer
from webhook.signer.service import RESULTS, ExternalJWTSigner, Skew
from webhook.telemetry.signer_metrics import SignerMetrics
from webhook.token.claims import Claims

pytestmark = pytest.mark.bad_input(72)


class Parts:
    """A server whose clock can be made to wait, and so every call to sign."""

    def __init__(self, skew: Skew | None = None) -> None:
        self.goes_on = Event()
        self.goes_on.set()
        self.waiting = False
        self.metrics = SignerMetrics(RESULTS)
        self.service = ExternalJWTSigner(terms(), self.metrics, skew or Seen(), self._now)

    def _now(self) -> float:
        self.waiting = not self.goes_on.is_set()
        assert self.goes_on.wait(60)
        return float(NOW)

    @contextmanager
    def client(self, folder: Path) -> Iterator[SignerClient]:
        server = GRPCServer(self.service, self.metrics)
        server.listen(folder / "s")
        server.start()
        client = SignerClient(folder / "s")
        try:
            yield client
        finally:
            client.close()
            server.stop(0)

    def count(self, result: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "leeway_signer_requests_total", {"method": "Sign", "result": result}
            )
            or 0.0
        )


def test_more_calls_than_are_allowed(tmp_path: Path) -> None:
    parts = Parts()
    sent = segment(claims())
    with parts.client(tmp_path) as client:
        client.sign(sent)
        parts.goes_on.clear()
        calls = [client.sign_call.future(sent, timeout=60) for _ in range(MAX_CALLS + 100)]
        wait_until(lambda: sum(call.done() for call in calls) >= 100)
        parts.goes_on.set()
        codes = Counter(call.code() for call in calls)
        refused = [call for call in calls if call.code() is not grpc.StatusCode.OK]
        assert codes == {
            grpc.StatusCode.OK: MAX_CALLS,
            grpc.StatusCode.RESOURCE_EXHAUSTED: 100,
        }
        assert {call.details() for call in refused} == {"Concurrent RPC limit exceeded!"}
        for call in calls:
            if call.code() is grpc.StatusCode.OK:
                signed = call.result()
                token_made(f"{signed.header}.{sent}.{signed.signature}")
        # There is room again.
        client.sign(sent)
    assert parts.count("ok") == MAX_CALLS + 2
    assert parts.count("Overloaded") == 100


def test_large_messages(tmp_path: Path) -> None:
    parts = Parts()
    with parts.client(tmp_path) as client:
        for size, code in (
            (MAX_MESSAGE_BYTES - 100, grpc.StatusCode.INVALID_ARGUMENT),
            (MAX_MESSAGE_BYTES + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                client.sign("a" * size)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is code
    assert parts.count("TooLarge") == 1


class Broken:
    """Fails in a way that nobody expects."""

    def see(self, claims: Claims, now: float) -> None:
        raise RuntimeError("a detail that concerns nobody")


def test_an_unexpected_error_is_not_shown_to_the_caller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(Broken())
    with parts.client(tmp_path) as client, pytest.raises(grpc.RpcError) as caught:
        client.sign(segment(claims()))
    assert isinstance(caught.value, grpc.Call)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INTERNAL, "the call failed",
    )  # fmt: skip
    (record,) = caplog.records
    assert record.exc_info
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "a call failed")
    assert parts.count("Failed") == 1


def test_a_folder_in_which_no_socket_can_be_created(tmp_path: Path) -> None:
    server = GRPCServer(Parts().service, Parts().metrics)
    with pytest.raises(DataDirectoryError, match=r"no socket can be created in .*/missing; let"):
        server.listen(tmp_path / "missing" / "s")
    server.stop(0)


def test_a_stop_waits_for_the_calls_that_have_begun(tmp_path: Path) -> None:
    parts = Parts()
    server = GRPCServer(parts.service, parts.metrics)
    server.listen(tmp_path / "s")
    server.start()
    client = SignerClient(tmp_path / "s")
    sent = segment(claims())
    client.sign(sent)
    parts.goes_on.clear()
    call = client.sign_call.future(sent, timeout=60)
    wait_until(lambda: parts.waiting)
    Timer(1.5, parts.goes_on.set).start()
    server.stop(30)
    assert call.code() is grpc.StatusCode.OK
    with pytest.raises(grpc.RpcError):
        client.sign_call(sent, timeout=5)
    client.close()
