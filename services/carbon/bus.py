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
from services.carbon.domain.booking import ENERGY_POINT, INTERVAL_POINT, POWER_POINT, BookedInterval, RegisterReading
from services.carbon.domain.intervals import Grade
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
    FindingKind.SUM_DIFFERS: ConditionKind.INTERVAL_SUM_DIFFERS,
}
_DETAIL, _DETAIL_ZH = "register {0:g} {2}, then {1:g} {2}", "表底由 {0:g} {2} 变为 {1:g} {2}"
_DETAILS = {FindingKind.SUM_DIFFERS: "the register counted {0:g} {2} on that day, the meter's intervals are {1:g} {2}"}
_DETAILS_ZH = {FindingKind.SUM_DIFFERS: "当日表底电量为 {0:g} {2},电表上送的时段电量合计为 {1:g} {2}"}
_FLAGS = tuple(grade.flag for grade in Grade)
_MANUAL = Quality.MANUAL.value
_BAD = frozenset(quality.value for quality in Quality if quality.is_bad)


def reports(batch: Iterable[Received]) -> tuple[list[RegisterReading], list[Sample]]:
    """Return the registers in a batch, and what else meters say of their supply; heartbeats say nothing.

    A report without a register of energy may say the power of a meter that has none, and any report what was used
    within an interval of the meter's own.
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
            told = points.get(INTERVAL_POINT)
            if told is not None and qualities.get(INTERVAL_POINT) in _BAD:
                told = None
            if not counts and not said and not media and told is None:
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
            if told is not None:
                found.append(
                    RegisterReading(
                        device_id=device,
                        point=INTERVAL_POINT,
                        source_time=at,
                        received_at=datetime.fromisoformat(body["received_at"]),
                        shown=float(told),
                        ratio=ratio,
                        uncertain=INTERVAL_POINT in qualities,
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

    The JSON is written as the contract's ``Interval`` would write it, field by field: late data change thousands at
    once, and a model of each would cost more than everything else.

    Args:
        booked: Versions of intervals.
        medium: Of what they are; None for electricity.
    """
    of, quantity, before, after = "", "energy_kwh", "", ""
    if medium is not None:
        of, quantity = f"{medium.point}/", "quantity"
        before, after = f',"medium":{_json(medium.medium.value)}', f',"unit":{_json(medium.unit)}'
    heads: dict[tuple[CircuitId, SiteId], str] = {}
    starts = [one.start.isoformat() for one in booked]
    shown = [_zulu(at) for at in starts]
    found = []
    told_at: datetime | None = None
    step_s, step = 0, timedelta()
    last = len(booked) - 1
    for place, one in enumerate(booked):
        if one.computed_at is not told_at:
            told_at = one.computed_at
            first, _, *rest = envelope.headers(
                event_type=topics.INTERVALS, source="carbon", event_id="", time=one.computed_at
            )
        if one.step_s != step_s:
            step_s, step = one.step_s, timedelta(seconds=one.step_s)
        key = one.circuit_id, one.site_id
        head = heads.get(key)
        if head is None:
            head = heads[key] = f'{{"circuit_id":{_json(one.circuit_id)},"site_id":{_json(one.site_id)},"start":"'
        end = one.start + step
        ends = shown[place + 1] if place < last and booked[place + 1].start == end else _zulu(end.isoformat())
        energy = "" if one.energy_kwh is None else f',"{quantity}":{_json(one.energy_kwh)}'
        lower = ',"lower_bound":true' if one.lower_bound else ""
        value = (
            f'{head}{shown[place]}","end":"{ends}","interval_flag":"{_FLAGS[one.grade]}","version":{one.version}'
            f"{before}{energy}{after}{lower}}}"
        )
        found.append(
            Message(
                topic=topics.INTERVALS,
                key=one.site_id,
                value=value.encode(),
                headers=(first, ("ce_id", f"{one.circuit_id}/{of}{starts[place]}/{one.version}".encode()), *rest),
            )
        )
    return found


def _json(value: str | float) -> str:
    return orjson.dumps(value).decode()


def _zulu(at: str) -> str:
    """Return a time as the contracts write it."""
    return f"{at[:-6]}Z" if at.endswith("+00:00") else at


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
                detail=_DETAILS.get(one.kind, _DETAIL).format(one.previous_kwh, one.shown_kwh, unit),
                detail_zh=_DETAILS_ZH.get(one.kind, _DETAIL_ZH).format(one.previous_kwh, one.shown_kwh, unit),
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
