"""Setting something inside devices: what people order, what the lines answer, what time brings."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from libs.common.bus import outbox
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.control import CommandAction, CommandState
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound, PlatformError
from libs.common.ids import CommandId, DeviceId, LineId, SiteId, new_id
from libs.common.profiles import Control
from libs.common.tokens import KeyRing
from services.control import adjustbus, bus
from services.control.domain import adjusting
from services.control.domain.adjusting import IN_FLIGHT, LOAD_OFF, REPORT_PERIOD, Adjustment, Answer, Step
from services.control.domain.audit import Entry
from services.control.domain.commands import group_state
from services.control.domain.setpoints import Effect as RuleEffect
from services.control.domain.setpoints import Place, SetpointBook, SetpointRule, words
from services.control.store import adjustments as store
from services.control.store import places as place_store
from services.control.store.adjustments import SettingGroup
from services.control.usecases.auditing import record, record_settings
from services.control.usecases.isolations import SamePerson
from services.control.usecases.ports import Alone, Neighbours, SteadyClock
from services.control.usecases.setpoints import fetch_book

logger = logging.getLogger(__name__)

ADJUSTMENTS_GROUP = "control.adjustments"
AT_ONCE = 500
"""Orders whose time has come that are worked off in one transaction."""
MAX_GROUP = 20_000
"""Devices of one order."""
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


class SetpointRefused(InvalidInput):
    """A value breaks a rule for set points; the facts name rule, value, limit and source."""

    code = "setpoint_rule"
    title_zh = "违反设定值规则"


class LoadOff(Conflict):
    """A restart is refused: a load behind the device is off, or being woken."""

    code = LOAD_OFF
    title_zh = "负载处于关断状态"


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
    def kind(self) -> str:
        """What it is, as the registry has it."""

    @property
    def tags(self) -> Sequence[str]:
        """Groups that it belongs to."""

    @property
    def profile(self) -> str | None:
        """Name of its profile."""

    def control_of(self, point: str) -> Control | None:
        """Return the control that writes a point, None when its profile has none."""

    @property
    def site_kind(self) -> str | None:
        """What kind of site it is at."""

    @property
    def region_ids(self) -> Sequence[str]:
        """The site's region and those above it."""

    def unit_of(self, point: str) -> str | None:
        """Return the unit of a point."""

    def step_missed(self, point: str, value: float) -> float | None:
        """Return the step in which a point is taken when the value lies between two of them."""

    def is_switched_by(self, point: str) -> bool:
        """Return whether a point shows the position of a switch."""

    @property
    def can_be_cared_for(self) -> frozenset[CommandAction]:
        """Orders without a value that the device may know."""


class Devices(Protocol):
    """The registry's devices."""

    @property
    def is_ready(self) -> bool:
        """Whether all of the registry has been read."""

    def get(self, device_id: str) -> Adjustable | None:
        """Return a device, None when there is no such device now."""

    def at_site(self, site_id: str) -> Sequence[Adjustable]:
        """Return the devices of a site."""

    def in_region(self, region_id: str) -> Sequence[Adjustable]:
        """Return the devices of the sites in a province, city or district."""

    def tagged(self, tag: str) -> Sequence[Adjustable]:
        """Return the devices that carry a tag."""


def meant(devices: Devices, target: Mapping[str, Any]) -> list[Adjustable]:
    """Return the devices that are meant by one of four places, narrowed by kind and profile.

    Args:
        devices: The registry.
        target: ``device_ids``, ``site_id``, ``region_id`` or ``tag``, and perhaps ``kind`` and ``profile``.

    Raises:
        NotFound: There is none, or one of those that are named is unknown.
    """
    site, region, tag = target.get("site_id"), target.get("region_id"), target.get("tag")
    named: Sequence[str] = target.get("device_ids", ())
    found: Sequence[Adjustable]
    if site is not None:
        found = devices.at_site(site)
    elif region is not None:
        found = devices.in_region(region)
    elif tag is not None:
        found = devices.tagged(tag)
    else:
        found = [known_device(devices, device_id) for device_id in dict.fromkeys(named)]
    kind, profile = target.get("kind"), target.get("profile")
    chosen = [one for one in found if kind in (None, one.kind) and profile in (None, one.profile)]
    if not chosen:
        place = site or region or tag or ", ".join(named[:20])
        narrowed = " ".join(filter(None, (kind, profile)))
        raise NotFound(
            f"no device {narrowed} at {place}".replace("  ", " "),
            message_zh=f"{place} 没有符合条件的设备 {narrowed}".rstrip(),
        )
    return chosen


