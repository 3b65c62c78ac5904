"""DL/T 645-2007 meters and breakers on a stream of bytes.

Points are read by their data identifiers, several at once where the standard has a block of them and the meter knows
it. A real meter is silent to frames that are not for it, so frames of foreign addresses on the pair are passed over.

A control carries a password, an operator and a time limit that the meter judges by its own clock. Password and
operator come from the line's stored secret at the moment of use; the limit is counted from the meter's clock, which is
asked right before, so that a clock that drifts does not make every command an expired one.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, Dlt645Control, Dlt645Point
from libs.common.secretstore import Secret
from services.ingest.domain.codecs import bcd, dlt645
from services.ingest.domain.codecs.dlt645 import Frame, Function
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    Care,
    Cared,
    DeviceRefused,
    DeviceSilent,
    LineDown,
    NotOffered,
    RawReport,
)
from services.ingest.drivers.stream import StreamLine

logger = logging.getLogger(__name__)

SLOW_EVERY_S = 86400.0
"""Slow points are read at first and then this often. [s]"""
SLOW_AGAIN_S = 60.0
"""The same after a round in which some of them could not be read. [s]"""
MAX_FOLLOWING = 64
"""Frames that may continue an answer; a meter that never ends is not answering."""
COMMAND_HOLDS = timedelta(minutes=5)
"""How long a control may be under way, by the meter's clock: it is not to be done from some buffer an hour later."""
DATE, TIME = 0x04000101, 0x04000102
NEAR_MIDNIGHT_S = 60
"""Date and time are two answers; within this of midnight they may be of two days. [s]"""
LEAST_SKEW = timedelta(seconds=5)
"""A clock that is off by less is not worth a broadcast."""
RIGHT = timedelta(seconds=2)
"""A clock that is off by less is not worth a write: it is told in whole seconds, and the answer takes its time."""
WRITE_LEVEL = 0x02
"""Of the password with which date and time are written: as for controls."""
BROADCAST_EVERY_S = 86400.0
"""Meters take a broadcast time once a day. [s]"""

Credentials = Callable[[], Secret]
"""Reads the secret of a line; raises ``InvalidInput`` when there is none."""


@dataclass(slots=True)
class ClockSetting:
    """Whether the clocks on a line are set by broadcast, and when they last were."""

    enabled: bool = False
    """Meters of the supplier are not ours to set: off unless the line's settings say ``set_clock``."""
    last_at: float = field(default=float("-inf"))
    """By the monotonic clock. [s]"""


@dataclass(frozen=True, slots=True)
class _Query:
    """One request and what it answers."""

    di: int
    points: Mapping[int, Sequence[Dlt645Point]]
    """By the identifier of the item; several points may be bits of one status word."""

    @property
    def is_block(self) -> bool:
        return tuple(self.points) != (self.di,)

    @property
    def all_points(self) -> list[Dlt645Point]:
        return [point for points in self.points.values() for point in points]


