"""Archives of readings: every form says the same, and nothing wrong is guessed right."""

import gzip
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidFile
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.submission import Submission
from services.ingest.files import archive, columnar
from services.ingest.files.archive import Entry, open_archive, unpacks_to

CHINA = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)
WIDE = "device_id,source_time,voltage_a,active_power_total [W]\nm-1,2026-03-01T12:00:00+08:00,230.1,1500\n"


def taken(body: bytes | str, zone: ZoneInfo | None = None) -> list[Entry]:
    return list(open_archive(body.encode() if isinstance(body, str) else body, "x", zone))


def submission(body: bytes | str, zone: ZoneInfo | None = None) -> Submission:
    [entry] = taken(body, zone)
    assert isinstance(entry.found, Submission), entry.found
    return entry.found


def refusal(body: bytes | str, zone: ZoneInfo | None = None) -> Refused:
    [entry] = taken(body, zone)
    assert isinstance(entry.found, Refused), entry.found
    return entry.found


def sheet(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        WIDE.encode(),
        WIDE.replace(",", ";").encode(),
        WIDE.replace(",", "\t").replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + WIDE.encode(),
        gzip.compress(WIDE.encode()),
        WIDE.replace("2026-03-01T12:00:00+08:00", "2026-03-01 12:00").encode(),
        WIDE.replace("2026-03-01T12:00:00+08:00", '"2026/3/1 12:00:00"').encode(),
        b"device_id,source_time,point,value,unit\n"
        b"m-1,2026-03-01T12:00:00+08:00,voltage_a,230.1,\nm-1,2026-03-01T12:00:00+08:00,active_power_total,1500,W\n",
        sheet(["device_id", "source_time", "voltage_a", "active_power_total [kW]"],
              ["m-1", NOON.replace(hour=12, tzinfo=None), 230.1, 1.5]),
        orjson.dumps({"device_id": "m-1", "source_time": "2026-03-01T04:00:00Z",
                      "points": {"voltage_a": 230.1, "active_power_total": 1.5}}),
    ],
)  # fmt: skip
def test_every_form_says_the_same(body: bytes) -> None:
    found = submission(body, CHINA)
    assert (found.device_id, found.source_time) == ("m-1", NOON)
    assert found.points == {"voltage_a": 230.1, "active_power_total": 1.5}


def test_chinese_text_of_excel_is_gb18030() -> None:
    text = "device_id,source_time,voltage_a,message_id\nm-1,2026-03-01T12:00:00+08:00,230.1,抄表员甲\n"
    assert submission(text.encode("gb18030")).message_id == "抄表员甲"


def test_a_time_without_offset_is_not_guessed() -> None:
    for time in ("2026-03-01 12:00", "2026-03-01T12:00:00"):
        found = refusal(f"device_id,source_time,voltage_a\nm-1,{time},230\n")
        assert (found.reason, "timezone" in found.detail) == (RejectReason.UNREADABLE_TIME, True)
    found = refusal(sheet(["device_id", "source_time", "voltage_a"], ["m-1", NOON.replace(tzinfo=None), 1]))
    assert found.reason is RejectReason.UNREADABLE_TIME


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("m-1,2026-03-01T12:00:00Z,abc", RejectReason.NOT_A_NUMBER),
        ("m-1,2026-03-01T12:00:00Z,nan", RejectReason.NOT_A_NUMBER),
        ('m-1,2026-03-01T12:00:00Z,"1,230"', RejectReason.NOT_A_NUMBER),
        ("m-1,2026-03-01T12:00:00Z,", RejectReason.UNDECODABLE),
        ("m-1,,230", RejectReason.MISSING_FIELD),
        (",2026-03-01T12:00:00Z,230", RejectReason.MISSING_FIELD),
        ("m-1,2026-02-30 12:00,230", RejectReason.UNREADABLE_TIME),
        ("m-1,46082,230", RejectReason.UNREADABLE_TIME),
        (f'm-1,2026-03-01T12:00:00Z,"{"9" * 200_000}"', RejectReason.UNDECODABLE),
    ],
)
def test_a_wrong_row_costs_itself_only(row: str, reason: RejectReason) -> None:
    good = "m-1,2026-03-01T13:00:00Z,231"
    entries = taken(f"device_id,source_time,voltage_a\n{good}\n{row}\n\n{good.replace('13', '14')}\n", CHINA)
    assert [entry.line for entry in entries] == [2, 3, 5]
    assert [isinstance(entry.found, Submission) for entry in entries] == [True, False, True]
    assert entries[1].found.reason is reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("device,source_time,voltage_a", "the name of a point"),
        ("source_time,voltage_a", "a column device_id"),
        ("device_id,source_time", "columns of points"),
        ("device_id,source_time,point,value,voltage_a", "columns of points"),
        ("device_id,device_id,source_time,voltage_a", "device_id once"),
        ("device_id,source_time,spannung", "spannung"),
    ],
)
def test_headings_that_mean_nothing_refuse_the_file(head: str, says: str) -> None:
    with pytest.raises(InvalidFile, match=says):
        taken(f"{head}\n1,2,3\n")


