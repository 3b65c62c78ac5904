"""The report of many sites at once: energy, completeness, time-of-use split and location-based emissions by period.

It is what ``energy_by_period``, ``split`` and ``emissions_by_period`` say of each site, out of one look at every
interval; the intervals come in pieces, and only their cells (``domain/cells.py``) are kept. What was gathered can be
kept too: the cells of another day are merged into those of the month, and the report is made of both.

Source:
    The platform's energy methods, sections 0, 2, 5 and 9.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import polars as pl

from services.carbon.domain.levels.emission import emissions_of
from services.carbon.domain.levels.energy import NODE_SCHEMA, Promise, energy_cells, energy_of
from services.carbon.domain.levels.periods import Step, period_of, periods
from services.carbon.domain.tariff.grid import RateGrid, by_rate


@dataclass(frozen=True)
class Span:
    """What a report is about, besides the sites: whole civil periods, and the tariff that its sites pay by."""

    step: Step
    """Day or longer where the split is asked for."""
    start: datetime
    end: datetime
    grid: RateGrid

    @property
    def periods(self) -> pl.DataFrame:
        """The civil periods around the span: ``start``, ``end``."""
        return periods(self.step, self.start, self.end)


@dataclass(frozen=True)
class SiteReport:
    """Figures by site and period."""

    energy: pl.DataFrame
    """``site_id`` and the columns of ``energy_by_period``, with ``emission_kg_co2`` and ``factor_ids`` as
    ``emissions_by_period`` has them; a row for every site of the terms and every period."""
    split: pl.DataFrame
    """``site_id`` and the columns of ``split``, of the intervals that were found."""


def gather(pieces: Iterable[pl.DataFrame], promise: Promise, span: Span) -> pl.DataFrame:
    """Return the cells of pieces of a boundary.

    Args:
        pieces: Frames of a node's intervals (``domain/levels/energy.py``), each interval in one of them.
        promise: What is expected of the sites; its shift and its recorded outages matter here.
        span: What the report is about; intervals outside of its periods are left out.
    """
    whole = span.periods
    layout = span.grid.layout(whole["start"][0], whole["end"][-1], period_of(span.step))
    some = chain([pl.DataFrame(schema=NODE_SCHEMA)], pieces)
    return pl.concat([energy_cells(piece, layout, promise) for piece in some])


def site_report(cells: pl.DataFrame, promise: Promise, span: Span, factors: pl.DataFrame) -> SiteReport:
    """Return the report of the sites of a promise.

    Args:
        cells: As ``gather`` returns them, or several of these put together.
        promise: What is expected of the sites.
        span: As the cells were gathered with.
        factors: Frame of factors (``domain/levels/emission.py``).
    """
    energy = energy_of(cells, promise, span.periods, by_site=True, per_step=span.grid.step_s // span.grid.slot_s)
    emissions = emissions_of(cells, factors, by=["site_id"])
    return SiteReport(
        energy=energy.join(emissions, on=["site_id", "start"], how="left").sort("site_id", "start"),
        split=by_rate(cells, keys=["site_id"]),
    )
