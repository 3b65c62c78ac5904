"""What a float register says is kept as finely as a meter can mean it."""

import math

import numpy as np
import pytest

from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.resolution import DECIMALS, rounded, rounded_points


@pytest.mark.parametrize(
    ("unit", "value", "kept"),
    [
        ("kW", 12.345678, 12.346),
        ("kW", 0.0152345, 0.0152),
        ("kW", -1.84774, -1.848),
        ("V", 230.1234, 230.1),
        ("kWh", 12345.6787109375, 12345.68),
        ("kWh", 1e12 + 0.123, 1e12 + 0.123),
        ("A", math.nan, math.nan),
    ],
)
def test_steps(unit: str, value: float, kept: float) -> None:
    np.testing.assert_equal(rounded(np.array([value]), DECIMALS[unit]), [kept])


def test_only_float_registers_are_rounded() -> None:
    catalogue = ProfileCatalogue.load()
    assert rounded_points(catalogue.get("schneider_iem3155"))["active_power_total"] == DECIMALS["kW"]
    assert rounded_points(catalogue.get("abb_b23")) == {}
    assert "device_address" not in rounded_points(catalogue.get("eastron_sdm630"))
