"""Traces of published inventories and statements of avoided emissions: frozen, as they were said."""

from collections.abc import Sequence

from libs.common.errors import NotFound
from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.figures import Input
from services.carbon.domain.inventory.publication import AvoidedPublication, Frozen, FrozenFigure, Publication
from services.carbon.domain.why import Because, InputKind, Rule, Why
from services.carbon.usecases.inventories import Inventories
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
        return _line(wanted, _figure(line, wanted.method), found.used)

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


def _line(wanted: Wanted, figure: FrozenFigure, used: Sequence[EmissionFactor]) -> Why:
    """Return a frozen line with what it was computed from."""
    return why(
        wanted,
        value=figure.value,
        unit=figure.unit,
        rule=Rule.PRODUCT if figure.formula in PRODUCTS and len(figure.inputs) == 2 else Rule.STATED,
        inputs=[_input(one, used) for one in figure.inputs],
        marks=[one.value for one in figure.marks],
        factors=[row for row in used if any(_names(one, row.factor_id) for one in figure.inputs)],
        formula=(figure.formula, figure.source),
    )


def _input(one: Input, used: Sequence[EmissionFactor]) -> Because:
    factor = next((row for row in used if _names(one, row.factor_id)), None)
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
