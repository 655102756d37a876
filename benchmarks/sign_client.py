"""``python -m benchmarks.sign_client SOCKET DATA_DIR IN_FLIGHT SECONDS [RATE]``: a load of Sign.

It is a process of its own, so that it does not use the signer's interpreter, on one connection, as
kube-apiserver's is. So many threads call in a closed loop, each with the next claims once it has
its answer; with a rate (calls/s) calls are due at fixed times, and the latency counts from the time
when a call was due. Prints a ``Load`` as JSON, and exits with 1 if a call fails.
"""

import base64
import json
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Final

import grpc

from benchmarks.load_client import Load
from webhook.config.load import load_configuration
from webhook.signer.external_jwt_pb2 import SignJWTRequest, SignJWTResponse
from webhook.signer.grpc_server import SERVICE
from webhook.signer.service import SIGN
from webhook.token.claims import ObjectReference, build_projected
from webhook.token.issuer import EXTENDABLE_SECONDS

_CLAIMS: Final = 256
_DEADLINE_SECONDS: Final = 30.0
_WARM_UP_CALLS: Final = 20


def main(path: Path, data_dir: Path, in_flight: int, seconds: float, rate: float) -> Load:
    """Measure. Raises grpc.RpcError if a call fails."""
    claims = make_claims(data_dir)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        sign: Callable[..., SignJWTResponse] = channel.unary_unary(
            f"/{SERVICE}/{SIGN}",
            request_serializer=SignJWTRequest.SerializeToString,
            response_deserializer=SignJWTResponse.FromString,
        )
        for request in claims[:_WARM_UP_CALLS]:
            if not sign(request, timeout=_DEADLINE_SECONDS, wait_for_ready=True).signature:
                raise RuntimeError("an answer has no signature")
        return _measure(sign, claims, in_flight, seconds, rate)


def _measure(
    sign: Callable[..., SignJWTResponse],
    claims: list[SignJWTRequest],
    in_flight: int,
    seconds: float,
    rate: float,
) -> Load:
    # Incremented by one thread at a time.
    number = count()
    start, cpu = time.perf_counter(), time.process_time()
    end = start + seconds

    def call_repeatedly(_thread: int) -> list[float]:
        latencies: list[float] = []
        while True:
            mine = next(number)
            began = time.perf_counter()
            if rate:
                due = start + mine / rate
                time.sleep(max(0.0, due - began))
                began = due
            if began >= end:
                return latencies
            sign(claims[mine % len(claims)], timeout=_DEADLINE_SECONDS)
            latencies.append(time.perf_counter() - began)

    with ThreadPoolExecutor(in_flight) as pool:
        latencies = sorted(
            value for part in pool.map(call_repeatedly, range(in_flight)) for value in part
        )
    elapsed = time.perf_counter() - start
    percentiles = [1000 * value for value in quantiles(latencies, n=100)]
    return Load(
        requests=len(latencies),
        errors=0,
        seconds=elapsed,
        requests_per_second=len(latencies) / elapsed,
        p50_ms=percentiles[49],
        p90_ms=percentiles[89],
        p99_ms=percentiles[98],
        max_ms=1000 * latencies[-1],
        client_cpu_seconds=time.process_time() - cpu,
    )


def make_claims(data_dir: Path) -> list[SignJWTRequest]:
    """Make the claims of so many Pods as kube-apiserver does, issued now."""
    configuration = load_configuration(data_dir, {}, {})
    requests = []
    for pod in range(_CLAIMS):
        _, payload = build_projected(
            issuer=configuration.issuer,
            namespace="shop",
            service_account=ObjectReference("checkout", str(uuid.uuid4())),
            audiences=configuration.audiences,
            now=time.time(),
            expiration_seconds=EXTENDABLE_SECONDS,
            warn_after_seconds=EXTENDABLE_SECONDS,
            pod=ObjectReference(f"checkout-5d4f8c7b9-{pod:05}", str(uuid.uuid4())),
            node=ObjectReference("node-0", str(uuid.uuid4())),
        )
        text = base64.urlsafe_b64encode(payload).rstrip(b"=").decode("ascii")
        requests.append(SignJWTRequest(claims=text))
    return requests


if __name__ == "__main__":
    socket_path, folder, threads, duration, *rest = sys.argv[1:]
    load = main(
        Path(socket_path),
        Path(folder),
        int(threads),
        float(duration),
        float(rest[0]) if rest else 0.0,
    )
    sys.stdout.write(json.dumps(asdict(load)))
