"""What is written into the books: registers as they came, and versions of intervals.

An interval is booked when its end is known to be past, and again, as a new version, when late data change
it; the version before stays. A running interval is shown as provisional and never booked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

import numpy as np

from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.intervals import STEP_S, Grade, Intervals
from services.carbon.domain.registers import Cumulative, Series

TOLERANCE_KWH = 1e-9
"""Two computations of one interval that differ by less are the same. [kWh]"""


@dataclass(frozen=True, slots=True)
class RegisterReading:
    """One register as a meter showed it."""

    device_id: DeviceId
    point: str
    source_time: datetime
    received_at: datetime
    shown: float
    """As on the display, before any ratio. [kWh]"""
    ratio: float
    """What it has to be multiplied with. [1]"""
    uncertain: bool


@dataclass(frozen=True, slots=True)
class BookedInterval:
    """One version of one interval of one circuit."""

    circuit_id: CircuitId
    site_id: SiteId
    start: datetime
    step_s: int
    version: int
    energy_kwh: float | None
    """None where it is unknown, which is not zero. [kWh]"""
    grade: Grade
    lower_bound: bool
    uncertain: bool
    """Whether a register behind it was flagged uncertain."""
    computed_at: datetime

    def same_as(self, other: "BookedInterval") -> bool:
        """Return whether both say the same about the interval."""
        if (self.grade, self.lower_bound, self.uncertain) != (other.grade, other.lower_bound, other.uncertain):
            return False
        if self.energy_kwh is None or other.energy_kwh is None:
            return self.energy_kwh is other.energy_kwh
        return abs(self.energy_kwh - other.energy_kwh) <= TOLERANCE_KWH


@dataclass(frozen=True, slots=True)
class Binding:
    """When a meter measured a circuit, and what its register showed when it began and ended."""

    device_id: DeviceId
    valid_from: datetime
    valid_to: datetime | None
    initial_register: float | None
    final_register: float | None
    modulus_kwh: float | None = None


def series_of(
    binding: Binding, rows: Sequence[tuple[datetime, float, float, bool]], rated_kw: float | None
) -> list[Series]:
    """Cut one meter's registers where its ratio changed; no difference is taken across a change.

    Args:
        binding: When it measured the circuit.
        rows: (time, shown [kWh], ratio, uncertain), rising in time.
        rated_kw: Rated power of the circuit. [kW]
    """
    inside = [
        (at.timestamp(), shown, ratio)
        for at, shown, ratio, _ in rows
        if at >= binding.valid_from and (binding.valid_to is None or at <= binding.valid_to)
    ]
    if not inside:
        return []
    if binding.initial_register is not None and inside[0][0] > binding.valid_from.timestamp():
        inside.insert(0, (binding.valid_from.timestamp(), binding.initial_register, inside[0][2]))
    end = None if binding.valid_to is None else binding.valid_to.timestamp()
    if end is not None and binding.final_register is not None and inside[-1][0] < end:
        inside.append((end, binding.final_register, inside[-1][2]))
    found = []
    for ratio, group in groupby(inside, key=lambda row: row[2]):
        part = list(group)
        found.append(
            Series(
                at=np.array([row[0] for row in part]),
                shown_kwh=np.array([row[1] for row in part]),
                ratio=ratio,
                modulus_kwh=binding.modulus_kwh,
                rated_kw=rated_kw,
            )
        )
    return found


def floor(at: datetime, step_s: float = STEP_S) -> datetime:
    """Return the start of the interval that ``at`` lies in."""
    return datetime.fromtimestamp(at.timestamp() // step_s * step_s, UTC)


def changes(
    computed: Intervals,
    current: Mapping[datetime, BookedInterval],
    *,
    circuit_id: CircuitId,
    site_id: SiteId,
    uncertain_at: Sequence[float],
    now: datetime,
) -> list[BookedInterval]:
    """Return the versions to book: intervals that are new, or that come out differently now.

    An interval that was never known is not booked as missing; one that was booked and is unknown now is.

    Args:
        computed: The intervals as the registers give them now.
        current: The versions that hold, by start.
        circuit_id: Whose they are.
        site_id: Where it is.
        uncertain_at: Times of uncertain registers, rising. [s since the epoch]
        now: When they were computed.
    """
    found = []
    marks = np.asarray(uncertain_at, dtype=np.float64)
    for start_s, energy, grade, lower in zip(
        computed.start, computed.energy_kwh, computed.grade, computed.lower_bound, strict=True
    ):
        start = datetime.fromtimestamp(float(start_s), UTC)
        before = current.get(start)
        known = Grade(int(grade)) is not Grade.MISSING
        if before is None and not known:
            continue
        one = BookedInterval(
            circuit_id=circuit_id,
            site_id=site_id,
            start=start,
            step_s=int(computed.step_s),
            version=1 if before is None else before.version + 1,
            energy_kwh=float(energy) if known else None,
            grade=Grade(int(grade)),
            lower_bound=bool(lower),
            uncertain=bool(
                np.searchsorted(marks, start_s + computed.step_s, side="right") > np.searchsorted(marks, start_s)
            ),
            computed_at=now,
        )
        if before is None or not one.same_as(before):
            found.append(one)
    return found


def last_boundary(cumulative: Cumulative, step_s: float = STEP_S) -> float | None:
    """Return the newest boundary of the grid that the readings have reached. [s since the epoch]"""
    return None if not cumulative.at.size else float(cumulative.at[-1] // step_s * step_s)


def affected_since(source_time: datetime) -> datetime:
    """Return where a recomputation has to start for a register of this time.

    A register moves the boundaries next to it, and those lie at most one gap away; further back nothing
    changes. The caller reads on from the register before this.
    """
    return floor(source_time) - timedelta(seconds=STEP_S)
