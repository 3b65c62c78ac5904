"""What must hold for an OFF, and closing alone: by either clock, after a restart, until it reads closed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.control import Command, CommandAction, Result, Stage
from libs.common.ids import new_id
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock, settle
from libs.common.tokens import KeyRing, canonical
from services.ingest.bus import unpack
from services.ingest.domain.normalise import Normaliser
from services.ingest.domain.switching import Moment, OffLease, switch_of
from services.ingest.drivers.port import DeviceSilent, NotDelivered
from services.ingest.settings import SwitchingSettings
from services.ingest.spool import Spool
from services.ingest.store.offbook import OffBook, leases_in
from services.ingest.usecases.boards import LastSeen
from services.ingest.usecases.caring import Caretaker
from services.ingest.usecases.findings import Findings
from services.ingest.usecases.orders import Order, Orders
from services.ingest.usecases.reach import Handle, Target
from services.ingest.usecases.results import HELD_IN_A_FLOOD_S, HELD_S, Results
from services.ingest.usecases.switching import Switcher
from services.ingest.worker.waking import WakeKeeper
from tests.unit.ingest.ingest_fakes import (
    FakeBus,
    FakeCommandStore,
    FakeDevice,
    FakeHolder,
    device,
    line,
    load,
    site,
    topology,
)

CATALOGUE = ProfileCatalogue.load()
SETTINGS = SwitchingSettings(
    restore_margin_s=30.0, verify_within_s=5.0, meter_wait_s=0.0, retry_first_s=2.0, retry_cap_s=60.0
)
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class FakeReach:
    """Everything is one fake breaker away, whether the line is held or not."""

    def __init__(self, found: FakeDevice, clock: FakeClock) -> None:
        self.device = found
        self.alone: list[bool] = []
        self.is_telling = False
        self._clock = clock

    async def use(self, target: Target, job: Any, *, alone: bool, only_looks: bool = False) -> Any:
        self.alone.append(alone)
        return await job(Handle(self.device, Normaliser(target.profile), self.is_telling))

    async def read_polled(self, device_id: str, names: Any) -> None:
        return None

    async def pause(self, target: Target, delay_s: float, *, since: float) -> None:
        await self._clock.sleep(delay_s)

    def poll_soon(self, line_id: str, device_ids: Any) -> None: ...


class NoPower:
    async def latest(self, device_id: str) -> None:
        return None


@dataclass
class Scene:
    clock: FakeClock
    breaker: FakeDevice
    reach: FakeReach
    holder: FakeHolder
    store: FakeCommandStore
    bus: FakeBus
    book: OffBook
    orders: Orders
    keeper: WakeKeeper
    results: Results
    findings: Findings
    keys: KeyRing
    synchronised: list[bool]

    def order(self, action: CommandAction, **changes: Any) -> Command:
        now = self.clock.now()
        off = action is CommandAction.OPEN
        fields: dict[str, Any] = {
            "command_id": new_id(), "site_id": "site-1", "device_id": "breaker-1", "line_id": "line-1",
            "action": action, "arguments": {}, "not_after": now + timedelta(seconds=60), "issued_at": now,
            "signature": "", "restore_at": now + timedelta(hours=6) if off else None,
            "off_at_most_s": 6 * 3600.0 if off else None, "load_id": "load-1", **changes,
        }  # fmt: skip
        unsigned = Command(**fields)
        return unsigned.model_copy(
            update={"signature": self.keys.sign_bytes("control", canonical(unsigned.signing_payload()))}
        )

    def on_the_topic(self, *commands: Command) -> list[Received]:
        found = []
        for i, command in enumerate(commands):
            message = envelope.message(topics.COMMANDS, "site-1", command, source="control", time=command.issued_at)
            found.append(Received(message.topic, 0, i, message.key, message.value, message.headers, self.clock.now()))
        return found

    async def give(self, command: Command) -> list[Result]:
        """Read a command from the topic, do it, and return what was told about it."""
        orders = await self.orders.take(self.on_the_topic(command))
        await self.through(orders)
        return self.told(command.command_id)

    async def through(self, orders: Sequence[Order]) -> None:
        for order in orders:
            task = asyncio.create_task(self.orders.execute(order), name="order")
            while not task.done():
                await self.clock.advance(0.5)
                await _files()
            await task

    def told(self, command_id: str) -> list[Result]:
        messages = [*self.results._waiting, *self.bus.published]
        found = [Result.from_json(message.value or b"") for message in messages]
        return [result for result in found if result.command_id == command_id]

    def conditions(self) -> list[tuple[str, str, int | None]]:
        found = [orjson.loads(message.value or b"") for message in self.findings._waiting]
        return [(one["kind"], one["phase"], one.get("level")) for one in found]

    async def pass_by(self, seconds: float) -> None:
        """Let time pass while the keeper runs."""
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 1e-6:
            await self.clock.advance(min(left, 5.0))
            await _files()

    async def until_proven(self) -> None:
        """Let time pass until nothing has to be closed any more: a retry waits for up to a minute, with jitter."""
        for _ in range(40):
            if len(self.book) == 0:
                return
            await self.pass_by(5.0)
        pytest.fail("not closed within 200 s")


async def _files() -> None:
    """Let the thread that writes files finish what it has, and what follows from that."""
    for _ in range(3):
        await asyncio.to_thread(lambda: None)
        await settle(3)


@asynccontextmanager
async def scene(
    tmp_path: Path, *, clock: FakeClock | None = None, boot: str = "boot-1", closed: bool = True
) -> AsyncIterator[Scene]:
    clock = clock or FakeClock(NOON)
    # One thread, so that whoever waits for it has waited for every file before: the clock stands while the disk works.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    keys_dir = tmp_path / "keys"
    KeyRing.create(keys_dir)
    keys = KeyRing.open(keys_dir, clock)
    state = 240 if closed else 15
    breaker = FakeDevice(clock, breaker_state=state, breaker_local_lock=0, breaker_trip_reason=0, active_power_a=1200)
    reach, holder, store, bus = FakeReach(breaker, clock), FakeHolder(clock, "line-1"), FakeCommandStore(), FakeBus()
    book = OffBook(tmp_path / "off")
    seen = LastSeen(clock)
    findings = Findings(bus=bus, clock=clock, instance="0")
    kept = Spool(tmp_path / "results", max_bytes=1 << 20, wall=lambda: clock.now().timestamp())
    results = Results(bus=bus, kept=kept, clock=clock, instance="0")
    switcher = Switcher(reach=reach, seen=seen, power=NoPower(), clock=clock, settings=SETTINGS)
    synchronised = [True]
    orders = Orders(
        lines=holder, topology=topology(site(), line(), device(), load()), catalogue=CATALOGUE, switcher=switcher,
        caretaker=Caretaker(reach=reach, clock=clock, settings=SETTINGS), book=book, store=store, results=results,
        findings=findings, keys=keys, clock=clock, settings=SETTINGS, instance="0", boot=boot,
        clock_synchronised=lambda: synchronised[0],
    )  # fmt: skip
    book.load(orders.moment())
    keeper = WakeKeeper(
        book=book, orders=orders, switcher=switcher, results=results, findings=findings, clock=clock, settings=SETTINGS
    )
    task = asyncio.create_task(keeper.run(lambda: None), name="keeper")
    await settle()
    try:
        yield Scene(
            clock, breaker, reach, holder, store, bus, book, orders, keeper, results, findings, keys, synchronised
        )
    finally:
        task.cancel()
        await asyncio.wait([task])


def is_closed(found: Scene) -> bool:
    return found.breaker.raw["breaker_state"] == 240


async def test_a_device_that_has_never_answered_is_told_of_at_once_and_goes_on_being_tried(tmp_path: Path) -> None:
    async with scene(tmp_path, closed=False) as found:
        found.breaker.silent = True
        began = found.clock.monotonic()
        told = await found.give(found.order(CommandAction.CLOSE))
        assert [one.stage for one in told] == [Stage.EXECUTED, Stage.UNKNOWN]
        assert found.clock.monotonic() - began < SETTINGS.verify_within_s
        found.breaker.silent = False
        await found.until_proven()
        assert is_closed(found)


@pytest.mark.parametrize("why", ["settled at once", "told by the device"])
async def test_a_switch_that_shows_at_once_that_it_has_followed_is_proven_by_that(tmp_path: Path, why: str) -> None:
    async with scene(tmp_path, closed=False) as found:
        found.reach.is_telling = why == "told by the device"
        settle_s = None if found.reach.is_telling else 0.0
        began = found.clock.monotonic()
        (proven,) = await found.give(found.order(CommandAction.CLOSE, settle_s=settle_s))
        assert (proven.stage, proven.evidence.feedback_value, proven.evidence.answer) == (
            Stage.VERIFIED, 1.0, "acknowledged",
        )  # fmt: skip
        assert (len(found.reach.alone), found.breaker.reads) == (1, 2)
        assert found.clock.monotonic() - began < SETTINGS.settle_s + 0.5


@pytest.mark.parametrize("trouble", ["slow", "silent"])
async def test_one_that_shows_nothing_at_once_is_looked_at_as_ever(tmp_path: Path, trouble: str) -> None:
    async with scene(tmp_path, closed=False) as found:
        write, read_points = found.breaker.write, found.breaker.read_points

        async def late(*arguments: Any) -> str:
            answer = await write(*arguments)
            found.breaker.raw["breaker_state"] = 15
            return answer

        async def lost(names: Any) -> Any:
            if found.breaker.writes and found.breaker.reads == 1:
                found.breaker.reads += 1
                raise DeviceSilent("no answer")
            return await read_points(names)

        if trouble == "slow":
            found.breaker.write = late  # type: ignore[method-assign,assignment]
        else:
            found.breaker.read_points = lost  # type: ignore[method-assign]
        orders = await found.orders.take(found.on_the_topic(found.order(CommandAction.CLOSE, settle_s=0.0)))
        task = asyncio.create_task(found.orders.execute(orders[0]), name="order")
        await _files()
        found.breaker.raw["breaker_state"] = 240
        while not task.done():
            await found.clock.advance(0.5)
            await _files()
        assert [one.stage for one in found.told(orders[0].command.command_id)] == [Stage.VERIFIED]
        assert found.breaker.writes == ["breaker_close"]


async def test_what_is_kept_for_a_device_that_sleeps_is_told_of_at_once_and_followed_up(tmp_path: Path) -> None:
    async with scene(tmp_path, closed=False) as found:
        write = found.breaker.write

        async def kept(*arguments: Any) -> str:
            raise NotDelivered("it waits")

        found.breaker.write = kept  # type: ignore[method-assign,assignment]
        began = found.clock.monotonic()
        told = await found.give(found.order(CommandAction.CLOSE))
        assert (told[-1].stage, told[-1].reason) == (Stage.UNKNOWN, "device_silent")
        assert found.clock.monotonic() - began < 1.0
        found.breaker.write = write  # type: ignore[method-assign]
        await found.until_proven()
        assert is_closed(found)


async def test_way_back_is_on_disk_before_the_breaker_is_opened(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        on_disk: list[int] = []
        write = found.breaker.write

        async def watched(*arguments: Any) -> str:
            on_disk.append(len(list((tmp_path / "off").glob("*.json"))))
            return await write(*arguments)

        found.breaker.write = watched  # type: ignore[method-assign,assignment]
        told = await found.give(found.order(CommandAction.OPEN))
        assert [result.stage for result in told] == [Stage.ACCEPTED, Stage.EXECUTED, Stage.VERIFIED]
        assert on_disk == [1]
        assert not is_closed(found)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (lambda found: found.holder.leases.update(FakeHolder(found.clock, "line-1", valid_s=1.0).leases), "lease_lost"),
        (lambda found: found.synchronised.__setitem__(0, False), "clock_not_synchronised"),
        (lambda found: setattr(found.store, "away", True), "database_unavailable"),
    ],
    ids=["lease about to end", "clock", "database"],
)
async def test_off_needs_all_of_it_and_an_on_nothing(tmp_path: Path, trouble: Any, reason: str) -> None:
    async with scene(tmp_path) as found:
        trouble(found)
        off = found.order(CommandAction.OPEN)
        assert [(result.stage, result.reason) for result in await found.give(off)] == [(Stage.REFUSED, reason)]
        assert (found.breaker.writes, len(found.book)) == ([], 0)
        found.breaker.raw["breaker_state"] = 15
        on = found.order(CommandAction.CLOSE, not_after=found.clock.now() - timedelta(days=1))
        assert (await found.give(on))[-1].stage is Stage.VERIFIED
        assert is_closed(found)


async def test_lease_that_ends_while_the_line_is_busy_stops_the_off(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        found.holder.leases = FakeHolder(found.clock, "line-1", valid_s=4.0).leases
        orders = await found.orders.take(found.on_the_topic(found.order(CommandAction.OPEN)))
        busy = asyncio.Event()
        use = found.reach.use

        async def slow(*arguments: Any, **named: Any) -> Any:
            await busy.wait()
            return await use(*arguments, **named)

        found.reach.use = slow  # type: ignore[method-assign]
        task = asyncio.create_task(found.orders.execute(orders[0]), name="order")
        await _files()
        await found.clock.advance(5)
        busy.set()
        await task
        assert found.told(orders[0].command.command_id)[-1].reason == "lease_lost"
        await _files()
        assert (found.breaker.writes, len(found.book)) == ([], 0)


async def test_load_is_closed_at_its_time_and_not_before(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        off = found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0)
        await found.give(off)
        await found.pass_by(600.0)
        assert not is_closed(found)
        await found.pass_by(45.0)
        assert is_closed(found)
        assert found.told(off.command_id)[-1].stage is Stage.RESTORED
        assert len(found.book) == 0
        assert found.reach.alone[-1]  # whether or not the line is held


async def test_wall_clock_that_is_set_back_does_not_keep_a_load_off(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0))
        found.clock.set_wall(NOON - timedelta(days=1))
        await found.pass_by(600.0 + 45.0)
        assert is_closed(found)


async def test_wall_clock_that_is_set_forward_closes_early_rather_than_late(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN))
        found.clock.set_wall(NOON + timedelta(days=1))
        await found.pass_by(10.0)
        assert is_closed(found)


async def test_restart_of_the_process_forgets_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0))
        clock = found.clock
    async with scene(tmp_path, clock=clock, closed=False) as again:
        await again.pass_by(580.0)
        assert not is_closed(again)
        await again.pass_by(60.0)
        assert is_closed(again)


async def test_restart_of_the_machine_counts_what_is_left_from_then(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=NOON + timedelta(hours=1), off_at_most_s=600.0))
    # The monotonic clock begins anew, and the wall clock is wrong by a day.
    clock = FakeClock(NOON - timedelta(days=1))
    async with scene(tmp_path, clock=clock, boot="boot-2", closed=False) as again:
        await again.pass_by(660.0)
        assert is_closed(again)


async def test_breaker_that_does_not_follow_is_tried_until_it_does_and_somebody_hears_of_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        off = found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0)
        await found.give(off)
        found.breaker.obeys = False
        await found.pass_by(800.0)
        tried = found.breaker.writes.count("breaker_close")
        assert tried >= 3
        assert ("wake_up_overdue", "begin", 1) in found.conditions()
        found.breaker.obeys = True
        await found.until_proven()
        assert is_closed(found)
        assert found.conditions()[-1][:2] == ("wake_up_overdue", "end")


async def test_device_out_of_reach_is_tried_until_it_is_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0))
        found.breaker.line_down = True
        await found.pass_by(700.0)
        found.breaker.line_down = False
        await found.until_proven()
        assert is_closed(found)


@pytest.mark.parametrize(("point", "value"), [("breaker_local_lock", 256), ("breaker_trip_reason", 2)])
async def test_lock_and_protection_trip_stop_the_closing_and_call_a_person_once(
    tmp_path: Path, point: str, value: int
) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0))
        found.breaker.raw[point] = value
        await found.pass_by(900.0)
        assert "breaker_close" not in found.breaker.writes
        assert found.conditions() == [("wake_up_stopped", "begin", 1)]
        found.breaker.raw[point] = 0
        await found.until_proven()
        assert is_closed(found)
        assert found.conditions()[-1][:2] == ("wake_up_stopped", "end")


async def test_load_that_somebody_else_has_closed_is_left_alone(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        off = found.order(CommandAction.OPEN, restore_at=NOON + timedelta(minutes=10), off_at_most_s=600.0)
        await found.give(off)
        found.breaker.raw["breaker_state"] = 240
        await found.pass_by(700.0)
        assert found.breaker.writes == ["breaker_open"]
        assert len(found.book) == 0
        assert found.told(off.command_id)[-1].stage is Stage.VERIFIED  # nothing was restored by us


async def test_isolation_stays_off_until_it_is_ordered_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await found.give(found.order(CommandAction.OPEN, restore_at=None, off_at_most_s=None, isolation_id="permit-1"))
        await found.pass_by(3600.0)
        assert not is_closed(found)
        await found.give(found.order(CommandAction.CLOSE))
        assert is_closed(found)
        assert len(found.book) == 0


async def test_write_without_an_answer_is_looked_at_and_not_repeated(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        found.breaker.loses_answers = True
        told = await found.give(found.order(CommandAction.OPEN))
        assert told[-1].stage is Stage.VERIFIED
        assert found.breaker.writes == ["breaker_open"]


async def begun(found: Scene, *commands: Command) -> list[asyncio.Task[None]]:
    """Begin orders one after the other, and return them while they are at work."""
    tasks = []
    for command in commands:
        for order in await found.orders.take(found.on_the_topic(command)):
            tasks.append(asyncio.create_task(found.orders.execute(order), name="order"))
            await _files()
    return tasks


async def ended(found: Scene, tasks: Sequence[asyncio.Task[None]]) -> None:
    while not all(task.done() for task in tasks):
        await found.clock.advance(0.5)
        await _files()


async def test_off_that_waits_behind_an_on_is_not_done_without_its_way_back(tmp_path: Path) -> None:
    """The ON that is proven takes the leases of its switch out of the book, that of the waiting OFF too."""
    async with scene(tmp_path, closed=False) as found:
        found.breaker.obeys = False
        on, off = found.order(CommandAction.CLOSE), found.order(CommandAction.OPEN)
        tasks = await begun(found, on, off)
        assert [task.done() for task in tasks] == [False, False]
        found.breaker.raw["breaker_state"] = 240
        await ended(found, tasks)
        assert found.told(on.command_id)[-1].stage is Stage.VERIFIED
        last = found.told(off.command_id)[-1]
        assert (last.stage, last.reason) == (Stage.REFUSED, "superseded")
        assert found.breaker.writes == ["breaker_close"]
        assert len(found.book) == 0
        assert is_closed(found)


async def test_off_that_waits_behind_an_on_that_fails_is_not_the_last_word(tmp_path: Path) -> None:
    async with scene(tmp_path, closed=False) as found:
        found.breaker.obeys = False
        tasks = await begun(found, found.order(CommandAction.CLOSE), found.order(CommandAction.OPEN))
        await ended(found, tasks)
        assert len(found.book) == 1  # whatever became of the OFF
        found.breaker.obeys = True
        await found.until_proven()
        assert is_closed(found)


async def test_off_whose_outcome_cannot_be_seen_is_unknown_and_its_way_back_stays(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        write = found.breaker.write

        async def then_gone(*arguments: Any) -> str:
            answer = await write(*arguments)
            found.breaker.line_down = True
            return answer

        found.breaker.write = then_gone  # type: ignore[method-assign,assignment]
        told = await found.give(found.order(CommandAction.OPEN))
        assert (told[-1].stage, told[-1].reason) == (Stage.UNKNOWN, "no_answer")
        assert len(found.book) == 1


async def test_on_that_fails_is_on_disk_and_tried_again_by_whoever_starts_next(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        found.breaker.raw["breaker_state"] = 15
        found.breaker.obeys = False
        on = found.order(CommandAction.CLOSE)
        assert (await found.give(on))[-1].stage is Stage.FAILED
        clock = found.clock
    async with scene(tmp_path, clock=clock, closed=False) as again:
        await again.pass_by(10.0)
        assert is_closed(again)
        assert again.told(on.command_id)[-1].stage is Stage.VERIFIED


async def test_command_of_a_line_that_becomes_ours_is_done_then(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        held = dict(found.holder.leases)
        found.holder.leases.clear()
        off = found.order(CommandAction.OPEN)
        assert await found.orders.take(found.on_the_topic(off)) == []
        found.holder.leases.update(held)
        await found.through(await found.orders.take_over("line-1"))
        assert found.told(off.command_id)[-1].stage is Stage.VERIFIED
        assert await found.orders.take_over("line-1") == []


async def test_command_that_was_done_is_not_refused_when_it_is_read_again_later(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        off = found.order(CommandAction.OPEN)
        await found.give(off)
        clock = found.clock
        await clock.advance(120)  # past not_after
    async with scene(tmp_path, clock=clock) as again:
        for database_away in (True, False):
            again.store.away = database_away
            again.store.noted = {off.command_id}
            assert await again.orders.take(again.on_the_topic(off)) == []
        assert again.told(off.command_id) == []


async def test_what_is_no_command_harms_nobody(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        (good,) = found.on_the_topic(found.order(CommandAction.CLOSE))
        values = (None, b"", b"[]", b"{}", b'{"command_id": 1}', b"\xff")
        bad = [Received(topics.COMMANDS, 0, i, "x", value, (), NOON) for i, value in enumerate(values)]
        assert len(await found.orders.take([*bad, good])) == 1


async def test_results_are_kept_on_disk_while_the_bus_is_away_and_told_in_order(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        found.bus.away = True
        task = asyncio.create_task(found.results.run(lambda: None), name="results")
        for stage in (Stage.ACCEPTED, Stage.EXECUTED):
            found.results.emit("c-1", stage, site_id="s", device_id="d", line_id="l", epoch=1)
        await until_idle(found)
        found.bus.away = False
        found.results.emit("c-1", Stage.VERIFIED, site_id="s", device_id="d", line_id="l", epoch=1)
        for _ in range(1000):  # the disk takes its own time
            await found.clock.advance(1)
            await _files()
            if len(found.bus.published) == 3:
                break
        task.cancel()
        await asyncio.wait([task])
        stages = [Result.from_json(message.value or b"").stage for message in found.bus.published]
        assert stages == [Stage.ACCEPTED, Stage.EXECUTED, Stage.VERIFIED]


async def test_a_result_that_the_bus_never_takes_holds_up_no_other(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        found.bus.refuses = b"c-2"
        task = asyncio.create_task(found.results.run(lambda: None), name="results")
        for number in (1, 2, 3):
            found.results.emit(f"c-{number}", Stage.FAILED, site_id="s", device_id="d", line_id="l", epoch=1)
        await until_idle(found)
        task.cancel()
        await asyncio.wait([task])
        told = [Result.from_json(message.value or b"").command_id for message in found.bus.published]
        assert told == ["c-1", "c-3"]


@pytest.mark.parametrize(
    ("action", "stages", "told"),
    [
        (CommandAction.CLOSE, "accepted executed verified", "verified"),
        (CommandAction.CLOSE, "accepted wait executed verified", "accepted verified"),
        (CommandAction.CLOSE, "accepted executed wait verified", "executed verified"),
        (CommandAction.CLOSE, "accepted executed failed", "executed failed"),
        (CommandAction.CLOSE, "accepted stop", "accepted"),
        (CommandAction.OPEN, "accepted executed verified", "accepted executed verified"),
    ],
)
async def test_what_a_closing_is_at_is_told_after_a_moment_and_all_of_an_opening_at_once(
    tmp_path: Path, action: CommandAction, stages: str, told: str
) -> None:
    async with scene(tmp_path) as found:
        for stage in stages.split():
            if stage == "wait":
                await found.clock.advance(HELD_S)
                found.results._let_go(found.clock.monotonic())
            elif stage == "stop":
                found.results._let_go(float("inf"))
            else:
                found.results.emit("c-1", Stage(stage), site_id="s", device_id="d", line_id="l", epoch=1, action=action)
        found.results._let_go(found.clock.monotonic())
        assert [one.stage for one in found.told("c-1")] == [Stage(stage) for stage in told.split()]


async def test_in_a_flood_what_closings_are_at_is_told_later_while_closings_are_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.usecases.results.FLOOD", 3)
    async with scene(tmp_path) as found:

        def say(number: int, stage: Stage) -> None:
            found.results.emit(
                f"c-{number}", stage, site_id="s", device_id="d", line_id="l", epoch=1, action=CommandAction.CLOSE
            )

        for number in range(5):
            say(number, Stage.ACCEPTED)
        for number in (0, 1):
            await found.clock.advance(HELD_S - 0.1)
            say(number, Stage.VERIFIED)
            found.results._let_go(found.clock.monotonic())
            assert [one.stage for one in found.told("c-4")] == []
        assert [one.stage for one in found.told("c-0")] == [Stage.VERIFIED]
        await found.clock.advance(HELD_S)  # nothing is proven any more
        found.results._let_go(found.clock.monotonic())
        assert [one.stage for one in found.told("c-4")] == [Stage.ACCEPTED]


async def test_in_a_flood_too_it_is_told_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.usecases.results.FLOOD", 1)
    async with scene(tmp_path) as found:
        for stage, number in ((Stage.ACCEPTED, 1), (Stage.VERIFIED, 2)):
            found.results.emit(
                f"c-{number}", stage, site_id="s", device_id="d", line_id="l", epoch=1, action=CommandAction.CLOSE
            )
        for second in range(int(HELD_IN_A_FLOOD_S)):
            found.results.emit(
                f"v-{second}", Stage.VERIFIED, site_id="s", device_id="d", line_id="l", epoch=1,
                action=CommandAction.CLOSE,
            )  # fmt: skip
            found.results._let_go(found.clock.monotonic())
            assert found.told("c-1") == []
            await found.clock.advance(1.0)
        found.results._let_go(found.clock.monotonic())
        assert [one.stage for one in found.told("c-1")] == [Stage.ACCEPTED]


async def test_an_on_in_line_is_known_until_it_has_ended(tmp_path: Path) -> None:
    async with scene(tmp_path, closed=False) as found:
        assert found.orders.waits_s("breaker-1", None) is None
        orders = await found.orders.take(found.on_the_topic(found.order(CommandAction.CLOSE)))
        await found.clock.advance(3.0)
        assert found.orders.waits_s("breaker-1", None) == pytest.approx(3.0)
        assert found.orders.waits_s("breaker-1", 2) is None
        await found.through(orders)
        assert found.orders.waits_s("breaker-1", None) is None
        assert is_closed(found)
        off = await found.orders.take(found.on_the_topic(found.order(CommandAction.OPEN)))
        assert found.orders.waits_s("breaker-1", None) is None
        await found.through(off)


async def test_what_is_given_back_has_ended_and_nothing_was_done(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        on, off = found.order(CommandAction.CLOSE), found.order(CommandAction.OPEN)
        for order in await found.orders.take(found.on_the_topic(on, off)):
            found.orders.give_back(order)
        assert [(one.stage, one.reason) for one in found.told(on.command_id)] == [
            (Stage.ACCEPTED, None), (Stage.FAILED, "line_down"),
        ]  # fmt: skip
        assert [(one.stage, one.reason) for one in found.told(off.command_id)] == [(Stage.REFUSED, "lease_lost")]
        assert (found.breaker.writes, len(found.book)) == ([], 0)
        assert found.orders.waits_s("breaker-1", None) is None


async def test_what_a_stop_cuts_short_is_on_disk_and_so_is_what_others_tell_as_they_stop(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        publishing = asyncio.Event()

        async def publish(messages: Sequence[Any], *, timeout_s: float) -> None:
            publishing.set()
            await asyncio.Event().wait()

        found.bus.publish = publish  # type: ignore[method-assign]

        def say(command_id: str) -> None:
            found.results.emit(
                command_id, Stage.FAILED, site_id="s", device_id="d", line_id="l", epoch=1, action=CommandAction.CLOSE
            )

        async def other() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                say("c-2")

        tasks = [asyncio.create_task(found.results.run(lambda: None)), asyncio.create_task(other())]
        say("c-1")
        await publishing.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        kept = Spool(tmp_path / "results", max_bytes=1 << 20, wall=lambda: found.clock.now().timestamp())
        async with kept:
            records = [unpack(record.payload).value or b"" for record in await kept.read(10)]
        assert [Result.from_json(one).command_id for one in records] == ["c-1", "c-2"]


async def until_idle(found: Scene) -> None:
    while found.results._waiting:
        await _files()
    await _files()


@pytest.mark.parametrize(
    ("profile", "channel", "on", "off"),
    [
        ("lx47le_125", None, "breaker_close", "breaker_open"),
        ("waveshare_modbus_rtu_relay8", 3, "relay_3_close", "relay_3_open"),
        ("gree_umatch_ac", None, "ac_on", "ac_off"),
        ("lx47le_125", 1, "breaker_close", "breaker_open"),
    ],
)
def test_which_controls_switch_a_device(profile: str, channel: int | None, on: str, off: str) -> None:
    found = switch_of(CATALOGUE.get(profile), channel)
    assert found is not None
    assert found.off is not None
    assert (found.on.name, found.off.name) == (on, off)


@pytest.mark.parametrize(("profile", "channel"), [("eastron_sdm630", None), ("waveshare_modbus_rtu_relay8", 9)])
def test_what_is_no_switch(profile: str, channel: int | None) -> None:
    assert switch_of(CATALOGUE.get(profile), channel) is None


def lease(**changes: Any) -> OffLease:
    fields: dict[str, Any] = {
        "device_id": "d", "channel": None, "site_id": "s", "line_id": "l", "line": {}, "address": "1",
        "profile": "lx47le_125", "profile_version": None, "command_id": "c", "epoch": 1, "boot": "b", "deadline": 100.0,
        "stored_at": NOON, "restore_at": NOON + timedelta(hours=1), "off_at_most_s": 3600.0, **changes,
    }  # fmt: skip
    return OffLease(**fields)


async def test_file_of_the_off_book_that_is_damaged_is_put_aside_and_the_others_are_read(tmp_path: Path) -> None:
    book, now = OffBook(tmp_path), Moment(NOON, 0.0, "b")
    book.load(now)
    await book.put(lease())
    await book.put(lease(device_id="e"))
    (tmp_path / "e~0.json").write_bytes(b"{")
    again = OffBook(tmp_path)
    again.load(now)
    assert [found.device_id for found in again.all()] == ["d"]
    assert again.all() == [lease()]


async def test_younger_lease_of_a_switch_is_not_removed_with_the_older(tmp_path: Path) -> None:
    book = OffBook(tmp_path)
    book.load(Moment(NOON, 0.0, "b"))
    await book.put(lease())
    await book.put(lease(command_id="younger"))
    book.remove(lease())
    await book.settled()
    assert [found.command_id for found in book.all()] == ["younger"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["put", "remove", "wait"])), max_size=12))
async def test_disk_says_what_memory_says_however_writing_and_removing_overlap(steps: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        book = OffBook(folder)
        book.load(Moment(NOON, 0.0, "b"))
        async with asyncio.TaskGroup() as group:
            last: asyncio.Task[None] | None = None
            for number, (device_id, what) in enumerate(steps):
                known = book.get(device_id, None)
                if what == "put":
                    last = group.create_task(book.put(lease(device_id=device_id, command_id=f"c{number}")))
                elif what == "remove" and known is not None:
                    book.remove(known)
                elif last is not None:
                    await last
                await asyncio.sleep(0)
        await book.settled()
        assert sorted(leases_in(folder), key=lambda one: one.key) == sorted(book.all(), key=lambda one: one.key)
