"""Whose clock is wrong: the rules as a table."""

import msgspec
import pytest

from tests.support import NOW
from webhook.skew.report import SkewReport, report_of
from webhook.skew.tracker import ClockState, Estimate
from webhook.skew.verdict import ClockVerdict, VerdictKind, judge

A, B, C, D = (f"https://{name}.example" for name in "abcd")
FINE, SIGNERS, SERVER = VerdictKind.IN_STEP, VerdictKind.SIGNERS, VerdictKind.SERVER
UNDECIDED, UNKNOWN = VerdictKind.UNDECIDED, VerdictKind.UNKNOWN


def clock(issuer: str, node: str, ahead: float | None) -> Estimate:
    """Make an estimate; nothing is known about what is None."""
    if ahead is None:
        state, ahead = ClockState.UNKNOWN, -500.0
    elif abs(ahead) <= 5:
        state = ClockState.IN_STEP
    else:
        state = ClockState.AHEAD if ahead > 0 else ClockState.BEHIND
    return Estimate(issuer, node, "iat", state, ahead, NOW, 100)


def clocks(issuers: dict[str, float | None], *nodes: float | None) -> list[Estimate]:
    """Make the estimates of issuers, and of nodes of the first of them."""
    found = [clock(issuer, "", ahead) for issuer, ahead in issuers.items()]
    return found + [clock(A, f"node-{number}", ahead) for number, ahead in enumerate(nodes)]


TABLE = [
    pytest.param(clocks({A: None}, None, None), UNKNOWN, 0, "no token was new", id="old-tokens"),
    pytest.param(clocks({A: 0.2}), FINE, 0, "within 5 s", id="one-issuer-in-step"),
    pytest.param(clocks({A: 4}, 4, 4, 4, -4), FINE, 0, "within 5 s", id="nodes-in-step"),
    # Nodes.
    pytest.param(
        clocks({A: 90}, 0, 0, 0, 90, 0, 0, 0, 45, 0, 0),
        SIGNERS,
        0,
        "node node-3 is ahead by 90 s and node node-7 is ahead by 45 s",
        id="two-of-ten-nodes",
    ),
    pytest.param(
        clocks({A: 90}, 90, 0),
        SIGNERS,
        0,
        "node node-0 is ahead by 90 s",
        id="one-of-two-nodes",
    ),
    pytest.param(
        clocks({A: 0}, 0, -90, 0),
        SIGNERS,
        0,
        "node node-1 looks behind by 90 s",
        id="a-slow-node",
    ),
    pytest.param(
        clocks({A: 90}, *[90] * 10),
        SERVER,
        -90,
        "this server's clock is behind by 90 s: 10 of 10 nodes differ from it by the same amount",
        id="all-nodes-ahead",
    ),
    pytest.param(
        clocks({A: -90}, *[-90] * 10),
        SERVER,
        90,
        "this server's clock looks ahead by 90 s: 10 of 10 nodes differ",
        id="all-nodes-behind",
    ),
    pytest.param(
        clocks({A: 180}, 90, 91, 180, 88, 135, 89, 90),
        SERVER,
        -90,
        "5 of 7 nodes differ from it by the same amount; apart from that, node node-2 is ahead by "
        "90 s and node node-4 is ahead by 45 s",
        id="the-server-and-two-nodes",
    ),
    pytest.param(
        clocks({A: 90}, 90, 90, 90, 0, 0, 0),
        SIGNERS,
        0,
        "node node-0 is ahead by 90 s, node node-1",
        id="half-of-the-nodes-are-not-most",
    ),
    pytest.param(
        clocks({A: 90}, 90, 90, 90, None, None, None, None),
        SERVER,
        -90,
        "3 of 3 nodes",
        id="nodes-of-which-nothing-is-known-have-no-vote",
    ),
    pytest.param(
        clocks({A: 90}, 30, 60, 90),
        SIGNERS,
        0,
        "node node-2 is ahead by 90 s, node node-1 is ahead by 60 s and node node-0",
        id="all-nodes-by-their-own",
    ),
    # Issuers.
    pytest.param(
        clocks({A: 90, B: 91, C: 89}),
        SERVER,
        -90,
        "3 of 3 issuers",
        id="all-issuers",
    ),
    pytest.param(
        clocks({A: 90, B: 91, C: 89, D: 0}),
        SERVER,
        -90,
        f"3 of 4 issuers differ from it by the same amount; apart from that, issuer {D} is behind "
        "by 90 s",
        id="most-issuers",
    ),
    pytest.param(
        clocks({A: 90, B: 0, C: 0}),
        SIGNERS,
        0,
        f"issuer {A} is ahead by 90 s",
        id="one-of-three-issuers",
    ),
    pytest.param(
        clocks({A: 90, B: 0, C: 0, D: 0}, 0, 90, 0, 0),
        SIGNERS,
        0,
        "node node-1 is ahead by 90 s",
        id="one-fast-node-does-not-make-an-issuer-fast",
    ),
    pytest.param(
        clocks({A: 90, B: 0}, 90, 90, 90, 90),
        SIGNERS,
        0,
        f"issuer {A} is ahead by 90 s",
        id="an-issuer-with-all-its-nodes-while-another-is-in-step",
    ),
    pytest.param(
        clocks({A: 180, B: 0}, 90, 90, 180, 90),
        SIGNERS,
        0,
        f"node node-2 is ahead by 180 s and issuer {A} is ahead by 90 s",
        id="such-an-issuer-and-a-node-of-its-own-mind",
    ),
    # Too few to decide.
    pytest.param(
        clocks({A: 106}),
        UNDECIDED,
        0,
        f"issuer {A} is ahead by 106 s, or this server's clock is wrong by as much",
        id="one-issuer-ahead",
    ),
    pytest.param(
        clocks({A: 90}, 90, 90),
        UNDECIDED,
        0,
        "node node-0 is ahead by 90 s and node node-1 is ahead by 90 s, or this server's",
        id="two-nodes-ahead",
    ),
    pytest.param(
        clocks({A: 90, B: 90}), UNDECIDED, 0, "or this server's clock", id="two-issuers-ahead"
    ),
    pytest.param(
        clocks({A: 90, B: 0}), SIGNERS, 0, f"issuer {A} is ahead by 90 s", id="one-of-two-issuers"
    ),
]


