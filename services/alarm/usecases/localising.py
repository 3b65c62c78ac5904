"""A look at a device: gather, judge, and keep what was found as one diagnosis from its begin to its end."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from libs.common import metrics
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import Diagnosis
from libs.common.contracts.base import JsonObject, Phase
from libs.common.db import Database, WriteConn
from libs.common.ids import new_id
from services.alarm import bus
from services.alarm.domain.diagnosis.causes import Cause, Limits
from services.alarm.domain.diagnosis.facts import Evidence, Fact, Known
from services.alarm.domain.diagnosis.grouping import GroupLimits, Member, common_cause, group
from services.alarm.domain.diagnosis.judge import Verdict, judge
from services.alarm.domain.diagnosis.subject import Installed
from services.alarm.faultcodes import FaultCode
from services.alarm.store import diagnoses as store
from services.alarm.store.diagnoses import DiagnosisRow, Wanted
from services.alarm.store.watched import purge_marks
from services.alarm.usecases.gathering import MARKS_KEPT, Gathered, Gatherer

logger = logging.getLogger(__name__)

LOOKS = metrics.counter("alarm_diagnosis_looks_total", "Looks at devices, by what came of them", ("outcome",))
FOUND = metrics.counter("alarm_diagnoses_total", "Diagnoses begun, by cause", ("cause",))

UNSURE = frozenset({Cause.PLATFORM_UNREACHABLE.value, Cause.HEARTBEAT_TIMEOUT.value})
"""Say that the cause is not known yet, so they are looked at again soon."""
CHANGING = frozenset({Known.SILENT_FOR_S, Known.PLATFORM_AHEAD_S, Known.PLATFORM_LAST_REPORT_AT, Known.INGEST_SILENT_S})
"""Grow by themselves: that they did is no new evidence."""


class Devices(Protocol):
    """The registry in the words of fault localisation."""

    def installed(self, device_id: str) -> Installed | None:
        """Return a device, None when there is none."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """When to look again."""

    repeat: timedelta
    """At an open diagnosis whose evidence has changed, and while the cause of silence is not known."""
    recheck: timedelta
    """At an open diagnosis of which nobody said anything new: cards and platforms do not tell by themselves."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look."""

    outcome: str
    row: DiagnosisRow | None
    next_at: datetime | None


