"""Reading from others' platforms and databases by a declarative file: what it says, and what a row becomes.

A row is one object of a REST answer or one row of a query. It names a device, a time and values; what it is called
there stands in the file. A row that cannot be read is refused with its reason and its neighbours go in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from libs.common.contracts.telemetry import RejectReason
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.loose import number_of, text_of, time_of
from services.ingest.domain.submission import Submission, read_submission

_PLACEHOLDER = "device"
MAX_NAME = 200
"""Of a device, as the other side calls it."""


@dataclass(frozen=True, slots=True)
class TimeField:
    """Where a time stands in a row, and how it is written."""

    field: str
    form: str = "rfc3339"
    """``rfc3339``, ``ms`` or ``s`` since 1970, or a pattern of ``strptime``."""
    zone: ZoneInfo | None = None
    """Of a time that names none."""

    def read(self, row: Mapping[str, Any]) -> datetime | None:
        """Return the time of a row in UTC, None where there is none that can be read."""
        value = at_path(row, self.field)
        if isinstance(value, datetime):
            found: datetime | None = value
        elif isinstance(value, date):
            found = datetime(value.year, value.month, value.day)  # noqa: DTZ001  # its zone is put on below
        elif self.form in ("ms", "s"):
            return time_of(value, self.form)
        elif not isinstance(value, str):
            return None
        else:
            found = _parsed(value.strip(), self.form)
        if found is None or (found.tzinfo is None and self.zone is None):
            return None
        try:
            return (found if found.tzinfo is not None else found.replace(tzinfo=self.zone)).astimezone(UTC)
        except OverflowError:
            return None

    def write(self, when: datetime) -> str:
        """Return a time as the other side writes it."""
        if self.form in ("ms", "s"):
            number = when.timestamp() * (1000 if self.form == "ms" else 1)
            return str(int(number))
        local = when.astimezone(self.zone or UTC)
        return local.isoformat() if self.form == "rfc3339" else local.strftime(self.form)


@dataclass(frozen=True, slots=True)
class PointField:
    """A point and where its number stands in a row."""

    name: str
    field: str
    unit: str | None = None
    """That the number is in, after the scale; None is the canonical one."""
    scale: float = 1.0
    map: Mapping[str, float] | None = None
    """Text or whole number to value; what is not in it is no value."""

    def read(self, value: object) -> float | None:
        """Return the number of a value of the other side."""
        if self.map is not None:
            return self.map.get(str(value))
        number = number_of(float(value) if isinstance(value, Decimal) else value)
        return None if number is None else number * self.scale


@dataclass(frozen=True, slots=True)
class ValueRows:
    """Rows that hold one value each: which point it is stands in a field."""

    name_field: str
    value_field: str


class DeviceKey(StrEnum):
    """What of the registry's device the other side's name of it is."""

    ADDRESS = "address"
    """Of the device on the pull's line, or its serial number."""
    ID = "id"


@dataclass(frozen=True, slots=True)
class RowMap:
    """What a row's fields mean."""

    device_field: str
    time: TimeField
    points: tuple[PointField, ...]
    """By field, or with ``values`` by what stands in the name field."""
    device_by: DeviceKey = DeviceKey.ADDRESS
    values: ValueRows | None = None
    key: tuple[str, ...] = ()
    """Fields that tell rows apart; without them a row is what it says: device, time and values."""


Row = Mapping[str, Any]
"""One row as it came."""


@dataclass(frozen=True, slots=True)
class PulledRow:
    """What a row says, or value rows of one device and time together."""

    device: str
    said: Submission
    """Its ``device_id`` means nothing yet."""
    raw: bytes


@dataclass(frozen=True, slots=True)
class WrongRow:
    """A row that cannot be read."""

    refused: Refused
    raw: bytes


@dataclass(slots=True)
class _Grouped:
    """Value rows of one device and time, put together."""

    payload: dict[str, Any]
    raws: list[bytes] = field(default_factory=list)


def key_of(row: Row, map_: RowMap) -> bytes:
    """Return what tells a row from others: the fields that the file names, else what is read of it."""
    own = [at_path(row, name) for name in map_.key]
    if own and None not in own:
        return _key(own)
    if own:
        return _key([raw_of(row).decode()])  # refused, each by itself
    fields = [map_.device_field, map_.time.field]
    if map_.values is None:
        fields += [point.field for point in map_.points]
    else:
        fields += [map_.values.name_field, map_.values.value_field]
    return _key([at_path(row, name) for name in fields])


def without_open_end(rows: Sequence[Row], map_: RowMap) -> tuple[list[Row], list[Row]]:
    """Return rows, and apart from them those at the end that may belong to one report with rows that follow.

    These are value rows of the last time; in which order a source gives its devices does not matter then.
    """
    cut = len(rows)
    if map_.values is not None and rows:
        last = at_path(rows[-1], map_.time.field)
        while cut and at_path(rows[cut - 1], map_.time.field) == last:
            cut -= 1
    return list(rows[:cut]), list(rows[cut:])


