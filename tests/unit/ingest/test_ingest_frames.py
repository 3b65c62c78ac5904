"""Reports as rows of a file: back again they are what they were, and two deliveries are one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from services.ingest.domain.layout import Layout, empty_layout, fits_float32, values_of
from services.ingest.domain.series import microseconds
from services.ingest.store.frames import Block, Oddity, bodies_of, frame_of, merged, points_of, series_of, with_points

NAMES = ("voltage_a", "current_a", "energy_active_import", "x_acme_odd")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

Points = dict[str, float]


def layout_of(reports: list[Points], names: tuple[str, ...] = NAMES) -> Layout:
    return empty_layout(driver="modbus", profile="acme", ct_ratio=40.0).widened(names, values_of(names, reports))


def block_of(
    device_id: str, layout: Layout, reports: list[Points], *, start: datetime = NOON, number: int = 1
) -> Block:
    times = np.array([microseconds(start + i * MINUTE) for i in range(len(reports))], dtype=np.int64)
    bodies = b"".join(layout.pack(layout.values(reports)))
    return Block(device_id, number, times, times + 37, np.zeros(len(reports), dtype=np.int16), bodies)


def frame(device_id: str, reports: list[Points], start: datetime = NOON) -> pl.DataFrame:
    layout = layout_of(reports)
    return frame_of([block_of(device_id, layout, reports, start=start)], [], {1: layout}, NAMES)


POINTS = st.dictionaries(
    st.sampled_from(NAMES), st.integers(-(10**7), 10**7).map(lambda n: n / 100) | st.floats(-1e9, 1e9), max_size=4
)
REPORTS = st.lists(POINTS, min_size=1, max_size=8)


@given(REPORTS, REPORTS)
def test_rows_packed_again_are_the_bodies_they_came_from(first: list[Points], second: list[Points]) -> None:
    layouts = {1: layout_of(first), 2: layout_of([*first, *second], (*NAMES, "frequency"))}
    blocks = [
        block_of("m-2", layouts[1], first),
        block_of("m-1", layouts[2], second, number=2),
        block_of("m-2", layouts[2], second, number=2, start=NOON + 100 * MINUTE),
    ]
    found = frame_of(blocks, [], layouts, [*NAMES, "frequency"])
    assert found.equals(found.sort("device_id", "source_time"))
    assert bodies_of(found, layouts) == {(block.device_id, block.layout_no): block.bodies for block in blocks}


@given(REPORTS)
def test_columns_have_the_numbers_that_the_layout_has(reports: list[Points]) -> None:
    layout = layout_of(reports)
    found = series_of(frame("m-1", reports).select("source_time", *layout.points))
    expected = layout.unpack(layout.pack(layout.values(reports)))
    assert found.names == layout.points
    assert np.array_equal(found.values, expected, equal_nan=True)


def test_types_of_columns() -> None:
    found = frame("m-1", [{"voltage_a": 230.1, "energy_active_import": 999999.99}])
    assert {name: found.schema[name] for name in points_of(found.columns)} == {
        name: pl.Float32() if fits_float32(name) else pl.Float64() for name in NAMES
    }
    (row,) = found.to_dicts()
    assert (row["source_time"], row["lag_us"], row["ct_ratio"], row["profile"]) == (NOON, 37, 40.0, "acme")
    assert (row["energy_active_import"], row["x_acme_odd"], row["late"], row["moved"]) == (
        999999.99,
        None,
        False,
        False,
    )


def test_flags_and_extras_stand_beside_their_report() -> None:
    layout = layout_of([{"voltage_a": 1.0}])
    block = block_of("m-1", layout, [{"voltage_a": 1.0}, {"voltage_a": 2.0}])
    quality = layout.pack_quality({"voltage_a": Quality.SUSPECT})
    odd = [Oddity("m-1", NOON + MINUTE, 1, quality, {"seq": 7})]
    found = frame_of([block], odd, {1: layout}, NAMES)
    assert found.select("quality", "extra").rows() == [(None, None), ('{"voltage_a":"suspect"}', '{"seq":7}')]


def test_what_is_in_both_is_taken_once() -> None:
    old, again = frame("m-1", [{"voltage_a": 1.0}, {"voltage_a": 2.0}]), frame("m-1", [{"voltage_a": 1.0}])
    late = frame("m-0", [{"voltage_a": 3.0}])
    found = merged(old, pl.concat([again, late]))
    assert found["device_id"].to_list() == ["m-0", "m-1", "m-1"]
    assert merged(found, pl.concat([again, late])).equals(found)


def test_other_content_under_one_time_is_kept_behind_it_and_marked_once() -> None:
    old = frame("m-1", [{"voltage_a": 1.0}])
    other, third = frame("m-1", [{"voltage_a": 2.0}]), frame("m-1", [{"voltage_a": 3.0}])
    found = merged(merged(old, other), third)
    assert found.select("source_time", "voltage_a", "moved").rows() == [
        (NOON, 1.0, False),
        (NOON + timedelta(microseconds=1), 2.0, True),
        (NOON + timedelta(microseconds=2), 3.0, True),
    ]
    assert found["extra"].to_list()[1] == '{"source_time":"2026-03-01T12:00:00+00:00"}'
    assert found["lag_us"].to_list() == [37, 36, 35]  # all of them came at the same time
    # A process that died after it wrote the file does it again.
    for again in (other, third):
        assert merged(found, again).equals(found)


def test_correction_takes_the_place_of_what_it_names_once() -> None:
    def said(value: float, **extra: str) -> pl.DataFrame:
        return frame("m-1", [{"voltage_a": value}]).with_columns(pl.lit(orjson.dumps(extra).decode()).alias("extra"))

    first, second = said(1.0, message_id="one"), said(2.0, message_id="two", replaces="one")
    third = said(3.0, message_id="three", replaces="two")
    found = merged(merged(first, second), third)
    assert found.select("voltage_a", "moved").rows() == [(3.0, False)]
    assert orjson.loads(found["extra"][0])["replaced"] == ["one", "two"]
    for again in (first, second, third):
        assert merged(found, again).equals(found)


def test_file_without_a_point_gets_it_from_what_comes_later() -> None:
    old = frame("m-1", [{"voltage_a": 1.0}]).drop("current_a")
    found = merged(old, frame("m-1", [{"current_a": 5.0}], NOON + MINUTE))
    assert found["current_a"].to_list() == [None, 5.0]
    assert with_points(old, NAMES).columns == found.columns