class Localiser:
    """Looks at devices and keeps their diagnoses; run by one process at a time."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        devices: Devices,
        gatherer: Gatherer,
        codes: Mapping[Cause, FaultCode],
        limits: Limits,
        groups: GroupLimits,
        pauses: Pauses,
        wake: Callable[[], None],
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where diagnoses are.
            clock: Our clock.
            devices: The registry.
            gatherer: Finds out.
            codes: Codes and texts of causes.
            limits: Where evidence begins to count.
            groups: When diagnoses are a group.
            pauses: When to look again.
            wake: Called after something was written for others.
        """
        self._db = db
        self._clock = clock
        self._devices = devices
        self._gatherer = gatherer
        self._codes = codes
        self._limits = limits
        self._groups = groups
        self._pauses = pauses
        self._wake = wake

    async def look(self, wanted: Wanted) -> Looked:
        """Look at a device once.

        Raises:
            Unavailable: Our own database is away; nothing was written.
        """
        device = self._devices.installed(wanted.device_id)
        if device is None:
            looked = await self._write(wanted, self._gone)
        else:
            gathered = await self._gatherer.gather(device, thorough=wanted.by_hand is not None)
            verdict = judge(gathered.evidence, self._limits)

            async def keep(conn: WriteConn, open_: DiagnosisRow | None) -> Looked:
                return await self._keep(conn, open_, device, gathered, verdict, wanted.by_hand)

            looked = await self._write(wanted, keep)
        LOOKS.labels(looked.outcome).inc()
        return looked

    async def put_off(self, wanted: Wanted) -> None:
        """Look at a device later, because a look at it has failed for a reason that nobody foresaw.

        Raises:
            Unavailable: Our own database is away.
        """
        async with self._db.write() as conn:
            await store.settle(conn, wanted, self._clock.now() + self._pauses.recheck)
        LOOKS.labels("failed").inc()

    async def _write(
        self, wanted: Wanted, work: Callable[[WriteConn, DiagnosisRow | None], Awaitable[Looked]]
    ) -> Looked:
        async with self._db.write() as conn:
            await store.lock_device(conn, wanted.device_id)
            looked = await work(conn, await store.fetch_open(conn, wanted.device_id))
            await store.settle(conn, wanted, looked.next_at)
            await purge_marks(conn, wanted.device_id, before=self._clock.now() - MARKS_KEPT)
        self._wake()
        return looked

    async def _gone(self, conn: WriteConn, open_: DiagnosisRow | None) -> Looked:
        if open_ is None:
            return Looked("unknown_device", None, None)
        return await self._end(conn, open_, self._clock.now())

    async def _keep(
        self,
        conn: WriteConn,
        open_: DiagnosisRow | None,
        device: Installed,
        gathered: Gathered,
        verdict: Verdict,
        by_hand: str | None,
    ) -> Looked:
        now = self._clock.now()
        silent = gathered.evidence.get(Known.SILENT)
        is_silent = silent is not None and silent.value is True
        if verdict.explained_by is not None:
            return Looked("explained", open_, now + self._pauses.repeat if is_silent or open_ else None)
        if verdict.cause is None:
            if open_ is not None and not is_silent:
                return await self._end(conn, open_, now, again=gathered.findings)
            again = is_silent or gathered.findings
            return Looked("nothing_found", open_, now + self._pauses.repeat if again else None)
        row = self._row(device, gathered.evidence, verdict.cause, verdict, now, by_hand)
        if open_ is None:
            return await self._begin(conn, row, device)
        return await self._change(conn, open_, row)

    async def _begin(self, conn: WriteConn, row: DiagnosisRow, device: Installed) -> Looked:
        await store.lock_cause(conn, row.common_cause)
        others = await store.fetch_members(conn, row.common_cause, since=row.began_at - self._groups.within)
        grouped = group(Member(row.diagnosis_id, row.began_at, None), others, self._groups)
        row = replace(row, group_id=grouped.joins, told=grouped.joins is None or bool(grouped.formed_by))
        await store.put_diagnosis(conn, row)
        FOUND.labels(row.cause).inc()
        if grouped.joins is not None and grouped.formed_by:
            await store.set_group(conn, grouped.formed_by, grouped.joins)
        if row.told:
            await self._tell(conn, row, Phase.BEGIN)
        logger.info(
            "fault localised",
            extra={"device_id": device.device_id, "cause": row.cause, "group_id": row.group_id},
        )
        return Looked("begun", row, self._next(row))

    async def _change(self, conn: WriteConn, open_: DiagnosisRow, row: DiagnosisRow) -> Looked:
        same = (
            open_.cause == row.cause
            and list(open_.also_possible) == list(row.also_possible)
            and _essence(open_.evidence) == _essence(row.evidence)
        )
        next_at = self._next(row)
        if same:
            kept = replace(open_, looked_at=row.looked_at, unreachable=row.unreachable)
            await store.put_diagnosis(conn, kept)
            return Looked("confirmed", kept, next_at)
        changed = replace(
            row,
            diagnosis_id=open_.diagnosis_id,
            began_at=open_.began_at,
            sequence=open_.sequence + 1,
            alarm_id=open_.alarm_id,
            asked_by=open_.asked_by,
            # Whoever has another cause now is not part of the group any more, and others are told of it.
            group_id=open_.group_id if open_.common_cause == row.common_cause else None,
            told=open_.told or open_.common_cause != row.common_cause,
        )
        await store.put_diagnosis(conn, changed)
        if changed.told:
            await self._tell(conn, changed, Phase.UPDATE if open_.told else Phase.BEGIN)
        return Looked("changed", changed, next_at)

    def _next(self, row: DiagnosisRow) -> datetime:
        return row.looked_at + (self._pauses.repeat if row.cause in UNSURE else self._pauses.recheck)

    async def _end(self, conn: WriteConn, open_: DiagnosisRow, now: datetime, *, again: bool = False) -> Looked:
        ended = replace(open_, ended_at=now, changed_at=now, looked_at=now, sequence=open_.sequence + 1)
        await store.put_diagnosis(conn, ended)
        if ended.told:
            await self._tell(conn, ended, Phase.END)
        return Looked("ended", ended, now + self._pauses.repeat if again else None)

    def _row(
        self,
        device: Installed,
        evidence: Evidence,
        cause: Cause,
        verdict: Verdict,
        now: datetime,
        by_hand: str | None,
    ) -> DiagnosisRow:
        first = {fact.name for fact in verdict.rests_on}
        facts = [*verdict.rests_on, *(fact for name, fact in evidence.facts.items() if name not in first)]
        return DiagnosisRow(
            diagnosis_id=new_id(),
            device_id=device.device_id,
            site_id=device.place.site_id,
            cause=cause.value,
            common_cause=common_cause(cause, device.place),
            confidence="" if verdict.certainty is None else verdict.certainty.value,
            evidence=[_plain(fact, rests=fact.name in first) for fact in facts],
            unreachable=[
                {"source": one.source.value, "at": one.at.isoformat(), "reason": one.reason}
                for one in evidence.unreachable.values()
            ],
            also_possible=[cause.value for cause in verdict.also_possible],
            card=asdict(device.card_face),
            began_at=now,
            changed_at=now,
            looked_at=now,
            ended_at=None,
            sequence=1,
            alarm_id=None,
            group_id=None,
            told=True,
            asked_by=by_hand,
        )

    async def _tell(self, conn: WriteConn, row: DiagnosisRow, phase: Phase) -> None:
        await outbox.put(
            conn, [bus.diagnosis_message(contract_of(row, self._codes, phase), row.sequence, row.changed_at)]
        )


def contract_of(row: DiagnosisRow, codes: Mapping[Cause, FaultCode], phase: Phase) -> Diagnosis:
    """Return a diagnosis as others are told of it."""
    code = codes[Cause(row.cause)]
    return Diagnosis.model_validate(
        {
            "diagnosis_id": row.diagnosis_id,
            "site_id": row.site_id,
            "device_id": row.device_id,
            "code": code.code,
            "cause": row.cause,
            "evidence": [{key: item[key] for key in ("name", "value", "at", "source")} for item in row.evidence],
            "advice_zh": code.advice_zh,
            "advice_en": code.advice_en,
            "phase": phase,
            "at": row.changed_at,
            "confidence": row.confidence,
            "also_possible": tuple(row.also_possible) or None,
            "alarm_id": row.alarm_id,
            "group_id": row.group_id,
        }
    )


def _plain(fact: Fact, *, rests: bool) -> JsonObject:
    return {
        "name": fact.name.value,
        "value": fact.value,
        "at": fact.at.isoformat(),
        "source": fact.source,
        "decisive": rests,
    }


def _essence(evidence: Sequence[JsonObject]) -> list[tuple[str, str]]:
    """Return what of the evidence is news when it changes: not its times, nor what grows by itself."""
    return sorted(
        (str(item["name"]), str(item["value"])) for item in evidence if item["name"] not in {k.value for k in CHANGING}
    )
