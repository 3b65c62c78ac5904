"""From the registers of a circuit's meters to one corrected, cumulative energy.

A register is what the meter shows. It may wrap, be reset, glitch, jump, or be replaced with its meter;
each of these has a defined answer, and energy that cannot be known is unknown, never zero. Everything is
recomputed from the stored registers, so that the answer depends on the readings alone and not on the
order in which they came.

What is called energy here may be a volume or a mass as well, in the unit of its medium (``domain/media.py``).

A meter that has no register and tells its power is integrated by trapezoids, pair by pair; one that tells what was
used within intervals of its own has these added up.

Source:
    The method follows ISO 50001 metering practice as described in the platform's energy methods,
    section 1.1: rollover is tested before glitch, glitch before reset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
GradeArray = NDArray[np.int8]

HEADROOM = 1.2
"""A meter may pass this multiple of the circuit's rated power before a step counts as impossible."""
COUNT_KWH = 0.01
"""Resolution of a register that shows two decimals. [kWh]"""
FLOAT32_STEP = 2.0**-22
"""Registers read as 32-bit floats move in steps of this share of their value."""
NEAR_END = 0.8
"""From this share of its modulus on a register is near enough to its end to have wrapped."""
GLITCH_SLACK = 1e-12
"""Two counts that were subtracted as floats may come out as a little more than two counts."""
POWER_GAP_S = 1800.0
"""Two readings of power that lie further apart say nothing of what was used between them. [s]"""
PERIOD_SLACK = 0.1
"""Within this share of its length an interval of a device may end too early or too late."""
INTERPOLATED = np.int8(1)
"""``intervals.Grade.INTERPOLATED``: what was divided by time."""
CONFIRMATIONS = 3
"""So many readings that agree with each other overrule a base they all contradict."""


class FindingKind(StrEnum):
    """What was wrong with a register."""

    SPIKE = "spike"
    GLITCH = "glitch"
    ROLLOVER = "rollover"
    RESET = "reset"
    UNEXPLAINED_DECREASE = "unexplained_decrease"
    IMPOSSIBLE_JUMP = "impossible_jump"
    OUT_OF_RANGE = "out_of_range"
    """Below zero, or a value that the register cannot show."""
    SUM_DIFFERS = "sum_differs"
    """The intervals that a meter told of a day are not what its register counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One deviation, for the data alarm and for the trace of a figure."""

    kind: FindingKind
    at: float
    """Time of the reading. [s since the epoch]"""
    previous_kwh: float
    shown_kwh: float


@dataclass(frozen=True, slots=True)
class Series:
    """The registers of one meter while it measured one circuit."""

    at: FloatArray
    """Source times, rising. Shape (n,). [s since the epoch]"""
    shown_kwh: FloatArray
    """What the register showed, before any ratio. Shape (n,). [kWh]"""
    ratio: float = 1.0
    """CT times PT where the meter has not applied them; else 1."""
    modulus_kwh: float | None = None
    """First value that the register cannot show; None when unknown, and then nothing wraps. [kWh]"""
    rated_kw: float | None = None
    """Rated power behind the meter; None when unknown, and then no step is impossible. [kW]"""
    resets: tuple[float, ...] = ()
    """Times at which a reset of the register is on record. [s since the epoch]"""
    count_kwh: float = COUNT_KWH
    """What the last digit of the register stands for. [kWh]"""
    best: GradeArray | None = None
    """How well a boundary beside each reading can be known at best (``intervals.Grade``); None: measured. (n,)"""
    is_power: bool = False
    """Whether the numbers are mean power in kW, of a meter that has no register."""
    period_s: float | None = None
    """Each number is what was used within so long until its time, of a meter that has no register; else None. [s]"""
    since: float = -np.inf
    """Such an interval begins here at the earliest. [s since the epoch]"""


@dataclass(frozen=True, slots=True)
class Cumulative:
    """Energy since the first reading, known within runs and unknown between them."""

    at: FloatArray
    """Times of the accepted readings, rising. Shape (m,). [s since the epoch]"""
    energy_kwh: FloatArray
    """Corrected cumulative energy, never falling within a run. Shape (m,). [kWh]"""
    run: IntArray
    """Number of the run a reading belongs to; energy between two runs is unknown. Shape (m,)."""
    lower_bound: BoolArray
    """Whether the step that ends at this reading is only a lower bound (after a reset). Shape (m,)."""
    best: GradeArray
    """How well a boundary beside this reading can be known at best. Shape (m,)."""
    findings: tuple[Finding, ...]