def known_device(devices: Devices, device_id: str) -> Adjustable:
    """Return a device.

    Raises:
        NotFound: There is no such device now.
    """
    device = devices.get(device_id)
    if device is None:
        raise NotFound(f"there is no device {device_id}", message_zh=f"设备 {device_id} 不存在")
    return device


@dataclass(frozen=True, slots=True)
class SettingOrder:
    """What is to be set, whatever device it is in."""

    action: CommandAction
    point: str | None
    value: float | None
    unit: str | None
    actor: str
    door: str
    note: str | None
    valid_for: timedelta
    agreed: bool = False
    """A second person stands behind it already, so that no rule asks for another one."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """An order for many, with its members as they are."""

    group: SettingGroup
    members: tuple[Adjustment, ...]

    @property
    def state(self) -> CommandState:
        """State of the whole: PARTIAL when some members succeeded and others did not or were refused."""
        states = [one.state for one in self.members] + [CommandState.REJECTED] * len(self.group.refused)
        return group_state(states)

    @property
    def by_state(self) -> dict[str, int]:
        """How many members are in which state."""
        return dict(Counter(one.state.value for one in self.members))

    @property
    def expected_by(self) -> datetime | None:
        """When the last result is expected; None when all are there or a person has to act first."""
        ends = (adjusting.expected_end(one) for one in self.members)
        return max((end for end in ends if end is not None), default=None)


class Adjusting:
    """Orders for points of devices; see ``domain.adjusting`` for their life."""

    def __init__(
        self,
        *,
        db: Database,
        clock: SteadyClock,
        keys: KeyRing,
        wake: Callable[[], None],
        neighbours: Neighbours | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where the orders are.
            clock: Says what is due.
            keys: Sign what is sent.
            wake: Called after a commit that published something.
            neighbours: What a restart stops beside the device.
        """
        self._db = db
        self._clock = clock
        self._keys = keys
        self._wake = wake
        self._neighbours = neighbours or Alone()

    async def order(self, conn: WriteConn, device: Adjustable, order: SettingOrder) -> Adjustment:
        """Take an order for one device; it is sent with the next tick.

        Raises:
            NotAdjustable: The device does not support it, or the value is outside of what it takes.
            SetpointRefused: The value breaks a rule.
            BeingAdjusted: Another order for the point is being carried out.
            LoadOff: A restart, and a load behind the device is off.
        """
        made, refused = await self._take(conn, [device], order, None)
        if refused:
            raise refused[0][1]
        return made[0]

    async def order_many(
        self,
        conn: WriteConn,
        devices: Sequence[Adjustable],
        order: SettingOrder,
        target: Mapping[str, Any],
        *,
        left_out: Sequence[tuple[str, PlatformError]] = (),
    ) -> GroupState:
        """Take an order for many devices; those that cannot be set so are listed, the others go on.

        Also a group of which everything was refused is kept: the attempt is on record.

        Args:
            conn: Of the caller's transaction.
            devices: Which.
            order: What is to be set.
            target: Which devices were meant, as the caller said it.
            left_out: Devices that the caller refuses itself, and why.

        Raises:
            InvalidInput: No device, or too many.
        """
        if not 1 <= len(devices) + len(left_out) <= MAX_GROUP:
            raise InvalidInput(
                f"expected 1 to {MAX_GROUP} devices, found {len(devices)}",
                message_zh=f"应为 1 到 {MAX_GROUP} 个设备,实际为 {len(devices)} 个",
            )
        group_id = new_id()
        made, refused = await self._take(conn, devices, order, group_id)
        now = self._clock.now()
        await record(conn, *(_not_ordered(device_id, exc, order, now) for device_id, exc in left_out))
        group = SettingGroup(
            group_id=group_id, action=order.action, point=order.point, value=order.value, target=target,
            actor=order.actor, note=order.note, created_at=now,
            refused=[_refusal(device_id, exc) for device_id, exc in (*left_out, *refused)],
        )  # fmt: skip
        await store.insert_group(conn, group)
        return GroupState(group, tuple(made))

    async def group(self, conn: ReadConn | WriteConn, group_id: str) -> GroupState:
        """Return an order for many.

        Raises:
            NotFound: There is none.
        """
        group = await store.fetch_group(conn, group_id)
        if group is None:
            raise NotFound(f"no group {group_id}", message_zh=f"没有设置命令组 {group_id}")
        return GroupState(group, tuple(await store.fetch_members(conn, group_id)))

    def try_out(
        self, book: SetpointBook, device: Adjustable, order: SettingOrder, times: Sequence[datetime]
    ) -> SetpointRule | None:
        """Return the rule for which an order at any of these times would wait for a second person, None without one.

        Raises:
            NotAdjustable: The device does not support it, or the value is outside of what it takes.
            SetpointRefused: The value breaks a rule then.
        """
        self._check(device, order)
        return _check_rules(book, device, order, times)

    # The second person.

    async def approve(
        self, conn: WriteConn, actor: str, door: str, *, group_id: str | None = None, adjustment_id: str | None = None
    ) -> None:
        """Let orders go on that a second person has to agree to.

        Raises:
            Conflict: Nothing waits for approval.
            SamePerson: Whoever ordered it may not approve it.
        """
        waiting = await self._waiting(conn, group_id, adjustment_id)
        if any(one.actor == actor for one in waiting):
            raise SamePerson(
                "the rule asks for a second person: whoever gave the order cannot approve it",
                message_zh="按规则须由另一人批准:下令人不能自行批准",
            )
        now = self._clock.now()
        steps = [Step(adjusting.approved(one, now, now + (one.not_after - one.created_at))) for one in waiting]
        await self._apply(conn, steps, now)
        await self._audit(conn, "device.set.approve", actor, door, waiting, None)

    async def decline(
        self,
        conn: WriteConn,
        actor: str,
        door: str,
        reason: str,
        *,
        group_id: str | None = None,
        adjustment_id: str | None = None,
    ) -> None:
        """Call off orders that wait for a second person; whoever gave them may do so too.

        Raises:
            Conflict: Nothing waits for approval.
        """
        waiting = await self._waiting(conn, group_id, adjustment_id)
        steps = [Step(adjusting.declined(one)) for one in waiting]
        await self._apply(conn, steps, self._clock.now())
        await self._audit(conn, "device.set.decline", actor, door, waiting, reason)

    async def _waiting(self, conn: WriteConn, group_id: str | None, adjustment_id: str | None) -> list[Adjustment]:
        waiting = await store.lock_waiting(conn, group_id=group_id, adjustment_id=adjustment_id)
        if not waiting:
            raise Conflict("nothing waits for approval", message_zh="没有待批准的设置命令")
        return waiting

    async def _audit(
        self, conn: WriteConn, action: str, actor: str, door: str, orders: Sequence[Adjustment], reason: str | None
    ) -> None:
        now = self._clock.now()
        entries = [
            Entry(
                actor, door, action, f"device:{one.device_id}", now, before={"state": CommandState.APPROVAL},
                after={"adjustment_id": one.adjustment_id}, reason=reason or None,
            )
            for one in orders
        ]  # fmt: skip
        await record(conn, *entries)

    # Taking orders.

    async def _take(
        self, conn: WriteConn, devices: Sequence[Adjustable], order: SettingOrder, group_id: str | None
    ) -> tuple[list[Adjustment], list[tuple[str, PlatformError]]]:
        """Take an order for devices; return what was made of it, and which devices were refused and why."""
        await store.serialise_orders(conn)
        now = self._clock.now()
        by_id = {device.device_id: device for device in devices}
        book = await fetch_book(conn) if order.action is CommandAction.SET_POINT else None
        restarts = order.action is CommandAction.RESTART
        off = await self._off_behind(conn, list(by_id)) if restarts else {}
        open_ = await store.lock_open(conn, list(by_id), order.action, order.point)
        before: dict[str, list[Adjustment]] = {}
        for one in open_:
            before.setdefault(one.device_id, []).append(one)
        steps: list[Step] = []
        made: list[Adjustment] = []
        entries: list[Entry] = []
        refused: list[tuple[str, PlatformError]] = []
        for device in by_id.values():
            try:
                line_id = self._check(device, order)
                self._check_load(device, off)
                waits_for = None if book is None else _check_rules(book, device, order, [now])
                waits_for = None if order.agreed else waits_for
                replaced = self._replaced(device, order, before.get(device.device_id, []))
            except (NotAdjustable, SetpointRefused, BeingAdjusted, LoadOff) as exc:
                refused.append((device.device_id, exc))
                entries.append(_not_ordered(device.device_id, exc, order, now))
                continue
            one = self._made(device, line_id, order, group_id, now, waits_for)
            if waits_for is None:
                steps += [Step(adjusting.superseded(old)) for old in replaced]
            steps.append(Step(one))
            made.append(one)
            entries.append(_ordered(one, order, replaced, now))
        await self._apply(conn, steps, now)
        await record(conn, *entries)
        return made, refused

    def _made(
        self,
        device: Adjustable,
        line_id: LineId,
        order: SettingOrder,
        group_id: str | None,
        now: datetime,
        waits_for: SetpointRule | None,
    ) -> Adjustment:
        later = now + timedelta(seconds=adjusting.APPROVE_WITHIN_S)
        return Adjustment(
            adjustment_id=CommandId(new_id()),
            action=order.action,
            site_id=device.site_id,
            device_id=DeviceId(device.device_id),
            line_id=line_id,
            point=order.point,
            value=order.value,
            state=CommandState.SCHEDULED if waits_for is None else CommandState.APPROVAL,
            reason="" if waits_for is None else f"rule_{waits_for.name}",
            created_at=now,
            not_after=now + min(order.valid_for, LONGEST),
            next_at=now if waits_for is None else later,
            actor=order.actor,
            note=order.note,
            group_id=group_id,
            door=order.door,
        )

    def _replaced(self, device: Adjustable, order: SettingOrder, before: Sequence[Adjustment]) -> list[Adjustment]:
        """Return the orders for the same that have not been sent.

        Raises:
            BeingAdjusted: One has been.
        """
        if any(one.state in IN_FLIGHT or one.state is CommandState.UNKNOWN for one in before):
            what = order.point or order.action.value
            raise BeingAdjusted(
                f"{what} of {device.device_id} is being set; wait for the end of that order",
                message_zh=f"{device.device_id} 的 {what} 正在设置,请等待其结束",
            )
        return [one for one in before if one.state is not CommandState.APPROVAL]

    async def _off_behind(self, conn: WriteConn, device_ids: Sequence[str]) -> dict[str, str]:
        """Return, by device, a load that is off and that a restart of the device would concern."""
        concerned = {device_id: self._neighbours.stopped_with(device_id) for device_id in device_ids}
        off = await store.fetch_off(conn, {one for ids in concerned.values() for one in ids})
        first = ((device_id, next((one for one in ids if one in off), None)) for device_id, ids in concerned.items())
        return {device_id: off[one] for device_id, one in first if one is not None}

    def _check_load(self, device: Adjustable, off: Mapping[str, str]) -> None:
        load_id = off.get(device.device_id)
        if load_id is not None:
            raise LoadOff(
                f"{device.device_id} is not restarted: load {load_id} behind it is off by an order, or being woken,"
                " and a restart could lose its state",
                message_zh=f"不重启 {device.device_id}:其负载 {load_id} 处于命令关断或唤醒过程中,重启可能丢失其状态",
                guard=LOAD_OFF, value=load_id,
            )  # fmt: skip

    async def tick(self) -> bool:
        """Do what is due; return whether there may be more."""
        async with self._db.write() as conn:
            now = self._clock.now()
            due = await store.lock_due(conn, now, AT_ONCE)
            if any(one.action is CommandAction.RESTART for one in due):
                # Either it finds the OFF that somebody is letting pass, or that one finds it.
                await place_store.close_gate(conn)
            busy = await store.fetch_busy(conn, {one.device_id for one in due}, now)
            off = await self._off_at_restart(conn, due)
            steps = []
            for one in due:
                step = adjusting.on_due(one, now, busy=one.device_id in busy, load_off=one.adjustment_id in off)
                if step.send:
                    busy.add(one.device_id)
                steps.append(step)
            await self._apply(conn, steps, now)
            await record_settings(conn, {one.adjustment_id: one.state for one in due}, _after(steps), now)
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
        answers: list[Answer] = []
        for received in batch:
            try:
                answer = adjustbus.read_answer(received)
            except bus.Unreadable as exc:
                raise PoisonMessage(received, str(exc)) from exc
            if answer is not None:
                answers.append(answer)
        if not answers:
            return
        known = await store.lock_many(conn, {answer.wire.command_id for answer in answers})
        before = {one.adjustment_id: one.state for one in known.values()}
        now = self._clock.now()
        steps = []
        for answer in answers:
            one = known.get(answer.wire.command_id)
            step = None if one is None else adjusting.on_answer(one, answer, now)
            if step is not None:
                known[answer.wire.command_id] = step.after
                steps.append(step)
        await self._apply(conn, steps, now)
        await record_settings(conn, before, _after(steps), now)

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

    async def _off_at_restart(self, conn: WriteConn, due: Sequence[Adjustment]) -> set[str]:
        """Return the restarts among orders that a load which is off forbids; asked again right before they are sent."""
        restarts = [one for one in due if one.action is CommandAction.RESTART]
        if not restarts:
            return set()
        off = await self._off_behind(conn, [one.device_id for one in restarts])
        return {one.adjustment_id for one in restarts if one.device_id in off}

    def _check(self, device: Adjustable, order: SettingOrder) -> LineId:
        """Return the line over which a device can be set.

        Raises:
            NotAdjustable: It cannot be set so.
        """
        if order.point is None or order.value is None:
            if order.action not in device.can_be_cared_for:
                what, what_zh = CARE[order.action]
                raise NotAdjustable(
                    f"{device.device_id}: neither the protocol nor profile {device.profile} has a way to {what}",
                    message_zh=f"设备 {device.device_id} 的协议与模板 {device.profile} 均不支持{what_zh}",
                    guard="unsupported", value=order.action.value,
                )  # fmt: skip
        else:
            _check_point(device, order.point, order.value, order.unit)
        if device.line_id is None:
            raise NotAdjustable(
                f"{device.device_id} hangs on no line",
                message_zh=f"设备 {device.device_id} 未接入线路",
                guard="no_line",
            )
        return device.line_id


