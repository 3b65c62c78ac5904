"""Simulated meters of other protocols than Modbus: by the vectors of the standards, and what a real one refuses."""

import struct
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from libs.common.errors import InvalidInput
from libs.common.testing.clock import FakeClock
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import spoken_profile
from libs.fieldsim.electrical import Load, Mains, total_energy
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, IgnoresCommands, Markers, parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from libs.fieldsim.flow import FlowMeter
from libs.fieldsim.meter import Meter
from libs.fieldsim.stream.cjt188 import Cjt188Face
from libs.fieldsim.stream.dlt645 import ZONE, Dlt645Face
from libs.fieldsim.stream.rtu import RtuFace
from libs.fieldsim.stream.server import Face
from libs.fieldsim.stream.yd1363 import Yd1363Face

NOW = datetime(2026, 6, 2, 4, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()
READ_ENERGY = bytes.fromhex("68 34 12 00 00 00 00 68 11 04 33 33 34 33 F8 16")
ADDRESS = "000000001234"


def frame(control: int, data: bytes, address: str = ADDRESS) -> bytes:
    body = b"\x68" + bytes.fromhex(address)[::-1] + b"\x68" + bytes((control, len(data)))
    body += bytes((byte + 0x33) & 0xFF for byte in data)
    return body + bytes((sum(body) & 0xFF, 0x16))


def content(answer: bytes | None) -> tuple[int, bytes]:
    """Return control and data of an answer that is a whole frame of the meter."""
    assert answer is not None
    start = answer.index(0x68)
    assert answer[start + 1 : start + 7] == bytes.fromhex(ADDRESS)[::-1]
    assert Dlt645Face.find(answer) == (start, len(answer))
    return answer[start + 8], bytes((byte - 0x33) & 0xFF for byte in answer[start + 10 : -2])


def item(di: int) -> bytes:
    return frame(0x11, di.to_bytes(4, "little"))


def meter(**changes: object) -> Dlt645Face:
    load = Load("load", constant_kw=3.0, gain=0.0)
    device = Meter(
        "m", spoken_profile("dlt645_2007_meter"), loads=[load], mains=Mains(), installed_at=NOW - timedelta(hours=100),
        faults=FaultBoard(), events=EventLog(), ct_ratio=20.0,
    )  # fmt: skip
    return Dlt645Face(device, address="1234", password="123456", **changes)  # type: ignore[arg-type]


def breaker(poles: int = 3) -> tuple[Dlt645Face, Breaker]:
    load = Load("load", phases="a" if poles == 1 else "abc", constant_kw=1.0, gain=0.0)
    device = Breaker(
        "b", spoken_profile("dlt645_2007_breaker"), load=load, mains=Mains(), faults=FaultBoard(), events=EventLog(),
        poles=poles,
    )  # fmt: skip
    return Dlt645Face(device, address="1234", password="123456"), device


def order(kind: int, *, password: str = "123456", level: int = 2, valid: timedelta = timedelta(minutes=5)) -> bytes:
    until = (NOW + valid).astimezone(ZONE).strftime("%S%M%H%d%m%y")
    data = bytes((level,)) + bytes.fromhex(password)[::-1] + bytes(4) + bytes((kind, 0)) + bytes.fromhex(until)
    return frame(0x1C, data)


class TestDlt645Meter:
    def test_energy_is_what_flowed_on_the_secondary_side(self) -> None:
        control, data = content(meter().answer(READ_ENERGY, NOW_S))
        assert (control, data[:4]) == (0x91, bytes.fromhex("00 00 01 00"))
        assert int(data[4:][::-1].hex()) == 1500  # 3 kW for 100 h over transformers of 20: 15.00 kWh

    def test_requests_for_others_and_answers_are_not_for_it(self) -> None:
        face = meter()
        assert face.is_asked(READ_ENERGY)
        assert face.is_asked(frame(0x13, b"", "AAAAAAAAAAAA"))
        assert face.is_asked(frame(0x11, bytes(4), "AAAAAAAA1234"))
        assert not face.is_asked(frame(0x11, bytes(4), "000000001235"))
        assert not face.is_asked(frame(0x11, bytes(4), "999999999999"))
        assert not face.is_asked(frame(0x91, bytes(4)))

    def test_address_is_told(self) -> None:
        assert content(meter().answer(frame(0x13, b"", "AAAAAAAAAAAA"), NOW_S)) == (
            0x93, bytes.fromhex(ADDRESS)[::-1],
        )  # fmt: skip

    @pytest.mark.parametrize("di", [0x00990000, 0x02800099, 0x0201FE00])
    def test_what_it_does_not_have_is_refused(self, di: int) -> None:
        assert content(meter().answer(item(di), NOW_S)) == (0xD1, b"\x02")

    def test_blocks_where_it_has_them(self) -> None:
        _, data = content(meter().answer(item(0x0201FF00), NOW_S))
        singles = [content(meter().answer(item(0x02010000 | n << 8), NOW_S))[1][4:] for n in (1, 2, 3)]
        assert data[4:] == b"".join(singles)
        assert content(meter(blocks=False).answer(item(0x0201FF00), NOW_S)) == (0xD1, b"\x02")

    def test_values_without_measurement_are_ff(self) -> None:
        face = meter()
        face.device.faults.place("m", Markers(points=("voltage_b",)), NOW_S)
        assert content(face.answer(item(0x02010200), NOW_S))[1][4:] == b"\xff\xff"
        assert content(face.answer(item(0x02010100), NOW_S))[1][4:] != b"\xff\xff"

    def test_clock_is_set_by_broadcast_once_a_day_and_only_a_little(self) -> None:
        face = meter(clock_offset_s=-120.0)
        stamp = NOW.astimezone(ZONE)

        def broadcast(moment: datetime) -> None:
            data = bytes.fromhex(moment.strftime("%S%M%H%d%m%y"))
            assert face.answer(frame(0x08, data, "999999999999"), NOW_S) is None

        broadcast(stamp + timedelta(minutes=10))
        assert face.clock(NOW_S) == stamp - timedelta(seconds=120)
        broadcast(stamp)
        assert face.clock(NOW_S) == stamp
        broadcast(stamp + timedelta(seconds=60))
        assert face.clock(NOW_S) == stamp

    def test_long_answers_go_on_in_further_frames(self) -> None:
        face = meter()
        since = (NOW - timedelta(hours=2)).astimezone(ZONE)
        data = (0x06000001).to_bytes(4, "little") + bytes((4,)) + bytes.fromhex(since.strftime("%M%H%d%m%y"))
        control, first = content(face.answer(frame(0x11, data), NOW_S))
        assert control == 0xB1
        records, number = first[4:], 1
        while control & 0x20:
            control, more = content(face.answer(frame(0x12, data[:4] + bytes((number,))), NOW_S))
            assert more[-1] == number
            records += more[4:-1]
            number += 1
        assert records[:2] == b"\xa0\xa0"
        assert records.count(b"\xa0\xa0") == 4
        assert records[3:8] == bytes.fromhex(since.strftime("%M%H%d%m%y"))
        assert content(face.answer(frame(0x12, data[:4] + bytes((number,))), NOW_S)) == (0xD2, b"\x02")

    def test_no_records_of_the_future(self) -> None:
        since = (NOW + timedelta(hours=2)).astimezone(ZONE)
        data = (0x06000001).to_bytes(4, "little") + b"\x01" + bytes.fromhex(since.strftime("%M%H%d%m%y"))
        assert content(meter().answer(frame(0x11, data), NOW_S)) == (0xD1, b"\x02")

    def test_shown_values_are_those_of_the_frames(self) -> None:
        face = meter()
        shown = face.shown(face.device.values(NOW_S))
        assert shown["energy_active_import"] == 15.0
        assert shown["active_power_total"] == pytest.approx(3.0)


class TestDlt645Breaker:
    def test_trip_and_close_with_a_motor_in_between(self) -> None:
        face, device = breaker()
        assert content(face.answer(order(0x1A), NOW_S)) == (0x9C, b"")
        assert self.state(face, NOW_S) == 1
        assert self.state(face, NOW_S + 2) == 0
        assert device.closed is False
        assert content(face.answer(order(0x1C), NOW_S + 3)) == (0x9C, b"")
        assert self.state(face, NOW_S + 6) == 1

    def state(self, face: Dlt645Face, now_s: float) -> int:
        """Return 1 for closed as bit 4 of status word 3 shows it."""
        return 1 - (content(face.answer(item(0x04000503), now_s))[1][4] >> 4 & 1)

    def test_permission_to_close_waits_for_somebody_at_the_device(self) -> None:
        face, device = breaker()
        face.answer(order(0x1A), NOW_S)
        assert content(face.answer(order(0x1B), NOW_S + 3)) == (0x9C, b"")
        assert self.state(face, NOW_S + 10) == 0
        device.move_by_hand(True, NOW_S + 11)
        assert self.state(face, NOW_S + 12) == 1

    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (order(0x1A, password="654321"), 4),
            (order(0x1A, level=3), 4),
            (order(0x1A, valid=timedelta(seconds=-1)), 1),
            (order(0x77), 1),
        ],
        ids=["password", "level", "expired", "kind"],
    )
    def test_what_it_refuses(self, request_: bytes, error: int) -> None:
        face, device = breaker()
        assert content(face.answer(request_, NOW_S)) == (0xDC, bytes((error,)))
        assert self.state(face, NOW_S + 5) == 1
        assert device.events.after()[0].facts["refused"] is not None

    def test_clock_that_runs_ahead_makes_commands_expired(self) -> None:
        face, device = breaker()
        device.faults.place("b", parse_order("clock:offset_s=600"), NOW_S)
        assert content(face.answer(order(0x1A), NOW_S)) == (0xDC, b"\x01")

    def test_protected_supply_is_not_tripped(self) -> None:
        face, _ = breaker()
        face.answer(order(0x3A), NOW_S)
        assert content(face.answer(order(0x1A), NOW_S)) == (0xDC, b"\x01")
        face.answer(order(0x3B), NOW_S)
        assert content(face.answer(order(0x1A), NOW_S)) == (0x9C, b"")

    def test_phases_that_it_does_not_have_are_ff(self) -> None:
        face, _ = breaker(poles=1)
        assert content(face.answer(item(0x02010200), NOW_S))[1][4:] == b"\xff\xff"
        assert content(face.answer(item(0x02010100), NOW_S))[1][4:] != b"\xff\xff"


