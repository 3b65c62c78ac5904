"""Virtual meters: definitions that people enter, and intervals that are computed when they are asked for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from libs.common.db import Database
from libs.common.errors import NotFound
from libs.common.ids import CircuitId, SiteId
from libs.common.tokens import Principal
from services.carbon.boundary import Boundaries
from services.carbon.domain.booking import CircuitSpan, Current, floor
from services.carbon.domain.intervals import STEP_S, Grade, Intervals
from services.carbon.domain.virtual import (
    Term,
    Total,
    VirtualIntervals,
    VirtualMeter,
    WrongVirtualMeter,
    check,
    circuits_behind,
    compute,
    total,
)
from services.carbon.store import intervals as intervals_store
from services.carbon.store import virtual as store
from services.carbon.tree import Node
from services.carbon.usecases.ports import Audit, audit_event

METERS_MAX = 5000
"""Virtual meters that may be defined."""


class Circuits(Protocol):
    """Which circuits there are (``directory.py``)."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known."""


@dataclass(frozen=True, slots=True)
class Defined:
    """A definition as it holds."""

    meter: VirtualMeter
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a virtual meter was in a quarter hour."""

    term: Term
    is_virtual: bool
    energy_kwh: float | None


@dataclass(frozen=True, slots=True)
class Read:
    """What a virtual meter says of a span."""

    intervals: VirtualIntervals
    total: Total
    circuits: dict[str, float]
    """The circuits behind it, each with what it counts in all."""


class VirtualMeters:
    """Defines and computes; nothing that is computed is stored."""

    def __init__(self, *, db: Database, circuits: Circuits, boundaries: Boundaries, audit: Audit) -> None:
        self._db = db
        self._circuits = circuits
        self.boundaries = boundaries
        self._audit = audit

    async def define(self, one: VirtualMeter, *, name: str, who: Principal) -> int:
        """Store a definition, or the next version of one; return its version.

        Raises:
            WrongVirtualMeter: A part of it is not known, it would be a part of itself, or there are too many.
        """
        now = self.boundaries.clock.now()
        async with self._db.write() as conn:
            await store.lock_definitions(conn)
            held = await store.fetch_definitions(conn)
            defined = {meter.id: Defined(meter, said, version) for meter, said, version in held}
            before = defined.get(one.id)
            if before is None and len(defined) >= METERS_MAX:
                raise WrongVirtualMeter(
                    f"expected at most {METERS_MAX} virtual meters", message_zh=f"虚拟表最多 {METERS_MAX} 个"
                )
            meters = {**{meter_id: each.meter for meter_id, each in defined.items()}, one.id: one}
            self._check(one, meters)
            version = 1 if before is None else before.version + 1
            await store.add_definition(conn, one, name=name, version=version, by=who.actor, at=now)
            event = audit_event(
                who,
                "virtual_meter.define",
                f"virtual_meter:{one.id}",
                now,
                before=None if before is None else _said(before),
                after=_said(Defined(one, name, version)),
            )
            await self._audit(conn, event)
        return version

    async def all(self) -> list[Defined]:
        """Return the definitions that hold, by id."""
        async with self._db.read() as conn:
            return [Defined(meter, name, version) for meter, name, version in await store.fetch_definitions(conn)]

    async def read(self, meter: str, start: datetime, end: datetime) -> Read:
        """Return what a virtual meter says of the quarter hours of ``[start, end)``.

        Raises:
            NotFound: There is no such virtual meter.
            TooMuchAtOnce: The span is too long for so many circuits.
        """
        self.boundaries.check_span(start, end)
        meters = await self._meters(meter)
        behind = circuits_behind(meter, meters)
        first = floor(start)
        steps = max(round((floor(end) - first).total_seconds() / STEP_S), 0)
        names = sorted(behind)
        self.boundaries.check_size(len(names), start, end)
        async with self._db.read() as conn:
            held = await intervals_store.fetch_current_of(
                conn, [CircuitSpan(CircuitId(one), first, end) for one in names]
            )
        parts = {name: _laid_out(one, first, steps) for name, one in zip(names, held, strict=True)}
        found = compute(meter, meters, parts.__getitem__)
        return Read(found, total(found), behind)

    async def parts(self, meter: str, at: datetime) -> tuple[Defined, list[Part]]:
        """Return a definition, and what its parts were in the quarter hour that begins at a time.

        Raises:
            NotFound: There is no such virtual meter.
        """
        defined = {one.meter.id: one for one in await self.all()}
        mine = defined.get(meter)
        if mine is None:
            raise _unknown(meter)
        end = at + timedelta(seconds=STEP_S)
        circuits = [CircuitId(term.child) for term in mine.meter.terms if term.child not in defined]
        async with self._db.read() as conn:
            held = await intervals_store.fetch_current_of(conn, [CircuitSpan(one, at, end) for one in circuits])
        energies = {
            circuit: None if not one.energy_kwh.size else _known(one.energy_kwh[0])
            for circuit, one in zip(circuits, held, strict=True)
        }
        found = []
        for term in mine.meter.terms:
            if term.child in defined:
                inner = await self.read(term.child, at, end)
                found.append(Part(term, True, _known(inner.intervals.energy_kwh[0])))
            else:
                found.append(Part(term, False, energies[CircuitId(term.child)]))
        return mine, found

    async def node(self, meter: str) -> Node:
        """Return a virtual meter as a node of the tree, whose energy is asked for as that of any other.

        Raises:
            NotFound: There is no such virtual meter.
        """
        return await self.boundaries.virtual(meter)

    async def _meters(self, wanted: str) -> dict[str, VirtualMeter]:
        meters = {one.meter.id: one.meter for one in await self.all()}
        if wanted not in meters:
            raise _unknown(wanted)
        return meters

    def _check(self, one: VirtualMeter, meters: dict[str, VirtualMeter]) -> None:
        if self._circuits.site_of(CircuitId(one.id)) is not None:
            raise WrongVirtualMeter(
                f"virtual meter {one.id}: there is a circuit of that id", message_zh=f"已有回路使用编号 {one.id}"
            )
        for term in one.terms:
            if term.child not in meters and self._circuits.site_of(CircuitId(term.child)) is None:
                raise WrongVirtualMeter(
                    f"virtual meter {one.id}: there is no circuit or virtual meter {term.child}",
                    message_zh=f"虚拟表 {one.id}:没有回路或虚拟表 {term.child}",
                )
        check(meters)


def _unknown(meter: str) -> NotFound:
    return NotFound(f"there is no virtual meter {meter}", message_zh=f"没有虚拟表 {meter}")


def _known(energy_kwh: float) -> float | None:
    return float(energy_kwh) if np.isfinite(energy_kwh) else None


def _laid_out(held: Current, first: datetime, steps: int) -> Intervals:
    """Return booked intervals on the grid of a span, missing where none is booked."""
    start = first.timestamp() + STEP_S * np.arange(steps, dtype=np.float64)
    energy = np.full(steps, np.nan)
    grade = np.full(steps, Grade.MISSING, np.int8)
    lower = np.zeros(steps, np.bool_)
    place = np.rint((held.start - first.timestamp()) / STEP_S).astype(np.int64)
    inside = (place >= 0) & (place < steps)
    place = place[inside]
    energy[place], grade[place], lower[place] = held.energy_kwh[inside], held.grade[inside], held.lower_bound[inside]
    return Intervals(start, energy, grade, lower, STEP_S)


def _said(one: Defined) -> dict[str, object]:
    return {
        "name": one.name,
        "version": one.version,
        "terms": [{"child": term.child, "factor": term.factor} for term in one.meter.terms],
        "constant_kw": one.meter.constant_kw,
        "allow_partial": one.meter.allow_partial,
    }