CARE: Mapping[CommandAction, tuple[str, str]] = {
    CommandAction.SET_CLOCK: ("set its clock", "校时"),
    CommandAction.RESTART: ("restart it", "远程重启"),
}


def _check_point(device: Adjustable, point: str, value: float, unit: str | None) -> None:
    known = device.unit_of(point)
    control = device.control_of(point)
    if device.is_switched_by(point):
        raise NotAdjustable(
            f"{point} of {device.device_id} is moved by switching alone (POST /api/v1/commands), with its guards",
            message_zh=f"{device.device_id} 的 {point} 只能通过开关命令(POST /api/v1/commands)改变",
            guard="switching_point", value=point,
        )  # fmt: skip
    if point == REPORT_PERIOD and control is None:
        raise NotAdjustable(
            f"profile {device.profile} of {device.device_id} has no reporting period to write; where the platform asks"
            " the device, the period is period_s of the device in the registry:"
            f" PUT /api/v1/devices/{device.device_id}",
            message_zh=f"设备 {device.device_id} 的模板 {device.profile} 没有可写的上报周期;由平台轮询的设备,"
            f"周期为档案中设备的 period_s:PUT /api/v1/devices/{device.device_id}",
            guard="polled_by_platform", value=point,
        )  # fmt: skip
    if known is None or control is None:
        raise NotAdjustable(
            f"profile {device.profile} of {device.device_id} has no control that writes {point}",
            message_zh=f"设备 {device.device_id} 的模板 {device.profile} 没有写入 {point} 的控制项",
            guard="no_control", value=point,
        )  # fmt: skip
    if unit is not None and unit != known:
        raise NotAdjustable(
            f"unit: expected {known}, the unit of {point}, found {unit}",
            message_zh=f"unit:{point} 的单位为 {known},实际为 {unit}", guard="unit", value=unit, limit=known,
        )  # fmt: skip
    low = control.min if control.min is not None else float("-inf")
    high = control.max if control.max is not None else float("inf")
    if not low <= value <= high:
        raise NotAdjustable(
            f"value: expected {low:g} to {high:g} {known}, found {value:g}",
            message_zh=f"value:应为 {low:g} 至 {high:g} {known},实际为 {value:g}",
            guard="device_range", value=value, limit={"min": control.min, "max": control.max},
        )  # fmt: skip

    step = device.step_missed(point, value)
    if step is not None:
        raise NotAdjustable(
            f"value: {device.device_id} takes {point} in steps of {step:g} {known}, found {value:g}",
            message_zh=f"value:{device.device_id} 的 {point} 步长为 {step:g} {known},实际为 {value:g}",
            guard="device_step", value=value, limit=step,
        )  # fmt: skip


