"""Alarms in the hands of people: look, acknowledge, note."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import Database
from libs.common.errors import NotFound
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from services.alarm.store import alarms as alarms_store
from services.alarm.store import deliveries as deliveries_store
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.views import AlarmFilter, AlarmRow, DeliveryRow, Note


class UnknownAlarm(NotFound):
    """There is no alarm of that id, or none that the asker may see."""

    code = "unknown_alarm"
    title_zh = "告警不存在"


@dataclass(frozen=True, slots=True)
class AlarmDetail:
    """An alarm with its events, notes and deliveries."""

    alarm: AlarmRow
    events: Sequence[JsonObject]
    notes: Sequence[Note]
    deliveries: Sequence[DeliveryRow]


class Alarms:
    """Active alarms and their history."""

    def __init__(self, *, db: Database, directory: Directory, clock: Clock, audit: Audit) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit

    async def page(
        self, wanted: AlarmFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[tuple[AlarmRow, Sequence[DeliveryRow]]]:
        """Return alarms that the asker may see, the youngest first, with their deliveries."""
        allowed = self._directory.sites_of(who)
        if allowed is not None:
            sites = allowed if wanted.sites is None else allowed.intersection(wanted.sites)
            wanted = replace(wanted, sites=sorted(sites))
        async with self._db.read() as conn:
            alarms = await alarms_store.fetch_alarms(conn, wanted, after=after, limit=limit)
            deliveries = await deliveries_store.fetch_deliveries(conn, [alarm.alarm_id for alarm in alarms])
        return [(alarm, deliveries.get(alarm.alarm_id, ())) for alarm in alarms]

    async def detail(self, alarm_id: str, who: Principal) -> AlarmDetail:
        """Return an alarm with everything about it.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id), alarm_id, who)
            return AlarmDetail(
                alarm,
                await alarms_store.fetch_events(conn, alarm_id),
                await alarms_store.fetch_notes(conn, alarm_id),
                (await deliveries_store.fetch_deliveries(conn, [alarm_id])).get(alarm_id, ()),
            )

    async def acknowledge(self, alarm_id: str, who: Principal, note: str | None, request_id: str | None) -> AlarmDetail:
        """Take an alarm up; doing so again adds the note only.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            actor, now = actor_of(who), self._clock.now()
            await alarms_store.acknowledge(conn, alarm_id, actor=actor, at=now)
            if note is not None:
                await alarms_store.put_note(conn, alarm_id, Note(now, actor, note))
            if alarm.acknowledged_at is None or note is not None:
                await self._audit(conn, _handled(alarm, "alarm.acknowledge", actor, now, note, request_id))
        return await self.detail(alarm_id, who)

    async def add_note(self, alarm_id: str, who: Principal, note: str, request_id: str | None) -> AlarmDetail:
        """Write something about an alarm.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id), alarm_id, who)
            actor, now = actor_of(who), self._clock.now()
            await alarms_store.put_note(conn, alarm_id, Note(now, actor, note))
            await self._audit(conn, _handled(alarm, "alarm.note", actor, now, note, request_id))
        return await self.detail(alarm_id, who)

    def _visible(self, alarm: AlarmRow | None, alarm_id: str, who: Principal) -> AlarmRow:
        allowed = self._directory.sites_of(who)
        if alarm is None or (allowed is not None and alarm.site_id not in allowed):
            raise UnknownAlarm(f"there is no alarm {alarm_id}", message_zh=f"告警 {alarm_id} 不存在")
        return alarm


def _handled(
    alarm: AlarmRow, action: str, actor: str, at: datetime, note: str | None, request_id: str | None
) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        door="api",
        action=action,
        subject=f"alarm:{alarm.alarm_id}",
        at=at,
        reason=note,
        request_id=request_id,
        site_id=SiteId(alarm.site_id),
    )
