"""DL/T 645-2007 frames and values, by the vectors of southbound.md 3.5 and by frames cut and garbled at random."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.codecs import bcd, dlt645
from services.ingest.domain.codecs.dlt645 import Frame, Function
from tests.unit.ingest.stream_scan import cut, every_split, feed

METER = "000000001234"
UNTIL = datetime(2026, 12, 31, 23, 59, 59)  # noqa: DTZ001 - a meter's clock has no zone
READ = "68 34 12 00 00 00 00 68 11 04 33 33 34 33 F8 16"
ENERGY = "68 34 12 00 00 00 00 68 91 08 33 33 34 33 89 67 45 33 E4 16"
POWER = "68 34 12 00 00 00 00 68 91 07 33 33 36 35 45 B7 B5 30 16"
NO_SUCH_DATA = "68 34 12 00 00 00 00 68 D1 01 35 1D 16"
ACCEPTED = "68 34 12 00 00 00 00 68 9C 00 B2 16"
REFUSED = "68 34 12 00 00 00 00 68 DC 01 37 2A 16"
OWN_ADDRESS = "68 34 12 00 00 00 00 68 93 06 67 45 33 33 33 33 27 16"

addresses = st.from_regex(r"[0-9]{12}", fullmatch=True)
frames = st.builds(Frame, addresses, st.integers(0, 255), st.binary(max_size=200))
noise = st.binary(max_size=20).map(lambda data: data.replace(b"\x68", b"\xfe"))


def only(text: str) -> Frame:
    consumed, frame = dlt645.scan(bytes.fromhex(text))
    assert consumed == len(bytes.fromhex(text))
    assert frame is not None
    return frame


def control(kind: int) -> str:
    frame = dlt645.control(METER, kind, level=2, password="123456", operator="0", until=UNTIL)
    return dlt645.encode(frame).hex(" ").upper()


class TestVectors:
    def test_read_request(self) -> None:
        assert dlt645.encode(dlt645.read(METER, 0x00010000)) == bytes.fromhex(READ)
        assert not only(READ).is_answer

    def test_energy_1234_56_kwh(self) -> None:
        frame = only(ENERGY)
        assert (frame.address, frame.function, frame.is_answer, frame.has_more) == (METER, Function.READ, True, False)
        assert dlt645.identifier(frame.data) == 0x00010000
        assert bcd.number(frame.data[4:]) == 123456

    def test_voltage_230_1_and_current_12_345(self) -> None:
        data = bytes((byte - 0x33) & 0xFF for byte in bytes.fromhex("33 34 34 35 34 56"))
        assert dlt645.identifier(data) == 0x02010100
        assert bcd.number(data[4:]) == 2301
        assert bcd.number(bytes((byte - 0x33) & 0xFF for byte in bytes.fromhex("78 56 34")), signed=True) == 12345

    def test_power_of_minus_2_8412_kw(self) -> None:
        frame = only(POWER)
        assert dlt645.identifier(frame.data) == 0x02030000
        assert bcd.number(frame.data[4:], signed=True) == -28412

    def test_refusals(self) -> None:
        frame = only(NO_SUCH_DATA)
        assert frame.is_error
        assert dlt645.refusal(frame) == (dlt645.Refusal.NO_SUCH_DATA, "no such data")
        assert dlt645.refusal(only(REFUSED))[0] is dlt645.Refusal.NOT_AUTHORISED

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (0x1A, "68 34 12 00 00 00 00 68 1C 10 35 89 67 45 33 33 33 33 4D 33 8C 8C 56 64 45 59 68 16"),
            (0x1B, "68 34 12 00 00 00 00 68 1C 10 35 89 67 45 33 33 33 33 4E 33 8C 8C 56 64 45 59 69 16"),
            (0x1C, "68 34 12 00 00 00 00 68 1C 10 35 89 67 45 33 33 33 33 4F 33 8C 8C 56 64 45 59 6A 16"),
        ],
        ids=["trip", "permit closing", "close"],
    )
    def test_control(self, kind: int, expected: str) -> None:
        assert control(kind) == expected

    def test_control_accepted(self) -> None:
        frame = only(ACCEPTED)
        assert (frame.function, frame.is_answer, frame.is_error, frame.data) == (Function.CONTROL, True, False, b"")

    def test_broadcast_time(self) -> None:
        frame = dlt645.broadcast_time(datetime(2026, 6, 2, 15, 59, 30))  # noqa: DTZ001
        assert dlt645.encode(frame).hex(" ").upper() == "68 99 99 99 99 99 99 68 08 06 63 8C 48 35 39 59 72 16"

    def test_read_address(self) -> None:
        assert dlt645.encode(dlt645.read_address()).hex(" ").upper() == "68 AA AA AA AA AA AA 68 13 00 DF 16"
        assert bcd.digits(only(OWN_ADDRESS).data) == METER


class TestStream:
    def test_vectors_joined_with_wake_up_bytes_are_found_wherever_they_are_cut(self) -> None:
        texts = (READ, ENERGY, NO_SUCH_DATA, ACCEPTED, OWN_ADDRESS)
        stream = b"".join(dlt645.WAKE_UP + bytes.fromhex(text) for text in texts)
        every_split(dlt645.scan, stream, [only(text) for text in texts])

    def test_a_start_byte_inside_data_and_before_a_frame_misleads_nobody(self) -> None:
        # 35 + 33 is 68: a data byte that looks like a start, and one more before the frame that promises 255 bytes.
        frame = Frame(METER, 0x91, bytes.fromhex("00000100 35 35 35 35"))
        lie = bytes.fromhex("68 00 00 00 00 00 00 68 91 FF")
        every_split(dlt645.scan, b"\x68\xfe" + lie + dlt645.encode(frame), [frame])

    def test_bad_checksum_costs_that_frame_only(self) -> None:
        broken = bytearray.fromhex(ENERGY)
        broken[-2] ^= 1
        assert feed(dlt645.scan, [bytes(broken) + bytes.fromhex(POWER)])[0] == [only(POWER)]

    @given(st.lists(st.tuples(noise, frames), max_size=4), st.lists(st.integers(0, 4000), max_size=6))
    def test_frames_between_noise_are_all_found(self, parts: list[tuple[bytes, Frame]], places: Sequence[int]) -> None:
        stream = b"".join(before + dlt645.encode(frame) for before, frame in parts)
        assert feed(dlt645.scan, cut(stream, places))[0] == [frame for _, frame in parts]

    @given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4), frames)
    def test_no_bytes_raise_and_none_deafen(self, garbage: bytes, places: Sequence[int], last: Frame) -> None:
        found, kept = feed(dlt645.scan, [*cut(garbage, places), dlt645.encode(last)])
        assert found[-1] == last
        assert len(kept) <= dlt645.HEADER + dlt645.MAX_DATA + dlt645.TRAILER

    @given(frames)
    def test_what_was_encoded_is_read_back(self, frame: Frame) -> None:
        assert dlt645.scan(dlt645.encode(frame)) == (len(frame.data) + 12, frame)


class TestAddresses:
    @pytest.mark.parametrize(("text", "full"), [("1234", METER), ("AA" * 6, "AA" * 6), ("AAAAAAAA1234",) * 2])
    def test_short_numbers_are_padded_and_wildcards_kept(self, text: str, full: str) -> None:
        assert dlt645.normal_address(text) == full

    @pytest.mark.parametrize("text", ["", "12a4", "1234567890123", "AA12", "12AAAAAAAAAA", " 1"])
    def test_what_is_no_address_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="no DL/T 645 address"):
            dlt645.normal_address(text)

    def test_wildcards_mean_every_meter_that_fits(self) -> None:
        assert dlt645.matches("AAAAAAAA1234", METER)
        assert dlt645.matches(dlt645.ANY, METER)
        assert not dlt645.matches("AAAAAAAA1235", METER)


class TestValues:
    @given(st.integers(-7_999_999, 7_999_999))
    def test_signed_numbers_there_and_back(self, value: int) -> None:
        assert bcd.number(bcd.encode(value, 4, signed=True), signed=True) == value

    @pytest.mark.parametrize("data", ["FFFF", "FFFFFF", "3A01", "", "F0FF"], ids=["FF", "FFF", "digit A", "none", "F0"])
    def test_what_is_no_number_is_none(self, data: str) -> None:
        assert bcd.number(bytes.fromhex(data)) is None
        assert bcd.number(bytes.fromhex(data), signed=True) is None

    @given(st.binary(max_size=8), st.booleans())
    def test_no_bytes_raise(self, data: bytes, signed: bool) -> None:
        bcd.number(data, signed=signed)
        bcd.digits(data)
        dlt645.clock(data, data)
        list(dlt645.load_records(data * 9))

    def test_clock(self) -> None:
        found = dlt645.clock(bytes.fromhex("02 02 06 26"), bytes.fromhex("30 59 15"))
        assert found == datetime(2026, 6, 2, 15, 59, 30)  # noqa: DTZ001
        assert dlt645.clock(bytes.fromhex("02 31 02 26"), bytes.fromhex("30 59 15")) is None

    def test_secrets_are_not_shown(self) -> None:
        frame = dlt645.control(METER, 0x1A, level=2, password="271828", operator="31415", until=UNTIL)
        assert "27" not in repr(frame).replace(METER, "")
        with pytest.raises(ValueError, match="six digits") as caught:
            dlt645.control(METER, 0x1A, level=2, password="27182", operator="0", until=UNTIL)
        assert "27182" not in str(caught.value)


class TestBlocks:
    def test_voltages_powers_energies_and_status_words(self) -> None:
        assert dlt645.block_of(0x02010200) == 0x0201FF00
        assert [item.di for item in dlt645.block_items(0x0203FF00)] == [
            0x02030000, 0x02030100, 0x02030200, 0x02030300,
        ]  # fmt: skip
        assert dlt645.block_of(0x00010400) == 0x0001FF00
        assert dlt645.block_of(0x04000503) == 0x040005FF
        assert dlt645.block_items(0x040005FF)[2] == dlt645.BlockItem(0x04000503, 2)

    @pytest.mark.parametrize("di", [0x02800002, 0x04000101, 0x00010001, 0x02010400])
    def test_items_of_no_block(self, di: int) -> None:
        assert dlt645.block_of(di) is None


class TestLoadRecords:
    def record(self, classes: Sequence[bytes], *, mark: bytes = b"\xa0\xa0", off_by: int = 0) -> bytes:
        body = bytes.fromhex("15 06 02 06 26") + b"".join(each + b"\xaa" for each in classes)
        start = mark + bytes((len(body),)) + body
        return start + bytes(((sum(start) + off_by) & 0xFF, 0xE5))

    def classes(self) -> list[bytes]:
        first = bcd.encode(2301, 2) * 3 + bcd.encode(12345, 3) * 3 + bcd.encode(5000, 2)
        energy = bcd.encode(123456, 4) + bcd.encode(7, 4) + bytes(8)
        return [first, b"", b"", energy, b"", b""]

    def test_recorded_classes_are_read_and_others_left_out(self) -> None:
        (record,) = dlt645.load_records(self.record(self.classes()))
        assert record.local == datetime(2026, 6, 2, 6, 15)  # noqa: DTZ001
        assert bcd.number(record.values[0x02010300]) == 2301
        assert bcd.number(record.values[0x00010000]) == 123456
        assert 0x02030000 not in record.values

    def test_value_that_looks_like_a_separator_is_taken_for_no_number(self) -> None:
        first = bytes.fromhex("AA AA") * 3 + bcd.encode(1, 3) * 3 + bcd.encode(5000, 2)
        records = list(dlt645.load_records(self.record([first, b"", b"", b"", b"", b""])))
        assert [record.values for record in records] == [{}]

    def test_bad_ones_between_good_ones_are_left_out(self) -> None:
        good = self.record(self.classes())
        marked, wrong = self.record(self.classes(), mark=b"\xe0\xe0"), self.record(self.classes(), off_by=1)
        found = list(dlt645.load_records(good + b"\xff\xff" + marked + wrong + good))
        assert len(found) == 2

    @given(st.binary(max_size=300))
    def test_no_bytes_raise(self, data: bytes) -> None:
        list(dlt645.load_records(data))
        list(dlt645.load_records(self.record([data[:24]])))


class TestBroadcastRule:
    @pytest.mark.parametrize(
        ("hour", "minute", "skew_s", "allowed"),
        [
            (12, 0, 30, True), (12, 0, -299, True), (12, 0, 300, False), (0, 4, 30, False), (23, 56, 30, False),
            (23, 54, 30, True), (0, 6, 30, True), (8, 3, 30, False),
        ],
    )  # fmt: skip
    def test_not_near_midnight_or_settlement_and_not_far_off(
        self, hour: int, minute: int, skew_s: int, allowed: bool
    ) -> None:
        local = datetime(2026, 6, 2, hour, minute)  # noqa: DTZ001
        assert dlt645.may_broadcast(local, timedelta(seconds=skew_s), settlement_hours=(8,)) is allowed


def test_date_and_time_are_written_with_password_and_operator() -> None:
    secret = {"level": 2, "password": "123456", "operator": "7"}
    time = dlt645.write(METER, 0x04000102, dlt645.time_content(UNTIL), **secret)  # type: ignore[arg-type]
    assert (time.function, time.data.hex()) == (Function.WRITE, "02010004" + "02563412" + "07000000" + "595923")
    date = dlt645.write(METER, 0x04000101, dlt645.date_content(UNTIL), **secret)  # type: ignore[arg-type]
    assert date.data.hex() == "01010004" + "02563412" + "07000000" + "04311226"  # a Thursday
    assert dlt645.clock(dlt645.date_content(UNTIL), dlt645.time_content(UNTIL)) == UNTIL
    with pytest.raises(ValueError, match="six digits") as refused:
        dlt645.write(METER, 0x04000102, b"", level=2, password="12345", operator="7")
    assert "12345" not in str(refused.value)
