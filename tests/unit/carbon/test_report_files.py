"""A report as files: what is printed is what was filed, no figure stands without completeness and reason."""

import io
import re
import zipfile
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import openpyxl
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.carbon.domain.reports.content import Column, ColumnKind, Language, Quantity, Section, Table, Text
from services.carbon.reports.encoding import decode_report, encode_report
from services.carbon.reports.excel import write_excel
from services.carbon.reports.frames import TableFormat, convert, frame_of, write_arrow
from services.carbon.reports.shown import share
from tests.unit.carbon.reports_data import report, table

DIGEST = "ab" * 32
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=40)


def workbook(body: bytes) -> Any:
    return openpyxl.load_workbook(io.BytesIO(body))


def cells(page: Any) -> list[list[object]]:
    return [[cell.value for cell in row] for row in page.iter_rows()]


class TestContent:
    def test_a_figure_without_reason_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"figures without reason: \['energy'\]"):
            replace(report(), reasons=report().reasons[1:])

    def test_a_row_that_does_not_fit_its_columns_is_refused(self) -> None:
        one = table("a")
        with pytest.raises(ValueError, match="has 5 cells, not 6"):
            replace(one, rows=(one.rows[0][:-1],))
        with pytest.raises(ValueError, match="energy_kwh cannot be 3"):
            replace(one, rows=((*one.rows[0][:3], 3, *one.rows[0][4:]),))

    def test_two_tables_of_one_name_are_refused(self) -> None:
        with pytest.raises(ValueError, match="a key is there twice"):
            report(table("a"), table("b"))


class TestEncoding:
    def test_what_was_filed_reads_back_and_has_one_text(self) -> None:
        text = encode_report(report())
        assert decode_report(text) == report()
        assert encode_report(decode_report(text)) == text

    def test_a_whole_number_is_the_same_content(self) -> None:
        one, other = table("a", values=(3.0,)), table("a", values=(3,))
        assert encode_report(report(one)) == encode_report(report(other))

    @given(NAMES, st.floats(allow_nan=False, allow_infinity=False))
    def test_any_name_and_number_read_back(self, name: str, value: float) -> None:
        one = report(table(name, values=(value,)))
        assert decode_report(encode_report(one)) == one


class TestTables:
    @pytest.mark.parametrize("form", [TableFormat.PARQUET, TableFormat.ARROW])
    def test_programs_get_every_digit_with_completeness_reason_and_marks(self, form: TableFormat) -> None:
        body = io.BytesIO(
            convert(write_arrow(table("一号楼", "Two", values=(1234.5678, None)), Language.ENGLISH), form)
        )
        found = pl.read_parquet(body) if form is TableFormat.PARQUET else pl.read_ipc(body)
        assert found["energy_kwh"].to_list() == [1234.5678, None]
        assert found["energy_kwh_completeness"].to_list() == [0.98765, 0.0]
        assert found["energy_kwh_why"].to_list() == ["energy", "energy"]
        assert set(found["energy_kwh_trace"]) == {"/api/v1/energy/trace?figure=energy&site=s1"}
        assert found["energy_kwh_marks"].to_list() == ["estimated", "unknown_input"]
        assert found["day"].to_list() == [date(2026, 3, 1)] * 2
        assert found["at"].to_list() == [datetime(2026, 2, 28, 16, 15, tzinfo=UTC)] * 2
        assert found["circuits"].to_list() == [7, 7]

    def test_unknown_is_empty_in_csv_and_never_zero(self) -> None:
        text = convert(write_arrow(table("a", values=(None,)), Language.CHINESE), TableFormat.CSV).decode("utf-8-sig")
        head, row = text.strip().splitlines()
        assert dict(zip(head.split(","), row.split(","), strict=True))["energy_kwh"] == ""

    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
    def test_no_name_becomes_a_formula_in_csv(self, name: str) -> None:
        text = convert(write_arrow(table(name), Language.CHINESE), TableFormat.CSV).decode("utf-8-sig")
        assert text.splitlines()[1].startswith(f"'{name}")

    def test_an_empty_table_keeps_its_types(self) -> None:
        schema = frame_of(table(), Language.ENGLISH).schema
        assert schema["energy_kwh"] == pl.Float64
        assert schema["day"] == pl.Date
        assert schema["name"] == pl.String


