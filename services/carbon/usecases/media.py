"""What a node used of other media than electricity, by civil period, and what that emitted where somebody says how."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.carbon import Medium
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from services.carbon.boundary import Boundaries
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.batches import CurrentTable
from services.carbon.domain.booking import CircuitSpan, floor
from services.carbon.domain.emissions.fuels import burn
from services.carbon.domain.emissions.heat import purchased_cold, purchased_heat, purchased_steam
from services.carbon.domain.emissions.knowledge import Emission, Knowledge
from services.carbon.domain.emissions.units import kind_of
from services.carbon.domain.factors import EmissionFactor, FactorLibrary, Place
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.cover import Term, only
from services.carbon.domain.levels.energy import SCHEMA, Promise, energy_by_period, known_energy, node_intervals
from services.carbon.domain.levels.periods import Step, period_of
from services.carbon.domain.media import MEDIA, MediumPoint
from services.carbon.queries import Trace, TracedRegister
from services.carbon.store import inventories
from services.carbon.store.intervals import fetch_trace
from services.carbon.store.media import MediumBooks, fetch_metered, fetch_versions
from services.carbon.tree import Node

LITRES_PER_M3 = 1e3


@dataclass(frozen=True, slots=True)
class Assumed:
    """What no meter says and an emission needs; None leaves the emission unknown."""

    gas: str | None = None
    """What the gas is, as the library names fuels: ``NATGAS``."""
    fuel: str | None = None
    """``DIESEL``, ``PETROL``."""
    cop: float | None = None
    """Of the plant that made the cold. [1]"""
    steam_kj_per_kg: float | None = None
    """Enthalpy of the steam. [kJ/kg]"""


@dataclass(frozen=True)
class Use:
    """What a node used of one register's medium."""

    of: MediumPoint
    circuits: Sequence[CircuitId]
    """What was summed: none of them lies within another."""
    frame: pl.DataFrame
    """Columns of ``energy_by_period``, with ``quantity`` in place of ``energy_kwh``."""
    sites: pl.DataFrame = field(repr=False)
    """``start``, ``site_id``, ``quantity`` by period and site; null where nothing is known."""


@dataclass(frozen=True)
class Summed:
    """The intervals that a node's use of one register is the sum of."""

    of: MediumPoint
    terms: Sequence[Term]
    intervals: pl.DataFrame = field(repr=False)
    """Frame of ``domain/levels/energy.py`` with the quantity as ``energy_kwh``."""


@dataclass(frozen=True)
class Emitted:
    """What a use emitted."""

    use: Use
    by_period: Mapping[datetime, Sequence[Emission]]
    """One of each site; empty where it cannot be said."""
    why: tuple[str, str] | None
    """Why it cannot be said, in English and Chinese."""


