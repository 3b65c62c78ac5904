"""Shutdown savings of a span: by window, occurrence, plan and site, from the books and what control proved."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Protocol

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.db import ReadConn
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, LoadId, SiteId
from services.carbon.domain.factors import Choice
from services.carbon.domain.savings.measurement.days import days_between, opening, slots_of
from services.carbon.domain.savings.measurement.regression import Days, Failing, fit
from services.carbon.domain.savings.shutdowns.course import Course, Spans
from services.carbon.domain.savings.shutdowns.executed import (
    ExecutedPart,
    MeasuredWindow,
    Switching,
    executed_parts,
    measured_windows,
)
from services.carbon.domain.savings.shutdowns.outages import Outage
from services.carbon.domain.savings.shutdowns.totals import Total, cluster, total, totals_by
from services.carbon.domain.savings.shutdowns.windows import (
    DEFAULT_RULES,
    Branch,
    Cooling,
    Peer,
    Rules,
    Unknown,
    WindowSaving,
    branch_savings,
    day_of,
    weekday_class,
)
from services.carbon.usecases.gridprices import PriceAt

DAY = timedelta(days=1)
HOURS = 24.0
"""Of a day. [h]"""
LOADS_MAX = 500
"""Loads of one report; a larger plan is asked for site by site."""
CIRCUITS_AT_ONCE = 20
"""Circuits whose intervals are in memory together: a quarter of a year of each is 9,000 rows."""


class SwitchingBooks(Protocol):
    """Where switchings are kept (``store/switchings.py``)."""

    async def fetch_switchings(
        self, conn: ReadConn, loads: Sequence[LoadId], start: datetime, end: datetime
    ) -> Sequence[Switching]:
        """Return the switchings of ``[start, end)`` and, of each load, the last one before."""

    async def fetch_loads_of_plan(self, conn: ReadConn, plan: str, start: datetime, end: datetime) -> Sequence[LoadId]:
        """Return the loads that a plan switched off in ``[start, end)``."""

    async def fetch_offs_of_occurrence(self, conn: ReadConn, occurrence: str) -> Sequence[tuple[LoadId, datetime]]:
        """Return which loads went off under an occurrence, and when."""


class IntervalBooks(Protocol):
    """Where intervals are kept (``store/intervals.py``)."""

    async def fetch_frame(
        self, conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
    ) -> pl.DataFrame:
        """Return the intervals of ``[start, end)``: circuit_id, start, energy_kwh, flag, version."""


class OutageBooks(Protocol):
    """Where outages are kept (``store/outages.py``)."""

    async def fetch_outages(
        self, conn: ReadConn, sites: Sequence[SiteId], start: datetime, end: datetime
    ) -> Sequence[Outage]:
        """Return the outages that touch ``[start, end)``."""


class Loads(Protocol):
    """What savings ask of the registry (``loads.py``)."""

    def meter_of(self, load: LoadId) -> CircuitId | None:
        """Return the circuit whose meter shows the load, None for one without a meter."""

    def loads_at(self, site: SiteId) -> Sequence[LoadId]:
        """Return the loads of a site."""

    def loads_behind(self, circuit: CircuitId) -> Sequence[LoadId]:
        """Return every load behind a circuit's meter."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site."""

    def places_of(self, site: SiteId) -> list[str]:
        """Return a site and the regions that it lies in, smallest first."""

    def has_cooling(self, circuit: CircuitId) -> bool:
        """Return whether what a circuit feeds moves with the weather."""

    def peers_of(self, circuit: CircuitId) -> Sequence[CircuitId]:
        """Return similar circuits at other sites, for the control group."""


class Factors(Protocol):
    """Emission factors of purchased electricity."""

    async def chooser(self, conn: ReadConn) -> Callable[[SiteId, int], Choice | None]:
        """Return what gives the location-based factor of a site in a civil year, as known now."""


class Prices(Protocol):
    """What electricity costs (``usecases/gridprices.py``)."""

    async def pricer(self, conn: ReadConn, circuits: Sequence[CircuitId], first: date, last: date) -> PriceAt:
        """Return what gives the price at some circuits on the civil days ``[first, last)``."""


