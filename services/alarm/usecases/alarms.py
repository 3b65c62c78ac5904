"""Alarms in the hands of people: look, acknowledge, note."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmAction, AlarmOrder
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import AlarmId, DeviceId, SiteId, new_id
from libs.common.tokens import Principal
from services.alarm import bus
from services.alarm.domain.signal_table import PLACE, numbered
from services.alarm.store import alarms as alarms_store
from services.alarm.store import deliveries as deliveries_store
from services.alarm.store import maintenance as maintenance_store
from services.alarm.store import standing as standing_store
from services.alarm.store.maintenance import ShelfRow
from services.alarm.store.standing import DiagnosisStanding
from services.alarm.usecases.ports import Audit, Directory, actor_of
from services.alarm.views import AlarmFilter, AlarmRow, DeliveryRow, Note


class UnknownAlarm(NotFound):
    """There is no alarm of that id, or none that the asker may see."""

    code = "unknown_alarm"
    title_zh = "告警不存在"


class AlarmIsOver(Conflict):
    """The alarm has ended already."""

    code = "alarm_is_over"
    title_zh = "告警已结束"


class InvalidShelf(InvalidInput):
    """An alarm cannot be shelved until then."""

    code = "invalid_shelf"
    title_zh = "搁置时间有误"


@dataclass(frozen=True, slots=True)
class ListedAlarm:
    """An alarm, where it stands with each centre, and where its diagnosis stands."""

    alarm: AlarmRow
    deliveries: Sequence[DeliveryRow]
    diagnosis: DiagnosisStanding


@dataclass(frozen=True, slots=True)
class AlarmDetail:
    """An alarm with its events, notes and deliveries."""

    listed: ListedAlarm
    events: Sequence[JsonObject]
    notes: Sequence[Note]


class Alarms:
    """Active alarms and their history."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        longest_shelf: timedelta,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where alarms are.
            directory: The registry.
            clock: Our clock.
            audit: Publishes who changed what.
            longest_shelf: An alarm may be shelved so long at most.
        """
        self._longest_shelf = longest_shelf
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit

    async def page(
        self, wanted: AlarmFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[ListedAlarm]:
        """Return alarms that the asker may see, the youngest first, with their deliveries and diagnoses."""
        allowed = self._directory.sites_of(who)
        if allowed is not None:
            sites = allowed if wanted.sites is None else allowed.intersection(wanted.sites)
            wanted = replace(wanted, sites=sorted(sites))
        async with self._db.read() as conn:
            alarms = await alarms_store.fetch_alarms(conn, wanted, after=after, limit=limit)
            return await _listed(conn, [self._named(alarm) for alarm in alarms])

    async def detail(self, alarm_id: str, who: Principal) -> AlarmDetail:
        """Return an alarm with everything about it.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id), alarm_id, who)
            (listed,) = await _listed(conn, [alarm])
            return AlarmDetail(
                listed,
                await alarms_store.fetch_events(conn, alarm_id),
                await alarms_store.fetch_notes(conn, alarm_id),
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

    async def assign(
        self, alarm_id: str, who: Principal, assignee: str | None, note: str | None, request_id: str | None
    ) -> AlarmDetail:
        """Say who sees to an alarm, None for nobody.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            actor, now = actor_of(who), self._clock.now()
            await alarms_store.assign(conn, alarm_id, assignee)
            if note is not None:
                await alarms_store.put_note(conn, alarm_id, Note(now, actor, note))
            event = _handled(alarm, "alarm.assign", actor, now, note, request_id)
            changed = {"before": {"assigned_to": alarm.assigned_to}, "after": {"assigned_to": assignee}}
            await self._audit(conn, event.model_copy(update=changed))
        return await self.detail(alarm_id, who)

    async def clear(self, alarm_id: str, who: Principal, reason: str, request_id: str | None) -> AlarmDetail:
        """Order that an active alarm ends; it arms again only after its condition was once false.

        The end comes with the next batch of the alarm's partition, a second later at most while ingest lives.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
            AlarmIsOver: It has ended already.
        """
        async with self._db.write() as conn:
            alarm = self._active(await alarms_store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            actor, now = actor_of(who), self._clock.now()
            await _publish(conn, _order(alarm, AlarmAction.CLEAR, actor, now, reason))
            await alarms_store.put_note(conn, alarm_id, Note(now, actor, reason))
            await self._audit(conn, _handled(alarm, "alarm.clear", actor, now, reason, request_id))
        return await self.detail(alarm_id, who)

    async def shelve(
        self, alarm_id: str, who: Principal, until: datetime, reason: str, request_id: str | None
    ) -> AlarmDetail:
        """Put an active alarm aside, and with it what the same rule raises on the device until then.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
            AlarmIsOver: It has ended already.
            InvalidShelf: The time lies in the past, or too far ahead.
        """
        now = self._clock.now()
        if not now < until <= now + self._longest_shelf:
            latest = now + self._longest_shelf
            raise InvalidShelf(
                f"until: expected a time after {now.isoformat()} and not after {latest.isoformat()},"
                f" found {until.isoformat()}",
                message_zh=f"until：应晚于 {now.isoformat()} 且不晚于 {latest.isoformat()}，实际为 {until.isoformat()}",
            )
        async with self._db.write() as conn:
            alarm = self._active(await alarms_store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            actor = actor_of(who)
            rule_key = alarm.rule_id or alarm.signal
            shelf = ShelfRow(alarm_id, alarm.site_id, alarm.device_id, rule_key, until, actor, reason, now)
            await maintenance_store.put_shelf(conn, shelf)
            await alarms_store.shelve(conn, alarm_id, until=until, actor=actor)
            await alarms_store.put_note(conn, alarm_id, Note(now, actor, reason))
            await _publish(conn, _order(alarm, AlarmAction.SHELVE, actor, now, reason, until))
            event = _handled(alarm, "alarm.shelve", actor, now, reason, request_id)
            await self._audit(conn, event.model_copy(update={"after": {"until": until.isoformat()}}))
        return await self.detail(alarm_id, who)

    async def unshelve(self, alarm_id: str, who: Principal, request_id: str | None) -> AlarmDetail:
        """Take an alarm off its shelf; one that is on none stays as it is.

        Raises:
            UnknownAlarm: There is none, or none that the asker may see.
        """
        async with self._db.write() as conn:
            alarm = self._visible(await alarms_store.fetch_alarm(conn, alarm_id, lock=True), alarm_id, who)
            if await maintenance_store.delete_shelf(conn, alarm_id):
                actor, now = actor_of(who), self._clock.now()
                await alarms_store.shelve(conn, alarm_id, until=None, actor=None)
                await _publish(conn, _order(alarm, AlarmAction.UNSHELVE, actor, now, None))
                await self._audit(conn, _handled(alarm, "alarm.unshelve", actor, now, None, request_id))
        return await self.detail(alarm_id, who)

    def _active(self, alarm: AlarmRow | None, alarm_id: str, who: Principal) -> AlarmRow:
        found = self._visible(alarm, alarm_id, who)
        if found.ended_at is not None:
            raise AlarmIsOver(
                f"alarm {alarm_id} ended at {found.ended_at.isoformat()} ({found.end_reason})",
                message_zh=f"告警 {alarm_id} 已于 {found.ended_at.isoformat()} 结束（{found.end_reason}）",
            )
        return found

    def _visible(self, alarm: AlarmRow | None, alarm_id: str, who: Principal) -> AlarmRow:
        allowed = self._directory.sites_of(who)
        if alarm is None or (allowed is not None and alarm.site_id not in allowed):
            raise UnknownAlarm(f"there is no alarm {alarm_id}", message_zh=f"告警 {alarm_id} 不存在")
        return self._named(alarm)

    def _named(self, alarm: AlarmRow) -> AlarmRow:
        """Return an alarm with the order number of its circuit in the names, where they have a place for it."""
        names = (alarm.signal_name or "", alarm.signal_name_zh or "")
        if alarm.device_id is None or not any(PLACE in name for name in names):
            return alarm
        english, chinese = (numbered(name, self._directory.order_of(alarm.device_id)) for name in names)
        return replace(alarm, signal_name=english, signal_name_zh=chinese)


async def _listed(conn: ReadConn, alarms: Sequence[AlarmRow]) -> list[ListedAlarm]:
    deliveries = await deliveries_store.fetch_deliveries(conn, [alarm.alarm_id for alarm in alarms])
    diagnoses = await standing_store.fetch_diagnosis_standings(conn, alarms)
    return [ListedAlarm(alarm, deliveries.get(alarm.alarm_id, ()), diagnoses[alarm.alarm_id]) for alarm in alarms]


async def _publish(conn: WriteConn, order: AlarmOrder) -> None:
    """Tell the process that holds the life of the alarm."""
    await outbox.put(conn, [bus.order_message(order)])


def _order(
    alarm: AlarmRow, action: AlarmAction, actor: str, at: datetime, reason: str | None, until: datetime | None = None
) -> AlarmOrder:
    return AlarmOrder(
        order_id=new_id(),
        site_id=SiteId(alarm.site_id),
        alarm_id=AlarmId(alarm.alarm_id),
        action=action,
        actor=actor,
        at=at,
        reason=reason,
        until=until,
        device_id=None if alarm.device_id is None else DeviceId(alarm.device_id),
        rule_key=alarm.rule_id or alarm.signal,
    )


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
