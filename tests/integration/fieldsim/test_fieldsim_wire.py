"""The Modbus servers on real sockets, asked by clients that are not ours: mbpoll and pymodbus."""

import asyncio
import os
import shutil
import struct
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from pymodbus import FramerType, ModbusException
from pymodbus.client import AsyncModbusTcpClient

from libs.common.clock import SystemClock
from libs.fieldsim.faults import parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile

pytestmark = pytest.mark.integration

PATIENCE_S = 5.0
HASTE_S = 0.3
"""For answers that are not to come."""

FIELD = {
    "schema": "field/1",
    "loads": [{"id": "aau", "constant_kw": 0.9, "gain": 0.05}],
    "lines": [
        {"id": "gateway"},
        {"id": "silent-gateway", "absent": "silent"},
        {"id": "rtu", "framing": "rtu"},
    ],
    "devices": [
        {
            "id": "meter",
            "site": "s",
            "line": "gateway",
            "unit": 1,
            "profile": "chint_dtsu666",
            "loads": ["aau"],
            "ct_ratio": 20,
        },
        {"id": "branch", "site": "s", "line": "gateway", "unit": 2, "profile": "eastron_sdm630", "loads": ["aau"]},
        {
            "id": "breaker",
            "site": "s",
            "line": "gateway",
            "unit": 3,
            "profile": "lx47le_125",
            "loads": ["aau"],
            "motor_delay_s": 0,
        },
        {"id": "relays", "site": "s", "line": "gateway", "unit": 4, "profile": "kmtronic_relay8"},
        {"id": "sensor", "site": "s", "line": "silent-gateway", "unit": 1, "profile": "xy_md02"},
        {"id": "serial", "site": "s", "line": "rtu", "unit": 1, "profile": "eastron_sdm630", "loads": ["aau"]},
    ],
}


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    running = Field(FieldFile.model_validate(FIELD), clock=SystemClock(), refresh_s=0.0)
    await running.start()
    yield running
    await running.stop()


def port(field: Field, line: str = "gateway") -> int:
    return field.servers[line].port


async def connect(
    field: Field, line: str = "gateway", *, timeout_s: float = PATIENCE_S, framer: FramerType = FramerType.SOCKET
) -> AsyncModbusTcpClient:
    client = AsyncModbusTcpClient(
        "127.0.0.1", port=port(field, line), framer=framer, timeout=timeout_s, retries=0, reconnect_delay=0
    )
    assert await client.connect()
    return client


def floats(registers: Sequence[int]) -> list[float]:
    packed = struct.pack(f">{len(registers)}H", *registers)
    return list(struct.unpack(f">{len(registers) // 2}f", packed))


def order(field: Field, device: str, text: str) -> None:
    field.faults.place(device, parse_order(text), datetime.now(UTC).timestamp())


async def raw(field: Field, request: str, size: int, line: str = "gateway") -> bytes:
    """Send bytes, return the first ``size`` that come back, fewer when the connection ends or nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(field, line))
    got = b""
    try:
        writer.write(bytes.fromhex(request))
        while len(got) < size:
            async with asyncio.timeout(HASTE_S):
                piece = await reader.read(size - len(got))
            if not piece:
                break
            got += piece
    except (TimeoutError, ConnectionResetError):
        return got
    finally:
        writer.close()
    return got


class TestMbpoll:
    """mbpoll is libmodbus in C: nothing of it is shared with what it asks."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        if shutil.which("mbpoll") is None:
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail("backing service is missing: mbpoll")
            pytest.skip("mbpoll is not installed")

    async def mbpoll(self, field: Field, *arguments: str, line: str = "gateway") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "mbpoll",
            *("-m", "tcp", "-p", str(port(field, line)), "-0", "-1", "-o", "3"),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    def values(self, output: str) -> list[float]:
        lines = [line for line in output.splitlines() if line.startswith("[")]
        return [float(line.split(":")[1].split()[0]) for line in lines]

    async def test_reads_scaled_secondary_floats(self, field: Field) -> None:
        status, output = await self.mbpoll(
            field, "-a", "1", "-r", "8198", "-c", "3", "-t", "4:float", "-B", "127.0.0.1"
        )
        assert status == 0, output
        assert all(2000 < raw_volts < 2450 for raw_volts in self.values(output))
        _, output = await self.mbpoll(field, "-a", "1", "-r", "8210", "-t", "4:float", "-B", "127.0.0.1")
        primary_kw = 20 * self.values(output)[0] * 0.0001
        shown = field.devices["branch"].shown(datetime.now(UTC).timestamp())
        assert primary_kw == pytest.approx(shown["active_power_total"], abs=0.05)
        _, output = await self.mbpoll(field, "-a", "1", "-r", "6", "-c", "2", "-t", "4", "127.0.0.1")
        assert self.values(output) == [20, 10]

    async def test_reads_input_floats_of_another_unit(self, field: Field) -> None:
        status, output = await self.mbpoll(field, "-a", "2", "-r", "0", "-c", "3", "-t", "3:float", "-B", "127.0.0.1")
        assert status == 0, output
        assert all(200 < volts < 245 for volts in self.values(output))

    async def test_opens_and_closes_the_breaker(self, field: Field) -> None:
        for word, status, power in (("0x0000", "0x000F", 0.0), ("0xFF00", "0x00F0", None)):
            code, output = await self.mbpoll(field, "-a", "3", "-r", "13", "-t", "4:hex", "127.0.0.1", "--", word)
            assert code == 0, output
            _, output = await self.mbpoll(field, "-a", "3", "-r", "0", "-t", "3:hex", "127.0.0.1")
            assert status in output
            _, output = await self.mbpoll(field, "-a", "2", "-r", "52", "-t", "3:float", "-B", "127.0.0.1")
            assert (self.values(output)[0] == 0.0) == (power == 0.0)

    async def test_a_wide_read_of_the_breaker_is_refused(self, field: Field) -> None:
        status, output = await self.mbpoll(field, "-a", "3", "-r", "0", "-c", "2", "-t", "3:hex", "127.0.0.1")
        assert status != 0
        assert "Illegal data value" in output

    async def test_switches_a_relay(self, field: Field) -> None:
        await self.mbpoll(field, "-a", "4", "-r", "2", "-t", "0", "127.0.0.1", "--", "1")
        _, output = await self.mbpoll(field, "-a", "4", "-r", "0", "-c", "8", "-t", "0", "127.0.0.1")
        assert self.values(output) == [0, 0, 1, 0, 0, 0, 0, 0]

    async def test_an_absent_unit_behind_a_gateway(self, field: Field) -> None:
        status, output = await self.mbpoll(field, "-a", "77", "-r", "0", "-t", "3:hex", "127.0.0.1")
        assert status != 0
        assert "Target device failed to respond" in output


