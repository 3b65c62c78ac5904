"""The contents of a report of what switching off saved, out of the answers of ``usecases/shutdowns.py``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.carbon.domain.reports import words
from services.carbon.domain.reports.building import Reasons, civil, facts, key_figures, path, traced
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
from services.carbon.domain.savings.shutdowns.totals import Total
from services.carbon.domain.savings.shutdowns.windows import WindowSaving
from services.carbon.usecases.shutdowns import ShutdownReport

WINDOWS_SHOWN = 5_000
"""Windows that one report lists; the totals have all of them."""


def savings_content(
    found: ShutdownReport, *, asked: Mapping[str, str], names: Mapping[str, str]
) -> tuple[tuple[Section, ...], tuple[Reason, ...]]:
    """Return the chapters of a report of savings, and its reasons.

    Args:
        found: What switching off saved.
        asked: ``site`` or ``plan`` with its id.
        names: Names of sites and circuits by id.
    """
    reasons = Reasons()
    told_at = path("savings/shutdowns", **asked, from_=found.start.isoformat(), to=found.end.isoformat())
    why = reasons.add(
        "windows",
        Text(
            "baseline - actual - rebound - control; baseline: median of the same clock window on clean days. "
            "Completeness of a sum: windows with a figure over all windows",
            "基线 - 实测 - 反弹 - 控制能耗;基线为有效基线日同一时段的中位数。合计的完整率为有数值的时段占比",
        ),
        source="carbon README, How a saving by shutdown comes about; IPMVP option B",
        path=told_at,
        origins=[
            f"factor {one.factor.factor_id} r{one.factor.revision}: {one.factor.value:f} {one.factor.unit}"
            for one in found.factors
        ],
    )
    whole = _Asked(found, asked)
    sections = (_summary(whole, why), _sums(whole, names, why), _windows(whole, names, reasons, told_at))
    return sections, reasons.all()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a report is of, and how its figures are asked about."""

    found: ShutdownReport
    asked: Mapping[str, str]

    def trace(self, figure: str, **more: str) -> str:
        """Return what answers why a figure is what it is."""
        span = {"from_": civil(self.found.start), "to": civil(self.found.end)}
        return traced(figure, **{**self.asked, **span, **more})


def _marks(one: Total) -> tuple[str, ...]:
    found = []
    if one.saving_kwh is None:
        found.append("unknown_input")
    elif one.windows_known < one.windows:
        found.append("incomplete")
    if one.saving_kwh is not None and not one.publishable:
        found.append("not_publishable")
    return tuple(found)


def _saving(one: Total, why: str, trace: str) -> Quantity:
    return Quantity(value=one.saving_kwh, completeness=one.completeness, why=why, marks=_marks(one), trace=trace)


def _plain(value: float | None, one: Total, why: str, unknown: str, trace: str) -> Quantity:
    return Quantity(
        value=value, completeness=one.completeness, why=why, marks=(unknown,) if value is None else (), trace=trace
    )  # fmt: skip


def _summary(of: _Asked, why: str) -> Section:
    found, whole = of.found, of.found.total
    rows = [
        (Text("saved energy", "节约电量"), _saving(whole, why, of.trace("saving")), "kWh"),
        (
            Text("standard error", "标准误差"),
            _plain(whole.standard_error_kwh, whole, why, "uncertainty_unknown", of.trace("saving_error")),
            "kWh",
        ),
        (
            Text("emissions not caused, location-based", "减少的排放(基于位置)"),
            _plain(whole.emission_kg, whole, why, "no_factor", of.trace("saving_emission")),
            "kgCO2",
        ),
        (
            Text("worth", "节约电费"),
            _plain(whole.money_cny, whole, why, "unknown_price", of.trace("saving_money")),
            "CNY",
        ),
    ]
    counted = [
        (Text("windows", "时段数"), str(whole.windows)),
        (Text("windows with a figure", "有数值的时段"), str(whole.windows_known)),
        (Text("windows in which the load went on as usual", "未见关断效果的时段"), str(whole.windows_failed)),
        (Text("loads without a meter: nothing is claimed", "无电表负载(不计节约量)"), str(len(found.unmetered))),
        (Text("shutdowns that are not over", "未结束的关断"), str(len(found.running))),
    ]
    told = () if whole.publishable or whole.saving_kwh is None else (
        Text(
            "The sum is not larger than twice its standard error: it is shown, and is not claimed as a saving.",
            "合计不超过其标准误差的两倍:仅作展示,不得作为节约量声明。",
        ),
    )  # fmt: skip
    return Section(
        key="summary",
        title=Text("Summary", "概况"),
        paragraphs=told,
        tables=(
            key_figures("summary", Text("Key figures", "主要指标"), rows),
            facts("counts", Text("Windows and loads", "时段与负载"), counted),
        ),
    )


_FIGURES = (
    Column(key="saving_kwh", title=Text("saved", "节约电量"), kind=ColumnKind.FIGURE, unit="kWh"),
    Column(key="emission_kg", title=Text("emissions", "减少排放"), kind=ColumnKind.FIGURE, unit="kgCO2"),
    Column(key="money_cny", title=Text("worth", "节约电费"), kind=ColumnKind.FIGURE, unit="CNY"),
    Column(key="windows", title=Text("windows", "时段数"), kind=ColumnKind.COUNT),
    Column(key="windows_known", title=Text("with a figure", "有数值"), kind=ColumnKind.COUNT),
)


