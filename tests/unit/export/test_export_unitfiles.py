"""Measurement files from templates: names that tell periods apart, periods of the civil day, bytes as agreed."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from services.export.dialects.messages import DeviceRef, PointType, ValueState
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.unitfiles import (
    Column,
    Content,
    FileTemplate,
    Row,
    Shows,
    file_name,
    period_before,
    problems_of,
    render,
)

TEMPLATE = FileTemplate(
    id="measured", name="{unit_id}_{end:%Y%m%d%H%M}.csv",
    columns=tuple(Column(heading=each.value, shows=each) for each in Shows),
)  # fmt: skip
AT = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)


def row(name: str = "电压", value: float | None = 228.4) -> Row:
    point = MappedPoint(
        device_id="m-1", kind=SourceKind.POINT, source="voltage_a", sc_device_id="1", point_id="0416104001",
        type=PointType.AI, name=name,
    )  # fmt: skip
    state = ValueState.INVALID if value is None else ValueState.NORMAL
    return Row(device=DeviceRef("1", "2"), device_name="表", point=point, at=AT, value=value, state=state)


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from([60, 300, 900, 3600, 86400]))
def test_the_last_period_is_over_and_the_next_is_not(now: datetime, every_s: int) -> None:
    if not datetime(1970, 1, 3, tzinfo=UTC) < now < datetime(2200, 1, 1, tzinfo=UTC):
        return
    period = period_before(now, every_s)
    assert period.end - period.start == timedelta(seconds=every_s)
    assert period.end <= now < period.end + timedelta(seconds=every_s)
    local = period.end.astimezone(CIVIL_ZONE)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    assert (local - midnight).total_seconds() % every_s == 0


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.none() | st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(",;|\t"))
def test_what_is_written_reads_back(name: str, value: float | None, separator: str) -> None:
    template = replace(TEMPLATE, separator=separator, no_value="-")
    text = render(template, "u-1", [row(name.replace("\0", ""), value)]).decode()
    headings, cells = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    shown = dict(zip(headings, cells, strict=True))
    assert shown["point_name"] == name.replace("\0", "")
    assert shown["value"] == ("-" if value is None else format(value, ".10g"))
    assert (shown["time"], shown["unit_id"], shown["state"]) == (
        "2026-03-08 14:02:11",
        "u-1",
        "6" if value is None else "0",
    )


def test_lines_without_a_value_may_stay_away_and_encodings_differ() -> None:
    chinese = replace(TEMPLATE, invalid_too=False, encoding="gb18030", heading=False, line_end="\n")
    assert render(chinese, "u", [row(value=None)]) == b""
    assert "电压".encode("gb18030") in render(chinese, "u", [row()])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "fixed.csv"}, "tell two periods apart"),
        ({"name": "{end:%Y%m%d}.csv"}, "tell two periods apart"),
        ({"name": "{unit_id.__class__}{end}"}, "is none of"),
        ({"name": "{0}{end}"}, "is none of"),
        ({"name": "../{end}"}, "no plain file name"),
        ({"name": "{end"}, "name:"),
        ({"name": "x" * 70 + "{end:%Y%m%d%H%M}"}, "80 characters"),
        ({"every_s": 7}, "every_s"),
        ({"folder": "../up"}, "folder"),
        ({"folder": "/abs"}, "folder"),
        ({"columns": (Column(heading="v", shows=Shows.VALUE, format="q"),)}, "columns[0].format"),
        ({"separator": '"'}, "separator"),
        ({"encoding": "utf-7"}, "encoding"),
    ],
)
def test_what_cannot_work_is_said(changes: dict[str, object], problem: str) -> None:
    assert problems_of(TEMPLATE) == []
    assert any(problem in each for each in problems_of(replace(TEMPLATE, **changes)))  # type: ignore[arg-type]


def test_a_name_follows_from_unit_and_period() -> None:
    period = period_before(AT, 900)
    assert file_name(TEMPLATE, "44010600000000001", period) == "44010600000000001_202603081400.csv"


def test_a_template_survives_its_storage() -> None:
    kept = replace(TEMPLATE, content=Content.HOURLY, keep=7)
    assert FileTemplate.of_json(kept.as_json()) == kept
