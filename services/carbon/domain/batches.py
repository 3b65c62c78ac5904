"""Many circuits at once: what ``registers``, ``intervals`` and ``booking`` say of those in which nothing is odd.

Nearly every circuit of a batch has one meter whose registers just rose, a few minutes apart. Of all of these together
the intervals are a few operations on arrays. Whatever is odd anywhere in a circuit's registers leaves the circuit to
the careful way; both give the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Self

import numpy as np
from numpy.typing import NDArray

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import (
    TOLERANCE_KWH,
    Binding,
    BookedInterval,
    Current,
    Registers,
)
from services.carbon.domain.intervals import GAP_MAX_STEPS, NEAR_SHARE, STEP_S, Grade
from services.carbon.domain.registers import COUNT_KWH, FLOAT32_STEP, HEADROOM, BoolArray, FloatArray, IntArray

_STEP_US = round(STEP_S * 1e6)
GRADES = tuple(Grade)


@dataclass(frozen=True, slots=True)
class RegisterTable:
    """The registers of several spans, one span after the other."""

    rows: Registers
    cuts: IntArray
    """Where each span begins, and where the last one ends. Shape (spans + 1,)."""

    @classmethod
    def join(cls, parts: Sequence[Registers]) -> Self:
        """Return the table of spans."""
        parts = parts or [Registers.of([])]
        joined = [np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(Registers)]
        return cls(Registers(*joined), np.cumsum([0, *(one.at.size for one in parts)]))

    def __len__(self) -> int:
        return self.cuts.size - 1

    def __getitem__(self, place: int) -> Registers:
        part = slice(self.cuts[place], self.cuts[place + 1])
        one = self.rows
        return Registers(*(getattr(one, field.name)[part] for field in fields(Registers)))

    def __iter__(self) -> Iterator[Registers]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True, slots=True)
class CurrentTable:
    """The intervals that hold of several circuits, one circuit after the other."""

    rows: Current
    cuts: IntArray
    """Where each circuit begins, and where the last one ends. Shape (circuits + 1,)."""

    @classmethod
    def join(cls, parts: Sequence[Current]) -> Self:
        """Return the table of circuits."""
        joined = [np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(Current)]
        return cls(Current(*joined), np.cumsum([0, *(one.start.size for one in parts)]))

    def __len__(self) -> int:
        return self.cuts.size - 1

    def __getitem__(self, place: int) -> Current:
        part = slice(self.cuts[place], self.cuts[place + 1])
        one = self.rows
        return Current(
            one.start[part],
            one.version[part],
            one.energy_kwh[part],
            one.grade[part],
            one.lower_bound[part],
            one.uncertain[part],
        )

    def __iter__(self) -> Iterator[Current]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True, slots=True)
class Plain:
    """A circuit that one meter served all the while."""

    work: int
    """Its place among the circuits."""
    span: int
    """Its place among the spans of registers."""
    circuit_id: CircuitId
    site_id: SiteId
    binding: Binding
    rated_kw: float | None
    start: float
    """Boundary from which intervals may come out differently. [s since the epoch]"""
    end: float | None
    """The register that has to count again; None: there is none."""


def settle_plain(
    circuits: Sequence[Plain], registers: RegisterTable, current: CurrentTable, now: datetime
) -> tuple[set[int], list[BookedInterval]]:
    """Return which circuits are settled, by their place, and the versions to book of them.

    Nothing is to be found or set aside in what is settled; everything else is left to ``accumulate``, ``align`` and
    ``changes``.
    """
    if not circuits:
        return set(), []
    table = _Flat(circuits, registers, current)
    settled = table.settled()
    return {table.circuits[int(i)].work for i in np.flatnonzero(settled)}, table.booked(settled, now)


class _Flat:
    """Registers and intervals of the circuits, by their number in the list of circuits."""

    def __init__(self, circuits: Sequence[Plain], registers: RegisterTable, current: CurrentTable) -> None:
        self.circuits = circuits
        spans = np.array([one.span for one in circuits], np.int64)
        works = np.array([one.work for one in circuits], np.int64)
        taken, self.owner, self.cuts = _taken(registers.cuts, spans)
        rows = registers.rows
        self.at, self.shown, self.ratio = rows.at[taken], rows.shown[taken], rows.ratio[taken]
        self.uncertain, self.odd = rows.uncertain[taken], (rows.set_aside | rows.manual)[taken]
        self.held_at, self.held_owner, self.held_cuts = _taken(current.cuts, works)
        self.held = current.rows
        self.start = np.array([one.start for one in circuits])
        self.end = np.array([np.nan if one.end is None else one.end for one in circuits])
        self.first = np.zeros(len(circuits))
        self.last = np.zeros(len(circuits))

    def settled(self) -> BoolArray:
        """Return in which circuits nothing is odd."""
        bindings = [one.binding for one in self.circuits]
        begins = np.array([one.valid_from.timestamp() for one in bindings])
        ends = np.array([np.inf if one.valid_to is None else one.valid_to.timestamp() for one in bindings])
        modulus = np.array([one.modulus_kwh or np.inf for one in bindings])
        fits = np.diff(self.cuts) >= 2
        odd = (self.shown < 0.0) | (self.shown >= modulus[self.owner]) | self.odd
        odd |= (self.at < begins[self.owner]) | (self.at > ends[self.owner])
        fits[self.owner[odd]] = False
        fits[self.owner[1:][self._odd_steps()]] = False
        head, tail = self._ends(fits)
        initial = np.array([one.initial_register is not None for one in bindings])
        final = np.array([one.final_register is not None for one in bindings])
        fits &= ~(initial & (head > begins)) & ~(final & (tail < ends) & np.isfinite(ends))
        fits &= np.array([not one.resets and one.has_register for one in bindings])
        fits &= np.isnan(self.end) | (tail == self.end)
        self.first = np.maximum(self.start, np.ceil(head / STEP_S) * STEP_S)
        self.last = np.floor(tail / STEP_S) * STEP_S
        # What was booked where no register counts any more is not for here.
        held = self.held.start[self.held_at]
        outside = (held < self.first[self.held_owner]) | (held + STEP_S > self.last[self.held_owner])
        fits[self.held_owner[outside]] = False
        return fits

    def _odd_steps(self) -> BoolArray:
        """Return which steps between two registers of one circuit have to be looked at. Shape (n - 1,)."""
        limit = np.array([np.inf if one.rated_kw is None else HEADROOM * one.rated_kw for one in self.circuits])
        step, seconds = np.diff(self.shown), np.diff(self.at)
        slack = np.maximum(2.0 * COUNT_KWH, self.shown[1:] * FLOAT32_STEP)
        same = self.owner[1:] == self.owner[:-1]
        seconds = np.where(same, seconds, 1.0)
        largest = limit[self.owner[1:]] * (seconds / 3600.0) / self.ratio[1:] + slack
        odd: BoolArray = (step < 0.0) | (step > largest) | (seconds > GAP_MAX_STEPS * STEP_S)
        odd |= self.ratio[1:] != self.ratio[:-1]
        odd &= same
        return odd

    def _ends(self, fits: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return the first and the last time of each circuit that has any. [s since the epoch]"""
        head, tail = np.zeros(fits.size), np.zeros(fits.size)
        head[fits] = self.at[self.cuts[:-1][fits]]
        tail[fits] = self.at[self.cuts[1:][fits] - 1]
        return head, tail

    def booked(self, settled: BoolArray, now: datetime) -> list[BookedInterval]:
        """Return the versions to book of the circuits that are settled."""
        steps = np.where(settled, np.rint((self.last - self.first) / STEP_S), 0.0).astype(np.int64)
        chosen = np.flatnonzero(steps > 0)
        if not chosen.size:
            return []
        owner, edge = _edges(chosen, self.first[chosen], steps[chosen])
        origin = float(self.at.min())
        width = round((float(self.at.max()) - origin) * 1e6) + 2 * _STEP_US

        def keys(owners: IntArray, times: FloatArray) -> IntArray:
            # One number that rises with the circuit and, within it, with the time.
            found: IntArray = owners * width + np.rint((times - origin) * 1e6).astype(np.int64)
            return found

        register = keys(self.owner, self.at)
        value, grades = self._at_edges(register, keys(owner, edge), edge)
        inner = owner[1:] == owner[:-1]
        start, owner = edge[:-1][inner], owner[:-1][inner]
        energy, grade = np.diff(value)[inner], np.maximum(grades[:-1], grades[1:])[inner]
        place = keys(owner, start)
        marked = np.concatenate([[0], np.cumsum(self.uncertain)])
        ends = np.searchsorted(register, place + _STEP_US, side="right")
        uncertain = marked[ends] > marked[np.searchsorted(register, place, side="left")]
        version = np.zeros(start.size, np.int64)
        same = np.zeros(start.size, np.bool_)
        of = settled[self.held_owner]
        held = self.held_at[of]
        at = np.searchsorted(place, keys(self.held_owner[of], self.held.start[held]))
        version[at] = self.held.version[held]
        same[at] = (
            (grade[at] == self.held.grade[held])
            & ~self.held.lower_bound[held]
            & (uncertain[at] == self.held.uncertain[held])
            & (np.abs(energy[at] - self.held.energy_kwh[held]) <= TOLERANCE_KWH)
        )
        news = np.flatnonzero(~same)
        circuits = [self.circuits[i] for i in owner[news].tolist()]
        rows = zip(
            circuits,
            start[news].tolist(),
            version[news].tolist(),
            energy[news].tolist(),
            grade[news].tolist(),
            uncertain[news].tolist(),
            strict=True,
        )
        return [
            BookedInterval(
                circuit_id=circuit.circuit_id,
                site_id=circuit.site_id,
                start=datetime.fromtimestamp(at, UTC),
                step_s=int(STEP_S),
                version=before + 1,
                energy_kwh=energy_kwh,
                grade=GRADES[grade_no],
                lower_bound=False,
                uncertain=is_uncertain,
                computed_at=now,
            )
            for circuit, at, before, energy_kwh, grade_no, is_uncertain in rows
        ]

    def _at_edges(self, register: IntArray, edges: IntArray, edge: FloatArray) -> tuple[FloatArray, NDArray[np.int8]]:
        """Return the cumulative energy at boundaries, and how well they are known."""
        heads = self.cuts[:-1][self.owner]
        energy = (self.shown - self.shown[heads]) * self.ratio
        left = np.searchsorted(register, edges, side="right") - 1
        right = np.searchsorted(register, edges, side="left")
        since, until = edge - self.at[left], self.at[right] - edge
        gap = since + until
        share = np.where(gap > 0.0, since / np.where(gap > 0.0, gap, 1.0), 0.0)
        near = np.minimum(since, until) <= NEAR_SHARE * STEP_S
        grade = np.where(near, np.int8(Grade.MEASURED), np.int8(Grade.INTERPOLATED)).astype(np.int8)
        return energy[left] + share * (energy[right] - energy[left]), grade


def _taken(cuts: IntArray, places: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return the rows of some groups, the number of the group of each, and where each group begins."""
    sizes = (cuts[1:] - cuts[:-1])[places]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(places.size), sizes)
    return np.arange(begins[-1]) - begins[:-1][owner] + cuts[places][owner], owner, begins


def _edges(chosen: IntArray, first: FloatArray, steps: IntArray) -> tuple[IntArray, FloatArray]:
    """Return the boundaries of each chosen circuit, with its number."""
    counts = steps + 1
    begins = np.cumsum(counts) - counts
    inside = np.arange(int(counts.sum())) - np.repeat(begins, counts)
    return np.repeat(chosen, counts), np.repeat(first, counts) + STEP_S * inside
