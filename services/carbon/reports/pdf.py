"""A report as PDF, typeset by typst with the Chinese fonts that come as packages; nothing of the machine's.

Everything reaches the template as data, never as markup, so a name in the registry can neither break nor change a page.
"""

import json
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from typing import Any

import typst

from services.carbon.domain.reports import words
from services.carbon.domain.reports.content import (
    HEADLINES,
    ColumnKind,
    Language,
    Quantity,
    Report,
    Section,
    Table,
    Text,
)
from services.carbon.reports import shown
from services.carbon.reports.shown import Numbering

FONT = "Noto Sans SC"
FONT_PACKAGE = "pylopdf-fonts-zh-cn"
"""SIL Open Font License 1.1; only the glyphs that a report uses get into its file."""
CHART_ROWS_MAX = 120
NAMES_SHOWN = 12
"""Names along a chart."""
ORIGINS_SHOWN = 40
"""Things that one reason names on paper; the filed content and the workbook have all of them."""
TRACES_SHOWN = 40
"""Headline figures whose traces are printed."""
BREAK_AFTER = 16
"""A long word without spaces may be broken after so many signs."""
SHORT_TEXT = 16
"""Signs of a text that fits a column as narrow as a figure's."""
_ZERO_WIDTH_SPACE = "\u200b"
_TEMPLATE = files("services.carbon") / "data" / "report.typ"
_NONE = Text("none", "无")
_TRACES_ELSEWHERE = Text(
    "The API answers why a figure is what it is, step by step down to registers, meters and factors. Here are the "
    "headline figures; all others are in the workbook and in the tables for programs.",
    "各数值可通过接口逐级追溯至表底、电表与因子。此处仅列主要指标,其余见工作簿及数据表。",
)
_MORE = Text("{} more", "另有 {} 项")


def write_pdf(report: Report, language: Language, digest: str) -> bytes:
    """Return a report as PDF; the same report gives the same bytes.

    It is no PDF/A: that would refuse the whole report for one sign in a name that the font does not have.

    Args:
        report: What it says.
        language: In which language.
        digest: SHA-256 of the filed content, printed at its head and on every page.
    """
    return typst.compile(
        _TEMPLATE.read_bytes(),
        output=None,
        font_paths=_fonts(),
        format="pdf",
        sys_inputs={"report": json.dumps(_content(report, language, digest), ensure_ascii=False, allow_nan=False)},
        timestamp=int(report.made_at.timestamp()),
    )


@cache
def _fonts() -> typst.Fonts:
    """Return the one font of reports; neither the machine's nor those that typst brings are looked at.

    Raises:
        PackageNotFoundError: Its package is not installed.
        FileNotFoundError: There is no font in it.
    """
    package = distribution(FONT_PACKAGE)
    folders = {str(package.locate_file(one.parent)) for one in package.files or () if one.suffix in (".otf", ".ttf")}
    found = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=sorted(folders))
    if FONT not in found.families():
        raise FileNotFoundError(f"the package {FONT_PACKAGE} has no font {FONT}")
    return found


def _content(report: Report, language: Language, digest: str) -> dict[str, Any]:
    numbering = Numbering.of(report)
    return {
        "title": language.of(report.title),
        "subject": language.of(report.subject),
        "author": report.software,
        "lang": language.value,
        "font": FONT,
        "digest": digest,
        "none": language.of(_NONE),
        "note": language.of(shown.EVERY_FIGURE),
        "head": [[label, _breakable(value)] for label, value in shown.head(report, language, digest)],
        "sections": [_section(one, language, numbering) for one in report.sections],
        "reasons_title": language.of(shown.REASONS),
        "reasons": [
            {
                "number": numbering.reasons[one.key],
                "formula": language.of(one.formula),
                "source": one.source,
                "path": _breakable(one.path),
                "origins": _origins(one.origins, language),
            }
            for one in report.reasons
        ],
        "traces_title": language.of(shown.TRACES),
        "traces_note": language.of(_TRACES_ELSEWHERE),
        "traces": [
            [f"{one.row} {one.figure}", _breakable(one.path)]
            for one in shown.traces(report, language, of=HEADLINES)[:TRACES_SHOWN]
        ],
        "marks_title": language.of(shown.MARKS),
        "marks": [[letter, language.of(words.mark(mark))] for mark, letter in numbering.marks.items()],
    }


def _origins(origins: tuple[str, ...], language: Language) -> list[str]:
    found = [_breakable(one) for one in origins[:ORIGINS_SHOWN]]
    if len(origins) > ORIGINS_SHOWN:
        found.append(language.of(_MORE).format(len(origins) - ORIGINS_SHOWN))
    return found


def _section(section: Section, language: Language, numbering: Numbering) -> dict[str, Any]:
    return {
        "title": language.of(section.title),
        "paragraphs": [language.of(one) for one in section.paragraphs],
        "tables": [_table(one, language, numbering) for one in section.tables],
    }


def _table(table: Table, language: Language, numbering: Numbering) -> dict[str, Any]:
    rows: list[list[object]] = []
    for row in table.rows:
        cells: list[object] = []
        for column, cell in zip(table.columns, row, strict=True):
            if isinstance(cell, Quantity):
                cells.append(
                    {
                        "text": shown.number(cell, column, language),
                        "known": shown.share(cell.completeness),
                        "why": numbering.reasons[cell.why],
                        "marks": ",".join(numbering.marks[mark] for mark in cell.marks),
                    }
                )
            else:
                cells.append(_breakable(shown.plain(cell, column, language)))
        rows.append(cells)
    right = (ColumnKind.FIGURE, ColumnKind.COUNT)
    return {
        "title": language.of(table.title),
        "heads": [shown.heading(one, language) for one in table.columns],
        "widths": _widths(table, rows),
        "aligns": ["r" if one.kind in right else "l" for one in table.columns],
        "rows": rows,
        "chart": _chart(table, language),
    }


def _widths(table: Table, rows: list[list[object]]) -> list[int]:
    """Return the shares of the line: long texts share what figures leave (0: what it needs); else all are equal."""
    texts = [place for place, one in enumerate(table.columns) if one.kind is ColumnKind.TEXT]
    short = all(len(str(row[place])) <= SHORT_TEXT for row in rows for place in texts)
    return [1 if short or place in texts else 0 for place in range(len(table.columns))]


def _chart(table: Table, language: Language) -> dict[str, Any] | None:
    """Return the first series of a table's chart, None where there is nothing to compare."""
    drawn = shown.drawn(table, language)[:CHART_ROWS_MAX]
    values = [series[0] for _, series in drawn]
    known = [value for value in values if value is not None]
    if table.chart is None or len(known) < 2 or not any(known):
        return None
    top, low = max(*known, 0.0), min(*known, 0.0)
    every = -(-len(drawn) // NAMES_SHOWN)
    return {
        "title": language.of(table.chart.title),
        "top": top,
        "low": low,
        "top_text": _short(top),
        "low_text": _short(low),
        "every": every,
        "rows": [
            {"name": name if place % every == 0 else "", "value": value}
            for place, ((name, _), value) in enumerate(zip(drawn, values, strict=True))
        ],
    }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _breakable(text: str) -> str:
    """Return a text whose long words may be broken: digests, addresses, JSON."""
    return " ".join(
        word
        if len(word) <= BREAK_AFTER + 8 or not word.isascii()
        else _ZERO_WIDTH_SPACE.join(word[at : at + BREAK_AFTER] for at in range(0, len(word), BREAK_AFTER))
        for word in text.split(" ")
    )
