"""HTTP of costs: what energy cost by band, and whether capacity or demand is the cheaper basic tariff."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from libs.common.errors import InvalidInput
from services.carbon.api.common import From, Reader, To, asked_node
from services.carbon.domain.accounts import Supply
from services.carbon.domain.money import Rounding, to_cents, total
from services.carbon.domain.tariff.basic import Mode, Obligation
from services.carbon.domain.tariff.cost import CostLine
from services.carbon.domain.tariff.periods import Band
from services.carbon.tree import Node
from services.carbon.usecases.costs import BasicAnalysis, Costs, NodeCost, Reason, Unknown

RoundingChoice = Annotated[
    Rounding, Query(description="of amounts, to the cent: as grid bills (half up), or as GB/T 8170 (half even)")
]


class CostStep(StrEnum):
    """Length of a period of costs."""

    DAY = "day"
    MONTH = "month"


class UnknownReply(BaseModel):
    """Why some cost is not known."""

    reason: Reason
    text: str
    text_zh: str


class BandReply(BaseModel):
    """The energy of one band."""

    band: Band | None = Field(description="null where no tariff is in force")
    energy_kwh: Decimal
    share: float | None = Field(description="of the energy that has a band, 0 to 1")
    cost_cny: Decimal | None = Field(description="null where it is unknown, which is not zero [CNY]")


class LineReply(BaseModel):
    """The energy of one period at one rate: energy * (base * ratio + fixed)."""

    period: date = Field(description="the civil day, or the first day of the month")
    account_number: str | None
    band: Band | None
    day_type: str | None = Field(description="all, or the kind of special day that made the band")
    energy_kwh: Decimal = Field(description="what is known of it [kWh]")
    interval_completeness: float = Field(description="share of the time whose energy is known, 0 to 1")
    tariff_id: str | None
    tariff_valid_from: date | None
    tariff_source: str | None
    price_ratio: Decimal | None
    base_cny_per_kwh: Decimal | None
    fixed_cny_per_kwh: Decimal | None
    price_version: int | None
    price_source: str | None
    price_cny_per_kwh: Decimal | None
    cost_cny: Decimal | None = Field(description="null where it is unknown, which is not zero [CNY]")


class CostReply(BaseModel):
    """What energy cost."""

    node: str
    node_kind: str
    formula: str = "sum over bands of energy * (base * ratio + fixed)"
    start: datetime
    end: datetime = Field(description="the end of what is past, where more was asked for")
    energy_kwh: Decimal = Field(description="all that is known [kWh]")
    priced_kwh: Decimal = Field(description="the part of it whose cost is known [kWh]")
    interval_completeness: float | None = Field(description="share of the time whose energy is known, 0 to 1")
    cost_cny: Decimal | None = Field(description="of all known energy; null where any of it has no price [CNY]")
    known_cost_cny: Decimal | None = Field(description="of the priced part; null where nothing has a price [CNY]")
    least_cny: Decimal | None = Field(description="the least that special days nobody has entered may make of it")
    greatest_cny: Decimal | None = Field(description="the greatest; the same as least where all are known")
    average_ratio: float | None = Field(description="mean ratio by energy; above 1 the timing costs")
    bands: Sequence[BandReply]
    unknown: Sequence[UnknownReply] = Field(description="why some cost is not known")
    lines: Sequence[LineReply]


class FeesReply(BaseModel):
    """The basic fee of one month by every mode."""

    month: str
    capacity_kva: Decimal
    demand_kw: Decimal | None = Field(description="highest stored quarter hour, a lower bound; null: too little known")
    demand_at: datetime | None
    demand_completeness: float | None
    capacity_cny: Decimal | None
    actual_demand_cny: Decimal | None
    contract_demand_cny: Decimal | None
    break_even_kw: Decimal | None = Field(description="below this demand, paying by it is cheaper [kW]")
    cheapest: Mode | None


class BasicReply(BaseModel):
    """Capacity or demand (容需分析)."""

    account_number: str
    obligation: Obligation
    current_mode: Mode | None
    contract_kw: Decimal | None
    months: Sequence[FeesReply]
    compared_months: int = Field(description="months whose fees by capacity and by demand are known; totals are theirs")
    totals_cny: dict[Mode, Decimal | None]
    current_cny: Decimal | None = Field(description="what the present mode came to in the compared months [CNY]")
    plan: Sequence[Mode] = Field(description="the cheapest mode of each compared month under the switching rule")
    plan_cny: Decimal | None
    recommended_contract_kw: Decimal | None = Field(description="the declared demand with the least mean fee [kW]")
    recommended_contract_cny: Decimal | None = Field(description="its mean monthly fee [CNY]")


def asked_node_or_account(
    site: Annotated[str | None, Query(description="id of a site: the sum of its feeds", max_length=64)] = None,
    circuit: Annotated[str | None, Query(description="id of a circuit", max_length=64)] = None,
    room: Annotated[str | None, Query(description="id of a room: the sum of its feeds", max_length=64)] = None,
    region: Annotated[str | None, Query(description="id of a province, city or district", max_length=64)] = None,
    organisation: Annotated[
        str | None, Query(description="id of an organisation, with those beneath it", max_length=64)
    ] = None,
    account: Annotated[str | None, Query(description="number of an electricity account", max_length=64)] = None,
) -> Node | str:
    """Return the one node, or the number of the one account, that a request names.

    Raises:
        InvalidInput: It names none, or several.
    """
    if account is None:
        return asked_node(site, circuit, room, region, organisation)
    if any(one is not None for one in (site, circuit, room, region, organisation)):
        raise InvalidInput("name either an account or a node", message_zh="请指定 account 或一个节点,不可同时指定")
    return account


def add_cost_routes(router: APIRouter, costs: Costs) -> None:
    """Add the routes."""

    @router.get("/energy/cost", tags=["energy"], summary="What the energy of a site, circuit or account cost, by band")
    async def energy_cost(
        who: Reader,
        start: From,
        end: To,
        asked: Annotated[Node | str, Depends(asked_node_or_account)],
        step: CostStep = CostStep.MONTH,
        rounding: RoundingChoice = Rounding.HALF_UP,
    ) -> CostReply:
        found = await costs.cost(who, asked, start=start, end=end, daily=step is CostStep.DAY)
        return _cost(found, rounding)

    @router.get(
        "/demand/basic-tariff", tags=["demand"], summary="Basic fee by capacity or by demand, and which is cheaper"
    )
    async def basic_tariff(
        who: Reader,
        account: Annotated[str, Query(max_length=64)],
        first: Annotated[CalendarDate, Query(alias="from", description="a day of the first civil month")],
        last: Annotated[CalendarDate, Query(alias="to", description="a day of the month after the last")],
        hold_months: Annotated[
            int, Query(ge=1, le=24, description="how many months a choice is kept before it may change")
        ] = 3,
        rounding: RoundingChoice = Rounding.HALF_UP,
    ) -> BasicReply:
        found = await costs.basic(who, account=account, first=first, last=last, hold_months=hold_months)
        return _basic(found, rounding)


def shown(amount: Decimal | None, rounding: Rounding) -> Decimal | None:
    """Return an amount as it is shown; what is unknown stays unknown. [CNY]"""
    return None if amount is None else to_cents(amount, rounding)


def unknown_reply(one: Unknown) -> UnknownReply:
    """Return why some cost is not known, in both languages."""
    return UnknownReply(reason=one.reason, text=one.text.english, text_zh=one.text.chinese)


def _cost(found: NodeCost, rounding: Rounding) -> CostReply:
    whole = found.whole
    least, greatest = found.range_cny or (None, None)
    return CostReply(
        node=found.node,
        node_kind=found.node_kind,
        start=found.start,
        end=found.end,
        energy_kwh=whole.energy_kwh,
        priced_kwh=whole.priced_kwh,
        interval_completeness=found.interval_completeness,
        cost_cny=shown(whole.cost_cny, rounding),
        known_cost_cny=shown(whole.known_cost_cny, rounding),
        least_cny=shown(least, rounding),
        greatest_cny=shown(greatest, rounding),
        average_ratio=whole.average_ratio,
        bands=_bands(found, rounding),
        unknown=[unknown_reply(one) for one in found.unknown],
        lines=[_line(supply, line, rounding) for supply, line in found.lines],
    )


def _bands(found: NodeCost, rounding: Rounding) -> list[BandReply]:
    whole = found.whole
    shares = whole.shares() or {}
    lines: dict[Band | None, list[CostLine]] = defaultdict(list)
    for line in whole.lines:
        lines[None if line.rate is None else line.rate.band].append(line)
    replies = []
    for band in (*Band, None):
        if band not in lines:
            continue
        known = [line for line in lines[band] if line.slots > line.unknown]
        costs = [line.cost_cny for line in known if line.cost_cny is not None]
        replies.append(
            BandReply(
                band=band,
                energy_kwh=total(line.energy_kwh for line in known),
                share=None if band is None else shares.get(band),
                cost_cny=to_cents(total(costs), rounding) if known and len(costs) == len(known) else None,
            )
        )
    return replies


def _line(supply: Supply, line: CostLine, rounding: Rounding) -> LineReply:
    rate, price = line.rate, line.price
    return LineReply(
        period=line.period,
        account_number=None if supply.account is None else supply.account.account_number,
        band=None if rate is None else rate.band,
        day_type=None if rate is None else rate.day_type,
        energy_kwh=line.energy_kwh,
        interval_completeness=1 - line.unknown / line.slots,
        tariff_id=None if rate is None else rate.tariff_id,
        tariff_valid_from=None if rate is None else rate.valid_from,
        tariff_source=None if rate is None else rate.source,
        price_ratio=None if rate is None else rate.ratio,
        base_cny_per_kwh=None if price is None else price.base_cny_per_kwh,
        fixed_cny_per_kwh=None if price is None else price.fixed_cny_per_kwh,
        price_version=None if price is None else price.version,
        price_source=None if price is None else price.source,
        price_cny_per_kwh=line.price_cny_per_kwh,
        cost_cny=shown(line.cost_cny, rounding),
    )


def _basic(found: BasicAnalysis, rounding: Rounding) -> BasicReply:
    comparison, account = found.comparison, found.account
    totals = {mode: shown(amount, rounding) for mode, amount in comparison.totals.items()}
    contract_kw, contract_cny = found.contract or (None, None)
    months = []
    for state, fees in zip(found.months, comparison.months, strict=True):
        peak = found.peaks.get(state.month)
        months.append(
            FeesReply(
                month=f"{state.month:%Y-%m}",
                capacity_kva=state.capacity_kva,
                demand_kw=state.demand_kw,
                demand_at=None if peak is None else peak.at,
                demand_completeness=None if peak is None else peak.completeness,
                capacity_cny=shown(fees.by_mode[Mode.CAPACITY], rounding),
                actual_demand_cny=shown(fees.by_mode[Mode.ACTUAL_DEMAND], rounding),
                contract_demand_cny=shown(fees.by_mode[Mode.CONTRACT_DEMAND], rounding),
                break_even_kw=None if fees.break_even_kw is None else to_cents(fees.break_even_kw, rounding),
                cheapest=fees.cheapest,
            )
        )
    return BasicReply(
        account_number=account.account_number,
        obligation=found.obligation,
        current_mode=account.basic_mode,
        contract_kw=account.contract_kw,
        months=months,
        compared_months=comparison.compared,
        totals_cny=totals,
        current_cny=None if account.basic_mode is None else totals[account.basic_mode],
        plan=comparison.plan,
        plan_cny=shown(comparison.plan_cny, rounding),
        recommended_contract_kw=contract_kw,
        recommended_contract_cny=shown(contract_cny, rounding),
    )
