"""The signal table as a file: the printed table, round trips, and what is refused with which line."""

import io
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile
from services.alarm.dictionary import PRINTED, load_shipped
from services.alarm.domain.model import Signal, SignalKind
from services.alarm.domain.signal_table import (
    Layout,
    Meaning,
    code_of,
    columns_of,
    difference,
    meaning_of,
    numbered,
    signal_facts,
    signal_for,
    signal_of,
)
from services.alarm.files import table_file
from services.alarm.files.table_file import plain_cells, plain_layout, read_table, write_csv, write_xlsx
from services.alarm.files.table_merge import merged
from services.alarm.files.table_rows import TableRows, read_rows

TABLE = load_shipped()
FILE = Path("services/alarm/data") / f"{PRINTED}.csv"
NAME, KIND = "标准信号名称（多路表示用“#”两位顺序号）", "信号类别"


def rows_of(text: str, dictionary: str = "province") -> TableRows:
    return read_rows(read_table(text.encode(), "table.csv"), dictionary, TABLE.signals)


def only(text: str) -> Signal:
    found = rows_of(text)
    assert found.problems == []
    [signal] = found.signals.values()
    return signal


def problems(text: str) -> list[tuple[int | None, str, str]]:
    found = rows_of(text).problems
    assert all(one.expected and one.expected_zh for one in found)
    return [(one.line, one.field, str(one.found)) for one in found]


class TestPrintedTable:
    def test_the_rows_of_the_brochure_are_kept_as_printed_and_none_of_their_numbers_is_used(self) -> None:
        high = TABLE.signals["gd.voltage_ab_high"]
        assert [high.cells[name] for name in ("告警级别", "告警门限", "告警开始延时", "告警结束延时", "存储周期")] == [
            "0", "304", "300", "300", "1440",
        ]  # fmt: skip
        assert (high.levels, high.thresholds, high.start_delay_s, high.period_s) == ({}, {}, None, None)
        assert (high.alarm_text_zh, high.normal_text_zh, high.unit) == ("过高", "正常", "V")
        assert high.cells["评估级别"] == "C2"
        assert high.points == ("voltage_ab",)

    @pytest.mark.parametrize("kind", ["csv", "xlsx"])
    def test_it_survives_a_round_trip_with_its_unknown_columns(self, kind: str) -> None:
        body = FILE.read_bytes()
        table = read_table(body, FILE.name)
        cells = [row.cells for row in table.rows]
        written = write_csv(table.layout, cells) if kind == "csv" else write_xlsx(table.layout, cells, "表")
        again = read_table(written, "again")
        assert again.layout == table.layout
        assert [row.cells for row in again.rows] == cells
        found = read_rows(again, PRINTED, TABLE.signals)
        before = {code: one for code, one in TABLE.signals.items() if one.dictionary == PRINTED}
        diff = difference(before, found.signals, again.layout)
        assert (diff.rows, diff.unchanged) == ((), 13)
        assert len([note for note in found.notes if note.field == "告警级别"]) == 6

    def test_rows_above_and_below_the_headings_are_kept(self) -> None:
        text = f"资源系统,SC平台,SC平台\n{NAME},{KIND},备注\nSPName,,\n电压Ua,遥测,x\n"
        table = read_table(text.encode(), "table.csv")
        assert len(table.layout.heads) == 3
        assert [row.line for row in table.rows] == [4]
        assert read_table(write_csv(table.layout, [row.cells for row in table.rows]), "x").layout == table.layout

    def test_a_changed_number_of_an_unsettled_row_is_shown(self) -> None:
        text = FILE.read_text(encoding="utf-8").replace(",0,304,", ",0,305,", 1)
        table = read_table(text.encode(), "x.csv")
        found = read_rows(table, PRINTED, TABLE.signals)
        before = {code: one for code, one in TABLE.signals.items() if one.dictionary == PRINTED}
        [row] = difference(before, found.signals, table.layout).rows
        assert [(one.field, one.before, one.after) for one in row.fields] == [("告警门限", "304", "305")]
        assert found.signals[row.code].thresholds == {}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
@pytest.mark.parametrize("dictionary", ["tower-compact-20150416", "wattring"])
def test_a_table_that_no_file_gave_is_exported_and_read_back_the_same(dictionary: str, kind: str) -> None:
    before = {code: one for code, one in TABLE.signals.items() if one.dictionary == dictionary}
    layout = plain_layout()
    cells = [plain_cells(one, layout) for one in before.values()]
    body = write_csv(layout, cells) if kind == "csv" else write_xlsx(layout, cells, "表")
    table = read_table(body, "table")
    found = read_rows(table, dictionary, {})
    assert found.problems == []
    assert difference(before, found.signals, table.layout).rows == ()


