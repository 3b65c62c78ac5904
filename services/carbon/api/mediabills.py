"""HTTP of accounts and bills of other media: entered, imported, corrected, beside the meters of their days.

They stand beside ``/bills``, whose bills are of electricity by promise: ``energy_kwh`` is always there.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from libs.common.contracts.carbon import Medium
from services.carbon.api.bills import First, ImportedReply, Last, Number, Site_, TakenReply
from services.carbon.api.common import Body, Exact, FileName, Reader, Text, Writer, file_body, file_of, request_id
from services.carbon.domain.bills import Verdict
from services.carbon.domain.mediabills import UNITS, MediumAccount, MediumBill
from services.carbon.mediabillfile import OPTIONAL, REQUIRED, read_medium_bills
from services.carbon.usecases.mediabills import MediumBills, MeteredBill

UNIT_WORDS = "; ".join(f"{medium}: {', '.join(units)}" for medium, units in UNITS.items())
AccountText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Medium_ = Annotated[Medium, Path(description="which of the media")]
OfMedium = Annotated[Medium | None, Query(description="only of this medium")]
Account_ = Annotated[str | None, Query(max_length=64, description="number of an account")]


class MediumAccountBody(Body):
    """What holds of an account of a medium."""

    site: Text = Field(description="id of the site that it supplies")
    circuit: Text | None = Field(
        default=None, description="what its meter is bound to; null: all that the site uses of the medium"
    )


class MediumBillBody(Body):
    """A bill of another medium as printed."""

    medium: Medium
    account_number: AccountText
    number: AccountText
    first_day: CalendarDate
    last_day: CalendarDate = Field(description="belongs to the bill")
    quantity: Exact | None = Field(default=None, description="null: the bill states none, as of heat by floor area")
    unit: Text | None = Field(default=None, description=f"of the quantity; {UNIT_WORDS}")
    amount_cny: Exact = Field(description="all that is to be paid, tax included; a credit is below 0 [CNY]")
    issued_on: CalendarDate


class MediumAccountReply(BaseModel):
    """What holds of an account of a medium."""

    medium: Medium
    account_number: str
    site: str
    circuit: str | None


class MediumAccountsReply(BaseModel):
    """Accounts by number."""

    items: Sequence[MediumAccountReply]


class MediumBillReply(BaseModel):
    """A bill of another medium as printed."""

    medium: Medium
    account_number: str
    number: str
    first_day: date
    last_day: date
    quantity: Decimal | None = Field(description="null: the bill states none [unit]")
    unit: str | None
    amount_cny: Decimal
    issued_on: date


class MediumBillsReply(BaseModel):
    """Bills by medium, account and day."""

    items: Sequence[MediumBillReply]


class MediumBillVersionReply(MediumBillReply):
    """One version of a bill."""

    version: int
    recorded_at: datetime
    recorded_by: str


class MediumBillVersionsReply(BaseModel):
    """The versions of a bill, oldest first."""

    items: Sequence[MediumBillVersionReply]


class MediumReconciliationReply(BaseModel):
    """A bill beside its meters."""

    bill: MediumBillReply
    point: str | None = Field(description="the register that counts the same; null: the bill states no quantity")
    place: str | None = Field(
        description="circuit or site whose use it is compared with; null: the site has several accounts of the medium "
        "and this one no circuit of its own"
    )
    metered_quantity: Decimal | None = Field(description="what is known of it; null: nothing [unit of the bill]")
    interval_completeness: float = Field(description="share of the days' intervals that are known, 0 to 1")
    difference: Decimal | None = Field(description="billed minus metered; null: unknown [unit of the bill]")
    difference_share: float | None = Field(description="of the billed quantity")
    verdict: Verdict


class MediumReconciliationsReply(BaseModel):
    """Bills beside their meters."""

    items: Sequence[MediumReconciliationReply]


def build_medium_bill_router(bills: MediumBills) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/bills/media", tags=["bills"])

    @router.get("", summary="Bills of water, gas, heat, cold, steam and fuel, by account and day")
    async def list_medium_bills(
        who: Reader,
        medium: OfMedium = None,
        account: Account_ = None,
        site: Site_ = None,
        first: Annotated[CalendarDate | None, Query(alias="from")] = None,
        last: Annotated[CalendarDate | None, Query(alias="to", description="not included")] = None,
    ) -> MediumBillsReply:
        found = await bills.bills(who, medium=medium, account_number=account, site=site, first=first, last=last)
        return MediumBillsReply(items=[MediumBillReply(**_bill(one)) for one in found])

    @router.post("", summary="Enter a bill of another medium; one of the same number is corrected")
    async def enter_medium_bill(body: MediumBillBody, request: Request, who: Writer) -> TakenReply:
        bill = MediumBill(
            medium=body.medium,
            account_number=body.account_number,
            number=body.number,
            start=body.first_day,
            end=body.last_day + timedelta(days=1),
            quantity=body.quantity,
            unit=body.unit,
            amount_cny=body.amount_cny,
            issued_on=body.issued_on,
        )
        return TakenReply(version=await bills.take(bill, who, request_id=request_id(request)))

    @router.post(
        "/imports",
        summary="Import bills of other media from a file, all of them or none",
        openapi_extra=file_body(f"bills, with columns {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)},"),
    )
    async def import_medium_bills(request: Request, who: Writer, file: FileName = "upload") -> ImportedReply:
        read = read_medium_bills(await file_of(request), file)
        taken = await bills.take_all(read, who, source=file, request_id=request_id(request))
        return ImportedReply(bills=len(taken), corrected=sum(version > 1 for version in taken))

    @router.get("/{medium}/accounts", summary="Accounts of a medium: entered ones, and those of sites' archives")
    async def list_medium_accounts(who: Reader, medium: Medium_, site: Site_ = None) -> MediumAccountsReply:
        return MediumAccountsReply(
            items=[
                MediumAccountReply(
                    medium=one.medium, account_number=one.account_number, site=one.site_id, circuit=one.circuit_id
                )
                for one in await bills.accounts(who, medium=medium, site=site)
            ]
        )

    @router.put("/{medium}/accounts/{number}", summary="Enter the site and circuit of an account of a medium")
    async def put_medium_account(
        medium: Medium_, number: Number, body: MediumAccountBody, request: Request, who: Writer
    ) -> TakenReply:
        wanted = MediumAccount(medium=medium, account_number=number, site_id=body.site, circuit_id=body.circuit)
        return TakenReply(version=await bills.put_account(wanted, who, request_id=request_id(request)))

    @router.get("/{medium}/reconciliation", summary="The bills of an account of a medium beside its meters")
    async def reconcile_medium_bills(
        who: Reader, medium: Medium_, account: Annotated[str, Query(max_length=64)], first: First, last: Last
    ) -> MediumReconciliationsReply:
        found = await bills.reconciliation(who, medium=medium, account_number=account, first=first, last=last)
        return MediumReconciliationsReply(items=[_reconciliation(one) for one in found])

    @router.get("/{medium}/{account}/{number}", summary="The versions of a bill of another medium")
    async def get_medium_bill(medium: Medium_, account: Number, number: Number, who: Reader) -> MediumBillVersionsReply:
        return MediumBillVersionsReply(
            items=[
                MediumBillVersionReply(
                    **_bill(one.bill), version=one.version, recorded_at=one.recorded_at, recorded_by=one.recorded_by
                )
                for one in await bills.versions(who, medium, account, number)
            ]
        )

    return router


def _bill(one: MediumBill) -> dict[str, Any]:
    return {
        "medium": one.medium,
        "account_number": one.account_number,
        "number": one.number,
        "first_day": one.start,
        "last_day": one.end - timedelta(days=1),
        "quantity": one.quantity,
        "unit": one.unit,
        "amount_cny": one.amount_cny,
        "issued_on": one.issued_on,
    }


def _reconciliation(one: MeteredBill) -> MediumReconciliationReply:
    found, unit = one.found, one.found.bill.billed_unit
    return MediumReconciliationReply(
        bill=MediumBillReply(**_bill(found.bill)),
        point=None if unit is None else unit.point,
        place=None if one.place is None else one.place.id,
        metered_quantity=found.metered,
        interval_completeness=found.completeness,
        difference=found.difference,
        difference_share=found.difference_share,
        verdict=found.verdict,
    )
