"""Traces of what else an account is asked for: its basic fee by capacity or demand, and what is not billed yet."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.tokens import Principal
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.energy import STEPS_PER_HOUR
from services.carbon.domain.tariff.basic import DemandMonth, Mode, demand_price
from services.carbon.domain.tariff.sheet import month_after
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why
from services.carbon.usecases.costs import Accrued, BasicAnalysis, Costs, midnight
from services.carbon.usecases.why.asked import Figure, Wanted, missing, question, stamp, why


class FeeWhys:
    """Traces of the basic tariff and of accruals; each is of an account."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    async def basic_fee(self, who: Principal, wanted: Wanted) -> Why:
        """Return the basic fee of months by a mode, or by the best plan, as the sum of the months that are compared."""
        found = await self._basic(who, wanted)
        compared = [one for one in found.comparison.months if one.cheapest is not None]
        modes = found.comparison.plan if wanted.mode is None else [wanted.mode] * len(compared)
        inputs = [
            Because(
                name=f"{one.month:%Y-%m} by {mode.value}",
                value=one.by_mode[mode],
                unit="CNY",
                kind=InputKind.FIGURE,
                id=wanted.account or "",
                question=_of_month(Figure.BASIC_MONTH, wanted, one.month, mode),
            )
            for one, mode in zip(compared, modes, strict=True)
        ]
        value = found.comparison.plan_cny if wanted.mode is None else found.comparison.totals[wanted.mode]
        left_out = len(found.comparison.months) - len(compared)
        marks = [f"months_not_compared:{left_out}"] if left_out else []
        return why(wanted, value=value, unit="CNY", rule=Rule.WHOLE_SUM, inputs=inputs, marks=marks)

    async def basic_month(self, who: Principal, wanted: Wanted) -> Why:
        """Return the basic fee of one month by a mode: what is counted times its price."""
        if wanted.mode is None:
            raise missing("mode")
        found = await self._basic(who, wanted)
        if len(found.months) != 1:
            raise InvalidInput("from, to: expected one civil month", message_zh="from、to:应为一个自然月")
        (month,), (fees,) = found.months, found.comparison.months
        value = fees.by_mode[wanted.mode]
        marks = [] if value is not None else ["price, demand or contract is not known"]
        match wanted.mode:
            case Mode.CAPACITY:
                inputs = [_capacity(month), _price(month, "price of capacity", _capacity_price(month))]
                rule = Rule.PRODUCT
            case Mode.ACTUAL_DEMAND:
                inputs, rule = [self._demand(wanted, month), _demand_price(month)], Rule.PRODUCT
            case Mode.CONTRACT_DEMAND:
                prices = month.prices
                parts = [
                    ("surcharge multiple", None if prices is None else prices.surcharge_multiple),
                    ("tolerance", None if prices is None else prices.contract_tolerance),
                ]
                multiple, tolerance = (_price(month, name, part, unit="1") for name, part in parts)
                contract = Because(
                    name="contract",
                    value=month.contract_kw,
                    unit="kW",
                    kind=InputKind.FACT,
                    id=wanted.account or "",
                    source="declared at the utility, as entered of the account",
                )
                inputs = [contract, multiple, self._demand(wanted, month), tolerance, _demand_price(month)]
                rule = Rule.CONTRACT_DEMAND
        return why(wanted, value=value, unit="CNY", rule=rule, inputs=inputs, marks=marks, withheld=value is None)

    async def account_demand(self, who: Principal, wanted: Wanted) -> Why:
        """Return the highest demand of an account's month as four times the energy of its circuits."""
        month = _month(wanted)
        found, energies = await self._costs.peak(who, account=wanted.text("account"), month=month)
        inputs = [
            Because(name="quarter hours", value=STEPS_PER_HOUR, unit="1/h", kind=InputKind.PARAMETER),
            Because(name="quarter hours of the mean", value=1.0, unit="1", kind=InputKind.PARAMETER),
            *(
                Because(
                    name="energy of the quarter hour",
                    value=energy,
                    unit="kWh",
                    kind=InputKind.FIGURE,
                    id=circuit,
                    start=None if found is None else found.at,
                    question=None
                    if found is None or energy is None
                    else dict(
                        question(
                            Figure.ENERGY, None, found.at, found.at + timedelta(seconds=STEP_S), circuit=circuit,
                            booked="true",
                        )
                    ),
                )
                for circuit, energy in energies
            ),
        ]  # fmt: skip
        return why(
            wanted,
            value=None if found is None else found.demand_kw,
            unit="kW",
            rule=Rule.BY_FACTOR,
            inputs=inputs,
            quality=_complete(None if found is None else found.completeness),
            marks=["billing meters slide the quarter hour: theirs is at least this"],
            withheld=found is None,
        )

    async def accrual(self, who: Principal, wanted: Wanted) -> Why:
        """Return what is used in a month and not billed yet as the sum of the costs of the days without a bill."""
        found = await self._accrued(who, wanted)
        inputs = [
            Because(
                name=day.isoformat(),
                value=None if use is None else use.cost_cny,
                unit="CNY",
                kind=InputKind.FIGURE,
                id=wanted.account or "",
                start=midnight(day),
                question=None if use is None or use.cost_cny is None else _of_day(Figure.COST, wanted, day),
            )
            for day, use in found.open.items()
        ] or [_nothing("CNY", "every day of the month has a bill")]
        value = found.row.open_cny
        quality = _complete(found.row.open_completeness)
        return why(wanted, value=value, unit="CNY", rule=Rule.WHOLE_SUM, inputs=inputs, quality=quality)

    async def accrued_energy(self, who: Principal, wanted: Wanted) -> Why:
        """Return the energy of the same days."""
        found = await self._accrued(who, wanted)
        inputs = [
            Because(
                name=day.isoformat(),
                value=None if use is None else use.energy_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.account or "",
                start=midnight(day),
                question=None if use is None or use.energy_kwh is None else _of_day(Figure.METERED, wanted, day),
            )
            for day, use in found.open.items()
        ] or [_nothing("kWh", "every day of the month has a bill")]
        quality = _complete(found.row.open_completeness)
        return why(wanted, value=found.row.open_kwh, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=quality)

    async def billed(self, who: Principal, wanted: Wanted) -> Why:
        """Return a month's part of what bills say of energy, as the sum of its days' parts."""
        found = await self._accrued(who, wanted)
        inputs = _billed(found, "kWh", [one.energy_kwh for one in found.billed.values()])
        return why(wanted, value=found.row.billed_kwh, unit="kWh", rule=Rule.WHOLE_SUM, inputs=inputs)

    async def billed_money(self, who: Principal, wanted: Wanted) -> Why:
        """Return the same of money."""
        found = await self._accrued(who, wanted)
        inputs = _billed(found, "CNY", [one.amount_cny for one in found.billed.values()])
        return why(wanted, value=found.row.billed_cny, unit="CNY", rule=Rule.WHOLE_SUM, inputs=inputs)

    async def _basic(self, who: Principal, wanted: Wanted) -> BasicAnalysis:
        start, end = wanted.span
        first, last = (at.astimezone(CIVIL_ZONE).date() for at in (start, end))
        hold = wanted.hold_months
        return await self._costs.basic(who, account=wanted.text("account"), first=first, last=last, hold_months=hold)

    async def _accrued(self, who: Principal, wanted: Wanted) -> Accrued:
        account = wanted.text("account")
        return await self._costs.accrued(who, account=account, month=_month(wanted), asked_on=wanted.as_of)

    def _demand(self, wanted: Wanted, month: DemandMonth) -> Because:
        return Because(
            name="highest demand",
            value=month.demand_kw,
            unit="kW",
            kind=InputKind.FIGURE,
            id=wanted.account or "",
            question=None if month.demand_kw is None else _of_month(Figure.ACCOUNT_DEMAND, wanted, month.month, None),
        )


