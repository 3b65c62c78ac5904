"""Finding the answer of a Modbus RTU unit in whatever a stream brings, cut at any place."""

import itertools

import hypothesis.strategies as st
from hypothesis import example, given
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest
from pymodbus.pdu.other_message import ReportDeviceIdRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, WriteSingleRegisterRequest

from services.ingest.drivers.modbus_rtu import RtuAsking, scan_answer
from services.ingest.drivers.port import BadAnswer, DeviceSilent
from tests.unit.ingest.line_of_frames import Wire, line_of


def crc16(data: bytes) -> bytes:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


def whole(unit: int, pdu: bytes) -> bytes:
    body = bytes([unit]) + pdu
    return body + crc16(body)


def fed(chunks: list[bytes], unit: int, function: int, request: bytes = b"") -> bytes | None:
    """Return what a line that is fed in chunks finds."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        consumed, found = scan_answer(rest, unit=unit, function=function, request=request)
        assert 0 <= consumed <= len(rest)
        rest = rest[consumed:]
        if found is not None:
            return found
    return None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


UNITS = st.integers(1, 247)
CUTS = st.lists(st.integers(0, 300), max_size=5)
READS = st.tuples(st.integers(1, 4), st.binary(max_size=250)).map(lambda of: bytes([of[0], len(of[1])]) + of[1])
WRITES = st.tuples(st.sampled_from([5, 6, 15, 16]), st.binary(min_size=4, max_size=4)).map(
    lambda of: bytes([of[0]]) + of[1]
)
REFUSALS = st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 15, 16]), st.integers(1, 11)).map(
    lambda of: bytes([of[0] | 0x80, of[1]])
)


@given(UNITS, READS | WRITES | REFUSALS, CUTS)
def test_answer_is_found_whole_however_it_is_cut(unit: int, pdu: bytes, places: list[int]) -> None:
    assert fed(cut(whole(unit, pdu), places), unit, pdu[0] & 0x7F) == pdu


@given(UNITS, READS | WRITES | REFUSALS, st.binary(max_size=40), CUTS)
def test_noise_before_an_answer_does_not_hide_it(unit: int, pdu: bytes, noise: bytes, places: list[int]) -> None:
    # Noise may hold a valid frame only by a chance of one in 65,536 for each place: never here.
    found = fed(cut(noise + whole(unit, pdu), places), unit, pdu[0] & 0x7F)
    assert found == pdu


@given(st.binary(max_size=600), UNITS, st.sampled_from([1, 2, 3, 4, 5, 6, 15, 16]))
def test_any_bytes_are_judged_without_error_and_little_is_kept(data: bytes, unit: int, function: int) -> None:
    consumed, found = scan_answer(data, unit=unit, function=function)
    assert 0 <= consumed <= len(data)
    if found is None:
        assert len(data) - consumed < 260  # the longest frame is 260 bytes with its checksum


@given(UNITS, READS | WRITES, st.integers(0, 7), st.integers(0, 259))
def test_one_wrong_bit_is_no_answer(unit: int, pdu: bytes, bit: int, place: int) -> None:
    data = bytearray(whole(unit, pdu))
    data[place % len(data)] ^= 1 << bit
    assert scan_answer(bytes(data), unit=unit, function=pdu[0])[1] is None


def test_answer_of_another_unit_or_function_is_none() -> None:
    assert scan_answer(whole(9, b"\x03\x02\0\1"), unit=1, function=3)[1] is None
    assert scan_answer(whole(1, b"\x04\x02\0\1"), unit=1, function=3)[1] is None


def test_echo_of_the_request_is_skipped() -> None:
    request, answer = whole(1, b"\x03\x00\x00\x00\x02"), whole(1, b"\x03\x04\x00\x01\x00\x02")
    assert scan_answer(request + answer, unit=1, function=3) == (17, b"\x03\x04\x00\x01\x00\x02")


@given(UNITS, st.integers(1, 4), st.integers(0, 0xFFFF), st.integers(1, 125), st.lists(st.integers(0, 30), max_size=3))
@example(1, 3, 0x0310, 1, [])
@example(1, 1, 0x0310, 24, [])
def test_echo_is_never_an_answer_whatever_was_asked(
    unit: int, function: int, address: int, count: int, places: list[int]
) -> None:
    """An echo of a read at 0x0310 is, by its form, an answer with three bytes of data."""
    request = whole(unit, bytes([function]) + address.to_bytes(2, "big") + count.to_bytes(2, "big"))
    answer = bytes([function, 2, 0x12, 0x34])
    assert fed(cut(request + request, places), unit, function, request) is None
    assert fed(cut(request + whole(unit, answer), places), unit, function, request) == answer


def test_write_is_answered_by_its_own_frame() -> None:
    request = whole(1, b"\x06\x03\x10\x00\x01")
    assert scan_answer(request, unit=1, function=6, request=request) == (8, request[1:-2])


QUESTIONS = [
    ReadHoldingRegistersRequest(address=0, count=1, dev_id=7),
    ReadCoilsRequest(address=0, count=9, dev_id=7),
    WriteSingleRegisterRequest(address=0, registers=[1], dev_id=7),
    ReportDeviceIdRequest(dev_id=7),
    ReadDeviceInformationRequest(dev_id=7),
]


@given(st.sampled_from(QUESTIONS), st.booleans(), st.binary(max_size=40))
@example(QUESTIONS[4], False, b"\x0e\x01\x01\x00\x00\xff")
@example(QUESTIONS[4], False, b"\x0e\x01\x01\x00\x00\x01\x00\x02\xff\xfe")
async def test_any_content_of_a_frame_is_an_answer_or_the_drivers_own_error(
    question: ModbusPDU, refused: bool, content: bytes
) -> None:
    answer = whole(7, bytes([question.function_code | (0x80 if refused else 0)]) + content)
    asking = RtuAsking(line_of(Wire(lambda _: answer)), "m-1")
    try:
        assert isinstance(await asking.request("m-1", question), ModbusPDU)
    except (DeviceSilent, BadAnswer):
        pass