def test_a_workbook_of_a_person_is_read_with_numbers_dates_and_a_line_above() -> None:
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.append(["资源系统", "SC平台", "SC平台", "SC平台"])
    page.append(
        [
            NAME,
            KIND,
            "单位",
            "告警级别A类",
            "告警级别B类",
            "告警门限",
            "告警开始延时(秒)",
            "存储周期(分钟)",
            "备注",
            "测点",
        ]
    )
    page.append(["电压Ua过高", "阈值", "V", 2, 3, 253.5, 60, 1440, None, "voltage_a"])
    body = io.BytesIO()
    book.save(body)
    [signal] = read_rows(read_table(body.getvalue(), "x.xlsx"), "province", {}).signals.values()
    assert (signal.levels, signal.thresholds["D"]) == ({"A": 2, "B": 3}, 253.5)
    assert (signal.start_delay_s, signal.end_delay_s, signal.period_s) == (60, 20, 86400)


class TestNextVersion:
    """A file, and what it does not speak of."""

    BEFORE = (
        f"{NAME},{KIND},单位,告警级别,告警门限,测点,备注\n"
        "电压Ua过低,阈值,V,2,170,voltage_a,甲\n电压Ua,遥测,V,,,voltage_a,乙\n"
    )

    def of(self, text: str, before: dict[str, Signal]) -> tuple[Layout, dict[str, Signal]]:
        table = read_table(text.encode(), "x")
        found = read_rows(table, "province", before)
        assert found.problems == []
        return table.layout, dict(found.signals)

    def test_columns_and_rows_that_a_file_lacks_stay_and_are_no_difference(self) -> None:
        former, before = self.of(self.BEFORE, {})
        layout, rows = merged(
            *self.of("信号名称,信号类型,告警阈值,负责人\n电压Ua过低,阈值,165,王\n", before), former, before
        )
        assert [column.title for column in layout.columns] == [
            "信号名称", "信号类型", "告警阈值", "负责人", "单位", "告警级别", "测点", "备注",
        ]  # fmt: skip
        low, value = rows.values()
        assert (low.cells["备注"], low.cells["告警级别"], low.cells["告警阈值"]) == ("甲", "2", "165")
        assert (value.cells["信号名称"], value.cells["备注"]) == ("电压Ua", "乙")
        [row] = difference(before, rows, layout, former).rows
        assert [(one.field, one.before, one.after) for one in row.fields] == [
            ("thresholds", dict.fromkeys("ABCD", 170), dict.fromkeys("ABCD", 165)), ("负责人", None, "王"),
        ]  # fmt: skip
        again = read_rows(read_table(write_csv(layout, [one.cells for one in rows.values()]), "x"), "province", {})
        assert difference(rows, again.signals, layout).rows == ()

    def test_a_row_that_is_not_settled_stays_so_in_a_file_without_levels(self) -> None:
        former, before = self.of(self.BEFORE.replace(",2,170,", ",0,304,"), {})
        layout, rows = merged(*self.of(f"{NAME},{KIND},告警门限\n电压Ua过低,阈值,305\n", before), former, before)
        low = next(iter(rows.values()))
        assert (low.levels, low.thresholds, low.cells["告警级别"], low.cells["告警门限"]) == ({}, {}, "0", "305")
        [row] = difference(before, rows, layout, former).rows
        assert [(one.field, one.before, one.after) for one in row.fields] == [("告警门限", "304", "305")]


