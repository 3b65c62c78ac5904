"""Compares what was said with what is held: pure, so that it can be shown to find every kind of mistake.

What is demanded:

* a report that was acknowledged is in the history, once, with its time and its values;
* a polled value that was answered while nothing was disturbed is in the history, once;
* nothing is in the history that was never sent;
* what was refused is on record, and nothing is on record that was not wrong;
* the loss that is shown for each device and hour is what is missing in the history.

Source:
    contracts.md 4.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from libs.suite.soak.journal import Answer, Entry, Wrong, number_of

UNDER_WAY = timedelta(seconds=6)
"""A polled value needs so long at most from the device to the bus or the spool; one that was younger when ingest was
killed or its line was cut may be lost with it."""
ARRIVES_WITHIN = timedelta(seconds=15)
"""From being served to being dated: the time limits of a line with room for a busy machine."""
EARLY = timedelta(milliseconds=50)
"""Two clocks of one machine, read in two processes."""
SAME = 1e-6
ASKED_AGAIN_SHARE = 0.5
"""A device asked again within this part of its period was asked because the answer had not come. [1]"""
SLOTS_UNSURE = 2
"""Slots at the ends of a stretch that may count or not. [1]"""
MARKER = re.compile(r"soak-wrong-\d{6}-")


class Fault(StrEnum):
    """Kinds of discrepancies."""

    MISSING = "missing"
    DOUBLED = "doubled"
    NEVER_SENT = "never sent"
    WRONG_VALUE = "wrong value"
    WRONG_TIME = "wrong time"
    REFUSAL_UNRECORDED = "refusal not on record"
    REFUSAL_UNEXPLAINED = "refusal unexplained"
    REFUSED_THOUGH_RIGHT = "refused though right"
    TAKEN_THOUGH_WRONG = "taken though wrong"
    LOSS_MISCOUNTED = "loss not on record"
    NOT_DRAINED = "not drained"
    ENDED = "ended by itself"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something that is not as it has to be."""

    device_id: str
    at: datetime
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class Held:
    """A row of the history."""

    device_id: str
    source_time: datetime
    received_at: datetime
    points: Mapping[str, float | None]
    moved: bool = False
    """It stands under its arrival, because another one has its time."""


@dataclass(frozen=True, slots=True)
class Record:
    """Something in the record of refusals."""

    received_at: datetime
    reason: str
    source: str
    text: str
    """Its bytes, as text."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What the platform shows for a device and an hour."""

    device_id: str
    start: datetime
    expected: int
    received: int


@dataclass(frozen=True, slots=True)
class Duty:
    """How often a device is to report, and since when."""

    device_id: str
    period_s: float
    since: datetime


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A stretch in which what is served may be lost."""

    begins: datetime
    ends: datetime
    devices: frozenset[str] | None = None
    """None: all."""

    def excuses(self, entry: Entry) -> bool:
        """Return whether a served value may be missing for it."""
        concerned = self.devices is None or entry.device_id in self.devices
        return concerned and self.begins - UNDER_WAY <= entry.at <= self.ends


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is compared."""

    entries: Sequence[Entry]
    wrongs: Sequence[Wrong]
    disturbances: Sequence[Disturbance]
    duties: Sequence[Duty]
    held: Sequence[Held]
    records: Sequence[Record]
    hours: Sequence[Hour]
    until: datetime
    """When the hours were asked for."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the reports of one device."""

    device_id: str
    said: int
    accepted: int
    held: int
    excused: int
    """Served, and lost with whoever was asking: killed, cut off, or asked again."""
    unsent: int
    unanswered: int
    missing_slots: int
    """By the platform's own account."""


@dataclass(slots=True)
class Verdict:
    """What the comparison found."""

    discrepancies: list[Discrepancy] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    refusals: int = 0
    """Refused and on record."""

    def add(self, device_id: str, at: datetime, fault: Fault, detail: str) -> None:
        """Name a discrepancy."""
        self.discrepancies.append(Discrepancy(device_id, at, fault, detail))


def judge(evidence: Evidence) -> Verdict:
    """Return everything that is not as it has to be, and figures for each device."""
    verdict = Verdict()
    rows = _by_entry(evidence, verdict)
    devices: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        devices[entry.device_id].append(entry)
    periods = {duty.device_id: duty.period_s for duty in evidence.duties}
    missing_slots: Counter[str] = Counter()
    for hour in evidence.hours:
        missing_slots[hour.device_id] += max(hour.expected - hour.received, 0)
    for device_id, entries in sorted(devices.items()):
        entries.sort(key=lambda entry: entry.number)
        excused = _judge_device(entries, rows, evidence.disturbances, periods.get(device_id), verdict)
        answers = Counter(entry.answer for entry in entries)
        verdict.figures.append(
            Figures(
                device_id=device_id,
                said=len(entries),
                accepted=answers[Answer.ACCEPTED],
                held=sum(len(rows.get((device_id, entry.number), ())) for entry in entries),
                excused=excused,
                unsent=answers[Answer.UNSENT],
                unanswered=answers[Answer.NONE],
                missing_slots=missing_slots[device_id],
            )
        )
    _judge_refusals(evidence, verdict)
    _judge_losses(evidence, verdict)
    verdict.discrepancies.sort(key=lambda one: (one.device_id, one.at))
    return verdict


def _by_entry(evidence: Evidence, verdict: Verdict) -> Mapping[tuple[str, int], list[Held]]:
    """Return the rows of each report, and name those of no report."""
    known = {(entry.device_id, entry.number) for entry in evidence.entries}
    rows: defaultdict[tuple[str, int], list[Held]] = defaultdict(list)
    for row in evidence.held:
        number = number_of(row.points)
        if number is None or (row.device_id, number) not in known:
            verdict.add(row.device_id, row.source_time, Fault.NEVER_SENT, f"history holds {dict(row.points)}")
        else:
            rows[row.device_id, number].append(row)
    return rows