def accumulate(series: Sequence[Series]) -> Cumulative:
    """Chain the meters of one circuit into one cumulative energy.

    Meters follow each other in time. Where the old meter's final and the new one's initial register were
    recorded, they are readings at the instant of the exchange, and the energy bridges it; where they were
    not, the energy of the gap is unknown.

    Args:
        series: The circuit's meters in the order in which they served.

    Returns:
        The corrected energy; empty when there is no reading.
    """
    parts: list[Cumulative] = []
    base_kwh = 0.0
    next_run = 0
    for one in series:
        part = _correct(one)
        if not part.at.size:
            continue
        bridged = bool(parts) and parts[-1].at[-1] == part.at[0]
        shift = next_run - (1 if bridged else 0)
        energy = part.energy_kwh + base_kwh
        run = part.run + shift
        if bridged:  # the two registers of the exchange are one instant: keep one
            part = Cumulative(
                part.at[1:], part.energy_kwh[1:], part.run[1:], part.lower_bound[1:], part.best[1:], part.findings
            )
            energy, run = energy[1:], run[1:]
        parts.append(Cumulative(part.at, energy, run, part.lower_bound, part.best, part.findings))
        if energy.size:
            base_kwh = float(energy[-1])
            next_run = int(run[-1]) + 1
    if not parts:
        empty = np.empty(0)
        return Cumulative(empty, empty, np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.int8), ())
    return Cumulative(
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.energy_kwh for part in parts]),
        np.concatenate([part.run for part in parts]),
        np.concatenate([part.lower_bound for part in parts]),
        np.concatenate([part.best for part in parts]),
        tuple(finding for part in parts for finding in part.findings),
    )


def _correct(series: Series) -> Cumulative:
    """Correct one meter's registers: all at once where nothing is wrong, one by one where something is."""
    if series.is_power:
        return _integrated(series)
    if series.period_s is not None:
        return _added(series, series.period_s)
    possible = (series.shown_kwh >= 0.0) & (series.shown_kwh < (series.modulus_kwh or np.inf))
    impossible: tuple[Finding, ...] = ()
    if not possible.all():
        impossible = tuple(
            Finding(
                FindingKind.OUT_OF_RANGE, float(series.at[i]), float(series.shown_kwh[i]), float(series.shown_kwh[i])
            )
            for i in np.flatnonzero(~possible)
        )
        best = None if series.best is None else series.best[possible]
        series = replace(series, at=series.at[possible], shown_kwh=series.shown_kwh[possible], best=best)
    plain = _plain(series)
    if plain.all():
        size = series.at.size
        energy = (series.shown_kwh - series.shown_kwh[:1]) * series.ratio
        no = np.zeros(size, np.bool_)
        return Cumulative(series.at, energy, np.zeros(size, np.int64), no, _best(series), impossible)
    found = _Corrector(series).run()
    return replace(found, findings=(*impossible, *found.findings)) if impossible else found


def _integrated(series: Series) -> Cumulative:
    """Return the energy under a meter's power; what flows back is no use, and a long silence is unknown."""
    power_kw = np.maximum(series.shown_kwh, 0.0) * series.ratio
    seconds = np.diff(series.at)
    silent = seconds > POWER_GAP_S
    steps = np.where(silent, 0.0, (power_kw[1:] + power_kw[:-1]) / 2.0 * seconds / 3600.0)
    head = min(series.at.size, 1)
    return Cumulative(
        series.at,
        np.concatenate([np.zeros(head), np.cumsum(steps)]),
        np.concatenate([np.zeros(head, np.int64), np.cumsum(silent, dtype=np.int64)]),
        np.zeros(series.at.size, np.bool_),
        _best(series),
        (),
    )


