"""A DL/T 645 session: blocks and single items, what a meter refuses, frames that follow, clocks, and controls."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, Dlt645Point, ProfileCatalogue
from libs.common.secretstore import Secret
from services.ingest.domain.codecs import bcd, dlt645
from services.ingest.domain.codecs.dlt645 import Frame, Function
from services.ingest.domain.normalise import Normaliser, Ratios
from services.ingest.drivers.dlt645 import ClockSetting, Dlt645Device
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent
from tests.unit.ingest.line_of_frames import Wire, line_of

METER: DeviceProfile = ProfileCatalogue.load().get("dlt645_2007_meter")
BREAKER: DeviceProfile = ProfileCatalogue.load().get("dlt645_2007_breaker")
ADDRESS = "000000001234"
SECRET = Secret(Path("secrets/line"), {"password": "123456", "operator": "77"})


class Meter:
    """Holds items as bytes; answers like a meter, and is silent to frames for others."""

    def __init__(self, items: Mapping[int, bytes] | None = None, address: str = ADDRESS) -> None:
        self.address = address
        self.items = dict(items or {})
        self.asked: list[Frame] = []
        self.refuses: dict[int, int] = {}
        self.parts: dict[int, list[bytes]] = {}
        self.control: Callable[[Frame], Frame] = lambda frame: Frame(self.address, 0x9C)
        self.wrap: Callable[[bytes], bytes | list[bytes]] = lambda data: data

    def __call__(self, request: bytes) -> bytes | list[bytes]:
        _, frame = dlt645.scan(request)
        assert frame is not None
        self.asked.append(frame)
        answer = self.answer(frame)
        return b"" if answer is None else self.wrap(dlt645.encode(answer))

    def answer(self, frame: Frame) -> Frame | None:
        if not dlt645.matches(frame.address, self.address):
            return None
        if frame.function == Function.CONTROL:
            return self.control(frame)
        if frame.function == Function.READ_ADDRESS:
            return Frame(self.address, 0x93, bytes.fromhex(self.address)[::-1])
        di = dlt645.identifier(frame.data)
        assert di is not None
        if di in self.refuses:
            return Frame(self.address, frame.control | 0xC0, bytes((self.refuses[di],)))
        if di in self.parts:
            number = frame.data[4] if frame.function == Function.READ_NEXT else 0
            more = 0x20 if number + 1 < len(self.parts[di]) else 0
            tail = bytes((number,)) if number else b""
            return Frame(self.address, frame.control | 0x80 | more, frame.data[:4] + self.parts[di][number] + tail)
        if di not in self.items:
            return Frame(self.address, frame.control | 0xC0, b"\x02")
        return Frame(self.address, frame.control | 0x80, frame.data[:4] + self.items[di])

    @property
    def asked_for(self) -> list[int | None]:
        return [dlt645.identifier(frame.data) for frame in self.asked]


def content(point: Dlt645Point, value: int) -> bytes:
    if point.format == "bitmap":
        return value.to_bytes(point.byte_count, "little")
    return bcd.encode(value, point.byte_count, signed=point.signed)


def items(profile: DeviceProfile, **values: int) -> dict[int, bytes]:
    """Return all items of a profile: 1 each, unless said otherwise, a clock that is right."""
    local = datetime.now(UTC).astimezone(CIVIL_ZONE)
    found = {point.di: content(point, values.get(point.name, 1)) for point in profile.dlt645_points()}
    return found | clock_items(local)


def clock_items(local: datetime) -> dict[int, bytes]:
    stamp = dlt645.bcd_time(local)
    return {0x04000101: bytes((local.isoweekday() % 7,)) + stamp[3:], 0x04000102: stamp[:3]}


def with_blocks(found: dict[int, bytes], *blocks: int) -> dict[int, bytes]:
    whole = {block: b"".join(found.get(item.di, b"") for item in dlt645.block_items(block)) for block in blocks}
    return found | whole


def device(
    meter: Meter, profile: DeviceProfile = METER, *, address: str = ADDRESS, secret: Secret | None = SECRET,
    setting: ClockSetting | None = None,
) -> tuple[Dlt645Device, Wire]:  # fmt: skip
    wire = Wire(meter)
    credentials = None if secret is None else lambda: secret
    session = Dlt645Device(
        line_of(wire), Address("m-1", address, profile), credentials=credentials, clock_setting=setting
    )
    return session, wire


async def test_meter_without_blocks_is_asked_item_by_item_and_blocks_are_not_tried_again() -> None:
    meter = Meter(items(METER, voltage_a=2301, active_power_total=-28412, energy_active_import=123456))
    session, _ = device(meter)
    report = await session.read()
    points = Normaliser(METER).measure(report.raw, Ratios()).points
    assert points["voltage_a"] == 230.1
    assert points["active_power_total"] == -2.8412
    assert points["energy_active_import"] == 1234.56
    assert report.failed == {}
    assert 0x0201FF00 in meter.asked_for
    meter.asked.clear()
    await session.read()
    assert 0x0201FF00 not in meter.asked_for
    assert 0x04000101 not in meter.asked_for  # slow points wait for tomorrow


async def test_blocks_save_requests_and_give_the_same_numbers() -> None:
    found = items(METER, voltage_a=2301, voltage_b=2302, voltage_c=2303, power_factor_b=-987)
    plain, _ = device(Meter(found))
    expected = (await plain.read()).raw
    meter = Meter(with_blocks(found, 0x0201FF00, 0x0202FF00, 0x0203FF00, 0x0206FF00, 0x0001FF00))
    # The energy block ends after the tariffs that the meter has.
    meter.items[0x0001FF00] = meter.items[0x0001FF00][:20]
    session, _ = device(meter)
    assert (await session.read()).raw == expected
    assert 0x02010200 not in meter.asked_for
    assert expected["power_factor_b"] == -987


async def test_block_that_breaks_off_is_completed_by_single_items() -> None:
    found = items(METER, voltage_b=2302)
    meter = Meter({**found, 0x0201FF00: found[0x02010100]})
    session, _ = device(meter)
    report = await session.read()
    assert report.raw["voltage_b"] == 2302
    assert {0x02010200, 0x02010300} <= set(meter.asked_for)


async def test_phase_that_does_not_exist_is_no_number() -> None:
    meter = Meter(items(METER) | {0x02010200: b"\xff\xff"})
    session, _ = device(meter)
    report = await session.read()
    assert report.raw["voltage_b"] is None
    assert Normaliser(METER).measure(report.raw, Ratios()).quality["voltage_b"] == "invalid"


async def test_refused_item_is_said_once_and_left_alone() -> None:
    meter = Meter(items(METER))
    del meter.items[0x02800008]
    session, _ = device(meter)
    report = await session.read()
    assert "no such data" in report.failed["battery_voltage"]
    meter.asked.clear()
    assert (await session.read()).failed == {}
    assert 0x02800008 not in meter.asked_for


async def test_one_status_word_serves_several_points() -> None:
    meter = Meter(items(BREAKER) | {0x04000503: (1 << 4 | 1 << 7).to_bytes(2, "little")})
    session, _ = device(meter, BREAKER)
    report = await session.read_points(["breaker_state", "breaker_pretrip_alarm", "breaker_command_state"])
    assert report.raw == {"breaker_state": 0, "breaker_pretrip_alarm": 1, "breaker_command_state": 1}
    assert meter.asked_for == [0x04000503]


async def test_answers_in_pieces_after_an_echo_and_behind_a_foreign_frame_are_found() -> None:
    meter = Meter(items(METER, voltage_a=2301))
    foreign = dlt645.encode(Frame("000000009999", 0x91, bytes.fromhex("00010102 9909")))
    late = dlt645.encode(Frame(ADDRESS, 0x91, bytes.fromhex("00010202 8888")))
    session, wire = device(meter)
    meter.wrap = lambda data: [wire.sent[-1], foreign[:5], foreign[5:] + late + data[:7], data[7:]]
    assert (await session.read_points(["voltage_a"])).raw == {"voltage_a": 2301}


async def test_foreign_answers_alone_are_silence() -> None:
    session, _ = device(Meter(items(METER), address="000000009999"))
    with pytest.raises(DeviceSilent):
        await session.read()


async def test_wildcard_address_reads_the_only_meter_and_tells_its_address() -> None:
    session, _ = device(Meter(items(METER, voltage_a=2301)), address="AAAAAAAAAAAA")
    assert (await session.read_points(["voltage_a"])).raw == {"voltage_a": 2301}
    assert await session.read_address() == ADDRESS
    with pytest.raises(InvalidInput, match="full address"):
        await session.write(BREAKER.controls["breaker_open"], None)


async def test_following_frames_are_put_together() -> None:
    meter = Meter(items(METER))
    energy = bcd.encode(123456, 4) + bcd.encode(1, 4) + bcd.encode(2, 4)
    meter.parts[0x0001FF00] = [energy[:5], energy[5:6], energy[6:]]
    session, _ = device(meter)
    report = await session.read_points(["energy_active_import", "energy_active_import_sharp"])
    assert report.raw == {"energy_active_import": 123456, "energy_active_import_sharp": 1}
    assert [frame.function for frame in meter.asked] == [Function.READ, Function.READ_NEXT, Function.READ_NEXT]


async def test_answer_that_never_ends_is_no_answer() -> None:
    meter = Meter()
    meter.parts[0x02800002] = [b"\x00"] * 300
    session, _ = device(meter)
    with pytest.raises(DeviceRefused, match="more than 64 frames"):
        await session.read_points(["frequency"])


async def test_item_of_another_length_is_refused_with_its_bytes() -> None:
    session, _ = device(Meter({0x02800002: b"\x00\x50\x00"}))
    report = await device(Meter({0x02800002: b"\x00\x50\x00", 0x02800008: b"\x60\x03"}))[0].read_points(
        ["frequency", "battery_voltage"]
    )
    assert report.raw == {"battery_voltage": 360}
    assert "expected 2 bytes, got 3" in report.failed["frequency"]
    with pytest.raises(DeviceRefused, match="expected 2 bytes"):
        await session.read_points(["frequency"])


async def test_silence_in_the_middle_keeps_what_was_read() -> None:
    meter = Meter(items(METER))
    session, _ = device(meter)
    await session.read()
    count = len(meter.asked)
    meter.wrap = lambda data: data if len(meter.asked) < count + 3 else b""
    report = await session.read()
    assert len(report.raw) == 2
    assert "no answer" in report.failed["frequency"]


@pytest.mark.parametrize("text", [None, "", "12AB", "1234567890123"])
def test_what_is_no_address_is_refused(text: str | None) -> None:
    with pytest.raises(InvalidInput, match="no DL/T 645 address"):
        Dlt645Device(line_of(Wire(Meter())), Address("m-1", text, METER))


class TestClock:
    def local(self, **off: float) -> datetime:
        return SystemClock().now().astimezone(CIVIL_ZONE) + timedelta(**off)

    def noon(self) -> bool:
        """Whether the standard lets clocks be set now; the tests hold at any hour."""
        return dlt645.may_broadcast(self.local().replace(tzinfo=None), timedelta(seconds=60))

    async def test_meters_clock_and_texts_are_read_once_a_day(self) -> None:
        meter = Meter(items(METER) | clock_items(self.local(minutes=-10)))
        session, _ = device(meter)
        report = await session.read()
        assert report.texts["meter_address"] == "000000000001"
        if report.device_time is not None:  # within a minute of the meter's midnight it is not told
            assert abs((report.received_at - report.device_time).total_seconds() - 600) < 5
        assert (await session.read()).device_time is None

    async def test_clocks_are_set_by_broadcast_once_and_only_where_the_line_says_so(self) -> None:
        found = items(METER) | clock_items(self.local(seconds=-60))
        plain, wire = device(Meter(found))
        await plain.read()
        assert not any(b"\x99" * 6 in sent for sent in wire.sent)
        setting = ClockSetting(enabled=True)
        may_be_set = self.noon()
        sent: list[bytes] = []
        for _ in range(2):  # two meters of one line
            session, wire = device(Meter(found), setting=setting)
            await session.read()
            sent += [data for data in wire.sent if b"\x99" * 6 in data]
        assert len(sent) == int(may_be_set)

    async def test_clock_that_is_far_off_is_not_set_by_broadcast(self) -> None:
        session, wire = device(
            Meter(items(METER) | clock_items(self.local(minutes=-6))), setting=ClockSetting(enabled=True)
        )
        await session.read()
        assert not any(b"\x99" * 6 in sent for sent in wire.sent)


class TestControl:
    async def test_time_limit_is_counted_from_the_meters_own_clock(self) -> None:
        local = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001 - a clock that stands a long way off
        meter = Meter(items(BREAKER) | clock_items(local))
        session, _ = device(meter, BREAKER)
        assert await session.write(BREAKER.controls["breaker_open"], None) == "control 1A accepted"
        control = meter.asked[-1]
        assert control.data[:4] == bytes.fromhex("02 56 34 12")
        assert control.data[4:10] == bytes.fromhex("77 00 00 00 1A 00")
        assert control.data[10:] == dlt645.bcd_time(local + timedelta(minutes=5))

    async def test_meter_that_does_not_tell_its_clock_is_switched_by_ours(self) -> None:
        session, _ = device(Meter({}), BREAKER)
        assert await session.write(BREAKER.controls["breaker_close"], None) == "control 1C accepted"

    async def test_wrong_password_is_a_refusal(self) -> None:
        meter = Meter(items(BREAKER))
        meter.control = lambda frame: Frame(ADDRESS, 0xDC, b"\x04")
        session, _ = device(meter, BREAKER)
        with pytest.raises(DeviceRefused, match="wrong password"):
            await session.write(BREAKER.controls["breaker_open"], None)

    async def test_no_answer_tells_nothing_of_the_password(self) -> None:
        meter = Meter(items(BREAKER))
        session, wire = device(meter, BREAKER)
        meter.wrap = lambda data: wire.sent[-1] if meter.asked[-1].function == Function.CONTROL else data
        with pytest.raises(DeviceSilent) as caught:
            await session.write(BREAKER.controls["breaker_open"], None)
        assert caught.value.facts == {}
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        ("secret", "reason"),
        [
            (None, "credentials_ref"),
            (Secret(Path("s"), {}), "password"),
            (Secret(Path("s"), {"password": "12345x"}), "six digits"),
        ],
    )
    async def test_without_a_usable_secret_nothing_is_sent(self, secret: Secret | None, reason: str) -> None:
        meter = Meter(items(BREAKER))
        session, _ = device(meter, BREAKER, secret=secret)
        with pytest.raises(InvalidInput, match=reason) as caught:
            await session.write(BREAKER.controls["breaker_open"], None)
        assert "12345x" not in str(caught.value)
        assert Function.CONTROL not in [frame.function for frame in meter.asked]

    async def test_meter_may_have_a_password_of_its_own(self) -> None:
        meter = Meter(items(BREAKER))
        secret = Secret(Path("s"), {"password": "123456", f"password.{ADDRESS}": "654321"})
        session, _ = device(meter, BREAKER, secret=secret)
        await session.write(BREAKER.controls["breaker_open"], None)
        assert meter.asked[-1].data[1:4] == bytes.fromhex("21 43 65")


class TestArchive:
    def record(self, local: datetime, energy: int) -> bytes:
        stamp = dlt645.bcd_time(local)
        classes = [b"", b"", b"", bcd.encode(energy, 4) + bytes(12), b"", b""]
        body = stamp[1:] + b"".join(each + b"\xaa" for each in classes)
        start = b"\xa0\xa0" + bytes((len(body),)) + body
        return start + bytes((sum(start) & 0xFF, 0xE5))

    async def test_records_come_one_an_exchange_until_the_end_of_the_span(self) -> None:
        first = datetime(2026, 3, 1, 8, 0)  # noqa: DTZ001
        stored = [first + timedelta(minutes=15 * n) for n in range(8)]

        class Remembering(Meter):
            def answer(self, frame: Frame) -> Frame | None:
                minute, hour, day, month, year = (bcd.number(frame.data[n : n + 1]) or 0 for n in range(5, 10))
                since = datetime(2000 + year, month, day, hour, minute)  # noqa: DTZ001
                found = [local for local in stored if local >= since][: frame.data[4]]
                if not found:
                    return Frame(self.address, 0xD1, b"\x02")
                records = b"".join(TestArchive().record(local, stored.index(local)) for local in found)
                return Frame(self.address, 0x91, frame.data[:4] + records)

        meter = Remembering()
        session, _ = device(meter)
        since = (first + timedelta(minutes=20)).replace(tzinfo=CIVIL_ZONE)
        found = [
            report
            async for report in session.read_archive(
                ["energy_active_import", "voltage_a", "meter_date"], since, since + timedelta(hours=1)
            )
        ]
        assert [report.raw for report in found if report.raw] == [{"energy_active_import": n} for n in (2, 3, 4, 5)]
        assert all(report.archive for report in found)
        assert found[0].source_time == datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
        rest = [
            report
            async for report in session.read_archive(["energy_active_import"], since, since.max.replace(tzinfo=UTC))
        ]
        assert len(rest) == 6

    async def test_meter_without_load_records_says_so(self) -> None:
        session, _ = device(Meter({}))
        begin = datetime(2026, 3, 1, tzinfo=UTC)
        with pytest.raises(DeviceRefused, match="no such data"):
            await anext(session.read_archive(["voltage_a"], begin, begin + timedelta(days=1)))
