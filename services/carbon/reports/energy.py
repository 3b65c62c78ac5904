"""The contents of a report of the energy of a node in a civil period."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.factors import Choice
from services.carbon.domain.levels.comparison import Against
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.money import to_cents, total
from services.carbon.domain.reports import words
from services.carbon.domain.reports.building import Reasons, civil, key_figures, marks_of, path, traced
from services.carbon.domain.reports.content import (
    Cell,
    Chart,
    ChartKind,
    Column,
    ColumnKind,
    Quantity,
    Reason,
    Section,
    Table,
    Text,
)
from services.carbon.domain.reports.periods import STEPS, WHOLE_STEPS, Period
from services.carbon.tree import Node
from services.carbon.usecases.costs import NodeCost
from services.carbon.usecases.levels import By, Comparison, Slice
from services.carbon.usecases.why.asked import NO_TARIFF

Row = Mapping[str, Any]
KWH = "kWh"
KG = "kgCO2"
CNY = "CNY"
SLICES_SHOWN = 50
"""Parts of a breakdown that are printed; the largest come first, the rest is told as one number."""

_COST = Text("Cost", "电费")
METHOD = "carbon README, What the energy of a node is made of"
"""Where the platform says how it counts: a chapter of what ships with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyAnswers:
    """What the books said when the report was made."""

    node: Node
    period: Period
    whole: Row
    """The one row of the period: energy, load curve and emissions (``levels.Profile``, ``queries.Emissions``)."""
    rows: Sequence[Row]
    """The same by part of the period, the hours of a day or the days of a month."""
    circuits: Sequence[str]
    choices: Sequence[Choice]
    """Emission factors that were used."""
    cost: NodeCost | Text
    """Or why it is too much for one answer."""
    comparisons: Sequence[Comparison]
    by: By
    parts: Sequence[Slice]
    names: Mapping[str, str]
    """Names of places by id."""


def energy_content(answers: EnergyAnswers) -> tuple[tuple[Section, ...], tuple[Reason, ...]]:
    """Return the chapters of a report of energy, and its reasons."""
    reasons = Reasons()
    sections = [_summary(answers, reasons), _course(answers, reasons)]
    if answers.parts:
        sections.append(_parts(answers, reasons))
    if isinstance(answers.cost, Text):
        sections.append(Section(key="cost", title=_COST, paragraphs=(answers.cost,)))
    else:
        sections.append(_cost(answers, answers.cost, reasons))
    sections.append(_factors(answers, reasons))
    return tuple(sections), reasons.all()


def _asked(answers: EnergyAnswers, step: Step | None) -> dict[str, str | None]:
    period = answers.period
    return {
        answers.node.kind.value: answers.node.id,
        "from_": period.start_at.isoformat(),
        "to": period.end_at.isoformat(),
        "step": None if step is None else step.value,
    }


def _energy_reason(answers: EnergyAnswers, reasons: Reasons) -> str:
    return reasons.add(
        "energy",
        Text(
            "sum of the 15-minute intervals of the node's feeds; each interval: energy/trace?circuit=&start=",
            "各进线回路 15 分钟区间电量之和;每个区间可由 energy/trace?circuit=&start= 追溯到表底",
        ),
        source=METHOD,
        path=path("energy", **_asked(answers, STEPS[answers.period.length])),
        origins=[f"circuit {circuit}" for circuit in answers.circuits],
    )


def _emission_reason(answers: EnergyAnswers, reasons: Reasons) -> str:
    return reasons.add(
        "emission",
        Text("E = A · EF by site and civil year, location-based", "E = A · EF,按局站和年度,基于位置"),
        source="GHG Protocol Scope 2 Guidance (2015), 6",
        path=path("emissions", **_asked(answers, STEPS[answers.period.length])),
        origins=[_origin(choice) for choice in answers.choices],
    )


def _curve_reason(answers: EnergyAnswers, reasons: Reasons) -> str:
    return reasons.add(
        "curve",
        Text("mean power of each quarter hour in which every feed is known", "各进线均已知的 15 分钟平均功率"),
        source=METHOD,
        path=path("energy/profile", **_asked(answers, STEPS[answers.period.length])),
    )


