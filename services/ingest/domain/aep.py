"""China Telecom's device platform (CTWing AEP): what it pushes, how its API is signed, what a command looks like.

Pushes are read tolerantly and kept strictly: ids come as text or number, absent ones as ``"undefined"`` or ``""``,
fields that nobody has described come and go; but a number that is none becomes no value, and a time that cannot be
read is never guessed.

Source:
    southbound.md 11, from public clients of the platform.
"""

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import orjson

from libs.common.contracts.telemetry import RejectReason
from libs.common.points import POINTS, PointKind
from libs.common.profiles import AepControl, AepEvent, AepPoint, AepProduct
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.loose import number_of, text_of, time_of, whole_of

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class PushKind(StrEnum):
    """What a push tells; the values are the platform's ``messageType``."""

    DATA = "dataReport"
    DATA_TUP = "dataReportTupUnion"
    EVENT = "eventReport"
    COMMAND_RESPONSE = "commandResponse"
    CONNECTIVITY = "deviceOnlineOfflineReport"

    @property
    def is_data(self) -> bool:
        """Whether it carries values."""
        return self in (PushKind.DATA, PushKind.DATA_TUP)


@dataclass(frozen=True, slots=True)
class SimIds:
    """Identities of module and card, as far as the platform knows them."""

    imei: str | None = None
    imsi: str | None = None
    iccid: str | None = None

    def __bool__(self) -> bool:
        return bool(self.imei or self.imsi or self.iccid)


NO_IDS = SimIds()


@dataclass(frozen=True, slots=True)
class Push:
    """One message, read."""

    kind: PushKind
    tenant: str | None
    product: str | None
    device: str
    """Of the platform, not the registry's."""
    at: datetime
    ids: SimIds
    service: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of data and event reports."""
    app_data: bytes | None = None
    """What a device of a transparent product sent."""
    event_type: int | None = None
    online: bool | None = None
    task: str | None = None
    result: str | None = None
    """Code of a command's result."""
    key: str = field(init=False, default="")
    """What repetitions of one message have in common; the platform's own sequence numbers are not reliable. News of a
    command has none: told again they change nothing."""

    def __post_init__(self) -> None:
        """Make the key.

        Raises:
            orjson.JSONEncodeError: It is nested too deeply.
        """
        if self.kind is PushKind.COMMAND_RESPONSE:
            return
        what = orjson.dumps(
            [self.kind, self.device, self.at, self.service, self.payload, self.event_type, self.online,
             None if self.app_data is None else self.app_data.hex()],
            option=orjson.OPT_SORT_KEYS,
        )  # fmt: skip
        object.__setattr__(self, "key", hashlib.sha256(what).hexdigest()[:32])


