"""The shipped signal table: dictionaries, signals and the rules over them, read strictly from ``data/``.

Raise ``SHIPPED_VERSION`` with every change of a file there; an installation takes a higher version over at its
next start, and never goes back to a lower one that an older replica ships.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TypeVar

from libs.common.errors import InvalidFile, Problem
from libs.common.points import POINTS, PointKind
from services.alarm.domain.expressions import InvalidExpression, parse
from services.alarm.domain.model import (
    CLASSES,
    LEVELS,
    Band,
    Comparison,
    Dictionary,
    Measure,
    Need,
    NoData,
    Quantifier,
    Signal,
    SignalKind,
)
from services.alarm.domain.ruledata import RuleRow, unit_of
from services.alarm.domain.signal_table import Layout
from services.alarm.files.table_file import read_table
from services.alarm.files.table_rows import read_rows

SHIPPED_VERSION = 8
FILES = ("dictionaries.csv", "signals.csv", "rules.csv")
PRINTED = "telecom-2020-excerpt"
"""The dictionary that is shipped as printed besides, in a file of its name: its numbers are damaged."""
CONDITION_PREFIX = "wattring.condition."
"""Signals of findings of the platform itself: the prefix and the kind of the finding."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SignalTable:
    """The whole table."""

    dictionaries: tuple[Dictionary, ...]
    signals: Mapping[str, Signal]
    rules: Mapping[str, RuleRow]
    layouts: Mapping[str, Layout]
    """How a dictionary is printed, where it is not in the platform's own columns."""


def shipped_digest() -> str:
    """Return a hash over the shipped files, by which a test notices a change without a new version."""
    digest = hashlib.sha256()
    for name in (*FILES, f"{PRINTED}.csv"):
        digest.update(_text(name).encode())
    return digest.hexdigest()


def load_shipped() -> SignalTable:
    """Return the table that this release ships.

    Raises:
        InvalidFile: A line is wrong; all wrong places are listed.
    """
    table = parse_table(*(_text(name) for name in FILES))
    printed = read_table(_text(f"{PRINTED}.csv").encode(), f"{PRINTED}.csv")
    found = read_rows(printed, PRINTED, table.signals)
    if found.problems:
        raise InvalidFile(f"{PRINTED}.csv", list(found.problems))
    return replace(table, signals={**table.signals, **found.signals}, layouts={PRINTED: printed.layout})


def parse_table(dictionaries: str, signals: str, rules: str) -> SignalTable:
    """Return a table from the text of its three files.

    Raises:
        InvalidFile: A line is wrong; all wrong places of the first wrong file are listed.
    """
    known = {one.dictionary: one for one in _read("dictionaries.csv", dictionaries, _dictionary)}

    def signal(line: "_Line") -> Signal:
        return _signal(line, known)

    found = {one.code: one for one in _read("signals.csv", signals, signal)}

    def rule(line: "_Line") -> RuleRow:
        return _rule(line, found)

    return SignalTable(tuple(known.values()), found, {one.rule_id: one for one in _read("rules.csv", rules, rule)}, {})


def _text(name: str) -> str:
    return files("services.alarm").joinpath("data", name).read_text(encoding="utf-8")


class _Line:
    """One line of a file; asks for a field's value and notes what is wrong."""

    def __init__(self, number: int, cells: Mapping[str, str], problems: list[Problem]) -> None:
        self.number = number
        self._cells = cells
        self._problems = problems

    def refuse(self, field: str, expected: str, expected_zh: str | None = None) -> None:
        found = self._cells.get(field, "")
        self._problems.append(
            Problem(line=self.number, field=field, expected=expected, found=found, expected_zh=expected_zh)
        )

    def text(self, field: str) -> str:
        value = self.optional(field)
        if value is None:
            self.refuse(field, "a text")
        return value or ""

    def optional(self, field: str) -> str | None:
        return (self._cells.get(field) or "").strip() or None

    def number_or_none(self, field: str) -> float | None:
        value = self.optional(field)
        if value is None:
            return None
        try:
            return float(value)
        except ValueError:
            self.refuse(field, "a number or nothing")
            return None

    def duration(self, field: str, otherwise: float) -> float:
        value = self.number_or_none(field)
        if value is not None and value < 0:
            self.refuse(field, "seconds, 0 or more")
        return otherwise if value is None else value

    def flag(self, field: str) -> bool:
        value = self.optional(field)
        if value not in ("0", "1"):
            self.refuse(field, "0 or 1")
        return value == "1"

    def one_of(self, field: str, kind: Callable[[str], T], names: Iterator[str]) -> T | None:
        value = self.optional(field)
        try:
            return kind(value or "")
        except ValueError:
            self.refuse(field, f"one of {', '.join(names)}")
            return None

    def need(self, field: str, word: str) -> Need | None:
        try:
            return Need(word)
        except ValueError:
            self.refuse(field, f"of {', '.join(one.value for one in Need)}")
            return None

    def formula(self, field: str, text: str, points: tuple[str, ...]) -> None:
        """Refuse what is no formula over exactly these points."""
        try:
            used = parse(text, POINTS).points
        except InvalidExpression as exc:
            self.refuse(field, exc.expected, exc.expected_zh)
            return
        if set(used) != set(points):
            self.refuse("points", f"those of the formula: {' '.join(used)}", f"公式中的测点:{' '.join(used)}")

    def words(self, field: str) -> tuple[str, ...]:
        return tuple((self.optional(field) or "").split())

    def points(self, field: str) -> tuple[str, ...]:
        names = self.words(field)
        for name in names:
            if name not in POINTS or POINTS[name].kind is PointKind.TEXT:
                self.refuse(field, f"numeric points of the platform; {name} is none")
        return names