def _added(series: Series, period_s: float) -> Cumulative:
    """Return the sum of the intervals that a meter tells; what lies between two that do not meet is unknown.

    Of one that overlaps the one before it only the rest counts, by time: most of it was counted already.
    """
    most = np.inf
    if series.rated_kw is not None:
        most = HEADROOM * series.rated_kw * period_s / 3600.0 + 2.0 * series.count_kwh
    told = series.shown_kwh * series.ratio
    kept = (told >= 0.0) & (told <= most)
    findings = tuple(
        Finding(
            FindingKind.OUT_OF_RANGE if told[i] < 0.0 else FindingKind.SPIKE,
            float(series.at[i]),
            float(series.shown_kwh[i]),
            float(series.shown_kwh[i]),
        )
        for i in np.flatnonzero(~kept)
    )
    at, told, best = series.at[kept], told[kept], _best(series)[kept]
    since = np.diff(at, prepend=-np.inf)
    apart = since > (1.0 + PERIOD_SLACK) * period_s
    overlaps = since < (1.0 - PERIOD_SLACK) * period_s
    steps = told * np.where(overlaps, since / period_s, 1.0)
    best = np.where(overlaps, np.maximum(best, INTERPOLATED), best).astype(np.int8)
    energy, run = np.cumsum(steps), np.cumsum(apart) - 1
    first = np.flatnonzero(apart)
    return Cumulative(
        np.insert(at, first, np.maximum(at[first] - period_s, series.since)),
        np.insert(energy, first, np.append(0.0, energy)[first]),
        np.insert(run, first, run[first]),
        np.zeros(at.size + first.size, np.bool_),
        np.insert(best, first, best[first]),
        findings,
    )


def _best(series: Series) -> GradeArray:
    return np.zeros(series.at.size, np.int8) if series.best is None else series.best


def _plain(series: Series) -> BoolArray:
    """Return for every reading but the first whether its step from the one before it is possible. Shape (n - 1,)."""
    steps = np.diff(series.shown_kwh)
    plain = steps >= 0.0
    if series.rated_kw is None:
        return plain
    hours = np.diff(series.at) / 3600.0
    slack = np.maximum(2.0 * series.count_kwh, series.shown_kwh[1:] * FLOAT32_STEP)
    return plain & (steps <= HEADROOM * series.rated_kw * hours / series.ratio + slack)


