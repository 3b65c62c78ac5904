"""Payload to domain and back: registers and samples from readings, switchings from events, intervals onto a topic."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import orjson
from pydantic import ValidationError

from libs.common.bus import envelope, outbox, topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Message, Received
from libs.common.contracts.alarm import Condition, ConditionKind
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Phase
from libs.common.contracts.carbon import CarbonResult, FinishedReport
from libs.common.contracts.carbon import ReportFile as ToldFile
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Quality
from libs.common.db import WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.booking import ENERGY_POINT, POWER_POINT, BookedInterval, RegisterReading
from services.carbon.domain.media import MEDIA, MediumPoint, consumed
from services.carbon.domain.registers import Finding, FindingKind
from services.carbon.domain.samples import POINTS as SAMPLED
from services.carbon.domain.samples import REGISTERS as SAMPLED_REGISTERS
from services.carbon.domain.samples import Sample
from services.carbon.domain.savings.shutdowns.executed import Switching
from services.carbon.store.reports import Edition, ReportFile

_HEARTBEAT = HEARTBEAT_TYPE.encode()
_MEDIA = frozenset(MEDIA)
_SAMPLED = frozenset(SAMPLED)
_CONDITIONS = {
    FindingKind.UNEXPLAINED_DECREASE: ConditionKind.REGISTER_DECREASED,
    FindingKind.IMPOSSIBLE_JUMP: ConditionKind.IMPOSSIBLE_JUMP,
}
_MANUAL = Quality.MANUAL.value
_BAD = frozenset(quality.value for quality in Quality if quality.is_bad)


def reports(batch: Iterable[Received]) -> tuple[list[RegisterReading], list[Sample]]:
    """Return the registers in a batch, and what else meters say of their supply; heartbeats say nothing.

    A report without a register of energy may say the power of a meter that has none.
    The hot path reads the JSON directly: a full model costs three times as much and checks what ingest
    has already checked.

    Raises:
        PoisonMessage: A message is no reading.
    """
    found: list[RegisterReading] = []
    samples: list[Sample] = []
    for received in batch:
        if received.header("ce_type") == _HEARTBEAT or received.value is None:
            continue
        try:
            body = orjson.loads(received.value)
            points = body["points"]
            qualities = body.get("quality") or {}
            said = []
            if not _SAMPLED.isdisjoint(points):
                said = [each for each in SAMPLED if points.get(each) is not None and qualities.get(each) not in _BAD]
            point = ENERGY_POINT if ENERGY_POINT in points else POWER_POINT
            shown = points.get(point)
            quality = qualities.get(point)
            counts = shown is not None and quality not in _BAD
            media = [] if _MEDIA.isdisjoint(points) else consumed(points)
            if not counts and not said and not media:
                continue
            device = DeviceId(body["device_id"])
            at = datetime.fromisoformat(body["source_time"])
            ratio = float(body.get("energy_ratio") or 1.0)
            if counts:
                found.append(
                    RegisterReading(
                        device_id=device,
                        point=point,
                        source_time=at,
                        received_at=datetime.fromisoformat(body["received_at"]),
                        shown=float(shown),
                        ratio=ratio if point is ENERGY_POINT else 1.0,
                        uncertain=quality is not None,
                        manual=quality == _MANUAL,
                    )
                )
            found += [
                RegisterReading(
                    device_id=device,
                    point=one.point,
                    source_time=at,
                    received_at=datetime.fromisoformat(body["received_at"]),
                    shown=float(points[one.point]),
                    ratio=1.0,  # transformers are of electricity
                    uncertain=one.point in qualities,
                    manual=qualities.get(one.point) == _MANUAL,
                )
                for one in media
                if points[one.point] is not None and qualities.get(one.point) not in _BAD
            ]
            samples += [
                Sample(device, point, at, float(points[point]), ratio if point in SAMPLED_REGISTERS else 1.0)
                for point in said
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise PoisonMessage(received, f"not a reading: {exc}") from exc
    return found, samples


def switchings(batch: Iterable[Received]) -> list[tuple[SiteId, Switching]]:
    """Return the switchings that a batch of control's events proves.

    Raises:
        PoisonMessage: A message is no event of control.
    """
    found = []
    for received in batch:
        try:
            event = ControlEvent.from_json(received.value or b"null")
        except (ValidationError, orjson.JSONDecodeError) as exc:
            raise PoisonMessage(received, f"not an event of control: {str(exc)[:500]}") from exc
        switching = switching_of(event)
        if switching is not None:
            found.append((event.site_id, switching))
    return found


def switching_of(event: ControlEvent) -> Switching | None:
    """Return the switching that an event proves, or None: most events are steps on the way to one.

    An occurrence that was shut down says since when its load has been off, one that is awake says that it is on. A
    command proves the same by itself, which is how switching by hand and emergency wake-ups are known.
    """
    if event.load_id is None:
        return None
    off: bool
    if event.state is OccurrenceState.SHUT_DOWN:
        off = True
    elif event.state is OccurrenceState.AWAKE:
        off = False
    elif event.action is CommandAction.OPEN and event.command_id is not None and event.off_at is not None:
        off = True
    elif event.action is CommandAction.CLOSE and event.state is CommandState.SUCCEEDED:
        off = False
    else:
        return None
    return Switching(
        load_id=event.load_id,
        at=(event.off_at or event.at) if off else event.at,
        off=off,
        occurrence_id=event.occurrence_id,
        plan_id=event.plan_id,
    )


def interval_messages(booked: Sequence[BookedInterval], medium: MediumPoint | None = None) -> list[Message]:
    """Return the messages that publish intervals; an interval's version has one event id for ever.

    The JSON is written as the contract's ``Interval`` would write it: late data change thousands at once, and a
    model of each would cost more than everything else.

    Args:
        booked: Versions of intervals.
        medium: Of what they are; None for electricity.
    """
    of = "" if medium is None else f"{medium.point}/"
    found = []
    told_at: datetime | None = None
    for one in booked:
        if one.computed_at != told_at:
            told_at = one.computed_at
            first, _, *rest = envelope.headers(
                event_type=topics.INTERVALS, source="carbon", event_id="", time=one.computed_at
            )
        event_id = f"{one.circuit_id}/{of}{one.start.isoformat()}/{one.version}"
        found.append(
            Message(
                topic=topics.INTERVALS,
                key=one.site_id,
                value=orjson.dumps(_interval(one, medium), option=orjson.OPT_UTC_Z),
                headers=(first, ("ce_id", event_id.encode()), *rest),
            )
        )
    return found


def _interval(one: BookedInterval, medium: MediumPoint | None) -> dict[str, object]:
    """Return the fields of an interval in the order of the contract; what is absent is left out."""
    fields: dict[str, object] = {
        "circuit_id": one.circuit_id,
        "site_id": one.site_id,
        "start": one.start,
        "end": one.start + timedelta(seconds=one.step_s),
        "interval_flag": one.grade.flag,
        "version": one.version,
    }
    if medium is None:
        if one.energy_kwh is not None:
            fields["energy_kwh"] = one.energy_kwh
    else:
        fields["medium"] = medium.medium.value
        if one.energy_kwh is not None:
            fields["quantity"] = one.energy_kwh
        fields["unit"] = medium.unit
    if one.lower_bound:
        fields["lower_bound"] = True
    return fields


def finding_messages(
    site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime, medium: MediumPoint | None = None
) -> list[Message]:
    """Return the conditions that ask a person to look at a register."""
    unit = "kWh" if medium is None else medium.unit
    of = "" if medium is None else f"{medium.point}/"
    return [
        envelope.message(
            topics.CONDITIONS,
            site,
            Condition(
                source="carbon",
                kind=_CONDITIONS[one.kind],
                subject=circuit,
                site_id=site,
                circuit_id=circuit,
                phase=Phase.ONCE,
                at=now,
                detail=f"register {one.previous_kwh:g} {unit}, then {one.shown_kwh:g} {unit}",
                detail_zh=f"表底由 {one.previous_kwh:g} {unit} 变为 {one.shown_kwh:g} {unit}",
            ),
            source="carbon",
            time=now,
            event_id=f"{circuit}/{of}{one.kind.value}/{one.at:.3f}",
        )
        for one in findings
    ]


async def audit(conn: WriteConn, event: AuditEvent) -> None:
    """Publish who changed what, in the transaction that changes it."""
    await outbox.put(conn, [envelope.message(topics.AUDIT, event.actor, event, source="carbon", time=event.at)])


async def finished_report(conn: WriteConn, one: Edition, files: Sequence[ReportFile], name: str) -> None:
    """Publish that a report was made, in the transaction that files it; export tells who wants to know."""
    path = f"/api/v1/reports/{one.definition_id}/{one.edition}/versions/{one.version}"
    payload = FinishedReport(
        report=one.statement_id,
        version=one.version,
        kind=one.kind.value,
        name=name,
        start=one.start,
        end=one.end,
        digest=one.digest,
        made_at=one.made_at,
        path=path,
        files=tuple(
            ToldFile(format=each.format.value, language=each.language.value, digest=each.digest, size=len(each.body))
            for each in files
        ),
        completeness=one.completeness,
    )
    event_id = f"report/{one.statement_id}/{one.version}"
    message = envelope.message(
        topics.REPORTS, one.statement_id, payload, source="carbon", time=one.made_at, event_id=event_id
    )
    await outbox.put(conn, [message])


async def result(conn: WriteConn, one: CarbonResult, event_id: str, at: datetime) -> None:
    """Publish a figure of a node, in the transaction that remembers it; alarm looks whether a target is exceeded."""
    message = envelope.message(topics.CARBON_RESULTS, one.node, one, source="carbon", time=at, event_id=event_id)
    await outbox.put(conn, [message])
