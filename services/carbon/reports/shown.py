"""How cells are printed, the same in every file for people."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.reports import words
from services.carbon.domain.reports.content import Cell, Column, ColumnKind, Language, Quantity, Report, Table, Text

UNKNOWN = Text("unknown", "未知")
MADE = Text("made", "生成时间")
PERIOD = Text("period", "周期")
SUBJECT = Text("subject", "对象")
KNOWN_ON = Text("factors as known on", "因子截止日")
SOFTWARE = Text("software", "软件版本")
QUESTION = Text("question", "查询参数")
DIGEST = Text("SHA-256 of the filed content", "已存档内容 SHA-256")
COMPLETENESS = Text("known", "完整率")
WHY = Text("why", "依据")
FORMULA = Text("formula", "公式")
SOURCE = Text("method", "方法出处")
TOLD_AT = Text("told at", "查询地址")
ORIGINS = Text("made of", "数据来源")
REASONS = Text("Reasons", "依据")
MARKS = Text("Marks", "标注")
TRACES = Text("Traces", "追溯")
TABLE = Text("table", "表")
ROW = Text("row", "行")
FIGURE = Text("figure", "指标")
VALUE = Text("value", "数值")
ANSWERED_AT = Text("why it is so, step by step down to the registers: asked at", "逐级追溯至表底:查询地址")
CONTENTS = Text("Contents", "目录")
EVERY_FIGURE = Text(
    "Beside every figure stands how much of what it is made of is known, and the number of its reason.",
    "每个数值旁均标明其完整率与依据编号。",
)


@dataclass(frozen=True, slots=True)
class Numbering:
    """Reasons and marks as they are printed: by number, in the order in which they first occur."""

    reasons: Mapping[str, int]
    marks: Mapping[str, str]
    """Letters by mark: a, b, … aa."""

    @classmethod
    def of(cls, report: Report) -> "Numbering":
        """Return the numbers of a report's reasons and the letters of its marks."""
        used: dict[str, str] = {}
        for one in report.quantities():
            for mark in one.marks:
                used.setdefault(mark, _letters(len(used)))
        return cls({one.key: number for number, one in enumerate(report.reasons, start=1)}, used)

    def said(self, marks: Iterable[str], language: Language) -> str:
        """Return marks in words."""
        return "; ".join(language.of(words.mark(one)) for one in marks)


def _letters(number: int) -> str:
    found = ""
    number += 1
    while number:
        number, place = divmod(number - 1, 26)
        found = chr(ord("a") + place) + found
    return found


def heading(column: Column, language: Language) -> str:
    """Return what stands above a column, with its unit."""
    title = language.of(column.title)
    unit = "%" if column.percent else column.unit
    return f"{title} ({unit})" if unit else title


def number(one: Quantity, column: Column, language: Language) -> str:
    """Return a figure as it is printed, ``unknown`` where it is not known."""
    if one.value is None:
        return language.of(UNKNOWN)
    value = one.value * 100 if column.percent else one.value
    return f"{value:,.{column.digits}f}"


def share(completeness: float | None) -> str:
    """Return how much is known as it is printed; nothing where nothing can be missing.

    It is never rounded up to the whole: what is printed as 100 % is whole.
    """
    if completeness is None:
        return "–"
    if completeness >= 1:
        return "100 %"
    return f"{min(completeness * 100, 99.9):.1f} %"


def plain(cell: Cell, column: Column, language: Language) -> str:
    """Return a cell that is no figure as it is printed."""
    match cell:
        case None:
            return ""
        case Text():
            return language.of(cell)
        case str() if column.kind is ColumnKind.TIME:
            return datetime.fromisoformat(cell).astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M")
        case int() if column.key.endswith("year") or column.key == "vintage":
            return str(cell)
        case int():
            return f"{cell:,}"
        case Quantity():
            raise TypeError(f"column {column.key}: a figure where there is none")
    return cell


@dataclass(frozen=True, slots=True)
class Traced:
    """A figure and under which path the API answers why it is what it is."""

    table: str
    row: str
    column: str
    figure: str
    path: str


def traces(report: Report, language: Language, *, of: Container[str] | None = None) -> list[Traced]:
    """Return every figure that a question answers, of all tables or of those with some keys."""
    return [
        Traced(
            table=language.of(table.title),
            row="" if isinstance(row[0], Quantity) else plain(row[0], table.columns[0], language),
            column=heading(column, language),
            figure=number(one, column, language),
            path=one.trace,
        )
        for table in report.tables
        if of is None or table.key in of
        for row, column, one in table.figures()
        if one.trace
    ]


def head(report: Report, language: Language, digest: str) -> list[tuple[str, str]]:
    """Return what stands at the head of a report: label and value."""
    start, end = (at.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M") for at in (report.start, report.end))
    pairs = (
        (SUBJECT, language.of(report.subject)),
        (PERIOD, f"{start} – {end}"),
        (MADE, report.made_at.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M:%S")),
        (KNOWN_ON, report.known_on.isoformat()),
        (SOFTWARE, report.software),
        (DIGEST, digest),
    )
    return [(language.of(label), value) for label, value in pairs]


def drawn(table: Table, language: Language) -> list[tuple[str, list[float | None]]]:
    """Return the rows that a table's chart shows: name and the values of its series."""
    if table.chart is None:
        return []
    along = table.place(table.chart.along)
    series = [table.place(key) for key in table.chart.series]
    return [
        (
            plain(row[along], table.columns[along], language),
            [cell.value if isinstance(cell := row[place], Quantity) else None for place in series],
        )
        for row in table.rows
    ]
