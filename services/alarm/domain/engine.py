"""Judges reports: which rule begins, goes on or ends on which device, for many devices at once.

A batch is judged in rounds: the first report of every device, then the second of every device that has one,
and so on. Within a round no device occurs twice, so that the result is that of one report after the other.

Time comes from two places. A report carries the event time of its device. Between reports a delay runs out on
the *partition's clock*, the largest ``received_at`` seen in the partition, heartbeats of ingest included: when
ingest is silent that clock stands still, and nothing begins or ends for want of data.

The engine does no I/O. What changed is collected in ``Changes``, for one transaction.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from services.alarm.domain import life
from services.alarm.domain.compiled import OPEN, TRUE, Floats, Ints, Shape
from services.alarm.domain.model import (
    NEVER_US,
    SECOND_US,
    AlarmStep,
    EffectiveRule,
    EndReason,
    Episode,
    State,
    StepPhase,
    Values,
    alarm_id_of,
)
from services.alarm.domain.rulebook import RuleBook, Target
from services.alarm.domain.shutdowns import Shutdowns

UNRESOLVED = -1
"""The rules of a device have to be looked up before it is judged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine tolerates."""

    max_future_us: int = 300 * SECOND_US
    """A report dated later than this after its acceptance is not judged. [µs]"""
    tick_grace_us: int = 2 * SECOND_US
    """A report in flight may still contradict a delay that ran out on the partition's clock. [µs]"""
    at_once: int = 1000
    """So many delays that ran out, or episodes under changed rules, are worked off with one batch; the rest with the
    next ones, so that an event of a whole province does not hold up the process."""
    wake_settle_us: int = 60 * SECOND_US
    """After a wake-up the supply may take this long to look normal again. [µs]"""


@dataclass(slots=True)
class Reports:
    """Reports of a batch in their order, column by column."""

    device_ids: list[str] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    source_us: list[int] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    points: list[Values] = field(default_factory=list)
    bad: list[Collection[str] | None] = field(default_factory=list)
    """Points whose quality is bad; None where there are none."""

    def __len__(self) -> int:
        return len(self.device_ids)


@dataclass(frozen=True, slots=True)
class Judged:
    """How far a device has been judged."""

    device_id: str
    partition: int
    judged_us: int
    """Event time of its last judged report."""
    received_us: int
    """When that report was accepted."""


@dataclass(slots=True)
class Changes:
    """What a batch changed, to be written in one transaction."""

    judged: set[int] = field(default_factory=set)
    """Slots of devices; ``Engine.judged`` says what to store."""
    episodes: dict[tuple[str, str], Episode | None] = field(default_factory=dict)
    """(device, rule) to its episode, None when it is NORMAL again."""
    steps: list[AlarmStep] = field(default_factory=list)
    judged_reports: int = 0
    late_reports: int = 0
    future_reports: int = 0
    unknown_reports: int = 0
    """Of devices that are not, or no longer, in the registry."""


class Directory(Protocol):
    """What the engine asks about devices; an in-memory projection of the registry."""

    def target(self, device_id: str) -> Target | None:
        """Return what the rules need to know of a device, None when there is no such device."""

    def is_removed(self, device_id: str) -> bool:
        """Return whether the registry says that the device is gone, as opposed to knowing nothing of it."""


