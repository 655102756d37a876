"""``leeway store import`` beside a running server of two workers."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import jti_of

from .auth import (
    PASSWORD,
    RANGE_REVIEWS,
    as_root,
    auth_server,
    call_on,
    connections_to_every_worker,
    grant,
    log_in,
    question,
)
from .harness import LEEWAY, REVIEWS, RunningServer, request_on, review_of

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=["simple", "jwt"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("importing")
    with auth_server(folder, BCRYPT_COST="4", TOKEN_PROVIDER=request.param) as running:
        as_root(
            running,
            ("role/add", {"name": "app"}),
            ("role/grant", grant("app", "READ", b"/app/", b"/app0")),
            ("user/add", {"name": "alice", "password": PASSWORD}),
            ("user/grant", {"user": "alice", "role": "app"}),
        )
        yield running


def run_import(server: RunningServer, folder: Path, sections: dict[str, object]) -> str:
    path = folder / "document.json"
    head = {"apiVersion": "leeway.dev/v1", "kind": "Store", "auth": {"enabled": True}}
    path.write_text(json.dumps(head | sections))
    done = subprocess.run(
        [LEEWAY, "store", "import", str(path), "--data-dir", str(server.data_dir)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def test_an_import_counts_from_the_next_request_of_every_worker(
    server: RunningServer, tmp_path: Path
) -> None:
    token = server.sign("loofah")
    review = json.dumps(review_of(token)).encode()
    asked = question("alice", "READ", b"/app/x")
    with connections_to_every_worker(server, "kube-apiserver") as connections:

        def seen() -> set[tuple[bool, bool]]:
            """Return whether the token is accepted, and whether alice is allowed to read."""
            found = set()
            for connection in connections:
                reviewed = request_on(connection, "POST", REVIEWS, review, JSON)
                ranged = request_on(connection, "POST", RANGE_REVIEWS, asked, JSON)
                authenticated = reviewed.json["status"]["authenticated"]
                found.add((authenticated, ranged.json["status"]["allowed"]))
            return found

        assert seen() == {(True, True)}
        alice = {"name": "alice", "roles": []}
        revoked = {"before": "2026-11-30T00:00:00Z", "until": "never", "jti": jti_of(token)}
        run_import(server, tmp_path, {"users": [alice], "revocations": [revoked]})
        assert seen() == {(False, False)}
        # A document without the revocation does not take it back.
        run_import(server, tmp_path, {"revocations": []})
        assert seen() == {(False, False)}


def test_auth_tokens_end_with_a_password_and_not_with_a_role(
    server: RunningServer, tmp_path: Path
) -> None:
    alice: dict[str, object] = {"name": "alice", "roles": []}
    token = log_in(server, "alice", PASSWORD)
    with connections_to_every_worker(server, "") as connections:

        def statuses() -> set[int]:
            return {
                call_on(connection, "user/get", {"name": "alice"}, token).status
                for connection in connections
            }

        assert statuses() == {200}
        roles = {"roles": [{"name": "other", "permissions": []}]}
        run_import(server, tmp_path, roles | {"users": [alice | {"roles": ["other"]}]})
        assert statuses() == {200}
        run_import(server, tmp_path, {"users": [alice | {"noPassword": True}]})
        assert statuses() == {401}
