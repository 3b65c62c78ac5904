"""Loads, meters and breakers wired together: energy is the integral of power, whatever is switched."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.fieldsim.device import modbus_profile
from libs.fieldsim.electrical import NO_FLOW, Flow, Load, Mains, Measured, Sag, electrical_points, total_energy
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, parse_order
from libs.fieldsim.meter import Meter, RoomSensor

START_S = datetime(2026, 11, 20, 6, tzinfo=UTC).timestamp()
INSTALLED = datetime(2026, 1, 1, tzinfo=UTC)


def a_meter(loads: Sequence[Load], profile: str = "eastron_sdm630", faults: FaultBoard | None = None) -> Meter:
    return Meter(
        "meter-1",
        modbus_profile(profile),
        loads=loads,
        mains=Mains(),
        installed_at=INSTALLED,
        faults=faults or FaultBoard(),
        events=EventLog(),
    )


def summed_kwh(load: Load, from_s: float, to_s: float, steps: int) -> float:
    """Energy by adding up power in the middle of many short steps."""
    width = (to_s - from_s) / steps
    return sum(sum(load.power(from_s + (n + 0.5) * width).active) for n in range(steps)) * width / 3600


def test_energy_is_the_sum_of_power() -> None:
    load = Load("aau", constant_kw=0.4, gain=0.1)
    kwh = sum(load.energy(START_S, START_S + 3600).active)
    assert kwh == pytest.approx(summed_kwh(load, START_S, START_S + 3600, 3600), rel=1e-4)


switchings = st.lists(st.tuples(st.floats(0, 7200), st.sampled_from([0.0, 0.3, 1.0, 1.8])), min_size=1, max_size=8).map(
    lambda pairs: sorted(pairs, key=lambda pair: pair[0])
)


@settings(max_examples=40)
@given(switched=switchings, cut=st.floats(0, 7200))
def test_energy_is_the_sum_of_power_whatever_is_switched(switched: list[tuple[float, float]], cut: float) -> None:
    load = Load("aau", constant_kw=0.6, gain=0.05)
    for after_s, share in switched:
        load.let_through(share, START_S + after_s)
    edges = sorted({0.0, cut, 7200.0, *(after_s for after_s, _ in switched)})
    pieces = [load.share(START_S + a) * sum(load.demand(START_S + a, START_S + b).active) for a, b in pairwise(edges)]
    whole = sum(load.energy(START_S, START_S + 7200).active)
    assert whole == pytest.approx(sum(pieces), rel=1e-9, abs=1e-9)
    parts = load.energy(START_S, START_S + cut).plus(load.energy(START_S + cut, START_S + 7200))
    assert sum(parts.active) == pytest.approx(whole, rel=1e-9, abs=1e-9)


@given(switched=switchings, cut=st.integers(0, 8))
def test_a_restarted_supply_has_the_same_energy(switched: list[tuple[float, float]], cut: int) -> None:
    def aau() -> Load:
        return Load("aau", constant_kw=0.6, gain=0.05)

    kept, restarted = aau(), aau()
    for after_s, share in switched[:cut]:
        kept.let_through(share, START_S + after_s)
    restarted.restore(kept.steps())
    for after_s, share in switched[cut:]:
        kept.let_through(share, START_S + after_s)
        restarted.let_through(share, START_S + after_s)
    assert restarted.energy(0.0, START_S + 9000) == kept.energy(0.0, START_S + 9000)
    assert restarted.power(START_S + 9000) == kept.power(START_S + 9000)


def test_the_past_does_not_change_when_a_breaker_opens() -> None:
    load = Load("aau", constant_kw=0.6, gain=0.05)
    before = load.energy(0.0, START_S - 600), load.power(START_S - 600)
    load.let_through(0.0, START_S)
    assert (load.energy(0.0, START_S - 600), load.power(START_S - 600)) == before
    assert load.power(START_S + 1) == NO_FLOW


def test_what_was_planned_is_forgotten_when_something_happens_earlier() -> None:
    load = Load("aau", constant_kw=0.6, gain=0.0)
    load.let_through(1.8, START_S)
    load.let_through(1.0, START_S + 3)
    load.let_through(0.0, START_S + 1)
    assert [step.at_s - START_S for step in load.steps()] == [0.0, 1.0]
    assert sum(load.energy(START_S, START_S + 10).active) == pytest.approx(0.6 * 1.8 / 3600)


def test_a_feed_meter_shows_the_sum_of_its_branches() -> None:
    branches = [Load("it", constant_kw=3.0), Load("cooling", gain=0.2, shift_s=999.0), Load("light", phases="a")]
    feed = a_meter(branches).values(START_S)
    parts = [a_meter([branch]).values(START_S) for branch in branches]
    for name in ("active_power_total", "active_power_a", "reactive_power_b", "energy_active_import"):
        assert feed[name] == pytest.approx(sum(part[name] for part in parts), rel=1e-12), name


def test_meter_register_starts_where_it_was_installed() -> None:
    meter = Meter(
        "meter-1",
        modbus_profile("eastron_sdm630"),
        loads=[Load("x", constant_kw=1.0, gain=0.0)],
        mains=Mains(),
        installed_at=INSTALLED,
        initial_kwh=1234.0,
        faults=FaultBoard(),
        events=EventLog(),
    )
    assert meter.values(INSTALLED.timestamp())["energy_active_import"] == pytest.approx(1234.0)
    assert meter.values(INSTALLED.timestamp() + 36_000)["energy_active_import"] == pytest.approx(1244.0)


def test_demand_is_the_mean_of_a_quarter_hour() -> None:
    load = Load("aau", constant_kw=0.6, gain=0.1)
    values = a_meter([load]).values(START_S)
    assert values["demand_active_power"] == pytest.approx(4 * summed_kwh(load, START_S - 900, START_S, 900), rel=1e-3)


def test_a_sag_raises_the_current_and_leaves_the_power() -> None:
    faults = FaultBoard()
    meter = a_meter([Load("it", constant_kw=3.0)], faults=faults)
    healthy = dict(meter.values(START_S + 5))
    faults.place("meter-1", parse_order("sag:phase=a,to_v=150,duration_s=12"), START_S)
    sagging = meter.values(START_S + 5)
    assert sagging["voltage_a"] == 150.0
    assert sagging["voltage_b"] == healthy["voltage_b"]
    assert sagging["active_power_a"] == healthy["active_power_a"]
    assert sagging["current_a"] * 150.0 == pytest.approx(healthy["current_a"] * healthy["voltage_a"])
    assert meter.values(START_S + 12)["voltage_a"] > 200.0


def test_sag_by_depth_and_swell() -> None:
    assert Sag("b", factor=0.6).applied((230.0, 230.0, 230.0)) == (230.0, 138.0, 230.0)
    assert Sag("abc", factor=1.2).applied((200.0, 200.0, 200.0)) == (240.0, 240.0, 240.0)


def test_balanced_load_has_textbook_values() -> None:
    """3 x 230 V, 10 A, cos phi 0.8: P 5.52 kW, Q 4.14 kvar, S 6.9 kVA, U 398.4 V, no neutral current."""
    seen = Measured(
        flow=Flow((1.84, 1.84, 1.84), (1.38, 1.38, 1.38)), voltages=(230.0, 230.0, 230.0), frequency_hz=50.0
    )
    points = electrical_points(seen)
    assert points["current_a"] == pytest.approx(10.0)
    assert points["active_power_total"] == pytest.approx(5.52)
    assert points["reactive_power_total"] == pytest.approx(4.14)
    assert points["apparent_power_total"] == pytest.approx(6.9)
    assert points["power_factor_total"] == pytest.approx(0.8)
    assert points["voltage_ab"] == pytest.approx(230.0 * sqrt(3))
    assert points["current_n"] == pytest.approx(0.0, abs=1e-9)


def test_one_loaded_phase_returns_through_the_neutral() -> None:
    seen = Measured(flow=Flow((2.3, 0.0, 0.0), (0.0, 0.0, 0.0)), voltages=(230.0, 0.0, 230.0), frequency_hz=50.0)
    points = electrical_points(seen)
    assert points["current_n"] == pytest.approx(points["current_a"]) == pytest.approx(10.0)
    assert points["current_b"] == 0.0
    assert points["power_factor_b"] == 1.0


def test_an_unprogrammed_tariff_meter_counts_everything_as_flat() -> None:
    points = a_meter([Load("it", constant_kw=1.0)], "acrel_adl400").values(START_S)
    assert points["energy_active_import_flat"] == points["energy_active_import"] > 1000
    assert points["energy_active_import_peak"] == 0.0


def test_a_single_phase_meter_refuses_three_phase_loads() -> None:
    with pytest.raises(InvalidInput, match="phase a"):
        a_meter([Load("it")], "eastron_sdm120")
    single = a_meter([Load("it", phases="a", constant_kw=1.0)], "eastron_sdm120").shown(START_S)
    assert single["active_power_total"] == single["active_power_a"]


def test_unknown_phases_are_refused() -> None:
    with pytest.raises(ValueError, match="abc"):
        Load("x", phases="l1")


def test_dc_meter_shows_the_plant_voltage() -> None:
    points = a_meter([Load("rectifier", constant_kw=1.07, gain=0.0)], "acrel_djsf1352_rn").shown(START_S)
    assert points["voltage_dc"] == pytest.approx(53.5)
    assert points["current_dc"] == pytest.approx(20.0, abs=0.01)


def test_room_sensor_damps_the_weather() -> None:
    sensor = RoomSensor("sensor-1", modbus_profile("xy_md02"), faults=FaultBoard(), events=EventLog(), room_degc=24.0)
    day = [sensor.values(START_S + n * 600) for n in range(144)]
    temperatures = [values["temperature"] for values in day]
    assert sum(temperatures) / 144 == pytest.approx(24.0, abs=0.05)
    assert 1.0 < max(temperatures) - min(temperatures) < 4.0
    assert all(20 < values["humidity"] < 70 for values in day)


def test_total_energy_of_nothing_is_nothing() -> None:
    assert total_energy([], 0.0, START_S) == NO_FLOW
