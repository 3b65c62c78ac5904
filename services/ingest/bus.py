"""Reports and findings as messages: topics, keys, headers and JSON, in one place."""

import base64
from collections.abc import Mapping
from datetime import datetime

import orjson

from libs.common.bus import envelope, topics
from libs.common.bus.port import Header, Message, Received
from libs.common.contracts.device import DeviceEvent
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Rejected
from libs.common.ids import new_id
from services.ingest.domain.report import Rejection, Report

SOURCE = "ingest"
MAX_RAW_BYTES = 64 * 1024
"""What is kept of something that was not understood. [B]"""
MAX_DETAIL = 2000
"""Of what is said of it. [characters]"""


def reading_message(report: Report, topic: str) -> Message:
    """Return the message of a report on the live or the backfill topic.

    Written without the model, which costs five times as much; a test holds the two together. The event id
    travels through the spool, so that a message published twice can be told from two messages.
    """
    payload: dict[str, object] = {
        "device_id": report.device_id,
        "site_id": report.site_id,
        "source_time": report.source_time,
        "received_at": report.received_at,
        "driver": report.driver,
        "points": report.points,
    }
    if report.quality:
        payload["quality"] = report.quality
    if report.raw:
        payload["raw"] = report.raw
    for name in _OPTIONAL:
        value = getattr(report, name)
        if value is not None:
            payload[name] = value
    value = orjson.dumps(payload, option=orjson.OPT_UTC_Z)
    return Message(
        topic=topic,
        key=report.site_id,
        value=value,
        headers=_headers(topic, new_id(), report.source_time, report.device_id),
    )


_OPTIONAL = (
    "seq", "device_time", "message_id", "replaces", "line_id", "profile", "profile_version", "ct_ratio", "pt_ratio",
    "energy_ratio", "load_id",
)  # fmt: skip


def heartbeat_message(instance: str, partition: int, received_at: datetime, seq: int) -> Message:
    """Return one heartbeat of this process for one partition of the readings."""
    value = orjson.dumps(
        {"instance": instance, "partition": partition, "received_at": received_at, "seq": seq},
        option=orjson.OPT_UTC_Z,
    )
    headers = _headers(HEARTBEAT_TYPE, f"{instance}-{partition}-{seq}-{received_at.timestamp():.3f}", received_at, None)
    return Message(
        topic=topics.READINGS, key=f"heartbeat/{instance}", value=value, headers=headers, partition=partition
    )


def is_heartbeat(headers: tuple[Header, ...]) -> bool:
    """Return whether a message on the readings topic is a heartbeat and not a report."""
    return any(name == "ce_type" and value == _HEARTBEAT for name, value in headers)


_HEARTBEAT = HEARTBEAT_TYPE.encode()


def rejected_message(rejection: Rejection) -> Message:
    """Return the message of something that was not taken."""
    raw = rejection.raw[:MAX_RAW_BYTES]
    rejected_id = new_id()
    payload = Rejected(
        reason=rejection.reason,
        source=rejection.source,
        received_at=rejection.received_at,
        raw_base64=base64.b64encode(raw).decode(),
        detail=_storable(rejection.detail),
        detail_zh=None if rejection.detail_zh is None else _storable(rejection.detail_zh),
        rejected_id=rejected_id,
        device_id=rejection.device_id,
        site_id=rejection.site_id,
        line_id=rejection.line_id,
        driver=rejection.driver,
        content_type=rejection.content_type,
        truncated=True if len(rejection.raw) > len(raw) else None,
    )
    return envelope.message(
        topics.REJECTED, rejection.source, payload, source=SOURCE, time=rejection.received_at, event_id=rejected_id
    )


def _storable(detail: str) -> str:
    """Return what is said of a rejection within bounds, and without the NUL of a sender: PostgreSQL keeps none."""
    return detail[:MAX_DETAIL].replace("\0", "\N{SYMBOL FOR NULL}")


def event_message(event: DeviceEvent) -> Message:
    """Return the message of an event that a device sent."""
    return envelope.message(
        topics.DEVICE_EVENTS, event.site_id, event, source=SOURCE, time=event.source_time, subject=event.device_id
    )


def pack(message: Message) -> bytes:
    """Return a message as the spool keeps it."""
    return orjson.dumps(
        [
            message.topic,
            message.key,
            message.partition_key,
            message.partition,
            [[name, value.decode("latin-1")] for name, value in message.headers],
            None if message.value is None else message.value.decode(),
        ]
    )


def unpack(payload: bytes) -> Message:
    """Return the message that ``pack`` wrote."""
    topic, key, partition_key, partition, headers, value = orjson.loads(payload)
    return Message(
        topic=topic,
        key=key,
        value=None if value is None else value.encode(),
        headers=tuple((name, text.encode("latin-1")) for name, text in headers),
        partition_key=partition_key,
        partition=partition,
    )


def parsed(received: Received) -> Mapping[str, object]:
    """Return the JSON object of a message.

    Raises:
        ValueError: It is none.
    """
    if received.value is None:
        raise ValueError("a tombstone where a report is expected")
    value = orjson.loads(received.value)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _headers(event_type: str, event_id: str, time: datetime, subject: str | None) -> tuple[Header, ...]:
    return envelope.headers(event_type=event_type, source=SOURCE, event_id=event_id, time=time, subject=subject)