class _Timers:
    """When time alone may change an episode, for one partition; at most one entry in force per rule and device."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._armed: dict[tuple[int, str], int] = {}

    def arm(self, slot: int, rule_id: str, at_us: int) -> None:
        """Look at a rule of a device at that time; an earlier look that is noted already will see to it."""
        known = self._armed.get((slot, rule_id))
        if known is None or at_us < known:
            self._armed[slot, rule_id] = at_us
            heapq.heappush(self._heap, (at_us, slot, rule_id))

    def due(self, clock_us: int, limit: int) -> Iterator[tuple[int, str]]:
        """Yield what is to be looked at, at most ``limit``; more may be armed in between."""
        while limit > 0 and self._heap and self._heap[0][0] <= clock_us:
            at_us, slot, rule_id = heapq.heappop(self._heap)
            if self._armed.get((slot, rule_id)) == at_us:
                del self._armed[slot, rule_id]
                limit -= 1
                yield slot, rule_id


class Engine:
    """The state of the rules on all devices of the partitions that this process holds."""

    def __init__(self, *, book: RuleBook, directory: Directory, shutdowns: Shutdowns, limits: Limits) -> None:
        """Start with no device known.

        Args:
            book: The rules.
            directory: Says what a device is.
            shutdowns: What control has switched off.
            limits: Tolerances.
        """
        self._book = book
        self._directory = directory
        self._shutdowns = shutdowns
        self._limits = limits
        self._slot_of: dict[str, int] = {}
        self._ids: list[str] = []
        self._judged: Ints = np.full(0, NEVER_US, dtype=np.int64)
        self._received: Ints = np.full(0, NEVER_US, dtype=np.int64)
        self._partition: Ints = np.zeros(0, dtype=np.int64)
        self._shape: Ints = np.zeros(0, dtype=np.int64)
        self._variant: Ints = np.zeros(0, dtype=np.int64)
        self._busy: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.zeros(0, dtype=bool)
        self._shapes: list[Shape] = []
        self._shape_of: dict[tuple[str, str], int] = {}
        self._episodes: dict[int, dict[str, Episode]] = {}
        self._timers: dict[int, _Timers] = {}
        self._clocks: dict[int, int] = {}
        self._ticking_us: int | None = None
        """The partition's clock while it is what decides."""
        self._stale: set[int] = set()
        """Slots whose episodes have to be looked at again because their rules may have changed."""

    @property
    def book(self) -> RuleBook:
        """The rules in force."""
        return self._book

    def clock_us(self, partition: int) -> int:
        """Return the partition's clock. [µs]"""
        return self._clocks.get(partition, NEVER_US)

    def judged(self, slot: int) -> Judged:
        """Return how far the device of a slot has been judged."""
        return Judged(self._ids[slot], int(self._partition[slot]), int(self._judged[slot]), int(self._received[slot]))

    def episode(self, device_id: str, rule_id: str) -> Episode | None:
        """Return the episode of a rule on a device, None when it is NORMAL."""
        slot = self._slot_of.get(device_id)
        return None if slot is None else self._episodes.get(slot, {}).get(rule_id)

    def partition_of(self, device_id: str) -> int | None:
        """Return the partition in which the device was last seen, None when it is not known here."""
        slot = self._slot_of.get(device_id)
        return None if slot is None else int(self._partition[slot])

    # State from the database.

    def load(self, judged: Iterable[Judged], episodes: Iterable[tuple[str, str, Episode]]) -> None:
        """Take over stored state: how far devices were judged, and what is not NORMAL.

        The episodes are looked at again by ``reconsider``, since rules may have changed in the meantime.
        """
        for row in judged:
            slot = self._slot(row.device_id)
            self._partition[slot] = row.partition
            self._judged[slot] = row.judged_us
            self._received[slot] = row.received_us
        for device_id, rule_id, episode in episodes:
            slot = self._slot(device_id)
            self._episodes.setdefault(slot, {})[rule_id] = episode
            self._busy[slot] = True
            self._stale.add(slot)

    def drop(self, partitions: Collection[int]) -> None:
        """Forget everything about these partitions."""
        for slot in np.flatnonzero(np.isin(self._partition, list(partitions))).tolist():
            self._judged[slot] = self._received[slot] = NEVER_US
            self._shape[slot] = UNRESOLVED
            self._busy[slot] = False
            self._episodes.pop(slot, None)
            self._stale.discard(slot)
        for partition in partitions:
            self._timers.pop(partition, None)
            self._clocks.pop(partition, None)

    # Rules and devices change.

    def set_book(self, book: RuleBook) -> None:
        """Judge by these rules from now on."""
        self._book = book
        self._shapes.clear()
        self._shape_of.clear()
        self._shape[:] = UNRESOLVED
        self._stale.update(self._episodes)

    def forget_device(self, device_id: str) -> None:
        """Look the device's rules up again, because the registry says something new about it."""
        slot = self._slot_of.get(device_id)
        if slot is not None:
            self._shape[slot] = UNRESOLVED
            if slot in self._episodes:
                self._stale.add(slot)

    def reconsider(self, changes: Changes) -> None:
        """Look again at episodes whose rule or device may have changed, by the last known values.

        Those of a device whose report is to be judged are looked at before it in any case.
        """
        for slot in sorted(self._stale)[: self._limits.at_once]:
            self._reconsider(slot, changes)

    def _reconsider(self, slot: int, changes: Changes) -> None:
        self._stale.discard(slot)
        target = self._directory.target(self._ids[slot])
        if target is None and not self._directory.is_removed(self._ids[slot]):
            return
        rules = {} if target is None else {rule.rule.rule_id: rule for rule in self._book.for_device(target)}
        for rule_id, episode in list(self._episodes.get(slot, {}).items()):
            rule = rules.get(rule_id)
            if target is None or target.site_id != episode.site_id:
                self._close(slot, rule_id, episode, EndReason.DEVICE_REMOVED, rule, changes)
            elif rule is None or not rule.active:
                self._close(slot, rule_id, episode, EndReason.RULE_CHANGED, rule, changes)
            elif rule.version != episode.rule_version or rule.level != episode.level:
                self._rejudge(slot, rule, episode, changes)
            else:
                self._arm(slot, rule, episode)

    def _rejudge(self, slot: int, rule: EffectiveRule, episode: Episode, changes: Changes) -> None:
        """Apply changed parameters to an episode."""
        rule_id = rule.rule.rule_id
        raised = episode.state in (State.ACTIVE, State.CLEARING)
        holds = life.condition(rule, episode.values, raised=raised)
        if holds is False and episode.state is not State.CLEARING:
            self._close(slot, rule_id, episode, EndReason.RULE_CHANGED, rule, changes)
            return
        level = rule.level if rule.level is not None else episode.level
        worse_or_better = raised and level != episode.level
        episode = replace(episode, rule_version=rule.version, level=level, signal=rule.signal)
        if holds is True and episode.state is State.CLEARING:
            episode = replace(episode, state=State.ACTIVE, since_us=episode.began_us)
        if worse_or_better:
            episode = replace(episode, sequence=episode.sequence + 1)
            changes.steps.append(self._step(StepPhase.UPDATE, slot, rule_id, episode, rule))
        self._put(slot, rule_id, episode, changes)
        self._arm(slot, rule, episode)

    def _close(
        self,
        slot: int,
        rule_id: str,
        episode: Episode,
        reason: EndReason,
        rule: EffectiveRule | None,
        changes: Changes,
    ) -> None:
        """End an episode for another reason than recovery; one without an alarm just goes."""
        self._put(slot, rule_id, None, changes)
        if episode.alarm_id is not None:
            ended_us = max(int(self._judged[slot]), episode.began_us)
            last = replace(episode, sequence=episode.sequence + 1)
            changes.steps.append(self._step(StepPhase.END, slot, rule_id, last, rule, ended_us=ended_us, reason=reason))

    # Reports.

    def judge(self, reports: Reports, changes: Changes) -> None:
        """Judge reports in their order; late, future and unknown ones are counted and left alone.

        Raises:
            TypeError, ValueError: A point's value is not a number; nothing may be kept of the batch.
        """
        if not len(reports):
            return
        slots = self._slots(reports.device_ids)
        for slot in sorted(self._stale.intersection(slots.tolist())):
            self._reconsider(slot, changes)
        source = np.array(reports.source_us, dtype=np.int64)
        received = np.array(reports.received_us, dtype=np.int64)
        partitions = np.array(reports.partitions, dtype=np.int64)
        future = source > received + self._limits.max_future_us
        known = slots >= 0
        changes.unknown_reports += int((~known).sum())
        changes.future_reports += int((future & known).sum())
        usable = np.flatnonzero(known & ~future)
        matrices = self._matrices(reports, slots, usable)
        for chosen in _rounds(slots, usable):
            late = source[chosen] < self._judged[slots[chosen]]
            changes.late_reports += int(late.sum())
            live = chosen[~late]
            changes.judged_reports += len(live)
            where = slots[live]
            self._judged[where] = source[live]
            self._received[where] = received[live]
            self._partition[where] = partitions[live]
            changes.judged.update(where.tolist())
            self._round(reports, live, where, source, matrices, changes)

    def _round(
        self,
        reports: Reports,
        live: Ints,
        slots: Ints,
        source: Ints,
        matrices: dict[int, tuple[Floats, Ints]],
        changes: Changes,
    ) -> None:
        """Judge reports of which no two are of one device."""
        shapes = self._shape[slots]
        for number in np.unique(shapes).tolist():
            shape = self._shapes[number]
            chosen = np.flatnonzero(shapes == number)
            if not shape.rule_ids:
                continue
            matrix, row_of = matrices[number]
            values = matrix[row_of[live[chosen]]]
            variants = self._variant[slots[chosen]]
            hit = np.flatnonzero(shape.screen(values, variants) | self._busy[slots[chosen]])
            if hit.size:
                rows = live[chosen[hit]]
                self._apply(shape, reports, rows, slots[chosen[hit]], source, values[hit], variants[hit], changes)

    def _apply(
        self,
        shape: Shape,
        reports: Reports,
        rows: Ints,
        slots: Ints,
        source: Ints,
        values: Floats,
        variants: Ints,
        changes: Changes,
    ) -> None:
        """Judge the reports that a screen let through, rule by rule."""
        where = slots.tolist()
        times = source[rows].tolist()
        for slot, at_us, variant in zip(where, times, variants.tolist(), strict=True):
            if slot in self._episodes:
                self._elapse_all(slot, shape, variant, at_us, changes)
        raised = [
            (row, shape.index[rule_id])
            for row, slot in enumerate(where)
            for rule_id, episode in self._episodes.get(slot, {}).items()
            if episode.state in (State.ACTIVE, State.CLEARING)
        ]
        picked = rows.tolist()
        absent = shape.absent([reports.points[row] for row in picked], [reports.bad[row] for row in picked])
        verdicts = shape.verdicts(values, absent, variants, raised)
        hits: list[set[int]] = [set() for _ in where]
        for row, number in np.argwhere(verdicts == TRUE).tolist():
            hits[row].add(number)
        for row, slot in enumerate(where):
            interesting = hits[row].union(shape.index[rule_id] for rule_id in self._episodes.get(slot, ()))
            for number in sorted(interesting):
                verdict = int(verdicts[row, number])
                if verdict == OPEN:
                    continue
                rule = shape.variants[int(variants[row])][number]
                seen = shape.values_of(values[row], absent[row], number)
                self._observe(slot, rule, verdict == TRUE, times[row], seen, changes)

    def _observe(
        self, slot: int, rule: EffectiveRule, holds: bool, at_us: int, values: Values, changes: Changes
    ) -> None:
        rule_id = rule.rule.rule_id
        before = self._episodes.get(slot, {}).get(rule_id)
        if before is None:
            target = self._directory.target(self._ids[slot])
            if target is None:
                return
            before = life.start(rule, site_id=target.site_id, at_us=at_us, values=values)
        self._settle(slot, rule, life.observe(before, rule, holds=holds, at_us=at_us, values=values), changes)

    def _elapse_all(self, slot: int, shape: Shape, variant: int, to_us: int, changes: Changes) -> None:
        """Let time pass on a device up to its next report."""
        for rule_id, episode in sorted(self._episodes[slot].items()):
            rule = shape.variants[variant][shape.index[rule_id]]
            self._elapse(slot, rule, episode, to_us, inclusive=False, changes=changes)

    def _elapse(
        self, slot: int, rule: EffectiveRule, episode: Episode, to_us: int, *, inclusive: bool, changes: Changes
    ) -> None:
        outcome = life.elapse(episode, rule, to_us, inclusive=inclusive)
        if outcome.episode is not episode:
            self._settle(slot, rule, outcome, changes)

    def _settle(self, slot: int, rule: EffectiveRule, outcome: life.Outcome, changes: Changes) -> None:
        """Record where an episode went, and the step of its alarm."""
        rule_id, after, last = rule.rule.rule_id, outcome.episode, outcome.last
        if outcome.change is life.Change.BEGAN and after is not None:
            device_id = self._ids[slot]
            after = replace(
                after,
                alarm_id=alarm_id_of(device_id, rule_id, after.began_us),
                sequence=1,
                inhibited_by=self._shutdowns.explains(device_id, after.began_us) if rule.rule.supply else None,
            )
            changes.steps.append(self._step(StepPhase.BEGIN, slot, rule_id, after, rule))
        elif last is not None:
            ended = replace(last, sequence=last.sequence + 1)
            changes.steps.append(
                self._step(
                    StepPhase.END, slot, rule_id, ended, rule, ended_us=last.since_us, reason=EndReason.RECOVERED
                )
            )
        self._put(slot, rule_id, after, changes)
        if after is not None:
            self._arm(slot, rule, after)

    # The partition's clock.

    def tick(self, partition: int, clock_us: int, changes: Changes) -> None:
        """Move the partition's clock; delays that ran out without a further report take effect.

        Args:
            partition: Which.
            clock_us: Largest ``received_at`` seen in it. An earlier one changes nothing. [µs]
            changes: Collects what happened.
        """
        clock_us = max(clock_us, self._clocks.get(partition, NEVER_US))
        self._clocks[partition] = clock_us
        self._ticking_us = clock_us
        for slot, rule_id in self._timers.setdefault(partition, _Timers()).due(clock_us, self._limits.at_once):
            rule = self._rule(slot, rule_id)
            if slot in self._stale:
                self._reconsider(slot, changes)
            episode = self._episodes.get(slot, {}).get(rule_id)
            if episode is None or rule is None or int(self._partition[slot]) != partition:
                continue
            passed_us = clock_us - int(self._received[slot]) - self._limits.tick_grace_us
            self._elapse(slot, rule, episode, int(self._judged[slot]) + passed_us, inclusive=True, changes=changes)
            if self.episode(self._ids[slot], rule_id) is episode:
                self._arm(slot, rule, episode)
        self._ticking_us = None

    def _arm(self, slot: int, rule: EffectiveRule, episode: Episode) -> None:
        """Note when time alone changes the episode, on the partition's clock."""
        look_us = life.next_look_us(episode, rule)
        if look_us is None:
            return
        on_clock_us = int(self._received[slot]) + look_us - int(self._judged[slot]) + self._limits.tick_grace_us
        timers = self._timers.setdefault(int(self._partition[slot]), _Timers())
        timers.arm(slot, rule.rule.rule_id, on_clock_us)

    # What control has switched off.

    def inhibit(self, device_ids: Iterable[str], changes: Changes) -> None:
        """Mark active alarms that a planned shutdown explains, after one was taken note of."""
        for device_id in device_ids:
            slot = self._slot_of.get(device_id)
            for rule_id, episode in sorted(self._episodes.get(slot, {}).items()) if slot is not None else ():
                rule = self._rule(slot, rule_id) if slot is not None else None
                if slot is None or rule is None or not rule.rule.supply or episode.alarm_id is None:
                    continue
                explained_by = self._shutdowns.explains(device_id, episode.began_us)
                if explained_by is not None and episode.inhibited_by is None:
                    self._set_inhibited(slot, rule, episode, explained_by, changes)

    def lift(self, partition: int, changes: Changes) -> list[str]:
        """Tell of alarms that outlast the shutdown that explained them; return the devices that are done with.

        An alarm that is about to end is given the time to do so.
        """
        done: list[str] = []
        for device_id in self._shutdowns.over(partition, self.clock_us(partition) - self._limits.wake_settle_us):
            slot = self._slot_of.get(device_id)
            waiting = False
            for rule_id, episode in sorted(self._episodes.get(slot, {}).items()) if slot is not None else ():
                if slot is None or episode.inhibited_by is None:
                    continue
                rule = self._rule(slot, rule_id)
                if episode.state is State.ACTIVE and rule is not None:
                    self._set_inhibited(slot, rule, episode, None, changes)
                else:
                    waiting = True
            if not waiting:
                done.append(device_id)
        return done

    def _set_inhibited(
        self, slot: int, rule: EffectiveRule, episode: Episode, inhibited_by: str | None, changes: Changes
    ) -> None:
        rule_id = rule.rule.rule_id
        episode = replace(episode, inhibited_by=inhibited_by, sequence=episode.sequence + 1)
        changes.steps.append(self._step(StepPhase.UPDATE, slot, rule_id, episode, rule))
        self._put(slot, rule_id, episode, changes)

    # Slots and rules.

    def _slots(self, device_ids: Sequence[str]) -> Ints:
        """Return the slot of each device, with its rules looked up; -1 where the registry has no such device."""
        get = self._slot_of.get
        slots = np.fromiter((get(device_id, -1) for device_id in device_ids), np.int64, len(device_ids))
        for place in np.flatnonzero(slots < 0).tolist():
            if self._directory.target(device_ids[place]) is not None:
                slots[place] = self._slot(device_ids[place])
        there = slots[slots >= 0]
        for slot in np.unique(there[self._shape[there] == UNRESOLVED]).tolist():
            if not self._look_up(slot):
                slots[slots == slot] = -1
        return slots

    def _slot(self, device_id: str) -> int:
        slot = self._slot_of.get(device_id)
        if slot is None:
            slot = self._slot_of[device_id] = len(self._ids)
            self._ids.append(device_id)
            if slot >= len(self._judged):
                self._grow(max(1024, 2 * len(self._judged)))
        return slot

    def _grow(self, size: int) -> None:
        more = size - len(self._judged)
        self._judged = np.concatenate([self._judged, np.full(more, NEVER_US, dtype=np.int64)])
        self._received = np.concatenate([self._received, np.full(more, NEVER_US, dtype=np.int64)])
        self._partition = np.concatenate([self._partition, np.full(more, -1, dtype=np.int64)])
        self._shape = np.concatenate([self._shape, np.full(more, UNRESOLVED, dtype=np.int64)])
        self._variant = np.concatenate([self._variant, np.zeros(more, dtype=np.int64)])
        self._busy = np.concatenate([self._busy, np.zeros(more, dtype=bool)])

    def _look_up(self, slot: int) -> bool:
        """Find shape and variant of a device; return whether the registry knows it."""
        target = self._directory.target(self._ids[slot])
        if target is None:
            return False
        rules = self._book.for_device(target)
        key = (target.profile, target.kind)
        number = self._shape_of.get(key)
        if number is None:
            number = self._shape_of[key] = len(self._shapes)
            self._shapes.append(Shape(rules, target))
        self._shape[slot] = number
        self._variant[slot] = self._shapes[number].variant(rules)
        if slot in self._episodes:
            self._stale.add(slot)
        return True

    def _rule(self, slot: int, rule_id: str) -> EffectiveRule | None:
        """Return the rule that holds for a device, None when there is none any more."""
        if int(self._shape[slot]) == UNRESOLVED and not self._look_up(slot):
            return None
        shape = self._shapes[int(self._shape[slot])]
        place = shape.index.get(rule_id)
        return None if place is None else shape.variants[int(self._variant[slot])][place]

    def _matrices(self, reports: Reports, slots: Ints, usable: Ints) -> dict[int, tuple[Floats, Ints]]:
        """Return per shape the values of its reports, and where in them each report of the batch lies."""
        shapes = self._shape[slots[usable]]
        found: dict[int, tuple[Floats, Ints]] = {}
        for number in np.unique(shapes).tolist():
            chosen = usable[shapes == number]
            picked = chosen.tolist()
            matrix = self._shapes[number].matrix(
                [reports.points[row] for row in picked], [reports.bad[row] for row in picked]
            )
            row_of = np.full(len(reports), -1, dtype=np.int64)
            row_of[chosen] = np.arange(len(chosen))
            found[number] = (matrix, row_of)
        return found

    def _put(self, slot: int, rule_id: str, episode: Episode | None, changes: Changes) -> None:
        held = self._episodes.setdefault(slot, {})
        if episode is None:
            held.pop(rule_id, None)
        else:
            held[rule_id] = episode
        changes.episodes[self._ids[slot], rule_id] = episode
        self._busy[slot] = bool(held)
        if not held:
            del self._episodes[slot]

    def _step(
        self,
        phase: StepPhase,
        slot: int,
        rule_id: str,
        episode: Episode,
        rule: EffectiveRule | None,
        *,
        ended_us: int | None = None,
        reason: EndReason | None = None,
    ) -> AlarmStep:
        point: str | None = None
        value: float | None = None
        if rule is not None and rule.threshold is not None:
            point, value = life.worst(rule.rule.comparison, rule.threshold, episode.values)
        if episode.alarm_id is None:
            raise ValueError(f"a step of {rule_id} without an alarm")
        return AlarmStep(
            phase=phase,
            alarm_id=episode.alarm_id,
            sequence=episode.sequence,
            site_id=episode.site_id,
            device_id=self._ids[slot],
            rule_id=rule_id,
            rule_version=rule.version if rule is not None else episode.rule_version,
            signal=episode.signal,
            level=episode.level,
            began_us=episode.began_us,
            ended_us=ended_us,
            end_reason=reason,
            inhibited_by=episode.inhibited_by,
            point=point,
            value=value,
            threshold=None if rule is None else rule.threshold,
            unit="" if rule is None else rule.rule.unit,
            received_us=int(self._received[slot]) if self._ticking_us is None else self._ticking_us,
        )


def _rounds(slots: Ints, usable: Ints) -> Iterator[Ints]:
    """Yield places of a batch, first those of the first report of each device, then of the second, …"""
    if not usable.size:
        return
    chosen = slots[usable]
    order = np.argsort(chosen, kind="stable")
    ranked = chosen[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    lengths = np.diff(np.concatenate([first, [len(ranked)]]))
    occurrence = np.empty(len(ranked), dtype=np.int64)
    occurrence[order] = np.arange(len(ranked)) - np.repeat(first, lengths)
    by_round = np.argsort(occurrence, kind="stable")
    ends = np.cumsum(np.bincount(occurrence))
    begin = 0
    for end in ends.tolist():
        yield usable[by_round[begin:end]]
        begin = end