class TestPymodbus:
    async def test_reads_what_the_devices_show(self, field: Field) -> None:
        client = await connect(field)
        reply = await client.read_input_registers(0, count=60, device_id=2)
        shown = field.devices["branch"].shown(datetime.now(UTC).timestamp())
        client.close()
        volts = floats(reply.registers)[:3]
        assert volts == pytest.approx([shown[f"voltage_{phase}"] or 0.0 for phase in "abc"], abs=0.2)

    async def test_rtu_frames_over_tcp(self, field: Field) -> None:
        client = await connect(field, "rtu", framer=FramerType.RTU)
        for count in (2, 60):
            reply = await client.read_input_registers(0, count=count, device_id=1)
            assert 200 < floats(reply.registers)[0] < 245
        refused = await client.read_input_registers(0, count=81, device_id=1)
        client.close()
        assert (refused.isError(), refused.exception_code) == (True, 3)

    async def test_many_clients_at_once(self, field: Field) -> None:
        async def one(number: int) -> float:
            client = await connect(field)
            reply = await client.read_input_registers(0, count=2, device_id=2)
            client.close()
            return floats(reply.registers)[0]

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(number)) for number in range(100)]
        assert all(200 < task.result() < 245 for task in asked)
        assert field.servers["gateway"].traffic.accepted == 100

    async def test_a_silent_unit_leaves_its_neighbour_alone(self, field: Field) -> None:
        order(field, "meter", "silent")
        client = await connect(field, timeout_s=HASTE_S)
        with pytest.raises(ModbusException):
            await client.read_holding_registers(0x2006, count=2, device_id=1)
        reply = await client.read_input_registers(0, count=2, device_id=2)
        client.close()
        assert not reply.isError()

    async def test_an_absent_unit_of_a_silent_gateway(self, field: Field) -> None:
        client = await connect(field, "silent-gateway", timeout_s=HASTE_S)
        with pytest.raises(ModbusException):
            await client.read_input_registers(1, count=1, device_id=9)
        assert not (await client.read_input_registers(1, count=2, device_id=1)).isError()
        client.close()

    async def test_an_ordered_exception(self, field: Field) -> None:
        order(field, "meter", "exception:code=6,functions=3")
        client = await connect(field)
        busy = await client.read_holding_registers(0x2006, count=2, device_id=1)
        client.close()
        assert busy.exception_code == 6
        assert field.servers["gateway"].traffic.refused == 0  # the device itself refused nothing

    async def test_a_slow_device_answers_late_but_right(self, field: Field) -> None:
        order(field, "branch", "slow:delay_s=0.05")
        client = await connect(field)
        reply = await client.read_input_registers(0, count=2, device_id=2)
        client.close()
        assert 200 < floats(reply.registers)[0] < 245

    async def test_a_dropped_connection(self, field: Field) -> None:
        order(field, "branch", "drop")
        client = await connect(field, timeout_s=HASTE_S)
        with pytest.raises(ModbusException):
            await client.read_input_registers(0, count=2, device_id=2)
        assert not client.connected
        client.close()

    async def test_not_measured_is_a_marker(self, field: Field) -> None:
        order(field, "branch", "nan:points=voltage_a")
        client = await connect(field)
        reply = await client.read_input_registers(0, count=4, device_id=2)
        client.close()
        assert reply.registers[:2] == [0x7FC0, 0]
        assert 200 < floats(reply.registers)[1] < 245

    async def test_a_stale_answer_is_taken_for_the_next_over_rtu(self, field: Field) -> None:
        """The trap of RTU over TCP: nothing in the frame tells whose answer it is."""
        order(field, "serial", "stale:duration_s=3600")
        client = await connect(field, "rtu", timeout_s=HASTE_S, framer=FramerType.RTU)
        with pytest.raises(ModbusException):
            await client.read_input_registers(0x0000, count=2, device_id=1)  # voltage a
        mistaken = await client.read_input_registers(0x0046, count=2, device_id=1)  # frequency
        client.close()
        assert 200 < floats(mistaken.registers)[0] < 245

    async def test_a_stale_answer_is_told_by_its_number_over_tcp(self, field: Field) -> None:
        order(field, "branch", "stale")
        client = await connect(field, timeout_s=HASTE_S)
        with pytest.raises(ModbusException):
            await client.read_input_registers(0x0000, count=2, device_id=2)
        field.faults.clear("branch")
        order(field, "branch", "slow:delay_s=0.01")  # the held answer leaves first
        reply = await client.read_input_registers(0x0046, count=2, device_id=2)
        client.close()
        assert floats(reply.registers)[0] == pytest.approx(50.0, abs=0.1)


