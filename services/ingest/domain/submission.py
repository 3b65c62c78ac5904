"""Reports that somebody else sends us as JSON: read strictly, so that nothing wrong becomes a number.

One object is one report: ``device_id``, ``source_time`` (RFC 3339 with an offset), ``points`` (name to number or
null) and, if need be, ``units`` (name to the unit the number is in), ``quality``, ``seq``, ``message_id``. What
a reading on the bus carries besides is accepted and, apart from the ratios, ignored: the registry knows better.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard

import orjson

from libs.common.contracts.registry import Device
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.ids import DeviceId, LineId, SiteId
from libs.common.points import POINTS, is_point_name
from libs.common.profiles import DeviceProfile
from libs.common.units import UnknownUnit, convert
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.normalise import Ratios, energy_ratio
from services.ingest.domain.report import Report

MAX_POINTS = 500
"""Points in one report, as the topic's contract has it."""
_NO_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_MESSAGE_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_RATIOS = ("ct_ratio", "pt_ratio", "energy_ratio")
LEAST_RATIO, MOST_RATIO = 1e-6, 1e9
"""No transformer lies outside; the product of two must stay a number that is not 0. [1]"""


@dataclass(frozen=True, slots=True)
class Submission:
    """A report as it was sent, read but not yet believed."""

    device_id: str
    source_time: datetime
    points: Mapping[str, float | None]
    """In canonical units."""
    quality: Mapping[str, Quality] = field(default_factory=dict)
    seq: int | None = None
    message_id: str | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    """Those that were sent along."""


def parse_submission(raw: bytes) -> Submission | Refused:
    """Return what one JSON object says, or why it is not taken."""
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        if _NO_NUMBER.search(raw) or "number is infinity" in str(exc):
            return _refused(RejectReason.NOT_A_NUMBER, "points: NaN and Infinity are no numbers", "数值为 NaN 或无穷大")
        return _refused(RejectReason.UNDECODABLE, f"expected JSON, {exc}", f"不是合法的 JSON:{exc}")
    return read_submission(payload)


def read_submission(payload: Any) -> Submission | Refused:
    """Return what parsed JSON says, or why it is not taken."""
    if not isinstance(payload, dict):
        return _refused(RejectReason.UNDECODABLE, "expected a JSON object", "应为 JSON 对象")
    for name in ("device_id", "source_time", "points"):
        if payload.get(name) is None:
            return _refused(RejectReason.MISSING_FIELD, f"{name}: the field is missing", f"缺少字段 {name}")
    device_id, sent = payload["device_id"], payload["points"]
    if not is_device_id(device_id):
        return _refused(
            RejectReason.UNDECODABLE,
            f"device_id: expected letters, digits, '.', '_', ':' and '-', at most 64, found {_shown(device_id)}",
            f"device_id 应由字母、数字及 . _ : - 组成,最多 64 个字符,实际为 {_shown(device_id)}",
        )
    if not isinstance(sent, dict) or not 1 <= len(sent) <= MAX_POINTS:
        return _refused(RejectReason.UNDECODABLE, f"points: expected an object of 1 to {MAX_POINTS}", "points 应为对象")
    time = _time(payload["source_time"])
    if time is None:
        return _refused(
            RejectReason.UNREADABLE_TIME,
            f"source_time: expected RFC 3339 with an offset, found {_shown(payload['source_time'])}",
            f"source_time 应为带时区偏移的 RFC 3339 时间,实际为 {_shown(payload['source_time'])}",
        )
    units = payload.get("units") or {}
    if not isinstance(units, dict):
        return _refused(RejectReason.UNDECODABLE, "units: expected an object", "units 应为对象")
    points: dict[str, float | None] = {}
    for name, value in sent.items():
        found = _number(name, value, units.get(name))
        if isinstance(found, Refused):
            return found
        points[name] = found
    quality = _quality(payload.get("quality") or {}, points)
    if isinstance(quality, Refused):
        return quality
    seq, message_id = payload.get("seq"), payload.get("message_id")
    if message_id is not None and not (isinstance(message_id, str) and _MESSAGE_ID.fullmatch(message_id)):
        return _refused(
            RejectReason.UNDECODABLE,
            f"message_id: expected text of at most 200 printable characters, found {_shown(message_id)}",
            f"message_id 应为不超过 200 个可见字符的文本,实际为 {_shown(message_id)}",
        )
    return Submission(
        device_id=device_id,
        source_time=time,
        points=points,
        quality=quality,
        seq=seq if isinstance(seq, int) and not isinstance(seq, bool) and abs(seq) < 2**63 else None,
        message_id=message_id,
        ratios={name: float(payload[name]) for name in _RATIOS if _is_ratio(payload.get(name))},
    )


