"""Limits of the gRPC server, against a real client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import grpc
import pytest

from tests.external_jwt.client import SignerClient
from tests.secrets_made import token_made
from tests.support import wait_until
from tests.unit.webhook.signer.claims_parts import NOW, claims, segment
from tests.unit.webhook.signer.test_service import Seen, terms
from webhook.signer.grpc_server import MAX_CALLS, MAX_MESSAGE_BYTES, grpc_server
from webhook.signer.service import RESULTS, ExternalJWTSigner
from webhook.telemetry.signer_metrics import SignerMetrics

pytestmark = pytest.mark.bad_input(72)


class Parts:
    """A server whose clock can be made to wait, and so every call to sign."""

    def __init__(self) -> None:
        self.goes_on = Event()
        self.goes_on.set()
        self.metrics = SignerMetrics(RESULTS)
        self.service = ExternalJWTSigner(terms(), self.metrics, Seen(), self._now)

    def _now(self) -> float:
        assert self.goes_on.wait(60)
        return float(NOW)

    @contextmanager
    def client(self, folder: Path) -> Iterator[SignerClient]:
        server = grpc_server(self.service, self.metrics)
        server.add_insecure_port(f"unix:{folder}/s")
        server.start()
        client = SignerClient(folder / "s")
        try:
            yield client
        finally:
            client.close()
            server.stop(None).wait()

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
