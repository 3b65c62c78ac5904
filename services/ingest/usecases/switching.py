"""Switching one device and proving it: write, look at the feedback until it follows, look at the load's meter.

An acknowledgement is progress and no success. Silence after a write means that the outcome is not known: it is
looked at, never written again before that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from libs.common.clock import Clock
from libs.common.contracts.control import Evidence, Stage
from libs.common.errors import InvalidInput
from libs.common.ids import DeviceId
from libs.common.profiles import Control
from services.ingest.domain.switching import (
    LOCK_POINT,
    TRIP_POINT,
    Switch,
    SwitchTimer,
    feedback_points,
    obstacle,
    switch_key,
)
from services.ingest.drivers.port import BadAnswer, DeviceRefused, DeviceSilent, LineDown, NotDelivered
from services.ingest.settings import SwitchingSettings
from services.ingest.usecases.boards import POWER_POINTS, LastSeen
from services.ingest.usecases.reach import Handle, Reach, Target

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Progress = Callable[[Stage, Evidence], None]


class LatestPower(Protocol):
    """The power of a meter that another process reads."""

    async def latest(self, device_id: str) -> tuple[Mapping[str, float | None], datetime] | None:
        """Return the points of a device's latest report; None when there is none or it cannot be known."""


@dataclass(frozen=True, slots=True)
class Switched:
    """How a switching ended."""

    stage: Stage
    """``verified``, ``refused`` (nothing was written), ``failed`` or ``unknown``."""
    evidence: Evidence
    reason: str | None = None
    detail: str | None = None
    sent: bool = True
    """Whether anything went to the device that may have moved it."""

    @property
    def verified(self) -> bool:
        """Whether the feedback shows what was wished."""
        return self.stage is Stage.VERIFIED


@dataclass(slots=True)
class _Look:
    """What is known of a switch while it is being switched."""

    points: dict[str, float | None] = field(default_factory=dict)
    at: datetime | None = None
    answer: str | None = None

    def take(self, points: Mapping[str, float | None], at: datetime) -> None:
        """Note a look."""
        self.points.update(points)
        self.at = at


