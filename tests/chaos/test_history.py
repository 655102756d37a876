"""Each rule of the checker finds what breaks it, and nothing else does.

Every history here is right but for one thing; ``Made`` writes the right ones.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf

import pytest

from tests.linear_time import MAX_GROWTH, growth
from webhook.rbac import changes
from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.records import (
    Record,
    TokenRecord,
    read_user,
    token_record,
)
from webhook.rbac.state import AuthState

from .history import (
    Answer,
    Change,
    Fault,
    Group,
    History,
    Judgement,
    Outcome,
    RecordKey,
    Told,
    record_digest,
)
from .history_check import judge
from .history_keys import (
    KeyHistory,
    KeyState,
    Published,
    Signed,
    TokenBounds,
    TokenUse,
    check_enough,
    check_tokens,
)
from .store_requests import RolesRequest

STALENESS = 3.0


class Made:
    """A history of a store that does everything right, second by second."""

    def __init__(self) -> None:
        self.history = History(STALENESS)
        self._state = AuthState()
        self._values: dict[RecordKey, bytes] = {}
        self.now = 0.0

    def group(self, records: Iterable[Record], writer: str = "w") -> int:
        """Put a transaction into the log, and return its position."""
        log = self.history.log
        records = tuple(records)
        k = len(log) + 1
        for kind, record_id, value in records:
            self._values.pop((kind, record_id), None)
            if value is not None:
                self._values[kind, record_id] = value
        digest = sum(record_digest(key, value) for key, value in self._values.items())
        previous = (log[-1].revision, log[-1].id) if log else None
        log.append(
            Group(
                k * 10, b"id-%d" % k, previous, records, len(self._values), digest % (1 << 256),
                f"at-{k}", writer,
            )
        )  # fmt: skip
        self._state.apply(k, records)
        return k

    def change(
        self,
        lane: str,
        decide: Callable[..., Sequence[Record]],
        *arguments: object,
        outcome: Outcome = Outcome.ACKNOWLEDGED,
        written: bool = True,
        error: str = "",
        seconds: float = 0.1,
    ) -> Change:
        """Make a change now, and go on when it is answered."""
        call = partial(_decided, decide, arguments)
        revision = 0
        inv, self.now = self.now, self.now + seconds
        if written:
            self.group(call(self._state))
            revision = self._state.meta.revision
        resp = self.now if outcome is not Outcome.UNKNOWN else inf
        made = Change(
            len(self.history.changes), lane, frozenset(_names(arguments)), call, inv, resp,
            outcome, error, revision if outcome is Outcome.ACKNOWLEDGED else 0,
            replica="a", what=f"{decide.__name__} {arguments}",
        )  # fmt: skip
        self.history.changes.append(made)
        self.now += 0.1
        return made

    def answer(
        self,
        name: str,
        told: Told,
        seconds: float = 0.01,
        connection: str = "",
        replica: str = "",
        position: str = "",
        minimum: str = "",
    ) -> Answer:
        inv, self.now = self.now, self.now + seconds
        given = Answer(
            len(self.history.answers), RolesRequest(name), inv, self.now, told,
            connection, replica, position, minimum,
        )  # fmt: skip
        self.history.answers.append(given)
        self.now += 0.01
        return given

    def right(self, name: str) -> Told:
        """Return the answer of the last state."""
        user = self._state.users.get(name)
        return (user.roles if user else ("-",), self._state.meta.revision)

    def judged(self, keys: KeyHistory | None = None) -> Judgement:
        return judge(self.history, keys, wanted={})


def _decided(
    decide: Callable[..., Sequence[Record]], arguments: tuple[object, ...], state: AuthState
) -> Sequence[Record]:
    return decide(state, *arguments)


def _names(arguments: Iterable[object]) -> list[str]:
    return [argument for argument in arguments if isinstance(argument, str)]


@pytest.fixture
def made() -> Made:
    """Return a history with a user that has one of two roles."""
    made = Made()
    made.group([])
    made.change("ann", changes.add_user, "ann")
    for role in ("ann-a", "ann-b"):
        made.change("ann", changes.add_role, role)
    made.change("ann", changes.grant_role, "ann", "ann-a")
    return made


def only(found: Judgement, rule: int, text: str) -> None:
    """Check that one rule is broken, and how."""
    assert found.wrong, "nothing was found"
    assert all(wrong.startswith(f"rule {rule}:") for wrong in found.wrong), found.wrong
    assert any(text in wrong for wrong in found.wrong), found.wrong


def test_nothing_is_wrong_with_a_right_history(made: Made) -> None:
    made.answer("ann", made.right("ann"), connection="c", replica="a", position="at-5")
    made.change("ann", changes.grant_role, "ann", "ann-a", written=False)
    made.change(
        "ann", changes.grant_role, "bob", "ann-a", outcome=Outcome.REFUSED, written=False,
        error="user name not found",
    )  # fmt: skip
    made.group([])
    made.group([token_record(b"x", TokenRecord("ann", 1.0))])
    made.change("ann", changes.revoke_role, "ann", "ann-a", outcome=Outcome.UNKNOWN)
    made.change("ann2", changes.add_user, "ann2", outcome=Outcome.UNKNOWN, written=False)
    made.answer("ann", made.right("ann"), connection="c", replica="a", minimum="at-5")
    found = made.judged()
    assert found.wrong == []
    assert found.counts["fence"] == 2
    assert found.counts["use"] == 1
    assert found.counts["unknown and applied"] == found.counts["unknown and not applied"] == 1


class TestRule1:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"id": b"id-2"}, "has the id of an earlier one"),
            ({"previous": (20, b"id-2")}, "does not follow"),
            ({"previous": (30, b"another")}, "does not follow"),
            ({"revision": 30}, "not higher"),
            ({"count": 7}, "counts 7 records, and 4 are there"),
            ({"digest": 1}, "the digest of group 4"),
        ],
        ids=["id", "gap", "other history", "revision", "count", "digest"],
    )
    def test_a_head_that_is_not_right(
        self, made: Made, change: dict[str, object], text: str
    ) -> None:
        log = made.history.log
        log[3] = replace(log[3], **change)  # type: ignore[arg-type]
        if "previous" not in change:
            log[4] = replace(log[4], previous=(log[3].revision, log[3].id))
        only(made.judged(), 1, text)

    def test_a_record_twice(self, made: Made) -> None:
        record = token_record(b"x", TokenRecord("ann", 1.0))
        made.group([record, record])
        only(made.judged(), 1, "writes a record twice")

    def test_a_group_without_author(self, made: Made) -> None:
        made.group(changes.add_user(made._state, "mallory"))
        only(made.judged(), 1, "nobody's change")


class TestRule2:
    def test_an_acknowledged_change_is_lost(self, made: Made) -> None:
        made.change("bob", changes.add_user, "bob", written=False)
        only(made.judged(), 2, "acknowledged, and is not in the log")

    @pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.NOT_WRITTEN])
    def test_a_change_that_was_refused_is_there(self, made: Made, outcome: Outcome) -> None:
        made.change("bob", changes.add_user, "bob", outcome=outcome, error="x")
        only(made.judged(), 2, f"answered as {outcome.value}, and is group 6")

    def test_a_change_is_there_twice(self, made: Made) -> None:
        # As revoking and granting again would allow it; here nobody has asked twice.
        made.change("ann", changes.change_password, "ann", b"")
        made.group(changes.change_password(made._state, "ann", b""))
        only(made.judged(), 1, "a second one")

    @pytest.mark.parametrize("applied", [True, False])
    @pytest.mark.parametrize("decide", [changes.grant_role, changes.revoke_role])
    def test_a_change_that_is_repeated_after_an_unknown_outcome(
        self, made: Made, applied: bool, decide: Callable[..., Sequence[Record]]
    ) -> None:
        role = "ann-a" if decide is changes.revoke_role else "ann-b"
        made.change("ann", decide, "ann", role, outcome=Outcome.UNKNOWN, written=applied)
        if not applied:
            made.change("ann", decide, "ann", role)
        elif decide is changes.grant_role:
            made.change("ann", decide, "ann", role, written=False)
        else:
            made.change(
                "ann", decide, "ann", role, written=False, outcome=Outcome.REFUSED,
                error="role is not granted to the user",
            )  # fmt: skip
        assert made.judged().wrong == []


class TestRule3:
    def test_the_order_of_the_log_is_not_that_of_time(self, made: Made) -> None:
        made.change("bob", changes.add_user, "bob")
        late = made.change("eve", changes.add_user, "eve")
        made.history.changes[-1] = replace(late, inv=0.0, resp=0.01)
        only(made.judged(), 3, "follows it")

    def test_the_revision_of_another_group(self, made: Made) -> None:
        last = made.history.changes[-1]
        made.history.changes[-1] = replace(last, auth_revision=2)
        only(made.judged(), 3, "told auth revision 2, and its group has 5")


class TestRule4:
    def test_a_refusal_that_no_state_decides(self, made: Made) -> None:
        made.change(
            "ann", changes.grant_role, "ann", "ann-b", outcome=Outcome.REFUSED, written=False,
            error=str(UserNotFoundError()),
        )  # fmt: skip
        only(made.judged(), 4, "which no state that has everything acknowledged before")

    def test_a_refusal_of_a_state_during_it(self, made: Made) -> None:
        made.change(
            "ann", changes.delete_user, "ann", seconds=1.0,
        )  # fmt: skip
        deleting = made.history.changes[-1]
        made.history.changes.append(
            replace(
                deleting, number=99, outcome=Outcome.REFUSED, error="user name not found",
                decide=partial(_decided, changes.grant_role, ("ann", "ann-b")),
            )
        )  # fmt: skip
        assert made.judged().wrong == []

    def test_other_records_than_decided(self, made: Made) -> None:
        made.change("ann", changes.grant_role, "ann", "ann-b")
        records = list(made.history.log[-1].records)
        user = read_user(records[0].id, records[0].value or b"")
        assert user.roles == ("ann-a", "ann-b")
        made.history.changes[-1] = replace(
            made.history.changes[-1],
            decide=partial(_decided, changes.revoke_role, ("ann", "ann-a")),
        )
        found = made.judged()
        assert found.of_rule(1)


class TestRule5:
    def test_stale(self, made: Made) -> None:
        before = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        made.now += STALENESS + 0.1
        made.answer("ann", before)
        only(made.judged(), 5, "stale, right until 5 at most, and 6 was acknowledged")

    def test_as_old_as_it_may_be(self, made: Made) -> None:
        before = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        made.now += STALENESS - 0.2
        made.answer("ann", before)
        found = made.judged()
        assert found.wrong == []
        assert found.counts["answers within max_staleness after a change of their subject"] == 1

    def test_what_another_answer_has_shown(self, made: Made) -> None:
        before = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a", outcome=Outcome.UNKNOWN)
        made.answer("ann", made.right("ann"))
        made.now += STALENESS + 0.1
        made.answer("ann", before)
        only(made.judged(), 5, "stale")

    def test_from_the_future(self, made: Made) -> None:
        given = made.answer("ann", made.right("ann"))
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        made.history.answers[0] = replace(given, told=made.right("ann"))
        only(made.judged(), 5, "from the future")

    def test_torn(self, made: Made) -> None:
        _, revision = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        roles, _ = made.right("ann")
        made.answer("ann", (roles, revision))
        only(made.judged(), 5, "torn")

    @pytest.mark.parametrize(
        ("position", "text"), [("at-4", "stale"), ("elsewhere", "names a position")]
    )
    def test_the_position_that_it_names(self, made: Made, position: str, text: str) -> None:
        made.now += STALENESS + 0.1
        told = ((), 4) if position == "at-4" else made.right("ann")
        made.answer("ann", told, position=position)
        only(made.judged(), 5, text)


def test_rule_6_notes_what_left_late_and_fails_nothing(made: Made) -> None:
    before = made.right("ann")
    made.answer("ann", before, seconds=9.0)
    given = made.history.answers.pop()
    made.now = given.inv + 0.01
    made.change("ann", changes.revoke_role, "ann", "ann-a")
    made.history.answers.append(given)
    found = made.judged()
    assert found.wrong == []
    assert found.counts["answers that left late"] == 1


class TestRule7:
    def test_a_connection_goes_back(self, made: Made) -> None:
        before = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a", outcome=Outcome.UNKNOWN)
        made.answer("ann", made.right("ann"), connection="c", replica="b")
        made.answer("ann", before, connection="d", replica="b")
        assert made.judged().wrong == []
        made.answer("ann", before, connection="c", replica="b")
        only(made.judged(), 7, "its connection had reached 6")

    @pytest.mark.parametrize(("replica", "wide"), [("a", True), ("a", False), ("b", True)])
    def test_an_own_change_is_missing(self, made: Made, replica: str, wide: bool) -> None:
        before = made.right("ann")
        made.history.replica_wide = wide
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        made.answer("ann", before, connection="c", replica=replica)
        if replica == "a" and wide:
            only(made.judged(), 7, "after an own change that is 6")
        else:
            assert made.judged().wrong == []

    def test_less_than_the_minimum(self, made: Made) -> None:
        before = made.right("ann")
        made.change("ann", changes.revoke_role, "ann", "ann-a")
        made.answer("ann", before, replica="b", minimum="at-6")
        only(made.judged(), 7, "and 6 was wanted")


class TestRule8:
    @pytest.mark.parametrize("failure", ["503", "reset"])
    def test_nothing_without_a_fault(self, made: Made, failure: str) -> None:
        given = made.answer("ann", made.right("ann"), replica="a")
        given = replace(given, told=None, is_503=failure == "503", failure="reset")
        made.history.answers[0] = given
        only(made.judged(), 8, f"{failure} without a fault")
        made.history.faults.append(Fault("kill", given.inv - 1.0, given.inv - 0.5, "b"))
        only(made.judged(), 8, f"{failure} without a fault")
        made.history.faults.append(Fault("kill", given.inv - 1.0, given.inv - 0.5, "a"))
        assert made.judged().wrong == []

    def test_an_answer_of_a_replica_that_is_cut_off(self, made: Made) -> None:
        begin = made.now
        made.now += STALENESS + 1.1
        made.answer("ann", made.right("ann"), replica="a")
        made.history.faults = [Fault("cut", begin, made.now + 1.0, "b", cut=True)]
        assert made.judged().wrong == []
        made.history.faults = [Fault("cut", begin, made.now + 1.0, "a", cut=True)]
        only(made.judged(), 8, "which was cut off")


class TestRule9:
    def keys(self) -> KeyHistory:
        states = [KeyState(1, frozenset({"old"})), KeyState(4, frozenset({"new"}))]
        return KeyHistory(states)

    def test_two_active_keys(self, made: Made) -> None:
        keys = self.keys()
        keys.states.append(KeyState(5, frozenset({"new", "other"})))
        only(made.judged(keys), 9, "2 keys are active")

    @pytest.mark.parametrize(("kid", "after"), [("old", 300.0), ("new", 0.0), ("old", 400.0)])
    def test_who_signs(self, made: Made, kid: str, after: float) -> None:
        keys, now = self.keys(), made.now + after
        keys.signed.append(Signed(kid, now, now + 0.1))
        if after > 303:
            only(made.judged(keys), 9, "signed by old, not active")
        else:
            assert made.judged(keys).wrong == []

    def test_a_token_that_does_not_verify(self, made: Made) -> None:
        keys = self.keys()
        keys.signed.append(Signed("new", made.now, made.now + 0.1, refused_at=[9.0]))
        only(made.judged(keys), 9, "was refused at 9.000")

    def test_a_key_set_that_lacks_who_signs_later(self, made: Made) -> None:
        keys = self.keys()
        keys.published.append(Published(0.0, 0.1, frozenset({"old"})))
        assert made.judged(keys).wrong == []
        keys.signed.append(Signed("new", made.now, made.now + 0.1))
        only(made.judged(keys), 9, "lacks ['new']")


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (TokenUse(400.0, 400.1, True, 0.0, 101.0, 0.0), ""),
        (TokenUse(400.0, 400.1, True, 0.0, 90.0, 0.0), "accepted after 310.0 s"),
        (TokenUse(150.0, 150.1, False, 0.0, 100.0, 100.0), "refused after 50.0 s"),
        (TokenUse(150.0, 150.1, False, 0.0, 100.0, 100.0, ended=True), ""),
        (TokenUse(250.0, 250.1, False, 0.0, 100.0, 0.0), ""),
        (TokenUse(299.0, 299.1, False, 0.0, 290.0, 0.0), ""),
    ],
    ids=["idle", "idle too long", "too early", "ended", "half of it", "the last seconds"],
)
def test_rule_10(use: TokenUse, text: str) -> None:
    found = Judgement()
    check_tokens([use], TokenBounds(300.0, 1.0, 3.0, 2.0), found)
    if text:
        only(found, 10, text)
    else:
        assert found.wrong == []


def test_rule_11_a_run_that_shows_nothing() -> None:
    found, history = Judgement(), History(STALENESS, counted={"fence": 3, "reload gap": 5})
    found.counts = {"fence": 17, "unknown and applied": 12, "unknown and not applied": 8}
    found.counts["answers within max_staleness after a change of their subject"] = 100
    check_enough(history, found)
    assert found.wrong == []
    history.counted = {"fence": 2, "reload gap": 4}
    check_enough(history, found)
    only(found, 11, "fence: 19, and 20 are wanted")
    only(found, 11, "reload gap: 4, and 5 are wanted")


def test_the_time_is_linear() -> None:
    def history_of(count: int) -> Made:
        made = Made()
        made.group([])
        for number in range(count):
            name = f"user-{number % 20}-{number // 20}"
            made.change(name, changes.add_user, name)
            made.answer(name, made.right(name), connection=f"c{number % 8}")
            made.change(
                name, changes.add_user, name, outcome=Outcome.REFUSED, written=False,
                error="user name already exists",
            )  # fmt: skip
        return made

    once, twice = history_of(100), history_of(200)
    assert once.judged().wrong == twice.judged().wrong == []
    assert growth(once.judged, twice.judged) <= MAX_GROWTH
