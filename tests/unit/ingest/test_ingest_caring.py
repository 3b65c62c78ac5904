"""Clocks and restarts at the line: what forbids them, what proves them, and what is never sent twice."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.control import CommandAction, Stage
from services.ingest.drivers.port import BadAnswer, Care, Cared, DeviceRefused, DeviceSilent, LineDown, NotOffered
from tests.unit.ingest.ingest_fakes import FakeDevice
from tests.unit.ingest.test_ingest_waking import Scene, scene


class Cares:
    """What a session does when it is cared for."""

    def __init__(self, breaker: FakeDevice, said: Callable[[Care], Cared]) -> None:
        self.breaker = breaker
        self.said = said
        self.tasks: list[Care] = []
        self.away = 0
        """Reads that find nobody after a restart."""

    async def care(self, task: Care) -> Cared:
        self.tasks.append(task)
        return self.said(task)

    async def read_points(self, names: Any) -> Any:
        if self.tasks and self.away:
            self.away -= 1
            raise LineDown("gone")
        return await FakeDevice.read_points(self.breaker, names)


def cared(found: Scene, said: Callable[[Care], Cared], *, away: int = 0) -> Cares:
    cares = Cares(found.breaker, said)
    cares.away = away
    found.breaker.care = cares.care  # type: ignore[attr-defined]
    found.breaker.read_points = cares.read_points  # type: ignore[method-assign]
    return cares


def confirmed(task: Care) -> Cared:
    return Cared("confirmed")


def fails(exc: Exception) -> Callable[[Care], Cared]:
    def say(task: Care) -> Cared:
        raise exc

    return say


@pytest.mark.parametrize(
    ("said", "stage", "reason", "skew_s"),
    [
        (lambda task: Cared("written", timedelta(seconds=1)), Stage.VERIFIED, None, 1.0),
        (lambda task: Cared("written", timedelta(seconds=-9)), Stage.VERIFIED, None, -9.0),
        (lambda task: Cared("written", timedelta(seconds=-61)), Stage.FAILED, "not_followed", -61.0),
        (confirmed, Stage.VERIFIED, "confirmed_only", None),
        (fails(NotOffered("knows no clock")), Stage.REFUSED, "unsupported", None),
        (fails(LineDown("gone")), Stage.REFUSED, "line_down", None),
        (fails(DeviceRefused("no")), Stage.FAILED, "device_refused", None),
        (fails(DeviceSilent("nothing")), Stage.UNKNOWN, "device_silent", None),
        (fails(BadAnswer("what?", raw=b"")), Stage.UNKNOWN, "bad_answer", None),
    ],
)
async def test_a_clock_is_set_and_its_skew_is_the_evidence(
    tmp_path: Path, said: Callable[[Care], Cared], stage: Stage, reason: str | None, skew_s: float | None
) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, said)
        told = await found.give(found.order(CommandAction.SET_CLOCK, arguments={"within_s": 10.0}, load_id=None))
        assert [one.stage for one in told] == [Stage.ACCEPTED, stage]
        assert (told[-1].reason, told[-1].evidence.feedback_value) == (reason, skew_s)
        assert cares.tasks == [Care.SET_CLOCK]
        assert found.breaker.writes == []


async def test_a_clock_is_read_on_request_whatever_it_shows(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, lambda task: Cared("read", timedelta(hours=1)))
        (told,) = await found.give(found.order(CommandAction.READ_BACK, arguments={"clock": True}, load_id=None))
        assert (told.stage, told.evidence.feedback_value) == (Stage.VERIFIED, 3600.0)
        assert cares.tasks == [Care.READ_CLOCK]


async def test_no_clock_is_set_by_one_that_may_be_wrong(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, confirmed)
        found.synchronised[0] = False
        (told,) = await found.give(found.order(CommandAction.SET_CLOCK, load_id=None))
        assert (told.stage, told.reason, cares.tasks) == (Stage.REFUSED, "clock_not_synchronised", [])


@pytest.mark.parametrize("action", [CommandAction.SET_CLOCK, CommandAction.RESTART])
async def test_a_device_whose_protocol_has_neither_says_so(tmp_path: Path, action: CommandAction) -> None:
    async with scene(tmp_path) as found:
        told = await found.give(found.order(action, load_id=None))
        assert [one.stage for one in told] == [Stage.ACCEPTED, Stage.REFUSED]
        assert told[-1].reason == "unsupported"
        assert found.breaker.writes == []


@pytest.mark.parametrize(
    ("said", "away", "stage", "reason"),
    [
        (confirmed, 0, Stage.VERIFIED, None),
        (confirmed, 3, Stage.VERIFIED, None),
        (confirmed, 100_000, Stage.FAILED, "not_back"),
        # It restarts before it answers: that it was away says so.
        (fails(DeviceSilent("nothing")), 3, Stage.VERIFIED, "confirmed_by_silence"),
        (fails(DeviceSilent("nothing")), 0, Stage.UNKNOWN, "unconfirmed"),
    ],
)
async def test_a_restarted_device_has_to_answer_again(
    tmp_path: Path, said: Callable[[Care], Cared], away: int, stage: Stage, reason: str | None
) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, said, away=away)
        told = await found.give(found.order(CommandAction.RESTART, load_id=None))
        assert [one.stage for one in told] == [Stage.ACCEPTED, Stage.EXECUTED, stage]
        assert told[-1].reason == reason
        assert cares.tasks == [Care.RESTART]
        assert found.breaker.writes == []


@pytest.mark.parametrize(
    ("failure", "stage", "reason"),
    [(LineDown("gone"), Stage.REFUSED, "line_down"), (DeviceRefused("no"), Stage.FAILED, "device_refused")],
)
async def test_a_restart_that_was_not_done_is_told_so(
    tmp_path: Path, failure: Exception, stage: Stage, reason: str
) -> None:
    async with scene(tmp_path) as found:
        cared(found, fails(failure))
        told = await found.give(found.order(CommandAction.RESTART, load_id=None))
        assert (told[-1].stage, told[-1].reason) == (stage, reason)


async def test_no_restart_of_what_is_off_and_the_load_stays_as_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, confirmed)
        await found.give(found.order(CommandAction.OPEN))
        assert found.breaker.raw["breaker_state"] == 15
        (told,) = await found.give(found.order(CommandAction.RESTART, load_id=None))
        assert (told.stage, told.reason, cares.tasks) == (Stage.REFUSED, "load_off", [])
        assert len(found.book.all()) == 1
        await found.give(found.order(CommandAction.CLOSE))
        told_again = await found.give(found.order(CommandAction.RESTART, load_id=None))
        assert told_again[-1].stage is Stage.VERIFIED
        assert found.breaker.raw["breaker_state"] == 240


async def test_late_and_unrecorded_orders_are_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        cares = cared(found, confirmed)
        late = found.order(CommandAction.RESTART, load_id=None)
        await found.clock.advance(61)
        (told,) = await found.give(late)
        assert (told.stage, told.reason) == (Stage.REFUSED, "expired")
        found.store.away = True
        (told,) = await found.give(found.order(CommandAction.RESTART, load_id=None))
        assert (told.reason, cares.tasks) == ("database_unavailable", [])


async def test_no_set_point_moves_a_switch(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        arguments = {"point": "breaker_state", "value": 0.0}
        (told,) = await found.give(found.order(CommandAction.SET_POINT, arguments=arguments, load_id=None))
        assert (told.stage, told.reason, found.breaker.writes) == (Stage.REFUSED, "switching_point", [])
