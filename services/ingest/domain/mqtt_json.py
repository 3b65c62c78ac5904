"""What a JSON message of an MQTT product says, by its profile: strictly, so that nothing wrong becomes a number.

A value that is none of those that the profile expects is no value (``invalid``); a message whose time or device cannot
be read is refused as a whole, and whoever called keeps its bytes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from libs.common.contracts.telemetry import RejectReason
from libs.common.jsonpath import MISSING, JsonPath
from libs.common.profiles import MessageTime, MqttPoint, MqttReport, TimeFormat
from services.ingest.domain.loose import printable

MAX_ITEMS = 2000
"""Reports in one message; a device that has more to say says it in several."""
MAX_TEXT = 200
"""Of a text point; the rest is cut. [characters]"""
_NO_NUMBER = re.compile(rb"[:\[,]\s*[-+]?(NaN|Infinity|nan|inf)\b")
_NUMBER = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]{1,16}")
_LOCAL = re.compile(
    r"([0-9]{4})[-/]?([0-9]{2})[-/]?([0-9]{2})[ T]?([0-9]{2}):?([0-9]{2}):?([0-9]{2})(?:\.([0-9]{1,6}))?"
)


@dataclass(frozen=True, slots=True)
class Told:
    """One report as a message has it."""

    address: str
    raw: dict[str, float | int | None] = field(default_factory=dict)
    """Raw number per point; None for what is no number."""
    texts: dict[str, str] = field(default_factory=dict)
    source_time: datetime | None = None
    """None where the profile has no time: the values are of now."""
    seq: int | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why something cannot be understood."""

    reason: RejectReason
    detail: str
    address: str | None = None
    """Whose it would have been, as far as that could be read."""


def parse_json(payload: bytes) -> Any | Unreadable:
    """Return the document of a message."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        if _NO_NUMBER.search(payload) or "number is infinity" in str(exc):
            return Unreadable(RejectReason.NOT_A_NUMBER, "NaN and Infinity are no numbers of JSON")
        return Unreadable(RejectReason.UNDECODABLE, f"expected JSON, {exc}")


def read_reports(
    document: Any, form: MqttReport, points: Mapping[str, MqttPoint], in_topic: str | None
) -> list[Told | Unreadable]:
    """Return the reports that a document holds, in its order.

    Args:
        document: The message, parsed.
        form: What sort of message it is.
        points: Of the profile.
        in_topic: The device's address, where the topic has it.
    """
    items: Sequence[Any] = [document]
    if form.items is not None:
        found = form.items.find(document, document)
        if not isinstance(found, list):
            return [Unreadable(RejectReason.MISSING_FIELD, f"{form.items.text}: expected a list", in_topic)]
        if len(found) > MAX_ITEMS:
            detail = f"{form.items.text}: expected at most {MAX_ITEMS} reports in one message, found {len(found)}"
            return [Unreadable(RejectReason.TOO_LARGE, detail, in_topic)]
        items = found
    return [_read_report(document, item, form, points, in_topic) for item in items]


def _read_report(
    document: Any, item: Any, form: MqttReport, points: Mapping[str, MqttPoint], in_topic: str | None
) -> Told | Unreadable:
    address = in_topic
    if form.device is not None:
        address = _text(form.device.find(document, item))
        if not address:
            return Unreadable(RejectReason.MISSING_FIELD, f"{form.device.text}: expected the device's address")
    if address is None:
        return Unreadable(RejectReason.MISSING_FIELD, "neither topic nor message names a device")
    time = None
    if form.time is not None:
        written = form.time.path.find(document, item)
        if written is MISSING or written is None:
            if not form.time.optional:
                detail = f"{form.time.path.text}: expected the time of the values"
                return Unreadable(RejectReason.MISSING_FIELD, detail, address)
        else:
            time = read_time(written, form.time)
            if time is None:
                detail = f"{form.time.path.text}: expected a time as {form.time.format}, found {_shown(written)}"
                return Unreadable(RejectReason.UNREADABLE_TIME, detail, address)
    told = Told(
        address=address,
        source_time=time,
        seq=_seq(form.seq, document, item),
        message_id=None if form.message_id is None else _text(form.message_id.find(document, item)),
    )
    for name, point in points.items():
        found = point.path.find(document, item)
        if found is MISSING:
            continue
        if not point.is_text:
            told.raw[name] = read_number(found, point)
        elif (text := _text(found)) is not None:
            told.texts[name] = text
    if not told.raw and not told.texts:
        return Unreadable(RejectReason.MISSING_FIELD, "none of the profile's points is in it", address)
    return told


def read_number(value: object, point: MqttPoint) -> float | int | None:
    """Return the raw number that a JSON value is for a point, None when it is none."""
    match value:
        case bool():
            return int(value)
        case int() | float():
            return value if math.isfinite(value) else None
        case str() if point.words is not None and value in point.words:
            return point.words[value]
        case str() if point.as_text and _NUMBER.fullmatch(value.strip()):
            number = float(value)
            return number if math.isfinite(number) else None
        case _:
            return None


def read_time(value: object, time: MessageTime) -> datetime | None:
    """Return the time that a JSON value says, None when it says none; nothing is guessed."""
    try:
        match time.format:
            case TimeFormat.UNIX_S:
                return _since_1970(value, 1.0)
            case TimeFormat.UNIX_MS:
                return _since_1970(value, 1000.0)
            case TimeFormat.RFC3339:
                found = datetime.fromisoformat(value) if isinstance(value, str) else None
                return None if found is None or found.tzinfo is None else found.astimezone(UTC)
            case TimeFormat.LOCAL:
                return _local(value, time.zone or "UTC")
    except (ValueError, OverflowError, OSError):
        return None


def _since_1970(value: object, per_second: float) -> datetime | None:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return datetime.fromtimestamp(value / per_second, UTC)


def _local(value: object, zone: str) -> datetime | None:
    match = _LOCAL.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    micros = int((match[7] or "0").ljust(6, "0"))
    first = datetime(year, month, day, hour, minute, second, micros, tzinfo=ZoneInfo(zone))
    # An hour that a change of the clocks repeats or leaves out: which one is meant cannot be known.
    if first.utcoffset() != first.replace(fold=1).utcoffset():
        return None
    return first.astimezone(UTC)


def _seq(path: JsonPath | None, document: Any, item: Any) -> int | None:
    value = None if path is None else path.find(document, item)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    # What the topic carries is a 64-bit number.
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _text(value: object) -> str | None:
    """Return a text or a number as text, without what no screen shows; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return printable(str(value))[:MAX_TEXT] or None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