class _Corrector:
    """Walks one meter's registers and decides on each; see the module's source for the order of tests.

    Stretches in which nothing is wrong are taken at once, so that a glitch in a month costs a glitch.
    """

    def __init__(self, series: Series) -> None:
        self._series = series
        size = series.at.size
        self._kept = np.empty(size, np.int64)
        """Accepted readings, by their place in the series; the first ``_count`` count."""
        self._energy = np.empty(size)
        self._run = np.empty(size, np.int64)
        self._lower = np.zeros(size, np.bool_)
        self._count = 0
        self._findings: list[Finding] = []
        self._base: int = 0
        self._doubted: list[int] = []
        """Readings that contradict the base and wait for company or for the base to be confirmed."""

    def run(self) -> Cumulative:
        size = self._series.at.size
        if size:
            self._accept(0, 0.0)
        odd = np.append(np.flatnonzero(~_plain(self._series)) + 1, size)
        i = 1
        while i < size:
            if self._base == i - 1:
                end = int(odd[np.searchsorted(odd, i)])
                if end > i:
                    self._accept_all(i, end)
                    i = end
                    continue
            self._judge(i)
            i += 1
        kept = self._kept[: self._count]
        return Cumulative(
            self._series.at[kept],
            self._energy[: self._count],
            self._run[: self._count],
            self._lower[: self._count],
            _best(self._series)[kept],
            tuple(self._findings),
        )

    def _judge(self, i: int) -> None:
        shown = self._series.shown_kwh
        step = float(shown[i] - shown[self._base])
        largest = self._largest(self._base, i)
        if 0.0 <= step <= largest:
            self._doubted.clear()
            self._accept(i, step)
        elif step < 0.0 and self._wraps(step, largest):
            self._note(FindingKind.ROLLOVER, i)
            self._doubted.clear()
            self._accept(i, step + (self._series.modulus_kwh or 0.0))
        elif step < 0.0 and not self._reset_on_record(i) and self._may_be_glitch(i, step):
            self._note(FindingKind.GLITCH, i)
        elif step < 0.0 and (self._reset_on_record(i) or self._may_be_reset(i, largest)):
            self._note(FindingKind.RESET, i)
            self._doubted.clear()
            self._accept(i, float(shown[i]), lower_bound=True)
        else:
            self._doubt(i, FindingKind.UNEXPLAINED_DECREASE if step < 0.0 else FindingKind.SPIKE)

    def _doubt(self, i: int, kind: FindingKind) -> None:
        """Set a reading aside; when several agree with each other, they are the new truth and the gap is unknown."""
        if self._doubted and not self._agree(self._doubted[-1], i):
            self._doubted.clear()
        self._doubted.append(i)
        if len(self._doubted) < CONFIRMATIONS:
            self._note(kind, i)
            return
        first, *rest = self._doubted
        self._doubted = []
        self._note(FindingKind.IMPOSSIBLE_JUMP if kind is FindingKind.SPIKE else kind, first)
        self._accept(first, 0.0, new_run=True)
        for j in rest:
            self._accept(j, float(self._series.shown_kwh[j] - self._series.shown_kwh[self._base]))

    def _accept(self, i: int, step: float, *, new_run: bool = False, lower_bound: bool = False) -> None:
        at = self._count
        self._kept[at] = i
        self._energy[at] = (self._energy[at - 1] if at else 0.0) + step * self._series.ratio
        self._run[at] = (self._run[at - 1] if at else 0) + new_run
        self._lower[at] = lower_bound
        self._count = at + 1
        self._base = i

    def _accept_all(self, start: int, end: int) -> None:
        """Accept the readings of ``[start, end)``, each of which follows plainly from the one before it."""
        at, shown = self._count, self._series.shown_kwh
        until = at + end - start
        self._kept[at:until] = np.arange(start, end)
        self._energy[at:until] = self._energy[at - 1] + (shown[start:end] - shown[start - 1]) * self._series.ratio
        self._run[at:until] = self._run[at - 1]
        self._count = until
        self._base = end - 1

    def _largest(self, i: int, j: int) -> float:
        """Return the largest step that the circuit can make between two readings. [kWh as shown]"""
        if self._series.rated_kw is None:
            return np.inf
        hours = (self._series.at[j] - self._series.at[i]) / 3600.0
        slack = max(2.0 * self._series.count_kwh, float(self._series.shown_kwh[j]) * FLOAT32_STEP)
        return float(HEADROOM * self._series.rated_kw * hours / self._series.ratio + slack)

    def _agree(self, i: int, j: int) -> bool:
        step = self._series.shown_kwh[j] - self._series.shown_kwh[i]
        return bool(0.0 <= step <= self._largest(i, j))

    def _wraps(self, step: float, largest: float) -> bool:
        """Return whether a fall is a rollover.

        Whatever fits a rollover fits a reset too, since it shows less than the circuit can use; so a rollover is
        believed only of a register that was near its end.
        """
        modulus = self._series.modulus_kwh
        if modulus is None or largest >= modulus:  # more than one wrap could hide in the gap
            return False
        near_end = self._series.shown_kwh[self._base] >= NEAR_END * modulus
        return bool(near_end and step + modulus <= largest)

    def _may_be_glitch(self, i: int, step: float) -> bool:
        base = float(self._series.shown_kwh[self._base])
        if abs(step) > max(2.0 * self._series.count_kwh, 1e-4 * base) + GLITCH_SLACK * base:
            return False
        following = i + 1
        return following >= self._series.at.size or bool(self._series.shown_kwh[following] >= base)

    def _may_be_reset(self, i: int, largest: float) -> bool:
        """Return whether a fall may be a reset: all that is shown can have been used since.

        Where the register can have wrapped any number of times, nothing is known.
        """
        modulus = self._series.modulus_kwh
        return bool(self._series.shown_kwh[i] <= largest < (np.inf if modulus is None else modulus))

    def _reset_on_record(self, i: int) -> bool:
        start, end = self._series.at[self._base], self._series.at[i]
        return any(start < at <= end for at in self._series.resets)

    def _note(self, kind: FindingKind, i: int) -> None:
        shown = self._series.shown_kwh
        self._findings.append(Finding(kind, float(self._series.at[i]), float(shown[self._base]), float(shown[i])))
