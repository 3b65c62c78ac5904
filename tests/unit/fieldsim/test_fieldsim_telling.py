"""What breakers that speak by themselves show."""

import pytest

from libs.common.clock import SystemClock
from libs.common.profiles import ProfileCatalogue
from libs.fieldsim.breaker import INSTALLED_AT, Breaker
from libs.fieldsim.device import modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.mqtt import NAMES
from libs.fieldsim.telling import shown

AT_S = INSTALLED_AT.timestamp() + 3600.0


def breaker(load: Load | None) -> Breaker:
    return Breaker(
        "b-1", modbus_profile("lx47le_125"), load=load, mains=Mains(), faults=FaultBoard(), events=EventLog(),
        motor_delay_s=1.0,
    )  # fmt: skip


def test_a_breaker_that_feeds_shows_its_load_in_canonical_units() -> None:
    found = shown(breaker(Load("load-1", phases="abc", constant_kw=0.9, gain=0.0)), AT_S)
    assert found["active_power_total"] == pytest.approx(0.9, rel=0.05)
    assert found["breaker_state"] == 1.0
    assert 200 < found["voltage_a"] < 260
    apparent_kva = sum(found[f"voltage_{phase}"] * found[f"current_{phase}"] for phase in "abc") / 1000
    assert 0.9 * 0.95 <= apparent_kva < 0.9 * 1.5
    assert found["energy_active_import"] == pytest.approx(0.9, rel=0.05)  # kW for one hour


def test_an_open_breaker_shows_no_load_once_its_motor_has_moved() -> None:
    device = breaker(Load("load-1", phases="abc", constant_kw=0.9, gain=0.0))
    device.order(False, AT_S)
    assert shown(device, AT_S + 0.5)["breaker_state"] == 1.0
    found = shown(device, AT_S + 1.5)
    assert (found["breaker_state"], found["active_power_total"], found["current_a"]) == (0.0, 0.0, 0.0)
    later = shown(device, AT_S + 3600.0)
    assert later["energy_active_import"] == pytest.approx(found["energy_active_import"], abs=0.01)


def test_a_breaker_that_feeds_nothing_counts_nothing() -> None:
    assert shown(breaker(None), SystemClock().now().timestamp())["energy_active_import"] == 0.0


def test_meters_over_mqtt_say_every_point_of_their_profile() -> None:
    points = ProfileCatalogue.load().get("example_mqtt_meter").points.keys()
    assert NAMES.keys() | {"active_power_total", "breaker_state"} == points
    assert NAMES.keys() <= shown(breaker(None), AT_S).keys()
