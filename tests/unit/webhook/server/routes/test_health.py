"""What a health route lists, and what decides."""

import pytest

from webhook.server.request.message import Request, Response
from webhook.server.routes.health import HealthCheck, health_routes


def get(
    checks: list[HealthCheck],
    warnings: list[HealthCheck],
    query: bytes = b"verbose",
    path: str = "/readyz",
) -> tuple[int, str]:
    answer = health_routes("readyz", checks, warnings)[path](Request("GET", path, query))
    assert isinstance(answer, Response)
    return answer.code, answer.body.decode()


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


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("query", "status", "lines"),
    [
        (b"exclude=keys", 200, None),
        (b"verbose&exclude=keys", 200, ["[+]ping ok", "[+]keys excluded: ok", "[+]store ok"]),
        (
            b"verbose&exclude=keys&exclude=store",
            200,
            ["[+]ping ok", "[+]keys excluded: ok", "[+]store excluded: ok"],
        ),
        (b"exclude=store", 503, ["[+]ping ok", "[-]keys failed: none", "[+]store excluded: ok"]),
        (b"exclude=%6beys", 200, None),
        (b"exclude=keys,store", 503, ["[+]ping ok", "[-]keys failed: none", "[+]store ok",
         'warn: some health checks cannot be excluded: no matches for "keys,store"']),
        (
            b"verbose&exclude=keys&exclude=z&exclude=a%0A%22&exclude=",
            200,
            ["[+]ping ok", "[+]keys excluded: ok", "[+]store ok",
             'warn: some health checks cannot be excluded: no matches for "","a\\n\\"","z"'],
        ),
    ],
)  # fmt: skip
def test_checks_are_excluded_by_name(query: bytes, status: int, lines: list[str] | None) -> None:
    runs: list[str] = []

    def check(name: str, problem: str) -> HealthCheck:
        return name, lambda: runs.append(name) or problem  # type: ignore[func-returns-value]

    checks = [check("ping", ""), check("keys", "none"), check("store", "")]
    verdict = "readyz check passed" if status == 200 else "readyz check failed"
    body = "ok" if lines is None else "\n".join([*lines, verdict]) + "\n"
    assert get(checks, [], query) == (status, body)
    # What is left out is not run.
    assert ("keys" in runs) is (status == 503)


@pytest.mark.fault(13)
def test_each_check_has_a_path() -> None:
    checks: list[HealthCheck] = [("ping", lambda: ""), ("keys", lambda: "none yet")]
    assert get(checks, [], b"", "/readyz/ping") == (200, "ok")
    answer = (503, "internal server error: none yet\n")
    assert get(checks, [], b"verbose&exclude=keys", "/readyz/keys") == answer
    assert list(health_routes("readyz", checks)) == ["/readyz", "/readyz/ping", "/readyz/keys"]
