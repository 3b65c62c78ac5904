"""Other media: which registers are consumption, and in which unit they are booked."""

from libs.common.contracts.carbon import Medium
from libs.common.points import POINTS, PointKind
from libs.common.units import unit_of
from services.carbon.domain.emissions.units import kind_of
from services.carbon.domain.media import MEDIA, consumed


def test_every_medium_has_a_register_that_only_grows_and_is_stored_in_its_unit() -> None:
    assert {one.medium for one in MEDIA.values()} == set(Medium)
    for point, one in MEDIA.items():
        assert POINTS[point].kind is PointKind.COUNTER
        stored = "m3" if kind_of(one.unit) == "gas" else one.unit
        assert POINTS[point].unit == stored == unit_of(stored).symbol


def test_the_water_that_passes_a_heat_meter_is_no_consumption() -> None:
    assert [one.point for one in consumed(["water_volume", "valve_state"])] == ["water_volume"]
    assert [one.point for one in consumed({"heat_energy": 1.0, "water_volume": 2.0})] == ["heat_energy"]
    assert [one.point for one in consumed({"cold_energy": None, "water_volume": 2.0})] == ["cold_energy"]


def test_a_corrected_volume_counts_and_the_uncorrected_beside_it_does_not() -> None:
    assert [one.unit for one in consumed(["gas_volume", "gas_volume_standard"])] == ["m3@20C"]
    assert [one.unit for one in consumed(["gas_volume_standard", "gas_volume_normal", "gas_volume"])] == ["Nm3"]
    assert [one.unit for one in consumed(["fuel_volume", "fuel_mass"])] == ["t"]
