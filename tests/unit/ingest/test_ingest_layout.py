"""Packed reports: what goes in comes out, and no kilowatt-hour is lost."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from services.ingest.domain.layout import (
    QUALITY_CODES,
    DoesNotFit,
    Layout,
    empty_layout,
    fits_float32,
    shortest,
    values_of,
)

NAMES = ["voltage_a", "current_a", "frequency", "energy_active_import", "breaker_status_raw", "x_acme_odd"]

Points = Mapping[str, float | None]


def layout_of(reports: Sequence[Points], names: Sequence[str] = NAMES) -> Layout:
    """Return the layout that a history without any would begin with for these reports."""
    return empty_layout(driver="modbus").widened(names, values_of(names, reports))


def through(layout: Layout, report: Points) -> dict[str, float]:
    """Return a report as it comes out again, without points that have no value."""
    (row,) = layout.unpack(layout.pack(layout.values([report])))
    return {name: float(value) for name, value in zip(layout.points, row, strict=True) if value == value}


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


DECIMAL = st.integers(-(10**9), 10**9).flatmap(lambda count: st.integers(0, 6).map(lambda d: count / 10**d))
VALUE = st.none() | DECIMAL | st.floats(-1e300, 1e300, allow_nan=False) | st.sampled_from([0.0, -0.0, 3276.7, -3276.8])
REPORTS = st.lists(st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=len(NAMES)), min_size=1, max_size=12)


@given(REPORTS, REPORTS)
def test_reports_come_out_as_they_went_in(first: list[Points], then: list[Points]) -> None:
    """A counter to its last bit; a gauge as the 32-bit float that it is, in its shortest form."""
    layout = layout_of(first)
    for reports in (first, then, first):
        layout = layout.widened(layout.points, layout.values(reports))
        values = layout.values(reports)
        bodies = layout.pack(values)
        assert {len(body) for body in bodies} == {layout.dtype.itemsize}
        for row, report in zip(layout.unpack(bodies), reports, strict=True):
            for name, value in zip(layout.points, row, strict=True):
                expected = report.get(name)
                with np.errstate(over="ignore"):
                    narrow = np.float32(np.nan if expected is None else expected)
                if expected is None or (fits_float32(name) and np.isinf(narrow)):
                    assert np.isnan(value)
                elif fits_float32(name):
                    assert value == shortest(np.array([narrow]))[0]
                else:
                    assert value == expected


@given(REPORTS, REPORTS)
def test_value_looks_the_same_in_every_layout(first: list[Points], then: list[Points]) -> None:
    """What a report says does not depend on what other reports said, before or after."""
    narrow, wide = layout_of(first), layout_of([*first, *then])
    for report in first:
        assert through(narrow, report) == through(wide, report)


def test_few_digits_take_few_bytes() -> None:
    report = {"voltage_a": 230.1, "current_a": 5.123, "frequency": 49.98, "energy_active_import": 999999.99}
    layout = layout_of([report], list(report))
    assert layout.dtype.itemsize == 3 * 2 + 4
    assert through(layout, report) == report


def test_layout_that_is_too_narrow_says_so_and_grows() -> None:
    layout = layout_of([{"voltage_a": 230.1}], ["voltage_a", "energy_active_import"])
    spike, fine = {"voltage_a": 60000.5}, {"energy_active_import": 123456.789123}
    for report in (spike, fine):
        with pytest.raises(DoesNotFit):
            layout.pack(layout.values([report]))
    wide = layout.widened(layout.points, layout.values([spike, fine]))
    assert wide.dtype.itemsize == 4 + 8
    assert [through(wide, report) for report in (spike, fine)] == [spike, fine]


def test_first_report_of_an_idle_meter_leaves_room_for_the_next() -> None:
    layout = layout_of([{"voltage_a": 0.0, "current_a": 0.0, "energy_active_import": 0.0}])
    report = {"voltage_a": 231.2, "current_a": 4.75, "energy_active_import": 0.03}
    assert through(layout, report) == report


def test_counter_keeps_two_decimals_where_a_32_bit_float_would_not() -> None:
    for value in (999999.99, 99999999.99, 1e12 + 0.25):
        layout = layout_of([{"energy_active_import": value}])
        assert through(layout, {"energy_active_import": value}) == {"energy_active_import": value}


def test_one_point_and_no_point_can_be_packed() -> None:
    for name in ("voltage_a", "energy_active_import"):
        layout = layout_of([{name: 1.5}], [name])
        assert layout.unpack(layout.pack(np.array([[1.5]]))).tolist() == [[1.5]]
    none = empty_layout(driver="modbus")
    assert none.unpack(none.pack(none.values([{}, {}]))).shape == (2, 0)


def test_gauge_too_large_for_32_bits_is_no_value_and_not_infinity() -> None:
    assert through(layout_of([{"voltage_a": 1e300}]), {"voltage_a": 1e300}) == {}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_shortest_is_the_same_32_bit_number(values: list[float]) -> None:
    narrow = np.array(values, dtype=np.float32)
    assert (shortest(narrow).astype(np.float32) == narrow).all()


@pytest.mark.parametrize("value", [230.1, 0.0, -12.5, 49.98, 1e-7, 16777216.0, 0.1])
def test_shortest_looks_as_it_was_written(value: float) -> None:
    assert shortest(np.array([value], dtype=np.float32))[0] == value


def test_flags_come_out_as_they_went_in() -> None:
    layout = layout_of([])
    flags = dict(zip(NAMES, list(Quality), strict=False))
    assert layout.unpack_quality(layout.pack_quality(flags)) == flags
    assert layout.pack_quality({}) is None


def test_every_flag_has_a_number_and_none_was_given_twice() -> None:
    assert set(QUALITY_CODES) == set(Quality)
    assert QUALITY_CODES[Quality.SUSPECT] == 1  # stored in every history: never another number
    assert len(set(QUALITY_CODES.values())) == len(Quality)