def _check_rules(
    book: SetpointBook, device: Adjustable, order: SettingOrder, times: Sequence[datetime]
) -> SetpointRule | None:
    """Return the rule for which a value waits for a second person, None when it breaks none at any of these times.

    Raises:
        SetpointRefused: It breaks one that refuses it.
    """
    if order.point is None or order.value is None:
        return None
    place = Place(device.device_id, device.site_id, device.site_kind, device.region_ids)
    broken = book.broken_at(place, order.point, order.value, times)
    if not broken or broken[0].effect is not RuleEffect.REFUSE:
        return broken[0] if broken else None
    rule = broken[0]
    english, chinese = words(rule, order.value)
    raise SetpointRefused(
        f"{device.device_id}: {english}", message_zh=f"{device.device_id}:{chinese}", guard=rule.name,
        value=order.value, limit=rule.limit, source=rule.source, source_zh=rule.source_zh, said_by=rule.said_by,
    )  # fmt: skip


def _after(steps: Sequence[Step]) -> list[Adjustment]:
    return [step.after for step in steps]


def _refusal(device_id: str, exc: PlatformError) -> dict[str, Any]:
    """Return a refusal as it is kept and shown."""
    facts = {name: exc.facts.get(name) for name in ("guard", "value", "limit", "source", "source_zh", "said_by")}
    facts["guard"] = facts["guard"] or exc.code
    return {"device_id": device_id, **facts, "message": exc.both.english, "message_zh": exc.both.chinese}


def _ordered(one: Adjustment, order: SettingOrder, replaced: Sequence[Adjustment], now: datetime) -> Entry:
    after = {
        "adjustment_id": one.adjustment_id, "action": one.action.value, "point": one.point, "value": one.value,
        "group_id": one.group_id,
    }  # fmt: skip
    before = [{"adjustment_id": old.adjustment_id, "value": old.value, "state": old.state.value} for old in replaced]
    return Entry(
        order.actor, order.door, "device.set", f"device:{one.device_id}", now,
        before={"orders": before} if before else None, after=after, reason=order.note,
    )  # fmt: skip


def _not_ordered(device_id: str, exc: PlatformError, order: SettingOrder, now: datetime) -> Entry:
    after = {
        "action": order.action.value, "point": order.point, "value": order.value, "code": exc.code,
        "refusal": exc.message,
    }  # fmt: skip
    return Entry(
        order.actor, order.door, "device.set", f"device:{device_id}", now, after=after, reason=order.note,
        succeeded=False,
    )  # fmt: skip
