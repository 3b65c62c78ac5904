"""Packed reports: what goes in comes out, and no kilowatt-hour is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from services.ingest.domain.layout import QUALITY_CODES, fits_float32, layout_for, shortest

NAMES = ["voltage_a", "current_a", "frequency", "energy_active_import", "breaker_status_raw", "x_acme_odd"]


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("voltage_a", True),
        ("breaker_state", True),
        ("energy_active_import", False),
        ("energy_active_net", False),  # a gauge, and kilowatt-hours all the same
        ("breaker_status_raw", False),
        ("ct_ratio", False),
        ("x_acme_odd", False),
    ],
)
def test_which_points_are_kept_in_32_bits(name: str, small: bool) -> None:
    assert fits_float32(name) is small


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(NAMES), st.none() | st.floats(-1e6, 1e6, allow_nan=False, width=32), max_size=len(NAMES)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_reports_come_out_as_they_went_in(reports: list[dict[str, float | None]]) -> None:
    layout = layout_for(NAMES, driver="modbus")
    bodies = layout.pack(reports)
    assert {len(body) for body in bodies} == {layout.dtype.itemsize}
    for row, report in zip(layout.unpack(bodies), reports, strict=True):
        for name, value in zip(layout.points, row, strict=True):
            expected = report.get(name)
            assert np.isnan(value) if expected is None else np.float32(value) == np.float32(expected)


def test_counter_keeps_two_decimals_where_a_32_bit_float_would_not() -> None:
    layout = layout_for(NAMES, driver="modbus")
    (row,) = layout.unpack(layout.pack([{"energy_active_import": 999999.99}]))
    assert row[layout.points.index("energy_active_import")] == 999999.99


def test_one_point_and_no_point_can_be_packed() -> None:
    for names in (["voltage_a"], ["energy_active_import"]):
        layout = layout_for(names, driver="modbus")
        assert layout.unpack(layout.pack([{names[0]: 1.5}])).tolist() == [[1.5]]


def test_gauge_too_large_for_32_bits_is_no_value_and_not_infinity() -> None:
    layout = layout_for(["voltage_a"], driver="push")
    assert np.isnan(layout.unpack(layout.pack([{"voltage_a": 1e300}]))).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_shortest_is_the_same_32_bit_number(values: list[float]) -> None:
    narrow = np.array(values, dtype=np.float32)
    assert (shortest(narrow).astype(np.float32) == narrow).all()


@pytest.mark.parametrize("value", [230.1, 0.0, -12.5, 49.98, 1e-7, 16777216.0, 0.1])
def test_shortest_looks_as_it_was_written(value: float) -> None:
    assert shortest(np.array([value], dtype=np.float32))[0] == value


def test_flags_come_out_as_they_went_in() -> None:
    layout = layout_for(NAMES, driver="modbus")
    flags = dict(zip(NAMES, list(Quality), strict=False))
    assert layout.unpack_quality(layout.pack_quality(flags)) == flags
    assert layout.pack_quality({}) is None


def test_every_flag_has_a_number_and_none_was_given_twice() -> None:
    assert set(QUALITY_CODES) == set(Quality)
    assert QUALITY_CODES[Quality.SUSPECT] == 1  # stored in every history: never another number
    assert len(set(QUALITY_CODES.values())) == len(Quality)