class TestExcel:
    def test_numbers_are_numbers_beside_completeness_and_reason(self) -> None:
        book = workbook(write_excel(report(), Language.CHINESE, DIGEST))
        page = book["周期内用能"]
        rows = cells(page)
        top = next(place for place, row in enumerate(rows) if row[0] == "名称")
        assert rows[top][3:6] == ["用电量 (kWh)", "完整率", "依据"]
        first = rows[top + 1]
        assert first[0] == "一号楼"
        assert first[1] == datetime(2026, 3, 1)  # noqa: DTZ001 - Excel knows no zones
        assert first[2] == datetime(2026, 3, 1, 0, 15)  # noqa: DTZ001
        assert first[3:6] == [1234.5678, 0.98765, "[1]"]
        assert first[6] == 0.25
        assert first[7] == "–"
        figure = page.cell(row=top + 2, column=4)
        assert figure.number_format == "#,##0.00"
        assert figure.comment.text == "部分估算"
        assert page.cell(row=top + 2, column=6).hyperlink.location == "'依据'!A2"

    def test_reasons_stand_where_the_links_lead(self) -> None:
        book = workbook(write_excel(report(), Language.ENGLISH, DIGEST))
        assert cells(book["Reasons"])[1] == [
            "[1]", "sum of intervals", "methods 1", "/api/v1/energy?site=s1", "circuit feed-1\ncircuit feed-2",
        ]  # fmt: skip

    def test_every_figure_says_where_it_is_answered(self) -> None:
        book = workbook(write_excel(report(), Language.ENGLISH, DIGEST))
        assert cells(book["Traces"])[1:] == [
            ["Course", name, "energy (kWh)", value, "/api/v1/energy/trace?figure=energy&site=s1"]
            for name, value in (("一号楼", "1,234.57"), ("Two", "1,235.57"))
        ]

    def test_charts_are_native(self) -> None:
        body = write_excel(report(), Language.ENGLISH, DIGEST)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            charts = [name for name in archive.namelist() if re.fullmatch(r"xl/charts/chart\d+\.xml", name)]
            assert len(charts) == 1
            text = archive.read(charts[0]).decode()
        assert "barChart" in text
        assert "$D$" in text  # the energies
        assert "$A$" in text  # named by their names

    def test_unknown_is_a_word_and_not_zero(self) -> None:
        book = workbook(write_excel(report(table("a", values=(None,))), Language.ENGLISH, DIGEST))
        assert any("unknown" in row for row in cells(book["Course of the period"]))

    def test_the_head_names_the_filed_content(self) -> None:
        page = workbook(write_excel(report(), Language.ENGLISH, DIGEST)).worksheets[0]
        said = {row[0]: row[1] for row in cells(page) if row[0]}
        assert said["SHA-256 of the filed content"] == DIGEST
        assert said["period"] == "2026-03-01 00:00 – 2026-04-01 00:00"
        assert said["question"] == '{"edition":"2026-03"}'

    def test_sheets_have_names_that_excel_takes(self) -> None:
        names = workbook(write_excel(report(), Language.ENGLISH, DIGEST)).sheetnames
        assert names == ["Contents", "Course of the period", "Course of the period 2", "Reasons", "Traces"]

    @settings(max_examples=20)  # each writes a workbook and reads it
    @given(NAMES)
    def test_any_name_is_a_text_and_no_formula(self, name: str) -> None:
        section = Section(
            key="one",
            title=Text(name, name),
            tables=(
                Table(
                    key="one",
                    title=Text(name, name),
                    columns=(Column(key="name", title=Text(name, name)),),
                    rows=((name,),),
                ),
            ),
        )
        one = replace(report(), title=Text(name, name), sections=(section,))
        book = workbook(write_excel(one, Language.ENGLISH, DIGEST))
        kinds = {cell.data_type for page in book.worksheets for row in page.iter_rows() for cell in row}
        assert "f" not in kinds


@pytest.mark.parametrize(
    ("completeness", "shown"), [(None, "–"), (1.0, "100 %"), (0.9999, "99.9 %"), (0.5, "50.0 %"), (0.0, "0.0 %")]
)
def test_what_is_not_whole_is_never_printed_as_whole(completeness: float | None, shown: str) -> None:
    assert share(completeness) == shown


def test_columns_of_counts_take_no_figures() -> None:
    column = Column(key="n", title=Text("n", "n"), kind=ColumnKind.COUNT)
    with pytest.raises(ValueError, match="n cannot be"):
        Table(
            key="t",
            title=Text("t", "t"),
            columns=(column,),
            rows=((Quantity(value=1.0, completeness=None, why="x"),),),
        )
