"""A command of the device platform: until when its sender waits, and what he asks the platform for."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from libs.common.contracts.registry import Line, LineKind
from libs.common.ids import LineId
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock, settle
from services.ingest.domain.aep import TaskState
from services.ingest.drivers.aep import AepDevice, AepLine
from services.ingest.drivers.port import Address, DeviceRefused, NotDelivered
from services.ingest.drivers.pushed import PushBoard
from tests.unit.ingest.ingest_fakes import LONG_AGO, MEANS

PROFILE = ProfileCatalogue.load().get("aep_breaker_example")
CLOSE = PROFILE.controls["breaker_close"]
SAVED, COMPLETED = 1, 4
"""As the platform numbers them when it is asked."""
NEWS_WITHIN_S = 0.2
"""The platform's news are waited for by the loop's clock. [s]"""


class Platform:
    """Gives each command the next number, and says what it is told to when it is asked."""

    def __init__(self) -> None:
        self.issued = 0
        self.asked: list[str] = []
        self.state = SAVED

    async def call(self, method: str, path: str, version: str, **what: Any) -> Mapping[str, Any]:
        if method == "POST":
            self.issued += 1
            return {"commandId": self.issued}
        self.asked.append(what["params"]["commandId"])
        return {"commandStatus": self.state}


class Setting:
    """One device of a product."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.board = PushBoard(self.clock)
        settings = {"product": 10000001}
        line = Line(
            id=LineId("product-1"), name="Product", valid_from=LONG_AGO, version=1, changed_by="test",
            kind=LineKind.AEP, endpoint="http://127.0.0.1:1", settings=settings,
        )  # fmt: skip
        means = replace(MEANS, pushes=self.board)
        self.line = AepLine(line=line, clock=self.clock, means=means, news_within_s=NEWS_WITHIN_S)
        self.platform = Platform()
        self.line.api = cast(Any, self.platform)

    async def close(self, device_id: str = "brk-1") -> "asyncio.Task[str]":
        device = AepDevice(self.line, Address(device_id, f"dev-{device_id}", PROFILE))
        task = asyncio.create_task(device.write(CLOSE, None))
        await settle()
        return task

    def report(self, closed: bool, device_id: str = "brk-1") -> None:
        self.board.note_values(device_id, {"breaker_state": int(closed), "voltage_a": 2301}, self.clock.now())


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_what_the_device_shows_ends_the_waiting_before_the_platform_has_said_so(setting: Setting) -> None:
    order = await setting.close()
    await setting.clock.advance(1.0)
    setting.report(closed=False)  # about something else
    await settle()
    assert not order.done()
    setting.report(closed=True)
    assert await order == "command 1: the device reports it"
    assert setting.platform.asked == []


async def test_a_report_that_was_faster_than_the_answer_counts(setting: Setting) -> None:
    answered = asyncio.Event()

    async def late(*_: Any, **__: Any) -> Mapping[str, Any]:
        await answered.wait()
        return {"commandId": 1}

    setting.platform.call = late  # type: ignore[method-assign]
    order = await setting.close()
    await setting.clock.advance(0.5)
    setting.report(closed=True)
    answered.set()
    assert await order == "command 1: the device reports it"


async def test_what_a_device_had_said_before_its_command_proves_nothing(setting: Setting) -> None:
    setting.report(closed=True)
    await setting.clock.advance(1.0)
    order = await setting.close()
    assert not order.done()
    setting.board.note_task("product-1", "1", TaskState.FAILED)
    with pytest.raises(DeviceRefused):
        await order


async def test_the_platform_is_asked_when_it_says_nothing(setting: Setting) -> None:
    setting.platform.state = COMPLETED
    assert await (await setting.close()) == "command 1: completed"
    assert setting.platform.asked == ["1"]


async def test_the_platform_is_not_asked_while_it_tells_of_others(setting: Setting) -> None:
    order = await setting.close()
    setting.board.note_task("product-1", "77", TaskState.COMPLETED)
    assert await order == "command 1 was taken by the platform"
    order = await setting.close("brk-2")
    setting.board.note_task("product-1", "2", TaskState.SENT)
    assert await order == "command 2: sent"
    order = await setting.close("brk-3")
    await setting.clock.advance(10 * NEWS_WITHIN_S)
    setting.board.note_task("product-2", "9", TaskState.COMPLETED)  # another product's
    with pytest.raises(NotDelivered, match="command 3"):
        await order
    assert setting.platform.asked == ["3"]