def parse_push(raw: bytes) -> Push | Refused:
    """Return what a message says, or why it cannot be understood."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        return _refused(RejectReason.UNDECODABLE, f"expected JSON, {exc}", f"不是合法的 JSON:{exc}")
    if not isinstance(message, dict):
        return _refused(RejectReason.UNDECODABLE, "expected a JSON object", "应为 JSON 对象")
    kind = _KINDS.get(str(message.get("messageType")))
    if kind is None:
        names, found = ", ".join(PushKind), _shown(message.get("messageType"))
        return _refused(
            RejectReason.UNDECODABLE,
            f"messageType: expected one of {names}, found {found}",
            f"messageType 应为 {names} 之一,实际为 {found}",
        )
    device = text_of(message.get("deviceId"))
    if device is None or _ID.fullmatch(device) is None:
        return _refused(
            RejectReason.MISSING_FIELD,
            f"deviceId: expected an id, found {_shown(message.get('deviceId'))}",
            f"deviceId 应为设备标识,实际为 {_shown(message.get('deviceId'))}",
        )
    at = time_of(message.get("timestamp"), "ms")
    if at is None:
        return _refused(
            RejectReason.UNREADABLE_TIME,
            f"timestamp: expected milliseconds since 1970, found {_shown(message.get('timestamp'))}",
            f"timestamp 应为 1970 年以来的毫秒数,实际为 {_shown(message.get('timestamp'))}",
        )
    common: dict[str, Any] = {
        "kind": kind,
        "tenant": text_of(message.get("tenantId")),
        "product": text_of(message.get("productId")),
        "device": device,
        "at": at,
        "ids": NO_IDS if kind is PushKind.COMMAND_RESPONSE else _sim_ids(message),
        "service": text_of(message.get("serviceId")),
    }
    try:
        return _READERS[kind](common, message)
    except orjson.JSONEncodeError:  # what has no key cannot be told from its repetitions
        return _refused(RejectReason.UNDECODABLE, "payload: nested too deeply", "payload 嵌套过深")


def _data(common: Mapping[str, Any], message: Mapping[str, Any]) -> Push | Refused:
    payload = message.get("payload")
    if not isinstance(payload, dict) or not payload:
        return _refused(
            RejectReason.MISSING_FIELD,
            f"payload: expected an object of parameters, found {_shown(payload)}",
            f"payload 应为参数对象,实际为 {_shown(payload)}",
        )
    transparent = payload.get("APPdata")
    if transparent is None:
        return Push(**common, payload=payload)
    try:
        return Push(**common, app_data=base64.b64decode(str(transparent), validate=True))
    except (binascii.Error, ValueError):
        return _refused(
            RejectReason.UNDECODABLE,
            f"payload.APPdata: expected base64, found {_shown(transparent)}",
            f"payload.APPdata 应为 base64,实际为 {_shown(transparent)}",
        )


def _event(common: Mapping[str, Any], message: Mapping[str, Any]) -> Push | Refused:
    content = message.get("eventContent")
    if content is not None and not isinstance(content, dict):
        return _refused(
            RejectReason.UNDECODABLE,
            f"eventContent: expected an object, found {_shown(content)}",
            f"eventContent 应为对象,实际为 {_shown(content)}",
        )
    if common["service"] is None:
        return _refused(RejectReason.MISSING_FIELD, "serviceId: which event it is is missing", "缺少 serviceId")
    return Push(**common, payload=content or {}, event_type=whole_of(message.get("eventType")))


def _response(common: Mapping[str, Any], message: Mapping[str, Any]) -> Push | Refused:
    task, result = text_of(message.get("taskId")), message.get("result")
    code = result.get("resultCode") if isinstance(result, dict) else result
    if task is None or not isinstance(code, str) or not code:
        return _refused(
            RejectReason.MISSING_FIELD,
            "taskId, result.resultCode: what became of which command is missing",
            "缺少 taskId 或 result.resultCode",
        )
    return Push(**common, task=task, result=code.upper())


def _connectivity(common: Mapping[str, Any], message: Mapping[str, Any]) -> Push | Refused:
    event_type = message.get("eventType")
    state = whole_of(event_type)
    if state not in (0, 1):
        return _refused(
            RejectReason.UNDECODABLE,
            f"eventType: expected 1 (online) or 0 (offline), found {_shown(event_type)}",
            f"eventType 应为 1(上线)或 0(下线),实际为 {_shown(event_type)}",
        )
    return Push(**common, online=state == 1)


_KINDS: Mapping[str, PushKind] = {kind.value: kind for kind in PushKind}
_READERS: Mapping[PushKind, Callable[[Mapping[str, Any], Mapping[str, Any]], Push | Refused]] = {
    PushKind.DATA: _data,
    PushKind.DATA_TUP: _data,
    PushKind.EVENT: _event,
    PushKind.COMMAND_RESPONSE: _response,
    PushKind.CONNECTIVITY: _connectivity,
}


# From parameters to points


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the parameters of a report are in the profile's words."""

    raw: Mapping[str, float | int | None]
    texts: Mapping[str, str]
    device_time: datetime | None = None
    """The device's own time of the values."""
    cell_id: str | None = None
    pci: int | None = None


