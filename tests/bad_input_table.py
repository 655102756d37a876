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
    57: "Found by attacks and in use",
    64: "A store in etcd",
    71: "The signer",
}
ROWS = {
    1: "`alg` is `none` in any spelling, empty or missing: refused",
    2: "HMAC with the text of a public key as its secret (CVE-2022-29217): refused",
    3: "an `alg` other than the key's: refused",
    4: "`crit` with any content: refused",
    5: "an unencoded payload (`b64: false`): refused",
    6: "a key, or its address, in the header: refused, and never fetched",
    7: "a duplicate member in the header: refused",
    8: "a `kid` that is huge, or holds a path, a URL, SQL or NUL: refused",
    9: "any `typ` other than `JWT`, any `cty` or `zip`: refused",
    10: "a header of a megabyte, or nested 100,000 deep: refused",
    11: "base64 in any other spelling: refused, so that a token has one text",
    12: "a missing or truncated signature, another token's, or any flipped bit: refused",
    13: "ECDSA as DER or out of range: refused; a high s is the same token for revocation",
    14: "PKCS#1 v1.5 instead of PSS, and the reverse: refused",
    15: "JWS in JSON, JWE, too few or too many segments: refused",
    16: "a key that is retired, not active yet, or foreign: refused",
    17: "an issuer similar to ours: refused",
    18: "a time that is not a plain number, or out of range: refused",
    19: "a duplicate claim: refused",
    20: "a payload that is not UTF-8, or NUL in `sub`: refused",
    21: "an `aud` that is empty, of another type or very long: refused",
    22: "a missing required claim: refused",
    23: "`nbf`, `iat`, `exp`: accepted up to the last second of the leeway, refused one later",
    24: "a `sub` that contradicts `kubernetes.io`, and names invalid in Kubernetes: refused",
    25: "the account or object is gone or recreated: refused; if the look-up fails, with an error",
    26: "a token bound to two objects: refused",
    27: "no `spec`, or a token that is empty or not a string: 400",
    28: "a duplicate member, or one in other capitals: 400",
    29: "another `kind` or `apiVersion`: 400 with what is served; the body's version decides",
    30: "a `status` sent by the client: ignored",
    31: "other methods 405, other types 415, too large 413 at once, broken JSON 400",
    32: "10,000 audiences or a token of 3 MB: within 100 ms, without delaying other requests",
    33: "an ambiguous message: 400, and the connection is closed",
    34: "no certificate, a bad one, or an old TLS version: refused",
    35: "identities that a proxy claims for others (CVE-2018-16886): ignored",
    36: "1,000 stalled clients: disconnected within 10 s, the p99 of others under 500 ms",
    37: "no identity: 401 on every route that is not public",
    38: "weak, private or symmetric keys, one `kid` for two: not loaded; unused keys: skipped",
    39: "a key file that others can read, or encrypted, empty or truncated: not loaded, and named",
    40: "a remote key set: https, one host, 1 MB, 5 s, one fetch in 30 s for unknown `kid`s",
    41: "an open-ended query, a grant of one key (CVE-2026-73499): denied",
    42: "a gap of one key between grants: denied, and the gap is named",
    43: "no key, an empty or inverted range, a key of 1 MB: 400",
    44: "an auth token older than its user's password, or of a deleted user: invalid",
    45: "200 log-ins at once: reviews' p99 under 500 ms; an unknown user is no faster",
    46: "details of other users and roles: denied",
    47: "killed during writes: acknowledged writes are kept, and it is ready within 3 s",
    48: "killed during key rotation: one active key, and every published token verifies",
    49: "disk full: writes 503, reviews continue; with room again it recovers within 5 s",
    50: "database locked: writes 503 within 2 s, reads continue",
    51: "a flipped bit in the database: no start, with the reason",
    52: "a killed worker: only its own requests are lost, and it is back within 1 s",
    53: "SIGTERM under load: every request in flight is answered, ended within 30 s",
    54: "the clock stepped by an hour or a year: nothing past `exp` and leeway is accepted",
    55: "certificates and keys replaced under load: no failure, the new ones used within 10 s",
    56: "no token, password or key in anything that the suite leaves",
    57: "input made to backtrack, n and 2n bytes of it: every parser is linear",
    58: "a TLS session resumed after a revocation, or after the list expired: refused",
    59: "10,000 anonymous connections, long headers, a flood of log-ins: no delay for others",
    60: "the store's file replaced, truncated, removed, unreadable: no answer from the old state",
    61: "a secret in place of a path or a URL: in no message",
    62: "names with control characters or of 64 KiB: shown escaped, stored or refused",
    63: "a cross-site request by a browser with a certificate: changes nothing",
    64: "no majority, or a replica cut off in either direction: 503, and back by itself",
    65: "a member or a worker stopped for longer than a proof holds: no answer from before",
    66: "leaders, replicas and workers killed: nothing acknowledged lost, nothing applied twice",
    67: "compaction past the watch, fragments, a cancelled watch: the state of a fresh load",
    68: "keys changed by others, a restored snapshot, another cluster: noticed, or no answers",
    69: "no space, etcd's auth, passwords, certificates: named in /readyz, and it recovers",
    70: "two replicas rotate keys at once, a kill, a wrong encryption key: one active key, or none",
    71: "claims that are forged, too large or of a wrong clock: not signed, nor told why",
    72: "1,000 calls at once, late ones, a client that never reads, a socket in use: it serves on",
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