def read_rows(rows: Sequence[Row], map_: RowMap) -> list[PulledRow | WrongRow]:
    """Return what rows say, in their order; value rows of one device and time become one, behind wrong ones."""
    found: list[PulledRow | WrongRow] = []
    groups: dict[tuple[str, datetime], _Grouped] = {}
    for row in rows:
        begun = _begin(row, map_)
        if isinstance(begun, Refused):
            found.append(WrongRow(begun, raw_of(row)))
            continue
        device, time = begun
        empty: dict[str, Any] = {"source_time": time.isoformat(), "points": {}, "units": {}}
        if map_.values is None:
            for point in map_.points:
                _put(empty, point, at_path(row, point.field))
            found.append(_finish(device, empty, raw_of(row)))
            continue
        group = groups.setdefault((device, time), _Grouped(empty))
        name = str(at_path(row, map_.values.name_field))
        for point in map_.points:
            if point.field == name:
                _put(group.payload, point, at_path(row, map_.values.value_field))
        group.raws.append(raw_of(row))
    for (device, _), group in groups.items():
        found.append(_finish(device, group.payload, b"[" + b",".join(group.raws) + b"]"))
    return found


def _begin(row: Row, map_: RowMap) -> tuple[str, datetime] | Refused:
    """Return device and time of a row."""
    device = text_of(at_path(row, map_.device_field))
    if device is None or len(device) > MAX_NAME:
        found = _shown(at_path(row, map_.device_field))
        return Refused(
            RejectReason.MISSING_FIELD,
            f"{map_.device_field}: expected the name of a device, found {found}",
            f"{map_.device_field} 应为设备标识,实际为 {found}",
        )
    time = map_.time.read(row)
    if time is None:
        found = _shown(at_path(row, map_.time.field))
        return Refused(
            RejectReason.UNREADABLE_TIME,
            f"{map_.time.field}: expected a time ({map_.time.form}), found {found}",
            f"{map_.time.field} 应为时间({map_.time.form}),实际为 {found}",
        )
    for name in map_.key:
        if at_path(row, name) is None:
            return Refused(
                RejectReason.MISSING_FIELD,
                f"{name}: the row has no such field, which is part of its key",
                f"行中没有作为键的字段 {name}",
            )
    return device, time


def _put(payload: dict[str, Any], point: PointField, value: object) -> None:
    """Put a value into a report; what is absent stays absent."""
    if value is None:
        return
    payload["points"][point.name] = point.read(value)
    if point.unit is not None:
        payload["units"][point.name] = point.unit


def _finish(device: str, payload: Mapping[str, Any], raw: bytes) -> PulledRow | WrongRow:
    if not payload["points"]:
        refused = Refused(
            RejectReason.UNKNOWN_POINT,
            "the row has none of the fields that points are read from",
            "行中没有测点字段",
        )
        return WrongRow(refused, raw)
    said = read_submission({**payload, "device_id": _PLACEHOLDER})
    return WrongRow(said, raw) if isinstance(said, Refused) else PulledRow(device, said, raw)


def at_path(row: object, path: str) -> Any:
    """Return what stands at a path such as ``data.items.0.ua``, None where nothing does; a field may hold dots."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    head, _, rest = path.partition(".")
    if isinstance(row, Mapping):
        found = row.get(head)
    elif isinstance(row, list) and head.isdecimal() and int(head) < len(row):
        found = row[int(head)]
    else:
        return None
    return at_path(found, rest) if rest else found


def raw_of(row: Row) -> bytes:
    """Return a row as JSON, for the record."""
    return orjson.dumps(row, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _key(parts: Sequence[object]) -> bytes:
    return hashlib.sha256(orjson.dumps(parts, default=_plain, option=orjson.OPT_NON_STR_KEYS)).digest()[:16]


def _parsed(text: str, form: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if form == "rfc3339" else datetime.strptime(text, form)  # noqa: DTZ007
    except ValueError:
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


# How far a source was read


class MarkKind(StrEnum):
    """What a watermark is."""

    TIME = "time"
    INTEGER = "integer"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source was read: a time, a number that rises, or a text that sorts."""

    kind: MarkKind
    value: datetime | int | str

    def dump(self) -> dict[str, object]:
        """Return it as JSON."""
        value = self.value.astimezone(UTC).isoformat() if isinstance(self.value, datetime) else self.value
        return {"kind": str(self.kind), "value": value}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Mark":
        """Return what ``dump`` gave."""
        kind = MarkKind(stored["kind"])
        value = stored["value"]
        return cls(kind, datetime.fromisoformat(value) if kind is MarkKind.TIME else value)


def larger(first: Mark | None, second: Mark | None) -> Mark | None:
    """Return the one that is further on."""
    if first is None or second is None:
        return first or second
    return second if second.value > first.value else first  # type: ignore[operator]  # of one kind