def _sums(of: _Asked, names: Mapping[str, str], why: str) -> Section:
    tables = []
    found = of.found
    groups: Sequence[tuple[str, str, Text, Mapping[str, Total]]] = (
        ("by_site", "of_site", Text("By site", "按局站"), found.by_site),
        ("by_plan", "plan", Text("By plan", "按计划"), found.by_plan),
        ("by_circuit", "part", Text("By branch", "按回路"), found.by_circuit),
    )
    for key, asked, title, sums in groups:
        rows: list[tuple[Cell, ...]] = [
            (
                names.get(name, name),
                _saving(one, why, of.trace("saving", **{asked: name})),
                _plain(one.emission_kg, one, why, "no_factor", of.trace("saving_emission", **{asked: name})),
                _plain(one.money_cny, one, why, "unknown_price", of.trace("saving_money", **{asked: name})),
                one.windows,
                one.windows_known,
            )
            for name, one in sorted(sums.items(), key=lambda pair: (-(pair[1].saving_kwh or 0.0), pair[0]))
        ]
        if not rows:
            continue
        chart = Chart(
            kind=ChartKind.BAR, title=Text("Saved energy (kWh)", "节约电量(kWh)"), along="name", series=("saving_kwh",)
        )  # fmt: skip
        columns = (Column(key="name", title=title), *_FIGURES)
        tables.append(Table(key=key, title=title, columns=columns, rows=tuple(rows), chart=chart))
    return Section(key="sums", title=Text("Sums", "汇总"), tables=tuple(tables))


def _windows(of: _Asked, names: Mapping[str, str], reasons: Reasons, told_at: str) -> Section:
    found = of.found
    shown = found.windows[:WINDOWS_SHOWN]
    rows: list[tuple[Cell, ...]] = [
        (
            names.get(one.circuit_id, one.circuit_id),
            civil(one.window.start),
            civil(one.window.end),
            words.UNKNOWN if one.method is None else words.METHODS[one.method.value],
            *_figures(of, one, number, reasons, told_at),
        )
        for number, one in enumerate(shown, start=1)
    ]
    columns = (
        Column(key="circuit", title=Text("branch", "回路")),
        Column(key="start", title=Text("from", "起"), kind=ColumnKind.TIME),
        Column(key="end", title=Text("to", "止"), kind=ColumnKind.TIME),
        Column(key="method", title=Text("baseline by", "基线方法")),
        Column(key="baseline_kwh", title=Text("baseline", "基线"), kind=ColumnKind.FIGURE, unit="kWh"),
        Column(key="actual_kwh", title=Text("measured", "实测"), kind=ColumnKind.FIGURE, unit="kWh"),
        Column(key="saving_kwh", title=Text("saved", "节约电量"), kind=ColumnKind.FIGURE, unit="kWh"),
    )
    left = len(found.windows) - len(shown)
    told = (Text(f"{left} more windows are in the sums.", f"其余 {left} 个时段仅计入汇总。"),) if left else ()
    table = Table(key="windows", title=Text("Windows", "时段明细"), columns=columns, rows=tuple(rows))
    return Section(key="windows", title=Text("Windows", "时段明细"), paragraphs=told, tables=(table,))


def _figures(of: _Asked, one: WindowSaving, number: int, reasons: Reasons, told_at: str) -> tuple[Quantity, ...]:
    occurrence = next((part.occurrence_id for part in one.window.parts if part.occurrence_id is not None), None)
    why = reasons.add(
        f"window {number}",
        Text("baseline - actual - rebound - control", "基线 - 实测 - 反弹 - 控制能耗"),
        source="carbon README, How a saving by shutdown comes about",
        path=told_at if occurrence is None else path(f"savings/shutdowns/{occurrence}"),
        origins=[
            f"baseline {_number(one.baseline_kwh)} kWh, of it weather {one.adjustment_kwh:.6g} kWh",
            f"measured {_number(one.actual_kwh)} kWh",
            f"rebound {_number(one.rebound_kwh)} kWh",
            f"control {one.control_kwh:.6g} kWh",
            f"circuit {one.circuit_id}, interval version up to {one.version}",
            *([f"clean days {', '.join(day.isoformat() for day in one.days)}"] if one.days else ()),
            *([f"control group {', '.join(one.peers)}"] if one.peers else ()),
        ],
    )
    marks = tuple(sorted(each.value for each in one.marks))
    reason = () if one.reason is None else (one.reason.value,)
    complete = one.interval_completeness
    saved, baseline = (of.trace(figure, line=str(number - 1)) for figure in ("saving_window", "saving_baseline"))
    used = traced(
        "energy", circuit=one.circuit_id, from_=civil(one.window.start), to=civil(one.window.end), booked="true"
    )
    return (
        Quantity(value=one.baseline_kwh, completeness=complete, why=why, trace=baseline),
        Quantity(value=one.actual_kwh, completeness=complete, why=why, trace=used),
        Quantity(value=one.saving_kwh, completeness=complete, why=why, marks=(*reason, *marks), trace=saved),
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"
