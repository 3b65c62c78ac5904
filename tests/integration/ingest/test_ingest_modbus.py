"""The Modbus driver against a server that this project did not write, and against peers that misbehave."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput, PlatformError
from libs.common.profiles import DeviceProfile, ProfileCatalogue, parse_profile
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineDriver,
)
from services.ingest.settings import PollingSettings
from tests.integration.ingest.conftest import Peer
from tests.unit.ingest.ingest_fakes import MEANS

CATALOGUE = ProfileCatalogue.load()

PROFILE = parse_profile(
    """
schema: device-profile/1
vendor: Test
vendor_zh: 测试
model: Test
category: meter_3p
protocol: modbus
transports: [tcp]
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: primary
points:
  - {name: voltage_a, area: holding, addr: 0, type: uint16, scale: 0.1, unit: V}
  - {name: voltage_b, area: holding, addr: 1, type: uint16, scale: 0.1, unit: V}
  - {name: current_a, area: holding, addr: 10, type: uint16, scale: 0.1, unit: A}
  - {name: energy_active_import, area: holding, addr: 20, type: uint64, scale: 0.01, unit: kWh}
  - {name: frequency, area: holding, addr: 100, type: uint16, scale: 0.01, unit: Hz, optional: true}
controls:
  - {name: breaker_open, function: write_single_register, area: holding, addr: 50, value: 0,
     read_back: {points: [voltage_a], value: 0}}