class TestCjt188:
    READ = bytes.fromhex("68 10 66 55 44 33 22 11 00 01 03 1F 90 00 90 16")
    CLOSE = bytes.fromhex("68 10 66 55 44 33 22 11 00 04 04 17 A0 01 99 36 16")

    def meter(self) -> tuple[Cjt188Face, FlowMeter]:
        device = FlowMeter(
            "w", spoken_profile("cjt188_water_meter"), loads=[Load("l", constant_kw=2.0, gain=0.0)],
            installed_at=NOW - timedelta(hours=10), faults=FaultBoard(), events=EventLog(), initial_m3=1233.56,
        )  # fmt: skip
        return Cjt188Face(device, address="112233445566"), device

    def test_reading_in_the_shape_of_the_vector(self) -> None:
        face, _ = self.meter()
        assert face.is_asked(self.READ)
        answer = face.answer(self.READ, NOW_S)
        assert answer is not None
        assert answer[:-2] == bytes.fromhex(
            "FE FE 68 10 66 55 44 33 22 11 00 81 16 1F 90 00 56 34 12 00 2C 00 00 00 00 2C 00 00 12 02 06 26 20 00 00"
        )  # 1,233.56 m3 and 20 kWh of the curve at 0.05 m3 each
        assert Cjt188Face.find(answer) == (2, len(answer))

    def test_valve_closes_and_nothing_flows_any_more(self) -> None:
        face, device = self.meter()
        assert face.answer(self.CLOSE, NOW_S) is not None
        assert device.values(NOW_S)["valve_state"] == 0
        assert device.values(NOW_S + 3600)["water_volume"] == pytest.approx(1234.56)
        device.faults.place("w", IgnoresCommands(), NOW_S)
        face.answer(self.CLOSE[:-3] + b"\x55\xf2\x16", NOW_S)
        assert device.values(NOW_S)["valve_state"] == 0

    def test_others_are_not_answered_and_nonsense_is_refused(self) -> None:
        face, _ = self.meter()
        assert not face.is_asked(self.READ.replace(b"\x66", b"\x67"))
        assert not face.is_asked(self.READ.replace(b"\x68\x10", b"\x68\x20"))
        refused = face.answer(self.READ.replace(b"\x1f\x90", b"\x1f\x91"), NOW_S)
        assert refused is not None
        assert refused[11] == 0xC1


