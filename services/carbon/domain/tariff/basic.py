"""The basic tariff of two-part customers (基本电费): by transformer capacity or by demand, and which is cheaper.

Customers choose by the month, and may change only so often. Prices and rules differ by province and month, so
they are data; what is not known of a month leaves its fee unknown.

Source:
    The platform's energy methods, section 10.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum

from libs.common.errors import InvalidInput
from services.carbon.domain.money import exact, total

SINGLE_PART_MAX_KVA = Decimal(100)
"""Up to here there is no basic fee."""
TWO_PART_MIN_KVA = Decimal(315)
"""From here on there is one; between the two the customer may choose."""
PRICE_MAX_CNY = Decimal(200)
"""Beyond it somebody has entered fen, or a price per year. [CNY/(kVA month) or CNY/(kW month)]"""


class Obligation(StrEnum):
    """Whether a customer pays a basic fee."""

    SINGLE_PART = "single_part"
    MAY_CHOOSE = "may_choose"
    TWO_PART = "two_part"


class Mode(StrEnum):
    """What the basic fee of a month is counted by."""

    CAPACITY = "capacity"
    """容量: the transformers."""
    ACTUAL_DEMAND = "actual_demand"
    """实际最大需量: the highest quarter hour of the month."""
    CONTRACT_DEMAND = "contract_demand"
    """合同最大需量: what was declared, and a surcharge above it."""


@dataclass(frozen=True, slots=True)
class Transformer:
    """A transformer of one supply point."""

    rated_kva: Decimal
    sealed: bool = False
    """A standby that the utility has sealed, which is outside of the capacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicPrices:
    """Prices and rules of one province, class, voltage and month."""

    capacity_cny_per_kva: Decimal | None
    """[CNY/(kVA month)]"""
    demand_cny_per_kw: Decimal | None
    """[CNY/(kW month)]"""
    contract_tolerance: Decimal = Decimal("1.05")
    """Up to this multiple of the contract nothing is added. [1]"""
    surcharge_multiple: Decimal = Decimal(2)
    """How often the demand above that is charged. [1]"""
    contract_floor_share: Decimal | None = None
    """The contract's least share of the capacity, where that rule still applies. [1]"""
    discount_from_kwh_per_kva: Decimal | None = None
    """Monthly energy per capacity from which the demand price is reduced. [kWh/kVA]"""
    discount_multiple: Decimal = Decimal(1)
    """What it is then multiplied with. [1]"""

    def __post_init__(self) -> None:
        """Refuse what cannot be a price per month.

        Raises:
            InvalidInput: A price lies outside of its limits.
        """
        for name, value in (
            ("capacity_cny_per_kva", self.capacity_cny_per_kva),
            ("demand_cny_per_kw", self.demand_cny_per_kw),
        ):
            if value is not None and not (value.is_finite() and 0 <= value <= PRICE_MAX_CNY):
                raise InvalidInput(
                    f"{name}: expected 0 to {PRICE_MAX_CNY} CNY per month, found {value}",
                    message_zh=f"{name}:应为每月 0 至 {PRICE_MAX_CNY} 元,实际为 {value}",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandMonth:
    """What the basic fee of one month depends on."""

    month: date
    """The first day of it."""
    capacity_kva: Decimal
    demand_kw: Decimal | None
    """The highest demand; None where it is not known. Of stored quarter hours it is a lower bound. [kW]"""
    contract_kw: Decimal | None
    """What was declared; None where nothing was. [kW]"""
    energy_kwh: Decimal | None
    """None where it is not known. [kWh]"""
    prices: BasicPrices | None


@dataclass(frozen=True, slots=True)
class BasicFees:
    """The fee of one month by every mode, None where it is unknown. [CNY]"""

    month: date
    by_mode: dict[Mode, Decimal | None]
    break_even_kw: Decimal | None
    """Below this demand, paying by it is cheaper. [kW]"""

    @property
    def cheapest(self) -> Mode | None:
        """The mode with the least fee, None unless capacity and actual demand both have one; capacity wins ties."""
        known = {mode: fee for mode, fee in self.by_mode.items() if fee is not None}
        if not {Mode.CAPACITY, Mode.ACTUAL_DEMAND} <= known.keys():
            return None
        return min(Mode, key=lambda mode: known.get(mode, Decimal("Infinity")))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a span of months would have cost by every mode, and by the best plan that may change between them."""

    months: tuple[BasicFees, ...]
    totals: dict[Mode, Decimal | None]
    """By mode, None where a compared month has no fee by it. [CNY]"""
    compared: int
    """Months whose fees by capacity and by actual demand are known; only these are in the totals."""
    plan: tuple[Mode, ...]
    """The cheapest mode of every compared month under the switching rule."""
    plan_cny: Decimal | None
    """What it would have cost; None without a compared month. [CNY]"""


def obligation(capacity_kva: Decimal) -> Obligation:
    """Return whether a customer of this capacity pays a basic fee."""
    if capacity_kva <= SINGLE_PART_MAX_KVA:
        return Obligation.SINGLE_PART
    return Obligation.TWO_PART if capacity_kva >= TWO_PART_MIN_KVA else Obligation.MAY_CHOOSE


def billed_capacity(transformers: Iterable[Transformer]) -> Decimal:
    """Return the capacity of a supply point that is paid for. [kVA]"""
    return total(one.rated_kva for one in transformers if not one.sealed)


def contract_demand_billed(
    demand_kw: Decimal, contract_kw: Decimal, *, capacity_kva: Decimal, prices: BasicPrices
) -> Decimal:
    """Return the demand that a contract is billed by: itself, and a surcharge above its tolerance. [kW]

    Raises:
        InvalidInput: The contract lies below its floor.
    """
    with exact():
        if prices.contract_floor_share is not None and contract_kw < prices.contract_floor_share * capacity_kva:
            floor_kw = prices.contract_floor_share * capacity_kva
            raise InvalidInput(
                f"contract_kw: expected at least {floor_kw} kW "
                f"({prices.contract_floor_share} of {capacity_kva} kVA), found {contract_kw}",
                message_zh=f"contract_kw:应不低于 {floor_kw} kW({capacity_kva} kVA 的 {prices.contract_floor_share}),"
                f"实际为 {contract_kw}",
            )
        allowed = prices.contract_tolerance * contract_kw
        return contract_kw + prices.surcharge_multiple * max(demand_kw - allowed, Decimal(0))


def basic_fees(one: DemandMonth) -> BasicFees:
    """Return the fee of a month by every mode. [CNY]

    The discount for well-used capacity needs the month's energy; without it a fee by demand is unknown wherever
    there is such a rule.

    Raises:
        InvalidInput: The contract lies below its floor.
    """
    fees: dict[Mode, Decimal | None] = dict.fromkeys(Mode)
    prices = one.prices
    if prices is None:
        return BasicFees(one.month, fees, None)
    with exact():
        if prices.capacity_cny_per_kva is not None:
            fees[Mode.CAPACITY] = one.capacity_kva * prices.capacity_cny_per_kva
        price = demand_price(one, prices)
        if price is not None and one.demand_kw is not None:
            fees[Mode.ACTUAL_DEMAND] = one.demand_kw * price
            if one.contract_kw is not None:
                billed = contract_demand_billed(
                    one.demand_kw, one.contract_kw, capacity_kva=one.capacity_kva, prices=prices
                )
                fees[Mode.CONTRACT_DEMAND] = billed * price
    # A quotient has no exact decimal; it is a recommendation and no amount.
    by_capacity = fees[Mode.CAPACITY]
    even = None if by_capacity is None or not price else by_capacity / price
    return BasicFees(one.month, fees, even)


def compare(months: Sequence[DemandMonth], *, hold_months: int) -> Comparison:
    """Return what months would have cost by each mode, and the cheapest plan.

    Args:
        months: In order. Those with an unknown fee by capacity or by actual demand are shown and not compared.
        hold_months: How many months a choice has to be kept before it may change. The first choice begins with
            the span, and the last may outlast it; months that are not compared do not count.

    Raises:
        InvalidInput: A contract lies below its floor.
    """
    if hold_months < 1:
        raise ValueError(f"hold_months: expected 1 or more, found {hold_months}")
    fees = tuple(basic_fees(one) for one in months)
    known = [one for one in fees if one.cheapest is not None]
    totals: dict[Mode, Decimal | None] = {}
    for mode in Mode:
        parts = [one.by_mode[mode] for one in known]
        amounts = [part for part in parts if part is not None]
        totals[mode] = total(amounts) if known and len(amounts) == len(parts) else None
    plan, plan_cny = _best_plan(known, hold_months)
    return Comparison(fees, totals, len(known), plan, plan_cny)


def recommend_contract(
    demands_kw: Sequence[Decimal],
    *,
    capacity_kva: Decimal,
    prices: BasicPrices,
    step_kw: Decimal = Decimal(1),
) -> tuple[Decimal, Decimal] | None:
    """Return the contract with the least mean monthly fee over a history of demands, and that fee.

    The mean fee is convex in the contract and bends only where a demand equals the tolerated one, so of the
    contracts ``floor + n * step_kw`` only those beside a bend can be the best; of equal ones the lowest wins.

    Args:
        demands_kw: The highest demand of each month. [kW]
        capacity_kva: The capacity that the floor is a share of. [kVA]
        prices: The prices to plan with; the discount is left out, since it does not depend on the contract.
        step_kw: How finely to search. [kW]

    Returns:
        (contract [kW], mean fee [CNY/month]), or None without demands or a price.
    """
    price = prices.demand_cny_per_kw
    if not demands_kw or price is None:
        return None
    if step_kw <= 0:
        raise ValueError(f"step_kw: expected more than 0, found {step_kw}")
    with exact():
        lowest = (prices.contract_floor_share or Decimal(0)) * capacity_kva
        bends = [int((demand / prices.contract_tolerance - lowest) / step_kw) for demand in demands_kw]
        candidates = sorted({0} | {max(steps, 0) for bend in bends for steps in (bend, bend + 1)})
        means = [
            (
                total(
                    contract_demand_billed(demand, contract, capacity_kva=capacity_kva, prices=prices)
                    for demand in demands_kw
                ),
                contract,
            )
            for contract in (lowest + steps * step_kw for steps in candidates)
        ]
    billed_kw, contract_kw = min(means)
    return contract_kw, billed_kw * price / len(demands_kw)


def demand_price(one: DemandMonth, prices: BasicPrices) -> Decimal | None:
    """Return the month's price of demand, reduced where its capacity was used well. [CNY/kW]"""
    if prices.demand_cny_per_kw is None:
        return None
    if prices.discount_from_kwh_per_kva is None:
        return prices.demand_cny_per_kw
    if one.energy_kwh is None:
        return None
    used_well = one.energy_kwh >= prices.discount_from_kwh_per_kva * one.capacity_kva
    return prices.demand_cny_per_kw * (prices.discount_multiple if used_well else 1)


def _best_plan(known: Sequence[BasicFees], hold_months: int) -> tuple[tuple[Mode, ...], Decimal | None]:
    """Return the cheapest sequence of modes that keeps each for ``hold_months``, by dynamic programming.

    A state is (mode, months that it has been kept, at most ``hold_months``); only a mode that has been kept
    long enough may be left.
    """
    states: dict[tuple[Mode, int], tuple[Decimal, tuple[Mode, ...]]] = {}
    for position, month in enumerate(known):
        following: dict[tuple[Mode, int], tuple[Decimal, tuple[Mode, ...]]] = {}
        for mode in Mode:
            fee = month.by_mode[mode]
            if fee is None:
                continue
            if position == 0:
                following[mode, 1] = (fee, (mode,))
                continue
            for (before, kept), (cost, plan) in states.items():
                if before is not mode and kept < hold_months:
                    continue
                state = (mode, min(kept + 1, hold_months) if before is mode else 1)
                with exact():
                    through = (cost + fee, (*plan, mode))
                if state not in following or through[0] < following[state][0]:
                    following[state] = through
        states = following
    if not states:
        return (), None
    cost, plan = min(states.values(), key=lambda state: state[0])
    return plan, cost
