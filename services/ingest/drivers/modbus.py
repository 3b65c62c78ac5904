"""Modbus TCP and Modbus RTU over TCP, on pymodbus behind our own framing of errors, times and plans.

What pymodbus 3.16 does and this module works around (southbound.md 2.2 to 2.4):

* It closes the connection by itself after some unanswered requests, so a dead unit behind a gateway would
  tear down its neighbours. Our time limit is shorter than the library's, which therefore never counts one;
  the connection is renewed only when *nobody* on it has answered for a while.
* RTU over TCP has no transaction id: a late answer to one request is taken for the answer to the next. After
  any request that failed the line is kept quiet until nothing has come for a while, and what comes is thrown away.
* Errors come in three ways: returned (exception answers), raised (silence), and as a wrong type or length.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.framer import FramerType
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import (
    Area,
    Control,
    DeviceProfile,
    ModbusControl,
    ModbusPoint,
    Order,
    RegisterType,
    WriteFunction,
)
from libs.common.registry.rules import split_host_port
from services.ingest.domain.read_plan import Block, Span, plan, split
from services.ingest.domain.registers import BYTE_ORDERS, ByteOrder, block_decoder, encode
from services.ingest.drivers.port import Address, BadAnswer, DeviceRefused, DeviceSilent, LineDown, RawReport

logger = logging.getLogger(__name__)
# The library logs every unanswered request as an error; silence is counted and judged here.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

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
RENEW_AFTER_SILENT = 3
"""Requests in a row that nobody answered, after which the connection is made anew: a pulled cable says nothing."""
CONNECT_TIMEOUT_S = 5.0
MAX_KEPT_BYTES = 512
"""Of what came and was no answer. [B]"""

Answer = ModbusPDU


class Round(StrEnum):
    """How a round of requests ended."""

    COMPLETE = "complete"
    """All that exists was read."""
    PARTIAL = "partial"
    """Some answers were wrong or refused for the moment."""
    CUT = "cut"
    """The device fell silent on the way."""


Request = Callable[[AsyncModbusTcpClient], Coroutine[object, object, Answer | None]]


class ModbusLine:
    """One connection to a device or to a gateway with several units behind it."""

    protocol = "modbus"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        framing: Literal["tcp", "rtu"],
        clock: Clock,
        timeout_s: float = 1.0,
        pacing_s: float = 0.0,
        quiet_s: float = 0.2,
        max_gap: int = 16,
    ) -> None:
        """Prepare a line; the first request connects.

        Args:
            host: Where the device or gateway listens.
            port: Its port.
            framing: Modbus TCP, or RTU frames in a TCP stream.
            clock: Ours.
            timeout_s: An answer must come within this. [s]
            pacing_s: Silence kept between two requests. [s]
            quiet_s: After a failed request on RTU framing, silence that must pass before the next one. [s]
            max_gap: Unasked registers that are read along to save a request.
        """
        self._host = host
        self._port = port
        self._framing = framing
        self._clock = clock
        self._timeout_s = timeout_s
        self._pacing_s = pacing_s
        self._quiet_s = quiet_s
        self._max_gap = max_gap
        self._client: AsyncModbusTcpClient | None = None
        self._last_request_at = float("-inf")
        self._heard_at = float("-inf")
        self._silent = 0
        self._discarding = False
        self._doubtful = False
        self._heard = b""

    def session(self, address: Address) -> "ModbusDevice":
        """Return a session for one unit."""
        return ModbusDevice(self, address, self._clock, self._max_gap)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._silent = 0
        self._doubtful = False
        if client is not None:
            client.close()

    async def request(self, what: str, send: Request) -> Answer:
        """Send one request and return its answer; one at a time, by whoever owns the line.

        Raises:
            LineDown, DeviceSilent, DeviceRefused: As the port says.
        """
        client = await self._connected()
        await self._keep_pace()
        self._heard = b""
        try:
            answer = await self._within_time(send(client))
        except TimeoutError:
            await self._note_silence()
            raise DeviceSilent(f"{what}: no answer within {self._timeout_s:g} s", raw=self._heard) from None
        except ConnectionException as exc:
            await self.close()
            raise LineDown(f"{self._host}:{self._port}: {exc}") from exc
        except (ModbusException, OSError) as exc:
            # Sent, and then something broke: what was asked may have been done.
            await self.close()
            raise DeviceSilent(f"{what}: {exc}", raw=self._heard) from exc
        except ValueError as exc:
            raise InvalidInput(f"{what}: {exc}") from exc
        finally:
            self._last_request_at = self._clock.monotonic()
        self._silent = 0
        if answer is None:
            raise BadAnswer(f"{what}: no answer object")
        if isinstance(answer, ExceptionResponse):
            number = answer.exception_code
            reason = f"{what}: exception {number:02X} ({EXCEPTIONS.get(number, 'unknown')})"
            if number in (GATEWAY_PATH, GATEWAY_SILENT):
                raise DeviceSilent(reason)
            raise DeviceRefused(reason, exception=number)
        return answer

    async def _within_time(self, asking: Coroutine[object, object, Answer | None]) -> Answer | None:
        """Return the answer, or raise ``TimeoutError``.

        The request is a task of its own: the library waits by ``asyncio.wait_for``, which in Python 3.11 swallows a
        cancellation that comes together with its result. It must not swallow that of our own task.
        """
        task = asyncio.create_task(asking, name="modbus request")
        try:
            await asyncio.wait([task], timeout=self._timeout_s)
        finally:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        if task.cancelled():
            raise TimeoutError
        return task.result()

    def distrust(self) -> bytes:
        """Say that the last answer was wrong, and return its bytes; without ids the next one may be late too."""
        self._doubtful = self._framing == "rtu"
        return self._heard

    async def _connected(self) -> AsyncModbusTcpClient:
        if self._client is not None and self._client.connected:
            if self._doubtful:
                await self._become_quiet()
            return self._client
        await self.close()
        client = AsyncModbusTcpClient(
            self._host,
            port=self._port,
            framer=FramerType.RTU if self._framing == "rtu" else FramerType.SOCKET,
            # Never reached by a request: ours is shorter. It bounds the connecting.
            timeout=max(CONNECT_TIMEOUT_S, 2 * self._timeout_s),
            retries=0,
            reconnect_delay=0,
            trace_packet=self._trace,
        )
        try:
            connected = await client.connect()
        except (OSError, UnicodeError) as exc:  # a name that cannot even be asked for
            client.close()
            raise LineDown(f"{self._host}:{self._port} cannot be connected: {exc}") from exc
        if not connected:
            client.close()
            raise LineDown(f"{self._host}:{self._port} cannot be connected")
        self._client = client
        return client

    async def _keep_pace(self) -> None:
        wait_s = self._last_request_at + self._pacing_s - self._clock.monotonic()
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    async def _note_silence(self) -> None:
        self._silent += 1
        self._doubtful = self._framing == "rtu"
        if self._silent >= RENEW_AFTER_SILENT:
            await self.close()

    async def _become_quiet(self) -> None:
        """Throw away what comes until nothing has come for ``quiet_s``; reconnect when it never ends."""
        self._discarding = True
        try:
            quiet_since = self._clock.monotonic()
            give_up_at = quiet_since + 10 * max(self._quiet_s, self._timeout_s)
            while (now := self._clock.monotonic()) < give_up_at:
                wait_s = max(self._heard_at, quiet_since) + self._quiet_s - now
                if wait_s <= 0:
                    self._doubtful = False
                    return
                await self._clock.sleep(wait_s)
        finally:
            self._discarding = False
        await self.close()
        raise LineDown(f"{self._host}:{self._port}: the line does not fall silent")

    def _trace(self, sending: bool, data: bytes) -> bytes:
        if sending:
            return data
        self._heard_at = self._clock.monotonic()
        if self._discarding and self._client is not None:
            # The library keeps what it could not use in front of what comes next.
            self._client.ctx.recv_buffer = b""
            return b""
        # The library shows all that it holds each time, not only what is new.
        self._heard = data[:MAX_KEPT_BYTES]
        return data


class ModbusDevice:
    """One unit: its plan of requests, what it refused, and the order of its floats."""

    def __init__(self, line: ModbusLine, address: Address, clock: Clock, max_gap: int) -> None:
        """Prepare a session.

        Raises:
            InvalidInput: The address is no unit id.
        """
        self._line = line
        self._clock = clock
        self._max_gap = max_gap
        self._device_id = address.device_id
        self._profile = address.profile
        self._unit = _unit(address)
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
        unit, address = self._unit, control.address

        async def send(client: AsyncModbusTcpClient) -> Answer | None:
            match control.function:
                case WriteFunction.COIL:
                    return await client.write_coil(address, word != 0, device_id=unit)
                case WriteFunction.REGISTER:
                    return await client.write_register(address, word, device_id=unit)
                case WriteFunction.REGISTERS:
                    return await client.write_registers(address, [word], device_id=unit)

        answer = await self._line.request(what, send)
        if answer.address != address:
            raw = self._line.distrust()
            raise BadAnswer(f"{what}: asked for address {address}, answered {answer.address}", raw=raw)
        return f"{control.function} {address:#06x} acknowledged"

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

    async def _ask(self, block: Block) -> Answer:
        unit = self._unit
        what = f"{self._device_id} {block.area} {block.start:#06x}+{block.count}"

        async def send(client: AsyncModbusTcpClient) -> Answer | None:
            match block.area:
                case Area.HOLDING:
                    return await client.read_holding_registers(block.start, count=block.count, device_id=unit)
                case Area.INPUT:
                    return await client.read_input_registers(block.start, count=block.count, device_id=unit)
                case Area.COIL:
                    return await client.read_coils(block.start, count=block.count, device_id=unit)
                case Area.DISCRETE:
                    return await client.read_discrete_inputs(block.start, count=block.count, device_id=unit)

        return await self._line.request(what, send)

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


def parse_endpoint(endpoint: str, default_port: int = 502) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port`` or ``[v6]:port``.

    Raises:
        InvalidInput: It is none of these.
    """
    try:
        return split_host_port(endpoint, default_port)
    except ValueError:
        raise InvalidInput(
            f"endpoint {endpoint!r}: expected host:port", message_zh=f"端点 {endpoint!r} 应为 主机:端口"
        ) from None


def _unit(address: Address) -> int:
    text = address.text
    number = address.profile.unit_id if text is None else int(text) if text.isdigit() else None
    if number is None or not 0 <= number <= 255:
        raise InvalidInput(
            f"device {address.device_id}: address {text!r} is no Modbus unit id (0 to 255)",
            message_zh=f"设备 {address.device_id}:地址 {text!r} 不是 Modbus 单元号(0–255)",
        )
    return number


def _span(point: ModbusPoint) -> Span:
    return Span(point.area, point.address, point.count, point.name)


def supports(profile: DeviceProfile) -> bool:
    """Return whether this driver can read devices of the profile."""
    return any(True for _ in profile.modbus_points())
