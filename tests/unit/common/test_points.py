"""The list of canonical points."""

import pytest

from libs.common.points import POINTS, PointKind, Quantity, is_point_name
from libs.common.units import unit_of


def test_every_point_is_named_and_measured_by_the_rules() -> None:
    for name, point in POINTS.items():
        assert point.name == name
        assert name.islower()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_")
        assert unit_of(point.unit).symbol == point.unit
        assert point.name_zh
        assert point.max_age_s is None or point.max_age_s > 0
        if point.plausible_min is not None and point.plausible_max is not None:
            assert point.plausible_min < point.plausible_max


def test_only_events_have_no_slowest_update() -> None:
    without = {name for name, point in POINTS.items() if point.max_age_s is None}
    assert without == {"motion_state", "door_state", "water_leak_state", "smoke_state", "online_state"}


def test_counters_are_the_registers_that_only_grow() -> None:
    counters = {name for name, point in POINTS.items() if point.kind is PointKind.COUNTER}
    assert {"energy_active_import", "water_volume", "working_hours"} <= counters
    assert not {"energy_active_net", "energy_reactive_1", "water_volume_settlement"} & counters
    assert all(POINTS[name].plausible_min == 0 for name in counters)


def test_plausible_range_includes_its_bounds_and_may_be_open() -> None:
    voltage = POINTS["voltage_a"]
    assert voltage.is_plausible(0)
    assert voltage.is_plausible(300)
    assert not voltage.is_plausible(-0.1)
    assert not voltage.is_plausible(300.1)
    assert POINTS["active_power_total"].is_plausible(-1e9)
    assert POINTS["energy_active_import"].is_plausible(1e12)
    assert not POINTS["energy_active_import"].is_plausible(-1)


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("voltage_ab", Quantity.VOLTAGE),
        ("current_n", Quantity.CURRENT),
        ("current_leakage", Quantity.OTHER),
        ("active_power_total", Quantity.POWER),
        ("reactive_power_a", Quantity.POWER),
        ("energy_active_import", Quantity.ENERGY),
        ("energy_reactive_q1", Quantity.ENERGY),
        ("setting_overvoltage", Quantity.OTHER),
        ("ct_primary", Quantity.OTHER),
        ("power_factor_total", Quantity.OTHER),
        ("temperature", Quantity.OTHER),
    ],
)
def test_transformer_ratio_changes_only_what_goes_through_a_transformer(name: str, quantity: Quantity) -> None:
    assert POINTS[name].quantity is quantity


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("voltage_a", True),
        ("x_acrel_io", True),
        ("x_huawei_cell_count_2", True),
        ("voltage_d", False),
        ("x_", False),
        ("x_acrel", False),
        ("X_acrel_io", False),
        ("x_acrel_", False),
        ("", False),
    ],
)
def test_vendor_extras_are_the_only_other_names(name: str, known: bool) -> None:
    assert is_point_name(name) is known
