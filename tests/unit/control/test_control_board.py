"""What control knows of the breakers: looks at all of them, and at a few by name."""

from collections.abc import Collection
from typing import Any, cast

from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock
from services.control.drivers.door import BOARD_MAX_AGE_S, Board
from services.control.frames import DoorLoad
from services.control.usecases.ports import SteadyClock


class FakeDoors:
    """Doors that know two loads, and who was asked for."""

    def __init__(self) -> None:
        self.known = {"a": DoorLoad(load_id="a", breaker_state=1, age_s=2.0), "b": DoorLoad(load_id="b", age_s=1.0)}
        self.asked: list[set[str] | None] = []
        self.away = False

    async def loads(self, named: Collection[str] | None = None) -> list[DoorLoad]:
        self.asked.append(None if named is None else set(named))
        if self.away:
            raise Unavailable("away")
        return [load for name, load in self.known.items() if named is None or name in named]


def board() -> tuple[Board, FakeDoors, FakeClock]:
    clock, doors = FakeClock(), FakeDoors()
    return Board(cast(Any, doors), clock, SteadyClock(clock)), doors, clock


def age_of(found: Board, load_id: str) -> float | None:
    reading = found.of(load_id)
    return None if reading is None else reading.age_s


async def test_a_look_by_name_makes_those_younger_and_leaves_the_others_as_they_are() -> None:
    found, doors, clock = board()
    await found.refresh(0.5)
    await clock.advance(4.0)
    await found.refresh(0.5, {"a"})
    assert doors.asked == [None, {"a"}]
    assert age_of(found, "a") == 2.0
    assert age_of(found, "b") == 5.0
    await clock.advance(BOARD_MAX_AGE_S - 3.0)
    assert age_of(found, "a") == BOARD_MAX_AGE_S - 1.0
    assert found.of("b") is None, "all the doors said of it is too old"


async def test_nobody_is_asked_again_for_what_was_told_a_moment_ago() -> None:
    found, doors, clock = board()
    await found.refresh(0.5)
    await found.refresh(0.5, {"a", "b"})
    assert doors.asked == [None]
    await clock.advance(1.0)
    await found.refresh(0.5, {"a"})
    await found.refresh(0.5, {"a"})
    await found.refresh(0.5, {"a", "b"})
    assert doors.asked == [None, {"a"}, {"a", "b"}]
    await found.refresh(0.5)
    assert doors.asked[-1] is None, "a look by name is no look at all of them"


async def test_a_load_that_no_door_tells_of_any_more_is_not_known() -> None:
    found, doors, clock = board()
    await found.refresh(0.5)
    del doors.known["a"]
    await clock.advance(1.0)
    await found.refresh(0.5, {"a"})
    assert found.of("a") is None
    assert found.of("b") is not None


async def test_without_an_answer_the_old_one_ages() -> None:
    found, doors, clock = board()
    await found.refresh(0.5)
    doors.away = True
    await clock.advance(3.0)
    await found.refresh(0.5, {"a"})
    assert age_of(found, "a") == 5.0
