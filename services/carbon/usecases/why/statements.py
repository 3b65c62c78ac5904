"""Traces of published inventories and statements of avoided emissions: frozen, as they were said."""

from collections.abc import Sequence
from typing import Protocol

from libs.common.errors import NotFound
from services.carbon.domain.booking import floor
from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.figures import Input
from services.carbon.domain.inventory.publication import AvoidedPublication, Frozen, FrozenFigure, Publication
from services.carbon.domain.inventory.sources import ElectricityUse, Source
from services.carbon.domain.why import Because, InputKind, Question, Rule, Why
from services.carbon.tree import Node
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.why.asked import Figure, Method, Wanted, missing, question, why

IMPORTED = "imported"
"""Name of the electricity that came in, in the figures of ``emissions/electricity.py``."""
PRODUCTS = frozenset({"E = imported * EF"})
"""Formulas that are a product of their inputs as they stand; others convert units on their way."""


class Nodes(Protocol):
    """What kind of node an id is of (``topology.Topology``)."""

    def node(self, name: str) -> Node | None:
        """Return the node that has an id, None where there never was one."""


class InventoryWhys:
    """Traces of published inventories: frozen, as they were said."""

    def __init__(self, inventories: Inventories, nodes: Nodes) -> None:
        self._inventories = inventories
        self._nodes = nodes

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
        asked = None
        if _source_of(found, wanted_line) is not None:
            asked = question(Figure.INVENTORY_USE, id=found.inventory_id, version=found.version, line=wanted_line)
        return _line(wanted, _figure(line, wanted.method), found.used, asked)

    async def inventory_use(self, wanted: Wanted) -> Why:
        """Return the metered electricity of a line: what the meters said of its node, times the node's share.

        The frozen amount counts; the question beneath answers what the intervals say now.
        """
        found = await self._published(wanted)
        wanted_line = wanted.text("line")
        line = next((one for one in found.lines if one.line_id == wanted_line), None)
        source = _source_of(found, wanted_line)
        if line is None or source is None or not isinstance(source.activity, ElectricityUse):
            raise NotFound(
                f"inventory {found.inventory_id} version {found.version} has no metered line {wanted_line}",
                message_zh=f"清单 {found.inventory_id} 第 {found.version} 版没有计量明细 {wanted_line}",
            )
        energy = source.activity.imported_kwh
        inputs = [
            Because(
                name="energy of the node",
                value=energy,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=source.node,
                start=source.span.start,
                source=source.origin,
                question=None if energy is None else self._metered(source),
            ),
            Because(
                name="share",
                value=line.share,
                unit="1",
                kind=InputKind.PARAMETER,
                id=source.node,
                source="of the node in the boundary, as declared",
            ),
        ]
        return why(
            wanted,
            value=None if energy is None else energy * line.share,
            unit="kWh",
            rule=Rule.PRODUCT,
            inputs=inputs,
            marks=[f"interval_completeness:{source.completeness:g}"] if source.completeness is not None else [],
        )

    def _metered(self, source: Source) -> Question | None:
        """Return what explains the energy of a metered line; nothing where its span cuts a quarter hour."""
        span, node = source.span, self._nodes.node(source.node)
        if node is None or (floor(span.start), floor(span.end)) != (span.start, span.end):
            return None
        return question(Figure.ENERGY, node, span.start, span.end, booked="true")

    async def standard_coal(self, wanted: Wanted) -> Why:
        """Return the comprehensive energy consumption of a published inventory as frozen with it."""
        found = await self._published(wanted)
        coal = found.summary.standard_coal
        inputs = [
            Because(name=one.name, value=one.value, unit=one.unit, kind=InputKind.PARAMETER, source=one.origin)
            for one in coal.inputs
        ]
        return why(
            wanted,
            value=coal.value,
            unit=coal.unit,
            rule=Rule.STATED,
            inputs=inputs,
            marks=[one.value for one in coal.marks],
            formula=(coal.formula, coal.source),
        )

    async def avoided(self, wanted: Wanted) -> Why:
        """Return the total of a published statement of avoided emissions as the sum of its lines."""
        found = await self._avoided(wanted)
        inputs = [
            Because(
                name=line.line_id,
                value=line.figure.value,
                unit=line.figure.unit,
                kind=InputKind.FIGURE,
                id=line.line_id,
                question=question(Figure.AVOIDED_LINE, id=found.statement_id, version=found.version, line=line.line_id),
            )
            for line in found.lines
        ]
        marks = [f"unknown: {one}" for one in found.total.unknown]
        total = found.total.kg_co2e
        return why(wanted, value=total, unit="kgCO2e", rule=Rule.SUM, inputs=inputs, marks=marks, factors=found.used)

    async def avoided_line(self, wanted: Wanted) -> Why:
        """Return one line of a published statement of avoided emissions: its formula, inputs, factors and marks."""
        found = await self._avoided(wanted)
        wanted_line = wanted.text("line")
        line = next((one for one in found.lines if one.line_id == wanted_line), None)
        if line is None:
            raise NotFound(
                f"statement {found.statement_id} version {found.version} has no line {wanted_line}",
                message_zh=f"声明 {found.statement_id} 第 {found.version} 版没有明细 {wanted_line}",
            )
        return _line(wanted, line.figure, found.used)

    async def _avoided(self, wanted: Wanted) -> AvoidedPublication:
        if wanted.version is None:
            raise missing("version")
        return await self._inventories.published_avoided(wanted.text("id"), wanted.version)

    async def _published(self, wanted: Wanted) -> Publication:
        if wanted.version is None:
            raise missing("version")
        return await self._inventories.published(wanted.text("id"), wanted.version)


def _figure(line: Frozen, method: Method) -> FrozenFigure:
    return line.location if method is Method.LOCATION else line.market


def _source_of(found: Publication, line_id: str) -> Source | None:
    """Return the metered source that a line is a piece of; None where somebody has entered its amount."""
    metered = (one for one in found.inputs.sources if one.asked is not None)
    return next((one for one in metered if line_id == one.line_id or line_id.startswith(f"{one.line_id}/")), None)


def _line(wanted: Wanted, figure: FrozenFigure, used: Sequence[EmissionFactor], metered: Question | None = None) -> Why:
    """Return a frozen line with what it was computed from; ``metered`` explains the electricity that meters told."""
    return why(
        wanted,
        value=figure.value,
        unit=figure.unit,
        rule=Rule.PRODUCT if figure.formula in PRODUCTS and len(figure.inputs) == 2 else Rule.STATED,
        inputs=[_input(one, used, metered) for one in figure.inputs],
        marks=[one.value for one in figure.marks],
        factors=[row for row in used if any(_names(one, row.factor_id) for one in figure.inputs)],
        formula=(figure.formula, figure.source),
    )


def _input(one: Input, used: Sequence[EmissionFactor], metered: Question | None) -> Because:
    factor = next((row for row in used if _names(one, row.factor_id)), None)
    return Because(
        name=one.name,
        value=one.value,
        unit=one.unit,
        kind=InputKind.PARAMETER if factor is None else InputKind.FACTOR,
        id="" if factor is None else factor.factor_id,
        version=None if factor is None else factor.revision,
        source=one.origin,
        question=metered if one.name == IMPORTED and one.value is not None else None,
    )


def _names(one: Input, factor_id: str) -> bool:
    """Return whether an input's origin names a factor (``knowledge.origin_of``)."""
    return one.origin.startswith(f"factor {factor_id} r")
