"""The watchdog at work, on a clock moved by hand: it wakes, calls, asks, tells, and forgets nothing when killed."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import SecretStr

from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock
from services.control.domain.guards import PROTECTION_TRIPS
from services.control.domain.watch import Judgement, Lease, Seen
from services.control.watchdog.engine import Look, StaleEpoch, Watchdog
from services.control.watchdog.journal import Journal
from services.control.watchdog.settings import WatchdogSettings

SETTINGS = WatchdogSettings(margin_s=30, alarm_after_s=15, retry_first_s=2, retry_cap_s=20, first_word_s=120)


class Field:
    """Breakers behind a door, and control; each may be away."""

    def __init__(self) -> None:
        self.closed: dict[str, bool] = {}
        self.locked: set[str] = set()
        self.trips: dict[str, int] = {}
        self.door = True
        self.control = True
        self.ons: list[str] = []
        self.asked: list[str] = []
        self.alarms: dict[tuple[str, str], str] = {}
        self.webhook = True
        self.calls: list[str] = []

    async def call_person(self, text: str) -> None:
        if not self.webhook:
            raise Unavailable("webhook: away")
        self.calls.append(text)

    async def look(self) -> Look:
        if not self.door:
            return Look({}, ("door: away",), False)
        shown = {
            load_id: Seen(load_id, f"d-{load_id}", "s", None, int(closed), 0.0, load_id in self.locked,
                          self.trips.get(load_id, 0))
            for load_id, closed in self.closed.items()
        }  # fmt: skip
        return Look(shown, (), True)

    async def wake(self, load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        if not self.door:
            raise Unavailable("door: away")
        self.ons.append(load.load_id)
        assert load.load_id not in self.locked
        assert self.trips.get(load.load_id, 0) not in PROTECTION_TRIPS
        self.closed[load.load_id] = True
        return "verified"

    async def ask_control(self, load_ids: Sequence[str], request_id: str, reason: str) -> None:
        if not self.control:
            raise Unavailable("control: away")
        self.asked += load_ids

    async def tell_control(self, findings: Sequence[Mapping[str, Any]]) -> None:
        if not self.control:
            raise Unavailable("control: away")
        for finding in findings:
            key = (finding["load_id"], finding["kind"])
            if finding["phase"] == "begin":
                self.alarms[key] = finding["text"]
            else:
                assert self.alarms.pop(key, None) is not None, "an end without a beginning"


class Kennel:
    """A watchdog that can be killed and started again."""

    def __init__(self, path: Path, field: Field, clock: FakeClock) -> None:
        self.path = path
        self.field = field
        self.clock = clock
        self.boot = "boot-1"
        self.start()

    def start(self, settings: WatchdogSettings = SETTINGS) -> None:
        self.journal = Journal(self.path)
        self.journal.open()
        self.dog = Watchdog(journal=self.journal, reach=self.field, clock=self.clock, boot=self.boot, settings=settings)

    def kill(self) -> None:
        self.journal.close()
        self.start()

    def put(self, *leases: Mapping[str, Any], complete: bool = False, ended: Sequence[str] = (), epoch: int = 1,
            trips: Mapping[str, int] | None = None) -> None:  # fmt: skip
        self.dog.put_leases(
            {"epoch": epoch, "complete": complete, "leases": list(leases), "ended": list(ended),
             "released_trips": dict(trips or {})}
        )  # fmt: skip

    def leases_of(self, load_id: str) -> list[Lease]:
        return [lease for lease in self.journal.book.leases.values() if lease.load_id == load_id]

    def lease(self, load_id: str, length_s: float, **changes: Any) -> dict[str, Any]:
        return {
            "command_id": f"off-{load_id}", "load_id": load_id, "device_id": f"d-{load_id}", "channel": None,
            "site_id": "s", "restore_at": (self.clock.now() + timedelta(seconds=length_s)).isoformat(),
            "restore_in_s": length_s, "off_at_most_s": length_s, "isolation_id": None, **changes,
        }  # fmt: skip

    async def turn(self) -> None:
        async with asyncio.TaskGroup() as group:
            await self.dog.turn(group)

    async def run(self, for_s: float, *, step_s: float = 1.0) -> None:
        for _ in range(int(for_s / step_s)):
            await self.clock.advance(step_s)
            await self.turn()


@pytest.fixture
def field() -> Field:
    return Field()


@pytest.fixture
def kennel(tmp_path: Path, field: Field) -> Any:
    found = Kennel(tmp_path / "j", field, FakeClock())
    found.put(complete=True)
    yield found
    found.journal.close()


async def test_off_by_right_is_left_alone_until_its_end_and_a_margin(kennel: Kennel, field: Field) -> None:
    kennel.put(kennel.lease("a", 100))
    field.closed["a"] = False
    await kennel.run(129)
    assert field.ons == []
    await kennel.run(2)
    assert field.ons == ["a"]
    await kennel.run(5)
    assert field.closed["a"]
    assert field.alarms == {}
    assert kennel.journal.book.leases == {}


async def test_a_person_opening_a_breaker_without_lock_or_permit_is_overruled(kennel: Kennel, field: Field) -> None:
    field.closed["a"], field.trips["a"] = False, 10
    await kennel.run(2)
    assert field.ons == ["a"]


@pytest.mark.parametrize("trip", [None, 2])
async def test_the_exceptions_call_a_person_at_once_and_wake_nothing(
    kennel: Kennel, field: Field, trip: int | None
) -> None:
    field.closed["a"] = False
    field.locked.add("a") if trip is None else field.trips.update({"a": trip})
    await kennel.run(2)
    assert field.alarms == {("a", "wake_up_stopped"): "local_lock" if trip is None else "protection_trip"}
    await kennel.run(60)
    assert field.ons == []
    field.locked.clear()
    kennel.put(trips={"a": 2})
    field.trips.clear()
    await kennel.run(5)
    assert field.closed["a"]
    assert field.alarms == {}


async def test_a_released_trip_is_woken(kennel: Kennel, field: Field) -> None:
    field.closed["a"], field.trips["a"] = False, 2
    await kennel.run(5)
    kennel.put(trips={"a": 2})

    async def wake(load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        assert released_trip == 2
        field.closed[load.load_id] = True
        return "verified"

    field.wake = wake  # type: ignore[method-assign]
    await kennel.run(10)
    assert field.closed["a"]


async def test_with_no_door_control_is_asked_and_the_alarm_raised(kennel: Kennel, field: Field) -> None:
    kennel.put(kennel.lease("a", 10))
    field.closed["a"] = False
    await kennel.run(2)
    field.door = False
    await kennel.run(60)
    assert "a" in field.asked
    assert field.alarms == {("a", "wake_up_overdue"): "overdue"}
    field.door = True
    await kennel.run(25)
    assert field.closed["a"]
    assert field.alarms == {}


async def test_with_nobody_there_it_logs_and_tells_later(
    kennel: Kennel, field: Field, caplog: pytest.LogCaptureFixture
) -> None:
    kennel.put(kennel.lease("a", 10))
    field.closed["a"], field.door, field.control = False, False, False
    await kennel.run(60)
    assert any(record.levelname == "ERROR" and record.message == "a load should be awake and is not"
               for record in caplog.records)  # fmt: skip
    assert field.alarms == {}
    field.control = True
    await kennel.run(60)
    assert field.alarms == {("a", "wake_up_overdue"): "overdue"}


async def test_a_person_is_called_past_the_platform_while_nobody_takes_the_alarm(kennel: Kennel, field: Field) -> None:
    """The last way: with doors, control, bus and database away a webhook is called for what is new, and later again."""
    calling = SETTINGS.model_copy(
        update={"call_url": SecretStr("http://robot"), "call_after_s": 60.0, "call_again_s": 900.0}
    )
    kennel.journal.close()
    kennel.start(calling)
    kennel.put(kennel.lease("a", 10), kennel.lease("b", 500))
    field.closed.update(a=False, b=False)
    field.door = field.control = False
    await kennel.run(90)
    assert field.calls == [], "control may only be starting"
    await kennel.run(60)
    (call,) = field.calls
    assert "a (s: overdue)" in call
    assert "负载应已唤醒" in call
    await kennel.run(500)
    assert len(field.calls) == 2, "another load is news"
    assert "b (s: overdue)" in field.calls[1]
    field.webhook = False
    await kennel.run(900)
    field.webhook = True
    await kennel.run(30)
    assert len(field.calls) == 3, "said again, and what was not taken is tried again"
    field.door = True
    await kennel.run(60)
    assert field.closed == {"a": True, "b": True}
    assert "全部唤醒" in field.calls[-1]
    assert len(field.calls) == 4
    await kennel.run(2000)
    assert len(field.calls) == 4


async def test_where_control_takes_the_alarm_nobody_is_called_twice(kennel: Kennel, field: Field) -> None:
    kennel.journal.close()
    kennel.start(SETTINGS.model_copy(update={"call_url": SecretStr("http://robot"), "call_after_s": 0.0}))
    kennel.put(kennel.lease("a", 10))
    field.closed["a"] = field.door = False
    await kennel.run(600)
    assert field.alarms == {("a", "wake_up_overdue"): "overdue"}
    assert field.calls == []


async def test_pauses_grow(kennel: Kennel, field: Field) -> None:
    attempts: list[float] = []

    async def wake(load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        attempts.append(kennel.clock.monotonic())
        raise Unavailable("the breaker does not answer")

    field.wake = wake  # type: ignore[method-assign]
    field.closed["a"] = False
    await kennel.run(80)
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(attempts)]
    assert pauses[:4] == [2, 4, 8, 16]
    assert set(pauses[4:]) == {20}


async def test_an_alarm_that_was_told_ends_after_a_kill(kennel: Kennel, field: Field) -> None:
    field.closed["a"] = False
    field.locked.add("a")
    await kennel.run(3)
    assert field.alarms
    kennel.kill()
    field.closed["a"] = True
    await kennel.run(3)
    assert field.alarms == {}


async def test_it_waits_for_the_first_word_about_isolations_but_not_for_ever(tmp_path: Path, field: Field) -> None:
    fresh = Kennel(tmp_path / "fresh", field, FakeClock())
    field.closed["a"] = False
    await fresh.run(119)
    assert field.ons == []
    await fresh.run(3)
    assert field.ons == ["a"]
    fresh.journal.close()


async def test_an_isolation_in_its_file_is_respected_with_control_away(kennel: Kennel, field: Field) -> None:
    kennel.put(kennel.lease("a", 5000, isolation_id="i-1"))
    field.control, field.closed["a"] = False, False
    kennel.kill()
    await kennel.run(300)
    assert field.ons == []


async def test_a_replaced_control_process_is_not_listened_to(kennel: Kennel) -> None:
    kennel.put(epoch=5)
    with pytest.raises(StaleEpoch):
        kennel.put(kennel.lease("a", 100), epoch=4)
    assert kennel.journal.book.leases == {}


async def test_a_restored_database_is_listened_to_after_a_minute(kennel: Kennel) -> None:
    kennel.put(epoch=5)
    await kennel.run(61)
    kennel.put(kennel.lease("a", 100), epoch=1)
    kennel.put(kennel.lease("b", 100), epoch=1)
    assert len(kennel.journal.book.leases) == 2


@pytest.mark.parametrize("wrong", [
    {"restore_at": "2026-03-01T00:00:00"}, {"restore_at": "soon"}, {"off_at_most_s": "x"}, {"restore_in_s": None},
])  # fmt: skip
async def test_a_lease_that_is_not_understood_is_not_half_taken(kennel: Kennel, wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        kennel.put(kennel.lease("a", 100), kennel.lease("b", 100, **wrong))
    assert kennel.journal.book.leases == {}


async def test_ending_all_leases_wakes_all_but_isolations(kennel: Kennel, field: Field) -> None:
    kennel.put(kennel.lease("a", 5000), kennel.lease("b", 5000), kennel.lease("c", 5000, isolation_id="i"))
    field.closed.update({"a": False, "b": False, "c": False})
    await kennel.run(3)
    assert kennel.dog.end_leases(None) == ["a", "b"]
    await kennel.run(3)
    assert field.closed == {"a": True, "b": True, "c": False}


@pytest.mark.parametrize("jump_h", [-1, 1])
async def test_a_wall_clock_that_is_set_does_not_keep_a_load_off(kennel: Kennel, field: Field, jump_h: int) -> None:
    kennel.put(kennel.lease("a", 1000))
    field.closed["a"] = False
    await kennel.run(10)
    kennel.clock.set_wall(kennel.clock.now() + timedelta(hours=jump_h))
    await kennel.run(1000 - 10 + 33)
    assert field.closed["a"]


LOADS = ("a", "b")


class Nights(RuleBasedStateMachine):
    """Any order of leases, openings, kills, torn writes, reboots, set clocks, silent doors.

    What is promised: a load that has been open without a right to it for as long as the margin and two looks is
    closed, or a person was called, or, with no door, control was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.field = Field()
        self.kennel: Kennel | None = None
        self.rights: dict[str, float] = {}
        """Monotonic time until which a load may be off."""
        self.isolated: set[str] = set()
        self.quiet_since = self.clock.monotonic()

    @initialize(number=st.integers(0, 10**9))
    def begin(self, number: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.kennel = Kennel(Path(self.folder.name) / "j", self.field, self.clock)
        self.kennel.put(complete=True)
        self.field.closed = dict.fromkeys(LOADS, True)

    def teardown(self) -> None:
        if self.kennel is not None:
            self.kennel.journal.close()
            self.folder.cleanup()
        self.runner.close()

    def disturbed(self) -> None:
        self.quiet_since = self.clock.monotonic()

    @rule(load=st.sampled_from(LOADS), length_s=st.integers(1, 300), isolation=st.booleans())
    def lease_and_off(self, load: str, length_s: int, isolation: bool) -> None:
        assert self.kennel is not None
        self.kennel.put(self.kennel.lease(load, length_s, isolation_id="i" if isolation else None,
                                          command_id=f"off-{load}-{self.clock.monotonic()}"))  # fmt: skip
        if load not in self.field.locked:
            self.field.closed[load] = False
        self.rights[load] = max(self.rights.get(load, 0.0), self.clock.monotonic() + length_s)
        self.disturbed()

    @rule(load=st.sampled_from(LOADS))
    def woken_by_others(self, load: str) -> None:
        assert self.kennel is not None
        if load in self.field.locked or self.field.trips.get(load):
            return
        self.field.closed[load] = True
        leases = [one.command_id for one in self.kennel.leases_of(load)]
        self.kennel.put(ended=leases)
        self.rights.pop(load, None)
        self.disturbed()

    @rule(load=st.sampled_from(LOADS), trip=st.sampled_from([0, 2, 10]))
    def opened_by_itself(self, load: str, trip: int) -> None:
        self.field.closed[load], self.field.trips[load] = False, trip
        self.disturbed()

    @rule(load=st.sampled_from(LOADS), locked=st.booleans())
    def lock(self, load: str, locked: bool) -> None:
        (self.field.locked.add if locked else self.field.locked.discard)(load)
        self.disturbed()

    @rule(load=st.sampled_from(LOADS))
    def trip_reset(self, load: str) -> None:
        self.field.trips[load] = 0
        self.disturbed()

    @rule(door=st.booleans(), control=st.booleans())
    def others_come_and_go(self, door: bool, control: bool) -> None:
        self.field.door, self.field.control = door, control
        self.field.asked.clear()
        self.disturbed()

    @rule(torn=st.binary(max_size=40).filter(lambda data: b"\n" not in data))
    def killed(self, torn: bytes) -> None:
        assert self.kennel is not None
        self.kennel.journal.close()
        with self.kennel.path.open("ab") as file:
            file.write(torn)
        self.kennel.start()
        assert not self.kennel.journal.is_damaged
        self.field.asked.clear()
        self.disturbed()

    @rule(jump_s=st.sampled_from([-7200, -3600, 3600]))
    def wall_clock_set(self, jump_s: int) -> None:
        self.clock.set_wall(self.clock.now() + timedelta(seconds=jump_s))

    @rule(for_s=st.sampled_from([5, 40, 100]))
    def time_passes(self, for_s: int) -> None:
        assert self.kennel is not None
        self.runner.run(self.kennel.run(for_s, step_s=5))

    @rule()
    def a_quiet_time(self) -> None:
        assert self.kennel is not None
        self.runner.run(self.kennel.run(400, step_s=5))

    @precondition(lambda self: self.kennel is not None)
    @invariant()
    def nothing_sleeps_too_long(self) -> None:
        now = self.clock.monotonic()
        for load, closed in self.field.closed.items():
            quiet_s = now - max(self.quiet_since, self.rights.get(load, 0.0))
            if closed or quiet_s < SETTINGS.margin_s + SETTINGS.retry_cap_s + 15:
                continue
            stopped = load in self.field.locked or self.field.trips.get(load) in PROTECTION_TRIPS
            if not self.field.door:
                # Without a door an opening that nobody had leased cannot be seen.
                assert self.kennel is not None
                asked = load in self.field.asked or not self.field.control
                assert asked or not self.kennel.leases_of(load), "no door, and control was not asked"
            elif stopped:
                assert not self.field.control or (load, "wake_up_stopped") in self.field.alarms
            else:
                raise AssertionError(f"{load} sleeps without a right to it")

    @precondition(lambda self: self.kennel is not None)
    @invariant()
    def the_book_is_its_file(self) -> None:
        assert self.kennel is not None
        with Journal(self.kennel.path) as read:
            assert read.book == self.kennel.journal.book


# Without shrinking: a story of thirty steps is short enough to read, and shrinking one takes minutes.
Nights.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
TestNights = Nights.TestCase
