"""The connection that has been without a request for longest makes room for a new one."""

from dataclasses import dataclass, field

import pytest

from webhook.server.connection.anonymous import AnonymousConnections

pytestmark = pytest.mark.fault(48)


@dataclass(eq=False)
class Connection:
    name: str
    can_be_dropped: bool = True
    dropped: list[str] = field(default_factory=list)

    def drop(self) -> None:
        self.dropped.append(self.name)


class House:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.over = 0
        self.dropped: list[str] = []
        self.all: dict[str, Connection] = {}
        self.connections = AnonymousConnections(lambda: self.limit, self._count)

    def _count(self) -> None:
        self.over += 1

    def admit(self, name: str) -> bool:
        self.all[name] = Connection(name, dropped=self.dropped)
        return self.connections.admit(self.all[name])


def full_house() -> House:
    house = House(3)
    assert [house.admit(name) for name in "abc"] == [True] * 3
    assert (house.dropped, house.over) == ([], 0)
    return house


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    house = full_house()
    house.connections.used(house.all["a"])
    assert house.admit("d")
    assert house.admit("e")
    assert (house.dropped, house.over, len(house.connections)) == (["b", "c"], 2, 3)


def test_one_whose_request_is_being_answered_stays() -> None:
    house = full_house()
    house.all["a"].can_be_dropped = house.all["b"].can_be_dropped = False
    assert house.admit("d")
    assert house.dropped == ["c"]


def test_the_new_one_is_refused_where_all_are_being_answered() -> None:
    house = full_house()
    for connection in house.all.values():
        connection.can_be_dropped = False
    assert not house.admit("d")
    assert (house.dropped, house.over, len(house.connections)) == ([], 1, 3)
    # It has never been in, and is not forgotten twice.
    house.connections.used(house.all["d"])
    house.connections.discard(house.all["d"])
    assert len(house.connections) == 3


def test_one_that_is_closed_leaves_its_place() -> None:
    house = full_house()
    house.connections.discard(house.all["b"])
    assert house.admit("d")
    assert (house.dropped, house.over) == ([], 0)


def test_a_smaller_limit_holds_for_the_next() -> None:
    house = full_house()
    house.limit = 1
    assert house.admit("d")
    assert (house.dropped, len(house.connections)) == (["a", "b", "c"], 1)
