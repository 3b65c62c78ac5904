"""Judging what arrives.

``JudgeHandler`` is the only writer of episodes and of rule alarms of its partitions; everything that a batch
changes, the events in the outbox among it, is one transaction with the positions.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

from libs.common import metrics
from libs.common.bus import outbox, topics
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmEvent
from libs.common.db import WriteConn
from libs.common.tracing import current_traceparent, span
from services.alarm import bus
from services.alarm.conditions import events_of, key_of
from services.alarm.domain import engine
from services.alarm.domain.engine import Changes, Engine, Limits
from services.alarm.domain.model import SECOND_US, AlarmStep, EndReason, Signal, StepPhase
from services.alarm.domain.rulebook import RuleBook
from services.alarm.domain.shutdowns import Shutdown, Shutdowns
from services.alarm.store import alarms as alarms_store
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store import state as state_store

logger = logging.getLogger(__name__)

logger = logging.getLogger(__name__)

RULES_GROUP = "alarm.rules"
RULES_TOPICS = (topics.READINGS, topics.CONDITIONS, topics.CONTROL_EVENTS)
EVENTS_AT_ONCE = 500
"""Written with one statement; in between others get their turn: some milliseconds."""

REPORTS = metrics.counter("alarm_reports_total", "Reports by what became of them", ("outcome",))
POINTS = metrics.counter("alarm_evaluations_total", "Values of reports that were judged")
STEPS = metrics.counter("alarm_transitions_total", "Steps in the life of alarms", ("phase", "level"))
LATENCY = metrics.histogram(
    "alarm_transition_latency_seconds",
    "From the acceptance of the deciding report to the commit of the alarm event",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
CONDITIONS = metrics.counter("alarm_conditions_total", "Findings of the platform itself", ("phase",))


class Directory(engine.Directory, Protocol):
    """What judging asks of the registry."""

    def take_changed(self) -> set[str]:
        """Return the devices that the registry said something new about; they are forgotten here."""

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
        class_map: Mapping[str, str],
        wake: Callable[[], None],
    ) -> None:
        """Prepare the handler.

        Args:
            directory: The registry; to be ready before the first batch.
            clock: Says when a step was decided.
            limits: What the engine tolerates.
            class_map: Station class of the registry to class of the table.
            wake: Called after a commit that published something.
        """
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._class_map = class_map
        self._wake = wake
        self._shutdowns = Shutdowns()
        self._signals: dict[str, Signal] = {}
        self._engine = Engine(
            book=RuleBook({}, {}, class_map), directory=directory, shutdowns=self._shutdowns, limits=limits
        )
        self._uncommitted: list[tuple[Changes, int, list[AlarmEvent]]] = []

    @property
    def engine(self) -> Engine:
        """The state in memory."""
        return self._engine

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Read rules and state of partitions."""
        await self._refresh_book(conn)
        self._shutdowns.load(await state_store.fetch_shutdowns(conn, partitions))
        self._engine.load(
            await state_store.fetch_judged(conn, partitions), await state_store.fetch_episodes(conn, partitions)
        )

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget partitions."""
        self._engine.drop(partitions)
        self._shutdowns.drop(partitions)
        self._uncommitted.clear()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Judge a batch.

        Raises:
            PoisonMessage: A message cannot be read.
        """
        changes = Changes()
        await self._refresh_book(conn)
        for device_id in self._directory.take_changed():
            self._engine.forget_device(device_id)
        self._engine.reconsider(changes)
        by_topic: dict[str, list[Received]] = {}
        for received in batch:
            by_topic.setdefault(received.topic, []).append(received)
        await self._control(conn, by_topic.get(topics.CONTROL_EVENTS, ()), changes)
        values = self._judge(by_topic.get(topics.READINGS, ()), changes)
        await self._lift(conn, {received.partition for received in batch}, changes)
        await self._store_state(conn, changes)
        with span("alarm.publish", steps=len(changes.steps)) if changes.steps else nullcontext():
            events = await self._publish(conn, [self._event(step) for step in changes.steps])
        events += await self._conditions(conn, by_topic.get(topics.CONDITIONS, ()))
        self._uncommitted.append((changes, values, events))

    def committed(self) -> None:
        """Count, and let the relay publish at once."""
        now_us = round(self._clock.now().timestamp() * SECOND_US)
        for changes, values, events in self._uncommitted:
            REPORTS.labels("judged").inc(changes.judged_reports)
            REPORTS.labels("late").inc(changes.late_reports)
            REPORTS.labels("future").inc(changes.future_reports)
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
        logger.info("rules loaded", extra={"version": self._engine.book.version})

    # Readings

    def _judge(self, messages: Sequence[Received], changes: Changes) -> int:
        """Judge readings and move the clocks; return how many values there were."""
        readings = bus.read_readings(messages, max_future_us=self._limits.max_future_us)
        try:
            self._engine.judge(readings.reports, changes)
        except (TypeError, ValueError):
            poison = bus.find_poison(readings.messages)
            if poison is not None:
                raise poison from None
            raise
        for partition, clock_us in sorted(readings.clocks.items()):
            self._engine.tick(partition, clock_us, changes)
        return sum(map(len, readings.reports.points))

    # Planned shutdowns

    async def _control(self, conn: WriteConn, messages: Iterable[Received], changes: Changes) -> None:
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
        self._engine.inhibit(sorted(news), changes)

    def _take_note(self, said: bus.SupplyNews, device_id: str, partition: int) -> Shutdown | None:
        """Return what is to be stored of a device's shutdown, None when it is no news."""
        if not said.off:
            return self._shutdowns.end(device_id, None if said.any_reference else said.reference, said.at_us)
        begun = Shutdown(device_id, partition, said.reference, said.at_us, said.planned_end_us)
        return self._shutdowns.of(device_id) if self._shutdowns.begin(begun) else None

    async def _lift(self, conn: WriteConn, partitions: Iterable[int], changes: Changes) -> None:
        over = [device_id for partition in sorted(partitions) for device_id in self._engine.lift(partition, changes)]
        if over:
            await state_store.delete_shutdowns(conn, over)
            for device_id in over:
                self._shutdowns.remove(device_id)

    # Effects

    async def _store_state(self, conn: WriteConn, changes: Changes) -> None:
        if changes.judged:
            await state_store.put_judged(conn, [self._engine.judged(slot) for slot in sorted(changes.judged)])
        if changes.episodes:
            devices = {device_id for device_id, _ in changes.episodes}
            partitions = {device_id: self._engine.partition_of(device_id) for device_id in devices}
            known = {device_id: number for device_id, number in partitions.items() if number is not None}
            await state_store.put_episodes(conn, changes.episodes, known)

    def _event(self, step: AlarmStep) -> AlarmEvent:
        return bus.event_of(step, self._signals.get(step.signal), self._clock.now())

    async def _publish(self, conn: WriteConn, events: Sequence[AlarmEvent]) -> list[AlarmEvent]:
        """Write events and put them into the outbox; return those that were not there before."""
        trace = current_traceparent()
        told: list[AlarmEvent] = []
        for first in range(0, len(events), EVENTS_AT_ONCE):
            news = await alarms_store.put_events(conn, events[first : first + EVENTS_AT_ONCE])
            await outbox.put(conn, [bus.alarm_message(event, trace) for event in news])
            told += news
        return told

    async def _conditions(self, conn: WriteConn, messages: Iterable[Received]) -> list[AlarmEvent]:
        told: list[AlarmEvent] = []
        for received in messages:
            condition = bus.read_condition(received)
            CONDITIONS.labels(condition.phase.value).inc()
            key = key_of(condition)
            last = await alarms_store.fetch_condition_alarm(conn, key)
            at = bus.condition_time(received, condition)
            events = events_of(condition, at, last, self._signals, self._clock.now())
            told += await self._publish(conn, events)
            if events and events[0].sequence == 1:
                await alarms_store.set_condition_key(conn, events[0].alarm_id, key)
        return told
