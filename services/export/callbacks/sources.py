"""Where news come from: a table with a row per topic. A further source is a row in ``SOURCES``.

What comes in thousands a second is told in batches and read elsewhere, see ``batches.py``.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import orjson
from pydantic import ValidationError

from libs.common import webhooks
from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, Diagnosis
from libs.common.contracts.base import PLATFORM_SITE, Payload, Phase
from libs.common.contracts.carbon import AttestationHead, CarbonResult, FinishedReport
from libs.common.contracts.control import ControlEvent, PlanEvent
from libs.common.contracts.device import DeviceStatus
from services.export.domain.callbacks import (
    Lane,
    News,
    NewsType,
    lane_of_alarm,
    lane_of_control,
    resource_of_control,
    type_of_alarm,
    type_of_control,
    type_of_diagnosis,
    types_of,
)

P = TypeVar("P", bound=Payload)


class Source(Protocol):
    """How the messages of a topic are told."""

    @property
    def types(self) -> frozenset[NewsType]:
        """What can be told of it."""

    @property
    def said_by(self) -> str:
        """The service whose topic it is."""

    def news_of(self, received: Received, value: bytes) -> News | None:
        """Return what a message with this value tells, None when that is nothing for anybody outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row(Generic[P]):
    """A source: where in a topic's payload stands what endpoints choose by, and what they are told."""

    types: frozenset[NewsType]
    said_by: str
    payload: type[P]
    type: Callable[[P], NewsType]
    resource: Callable[[P, str | None], str]
    """What it is news of, by the payload and the message's key."""
    site: Callable[[P], str | None]
    """None: it lies above all sites."""
    at: Callable[[P], datetime | None]
    """When it happened; None: what the bus says."""
    lane: Callable[[P], Lane] = lambda _: Lane.NORMAL
    actor: Callable[[P], str | None] = lambda _: None
    device: Callable[[P], str | None] = lambda _: None
    sites: Callable[[P], tuple[str, ...]] = lambda _: ()
    is_hushed: Callable[[P], bool] = lambda _: False
    is_told: Callable[[P], bool] = lambda _: True
    body: Callable[[P, bytes], bytes] = lambda _, value: value
    """What is told; else the payload as it stood on the topic."""

    def news_of(self, received: Received, value: bytes) -> News | None:
        event = self.payload.from_json(value)
        if not self.is_told(event):
            return None
        return News(
            event_id=_identity(received),
            type=self.type(event),
            source=self.said_by,
            resource=self.resource(event, received.key),
            site_id=self.site(event) or PLATFORM_SITE,
            at=self.at(event) or received.appended_at,
            data=self.body(event, value),
            lane=self.lane(event),
            actor=self.actor(event),
            device_id=self.device(event),
            site_ids=self.sites(event),
            hushed=self.is_hushed(event),
            traceparent=envelope.traceparent(received),
        )


SOURCES: Mapping[str, Source] = {
    topics.CONTROL_EVENTS: _Row(
        types=types_of("command", "occurrence"), said_by="control", payload=ControlEvent, type=type_of_control,
        resource=lambda event, _: resource_of_control(event), site=lambda event: event.site_id,
        at=lambda event: event.at, lane=lane_of_control, actor=lambda event: event.actor,
    ),
    topics.PLANS: _Row(
        types=types_of("plan"), said_by="control", payload=PlanEvent, type=lambda plan: NewsType(f"plan.{plan.state}"),
        resource=lambda plan, _: f"plan/{plan.plan_id}", site=lambda _: None, at=lambda plan: plan.at,
        actor=lambda plan: plan.app or plan.created_by, sites=lambda plan: plan.site_ids or (),
        # Who is limited to some sites is not told of the others.
        body=lambda plan, _: plan.model_copy(update={"site_ids": None}).to_json(),
    ),
    topics.ALARM_EVENTS: _Row(
        types=types_of("alarm"), said_by="alarm", payload=AlarmEvent, type=type_of_alarm,
        resource=lambda alarm, _: f"alarm/{alarm.alarm_id}", site=lambda alarm: alarm.site_id,
        at=lambda alarm: alarm.raised_at or (alarm.ended_at if alarm.phase is Phase.END else None) or alarm.began_at,
        lane=lane_of_alarm, is_hushed=lambda alarm: alarm.inhibited_by is not None,
        is_told=lambda alarm: not alarm.historical,
    ),
    topics.DIAGNOSES: _Row(
        types=types_of("diagnosis"), said_by="alarm", payload=Diagnosis, type=type_of_diagnosis,
        resource=lambda found, _: f"diagnosis/{found.diagnosis_id}", site=lambda found: found.site_id,
        at=lambda found: found.at,
    ),
    topics.DEVICE_STATUS: _Row(
        types=types_of("device"), said_by="ingest", payload=DeviceStatus, type=lambda _: NewsType.DEVICE_STATUS,
        resource=lambda status, _: f"status/{status.device_id}", site=lambda status: status.site_id,
        at=lambda _: None, device=lambda status: status.device_id,
    ),
    topics.CARBON_RESULTS: _Row(
        types=types_of("carbon"), said_by="carbon", payload=CarbonResult, type=lambda _: NewsType.CARBON_RESULT,
        resource=lambda result, _: f"result/{result.node}/{result.measure}", site=lambda result: result.site_id,
        at=lambda result: result.computed_at,
    ),
    topics.REPORTS: _Row(
        types=types_of("report"), said_by="carbon", payload=FinishedReport, type=lambda _: NewsType.REPORT_FINISHED,
        resource=lambda report, _: f"report/{report.report}", site=lambda _: None, at=lambda report: report.made_at,
    ),
    topics.ATTESTATIONS: _Row(
        types=types_of("attestation"), said_by="carbon", payload=AttestationHead,
        type=lambda _: NewsType.ATTESTATION_HEAD, resource=lambda _, log: f"attestation/{log}",
        site=lambda _: None, at=lambda head: head.at,
    ),
}  # fmt: skip


def news_of(received: Received) -> News | None:
    """Return what a message tells, None when that is nothing for anybody outside.

    Raises:
        ValueError: It cannot be read; the reason says why.
    """
    if received.value is None:
        return None
    try:
        return SOURCES[received.topic].news_of(received, received.value)
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise ValueError(f"no event of {received.topic}: {exc}"[:500]) from exc


def _identity(received: Received) -> str:
    """Return the event's own id; one that cannot be a ``webhook-id``, or none, gives way to a name made of it."""
    given = envelope.event_id(received)
    if given is not None and webhooks.is_id(given):
        return given
    seed = given or f"{received.topic}/{received.partition}/{received.offset}"
    return f"evt_{hashlib.sha256(seed.encode()).hexdigest()[:32]}"
