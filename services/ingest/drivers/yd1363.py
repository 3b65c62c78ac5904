"""YD/T 1363.3 power-room equipment on a stream of bytes: rectifiers, panels, batteries, air conditioners, environment.

A device is asked for whole tables; the profile says how their answers are laid out. Alarm bytes become events of the
device: one begins when its byte leaves normal and ends when it is back.
"""

import logging
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.base import Phase
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, Yd1363Alarm, Yd1363Control, Yd1363Point, Yd1363Table
from libs.common.profiles.layout import FieldType, Value, numbers_of, read, without_numbers
from services.ingest.domain.codecs import yd1363
from services.ingest.domain.codecs.yd1363 import Frame
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    Care,
    Cared,
    DeviceEvent,
    DeviceRefused,
    DeviceSilent,
    LineDown,
    NotOffered,
    RawReport,
)
from services.ingest.drivers.stream import StreamLine

logger = logging.getLogger(__name__)

SLOW_EVERY_S = 86400.0
"""Slow tables are read at first and then this often. [s]"""
SLOW_AGAIN_S = 60.0
"""The same after a round in which some of them could not be read. [s]"""
INVALID_CID2 = 0x04
NORMAL = 0x00
MISSING = 0x20
"""In place of a state that the device does not have."""


@dataclass(slots=True)
class _Round:
    """What a round of questions brought."""

    raw: dict[str, float | int | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    events: list[DeviceEvent] = field(default_factory=list)
    answered: int = 0
    complete: bool = True
    cut: bool = False
    """The device fell silent on the way."""


class Yd1363Device:
    """One device: its tables, which of them it refused, and which of its alarms are on."""

    def __init__(self, line: StreamLine, address: Address) -> None:
        """Prepare a session.

        Raises:
            InvalidInput: The address is none, or the profile is of another protocol.
        """
        equipment = address.profile.yd1363
        if equipment is None:
            raise InvalidInput(f"profile {address.profile.name} is none of YD/T 1363.3 equipment")
        self._line = line
        self._clock: Clock = line.clock
        self._device_id = address.device_id
        self._address = _address(address)
        self._equipment = equipment
        self._points: dict[str, list[Yd1363Point]] = {name: [] for name in equipment.tables}
        for point in address.profile.yd1363_points():
            if point.copy_of is None:
                self._points[point.table].append(point)
        self._alarms: dict[str, list[Yd1363Alarm]] = {name: [] for name in equipment.tables}
        for alarm in equipment.alarms:
            self._alarms[alarm.table].append(alarm)
        self._absent: set[str] = set()
        self._on: dict[str, bool] = {}
        """Whether an alarm is on, by its code; a code that was never looked at is absent."""
        self._slow_due_at = float("-inf")

    async def read(self) -> RawReport:
        """Read what is due."""
        found = _Round()
        tables = self._equipment.tables.values()
        if self._clock.monotonic() >= self._slow_due_at:
            # Once a day everything is tried again: what was refused may exist after a change of firmware.
            self._absent.clear()
            await self._read_tables(found, [table for table in tables if table.slow])
            self._slow_due_at = self._clock.monotonic() + (SLOW_EVERY_S if found.complete else SLOW_AGAIN_S)
        if not found.cut:
            await self._read_tables(found, [table for table in tables if not table.slow])
        return self._report(found)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now; a table is read once however many of its points are wanted."""
        found = _Round()
        wanted = {name for name, points in self._points.items() if any(point.name in names for point in points)}
        await self._read_tables(found, [self._equipment.tables[name] for name in wanted])
        found.raw = {name: value for name, value in found.raw.items() if name in names}
        return self._report(found)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, Yd1363Control):
            raise InvalidInput(f"{control.name} is no YD/T 1363.3 control")
        info = control.info
        if control.value_type is not None:
            info += _encoded(control, control.value_type, value)
        await self._ask(control.cid2, info, f"{self._device_id} {control.name}")
        return f"{control.cid2:02X} {info.hex().upper()} accepted"

    async def care(self, task: Care) -> Cared:
        """Read or set the clock of the device (CID2 4D and 4E)."""
        match task:
            case Care.READ_CLOCK:
                return Cared("4D read", await self._clock_skew())
            case Care.SET_CLOCK:
                now = self._clock.now().astimezone(CIVIL_ZONE)
                await self._ask(yd1363.SET_TIME, yd1363.time_info(now), f"{self._device_id} set time")
                try:
                    return Cared("4E accepted", await self._clock_skew())
                except DeviceRefused:
                    return Cared("4E accepted; 4D is not known to the device")
            case Care.RESTART:
                raise NotOffered(
                    f"{self._device_id}: YD/T 1363.3 knows no restart",
                    message_zh=f"{self._device_id}:YD/T 1363.3 没有重启命令",
                )

    async def _clock_skew(self) -> timedelta:
        what = f"{self._device_id} time"
        info = await self._ask(yd1363.GET_TIME, b"", what)
        now = self._clock.now()
        try:
            local = yd1363.time_of(info)
        except ValueError as exc:
            raise BadAnswer(f"{what}: {exc}", raw=self._line.distrust()) from None
        return local.replace(tzinfo=CIVIL_ZONE) - now

    # Reading.

    async def _read_tables(self, found: _Round, tables: Iterable[Yd1363Table]) -> None:
        """Read tables into ``found``.

        Raises:
            LineDown, DeviceSilent: And nothing has been read so far.
        """
        todo = [table for table in tables if table.name not in self._absent]
        while todo:
            table = todo.pop(0)
            what = f"{self._device_id} table {table.name}"
            try:
                info = await self._ask(table.cid2, table.info, what)
                values = self._values(table, info, what)
            except DeviceRefused as exc:
                self._note_refusal(found, table, exc)
            except BadAnswer as exc:
                found.complete = False
                found.failed.update({point.name: exc.message for point in self._points[table.name]})
            except (LineDown, DeviceSilent) as exc:
                if not found.answered:
                    raise
                found.complete, found.cut = False, True
                found.failed.update({p.name: exc.message for rest in (table, *todo) for p in self._points[rest.name]})
                return
            else:
                found.answered += 1
                self._take(found, table, values, what)

    async def _ask(self, cid2: int, info: bytes, what: str) -> bytes:
        """Return the information of this device's answer.

        Raises:
            LineDown, DeviceSilent: As the line says.
            DeviceRefused: The device says no.
        """
        request = Frame(self._equipment.version, self._address, self._equipment.cid1, cid2, info)

        def wanted(frame: Frame) -> bool:
            # A frame that says what we said is our own, given back by a half-duplex converter.
            return (frame.address, frame.cid1) == (request.address, request.cid1) and frame != request

        def scan(data: bytes) -> tuple[int, Frame | None]:
            done = 0
            while True:
                consumed, frame = yd1363.scan(data[done:])
                done += consumed
                if frame is None or wanted(frame):
                    return done, frame

        wire = yd1363.encode(request)
        answer = await self._line.exchange(wire, scan, device=self._device_id, what=what)
        if answer.code != yd1363.OK:
            raise DeviceRefused(f"{what}: refused with {yd1363.refusal(answer.code)}", returned=answer.code)
        return answer.info

    def _values(self, table: Yd1363Table, info: bytes, what: str) -> list[Value]:
        try:
            return read(table.layout, info)
        except ValueError as exc:
            raise BadAnswer(f"{what}: {exc}", raw=self._line.distrust()) from None

    def _take(self, found: _Round, table: Yd1363Table, values: list[Value], what: str) -> None:
        by_path = {value.path: value for value in values}
        for point in self._points[table.name]:
            value = by_path.get(point.field)
            if value is not None:
                found.raw[point.name] = _number(value)
            elif not point.optional:
                found.failed[point.name] = f"{what}: the device has no {point.field}"
        for alarm in self._alarms[table.name]:
            field_ = without_numbers(alarm.field)
            for value in values:
                if value.type is FieldType.BYTE and without_numbers(value.path) == field_:
                    found.events += self._changes(alarm, value)

    def _note_refusal(self, found: _Round, table: Yd1363Table, exc: DeviceRefused) -> None:
        if exc.facts.get("returned") != INVALID_CID2 and not table.optional:
            found.complete = False
        else:
            self._absent.add(table.name)
        missing = [point.name for point in self._points[table.name] if not point.optional]
        if table.optional:
            missing = []
        found.failed.update(dict.fromkeys(missing, exc.message))
        if missing:
            logger.warning(
                "device does not have a table of its profile",
                extra={"device_id": self._device_id, "table": table.name, "reason": exc.message},
            )

    def _report(self, found: _Round) -> RawReport:
        if not found.raw and found.failed:
            raise DeviceRefused(f"{self._device_id}: nothing could be read; {next(iter(found.failed.values()))}")
        return RawReport(raw=found.raw, received_at=self._clock.now(), failed=found.failed, events=tuple(found.events))

    # Alarms.

    def _changes(self, alarm: Yd1363Alarm, value: Value) -> list[DeviceEvent]:
        """Return what began and ended of an alarm since it was last looked at.

        What is found normal at the first look is told as ended: it may have begun before this process held the line.
        """
        byte = value.content[0]
        if byte == MISSING:
            return []
        numbers = numbers_of(value.path)
        base, text = alarm.code.format_map(numbers), alarm.text.format_map(numbers)
        now_on = None if byte == NORMAL else f"{base}_{alarm.values.get(byte, f'x{byte:02x}')}"
        known = {f"{base}_{name}" for name in alarm.values.values()}
        known |= {code for code, on in self._on.items() if on and code.startswith(f"{base}_x")}
        if now_on is not None:
            known.add(now_on)
        events = []
        for code in sorted(known):
            on = code == now_on
            if self._on.get(code) is not on:
                self._on[code] = on
                words = code.removeprefix(f"{base}_").replace("_", " ")
                events.append(self._event(code, f"{text}: {words}", alarm.severity, on=on, byte=byte))
        return events

    def _event(self, code: str, text: str, severity: int | None, *, on: bool, byte: int) -> DeviceEvent:
        return DeviceEvent(
            code=code,
            phase=Phase.BEGIN if on else Phase.END,
            text=text,
            source_time=self._clock.now(),
            severity=severity,
            value=float(byte),
        )


def _address(address: Address) -> int:
    text = address.text or ""
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 1 <= number <= 254:
        raise InvalidInput(
            f"device {address.device_id}: address {address.text!r} is no YD/T 1363.3 address (1 to 254)",
            message_zh=f"设备 {address.device_id}:地址 {address.text!r} 不是 YD/T 1363.3 地址(1–254)",
        )
    return number


def _number(value: Value) -> float | int | None:
    match value.type:
        case FieldType.FLOAT:
            return yd1363.float32(value.content)
        case FieldType.INT16:
            return yd1363.int16(value.content)
        case FieldType.UINT16:
            return None if value.content == yd1363.MISSING[:2] else int.from_bytes(value.content, "big")
        case FieldType.BYTE:
            return None if value.content[0] == MISSING else value.content[0]


def _encoded(control: Yd1363Control, type_: FieldType, value: float | None) -> bytes:
    """Return the command's value as the device wants it.

    Raises:
        InvalidInput: There is none, or it is outside the device's limits.
    """
    low = control.min if control.min is not None else float("-inf")
    high = control.max if control.max is not None else float("inf")
    if value is None or not low <= value <= high:
        raise InvalidInput(
            f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
            message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
        )
    if type_ is FieldType.FLOAT:
        return struct.pack("<f", value)
    try:
        return round(value).to_bytes(type_.size, "big", signed=type_ is FieldType.INT16)
    except OverflowError as exc:
        raise InvalidInput(f"{control.name}: {value:g} does not fit into {type_}") from exc
