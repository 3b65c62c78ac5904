"""Readings as a table: CSV or one sheet of a workbook, a row per report or a row per value.

The first row names the columns: ``device_id``, ``source_time`` and then either one column per point, which may name
its unit (``active_power_total [W]``), or ``point``, ``value`` and ``unit``. Rows of one device and time that follow
each other are one report. What a row says becomes what a JSON report would say; it is judged there.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidFile, Problem
from libs.common.points import is_point_name
from services.ingest.domain.acceptance import Refused

DELIMITERS = ",;\t"
MAX_HEAD_CHARS = 64_000
MAX_ROW_CHARS = 256 * 1024
"""Of all lines of a row whose quoted cells have line ends in them."""
MAX_GROUP = 500
"""Rows of one device and time, as many as a report has points."""
KEYS = ("device_id", "source_time")
LONG = ("point", "value")
EXTRA = ("seq", "message_id")

_UNIT = re.compile(r"^(?P<name>[a-z][a-z0-9_]*)\s*[\[(\uff08](?P<unit>[^\])\uff09]+)[\])\uff09]$")
_LOCAL = re.compile(
    r"^(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<micro>\d{1,6}))?)?$"
)
_NUMBER = re.compile(r"[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?")
"""Bounded, so that a cell of a hundred thousand digits takes no longer to refuse than any other."""
_WHOLE = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One report of a table."""

    line: int
    """Of its first row, counted from 1."""
    raw: bytes
    """Its rows as text, for the record of what was refused."""
    payload: Mapping[str, Any] | Refused


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the headings mean, by place."""

    points: Mapping[int, tuple[str, str | None]]
    """Place to point and unit; empty when points are rows."""
    keys: Mapping[str, int]


def csv_reports(lines: Iterable[str], source: str, zone: ZoneInfo | None) -> Iterator[TableRow]:
    """Yield the reports of a CSV file.

    Args:
        lines: The file, decoded, with line ends.
        source: Its name.
        zone: Of times without an offset; without it they are refused, not guessed.

    Raises:
        InvalidFile: The headings cannot be used.
    """
    feed = iter(lines)
    head = next(feed, "")
    if len(head) > MAX_HEAD_CHARS:
        raise _headings(source, f"headings of at most {MAX_HEAD_CHARS} characters", "长度合理的列名")
    delimiter = max(DELIMITERS, key=head.count)
    try:
        names = next(csv.reader([head], delimiter=delimiter), [])
    except csv.Error as exc:
        raise _headings(source, "a row of CSV", "合法的 CSV 行", exc) from exc
    columns = _columns([name.strip() for name in names], source)
    yield from _reports(_csv_rows(feed, delimiter), columns, zone)


def sheet_reports(
    columns: Sequence[str], rows: Iterable[tuple[int, Mapping[str, Any]]], source: str, zone: ZoneInfo | None
) -> Iterator[TableRow]:
    """Yield the reports of a sheet; the arguments are those of ``csv_reports``.

    Raises:
        InvalidFile: The headings cannot be used.
    """
    known = _columns(columns, source)
    yield from _reports(((number, [cells.get(name) for name in columns]) for number, cells in rows), known, zone)


class _Bounded:
    """Lines for one row after the other, none of which may be longer than all its lines together are allowed to be."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._chars = 0

    def begin(self) -> None:
        """The next line begins a row."""
        self._chars = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line. Raises ``csv.Error`` for a quotation that does not end, after which lines go on."""
        if self._chars > MAX_ROW_CHARS:
            raise csv.Error(f"a row of more than {MAX_ROW_CHARS} characters; a quotation mark may not be closed")
        line = next(self._lines)
        self._chars += len(line)
        return line


def _csv_rows(feed: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[Any] | Refused]]:
    bounded = _Bounded(feed)
    reader = csv.reader(bounded, delimiter=delimiter)
    while True:
        first = reader.line_num + 2
        bounded.begin()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield first, Refused(RejectReason.UNDECODABLE, f"expected a row of CSV, {exc}", f"不是合法的 CSV 行:{exc}")
            continue
        if any(cell.strip() for cell in row):
            yield first, [cell.strip() or None for cell in row]


def _columns(names: Sequence[str], source: str) -> _Columns:
    keys: dict[str, int] = {}
    points: dict[int, tuple[str, str | None]] = {}
    for place, name in enumerate(names):
        if name in (*KEYS, *LONG, *EXTRA, "unit"):
            if name in keys:
                raise _headings(source, f"{name} once", f"{name} 只出现一次", name)
            keys[name] = place
            continue
        found = _UNIT.match(name)
        point, unit = (found["name"], found["unit"].strip()) if found else (name, None)
        if not name:
            continue
        if not is_point_name(point):
            both = ("device_id, source_time, or the name of a point", "device_id、source_time 或测点名")
            raise _headings(source, *both, name)
        points[place] = (point, unit)
    missing = [name for name in KEYS if name not in keys]
    if missing:
        raise _headings(source, f"a column {missing[0]}", f"{missing[0]} 列", ", ".join(names)[:200])
    if bool(points) == all(name in keys for name in LONG):
        both = ("columns of points, or the columns point and value", "测点列,或 point 与 value 两列")
        raise _headings(source, *both, ", ".join(names)[:200])
    return _Columns(points, keys)


def _reports(
    rows: Iterable[tuple[int, list[Any] | Refused]], columns: _Columns, zone: ZoneInfo | None
) -> Iterator[TableRow]:
    group: list[tuple[int, list[Any]]] = []
    for number, row in rows:
        if isinstance(row, Refused):
            yield from _flush(group, columns, zone)
            group = []
            yield TableRow(number, b"", row)
            continue
        if group and (columns.points or len(group) == MAX_GROUP or _key(group[0][1], columns) != _key(row, columns)):
            yield from _flush(group, columns, zone)
            group = []
        group.append((number, row))
    yield from _flush(group, columns, zone)


def _flush(group: Sequence[tuple[int, list[Any]]], columns: _Columns, zone: ZoneInfo | None) -> Iterator[TableRow]:
    if not group:
        return
    number, first = group[0]
    raw = "\n".join(",".join("" if cell is None else str(cell) for cell in row) for _, row in group).encode()
    source_time = _time(_at(first, columns, "source_time"), zone)
    if isinstance(source_time, Refused):
        yield TableRow(number, raw, source_time)
        return
    points: dict[str, Any] = {}
    units: dict[str, str] = {}
    for _, row in group:
        for point, value, unit in _values(row, columns):
            points[point] = _number(value)
            if unit is not None:
                units[point] = unit
    device_id = _at(first, columns, "device_id")
    payload: dict[str, Any] = {
        "device_id": None if device_id is None else str(device_id), "source_time": source_time, "points": points
    }  # fmt: skip
    if units:
        payload["units"] = units
    for name in EXTRA:
        extra = _at(first, columns, name)
        if extra is not None:
            payload[name] = int(extra) if name == "seq" and _WHOLE.fullmatch(str(extra)) else str(extra)
    yield TableRow(number, raw, payload)


def _values(row: Sequence[Any], columns: _Columns) -> Iterator[tuple[str, Any, str | None]]:
    if columns.points:
        for place, (point, unit) in columns.points.items():
            if place < len(row) and row[place] is not None:
                yield point, row[place], unit
        return
    point, value, unit = (_at(row, columns, name) for name in (*LONG, "unit"))
    yield str(point or ""), value, None if unit is None else str(unit)


def _key(row: Sequence[Any], columns: _Columns) -> tuple[Any, ...]:
    return tuple(_at(row, columns, name) for name in KEYS)


def _at(row: Sequence[Any], columns: _Columns, name: str) -> Any:
    place = columns.keys.get(name)
    return None if place is None or place >= len(row) else row[place]


def _number(value: Any) -> Any:
    """Return a number where a text is one, all else as it is: it is refused where reports are judged."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _time(value: Any, zone: ZoneInfo | None) -> str | Refused | None:
    """Return a time as RFC 3339; a text with an offset stays as it is."""
    if value is None:
        return None
    naive: datetime | None = None
    if isinstance(value, datetime):
        naive = value
    elif isinstance(value, str) and (found := _LOCAL.match(value)):
        text = "{year}-{month:0>2}-{day:0>2}T{hour:0>2}:{minute}:{second:0>2}.{micro:0<6}".format(
            **found.groupdict("0")
        )
        try:
            naive = datetime.fromisoformat(text)
        except ValueError:
            naive = None
    if naive is None:
        return value.isoformat() if isinstance(value, date) else str(value)
    if naive.tzinfo is None and zone is None:
        return Refused(
            RejectReason.UNREADABLE_TIME,
            f"source_time: {value} has no offset; expected one, or the parameter timezone with the import",
            f"source_time:{value} 没有时区偏移,请补充偏移,或在导入时给出 timezone 参数",
        )
    return (naive if naive.tzinfo is not None else naive.replace(tzinfo=zone)).isoformat()


def _headings(source: str, expected: str, expected_zh: str, found: object = None) -> InvalidFile:
    problem = Problem(line=1, field="headings", expected=expected, expected_zh=expected_zh, found=found)
    return InvalidFile(source, [problem])
