"""Traces of savings: of shutdowns, of retrofit projects, and of statements of energy performance contracts."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from statistics import fmean, median
from typing import Protocol

from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.epc.metering import Party
from services.carbon.domain.epc.statement import FEN_PER_CNY
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.domain.savings.projects.assessment import Yearly
from services.carbon.domain.savings.projects.measures import Origin, Statement
from services.carbon.domain.savings.shutdowns.executed import ExecutedPart
from services.carbon.domain.savings.shutdowns.windows import Method, WindowSaving, day_of
from services.carbon.domain.why import Because, InputKind, Quality, Question, Rule, Why, recomputed
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.projects import AssessedProject, Projects
from services.carbon.usecases.shutdowns import ShutdownReport, ShutdownSavings
from services.carbon.usecases.statements import ShownStatement, Statements
from services.carbon.usecases.why.asked import Figure, Wanted, missing, question, why


class Sites(Protocol):
    """Where circuits are (``loads.py``)."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the site of a circuit, None for one that is not known."""


class SavingWhys:
    """Traces of what shutdowns saved."""

    def __init__(self, savings: ShutdownSavings, db: Database, sites: Sites) -> None:
        self._savings = savings
        self._db = db
        self._sites = sites

    async def report(self, wanted: Wanted) -> ShutdownReport:
        """Return what the traces of an occurrence, plan or site are of, for who asks to be checked against its sites.

        Raises:
            InvalidInput: None of them is named, or no span of a plan or site.
        """
        async with self._db.read() as conn:
            if wanted.id is not None:
                return await self._savings.of_occurrence(conn, wanted.id)
            start, end = wanted.span
            if wanted.node is not None and wanted.node.kind is NodeKind.SITE:
                return await self._savings.of_site(conn, SiteId(wanted.node.id), start=start, end=end)
            if wanted.plan is None:
                raise missing("id, plan, site")
            return await self._savings.of_plan(conn, wanted.plan, start=start, end=end)

    def saving(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what an occurrence, plan or site saved as the sum of its shares of windows.

        Of a site with a plan it is the plan's share there; ``part`` and ``of_site`` leave other branches out.
        """
        inputs = []
        for number, one in enumerate(found.windows):
            share = _share(one, wanted)
            if share == 0.0 or not self._is_of(one, wanted):
                continue
            inputs.append(
                Because(
                    name=f"saving of a window, share {share:g}",
                    value=None if one.saving_kwh is None else one.saving_kwh * share,
                    unit="kWh",
                    kind=InputKind.FIGURE,
                    id=one.circuit_id,
                    version=one.version,
                    start=one.window.start,
                    source="" if one.method is None else one.method.value,
                    question=_of_window(Figure.SAVING_WINDOW if share == 1.0 else Figure.SAVING_SHARE, wanted, number),
                )
            )
        marks = [] if found.total.publishable else ["not_more_than_twice_its_standard_error"]
        known = sum(one.value is not None for one in inputs)
        return why(
            wanted,
            value=recomputed(Rule.SUM, [one.value for one in inputs]),
            unit="kWh",
            rule=Rule.SUM,
            inputs=inputs,
            quality=_complete(known / len(inputs) if inputs else None),
            marks=marks if len(inputs) == len(found.windows) else [],
            factors=[one.factor for one in found.factors],
        )

    def saving_emission(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what was not emitted for a saving as the sum of its shares of windows that are known."""
        inputs = [
            Because(
                name=f"emission of a window, share {share:g}",
                value=None if one.emission_kg is None else one.emission_kg * share,
                unit="kgCO2",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                start=one.window.start,
                source=one.factor_id or "no factor of the grid",
                question=None if one.emission_kg is None else _of_window(Figure.SAVING_WINDOW_EMISSION, wanted, number),
            )
            for number, one, share in self._known(wanted, found)
        ]
        return why(
            wanted,
            value=recomputed(Rule.WHOLE_SUM, [one.value for one in inputs]),
            unit="kgCO2",
            rule=Rule.WHOLE_SUM,
            inputs=inputs,
            factors=[one.factor for one in found.factors],
        )

    def saving_window_emission(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what was not emitted for the share of one window: saving times the factor of the site and year."""
        one = _window_of(wanted, found)
        factor = next((each.factor for each in found.factors if each.factor.factor_id == one.factor_id), None)
        share = _share(one, wanted)
        inputs = [
            _saving_of_window(wanted, one),
            Because(
                name="EF",
                value=None if factor is None else float(factor.value),
                unit="kgCO2/kWh",
                kind=InputKind.FACTOR,
                id="" if factor is None else factor.factor_id,
                version=None if factor is None else factor.revision,
                source="no factor of the grid" if factor is None else factor.source,
            ),
            Because(
                name="share", value=share, unit="1", kind=InputKind.PARAMETER, source="of the time that loads were off"
            ),
        ]
        return why(
            wanted,
            value=None if one.emission_kg is None else one.emission_kg * share,
            unit="kgCO2",
            rule=Rule.PRODUCT,
            inputs=inputs,
            factors=[] if factor is None else [factor],
        )

    def saving_money(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what the saved energy would have cost as the sum of the same windows."""
        inputs = [
            Because(
                name=f"worth of a window, share {share:g}",
                value=None if one.money_cny is None else one.money_cny * share,
                unit="CNY",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                start=one.window.start,
                source="the window's saving by quarter hour, each at the price of its band and month",
            )
            for _, one, share in self._known(wanted, found)
        ]
        value = recomputed(Rule.WHOLE_SUM, [one.value for one in inputs])
        return why(wanted, value=value, unit="CNY", rule=Rule.WHOLE_SUM, inputs=inputs)

    def saving_error(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return the standard error of a saving: its windows are independent of each other."""
        inputs = [
            Because(
                name=f"variance of a window, times {share:g} squared",
                value=None if one.variance_kwh2 is None else one.variance_kwh2 * share**2,
                unit="kWh2",
                kind=InputKind.PARAMETER,
                id=one.circuit_id,
                start=one.window.start,
                source="spread of the days behind the baseline, with that of the baseline itself",
            )
            for _, one, share in self._known(wanted, found)
        ]
        value = recomputed(Rule.ROOT_OF_SUM, [one.value for one in inputs])
        return why(wanted, value=value, unit="kWh", rule=Rule.ROOT_OF_SUM, inputs=inputs)

    def _known(self, wanted: Wanted, found: ShutdownReport) -> list[tuple[int, WindowSaving, float]]:
        """Return the windows of what is asked for that have a saving, with their numbers and shares."""
        every = ((number, one, _share(one, wanted)) for number, one in enumerate(found.windows))
        return [
            (number, one, share)
            for number, one, share in every
            if share and one.saving_kwh is not None and self._is_of(one, wanted)
        ]

    def _is_of(self, one: WindowSaving, wanted: Wanted) -> bool:
        if wanted.part not in (None, one.circuit_id):
            return False
        return wanted.of_site is None or self._sites.site_of(CircuitId(one.circuit_id)) == wanted.of_site

    def saving_share(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what of a window's saving belongs to an occurrence or a plan: by how long its loads were off."""
        one = _window_of(wanted, found)
        inputs = [
            _saving_of_window(wanted, one),
            Because(
                name="share",
                value=_share(one, wanted),
                unit="1",
                kind=InputKind.PARAMETER,
                source="time that its own loads were off over that of all loads behind the meter",
            ),
        ]
        value = None if one.saving_kwh is None else one.saving_kwh * _share(one, wanted)
        return why(wanted, value=value, unit="kWh", rule=Rule.PRODUCT, inputs=inputs)

    def saving_window(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return one window: baseline less what was used, the rebound and the control equipment."""
        one = _window_of(wanted, found)
        days = ", ".join(day.isoformat() for day in one.days)
        number = wanted.number
        parts: list[tuple[str, float | None, str, Question | None]] = [
            (
                "baseline",
                one.baseline_kwh,
                f"{one.method} of {days or 'no days'}",
                _of_window(Figure.SAVING_BASELINE, wanted, number),
            ),
            ("actual", one.actual_kwh, "", _booked(one, one.window.start, one.window.end)),
            (
                "rebound",
                one.rebound_kwh,
                f"until {one.post_end}",
                _of_window(Figure.SAVING_REBOUND, wanted, number),
            ),
            ("control", one.control_kwh if one.saving_kwh is not None else None, "rated power while off", None),
        ]
        inputs = [
            Because(
                name=name,
                value=value,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                source=source,
                question=None if value is None else asked,
            )
            for name, value, source, asked in parts
        ]
        reason = [] if one.reason is None else [one.reason.value]
        return why(
            wanted,
            value=one.saving_kwh,
            unit="kWh",
            rule=Rule.DIFFERENCE,
            inputs=inputs,
            marks=[*reason, *sorted(mark.value for mark in one.marks)],
        )

    def saving_baseline(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what a window would have used: the middle of other days, adjusted to the weather."""
        one = _window_of(wanted, found)
        known = one.baseline_kwh is not None
        inputs = [
            Because(
                name="usual",
                value=_usual(one, one.days_kwh),
                unit="kWh",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                source=f"{one.method}",
                question=_of_window(Figure.SAVING_USUAL, wanted, wanted.number) if known else None,
            ),
            Because(
                name="adjustment to the weather",
                value=one.adjustment_kwh if known else None,
                unit="kWh",
                kind=InputKind.PARAMETER,
                id=one.circuit_id,
                source="slope of the branch with cooling times the difference to the days' median temperature",
            ),
        ]
        return why(wanted, value=one.baseline_kwh, unit="kWh", rule=Rule.WHOLE_SUM, inputs=inputs)

    def saving_rebound(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what was used more than usual in the time after a window."""
        one = _window_of(wanted, found)
        known = one.rebound_kwh is not None
        is_time = one.window.end < one.post_end
        inputs = [
            Because(
                name="used after",
                value=one.post_actual_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                question=_booked(one, one.window.end, one.post_end) if known and is_time else None,
            ),
            Because(
                name="usual after",
                value=one.post_baseline_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                question=_of_window(Figure.SAVING_USUAL_AFTER, wanted, wanted.number) if known else None,
            ),
        ]
        return why(wanted, value=one.rebound_kwh, unit="kWh", rule=Rule.EXCESS, inputs=inputs)

    def saving_usual(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return the middle of what was used on other days at the clock time of a window."""
        one = _window_of(wanted, found)
        return self._days(wanted, one, one.days_kwh, one.window.start, one.window.end)

    def saving_usual_after(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return the same of the time after it."""
        one = _window_of(wanted, found)
        return self._days(wanted, one, one.days_post_kwh, one.window.end, one.post_end)

    def _days(
        self, wanted: Wanted, one: WindowSaving, energies: Sequence[float], start: datetime, end: datetime
    ) -> Why:
        """Return the middle of the days; those that a control group has scaled are not what their intervals say."""
        today = day_of(one.window)
        is_clean = one.method is Method.CLEAN_DAYS
        inputs = [
            Because(
                name=day.isoformat(),
                value=energy,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=one.circuit_id,
                start=start - (today - day),
                source="booked intervals" if is_clean else f"booked intervals, each times {one.scale!r} of the group",
                question=_booked(one, start - (today - day), end - (today - day)) if is_clean and end > start else None,
            )
            for day, energy in zip(one.days, energies, strict=True)
        ]
        marks = [f"control_group:{circuit}" for circuit in one.peers]
        rule = Rule.MEDIAN if is_clean else Rule.MEAN
        return why(wanted, value=_usual(one, energies), unit="kWh", rule=rule, inputs=inputs, marks=marks)


class ProjectWhys:
    """Traces of retrofit projects, each measure by the figure that counts for it."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    async def nodes(self, wanted: Wanted) -> Sequence[str]:
        """Return the sites and circuits of a project, for who asks to be checked against them."""
        found: Sequence[str] = (await self._projects.get(wanted.text("id"))).document["nodes"]
        return found

    async def assessed(self, wanted: Wanted) -> AssessedProject:
        """Return what the traces of a project are of."""
        return await self._projects.assess(wanted.text("id"))

    def project(self, wanted: Wanted, found: AssessedProject) -> Why:
        """Return the emission that a project saves in a year as the sum of its measures.

        What others do not emit is in no sum.
        """
        own = [one for one in found.assessment.measures if one.outcome.statement is not Statement.AVOIDED]
        inputs = [
            Because(
                name=one.outcome.measure_id,
                value=one.emission_kg,
                unit="kgCO2e/a",
                kind=InputKind.FIGURE,
                id=one.outcome.measure_id,
                version=found.row.version,
                source=_origin(one),
                question=question(Figure.MEASURE, id=wanted.id, line=one.outcome.measure_id),
            )
            for one in own
        ]
        left_out = len(found.assessment.measures) - len(own)
        marks = [f"avoided_emissions_left_out:{left_out}"] if left_out else []
        value = math.fsum(one.emission_kg for one in own) if own else None
        return why(wanted, value=value, unit="kgCO2e/a", rule=Rule.SUM, inputs=inputs, marks=marks)

    def measure(self, wanted: Wanted, found: AssessedProject) -> Why:
        """Return what a measure does not emit in a year: quantity times factor, and how the quantity is known."""
        wanted_id = wanted.text("line")
        one = next((each for each in found.assessment.measures if each.outcome.measure_id == wanted_id), None)
        if one is None:
            raise NotFound(
                f"line: project {found.row.project_id} has no measure {wanted_id}",
                message_zh=f"line:项目 {found.row.project_id} 没有措施 {wanted_id}",
            )
        outcome, factor = one.outcome, one.outcome.factor
        inputs = [
            Because(
                name="quantity",
                value=outcome.quantity,
                unit=outcome.unit,
                kind=InputKind.FIGURE,
                id=outcome.measure_id,
                source=_origin(one),
            ),
            Because(name="EF", value=factor.value, unit=factor.unit, kind=InputKind.FACTOR, source=factor.source),
        ]
        marks = ["annualised"] if one.annualised else []
        measured = outcome.measured
        if measured is not None:
            baseline = f"baseline {measured.baseline_kwh:g} kWh - used {measured.actual_kwh:g} kWh"
            marks += [
                baseline,
                *(f"adjusted by {each.author}: {each.energy_kwh:g} kWh" for each in measured.adjustments),
            ]
            marks += sorted(doubt.value for doubt in measured.doubts)
        else:
            plan = next(each for each in found.project.measures if each.measure_id == wanted_id)
            marks += [f"formula: {plan.saving.text}"]
            marks += [f"{name} = {each.value:g} {each.unit}, {each.source}" for name, each in plan.parameters.items()]
        return why(
            wanted,
            value=one.emission_kg,
            unit="kgCO2e/a",
            rule=Rule.STATED if one.annualised else Rule.PRODUCT,
            inputs=inputs,
            marks=marks,
            quality=None if measured is None else _complete(measured.completeness),
        )


class StatementWhys:
    """Traces of statements of energy performance contracts, as drafted or frozen."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def shown(self, wanted: Wanted) -> ShownStatement:
        """Return what the traces of a statement are of, for who asks to be checked against its sites."""
        return await self._statements.shown(wanted.text("id"))

    def statement(self, wanted: Wanted, found: ShownStatement) -> Why:
        """Return the saved money as the sum of its bands', and what each party gets; its meters stand beside."""
        content = found.statement.content
        inputs = [
            Because(
                name=line.band,
                value=line.money_cny,
                unit="CNY",
                kind=InputKind.FIGURE,
                id=content.contract_id,
                version=content.version,
                question=question(Figure.STATEMENT_LINE, id=wanted.id, line=number),
            )
            for number, line in enumerate(content.lines)
        ]
        shares = content.shares_fen
        saving = content.saving
        marks = [
            found.statement.state.value,
            *(f"{party.value} gets {Decimal(shares[party]) / FEN_PER_CNY} CNY" for party in Party),
            f"saving by {saving.basis.value}: baseline {saving.baseline_kwh:g} kWh - used {saving.actual_kwh:g} kWh",
            *(f"meter {one.device_id}" for one in content.registers),
        ]
        return why(
            wanted,
            value=Decimal(content.money_fen) / FEN_PER_CNY,
            unit="CNY",
            rule=Rule.CENTS,
            inputs=inputs,
            marks=marks,
            quality=_complete(saving.completeness),
        )

    def statement_line(self, wanted: Wanted, found: ShownStatement) -> Why:
        """Return one band of a statement: the energy saved in it times the agreed price."""
        content = found.statement.content
        if wanted.number >= len(content.lines):
            raise _beyond(wanted, len(content.lines))
        line = content.lines[wanted.number]
        meters = ", ".join(f"meter {one.device_id}" for one in content.registers)
        inputs = [
            Because(
                name="saved energy",
                value=Decimal(str(line.energy_kwh)),
                unit="kWh",
                kind=InputKind.FIGURE,
                id=content.statement_id,
                version=content.version,
                source=f"by {content.saving.basis.value}, {meters}; the period's saving by its use in the bands before",
            ),
            Because(
                name="price",
                value=line.price_cny_per_kwh,
                unit="CNY/kWh",
                kind=InputKind.PRICE,
                id=content.tariff_id,
                version=content.tariff_version,
                source=f"contract {content.contract_id}",
            ),
        ]
        return why(wanted, value=line.money_cny, unit="CNY", rule=Rule.PRODUCT, inputs=inputs)

    def statement_saving(self, wanted: Wanted, found: ShownStatement) -> Why:
        """Return the measured saving of a statement: baseline less what was used, and adjustments by people."""
        saving = found.statement.content.saving
        meters = ", ".join(one.device_id for one in found.statement.content.registers)
        entered = [
            f"{one.energy_kwh:+g} kWh by {one.author}: {one.reason} ({one.evidence})" for one in saving.adjustments
        ]
        known = saving.saving_kwh is not None
        is_difference = saving.basis is not Basis.SHUTDOWN
        parts = [
            ("baseline", saving.baseline_kwh, f"by {saving.basis.value}, of {saving.days_known} of {saving.days} days"),
            ("used", saving.actual_kwh, f"meters {meters}"),
            (
                "taken off by people",
                -math.fsum(one.energy_kwh for one in saving.adjustments) if known else None,
                "; ".join(entered) or "no adjustment",
            ),
        ]
        inputs = [
            Because(
                name=name,
                value=value,
                unit="kWh",
                kind=InputKind.FIGURE if name != "taken off by people" else InputKind.FACT,
                id=found.statement.content.statement_id,
                version=found.statement.content.version,
                source=source,
            )
            for name, value, source in parts
        ]
        return why(
            wanted,
            value=saving.saving_kwh,
            unit="kWh",
            rule=Rule.DIFFERENCE if is_difference else Rule.STATED,
            inputs=inputs,
            marks=[found.statement.state.value, *sorted(doubt.value for doubt in saving.doubts)],
            quality=_complete(saving.completeness),
        )

    def statement_meter(self, wanted: Wanted, found: ShownStatement) -> Why:
        """Return what a meter of a statement counted: its registers at the start and the end, and its ratio."""
        device = wanted.text("line")
        content = found.statement.content
        one = next((each for each in content.registers if each.device_id == device), None)
        if one is None:
            raise NotFound(
                f"line: statement {content.statement_id} has no meter {device}",
                message_zh=f"line:结算单 {content.statement_id} 没有电表 {device}",
            )
        theirs = next(each for each in content.reconciliation if each.device_id == device)
        inputs = [
            Because(
                name=name,
                value=shown,
                unit="kWh",
                kind=InputKind.REGISTER,
                id=device,
                start=at,
                source=f"ratio {one.ratio:g}",
                question=None,
            )
            for name, shown, at in (
                ("register at the start", one.start_kwh, one.start_at),
                ("register at the end", one.end_kwh, one.end_at),
            )
        ]
        return why(
            wanted,
            value=one.energy_kwh,
            unit="kWh",
            rule=Rule.REGISTERS,
            inputs=inputs,
            marks=[f"other receiver: {theirs.agreement.value}"],
        )


def _window_of(wanted: Wanted, found: ShutdownReport) -> WindowSaving:
    if wanted.number >= len(found.windows):
        raise _beyond(wanted, len(found.windows))
    return found.windows[wanted.number]


def _beyond(wanted: Wanted, count: int) -> InvalidInput:
    return InvalidInput(
        f"line: expected less than {count}, found {wanted.line}",
        message_zh=f"line:应小于 {count},实际为 {wanted.line}",
    )


def _usual(one: WindowSaving, energies: Sequence[float]) -> float | None:
    """Return the middle of days as the baseline has it."""
    if one.baseline_kwh is None:
        return None
    return median(energies) if one.method is Method.CLEAN_DAYS else fmean(energies)


def _booked(one: WindowSaving, start: datetime, end: datetime) -> Question:
    return question(Figure.ENERGY, Node(NodeKind.CIRCUIT, one.circuit_id), start, end, booked="true")


def _saving_of_window(wanted: Wanted, one: WindowSaving) -> Because:
    return Because(
        name="saving of the window",
        value=one.saving_kwh,
        unit="kWh",
        kind=InputKind.FIGURE,
        id=one.circuit_id,
        question=_of_window(Figure.SAVING_WINDOW, wanted, wanted.number),
    )


def _of_window(figure: Figure, wanted: Wanted, number: int) -> dict[str, str]:
    span = (None, None) if wanted.id is not None else wanted.span
    return dict(question(figure, wanted.node, *span, id=wanted.id, plan=wanted.plan, line=number))


def _share(one: WindowSaving, wanted: Wanted) -> float:
    """Return what of a window belongs to an occurrence or plan: by how long its loads were off (``totals_by``)."""
    if wanted.id is None and wanted.plan is None:
        return 1.0
    key: Callable[[ExecutedPart], str | None] = _occurrence if wanted.id is not None else _plan
    if all(key(part) != (wanted.id or wanted.plan) for part in one.window.parts):
        return 0.0
    whole = sum(part.off_s for part in one.window.parts)
    mine = sum(part.off_s for part in one.window.parts if key(part) == (wanted.id or wanted.plan))
    return mine / whole if whole else 1 / len({key(part) for part in one.window.parts})


def _occurrence(part: ExecutedPart) -> str | None:
    return part.occurrence_id


def _plan(part: ExecutedPart) -> str | None:
    return part.plan_id


def _origin(one: Yearly) -> str:
    return one.outcome.origin.value if one.outcome.origin is Origin.FORMULA else "measured by meters"


def _complete(share: float | None) -> Quality:
    return Quality(
        interval_completeness=share,
        usable_share=None,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )
