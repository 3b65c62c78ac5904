"""What meters say a measure saved: days before and after out of the books, by comparison, regression or shutdowns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np
import polars as pl

from libs.common.db import ReadConn
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, LoadId, SiteId
from services.carbon.domain.registers import FloatArray
from services.carbon.domain.savings.measurement.days import (
    SLOTS,
    days_between,
    opening,
    saving_by_slot,
    slots_of,
)
from services.carbon.domain.savings.measurement.measured import (
    Adjustment,
    Basis,
    MeasuredSaving,
    by_comparison,
    by_regression,
    by_windows,
)
from services.carbon.domain.savings.measurement.plan import MeasurementPlan, Period
from services.carbon.domain.savings.measurement.regression import Days, Model, fit
from services.carbon.domain.savings.shutdowns.course import STEP
from services.carbon.domain.savings.shutdowns.windows import weekday_class
from services.carbon.usecases.shutdowns import IntervalBooks, ShutdownSavings, Temperatures


class NoBaseline(InvalidInput):
    """There is nothing that a saving could be measured against."""

    code = "no_baseline"
    title_zh = "没有可用的基准"


class Circuits(Protocol):
    """What measurements ask of the registry (``loads.py``)."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known."""

    def places_of(self, site: SiteId) -> list[str]:
        """Return a site and the regions that it lies in, smallest first."""

    def loads_behind(self, circuit: CircuitId) -> Sequence[LoadId]:
        """Return every load behind a circuit's meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measured saving with what stands behind it."""

    saving: MeasuredSaving
    by_slot: FloatArray
    """The saving by civil day of the period and quarter hour, NaN where it is unknown; sums to the whole. Shape
    (days, 96). [kWh]"""
    model: Model | None
    """The baseline of a regression."""
    days_before: int
    """Known days of the baseline."""
    temperature_sources: tuple[str, ...]


class Measurements:
    """Measures when asked, from the intervals that hold at that time."""

    def __init__(
        self,
        *,
        intervals: IntervalBooks,
        temperatures: Temperatures,
        shutdowns: ShutdownSavings,
        circuits: Circuits,
        holidays: Mapping[date, str],
    ) -> None:
        self._intervals = intervals
        self._temperatures = temperatures
        self._shutdowns = shutdowns
        self._circuits = circuits
        self._holidays = holidays

    async def measure(
        self,
        conn: ReadConn,
        circuits: Sequence[str],
        plan: MeasurementPlan,
        *,
        adjustments: Sequence[Adjustment] = (),
    ) -> Measurement:
        """Return what was saved on some circuits.

        Raises:
            NotFound: A circuit is not known.
            NoBaseline: No model could be fitted to the days before.
        """
        for one in (*circuits, *plan.load_circuits):
            if self._circuits.site_of(CircuitId(one)) is None:
                raise NotFound(f"there is no circuit {one}", message_zh=f"没有回路 {one}")
        if plan.before is None:
            return await self._by_shutdowns(conn, circuits, plan.after, adjustments)
        before, slots_before, sources = await self._days(conn, circuits, plan.before, plan.load_circuits)
        after, slots_after, more = await self._days(conn, circuits, plan.after, plan.load_circuits)
        model: Model | None = None
        if plan.basis is Basis.REGRESSION:
            model = fit(before)
            if model is None:
                raise NoBaseline(
                    f"before: expected at least two days with energy and temperature from {plan.before.start} to "
                    f"{plan.before.end}, found {int(before.known.sum())}",
                    message_zh=f"before:{plan.before.start} 至 {plan.before.end} 至少需要两天同时有电量和气温,"
                    f"实际为 {int(before.known.sum())} 天",
                )
            saving = by_regression(model, after, adjustments=adjustments)
            baseline = model.predict(after)
        else:
            saving = by_comparison(
                before,
                after,
                driver_before=plan.driver_before,
                driver_after=plan.driver_after,
                adjustments=adjustments,
            )
            whole = before.energy_kwh[~np.isnan(before.energy_kwh)]
            usual = float(whole.mean()) * plan.driver_after / plan.driver_before if whole.size else float("nan")
            baseline = np.full(len(after.day), usual)
        return Measurement(
            saving=saving,
            by_slot=saving_by_slot(
                baseline, slots_after, slots_before, adjustment_kwh=sum(one.energy_kwh for one in adjustments)
            ),
            model=model,
            days_before=int((~np.isnan(before.energy_kwh)).sum()),
            temperature_sources=tuple(sorted({*sources, *more})),
        )

    async def _by_shutdowns(
        self, conn: ReadConn, circuits: Sequence[str], after: Period, adjustments: Sequence[Adjustment]
    ) -> Measurement:
        loads = sorted({load for one in circuits for load in self._circuits.loads_behind(CircuitId(one))})
        start, end = opening(after.start), opening(after.end)
        report = await self._shutdowns.report(conn, loads=loads, start=start, end=end)
        windows = [one for one in report.windows if one.circuit_id in circuits]
        saving = by_windows(windows, start=after.start, end=after.end, adjustments=adjustments)
        days = (after.end - after.start).days
        by_slot = np.full((days, SLOTS), np.nan)
        for at, energy in (pair for one in windows for pair in one.shape):
            day, slot = divmod(round((at - start) / STEP), SLOTS)
            # What a window of the last evening saves after midnight counts with that evening, at its own time of day.
            place = min(day, days - 1), slot
            by_slot[place] = np.nansum([by_slot[place], energy])
        known = ~np.isnan(by_slot)
        if known.any():
            by_slot[known] += sum(one.energy_kwh for one in adjustments) / int(known.sum())
        return Measurement(saving=saving, by_slot=by_slot, model=None, days_before=0, temperature_sources=())

    async def _days(
        self, conn: ReadConn, circuits: Sequence[str], period: Period, load_circuits: Sequence[str]
    ) -> tuple[Days, FloatArray, set[str]]:
        """Return the days of a period, their quarter hours, and where the temperatures come from."""
        start, end = opening(period.start), opening(period.end)
        frame = await self._intervals.fetch_frame(
            conn, [CircuitId(one) for one in {*circuits, *load_circuits}], start, end
        )
        slots = slots_of(frame, circuits, period.start, period.end)
        temperature_c, sources = await self._temperature(conn, circuits, period)
        days = days_between(period.start, period.end)
        return (
            Days(
                day=days,
                temperature_c=temperature_c,
                energy_kwh=slots.sum(axis=1),
                restday=np.array([weekday_class(day, exceptions=self._holidays) == "restday" for day in days]),
                load_kwh=_load_of(frame, load_circuits, period) if load_circuits else None,
            ),
            slots,
            sources,
        )

    async def _temperature(
        self, conn: ReadConn, circuits: Sequence[str], period: Period
    ) -> tuple[FloatArray, set[str]]:
        """Return the daily mean temperature of the nearest place that has one, NaN where none has. [°C]"""
        site = self._circuits.site_of(CircuitId(circuits[0]))
        places = [] if site is None else self._circuits.places_of(site)
        rows = await self._temperatures.fetch_temperatures(conn, places, period.start, period.end)
        found = np.full((period.end - period.start).days, np.nan)
        sources: set[str] = set()
        for place in reversed(places):
            for _, day, mean_c, source in (row for row in rows if row[0] == place):
                found[(day - period.start).days] = mean_c
                sources.add(source)
        return found, sources


def _load_of(frame: pl.DataFrame, circuits: Sequence[str], period: Period) -> FloatArray:
    found: FloatArray = slots_of(frame, circuits, period.start, period.end).sum(axis=1)
    return found
