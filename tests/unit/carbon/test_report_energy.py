"""What a report of energy says: sums as the books had them, holes told, a missing price never a zero."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from services.carbon.boundary import SpanEnergy
from services.carbon.domain.accounts import Supply
from services.carbon.domain.factors import Choice
from services.carbon.domain.levels.comparison import Against, Span, change
from services.carbon.domain.reports.content import Quantity, Report, ReportKind, Text
from services.carbon.domain.reports.periods import Length, parse_period
from services.carbon.domain.tariff.cost import CostLine, EnergyCost
from services.carbon.domain.tariff.grid import Rate, RateGrid
from services.carbon.domain.tariff.periods import Band
from services.carbon.library import load_library
from services.carbon.reports.encoding import decode_report, encode_report
from services.carbon.reports.energy import SLICES_SHOWN, EnergyAnswers, energy_content
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.costs import NodeCost, Reason, SupplyCost, Unknown
from services.carbon.usecases.levels import By, Comparison, Slice

WEEK = parse_period(Length.WEEK, "2026-W10")
FACTOR = next(row for row in load_library().rows if row.series == "grid-average")


def row(start: datetime, end: datetime, energy_kwh: float | None, **more: Any) -> dict[str, Any]:
    return {
        "start": start,
        "end": end,
        "energy_kwh": energy_kwh,
        "provisional": False,
        "interval_completeness": 1.0,
        "usable_share": 1.0,
        "estimated_share": 0.0,
        "from_parts_share": 0.0,
        "lower_bound": False,
        "uncertain": False,
        "emission_kg_co2": None if energy_kwh is None else energy_kwh * 0.5,
        "factor_ids": [FACTOR.factor_id],
        "max_kw": 8.0,
        "max_at": start,
        "min_kw": 1.0,
        "mean_kw": 4.0,
        "load_factor": 0.5,
        "curve_quarters": int((end - start) / timedelta(minutes=15)),
        **more,
    }


def span(energy_kwh: float | None, completeness: float = 1.0) -> SpanEnergy:
    return SpanEnergy(energy_kwh, False, completeness, completeness, 0.0, 0.0)


def line(band: Band | None, kwh: str, cost: str | None, *, slots: int = 100, unknown: int = 0) -> CostLine:
    rate = None
    if band is not None:
        rate = Rate("gd", date(2025, 1, 1), band, Decimal(1), "all", "flat", "notice 1", True)
    return CostLine(
        date(2026, 3, 1), rate, Decimal(kwh), slots, unknown, None, None, None if cost is None else Decimal(cost)
    )  # fmt: skip


def cost(*lines: CostLine, unknown: tuple[Unknown, ...] = ()) -> NodeCost:
    supply = Supply(date(2026, 3, 2), date(2026, 3, 9), None, ("feed",))
    grid = RateGrid(supply.first, supply.last, 900, 900, np.empty(0, np.int16), ())
    part = SupplyCost(supply, EnergyCost(lines), grid, None)
    return NodeCost("site-1", "site", WEEK.start_at, WEEK.end_at, [part], unknown)


def answers(**more: Any) -> EnergyAnswers:
    days = [WEEK.start_at.astimezone(UTC) + timedelta(days=number) for number in range(7)]
    rows = [row(day, day + timedelta(days=1), 10.0 * number) for number, day in enumerate(days, start=1)]
    base = Span(WEEK.start_at - timedelta(days=7), WEEK.start_at)
    fields: dict[str, Any] = {
        "node": Node(NodeKind.SITE, "site-1"),
        "period": WEEK,
        "whole": row(days[0], days[0] + timedelta(days=7), 280.0),
        "rows": rows,
        "circuits": ["feed"],
        "choices": [Choice(FACTOR, provisional=True, fallback=False)],
        "cost": cost(line(Band.PEAK, "180", "180.555"), line(Band.VALLEY, "100", "30")),
        "comparisons": [
            Comparison(
                against=Against.PERIOD, current=Span(WEEK.start_at, WEEK.end_at), base=base, energy=span(280.0),
                base_energy=span(250.0, 0.9), raw=change(280.0, 250.0), daily=change(40.0, 250.0 / 7),
                headline_is_daily=False, like_for_like=change(None, None), alike=(), left_out=1,
                spring=None,
            )
        ],
        "by": By.USE,
        "parts": [Slice("use:cooling", 2, span(70.0), 0.25)],
        "names": {"use:cooling": "制冷"},
        **more,
    }  # fmt: skip
    return EnergyAnswers(**fields)


def content(**more: Any) -> Report:
    sections, reasons = energy_content(answers(**more))
    found = Report(
        kind=ReportKind.ENERGY_WEEKLY,
        title=Text("T", "题"),
        subject=Text("S", "对象"),
        start=WEEK.start_at,
        end=WEEK.end_at,
        known_on=date(2026, 3, 9),
        made_at=datetime(2026, 3, 9, tzinfo=UTC),
        software="0.1.0",
        question="{}",
        sections=sections,
        reasons=reasons,
    )
    assert decode_report(encode_report(found)) == found
    return found


def quantity(report: Report, table: str, at: int, place: int) -> Quantity:
    found = next(one for one in report.tables if one.key == table).rows[at][place]
    assert isinstance(found, Quantity)
    return found


def test_a_week_has_its_days_and_their_sum() -> None:
    report = content()
    course = next(one for one in report.tables if one.key == "course")
    assert [cells[0] for cells in course.rows] == [f"2026-03-{day:02}" for day in range(2, 9)]
    assert quantity(report, "summary", 0, 1).value == 280.0
    assert report.completeness == 1.0


def test_every_figure_leads_to_where_the_api_tells_it() -> None:
    report = content()
    paths = {one.key: one.path for one in report.reasons}
    asked = "site=site-1&from=2026-03-02T00:00:00%2B08:00&to=2026-03-09T00:00:00%2B08:00"
    assert paths["energy"] == f"/api/v1/energy?{asked}&step=day"
    assert paths["emission"] == f"/api/v1/emissions?{asked}&step=day"
    assert paths["cost"] == f"/api/v1/energy/cost?{asked}"
    assert {one.why for one in report.quantities()} <= set(paths)


def test_a_hole_is_told_and_no_zero() -> None:
    one = answers()
    hole = {**one.rows[2], "energy_kwh": None, "emission_kg_co2": None, "interval_completeness": 0.0,
            "usable_share": 0.0, "curve_quarters": None, "max_kw": None}  # fmt: skip
    report = content(rows=[*one.rows[:2], hole, *one.rows[3:]])
    lost = quantity(report, "course", 2, 1)
    assert lost.value is None
    assert lost.completeness == 0.0
    assert lost.marks == ("unknown_input",)
    assert quantity(report, "course", 2, 3).value is None


def test_what_is_estimated_provisional_or_at_least_is_marked() -> None:
    one = answers()
    whole = {**one.whole, "usable_share": 0.9, "estimated_share": 0.2, "lower_bound": True, "provisional": True}
    marks = quantity(content(whole=whole), "summary", 0, 1).marks
    assert marks == ("incomplete", "running", "estimated", "lower_bound")


def test_an_emission_names_a_factor_of_an_earlier_year() -> None:
    assert "provisional_factor" in quantity(content(), "summary", 1, 1).marks


def test_money_is_rounded_once_where_it_is_printed() -> None:
    report = content()
    assert quantity(report, "summary", 2, 1).value == 210.56  # 180.555 + 30, half up
    assert [quantity(report, "bands", at, 2).value for at in (0, 1)] == [180.56, 30.0]


def test_without_a_price_the_cost_is_unknown_with_its_reason() -> None:
    why = Unknown(Reason.NO_PRICE, "CN-44 2026-03")
    report = content(cost=cost(line(Band.PEAK, "180", None), line(Band.VALLEY, "100", "30"), unknown=(why,)))
    assert quantity(report, "summary", 2, 1).value is None
    assert quantity(report, "summary", 2, 1).marks == ("unknown_price",)
    told = next(one for one in report.sections if one.key == "cost").paragraphs
    assert told == (Text(why.text.english, why.text.chinese),)
    # What is known of the other band stands beside it.
    assert [quantity(report, "bands", at, 2).value for at in (0, 1)] == [None, 30.0]


def test_energy_that_no_tariff_covers_has_a_row_of_its_own() -> None:
    report = content(cost=cost(line(None, "5", None), line(Band.FLAT, "7", "7")))
    bands = next(one for one in report.tables if one.key == "bands")
    assert [cells[0].en for cells in bands.rows if isinstance(cells[0], Text)] == ["flat", "no tariff in force"]


def test_a_cost_of_too_many_lines_is_said_and_the_report_stands() -> None:
    report = content(cost=Text("too many", "过多"))
    assert "bands" not in {one.key for one in report.tables}
    assert next(one for one in report.sections if one.key == "cost").paragraphs == (Text("too many", "过多"),)


def test_a_change_is_as_complete_as_the_worse_of_its_periods() -> None:
    changed = quantity(content(), "comparison", 0, 3)
    assert changed.value == pytest.approx(0.12)
    assert changed.completeness == 0.9
    assert quantity(content(), "comparison", 0, 4).value is None


def test_parts_that_are_not_listed_are_counted() -> None:
    one = Slice("a", 1, span(1.0), 0.1)
    parts = [replace(one, key=f"part-{number}") for number in range(SLICES_SHOWN + 3)]
    section = next(each for each in content(parts=parts).sections if each.key == "parts")
    assert len(section.tables[0].rows) == SLICES_SHOWN
    assert section.paragraphs[0].en == "3 smaller parts are not listed."


def test_every_figure_names_the_question_that_answers_it() -> None:
    found = content()
    paths = {one.key: one.path for one in found.reasons}
    for one in found.quantities():
        assert (one.trace or paths[one.why]).startswith("/api/v1/")
    traces = {table.key: [one.trace for _, _, one in table.figures()] for table in found.tables}
    span = "from=2026-03-02T00:00:00%2B08:00&to=2026-03-09T00:00:00%2B08:00"
    assert traces["summary"][0] == f"/api/v1/energy/trace?figure=energy&site=site-1&{span}"
    assert traces["course"][0].endswith("from=2026-03-02T00:00:00%2B08:00&to=2026-03-03T00:00:00%2B08:00")
    assert traces["parts"][1] == f"/api/v1/energy/trace?figure=share&site=site-1&{span}&use=use:cooling"