class TestYd1363:
    def field(self) -> Field:
        file = FieldFile.model_validate(
            {
                "schema": "field/1",
                "loads": [{"id": "l", "constant_kw": 2.14, "phases": "a"}],
                "lines": [{"id": "line", "framing": "stream"}],
                "devices": [
                    {"id": "r", "site": "s", "line": "line", "address": "1", "profile": "yd1363_rectifier",
                     "loads": ["l"], "counts": {"module": 2}, "values": {"states.module[2].power": 1}},
                    {"id": "ac", "site": "s", "line": "line", "address": "2", "profile": "yd1363_air_conditioner",
                     "values": {"temperature_return": 24.5, "ac_power_state": 1}},
                    {"id": "env", "site": "s", "line": "line", "address": "3", "profile": "yd1363_environment"},
                    {"id": "panel", "site": "s", "line": "line", "address": "4", "profile": "yd1363_ac_panel",
                     "loads": ["l"]},
                ],
            }
        )  # fmt: skip
        return Field(file, clock=FakeClock(NOW))

    def face(self, device_id: str) -> tuple[Face, Field]:
        field = self.field()
        server = field.servers["line"]
        return next(face for face in server.faces if face.device.device_id == device_id), field  # type: ignore[union-attr]

    def ask(self, face: Face, cid1: int, cid2: int, address: int = 1, info: str = "") -> tuple[int, bytes]:
        nibbles = (-(len(info) % 16 + len(info) // 16 % 16)) & 0xF
        text = f"20{address:02X}{cid1:02X}{cid2:02X}{nibbles:X}{len(info):03X}{info}".encode()
        request = b"~" + text + f"{-sum(text) & 0xFFFF:04X}\r".encode()
        assert Yd1363Face.find(b"noise" + request) == (5, 5 + len(request))
        assert face.is_asked(request)
        answer = face.answer(request, NOW_S)
        assert answer is not None
        assert Yd1363Face.find(answer) == (0, len(answer))
        return int(answer[7:9], 16), bytes.fromhex(answer[13:-5].decode())

    def test_rectifier_feeds_its_load(self) -> None:
        face, _ = self.face("r")
        code, info = self.ask(face, 0x41, 0x41)
        assert (code, info[0], info[5]) == (0, 0, 2)
        voltage, current = struct.unpack("<f", info[1:5])[0], struct.unpack("<f", info[6:10])[0]
        assert (voltage, round(current, 3)) == (53.5, 40.0)
        assert self.ask(face, 0x41, 0x43)[1] == bytes.fromhex("00 02 00000000 01000000")
        assert self.ask(face, 0x41, 0x99) == (4, b"")

    def test_alarm_on_order(self) -> None:
        face, field = self.face("r")
        assert self.ask(face, 0x41, 0x44)[1] == bytes.fromhex("00 02 0000 0000")
        field.faults.place("r", parse_order("alarm:field=module[2].fault"), NOW_S)
        assert self.ask(face, 0x41, 0x44)[1] == bytes.fromhex("00 02 0000 0100")

    def test_air_conditioner_is_switched_off(self) -> None:
        face, _ = self.face("ac")
        assert self.ask(face, 0x60, 0x43, address=2)[1][1] == 0
        assert self.ask(face, 0x60, 0x45, address=2, info="1F") == (0, b"")
        assert self.ask(face, 0x60, 0x43, address=2)[1][1] == 1

    def test_room_and_panel_measure(self) -> None:
        face, _ = self.face("env")
        temperature, humidity = struct.unpack("<ff", self.ask(face, 0x80, 0x41, address=3)[1][1:9])
        assert 15 < temperature < 35
        assert 20 < humidity < 80
        face, _ = self.face("panel")
        info = self.ask(face, 0x40, 0x41, address=4, info="FF")[1]
        assert info[1:3] == b"\x01\x01"
        assert 200 < struct.unpack("<f", info[3:7])[0] < 250


class TestWiring:
    def test_devices_of_three_protocols_share_a_line_and_show_their_values(self) -> None:
        field = Field(FieldFile.model_validate(self.shared_line(unit=2)), clock=FakeClock(NOW))
        shown = {name: device.shown(NOW_S) for name, device in field.devices.items()}
        assert shown["a"]["active_power_total"] == pytest.approx(1.0)
        assert shown["b"]["active_power_total"] == pytest.approx(1.0, abs=1e-3)
        begin_s = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
        assert shown["c"]["heat_energy"] == pytest.approx(
            sum(total_energy([field.loads["l"]], begin_s, NOW_S).active), abs=1.0
        )

    def test_an_address_stands_on_a_line_once(self) -> None:
        with pytest.raises(ValidationError, match="address 1 on line line once"):
            FieldFile.model_validate(self.shared_line(unit=1))

    def shared_line(self, *, unit: int) -> dict[str, object]:
        here: dict[str, object] = {"site": "s", "line": "line", "loads": ["l"]}
        return {
            "schema": "field/1",
            "loads": [{"id": "l", "constant_kw": 1.0}],
            "lines": [{"id": "line", "framing": "stream"}],
            "devices": [
                {"id": "a", "address": "1", "profile": "dlt645_2007_meter", **here},
                {"id": "b", "unit": unit, "profile": "eastron_sdm630", **here},
                {"id": "c", "address": "3", "profile": "cjt188_heat_meter", **here},
            ],
        }

    @pytest.mark.parametrize(
        ("profile", "place", "reason"),
        [
            ("dlt645_2007_meter", {"address": "12x"}, "at most 12 digits"),
            ("cjt188_water_meter", {"address": "1" * 15}, "at most 14"),
            ("yd1363_rectifier", {"address": "255"}, "1 to 254"),
            ("eastron_sdm630", {"unit": 0}, "1 to 247"),
        ],
    )
    def test_wrong_addresses_are_refused(self, profile: str, place: dict[str, object], reason: str) -> None:
        file = FieldFile.model_validate(
            {
                "schema": "field/1",
                "lines": [{"id": "line", "framing": "stream"}],
                "devices": [{"id": "d", "site": "s", "line": "line", "profile": profile, **place}],
            }
        )
        with pytest.raises(InvalidInput, match=reason):
            Field(file, clock=FakeClock(NOW))

    def test_modbus_lines_take_modbus_devices_only(self) -> None:
        file = FieldFile.model_validate(
            {
                "schema": "field/1",
                "lines": [{"id": "line"}],
                "devices": [{"id": "d", "site": "s", "line": "line", "address": "1", "profile": "dlt645_2007_meter"}],
            }
        )
        with pytest.raises(InvalidInput, match="speaks Modbus"):
            Field(file, clock=FakeClock(NOW))

    def test_rtu_requests_are_found_among_other_frames(self) -> None:
        request = bytes.fromhex("01 03 00 00 00 02 C4 0B")
        assert RtuFace.find(READ_ENERGY + request) == (len(READ_ENERGY), len(READ_ENERGY) + 8)
        assert RtuFace.find(READ_ENERGY) is None
