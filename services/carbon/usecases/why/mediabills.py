"""Traces of bills of other media: what was billed, less what the meters of the account's place say."""

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from services.carbon.domain.mediabills import BilledUnit, MediumBill
from services.carbon.domain.money import decimal_of
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why
from services.carbon.usecases.costs import midnight
from services.carbon.usecases.media import point_of
from services.carbon.usecases.mediabills import MediumBills, MeteredBill
from services.carbon.usecases.why.asked import Figure, Wanted, question, why


class MediumBillWhys:
    """Traces of what ``usecases/mediabills.py`` answers; the medium is that of the register ``point``."""

    def __init__(self, bills: MediumBills) -> None:
        self._bills = bills

    async def medium_bill(self, who: Principal, wanted: Wanted) -> Why:
        """Return by how much a bill is above its meters."""
        found, bill, _, unit = await self._found(who, wanted)
        inputs = [
            Because(
                name="billed",
                value=bill.quantity,
                unit=unit,
                kind=InputKind.BILL,
                id=bill.number,
                source=f"bill of {bill.start} to {bill.end}, issued on {bill.issued_on}, {bill.amount_cny} CNY",
            ),
            Because(
                name="metered",
                value=found.found.metered,
                unit=unit,
                kind=InputKind.FIGURE,
                id=bill.account_number,
                source="use of the account's circuit, or of its site",
                question=None if found.found.metered is None else _of_bill(Figure.MEDIUM_METERED, wanted, bill),
            ),
        ]
        return why(
            wanted,
            value=found.found.difference,
            unit=unit,
            rule=Rule.DIFFERENCE,
            inputs=inputs,
            marks=[found.found.verdict.value],
            quality=_usable(found),
        )

    async def medium_metered(self, who: Principal, wanted: Wanted) -> Why:
        """Return what was metered, in the unit of the bill: the use of the place times how many of it a unit is."""
        found, bill, billed, unit = await self._found(who, wanted)
        of = point_of(billed.point)
        use = None
        if found.place is not None and found.quantity is not None:
            use = question(Figure.MEDIUM, found.place, midnight(bill.start), midnight(bill.end), point=of.point)
        inputs = [
            Because(name="unit", value=billed.factor, unit=f"{unit}/{of.unit}", kind=InputKind.PARAMETER),
            Because(
                name="use",
                value=None if found.quantity is None else decimal_of(found.quantity),
                unit=of.unit,
                kind=InputKind.FIGURE,
                id="" if found.place is None else found.place.id,
                question=use,
            ),
        ]
        value = found.found.metered
        return why(wanted, value=value, unit=unit, rule=Rule.PRODUCT, inputs=inputs, quality=_usable(found))

    async def _found(self, who: Principal, wanted: Wanted) -> tuple[MeteredBill, MediumBill, BilledUnit, str]:
        account, number = wanted.text("account"), wanted.text("line")
        of = point_of(wanted.text("point"))
        first, last = (at.astimezone(CIVIL_ZONE).date() for at in wanted.span)
        rows = await self._bills.reconciliation(who, medium=of.medium, account_number=account, first=first, last=last)
        for one in rows:
            bill = one.found.bill
            unit = bill.billed_unit
            if bill.number == number and unit is not None and bill.unit is not None and unit.point == of.point:
                return one, bill, unit, bill.unit
        raise NotFound(
            f"line: account {account} has no bill {number} of {of.point} in the span",
            message_zh=f"line:户号 {account} 在该时段没有以 {of.point} 计量的账单 {number}",
        )


def _of_bill(figure: Figure, wanted: Wanted, bill: MediumBill) -> dict[str, str]:
    start, end = midnight(bill.start), midnight(bill.end)
    return dict(question(figure, None, start, end, account=bill.account_number, line=bill.number, point=wanted.point))


def _usable(found: MeteredBill) -> Quality:
    return Quality(
        interval_completeness=None,
        usable_share=found.found.completeness,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )
