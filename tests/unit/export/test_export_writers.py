"""Rows become files of four kinds that others read: the same values, units, missing as missing, texts as texts."""

import csv
import io
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import openpyxl
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from services.export.domain.exports import Column, ColumnKind, FileForm, Row
from services.export.exports import writers
from services.export.exports.writers import WRITERS

ZONE = ZoneInfo("Asia/Shanghai")
COLUMNS = (
    Column("site", ColumnKind.TEXT, None, "局站"),
    Column("energy_kwh", ColumnKind.NUMBER, "kWh", "用电量"),
    Column("level", ColumnKind.COUNT),
    Column("at", ColumnKind.TIME),
    Column("day", ColumnKind.DAY),
    Column("late", ColumnKind.FLAG),
)
AT = datetime(2026, 3, 8, 4, 15, tzinfo=UTC)
FULL: Row = {"site": "站,1", "energy_kwh": 1.25, "level": 2, "at": AT, "day": date(2026, 3, 8), "late": True}
EMPTY: Row = {"site": "s-2", "energy_kwh": float("nan")}


def written(folder: Path, form: FileForm, batches: list[list[Row]]) -> Path:
    path = folder / f"file.{form}"
    with WRITERS[form](path, COLUMNS, ZONE) as writer:
        for batch in batches:
            writer.add(batch)
    assert writer.rows == sum(map(len, batches))
    assert [one.name for one in folder.iterdir()] == [path.name]
    return path


def test_csv(tmp_path: Path) -> None:
    text = written(tmp_path, FileForm.CSV, [[FULL], [EMPTY, {"site": "=1+1"}]]).read_bytes().decode()
    head, full, empty, formula = csv.reader(io.StringIO(text, newline=""))
    assert head == [column.key for column in COLUMNS]
    assert full == ["站,1", "1.25", "2", "2026-03-08T12:15:00.000000+08:00", "2026-03-08", "true"]
    assert empty == ["s-2", "", "", "", "", ""]
    assert formula[0] == "'=1+1"


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PART_ROWS", 2)
    frame = pl.read_parquet(written(tmp_path, FileForm.PARQUET, [[FULL], [EMPTY, FULL], [FULL]]))
    assert frame.schema == {
        "site": pl.String, "energy_kwh": pl.Float64, "level": pl.Int64, "at": pl.Datetime("us", "UTC"),
        "day": pl.Date, "late": pl.Boolean,
    }  # fmt: skip
    assert frame.row(0) == ("站,1", 1.25, 2, AT, date(2026, 3, 8), True)
    assert frame.row(1) == ("s-2", None, None, None, None, None)
    assert frame["site"].to_list() == ["站,1", "s-2", "站,1", "站,1"]


def test_excel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "SHEET_ROWS", 3)
    path = written(tmp_path, FileForm.EXCEL, [[FULL, EMPTY], [{"site": "=1+1\x00"}]])
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["rows 1", "rows 2", "columns"]
    rows = list(book["rows 1"].iter_rows(values_only=True))
    assert rows[0] == tuple(column.key for column in COLUMNS)
    at, day = AT.astimezone(ZONE).replace(tzinfo=None), datetime(2026, 3, 8, tzinfo=UTC).replace(tzinfo=None)
    assert rows[1] == ("站,1", 1.25, 2, at, day, True)
    assert rows[2] == ("s-2", None, None, None, None, None)
    cell = book["rows 2"]["A2"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")
    legend = list(book["columns"].iter_rows(values_only=True))
    assert legend[2] == ("energy_kwh", "kWh", "用电量", "number")
    assert legend[4][3] == "time (Asia/Shanghai)"


def test_xml(tmp_path: Path) -> None:
    root = etree.parse(str(written(tmp_path, FileForm.XML, [[FULL], [EMPTY]]))).getroot()
    energy = root.findall("columns/column")[1]
    assert energy.attrib == {"key": "energy_kwh", "kind": "number", "unit": "kWh", "name_zh": "用电量"}
    full, empty = root.findall("row")
    assert [(one.tag, one.text) for one in full] == [
        ("site", "站,1"), ("energy_kwh", "1.25"), ("level", "2"), ("at", "2026-03-08T12:15:00+08:00"),
        ("day", "2026-03-08"), ("late", "true"),
    ]  # fmt: skip
    assert [one.tag for one in empty] == ["site"]


@pytest.mark.parametrize("form", WRITERS)
def test_a_file_without_rows_has_its_columns(tmp_path: Path, form: FileForm) -> None:
    path = written(tmp_path, form, [[]])
    match form:
        case FileForm.CSV:
            assert path.read_text() == "site,energy_kwh,level,at,day,late\n"
        case FileForm.PARQUET:
            assert pl.read_parquet(path).shape == (0, 6)
        case FileForm.EXCEL:
            assert openpyxl.load_workbook(path)["rows 1"].max_row == 1
        case FileForm.XML:
            assert etree.parse(str(path)).getroot().find("row") is None


@pytest.mark.parametrize("form", WRITERS)
def test_a_failure_on_the_way_leaves_no_parts(tmp_path: Path, form: FileForm) -> None:
    def fail() -> None:
        with WRITERS[form](tmp_path / "file", COLUMNS, ZONE) as writer:
            writer.add([FULL])
            raise ValueError("away")

    with pytest.raises(ValueError, match="away"):
        fail()
    assert {one.name for one in tmp_path.iterdir()} <= {"file"}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_text_can_be_written_and_read(tmp_path: Path, texts: list[str]) -> None:
    rows: list[Row] = [{"site": text} for text in texts]
    for form in (FileForm.XML, FileForm.EXCEL, FileForm.PARQUET):
        path = tmp_path / f"any.{form}"
        with WRITERS[form](path, COLUMNS, ZONE) as writer:
            writer.add(rows)
        match form:
            case FileForm.XML:
                found = etree.parse(str(path)).getroot().findall("row")
                assert len(found) == len(texts)
            case FileForm.EXCEL:
                assert openpyxl.load_workbook(path)["rows 1"].max_row <= len(texts) + 1
            case _:
                assert pl.read_parquet(path)["site"].to_list() == texts
