"""Objects that watches report, objects that they report as deleted, and objects to look up."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from webhook.objects.store import MAX_GONE, KindStore
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState

POD = ObjectKey(Kind.POD, "ns", "p")
OTHER = ObjectKey(Kind.POD, "ns", "q")
A, B = ObjectState("a"), ObjectState("b", 12.0, "sa", "n")
DYING = ObjectState("a", 5.0)
UNSEEN, GONE, UNAVAILABLE = Absence.UNSEEN, Absence.GONE, Absence.UNAVAILABLE
SILENCE = 60.0


@dataclass
class Clocked:
    """A store and its clock."""

    now: float = 1000.0
    store: KindStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = KindStore(Kind.POD, SILENCE, lambda: self.now)


def listed(state: ObjectState | None = None) -> Callable[[KindStore], None]:
    return lambda store: store.replace({POD: state} if state else {})


def put(state: ObjectState) -> Callable[[KindStore], None]:
    return lambda store: store.put(POD, state)


def removed(uid: str) -> Callable[[KindStore], None]:
    return lambda store: store.remove(POD, uid)


def looked_up(uid: str) -> Callable[[KindStore], None]:
    return lambda store: store.remember_gone(POD, uid)


# The steps, and what is found for the UIDs a, b and none.
FOUND = [
    pytest.param([], (UNSEEN, UNSEEN, UNSEEN), id="nothing-yet"),
    pytest.param([put(A)], (UNSEEN, UNSEEN, UNSEEN), id="an-event-before-the-list"),
    pytest.param([looked_up("a")], (GONE, UNSEEN, UNSEEN), id="looked-up-before-the-list"),
    pytest.param([looked_up("")], (UNSEEN, UNSEEN, UNSEEN), id="without-uid-before-the-list"),
    pytest.param([listed()], (UNSEEN, UNSEEN, UNSEEN), id="empty-list"),
    pytest.param([listed(A)], (A, UNSEEN, A), id="listed"),
    pytest.param([listed(), put(A)], (A, UNSEEN, A), id="added"),
    pytest.param([listed(A), put(DYING)], (DYING, UNSEEN, DYING), id="modified"),
    pytest.param([listed(A), removed("a")], (GONE, UNSEEN, UNSEEN), id="deleted"),
    pytest.param([listed(A), removed("a"), put(B)], (B, B, B), id="recreated"),
    pytest.param([listed(A), put(B)], (B, B, B), id="recreated-without-deletion"),
    pytest.param([listed(A), put(B), removed("a")], (B, B, B), id="old-deletion-late"),
    pytest.param(
        [listed(A), removed("a"), put(B), removed("b")], (GONE, GONE, UNSEEN), id="both-gone"
    ),
    pytest.param([listed(A), listed()], (GONE, UNSEEN, UNSEEN), id="gone-between-lists"),
    pytest.param([listed(A), listed(B)], (B, B, B), id="recreated-between-lists"),
    pytest.param([listed(), looked_up("a")], (GONE, UNSEEN, UNSEEN), id="looked-up"),
    pytest.param([listed(), looked_up("")], (UNSEEN, UNSEEN, GONE), id="looked-up-without-uid"),
    pytest.param([listed(B), looked_up("a")], (B, B, B), id="looked-up-beside-another"),
    pytest.param(
        [listed(), looked_up(""), put(A), removed("a")],
        (GONE, UNSEEN, UNSEEN),
        id="made-after-the-look-up",
    ),
    pytest.param(
        [listed(), looked_up("a"), put(A)], (A, UNSEEN, A), id="an-event-has-it-after-all"
    ),
    pytest.param(
        [listed(), looked_up("a"), listed(A)], (A, UNSEEN, A), id="a-list-has-it-after-all"
    ),
    pytest.param(
        [listed(), looked_up(""), listed(A), listed()],
        (GONE, UNSEEN, UNSEEN),
        id="a-list-forgets-what-had-no-uid",
    ),
]


@pytest.mark.parametrize(("steps", "expected"), FOUND)
def test_find(
    steps: list[Callable[[KindStore], None]],
    expected: tuple[Lookup, Lookup, Lookup],
) -> None:
    store = Clocked().store
    for step in steps:
        step(store)
    assert tuple(store.find(POD, uid) for uid in ("a", "b", "")) == expected
    assert store.find(OTHER, "a") is UNSEEN


def test_silence() -> None:
    clocked = Clocked()
    store = clocked.store
    store.touch()
    assert store.silence() is None
    store.replace({POD: A})
    clocked.now += SILENCE
    assert store.silence() == SILENCE
    assert store.find(POD, "a") == A
    clocked.now += 0.1
    for key, uid in ((POD, "a"), (POD, "b"), (OTHER, "a")):
        assert store.find(key, uid) is UNAVAILABLE


@pytest.mark.parametrize(
    "contact",
    [KindStore.touch, listed(A), put(A), removed("b")],
    ids=["touch", "list", "event", "deletion"],
)
def test_contact(contact: Callable[[KindStore], None]) -> None:
    clocked = Clocked()
    clocked.store.replace({POD: A})
    clocked.now += SILENCE + 1
    contact(clocked.store)
    assert clocked.store.silence() == 0
    assert clocked.store.find(POD, "a") == A


CONTRADICTED = [
    pytest.param([], A, False, id="nothing-known"),
    pytest.param([listed(A)], A, False, id="the-same"),
    pytest.param([listed(B)], A, False, id="another"),
    pytest.param([listed(A), removed("a")], A, True, id="seen-to-go"),
    pytest.param([listed(A), removed("a"), put(B)], A, True, id="seen-to-be-replaced"),
    pytest.param([listed(A), removed("a")], B, False, id="a-new-one"),
    pytest.param([listed()], GONE, False, id="gone-and-not-known"),
    pytest.param([listed(A)], GONE, True, id="gone-but-known"),
    pytest.param([listed(A)], UNAVAILABLE, False, id="no-answer"),
]


@pytest.mark.parametrize(("steps", "answer", "expected"), CONTRADICTED)
def test_contradicts(
    steps: list[Callable[[KindStore], None]], answer: Lookup, expected: bool
) -> None:
    store = Clocked().store
    for step in steps:
        step(store)
    assert store.contradicts(POD, answer) is expected


def test_records_of_deleted_objects_are_bounded() -> None:
    store = Clocked().store
    store.replace({})
    for number in range(MAX_GONE + 1):
        store.remove(POD, str(number))
    assert store.find(POD, "0") is UNSEEN
    assert store.find(POD, "1") is GONE
    assert store.find(POD, str(MAX_GONE)) is GONE
