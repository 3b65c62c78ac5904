"""Simulated lines of several protocols on real sockets and terminals, read by a library that is not ours: dlt645."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import serial

from libs.common.clock import SystemClock
from libs.fieldsim.faults import parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0
HASTE_S = 0.3
"""For answers that are not to come."""

ENERGY = bytes.fromhex("68 34 12 00 00 00 00 68 11 04 33 33 34 33 F8 16")
WATER = bytes.fromhex("68 10 66 55 44 33 22 11 00 01 03 1F 90 00 90 16")
ROOM = b"~200380410000FDAE\r"
REGISTERS = bytes.fromhex("01 04 00 00 00 02 71 CB")


def field_on(**line: object) -> Field:
    here: dict[str, object] = {"site": "s", "line": "line", "loads": ["load"]}
    return Field(
        FieldFile.model_validate(
            {
                "schema": "field/1",
                "loads": [{"id": "load", "constant_kw": 1.5}],
                "lines": [{"id": "line", "framing": "stream", **line}],
                "devices": [
                    {"id": "meter", "address": "1234", "profile": "dlt645_2007_meter", **here},
                    {"id": "water", "address": "112233445566", "profile": "cjt188_water_meter", **here},
                    {"id": "room", "address": "3", "profile": "yd1363_environment", "site": "s", "line": "line"},
                    {"id": "branch", "unit": 1, "profile": "eastron_sdm630", **here},
                ],
            }
        ),
        clock=SystemClock(),
        refresh_s=0.0,
    )


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    running = field_on()
    await running.start()
    yield running
    await running.stop()


def now_s() -> float:
    return datetime.now(UTC).timestamp()


async def asked(field: Field, *pieces: bytes, silent: bool = False) -> bytes:
    """Send pieces and return what comes back until nothing more does or the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", field.servers["line"].port)
    got = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while True:
            async with asyncio.timeout(HASTE_S if got or silent else PATIENCE_S):
                piece = await reader.read(4096)
            if not piece:
                return got
            got += piece
    except (TimeoutError, ConnectionResetError):
        return got
    finally:
        writer.close()


async def test_an_independent_client_reads_what_the_meter_shows(field: Field) -> None:
    energy, voltage, power = 0x00010000, 0x02010100, 0x02030000
    wanted = [f"0:{energy}", f"2:{voltage}", f"2:{power}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "tests" / "peers" / "dlt645_reader.py", str(field.servers["line"].port), "341200000000",
        *wanted, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, complaints = await process.communicate()
    lines = [line for line in output.decode().splitlines() if line.startswith("found ")]
    assert lines, complaints.decode()
    found = json.loads(lines[0].removeprefix("found "))
    shown = field.devices["meter"].shown(now_s())
    assert float(found[str(energy)]) == pytest.approx(shown["energy_active_import"], abs=0.05)
    assert 200 < float(found[str(voltage)]) < 245
    assert float(found[str(power)]) == pytest.approx(1.5, abs=0.001)
    assert found["address"] == "341200000000"


async def test_four_protocols_answer_on_one_connection(field: Field) -> None:
    got = await asked(field, b"\xfe\xfe" + ENERGY[:5], ENERGY[5:] + b"\x00", WATER, ROOM + REGISTERS)
    assert b"\x68\x34\x12\x00\x00\x00\x00\x68\x91" in got
    assert b"\x68\x10\x66\x55\x44\x33\x22\x11\x00\x81" in got
    assert b"~20038000" in got
    assert got[-9:-6] == b"\x01\x04\x04"


async def test_nobody_answers_for_somebody_else(field: Field) -> None:
    assert (
        await asked(field, ENERGY.replace(b"\x34\x12", b"\x35\x12").replace(b"\xf8\x16", b"\xf9\x16"), silent=True)
        == b""
    )


@pytest.mark.parametrize(
    ("fault", "answers"),
    [("silent", 0), ("drop", 0), ("stale", 0), ("slow:delay_s=0.05", 1), ("garbage:shape=split", 1),
     ("garbage:shape=doubled", 2), ("garbage:shape=truncated", 0), ("garbage:shape=wrong_checksum", 0),
     ("garbage:shape=wrong_unit", 0), ("garbage:shape=wrong_function", 0), ("garbage:shape=noise", 0)],
)  # fmt: skip
async def test_faults_on_order(field: Field, fault: str, answers: int) -> None:
    field.faults.place("meter", parse_order(fault), now_s())
    got = await asked(field, ENERGY, silent=fault in ("silent", "stale"))
    assert sum(is_energy(piece) for piece in got.split(b"\xfe\xfe")) == answers
    assert (got != b"") == (fault not in ("silent", "drop", "stale"))


def is_energy(frame: bytes) -> bool:
    """Return whether a frame is whole and is the answer to ``ENERGY``."""
    return (
        frame.startswith(b"\x68\x34\x12\x00\x00\x00\x00\x68\x91\x08\x33\x33\x34\x33")
        and len(frame) == 20
        and frame[-2] == sum(frame[:-2]) & 0xFF
    )


async def test_error_on_order(field: Field) -> None:
    field.faults.place("meter", parse_order("exception:code=2"), now_s())
    assert (await asked(field, ENERGY))[10:13] == b"\xd1\x01\x35"


async def test_late_answer_comes_before_the_next(field: Field) -> None:
    field.faults.place("meter", parse_order("stale"), now_s())
    voltage = bytes.fromhex("68 34 12 00 00 00 00 68 11 04 33 34 34 35 FB 16")
    got = await asked(field, ENERGY, voltage)
    assert [is_energy(piece) for piece in got.split(b"\xfe\xfe")] == [False, True]


async def test_line_on_a_terminal(tmp_path: Path) -> None:
    running = field_on(pty=str(tmp_path / "tty"))
    await running.start()
    try:
        assert running.endpoints == {"line": str(tmp_path / "tty")}

        def read() -> bytes:
            with serial.Serial(str(tmp_path / "tty"), 9600, timeout=PATIENCE_S) as port:
                port.write(ENERGY)
                found: bytes = port.read_until(b"\x16")
                return found

        got = await asyncio.to_thread(read)
        assert b"\x68\x34\x12\x00\x00\x00\x00\x68\x91" in got
    finally:
        await running.stop()
    assert not (tmp_path / "tty").is_symlink()
