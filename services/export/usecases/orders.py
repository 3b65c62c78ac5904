"""Orders of a centre: judged by its permits, carried out by control and alarm, answered in time, always audited.

A switching is written down before control is asked, and its id is the idempotency key there; so the order that a centre
repeats, that two replicas get, or that a crash cut short is one command. An answer that does not come in time is
"failed" for the centre, and the next repetition finds out what became of the command.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Protocol, TypeVar

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.control import CommandState
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.ids import new_id
from services.export import bus
from services.export.dialects import messages as m
from services.export.domain.connection import Unit
from services.export.domain.latest import selected
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import SourceKind
from services.export.domain.permits import (
    Judged,
    OrderKind,
    OrderState,
    Permits,
    Refused,
    Success,
    SwitchingOrder,
    Wish,
    channel_of,
    is_repeat,
    judge_switching,
    judge_thresholds,
)
from services.export.orders import journal
from services.export.orders import permits as permit_store
from services.export.orders.neighbours import Held, Progress, Switcher, ThresholdKeeper, ThresholdWish
from services.export.store import mappings as mapping_store

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ORDERS = 100
"""Points in one order; a longer one is refused whole."""
AT_A_TIME = 8
"""Calls to control or alarm for one message of a centre."""
READ_WITHIN_S = 4.0
"""Alarm is asked for thresholds no longer than this. [s]"""
MAX_DEVICES = 200
"""Devices of ours whose thresholds one message may ask for; more are refused."""
LOOK_EVERY_S = 0.2
"""How often a switching is looked at while a centre waits for its proof. [s]"""

_S = CommandState
_GONE_WRONG = frozenset({_S.REJECTED, _S.CANCELLED, _S.EXPIRED, _S.FAILED, _S.SUPERSEDED})
_NOT_AGREED = _S.APPROVAL


class LoadFinder(Protocol):
    """What of the registry a switching needs."""

    def loads_of(self, device_id: str, channel: int | None) -> Sequence[str]:
        """Return the loads that a device's switch, or one channel of it, feeds now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one order, for the centre and for the audit."""

    ok: bool
    reason: str
    order_id: str | None = None
    group_id: str | None = None
    repeated: bool = False
    facts: Mapping[str, object] | None = None


