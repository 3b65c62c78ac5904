"""Judges reports: which rule begins, goes on or ends on which device, for many devices at once.

A batch is judged in rounds: the first report of every device, then the second of every device that has one,
and so on. Within a round no device occurs twice, so that the result is that of one report after the other.

Reports that are missing are noticed by looking over all devices at once: see ``silence``.

Time comes from two places. A report carries the event time of its device. Between reports a delay runs out on
the *partition's clock*, the largest ``received_at`` seen in the partition, heartbeats of ingest included: when
ingest is silent that clock stands still, and nothing begins or ends for want of data.

The engine does no I/O. What changed is collected in ``Changes``, for one transaction.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from services.alarm.domain import life, silence
from services.alarm.domain.compiled import OPEN, TRUE, Bools, Floats, Ints, Shape
from services.alarm.domain.derived import Memory, Remembered, point_of
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
from services.alarm.domain.shutdowns import Shutdown
from services.alarm.domain.sites import Sites, Standing, Verdict

RAISED = (State.ACTIVE, State.CLEARING, State.DISMISSED)
"""Judged with the recovery threshold."""
BEGINS_KEPT = 100_000
"""Above so many, begins that are too old to tell of flapping are forgotten; next when twice what was left is there."""
WAITED_OUT = 4
"""Times ``at_once``: more devices than that are not called silent at the end of the time that somebody listened; they
are waited for anew, like the others."""
UNRESOLVED = -1
"""The rules of a device have to be looked up before it is judged."""
GONE = -2
"""The same, and the registry knew nothing of it when last asked: nobody waits for its reports."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine tolerates."""

    max_future_us: int = 300 * SECOND_US
    """A report dated later than this after its acceptance is not judged. [µs]"""
    max_past_us: int = 3600 * SECOND_US
    """A report dated earlier than this before its acceptance is history. [µs]"""
    tick_grace_us: int = 2 * SECOND_US
    """A report in flight may still contradict a delay that ran out on the partition's clock. [µs]"""
    at_once: int = 2000
    """So many delays that ran out, devices that fell silent and episodes under changed rules are worked off with one
    batch, whatever the partitions: some tenths of a second. The rest comes with the next ones, so that an event of a
    whole province does not hold up the process."""
    flap_count: int = 5
    """An alarm that begins so many times within ``flap_within_us`` is held until it has been over for as long."""
    flap_within_us: int = 600 * SECOND_US
    scan_every_us: int = SECOND_US
    """How often all devices are looked over for those that are silent, on the partition's clock. [µs]"""


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
    listened_us: list[int] = field(default_factory=list)
    """Until when, not included, somebody is known to have listened before the report came; none at all is until it
    came. [µs]"""

    def __len__(self) -> int:
        return len(self.device_ids)

    def part(self, begin: int, end: int) -> "Reports":
        """Return the reports from ``begin`` to before ``end``."""
        return Reports(
            device_ids=self.device_ids[begin:end],
            partitions=self.partitions[begin:end],
            source_us=self.source_us[begin:end],
            received_us=self.received_us[begin:end],
            points=self.points[begin:end],
            bad=self.bad[begin:end],
            listened_us=self.listened_us[begin:end],
        )


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
    heard: set[int] = field(default_factory=set)
    """Slots of devices that were heard, or are waited for, since another time than ``judged`` says."""
    remembered: set[int] = field(default_factory=set)
    """Slots of devices whose last usable values have changed; ``Engine.remembered`` says what to store."""
    episodes: dict[tuple[str, str], Episode | None] = field(default_factory=dict)
    """(device, rule) to its episode, None when it is NORMAL again."""
    steps: list[AlarmStep] = field(default_factory=list)
    looked: int = 0
    """How many delays, silent devices and changed episodes were looked at: see ``Limits.at_once``."""
    judged_reports: int = 0
    late_reports: int = 0
    future_reports: int = 0
    past_reports: int = 0
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

    def __init__(
        self,
        *,
        book: RuleBook,
        directory: Directory,
        sites: Sites,
        limits: Limits,
        partition_of: Callable[[str], int] | None = None,
    ) -> None:
        """Start with no device known.

        Args:
            book: The rules.
            directory: Says what a device is.
            sites: The second stage: hears of every alarm, and says what explains it.
            limits: Tolerances.
            partition_of: Says in which partition the reports of a site come; absent: where they came last.
        """
        self._partition_of = partition_of
        self._book = book
        self._directory = directory
        self._sites = sites
        self._limits = limits
        self._slot_of: dict[str, int] = {}
        self._ids: list[str] = []
        self._judged: Ints = np.full(0, NEVER_US, dtype=np.int64)
        self._received: Ints = np.full(0, NEVER_US, dtype=np.int64)
        self._partition: Ints = np.zeros(0, dtype=np.int64)
        self._shape: Ints = np.zeros(0, dtype=np.int64)
        self._variant: Ints = np.zeros(0, dtype=np.int64)
        self._busy: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.zeros(0, dtype=bool)
        self._heard: Ints = np.full(0, NEVER_US, dtype=np.int64)
        """When a device last said anything, or since when it is waited for; time of acceptance. [µs]"""
        self._patience: Ints = np.full(0, silence.FAR_US, dtype=np.int64)
        """How long nothing may be heard of a device until an alarm is raised. [µs]"""
        self._quiet: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.zeros(0, dtype=bool)
        """Devices with an episode of a rule that the lack of reports can raise."""
        self._period: Floats = np.full(0, np.nan)
        """How often a device is to report, NaN when nothing is waited for. [s]"""
        self._rated: Floats = np.full(0, np.nan)
        """Rated current of a device's circuit, NaN where unknown. [A]"""
        self._members: dict[int, Ints] = {}
        """Slots of a partition; made anew when one came or went."""
        self._scanned: dict[int, int] = {}
        self._memory = Memory()
        self._shapes: list[Shape] = []
        self._shape_of: dict[tuple[str, str], int] = {}
        self._episodes: dict[int, dict[str, Episode]] = {}
        self._timers: dict[int, _Timers] = {}
        self._clocks: dict[int, int] = {}
        self._ticking_us: int | None = None
        """The partition's clock while it is what decides."""
        self._forgotten: set[int] = set()
        """Slots whose last values mean nothing any more, since no rule asked for them for a while."""
        self._stale: set[int] = set()
        """Slots whose episodes have to be looked at again because their rules may have changed."""
        self._begins: dict[tuple[int, str], tuple[int, ...]] = {}
        """When alarms of a rule on a device began lately, to notice flapping. [µs]"""
        self._begins_kept = BEGINS_KEPT

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

    def heard(self, slot: int) -> tuple[str, int, int]:
        """Return the device of a slot, its partition, and when it was last heard. [µs]"""
        return self._ids[slot], int(self._partition[slot]), int(self._heard[slot])

    def remembered(self, slot: int) -> tuple[str, int, Remembered]:
        """Return the device of a slot, its partition, and its last usable values."""
        return self._ids[slot], int(self._partition[slot]), self._memory.of(slot)

    def episode(self, device_id: str, rule_id: str) -> Episode | None:
        """Return the episode of a rule on a device, None when it is NORMAL."""
        slot = self._slot_of.get(device_id)
        return None if slot is None else self._episodes.get(slot, {}).get(rule_id)

    def partition_of(self, device_id: str) -> int | None:
        """Return the partition in which the device was last seen, None when it is not known here."""
        slot = self._slot_of.get(device_id)
        return None if slot is None else int(self._partition[slot])

    # State from the database.

    def load(
        self,
        judged: Iterable[Judged],
        episodes: Iterable[tuple[str, str, Episode]],
        begins: Iterable[tuple[str, str, int]],
        heard: Iterable[tuple[str, int, int]] = (),
        remembered: Iterable[tuple[str, Remembered]] = (),
    ) -> None:
        """Take over stored state: how far devices were judged, what is not NORMAL, which alarms began lately, when
        devices were heard and what their last usable values are.

        The episodes are looked at again by ``reconsider``, since rules may have changed in the meantime.
        """
        for row in judged:
            slot = self._slot(row.device_id)
            self._partition[slot] = row.partition
            self._judged[slot] = row.judged_us
            self._received[slot] = row.received_us
            self._heard[slot] = max(row.received_us, int(self._heard[slot]))
        for device_id, partition, heard_us in heard:
            slot = self._slot(device_id)
            self._partition[slot] = partition
            self._heard[slot] = max(heard_us, int(self._heard[slot]))
        for device_id, values in remembered:
            self._memory.load(self._slot(device_id), values)
        self._members.clear()
        for device_id, rule_id, episode in episodes:
            slot = self._slot(device_id)
            self._episodes.setdefault(slot, {})[rule_id] = episode
            self._busy[slot] = True
            self._quiet[slot] = True
            self._stale.add(slot)
        for device_id, rule_id, began_us in begins:
            key = (self._slot(device_id), rule_id)
            self._begins[key] = (*self._begins.get(key, ()), began_us)[-self._limits.flap_count :]

    def drop(self, partitions: Collection[int]) -> None:
        """Forget everything about these partitions."""
        gone = set(np.flatnonzero(np.isin(self._partition, list(partitions))).tolist())
        self._begins = {key: begins for key, begins in self._begins.items() if key[0] not in gone}
        for slot in gone:
            self._judged[slot] = self._received[slot] = self._heard[slot] = NEVER_US
            self._shape[slot] = UNRESOLVED
            self._partition[slot] = -1
            self._busy[slot] = self._quiet[slot] = False
            self._episodes.pop(slot, None)
            self._stale.discard(slot)
        for partition in partitions:
            self._timers.pop(partition, None)
            self._clocks.pop(partition, None)
            self._scanned.pop(partition, None)
        self._memory.forget(gone)
        self._forgotten -= gone
        self._members.clear()

    # Rules and devices change.

    def set_book(self, book: RuleBook) -> None:
        """Judge by these rules from now on."""
        self._book = book
        self._shapes.clear()
        self._shape_of.clear()
        self._shape[:] = UNRESOLVED
        self._stale.update(self._episodes)

    def resume(self, partition: int, at_us: int) -> None:
        """Begin to wait anew for all devices of a partition: nobody listened until then. [µs]"""
        members = self._members_of(partition)
        heard = self._heard[members]
        self._heard[members] = np.where(heard == NEVER_US, NEVER_US, np.maximum(heard, at_us))

    def expect(self, device_id: str, partition: int) -> None:
        """Wait for reports of a device in a partition: from the next tick on, if it is not known yet."""
        slot = self._slot(device_id)
        if int(self._partition[slot]) != partition:
            self._partition[slot] = partition
            self._members.clear()
            self._set_patience(slot)

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
        for slot in sorted(self._stale)[: self._room(changes)]:
            changes.looked += 1
            self._reconsider(slot, changes)

    def _room(self, changes: Changes, times: int = 1) -> int:
        """Return how much more may be looked at with this batch."""
        return max(0, times * self._limits.at_once - changes.looked)

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
        raised = episode.state in RAISED
        holds = self._is_lost(slot, rule) if rule.is_silence else life.condition(rule, episode.values, raised=raised)
        if holds is False and episode.state is not State.CLEARING:
            self._close(slot, rule_id, episode, EndReason.RULE_CHANGED, rule, changes)
            return
        level = rule.level if rule.level is not None else episode.level
        worse_or_better = episode.alarm_id is not None and level != episode.level
        episode = replace(episode, rule_version=rule.version, level=level, signal=rule.signal)
        if holds is True and episode.state is State.CLEARING:
            episode = replace(episode, state=State.ACTIVE, since_us=episode.began_us)
        if worse_or_better and episode.alarm_id is not None:
            episode = replace(episode, sequence=episode.sequence + 1)
            self._sites.change(str(episode.alarm_id), level=level, inhibited_by=episode.inhibited_by)
            changes.steps.append(self._step(StepPhase.UPDATE, slot, rule_id, episode, rule))
        self._put(slot, rule_id, episode, changes)
        self._arm(slot, rule, episode)

    def _is_lost(self, slot: int, rule: EffectiveRule) -> bool | None:
        """Return whether a rule on silence holds, None where the clock is not known yet."""
        patience_us = silence.patience_us(rule, self._period_of(slot))
        if patience_us is None:
            return False
        clock_us = self.clock_us(int(self._partition[slot]))
        return None if clock_us == NEVER_US else clock_us >= int(self._heard[slot]) + patience_us

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
            self._end(slot, rule_id, episode, reason, rule, changes)

    def _end(
        self,
        slot: int,
        rule_id: str,
        episode: Episode,
        reason: EndReason,
        rule: EffectiveRule | None,
        changes: Changes,
        *,
        ended_us: int | None = None,
        actor: str | None = None,
        note: str | None = None,
    ) -> None:
        """Tell the end of an alarm; without a time of its own it ends with the device's last judged report."""
        if ended_us is None:
            ended_us = max(int(self._judged[slot]), episode.began_us)
        last = replace(episode, sequence=episode.sequence + 1)
        step = self._step(StepPhase.END, slot, rule_id, last, rule, ended_us=ended_us, reason=reason)
        changes.steps.append(replace(step, actor=actor, note=note))
        self._sites.fall(step.alarm_id, step.received_us)

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
        listened = (
            np.minimum(received, np.array(reports.listened_us, dtype=np.int64)) if reports.listened_us else received
        )
        future = source > received + self._limits.max_future_us
        past = source < received - self._limits.max_past_us
        known = slots >= 0
        changes.unknown_reports += int((~known).sum())
        changes.future_reports += int((future & known).sum())
        usable = np.flatnonzero(known)
        matrices = self._matrices(reports, slots, usable)
        for chosen in _rounds(slots, usable):
            self._hear_all(slots[chosen], received[chosen], listened[chosen], partitions[chosen], changes)
            late = (source[chosen] < self._judged[slots[chosen]]) & ~future[chosen]
            changes.late_reports += int(late.sum())
            history = past[chosen] & ~late
            changes.past_reports += int(history.sum())
            live = chosen[~late & ~future[chosen] & ~history]
            changes.judged_reports += len(live)
            where = slots[live]
            self._judged[where] = source[live]
            self._received[where] = received[live]
            changes.judged.update(where.tolist())
            told = slots[chosen]
            changes.heard.update(told[self._heard[told] != self._received[told]].tolist())
            self._round(reports, live, where, source, matrices, changes)
        changes.remembered |= self._forgotten
        self._forgotten = set()

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
            if not shape.columns:
                continue
            matrix, row_of = matrices[number]
            values = matrix[row_of[live[chosen]]]
            variants = self._variant[slots[chosen]]
            remembering = shape.remembering(variants)
            if remembering.any():
                self._follow(shape, values, remembering, slots[chosen], source[live[chosen]], changes)
            hit = np.flatnonzero(shape.screen(values, variants) | self._busy[slots[chosen]])
            if hit.size:
                rows = live[chosen[hit]]
                self._apply(shape, reports, rows, slots[chosen[hit]], source, values[hit], variants[hit], changes)

    def _follow(self, shape: Shape, values: Floats, chosen: Bools, slots: Ints, at_us: Ints, changes: Changes) -> None:
        """Fill the columns that depend on what was before, and remember the values for those that come."""
        points, told, slots = shape.derived.remembered, values[chosen], slots[chosen]
        last, since_us = shape.derived.follow(told, at_us[chosen], *self._memory.get(slots, points))
        values[chosen] = told
        self._memory.put(slots, points, last, since_us)
        changes.remembered.update(slots.tolist())

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
            if episode.state in RAISED and shape.index[rule_id] < shape.judging
        ]
        picked = rows.tolist()
        absent = shape.absent([reports.points[row] for row in picked], [reports.bad[row] for row in picked])
        verdicts = shape.verdicts(values, absent, variants, raised)
        hits: list[set[int]] = [set() for _ in where]
        for row, number in np.argwhere(verdicts == TRUE).tolist():
            hits[row].add(number)
        for row, slot in enumerate(where):
            interesting = hits[row].union(shape.index[rule_id] for rule_id in self._episodes.get(slot, ()))
            for number in sorted(one for one in interesting if one < shape.judging):
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
            if rule.is_silence:
                continue
            self._elapse(slot, rule, episode, to_us, inclusive=False, changes=changes)

    def _elapse(
        self, slot: int, rule: EffectiveRule, episode: Episode, to_us: int, *, inclusive: bool, changes: Changes
    ) -> None:
        outcome = life.elapse(episode, rule, to_us, inclusive=inclusive)
        if outcome.episode is episode:
            return
        self._settle(slot, rule, outcome, changes)
        after = self._episodes.get(slot, {}).get(rule.rule.rule_id)
        if after is not None:
            # Much time may have passed: what has begun may be over again for want of data.
            self._elapse(slot, rule, after, to_us, inclusive=inclusive, changes=changes)

    def _settle(self, slot: int, rule: EffectiveRule, outcome: life.Outcome, changes: Changes) -> None:
        """Record where an episode went, and the step of its alarm."""
        rule_id, after, last = rule.rule.rule_id, outcome.episode, outcome.last
        if outcome.change is life.Change.BEGAN and after is not None:
            after = self._raise(slot, rule, after)
            changes.steps.append(self._step(StepPhase.BEGIN, slot, rule_id, after, rule))
        elif last is not None:
            self._end(slot, rule_id, last, outcome.reason, rule, changes, ended_us=last.since_us)
        elif after is not None and after.inhibited_by is not None:
            # It may have waited for its end to be told that nothing explains it any more.
            self._sites.touch(after.site_id)
        self._put(slot, rule_id, after, changes)
        if after is not None:
            self._arm(slot, rule, after)

    def _raise(self, slot: int, rule: EffectiveRule, episode: Episode) -> Episode:
        """Return the episode with its alarm: what explains it, and whether it flaps."""
        rule_id, began_us = rule.rule.rule_id, episode.began_us
        standing = self._sites.rise(self._standing(slot, rule, rule_id, episode))
        within_us = self._limits.flap_within_us
        lately = (*(at_us for at_us in self._begins.get((slot, rule_id), ()) if at_us > began_us - within_us), began_us)
        self._begins[slot, rule_id] = lately[-self._limits.flap_count :]
        if len(self._begins) > self._begins_kept:
            self._begins = {key: begins for key, begins in self._begins.items() if begins[-1] > began_us - within_us}
            self._begins_kept = max(BEGINS_KEPT, 2 * len(self._begins))
        return replace(
            episode,
            alarm_id=standing.alarm_id,
            sequence=1,
            inhibited_by=standing.inhibited_by,
            raised_us=standing.raised_us,
            hold_us=within_us if len(lately) >= self._limits.flap_count else 0,
        )

    def _now_us(self, slot: int) -> int:
        """Return when what is decided now is decided: with a report's acceptance, or on the ticking clock. [µs]"""
        if self._ticking_us is not None:
            return self._ticking_us
        received_us = int(self._received[slot])
        return int(self._heard[slot]) if received_us == NEVER_US else received_us

    # Silence.

    def _hear_all(self, slots: Ints, received: Ints, listened: Ints, partitions: Ints, changes: Changes) -> None:
        """Take note that devices said something, no two of them the same; before what they say is judged."""
        heard = self._heard[slots]
        long = (heard != NEVER_US) & (listened - heard > self._patience[slots])
        for place in np.flatnonzero(long | self._quiet[slots]).tolist():
            slot, at_us = int(slots[place]), int(received[place])
            self._ticking_us = at_us
            for rule in self._waiting(slot):
                episode = self._episodes.get(slot, {}).get(rule.rule.rule_id)
                if episode is not None and not rule.is_silence:
                    to_us = int(self._judged[slot]) + int(listened[place]) - int(self._received[slot])
                    self._elapse(slot, rule, episode, to_us, inclusive=False, changes=changes)
                self._wait(slot, rule, int(listened[place]), inclusive=False, changes=changes)
                episode = self._episodes.get(slot, {}).get(rule.rule.rule_id)
                if rule.is_silence and episode is not None:
                    self._settle(slot, rule, silence.hear(episode, rule, at_us=at_us), changes)
            self._ticking_us = None
        self._heard[slots] = np.maximum(heard, received)
        moved = slots[self._partition[slots] != partitions]
        if moved.size:
            self._partition[slots] = partitions
            self._members.clear()
            for slot in moved.tolist():
                self._set_patience(slot)

    def wait_out(self, partition: int, waited_us: int, changes: Changes) -> None:
        """Raise what silence raises up to a time until which all reports are in: nobody listened after it. [µs]"""
        until_us = waited_us - self._limits.tick_grace_us
        members = self._members_of(partition)
        self._ticking_us = max(waited_us, self.clock_us(partition))
        concerned = self._quiet[members] | (until_us - self._heard[members] >= self._patience[members])
        for slot in members[concerned][: self._room(changes, WAITED_OUT)].tolist():
            changes.looked += 1
            for rule in self._waiting(slot):
                self._wait(slot, rule, until_us, inclusive=True, changes=changes)
        self._ticking_us = None

    def _scan(self, partition: int, clock_us: int, until_us: int, changes: Changes) -> None:
        """Look over all devices of a partition for those that have been silent for too long, as of ``until_us``."""
        if clock_us < self._scanned.get(partition, NEVER_US) + self._limits.scan_every_us:
            return
        members = self._members_of(partition)
        limit = self._room(changes)
        unresolved = members[self._shape[members] == UNRESOLVED][:limit]
        changes.looked += len(unresolved)
        for slot in unresolved.tolist():
            if not self._look_up(slot):
                self._shape[slot] = GONE
                self._patience[slot] = silence.FAR_US
        new = members[self._heard[members] == NEVER_US]
        self._heard[new] = clock_us
        changes.heard.update(new.tolist())
        overdue = members[until_us - self._heard[members] >= self._patience[members]]
        for slot in overdue[:limit].tolist():
            changes.looked += 1
            for rule in self._waiting(slot):
                self._wait(slot, rule, until_us, inclusive=True, changes=changes)
        if len(overdue) <= limit and len(unresolved) < limit:
            self._scanned[partition] = clock_us

    def _members_of(self, partition: int) -> Ints:
        members = self._members.get(partition)
        if members is None:
            members = self._members[partition] = np.flatnonzero(self._partition == partition)
        return members

    def _wait(self, slot: int, rule: EffectiveRule, to_us: int, *, inclusive: bool, changes: Changes) -> None:
        """Let a rule wait for a device up to a time of acceptance."""
        patience_us = silence.patience_us(rule, self._period_of(slot))
        if patience_us is None or int(self._heard[slot]) == NEVER_US:
            return
        silent_from_us = int(self._heard[slot]) + patience_us
        episode = self._episodes.get(slot, {}).get(rule.rule.rule_id)
        if episode is not None:
            if rule.is_silence:
                outcome = silence.elapse(episode, rule, silent_from_us=silent_from_us, to_us=to_us, inclusive=inclusive)
                if outcome.episode is not episode:
                    self._settle(slot, rule, outcome, changes)
                    # Much time may have passed: the device may have been lost again since.
                    self._wait(slot, rule, to_us, inclusive=inclusive, changes=changes)
            return
        due_us = silent_from_us + rule.start_delay_us
        target = self._directory.target(self._ids[slot])
        if target is None or not self._is_here(slot, target):
            self._patience[slot] = silence.FAR_US
        elif due_us < to_us or (inclusive and due_us == to_us):
            began_us = silent_from_us
            if not rule.is_silence and int(self._judged[slot]) != NEVER_US:
                began_us = int(self._judged[slot]) + patience_us
            self._settle(slot, rule, silence.begin(rule, site_id=target.site_id, began_us=began_us), changes)

    def _is_here(self, slot: int, target: Target) -> bool:
        """Return whether the reports of a device still come in the partition that it was last known in."""
        return self._partition_of is None or self._partition_of(target.site_id) == int(self._partition[slot])

    def _waiting(self, slot: int) -> Sequence[EffectiveRule]:
        if int(self._shape[slot]) < 0 and not self._look_up(slot):
            return ()
        return self._shapes[int(self._shape[slot])].waiting(int(self._variant[slot]))

    def _set_patience(self, slot: int) -> None:
        """Note how long nothing may be heard of a device until the next of its rules raises an alarm."""
        if int(self._shape[slot]) < 0:
            return
        held = self._episodes.get(slot, {})
        period_s = self._period_of(slot)
        waiting = self._waiting(slot)
        left = [rule for rule in waiting if rule.rule.rule_id not in held]
        self._quiet[slot] = len(left) < len(waiting)
        self._patience[slot] = min((silence.raise_after_us(rule, period_s) for rule in left), default=silence.FAR_US)

    def _period_of(self, slot: int) -> float | None:
        period_s = float(self._period[slot])
        return None if np.isnan(period_s) else period_s

    # The partition's clock.

    def tick(self, partition: int, clock_us: int, changes: Changes, *, waited_us: int | None = None) -> None:
        """Move the partition's clock; delays that ran out without a further report take effect.

        Args:
            partition: Which.
            clock_us: Largest ``received_at`` seen in it. An earlier one changes nothing. [µs]
            changes: Collects what happened.
            waited_us: Until when all reports are in; absent is ``clock_us``. Whoever has not been heard until then is
                silent. [µs]
        """
        clock_us = max(clock_us, self._clocks.get(partition, NEVER_US))
        self._clocks[partition] = clock_us
        self._ticking_us = clock_us
        until_us = (clock_us if waited_us is None else min(waited_us, clock_us)) - self._limits.tick_grace_us
        for slot, rule_id in self._timers.setdefault(partition, _Timers()).due(clock_us, self._room(changes)):
            changes.looked += 1
            rule = self._rule(slot, rule_id)
            if slot in self._stale:
                self._reconsider(slot, changes)
            episode = self._episodes.get(slot, {}).get(rule_id)
            if episode is None or rule is None or int(self._partition[slot]) != partition:
                continue
            if rule.is_silence:
                self._wait(slot, rule, until_us, inclusive=True, changes=changes)
            else:
                passed_us = clock_us - int(self._received[slot]) - self._limits.tick_grace_us
                self._elapse(slot, rule, episode, int(self._judged[slot]) + passed_us, inclusive=True, changes=changes)
            if self.episode(self._ids[slot], rule_id) is not episode:
                continue
            if rule.is_silence:
                self._timers[partition].arm(slot, rule_id, clock_us + SECOND_US)
            else:
                self._arm(slot, rule, episode)
        self._scan(partition, clock_us, until_us, changes)
        self._ticking_us = None

    def _arm(self, slot: int, rule: EffectiveRule, episode: Episode) -> None:
        """Note when time alone changes the episode, on the partition's clock."""
        look_us = life.next_look_us(episode, rule)
        if look_us is None:
            return
        passed_us = 0
        if rule.is_silence:
            look_us = min(look_us, int(self._heard[slot]) + (silence.patience_us(rule, self._period_of(slot)) or 0))
        else:
            passed_us = int(self._received[slot]) - int(self._judged[slot])
        on_clock_us = look_us + passed_us + self._limits.tick_grace_us
        timers = self._timers.setdefault(int(self._partition[slot]), _Timers())
        timers.arm(slot, rule.rule.rule_id, on_clock_us)

    # What explains alarms, and what people do with them.

    def settle(self, partition: int, changes: Changes) -> list[Verdict]:
        """Tell of alarms that something explains since then, or that nothing explains any more.

        An alarm that is about to end is given the time to do so. What concerns findings of the platform is returned.
        """
        others: list[Verdict] = []
        for verdict in self._sites.settle(partition, self.clock_us(partition)):
            standing = verdict.standing
            if standing.finding:
                others.append(verdict)
                continue
            slot = self._slot_of[standing.device_id or ""]
            episode = self._episodes[slot][standing.rule_key]
            if verdict.inhibited_by is not None or episode.state is State.ACTIVE:
                rule = self._rule(slot, standing.rule_key)
                self._set_inhibited(slot, rule, standing.rule_key, episode, verdict.inhibited_by, changes)
        return others

    def is_explained(self, device_id: str, shutdown: Shutdown | None) -> bool:
        """Return whether an alarm of the device still says that the shutdown explains it."""
        slot = self._slot_of.get(device_id)
        if shutdown is None or slot is None:
            return False
        return any(one.inhibited_by == shutdown.reference for one in self._episodes.get(slot, {}).values())

    def standings(self, partitions: Collection[int]) -> Iterator[Standing]:
        """Yield the active alarms of partitions, as the second stage sees them."""
        for slot, episodes in self._episodes.items():
            if int(self._partition[slot]) in partitions:
                for rule_id, episode in episodes.items():
                    if episode.alarm_id is not None:
                        yield self._standing(slot, self._rule(slot, rule_id), rule_id, episode)

    def _standing(self, slot: int, rule: EffectiveRule | None, rule_id: str, episode: Episode) -> Standing:
        device_id = self._ids[slot]
        return Standing(
            alarm_id=episode.alarm_id or alarm_id_of(device_id, rule_id, episode.began_us),
            partition=int(self._partition[slot]),
            site_id=episode.site_id,
            device_id=device_id,
            rule_key=rule_id,
            level=episode.level,
            began_us=episode.began_us,
            raised_us=self._now_us(slot) if episode.raised_us is None else episode.raised_us,
            needs=frozenset() if rule is None else rule.rule.needs,
            takes=None if rule is None else rule.rule.takes,
            inhibited_by=episode.inhibited_by,
        )

    def dismiss(self, alarm_id: str, changes: Changes, *, actor: str, note: str | None) -> bool:
        """End an alarm because a person says so; return whether it was active here."""
        standing = self._sites.find(alarm_id)
        slot = None if standing is None else self._slot_of.get(standing.device_id or "")
        if standing is None or slot is None:
            return False
        episode = self._episodes.get(slot, {}).get(standing.rule_key)
        rule = self._rule(slot, standing.rule_key)
        if episode is None or episode.alarm_id != alarm_id:
            return False
        self._end(slot, standing.rule_key, episode, EndReason.MANUAL, rule, changes, actor=actor, note=note)
        dismissed = replace(
            episode, state=State.DISMISSED, since_us=episode.began_us, alarm_id=None, sequence=0, inhibited_by=None,
            raised_us=None, hold_us=0,
        )  # fmt: skip
        self._put(slot, standing.rule_key, dismissed if episode.state is State.ACTIVE else None, changes)
        return True

    def _set_inhibited(
        self,
        slot: int,
        rule: EffectiveRule | None,
        rule_id: str,
        episode: Episode,
        inhibited_by: str | None,
        changes: Changes,
    ) -> None:
        episode = replace(episode, inhibited_by=inhibited_by, sequence=episode.sequence + 1)
        self._sites.change(episode.alarm_id or "", level=episode.level, inhibited_by=inhibited_by)
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
        for slot in np.unique(there[self._shape[there] < 0]).tolist():
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
        self._heard = np.concatenate([self._heard, np.full(more, NEVER_US, dtype=np.int64)])
        self._patience = np.concatenate([self._patience, np.full(more, silence.FAR_US, dtype=np.int64)])
        self._quiet = np.concatenate([self._quiet, np.zeros(more, dtype=bool)])
        self._period = np.concatenate([self._period, np.full(more, np.nan)])
        self._rated = np.concatenate([self._rated, np.full(more, np.nan)])

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
        self._variant[slot] = variant = self._shapes[number].variant(rules)
        if not self._shapes[number].remembers(variant) and self._memory.forget([slot]):
            self._forgotten.add(slot)
        self._period[slot] = np.nan if target.period_s is None else target.period_s
        self._rated[slot] = np.nan if target.rated_current_a is None else target.rated_current_a
        self._set_patience(slot)
        if slot in self._episodes:
            self._stale.add(slot)
        return True

    def _rule(self, slot: int, rule_id: str) -> EffectiveRule | None:
        """Return the rule that holds for a device, None when there is none any more."""
        if int(self._shape[slot]) < 0 and not self._look_up(slot):
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
                [reports.points[row] for row in picked],
                [reports.bad[row] for row in picked],
                self._rated[slots[chosen]],
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
        if int(self._shape[slot]) >= 0 and any(one.rule.rule_id == rule_id for one in self._waiting(slot)):
            self._set_patience(slot)

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
            column, value = life.worst(rule.rule.comparison, rule.threshold, episode.values)
            point = None if column is None else point_of(column)
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
            received_us=self._now_us(slot),
            flapping=episode.hold_us > 0,
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