source: [made for this test]
""",
    name="test",
    source="test.yaml",
)
REGISTERS = {**dict.fromkeys(range(130), 0), 0: 2301, 1: 2302, 10: 55, 20: 0, 21: 1, 22: 0, 23: 0, 100: 5001}


def crc16(data: bytes) -> bytes:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


@dataclass
class Peer0:
    """A Modbus server whose every answer is decided by the test."""

    framing: Literal["tcp", "rtu"] = "tcp"
    port: int = 0
    connections: int = 0
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    answer: Callable[["Peer0", int, bytes], Awaitable[bytes | None]] | None = None
    send: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]] | None = None

    def frame(self, transaction: bytes, unit: int, pdu: bytes) -> bytes:
        if self.framing == "rtu":
            body = bytes([unit]) + pdu
            return body + crc16(body)
        return transaction + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        late: set[asyncio.Task[None]] = set()
        try:
            while True:
                if self.framing == "tcp":
                    head = await reader.readexactly(7)
                    transaction, unit = head[:2], head[6]
                    pdu = await reader.readexactly(int.from_bytes(head[4:6], "big") - 1)
                else:
                    body = await reader.readexactly(8)
                    transaction, unit, pdu = b"", body[0], body[1:6]
                self.requests.append((unit, pdu))
                # Answered beside the reading: a late answer must not hold up the next one.
                task = asyncio.create_task(self._reply(writer, transaction, unit, pdu), name="reply")
                late.add(task)
                task.add_done_callback(late.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for task in late:
                task.cancel()
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, transaction: bytes, unit: int, pdu: bytes) -> None:
        answer = await (self.answer or honest)(self, unit, pdu)
        if answer is None or writer.is_closing():
            return
        blob = answer if answer.startswith(b"RAW") else self.frame(transaction, unit, answer)
        blob = blob.removeprefix(b"RAW")
        if self.send is not None:
            await self.send(writer, blob)
        else:
            writer.write(blob)
            await writer.drain()


async def honest(peer: Peer0, unit: int, pdu: bytes) -> bytes | None:
    function, start, count = struct.unpack(">BHH", pdu[:5])
    if function == 6:
        return pdu
    values = [REGISTERS[address] for address in range(start, start + count)]
    return bytes([function, 2 * count]) + struct.pack(f">{count}H", *values)


@asynccontextmanager
async def line_to(peer: Peer0, **settings: Any) -> AsyncIterator[LineDriver]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    line = opened(peer.port, peer.framing, timeout_s=0.3, **settings)
    try:
        yield line
    finally:
        await line.close()
        server.close()
        await asyncio.sleep(0.01)  # the peer's own tasks end


def opened(port: int, framing: Literal["tcp", "rtu"] = "tcp", **settings: Any) -> LineDriver:
    kind = LineKind.TCP if framing == "tcp" else LineKind.RTU_OVER_TCP
    line = Line(
        id="line-1", name="Line", valid_from=datetime(2026, 1, 1, tzinfo=UTC), version=1, changed_by="user:test",
        kind=kind, endpoint=f"127.0.0.1:{port}", settings=settings or None,
    )  # fmt: skip
    return open_line(line, SystemClock(), PollingSettings(), MEANS)


def unit(line: LineDriver, number: int = 1, profile: DeviceProfile = PROFILE) -> DeviceSession:
    return line.session(Address(f"unit-{number}", str(number), profile))


def starts(peer: Peer0) -> list[tuple[int, int]]:
    return [struct.unpack(">HH", pdu[1:5]) for _, pdu in peer.requests]


FULL = {"voltage_a": 2301, "voltage_b": 2302, "current_a": 55, "energy_active_import": 1 << 32, "frequency": 5001}


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_device_is_read_with_few_requests_on_one_connection(framing: Literal["tcp", "rtu"]) -> None:
    peer = Peer0(framing)
    async with line_to(peer) as line:
        device = unit(line)
        for _ in range(3):
            assert (await device.read()).raw == FULL
        assert peer.connections == 1
        assert starts(peer) == [(0, 24), (100, 1)] * 3


async def test_dead_unit_does_not_tear_down_its_neighbours_connection() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return None if number == 2 else await honest(peer, number, pdu)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        dead, alive = unit(line, 2), unit(line, 1)
        for _ in range(8):
            with pytest.raises(DeviceSilent):
                await dead.read()
            assert (await alive.read()).raw == FULL
        assert peer.connections == 1


async def test_connection_on_which_nobody_answers_any_more_is_made_anew() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return None if peer.connections == 1 else await honest(peer, number, pdu)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        for _ in range(3):
            with pytest.raises(DeviceSilent):
                await device.read()
        assert (await device.read()).raw == FULL
        assert peer.connections == 2


async def test_late_answer_over_tcp_is_not_taken_for_the_next() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        reply = await honest(peer, number, pdu)
        if len(peer.requests) == 1:
            await asyncio.sleep(0.4)
            return bytes([3, 48]) + b"\x11" * 48
        return reply

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        with pytest.raises(DeviceSilent):
            await device.read()
        for _ in range(3):
            assert (await device.read()).raw == FULL
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("delay_s", [0.32, 0.45, 0.6])
async def test_late_answer_over_rtu_is_not_taken_for_the_next(delay_s: float) -> None:
    """Southbound.md 2.4: same unit, same function, same byte count, and nothing in the frame tells."""

    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        if len(peer.requests) == 1:
            await asyncio.sleep(delay_s)
            return bytes([3, 48]) + b"\x11" * 48
        return await honest(peer, number, pdu)

    peer = Peer0("rtu", answer=answer)
    async with line_to(peer, quiet_s=0.35) as line:
        device = unit(line)
        with pytest.raises(DeviceSilent):
            await device.read()
        for _ in range(3):
            assert (await device.read()).raw == FULL


async def test_rtu_line_that_never_falls_silent_is_given_up_and_does_not_hang() -> None:
    babble, ended = asyncio.Event(), asyncio.Event()

    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return None

    async def serve_and_babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not babble.is_set():
                writer.write(b"\x55")
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()
            ended.set()

    peer = Peer0("rtu", answer=answer)
    peer.serve = serve_and_babble  # type: ignore[method-assign]
    async with line_to(peer, quiet_s=0.1) as line:
        device = unit(line)
        with pytest.raises(DeviceSilent):
            await device.read()
        with pytest.raises(LineDown, match="silent"):
            async with asyncio.timeout(10):
                await device.read()
        babble.set()
        await ended.wait()


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_answer_in_single_bytes_is_put_together(framing: Literal["tcp", "rtu"]) -> None:
    async def dribble(writer: asyncio.StreamWriter, blob: bytes) -> None:
        for byte in blob:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)

    peer = Peer0(framing, send=dribble)
    async with line_to(peer) as line:
        assert (await unit(line).read()).raw == FULL


async def test_block_over_a_hole_is_split_and_the_split_is_remembered() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        _, start, count = struct.unpack(">BHH", pdu[:5])
        touches_hole = any(12 <= address < 20 for address in range(start, start + count))
        return bytes([0x83, 2]) if touches_hole else await honest(peer, number, pdu)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        assert (await device.read()).raw == FULL
        peer.requests.clear()
        assert (await device.read()).raw == FULL
        assert (20, 4) in starts(peer)  # the counter in one piece
        assert (0, 24) not in starts(peer)


async def test_point_that_does_not_exist_is_absent_and_not_asked_for_again() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        _, start, count = struct.unpack(">BHH", pdu[:5])
        return bytes([0x83, 2]) if start + count > 100 else await honest(peer, number, pdu)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        found = await device.read()
        assert found.raw == {name: value for name, value in FULL.items() if name != "frequency"}
        assert found.failed == {}  # optional: no fault
        peer.requests.clear()
        await device.read()
        assert starts(peer) == [(0, 24)]


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, DeviceRefused), (3, DeviceRefused), (4, DeviceRefused), (10, DeviceSilent), (11, DeviceSilent)],
)
async def test_exception_answers(code: int, error: type[PlatformError]) -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return bytes([0x83, code])

    async with line_to(Peer0(answer=answer)) as line:
        with pytest.raises(error):
            await unit(line).read()


async def test_busy_device_is_asked_once_more() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return bytes([0x83, 6]) if len(peer.requests) == 1 else await honest(peer, number, pdu)

    async with line_to(Peer0(answer=answer)) as line:
        assert (await unit(line).read()).raw == FULL


async def test_answer_of_another_unit_is_no_answer() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        reply = await honest(peer, number, pdu)
        assert reply is not None
        return b"RAW" + peer.frame(b"\0\1", 9, reply)

    for framing in ("tcp", "rtu"):
        peer = Peer0(framing, answer=answer)
        async with line_to(peer) as line:
            with pytest.raises(DeviceSilent):
                await unit(line).read()


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_two_answers_in_one_segment_do_not_shift_the_next(framing: Literal["tcp", "rtu"]) -> None:
    """The second one would be taken for the answer to what is asked next: same unit, function and byte count."""

    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return bytes([3, 2, 0, len(peer.requests)])

    async def twice(writer: asyncio.StreamWriter, blob: bytes) -> None:
        writer.write(blob * 2)

    peer = Peer0(framing, answer=answer, send=twice)
    async with line_to(peer) as line:
        device = unit(line)
        for number in range(1, 4):
            assert (await device.read_points(["voltage_a"])).raw == {"voltage_a": number}


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_answer_to_another_function_is_no_answer(framing: Literal["tcp", "rtu"]) -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        reply = await honest(peer, number, pdu)
        assert reply is not None
        return bytes([4]) + reply[1:] if len(peer.requests) == 1 else reply

    async with line_to(Peer0(framing, answer=answer)) as line:
        device = unit(line)
        with pytest.raises((DeviceSilent, BadAnswer, DeviceRefused)):
            await device.read_points(["voltage_a"])
        assert (await device.read_points(["voltage_a"])).raw == {"voltage_a": 2301}


async def test_gateway_that_answers_with_a_foreign_transaction_is_left_and_found_again() -> None:
    """Seen in the field: every answer carries the number of an earlier request until the connection is made anew."""

    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        reply = await honest(peer, number, pdu)
        assert reply is not None
        return reply if peer.connections > 1 else b"RAW" + peer.frame(b"\x77\x77", number, reply)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        for _ in range(3):
            with pytest.raises(DeviceSilent):
                await device.read()
        assert (await device.read()).raw == FULL
        assert peer.connections == 2


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_peer_that_resets_instead_of_answering_leaves_the_outcome_open(framing: Literal["tcp", "rtu"]) -> None:
    async def reset(writer: asyncio.StreamWriter, blob: bytes) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    peer = Peer0(framing, send=reset)
    async with line_to(peer) as line:
        device = unit(line)
        with pytest.raises(DeviceSilent):
            await device.write(PROFILE.controls["breaker_open"], None)
        peer.send = None
        assert (await device.read()).raw == FULL


async def test_answer_with_too_few_registers_is_refused_and_gives_no_values() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return bytes([3, 4]) + b"\0\1\0\2"

    for framing in ("tcp", "rtu"):
        async with line_to(Peer0(framing, answer=answer)) as line:
            with pytest.raises((BadAnswer, DeviceRefused)):
                await unit(line).read()


async def test_wrong_checksum_is_no_answer() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        reply = await honest(peer, number, pdu)
        assert reply is not None
        return b"RAW" + peer.frame(b"", number, reply)[:-2] + b"\0\0"

    async with line_to(Peer0("rtu", answer=answer)) as line:
        with pytest.raises(DeviceSilent):
            await unit(line).read()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 300,
        b"\0\1\0\0\xff\xff\1\3",
        b"\0\1\0\7\0\5\1\3\2\0\1",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\1\0\0\0\3\1\x43\0",
    ],
    ids=["all ones", "endless length", "wrong protocol", "http", "unknown function"],
)
async def test_garbage_raises_the_drivers_own_errors_only_and_the_line_recovers(garbage: bytes) -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        return b"RAW" + garbage if peer.connections == 1 else await honest(peer, number, pdu)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line)
        for _ in range(4):
            try:
                async with asyncio.timeout(5):
                    found = await device.read()
            except (DeviceSilent, LineDown, BadAnswer, DeviceRefused):
                continue
            assert found.raw == FULL
            return
        pytest.fail("the line did not recover")


async def test_peer_that_hangs_up_in_the_middle_is_found_again() -> None:
    async def hang_up(writer: asyncio.StreamWriter, blob: bytes) -> None:
        writer.write(blob[:5])
        writer.close()

    peer = Peer0(send=hang_up)
    async with line_to(peer) as line:
        device = unit(line)
        with pytest.raises((DeviceSilent, LineDown)):
            await device.read()
        peer.send = None
        assert (await device.read()).raw == FULL


async def test_nobody_listening_is_a_line_that_is_down() -> None:
    line = opened(1)
    with pytest.raises(LineDown):
        await unit(line).read()


async def test_write_says_whether_it_was_done_refused_or_cannot_be_known() -> None:
    control = PROFILE.controls["breaker_open"]
    peer = Peer0()
    async with line_to(peer) as line:
        device = unit(line)
        assert "acknowledged" in await device.write(control, None)
        assert peer.requests[-1] == (1, bytes([6, 0, 50, 0, 0]))

        async def refuse(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
            return bytes([0x86, 4])

        peer.answer = refuse
        with pytest.raises(DeviceRefused):
            await device.write(control, None)

        async def elsewhere(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
            return bytes([6, 0, 51, 0, 0])

        peer.answer = elsewhere
        with pytest.raises(BadAnswer):
            await device.write(control, None)

        async def nothing(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
            return None

        peer.answer = nothing
        with pytest.raises(DeviceSilent):
            await device.write(control, None)


# Texts, registers that lie apart, and writes of several.

WIDE = parse_profile(
    """
