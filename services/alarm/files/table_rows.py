"""Rows of a signal table as signals: read strictly, line by line, with what is wrong in both languages.

A row of level 0 is one whose numbers the province has not settled; so is every threshold row of the excerpt that the
product's brochure prints. Such a row is kept as it stands and none of its numbers is used: its rules sleep until an
override gives threshold and level.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from libs.common.errors import Problem
from libs.common.points import POINTS, PointKind
from services.alarm.domain.model import CLASSES, LEVELS, Comparison, Measure, Signal, SignalKind
from services.alarm.domain.rulebook import MAX_DELAY_S, Override, Scope, override_faults
from services.alarm.domain.ruledata import PLAUSIBLE, is_unit
from services.alarm.domain.signal_table import CATEGORIES, NOT_SETTLED, Column, Meaning, code_of, is_settled
from services.alarm.files.table_file import FileRow, TableFile

END_DELAY_S = 20.0
"""Of a row that gives none; end delay of all signals in the interface text of the dictionary. [s]"""
MAX_PERIOD_S = 366 * 86_400.0
CODE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")

_LEVELS: Mapping[str, int] = {
    **{str(level): level for level in LEVELS},
    **dict(zip(("一级", "二级", "三级", "四级"), LEVELS, strict=True)),
}
_YES, _NO = ("是", "1", "Y", "y", "√"), ("否", "0", "N", "n", "")
_PROPOSALS: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"线?电压Uab$"), "voltage_ab"),
    (re.compile(r"线?电压Ubc$"), "voltage_bc"),
    (re.compile(r"线?电压Uca$"), "voltage_ca"),
    (re.compile(r"(A相|相)电压Ua$"), "voltage_a"),
    (re.compile(r"(B相|相)电压Ub$"), "voltage_b"),
    (re.compile(r"(C相|相)电压Uc$"), "voltage_c"),
    (re.compile(r"(A相|相)?电流Ia$"), "current_a"),
    (re.compile(r"(B相|相)?电流Ib$"), "current_b"),
    (re.compile(r"(C相|相)?电流Ic$"), "current_c"),
    (re.compile(r"零序电流I[o0]$"), "current_zero_sequence"),
    (re.compile(r"频率F?$"), "frequency"),
    (re.compile(r"总?有功功率P?$"), "active_power_total"),
    (re.compile(r"总?无功功率Q?$"), "reactive_power_total"),
    (re.compile(r"总?功率因数(PF)?$"), "power_factor_total"),
    (re.compile(r"正向有功(总)?电能$"), "energy_active_import"),
    (re.compile(r"环境温度$"), "temperature"),
    (re.compile(r"环境湿度$"), "humidity"),
)
"""Ends of names to the point that they are likely to mean; a proposal for a person, never applied."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RowNote:
    """What a person should know of a row that was taken."""

    line: int
    field: str
    text: str
    text_zh: str