class Switcher:
    """Opens and closes; one order at a time per switch."""

    def __init__(
        self, *, reach: Reach, seen: LastSeen, power: LatestPower, clock: Clock, settings: SwitchingSettings
    ) -> None:
        self._reach = reach
        self._seen = seen
        self._power = power
        self._clock = clock
        self._settings = settings
        self._busy: dict[str, asyncio.Lock] = {}

    async def close(
        self,
        target: Target,
        switch: Switch,
        *,
        channel: int | None,
        meter: str | None,
        released_trip: int | None = None,
        settle_s: float | None = None,
        alone: bool = True,
        progress: Progress = lambda stage, evidence: None,
    ) -> Switched:
        """Close: what wakes a load.

        A switch that reads closed already is left as it is. Only a lock at the breaker or a protection trip stops it;
        when the switch cannot be read before, it is closed all the same.
        """
        async with self._lock(target, channel):
            look = _Look()
            wanted = feedback_points(target.profile, switch.on)

            async def write(handle: Handle) -> str | None:
                try:
                    look.take(*await handle.read(wanted))
                except (DeviceSilent, DeviceRefused, BadAnswer) as exc:
                    logger.info("closing blindly", extra={"device_id": target.device_id, "reason": exc.message})
                if switch.state(look.points) == 1:
                    return None
                hindrance = obstacle(look.points, released_trip)
                if hindrance is not None:
                    raise Hindered(hindrance)
                look.answer = await handle.write(switch.on, None)
                if handle.is_telling or not self._settle_s(switch.on, settle_s):
                    await self._look_at_once(handle, target, switch, wanted, look)
                return look.answer

            early = await self._attempt(target, switch, write, look, alone=alone)
            if early is not None:
                return early
            if switch.state(look.points) == 1:
                detail = "it was closed already" if look.answer is None else None
                closed = await self._proven(target, switch, look, meter, closed=True, detail=detail)
            else:
                closed = await self._verify(
                    target, switch, switch.on, look, closed=True, meter=meter, settle_s=settle_s, alone=alone,
                    progress=progress,
                )  # fmt: skip
            if closed.verified and switch.timer is not None:
                await self._stop_timer(target, switch.timer, alone=alone)
            return closed

    async def open(
        self,
        target: Target,
        switch: Switch,
        *,
        channel: int | None,
        meter: str | None,
        may_write: Callable[[], str | None],
        close_after_s: float | None = None,
        settle_s: float | None = None,
        progress: Progress = lambda stage, evidence: None,
    ) -> Switched:
        """Open: what takes a load off.

        ``may_write`` is asked right before the write and returns what forbids it. A locked breaker is not opened.
        A device that can close by itself is told to do so after ``close_after_s``, or (None) never, and shows that it
        has understood, before it is opened. [s]
        """
        control = switch.off
        if control is None:
            return Switched(
                Stage.REFUSED, Evidence(), "no_control", "the device's profile has no way to open it", sent=False
            )
        async with self._lock(target, channel):
            look = _Look()
            wanted = feedback_points(target.profile, control)

            async def write(handle: Handle) -> str | None:
                look.take(*await handle.read(wanted))
                if look.points.get(LOCK_POINT) == 1:
                    raise Hindered("local_lock")
                forbidden = may_write()
                if forbidden is None and switch.timer is not None:
                    await _set_timer(handle, switch.timer, close_after_s)
                    forbidden = may_write()
                if forbidden is not None:
                    raise Hindered(forbidden)
                look.answer = await handle.write(control, None)
                return look.answer

            early = await self._attempt(target, switch, write, look, alone=False)
            if early is not None:
                return early
            return await self._verify(
                target, switch, control, look, closed=False, meter=meter, settle_s=settle_s, alone=False,
                progress=progress,
            )  # fmt: skip

    async def look(self, target: Target, switch: Switch, *, channel: int | None, meter: str | None) -> Switched:
        """Read a switch and its load's meter, and change nothing."""
        look = _Look()
        try:
            points, at = await self._reach.use(
                target, lambda handle: handle.read(feedback_points(target.profile, switch.on)), alone=False,
                only_looks=True,
            )  # fmt: skip
        except (LineDown, DeviceSilent, DeviceRefused, BadAnswer) as exc:
            return Switched(Stage.UNKNOWN, Evidence(), exc.code, exc.message)
        look.take(points, at)
        self._seen.looked(target.device_id, points, at)
        power = await self._power_now(meter, at)
        evidence = _evidence(switch, look, meter, power)
        if evidence.feedback_value is None:
            # A device that can only be listened to has said nothing since; that is no proof of anything.
            return Switched(Stage.UNKNOWN, evidence, "no_answer")
        return Switched(Stage.VERIFIED, evidence)

    async def set_value(self, target: Target, control: Control, value: float, *, settle_s: float | None) -> Switched:
        """Write a value and look until the read-back point shows it."""
        look = _Look()
        point = control.read_back.points[0]
        try:
            look.answer = await self._reach.use(target, lambda handle: handle.write(control, value), alone=False)
        except (LineDown, DeviceRefused, InvalidInput) as exc:
            return Switched(Stage.FAILED, Evidence(feedback_point=point), exc.code, exc.message)
        except (DeviceSilent, BadAnswer) as exc:
            look.answer = exc.message
        give_up_at = self._clock.monotonic() + (control.verify_within_s or self._settings.verify_within_s)
        await self._clock.sleep(self._settle_s(control, settle_s))
        while True:
            try:
                look.take(
                    *await self._reach.use(target, lambda handle: handle.read([point]), alone=False, only_looks=True)
                )
            except (LineDown, DeviceSilent, DeviceRefused, BadAnswer) as exc:
                logger.info("read-back failed", extra={"device_id": target.device_id, "reason": exc.message})
            found = look.points.get(point)
            evidence = Evidence(feedback_point=point, feedback_value=found, feedback_at=look.at, answer=look.answer)
            if found is not None and abs(found - value) < 1e-6:
                return Switched(Stage.VERIFIED, evidence)
            if self._clock.monotonic() >= give_up_at:
                return Switched(Stage.UNKNOWN if found is None else Stage.FAILED, evidence, "not_followed")
            await self._clock.sleep(self._settings.read_back_every_s)

    async def read_value(self, target: Target, point: str) -> Switched:
        """Read a point that a command may have set, and change nothing."""
        if point not in target.profile.points:
            detail = f"profile {target.profile.name} has no point {point}"
            return Switched(Stage.REFUSED, Evidence(), "bad_arguments", detail)
        try:
            points, at = await self._reach.use(
                target, lambda handle: handle.read([point]), alone=False, only_looks=True
            )
        except (LineDown, DeviceSilent, DeviceRefused, BadAnswer) as exc:
            return Switched(Stage.UNKNOWN, Evidence(feedback_point=point), exc.code, exc.message)
        found = points.get(point)
        if found is None:
            return Switched(Stage.UNKNOWN, Evidence(feedback_point=point), "no_answer")
        return Switched(Stage.VERIFIED, Evidence(feedback_point=point, feedback_value=found, feedback_at=at))

    def _lock(self, target: Target, channel: int | None) -> asyncio.Lock:
        return self._busy.setdefault(switch_key(target.device_id, channel), asyncio.Lock())

    async def _attempt(
        self,
        target: Target,
        switch: Switch,
        write: Callable[[Handle], Awaitable[str | None]],
        look: _Look,
        *,
        alone: bool,
    ) -> Switched | None:
        """Do the write; return how it ended when there is nothing to verify."""
        try:
            await self._reach.use(target, write, alone=alone)
        except Hindered as exc:
            return Switched(Stage.REFUSED, _evidence(switch, look, None, None), exc.reason, sent=False)
        except (LineDown, InvalidInput) as exc:
            return Switched(Stage.FAILED, _evidence(switch, look, None, None), exc.code, exc.message, sent=False)
        except DeviceRefused as exc:
            look.answer = exc.message
            return Switched(Stage.FAILED, _evidence(switch, look, None, None), exc.code, exc.message)
        except NotDelivered as exc:
            # There is nothing to look for yet. It is told now, and others follow it up; what waits is not sent twice.
            look.answer = exc.message
            return Switched(Stage.UNKNOWN, _evidence(switch, look, None, None), exc.code, exc.message)
        except (DeviceSilent, BadAnswer) as exc:
            # It may have been done: what follows is looking, not writing.
            logger.info("no answer to a write", extra={"device_id": target.device_id, "reason": exc.message})
            look.answer = exc.message
            look.points.clear()
        return None

    async def _look_at_once(
        self, handle: Handle, target: Target, switch: Switch, wanted: Collection[str], look: _Look
    ) -> None:
        """Look while the line is still ours, and note it if the switch has closed already.

        Only where nothing has to settle, or where the device tells of its movements, so that what it has said since it
        was written to is said after them. That it shows nothing yet, or nobody answers, means nothing.
        """
        try:
            points, at = await handle.read(wanted)
        except (LineDown, DeviceSilent, DeviceRefused, BadAnswer):
            return
        if switch.state(points) == 1:
            look.points.clear()
            look.take(points, at)
            self._seen.looked(target.device_id, points, at)

    async def _verify(
        self,
        target: Target,
        switch: Switch,
        control: Control,
        look: _Look,
        *,
        closed: bool,
        meter: str | None,
        settle_s: float | None,
        alone: bool,
        progress: Progress,
    ) -> Switched:
        progress(Stage.EXECUTED, Evidence(feedback_point=switch.feedback, answer=look.answer))
        look.points.clear()
        wanted = feedback_points(target.profile, control)
        give_up_at = self._clock.monotonic() + (control.verify_within_s or self._settings.verify_within_s)
        await self._clock.sleep(self._settle_s(control, settle_s))
        while True:
            looked_at = self._clock.monotonic()
            try:
                points, at = await self._reach.use(
                    target, lambda handle: handle.read(wanted), alone=alone, only_looks=True
                )
            except (LineDown, DeviceSilent, DeviceRefused, BadAnswer) as exc:
                logger.info("read-back failed", extra={"device_id": target.device_id, "reason": exc.message})
                if look.at is None:
                    # Silent before the write, at the write and after it: that is told now, and others try again.
                    return Switched(
                        Stage.UNKNOWN, _evidence(switch, look, None, None), exc.code, look.answer or exc.message
                    )
            else:
                look.take(points, at)
                self._seen.looked(target.device_id, points, at)
                if switch.state(look.points) == int(closed):
                    return await self._proven(target, switch, look, meter, closed=closed)
            if self._clock.monotonic() >= give_up_at:
                state = switch.state(look.points)
                stage = Stage.UNKNOWN if state is None else Stage.FAILED
                evidence = _evidence(switch, look, meter, await self._power_now(meter, self._clock.now()))
                return Switched(stage, evidence, "no_answer" if state is None else "not_followed")
            await self._reach.pause(target, self._settings.read_back_every_s, since=looked_at)

    async def _proven(
        self, target: Target, switch: Switch, look: _Look, meter: str | None, *, closed: bool, detail: str | None = None
    ) -> Switched:
        self._reach.poll_soon(target.line.id, [target.device_id])
        power = None if look.at is None else await self._power_after(meter, look.at, closed=closed)
        return Switched(Stage.VERIFIED, _evidence(switch, look, meter, power), detail=detail)

    async def _power_after(self, meter: str | None, since: datetime, *, closed: bool) -> tuple[float, datetime] | None:
        """Return the meter's power after a switching: once it has followed, or the last one when time is up."""
        if meter is None:
            return None
        give_up_at = self._clock.monotonic() + self._settings.meter_wait_s
        found: tuple[float, datetime] | None = None
        while True:
            found = await self._power_now(meter, since) or found
            if found is not None and (found[0] > self._settings.idle_power_kw) == closed:
                return found
            if self._clock.monotonic() >= give_up_at:
                return found
            await self._clock.sleep(self._settings.read_back_every_s)

    async def _power_now(self, meter: str | None, since: datetime) -> tuple[float, datetime] | None:
        """Return a meter's power and when it was measured, if that is not before ``since``."""
        if meter is None:
            return None
        read = await self._reach.read_polled(meter, POWER_POINTS)
        if read is None:
            seen = self._seen.of(meter)
            read = None if seen is None else (seen.points, seen.received_at)
        if read is None or read[1] < since:
            read = await self._power.latest(meter) or read
        if read is None or read[1] < since:
            return None
        power = next((value for name in POWER_POINTS if (value := read[0].get(name)) is not None), None)
        return None if power is None else (power, read[1])

    async def _stop_timer(self, target: Target, timer: SwitchTimer, *, alone: bool) -> None:
        """Stop the timer of a closed device; one that runs on closes what is closed, and an OFF sets it anew."""
        try:
            await self._reach.use(target, lambda handle: handle.write(timer.control, timer.clear), alone=alone)
        except (LineDown, DeviceSilent, DeviceRefused, BadAnswer, InvalidInput) as exc:
            logger.warning("timer not stopped", extra={"device_id": target.device_id, "reason": exc.message})

    def _settle_s(self, control: Control, ordered_s: float | None) -> float:
        return next((value for value in (ordered_s, control.settle_s) if value is not None), self._settings.settle_s)