class Orders:
    """Carries out what centres order, as far as they may."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        switcher: Switcher,
        thresholds: ThresholdKeeper,
        loads: LoadFinder,
        committed: Callable[[], None],
    ) -> None:
        """Prepare it; ``committed`` is called when something was written for others."""
        self._db = db
        self._clock = clock
        self._switcher = switcher
        self._thresholds = thresholds
        self._loads = loads
        self._committed = committed

    # ---- switching -------------------------------------------------------------------------------

    async def write_points(self, unit: Unit, orders: Sequence[m.PointOrder], peer: str) -> m.WriteOutcome:
        """Switch what the centre orders and may order; every point is in exactly one of the two lists."""
        permits, mapping = await self._facts(unit)
        judged = self._within_bounds(orders) or judge_switching(orders, mapping, permits)
        try:
            async with asyncio.timeout(permits.answer_within_s):
                answers = await self._switch(unit, judged, permits, peer)
        except TimeoutError:  # the database was slow: what was asked is not known
            late = "no_answer_in_time"
            answers = [Answer(False, one.value if isinstance(one, Refused) else late) for one in judged]
        await self._audit(unit, "point.write", orders, answers, peer)
        return _outcome(unit, orders, answers)

    async def _switch(self, unit: Unit, judged: Sequence[Judged], permits: Permits, peer: str) -> list[Answer]:
        until = self._clock.monotonic() + permits.answer_within_s * 0.9
        wishes = {(wish.order.device.device_id, wish.order.point_id): wish for wish in judged if isinstance(wish, Wish)}
        await self._settle(unit, wishes, until)
        written = await self._write_down(unit, wishes, permits, peer)
        meant = {key: entry for key, entry in written.items() if entry is not None}
        carried = await _at_most(
            AT_A_TIME, [partial(self._carry_out, *entry, permits, until) for entry in meant.values()]
        )
        found = dict(zip(meant, carried, strict=True))
        nobody = Answer(False, Refused.NO_LOAD.value)
        return [
            Answer(False, one.value)
            if isinstance(one, Refused)
            else found.get((one.order.device.device_id, one.order.point_id), nobody)
            for one in judged
        ]

    async def _settle(self, unit: Unit, wishes: Mapping[tuple[str, str], Wish], until: float) -> None:
        """Find out whether earlier orders other than OFFs are over: the same one after that is a new command."""
        async with self._db.read() as conn:
            last = await journal.fetch_last(
                conn, unit.key, [key for key, wish in wishes.items() if wish.kind is not OrderKind.SWITCH_OFF]
            )
        running = [order for order in last.values() if order.kind is not OrderKind.SWITCH_OFF and _is_running(order)]
        looks = await _at_most(AT_A_TIME, [partial(self._look, order, until) for order in running])
        for order, progress in zip(running, looks, strict=True):
            if progress is not None and progress.state.is_final:
                async with self._db.write() as conn:
                    await journal.save(conn, order.id, OrderState.OVER, group_id=None, reason=progress.reason)

    async def _write_down(
        self, unit: Unit, wishes: Mapping[tuple[str, str], Wish], permits: Permits, peer: str
    ) -> dict[tuple[str, str], tuple[SwitchingOrder, bool] | None]:
        """Return of each wish the order and whether it is an earlier one said again; None where no load is meant."""
        if not wishes:
            return {}
        found: dict[tuple[str, str], tuple[SwitchingOrder, bool] | None] = {}
        async with self._db.write() as conn:
            await journal.lock_unit(conn, unit.key)
            last = await journal.fetch_last(conn, unit.key, list(wishes))
            now = self._clock.now()
            for key, wish in wishes.items():
                adjusts = wish.kind is OrderKind.ADJUST
                load_id = None if adjusts else self._load_of(wish)
                if load_id is None and not adjusts:
                    found[key] = None
                    continue
                before = last.get(key)
                if before is not None and is_repeat(before, wish, load_id, now, permits):
                    await journal.note_repeat(conn, before.id)
                    found[key] = before, True
                    continue
                off = wish.kind is OrderKind.SWITCH_OFF
                order = SwitchingOrder(
                    id=new_id(), connection_id=unit.connection_id, unit_key=unit.key, unit_id=unit.ref.unit_id,
                    site_id=unit.site_id, sc_device_id=key[0], point_id=key[1], kind=wish.kind, value=wish.value,
                    load_id=load_id, device_id=wish.point.device_id if adjusts else None,
                    setting=wish.point.source if adjusts else None, peer=peer, received_at=now,
                    restore_at=now + timedelta(seconds=permits.off_at_most_s or 0.0) if off else None,
                )  # fmt: skip
                await journal.insert(conn, order)
                found[key] = order, False
        return found

    def _load_of(self, wish: Wish) -> str | None:
        if wish.rule.load_id is not None:
            return wish.rule.load_id
        loads = self._loads.loads_of(wish.point.device_id, channel_of(wish.point.source))
        return loads[0] if len(loads) == 1 else None

    async def _carry_out(self, order: SwitchingOrder, repeated: bool, permits: Permits, until: float) -> Answer:
        """Ask control, wait for the proof where the centre is to have it, and write down how far it is."""
        until_at = None if order.restore_at is None else order.restore_at.isoformat()
        facts = {
            "load_id": order.load_id, "device_id": order.device_id, "setting": order.setting,
            "kind": order.kind.value, "restore_at": until_at,
        }  # fmt: skip
        progress = await self._look(order, until) if order.group_id else await self._ask(order, until)
        while permits.success is Success.VERIFIED and progress is not None and not progress.state.is_final:
            if self._clock.monotonic() + LOOK_EVERY_S >= until:
                break
            await self._clock.sleep(LOOK_EVERY_S)
            looked = replace(order, group_id=progress.group_id or order.group_id)
            progress = await self._look(looked, until) or progress
        if progress is None:
            return Answer(False, "not_known", order.id, order.group_id, repeated, facts)
        try:
            async with self._db.write() as conn:
                await journal.save(
                    conn, order.id, _state_after(progress), group_id=progress.group_id, reason=progress.reason
                )
        except Unavailable as exc:  # control has the order: that is what the centre is told
            logger.warning("how far an order is cannot be noted", extra={"sc_order": order.id, "reason": exc.message})
        ok = _is_success(progress.state, permits.success)
        reason = progress.state.value if ok else f"{progress.state.value}: {progress.reason}"
        return Answer(ok, reason, order.id, progress.group_id or order.group_id, repeated, facts)

    async def _ask(self, order: SwitchingOrder, until: float) -> Progress | None:
        return await self._in_time(lambda left_s: self._switcher.order(order, timeout_s=left_s), until, order)

    async def _look(self, order: SwitchingOrder, until: float) -> Progress | None:
        return await self._in_time(lambda left_s: self._switcher.progress(order, timeout_s=left_s), until, order)

    async def _in_time(
        self, call: Callable[[float], Awaitable[Progress]], until: float, order: SwitchingOrder
    ) -> Progress | None:
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            return None
        try:
            return await call(left_s)
        except Unavailable as exc:
            logger.warning("control cannot be asked", extra={"sc_order": order.id, "reason": exc.message})
            return None

    # ---- thresholds ------------------------------------------------------------------------------

    async def read_thresholds(self, unit: Unit, selection: Sequence[m.DeviceSelection]) -> m.Thresholds:
        """Return what holds, from alarm; Result 0 when alarm cannot be asked, or too much is asked for."""
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        chosen = [
            (device, [point for _, point in points if point is not None and point.kind is SourceKind.SIGNAL])
            for device, points in selected(mapping, selection)
        ]
        held = await self.held({point.device_id for _, points in chosen for point in points})
        if held is None:
            return m.Thresholds(unit.ref, False)
        return m.Thresholds(
            unit.ref,
            True,
            tuple(
                m.DeviceThresholds(
                    device,
                    tuple(
                        m.ThresholdValue(
                            point.point_id,
                            point.type,
                            one.threshold,
                            point.level or one.level or 0,
                            network_alarm=point.network_alarm or "",
                        )
                        for point in points
                        if (one := held.get((point.device_id, point.source))) is not None
                    ),
                )
                for device, points in chosen
            ),
        )

    async def held(self, devices: Collection[str]) -> Mapping[tuple[str, str], Held] | None:
        """Return what holds for devices of ours, by device and signal; None when alarm cannot be asked in time."""
        if len(devices) > MAX_DEVICES:
            return None
        until = self._clock.monotonic() + READ_WITHIN_S
        answers = await _at_most(AT_A_TIME, [partial(self._held, device_id, until) for device_id in sorted(devices)])
        if any(answer is None for answer in answers):
            return None
        return {(one.device_id, one.signal): one for answer in answers for one in answer or ()}

    async def _held(self, device_id: str, until: float) -> Sequence[Held] | None:
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            return None
        try:
            return await self._thresholds.thresholds(device_id, timeout_s=left_s)
        except Unavailable as exc:
            logger.warning("thresholds cannot be read", extra={"device": device_id, "reason": exc.message})
            return None

    async def write_thresholds(self, unit: Unit, orders: Sequence[m.PointOrder], peer: str) -> m.WriteOutcome:
        """Set the thresholds that the centre orders and may order, as overrides of our devices in alarm."""
        permits, mapping = await self._facts(unit)
        judged = self._within_bounds(orders) or judge_thresholds(orders, mapping, permits)
        wishes = {
            (wish.point.device_id, wish.point.source): ThresholdWish(
                wish.point.device_id, wish.point.source, wish.value, wish.rule.unit
            )
            for wish in judged
            if isinstance(wish, Wish)
        }
        answers = await self._set(unit, judged, wishes, permits)
        await self._audit(unit, "threshold.write", orders, answers, peer)
        return _outcome(unit, orders, answers)

    # ---- delays ----------------------------------------------------------------------------------

    async def read_delays(self, unit: Unit, selection: Sequence[m.DeviceSelection]) -> m.Delays:
        """Return the delays that hold, from alarm; Result 0 when alarm cannot be asked, or too much is asked for."""
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        chosen = [
            (device, [point for _, point in points if point is not None and point.kind is SourceKind.SIGNAL])
            for device, points in selected(mapping, selection)
        ]
        held = await self.held({point.device_id for _, points in chosen for point in points})
        if held is None:
            return m.Delays(unit.ref, False)
        return m.Delays(
            unit.ref,
            True,
            tuple(
                m.DeviceDelays(
                    device,
                    tuple(
                        m.SignalDelays(point.point_id, point.type, one.start_delay_s, one.end_delay_s)
                        for point in points
                        if (one := held.get((point.device_id, point.source))) is not None
                    ),
                )
                for device, points in chosen
            ),
        )

    async def write_delays(self, unit: Unit, orders: Sequence[m.DelayOrder], peer: str) -> m.WriteOutcome:
        """Set the delays that the centre orders and may order, by the permits of thresholds."""
        permits, mapping = await self._facts(unit)
        # For the permits a delay is the number that is said of the point.
        as_points = [
            m.PointOrder(one.device, one.point_id, one.end_s if one.begin_s is None else one.begin_s) for one in orders
        ]
        judged = self._within_bounds(as_points) or [
            Refused.NO_NUMBER if one.unreadable and isinstance(found, Wish) else found
            for one, found in zip(orders, judge_thresholds(as_points, mapping, permits), strict=True)
        ]
        wishes: dict[tuple[str, str], ThresholdWish] = {}
        for place, (one, found) in enumerate(zip(orders, judged, strict=True)):
            if not isinstance(found, Wish):
                continue
            wish = ThresholdWish(
                found.point.device_id, found.point.source, None, None, start_delay_s=one.begin_s, end_delay_s=one.end_s
            )
            if wishes.setdefault((wish.device_id, wish.signal), wish) != wish:
                judged[place] = Refused.CONTRADICTORY
        answers = await self._set(unit, judged, wishes, permits)
        await self._audit(unit, "delay.write", as_points, answers, peer)
        return _outcome(unit, as_points, answers)

    async def _set(
        self,
        unit: Unit,
        judged: Sequence[Judged],
        wishes: Mapping[tuple[str, str], ThresholdWish],
        permits: Permits,
    ) -> list[Answer]:
        """Let alarm set what is wished, by device and signal; return of each order what became of it."""
        refusals: Sequence[str | None] = ()
        if wishes:
            try:
                refusals = await self._thresholds.set_thresholds(
                    unit.connection_id, list(wishes.values()), timeout_s=permits.answer_within_s
                )
            except Unavailable as exc:
                logger.warning("thresholds cannot be set", extra={"unit": unit.ref.unit_id, "reason": exc.message})
                refusals = ["not_known"] * len(wishes)
        said = dict(zip(wishes, refusals, strict=True))
        return [
            _threshold_answer(one, said[one.point.device_id, one.point.source])
            if isinstance(one, Wish)
            else Answer(False, one.value)
            for one in judged
        ]

    # ---- what both need --------------------------------------------------------------------------

    async def _facts(self, unit: Unit) -> tuple[Permits, UnitMapping]:
        async with self._db.read() as conn:
            permits = await permit_store.fetch_current(conn, unit.connection_id)
            return permits, await mapping_store.fetch_mapping(conn, unit.key)

    def _within_bounds(self, orders: Sequence[m.PointOrder]) -> list[Judged] | None:
        return [Refused.TOO_MANY] * len(orders) if len(orders) > MAX_ORDERS else None

    async def _audit(
        self, unit: Unit, action: str, orders: Sequence[m.PointOrder], answers: Sequence[Answer], peer: str
    ) -> None:
        """Say who ordered what by which door, and what became of each; refusals too."""
        told = [
            {
                "device": order.device.device_id, "point": order.point_id, "value": order.value, "done": answer.ok,
                "reason": answer.reason, "order_id": answer.order_id, "group_id": answer.group_id,
                "repeated": answer.repeated or None, **(answer.facts or {}),
            }
            for order, answer in zip(orders[:MAX_ORDERS], answers, strict=False)
        ]  # fmt: skip
        audited = bus.orders_audited(
            unit, action, orders=told, count=len(orders), address=peer,
            succeeded=bool(answers) and all(answer.ok for answer in answers), at=self._clock.now(),
        )  # fmt: skip
        async with self._db.write() as conn:
            await outbox.put(conn, [audited])
        self._committed()


def _is_running(order: SwitchingOrder) -> bool:
    return order.state is OrderState.TAKEN and order.group_id is not None


def _state_after(progress: Progress) -> OrderState:
    if progress.state is _S.REJECTED:
        return OrderState.REFUSED
    return OrderState.OVER if progress.state.is_final else OrderState.TAKEN


def _is_success(state: CommandState, wanted: Success) -> bool:
    """Return whether the centre is told that it worked; what waits for a second person has not been taken."""
    if wanted is Success.VERIFIED:
        return state is _S.SUCCEEDED
    return state not in _GONE_WRONG and state is not _NOT_AGREED


def _threshold_answer(wish: Wish, refusal: str | None) -> Answer:
    facts = {"device_id": wish.point.device_id, "signal": wish.point.source, "unit": wish.rule.unit}
    return Answer(refusal is None, refusal or "set", facts=facts)


def _outcome(unit: Unit, orders: Sequence[m.PointOrder], answers: Sequence[Answer]) -> m.WriteOutcome:
    """Return every ordered point in exactly one list; Result is 1 when all were carried out."""
    ok: dict[m.DeviceRef, dict[str, bool]] = {}
    for order, answer in zip(orders, answers, strict=True):
        points = ok.setdefault(order.device, {})
        points[order.point_id] = points.get(order.point_id, True) and answer.ok
    devices = tuple(
        m.DeviceOutcome(
            device,
            tuple(point for point, done in points.items() if done),
            tuple(point for point, done in points.items() if not done),
        )
        for device, points in ok.items()
    )
    return m.WriteOutcome(unit.ref, bool(answers) and all(answer.ok for answer in answers), devices)


async def _at_most(limit: int, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return what the calls return, in their order, so many of them at a time."""
    gate = asyncio.Semaphore(limit)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]
