"""What others have judged (the platform, devices, rules over energy): its alarms, what explains those, and how people
end them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from libs.common import metrics
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmEvent, AlarmOrder, ConditionKind, EndReason
from libs.common.contracts.base import Phase
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.conditions import (
    Finding,
    alarm_after,
    dismissal_of,
    events_of,
    finding_of,
    marked,
    withdrawal_of,
)
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain.model import Need, Signal, from_us, to_us
from services.alarm.domain.sites import Sites, Standing, Storm, StormNews, Verdict
from services.alarm.store import alarms as alarms_store
from services.alarm.store.alarms import ActiveFinding

CONDITIONS = metrics.counter("alarm_conditions_total", "Findings of the platform itself", ("phase",))
STORM = CONDITION_PREFIX + ConditionKind.ALARM_STORM.value


@dataclass(frozen=True, slots=True)
class Ties:
    """How the alarms of a finding hang together with others at the site."""

    needs: frozenset[Need] = frozenset()
    takes: Need | None = None


PLATFORM: Mapping[str, Ties] = {CONDITION_PREFIX + ConditionKind.LINE_DOWN.value: Ties(takes=Need.LINK)}
"""Findings that explain the silence of others."""

Publish = Callable[[WriteConn, Sequence[AlarmEvent], Sequence[int]], Awaitable[list[AlarmEvent]]]


@dataclass(frozen=True, slots=True)
class Heard:
    """A finding, and where and when it was heard of."""

    finding: Finding
    partition: int
    now_us: int
    """On the partition's clock. [µs]"""


class Findings:
    """The alarms of findings, for the partitions that this process holds."""

    def __init__(self, *, sites: Sites, clock: Clock, publish: Publish) -> None:
        """Prepare.

        Args:
            sites: The second stage.
            clock: Says when a step was decided.
            publish: Writes events of alarms, each with its partition, and returns those that are news.
        """
        self._sites = sites
        self._clock = clock
        self._publish = publish
        self._ties: Mapping[str, Ties] = PLATFORM

    def set_ties(self, ties: Mapping[str, Ties]) -> None:
        """Say how alarms of rows of a table, by the row's id, hang together with others."""
        self._ties = {**PLATFORM, **ties}

    def load(self, active: Iterable[ActiveFinding]) -> list[Standing]:
        """Return what the second stage is to know of active findings; the storms among them are known at once."""
        standings = []
        for found in active:
            event = found.event
            standings.append(self._standing(event, found.partition, to_us(event.began_at), event.inhibited_by))
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
        heard = []
        for received in messages:
            condition = bus.read_condition(received)
            CONDITIONS.labels(condition.phase.value).inc()
            at = bus.condition_time(received, condition)
            now_us = max(clock_us(received.partition), to_us(at))
            heard.append(Heard(finding_of(condition, at, signals), received.partition, now_us))
        return await self.apply(conn, heard, signals)

    async def storm(self, conn: WriteConn, news: StormNews, signals: Mapping[str, Signal]) -> list[AlarmEvent]:
        """Make an alarm of a storm, or end it."""
        at = from_us(news.at_us)
        finding = finding_of(bus.storm_condition(news, at), at, signals)
        told = await self.apply(conn, [Heard(finding, news.partition, news.at_us)], signals)
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
        return await self._publish(conn, [event], [standing.partition])

    async def dismiss(self, conn: WriteConn, order: AlarmOrder, clock_us: int) -> list[AlarmEvent]:
        """End a finding's alarm because a person says so; the finding makes another after its own end only."""
        standing = self._sites.find(order.alarm_id)
        last = await alarms_store.fetch_last_event(conn, order.alarm_id)
        if standing is None or last is None or last.phase is Phase.END:
            return []
        told = await self._publish(conn, [dismissal_of(last, order, self._clock.now())], [standing.partition])
        await alarms_store.set_dismissed(conn, order.alarm_id, dismissed=True)
        self._sites.fall(order.alarm_id, clock_us)
        if standing.rule_key == STORM:
            self._sites.put_storm(standing.site_id, None)
        return told

    async def withdraw(
        self,
        conn: WriteConn,
        gone: Callable[[Standing], bool],
        reason: EndReason,
        clock_us: Callable[[int], int],
    ) -> list[AlarmEvent]:
        """End the alarms of findings that nobody will end any more: their device or their row of a table is gone."""
        told: list[AlarmEvent] = []
        for standing in [one for one in self._sites.findings() if gone(one)]:
            last = await alarms_store.fetch_last_event(conn, standing.alarm_id)
            if last is None or last.phase is Phase.END:
                continue
            now_us = max(clock_us(standing.partition), to_us(last.began_at))
            event = withdrawal_of(last, reason, from_us(now_us), self._clock.now())
            told += await self._publish(conn, [event], [standing.partition])
            self._sites.fall(standing.alarm_id, now_us)
        return told

    async def apply(self, conn: WriteConn, heard: Sequence[Heard], signals: Mapping[str, Signal]) -> list[AlarmEvent]:
        """Make alarms of findings, in their order; return the events that are news."""
        if not heard:
            return []
        lasts = await alarms_store.fetch_condition_alarms(conn, {one.finding.key for one in heard})
        events: list[AlarmEvent] = []
        partitions: list[int] = []
        keys: dict[str, str] = {}
        for one in heard:
            finding, last = one.finding, lasts.get(one.finding.key)
            if last is not None and last.dismissed:
                if finding.phase is Phase.END:
                    await alarms_store.set_dismissed(conn, last.alarm_id, dismissed=False)
                    lasts[finding.key] = replace(last, dismissed=False)
                if finding.phase is not Phase.ONCE:
                    continue
            steps = self._explained(events_of(finding, last, signals, self._clock.now()), one)
            for event in steps:
                if event.phase is Phase.BEGIN:
                    keys[event.alarm_id] = finding.key
                elif event.phase is Phase.END:
                    self._sites.fall(event.alarm_id, one.now_us)
                else:
                    self._sites.change(event.alarm_id, level=int(event.level), inhibited_by=event.inhibited_by)
                lasts[finding.key] = alarm_after(event)
            events += steps
            partitions += [one.partition] * len(steps)
        told = await self._publish(conn, events, partitions)
        await alarms_store.set_condition_keys(conn, keys)
        return told

    def _explained(self, steps: list[AlarmEvent], one: Heard) -> list[AlarmEvent]:
        """Return the steps of a finding; those of a new alarm with what explains it."""
        if not steps or steps[0].phase is not Phase.BEGIN:
            return steps
        risen = self._sites.rise(self._standing(steps[0], one.partition, one.now_us, None))
        if risen.inhibited_by is None:
            return steps
        return [event.model_copy(update={"inhibited_by": risen.inhibited_by}) for event in steps]

    def _standing(self, event: AlarmEvent, partition: int, raised_us: int, inhibited_by: str | None) -> Standing:
        rule_key = event.rule_id or event.signal
        ties = self._ties.get(rule_key, Ties())
        return Standing(
            alarm_id=event.alarm_id,
            partition=partition,
            site_id=event.site_id,
            device_id=event.device_id,
            rule_key=rule_key,
            level=int(event.level),
            began_us=to_us(event.began_at),
            raised_us=raised_us,
            needs=ties.needs,
            takes=ties.takes,
            subject=event.subject,
            inhibited_by=inhibited_by,
            finding=True,
        )