schema: device-profile/1
vendor: Test
vendor_zh: 测试
model: Wide
category: meter_3p
protocol: modbus
transports: [tcp]
address_base: 0
byte_order: big
word_order: little
max_registers_per_read: 60
confidence: high
side: primary
points:
  - {name: voltage_a, area: holding, addr: 0x40, type: float32, scale: 1, unit: V}
  - {name: energy_active_import, area: holding, addrs: [0x30, 0x10], type: uint32, scale: 0.01, unit: kWh}
  - {name: energy_active_export, area: holding, addr: 0x20, type: uint64, scale: 0.01, unit: kWh}
  - {name: x_test_model, area: holding, addr: 0x100, count: 4, type: string, scale: 1, unit: "1"}
  - {name: temperature_setpoint, area: holding, addr: 0x50, type: float32, scale: 1, unit: degC}
  - {name: float_byte_order, area: holding, addr: 0x70, type: uint16, scale: 1, unit: "1", slow: true}
  - {name: relay_1_state, area: coil, addr: 0, type: bool, scale: 1, unit: "1"}
  - {name: relay_2_state, area: coil, addr: 1, type: bool, scale: 1, unit: "1"}
controls:
  - {name: ac_set_temperature, function: write_multiple_registers, area: holding, addr: 0x50, type: float32, min: 5,
     max: 30}
  - {name: relay_all_close, function: write_multiple_coils, area: coil, addr: 0, values: [1, 1]}
