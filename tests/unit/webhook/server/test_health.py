"""What a health route lists, and what decides."""

import asyncio
from typing import Any

import pytest

from webhook.server.routes.documents import HealthCheck, health_route


def get(checks: list[HealthCheck], warnings: list[HealthCheck], query: bytes = b"verbose") -> Any:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "query_string": query}
    asyncio.run(health_route("readyz", checks, warnings)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("problem", "warning", "status", "lines"),
    [
        ("", "", 200, ["[+]ping ok", "[+]keys ok", "readyz check passed"]),
        (
            "", "old ones stay", 200,
            ["[+]ping ok", "[+]keys ok", "[!]keys warning: old ones stay", "readyz check passed"],
        ),
        (
            "none yet", "none yet", 503,
            ["[+]ping ok", "[-]keys failed: none yet", "[!]keys warning: none yet",
             "readyz check failed"],
        ),
    ],
)  # fmt: skip
def test_a_warning_is_listed_and_decides_nothing(
    problem: str, warning: str, status: int, lines: list[str]
) -> None:
    checks: list[HealthCheck] = [("ping", lambda: ""), ("keys", lambda: problem)]
    warnings: list[HealthCheck] = [("keys", lambda: warning)]
    assert get(checks, warnings) == (status, "\n".join(lines) + "\n")
    if status == 200:
        for query in (b"", b"verbos", b"a=verbose"):
            assert get(checks, warnings, query) == (200, "ok")
        for query in (b"verbose=true", b"verbose=0", b"a&verbose="):
            assert get(checks, warnings, query) == get(checks, warnings)
