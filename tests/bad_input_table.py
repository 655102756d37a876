"""The table of docs/bad-input.md: what must happen on bad input, attacks and faults, and its tests.

A test is marked with the numbers of its rows: ``@pytest.mark.bad_input(7)``. ``make docs-tables``
collects those tests and writes the page; ``-k bad_input_07`` runs the tests of one row.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "bad-input.md"
# By the first row of each.
PARTS = {
    1: "Header of a token",
    11: "Signature",
    17: "Claims",
    27: "Bodies of reviews",
    33: "HTTP and TLS",
    38: "Keys and key sets",
    41: "Range permissions",
    47: "Store and process",
    57: "Found by attack and in use",
}
ROWS = {
    1: "`alg` of `none`, however it is written, empty or missing: refused",
    2: "HMAC with a public key's text as the secret (CVE-2022-29217): refused",
    3: "an `alg` that is not the one of the key: refused",
    4: "`crit`, whatever is listed in it: refused",
    5: "a payload that is not encoded (`b64: false`): refused",
    6: "a key, or the address of one, in the header: refused, and never fetched",
    7: "a member of the header twice: refused",
    8: "a `kid` that is huge, a path, a URL, SQL or holds NUL: refused",
    9: "a `typ` but `JWT`, any `cty` or `zip`: refused",
    10: "a header of a megabyte, or nested 100,000 deep: refused",
    11: "base64 in a second way of writing: refused, so that a token has one text only",
    12: "no signature, a part of one, another token's, or any bit of the token flipped: refused",
    13: "ECDSA as DER or out of range: refused; a high s is the same token to a revocation",
    14: "PKCS#1 v1.5 for PSS, and PSS for PKCS#1 v1.5: refused",
    15: "JWS in JSON, JWE, too few or too many segments: refused",
    16: "a key that is retired, not active yet, or somebody else's: refused",
    17: "an issuer that is nearly ours: refused",
    18: "a time that is no plain number, or out of all range: refused",
    19: "a claim twice: refused",
    20: "a payload that is not UTF-8, or NUL in `sub`: refused",
    21: "an `aud` that is empty, of another type or endless: refused",
    22: "a required claim missing: refused",
    23: "`nbf`, `iat`, `exp`: accepted to the last second of the leeway, refused one later",
    24: "`sub` against `kubernetes.io`, and names that Kubernetes has not: refused",
    25: "the account or the object is gone or another; or cannot be asked for, which has an error",
    26: "bound to two objects: refused",
    27: "no `spec`, or a token that is empty or no string: 400",
    28: "a member twice, or spelt with other capitals: 400",
    29: "another `kind` or `apiVersion`: 400, with what is served; the body's version decides",
    30: "a `status` that the client sends: counts for nothing",
    31: "other methods 405, other types 415, too large 413 at once, broken JSON 400",
    32: "10,000 audiences or a token of 3 MB: 100 ms, and no other request waits",
    33: "a message that two readers could read in two ways: 400, and the connection is closed",
    34: "no certificate, or a bad one, or an old TLS: refused",
    35: "what a proxy says of others (CVE-2018-16886): makes nobody a user",
    36: "1,000 clients stall: gone within 10 s, the p99 of the others under 500 ms",
    37: "no identity: 401 on every route that is not public",
    38: "weak, private, symmetric keys, one `kid` for two: not loaded; keys never used: skipped",
    39: "a key file that others can read, that is encrypted, empty or cut: not loaded, and named",
    40: "a remote key set: https, one host, 1 MB, 5 s, asked again for a new `kid` once in 30 s",
    41: "an open-ended question, a grant of one key (CVE-2026-73499): denied",
    42: "a gap of one key between grants: denied, and the gap is named",
    43: "no key, an empty or inverted range, a key of 1 MB: 400",
    44: "an auth token from before its user's password changed or the user went: invalid",
    45: "200 log-ins at once: reviews' p99 under 500 ms; an unknown user is no faster",
    46: "details of other users and roles: denied",
    47: "killed while it writes: what was acknowledged is there, and it is ready within 3 s",
    48: "killed while keys rotate: one active key, and every published token verifies",
    49: "disk full: writes 503, reviews go on; with room again all goes on within 5 s",
    50: "database locked: writes 503 within 2 s, reads go on",
    51: "a bit of the database flipped: no start, and it says why",
    52: "a worker killed: its own requests are lost and no other, and it is back within 1 s",
    53: "SIGTERM under load: every request in flight is answered, and it is gone within 30 s",
    54: "the clock stepped by an hour or a year: nothing past `exp` and leeway is accepted",
    55: "certificates and keys replaced under load: no failure, the new ones in use within 10 s",
    56: "tokens, passwords and keys in anything that the suite leaves behind: none",
    57: "input made to backtrack, n and 2n bytes of it: every parser is linear",
    58: "a TLS session resumed after a revocation, or once the list ran out: refused",
    59: "10,000 anonymous connections, long heads, a flood of log-ins: nobody else waits",
    60: "the store's file replaced, cut, removed, unreadable: no answer from the old state",
    61: "a secret where a path or a URL belongs: in no message",
    62: "names with control characters or of 64 KiB: shown escaped, stored or refused",
    63: "a request of another site by a browser with a certificate: changes nothing",
}
# The tests of each row that a run has collected, before any are deselected.
COLLECTED = pytest.StashKey[dict[int, list[str]]]()
_INTRODUCTION = """\
# Bad input, attacks and faults

What must happen, row by row, and the tests that show it. *Refused* is a TokenReview that is
answered with `authenticated: false`, without a user. `make test` runs all tests, and
`.venv/bin/python -m pytest -k bad_input_12` those of row 12. `make chaos` repeats the faults of
rows 36, 45 and 47 to 55 more often than `make test` has time for.

`make docs-tables` makes this page from `tests/bad_input_table.py` and the tests that are marked
with a row: `@pytest.mark.bad_input(12)`. A test fails where the page is out of date, a row has no
test, or a test is marked with a row that is not here.
"""


def by_row(items: Iterable[pytest.Item]) -> dict[int, list[str]]:
    """Return the tests, as ``file::name``, by the rows that they are marked with."""
    found = defaultdict(set)
    for item in items:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        name = item.name.partition("[")[0]
        for mark in item.iter_markers("bad_input"):
            for row in mark.args:
                found[row].add((path, item.location[1] or 0, name))
    return {
        row: [f"{path}::{name}" for path, _, name in sorted(tests)]
        for row, tests in sorted(found.items())
    }


def render(tests: Mapping[int, list[str]]) -> str:
    """Return the page."""
    lines = [_INTRODUCTION]
    for row, must in ROWS.items():
        if row in PARTS:
            lines += ["", f"## {PARTS[row]}", "", "| | What must happen | Tests |", "|---|---|---|"]
        lines.append(f"| {row} | {must[0].upper()}{must[1:]} | {_links(tests.get(row, []))} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _links(names: Iterable[str]) -> str:
    """Return the tests' names, each file a link."""
    by_file = defaultdict(list)
    for name in names:
        path, _, test = name.partition("::")
        by_file[path].append(test)
    return "<br>".join(
        f"[{path}](../tests/{path}): " + ", ".join(f"`{test}`" for test in tests)
        for path, tests in by_file.items()
    )


class _Page:
    """Writes the page once the tests are collected."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        PAGE.write_text(render(by_row(session.items)), "utf-8")


if __name__ == "__main__":
    sys.exit(pytest.main(["--collect-only", "-qq", "-m", "bad_input"], plugins=[_Page()]))
