"""Setting something inside devices: what people order, what the lines answer, what time brings."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.bus import outbox
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.control import CommandState
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput
from libs.common.ids import CommandId, DeviceId, LineId, SiteId, new_id
from libs.common.profiles import Control
from libs.common.tokens import KeyRing
from services.control import adjustbus, bus
from services.control.domain import adjusting
from services.control.domain.adjusting import IN_FLIGHT, PREFIX, Adjustment, Step
from services.control.domain.audit import Entry
from services.control.store import adjustments as store
from services.control.usecases.auditing import record
from services.control.usecases.ports import SteadyClock

logger = logging.getLogger(__name__)

ADJUSTMENTS_GROUP = "control.adjustments"
AT_ONCE = 500
"""Orders whose time has come that are worked off in one transaction."""
LONGEST = timedelta(days=7)
"""A sleeping device is waited for at most so long."""


class NotAdjustable(InvalidInput):
    """The device cannot be set so: it has no line, its profile no such control, or the value lies outside."""

    code = "not_adjustable"
    title_zh = "设备不支持该设置"


class BeingAdjusted(Conflict):
    """Another order for the point is being carried out."""

    code = "being_adjusted"
    title_zh = "设置命令执行中"


class Adjustable(Protocol):
    """A device that something can be set in."""

    @property
    def device_id(self) -> str:
        """Which."""

    @property
    def site_id(self) -> SiteId:
        """Where."""

    @property
    def line_id(self) -> LineId | None:
        """The line that it hangs on."""

    @property
    def profile(self) -> str | None:
        """Name of its profile."""

    def control_of(self, point: str) -> Control | None:
        """Return the control that writes a point, None when its profile has none."""

    def unit_of(self, point: str) -> str | None:
        """Return the unit of a point."""


class Adjusting:
    """Orders for points of devices; see ``domain.adjusting`` for their life."""

    def __init__(self, *, db: Database, clock: SteadyClock, keys: KeyRing, wake: Callable[[], None]) -> None:
        """Keep what is needed.

        Args:
            db: Where the orders are.
            clock: Says what is due.
            keys: Sign what is sent.
            wake: Called after a commit that published something.
        """
        self._db = db
        self._clock = clock
        self._keys = keys
        self._wake = wake

    async def order(
        self,
        conn: WriteConn,
        device: Adjustable,
        *,
        point: str,
        value: float,
        unit: str | None,
        actor: str,
        door: str,
        note: str | None,
        valid_for: timedelta,
    ) -> Adjustment:
        """Take an order; it is sent with the next tick.

        Raises:
            NotAdjustable: The device does not support it, or the value is outside of what it takes.
            BeingAdjusted: Another order for the point is being carried out.
        """
        line_id = self._check(device, point, value, unit)
        now = self._clock.now()
        replaced = await store.lock_open(conn, device.device_id, point)
        if any(one.state in IN_FLIGHT or one.state is CommandState.UNKNOWN for one in replaced):
            raise BeingAdjusted(
                f"{point} of {device.device_id} is being set; wait for the end of that order",
                message_zh=f"{device.device_id} 的 {point} 正在设置,请等待其结束",
            )
        made = Adjustment(
            adjustment_id=CommandId(new_id()),
            action=adjusting.action_of(point),
            site_id=device.site_id,
            device_id=DeviceId(device.device_id),
            line_id=line_id,
            point=point,
            value=value,
            state=CommandState.SCHEDULED,
            created_at=now,
            not_after=now + min(valid_for, LONGEST),
            next_at=now,
            actor=actor,
            note=note,
        )
        steps = [*(Step(adjusting.superseded(one)) for one in replaced), Step(made)]
        await self._apply(conn, steps, now)
        about = f"device:{made.device_id}"
        after = {"adjustment_id": made.adjustment_id, "point": point, "value": value}
        before = [
            {"adjustment_id": one.adjustment_id, "value": one.value, "state": one.state.value} for one in replaced
        ]
        entry = Entry(
            actor, door, "device.set", about, now, before={"orders": before} if before else None, after=after,
            reason=note,
        )  # fmt: skip
        await record(conn, entry)
        return made

    async def tick(self) -> bool:
        """Do what is due; return whether there may be more."""
        async with self._db.write() as conn:
            now = self._clock.now()
            due = await store.lock_due(conn, now, AT_ONCE)
            busy = await store.fetch_busy(conn, {one.device_id for one in due}, now)
            steps = []
            for one in due:
                step = adjusting.on_due(one, now, busy=one.device_id in busy)
                if step.send:
                    busy.add(one.device_id)
                steps.append(step)
            await self._apply(conn, steps, now)
        if due:
            self._wake()
        return len(due) == AT_ONCE

    # Effects of ``control.results``: see ``consumer.EffectHandler``.

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Let the outbox go out at once."""
        self._wake()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Apply answers in their order; those of other commands are left to others.

        Raises:
            PoisonMessage: A message is no result.
        """
        answers = []
        for received in batch:
            try:
                answers.append(adjustbus.read_answer(received))
            except bus.Unreadable as exc:
                raise PoisonMessage(received, str(exc)) from exc
        known = await store.lock_many(conn, {answer.wire.command_id for answer in answers})
        now = self._clock.now()
        for answer in answers:
            one = known.get(answer.wire.command_id)
            step = None if one is None else adjusting.on_answer(one, answer, now)
            if step is not None:
                known[answer.wire.command_id] = step.after
                await self._apply(conn, [step], now)

    # Inside.

    async def _apply(self, conn: WriteConn, steps: Sequence[Step], now: datetime) -> None:
        await store.put(conn, [step.after for step in steps], now)
        messages = []
        for step in steps:
            one = step.after
            if step.send:
                messages.append(adjustbus.order_message(one, self._keys))
            if step.look:
                messages.append(adjustbus.look_message(one, self._keys, now))
            messages.append(adjustbus.event(one, now))
        await outbox.put(conn, messages)

    def _check(self, device: Adjustable, point: str, value: float, unit: str | None) -> LineId:
        """Return the line over which a device can be set."""
        known = device.unit_of(point)
        control = device.control_of(point) if point.startswith(PREFIX) else None
        if known is None or control is None:
            raise NotAdjustable(
                f"profile {device.profile} of {device.device_id} has no control that writes {point}",
                message_zh=f"设备 {device.device_id} 的模板 {device.profile} 没有写入 {point} 的控制项",
            )
        if unit is not None and unit != known:
            raise NotAdjustable(
                f"unit: expected {known}, the unit of {point}, found {unit}",
                message_zh=f"unit:{point} 的单位为 {known},实际为 {unit}",
            )
        low = control.min if control.min is not None else float("-inf")
        high = control.max if control.max is not None else float("inf")
        if not low <= value <= high:
            raise NotAdjustable(
                f"value: expected {low:g} to {high:g} {known}, found {value:g}",
                message_zh=f"value:应为 {low:g} 至 {high:g} {known},实际为 {value:g}",
            )
        if device.line_id is None:
            raise NotAdjustable(
                f"{device.device_id} hangs on no line", message_zh=f"设备 {device.device_id} 未接入线路"
            )
        return device.line_id
