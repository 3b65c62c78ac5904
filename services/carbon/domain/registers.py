"""From the registers of a circuit's meters to one corrected, cumulative energy.

A register is what the meter shows. It may wrap, be reset, glitch, jump, or be replaced with its meter;
each of these has a defined answer, and energy that cannot be known is unknown, never zero. Everything is
recomputed from the stored registers, so that the answer depends on the readings alone and not on the
order in which they came.

Source:
    The method follows ISO 50001 metering practice as described in the platform's energy methods,
    section 1.1: rollover is tested before glitch, glitch before reset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

HEADROOM = 1.2
"""A meter may pass this multiple of the circuit's rated power before a step counts as impossible."""
COUNT_KWH = 0.01
"""Resolution of a register that shows two decimals. [kWh]"""
FLOAT32_STEP = 2.0**-22
"""Registers read as 32-bit floats move in steps of this share of their value."""
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
            part = Cumulative(part.at[1:], part.energy_kwh[1:], part.run[1:], part.lower_bound[1:], part.findings)
            energy, run = energy[1:], run[1:]
        parts.append(Cumulative(part.at, energy, run, part.lower_bound, part.findings))
        if energy.size:
            base_kwh = float(energy[-1])
            next_run = int(run[-1]) + 1
    if not parts:
        empty = np.empty(0)
        return Cumulative(empty, empty, np.empty(0, np.int64), np.empty(0, np.bool_), ())
    return Cumulative(
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.energy_kwh for part in parts]),
        np.concatenate([part.run for part in parts]),
        np.concatenate([part.lower_bound for part in parts]),
        tuple(finding for part in parts for finding in part.findings),
    )


def _correct(series: Series) -> Cumulative:
    """Correct one meter's registers: all at once where nothing is wrong, one by one where something is."""
    steps = np.diff(series.shown_kwh)
    if np.all(steps >= 0.0) and np.all(steps <= _largest_steps(series)):
        size = series.at.size
        energy = (series.shown_kwh - series.shown_kwh[:1]) * series.ratio
        return Cumulative(series.at, energy, np.zeros(size, np.int64), np.zeros(size, np.bool_), ())
    return _Corrector(series).run()


def _largest_steps(series: Series) -> FloatArray | float:
    if series.rated_kw is None:
        return np.inf
    hours = np.diff(series.at) / 3600.0
    slack = np.maximum(2.0 * COUNT_KWH, series.shown_kwh[1:] * FLOAT32_STEP)
    return HEADROOM * series.rated_kw * hours / series.ratio + slack


class _Corrector:
    """Walks one meter's registers and decides on each; see the module's source for the order of tests."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._at: list[float] = []
        self._energy: list[float] = []
        self._run: list[int] = []
        self._lower: list[bool] = []
        self._findings: list[Finding] = []
        self._base: int = 0
        self._doubted: list[int] = []
        """Readings that contradict the base and wait for company or for the base to be confirmed."""

    def run(self) -> Cumulative:
        if self._series.at.size:
            self._accept(0, 0.0, new_run=False)
        for i in range(1, self._series.at.size):
            self._judge(i)
        return Cumulative(
            np.array(self._at),
            np.array(self._energy),
            np.array(self._run, np.int64),
            np.array(self._lower, np.bool_),
            tuple(self._findings),
        )

    def _judge(self, i: int) -> None:
        shown = self._series.shown_kwh
        step = shown[i] - shown[self._base]
        largest = self._largest(self._base, i)
        if 0.0 <= step <= largest:
            self._doubted.clear()
            self._accept(i, step)
        elif step < 0.0 and self._wraps(i, step, largest):
            self._note(FindingKind.ROLLOVER, i)
            self._doubted.clear()
            self._accept(i, step + (self._series.modulus_kwh or 0.0))
        elif step < 0.0 and not self._reset_on_record(i) and self._may_be_glitch(i, step):
            self._note(FindingKind.GLITCH, i)
        elif step < 0.0 and (self._reset_on_record(i) or shown[i] <= largest < np.inf):
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
        before = self._energy[-1] if self._energy else 0.0
        run = self._run[-1] if self._run else 0
        self._at.append(float(self._series.at[i]))
        self._energy.append(before + step * self._series.ratio)
        self._run.append(run + 1 if new_run else run)
        self._lower.append(lower_bound)
        self._base = i

    def _largest(self, i: int, j: int) -> float:
        """Return the largest step that the circuit can make between two readings. [kWh as shown]"""
        if self._series.rated_kw is None:
            return np.inf
        hours = (self._series.at[j] - self._series.at[i]) / 3600.0
        slack = max(2.0 * COUNT_KWH, float(self._series.shown_kwh[j]) * FLOAT32_STEP)
        return float(HEADROOM * self._series.rated_kw * hours / self._series.ratio + slack)

    def _agree(self, i: int, j: int) -> bool:
        step = self._series.shown_kwh[j] - self._series.shown_kwh[i]
        return bool(0.0 <= step <= self._largest(i, j))

    def _wraps(self, i: int, step: float, largest: float) -> bool:
        modulus = self._series.modulus_kwh
        if modulus is None or largest >= modulus:  # more than one wrap could hide in the gap
            return False
        near_end = self._series.shown_kwh[self._base] >= 0.8 * modulus
        return step + modulus <= largest and (near_end or not self._reset_on_record(i))

    def _may_be_glitch(self, i: int, step: float) -> bool:
        base = float(self._series.shown_kwh[self._base])
        if abs(step) > max(2.0 * COUNT_KWH, 1e-4 * base):
            return False
        following = i + 1
        return following >= self._series.at.size or bool(self._series.shown_kwh[following] >= base)

    def _reset_on_record(self, i: int) -> bool:
        start, end = self._series.at[self._base], self._series.at[i]
        return any(start < at <= end for at in self._series.resets)

    def _note(self, kind: FindingKind, i: int) -> None:
        shown = self._series.shown_kwh
        self._findings.append(Finding(kind, float(self._series.at[i]), float(shown[self._base]), float(shown[i])))
