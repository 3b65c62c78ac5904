"""Files of measurements: their name, columns and rhythm are data, since no text that is public says what they are.

A template belongs to a connection and holds for each of its units. A file covers a whole period of the civil day; what
it is called and what stands in it follows from template, unit and period alone, so that making it again makes the same.
"""

import csv
import io
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from libs.common.clock import CIVIL_ZONE
from services.export.dialects.messages import DeviceRef, PointType, ValueState
from services.export.domain.mapping import MappedPoint

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""80 characters are the only length of a file name that a dialect says (Y, FILENAME_LEN)."""
FOLDER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,39})(/[A-Za-z0-9][A-Za-z0-9._-]{0,39}){0,3}|")
NAME_FIELDS = ("unit_id", "start", "end")
ENCODINGS = ("utf-8", "utf-8-sig", "gb18030")


class Content(StrEnum):
    """Which values stand in a file."""

    LATEST = "latest"
    """One for each point: the newest at the end of the period."""
    HOURLY = "hourly"
    """The stored samples of the period, one for each point and hour."""


class Shows(StrEnum):
    """What a column shows."""

    TIME = "time"
    UNIT_ID = "unit_id"
    DEVICE_ID = "device_id"
    DEVICE_CODE = "device_code"
    DEVICE_NAME = "device_name"
    POINT_ID = "point_id"
    POINT_NAME = "point_name"
    POINT_TYPE = "point_type"
    VALUE = "value"
    STATE = "state"
    """0 for a value that holds, 6 for one that does not."""
    FIXED = "fixed"
    """The column's ``format`` as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    heading: str
    shows: Shows
    format: str = ""
    """Of a time as ``strftime`` has it, of a value as ``format`` has it (``.2f``); empty is the plain form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTemplate:
    """One kind of file."""

    id: str
    name: str
    """With ``{unit_id}``, ``{start:%Y%m%d%H%M}`` and ``{end:…}`` in it."""
    columns: tuple[Column, ...]
    every_s: int = 900
    """Length of a period; a divisor of the day. [s]"""
    content: Content = Content.LATEST
    folder: str = ""
    """Below the unit's root, here and at the centre."""
    heading: bool = True
    separator: str = ","
    line_end: str = "\r\n"
    encoding: str = "utf-8"
    no_value: str = ""
    invalid_too: bool = True
    """Whether points without a value that holds have a line."""
    keep: int = 200
    """Files of this kind that stay in the unit's folder."""

    def as_json(self) -> dict[str, Any]:
        """Return the template as it is stored and shown."""
        plain = asdict(self)
        return {**plain, "columns": list(plain["columns"])}

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "FileTemplate":
        """Read what ``as_json`` has written."""
        columns = tuple(Column(**{**each, "shows": Shows(each["shows"])}) for each in raw["columns"])
        return cls(**{**raw, "columns": columns, "content": Content(raw["content"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value with all that a column may show of it."""

    device: DeviceRef
    device_name: str
    point: MappedPoint
    at: datetime
    value: float | None
    state: ValueState


@dataclass(frozen=True, slots=True)
class Period:
    """A span that a file covers, its end not included."""

    start: datetime
    end: datetime


def problems_of(template: FileTemplate) -> list[str]:
    """Return what is wrong with a template, in words; empty when it can be used."""
    found = []
    if not 60 <= template.every_s <= 86400 or 86400 % template.every_s:
        found.append(f"every_s: expected a divisor of 86400 of at least 60, found {template.every_s}")
    if template.encoding not in ENCODINGS:
        found.append(f"encoding: expected one of {', '.join(ENCODINGS)}, found {template.encoding!r}")
    if not FOLDER.fullmatch(template.folder):
        found.append(f"folder: expected up to four plain names joined by /, found {template.folder!r}")
    if len(template.separator) != 1 or template.separator in '"\r\n' or template.line_end not in ("\r\n", "\n"):
        found.append("separator: expected one character; line_end: CR LF or LF")
    if not template.columns:
        found.append("columns: expected at least one")
    example = period_before(datetime(2026, 3, 8, 12, 34, tzinfo=CIVIL_ZONE), template.every_s)
    try:
        name, other = (file_name(template, "44010600000000001", each) for each in (example, _next(example)))
    except ValueError as exc:
        found.append(f"name: {exc}")
    else:
        if name == other:
            found.append("name: expected start or end in it, precise enough to tell two periods apart")
    at = datetime(2026, 3, 8, tzinfo=CIVIL_ZONE)
    for number, column in enumerate(template.columns):
        try:
            _shown_time(column, at)
            _shown_value(column, 1.5, "")
        except ValueError:
            found.append(f"columns[{number}].format: {column.format!r} cannot be used")
    return found


def period_before(now: datetime, every_s: int) -> Period:
    """Return the youngest period that is over, counted from midnight of the civil day."""
    local = now.astimezone(CIVIL_ZONE)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    passed = int((local - midnight).total_seconds()) // every_s
    end = midnight + timedelta(seconds=passed * every_s)
    return Period(end - timedelta(seconds=every_s), end)


def _next(period: Period) -> Period:
    return Period(period.end, period.end + (period.end - period.start))


def file_name(template: FileTemplate, unit_id: str, period: Period) -> str:
    """Return what the file of a unit and period is called.

    Raises:
        ValueError: The template names something else than unit and period, or the name is no plain file name.
    """
    values: dict[str, str | datetime] = {"unit_id": unit_id, "start": period.start, "end": period.end}
    parts = []
    for text, name, wanted, conversion in string.Formatter().parse(template.name):
        parts.append(text)
        if name is None:
            continue
        if name not in NAME_FIELDS or conversion is not None:
            raise ValueError(f"{{{name}}} is none of {', '.join(NAME_FIELDS)}")
        value = values[name]
        parts.append(value.strftime(wanted or "%Y%m%d%H%M%S") if isinstance(value, datetime) else value)
    found = "".join(parts)
    if not FILE_NAME.fullmatch(found):
        raise ValueError(f"{found!r} is no plain file name of at most 80 characters")
    return found


def render(template: FileTemplate, unit_id: str, rows: Sequence[Row]) -> bytes:
    """Return the content of a file; characters that the encoding lacks become ``?``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=template.separator, lineterminator=template.line_end)
    if template.heading:
        writer.writerow([column.heading for column in template.columns])
    for row in rows:
        if row.value is not None or template.invalid_too:
            writer.writerow([_cell(column, template, unit_id, row) for column in template.columns])
    return text.getvalue().encode(template.encoding, errors="replace")


def _cell(column: Column, template: FileTemplate, unit_id: str, row: Row) -> str:
    match column.shows:
        case Shows.TIME:
            return _shown_time(column, row.at)
        case Shows.VALUE:
            return _shown_value(column, row.value, template.no_value)
        case Shows.STATE:
            return str(row.state.value)
        case Shows.FIXED:
            return column.format
        case Shows.UNIT_ID:
            return unit_id
        case Shows.DEVICE_ID:
            return row.device.device_id
        case Shows.DEVICE_CODE:
            return row.device.device_code
        case Shows.DEVICE_NAME:
            return row.device_name
        case Shows.POINT_ID:
            return row.point.point_id
        case Shows.POINT_NAME:
            return row.point.name or ""
        case Shows.POINT_TYPE:
            return PointType(row.point.type).value


def _shown_time(column: Column, at: datetime) -> str:
    if column.shows is not Shows.TIME:
        return ""
    return at.astimezone(CIVIL_ZONE).strftime(column.format or "%Y-%m-%d %H:%M:%S")


def _shown_value(column: Column, value: float | None, no_value: str) -> str:
    if column.shows is not Shows.VALUE:
        return ""
    return no_value if value is None else format(value, column.format or ".10g")