@pytest.mark.parametrize(("estimates", "kind", "server_ahead", "message"), TABLE)
def test_verdict(
    estimates: list[Estimate], kind: VerdictKind, server_ahead: float, message: str
) -> None:
    verdict = judge(estimates)
    assert message in verdict.message
    assert (verdict.kind, verdict.server_ahead) == (kind, server_ahead)
    assert verdict.kind.is_skewed is (kind in (SIGNERS, SERVER, UNDECIDED))
    assert verdict.advice.endswith(".")
    assert "\n" not in verdict.message + verdict.advice
    assert judge(reversed(estimates)).kind is kind


def test_nothing_seen() -> None:
    assert judge([]).kind is VerdictKind.NO_TOKENS


def test_the_claim_nbf_has_no_vote() -> None:
    seen = [msgspec.structs.replace(e, claim="nbf") for e in clocks({A: 90, B: 90, C: 90})]
    assert judge(seen).kind is VerdictKind.NO_TOKENS
    assert report_of(seen, NOW).status.clocks == ()


def test_many_nodes_are_not_listed() -> None:
    verdict = judge(clocks({A: 0}, *[0] * 101, *[50 + 10 * i for i in range(100)]))
    assert verdict.kind is SIGNERS
    assert verdict.message.endswith("node node-196 is ahead by 1000 s and 95 more")


def test_clocks_that_all_seem_behind_may_be_waiting_programs() -> None:
    def advice(ahead: float) -> str:
        verdict: ClockVerdict = judge(clocks({A: 0}, 0, ahead, 0))
        return verdict.advice

    assert "equally old" in advice(-90)
    assert "equally old" not in advice(90)


def test_report() -> None:
    seen = clocks({A: 90, B: -0.04}, 0, 90.04, None, -45, 0.3)
    report = report_of(seen, NOW + 1.5)
    assert msgspec.json.decode(msgspec.json.encode(report), type=SkewReport) == report
    document = msgspec.to_builtins(report)
    assert list(document) == ["kind", "apiVersion", "status"]
    status = document["status"]
    assert [c["node"] or c["issuer"] for c in status["clocks"]] == [
        A,
        B,
        "node-1",
        "node-3",
        "node-0",
        "node-4",
        "node-2",
    ]
    assert status["clocks"][2] == {
        "issuer": A,
        "node": "node-1",
        "state": "Ahead",
        "aheadSeconds": 90.0,
        "tokens": 100,
        "seenAt": "2027-01-15T08:00:00Z",
    }
    assert str(status["clocks"][1]["aheadSeconds"]) == "0.0"
    assert status["observedAt"] == "2027-01-15T08:00:01Z"
    assert status["windowSeconds"] == 900
    assert status["verdict"].keys() == {"kind", "serverAheadSeconds", "message", "advice"}
