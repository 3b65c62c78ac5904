"""Answers of Modbus: the quick way says what the library says, and a stream may come in any pieces."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU

from services.ingest.drivers.modbus_answers import decode_answer
from services.ingest.drivers.modbus_tcp import HEAD, Hanging, ModbusTcpLine

LIBRARY = DecodePDU(False)
REGISTERS = st.lists(st.integers(0, 0xFFFF), max_size=125)


@given(st.sampled_from([3, 4]), REGISTERS)
def test_registers_are_what_the_library_makes_of_them(function: int, words: list[int]) -> None:
    data = bytes([function, 2 * len(words)]) + b"".join(word.to_bytes(2, "big") for word in words)
    ours, theirs = decode_answer(data), LIBRARY.decode(data)
    assert ours is not None
    assert theirs is not None
    assert (type(ours), list(ours.registers), ours.function_code) == (type(theirs), words, function)


@given(st.binary(max_size=260) | st.binary(max_size=20).map(lambda tail: b"\x03" + tail))
def test_whatever_comes_is_an_answer_or_none(data: bytes) -> None:
    ours, theirs = decode_answer(data), LIBRARY.decode(data)
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert (ours.function_code, list(ours.registers)) == (theirs.function_code, list(theirs.registers))


class Wire:
    """A transport that a test looks at."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.aborted = True


def frame(number: int, unit: int, pdu: bytes) -> bytes:
    return HEAD.pack(number, 0, len(pdu) + 1, unit) + pdu


def connection() -> tuple[Hanging, Wire]:
    line, wire = ModbusTcpLine(host="h", port=1, clock=cast(Any, None)), Wire()
    found = Hanging(line)
    found.connection_made(cast(asyncio.BaseTransport, wire))
    return found, wire


async def asked(found: Hanging, limit_s: float = 30.0, unit: int = 1) -> "asyncio.Task[bytes]":
    task = asyncio.create_task(found.ask(b"\x03\0\0\0\1", unit, limit_s), name="asked")
    await asyncio.sleep(0)
    return task


@given(st.lists(st.tuples(st.integers(2, 50), st.integers(0, 9), st.binary(min_size=2, max_size=40))), st.data())
def test_the_answer_is_found_among_others_however_the_bytes_are_cut(
    others: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    async def run() -> None:
        found, wire = connection()
        task = await asked(found)
        blob = b"".join(frame(*other) for other in others) + frame(1, 1, b"\x03\2\0\7")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(blob)), max_size=8)))
        for begin, end in zip([0, *cuts], [*cuts, len(blob)], strict=True):
            found.data_received(blob[begin:end])
        assert await task == b"\x03\2\0\7"
        assert not wire.aborted

    asyncio.run(run())


async def test_every_request_has_a_number_of_its_own() -> None:
    found, wire = connection()
    for number in (1, 2, 3):
        task = await asked(found)
        found.data_received(frame(number, 1, b"\x03\2\0\7"))
        await task
    assert [HEAD.unpack_from(sent)[0] for sent in wire.sent] == [1, 2, 3]


async def test_number_0_is_taken_until_a_request_has_gone_unanswered() -> None:
    found, _ = connection()
    task = await asked(found)
    found.data_received(frame(0, 1, b"\x03\2\0\7"))
    assert await task == b"\x03\2\0\7"
    task = await asked(found, limit_s=0.0)
    with pytest.raises(TimeoutError):
        await task
    task = await asked(found, limit_s=0.05)
    found.data_received(frame(0, 1, b"\x03\2\0\7"))  # of which request?
    with pytest.raises(TimeoutError):
        await task


async def test_exception_whose_length_is_one_short_is_taken() -> None:
    found, _ = connection()
    task = await asked(found)
    found.data_received(HEAD.pack(1, 0, 2, 1) + b"\x83\x02")
    assert await task == b"\x83\x02"


async def test_what_is_no_modbus_ends_the_connection() -> None:
    found, wire = connection()
    task = await asked(found)
    found.data_received(b"GET / HTTP/1.1\r\n")
    with pytest.raises(Exception, match="no Modbus TCP"):
        await task
    assert wire.aborted


async def test_nothing_is_kept_for_ever_of_a_peer_that_sends_what_nobody_asked_for() -> None:
    found, wire = connection()
    for _ in range(2000):
        found.data_received(frame(77, 1, bytes(250)))
    found.data_received(b"\0\1\0\0\0\xfe")
    assert len(found._data) < 300
    assert not wire.aborted
