"""Modbus: what is asked of a device, and what its answers mean, whatever carries them.

``modbus_tcp.py`` and ``modbus_rtu.py`` carry one request at a time to a unit. Errors come as the port says; a plan of
few requests is made from the profile, and what the device refuses is remembered until the next day.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import chain
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
)

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import (
    Area,
    Control,
    ModbusClock,
    ModbusControl,
    ModbusPoint,
    ModbusTextPoint,
    Order,
    RegisterType,
)
from services.ingest.domain.clock_registers import local_of, words_of
from services.ingest.domain.read_plan import Block, Span, shared_plan, split
from services.ingest.domain.registers import BYTE_ORDERS, ByteOrder, block_decoder, text
from services.ingest.drivers.modbus_writes import repeated, write_request
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

logger = logging.getLogger(__name__)

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
BUSY = 6
GATEWAY_PATH, GATEWAY_SILENT = 10, 11
EXCEPTIONS: Mapping[int, str] = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure",
    5: "acknowledge", 6: "busy", 8: "memory parity error", 10: "gateway path unavailable",
    11: "gateway target does not respond",
}  # fmt: skip

SLOW_EVERY_S = 86400.0
"""Slow points are read at first and then this often. [s]"""
SLOW_AGAIN_S = 60.0
"""The same after a round in which some of them could not be read. [s]"""
FLOAT_ORDER_POINT = "float_byte_order"
MAX_PLANS = 16
"""Sets of points asked for by name whose plans a session keeps."""
BUSY_PAUSE_S = 0.2
"""A device that says "busy" is asked once more after this. [s]"""

READS: Mapping[Area, type[ModbusPDU]] = {
    Area.HOLDING: ReadHoldingRegistersRequest,
    Area.INPUT: ReadInputRegistersRequest,
    Area.COIL: ReadCoilsRequest,
    Area.DISCRETE: ReadDiscreteInputsRequest,
}


class Asking(Protocol):
    """Carries requests to units, one at a time."""

    async def request(self, what: str, pdu: ModbusPDU, *, timeout_s: float | None = None) -> ModbusPDU:
        """Send a request to the unit that it names and return what came back, an exception answer too.

        Args:
            what: For messages.
            pdu: The request.
            timeout_s: Other than the line's.

        Raises:
            LineDown, DeviceSilent: As the port says.
            BadAnswer: What came is no Modbus.
            InvalidInput: The request cannot be written.
        """

    def distrust(self) -> bytes:
        """Say that the last answer was wrong, and return its bytes."""


class Round(StrEnum):
    """How a round of requests ended."""

    COMPLETE = "complete"
    """All that exists was read."""
    PARTIAL = "partial"
    """Some answers were wrong or refused for the moment."""
    CUT = "cut"
    """The device fell silent on the way."""


@dataclass(slots=True)
class _Found:
    """What a round of requests has brought so far."""

    raw: dict[str, float | int | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing was read."""
        return not self.raw and not self.texts


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A block with all that reading it takes."""

    block: Block
    what: str
    """For messages."""
    request: ModbusPDU
    numbers: tuple[str, ...]
    decode: Callable[[Sequence[int]], list[float | int | None]]
    texts: tuple[ModbusTextPoint, ...]


class ModbusDevice:
    """One unit: its plan of requests, what it refused, and the order of its floats."""

    def __init__(self, line: Asking, address: Address, *, unit: int, clock: Clock, max_gap: int) -> None:
        """Prepare a session.

        Args:
            line: To the unit.
            address: Of the device.
            unit: Its unit id, from ``unit_of``.
            clock: Ours.
            max_gap: Unasked registers that are read along to save a request.
        """
        self._line = line
        self._clock = clock
        self._max_gap = max_gap
        self._device_id = address.device_id
        self._profile = address.profile
        self._unit = unit
        self._points: Mapping[str, ModbusPoint] = {
            point.name: point for point in self._profile.modbus_points() if point.copy_of is None and not point.is_text
        }
        self._texts = {point.name: point for point in self._profile.modbus_texts()}
        self._order = ByteOrder.of(
            big_bytes=self._profile.byte_order is Order.BIG, big_words=self._profile.word_order is Order.BIG
        )
        # Not known until the meter was asked, where it has a setting for it: a wrong order gives wrong numbers.
        self._float_order = None if FLOAT_ORDER_POINT in self._points else self._order
        self._fast: list[Block] = []
        self._slow: list[Block] = []
        self._asked: dict[tuple[str, ...], tuple[Block, ...]] = {}
        """How points are read that were asked for by name; what switching looks at is asked for again and again."""
        self._readings: dict[int, _Reading] = {}
        self._slow_due_at = float("-inf")

    async def read(self) -> RawReport:
        """Read what is due."""
        found = _Found()
        ended = Round.COMPLETE
        if self._clock.monotonic() >= self._slow_due_at:
            # Once a day everything is tried again: what was refused may exist after a change of firmware.
            self._replan()
            ended = await self._read_blocks(self._slow, found)
            wait_s = SLOW_EVERY_S if ended is Round.COMPLETE else SLOW_AGAIN_S
            self._slow_due_at = self._clock.monotonic() + wait_s
            self._learn_float_order(found.raw, ended)
        if ended is not Round.CUT and self._float_order is not None:
            await self._read_blocks(self._fast, found)
        return self._report(found)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        points = [self._points[name] for name in names if name in self._points]
        found = _Found()
        if any(point.type.is_float for point in points) and not await self._knows_float_order(found):
            lost = {point.name: "the order of its bytes is not known" for point in points if point.type.is_float}
            points = [point for point in points if point.name not in lost]
            found.failed.update(lost)
        await self._read_blocks(list(self._plan_of(points)), found)
        return self._report(found)

    def _plan_of(self, points: Sequence[ModbusPoint]) -> tuple[Block, ...]:
        names = tuple(point.name for point in points)
        plan = self._asked.get(names)
        if plan is None:
            plan = tuple(self._plan(map(_span, points)))
            if len(self._asked) < MAX_PLANS:
                self._asked[names] = plan
        return plan

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, ModbusControl):
            raise InvalidInput(f"{control.name} is no Modbus control")
        what = f"{self._device_id} {control.name}"
        shown_by = next((self._points.get(name) for name in control.read_back.points), None)
        order = self._order
        if control.type is not None and control.type.is_float:
            if not await self._knows_float_order(_Found()):
                raise DeviceRefused(f"{what}: the order of the float's bytes cannot be read; nothing was written")
            order = self._order_of(control.type)
        pdu = write_request(control, value, shown_by=shown_by, order=order, unit=self._unit)
        answer = await self._request(what, pdu)
        if repeated(answer) != repeated(pdu):
            raw = self._line.distrust()
            raise BadAnswer(f"{what}: asked {repeated(pdu)}, answered {repeated(answer)}", raw=raw)
        return f"{control.function} {control.address:#06x} acknowledged"

    async def care(self, task: Care) -> Cared:
        """Read or set the clock, where the profile says where it is; a restart is a control of the profile."""
        clock = self._profile.clock
        if clock is None or task is Care.RESTART:
            raise NotOffered(
                f"{self._device_id}: profile {self._profile.name} has no {'control restart' if clock else 'clock'}"
                f" for {task.value}",
                message_zh=f"{self._device_id}:模板 {self._profile.name} 未定义 {task.value}",
            )
        if task is Care.READ_CLOCK:
            return Cared("read", await self._clock_skew(clock))
        local = self._clock.now().astimezone(ZoneInfo(clock.zone))
        pdu = WriteMultipleRegistersRequest(address=clock.address, registers=words_of(clock, local), dev_id=self._unit)
        what = f"{self._device_id} set clock"
        answer = await self._request(what, pdu)
        if repeated(answer) != repeated(pdu):
            raise BadAnswer(f"{what}: asked {repeated(pdu)}, answered {repeated(answer)}", raw=self._line.distrust())
        return Cared(f"clock written at {clock.address:#06x}", await self._clock_skew(clock))

    async def _clock_skew(self, clock: ModbusClock) -> timedelta:
        what, count = f"{self._device_id} clock", len(clock.registers)
        pdu = ReadHoldingRegistersRequest(address=clock.address, count=count, dev_id=self._unit)
        answer = await self._request(what, pdu)
        now = self._clock.now()
        try:
            local = local_of(clock, answer.registers)
        except ValueError as exc:
            raise BadAnswer(f"{what}: {exc}", raw=self._line.distrust()) from None
        return local.replace(tzinfo=ZoneInfo(clock.zone)) - now

    def _replan(self) -> None:
        fast = [_span(point) for point in self._points.values() if not point.slow]
        slow = [_span(point) for point in self._points.values() if point.slow]
        slow += [_span(point) for point in self._texts.values()]
        self._fast, self._slow = self._plan(fast), self._plan(slow)
        self._readings.clear()

    def _plan(self, spans: Iterable[Span]) -> list[Block]:
        return list(shared_plan(tuple(spans), self._profile.max_registers_per_read, self._max_gap))

    async def _knows_float_order(self, found: _Found) -> bool:
        """Return whether the order of the floats is known; ask the device for it once."""
        if self._float_order is None:
            ended = await self._read_blocks(self._plan([_span(self._points[FLOAT_ORDER_POINT])]), found)
            self._learn_float_order(found.raw, ended)
        return self._float_order is not None

    async def _read_blocks(self, blocks: list[Block], found: _Found) -> Round:
        """Read blocks one after the other into ``found``.

        The list is changed in place where the device taught something about itself. Silence ends the round at
        once: whatever is wrong, the next request would only cost another time limit.

        Raises:
            LineDown, DeviceSilent: And nothing has been read so far.
        """
        ended = Round.COMPLETE
        todo = list(blocks)
        while todo:
            block = todo.pop(0)
            try:
                await self._read_block(block, found)
            except DeviceRefused as exc:
                if exc.facts.get("exception") in (ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE):
                    smaller = split(block) if exc.facts["exception"] == ILLEGAL_ADDRESS else (block,)
                    self._replace(blocks, block, smaller if len(smaller) > 1 else ())
                    if len(smaller) > 1:
                        todo = [*smaller, *todo]
                        continue
                    if blocks is self._fast or blocks is self._slow:
                        self._note_absent(block, exc.message)
                else:
                    ended = Round.PARTIAL
                found.failed.update({span.point: exc.message for span in block.spans if not self._optional(span)})
            except BadAnswer as exc:
                ended = Round.PARTIAL
                found.failed.update({span.point: exc.message for span in block.spans})
            except (LineDown, DeviceSilent) as exc:
                if found.empty:
                    raise
                found.failed.update({span.point: exc.message for rest in (block, *todo) for span in rest.spans})
                return Round.CUT
        return ended

    async def _read_block(self, block: Block, found: _Found) -> None:
        reading = self._reading(block)
        try:
            answer = await self._request(reading.what, reading.request)
        except DeviceRefused as exc:
            if exc.facts.get("exception") != BUSY:
                raise
            await self._clock.sleep(BUSY_PAUSE_S)
            answer = await self._request(reading.what, reading.request)
        values: Sequence[Any] = answer.bits[: block.count] if block.area.is_bits else answer.registers
        if len(values) != block.count:
            raw = self._line.distrust()
            raise BadAnswer(f"{self._device_id}: asked for {block.count} of {block.area}, got {len(values)}", raw=raw)
        if reading.numbers:
            found.raw.update(zip(reading.numbers, reading.decode(values), strict=True))
        big_bytes = self._profile.byte_order is Order.BIG
        for point in reading.texts:
            start = point.address - block.start
            found.texts[point.name] = text(values[start : start + point.count], big_bytes=big_bytes) or ""

    async def _request(self, what: str, pdu: ModbusPDU) -> ModbusPDU:
        """Return the answer to a request when it is one and no exception."""
        answer = await self._line.request(what, pdu)
        if answer.function_code & 0x7F != pdu.function_code:
            raw = self._line.distrust()
            raise BadAnswer(
                f"{what}: asked with function {pdu.function_code}, answered {answer.function_code & 0x7F}", raw=raw
            )
        if not isinstance(answer, ExceptionResponse):
            return answer
        number = answer.exception_code
        reason = f"{what}: exception {number:02X} ({EXCEPTIONS.get(number, 'unknown')})"
        if number in (GATEWAY_PATH, GATEWAY_SILENT):
            raise DeviceSilent(reason)
        raise DeviceRefused(reason, exception=number)

    def _reading(self, block: Block) -> "_Reading":
        """Return how a block is read; made once, for blocks are asked for again and again."""
        found = self._readings.get(id(block))
        if found is None or found.block is not block:
            points = [self._points[span.point] for span in block.spans if span.point in self._points]
            found = _Reading(
                block=block,
                what=f"{self._device_id} {block.area} {block.start:#06x}+{block.count}",
                request=READS[block.area](address=block.start, count=block.count, dev_id=self._unit),
                numbers=tuple(point.name for point in points),
                decode=block_decoder(
                    tuple((_places(point, block), point.type, self._order_for(point)) for point in points)
                ),
                texts=tuple(self._texts[span.point] for span in block.spans if span.point in self._texts),
            )
            if any(block is kept for kept in (*self._fast, *self._slow, *chain.from_iterable(self._asked.values()))):
                self._readings[id(block)] = found
        return found

    def _learn_float_order(self, raw: Mapping[str, float | int | None], ended: Round) -> None:
        """Take the order of the floats from the meter's own setting; from the profile when it has none."""
        number = raw.get(FLOAT_ORDER_POINT)
        if number is not None and 0 <= number < len(BYTE_ORDERS):
            self._float_order = BYTE_ORDERS[int(number)]
        elif self._float_order is None and ended is Round.COMPLETE:
            self._float_order = self._order
        self._readings.clear()

    def _order_for(self, point: ModbusPoint) -> ByteOrder:
        if not point.parts:
            return self._order_of(point.type)
        # Its registers are listed, most significant first.
        return ByteOrder.of(big_bytes=self._profile.byte_order is Order.BIG, big_words=True)

    def _order_of(self, type_: RegisterType) -> ByteOrder:
        return self._float_order or self._order if type_.is_float else self._order

    def _optional(self, span: Span) -> bool:
        return self._profile.points[span.point].optional

    def _note_absent(self, block: Block, reason: str) -> None:
        missing = [span.point for span in block.spans if not self._optional(span)]
        if missing:
            logger.warning(
                "device does not have points of its profile; they are not asked for until tomorrow",
                extra={"device_id": self._device_id, "points": missing, "reason": reason},
            )

    @staticmethod
    def _replace(blocks: list[Block], block: Block, by: Sequence[Block]) -> None:
        if block in blocks:
            at = blocks.index(block)
            blocks[at : at + 1] = by

    def _report(self, found: _Found) -> RawReport:
        if found.empty and found.failed:
            raise DeviceRefused(f"{self._device_id}: nothing could be read; {next(iter(found.failed.values()))}")
        return RawReport(raw=found.raw, received_at=self._clock.now(), failed=found.failed, texts=found.texts)


def unit_of(address: Address, *, least: int = 0, most: int = 255) -> int:
    """Return the unit id of a device.

    Raises:
        InvalidInput: It has none, or one outside the limits.
    """
    text = address.text
    number = address.profile.unit_id if text is None else int(text) if text.isascii() and text.isdigit() else None
    if number is None or not least <= number <= most:
        raise InvalidInput(
            f"device {address.device_id}: address {text!r} is no Modbus unit id ({least} to {most})",
            message_zh=f"设备 {address.device_id}:地址 {text!r} 不是 Modbus 单元号({least}–{most})",
        )
    return number


def _span(point: ModbusPoint | ModbusTextPoint) -> Span:
    return Span(point.area, point.address, point.count, point.name)


def _places(point: ModbusPoint, block: Block) -> tuple[int, ...]:
    """Return where in a block the registers of a point stand."""
    return tuple(address - block.start for address in point.parts or range(point.address, point.end))
