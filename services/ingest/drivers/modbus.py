"""Modbus: what is asked of a device, and what its answers mean, whatever carries them.

``modbus_tcp.py`` and ``modbus_rtu.py`` carry one request at a time to a unit. Errors come as the port says; a plan of
few requests is made from the profile, and what the device refuses is remembered until the next day.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest, WriteSingleCoilRequest
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import (
    Area,
    Control,
    ModbusControl,
    ModbusPoint,
    Order,
    RegisterType,
    WriteFunction,
)
from services.ingest.domain.read_plan import Block, Span, plan, split
from services.ingest.domain.registers import BYTE_ORDERS, ByteOrder, block_decoder, encode
from services.ingest.drivers.port import Address, BadAnswer, DeviceRefused, DeviceSilent, LineDown, RawReport

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

    async def request(self, what: str, pdu: ModbusPDU) -> ModbusPDU:
        """Send a request to the unit that it names and return what came back, an exception answer too.

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
        self._order = ByteOrder.of(
            big_bytes=self._profile.byte_order is Order.BIG, big_words=self._profile.word_order is Order.BIG
        )
        # Not known until the meter was asked, where it has a setting for it: a wrong order gives wrong numbers.
        self._float_order = None if FLOAT_ORDER_POINT in self._points else self._order
        self._fast: list[Block] = []
        self._slow: list[Block] = []
        self._decoders: dict[Block, Callable[[Sequence[int]], list[float | int | None]]] = {}
        self._slow_due_at = float("-inf")

    async def read(self) -> RawReport:
        """Read what is due."""
        raw: dict[str, float | int | None] = {}
        failed: dict[str, str] = {}
        ended = Round.COMPLETE
        if self._clock.monotonic() >= self._slow_due_at:
            # Once a day everything is tried again: what was refused may exist after a change of firmware.
            self._replan()
            ended = await self._read_blocks(self._slow, raw, failed)
            wait_s = SLOW_EVERY_S if ended is Round.COMPLETE else SLOW_AGAIN_S
            self._slow_due_at = self._clock.monotonic() + wait_s
            self._learn_float_order(raw, ended)
        if ended is not Round.CUT and self._float_order is not None:
            await self._read_blocks(self._fast, raw, failed)
        return self._report(raw, failed)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points now."""
        wanted = [_span(self._points[name]) for name in names if name in self._points]
        blocks = list(plan(wanted, max_registers=self._profile.max_registers_per_read, max_gap=self._max_gap))
        raw: dict[str, float | int | None] = {}
        failed: dict[str, str] = {}
        await self._read_blocks(blocks, raw, failed)
        return self._report(raw, failed)

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, ModbusControl):
            raise InvalidInput(f"{control.name} is no Modbus control")
        word = control.value if control.value is not None else self._word(control, value)
        what = f"{self._device_id} {control.name}"
        match control.function:
            case WriteFunction.COIL:
                pdu: ModbusPDU = WriteSingleCoilRequest(address=control.address, bits=[word != 0], dev_id=self._unit)
            case WriteFunction.REGISTER:
                pdu = WriteSingleRegisterRequest(address=control.address, registers=[word], dev_id=self._unit)
            case WriteFunction.REGISTERS:
                pdu = WriteMultipleRegistersRequest(address=control.address, registers=[word], dev_id=self._unit)
        answer = await self._request(what, pdu)
        if _repeated(answer) != _repeated(pdu):
            raw = self._line.distrust()
            raise BadAnswer(f"{what}: asked {_repeated(pdu)}, answered {_repeated(answer)}", raw=raw)
        return f"{control.function} {control.address:#06x} acknowledged"

    def _replan(self) -> None:
        fast = [_span(point) for point in self._points.values() if not point.slow]
        slow = [_span(point) for point in self._points.values() if point.slow]
        longest = self._profile.max_registers_per_read
        self._fast = list(plan(fast, max_registers=longest, max_gap=self._max_gap))
        self._slow = list(plan(slow, max_registers=longest, max_gap=self._max_gap))
        self._decoders.clear()

    async def _read_blocks(
        self, blocks: list[Block], raw: dict[str, float | int | None], failed: dict[str, str]
    ) -> "Round":
        """Read blocks one after the other into ``raw``.

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
                values = await self._read_block(block)
            except DeviceRefused as exc:
                if exc.facts.get("exception") in (ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE):
                    smaller = split(block) if exc.facts["exception"] == ILLEGAL_ADDRESS else (block,)
                    self._replace(blocks, block, smaller if len(smaller) > 1 else ())
                    if len(smaller) > 1:
                        todo = [*smaller, *todo]
                        continue
                    self._note_absent(block, exc.message)
                else:
                    ended = Round.PARTIAL
                failed.update({span.point: exc.message for span in block.spans if not self._optional(span)})
            except BadAnswer as exc:
                ended = Round.PARTIAL
                failed.update({span.point: exc.message for span in block.spans})
            except (LineDown, DeviceSilent) as exc:
                if not raw:
                    raise
                failed.update({span.point: exc.message for rest in (block, *todo) for span in rest.spans})
                return Round.CUT
            else:
                raw.update(zip((span.point for span in block.spans), values, strict=True))
        return ended

    async def _read_block(self, block: Block) -> list[float | int | None]:
        try:
            answer = await self._ask(block)
        except DeviceRefused as exc:
            if exc.facts.get("exception") != BUSY:
                raise
            await self._clock.sleep(BUSY_PAUSE_S)
            answer = await self._ask(block)
        values: Sequence[Any] = answer.bits[: block.count] if block.area.is_bits else answer.registers
        if len(values) != block.count:
            raw = self._line.distrust()
            raise BadAnswer(f"{self._device_id}: asked for {block.count} of {block.area}, got {len(values)}", raw=raw)
        return self._decoder(block)(values)

    async def _ask(self, block: Block) -> ModbusPDU:
        what = f"{self._device_id} {block.area} {block.start:#06x}+{block.count}"
        return await self._request(what, READS[block.area](address=block.start, count=block.count, dev_id=self._unit))

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

    def _decoder(self, block: Block) -> Callable[[Sequence[int]], list[float | int | None]]:
        found = self._decoders.get(block)
        if found is None:
            points = [self._points[span.point] for span in block.spans]
            found = self._decoders[block] = block_decoder(
                [(point.address - block.start, point.type, self._order_of(point)) for point in points]
            )
        return found

    def _learn_float_order(self, raw: Mapping[str, float | int | None], ended: "Round") -> None:
        """Take the order of the floats from the meter's own setting; from the profile when it has none."""
        number = raw.get(FLOAT_ORDER_POINT)
        if number is not None and 0 <= number < len(BYTE_ORDERS):
            self._float_order = BYTE_ORDERS[int(number)]
        elif self._float_order is None and ended is Round.COMPLETE:
            self._float_order = self._order
        self._decoders.clear()

    def _order_of(self, point: ModbusPoint) -> ByteOrder:
        return self._float_order or self._order if point.type.is_float else self._order

    def _optional(self, span: Span) -> bool:
        return self._points[span.point].optional

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

    def _report(self, raw: Mapping[str, float | int | None], failed: Mapping[str, str]) -> RawReport:
        if not raw and failed:
            raise DeviceRefused(f"{self._device_id}: nothing could be read; {next(iter(failed.values()))}")
        return RawReport(raw=raw, received_at=self._clock.now(), failed=failed)

    def _word(self, control: ModbusControl, value: float | None) -> int:
        """Return the raw word of a control that takes its value from the command.

        Raises:
            InvalidInput: No value, or one outside the device's limits.
        """
        low = control.min if control.min is not None else float("-inf")
        high = control.max if control.max is not None else float("inf")
        if value is None or not low <= value <= high:
            raise InvalidInput(
                f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
                message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
            )
        point = self._points.get(control.read_back.points[0])
        scale, offset = (point.scale, point.offset) if point is not None else (1.0, 0.0)
        type_ = point.type if point is not None and point.count == 1 else RegisterType.UINT16
        return encode(round((value - offset) / scale), type_)[0]


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


def _repeated(pdu: ModbusPDU) -> tuple[object, ...]:
    """Return what the answer to a write repeats of it."""
    match pdu.function_code:
        case WriteSingleCoilRequest.function_code:
            return (pdu.address, bool(pdu.bits[0]))
        case WriteSingleRegisterRequest.function_code:
            return (pdu.address, pdu.registers[0])
        case _:
            return (pdu.address, pdu.count)


def _span(point: ModbusPoint) -> Span:
    return Span(point.area, point.address, point.count, point.name)