def report_of(
    submission: Submission, device: Device, profile: DeviceProfile | None, received_at: datetime, driver: str
) -> Report:
    """Return the report of a device that the registry knows."""
    ct_ratio = submission.ratios.get("ct_ratio", device.ct_ratio)
    pt_ratio = submission.ratios.get("pt_ratio", device.pt_ratio)
    derived = None if profile is None else energy_ratio(profile, Ratios(ct_ratio, pt_ratio))
    return Report(
        device_id=DeviceId(device.id),
        site_id=SiteId(device.site),
        source_time=submission.source_time,
        received_at=received_at,
        driver=driver,
        points=submission.points,
        quality=submission.quality,
        seq=submission.seq,
        message_id=submission.message_id,
        line_id=None if device.line is None else LineId(device.line),
        profile=device.profile,
        profile_version=None if profile is None else profile.version,
        ct_ratio=ct_ratio,
        pt_ratio=pt_ratio,
        energy_ratio=submission.ratios.get("energy_ratio", derived),
    )


def unknown_device(device_id: str) -> Refused:
    """Return why a report of a device that is not in the registry is not taken."""
    return _refused(
        RejectReason.UNKNOWN_DEVICE,
        f"device_id: there is no device {device_id!r} at that time",
        f"设备 {device_id!r} 在该时间不存在",
    )


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    try:
        return None if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar
        return None


def _number(name: str, value: object, unit: object) -> float | Refused | None:
    if not is_point_name(name):
        return _refused(RejectReason.UNKNOWN_POINT, f"points: no point {_shown(name)}", f"未知测点 {_shown(name)}")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _refused(
            RejectReason.NOT_A_NUMBER,
            f"points.{name}: expected a number, found {_shown(value)}",
            f"测点 {name} 的值应为数字,实际为 {_shown(value)}",
        )
    if unit is None or name not in POINTS:
        return float(value)
    try:
        converted = convert(float(value), str(unit), POINTS[name].unit)
    except UnknownUnit:
        return _refused(
            RejectReason.WRONG_UNIT,
            f"units.{name}: expected {POINTS[name].unit} or a unit that converts to it, found {_shown(unit)}",
            f"测点 {name} 的单位应为 {POINTS[name].unit} 或可换算的单位,实际为 {_shown(unit)}",
        )
    if not math.isfinite(converted):
        return _refused(
            RejectReason.NOT_A_NUMBER,
            f"points.{name}: {_shown(value)} {_shown(unit)} is more than a number can hold",
            f"测点 {name} 的值 {_shown(value)} {_shown(unit)} 超出数值范围",
        )
    return converted


def _quality(sent: object, points: Mapping[str, float | None]) -> dict[str, Quality] | Refused:
    """Return the flags that were sent, and ``suspect`` for what lies outside the plausible range."""
    if not isinstance(sent, dict) or any(flag not in list(Quality) for flag in sent.values()):
        return _refused(
            RejectReason.UNDECODABLE, f"quality: expected flags out of {', '.join(Quality)}", "quality 标志无效"
        )
    flags = {name: Quality(flag) for name, flag in sent.items() if name in points}
    for name, value in points.items():
        point = POINTS.get(name)
        if value is None:
            flags.setdefault(name, Quality.INVALID)
        elif point is not None and not point.is_plausible(value):
            flags.setdefault(name, Quality.SUSPECT)
    return flags


def is_device_id(value: object) -> TypeGuard[str]:
    """Return whether something could be the id of a device; nothing else is ever stored as one."""
    return isinstance(value, str) and _DEVICE_ID.fullmatch(value) is not None


def _shown(value: object) -> str:
    """Return what was found, short and without control characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST_RATIO <= value <= MOST_RATIO


def _refused(reason: RejectReason, detail: str, detail_zh: str) -> Refused:
    return Refused(reason, detail, detail_zh)
