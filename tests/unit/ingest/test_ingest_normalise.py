"""From raw numbers to points: scales, ratios, markers, plausibility, single phase."""

import math

import pytest

from libs.common.contracts.telemetry import Quality
from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.normalise import Normaliser, Ratios, four_quadrant_power_factor

CATALOGUE = ProfileCatalogue.load()


def test_secondary_values_go_to_the_primary_side_and_energy_stays_as_shown() -> None:
    # CHINT DTSU666: raw 2301.0 is 230.1 V, raw 5000.0 is 5 A; CT 20, PT 1.
    found = Normaliser(CATALOGUE.get("chint_dtsu666")).measure(
        {"voltage_a": 2301.0, "current_a": 5000.0, "active_power_total": 34515.0, "energy_active_import": 1234.5},
        Ratios(ct=20.0, pt=1.0),
    )
    assert found.points["voltage_a"] == pytest.approx(230.1)
    assert found.points["current_a"] == pytest.approx(100.0)
    assert found.points["active_power_total"] == pytest.approx(69.03)
    assert found.points["energy_active_import"] == 1234.5
    assert found.energy_ratio == 20.0
    assert found.quality == {}


def test_meter_that_applies_its_ratios_is_not_multiplied_again() -> None:
    found = Normaliser(CATALOGUE.get("acrel_adl400")).measure({"current_a": 100.0}, Ratios(ct=20.0))
    assert found.points == {"current_a": 100.0}
    assert found.energy_ratio is None


def test_integer_register_has_the_digits_of_its_scale() -> None:
    found = Normaliser(CATALOGUE.get("lx47le_125")).measure({"current_a": 1234, "temperature_a": 65}, Ratios())
    assert found.points == {"current_a": 12.34, "temperature_a": 25.0}


@pytest.mark.parametrize(
    ("profile", "point", "raw"),
    [
        ("abb_b23", "voltage_c", 0xFFFFFFFF),  # a phase that is missing
        ("abb_b23", "active_power_c", 0x7FFFFFFF),
        ("eastron_sdm630", "voltage_a", None),  # NaN
        ("lx47le_125", "breaker_state", 7),  # neither open nor closed
    ],
    ids=["all ones", "most positive", "not a number", "unmapped state"],
)
def test_what_the_device_marks_as_not_measured_is_null_and_invalid(profile: str, point: str, raw: int | None) -> None:
    found = Normaliser(CATALOGUE.get(profile)).measure({point: raw}, Ratios())
    assert found.points == {point: None}
    assert found.quality == {point: Quality.INVALID}
    assert found.raw == ({} if raw is None else {point: raw})


def test_what_was_not_read_is_absent_and_not_zero() -> None:
    found = Normaliser(CATALOGUE.get("eastron_sdm630")).measure({"voltage_a": 230.0}, Ratios())
    assert found.points == {"voltage_a": 230.0}


def test_implausible_value_is_flagged_and_kept() -> None:
    found = Normaliser(CATALOGUE.get("eastron_sdm630")).measure({"voltage_a": 2301.0}, Ratios())
    assert found.points == {"voltage_a": 2301.0}
    assert found.quality == {"voltage_a": Quality.SUSPECT}


def test_single_phase_device_reports_phase_a_and_the_total() -> None:
    found = Normaliser(CATALOGUE.get("eastron_sdm120")).measure({"active_power_total": 500.0}, Ratios())
    assert found.points["active_power_a"] == found.points["active_power_total"] == pytest.approx(0.5)


def test_mask_and_map_take_a_status_word_apart() -> None:
    found = Normaliser(CATALOGUE.get("lx47le_125")).measure(
        {"breaker_state": 0x01F0, "breaker_local_lock": 0x01F0, "breaker_status_raw": 0x01F0}, Ratios()
    )
    assert found.points == {"breaker_state": 1, "breaker_local_lock": 1, "breaker_status_raw": 0x01F0}


@pytest.mark.parametrize(("raw", "value"), [(0.9, 0.9), (1.1, 0.9), (-0.9, -0.9), (-1.1, -0.9)])
def test_four_quadrant_power_factor(raw: float, value: float) -> None:
    assert four_quadrant_power_factor(raw) == pytest.approx(value)


def test_no_profile_turns_a_number_into_nan() -> None:
    for profile in CATALOGUE:
        found = Normaliser(profile).measure(dict.fromkeys(profile.points, 1), Ratios(2.0, 3.0))
        assert all(value is None or math.isfinite(value) for value in found.points.values())
