"""Where news come from: one reader per topic. A further source is a reader and a line in ``SOURCES``."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime

import orjson
from pydantic import ValidationError

from libs.common import webhooks
from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, Diagnosis
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.contracts.carbon import AttestationHead, FinishedReport
from libs.common.contracts.control import ControlEvent
from services.export.domain.callbacks import (
    News,
    NewsType,
    lane_of_alarm,
    lane_of_control,
    resource_of_control,
    type_of_alarm,
    type_of_control,
    type_of_diagnosis,
)

Reader = Callable[[Received, bytes], News | None]
"""From a message and its value to news; None for what nobody outside is told."""


def news_of(received: Received) -> News | None:
    """Return what a message tells, None when that is nothing for anybody outside.

    Raises:
        ValueError: It cannot be read; the reason says why.
    """
    if received.value is None:
        return None
    try:
        return SOURCES[received.topic](received, received.value)
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise ValueError(f"no event of {received.topic}: {exc}"[:500]) from exc


def _control(received: Received, value: bytes) -> News:
    event = ControlEvent.from_json(value)
    return News(
        event_id=_identity(received),
        type=type_of_control(event),
        source="control",
        resource=resource_of_control(event),
        site_id=event.site_id,
        at=event.at,
        data=value,
        lane=lane_of_control(event),
        actor=event.actor,
        traceparent=envelope.traceparent(received),
    )


def _alarm(received: Received, value: bytes) -> News | None:
    event = AlarmEvent.from_json(value)
    if event.historical:
        return None
    return News(
        event_id=_identity(received),
        type=type_of_alarm(event),
        source="alarm",
        resource=f"alarm/{event.alarm_id}",
        site_id=event.site_id,
        at=event.raised_at or (event.ended_at if event.phase is Phase.END else None) or event.began_at,
        data=value,
        lane=lane_of_alarm(event),
        hushed=event.inhibited_by is not None,
        traceparent=envelope.traceparent(received),
    )


def _diagnosis(received: Received, value: bytes) -> News:
    event = Diagnosis.from_json(value)
    return News(
        event_id=_identity(received),
        type=type_of_diagnosis(event),
        source="alarm",
        resource=f"diagnosis/{event.diagnosis_id}",
        site_id=event.site_id,
        at=event.at or _said_at(received),
        data=value,
        traceparent=envelope.traceparent(received),
    )


def _head(received: Received, value: bytes) -> News:
    head = AttestationHead.from_json(value)
    return News(
        event_id=_identity(received),
        type=NewsType.ATTESTATION_HEAD,
        source="carbon",
        resource=f"attestation/{received.key}",
        site_id=PLATFORM_SITE,
        at=head.at,
        data=value,
        traceparent=envelope.traceparent(received),
    )


def _report(received: Received, value: bytes) -> News:
    report = FinishedReport.from_json(value)
    return News(
        event_id=_identity(received),
        type=NewsType.REPORT_FINISHED,
        source="carbon",
        resource=f"report/{report.report}",
        site_id=PLATFORM_SITE,
        at=report.made_at,
        data=value,
        traceparent=envelope.traceparent(received),
    )


SOURCES: Mapping[str, Reader] = {
    topics.CONTROL_EVENTS: _control,
    topics.ALARM_EVENTS: _alarm,
    topics.DIAGNOSES: _diagnosis,
    topics.ATTESTATIONS: _head,
    topics.REPORTS: _report,
}


def _identity(received: Received) -> str:
    """Return the event's own id; one that cannot be a ``webhook-id``, or none, gives way to a name made of it."""
    given = envelope.event_id(received)
    if given is not None and webhooks.is_id(given):
        return given
    seed = given or f"{received.topic}/{received.partition}/{received.offset}"
    return f"evt_{hashlib.sha256(seed.encode()).hexdigest()[:32]}"


def _said_at(received: Received) -> datetime:
    return received.appended_at
