"""Commands at the line: who may give them, what must hold, what is on disk before anything is opened.

Order of things for an OFF: signature, times, lease and clock; the command is recorded (once, whoever reads it
again); the way back is on our own disk; then, with the line in hand, lease and time are asked once more, and only
then it is written. An ON needs the signature and nothing else.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import orjson
from pydantic import ValidationError

from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmLevel, ConditionKind
from libs.common.contracts.control import Command, CommandAction, Evidence, Stage
from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput, NotFound, Unavailable
from libs.common.lease import Lease
from libs.common.profiles import RESTART, Control, ProfileCatalogue
from libs.common.signing import signed_bytes
from libs.common.tokens import KeyRing, canonical
from services.ingest.domain.switching import (
    Moment,
    OffConditions,
    OffLease,
    Switch,
    channel_of,
    is_switched_by,
    switch_key,
    switch_of,
    why_not_now,
    why_not_off,
)
from services.ingest.settings import SwitchingSettings
from services.ingest.store.offbook import OffBook, OffBookBroken
from services.ingest.usecases.caring import CLOCK_WITHIN_S, Caretaker
from services.ingest.usecases.findings import Findings
from services.ingest.usecases.reach import Target
from services.ingest.usecases.results import Results
from services.ingest.usecases.switching import Switched, Switcher
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)

SIGNER = "control"
SIGNATURES_ASIDE = 20
"""So many signatures are verified in a thread."""
REMEMBERED_S = 600.0
"""Commands of lines that we do not hold are remembered this long, for the case that we take the line. [s]"""
MAX_REMEMBERED = 50_000


class NotSwitchable(NotFound):
    """There is no such switch, or no way to it is known."""

    code = "not_switchable"
    title_zh = "无法控制该设备"


class CommandStore(Protocol):
    """Where commands are noted."""

    async def record(self, commands: Sequence[tuple[Command, int]], *, instance: str, at: datetime) -> set[str]:
        """Note commands; return the ids that are new. Raises ``DatabaseUnavailable``."""


class LineHolder(Protocol):
    """Which lines are ours."""

    def lease(self, line_id: str) -> Lease | None:
        """Return the lease of a line that we hold; it may have run out."""


@dataclass(frozen=True, slots=True)
class Order:
    """A command that is to be executed here."""

    command: Command
    target: Target
    switch: Switch | None
    channel: int | None
    epoch: int
    recorded: bool
    """Whether the database knows that it was taken up."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A command as it was read, with what control has signed of it, by itself or with others."""

    command: Command
    signed: bytes


