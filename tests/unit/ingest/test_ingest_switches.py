"""Which controls of a profile are the switch of a load: by what proves them, whatever they are called."""

from pathlib import Path

import pytest

from libs.common.profiles import DeviceProfile, ProfileCatalogue
from services.ingest.domain.switching import switch_of, switches_of

CATALOGUE = ProfileCatalogue.load()


def names(profile: DeviceProfile, channel: int | None) -> tuple[str, str | None] | None:
    switch = switch_of(profile, channel)
    return None if switch is None else (switch.on.name, None if switch.off is None else switch.off.name)


@pytest.mark.parametrize(("profile", "channel", "expected"), [
    ("lx47le_125", None, ("breaker_close", "breaker_open")),
    ("lx47le_125", 1, ("breaker_close", "breaker_open")),
    ("lx47le_125", 2, None),
    ("dlt645_2007_breaker", None, ("breaker_close", "breaker_open")),
    ("gree_umatch_ac", None, ("ac_on", "ac_off")),
    ("yd1363_air_conditioner", None, ("ac_on", "ac_off")),
    ("waveshare_modbus_rtu_relay8", 3, ("relay_3_close", "relay_3_open")),
    ("kmtronic_relay8", 8, ("relay_8_close", "relay_8_open")),
    ("kmtronic_relay8", None, None),
    ("kmtronic_relay8", 9, None),
    ("shelly_gen2_plug", None, ("relay_1_close", "relay_1_open")),
    ("shelly_gen2_plug", 1, ("relay_1_close", "relay_1_open")),
    ("shelly_gen2_plug", 2, None),
    ("cjt188_water_meter", None, ("valve_open", "valve_close")),
    ("eastron_sdm630", None, None),
])  # fmt: skip
def test_shipped_profiles(profile: str, channel: int | None, expected: tuple[str, str] | None) -> None:
    assert names(CATALOGUE.get(profile), channel) == expected


def test_every_switch_of_every_shipped_profile_can_be_opened_and_closed() -> None:
    found = {profile.name: switches_of(profile) for profile in CATALOGUE}
    assert all(switch.off is not None for switches in found.values() for switch in switches.values())
    assert sum(bool(switches) for switches in found.values()) >= 15


OWN = """\
schema: device-profile/1
vendor: x
vendor_zh: x
model: "lamp with a mode"
category: lighting
protocol: modbus
transports: [tcp]
serial_default: {baud: 9600, data: 8, parity: "N", stop: 1}
unit_id_default: 1
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 1
confidence: high
points:
  - {name: control_mode, area: holding, addr: 0, type: uint16, scale: 1, unit: "1"}
  - {name: light_state, area: coil, addr: 1, type: bool, scale: 1, unit: "1"}
controls:
  - {name: mode_remote, function: write_single_register, area: holding, addr: 0, value: 1,
     read_back: {points: [control_mode], value: 1}}
  - {name: shine, function: write_single_coil, area: coil, addr: 1, value: 0xFF00,
     read_back: {points: [light_state], value: 1}}
  - {name: rest, function: write_single_coil, area: coil, addr: 1, value: 0x0000,
     read_back: {points: [light_state], value: 0}}
source: [own]
"""


def test_a_profile_of_ones_own_is_switched_by_what_proves_it_and_a_mode_is_no_switch(tmp_path: Path) -> None:
    (tmp_path / "lamp.yaml").write_text(OWN, encoding="utf-8")
    lamp = ProfileCatalogue.load([tmp_path]).get("lamp")
    assert names(lamp, None) == ("shine", "rest")
