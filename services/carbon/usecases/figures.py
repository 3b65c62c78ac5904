"""What a node used, emitted or spent on each civil day, as targets count it."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import NotFound
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.tariff.sheet import month_after
from services.carbon.queries import Queries
from services.carbon.tree import Node
from services.carbon.usecases.costs import Costs, midnight

DAY_KNOWN = 0.95
"""From this share of its intervals on a day has a figure (methods, section 2: to be published without a mark)."""


class Measure(StrEnum):
    """What a target allows an amount of."""

    ENERGY = "energy"
    EMISSION = "emission_location_based"
    COST = "cost"

    @property
    def unit(self) -> str:
        """The unit of its amounts; no other is taken."""
        return {"energy": "kWh", "emission_location_based": "kgCO2", "cost": "CNY"}[self.value]


@dataclass(frozen=True, slots=True)
class DayFigure:
    """One civil day of a node."""

    at_least: float | None
    """What is known of it, None where nothing is. [the measure's unit]"""
    completeness: float
    """Share of its intervals that are known, 0 to 1."""

    @property
    def value(self) -> float | None:
        """The day's figure, None where too little is known to call it one. [the measure's unit]"""
        return self.at_least if self.completeness >= DAY_KNOWN else None


NOTHING = DayFigure(None, 0.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Reads the books by civil day, a month at a time, so that a year of a large node is never held at once."""

    queries: Queries
    costs: Costs

    async def days(self, node: Node, measure: Measure, first: date, last: date) -> list[DayFigure]:
        """Return a figure of every day of ``[first, last)``; all of them are over."""
        by_day: dict[date, DayFigure] = {}
        begin = first
        while begin < last:
            end = min(month_after(begin), last)
            try:
                by_day |= await self._of(node, measure, begin, end)
            except NotFound:  # the node had nothing to be measured by then
                pass
            begin = end
        return [by_day.get(first + timedelta(days=offset), NOTHING) for offset in range((last - first).days)]

    async def _of(self, node: Node, measure: Measure, first: date, last: date) -> dict[date, DayFigure]:
        if measure is Measure.COST:
            found = await self.costs.days(node, first=first, last=last)
            return {
                one.day: NOTHING if one.cost_cny is None else DayFigure(float(one.cost_cny), one.completeness)
                for one in found
            }
        start, end = midnight(first), midnight(last)
        if measure is Measure.ENERGY:
            energy = await self.queries.energy(node=node, start=start, end=end, step=Step.DAY)
            return _figures(energy.frame, "energy_kwh")
        emissions = await self.queries.emissions(node=node, start=start, end=end, step=Step.DAY)
        return _figures(emissions.frame, "emission_kg_co2")


def _figures(frame: pl.DataFrame, name: str) -> dict[date, DayFigure]:
    found: dict[date, DayFigure] = {}
    start: datetime
    for start, value, usable in frame.select("start", name, "usable_share").iter_rows():
        day = start.astimezone(CIVIL_ZONE).date()
        found[day] = NOTHING if value is None else DayFigure(value, usable or 0.0)
    return found
