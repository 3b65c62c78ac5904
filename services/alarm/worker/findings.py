"""Findings of the platform itself: their alarms, what explains those, and how people end them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime

from libs.common import metrics
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmEvent, AlarmOrder, Condition, ConditionKind
from libs.common.contracts.base import Phase
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.conditions import dismissal_of, events_of, key_of, marked
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain.model import Need, Signal, from_us, to_us
from services.alarm.domain.sites import Sites, Standing, Storm, StormNews, Verdict
from services.alarm.store import alarms as alarms_store
from services.alarm.store.alarms import ActiveFinding

CONDITIONS = metrics.counter("alarm_conditions_total", "Findings of the platform itself", ("phase",))
STORM = CONDITION_PREFIX + ConditionKind.ALARM_STORM.value
TAKES: Mapping[str, Need] = {CONDITION_PREFIX + ConditionKind.LINE_DOWN.value: Need.LINK}
"""Findings that explain the silence of others."""

Publish = Callable[[WriteConn, Sequence[AlarmEvent], int], Awaitable[list[AlarmEvent]]]


class Findings:
    """The alarms of findings, for the partitions that this process holds."""

    def __init__(self, *, sites: Sites, clock: Clock, publish: Publish) -> None:
        """Prepare.

        Args:
            sites: The second stage.
            clock: Says when a step was decided.
            publish: Writes events of alarms of a partition, and returns those that are news.
        """
        self._sites = sites
        self._clock = clock
        self._publish = publish

    def load(self, active: Iterable[ActiveFinding]) -> list[Standing]:
        """Return what the second stage is to know of active findings; the storms among them are known at once."""
        standings = []
        for found in active:
            event = found.event
            standings.append(_standing(event, found.partition, to_us(event.began_at), event.inhibited_by))
            if event.signal == STORM:
                self._sites.put_storm(event.site_id, Storm(event.alarm_id, to_us(event.began_at)))
        return standings

    async def take(
        self,
        conn: WriteConn,
        messages: Iterable[Received],
        signals: Mapping[str, Signal],
        clock_us: Callable[[int], int],
    ) -> list[AlarmEvent]:
        """Make alarms of findings; return the events that are news.

        Args:
            conn: The transaction.
            messages: Of the topic of findings.
            signals: The signal table.
            clock_us: The clock of each partition. [µs]

        Raises:
            PoisonMessage: A message is no finding.
        """
        told: list[AlarmEvent] = []
        for received in messages:
            condition = bus.read_condition(received)
            CONDITIONS.labels(condition.phase.value).inc()
            at = bus.condition_time(received, condition)
            now_us = max(clock_us(received.partition), to_us(at))
            told += await self._apply(conn, condition, at, received.partition, now_us, signals)
        return told

    async def storm(self, conn: WriteConn, news: StormNews, signals: Mapping[str, Signal]) -> list[AlarmEvent]:
        """Make an alarm of a storm, or end it."""
        at = from_us(news.at_us)
        told = await self._apply(conn, bus.storm_condition(news, at), at, news.partition, news.at_us, signals)
        if not news.begins:
            self._sites.put_storm(news.site_id, None)
        for event in told:
            if event.phase is Phase.BEGIN:
                self._sites.put_storm(news.site_id, Storm(event.alarm_id, news.at_us))
        return told

    async def mark(self, conn: WriteConn, verdict: Verdict) -> list[AlarmEvent]:
        """Tell that something explains a finding since then, or nothing any more."""
        standing = verdict.standing
        last = await alarms_store.fetch_last_event(conn, standing.alarm_id)
        if last is None or last.phase is Phase.END:
            return []
        event = marked(last, verdict.inhibited_by, self._clock.now())
        self._sites.change(standing.alarm_id, inhibited_by=verdict.inhibited_by)
        return await self._publish(conn, [event], standing.partition)

    async def dismiss(self, conn: WriteConn, order: AlarmOrder, clock_us: int) -> list[AlarmEvent]:
        """End a finding's alarm because a person says so; the finding makes another after its own end only."""
        standing = self._sites.find(order.alarm_id)
        last = await alarms_store.fetch_last_event(conn, order.alarm_id)
        if standing is None or last is None or last.phase is Phase.END:
            return []
        told = await self._publish(conn, [dismissal_of(last, order, self._clock.now())], standing.partition)
        await alarms_store.set_dismissed(conn, order.alarm_id, dismissed=True)
        self._sites.fall(order.alarm_id, clock_us)
        if standing.rule_key == STORM:
            self._sites.put_storm(standing.site_id, None)
        return told

    async def _apply(
        self,
        conn: WriteConn,
        condition: Condition,
        at: datetime,
        partition: int,
        now_us: int,
        signals: Mapping[str, Signal],
    ) -> list[AlarmEvent]:
        key = key_of(condition)
        last = await alarms_store.fetch_condition_alarm(conn, key)
        if last is not None and last.dismissed:
            if condition.phase is Phase.END:
                await alarms_store.set_dismissed(conn, last.alarm_id, dismissed=False)
            if condition.phase is not Phase.ONCE:
                return []
        events = events_of(condition, at, last, signals, self._clock.now())
        if events and events[0].phase is Phase.BEGIN:
            risen = self._sites.rise(_standing(events[0], partition, now_us, None))
            if risen.inhibited_by is not None:
                events = [event.model_copy(update={"inhibited_by": risen.inhibited_by}) for event in events]
        for event in events:
            if event.phase is Phase.END:
                self._sites.fall(event.alarm_id, now_us)
            elif event.phase is Phase.UPDATE:
                self._sites.change(event.alarm_id, level=int(event.level), inhibited_by=event.inhibited_by)
        told = await self._publish(conn, events, partition)
        if events and events[0].phase is Phase.BEGIN:
            await alarms_store.set_condition_key(conn, events[0].alarm_id, key)
        return told


def _standing(event: AlarmEvent, partition: int, raised_us: int, inhibited_by: str | None) -> Standing:
    return Standing(
        alarm_id=event.alarm_id,
        partition=partition,
        site_id=event.site_id,
        device_id=event.device_id,
        rule_key=event.signal,
        level=int(event.level),
        began_us=to_us(event.began_at),
        raised_us=raised_us,
        takes=TAKES.get(event.signal),
        subject=event.subject,
        inhibited_by=inhibited_by,
        finding=True,
    )