class TestRows:
    def test_a_row_without_a_code_has_one_of_its_name(self) -> None:
        signal = only(f"{NAME},{KIND}\n电压Ua,遥测\n")
        assert signal.code == code_of("province", "电压Ua")
        assert rows_of(f"{NAME},{KIND},SPID\n电压Ua,遥测,230200050010\n").lines == {"230200050010": 2}

    @pytest.mark.parametrize("kind", ["csv", "xlsx"])
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_a_number_is_exported_as_exactly_as_it_is(self, kind: str, number: float) -> None:
        signal = replace(TABLE.signals["0s16002001"], points=(), thresholds=dict.fromkeys("ABCD", number))
        layout = plain_layout()
        cells = [plain_cells(signal, layout)]
        table = read_table(write_csv(layout, cells) if kind == "csv" else write_xlsx(layout, cells, "表"), "x")
        [again] = read_rows(table, signal.dictionary, {}).signals.values()
        assert again.thresholds == signal.thresholds

    def test_gb18030_is_read(self) -> None:
        table = read_table(f"{NAME},{KIND}\n电压Ua,遥测\n".encode("gb18030"), "x.csv")
        assert table.rows[0].cells[KIND] == "遥测"

    def test_an_alarm_takes_the_points_of_the_row_that_it_watches(self) -> None:
        found = rows_of(
            f"{NAME},{KIND},单位,源监测点/目标监测点,测点,告警级别,告警门限\n"
            "进线电压Uab,遥测,V,,voltage_ab,,\n进线电压Uab过高,阈值,V,进线电压Uab,,2,420\n"
        )
        assert found.problems == []
        assert [one.points for one in found.signals.values()] == [("voltage_ab",), ("voltage_ab",)]

    def test_a_row_that_watches_a_wrong_one_is_not_told_again(self) -> None:
        text = f"{NAME},{KIND},源监测点\n进线电压Uab,遥感,\n进线电压Uab过高,阈值,进线电压Uab\n"
        assert problems(text) == [(2, KIND, "遥感")]

    def test_what_a_file_has_no_column_for_stays_as_it_was(self) -> None:
        known = {
            one.code: one
            for one in [only(f"{NAME},{KIND},测点,英文名称,告警级别\n电压Ua过高,阈值,voltage_a,Ua high,2\n")]
        }
        again = read_rows(read_table(f"{NAME},{KIND}\n电压Ua过高,阈值\n".encode(), "x"), "province", known)
        [signal] = again.signals.values()
        assert (signal.points, signal.name_en, signal.levels["A"]) == (("voltage_a",), "Ua high", 2)

    def test_a_measured_value_without_a_point_gets_a_proposal_and_no_point(self) -> None:
        found = rows_of(f"{NAME},{KIND},单位\n高压变配电系统电压Uab,遥测,V\n")
        [signal] = found.signals.values()
        [note] = found.notes
        assert signal.points == ()
        assert "voltage_ab" in note.text
        assert "voltage_ab" in note.text_zh

    @pytest.mark.parametrize(
        ("text", "line", "field", "value"),
        [
            ("名,类\n电压Ua过高,其他\n", 2, "类", "其他"),
            ("名,类\n,阈值\n", 2, "名", ""),
            ("名,类\n甲,阈值\n甲,阈值\n", 3, "名", "甲"),
            ("名,类,级\n甲,阈值,5\n", 2, "级", "5"),
            ("名,类,限\n甲,阈值,高\n", 2, "限", "高"),
            ("名,类,限\n甲,阈值,nan\n", 2, "限", "nan"),
            ("名,类,始\n甲,阈值,-1\n", 2, "始", "-1.0"),
            ("名,类,始\n甲,阈值,999999\n", 2, "始", "999999.0"),
            ("名,类,点\n甲,阈值,voltage_x\n", 2, "点", "voltage_x"),
            ("名,类,点,位\n甲,阈值,voltage_a,A\n", 2, "位", "A"),
            ("名,类,点,位\n甲,阈值,voltage_a,kV\n", 2, "位", "kV"),
            ("名,类,点,限\n甲,阈值,voltage_a,5000\n", 2, "限", "5000.0"),
            ("名,类,监\n甲,阈值,乙\n", 2, "监", "乙"),
            ("名,类,码\n甲,阈值,两 个\n", 2, "码", "两 个"),
            ("名,类,码\n甲,阈值,0s16001001\n", 2, "码", "0s16001001"),
        ],
    )
    def test_a_wrong_cell_is_named_with_line_heading_and_both_languages(
        self, text: str, line: int, field: str, value: str
    ) -> None:
        short = {"名": "信号名称", "类": "信号类别", "级": "告警级别", "限": "告警门限", "始": "告警开始延时",
                 "点": "测点", "位": "单位", "监": "监测点", "码": "信号编码"}  # fmt: skip
        head, _, rest = text.partition("\n")
        text = ",".join(short[name] for name in head.split(",")) + "\n" + rest
        assert (line, short[field], value) in problems(text)