async def test_a_command_is_asked_after_when_the_platform_tells_of_later_ones(setting: Setting) -> None:
    silent = await setting.close()
    await setting.clock.advance(NEWS_WITHIN_S)
    later = await setting.close("brk-2")
    setting.board.note_task("product-1", "2", TaskState.COMPLETED)  # keeps the line talking, by the fake clock
    assert await later == "command 2: completed"
    with pytest.raises(NotDelivered, match="command 1"):
        await silent
    assert setting.platform.asked == ["1"]


async def test_nobody_is_waited_for_in_the_end(setting: Setting) -> None:
    orders = [await setting.close(), await setting.close("brk-2")]
    for order in orders:
        order.cancel()
    await asyncio.wait(orders)
    setting.report(closed=True)
    setting.board.note_task("product-1", "2", TaskState.COMPLETED)
    assert not setting.board._awaited
    assert not setting.board._followed


async def test_what_devices_report_is_news_too_where_the_platform_tells_of_no_command(setting: Setting) -> None:
    silent = await setting.close()
    await setting.clock.advance(NEWS_WITHIN_S)
    later = await setting.close("brk-2")
    setting.report(closed=True, device_id="brk-2")
    assert await later == "command 2: the device reports it"
    assert not setting.board.has_told_of_later("product-1", setting.clock.monotonic())
    with pytest.raises(NotDelivered, match="command 1"):
        await silent
    assert setting.platform.asked == ["1"]


@pytest.mark.parametrize(("alone_for_s", "is_alone"), [(None, False), (5.0, False), (60.0, True)])
async def test_another_process_may_have_heard_of_a_trip_since(
    setting: Setting, alone_for_s: float | None, is_alone: bool
) -> None:
    setting.board.note_values("brk-1", {"breaker_trip_reason": 0, "breaker_state": 0}, setting.clock.now())
    await setting.clock.advance(10.0)
    latest = AsyncMock(return_value=({"breaker_trip_reason": 2.0, "breaker_state": 1.0}, setting.clock.now()))
    since = float("inf") if alone_for_s is None else setting.clock.monotonic() - alone_for_s
    setting.line.means = replace(setting.line.means, latest=latest, alone_since=lambda: since)
    device = AepDevice(setting.line, Address("brk-1", "dev-1", PROFILE))
    wanted = ["breaker_trip_reason", "breaker_state"]
    # The state is young enough to be believed, and whoever switches looks at it again; the trip decides whether he may.
    assert (await device.read_points(wanted)).raw == {"breaker_trip_reason": 0 if is_alone else 2, "breaker_state": 0}
    assert latest.await_count == (0 if is_alone else 1)
    await setting.clock.advance(120.0)
    old = (await device.read_points(wanted)).raw
    assert old == {"breaker_trip_reason": 0 if is_alone else 2}
    assert latest.await_count == (0 if is_alone else 2)


async def test_the_trip_that_was_heard_last_counts(setting: Setting) -> None:
    latest = AsyncMock(return_value=({"breaker_trip_reason": 2.0}, setting.clock.now()))
    setting.line.means = replace(setting.line.means, latest=latest)
    await setting.clock.advance(10.0)
    setting.board.note_values("brk-1", {"breaker_trip_reason": 0}, setting.clock.now())
    device = AepDevice(setting.line, Address("brk-1", "dev-1", PROFILE))
    assert (await device.read_points(["breaker_trip_reason"])).raw == {"breaker_trip_reason": 0}


async def test_what_was_said_lasts_as_long_as_it_did(setting: Setting) -> None:
    device = AepDevice(setting.line, Address("brk-1", "dev-1", PROFILE))
    setting.report(closed=True)
    assert (await device.read_points(["breaker_state"])).raw == {"breaker_state": 1}
    await setting.clock.advance(timedelta(minutes=2).total_seconds())
    assert (await device.read_points(["breaker_state"])).raw == {}