def test_damage_is_told_before_the_first_line_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(WIDE.encode() * 100)
    with pytest.raises(InvalidFile, match="undamaged gzip"):
        open_archive(packed[:-4], "x", CHINA)
    with pytest.raises(InvalidFile, match="UTF-8 or GB 18030"):
        open_archive(b"device_id,\xff\xff\xff\n", "x", CHINA)
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 100)
    monkeypatch.setattr(archive.unpacked, "__kwdefaults__", {"limit": 100})
    with pytest.raises(InvalidFile, match="at most 100 bytes"):
        open_archive(gzip.compress(b"0" * 10_000), "x", CHINA)


def test_rows_that_share_device_and_time_are_one_report() -> None:
    rows = [
        f"m-{d},2026-03-01T12:0{t}:00Z,{p},{d}{t}" for d in (1, 2) for t in (0, 1) for p in ("voltage_a", "voltage_b")
    ]
    entries = taken("device_id,source_time,point,value\n" + "\n".join(rows))
    assert [entry.line for entry in entries] == [2, 4, 6, 8]
    assert [dict(entry.found.points) for entry in entries if isinstance(entry.found, Submission)] == [
        {"voltage_a": n, "voltage_b": n} for n in (10, 11, 20, 21)
    ]


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_wrong_file(noise: bytes) -> None:
    for body in (noise, b"device_id,source_time,voltage_a\n" + noise, gzip.compress(noise)):
        try:
            entries = taken(body, CHINA)
        except InvalidFile:
            continue
        assert all(isinstance(entry.found, Submission | Refused) for entry in entries)


def parquet(**columns: Any) -> bytes:
    body = io.BytesIO()
    pl.DataFrame(columns).write_parquet(body)
    return body.getvalue()


def test_parquet_says_the_same_as_csv() -> None:
    times = [datetime(2026, 1, 1, 0, 15 * n, tzinfo=UTC).replace(tzinfo=None) for n in range(3)]
    body = parquet(device_id=["m-1"] * 3, source_time=times, **{"active_power_total [W]": [1.0, 2.5, None]})
    table = "device_id,source_time,active_power_total [W]\n" + "".join(
        f"m-1,{time},{value}\n" for time, value in zip(times, ("1", "2.5", ""), strict=True)
    )
    found = list(open_archive(body, "x", CHINA))
    assert [entry.found for entry in found] == [entry.found for entry in open_archive(table.encode(), "x", CHINA)]
    assert [entry.line for entry in found] == [1, 2, 3]
    assert isinstance(found[0].found, Submission)
    assert not isinstance(found[2].found, Submission)
    assert not unpacks_to(body, 1 << 20)


def test_parquet_of_odd_types_is_read_or_refused_by_its_column() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    [entry] = open_archive(parquet(device_id=["m-1"], source_time=[at], voltage_a=[Decimal("230.1")]), "x", None)
    assert isinstance(entry.found, Submission)
    assert entry.found.points == {"voltage_a": 230.1}
    with pytest.raises(InvalidFile, match="voltage_a"):
        open_archive(parquet(device_id=["m-1"], source_time=[at], voltage_a=[[1.0, 2.0]]), "x", None)
    times = pl.Series([0, 1 << 61]).cast(pl.Datetime("us", "Asia/Shanghai"))  # the second in a year of five digits
    first, second = open_archive(parquet(device_id=["m-1"] * 2, source_time=times, voltage_a=[1.0] * 2), "x", None)
    assert isinstance(first.found, Submission)
    assert first.found.source_time == datetime(1970, 1, 1, tzinfo=UTC)
    assert isinstance(second.found, Refused)
    [entry] = open_archive(parquet(device_id=["m" * 1_000_000], source_time=[at], voltage_a=[1.0]), "x", None)
    assert isinstance(entry.found, Refused)
    assert len(entry.raw) < 1000


def test_parquet_with_too_many_rows_or_columns_is_refused_before_it_is_unfolded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(columnar, "MAX_ROWS", 5)
    with pytest.raises(InvalidFile, match="at most 5 rows"):
        open_archive(parquet(device_id=["m-1"] * 6, source_time=[at] * 6, voltage_a=[1.0] * 6), "x", None)
    with pytest.raises(InvalidFile, match="columns"):
        open_archive(parquet(**{f"x_{n}": [1.0] for n in range(columnar.MAX_COLUMNS + 1)}), "x", None)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_damaged_parquet_is_told_as_such(wrong: bytes, place: int) -> None:
    body = parquet(device_id=["m-1"] * 3, source_time=[datetime(2026, 1, 1, tzinfo=UTC)] * 3, voltage_a=[1.0] * 3)
    try:
        list(open_archive(body[:place] + wrong + body[place + len(wrong) :], "x", CHINA))
    except InvalidFile:
        pass