@dataclass(slots=True)
class _Round:
    """What a round of requests brought."""

    raw: dict[str, float | int | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    date: bytes | None = None
    skew: timedelta | None = None
    """The meter's clock minus ours."""
    complete: bool = True
    cut: bool = False
    """The device fell silent on the way."""

    @property
    def is_empty(self) -> bool:
        return not self.raw and not self.texts


class Dlt645Device:
    """One meter: its plan of requests, and which of them it refused."""

    def __init__(
        self,
        line: StreamLine,
        address: Address,
        *,
        credentials: Credentials | None = None,
        clock_setting: ClockSetting | None = None,
    ) -> None:
        """Prepare a session.

        Args:
            line: To the meter.
            address: Of the device.
            credentials: Password and operator for controls; None where the line has none.
            clock_setting: Shared by all meters of the line.

        Raises:
            InvalidInput: The address is no DL/T 645 address.
        """
        self._line = line
        self._clock: Clock = line.clock
        self._device_id = address.device_id
        self._address = _address(address)
        self._credentials = credentials
        self._clock_setting = clock_setting or ClockSetting()
        points = [point for point in address.profile.dlt645_points() if point.copy_of is None]
        self._points: Mapping[str, Dlt645Point] = {point.name: point for point in points}
        self._absent: set[int] = set()
        self._no_block: set[int] = set()
        self._slow_due_at = float("-inf")

    async def read(self) -> RawReport:
        """Read what is due."""
        found = _Round()
        if self._clock.monotonic() >= self._slow_due_at:
            # Once a day everything is tried again: what was refused may exist after a change of settings.
            self._absent.clear()
            self._no_block.clear()
            await self._read_points(found, [point for point in self._points.values() if point.slow])
            self._slow_due_at = self._clock.monotonic() + (SLOW_EVERY_S if found.complete else SLOW_AGAIN_S)
        if not found.cut:
            await self._read_points(found, [point for point in self._points.values() if not point.slow])
        await self._set_clocks(found.skew)
        return self._report(found)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        found = _Round()
        await self._read_points(found, [self._points[name] for name in names if name in self._points])
        return self._report(found)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, Dlt645Control):
            raise InvalidInput(f"{control.name} is no DL/T 645 control")
        if control.control_code != Function.CONTROL or "A" in self._address:
            raise InvalidInput(
                f"{self._device_id} {control.name}: only a control (1C) to one full address can be sent",
                message_zh=f"{self._device_id} {control.name}:只能向完整地址发送 1C 控制命令",
            )
        request = self._control(control, await self._meter_time() + COMMAND_HOLDS)
        what = f"{self._device_id} {control.name}"
        try:
            frame = await self._ask(request, what, lambda frame: True, secret=True)
        except DeviceSilent as exc:
            # Without the bytes that came: an echo of the request among them would hold the password.
            raise DeviceSilent(exc.message) from None
        if frame.is_error:
            raise self._refused(what, frame)
        return f"control {control.n1:02X} accepted"

    async def read_address(self) -> str:
        """Return the meter's own address, asked for by the address that it is known by (wildcards included)."""
        what = f"{self._device_id} address"
        request = Frame(self._address, Function.READ_ADDRESS)
        frame = await self._ask(request, what, lambda frame: frame.is_error or len(frame.data) == 6)
        if frame.is_error:
            raise self._refused(what, frame)
        return bcd.digits(frame.data) or frame.address

    async def care(self, task: Care) -> Cared:
        """Read or set the clock: by a write with password, else by the line's broadcast where that is allowed."""
        match task:
            case Care.READ_CLOCK:
                return Cared("read", await self._clock_skew())
            case Care.SET_CLOCK:
                return await self._set_own_clock()
            case Care.RESTART:
                raise NotOffered(
                    f"{self._device_id}: DL/T 645 knows no restart",
                    message_zh=f"{self._device_id}:DL/T 645 没有重启命令",
                )

    async def read_archive(self, points: Collection[str], since: datetime, until: datetime) -> AsyncIterator[RawReport]:
        """Yield the load records of ``[since, until)``, one record an exchange."""
        wanted = [self._points[name] for name in points if name in self._points and not self._points[name].is_text]
        at = since.astimezone(CIVIL_ZONE)
        first = True
        while at < until:
            try:
                data = await self._read_item(dlt645.LOAD_RECORDS_SINCE, blocks=1, since=at)
            except DeviceRefused:
                if first:
                    raise
                return  # nothing younger
            first = False
            records = [(record.local.replace(tzinfo=CIVIL_ZONE), record) for record in dlt645.load_records(data)]
            fresh = [(local, record) for local, record in records if at <= local < until]
            for local, record in fresh:
                yield self._archived(local, record, wanted)
            if not fresh:
                yield RawReport(raw={}, received_at=self._clock.now(), archive=True)
                return
            at = fresh[-1][0] + timedelta(minutes=1)

    # Reading.

    async def _read_points(self, found: _Round, points: Iterable[Dlt645Point]) -> None:
        """Read points into ``found``.

        Silence ends the round at once: whatever is wrong, the next request would only cost another time limit.

        Raises:
            LineDown, DeviceSilent: And nothing has been read so far.
        """
        todo = self._plan(points)
        while todo:
            query = todo.pop(0)
            try:
                await self._read_query(found, query, todo)
            except DeviceRefused as exc:
                self._note_refusal(found, query, exc, todo)
            except BadAnswer as exc:
                found.complete = False
                found.failed.update({point.name: exc.message for point in query.all_points})
            except (LineDown, DeviceSilent) as exc:
                if found.is_empty:
                    raise
                found.complete, found.cut = False, True
                found.failed.update({p.name: exc.message for rest in (query, *todo) for p in rest.all_points})
                return

    def _plan(self, points: Iterable[Dlt645Point]) -> list[_Query]:
        """Return the requests for points: a block where two of its items are wanted, the others one by one."""
        items: dict[int, list[Dlt645Point]] = {}
        for point in points:
            if point.di not in self._absent:
                items.setdefault(point.di, []).append(point)
        blocks: dict[int, list[int]] = {}
        for di in items:
            block = dlt645.block_of(di)
            if block is not None and block not in self._no_block:
                blocks.setdefault(block, []).append(di)
        plan: list[_Query] = []
        for di in items:
            block = dlt645.block_of(di)
            together = blocks.get(block, ()) if block is not None else ()
            if len(together) < 2 or block is None:
                plan.append(_Query(di, {di: items[di]}))
            elif di == together[0]:
                plan.append(_Query(block, {member: items[member] for member in together}))
        return plan

    async def _read_query(self, found: _Round, query: _Query, todo: list[_Query]) -> None:
        data = await self._read_item(query.di)
        if not query.is_block:
            self._take(found, query.di, data, query.points[query.di])
            return
        at = 0
        for item in dlt645.block_items(query.di):
            content = data[at : at + item.byte_count]
            at += item.byte_count
            if item.di not in query.points:
                continue
            if len(content) == item.byte_count:
                self._take(found, item.di, content, query.points[item.di])
            else:
                # The block broke off: a meter with fewer phases or tariffs, or one that has the item by itself only.
                todo.insert(0, _Query(item.di, {item.di: query.points[item.di]}))

    async def _read_item(self, di: int, *, blocks: int | None = None, since: datetime | None = None) -> bytes:
        """Return the content of an item, with all frames that continue it.

        Raises:
            LineDown, DeviceSilent, DeviceRefused, BadAnswer: As the port says.
        """
        what = f"{self._device_id} {di:08X}"
        request = dlt645.read(self._address, di, blocks=blocks, since=since)
        frame = await self._ask(request, what, lambda frame: _repeats(frame, di))
        content = frame.data[4:]
        following = 0
        while True:
            if frame.is_error:
                raise self._refused(what, frame)
            if not frame.has_more:
                return content
            following += 1
            if following > MAX_FOLLOWING:
                raise BadAnswer(f"{what}: more than {MAX_FOLLOWING} frames follow", raw=self._line.distrust())
            number = following
            request = dlt645.read_next(self._address, di, number)
            frame = await self._ask(request, what, lambda frame: _repeats(frame, di, number))  # noqa: B023 - used at once
            content += frame.data[4:-1]

    async def _ask(
        self, request: Frame, what: str, is_answer: Callable[[Frame], bool], *, secret: bool = False
    ) -> Frame:
        """Send a request and return the frame of this meter that answers it.

        Raises:
            LineDown, DeviceSilent: As the line says.
        """

        def wanted(frame: Frame) -> bool:
            mine = frame.is_answer and frame.function == request.function
            return mine and dlt645.matches(self._address, frame.address) and is_answer(frame)

        def scan(data: bytes) -> tuple[int, Frame | None]:
            done = 0
            while True:
                consumed, frame = dlt645.scan(data[done:])
                done += consumed
                if frame is None or wanted(frame):
                    return done, frame

        wire = dlt645.WAKE_UP + dlt645.encode(request)
        return await self._line.exchange(wire, scan, device=self._device_id, what=what, secret=secret)

    def _take(self, found: _Round, di: int, content: bytes, points: Sequence[Dlt645Point]) -> None:
        """Put what an item holds into ``found``.

        Raises:
            BadAnswer: It is not as long as the profile says.
        """
        for point in points:
            if len(content) != point.byte_count:
                raw = self._line.distrust()
                raise BadAnswer(
                    f"{self._device_id} {di:08X}: expected {point.byte_count} bytes, got {len(content)}", raw=raw
                )
            if point.is_text:
                text = _text(point.format, content)
                if text is not None:
                    found.texts[point.name] = text
            else:
                found.raw[point.name] = _number(point, content)
        if di == DATE:
            found.date = content
        elif di == TIME and found.date is not None:
            found.skew = self._skew(found.date, content)

    def _note_refusal(self, found: _Round, query: _Query, exc: DeviceRefused, todo: list[_Query]) -> None:
        if query.is_block:
            self._no_block.add(query.di)
            todo[:0] = [_Query(di, {di: points}) for di, points in query.points.items()]
            return
        self._absent.add(query.di)
        missing = [point.name for point in query.all_points if not point.optional]
        found.failed.update(dict.fromkeys(missing, exc.message))
        if missing:
            logger.warning(
                "device does not have points of its profile; they are not asked for until tomorrow",
                extra={"device_id": self._device_id, "points": missing, "reason": exc.message},
            )

    def _refused(self, what: str, frame: Frame) -> DeviceRefused:
        refusal, words = dlt645.refusal(frame)
        return DeviceRefused(f"{what}: {words}", refusal=int(refusal))

    def _report(self, found: _Round) -> RawReport:
        if found.is_empty and found.failed:
            raise DeviceRefused(f"{self._device_id}: nothing could be read; {next(iter(found.failed.values()))}")
        received_at = self._clock.now()
        return RawReport(
            raw=found.raw,
            received_at=received_at,
            failed=found.failed,
            texts=found.texts,
            device_time=None if found.skew is None else received_at + found.skew,
        )

    def _archived(self, local: datetime, record: dlt645.LoadRecord, wanted: Iterable[Dlt645Point]) -> RawReport:
        contents = {point.name: (point, record.values[point.di]) for point in wanted if point.di in record.values}
        return RawReport(
            raw={name: _number(point, content) for name, (point, content) in contents.items()},
            received_at=self._clock.now(),
            source_time=local.astimezone(UTC),
            archive=True,
        )

    # Clocks and controls.

    def _skew(self, date: bytes, time: bytes) -> timedelta | None:
        """Return how far the meter's clock is ahead of ours, None when it does not say."""
        local = dlt645.clock(date, time)
        if local is None:
            return None
        if not _is_clear_of_midnight(local):
            return None
        return local.replace(tzinfo=CIVIL_ZONE) - self._clock.now()

    async def _clock_skew(self) -> timedelta:
        """Return how far the meter's clock is ahead of ours, whatever the hour: the date is read on both sides.

        Raises:
            BadAnswer: It shows no time, or midnight passes twice.
        """
        for _ in range(2):
            date = await self._read_item(DATE)
            time = await self._read_item(TIME)
            now = self._clock.now()
            if await self._read_item(DATE) == date:
                local = dlt645.clock(date, time)
                if local is not None:
                    return local.replace(tzinfo=CIVIL_ZONE) - now
        raise BadAnswer(f"{self._device_id}: its clock shows no time", raw=b"")

    async def _set_own_clock(self) -> Cared:
        skew = await self._clock_skew()
        if abs(skew) < RIGHT:
            return Cared(f"clock off by {skew.total_seconds():.0f} s, left as it is", skew)
        if self._credentials is not None and "A" not in self._address:
            await self._write_clock(skew)
            how = "date and time written (14)"
        else:
            await self._broadcast_clock(skew)
            how = "time broadcast (08)"
        return Cared(f"{how}; clock was off by {skew.total_seconds():.0f} s", await self._clock_skew())

    async def _write_clock(self, skew: timedelta) -> None:
        """Write the date, where it is another one, and the time: two commands, each confirmed by the meter."""
        local = self._clock.now().astimezone(CIVIL_ZONE)
        if (local + skew).date() != local.date():
            if not _is_clear_of_midnight(local):
                raise DeviceRefused(
                    f"{self._device_id}: date and time are two commands; not within {NEAR_MIDNIGHT_S} s of midnight",
                    message_zh=f"{self._device_id}:日期与时间须分两条命令写入,午夜前后 {NEAR_MIDNIGHT_S} 秒内不执行",
                )
            await self._write_item(DATE, dlt645.date_content(local))
        await self._write_item(TIME, dlt645.time_content(self._clock.now().astimezone(CIVIL_ZONE)))

    async def _write_item(self, di: int, content: bytes) -> None:
        what = f"{self._device_id} write {di:08X}"
        try:
            request = self._secret_frame(
                lambda password, operator: dlt645.write(
                    self._address, di, content, level=WRITE_LEVEL, password=password, operator=operator
                )
            )
            frame = await self._ask(request, what, lambda frame: True, secret=True)
        except DeviceSilent as exc:
            # Without the bytes that came: an echo of the request among them would hold the password.
            raise DeviceSilent(exc.message) from None
        if frame.is_error:
            raise self._refused(what, frame)

    async def _broadcast_clock(self, skew: timedelta) -> None:
        local = self._clock.now().astimezone(CIVIL_ZONE)
        off_s = skew.total_seconds()
        if not self._clock_setting.enabled or not dlt645.may_broadcast(local, skew):
            raise NotOffered(
                f"{self._device_id}: its clock is off by {off_s:.0f} s; without the line's credentials_ref it is set by"
                " broadcast only: with set_clock in the line's settings, by less than five minutes, not near midnight",
                message_zh=f"{self._device_id}:时钟偏差 {off_s:.0f} 秒;线路无 credentials_ref 时只能广播校时"
                "(须在线路设置 set_clock,偏差小于 5 分钟,且不在午夜前后)",
            )
        await self._line.announce(dlt645.WAKE_UP + dlt645.encode(dlt645.broadcast_time(local)))

    async def _meter_time(self) -> datetime:
        """Return the time that the meter's clock shows now, ours where it cannot be had."""
        try:
            date = await self._read_item(DATE)
            local = dlt645.clock(date, await self._read_item(TIME))
        except (DeviceSilent, DeviceRefused, BadAnswer) as exc:
            logger.info("meter's clock not read", extra={"device_id": self._device_id, "reason": exc.message})
            local = None
        return self._clock.now().astimezone(CIVIL_ZONE).replace(tzinfo=None) if local is None else local

    def _control(self, control: Dlt645Control, until: datetime) -> Frame:
        """Return the request of a control.

        Raises:
            InvalidInput: There is no password, or one that is none.
        """
        return self._secret_frame(
            lambda password, operator: dlt645.control(
                self._address, control.n1, level=control.password_level, password=password, operator=operator,
                until=until,
            )
        )  # fmt: skip

    def _secret_frame(self, make: Callable[[str, str], Frame]) -> Frame:
        """Return a request with password and operator, read at the moment of use.

        Raises:
            InvalidInput: There is no password, or one that is none.
        """
        if self._credentials is None:
            raise InvalidInput(
                f"{self._device_id}: a control needs the line's credentials_ref with password and operator",
                message_zh=f"{self._device_id}:控制命令需要线路的 credentials_ref 提供密码和操作者代码",
            )
        secret = self._credentials()
        password = secret.get(f"password.{self._address}") or secret.require("password")
        try:
            return make(password, secret.get("operator") or "0")
        except ValueError as exc:  # it does not show them
            raise InvalidInput(f"{secret.place}: {exc}") from None

    async def _set_clocks(self, skew: timedelta | None) -> None:
        """Send all meters of the line the time, where that is allowed and worth it."""
        setting, now = self._clock_setting, self._clock.monotonic()
        if not setting.enabled or skew is None or abs(skew) < LEAST_SKEW or now - setting.last_at < BROADCAST_EVERY_S:
            return
        local = self._clock.now().astimezone(CIVIL_ZONE)
        if not dlt645.may_broadcast(local, skew):
            return
        setting.last_at = now
        await self._line.announce(dlt645.WAKE_UP + dlt645.encode(dlt645.broadcast_time(local)))
        logger.info("clocks set by broadcast", extra={"device_id": self._device_id, "skew_s": skew.total_seconds()})