class TestBytes:
    """What goes over the wire, without any client's understanding of it."""

    REQUEST = "0007 0000 0006 02 04 0000 0002".replace(" ", "")

    async def test_two_requests_in_one_segment_and_one_in_two(self, field: Field) -> None:
        both = await raw(field, self.REQUEST + self.REQUEST, 26)
        assert len(both) == 26
        assert both[:9].hex() == both[13:22].hex() == "000700000007020404"
        reader, writer = await asyncio.open_connection("127.0.0.1", port(field))
        writer.write(bytes.fromhex(self.REQUEST[:10]))
        await writer.drain()
        writer.write(bytes.fromhex(self.REQUEST[10:]))
        async with asyncio.timeout(PATIENCE_S):
            assert len(await reader.readexactly(13)) == 13
        writer.close()

    @pytest.mark.parametrize(
        ("shape", "size", "start"),
        [
            ("noise", 23, "a0a1a2"),
            ("wrong_unit", 13, "000700000007030404"),
            ("wrong_function", 13, "000700000007020104"),
            ("wrong_count", 13, "000700000007020406"),
            ("wrong_transaction", 13, "000800000007020404"),
            ("truncated", 6, "000700000007"),
            ("doubled", 26, "000700000007020404"),
            ("split", 13, "000700000007020404"),
        ],
    )
    async def test_garbage(self, field: Field, shape: str, size: int, start: str) -> None:
        order(field, "branch", f"garbage:shape={shape}")
        got = await raw(field, self.REQUEST, 99)
        assert len(got) == size
        assert got.hex().startswith(start)

    @pytest.mark.parametrize(
        "request_",
        ["0007 0001 0006 02 04 0000 0002", "0007 0000 0001 02 04 0000 0002", "0007 0000 0100 02 04 0000 0002"],
        ids=["other protocol", "no function", "too long"],
    )
    async def test_what_is_not_modbus_ends_the_connection(self, field: Field, request_: str) -> None:
        assert await raw(field, request_.replace(" ", ""), 13) == b""
        assert field.servers["gateway"].traffic.requests == 0

    async def test_rtu_finds_back_into_step_after_garbage(self, field: Field) -> None:
        frame = "0104000000 02 71cb".replace(" ", "")
        got = await raw(field, "ffee" + frame, 9, "rtu")
        assert got[:3].hex() == "010404"

    async def test_a_serial_line_answers_one_after_the_other(self) -> None:
        paced = {**FIELD, "lines": [{**line, "pace_s": 0.02} for line in FIELD["lines"]]}  # type: ignore[dict-item]
        field = Field(FieldFile.model_validate(paced), clock=SystemClock(), refresh_s=0.0)
        await field.start()
        got = await raw(field, self.REQUEST * 3, 39)
        await field.stop()
        assert len(got) == 39


async def test_stopping_ends_connections(field: Field) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(field))
    writer.write(bytes.fromhex(TestBytes.REQUEST))
    async with asyncio.timeout(PATIENCE_S):
        await reader.readexactly(13)
        await field.stop()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