@dataclass(frozen=True, slots=True)
class TableRows:
    """What the rows of a file say."""

    signals: Mapping[str, Signal]
    """By code, in the order of the file."""
    lines: Mapping[str, int]
    """Code to line."""
    notes: Sequence[RowNote]
    problems: Sequence[Problem]
    """Not empty: nothing may be taken."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """What a threshold of a row means, for the check of its value."""

    points: tuple[str, ...]
    unit: str
    comparison: Comparison = Comparison.ABOVE
    measure: Measure = Measure.VALUE


def read_rows(table: TableFile, dictionary: str, known: Mapping[str, Signal]) -> TableRows:
    """Return the signals of a file.

    Args:
        table: The file.
        dictionary: Which table it is a version of.
        known: All signals as they are, of every dictionary; what a file has no column for stays as it was.
    """
    reader = _Reader(table, dictionary, known)
    for row in table.rows:
        reader.take(row)
    reader.resolve_monitored()
    return TableRows(reader.signals, reader.lines, reader.notes, reader.problems)


class _Reader:
    """Reads row after row and notes what is wrong."""

    def __init__(self, table: TableFile, dictionary: str, known: Mapping[str, Signal]) -> None:
        self.signals: dict[str, Signal] = {}
        self.lines: dict[str, int] = {}
        self.notes: list[RowNote] = []
        self.problems: list[Problem] = []
        self._dictionary = dictionary
        self._known = known
        self._by_name = {one.name_zh: one for one in known.values() if one.dictionary == dictionary and not one.retired}
        self._columns = {
            (column.meaning, column.station_class): column
            for column in table.layout.columns
            if column.meaning is not None
        }
        self._monitored: dict[str, str] = {}
        self._named: set[str] = set()
        """Names of all rows: one that is wrong is told by itself, and not again by those that watch it."""
        self._row = FileRow(0, {})

    def take(self, row: FileRow) -> None:
        """Read a row; a wrong one is noted and left out."""
        self._row = row
        wrong = len(self.problems)
        name = self._cell(Meaning.NAME)
        if not 0 < len(name) <= 200:
            self._refuse(Meaning.NAME, "a name of at most 200 characters", "不超过 200 个字符的名称", name)
            return
        self._named.add(name)
        code = self._code(name)
        if code is None:
            return
        old = self._known.get(code)
        kind = self._one_of(Meaning.CATEGORY, CATEGORIES)
        unit = self._text(Meaning.UNIT, None if old is None else old.unit)
        points = self._points(old)
        settled = self._is_settled(old)
        if not settled:
            self._note(
                Meaning.LEVEL,
                "level 0: the numbers of this row are kept as they stand and not used; "
                "its rules sleep until an override gives threshold and level",
                "告警级别为 0:该行数值按原样保存但不启用,其规则在设置门限与级别之前不生效",
            )
        signal = Signal(
            code=code,
            dictionary=self._dictionary,
            equipment_type=self._text(Meaning.TYPE, None if old is None else old.equipment_type) or self._dictionary,
            equipment_zh=self._text(Meaning.DEVICE, None if old is None else old.equipment_zh) or "",
            kind=kind or SignalKind.DI,
            name_zh=name,
            name_en=self._text(Meaning.NAME_EN, None if old is None else old.name_en) or name,
            unit=unit,
            levels=self._levels(old) if settled else {},
            thresholds=self._thresholds(old) if settled else {},
            start_delay_s=self._seconds(Meaning.START, None if old is None else old.start_delay_s, MAX_DELAY_S)
            if settled
            else None,
            end_delay_s=self._end_delay(old, kind) if settled else END_DELAY_S,
            period_s=self._period(old),
            absolute_change=self._number(Meaning.ABSOLUTE, None if old is None else old.absolute_change),
            alarm_text_zh=self._text(Meaning.ALARM, None if old is None else old.alarm_text_zh),
            normal_text_zh=self._text(Meaning.NORMAL, None if old is None else old.normal_text_zh),
            required=self._required(old),
            points=points,
            note=self._text(Meaning.NOTE, None if old is None else old.note),
            cells=dict(row.cells),
        )
        self._check_unit(signal)
        monitored = self._cell(Meaning.MONITORED)
        if monitored:
            self._monitored[code] = monitored
        if len(self.problems) == wrong:
            self.signals[code] = signal
            self.lines[code] = row.line

    def resolve_monitored(self) -> None:
        """Give alarms the points of the row that they watch, and say which rows speak of no point yet."""
        names = {one.name_zh: one for one in self.signals.values()}
        for code, signal in list(self.signals.items()):
            self._row = FileRow(self.lines[code], signal.cells)
            monitored = self._monitored.get(code)
            if monitored is not None and not all(word in POINTS for word in monitored.split()):
                source = names.get(monitored) or self._by_name.get(monitored)
                if source is None and monitored not in self._named:
                    self._refuse(
                        Meaning.MONITORED, "the name of a row of the table, or points of the platform",
                        "本表中某行的信号名称,或平台测点", monitored,
                    )  # fmt: skip
                elif source is not None and source.points and not signal.points:
                    self.signals[code] = replace(signal, points=source.points)
            elif monitored is not None and not signal.points:
                self.signals[code] = replace(signal, points=tuple(monitored.split()))
            if self.signals[code] is not signal:
                self._check_unit(self.signals[code])
            self._check_numbers(self.signals[code])
            self._propose(self.signals[code])

    def _code(self, name: str) -> str | None:
        """Return the code of a row, None when it cannot be one: given, that of the same name so far, or made of it."""
        given = self._cell(Meaning.CODE)
        known = self._by_name.get(name)
        code = given or (known.code if known is not None else code_of(self._dictionary, name))
        other = self._known.get(code)
        if CODE.fullmatch(code) is None:
            self._refuse(
                Meaning.CODE, "letters, digits, points, colons and hyphens", "字母、数字、点、冒号或连字符", code
            )
        elif other is not None and other.dictionary != self._dictionary:
            what = f"a code of its own; the table {other.dictionary} has it"
            self._refuse(Meaning.CODE, what, f"本表独有的编码,该编码已属于 {other.dictionary}", code)
        elif code in self.lines:
            what, what_zh = (
                f"each signal once, line {self.lines[code]} has it too",
                f"信号不重复,与第 {self.lines[code]} 行重复",
            )
            self._refuse(Meaning.CODE if given else Meaning.NAME, what, what_zh, given or name)
        else:
            return code
        return None

    def _is_settled(self, old: Signal | None) -> bool:
        if any((Meaning.LEVEL, name) in self._columns for name in (None, *CLASSES)):
            return not any(self._cell(Meaning.LEVEL, name) == NOT_SETTLED for name in (None, *CLASSES))
        return old is None or is_settled(old)

    def _levels(self, old: Signal | None) -> dict[str, int]:
        def level(meaning: Meaning, station_class: str | None) -> int | None:
            text = self._cell(meaning, station_class)
            if text and text not in _LEVELS:
                self._refuse(meaning, "1, 2, 3, 4 or nothing", "1、2、3、4 或留空", text, station_class)
            return _LEVELS.get(text)

        return self._per_class(Meaning.LEVEL, old.levels if old is not None else {}, level)

    def _thresholds(self, old: Signal | None) -> dict[str, float]:
        return self._per_class(Meaning.THRESHOLD, old.thresholds if old is not None else {}, self._plain_number)

    def _per_class(
        self, meaning: Meaning, old: Mapping[str, _T], read: Callable[[Meaning, str | None], _T | None]
    ) -> dict[str, _T]:
        """Return a value per class: of its own column, else of the one for all, else as it was."""
        for_all = read(meaning, None) if (meaning, None) in self._columns else None
        found: dict[str, _T] = {}
        for name in CLASSES:
            if self._cell(meaning, name):
                value = read(meaning, name)
            elif (meaning, None) in self._columns or (meaning, name) in self._columns:
                value = for_all
            else:
                value = old.get(name)
            if value is not None:
                found[name] = value
        return found

    def _end_delay(self, old: Signal | None, kind: SignalKind | None) -> float:
        found = self._seconds(Meaning.END, None if old is None else old.end_delay_s, MAX_DELAY_S)
        otherwise = END_DELAY_S if kind is SignalKind.DI else 0.0
        return otherwise if found is None else found

    def _period(self, old: Signal | None) -> float | None:
        if self._cell(Meaning.PERIOD_MIN):
            minutes = self._seconds(Meaning.PERIOD_MIN, None, MAX_PERIOD_S / 60)
            return None if minutes is None else minutes * 60
        was = None if (Meaning.PERIOD_MIN, None) in self._columns else None if old is None else old.period_s
        return self._seconds(Meaning.PERIOD_S, was, MAX_PERIOD_S)

    def _seconds(self, meaning: Meaning, otherwise: float | None, most: float) -> float | None:
        value = self._number(meaning, otherwise)
        if value is not None and not 0 <= value <= most:
            self._refuse(meaning, f"0 to {most:g}, or nothing", f"0 至 {most:g},或留空", value)
        return value

    def _number(self, meaning: Meaning, otherwise: float | None) -> float | None:
        return self._plain_number(meaning, None) if (meaning, None) in self._columns else otherwise

    def _plain_number(self, meaning: Meaning, station_class: str | None) -> float | None:
        text = self._cell(meaning, station_class)
        if not text:
            return None
        try:
            value = float(text) if len(text) <= 40 else float("nan")
        except ValueError:
            value = float("nan")
        if value != value or value in (float("inf"), float("-inf")):
            self._refuse(meaning, "a number or nothing", "数值或留空", text, station_class)
            return None
        return value

    def _required(self, old: Signal | None) -> bool:
        if (Meaning.REQUIRED, None) not in self._columns:
            return old is not None and old.required
        text = self._cell(Meaning.REQUIRED)
        if text not in (*_YES, *_NO):
            self._refuse(Meaning.REQUIRED, "是 or 否", "是或否", text)
        return text in _YES

    def _points(self, old: Signal | None) -> tuple[str, ...]:
        if (Meaning.POINTS, None) not in self._columns:
            return old.points if old is not None else ()
        names = tuple(dict.fromkeys(self._cell(Meaning.POINTS).split()))
        for name in names:
            if name not in POINTS or POINTS[name].kind is PointKind.TEXT:
                self._refuse(Meaning.POINTS, "numeric points of the platform", "平台的数值测点", name)
        return names

    def _check_unit(self, signal: Signal) -> None:
        """A threshold is compared with the point's own unit; it is never converted in silence."""
        for name in signal.points:
            point = POINTS.get(name)
            if signal.unit is None or point is None:
                continue
            if not is_unit(signal.unit, point.unit):
                self._refuse(
                    Meaning.UNIT, f"{point.unit}, the unit of {name}", f"{name} 的单位 {point.unit}", signal.unit
                )
                return

    def _check_numbers(self, signal: Signal) -> None:
        if not signal.points:
            return
        compared = _Compared(signal.points, POINTS[signal.points[0]].unit)
        for name, threshold in signal.thresholds.items():
            wanted = Override(signal.code, Scope.SITE_CLASS, name, 0, threshold=threshold)
            for fault in override_faults(wanted, compared, plausible=PLAUSIBLE):
                column = name if (Meaning.THRESHOLD, name) in self._columns else None
                self._refuse(Meaning.THRESHOLD, fault.expected, fault.expected_zh, threshold, column)
                return

    def _propose(self, signal: Signal) -> None:
        if signal.points or signal.kind is not SignalKind.AI:
            return
        for pattern, point in _PROPOSALS:
            if pattern.search(signal.name_zh):
                self._note(
                    Meaning.POINTS,
                    f"speaks of no point of the platform yet; {point} is likely: say so in a column {Meaning.POINTS}",
                    f"尚未对应平台测点,可能为 {point},请在“{Meaning.POINTS}”列填写确认",
                )
                return

    def _one_of(self, meaning: Meaning, words: Mapping[str, _T]) -> _T | None:
        text = self._cell(meaning)
        if text not in words:
            listed = ", ".join(word for word in words if not word.isascii())
            self._refuse(meaning, f"one of {listed}", f"{listed} 之一", text)
        return words.get(text)

    def _text(self, meaning: Meaning, otherwise: str | None) -> str | None:
        return self._cell(meaning) or None if (meaning, None) in self._columns else otherwise or None

    def _cell(self, meaning: Meaning, station_class: str | None = None) -> str:
        column = self._columns.get((meaning, station_class))
        return "" if column is None else self._row.cells.get(column.key, "")

    def _refuse(
        self, meaning: Meaning, expected: str, expected_zh: str, found: object, station_class: str | None = None
    ) -> None:
        column: Column | None = self._columns.get((meaning, station_class))
        field = column.title if column is not None else meaning.value
        self.problems.append(
            Problem(line=self._row.line, field=field, expected=expected, expected_zh=expected_zh, found=found)
        )

    def _note(self, meaning: Meaning, text: str, text_zh: str) -> None:
        column = self._columns.get((meaning, None))
        self.notes.append(RowNote(self._row.line, column.title if column else meaning.value, text, text_zh))