class Hindered(Exception):
    """Nothing was written, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _set_timer(handle: Handle, timer: SwitchTimer, close_after_s: float | None) -> None:
    """Tell a device when it has to close by itself, and look whether it will.

    Raises:
        Hindered: It cannot wait that long, or does not show that it will close: nothing is switched off then.
        LineDown: The line is lost; nothing was switched.
    """
    wanted = timer.setting(close_after_s)
    if wanted is None:
        raise Hindered("timer_too_short")
    try:
        await handle.write(timer.control, wanted)
        shown = (await handle.read([timer.point]))[0].get(timer.point)
    except (DeviceSilent, DeviceRefused, BadAnswer, InvalidInput) as exc:
        raise Hindered("timer_not_set") from exc
    # It may count already.
    if shown is None or abs(shown - wanted) > timer.step_s:
        raise Hindered("timer_not_set")


def _evidence(switch: Switch, look: _Look, meter: str | None, power: tuple[float, datetime] | None) -> Evidence:
    state = switch.state(look.points)
    trip = look.points.get(TRIP_POINT)
    lock = look.points.get(LOCK_POINT)
    return Evidence(
        feedback_point=switch.feedback,
        feedback_value=None if state is None else float(state),
        feedback_at=None if state is None else look.at,
        meter_device_id=None if meter is None or power is None else DeviceId(meter),
        meter_power_kw=None if power is None else power[0],
        meter_at=None if power is None else power[1],
        local_lock=None if lock is None else lock == 1,
        trip_reason=None if trip is None else int(trip),
        answer=look.answer,
    )