def _month(wanted: Wanted) -> date:
    start, end = wanted.span
    first, last = (at.astimezone(CIVIL_ZONE).date() for at in (start, end))
    if first.day != 1 or last != month_after(first):
        raise InvalidInput("from, to: expected one civil month", message_zh="from、to:应为一个自然月")
    return first


def _of_month(figure: Figure, wanted: Wanted, month: date, mode: Mode | None) -> dict[str, str]:
    start, end = midnight(month), midnight(month_after(month))
    return dict(question(figure, None, start, end, account=wanted.account, mode=None if mode is None else mode.value))


def _of_day(figure: Figure, wanted: Wanted, day: date) -> dict[str, str]:
    days = {"from": stamp(midnight(day)), "to": stamp(midnight(day + timedelta(days=1)))}
    step = {"step": "day"} if figure is Figure.COST else {}
    return {"figure": figure.value, "account": wanted.account or "", **days, **step}


def _capacity(month: DemandMonth) -> Because:
    return Because(
        name="capacity",
        value=month.capacity_kva,
        unit="kVA",
        kind=InputKind.FACT,
        source="transformers of the supply point that are not sealed, as entered of the account",
    )


def _capacity_price(month: DemandMonth) -> Decimal | None:
    return None if month.prices is None else month.prices.capacity_cny_per_kva


def _demand_price(month: DemandMonth) -> Because:
    prices = month.prices
    price = None if prices is None else demand_price(month, prices)
    reduced = prices is not None and price is not None and price != prices.demand_cny_per_kw
    return _price(month, "price of demand, reduced for well-used capacity" if reduced else "price of demand", price)


def _price(month: DemandMonth, name: str, value: Decimal | None, unit: str = "CNY/month") -> Because:
    return Because(
        name=name,
        value=value,
        unit=unit,
        kind=InputKind.PRICE,
        id=f"{month.month:%Y-%m}",
        source="nobody has entered it" if value is None else "price sheet of the month",
    )


def _billed(found: Accrued, unit: str, parts: Sequence[Decimal]) -> list[Because]:
    return [
        Because(
            name=day.isoformat(),
            value=part,
            unit=unit,
            kind=InputKind.BILL,
            id=one.bill.number,
            start=midnight(day),
            source=f"the day's part of {one.bill.energy_kwh} kWh and {one.bill.amount_cny} CNY of {one.bill.start} to "
            f"before {one.bill.end}: as the meters of all its days say, else evenly; the last day takes what is left",
        )
        for (day, one), part in zip(found.billed.items(), parts, strict=True)
    ] or [_nothing(unit, "no day of the month has a bill")]


def _nothing(unit: str, text: str) -> Because:
    return Because(name=text, value=Decimal(0), unit=unit, kind=InputKind.PARAMETER)


def _complete(share: float | None) -> Quality:
    return Quality(
        interval_completeness=None,
        usable_share=share,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )
