"""Modbus answers without a network: what a request gets, byte by byte."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import Device, modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.meter import Meter, RoomSensor
from libs.fieldsim.modbus import answer, crc16
from libs.fieldsim.plain import PlainDevice

NOW_S = datetime(2026, 11, 20, 6, tzinfo=UTC).timestamp()


def devices() -> dict[str, Device]:
    faults, events = FaultBoard(), EventLog()
    load = Load("aau", constant_kw=0.9)
    return {
        "meter": Meter(
            "m",
            modbus_profile("eastron_sdm630"),
            loads=[load],
            mains=Mains(),
            installed_at=datetime(2026, 1, 1, tzinfo=UTC),
            faults=faults,
            events=events,
        ),
        "breaker": Breaker("b", modbus_profile("lx47le_125"), load=load, mains=Mains(), faults=faults, events=events),
        "sensor": RoomSensor("s", modbus_profile("xy_md02"), faults=faults, events=events),
        "relays": PlainDevice(
            "r",
            modbus_profile("kmtronic_relay8"),
            values={"relay_1_state": 1, "relay_4_state": 1},
            faults=faults,
            events=events,
        ),
    }


def ask(device: str, request: str) -> str:
    return answer(devices()[device], bytes.fromhex(request), NOW_S).hex()


def test_crc_of_the_textbook_frame() -> None:
    """01 03 00 00 00 0A has checksum C5 CD (Modbus over serial line, appendix)."""
    assert crc16(bytes.fromhex("01030000000a")).hex() == "c5cd"


def test_a_read_gives_what_the_device_shows() -> None:
    device = devices()["meter"]
    reply = answer(device, bytes.fromhex("0400000006"), NOW_S)
    assert reply[:2] == bytes((4, 12))
    voltages = struct.unpack(">3f", reply[2:])
    shown = device.shown(NOW_S)
    assert voltages == (shown["voltage_a"], shown["voltage_b"], shown["voltage_c"])


def test_temperatures_below_zero_are_twos_complement() -> None:
    cold = RoomSensor("s", modbus_profile("xy_md02"), faults=FaultBoard(), events=EventLog(), room_degc=-10.0)
    reply = answer(cold, bytes.fromhex("0400010001"), NOW_S)
    assert struct.unpack(">h", reply[2:])[0] == round(10 * (cold.values(NOW_S)["temperature"]))
    assert reply[2] == 0xFF


@pytest.mark.parametrize(
    ("device", "request_", "reply"),
    [
        ("breaker", "0400000001", "040200f0"),
        ("breaker", "0400000002", "8403"),
        ("breaker", "0400080009", "8403"),
        ("breaker", "0401000001", "8402"),
        ("breaker", "0300000001", "8302"),
        ("breaker", "06000dff00", "06000dff00"),
        ("breaker", "06000d0000", "06000d0000"),
        ("breaker", "06000d0001", "8603"),
        ("breaker", "050000ff00", "8502"),
        ("breaker", "10000d000102ff00", "10000d0001"),
        ("breaker", "10000d000204ff00ff00", "9003"),
        ("sensor", "0400010003", "8403"),
        ("sensor", "0600010001", "8602"),
        ("relays", "0100000008", "010109"),
        ("relays", "0100000009", "8102"),
        ("relays", "0200000001", "8202"),
        ("relays", "050001ff00", "050001ff00"),
        ("relays", "0500010001", "8503"),
        ("relays", "0f0000000801ff", "0f00000008"),
        ("relays", "0f0000000901ff", "8f03"),
        ("meter", "0300000002", "8302"),
        ("meter", "0400000000", "8403"),
        ("meter", "0400000051", "8403"),
        ("meter", "07", "8701"),
        ("meter", "2b0e0100", "ab01"),
        ("meter", "0400", "8403"),
        ("meter", "10", "9003"),
    ],
    ids=lambda value: str(value),
)
def test_answers(device: str, request_: str, reply: str) -> None:
    assert ask(device, request_) == reply


def test_several_coils_are_written_at_once() -> None:
    relays = devices()["relays"]
    answer(relays, bytes.fromhex("0f0002000401 0a".replace(" ", "")), NOW_S)  # relays 3..6: off on off on
    assert answer(relays, bytes.fromhex("0100000008"), NOW_S).hex() == "010129"


@given(kind=st.sampled_from(["meter", "breaker", "sensor", "relays"]), pdu=st.binary(min_size=1, max_size=253))
def test_any_bytes_are_answered_and_nothing_breaks(kind: str, pdu: bytes) -> None:
    device = devices()[kind]
    reply = answer(device, pdu, NOW_S)
    assert reply[0] in (pdu[0], pdu[0] | 0x80)
    assert 2 <= len(reply) <= 253
    if reply[0] & 0x80 and not pdu[0] & 0x80:
        assert reply[1] in (1, 2, 3)