def _origin(choice: Choice) -> str:
    row = choice.factor
    return f"factor {row.factor_id} r{row.revision}: {row.value:f} {row.unit}, {row.data_year}"


def _trace(answers: EnergyAnswers, figure: str, start: datetime, end: datetime, **more: str | None) -> str:
    node = {answers.node.kind.value: answers.node.id}
    return traced(figure, **node, from_=civil(start), to=civil(end), **more)


def _energy(answers: EnergyAnswers, row: Row, why: str) -> Quantity:
    return Quantity(
        value=row["energy_kwh"],
        completeness=row["interval_completeness"],
        why=why,
        marks=marks_of(row),
        trace=_trace(answers, "energy", row["start"], row["end"]),
    )


def _emission(answers: EnergyAnswers, row: Row, why: str) -> Quantity:
    used = [choice for choice in answers.choices if choice.factor.factor_id in (row.get("factor_ids") or ())]
    marks = list(marks_of(row))
    if row.get("emission_kg_co2") is None and row["energy_kwh"] is not None:
        marks.append("no_factor")
    if any(choice.provisional for choice in used):
        marks.append("provisional_factor")
    if any(choice.fallback for choice in used):
        marks.append("wider_area")
    return Quantity(
        value=row.get("emission_kg_co2"),
        completeness=row["interval_completeness"],
        why=why,
        marks=tuple(marks),
        trace=_trace(answers, "emission", row["start"], row["end"]),
    )


def _of_curve(answers: EnergyAnswers, row: Row, name: str, why: str) -> Quantity:
    """Return a figure of the load curve: as complete as the quarter hours that all feeds have."""
    quarters, expected = row.get("curve_quarters"), (row["end"] - row["start"]).total_seconds() / 900
    figure = _OF_CURVE[name]
    return Quantity(
        value=row.get(name),
        completeness=(quarters or 0) / expected,
        why=why,
        trace=_trace(answers, figure, row["start"], row["end"]),
    )


_OF_CURVE = {"max_kw": "demand", "min_kw": "lowest", "mean_kw": "mean_load", "load_factor": "load_factor"}
"""Which trace explains a figure of the load curve."""


def _summary(answers: EnergyAnswers, reasons: Reasons) -> Section:
    energy, emission = _energy_reason(answers, reasons), _emission_reason(answers, reasons)
    curve = _curve_reason(answers, reasons)
    whole = answers.whole
    rows: list[tuple[Text, Quantity, str]] = [
        (Text("energy", "用电量"), _energy(answers, whole, energy), KWH),
        (Text("emissions, location-based", "排放量(基于位置)"), _emission(answers, whole, emission), KG),
    ]
    if not isinstance(answers.cost, Text):
        rows.append((Text("cost of energy", "电量电费"), _cost_of(answers, answers.cost, reasons), CNY))
    rows += [
        (Text("highest demand", "最大需量"), _of_curve(answers, whole, "max_kw", curve), "kW"),
        (Text("lowest demand", "最小负荷"), _of_curve(answers, whole, "min_kw", curve), "kW"),
        (Text("mean load", "平均负荷"), _of_curve(answers, whole, "mean_kw", curve), "kW"),
        (Text("load factor", "负荷率"), _of_curve(answers, whole, "load_factor", curve), "1"),
    ]
    tables = [key_figures("summary", Text("Key figures", "主要指标"), rows)]
    if answers.comparisons:
        tables.append(_comparisons(answers, reasons))
    paragraphs = []
    if whole.get("max_at") is not None:
        at = whole["max_at"].astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M")
        paragraphs.append(Text(f"The demand was highest at {at}.", f"最大需量出现在 {at}。"))
    return Section(key="summary", title=Text("Summary", "概况"), paragraphs=tuple(paragraphs), tables=tuple(tables))