def _is_clear_of_midnight(local: datetime) -> bool:
    seconds = local.hour * 3600 + local.minute * 60 + local.second
    return NEAR_MIDNIGHT_S <= seconds < 86400 - NEAR_MIDNIGHT_S


def _address(address: Address) -> str:
    try:
        return dlt645.normal_address(address.text or "")
    except ValueError as exc:
        raise InvalidInput(
            f"device {address.device_id}: {exc}",
            message_zh=f"设备 {address.device_id}:地址 {address.text!r} 不是 DL/T 645 表号(最多 12 位数字)",
        ) from None


def _repeats(frame: Frame, di: int, sequence: int | None = None) -> bool:
    """Return whether an answer is to this question: it repeats the identifier and the number, or says no."""
    if frame.is_error:
        return True
    if sequence is not None and (len(frame.data) < 5 or frame.data[-1] != sequence):
        return False
    return dlt645.identifier(frame.data) == di


def _number(point: Dlt645Point, content: bytes) -> int | None:
    if point.format != "bitmap":
        return bcd.number(content, signed=point.signed)
    if all(byte == 0xFF for byte in content):
        return None
    word = dlt645.bits(content)
    if point.bit is None:
        return word
    return (word >> point.bit & 1) ^ int(point.invert)


def _text(format_: str, content: bytes) -> str | None:
    """Return a date, a time or a number that is a name as people read it; None when it is none."""
    digits = bcd.digits(content)
    match format_:
        case _ if digits is None:
            return None
        case "YYMMDDWW":
            return f"20{digits[:2]}-{digits[2:4]}-{digits[4:6]}"
        case "hhmmss":
            return f"{digits[:2]}:{digits[2:4]}:{digits[4:6]}"
        case _:
            return digits