class TestBounds:
    def test_what_is_no_table_is_refused(self) -> None:
        for body in (b"", b"\x00\x01", b"PK\x03\x04 no zip", b"a,b\n1,2\n", "名称,类别\n".encode(), b"\xff\xfe\xff"):
            with pytest.raises(InvalidFile):
                read_table(body, "x")

    @pytest.mark.parametrize(
        ("limit", "value"),
        [("MAX_TABLE_BYTES", 10), ("MAX_TABLE_ROWS", 1), ("MAX_TABLE_COLUMNS", 1), ("MAX_CELL_CHARS", 3)],
    )
    def test_every_bound_is_kept(self, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
        monkeypatch.setattr(table_file, limit, value)
        with pytest.raises(InvalidFile):
            read_table(f"{NAME},{KIND}\n电压Ua,遥测\n电压Ub,遥测\n".encode(), "x")

    def test_a_workbook_is_bounded_while_it_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_file, "MAX_TABLE_ROWS", 100)
        monkeypatch.setattr(table_file, "MAX_TABLE_COLUMNS", 20)
        heads, row = [NAME, KIND], ["电压Ua", "遥测"]

        def body(sheets: dict[str, list[list[str]]]) -> bytes:
            book = openpyxl.Workbook(write_only=True)
            for title, rows in sheets.items():
                page = book.create_sheet(title)
                for cells in rows:
                    page.append(cells)
            found = io.BytesIO()
            book.save(found)
            return found.getvalue()

        other = [["说明"] * 40] * 300
        found = read_table(body({"说明": other, "表": [heads, *[row] * 100]}), "x")
        assert len(found.rows) == 100
        for wrong in ([heads, *[row] * 200], [heads, [*row, *[""] * 20, "x"]]):
            with pytest.raises(InvalidFile, match="at most"):
                read_table(body({"表": wrong}), "x")
        monkeypatch.setattr(table_file, "MAX_UNPACKED_BYTES", 1000)
        with pytest.raises(InvalidFile, match="unpacked"):
            read_table(body({"表": [heads, row]}), "x")

    @given(st.binary(max_size=300))
    def test_no_bytes_raise_anything_but_a_wrong_file(self, body: bytes) -> None:
        try:
            read_rows(read_table(f"{NAME},{KIND},告警级别,告警门限\n".encode() + body, "x"), "province", {})
        except InvalidFile:
            pass


CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12).map(str.strip)
KINDS = st.sampled_from(["遥测", "阈值"])


@given(
    titles=st.lists(CELL, max_size=5),
    rows=st.lists(
        st.tuples(CELL.filter(bool), st.sampled_from(["遥测", "阈值"]), st.lists(CELL, max_size=5)), max_size=6
    ),
    kind=st.sampled_from(["csv", "xlsx"]),
)
def test_every_heading_and_cell_survives_a_round_trip(
    titles: list[str], rows: list[tuple[str, str, list[str]]], kind: str
) -> None:
    """Whatever the headings are called, how often, or whether they have a name at all."""
    heads = ((NAME, KIND, *titles),)
    layout = Layout(columns_of(heads[0]), heads)
    keys = [column.key for column in layout.columns]
    cells = [
        {key: text for key, text in zip(keys, (name, what, *more), strict=False) if text} for name, what, more in rows
    ]
    body = write_csv(layout, cells) if kind == "csv" else write_xlsx(layout, cells, "表")
    again = read_table(body, "x")
    used = {key for row in cells for key in row}
    width = max((place for place, column in enumerate(layout.columns, 1) if column.title or column.key in used))
    assert [column.title for column in again.layout.columns] == [column.title for column in layout.columns][:width]
    skip = 1 if cells and meaning_of(cells[0][NAME]) == (Meaning.NAME, None) else 0
    assert [row.cells for row in again.rows] == cells[skip:]


@pytest.mark.parametrize(
    ("title", "meaning"),
    [
        (NAME, (Meaning.NAME, None)),
        ("SPName", (Meaning.NAME, None)),
        (" 告警级别 ( B 类 )", (Meaning.LEVEL, "B")),
        ("告警门限D", (Meaning.THRESHOLD, "D")),
        ("告警开始延时（秒）", (Meaning.START, None)),
        ("存储周期（分钟）", (Meaning.PERIOD_MIN, None)),
        ("存储周期", None),  # in which unit?
        ("评估级别", None),
        ("", None),
    ],
)
def test_headings_are_known_by_their_words(title: str, meaning: tuple[Meaning, str | None] | None) -> None:
    assert meaning_of(title) == meaning


def test_every_heading_that_an_export_has_is_known_to_an_import() -> None:
    for column in plain_layout().columns:
        assert meaning_of(column.title) == (column.meaning, column.station_class)


def test_a_place_in_a_name_becomes_the_order_number_of_the_circuit() -> None:
    assert numbered("低压配电柜#支路电流Ia", 3) == "低压配电柜03支路电流Ia"
    signal = only(f"{NAME},{KIND}\n#路开关跳闸,遥信\n")
    assert signal_for(signal, lambda: 12).name_zh == "12路开关跳闸"
    plain = TABLE.signals["0s16001001"]
    assert signal_for(plain, lambda: pytest.fail("nobody asks for it")) is plain


def test_a_row_is_stored_and_read_back_the_same() -> None:
    for signal in TABLE.signals.values():
        assert signal_of(signal_facts(signal)) == signal
        assert isinstance(signal_of(signal_facts(signal)).kind, SignalKind)
