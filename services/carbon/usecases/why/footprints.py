"""Traces of product footprints: the flows of a stage or account, each with its input, share and factor."""

from collections.abc import Sequence

from libs.common.errors import InvalidInput, NotFound
from services.carbon.domain.emissions.knowledge import marks_of
from services.carbon.domain.factors import Choice
from services.carbon.domain.footprint import Account, FlowEmission, Stage
from services.carbon.domain.why import Because, InputKind, Question, Rule, Why
from services.carbon.store.products import ProductRow
from services.carbon.usecases.footprints import Footprints, KnownFootprint
from services.carbon.usecases.why.asked import Figure, Wanted, question, why

UNIT = "kgCO2e"


class FootprintWhys:
    """Traces of what ``usecases/footprints.py`` answers; ``as_of`` is the day as of which the factors are."""

    def __init__(self, footprints: Footprints) -> None:
        self._footprints = footprints

    async def product(self, wanted: Wanted) -> ProductRow:
        """Return the version of the product that is asked about; the caller checks whether its nodes may be seen."""
        return await self._footprints.get(wanted.text("id"), wanted.version)

    async def known(self, wanted: Wanted, row: ProductRow) -> KnownFootprint:
        """Return its footprint as known on the day that is asked for."""
        return await self._footprints.footprint(row, wanted.as_of)

    def footprint(self, wanted: Wanted, known: KnownFootprint) -> Why:
        """Return a footprint, what a stage adds to it, or what stands beside it, as the sum of its flows."""
        found = known.footprint
        if wanted.line is None:
            flows, value = found.inside(None), found.total
        elif wanted.line in list(Stage):
            flows, value = found.inside(Stage(wanted.line)), found.stage_total(Stage(wanted.line))
        elif wanted.line in list(Account):
            account = Account(wanted.line)
            flows, value = [one for one in found.flows if one.flow.account is account], found.of_account(account)
        else:
            expected = ", ".join([*Stage, *Account])
            raise InvalidInput(
                f"line: expected one of {expected}, found {wanted.line}",
                message_zh=f"line:应为 {expected} 之一,实际为 {wanted.line}",
            )
        inputs = [
            Because(
                name=one.flow.name,
                value=one.emission,
                unit=UNIT,
                kind=InputKind.FIGURE,
                id=one.flow.flow_id,
                source=one.flow.source,
                question=_asked(known, Figure.FOOTPRINT_FLOW, one),
            )
            for one in flows
        ]
        return why(wanted, value=value, unit=UNIT, rule=Rule.WHOLE_SUM, inputs=inputs, marks=found.marks)

    def footprint_flow(self, wanted: Wanted, known: KnownFootprint) -> Why:
        """Return a flow's emission as input, share and factor."""
        one = _flow(wanted, known)
        factor = one.factor
        inputs = [
            Because(
                name="input",
                value=one.input,
                unit=one.unit,
                kind=InputKind.FIGURE,
                id=one.flow.flow_id,
                source=one.flow.source,
                question=_asked(known, Figure.FOOTPRINT_INPUT, one),
            ),
            Because(
                name="share of this product",
                value=one.share,
                unit="1",
                kind=InputKind.PARAMETER,
                id=one.flow.allocation or "",
                source=_allocated(known, one),
            ),
            Because(
                name="EF",
                value=None if factor is None else float(factor.value),
                unit=f"{UNIT}/{one.unit}",
                kind=InputKind.FACTOR,
                id=one.flow.series if factor is None else factor.factor_id,
                version=None if factor is None else factor.revision,
                source=_absent(one) if factor is None else factor.source,
            ),
        ]
        marks = sorted(mark.value for mark in marks_of(one.choice)) if isinstance(one.choice, Choice) else []
        return why(
            wanted, value=one.emission, unit=UNIT, rule=Rule.PRODUCT, inputs=inputs, marks=marks,
            factors=[] if factor is None else [factor],
        )  # fmt: skip

    def footprint_input(self, wanted: Wanted, known: KnownFootprint) -> Why:
        """Return what goes in as the net amount over the share that gets into the product."""
        one = _flow(wanted, known)
        flow = one.flow
        inputs = [
            Because(
                name="net amount per functional unit",
                value=one.net,
                unit=one.unit,
                kind=InputKind.FACT,
                id=flow.flow_id,
                version=known.row.version,
                source=f"{flow.amount:g} {flow.unit}; {flow.source}",
            ),
            Because(
                name="1 - scrap rate",
                value=flow.through,
                unit="1",
                kind=InputKind.PARAMETER,
                id=flow.flow_id,
                source=f"scrap rate {flow.scrap_rate:g}",
            ),
        ]
        return why(wanted, value=one.input, unit=one.unit, rule=Rule.QUOTIENT, inputs=inputs)

    def footprint_primary(self, wanted: Wanted, known: KnownFootprint) -> Why:
        """Return the share of a footprint that rests on primary data."""
        found = known.footprint
        pairs = found.weighed_by_primary()
        return self._weighed(wanted, known, pairs, "of primary data", found.primary_share)

    def footprint_quality(self, wanted: Wanted, known: KnownFootprint) -> Why:
        """Return the mean data quality of a footprint, weighed by what the flows emit."""
        found = known.footprint
        return self._weighed(wanted, known, found.weighed_by_quality(), "times its data quality", found.quality)

    def _weighed(
        self, wanted: Wanted, known: KnownFootprint, values: Sequence[float | None], name: str, value: float | None
    ) -> Why:
        flows = known.footprint.inside(None)
        inputs = []
        for one, part, whole in zip(flows, values[::2], values[1::2], strict=True):
            inputs += [
                Because(
                    name=f"{one.flow.name}, {name}",
                    value=part,
                    unit=UNIT,
                    kind=InputKind.PARAMETER,
                    id=one.flow.flow_id,
                    source=f"{'primary' if one.flow.primary else 'secondary'}, data quality {one.flow.quality.mean:g}",
                ),
                Because(
                    name=one.flow.name,
                    value=whole,
                    unit=UNIT,
                    kind=InputKind.FIGURE,
                    id=one.flow.flow_id,
                    question=_asked(known, Figure.FOOTPRINT_FLOW, one),
                ),
            ]
        return why(wanted, value=value, unit="1", rule=Rule.QUOTIENT_OF_SUMS, inputs=inputs)


def _flow(wanted: Wanted, known: KnownFootprint) -> FlowEmission:
    line = wanted.text("line")
    found = next((one for one in known.footprint.flows if one.flow.flow_id == line), None)
    if found is None:
        raise NotFound(
            f"product {known.row.product_id} version {known.row.version} has no flow {line}",
            message_zh=f"产品 {known.row.product_id} 第 {known.row.version} 版没有流 {line}",
        )
    return found


def _asked(known: KnownFootprint, figure: Figure, one: FlowEmission) -> Question | None:
    """Return what explains a flow, by the same factors; nothing where it is unknown."""
    if one.emission is None and figure is Figure.FOOTPRINT_FLOW:
        return None
    row = known.row
    return question(
        figure, id=row.product_id, version=row.version, line=one.flow.flow_id, as_of=known.known_on.isoformat()
    )


def _allocated(known: KnownFootprint, one: FlowEmission) -> str:
    found = (each for each in known.footprint.product.allocations if each.allocation_id == one.flow.allocation)
    return next((f"by {each.by}: {each.reason}" for each in found), "all of it")


def _absent(one: FlowEmission) -> str:
    return "" if isinstance(one.choice, Choice) else f"no factor {one.choice.series}: {one.choice.why}"