def _read(source: str, text: str, parse: Callable[[_Line], T]) -> list[T]:
    problems: list[Problem] = []
    found: list[T] = []
    seen: dict[str, int] = {}
    reader = csv.DictReader(io.StringIO(text))
    for cells in reader:
        if None in cells or None in cells.values():
            problems.append(Problem(line=reader.line_num, field="line", expected="as many cells as the heading"))
            continue
        line = _Line(reader.line_num, cells, problems)
        key = next(iter(cells.values()))
        if key in seen:
            line.refuse(next(iter(cells)), f"a key of its own, line {seen[key]} has it too")
        seen.setdefault(key, reader.line_num)
        before = len(problems)
        item = parse(line)
        if len(problems) == before:
            found.append(item)
    if problems:
        raise InvalidFile(source, problems)
    return found


def _dictionary(line: _Line) -> Dictionary:
    return Dictionary(line.text("dictionary"), line.text("name_zh"), line.text("name_en"), line.text("source"))


def _signal(line: _Line, dictionaries: Mapping[str, Dictionary]) -> Signal:
    if line.text("dictionary") not in dictionaries:
        line.refuse("dictionary", f"one of {', '.join(dictionaries)}")
    kind = line.one_of("kind", SignalKind, (one.value for one in SignalKind)) or SignalKind.DI
    levels: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    for station_class in CLASSES:
        level = line.number_or_none(f"level_{station_class.lower()}")
        if level is not None and level not in LEVELS:
            line.refuse(f"level_{station_class.lower()}", "1, 2, 3, 4 or nothing")
        elif level is not None:
            levels[station_class] = int(level)
        threshold = line.number_or_none(f"threshold_{station_class.lower()}")
        if threshold is not None:
            thresholds[station_class] = threshold
    start_delay_s = line.number_or_none("start_delay_s")
    if start_delay_s is not None and start_delay_s < 0:
        line.refuse("start_delay_s", "seconds, 0 or more, or nothing")
    return Signal(
        code=line.text("code"),
        dictionary=line.text("dictionary"),
        equipment_type=line.text("equipment_type"),
        equipment_zh=line.text("equipment_zh"),
        kind=kind,
        name_zh=line.text("name_zh"),
        name_en=line.text("name_en"),
        unit=line.optional("unit"),
        levels=levels,
        thresholds=thresholds,
        start_delay_s=start_delay_s,
        end_delay_s=line.duration("end_delay_s", 0.0),
        period_s=line.number_or_none("period_s"),
        absolute_change=line.number_or_none("absolute_change"),
        alarm_text_zh=line.optional("alarm_text_zh"),
        normal_text_zh=line.optional("normal_text_zh"),
        required=line.flag("required"),
        points=line.points("points"),
        note=line.optional("note"),
    )


def _rule(line: _Line, signals: Mapping[str, Signal]) -> RuleRow:
    if line.text("signal") not in signals:
        line.refuse("signal", "the code of a signal in signals.csv")
    measure = line.one_of("measure", Measure, (one.value for one in Measure)) or Measure.VALUE
    expression = line.optional("expression")
    points = line.points("points")
    unit = line.text("unit")
    if bool(points) == (measure is Measure.SILENCE):
        line.refuse("points", "none, where silence is judged; else at least one point")
    for name in points:
        expected = unit_of(measure, POINTS[name].unit) if name in POINTS else None
        if expected is not None and expected != unit:
            line.refuse("unit", f"{expected}, the unit of {name}" if measure is Measure.VALUE else expected)
    if (expression is None) == (measure is Measure.EXPRESSION):
        line.refuse("expression", "a formula where the measure is expression, else nothing")
    elif expression is not None:
        line.formula("expression", expression, points)
    comparison = line.one_of("comparison", Comparison, (one.value for one in Comparison)) or Comparison.ABOVE
    quantifier = line.one_of("quantifier", Quantifier, (one.value for one in Quantifier)) or Quantifier.ANY
    band = line.one_of("band", Band, (one.value for one in Band)) if line.optional("band") else None
    if (band is None) != (line.optional("group") is None):
        line.refuse("group", "band and group together, or neither")
    hysteresis = line.duration("hysteresis", 0.0)
    return RuleRow(
        rule_id=line.text("rule_id"),
        signal=line.text("signal"),
        comparison=comparison,
        quantifier=quantifier,
        points=points,
        unit=unit,
        device_kinds=line.words("device_kinds"),
        band=band,
        group=line.optional("group"),
        needs=frozenset(need for word in line.words("needs") if (need := line.need("needs", word)) is not None),
        takes=None if line.optional("takes") is None else line.need("takes", line.text("takes")),
        threshold=line.number_or_none("threshold"),
        hysteresis=hysteresis,
        max_gap_s=line.duration("max_gap_s", 900.0),
        measure=measure,
        expression=expression,
        no_data=line.one_of("no_data", NoData, (one.value for one in NoData)) or NoData.HOLD,
    )