class PushDecoder:
    """Turns the parameters of one profile's reports into raw numbers per point; made once per profile."""

    def __init__(self, points: Mapping[str, object], product: AepProduct) -> None:
        """Prepare.

        Args:
            points: Of the profile.
            product: What concerns all its reports.
        """
        self._product = product
        self._points = [point for point in points.values() if isinstance(point, AepPoint) and point.copy_of is None]
        self._events: Mapping[str, list[AepEvent]] = _by_service(product.events)

    def decode(self, push: Push) -> Decoded:
        """Return what a report says; a parameter that no point reads is passed over."""
        raw: dict[str, float | int | None] = {}
        texts: dict[str, str] = {}
        for point in self._points:
            if point.service is not None and point.service != push.service:
                continue
            if point.param not in push.payload:
                continue
            value = push.payload[point.param]
            if _is_text(point):
                text = text_of(value)
                if text is not None:
                    texts[point.name] = text[:200]
                continue
            raw[point.name] = number_of(value)
        product = self._product
        told = None if product.time_param is None else push.payload.get(product.time_param)
        cell = None if product.cell_id_param is None else text_of(push.payload.get(product.cell_id_param))
        return Decoded(
            raw=raw,
            texts=texts,
            device_time=None if told is None else time_of(told, product.time_unit),
            cell_id=None if cell is None else cell[:64],
            pci=None if product.pci_param is None else whole_of(push.payload.get(product.pci_param)),
        )

    def remembered(self, record: object) -> tuple[datetime, Mapping[str, float | int | None]] | None:
        """Return time and raw numbers of a record of the platform's history; None when it has no time or none of them.

        A record does not say of which service it is: parameters that two services share are passed over.
        """
        if not isinstance(record, Mapping):
            return None
        told = None if self._product.time_param is None else record.get(self._product.time_param)
        at = None if told is None else time_of(told, self._product.time_unit)
        at = at or time_of(record.get("timestamp"), "ms")
        services: dict[str, set[str | None]] = {}
        for point in self._points:
            services.setdefault(point.param, set()).add(point.service)
        raw = {
            point.name: number_of(record[point.param])
            for point in self._points
            if point.param in record and len(services[point.param]) == 1 and not _is_text(point)
        }
        return None if at is None or not raw else (at, raw)

    def events(self, push: Push) -> list["EventFound"]:
        """Return the device's own alarms in an event report; one that the profile does not know just happened."""
        known = self._events.get(push.service or "", [])
        found = []
        for event in known:
            phase = "once"
            if event.param is not None:
                value = number_of(push.payload.get(event.param))
                phase = "begin" if value == event.begin else "end" if value == event.end else ""
            if phase:
                found.append(EventFound(event.code, phase, event.text, event.severity or _severity(push), event.param))
        if not known:
            name = re.sub(r"[^a-z0-9]+", "_", (push.service or "").lower()).strip("_")[:50]
            found.append(EventFound(f"aep_{name}" if name else "aep_event", "once", "", _severity(push), None))
        return found


@dataclass(frozen=True, slots=True)
class EventFound:
    """One alarm or event in an event report."""

    code: str
    phase: str
    """``begin``, ``end`` or ``once``."""
    text: str
    severity: int | None
    param: str | None


def _is_text(point: AepPoint) -> bool:
    canonical = POINTS.get(point.name)
    return canonical is not None and canonical.kind is PointKind.TEXT


def _by_service(events: tuple[AepEvent, ...]) -> dict[str, list[AepEvent]]:
    found: dict[str, list[AepEvent]] = {}
    for event in events:
        found.setdefault(event.service, []).append(event)
    return found


def _severity(push: Push) -> int | None:
    return {1: 4, 2: 3, 3: 2}.get(push.event_type or 0)  # information, warning, fault


_SIM_IDS = {
    "imei": re.compile("[0-9]{14,16}"),
    "imsi": re.compile("[0-9]{15}"),
    "iccid": re.compile("[0-9A-Fa-f]{19,20}"),
}


