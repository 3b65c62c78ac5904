"""Judging what arrives.

``JudgeHandler`` is the only writer of episodes and of rule alarms of its partitions; everything that a batch
changes, the events in the outbox among it, is one transaction with the positions.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from itertools import islice
from typing import Protocol

from libs.common import metrics
from libs.common.bus import outbox, topics
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmAction, AlarmEvent
from libs.common.contracts.alarm import EndReason as Reason
from libs.common.db import WriteConn
from libs.common.tracing import current_traceparent, span
from services.alarm import bus, rulerows
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain import beats, engine
from services.alarm.domain.beats import Beats
from services.alarm.domain.engine import Changes, Engine, Judged, Limits
from services.alarm.domain.model import NEVER_US, SECOND_US, AlarmStep, EndReason, Signal, StepPhase, from_us, to_us
from services.alarm.domain.occurrences import EventTable
from services.alarm.domain.rulebook import RuleBook, Target
from services.alarm.domain.shutdowns import Shutdown
from services.alarm.domain.signal_table import signal_for
from services.alarm.domain.sites import SiteLimits, Sites, Topology
from services.alarm.store import alarms as alarms_store
from services.alarm.store import maintenance as maintenance_store
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store import rulerows as rows_store
from services.alarm.store import state as state_store
from services.alarm.store import waiting as waiting_store
from services.alarm.worker import energy
from services.alarm.worker.energy import EnergyRules
from services.alarm.worker.events import DEVICE_EVENT, DeviceEvents
from services.alarm.worker.findings import Findings
from services.alarm.worker.settings_kept import SettingsKept

logger = logging.getLogger(__name__)

RULES_GROUP = "alarm.rules"
RULES_TOPICS = (
    topics.READINGS,
    topics.CONDITIONS,
    topics.CONTROL_EVENTS,
    topics.MAINTENANCE,
    topics.ALARM_ORDERS,
    topics.DEVICE_EVENTS,
    topics.INTERVALS,
)
EVENTS_AT_ONCE = 500
"""Written with one statement; in between others get their turn: some milliseconds."""

INTRODUCED_AT_ONCE = 2000
"""Devices that the engine is told to wait for with one batch; some ten milliseconds."""

REPORTS = metrics.counter("alarm_reports_total", "Reports by what became of them", ("outcome",))
POINTS = metrics.counter("alarm_evaluations_total", "Values of reports that were judged")
STEPS = metrics.counter("alarm_transitions_total", "Steps in the life of alarms", ("phase", "level"))
LATENCY = metrics.histogram(
    "alarm_transition_latency_seconds",
    "From the acceptance of the deciding report to the commit of the alarm event",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class Directory(engine.Directory, energy.Directory, Topology, Protocol):
    """What judging asks of the registry."""

    def take_changed(self) -> set[str]:
        """Return the devices that the registry said something new about; they are forgotten here."""

    def order_of(self, device_id: str) -> int:
        """Return the order number of the circuit that a device measures, from 1 on."""

    def targets(self) -> Iterable[Target]:
        """Return all devices."""

    def fed_by(self, load_id: str) -> list[str]:
        """Return the devices that have no supply while the load has none."""


class JudgeHandler:
    """Effects of readings, findings and events of control: see ``consumer.EffectHandler``."""

    def __init__(
        self,
        *,
        directory: Directory,
        clock: Clock,
        limits: Limits,
        site_limits: SiteLimits,
        heartbeats: Beats,
        partition_of: Callable[[str], int],
        class_map: Mapping[str, str],
        wake: Callable[[], None],
    ) -> None:
        """Prepare the handler.

        Args:
            directory: The registry; to be ready before the first batch.
            clock: Says when a step was decided.
            limits: What the engine tolerates.
            site_limits: What the second stage tolerates.
            heartbeats: Of ingest: until when all reports are in.
            partition_of: Says in which partition the reports of a site are.
            class_map: Station class of the registry to class of the table.
            wake: Called after a commit that published something.
        """
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._beats = heartbeats
        self._partition_of = partition_of
        self._partitions: set[int] = set()
        self._turn = 0
        self._introduced: deque[Iterator[Target | None]] = deque()
        """Devices that may never have reported and are still to be told to the engine; the newest first."""
        self._class_map = class_map
        self._wake = wake
        self._site_limits = site_limits
        self._sites = Sites(directory, site_limits)
        self._signals: dict[str, Signal] = {}
        self._engine = Engine(
            book=RuleBook({}, {}, class_map),
            directory=directory,
            sites=self._sites,
            limits=limits,
            partition_of=partition_of,
        )
        self._events = DeviceEvents(directory, class_map)
        self._energy = EnergyRules(directory, class_map)
        self._settings_kept = SettingsKept()
        self._findings = Findings(sites=self._sites, clock=clock, publish=self._publish)
        self._known: frozenset[str] = frozenset()
        """Rows over events and energy that judge."""
        self._check_known = True
        """Alarms of rows that are no more have to be looked for."""
        self._uncommitted: list[tuple[Changes, int, list[AlarmEvent]]] = []

    @property
    def engine(self) -> Engine:
        """The state in memory."""
        return self._engine

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Read rules and state of partitions."""
        await self._refresh_book(conn)
        judged = await state_store.fetch_judged(conn, partitions)
        self._engine.load(
            judged,
            await state_store.fetch_episodes(conn, partitions),
            await self._lately(conn, judged, partitions),
            await waiting_store.fetch_heard(conn, partitions),
            await waiting_store.fetch_last_values(conn, partitions),
        )
        self._beats.load(await waiting_store.fetch_pulses(conn, partitions))
        for partition, resumed_us in self._beats.resumed():
            self._engine.resume(partition, resumed_us)
        self._partitions |= partitions
        self._introduced = deque([iter(self._directory.targets())])
        self._check_known = True
        await self._energy.load(conn, partitions)
        await self._settings_kept.load(conn, partitions)
        findings = self._findings.load(await alarms_store.fetch_active_findings(conn, partitions))
        self._sites.load(
            [*self._engine.standings(partitions), *findings],
            await maintenance_store.fetch_explaining_windows(conn),
            await maintenance_store.fetch_explaining_shelves(conn),
            await state_store.fetch_shutdowns(conn, partitions),
        )

    async def _lately(
        self, conn: WriteConn, judged: Iterable[Judged], partitions: frozenset[int]
    ) -> list[tuple[str, str, int]]:
        """Return device, rule and time of the begins that may still make an alarm flap."""
        newest: dict[int, int] = {}
        for row in judged:
            newest[row.partition] = max(row.judged_us, newest.get(row.partition, NEVER_US))
        if not newest:
            return []
        since = from_us(min(newest.values()) - self._limits.flap_within_us)
        begins = await alarms_store.fetch_begins(conn, partitions, since)
        return [(device_id, rule_id, to_us(began_at)) for device_id, rule_id, began_at in begins]

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget partitions."""
        self._engine.drop(partitions)
        self._sites.drop(partitions)
        self._beats.drop(partitions)
        self._partitions -= partitions
        self._energy.drop(partitions)
        self._settings_kept.drop(partitions)
        self._uncommitted.clear()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Judge a batch.

        Raises:
            PoisonMessage: A message cannot be read.
        """
        changes = Changes()
        await self._refresh_book(conn)
        told = await self._of_unknown_rows(conn)
        changed = self._directory.take_changed()
        removed = set()
        for device_id in changed:
            self._engine.forget_device(device_id)
            if self._directory.is_removed(device_id):
                removed.add(device_id)
        self._introduce(changed)
        told += await self._of_removed(conn, removed)
        self._engine.reconsider(changes)
        by_topic: dict[str, list[Received]] = {}
        for received in batch:
            by_topic.setdefault(received.topic, []).append(received)
        await self._control(conn, by_topic.get(topics.CONTROL_EVENTS, ()))
        await self._settings_kept.ordered(conn, by_topic.get(topics.CONTROL_EVENTS, ()))
        self._maintenance(by_topic.get(topics.MAINTENANCE, ()))
        told += await self._orders(conn, by_topic.get(topics.ALARM_ORDERS, ()), changes)
        values = await self._judge(conn, by_topic.get(topics.READINGS, ()), changes)
        told += await self._findings.take(
            conn, by_topic.get(topics.CONDITIONS, ()), self._signals, self._engine.clock_us
        )
        clocks = {received.partition: self._engine.clock_us(received.partition) for received in batch}
        heard = self._events.read(by_topic.get(topics.DEVICE_EVENTS, ()), self._signals, clocks)
        heard += await self._energy.read(conn, by_topic.get(topics.INTERVALS, ()), self._signals, clocks)
        told += await self._findings.apply(conn, heard, self._signals)
        told += await self._settle(conn, sorted({received.partition for received in batch}), changes)
        await self._store_state(conn, changes)
        with span("alarm.publish", steps=len(changes.steps)) if changes.steps else nullcontext():
            told += await self._publish_steps(conn, changes.steps)
        self._uncommitted.append((changes, values, told))

    def committed(self) -> None:
        """Count, and let the relay publish at once."""
        now_us = round(self._clock.now().timestamp() * SECOND_US)
        for changes, values, events in self._uncommitted:
            REPORTS.labels("judged").inc(changes.judged_reports)
            REPORTS.labels("late").inc(changes.late_reports)
            REPORTS.labels("future").inc(changes.future_reports)
            REPORTS.labels("past").inc(changes.past_reports)
            REPORTS.labels("unknown_device").inc(changes.unknown_reports)
            POINTS.inc(values)
            for event in events:
                STEPS.labels(event.phase.value, str(int(event.level))).inc()
            for step in changes.steps:
                if step.phase is StepPhase.BEGIN or step.end_reason is EndReason.RECOVERED:
                    LATENCY.observe(max(now_us - step.received_us, 0) / SECOND_US)
            if events:
                self._wake()
        self._uncommitted.clear()

    # Rules

    async def _refresh_book(self, conn: WriteConn) -> None:
        """Take the rules over when they have changed; a batch is judged by one version of them."""
        version = await rulebook_store.fetch_book_version(conn)
        if version == self._engine.book.version and self._signals:
            return
        self._signals = await rulebook_store.fetch_signals(conn)
        self._engine.set_book(await rulebook_store.fetch_book(conn, self._class_map))
        kept = rulerows.merged(rulerows.EVENTS.shipped(), await rows_store.fetch_rows(conn, rulerows.EVENTS))
        self._events.set_table(EventTable(tuple(one.row.rule(one.place.rule_id, one.version) for one in kept)))
        rows = rulerows.merged(rulerows.ENERGY.shipped(), await rows_store.fetch_rows(conn, rulerows.ENERGY))
        self._energy.set_rules(
            [one.row.rule(one.place.rule_id, one.version, one.place.scope, one.place.scope_id) for one in rows]
        )
        ties = self._events.ties()
        self._findings.set_ties(ties)
        logger.info("rules loaded", extra={"version": self._engine.book.version})
        self._known = frozenset({*ties, *self._energy.active_ids, DEVICE_EVENT})
        self._check_known = True

    async def _of_unknown_rows(self, conn: WriteConn) -> list[AlarmEvent]:
        """Return the ends of alarms whose row over events or energy is no more."""
        if not self._check_known:
            return []
        self._check_known = False
        return await self._findings.withdraw(
            conn,
            lambda standing: (
                standing.rule_key not in self._known and not standing.rule_key.startswith(CONDITION_PREFIX)
            ),
            Reason.RULE_CHANGED,
            self._engine.clock_us,
        )

    async def _of_removed(self, conn: WriteConn, removed: Set[str]) -> list[AlarmEvent]:
        """Return the ends of what removed devices told; what the platform found about them its finders end."""
        if not removed:
            return []
        return await self._findings.withdraw(
            conn,
            lambda standing: standing.device_id in removed and not standing.rule_key.startswith(CONDITION_PREFIX),
            Reason.DEVICE_REMOVED,
            self._engine.clock_us,
        )

    # Readings

    def _introduce(self, changed: Collection[str]) -> None:
        """Tell the engine of devices to wait for, so many that they hold up nothing: those that changed first."""
        if changed:
            self._introduced.appendleft(map(self._directory.target, sorted(changed)))
        room = INTRODUCED_AT_ONCE
        while self._introduced and room > 0:
            for target in islice(self._introduced[0], room):
                self._expect(target)
                room -= 1
            if room > 0:
                self._introduced.popleft()

    def _expect(self, target: Target | None) -> None:
        """Wait for a device of a partition that is held here, if it is to report at all."""
        if target is None or target.period_s is None:
            return
        partition = self._partition_of(target.site_id)
        if partition in self._partitions:
            self._engine.expect(target.device_id, partition)

    async def _judge(self, conn: WriteConn, messages: Sequence[Received], changes: Changes) -> int:
        """Judge readings and move the clocks; return how many values there were."""
        readings = bus.read_readings(messages, max_future_us=self._limits.max_future_us)
        try:
            beats.judge(self._engine, self._beats, readings.reports, readings.beats, changes)
        except (TypeError, ValueError):
            poison = bus.find_poison(readings.messages)
            if poison is not None:
                raise poison from None
            raise
        await self._settings_kept.reported(conn, readings.reports)
        clocks = sorted(readings.clocks.items())
        # Whose delays have to wait for the next batch, when there are many, is another partition's turn each time.
        self._turn += 1
        first = self._turn % len(clocks) if clocks else 0
        for partition, clock_us in clocks[first:] + clocks[:first]:
            waited_us = self._beats.waited_us(partition, clock_us)
            self._engine.tick(partition, clock_us, changes, waited_us=waited_us)
            gone = self._beats.take_gone(partition)
            if gone:
                await waiting_store.delete_pulses(conn, gone)
        news = self._beats.take_news()
        if news:
            await waiting_store.put_pulses(conn, news)
        return sum(map(len, readings.reports.points))

    # What explains alarms, and what people order

    async def _control(self, conn: WriteConn, messages: Iterable[Received]) -> None:
        news: dict[str, Shutdown] = {}
        for received in messages:
            said = bus.read_control(received)
            if said is None:
                continue
            devices = self._directory.fed_by(said.load_id) if said.load_id is not None else []
            if not devices and said.device_id is not None:
                devices = [said.device_id]
            for device_id in devices:
                changed = self._take_note(said, device_id, received.partition)
                if changed is not None:
                    news[device_id] = changed
        await state_store.put_shutdowns(conn, news.values())
        await self._energy.note(conn, news.values())
        for device_id in news:
            target = self._directory.target(device_id)
            if target is not None:
                self._sites.touch(target.site_id)

    def _take_note(self, said: bus.SupplyNews, device_id: str, partition: int) -> Shutdown | None:
        """Return what is to be stored of a device's shutdown, None when it is no news."""
        shutdowns = self._sites.shutdowns
        if not said.off:
            return shutdowns.end(device_id, None if said.any_reference else said.reference, said.at_us)
        begun = Shutdown(device_id, partition, said.reference, said.at_us, said.planned_end_us)
        return shutdowns.of(device_id) if shutdowns.begin(begun) else None

    def _maintenance(self, messages: Iterable[Received]) -> None:
        for received in messages:
            if received.value is None:
                self._sites.remove_window(received.key or "")
            else:
                self._sites.put_window(bus.window_of(bus.read_window(received)))

    async def _orders(self, conn: WriteConn, messages: Iterable[Received], changes: Changes) -> list[AlarmEvent]:
        told: list[AlarmEvent] = []
        for received in messages:
            order = bus.read_order(received)
            if order.action is AlarmAction.SHELVE:
                self._sites.put_shelf(bus.shelf_of(order))
            elif order.action is AlarmAction.UNSHELVE:
                self._sites.remove_shelf(order.site_id, order.alarm_id)
            elif not self._engine.dismiss(order.alarm_id, changes, actor=order.actor, note=order.reason):
                told += await self._findings.dismiss(conn, order, self._engine.clock_us(received.partition))
        return told

    async def _settle(self, conn: WriteConn, partitions: Iterable[int], changes: Changes) -> list[AlarmEvent]:
        """Let the second stage say what explains what, and forget shutdowns that explain nothing any more."""
        told: list[AlarmEvent] = []
        for partition in partitions:
            clock_us = self._engine.clock_us(partition)
            for storm in self._sites.storms(partition, clock_us):
                told += await self._findings.storm(conn, storm, self._signals)
            for verdict in self._engine.settle(partition, changes):
                told += await self._findings.mark(conn, verdict)
            over = [
                device_id
                for device_id in self._sites.shutdowns.over(partition, clock_us - self._site_limits.settle_us)
                if not self._engine.is_explained(device_id, self._sites.shutdowns.of(device_id))
            ]
            if over:
                await state_store.delete_shutdowns(conn, over)
                for device_id in over:
                    self._sites.shutdowns.remove(device_id)
        return told

    # Effects

    async def _store_state(self, conn: WriteConn, changes: Changes) -> None:
        if changes.judged:
            await state_store.put_judged(conn, [self._engine.judged(slot) for slot in sorted(changes.judged)])
        if changes.heard:
            await waiting_store.put_heard(conn, [self._engine.heard(slot) for slot in sorted(changes.heard)])
        if changes.remembered:
            values = [self._engine.remembered(slot) for slot in sorted(changes.remembered)]
            await waiting_store.put_last_values(conn, values)
        if changes.episodes:
            devices = {device_id for device_id, _ in changes.episodes}
            partitions = {device_id: self._engine.partition_of(device_id) for device_id in devices}
            known = {device_id: number for device_id, number in partitions.items() if number is not None}
            await state_store.put_episodes(conn, changes.episodes, known)

    async def _publish_steps(self, conn: WriteConn, steps: Sequence[AlarmStep]) -> list[AlarmEvent]:
        events = [bus.event_of(step, self._signal_of(step), self._clock.now()) for step in steps]
        partitions = [self._engine.partition_of(step.device_id) or 0 for step in steps]
        return await self._publish(conn, events, partitions)

    def _signal_of(self, step: AlarmStep) -> Signal | None:
        signal = self._signals.get(step.signal)
        return None if signal is None else signal_for(signal, lambda: self._directory.order_of(step.device_id))

    async def _publish(
        self, conn: WriteConn, events: Sequence[AlarmEvent], partitions: Sequence[int]
    ) -> list[AlarmEvent]:
        """Write events and put them into the outbox; return those that were not there before."""
        trace = current_traceparent()
        told: list[AlarmEvent] = []
        for first in range(0, len(events), EVENTS_AT_ONCE):
            last = first + EVENTS_AT_ONCE
            news = await alarms_store.put_events(conn, events[first:last], partitions[first:last])
            await outbox.put(conn, [bus.alarm_message(event, trace) for event in news])
            told += news
        return told