def _judge_device(
    entries: Sequence[Entry],
    rows: Mapping[tuple[str, int], list[Held]],
    disturbances: Sequence[Disturbance],
    period_s: float | None,
    verdict: Verdict,
) -> int:
    """Judge the reports of one device; return how many that were served are excused."""
    excused = 0
    for place, entry in enumerate(entries):
        found = rows.get((entry.device_id, entry.number), ())
        following = entries[place + 1] if place + 1 < len(entries) else None
        if not found and entry.answer is Answer.ACCEPTED:
            if entry.served and (
                any(one.excuses(entry) for one in disturbances) or _was_asked_again(entry, following, period_s)
            ):
                excused += 1
            else:
                how = "was answered and nothing was disturbed" if entry.served else "was acknowledged"
                verdict.add(entry.device_id, entry.at, Fault.MISSING, f"report {entry.number} {how}")
        if entry.refused is not None:
            verdict.add(
                entry.device_id, entry.at, Fault.REFUSED_THOUGH_RIGHT, f"report {entry.number}: {entry.refused}"
            )
        if found and entry.answer is Answer.UNSENT:
            verdict.add(entry.device_id, entry.at, Fault.NEVER_SENT, f"report {entry.number} never left its device")
        if len(found) > 1:
            times = ", ".join(row.source_time.isoformat() for row in found)
            verdict.add(entry.device_id, entry.at, Fault.DOUBLED, f"report {entry.number} is held at {times}")
        for row in found:
            _judge_row(entry, row, verdict)
    return excused


def _was_asked_again(entry: Entry, following: Entry | None, period_s: float | None) -> bool:
    if following is None or period_s is None:
        return False
    return following.at - entry.at < timedelta(seconds=ASKED_AGAIN_SHARE * period_s)


def _judge_row(entry: Entry, row: Held, verdict: Verdict) -> None:
    for name, value in entry.points.items():
        shown = row.points.get(name)
        if shown is None or abs(shown - value) > SAME * max(1.0, abs(value)):
            detail = f"report {entry.number}: {name} is {shown}, {value} was sent"
            verdict.add(entry.device_id, entry.at, Fault.WRONG_VALUE, detail)
    if entry.served:
        right = entry.at - EARLY <= row.source_time <= entry.at + ARRIVES_WITHIN
    elif row.moved:
        right = entry.has_twin
    else:
        right = row.source_time == entry.at
    if not right:
        detail = f"report {entry.number} is held at {row.source_time.isoformat()}"
        verdict.add(entry.device_id, entry.at, Fault.WRONG_TIME, detail)


def _judge_refusals(evidence: Evidence, verdict: Verdict) -> None:
    recorded: Counter[str] = Counter()
    wrongs = {wrong.marker: wrong for wrong in evidence.wrongs}
    for record in evidence.records:
        markers = [marker for marker in MARKER.findall(record.text) if marker in wrongs]
        if not markers:
            detail = f"{record.reason}: {record.text[:200]}"
            verdict.add(record.source, record.received_at, Fault.REFUSAL_UNEXPLAINED, detail)
        recorded.update(set(markers))
    for wrong in evidence.wrongs:
        count = recorded[wrong.marker]
        if wrong.taken:
            verdict.add(wrong.device_id, wrong.at, Fault.TAKEN_THOUGH_WRONG, f"{wrong.what} ({wrong.marker})")
        if wrong.refused and not count:
            verdict.add(wrong.device_id, wrong.at, Fault.REFUSAL_UNRECORDED, f"{wrong.what} ({wrong.marker})")
        elif count > wrong.attempts and not wrong.is_redelivered:
            detail = f"{wrong.what} ({wrong.marker}) was sent {wrong.attempts} times and is on record {count} times"
            verdict.add(wrong.device_id, wrong.at, Fault.REFUSAL_UNEXPLAINED, detail)
        verdict.refusals += bool(count)


def _judge_losses(evidence: Evidence, verdict: Verdict) -> None:
    """Compare the platform's account of each hour with the rows that are there and with the slots that there were."""
    held = Counter((row.device_id, _hour(row.source_time)) for row in evidence.held)
    shown = {(hour.device_id, hour.start): hour for hour in evidence.hours}
    for duty in evidence.duties:
        for start in _hours(duty.since, evidence.until):
            begins, ends = max(start, duty.since), min(start + timedelta(hours=1), evidence.until)
            slots = (ends - begins).total_seconds() / duty.period_s
            hour = shown.get((duty.device_id, start))
            count = held[duty.device_id, start]
            if hour is None:
                if slots > SLOTS_UNSURE:
                    detail = f"{count} of {slots:.0f} reports are held, and nothing is shown"
                    verdict.add(duty.device_id, start, Fault.LOSS_MISCOUNTED, detail)
                continue
            if hour.received != count:
                detail = f"{count} reports are held, {hour.received} are shown as received"
                verdict.add(duty.device_id, start, Fault.LOSS_MISCOUNTED, detail)
            if abs(hour.expected - slots) > SLOTS_UNSURE:
                detail = f"{hour.expected} reports are shown as expected, there were {slots:.1f} slots"
                verdict.add(duty.device_id, start, Fault.LOSS_MISCOUNTED, detail)


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def _hours(since: datetime, until: datetime) -> Iterable[datetime]:
    start = _hour(since)
    while start < until:
        yield start
        start += timedelta(hours=1)