def _sim_ids(message: Mapping[str, Any]) -> SimIds:
    found: dict[str, str] = {}
    for name, value in message.items():
        known = name.lower()
        pattern = _SIM_IDS.get(known)
        text = None if pattern is None else text_of(value)
        if pattern is not None and text is not None and pattern.fullmatch(text):
            found[known] = text
    return SimIds(**found) if found else NO_IDS


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _refused(reason: RejectReason, detail: str, detail_zh: str) -> Refused:
    return Refused(reason, detail, detail_zh)


# Calling the platform


HISTORY_PAGE = 100
"""Records of the platform's history that are asked for at once."""


class Interface:
    """Date codes of the interfaces that are called: header ``version``."""

    COMMAND = "20190712225145"
    COMMAND_STATE = "20190712225241"
    CANCEL = "20190615023142"
    HISTORY = "20190928013337"


def command_body(*, product: str, device: str, operator: str, control: AepControl, value: float | None) -> bytes:
    """Return the body that issues a command.

    Raises:
        ValueError: The control takes a value and there is none, or it lies outside of what the profile allows.
    """
    params = {name: _param(control, value) if given is None else given for name, given in control.params.items()}
    return orjson.dumps(
        {
            "productId": int(product) if product.isdecimal() else product,
            "deviceId": device,
            "operator": operator,
            "ttl": control.ttl_s,
            "level": 1,
            "content": {"serviceIdentifier": control.service, "params": params},
        }
    )


def history_body(*, product: str, device: str, since: datetime, until: datetime, page: str | None) -> bytes:
    """Return the body that asks for a page of a device's history, the youngest records first.

    ``page`` is the ``page_timestamp`` of the page before; the first has none.
    """
    body: dict[str, Any] = {
        "productId": product,
        "deviceId": device,
        "begin_timestamp": str(int(since.timestamp() * 1000)),
        "end_timestamp": str(int(until.timestamp() * 1000)),
        "page_size": HISTORY_PAGE,
    }
    if page is not None:
        body["page_timestamp"] = page
    return orjson.dumps(body)


def _param(control: AepControl, value: float | None) -> float | int:
    low, high = control.min, control.max
    if value is None or not math.isfinite(value):
        raise ValueError(f"{control.name} takes a value")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{control.name}: expected {low:g} to {high:g}, found {value:g}")
    return int(value) if value == int(value) else value


class TaskState(IntEnum):
    """How far a command is; a higher one is further, whatever the order in which the news of it arrive."""

    SAVED = 1
    SENT = 2
    DELIVERED = 3
    EXPIRED = 10
    """It was not delivered in its time, and will not be."""
    CANCELLED = 11
    TIMED_OUT = 12
    """Delivered, and the device did not answer the platform."""
    FAILED = 13
    COMPLETED = 14
    """The device answered: it wins over anything that was concluded from silence."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more is expected."""
        return self >= TaskState.EXPIRED


_RESULTS: Mapping[str, TaskState] = {
    "SENT": TaskState.SENT,
    "DELIVERED": TaskState.DELIVERED,
    "SUCCESSFUL": TaskState.COMPLETED,
    "SUCCESS": TaskState.COMPLETED,
    "COMPLETED": TaskState.COMPLETED,
    "FAILED": TaskState.FAILED,
    "EXPIRED": TaskState.EXPIRED,
    "TIMEOUT": TaskState.TIMED_OUT,
    "CANCELED": TaskState.CANCELLED,
    "CANCELLED": TaskState.CANCELLED,
}
_STATES: Mapping[int, TaskState] = {
    1: TaskState.SAVED,
    2: TaskState.SENT,
    3: TaskState.DELIVERED,
    4: TaskState.COMPLETED,
    6: TaskState.CANCELLED,
    999: TaskState.FAILED,
}


def task_state_of(code: object) -> TaskState | None:
    """Return the state that a push or an answer names, by word or by number; None for one that is not known."""
    if isinstance(code, str) and code.upper() in _RESULTS:
        return _RESULTS[code.upper()]
    number = whole_of(code)
    return None if number is None else _STATES.get(number)
