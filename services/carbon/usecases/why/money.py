"""Traces of money."""

from dataclasses import replace

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from services.carbon.domain.accounts import Supply
from services.carbon.domain.money import total
from services.carbon.domain.tariff.cost import CostLine
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why, recomputed
from services.carbon.tree import Node
from services.carbon.usecases.costs import Costs, NodeCost, midnight
from services.carbon.usecases.why.asked import NO_TARIFF, Figure, Wanted, missing, question, stamp, why


class MoneyWhys:
    """Traces of what energy cost."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    async def cost(self, who: Principal, wanted: Wanted) -> Why:
        """Return a cost as the sum of its lines: by account, month (or day) and rate."""
        start, end = wanted.span
        found = await self._costs.cost(who, _payer(wanted), start=start, end=end, daily=wanted.daily)
        inputs = []
        for number, (supply, line) in enumerate(found.lines):
            band = "no tariff" if line.rate is None else f"{line.rate.band} ({line.rate.day_type})"
            inputs.append(
                Because(
                    name=f"{line.period} {band}",
                    value=line.cost_cny,
                    unit="CNY",
                    kind=InputKind.FIGURE,
                    id="" if supply.account is None else supply.account.account_number,
                    question=_of_line(Figure.COST_LINE, wanted, number),
                )
            )
        whole = found.whole
        return why(
            wanted,
            value=whole.cost_cny,
            unit="CNY",
            rule=Rule.SUM,
            inputs=inputs,
            quality=Quality(
                interval_completeness=None,
                usable_share=found.interval_completeness,
                estimated_share=0.0,
                from_parts_share=0.0,
                provisional=found.end < end,
            ),
            marks=[f"{one.reason}: {one.subject}" for one in found.unknown],
            withheld=whole.cost_cny is None,
        )

    async def tariff_energy(self, who: Principal, wanted: Wanted) -> Why:
        """Return the energy of a cost in one band of the tariff, which ``line`` names, as the sum of its lines."""
        found, lines = await self._of_band(who, wanted)
        inputs = [
            Because(
                name=f"{line.period} {wanted.line}",
                value=line.energy_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id="" if supply.account is None else supply.account.account_number,
                question=_of_line(Figure.BAND_ENERGY, wanted, number) if line.slots > line.unknown else None,
            )
            for number, supply, line in lines
        ]
        value = total(line.energy_kwh for _, _, line in lines) if lines else None
        return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=_usable(found))

    async def tariff_cost(self, who: Principal, wanted: Wanted) -> Why:
        """Return the cost of the same lines; unknown where one of them is that has energy."""
        found, lines = await self._of_band(who, wanted)
        counted = [(number, supply, line) for number, supply, line in lines if line.slots > line.unknown]
        inputs = [
            Because(
                name=f"{line.period} {wanted.line}",
                value=line.cost_cny,
                unit="CNY",
                kind=InputKind.FIGURE,
                id="" if supply.account is None else supply.account.account_number,
                question=_of_line(Figure.COST_LINE, wanted, number),
            )
            for number, supply, line in counted
        ]
        value = recomputed(Rule.CENTS, [one.value for one in inputs])
        marks = [f"{one.reason}: {one.subject}" for one in found.unknown] if value is None else []
        return why(wanted, value=value, unit="CNY", rule=Rule.CENTS, inputs=inputs, marks=marks, quality=_usable(found))

    async def _of_band(self, who: Principal, wanted: Wanted) -> tuple[NodeCost, list[tuple[int, Supply, CostLine]]]:
        start, end = wanted.span
        band = wanted.text("line")
        found = await self._costs.cost(who, _payer(wanted), start=start, end=end, daily=wanted.daily)
        lines = [
            (number, supply, line)
            for number, (supply, line) in enumerate(found.lines)
            if (NO_TARIFF if line.rate is None else line.rate.band.value) == band
        ]
        return found, lines

    async def cost_line(self, who: Principal, wanted: Wanted) -> Why:
        """Return one line of a cost: energy times the price of its band, with notice and price sheet."""
        start, end = wanted.span
        found = await self._costs.line(
            who, _payer(wanted), start=start, end=end, daily=wanted.daily, number=wanted.number
        )
        line = found.line
        rate, price = line.rate, line.price
        sheet = "" if price is None else f"{price.key.region} {price.key.customer_class} {price.key.voltage}"
        month = "" if price is None else f" {price.key.month:%Y-%m}"
        parts = [
            ("base", None if price is None else price.base_cny_per_kwh),
            ("fixed", None if price is None else price.fixed_cny_per_kwh),
        ]
        base, fixed = (
            Because(
                name=name,
                value=value,
                unit="CNY/kWh",
                kind=InputKind.PRICE,
                id=sheet + month,
                version=None if price is None else price.version,
                source="nobody has entered it" if price is None else price.source,
            )
            for name, value in parts
        )
        energy = Because(
            name="energy",
            value=line.energy_kwh,
            unit="kWh",
            kind=InputKind.FIGURE,
            question=_of_line(Figure.BAND_ENERGY, wanted, wanted.number),
        )
        ratio = Because(
            name="ratio",
            value=None if rate is None else rate.ratio,
            unit="1",
            kind=InputKind.TARIFF,
            id="" if rate is None else f"{rate.tariff_id} from {rate.valid_from}",
            source="no tariff is in force" if rate is None else rate.source,
        )
        return why(
            wanted,
            value=line.cost_cny,
            unit="CNY",
            rule=Rule.BAND_COST,
            inputs=[energy, base, ratio, fixed],
            marks=[f"{one.reason}: {one.subject}" for one in found.whole.unknown] if line.cost_cny is None else [],
            withheld=line.cost_cny is None,
        )

    async def band_energy(self, who: Principal, wanted: Wanted) -> Why:
        """Return the energy of one line of a cost as the sum of the slots that its rate covers."""
        start, end = wanted.span
        found = await self._costs.line(
            who, _payer(wanted), start=start, end=end, daily=wanted.daily, number=wanted.number
        )
        inputs = [
            Because(
                name="energy of an interval, or of the part of it at this rate",
                value=energy,
                unit="kWh",
                kind=InputKind.INTERVAL,
                id=circuit,
                start=at,
                question=None
                if energy is None
                else {"figure": Figure.INTERVAL.value, "circuit": circuit, "start": stamp(at)},
            )
            for circuit, at, energy in found.slots.select("circuit_id", "start", "energy_kwh").iter_rows()
        ]
        known = any(one.value is not None for one in inputs)
        return why(
            wanted,
            value=float(found.line.energy_kwh) if known else None,
            unit="kWh",
            rule=Rule.SUM,
            inputs=inputs,
        )

    async def bill(self, who: Principal, wanted: Wanted) -> Why:
        """Return by how much a bill is above its meters; the metered energy is that of the cost of its days."""
        if wanted.account is None:
            raise missing("account")
        number = wanted.text("line")
        first, last = (at.astimezone(CIVIL_ZONE).date() for at in wanted.span)
        rows = await self._costs.reconciliation(who, account=wanted.account, first=first, last=last)
        found = next((row.found for row in rows if row.found.bill.number == number), None)
        if found is None:
            raise NotFound(
                f"line: account {wanted.account} has no bill {number} in the span",
                message_zh=f"line:户号 {wanted.account} 在该时段没有账单 {number}",
            )
        bill = found.bill
        days = {"from": stamp(midnight(bill.start)), "to": stamp(midnight(bill.end)), "account": wanted.account}
        inputs = [
            Because(
                name="billed",
                value=bill.energy_kwh,
                unit="kWh",
                kind=InputKind.BILL,
                id=bill.number,
                source=f"bill of {bill.start} to {bill.end}, issued on {bill.issued_on}, {bill.amount_cny} CNY",
            ),
            Because(
                name="metered",
                value=found.metered_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.account,
                source="energy of the account's circuits",
                question={"figure": Figure.METERED.value, **days},
            ),
        ]
        return why(
            wanted,
            value=found.difference_kwh,
            unit="kWh",
            rule=Rule.DIFFERENCE,
            inputs=inputs,
            marks=[found.verdict.value],
            quality=Quality(
                interval_completeness=None,
                usable_share=found.completeness,
                estimated_share=0.0,
                from_parts_share=0.0,
                provisional=False,
            ),
        )

    async def metered(self, who: Principal, wanted: Wanted) -> Why:
        """Return what an account's meters say of a span as the sum of the lines of its daily cost."""
        start, end = wanted.span
        found = await self._costs.cost(who, _payer(wanted), start=start, end=end, daily=True)
        daily = replace(wanted, daily=True)
        inputs = [
            Because(
                name=f"{line.period}",
                value=line.energy_kwh,
                unit="kWh",
                kind=InputKind.FIGURE,
                id="" if supply.account is None else supply.account.account_number,
                question=_of_line(Figure.BAND_ENERGY, daily, number),
            )
            for number, (supply, line) in enumerate(found.lines)
        ]
        value = total([line.energy_kwh for _, line in found.lines]) if found.lines else None
        return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs)


def _usable(found: NodeCost) -> Quality:
    return Quality(
        interval_completeness=None,
        usable_share=found.interval_completeness,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )


def _payer(wanted: Wanted) -> Node | str:
    return wanted.account if wanted.account is not None else wanted.place


def _of_line(figure: Figure, wanted: Wanted, number: int) -> dict[str, str]:
    start, end = wanted.span
    step = "day" if wanted.daily else "month"
    return dict(question(figure, wanted.node, start, end, account=wanted.account, step=step, line=number))
