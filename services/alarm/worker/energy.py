"""Intervals of circuits, held against the rules over energy, become findings."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from libs.common import metrics
from libs.common.bus.port import Received
from libs.common.contracts.base import Phase
from libs.common.contracts.carbon import Direction, Interval, IntervalFlag, Medium
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.conditions import DEFAULT_LEVEL, Finding
from services.alarm.domain.energy import (
    UNITS,
    Check,
    CircuitFacts,
    EnergyRule,
    Memory,
    OffTime,
    OffTimes,
    Ruling,
    Used,
    chosen,
    judge,
)
from services.alarm.domain.model import SECOND_US, Signal, from_us, to_us
from services.alarm.domain.rulebook import dictionary_class
from services.alarm.domain.shutdowns import Shutdown
from services.alarm.store import energy as energy_store
from services.alarm.worker.findings import Heard

LATE_AFTER = timedelta(hours=36)
"""A meter that tells a day at a time is judged, and what comes later alarms nobody."""
OFF_KEPT_US = round((LATE_AFTER + timedelta(hours=12)).total_seconds()) * SECOND_US
"""How long it is remembered that something was switched off: as long as its intervals may still come. [µs]"""
FORGET_EVERY_US = 3600 * SECOND_US

INTERVALS = metrics.counter("alarm_intervals_total", "Intervals by what became of them", ("outcome",))


class Directory(Protocol):
    """What is asked about circuits."""

    def circuit(self, circuit_id: str) -> CircuitFacts | None:
        """Return what energy rules need to know of a circuit, None when there is no such circuit."""


class EnergyRules:
    """Judges intervals; keeps the rules, and when control has switched what off."""

    def __init__(self, directory: Directory, class_map: Mapping[str, str]) -> None:
        """Start without rules.

        Args:
            directory: The registry.
            class_map: Station class of the registry to class of the signal table.
        """
        self._directory = directory
        self._class_map = class_map
        self._rules: tuple[EnergyRule, ...] = ()
        self._off = OffTimes()
        self._forgotten_us = 0

    @property
    def active_ids(self) -> frozenset[str]:
        """Rules of which at least one row judges."""
        return frozenset(rule.rule_id for rule in self._rules if rule.active)

    def set_rules(self, rules: Sequence[EnergyRule]) -> None:
        """Judge by these from now on."""
        self._rules = tuple(rules)

    async def load(self, conn: WriteConn, partitions: Collection[int]) -> None:
        """Read when control has switched what off."""
        for off in await energy_store.fetch_off_times(conn, partitions):
            self._off.note(off)

    def drop(self, partitions: Collection[int]) -> None:
        """Forget partitions."""
        self._off.drop(partitions)

    async def note(self, conn: WriteConn, shutdowns: Iterable[Shutdown]) -> None:
        """Take note of what control has switched off, or on again."""
        times = [
            OffTime(one.device_id, one.partition, one.since_us, one.planned_end_us, one.until_us) for one in shutdowns
        ]
        for off in times:
            self._off.note(off)
        await energy_store.put_off_times(conn, times)

    async def read(
        self,
        conn: WriteConn,
        messages: Sequence[Received],
        signals: Mapping[str, Signal],
        clock_us: Mapping[int, int],
    ) -> list[Heard]:
        """Return what a batch of intervals says, and write what the rules remember of it.

        Args:
            conn: The transaction.
            messages: Of the topic of intervals.
            signals: The signal table.
            clock_us: Partition to its clock; one that is not in it has none yet. [µs]

        Raises:
            PoisonMessage: A message is no interval.
        """
        work = [one for received in messages for one in self._work(received)]
        if not work:
            return []
        memories = await energy_store.fetch_memory(
            conn, {(rule.rule_id, circuit.circuit_id) for _, rule, circuit, _ in work}
        )
        changed: dict[tuple[str, str], tuple[int, Memory]] = {}
        heard: list[Heard] = []
        for received, rule, circuit, used in work:
            key = (rule.rule_id, circuit.circuit_id)
            before = memories.get(key, Memory())
            memory, ruling = judge(rule, circuit, before, used, self._off.of(circuit.meters))
            if memory != before:
                memories[key] = memory
                changed[key] = (received.partition, memory)
            if ruling is not None:
                finding = self._finding(rule, circuit, ruling, signals)
                now_us = max(clock_us.get(received.partition, 0), to_us(finding.at))
                heard.append(Heard(finding, received.partition, now_us))
        await energy_store.put_memory(conn, changed)
        await self._forget(conn, {received.partition for received in messages}, to_us(messages[-1].appended_at))
        return heard

    def _work(self, received: Received) -> Iterable[tuple[Received, EnergyRule, CircuitFacts, Used]]:
        """Yield the interval with each rule and circuit that it concerns: its own, and the one above for a balance."""
        interval = bus.read_interval(received)
        circuit = self._directory.circuit(interval.circuit_id)
        outcome = _outcome(interval, circuit, received.appended_at)
        INTERVALS.labels(outcome).inc()
        if outcome != "judged" or circuit is None:
            return
        used = _used(interval)
        for rule in chosen(self._rules, circuit):
            if rule.active:
                yield received, rule, circuit, used
        above = None if circuit.parent is None else self._directory.circuit(circuit.parent)
        if above is not None and above.site_id == circuit.site_id:
            for rule in chosen(self._rules, above):
                if rule.active and rule.check is Check.BALANCE:
                    yield received, rule, above, used

    async def _forget(self, conn: WriteConn, partitions: Collection[int], now_us: int) -> None:
        if now_us < self._forgotten_us + FORGET_EVERY_US:
            return
        self._forgotten_us = now_us
        self._off.forget(now_us - OFF_KEPT_US)
        await energy_store.delete_off_times(conn, partitions, from_us(now_us - OFF_KEPT_US))

    def _finding(
        self, rule: EnergyRule, circuit: CircuitFacts, ruling: Ruling, signals: Mapping[str, Signal]
    ) -> Finding:
        signal = signals.get(rule.signal)
        class_ = dictionary_class(self._class_map, circuit.station_class)
        levels = {} if signal is None else signal.levels
        unit, limit = UNITS[rule.check], rule.threshold or 0.0
        return Finding(
            key="|".join((circuit.site_id, "energy", rule.rule_id, circuit.circuit_id)),
            site_id=circuit.site_id,
            signal=rule.signal,
            phase=Phase.BEGIN if ruling.begins else Phase.END,
            at=from_us(ruling.at_us),
            level=rule.level or levels.get(class_) or DEFAULT_LEVEL,
            detail=f"circuit {circuit.circuit_id}: {ruling.value:.3g} {unit}, limit {limit:g} {unit}",
            detail_zh=f"回路 {circuit.circuit_id}:{ruling.value:.3g} {unit},限值 {limit:g} {unit}",
            subject=circuit.circuit_id,
            device_id=circuit.meters[0] if len(circuit.meters) == 1 else None,
            circuit_id=circuit.circuit_id,
            rule_id=rule.rule_id,
            rule_version=rule.version,
            value=round(ruling.value, 6),
            threshold=rule.threshold,
            unit=unit,
            remembered=True,
        )


def _outcome(interval: Interval, circuit: CircuitFacts | None, came_at: datetime) -> str:
    if circuit is None:
        return "unknown_circuit"
    if interval.provisional or interval.direction is Direction.EXPORT:
        return "not_judged"
    if interval.medium not in (None, Medium.WATER):
        return "not_judged"
    return "late" if came_at.astimezone(UTC) - interval.end > LATE_AFTER else "judged"


def _used(interval: Interval) -> Used:
    water = interval.medium is Medium.WATER
    return Used(
        circuit_id=interval.circuit_id,
        start_us=to_us(interval.start),
        end_us=to_us(interval.end),
        value=interval.quantity if water else interval.energy_kwh,
        measured=interval.interval_flag is IntervalFlag.MEASURED and not interval.lower_bound,
        water=water,
    )