def _comparisons(answers: EnergyAnswers, reasons: Reasons) -> Table:
    why = reasons.add(
        "comparison",
        Text(
            "(value - base) / |base|; like for like: sites known in both",
            "(本期 - 基期) / |基期|;同口径:两期均完整的局站",
        ),
        source=METHOD,
        path=path(
            "energy/comparison",
            **{answers.node.kind.value: answers.node.id, "at": answers.period.start_at.isoformat()},
            step=WHOLE_STEPS[answers.period.length].value,
        ),
    )

    def changed(figure: str, against: Against) -> str:
        return _trace(answers, figure, answers.period.start_at, answers.period.end_at, against=against.value)

    names = {Against.YEAR: Text("a year earlier", "同比"), Against.PERIOD: Text("the period before", "环比")}
    rows: list[tuple[Cell, ...]] = []
    for one in answers.comparisons:
        base = one.base_energy
        headline = one.daily if one.headline_is_daily else one.raw
        complete = _least(one.energy.interval_completeness, base.interval_completeness)
        rows.append(
            (
                names[one.against],
                civil(one.base.start)[:10],
                Quantity(
                    value=base.energy_kwh,
                    completeness=base.interval_completeness,
                    why=why,
                    marks=marks_of(asdict(base)),
                    trace=_trace(answers, "energy", one.base.start, one.base.end, booked="true"),
                ),
                Quantity(
                    value=headline.relative,
                    completeness=complete,
                    why=why,
                    trace=changed("change_daily" if one.headline_is_daily else "change", one.against),
                ),
                Quantity(
                    value=one.like_for_like.relative,
                    completeness=complete,
                    why=why,
                    trace=changed("like_for_like", one.against),
                ),
            )
        )
    columns = (
        Column(key="against", title=Text("compared with", "对比")),
        Column(key="base_start", title=Text("from", "基期起始"), kind=ColumnKind.DAY),
        Column(key="base_kwh", title=Text("energy", "基期电量"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="change", title=Text("change", "变化率"), kind=ColumnKind.FIGURE, percent=True, digits=1),
        Column(
            key="like_for_like",
            title=Text("like for like", "同口径变化率"),
            kind=ColumnKind.FIGURE,
            percent=True,
            digits=1,
        ),
    )
    return Table(key="comparison", title=Text("Compared", "同比与环比"), columns=columns, rows=tuple(rows))


def _course(answers: EnergyAnswers, reasons: Reasons) -> Section:
    energy, emission = _energy_reason(answers, reasons), _emission_reason(answers, reasons)
    curve = _curve_reason(answers, reasons)
    step = STEPS[answers.period.length]
    rows: list[tuple[Cell, ...]] = [
        (
            _label(row["start"], step),
            _energy(answers, row, energy),
            _emission(answers, row, emission),
            _of_curve(answers, row, "max_kw", curve),
            Quantity(
                value=row["estimated_share"] if row["usable_share"] else None,
                completeness=row["usable_share"],
                why=energy,
                trace=_trace(answers, "energy", row["start"], row["end"]),
            ),
        )
        for row in answers.rows
    ]
    columns = (
        Column(key="start", title={Step.HOUR: Text("hour", "时刻"), Step.DAY: Text("day", "日期")}.get(
            step, Text("month", "月份"))),
        Column(key="energy_kwh", title=Text("energy", "用电量"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="emission_kg_co2", title=Text("emissions", "排放量"), kind=ColumnKind.FIGURE, unit=KG),
        Column(key="max_kw", title=Text("highest demand", "最大需量"), kind=ColumnKind.FIGURE, unit="kW"),
        Column(
            key="estimated_share",
            title=Text("estimated", "估算占比"),
            kind=ColumnKind.FIGURE,
            percent=True,
            digits=1,
        ),
    )  # fmt: skip
    chart = Chart(
        kind=ChartKind.LINE if step is Step.HOUR else ChartKind.BAR,
        title=Text("Energy (kWh)", "用电量(kWh)"),
        along="start",
        series=("energy_kwh",),
    )
    table = Table(key="course", title=Text("Course", "用能过程"), columns=columns, rows=tuple(rows), chart=chart)
    return Section(key="course", title=Text("Course of the period", "周期内用能"), tables=(table,))


def _label(start: datetime, step: Step) -> str:
    local = start.astimezone(CIVIL_ZONE)
    return {Step.HOUR: f"{local:%H:%M}", Step.DAY: f"{local:%Y-%m-%d}"}.get(step, f"{local:%Y-%m}")


def _parts(answers: EnergyAnswers, reasons: Reasons) -> Section:
    why = reasons.add(
        "parts",
        Text("energy of the part's circuits", "各部分回路电量")
        if answers.by.is_apart
        else Text("energy of the part's circuits; parts may lie within each other", "各部分回路电量;可能相互包含"),
        source=METHOD,
        path=path("energy/breakdown", **_asked(answers, None), by=answers.by.value),
    )  # fmt: skip
    shown = answers.parts[:SLICES_SHOWN]
    rows: list[tuple[Cell, ...]] = [
        (
            answers.names.get(one.key, one.key),
            one.circuits,
            Quantity(
                value=one.energy.energy_kwh,
                completeness=one.energy.interval_completeness,
                why=why,
                marks=marks_of(asdict(one.energy)),
                trace=_of_part(answers, one.key, "energy"),
            ),
            Quantity(
                value=one.share,
                completeness=one.energy.interval_completeness,
                why=why,
                trace=_of_part(answers, one.key, "share"),
            ),
        )
        for one in shown
    ]
    columns = (
        Column(key="part", title=_BY[answers.by]),
        Column(key="circuits", title=Text("circuits", "回路数"), kind=ColumnKind.COUNT),
        Column(key="energy_kwh", title=Text("energy", "用电量"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="share", title=Text("share", "占比"), kind=ColumnKind.FIGURE, percent=True, digits=1),
    )
    chart = Chart(
        kind=ChartKind.BAR, title=Text("Energy (kWh)", "用电量(kWh)"), along="part", series=("energy_kwh",)
    )  # fmt: skip
    table = Table(key="parts", title=_BY[answers.by], columns=columns, rows=tuple(rows), chart=chart)
    left = len(answers.parts) - len(shown)
    told = (Text(f"{left} smaller parts are not listed.", f"另有 {left} 个较小部分未列出。"),) if left else ()
    return Section(key="parts", title=Text("Parts", "分项"), paragraphs=told, tables=(table,))


def _of_part(answers: EnergyAnswers, key: str, figure: str) -> str:
    """Return what answers why a part has its energy or share; nothing where no question names the part."""
    period = answers.period
    if answers.by is By.SITE:
        if figure == "share":
            return _trace(answers, figure, period.start_at, period.end_at, of_site=key)
        return traced(figure, site=key, from_=civil(period.start_at), to=civil(period.end_at), booked="true")
    if answers.by is By.SHIFT:
        return ""
    booked = "true" if figure == "energy" else None
    return _trace(answers, figure, period.start_at, period.end_at, **{answers.by.value: key}, booked=booked)


_BY = {
    By.ROLE: Text("role", "回路角色"),
    By.TAG: Text("tag", "标签"),
    By.USE: Text("use", "分项用途"),
    By.LEVEL: Text("metering level", "计量级别"),
    By.SHIFT: Text("shift", "班次"),
    By.SITE: Text("site", "局站"),
}


def _cost_reason(answers: EnergyAnswers, cost: NodeCost, reasons: Reasons) -> str:
    sources = {line.rate.source for _, line in cost.lines if line.rate is not None}
    prices = {
        f"{line.price.key.region} {line.price.key.customer_class} {line.price.key.voltage} "
        f"{line.price.key.month:%Y-%m} v{line.price.version}: {line.price.source}"
        for _, line in cost.lines
        if line.price is not None
    }
    return reasons.add(
        "cost",
        Text("energy of the band × (base price × ratio + fixed part)", "时段电量 ×(基准电价 × 浮动系数 + 固定部分)"),
        source="carbon README, What energy costs",
        path=path("energy/cost", **_asked(answers, None)),
        origins=[*(f"tariff: {one}" for one in sorted(sources)), *(f"price: {one}" for one in sorted(prices))],
    )


def _cost_trace(answers: EnergyAnswers) -> str:
    return _trace(answers, "cost", answers.period.start_at, answers.period.end_at)


def _of_band(answers: EnergyAnswers, figure: str, band: str) -> str:
    """Return what answers why a band has its energy or cost."""
    return _trace(answers, figure, answers.period.start_at, answers.period.end_at, line=band or NO_TARIFF)


def _money(amount: Decimal | None) -> float | None:
    return None if amount is None else float(to_cents(amount))


def _cost_of(answers: EnergyAnswers, cost: NodeCost, reasons: Reasons) -> Quantity:
    whole = cost.whole.cost_cny
    return Quantity(
        value=_money(whole),
        completeness=cost.interval_completeness,
        why=_cost_reason(answers, cost, reasons),
        marks=() if whole is not None else ("unknown_price",),
        trace=_cost_trace(answers),
    )


def _cost(answers: EnergyAnswers, cost: NodeCost, reasons: Reasons) -> Section:
    why = _cost_reason(answers, cost, reasons)
    bands: dict[str, list[Any]] = {}
    for part in cost.parts:
        for line in part.cost.lines:
            band = "" if line.rate is None else line.rate.band.value
            bands.setdefault(band, []).append((line, part.slot_s))
    rows: list[tuple[Cell, ...]] = []
    for band in (*words.BANDS, ""):
        lines = bands.get(band)
        if lines is None:
            continue
        slots = sum(line.slots * slot_s for line, slot_s in lines)
        unknown = sum(line.unknown * slot_s for line, slot_s in lines)
        complete = 1 - unknown / slots if slots else None
        priced = [line for line, _ in lines if line.cost_cny is not None]
        missing = [line for line, _ in lines if line.cost_cny is None and line.slots > line.unknown]
        rows.append(
            (
                words.BANDS.get(band, words.NO_BAND),
                Quantity(
                    value=float(total(line.energy_kwh for line, _ in lines)), completeness=complete, why=why,
                    marks=("incomplete",) if unknown else (), trace=_of_band(answers, "tariff_energy", band),
                ),
                Quantity(
                    value=None if missing or not priced else _money(total(line.cost_cny for line in priced)),
                    completeness=complete,
                    why=why,
                    marks=("unknown_price",) if missing else (),
                    trace=_of_band(answers, "tariff_cost", band),
                ),
            )
        )  # fmt: skip
    columns = (
        Column(key="band", title=Text("band", "时段")),
        Column(key="energy_kwh", title=Text("energy", "电量"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="cost_cny", title=Text("cost", "电费"), kind=ColumnKind.FIGURE, unit=CNY),
    )
    chart = Chart(
        kind=ChartKind.BAR, title=Text("Energy by band (kWh)", "分时段电量(kWh)"), along="band", series=("energy_kwh",)
    )  # fmt: skip
    title = Text("Energy and cost by band", "分时段电量电费")
    table = Table(key="bands", title=title, columns=columns, rows=tuple(rows), chart=chart)
    told = [Text(one.text.english, one.text.chinese) for one in cost.unknown]
    if cost.range_cny is not None and cost.range_cny[0] != cost.range_cny[1]:
        low, high = (to_cents(one) for one in cost.range_cny)
        told.append(
            Text(
                f"Special days that nobody has entered yet leave the cost between {low} and {high} CNY.",
                f"尚未录入的特殊日使电费介于 {low} 元与 {high} 元之间。",
            )
        )
    return Section(key="cost", title=_COST, paragraphs=tuple(told), tables=(table,))


def _factors(answers: EnergyAnswers, reasons: Reasons) -> Section:
    why = _emission_reason(answers, reasons)
    rows: list[tuple[Cell, ...]] = []
    for choice in answers.choices:
        row = choice.factor
        marks = [name for name, holds in (("provisional_factor", choice.provisional), ("wider_area", choice.fallback))
                 if holds]  # fmt: skip
        rows.append(
            (
                row.factor_id,
                row.revision,
                row.data_year,
                Quantity(value=float(row.value), completeness=None, why=why, marks=tuple(marks)),
                row.unit,
                row.source,
            )
        )
    columns = (
        Column(key="factor_id", title=Text("factor", "因子编号")),
        Column(key="revision", title=Text("revision", "修订"), kind=ColumnKind.COUNT),
        Column(key="data_year", title=Text("year", "年度"), kind=ColumnKind.COUNT),
        Column(key="value", title=Text("value", "数值"), kind=ColumnKind.FIGURE, digits=4),
        Column(key="unit", title=Text("unit", "单位")),
        Column(key="source", title=Text("source", "来源")),
    )
    table = Table(key="factors", title=Text("Emission factors", "排放因子"), columns=columns, rows=tuple(rows))
    return Section(key="factors", title=Text("Factors used", "采用的因子"), tables=(table,))


def _least(*shares: float | None) -> float | None:
    known = [one for one in shares if one is not None]
    return min(known) if known else None