class Temperatures(Protocol):
    """Where outdoor temperatures are kept (``store/temperatures.py``)."""

    async def fetch_temperatures(
        self, conn: ReadConn, places: Sequence[str], start: date, end: date
    ) -> list[tuple[str, date, float, str]]:
        """Return (place, day, daily mean [°C], source) of the civil days ``[start, end)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownReport:
    """Savings of a span; a window belongs to the span in which its first load went off."""

    start: datetime
    end: datetime
    windows: tuple[WindowSaving, ...]
    total: Total
    """Of what was asked for: of a plan or an occurrence its own share of each window, else all of it."""
    by_occurrence: Mapping[str, Total]
    by_plan: Mapping[str, Total]
    by_circuit: Mapping[str, Total]
    by_site: Mapping[str, Total]
    cluster: Total | None = None
    """The total with what the neighbours used more or less in the same windows; None if none was named."""
    unmetered: tuple[LoadId, ...] = ()
    """Loads without a meter: nothing is claimed for them, and never their rated power."""
    running: tuple[ExecutedPart, ...] = field(default=())
    """Shutdowns that are not over; they are not in the figures."""
    factors: tuple[Choice, ...] = ()
    """The emission factors that were used."""


class ShutdownSavings:
    """Computes shutdown savings when asked, from what holds at that time."""

    def __init__(
        self,
        *,
        switchings: SwitchingBooks,
        intervals: IntervalBooks,
        outages: OutageBooks,
        loads: Loads,
        factors: Factors,
        prices: Prices,
        temperatures: Temperatures,
        holidays: Mapping[date, str],
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        self._switchings = switchings
        self._intervals = intervals
        self._outages = outages
        self._loads = loads
        self._factors = factors
        self._prices = prices
        self._temperatures = temperatures
        self._holidays = holidays
        self._rules = rules

    async def of_site(
        self, conn: ReadConn, site: SiteId, *, start: datetime, end: datetime, neighbours: Sequence[SiteId] = ()
    ) -> ShutdownReport:
        """Return what switching off the loads of a site saved, with its neighbours' difference where some are named."""
        found = await self.report(conn, loads=self._loads.loads_at(site), start=start, end=end)
        if not neighbours:
            return found
        beside = [await self._beside(conn, neighbour, found.windows) for neighbour in neighbours]
        return replace(found, cluster=cluster(found.total, beside))

    async def of_plan(self, conn: ReadConn, plan: str, *, start: datetime, end: datetime) -> ShutdownReport:
        """Return what a plan saved: its share of every window in which it had a load off."""
        loads = await self._switchings.fetch_loads_of_plan(conn, plan, start, end)
        found = await self.report(conn, loads=loads, start=start, end=end)
        return self._narrowed(found, lambda part: part.plan_id, plan)

    async def of_occurrence(self, conn: ReadConn, occurrence: str) -> ShutdownReport:
        """Return what one occurrence saved.

        Raises:
            NotFound: Nothing was proved to have gone off under it.
        """
        offs = await self._switchings.fetch_offs_of_occurrence(conn, occurrence)
        if not offs:
            raise NotFound(
                f"no load was proved to have gone off under occurrence {occurrence}",
                message_zh=f"执行记录 {occurrence} 没有经证实的断电",
            )
        # A window may begin before this occurrence's own load went off: another load behind the meter came first.
        start, end = offs[0][1] - DAY, offs[-1][1] + timedelta(microseconds=1)
        found = await self.report(conn, loads=sorted({load for load, _ in offs}), start=start, end=end)
        return replace(self._narrowed(found, lambda part: part.occurrence_id, occurrence), start=offs[0][1])

    async def report(
        self, conn: ReadConn, *, loads: Sequence[LoadId], start: datetime, end: datetime
    ) -> ShutdownReport:
        """Return what switching off some loads saved in ``[start, end)``.

        All loads behind the same meters are looked at, since the meter cannot tell them apart.

        Raises:
            InvalidInput: There are too many loads for one report.
        """
        if len(loads) > LOADS_MAX:
            raise InvalidInput(
                f"expected at most {LOADS_MAX} loads in one report, found {len(loads)}; ask site by site",
                message_zh=f"一份报告最多 {LOADS_MAX} 个负载,实际为 {len(loads)} 个;请按局站查询",
            )
        meters = {load: self._loads.meter_of(load) for load in loads}
        circuits = sorted({circuit for circuit in meters.values() if circuit is not None})
        savings: list[WindowSaving] = []
        running: list[ExecutedPart] = []
        for first in range(0, len(circuits), CIRCUITS_AT_ONCE):
            some = circuits[first : first + CIRCUITS_AT_ONCE]
            parts = await self._parts(conn, some, start, end, self._rules.lookback_days)
            windows = {circuit: _windows_of(parts[circuit], start, end) for circuit in some}
            savings += await self._savings(conn, windows, parts, start, end)
            running += [part for circuit in some for part in parts[circuit] if part.on_at is None]
        savings, factors = await self._valued(conn, savings)
        return ShutdownReport(
            start=start,
            end=end,
            windows=tuple(savings),
            total=total(savings),
            by_occurrence=_named(totals_by(savings, lambda part: part.occurrence_id)),
            by_plan=_named(totals_by(savings, lambda part: part.plan_id)),
            by_circuit={circuit: total(some) for circuit, some in _grouped(savings, _circuit_of).items()},
            by_site={site: total(some) for site, some in _grouped(savings, self._site_of).items()},
            unmetered=tuple(load for load, circuit in meters.items() if circuit is None),
            running=tuple(running),
            factors=factors,
        )

    def _narrowed(
        self, report: ShutdownReport, key: Callable[[ExecutedPart], str | None], wanted: str
    ) -> ShutdownReport:
        """Return what of a report belongs to one plan or occurrence: its share of every window."""
        windows = tuple(one for one in report.windows if any(key(part) == wanted for part in one.window.parts))

        def mine(savings: Sequence[WindowSaving]) -> Total:
            return totals_by(savings, key).get(wanted, total([]))

        def named(name: Callable[[ExecutedPart], str | None]) -> dict[str, Total]:
            shares = totals_by(windows, lambda part: (key(part), name(part)))
            return {each: one for (whose, each), one in shares.items() if whose == wanted and each is not None}

        return replace(
            report,
            windows=windows,
            total=mine(windows),
            by_occurrence=named(lambda part: part.occurrence_id),
            by_plan=named(lambda part: part.plan_id),
            by_circuit={circuit: mine(some) for circuit, some in _grouped(windows, _circuit_of).items()},
            by_site={site: mine(some) for site, some in _grouped(windows, self._site_of).items()},
            running=tuple(part for part in report.running if key(part) == wanted),
        )

    def _site_of(self, one: WindowSaving) -> str:
        return self._loads.site_of(CircuitId(one.circuit_id)) or ""

    async def _savings(
        self,
        conn: ReadConn,
        windows: Mapping[CircuitId, Sequence[MeasuredWindow]],
        parts: Mapping[CircuitId, Sequence[ExecutedPart]],
        start: datetime,
        end: datetime,
    ) -> list[WindowSaving]:
        """Return the savings of some circuits' windows; of each circuit the last may only bound the one before.

        The year of the control group is read only for circuits whose clean days do not suffice.
        """
        circuits = [circuit for circuit in windows if windows[circuit]]
        courses, outages = await self._courses(conn, circuits, start, end, self._rules.lookback_days)
        found: list[WindowSaving] = []
        for circuit in circuits:
            off = _off_spans(parts[circuit], end)
            branch = self._branch(circuit, courses[circuit], off, outages[circuit], ())
            savings = await self._inside(conn, branch, windows[circuit], end)
            if any(one.reason is Unknown.NO_BASELINE for one in savings):
                savings = await self._by_group(conn, circuit, windows[circuit], start, end)
            found += savings
        return found

    async def _by_group(
        self, conn: ReadConn, circuit: CircuitId, windows: Sequence[MeasuredWindow], start: datetime, end: datetime
    ) -> list[WindowSaving]:
        """Return a circuit's savings with a control group, which is compared over days of the whole last year."""
        days = self._rules.control_lookback_days
        everything = [circuit, *(peer for peer in self._loads.peers_of(circuit) if peer != circuit)]
        parts = await self._parts(conn, everything, start, end, days)
        courses, outages = await self._courses(conn, everything, start, end, days)
        peers = [
            Peer(course=courses[one], shutdowns=_off_spans(parts[one], end), outages=outages[one])
            for one in everything[1:]
        ]
        off = _off_spans(parts[circuit], end)
        branch = self._branch(circuit, courses[circuit], off, outages[circuit], peers)
        return await self._inside(conn, branch, windows, end)

    async def _inside(
        self, conn: ReadConn, branch: Branch, windows: Sequence[MeasuredWindow], end: datetime
    ) -> list[WindowSaving]:
        weather = await self._weather(conn, CircuitId(branch.course.circuit_id), windows)
        savings = branch_savings(branch, windows, cooling=weather, rules=self._rules)
        return [one for one in savings if one.window.off_at < end]

    async def _weather(
        self, conn: ReadConn, circuit: CircuitId, windows: Sequence[MeasuredWindow]
    ) -> Callable[[MeasuredWindow], Cooling | None]:
        """Return how a branch with cooling moves with the weather: the slope of the undisturbed days of the last year.

        Without temperatures, or where no baseline fits, it is unknown; a branch without cooling has none.
        """
        if not self._loads.has_cooling(circuit):
            return lambda window: None
        unknown = Cooling(slope_kw_per_k=0.0, temperature_c=None, daily_c={})
        first, last = day_of(windows[0]), day_of(windows[-1])
        since = first - self._rules.control_lookback_days * DAY
        site = self._loads.site_of(circuit)
        places = [] if site is None else self._loads.places_of(site)
        rows = await self._temperatures.fetch_temperatures(conn, places, since, last + DAY)
        daily_c = {day: mean_c for place in reversed(places) for at, day, mean_c, _ in rows if at == place}
        if not daily_c:
            return lambda window: unknown
        start, end = opening(since), opening(first)
        frame = await self._intervals.fetch_frame(conn, [circuit], start, end)
        parts = await self._parts(conn, [circuit], start, end, 0)
        off = _off_spans(parts[circuit], end)
        days = days_between(since, first)
        energy = slots_of(frame, [circuit], since, first).sum(axis=1)
        energy[[off.touch(opening(day), opening(day + DAY)) for day in days]] = np.nan
        model = fit(
            Days(
                day=days,
                temperature_c=np.array([daily_c.get(day, np.nan) for day in days]),
                energy_kwh=energy,
                restday=np.array([weekday_class(day, exceptions=self._holidays) == "restday" for day in days]),
            )
        )
        if model is None or Failing.CV_RMSE in model.failing:
            return lambda window: unknown
        slope = model.cooling_kwh_per_k / HOURS
        return lambda window: Cooling(slope_kw_per_k=slope, temperature_c=daily_c.get(day_of(window)), daily_c=daily_c)

    def _branch(self, circuit: CircuitId, course: Course, off: Spans, outages: Spans, peers: Sequence[Peer]) -> Branch:
        return Branch(
            course=course,
            shutdowns=off,
            outages=outages,
            day_class=lambda day: weekday_class(day, exceptions=self._holidays),
            control_group=peers,
        )

    async def _beside(self, conn: ReadConn, site: SiteId, windows: Sequence[WindowSaving]) -> Total:
        """Return what a neighbour used less (or more: then negative) while another site was off.

        Of a neighbour's branches that are metered each counts; where it was itself switched off its own saving is
        another report's matter and the window is unknown here.
        """
        circuits = sorted({meter for load in self._loads.loads_at(site) if (meter := self._loads.meter_of(load))})
        if not windows or not circuits:
            return total([])
        start, end = windows[0].window.start, max(one.window.end for one in windows)
        parts = await self._parts(conn, circuits, start, end, self._rules.lookback_days)
        times = sorted({(one.window.start, one.window.end): one.window for one in windows}.items())
        courses, outages = await self._courses(conn, circuits, start, end, self._rules.lookback_days)
        found: list[WindowSaving] = []
        for circuit in circuits:
            off = _off_spans(parts[circuit], end)
            branch = self._branch(circuit, courses[circuit], off, outages[circuit], ())
            own = [window for (first, last), window in times if not off.touch(first, last + self._rules.post)]
            found += branch_savings(branch, own, rules=self._rules)
        found, _ = await self._valued(conn, found)
        whole = total(found)
        return replace(whole, windows=len(times) * len(circuits))

    async def _parts(
        self, conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime, days: int
    ) -> dict[CircuitId, list[ExecutedPart]]:
        """Return the executed parts behind each circuit, as far back as clean days are looked for."""
        behind = {circuit: set(self._loads.loads_behind(circuit)) for circuit in circuits}
        loads = sorted({load for group in behind.values() for load in group})
        since, until = start - (days + 2) * DAY, end + 2 * DAY
        found = executed_parts(await self._switchings.fetch_switchings(conn, loads, since, until))
        return {circuit: [part for part in found if part.load_id in group] for circuit, group in behind.items()}

    async def _courses(
        self, conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime, days: int
    ) -> tuple[dict[CircuitId, Course], dict[CircuitId, Spans]]:
        """Return course and outages of each circuit.

        A window that begins at the end of the span may reach into the day after, and its rebound further.
        """
        since, until = start - (days + 2) * DAY, end + 2 * DAY
        frame = await self._intervals.fetch_frame(conn, circuits, since, until)
        sites = {circuit: self._loads.site_of(circuit) for circuit in circuits}
        known = sorted({site for site in sites.values() if site is not None})
        outages = await self._outages.fetch_outages(conn, known, since, until)
        return (
            {circuit: Course.of(circuit, frame) for circuit in circuits},
            {
                circuit: Spans(
                    (one.began_at, one.ended_at)
                    for one in outages
                    if one.site_id == sites[circuit] and one.concerns(circuit)
                )
                for circuit in circuits
            },
        )

    async def _valued(
        self, conn: ReadConn, savings: Sequence[WindowSaving]
    ) -> tuple[list[WindowSaving], tuple[Choice, ...]]:
        """Return the savings with what was not emitted and not paid for them.

        The factor is that of the site and the civil year, the price that of each quarter hour.
        """
        if not savings:
            return [], ()
        choose = await self._factors.chooser(conn)
        circuits = sorted({CircuitId(one.circuit_id) for one in savings})
        first = min(one.window.start for one in savings).astimezone(CIVIL_ZONE).date()
        last = max(one.post_end for one in savings).astimezone(CIVIL_ZONE).date() + DAY
        price_at = await self._prices.pricer(conn, circuits, first, last)
        choices: dict[tuple[SiteId | None, int], Choice | None] = {}
        found: list[WindowSaving] = []
        for one in savings:
            site, year = self._loads.site_of(CircuitId(one.circuit_id)), day_of(one.window).year
            if (site, year) not in choices:
                choices[site, year] = None if site is None else choose(site, year)
            choice = choices[site, year]
            priced = replace(one, money_cny=_worth(one, price_at))
            if choice is None or one.saving_kwh is None:
                found.append(priced)
                continue
            kg = one.saving_kwh * float(choice.factor.value)
            found.append(replace(priced, emission_kg=kg, factor_id=choice.factor.factor_id))
        used = {choice.factor.factor_id: choice for choice in choices.values() if choice is not None}
        return found, tuple(used.values())


