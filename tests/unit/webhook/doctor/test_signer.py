"""The signer's socket, keys and answers, as ``leeway doctor`` judges them."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from keys.keyring import Keyring, KeyState, ScheduledKey
from tests.support import NOW, signing_key
from webhook.config.load import parse_configuration
from webhook.config.model import Configuration, SignerSection
from webhook.doctor.findings import Status
from webhook.doctor.fixes import Fixes
from webhook.doctor.signer import (
    SignerAnswer,
    SignerError,
    SocketFacts,
    ask_signer,
    check_answer,
    check_keys,
    check_lifetime,
    check_socket,
    socket_facts,
)

OK, WARNING, FAILURE = Status.OK, Status.WARNING, Status.FAILURE
FACTS = SocketFacts(
    Path("/run/leeway/signer.sock"), True, 0o600, 1001, 1001, 0o750, 1001, 1001, is_there=True
)
MISSING = replace(FACTS, is_there=False, is_socket=False, mode=0)
GROUP = SignerSection(group="2002")
SHARED = replace(FACTS, mode=0o660, group=2002, folder_group=2002)
FIXES = Fixes(Path("d"))


@pytest.mark.parametrize(
    ("facts", "section", "status", "finding", "fix"),
    [
        pytest.param(FACTS, SignerSection(), OK, "for user 1001, root", "", id="own"),
        pytest.param(SHARED, GROUP, OK, "for user 1001, group 2002, root", "", id="group"),
        pytest.param(
            replace(SHARED, folder_mode=0o755, folder_group=0), GROUP, OK, "2002", "",
            id="open-folder",
        ),
        pytest.param(
            replace(FACTS, folder_owner=0), SignerSection(), OK, "1001", "", id="folder-of-root"
        ),
        pytest.param(
            replace(FACTS, folder_owner=1002), SignerSection(), FAILURE, "of user 1002",
            "chown 1001 /run/leeway", id="folder-of-another",
        ),
        *[
            pytest.param(
                replace(FACTS, folder_mode=mode), SignerSection(), FAILURE,
                f"can write in /run/leeway (mode 0{mode:o}", "chmod 750 /run/leeway",
                id=f"folder-{mode:o}",
            )
            for mode in (0o770, 0o752, 0o777, 0o720)
        ],
        pytest.param(MISSING, SignerSection(), FAILURE, "does not run", "START", id="missing"),
        pytest.param(
            replace(MISSING, folder_mode=0o777), SignerSection(), FAILURE,
            "can write in /run/leeway (mode 0777", "chmod 750 /run/leeway", id="refused-to-start",
        ),
        pytest.param(
            replace(MISSING, folder_owner=7), SignerSection(), FAILURE,
            "/run/leeway is of user 7, and the signer of 1001", "chown 1001", id="not-its-folder",
        ),
        pytest.param(
            replace(FACTS, is_socket=False), SignerSection(), FAILURE, "is not a socket",
            "rm /run/leeway/signer.sock", id="file",
        ),
        pytest.param(
            replace(FACTS, mode=0o666), SignerSection(), FAILURE, "others can connect",
            "chmod 600 /run", id="open",
        ),
        pytest.param(
            replace(SHARED, mode=0o662), GROUP, FAILURE, "others can connect", "chmod 660 /run",
            id="open-with-group",
        ),
        pytest.param(
            replace(FACTS, mode=0o660), SignerSection(), FAILURE, "group 1001 can connect",
            "chmod 600 /run", id="group-not-configured",
        ),
        pytest.param(
            replace(SHARED, group=1001), GROUP, FAILURE, "of group 1001", "chgrp 2002 /run",
            id="other-group",
        ),
        pytest.param(
            replace(SHARED, mode=0o600), GROUP, FAILURE, "mode 0600", "chmod 660 /run",
            id="group-shut-out",
        ),
        pytest.param(
            replace(SHARED, folder_mode=0o700), GROUP, FAILURE, "cannot enter /run/leeway",
            "chmod 750 /run/leeway", id="group-before-the-folder",
        ),
        pytest.param(
            replace(SHARED, folder_group=1001), GROUP, FAILURE, "cannot enter /run/leeway",
            "chgrp 2002 /run/leeway", id="folder-of-other-group",
        ),
        pytest.param(
            SHARED, SignerSection(group="no-such-group"), FAILURE, "not a group of this machine",
            "groupadd --system no-such-group", id="unknown-group",
        ),
    ],
)  # fmt: skip
def test_who_can_connect(
    facts: SocketFacts, section: SignerSection, status: Status, finding: str, fix: str
) -> None:
    verdict = check_socket(facts, section, "START")
    assert verdict.status is status, verdict
    assert finding in verdict.finding
    assert fix in verdict.fix
    assert bool(verdict.fix) is bool(fix)


def ring(*keys: tuple[str, KeyState]) -> Keyring:
    found = []
    for place, (algorithm, state) in enumerate(keys):
        key = signing_key(algorithm, f"doctor{place}")
        found.append(ScheduledKey(key.verification_key, key, state, int(NOW)))
    return Keyring(tuple(found), int(NOW))


@pytest.mark.parametrize(
    ("keyring", "status", "fix"),
    [
        pytest.param(
            ring(("ES256", KeyState.ACTIVE), ("ES512", KeyState.PENDING)), OK, "", id="all"
        ),
        pytest.param(
            ring(("RS256", KeyState.ACTIVE), ("EdDSA", KeyState.RETIRED)), OK, "", id="retired"
        ),
        pytest.param(
            ring(("EdDSA", KeyState.PENDING), ("EdDSA", KeyState.ACTIVE)), FAILURE,
            "GENERATE, and when it is safe leeway keys rotate --data-dir d", id="active",
        ),
        pytest.param(
            ring(("ES384", KeyState.ACTIVE), ("EdDSA", KeyState.PENDING)), WARNING,
            "leeway keys retire", id="pending",
        ),
        pytest.param(
            ring(("ES384", KeyState.ACTIVE), ("EdDSA", KeyState.VERIFY_ONLY)), WARNING,
            "once those tokens are replaced", id="verify-only",
        ),
    ],
)  # fmt: skip
def test_algorithms(keyring: Keyring, status: Status, fix: str) -> None:
    verdict = check_keys(keyring, FIXES, "GENERATE")
    assert verdict.status is status, verdict
    assert fix in verdict.fix
    assert ("EdDSA" in verdict.finding) is (status is not OK)


def configuration(text: str) -> Configuration:
    return parse_configuration(text, "leeway.yaml", {}, {})


@pytest.mark.parametrize(
    ("maximum", "status", "words"),
    [
        ("3606s", WARNING, "1h6s, below 3607s"),
        ("3607s", OK, "to 1h7s"),
        ("24h", OK, "to 24h"),
        ("9000h", OK, "to 8760h"),
    ],
)
def test_the_extension_of_tokens(maximum: str, status: Status, words: str) -> None:
    text = f"tokens: {{maxExpiration: {maximum}, defaultExpiration: 10m}}"
    verdict = check_lifetime(configuration(text), "edit leeway.yaml")
    assert verdict.status is status
    assert words in verdict.finding


KEYS = ring(("ES256", KeyState.ACTIVE), ("ES256", KeyState.PENDING), ("EdDSA", KeyState.PENDING))
KIDS = frozenset(key.kid for key in KEYS.keys[:2])
ANSWER = SignerAnswer(KIDS, 60, 86400)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        pytest.param(ANSWER, OK, "2 keys to fetch every 1m, tokens of up to 24h", id="right"),
        pytest.param(
            replace(ANSWER, kids=frozenset(list(KIDS)[:1])), WARNING, "cannot fetch", id="older"
        ),
        pytest.param(replace(ANSWER, kids=KIDS | {"x"}), WARNING, "still has x", id="one-more"),
        pytest.param(replace(ANSWER, kids=frozenset("x")), FAILURE, "none of the keys", id="other"),
        pytest.param(
            replace(ANSWER, refresh_hint=30), WARNING, "refreshHint is 1m, and the signer uses 30s",
            id="hint",
        ),
        pytest.param(
            replace(ANSWER, max_expiration=7200), WARNING, "maxExpiration is 24h, and the", id="max"
        ),
    ],
)  # fmt: skip
def test_the_answers(answer: SignerAnswer, status: Status, words: str) -> None:
    verdict = check_answer(answer, KEYS, configuration("signer: {}"), "restart")
    assert verdict.status is status, verdict
    assert words in verdict.finding


def test_the_facts_of_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    path = folder / "s.sock"
    with pytest.raises(SignerError, match=r"there is no .*s\.sock: the signer does not run"):
        socket_facts(path, 7)
    folder.mkdir()
    folder.chmod(0o710)
    own, group = os.geteuid(), folder.stat().st_gid
    assert socket_facts(path, 7) == SocketFacts(path, False, 0, 7, 0, 0o710, own, group)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o640)
        found = socket_facts(path, 7)
    assert found == SocketFacts(
        path, True, 0o640, own, path.stat().st_gid, 0o710, own, group, is_there=True
    )


@pytest.mark.bad_input(72)
def test_what_does_not_answer_as_a_signer(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with pytest.raises(SignerError, match="No such file"):
        ask_signer(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(SignerError, match="the signer has ended"):
            ask_signer(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SignerError, match="does not answer as a signer: DEADLINE_EXCEEDED"):
            ask_signer(path, 0.5)