class Orders:
    """Takes commands from the topic and does them."""

    def __init__(
        self,
        *,
        lines: LineHolder,
        topology: Topology,
        catalogue: ProfileCatalogue,
        switcher: Switcher,
        caretaker: Caretaker,
        book: OffBook,
        store: CommandStore,
        results: Results,
        findings: Findings,
        keys: KeyRing,
        clock: Clock,
        settings: SwitchingSettings,
        instance: str,
        boot: str,
        clock_synchronised: Callable[[], bool],
    ) -> None:
        self._lines = lines
        self._topology = topology
        self._catalogue = catalogue
        self._switcher = switcher
        self._caretaker = caretaker
        self._book = book
        self._store = store
        self._results = results
        self._findings = findings
        self._keys = keys
        self._clock = clock
        self._settings = settings
        self._instance = instance
        self._boot = boot
        self._clock_synchronised = clock_synchronised
        self._elsewhere: deque[tuple[float, _Parsed]] = deque(maxlen=MAX_REMEMBERED)
        self._taken_up: dict[str, None] = {}
        self._on_waits: dict[str, dict[str, float]] = {}
        """By switch: the ONs that were taken up and have not ended, with when they were, by the monotonic clock. [s]"""

    def moment(self) -> Moment:
        """Return now, by every clock there is."""
        return Moment(self._clock.now(), self._clock.monotonic(), self._boot)

    async def take(self, batch: Sequence[Received]) -> list[Order]:
        """Return what is to be executed of a batch from the topic: the commands of our lines, noted as taken up."""
        parsed = [found for received in batch if (found := _parse(received)) is not None]
        return await self._take(parsed)

    async def take_over(self, line_id: str) -> list[Order]:
        """Return what is to be executed of a line that has become ours: commands that its holder may have missed."""
        now = self._clock.monotonic()
        mine = [found for at, found in self._elsewhere if found.command.line_id == line_id and now - at < REMEMBERED_S]
        return await self._take(mine)

    async def execute(self, order: Order) -> None:
        """Do one order and tell how it ended."""
        try:
            await self._execute(order)
        except Exception:
            # One order's unforeseen trouble must neither vanish nor stop the others.
            logger.exception("command failed unexpectedly", extra={"command_id": order.command.command_id})
            self._tell(order, Stage.UNKNOWN, reason="internal")
        finally:
            self._no_longer_waits(order)

    def give_back(self, order: Order) -> None:
        """Tell of an order that will not be begun here, because this process stops: nothing was done for it.

        An ON is sent again by control at once, to whoever holds the line then; an OFF has ended.
        """
        self._no_longer_waits(order)
        is_on = order.command.action is CommandAction.CLOSE
        self._tell(
            order, Stage.FAILED if is_on else Stage.REFUSED, reason="line_down" if is_on else "lease_lost",
            detail="the process stopped before its turn",
        )  # fmt: skip

    def waits_s(self, device_id: str, channel: int | None) -> float | None:
        """Return for how long an ON that was taken up has been in line or at work for a switch; None for none. [s]"""
        since = self._on_waits.get(switch_key(device_id, channel), {}).values()
        return max((self._clock.monotonic() - at for at in since), default=None)

    async def close_now(
        self, *, device_id: str, channel: int | None, command_id: str, reason: str, released_trip: int | None = None
    ) -> Switched:
        """Close a switch on the word of the watchdog or of control, without bus, database or lease.

        When it does not work it is tried again by ourselves until it does.

        Raises:
            NotSwitchable: There is no such switch, or no way to it is known.
        """
        now = self._clock.now()
        lease = self._book.get(device_id, channel)
        target = self.target_of(device_id, now) or (None if lease is None else self.target_from(lease))
        switch = None if target is None else switch_of(target.profile, channel)
        if target is None or switch is None:
            raise NotSwitchable(
                f"device {device_id} channel {channel} cannot be switched from here",
                message_zh=f"无法控制设备 {device_id} 通道 {channel}",
            )
        logger.info("closing by the direct door", extra={"device_id": device_id, "reason": reason})
        held = self._lines.lease(target.line.id)
        return await self._close(
            target, switch, channel, command_id=command_id, epoch=0 if held is None else held.epoch,
            released_trip=released_trip, load_id=None if lease is None else lease.load_id,
            meter=None if lease is None else lease.meter_device_id,
        )  # fmt: skip

    def target_of(self, device_id: str, when: datetime) -> Target | None:
        """Return a device of the registry as something that can be switched."""
        device = self._topology.device(device_id, when)
        if device is None or device.line is None or device.profile is None:
            return None
        line = self._topology.line(device.line, when)
        profile = self._catalogue.find(device.profile, device.profile_version)
        if line is None or profile is None:
            return None
        return Target(device.id, device.site, line, device.address, profile)

    def target_from(self, lease: OffLease) -> Target | None:
        """Return what the off book knows about a device as something that can be switched."""
        profile = self._catalogue.find(lease.profile, lease.profile_version) or self._catalogue.find(lease.profile)
        if profile is None:
            return None
        return Target(lease.device_id, lease.site_id, Line.model_validate(lease.line), lease.address, profile)

    async def _take(self, parsed: Sequence[_Parsed]) -> list[Order]:
        """Return the orders among commands: those of our lines that nobody has taken up before and that may be done."""
        ours: list[tuple[_Parsed, Lease]] = []
        for found in parsed:
            command = found.command
            lease = self._lines.lease(command.line_id)
            if lease is None:
                self._elsewhere.append((self._clock.monotonic(), found))
            elif command.command_id not in self._taken_up:
                ours.append((found, lease))
        mine: list[tuple[_Parsed, Lease]] = []
        for (found, lease), is_signed in zip(ours, await self._are_signed([found for found, _ in ours]), strict=True):
            if is_signed:
                mine.append((found, lease))
            else:
                self._refuse(found.command, lease.epoch, "bad_signature")
        if not mine:
            return []
        now = self._clock.now()
        noted = [(found.command, lease.epoch) for found, lease in mine]
        try:
            # Everything is noted, also what will be refused: whoever reads it again leaves it alone.
            new = await self._store.record(noted, instance=self._instance, at=now)
            recorded = True
        except (Unavailable, TimeoutError) as exc:
            logger.warning("commands cannot be noted", extra={"reason": str(exc), "commands": len(mine)})
            # What stands in the off book was done by us before we forgot it.
            new = {str(command.command_id) for command, _ in noted} - {held.command_id for held in self._book.all()}
            recorded = False
        orders: list[Order] = []
        for found, lease in mine:
            self._note_taken_up(found.command.command_id)
            if found.command.command_id in new:
                order = self._checked(found.command, lease, now, recorded=recorded)
                orders += [] if order is None else [order]
        for order in orders:
            if order.command.action is CommandAction.CLOSE and order.switch is not None:
                # Nothing refuses it any more; with ten thousand its turn at the line may be seconds away.
                self._tell(order, Stage.ACCEPTED)
                waiting = self._on_waits.setdefault(switch_key(order.target.device_id, order.channel), {})
                waiting[order.command.command_id] = self._clock.monotonic()
        return orders

    async def _are_signed(self, parsed: Sequence[_Parsed]) -> list[bool]:
        """Return of each command whether control has signed it."""

        known: dict[tuple[bytes, str], bool] = {}
        """By signed bytes and signature: one of control's may be of several orders."""

        def is_signed(one: _Parsed) -> bool:
            try:
                signed = signed_bytes(one.signed, one.command.proof)
            except ValueError:
                return False
            shown = signed, one.command.signature
            if shown not in known:
                known[shown] = self._keys.verify_bytes(SIGNER, *shown)
            return known[shown]

        def verify() -> list[bool]:
            return [is_signed(one) for one in parsed]

        # Ten thousand at once take most of a second, in which the interpreter is free for others.
        return await asyncio.to_thread(verify) if len(parsed) >= SIGNATURES_ASIDE else verify()

    def _no_longer_waits(self, order: Order) -> None:
        key = switch_key(order.target.device_id, order.channel)
        waiting = self._on_waits.get(key)
        if waiting is not None:
            waiting.pop(order.command.command_id, None)
            if not waiting:
                del self._on_waits[key]

    def _note_taken_up(self, command_id: str) -> None:
        self._taken_up[command_id] = None
        if len(self._taken_up) > MAX_REMEMBERED:
            del self._taken_up[next(iter(self._taken_up))]

    def _checked(self, command: Command, lease: Lease, now: datetime, *, recorded: bool) -> Order | None:
        """Return the order of a command that may be done, None when it was refused."""
        late = why_not_now(command, now)
        if late is not None:
            self._refuse(command, lease.epoch, late)
            return None
        try:
            channel = channel_of(command.arguments)
        except ValueError as exc:
            self._refuse(command, lease.epoch, "bad_arguments", str(exc))
            return None
        target = self.target_of(command.device_id, now)
        if target is None:
            self._refuse(command, lease.epoch, "unknown_device")
            return None
        if target.line.id != command.line_id and command.action is not CommandAction.CLOSE:
            self._refuse(command, lease.epoch, "wrong_line")
            return None
        return Order(
            command=command,
            target=target,
            switch=switch_of(target.profile, channel),
            channel=channel,
            epoch=lease.epoch,
            recorded=recorded,
        )

    async def _execute(self, order: Order) -> None:
        command = order.command
        if command.not_before is not None:
            await self._clock.sleep(min((command.not_before - self._clock.now()).total_seconds(), REMEMBERED_S))
        match command.action:
            case CommandAction.CLOSE if order.switch is not None:
                await self._close_ordered(order, order.switch)
            case CommandAction.OPEN if order.switch is not None:
                await self._open_ordered(order, order.switch)
            case CommandAction.READ_BACK if command.arguments.get("clock") is True:
                looked = await self._caretaker.read_clock(order.target, within_s=CLOCK_WITHIN_S)
                self._tell_end(order, looked)
            case CommandAction.READ_BACK if isinstance(command.arguments.get("point"), str):
                self._tell_end(order, await self._switcher.read_value(order.target, str(command.arguments["point"])))
            case CommandAction.READ_BACK if order.switch is not None:
                meter = self._meter(command)
                looked = await self._switcher.look(order.target, order.switch, channel=order.channel, meter=meter)
                self._tell_end(order, looked)
            case CommandAction.SET_POINT | CommandAction.SET_THRESHOLD | CommandAction.SET_SAMPLING_PERIOD:
                await self._set_point(order)
            case CommandAction.SET_CLOCK | CommandAction.RESTART:
                await self._care(order)
            case CommandAction.OPEN | CommandAction.CLOSE | CommandAction.READ_BACK:
                self._tell(order, Stage.REFUSED, reason="no_control", detail="the device's profile has no such switch")

    async def _close_ordered(self, order: Order, switch: Switch) -> None:
        command = order.command
        released = command.arguments.get("released_trip")
        closed = await self._close(
            order.target, switch, order.channel, command_id=command.command_id, epoch=order.epoch,
            load_id=command.load_id, meter=self._meter(command), settle_s=command.settle_s,
            released_trip=int(released) if isinstance(released, int | float) else None,
            progress=lambda stage, evidence: self._tell(order, stage, evidence=evidence),
        )  # fmt: skip
        self._tell_end(order, closed)

    async def _close(
        self,
        target: Target,
        switch: Switch,
        channel: int | None,
        *,
        command_id: str,
        epoch: int,
        load_id: str | None,
        meter: str | None,
        released_trip: int | None,
        settle_s: float | None = None,
        progress: Callable[[Stage, Evidence], None] = lambda stage, evidence: None,
    ) -> Switched:
        """Close, and see to it that somebody goes on trying when it did not work."""
        key = switch_key(target.device_id, channel)
        closed = await self._switcher.close(
            target, switch, channel=channel, meter=meter, settle_s=settle_s,
            released_trip=released_trip, progress=progress,
        )  # fmt: skip
        lease = self._book.get(target.device_id, channel)
        subject = load_id or (lease.load_id if lease is not None else None) or key
        if closed.verified:
            self._call_off(subject, target, load_id)
            if lease is not None:
                self._book.remove(lease)
        elif closed.stage is Stage.REFUSED:
            self.call_person(subject, target, load_id, closed)
        else:
            wake = replace(lease, wake=True) if lease is not None else None
            await self._keep_trying(wake or self._wake_lease(target, channel, command_id, epoch, load_id, meter))
        return closed

    async def _open_ordered(self, order: Order, switch: Switch) -> None:
        command, target = order.command, order.target
        forbidden = self._why_not_off(order)
        if forbidden is not None:
            self._tell(order, Stage.REFUSED, reason=forbidden)
            return
        before = self._book.get(target.device_id, order.channel)
        lease = self._off_lease(order)
        try:
            await self._book.put(lease)
        except OffBookBroken as exc:
            self._tell(order, Stage.REFUSED, reason="off_book_broken", detail=exc.message)
            return
        self._tell(order, Stage.ACCEPTED)
        opened = await self._switcher.open(
            target, switch, channel=order.channel, meter=self._meter(command), settle_s=command.settle_s,
            may_write=lambda: (
                self._why_not_off(order) or why_not_now(command, self._clock.now()) or self._why_no_way_back(lease)
            ),
            close_after_s=self._close_after_s(command),
            progress=lambda stage, evidence: self._tell(order, stage, evidence=evidence),
        )  # fmt: skip
        if not opened.sent and self._why_no_way_back(lease) is None:
            # Nothing was opened by this order; what stood in the book before it stands again.
            if before is not None:
                await self._book.put(before)
            else:
                self._book.remove(lease)
        self._tell_end(order, opened)

    def _why_no_way_back(self, lease: OffLease) -> str | None:
        """Return why the way back of an OFF is not what was put on disk for it; None while it stands.

        While the OFF waited for its switch an ON was proven there, which ends every lease of the switch, or one that
        has failed goes on being tried.
        """
        return None if self._book.get(lease.device_id, lease.channel) == lease else "superseded"

    def _close_after_s(self, command: Command) -> float | None:
        """Return when a device that can closes by itself, behind everybody else; None (never) under a permit. [s]"""
        if command.restore_at is None:
            return None
        left_s = (command.restore_at - self._clock.now()).total_seconds()
        at_most_s = left_s if command.off_at_most_s is None else min(left_s, command.off_at_most_s)
        return at_most_s + self._settings.timer_margin_s

    async def _set_point(self, order: Order) -> None:
        command = order.command
        control = _control_for_value(order)
        value = command.arguments.get("value")
        if is_switched_by(order.target.profile, command.arguments.get("point")):
            self._tell(order, Stage.REFUSED, reason="switching_point", detail="only OPEN and CLOSE move a switch")
            return
        if control is None or isinstance(value, bool) or not isinstance(value, int | float):
            self._tell(order, Stage.REFUSED, reason="bad_arguments", detail="expected point and value of a control")
            return
        late = why_not_now(command, self._clock.now())
        if late is not None or not order.recorded:
            self._tell(order, Stage.REFUSED, reason=late or "database_unavailable")
            return
        self._tell(order, Stage.ACCEPTED)
        try:
            done = await self._switcher.set_value(order.target, control, float(value), settle_s=command.settle_s)
        except InvalidInput as exc:
            self._tell(order, Stage.REFUSED, reason="bad_arguments", detail=exc.message)
            return
        self._tell_end(order, done)

    async def _care(self, order: Order) -> None:
        """Set a clock or restart a device: not late, not unrecorded, and no clock by one that may be wrong."""
        command = order.command
        forbidden = why_not_now(command, self._clock.now()) or (None if order.recorded else "database_unavailable")
        if command.action is CommandAction.SET_CLOCK and not self._clock_synchronised():
            forbidden = forbidden or "clock_not_synchronised"
        if command.action is CommandAction.RESTART:
            forbidden = forbidden or self._why_no_restart(order.target)
        if forbidden is not None:
            self._tell(order, Stage.REFUSED, reason=forbidden)
            return
        self._tell(order, Stage.ACCEPTED)
        if command.action is CommandAction.SET_CLOCK:
            within_s = command.arguments.get("within_s")
            done = await self._caretaker.set_clock(
                order.target, within_s=float(within_s) if isinstance(within_s, int | float) else CLOCK_WITHIN_S
            )
        else:
            done = await self._caretaker.restart(
                order.target,
                may_send=lambda: self._why_no_restart(order.target) or why_not_now(command, self._clock.now()),
                progress=lambda stage, evidence: self._tell(order, stage, evidence=evidence),
            )
        self._tell_end(order, done)

    def _why_no_restart(self, target: Target) -> str | None:
        """Return what forbids a restart: a load that is off behind the device, or behind the station it belongs to."""
        by_itself = RESTART in target.profile.controls
        concerned = (
            lease
            for lease in self._book.all()
            if lease.device_id == target.device_id or (not by_itself and lease.line_id == target.line.id)
        )
        return "load_off" if next(concerned, None) is not None else None

    def _why_not_off(self, order: Order) -> str | None:
        lease = self._lines.lease(order.command.line_id)
        synchronised = self._clock_synchronised()
        if synchronised:
            self._findings.end(
                ConditionKind.CLOCK_NOT_SYNCHRONISED, f"ingest/{self._instance}", "the clock is synchronised"
            )
        else:
            self._findings.begin(
                ConditionKind.CLOCK_NOT_SYNCHRONISED,
                f"ingest/{self._instance}",
                "the machine's clock is not synchronised: loads are not switched off",
                detail_zh="本机时钟未同步,不执行关断",
                level=AlarmLevel.MAJOR,
            )
        current = lease is not None and lease.epoch == order.epoch
        return why_not_off(
            OffConditions(
                lease_valid_for_s=lease.valid_for_s() if lease is not None and current else 0.0,
                lease_margin_s=self._settings.off_lease_margin_s,
                clock_synchronised=synchronised,
                database=order.recorded,
            )
        )

    def _off_lease(self, order: Order) -> OffLease:
        command, target, now = order.command, order.target, self.moment()
        return OffLease(
            device_id=target.device_id,
            channel=order.channel,
            site_id=target.site_id,
            line_id=target.line.id,
            line=target.line.model_dump(mode="json", exclude_none=True),
            address=target.address,
            profile=target.profile.name,
            profile_version=target.profile.version,
            command_id=command.command_id,
            epoch=order.epoch,
            boot=now.boot,
            deadline=None if command.off_at_most_s is None else now.monotonic + command.off_at_most_s,
            stored_at=now.wall,
            restore_at=command.restore_at,
            off_at_most_s=command.off_at_most_s,
            isolation_id=command.isolation_id,
            load_id=command.load_id,
            meter_device_id=self._meter(command),
        )

    def _wake_lease(
        self, target: Target, channel: int | None, command_id: str, epoch: int, load_id: str | None, meter: str | None
    ) -> OffLease:
        now = self.moment()
        return OffLease(
            device_id=target.device_id,
            channel=channel,
            site_id=target.site_id,
            line_id=target.line.id,
            line=target.line.model_dump(mode="json", exclude_none=True),
            address=target.address,
            profile=target.profile.name,
            profile_version=target.profile.version,
            command_id=command_id,
            epoch=epoch,
            boot=now.boot,
            deadline=None,
            stored_at=now.wall,
            load_id=load_id,
            meter_device_id=meter,
            wake=True,
        )

    async def _keep_trying(self, lease: OffLease) -> None:
        try:
            await self._book.put(lease)
        except OffBookBroken as exc:
            logger.error("a wake-up is not on disk; control and the watchdog go on", extra={"reason": exc.message})

    def call_person(self, subject: str, target: Target, load_id: str | None, closed: Switched) -> None:
        """Call a person: the load cannot be woken from here."""
        reason = closed.reason or "refused"
        trip = closed.evidence.trip_reason
        texts = {
            "local_lock": ("the breaker is locked at the device", "断路器已就地锁定"),
            "protection_trip": (f"protection trip {trip} has not been released", f"保护跳闸({trip})尚未解除"),
        }
        detail, detail_zh = texts.get(reason, (reason, reason))
        self._findings.begin(
            ConditionKind.WAKE_UP_STOPPED,
            subject,
            f"cannot be woken: {detail}",
            detail_zh=f"无法唤醒:{detail_zh}",
            site_id=target.site_id,
            level=AlarmLevel.CRITICAL,
            device_id=target.device_id,
            load_id=load_id,
            values={"reason": reason},
        )

    def _call_off(self, subject: str, target: Target, load_id: str | None) -> None:
        for kind in (ConditionKind.WAKE_UP_STOPPED, ConditionKind.WAKE_UP_OVERDUE):
            self._findings.end(
                kind, subject, "the load is on again", detail_zh="负载已恢复供电", site_id=target.site_id,
                device_id=target.device_id, load_id=load_id,
            )  # fmt: skip

    def _meter(self, command: Command) -> str | None:
        if command.meter_device_id is not None or command.load_id is None:
            return command.meter_device_id
        now = self._clock.now()
        load = self._topology.load(command.load_id, now)
        return None if load is None else self._topology.meter_of(load, now)

    def _refuse(self, command: Command, epoch: int, reason: str, detail: str | None = None) -> None:
        logger.warning("command refused", extra={"command_id": command.command_id, "reason": reason})
        self._results.emit(
            command.command_id, Stage.REFUSED, site_id=command.site_id, device_id=command.device_id,
            line_id=command.line_id, epoch=epoch, action=command.action, reason=reason, detail=detail,
        )  # fmt: skip

    def _tell_end(self, order: Order, switched: Switched) -> None:
        self._tell(order, switched.stage, evidence=switched.evidence, reason=switched.reason, detail=switched.detail)

    def _tell(
        self,
        order: Order,
        stage: Stage,
        *,
        evidence: Evidence | None = None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        command = order.command
        self._results.emit(
            command.command_id, stage, site_id=command.site_id, device_id=command.device_id, line_id=command.line_id,
            epoch=order.epoch, action=command.action, evidence=evidence, reason=reason, detail=detail,
        )  # fmt: skip


def _parse(received: Received) -> _Parsed | None:
    """Return a command and the bytes that were signed; None for what is no command."""
    try:
        raw = orjson.loads(received.value or b"")
        command = Command.model_validate(raw)
        return _Parsed(command, canonical(Command.signed_part(raw)))
    except (orjson.JSONDecodeError, ValidationError, TypeError, AttributeError) as exc:
        logger.error(
            "what is no command stands on the command topic",
            extra={"partition": received.partition, "offset": received.offset, "reason": str(exc)[:500]},
        )
        return None


def _control_for_value(order: Order) -> Control | None:
    point = order.command.arguments.get("point")
    return next(
        (
            control
            for control in order.target.profile.controls.values()
            if control.read_back.value is None and control.read_back.points[0] == point
        ),
        None,
    )