source: [made for this test]
""",
    name="wide",
    source="wide.yaml",
)


async def test_counter_whose_registers_lie_apart_is_read_in_one_request() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        function, start, count = struct.unpack(">BHH", pdu[:5])
        if function == 1:
            return bytes([1, 1, 0])
        registers = {0x30: 0x0001, 0x10: 0x0002, 0x70: 0, 0x20: 4, 0x21: 3, 0x22: 2, 0x23: 1}
        values = [registers.get(address, 0) for address in range(start, start + count)]
        return bytes([function, 2 * count]) + struct.pack(f">{count}H", *values)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        raw = (await unit(line, profile=WIDE).read()).raw
        assert raw["energy_active_import"] == 0x10002  # listed most significant first, whatever the word order
        assert raw["energy_active_export"] == 0x0001_0002_0003_0004
        holding = [(start, start + count) for start, count in starts(peer)]
        for first, last in ((0x10, 0x30), (0x20, 0x23)):
            assert [1 for start, end in holding if start <= first and last < end], holding
            assert not [1 for start, end in holding if start <= first < end <= last], "a value was cut"


async def test_text_is_read_and_goes_to_the_status_with_the_slow_points(meter: Peer) -> None:
    meter.bank.set_holding_registers(0x100, list(struct.unpack(">4H", b"DTSU666\0")))
    line = opened(meter.port)
    device = unit(line, profile=WIDE)
    assert (await device.read()).texts == {"x_test_model": "DTSU666"}
    assert (await device.read()).texts == {}
    await line.close()


@pytest.mark.parametrize(("number", "order"), list(enumerate(["ABCD", "CDAB", "BADC", "DCBA"])))
async def test_float_is_written_in_the_order_that_the_device_has(meter: Peer, number: int, order: str) -> None:
    meter.bank.set_holding_registers(0x70, [number])
    line = opened(meter.port)
    device = unit(line, profile=WIDE)
    await device.write(WIDE.controls["ac_set_temperature"], 21.5)
    assert meter.bank.get_holding_registers(0x50, 2) == words(21.5, order)
    # A session that was not read before knows it too.
    assert (await unit(line, profile=WIDE).read_points(["temperature_setpoint"])).raw["temperature_setpoint"] == 21.5
    await line.close()


async def test_several_coils_are_written_at_once(meter: Peer) -> None:
    line = opened(meter.port)
    await unit(line, profile=WIDE).write(WIDE.controls["relay_all_close"], None)
    assert meter.bank.get_coils(0, 3) == [True, True, False]
    await line.close()


async def test_float_of_unknown_order_is_neither_read_nor_written() -> None:
    async def answer(peer: Peer0, number: int, pdu: bytes) -> bytes | None:
        function, start, count = struct.unpack(">BHH", pdu[:5])
        return bytes([0x83, 4]) if start == 0x70 else bytes([function, 2 * count]) + bytes(2 * count)

    peer = Peer0(answer=answer)
    async with line_to(peer) as line:
        device = unit(line, profile=WIDE)
        with pytest.raises(DeviceRefused, match="order of the float"):
            await device.write(WIDE.controls["ac_set_temperature"], 21.5)
        with pytest.raises(DeviceRefused, match="nothing could be read"):
            await device.read_points(["voltage_a"])
        found = await device.read_points(["voltage_a", "energy_active_export"])
        assert found.raw == {"energy_active_export": 0}
        assert set(found.failed) == {"voltage_a", "float_byte_order"}
        assert {pdu[0] for _, pdu in peer.requests} == {3}


# An independent server.


@pytest.fixture
def meter(peer: Peer) -> Peer:
    peer.bank.set_holding_registers(0x0006, [20, 10])
    return peer


def words(value: float, order: str) -> list[int]:
    raw = struct.pack(">f", value)
    places = {"ABCD": "0123", "CDAB": "2301", "BADC": "1032", "DCBA": "3210"}[order]
    return list(struct.unpack(">HH", bytes(raw[int(place)] for place in places)))


@pytest.mark.parametrize(("number", "order"), list(enumerate(["ABCD", "CDAB", "BADC", "DCBA"])))
async def test_order_of_the_floats_is_read_from_the_meter(meter: Peer, number: int, order: str) -> None:
    meter.bank.set_holding_registers(0x000C, [number])
    meter.bank.set_holding_registers(0x2006, words(2301.5, order))
    line = opened(meter.port)
    found = await unit(line, profile=CATALOGUE.get("chint_dtsu666")).read()
    await line.close()
    assert found.raw["voltage_a"] == 2301.5
    assert found.raw["ct_ratio"] == 20


async def test_every_shipped_modbus_profile_is_read_from_an_independent_server(meter: Peer) -> None:
    line = opened(meter.port)
    for profile in CATALOGUE:
        if profile.protocol != "modbus":
            continue
        device = unit(line, profile=profile)
        found = await device.read()
        wanted = {point.name for point in profile.modbus_points() if point.copy_of is None and not point.is_text}
        # Its holding registers end at 0x6000, its input registers at 0x2000: what lies beyond is refused.
        assert found.raw.keys() | found.failed.keys() >= {name for name in wanted if not profile.points[name].optional}
    await line.close()


async def test_coils_are_read_and_written(meter: Peer) -> None:
    meter.bank.set_coils(0, [True, False, True])
    line = opened(meter.port)
    profile = CATALOGUE.get("waveshare_modbus_rtu_relay8")
    device = unit(line, profile=profile)
    assert [(await device.read()).raw[f"relay_{n}_state"] for n in (1, 2, 3)] == [1, 0, 1]
    await device.write(profile.controls["relay_2_close"], None)
    await device.write(profile.controls["relay_1_open"], None)
    assert meter.bank.get_coils(0, 3) == [False, True, True]
    await line.close()


async def test_set_point_is_written_within_its_limits_only(meter: Peer) -> None:
    line = opened(meter.port)
    profile = CATALOGUE.get("gree_umatch_ac")
    device = unit(line, profile=profile)
    await device.write(profile.controls["ac_set_temperature"], 26.0)
    assert meter.bank.get_holding_registers(0x0014, 1) == [26]
    for value in (15.0, 31.0, None):
        with pytest.raises(InvalidInput):
            await device.write(profile.controls["ac_set_temperature"], value)
    await line.close()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.1.3.20:1502", ("10.1.3.20", 1502)),
        ("meter.example", ("meter.example", 502)),
        ("[::1]:503", ("::1", 503)),
        ("[::1]", ("::1", 502)),
    ],
)
def test_endpoint(text: str, place: tuple[str, int]) -> None:
    assert parse_endpoint(text) == place


@pytest.mark.parametrize("text", ["", ":502", "host:0", "host:x", "host:70000"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_endpoint(text)