class MediaUses:
    """Reads only; what it returns is computed from the books at the time of asking."""

    def __init__(
        self, *, db: Database, boundaries: Boundaries, directory: RegistryDirectory, factors: Sequence[EmissionFactor]
    ) -> None:
        self._db = db
        self._directory = directory
        self._factors = factors
        self.boundaries = boundaries

    async def used(self, node: Node, start: datetime, end: datetime, step: Step) -> list[Use]:
        """Return what a node used, by register; those of which nothing is booked are left out.

        A circuit that hangs beneath another one with the same register is a part of it and not summed.

        Raises:
            InvalidInput: An empty span, or one that is too long.
            NotFound: There never was such a node.
        """
        first, last = self.boundaries.whole_periods(start, end, step)
        inside = [one.circuit for one in self.boundaries.branches(node, first, last)]
        self.boundaries.check_size(len(inside), first, last)
        parts: list[tuple[MediumPoint, list[CircuitId], CurrentTable]] = []
        async with self._db.read() as conn:
            metered = await fetch_metered(conn, inside, list(MEDIA), first, last)
            for point, circuits in sorted(metered.items()):
                spans = [CircuitSpan(circuit, first, last) for circuit in circuits]
                parts.append((MEDIA[point], circuits, await MediumBooks(point).fetch_current_of(conn, spans)))

        now = self.boundaries.clock.now()

        def sums() -> list[Use]:
            found = []
            for of, circuits, held in parts:
                terms = self.boundaries.tree.terms(node, first, last, only(*circuits))
                summed = node_intervals(_frame(circuits, held), terms)
                whole = energy_by_period(summed, Promise(terms, now), step=step, start=first, end=last)
                by_site = _by_site(summed, step)
                named = sorted({term.circuit for term in terms})
                found.append(Use(of, named, whole.rename({"energy_kwh": "quantity"}), by_site.sort("start", "site_id")))
            return found

        return await asyncio.to_thread(sums)

    async def summed(self, node: Node, point: str, start: datetime, end: datetime) -> Summed:
        """Return the intervals that a node's use of one register in ``[start, end)`` is the sum of.

        Raises:
            InvalidInput: An empty span, one that is too long, or no register of a medium.
            NotFound: There never was such a node, or nothing of it has the register.
        """
        of = point_of(point)
        self.boundaries.check_span(start, end)
        inside = [one.circuit for one in self.boundaries.branches(node, start, end)]
        self.boundaries.check_size(len(inside), start, end)
        async with self._db.read() as conn:
            circuits = (await fetch_metered(conn, inside, [point], start, end)).get(point, [])
            if not circuits:
                raise NotFound(
                    f"{node.kind} {node.id} has nothing booked of {point} in the span",
                    message_zh=f"{node.id} 在该时段没有 {point} 的计量数据",
                )
            spans = [CircuitSpan(circuit, start, end) for circuit in circuits]
            held = await MediumBooks(point).fetch_current_of(conn, spans)
        terms = self.boundaries.tree.terms(node, start, end, only(*circuits))
        return Summed(of, terms, await asyncio.to_thread(lambda: node_intervals(_frame(circuits, held), terms)))

    async def trace(self, circuit: CircuitId, point: str, start: datetime) -> Trace:
        """Return the versions of one interval of a medium, its meters, and the registers that it was computed from.

        Raises:
            NotFound: The interval was never booked.
        """
        at = floor(start)
        end = at + timedelta(seconds=STEP_S)
        bindings = [
            one
            for one in self._directory.bindings_for(circuit, point)
            if one.valid_from <= end and (one.valid_to is None or one.valid_to >= at)
        ]
        registers: list[TracedRegister] = []
        async with self._db.read() as conn:
            versions = await fetch_versions(conn, circuit, point, at)
            if not versions:
                raise NotFound(
                    f"circuit {circuit} has no interval of {point} at {at.isoformat()}",
                    message_zh=f"回路 {circuit} 在 {at.isoformat()} 没有 {point} 的区间用量",
                )
            for binding in bindings:
                rows = await fetch_trace(conn, binding.device_id, point, at, end)
                registers += [TracedRegister(binding.device_id, *row) for row in rows]
        return Trace(circuit, at, end, versions, bindings, registers, None)

    async def emitted(self, uses: Sequence[Use], assumed: Assumed) -> list[Emitted]:
        """Return what uses emitted, by the factors of each site and the civil year in which a period begins.

        Raises:
            InvalidInput: What is assumed does not fit the medium, such as a fuel that is not measured in its unit.
        """
        today = self.boundaries.clock.now().astimezone(CIVIL_ZONE).date()
        async with self._db.read() as conn:
            knowledge = Knowledge(FactorLibrary([*self._factors, *await inventories.fetch_factors(conn)]), today)
        return [self._emitted(knowledge, one, assumed) for one in uses]

    def _emitted(self, knowledge: Knowledge, use: Use, assumed: Assumed) -> Emitted:
        why = missing(use.of, assumed)
        found: dict[datetime, list[Emission]] = {}
        if why is None:
            for start, site, quantity in use.sites.iter_rows():
                place = self._directory.place_of(SiteId(site))
                year = start.astimezone(CIVIL_ZONE).year
                found.setdefault(start, []).append(emission_of(knowledge, use.of, quantity, assumed, place, year))
        return Emitted(use, found, why)


