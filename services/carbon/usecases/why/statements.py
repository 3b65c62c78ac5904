"""Traces of published inventories and of shutdown savings."""

from datetime import datetime

from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from services.carbon.domain.figures import Input
from services.carbon.domain.inventory.publication import Frozen, FrozenFigure, Publication
from services.carbon.domain.savings.shutdowns.windows import WindowSaving
from services.carbon.domain.why import Because, InputKind, Rule, Why
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.shutdowns import ShutdownReport, ShutdownSavings
from services.carbon.usecases.why.asked import Figure, Method, Wanted, missing, question, why

PRODUCTS = frozenset({"E = imported * EF"})
"""Formulas that are a product of their inputs as they stand; others convert units on their way."""


class InventoryWhys:
    """Traces of published inventories: frozen, as they were said."""

    def __init__(self, inventories: Inventories) -> None:
        self._inventories = inventories

    async def inventory(self, wanted: Wanted) -> Why:
        """Return the total of a published inventory as the sum of its lines."""
        found = await self._published(wanted)
        total = found.location if wanted.method is Method.LOCATION else found.market
        inputs = [
            Because(
                name=line.category,
                value=_figure(line, wanted.method).value,
                unit="kgCO2e",
                kind=InputKind.FIGURE,
                id=line.line_id,
                source=f"share of the node {line.share:g}",
                question=question(
                    Figure.INVENTORY_LINE,
                    id=found.inventory_id,
                    version=found.version,
                    scope2=wanted.method.value,
                    line=line.line_id,
                ),
            )
            for line in found.lines
        ]
        marks = [f"unknown: {one}" for one in total.unknown] + [f"incomplete: {one}" for one in total.incomplete]
        return why(
            wanted, value=total.kg_co2e, unit="kgCO2e", rule=Rule.SUM, inputs=inputs, marks=marks, factors=found.used
        )

    async def inventory_line(self, wanted: Wanted) -> Why:
        """Return one line as published: its formula, inputs, factors and marks; and what the meters say of its node."""
        found = await self._published(wanted)
        wanted_line = wanted.text("line")
        line = next((one for one in found.lines if one.line_id == wanted_line), None)
        if line is None:
            raise NotFound(
                f"inventory {found.inventory_id} version {found.version} has no line {wanted_line}",
                message_zh=f"清单 {found.inventory_id} 第 {found.version} 版没有明细 {wanted_line}",
            )
        figure = _figure(line, wanted.method)
        return why(
            wanted,
            value=figure.value,
            unit=figure.unit,
            rule=Rule.PRODUCT if figure.formula in PRODUCTS and len(figure.inputs) == 2 else Rule.STATED,
            inputs=[_input(one, found) for one in figure.inputs],
            marks=[one.value for one in figure.marks],
            factors=[row for row in found.used if any(_names(one, row.factor_id) for one in figure.inputs)],
            formula=(figure.formula, figure.source),
        )

    async def _published(self, wanted: Wanted) -> Publication:
        if wanted.version is None:
            raise missing("version")
        return await self._inventories.published(wanted.text("id"), wanted.version)


class SavingWhys:
    """Traces of what shutdowns saved."""

    def __init__(self, savings: ShutdownSavings, db: Database) -> None:
        self._savings = savings
        self._db = db

    async def report(self, wanted: Wanted) -> ShutdownReport:
        """Return what the traces of an occurrence are of, for who asks to be checked against its sites."""
        async with self._db.read() as conn:
            return await self._savings.of_occurrence(conn, wanted.text("id"))

    def saving(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return what an occurrence saved as the sum of its windows' shares."""
        inputs = []
        for number, one in enumerate(found.windows):
            share = _share(one, wanted.text("id"))
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
                    question=question(Figure.SAVING_WINDOW, id=wanted.id, line=number),
                )
            )
        marks = [] if found.total.publishable else ["not_more_than_twice_its_standard_error"]
        return why(
            wanted,
            value=found.total.saving_kwh,
            unit="kWh",
            rule=Rule.SUM,
            inputs=inputs,
            marks=marks,
            factors=[one.factor for one in found.factors],
        )

    def saving_window(self, wanted: Wanted, found: ShutdownReport) -> Why:
        """Return one window: baseline less what was used, the rebound and the control equipment."""
        if wanted.number >= len(found.windows):
            raise InvalidInput(
                f"line: expected less than {len(found.windows)}, found {wanted.line}",
                message_zh=f"line:应小于 {len(found.windows)},实际为 {wanted.line}",
            )
        one = found.windows[wanted.number]
        node = Node(NodeKind.CIRCUIT, one.circuit_id)
        days = ", ".join(day.isoformat() for day in one.days)
        parts: list[tuple[str, float | None, str, tuple[datetime, datetime] | None]] = [
            ("baseline", one.baseline_kwh, f"{one.method} of {days or 'no days'}", None),
            ("actual", one.actual_kwh, "", (one.window.start, one.window.end)),
            ("rebound", one.rebound_kwh, f"until {one.post_end}", None),
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
                question=None if span is None or value is None else question(Figure.ENERGY, node, *span, booked="true"),
            )
            for name, value, source, span in parts
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


def _figure(line: Frozen, method: Method) -> FrozenFigure:
    return line.location if method is Method.LOCATION else line.market


def _input(one: Input, found: Publication) -> Because:
    factor = next((row for row in found.used if _names(one, row.factor_id)), None)
    return Because(
        name=one.name,
        value=one.value,
        unit=one.unit,
        kind=InputKind.PARAMETER if factor is None else InputKind.FACTOR,
        id="" if factor is None else factor.factor_id,
        version=None if factor is None else factor.revision,
        source=one.origin,
    )


def _names(one: Input, factor_id: str) -> bool:
    """Return whether an input's origin names a factor (``knowledge.origin_of``)."""
    return one.origin.startswith(f"factor {factor_id} r")


def _share(one: WindowSaving, occurrence: str) -> float:
    """Return what of a window belongs to an occurrence: by how long its loads were off (``totals.totals_by``)."""
    whole = sum(part.off_s for part in one.window.parts)
    mine = sum(part.off_s for part in one.window.parts if part.occurrence_id == occurrence)
    return mine / whole if whole else 1 / len({part.occurrence_id for part in one.window.parts})
