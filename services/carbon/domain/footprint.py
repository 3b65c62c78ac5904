"""The carbon footprint of a product (产品碳足迹): what one functional unit of it emits, stage by stage.

    input = net amount / (1 - scrap rate)
    E     = input * share of this product * EF
    PCF   = sum over the flows of all stages of the boundary

Factors are chosen by the library for the use of products, which takes no average of a grid: electricity has life-cycle
factors (``CFP-…``) only. What is biogenic, of a change of land use or of aircraft above carbon dioxide stands beside
the footprint and not in it; offsets have no place at all. What is left out is listed, with its share.

Source:
    ISO 14067:2018; the platform's energy methods, section 19.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.activity import per_of
from services.carbon.domain.emissions.knowledge import marks_of
from services.carbon.domain.emissions.units import convert, kind_of
from services.carbon.domain.factors import (
    Absence,
    Choice,
    EmissionFactor,
    FactorLibrary,
    Family,
    Place,
    Use,
    WrongFamily,
)
from services.carbon.domain.why import Number, Rule, recomputed

AMOUNT_MAX = 1e9
"""Of a flow per functional unit; beyond it somebody has taken the wrong unit. [the flow's unit]"""
SCRAP_MAX = 0.99
"""A process that wastes more makes nothing. [1]"""
SHARES_SUM = 1e-6
"""By which shares may miss 1, since thirds are written with a few digits. [1]"""
CUT_OFF_EACH, CUT_OFF_ALL = 0.01, 0.05
"""A flow of this share is no longer negligible, nor are all of this share together. [1]"""
ELECTRICITY = "electricity"
"""Category of factors of electricity."""
MASS = "kg"


class Stage(StrEnum):
    """Of a life."""

    RAW_MATERIALS = "raw_materials"
    INBOUND_TRANSPORT = "inbound_transport"
    MANUFACTURING = "manufacturing"
    DISTRIBUTION = "distribution"
    USE = "use"
    END_OF_LIFE = "end_of_life"


class Boundary(StrEnum):
    """How much of a life is looked at."""

    CRADLE_TO_GATE = "cradle_to_gate"
    CRADLE_TO_GRAVE = "cradle_to_grave"

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages that lie within it."""
        return list(Stage)[:3] if self is Boundary.CRADLE_TO_GATE else list(Stage)


class Account(StrEnum):
    """Where an emission is told."""

    FOOTPRINT = "footprint"
    BIOGENIC_RELEASE = "biogenic_release"
    BIOGENIC_UPTAKE = "biogenic_uptake"
    """Told as a positive amount that was taken up."""
    LAND_USE = "land_use"
    AIRCRAFT = "aircraft"
    """What aircraft add above their carbon dioxide."""


class AllocationBy(StrEnum):
    """What a shared process is divided by, the best first; a process with a meter of its own is not divided at all."""

    MASS = "mass"
    ENERGY = "energy"
    ECONOMIC = "economic"


class CutOffBy(StrEnum):
    """What the share of a flow that is left out is of."""

    MASS = "mass"
    """Of all inputs that have a mass. [kg]"""
    IMPACT = "impact"
    """Of the footprint, by what the flow is expected to emit. [kgCO2e]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuality:
    """How well a flow's data fit, each from 1 (best) to 5."""

    technology: int
    time: int
    geography: int
    completeness: int
    reliability: int

    @property
    def mean(self) -> float:
        """The mean of the five."""
        return (self.technology + self.time + self.geography + self.completeness + self.reliability) / 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What goes into one functional unit, or out of it."""

    flow_id: str
    stage: Stage
    name: str
    amount: float
    """Net, per functional unit. [unit]"""
    unit: str
    series: str
    """Of its factor, for example ``CFP-ELEC-CN``."""
    electricity: bool
    source: str
    quality: DataQuality
    primary: bool
    """Measured at the process itself, not taken from a database."""
    scrap_rate: float = 0.0
    """Of the input, what does not get into the product. [1]"""
    allocation: str | None = None
    """Id of the allocation of the process that it belongs to."""
    account: Account = Account.FOOTPRINT
    province: str | None = None
    """First two digits of the region code; None: the factor of the country."""
    year: int | None = None
    """Of the factor; None: that of the product."""
    supplier: str | None = None

    @property
    def through(self) -> float:
        """Share of the input that gets into the product. [1]"""
        return 1.0 - self.scrap_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """How a process that makes several products is divided among them."""

    allocation_id: str
    by: AllocationBy
    reason: str
    """Why it is not avoided, and nothing better is divided by."""
    shares: Mapping[str, float]
    """By product; they sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """A flow that is left out."""

    name: str
    stage: Stage
    by: CutOffBy
    amount: float
    """Mass of the input [kg], or expected emission [kgCO2e], per functional unit."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product with everything that its footprint is computed from."""

    product_id: str
    name: str
    name_zh: str
    functional_unit: str
    """What it is of, for example 1 m2 of board, 20 mm."""
    boundary: Boundary
    year: int
    """Civil year that the data are of."""
    flows: Sequence[Flow]
    allocations: Sequence[Allocation] = ()
    cut_offs: Sequence[CutOff] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidInput: No functional unit, no flow of the footprint, a stage out of the boundary, an id twice,
                amounts or rates out of their limits, shares that do not sum to 1 or not of this product, an allocation
                that is none.
        """
        _expect(bool(self.functional_unit.strip()), "functional_unit: expected a text", "functional_unit:必填")
        _expect(
            any(one.account is Account.FOOTPRINT for one in self.flows),
            "flows: expected one of the footprint at least",
            "flows:至少一项计入足迹",
        )
        _once("flows", [one.flow_id for one in self.flows])
        _once("allocations", [one.allocation_id for one in self.allocations])
        for one in self.allocations:
            self._check_shares(one)
        known = {one.allocation_id for one in self.allocations}
        for flow in self.flows:
            self._check_stage(flow.flow_id, flow.stage)
            _expect(
                0 <= flow.amount <= AMOUNT_MAX,
                f"{flow.flow_id}: amount: expected 0 to {AMOUNT_MAX:g}, found {flow.amount:g}",
                f"{flow.flow_id}:amount 应为 0 至 {AMOUNT_MAX:g},实际为 {flow.amount:g}",
            )
            _expect(
                0 <= flow.scrap_rate <= SCRAP_MAX,
                f"{flow.flow_id}: scrap_rate: expected 0 to {SCRAP_MAX:g}, found {flow.scrap_rate:g}",
                f"{flow.flow_id}:scrap_rate 应为 0 至 {SCRAP_MAX:g},实际为 {flow.scrap_rate:g}",
            )
            _expect(
                flow.allocation is None or flow.allocation in known,
                f"{flow.flow_id}: there is no allocation {flow.allocation}",
                f"{flow.flow_id}:没有分配方案 {flow.allocation}",
            )
        for left_out in self.cut_offs:
            self._check_stage(left_out.name, left_out.stage)

    def share_of(self, flow: Flow) -> float:
        """Return what of a flow is this product's. [1]"""
        found = next((one for one in self.allocations if one.allocation_id == flow.allocation), None)
        return 1.0 if found is None else found.shares[self.product_id]

    def _check_stage(self, name: str, stage: Stage) -> None:
        _expect(
            stage in self.boundary.stages,
            f"{name}: stage {stage} is not within {self.boundary}",
            f"{name}:阶段 {stage} 不在边界 {self.boundary} 内",
        )

    def _check_shares(self, one: Allocation) -> None:
        name, total = one.allocation_id, math.fsum(one.shares.values())
        _expect(
            self.product_id in one.shares,
            f"{name}: shares: expected one of {self.product_id}",
            f"{name}:shares 应包含 {self.product_id}",
        )
        _expect(
            all(0 <= share <= 1 for share in one.shares.values()) and abs(total - 1) <= SHARES_SUM,
            f"{name}: shares: expected shares that sum to 1, found {total:g}",
            f"{name}:分配比例之和应为 1,实际为 {total:g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEmission:
    """What a flow emits per functional unit."""

    flow: Flow
    net: float
    """As it goes into the product. [unit]"""
    unit: str
    """That of the factor, where there is one."""
    share: float
    choice: Choice | Absence

    @property
    def factor(self) -> EmissionFactor | None:
        """The factor, where there is one."""
        return self.choice.factor if isinstance(self.choice, Choice) else None

    @property
    def input(self) -> float:
        """What goes in, with what is wasted. [unit]"""
        return _known(recomputed(Rule.QUOTIENT, [self.net, self.flow.through]))

    @property
    def emission(self) -> float | None:
        """Null where no factor applies. [kgCO2e]"""
        factor = None if self.factor is None else float(self.factor.value)
        return _float(recomputed(Rule.PRODUCT, [self.input, self.share, factor]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A cut-off with its share."""

    cut_off: CutOff
    of: float | None
    """What the share is of: inputs with a mass [kg], or the footprint [kgCO2e], each with what is left out."""

    @property
    def share(self) -> float | None:
        """Null where there is nothing to hold it against. [1]"""
        return self.cut_off.amount / self.of if self.of else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one functional unit of a product emits."""

    product: Product
    flows: Sequence[FlowEmission]
    left_out: Sequence[LeftOut]

    @property
    def total(self) -> float | None:
        """Unknown as soon as one flow is. [kgCO2e per functional unit]"""
        return self.of_account(Account.FOOTPRINT)

    @property
    def at_least(self) -> float | None:
        """What is known of it."""
        return _float(recomputed(Rule.SUM, [one.emission for one in self.inside(None)]))

    @property
    def primary_share(self) -> float | None:
        """Share of the footprint that rests on primary data. [1]"""
        return _float(recomputed(Rule.QUOTIENT_OF_SUMS, self.weighed_by_primary()))

    @property
    def quality(self) -> float | None:
        """Mean data quality, weighed by what the flows emit; 1 is the best. [1]"""
        return _float(recomputed(Rule.QUOTIENT_OF_SUMS, self.weighed_by_quality()))

    @property
    def marks(self) -> list[str]:
        """What a reader has to know before relying on it."""
        found = {mark.value for one in self.flows if isinstance(one.choice, Choice) for mark in marks_of(one.choice)}
        found |= {f"no_factor:{one.flow.flow_id}" for one in self.flows if one.factor is None}
        found |= {f"no_flows:{stage}" for stage in self.product.boundary.stages if not self.of_stage(stage)}
        found |= {"cut_off_too_much"} if self.cut_off_too_much else set()
        found |= {"cut_off_not_judged"} if any(one.share is None for one in self.left_out) else set()
        return sorted(found)

    @property
    def cut_off_share(self) -> float:
        """Sum of the shares that are known, whatever they are of. [1]"""
        return math.fsum(one.share or 0.0 for one in self.left_out)

    @property
    def cut_off_too_much(self) -> bool:
        """Whether a flow that is left out, or all of them, are more than negligible."""
        return self.cut_off_share >= CUT_OFF_ALL or any((one.share or 0.0) >= CUT_OFF_EACH for one in self.left_out)

    def inside(self, stage: Stage | None) -> list[FlowEmission]:
        """Return the flows that are in the footprint; of one stage, or of all."""
        return [one for one in self.flows if one.flow.account is Account.FOOTPRINT and stage in (None, one.flow.stage)]

    def of_stage(self, stage: Stage) -> list[FlowEmission]:
        """Return all flows of a stage."""
        return [one for one in self.flows if one.flow.stage is stage]

    def stage_total(self, stage: Stage) -> float | None:
        """Return what a stage adds to the footprint; None where a flow of it is unknown, or there is none. [kgCO2e]"""
        return _float(recomputed(Rule.WHOLE_SUM, [one.emission for one in self.inside(stage)]))

    def of_account(self, account: Account) -> float | None:
        """Return the sum of an account; None where a flow of it is unknown, or there is none. [kgCO2e]"""
        return _float(recomputed(Rule.WHOLE_SUM, [one.emission for one in self.flows if one.flow.account is account]))

    def weighed_by_primary(self) -> list[float | None]:
        """Return pairs: what of a flow rests on primary data, and all of it. [kgCO2e]"""
        return [
            value
            for one in self.inside(None)
            for value in (
                None if one.emission is None else one.emission if one.flow.primary else 0.0,
                one.emission,
            )
        ]

    def weighed_by_quality(self) -> list[float | None]:
        """Return pairs: emission times data quality, and emission. [kgCO2e]"""
        return [
            value
            for one in self.inside(None)
            for value in (None if one.emission is None else one.emission * one.flow.quality.mean, one.emission)
        ]


def footprint(library: FactorLibrary, known_on: date, product: Product) -> Footprint:
    """Return what one functional unit of a product emits, as known on a day.

    Raises:
        InvalidInput: A flow's unit does not fit its factor's, or the factor is not in kgCO2e; there is no such series.
        WrongFamily: A series is not made for products; electricity has another than a life-cycle factor.
    """
    flows = [_emitted(library, known_on, product, flow) for flow in product.flows]
    found = Footprint(product=product, flows=flows, left_out=())
    masses = [
        convert(one.input * one.share, one.unit, MASS)
        for one in found.inside(None)
        if kind_of(one.unit) == kind_of(MASS)
    ]
    wholes = {
        CutOffBy.MASS: math.fsum([*masses, *_amounts(product, CutOffBy.MASS)]) if masses else None,
        CutOffBy.IMPACT: None if found.total is None else math.fsum([found.total, *_amounts(product, CutOffBy.IMPACT)]),
    }
    left_out = [LeftOut(cut_off=one, of=wholes[one.by]) for one in product.cut_offs]
    return Footprint(product=product, flows=flows, left_out=left_out)


def require_negligible(found: Footprint) -> None:
    """Refuse a product that leaves out more than is negligible.

    Raises:
        InvalidInput: A flow that is left out is 1 % or more, or all of them are 5 % or more.
    """
    for one in found.left_out:
        share = one.share or 0.0
        _expect(
            share < CUT_OFF_EACH,
            f"cut_offs: {one.cut_off.name}: expected less than {CUT_OFF_EACH:.0%}, found {share:.2%}",
            f"cut_offs:{one.cut_off.name} 应低于 {CUT_OFF_EACH:.0%},实际为 {share:.2%}",
        )
    _expect(
        found.cut_off_share < CUT_OFF_ALL,
        f"cut_offs: expected less than {CUT_OFF_ALL:.0%} together, found {found.cut_off_share:.2%}",
        f"cut_offs:合计应低于 {CUT_OFF_ALL:.0%},实际为 {found.cut_off_share:.2%}",
    )


def _emitted(library: FactorLibrary, known_on: date, product: Product, flow: Flow) -> FlowEmission:
    rows = library.series(flow.series)
    _expect(
        bool(rows),
        f"{flow.flow_id}: there is no factor of series {flow.series}",
        f"{flow.flow_id}:因子库中没有序列 {flow.series}",
    )
    for row in rows:
        row.require(Use.PRODUCT)
        _require_life_cycle(flow, row)
    choice = library.choose(
        flow.series,
        use=Use.PRODUCT,
        place=Place.of_code(flow.province),
        year=flow.year or product.year,
        known_on=known_on,
        supplier=flow.supplier,
    )
    net, unit = flow.amount, flow.unit
    if isinstance(choice, Choice):
        unit = per_of(choice.factor, ("kgCO2e",))
        net = convert(flow.amount, flow.unit, unit)
    return FlowEmission(flow=flow, net=net, unit=unit, share=product.share_of(flow), choice=choice)


def _require_life_cycle(flow: Flow, row: EmissionFactor) -> None:
    """Refuse a factor of electricity that is not of its whole life: that of scope 2 leaves out how fuels come about."""
    if (flow.electricity or row.category == ELECTRICITY) and row.family is not Family.FOOTPRINT:
        raise WrongFamily(
            f"{flow.flow_id}: electricity of a product takes life-cycle factors (CFP-…), found {row.factor_id} of "
            f"family {row.family}",
            message_zh=f"{flow.flow_id}:产品用电须采用全生命周期因子(CFP-…),{row.factor_id} 属于 {row.family} 类",
            factor_id=row.factor_id,
            family=row.family.value,
            use=Use.PRODUCT.value,
        )


def _amounts(product: Product, by: CutOffBy) -> Iterable[float]:
    return (one.amount for one in product.cut_offs if one.by is by)


def _once(name: str, ids: Sequence[str]) -> None:
    twice = sorted(one for one, count in Counter(ids).items() if count > 1)
    _expect(not twice, f"{name}: expected each id once, found {twice} twice", f"{name}:编号重复 {twice}")


def _expect(holds: bool, expected: str, expected_zh: str) -> None:
    if not holds:
        raise InvalidInput(expected, message_zh=expected_zh)


def _float(value: Number | None) -> float | None:
    return None if value is None else float(value)


def _known(value: Number | None) -> float:
    if value is None:
        raise AssertionError("a quotient by what is at least 0.01")
    return float(value)