def civil_exceptions(off: Mapping[date, str], work: Mapping[date, str]) -> dict[date, str]:
    """Return the classes of the days that are not what their day of the week says (``windows.weekday_class``)."""
    return dict.fromkeys(off, "restday") | dict.fromkeys(work, "workday")


def _worth(one: WindowSaving, price_at: PriceAt) -> float | None:
    """Return what a window's saved energy would have cost: a night's kilowatt hours are not the day's. [CNY]"""
    if one.saving_kwh is None:
        return None
    parts: list[float] = []
    for start, energy_kwh in one.shape:
        price = price_at(CircuitId(one.circuit_id), start)
        if price is None:
            return None
        parts.append(energy_kwh * price)
    return math.fsum(parts)


def _windows_of(parts: Sequence[ExecutedPart], start: datetime, end: datetime) -> list[MeasuredWindow]:
    """Return the windows of a span and the one after it, which may end the time after the last one inside."""
    later = [one for one in measured_windows(parts) if one.off_at >= start]
    inside = sum(1 for one in later if one.off_at < end)
    return later[: inside + 1] if inside else []


def _off_spans(parts: Sequence[ExecutedPart], end: datetime) -> Spans:
    return Spans([(part.off_at, part.on_at or end + 2 * DAY) for part in parts])


def _named(found: Mapping[str | None, Total]) -> dict[str, Total]:
    """Return the totals of what has a name; switching by hand belongs to no occurrence and no plan."""
    return {name: one for name, one in found.items() if name is not None}


def _circuit_of(one: WindowSaving) -> str:
    return one.circuit_id


def _grouped(savings: Sequence[WindowSaving], key: Callable[[WindowSaving], str]) -> dict[str, list[WindowSaving]]:
    groups: dict[str, list[WindowSaving]] = {}
    for one in savings:
        groups.setdefault(key(one), []).append(one)
    return groups
