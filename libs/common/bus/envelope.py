"""How a payload becomes a message: CloudEvents 1.0 in Kafka's binary mode, value plain UTF-8 JSON.

The metadata stand in headers, so that anyone with a Kafka client can read the value as it is, and a
reader can sort, trace and deduplicate without parsing it.

Source:
    CloudEvents 1.0.2 and its Kafka protocol binding 1.0.2, section 3.2 (binary content mode).
"""

import uuid
from datetime import UTC, datetime
from functools import lru_cache

from pydantic import BaseModel

from libs.common.bus.port import Header, Message, Received
from libs.common.clock import require_aware

SPEC_VERSION = b"1.0"
CONTENT_TYPE = b"application/json"


def headers(
    *,
    event_type: str,
    source: str,
    event_id: str,
    time: datetime,
    subject: str | None = None,
    traceparent: str | None = None,
) -> tuple[Header, ...]:
    """Return the CloudEvents headers of one event.

    Args:
        event_type: What kind of event; for messages of ours the topic's name.
        source: Who says it, such as ``ingest`` or ``ingest/line-7``.
        event_id: Unique together with ``source``; equal when the same event is published again.
        time: When it happened, aware.
        subject: What it is about, such as a device id.
        traceparent: W3C trace context to go on from.

    Raises:
        ValueError: ``time`` carries no offset.
    """
    found: list[Header] = [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_time", _rfc3339(require_aware(time, "time"))),
        ("content-type", CONTENT_TYPE),
    ]
    if subject is not None:
        found.append(("ce_subject", subject.encode()))
    if traceparent is not None:
        found.append(("traceparent", traceparent.encode()))
    return tuple(found)


def event_id(received: Received) -> str | None:
    """Return the id that the writer gave the event; None when a stranger wrote it without one."""
    return _text(received, "ce_id")


def event_type(received: Received) -> str | None:
    """Return the kind of event, None when it is not said."""
    return _text(received, "ce_type")


def traceparent(received: Received) -> str | None:
    """Return the trace context that came with the event, None when there is none."""
    return _text(received, "traceparent")


def message(
    topic: str,
    key: str,
    payload: BaseModel,
    *,
    source: str,
    time: datetime,
    event_id: str | None = None,
    partition_key: str | None = None,
    partition: int | None = None,
    subject: str | None = None,
    traceparent: str | None = None,
) -> Message:
    """Return the message that carries ``payload``.

    The value is compact JSON without the fields that are None. The event's type is the topic's name, unless
    the payload has a type of its own (a heartbeat among the readings).

    Args:
        topic: Where to publish.
        key: Decides order, and on a compacted topic which message replaces which.
        payload: A model of ``libs.common.contracts``.
        source: Who says it.
        time: When it happened, aware.
        event_id: Identity of the event; a random one when not given, which a retry must then carry along.
        partition_key: Chooses the partition in place of ``key``.
        partition: Chooses the partition outright.
        subject: What it is about.
        traceparent: W3C trace context to go on from.

    Raises:
        ValueError: ``time`` carries no offset.
    """
    return Message(
        topic=topic,
        key=key,
        # What ``model_dump_json`` does, without making text of the bytes in between.
        value=payload.__pydantic_serializer__.to_json(payload, exclude_none=True, by_alias=True),
        headers=headers(
            event_type=getattr(payload, "ce_type", None) or topic,
            source=source,
            event_id=event_id or new_event_id(),
            time=time,
            subject=subject,
            traceparent=traceparent,
        ),
        partition_key=partition_key,
        partition=partition,
    )


def tombstone(
    topic: str,
    key: str,
    *,
    source: str,
    time: datetime,
    event_id: str | None = None,
    partition_key: str | None = None,
    partition: int | None = None,
) -> Message:
    """Return the message that removes ``key`` from a compacted topic.

    Raises:
        ValueError: ``time`` carries no offset.
    """
    return Message(
        topic=topic,
        key=key,
        value=None,
        headers=headers(event_type=topic, source=source, event_id=event_id or new_event_id(), time=time),
        partition_key=partition_key,
        partition=partition,
    )


def new_event_id() -> str:
    """Return a new random event id."""
    return str(uuid.uuid4())


def _text(received: Received, name: str) -> str | None:
    value = received.header(name)
    return None if value is None else value.decode(errors="replace")


@lru_cache(maxsize=16)
def _rfc3339(time: datetime) -> bytes:
    """Return a time as text; of one moment there are often hundreds of messages."""
    return f"{(time if time.tzinfo is UTC else time.astimezone(UTC)).isoformat()[:-6]}Z".encode()