def point_of(point: str) -> MediumPoint:
    """Return a register of a medium by its name.

    Raises:
        InvalidInput: There is none.
    """
    found = MEDIA.get(point)
    if found is None:
        raise InvalidInput(
            f"point: expected one of {', '.join(MEDIA)}, found {point}",
            message_zh=f"point:应为 {'、'.join(MEDIA)} 之一,实际为 {point}",
        )
    return found


def missing(of: MediumPoint, assumed: Assumed) -> tuple[str, str] | None:
    """Return why the emission of a medium cannot be said, in English and Chinese; None where it can."""
    if of.medium is Medium.WATER:
        return "water has no factor of its own; an inventory takes one by its series", "用水量无默认因子,请在清单中指定"
    if of.medium is Medium.GAS:
        if kind_of(of.unit) is None:
            return "the volume has no reference condition", "气体体积未注明参比条件"
        return None if assumed.gas else ("say with gas= what the gas is", "请用 gas= 指明气体种类")
    if of.medium is Medium.FUEL:
        return None if assumed.fuel else ("say with fuel= what the fuel is", "请用 fuel= 指明燃料种类")
    if of.medium is Medium.COLD:
        return None if assumed.cop else ("say with cop= how the cold was made", "请用 cop= 给出制冷性能系数")
    if of.medium is Medium.STEAM:
        given = assumed.steam_kj_per_kg
        return None if given else ("say with steam_kj_per_kg= its enthalpy", "请用 steam_kj_per_kg= 给出蒸汽焓值")
    return None


def emission_of(
    knowledge: Knowledge, of: MediumPoint, quantity: float | None, assumed: Assumed, place: Place, year: int
) -> Emission:
    """Return what a quantity of a medium emitted, of which ``missing`` says nothing is missing.

    Raises:
        InvalidInput: What is assumed does not fit the medium.
    """
    origin = f"registers {of.point}"
    match of.medium:
        case Medium.HEAT:
            return purchased_heat(knowledge, amount=quantity, unit=of.unit, year=year, place=place, origin=origin)
        case Medium.COLD:
            cop = assumed.cop or 0.0
            return purchased_cold(knowledge, cold_kwh=quantity, cop=cop, year=year, place=place, origin=origin)
        case Medium.STEAM:
            enthalpy = assumed.steam_kj_per_kg or 0.0
            return purchased_steam(
                knowledge, mass_t=quantity, enthalpy_kj_per_kg=enthalpy, year=year, place=place, origin=origin
            )
    fuel, unit, amount = assumed.gas or "", of.unit, quantity
    if of.medium is Medium.FUEL:
        fuel = assumed.fuel or ""
        if unit == "m3":
            unit, amount = "L", None if quantity is None else quantity * LITRES_PER_M3
    return burn(knowledge, fuel=fuel, amount=amount, unit=unit, year=year, place=place, origin=origin)


def _by_site(summed: pl.DataFrame, step: Step) -> pl.DataFrame:
    """Return ``start``, ``site_id``, ``quantity`` by both, rounded once; null where nothing is known."""
    rows = summed.with_columns(period_of(step).alias("period"))
    groups = ["period", "site_id"]
    known = known_energy(rows, groups).rename({"energy_kwh": "quantity"})
    return rows.select(groups).unique().join(known, on=groups, how="left").rename({"period": "start"})


def _frame(circuits: Sequence[CircuitId], held: CurrentTable) -> pl.DataFrame:
    """Return intervals as frames have them."""
    rows, owner = held.rows, np.repeat(np.arange(len(circuits)), np.diff(held.cuts))
    micros = pl.Series(np.rint(rows.start * 1e6).astype(np.int64))
    return pl.DataFrame(
        {
            "circuit_id": pl.Series(list(circuits), dtype=pl.String).gather(owner),
            "start": micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "energy_kwh": pl.Series(rows.energy_kwh).fill_nan(None),
            "grade": rows.grade,
            "lower_bound": rows.lower_bound,
            "uncertain": rows.uncertain,
            "provisional": np.zeros(rows.start.size, np.bool_),
        },
        schema=SCHEMA,
    )
