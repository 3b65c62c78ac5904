"""HTTP of electricity accounts and bills: entered, imported, reconciled with the meters, accrued."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from libs.common.web import Cursor, Page, key_cursor, read_key_cursor
from services.carbon.api.common import Body, Exact, FileName, Reader, Text, Writer, file_body, file_of, request_id
from services.carbon.api.costs import RoundingChoice, UnknownReply, shown, unknown_reply
from services.carbon.billfile import OPTIONAL, REQUIRED, read_bills
from services.carbon.domain.accounts import Account
from services.carbon.domain.bills import Accrual, Bill, Verdict
from services.carbon.domain.money import Rounding, to_cents
from services.carbon.domain.tariff.basic import Mode, Transformer
from services.carbon.domain.tariff.periods import Band
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs, ReconciledBill

Number = Annotated[str, Path(max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Account_ = Annotated[str | None, Query(max_length=64, description="number of an electricity account")]
Site_ = Annotated[str | None, Query(max_length=64, description="id of a site")]
First = Annotated[CalendarDate, Query(alias="from", description="first civil day")]
Last = Annotated[CalendarDate, Query(alias="to", description="the civil day after the last")]


class TransformerBody(Body):
    """A transformer of the supply point."""

    rated_kva: Exact = Field(description="[kVA]")
    sealed: bool = Field(default=False, description="a standby that the utility has sealed")


class AccountBody(Body):
    """What holds of an account from a day on."""

    valid_from: CalendarDate
    site: Text = Field(description="id of the site that it supplies")
    circuits: Annotated[list[Text], Field(max_length=100)] = Field(
        default_factory=list, description="what its meter measures; empty: all feeds of the site that are left"
    )
    region: Text = Field(description="whose tariff and prices: CN-44")
    customer_class: Text
    voltage: Text = Field(description="as the price sheet prints it")
    transformers: Annotated[list[TransformerBody], Field(max_length=50)] = Field(default_factory=list)
    contract_kw: Exact | None = Field(default=None, description="the declared demand [kW]")
    basic_mode: Mode | None = Field(default=None, description="what its basic fee is counted by; null: single-part")


class BillBody(Body):
    """A bill as printed."""

    account_number: Text
    number: Text
    first_day: CalendarDate
    last_day: CalendarDate = Field(description="belongs to the bill")
    energy_kwh: Exact = Field(description="[kWh]; a field of another unit is refused")
    amount_cny: Exact = Field(description="all that is to be paid, tax included [CNY]")
    issued_on: CalendarDate
    energy_by_band: dict[Band, Exact] = Field(default_factory=dict, description="adds up to energy_kwh [kWh]")
    parts_cny: dict[Text, Exact] = Field(
        default_factory=dict, max_length=30, description="energy, basic, power_factor …; add up to amount_cny [CNY]"
    )


class AccountReply(BaseModel):
    """What holds of an account from a day on."""

    account_number: str
    valid_from: date
    site: str
    circuits: Sequence[str]
    region: str
    customer_class: str
    voltage: str
    transformers: Sequence[TransformerBody]
    capacity_kva: Decimal | None = Field(description="of the transformers that are not sealed; null: not known [kVA]")
    contract_kw: Decimal | None
    basic_mode: Mode | None


class AccountsReply(BaseModel):
    """Every state of every account."""

    items: Sequence[AccountReply]


class TakenReply(BaseModel):
    """How often it was entered."""

    version: int


class BillReply(BaseModel):
    """A bill as printed."""

    account_number: str
    number: str
    first_day: date
    last_day: date
    energy_kwh: Decimal
    amount_cny: Decimal
    issued_on: date
    energy_by_band: dict[Band, Decimal]
    parts_cny: dict[str, Decimal]


class BillsReply(BaseModel):
    """Bills by account and day."""

    items: Sequence[BillReply]


class BillVersionReply(BillReply):
    """One version of a bill."""

    version: int
    recorded_at: datetime
    recorded_by: str


class BillVersionsReply(BaseModel):
    """The versions of a bill, oldest first."""

    items: Sequence[BillVersionReply]


class ImportedReply(BaseModel):
    """What an import took."""

    bills: int
    corrected: int = Field(description="how many of them are a version of a bill that was there")


class ReconciliationReply(BaseModel):
    """A bill beside its meters."""

    bill: BillReply
    metered_kwh: Decimal | None = Field(description="what is known of it; null: nothing [kWh]")
    metered_by_band: dict[str, Decimal] = Field(description="the same by band; `unknown` where no tariff is in force")
    interval_completeness: float = Field(description="share of the cycle's intervals that are known, 0 to 1")
    difference_kwh: Decimal | None = Field(description="billed minus metered [kWh]")
    difference_share: float | None = Field(description="of the billed energy")
    expected_cny: Decimal | None = Field(description="the energy by tariff and price; null: unknown [CNY]")
    verdict: Verdict
    unknown: Sequence[UnknownReply]


class ReconciliationsReply(BaseModel):
    """Bills beside their meters."""

    items: Sequence[ReconciliationReply]


class AccrualReply(BaseModel):
    """What one account used in one civil month, billed and not billed yet."""

    account_number: str
    month: str
    metered_kwh: Decimal | None
    billed_kwh: Decimal = Field(description="this month's part of what bills say [kWh]")
    billed_cny: Decimal = Field(description="the same of what they ask for [CNY]")
    open_days: int = Field(description="days that no bill covers")
    open_kwh: Decimal | None = Field(description="metered on them; null: unknown [kWh]")
    open_cny: Decimal | None = Field(description="the amount to accrue; null: unknown, which is not zero [CNY]")
    open_completeness: float | None
    age_days: int = Field(description="from the oldest open day to the day of asking")
    crosses_year: bool = Field(description="days of an earlier year are open, or were billed in a later one")


def add_bill_routes(router: APIRouter, bills: Bills, costs: Costs) -> None:
    """Add the routes."""

    @router.get("/bills/accounts", tags=["bills"], summary="Electricity accounts, and what holds of them from when on")
    async def list_accounts(who: Reader, site: Site_ = None) -> AccountsReply:
        return AccountsReply(items=[_account(one) for one in await bills.accounts(who, site=site)])

    @router.put("/bills/accounts/{number}", tags=["bills"], summary="Enter what holds of an account from a day on")
    async def put_account(number: Number, body: AccountBody, request: Request, who: Writer) -> TakenReply:
        wanted = Account(
            account_number=number,
            valid_from=body.valid_from,
            site_id=body.site,
            circuits=tuple(dict.fromkeys(body.circuits)),
            region=body.region,
            customer_class=body.customer_class,
            voltage=body.voltage,
            transformers=tuple(Transformer(one.rated_kva, one.sealed) for one in body.transformers),
            contract_kw=body.contract_kw,
            basic_mode=body.basic_mode,
        )
        return TakenReply(version=await bills.put_account(wanted, who, request_id=request_id(request)))

    @router.get("/bills", tags=["bills"], summary="Bills, by account and day")
    async def list_bills(
        who: Reader,
        account: Account_ = None,
        first: Annotated[CalendarDate | None, Query(alias="from")] = None,
        last: Annotated[CalendarDate | None, Query(alias="to", description="not included")] = None,
    ) -> BillsReply:
        found = await bills.bills(who, account_number=account, first=first, last=last)
        return BillsReply(items=[BillReply(**_bill(one)) for one in found])

    @router.post("/bills", tags=["bills"], summary="Enter a bill; one of the same number is corrected")
    async def enter_bill(body: BillBody, request: Request, who: Writer) -> TakenReply:
        bill = Bill(
            number=body.number,
            account_number=body.account_number,
            start=body.first_day,
            end=body.last_day + timedelta(days=1),
            energy_kwh=body.energy_kwh,
            amount_cny=body.amount_cny,
            issued_on=body.issued_on,
            energy_by_band=body.energy_by_band,
            parts_cny=body.parts_cny,
        )
        return TakenReply(version=await bills.take(bill, who, request_id=request_id(request)))

    @router.post(
        "/bills/imports",
        tags=["bills"],
        summary="Import bills from a file, all of them or none",
        openapi_extra=file_body(f"bills, with columns {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)},"),
    )
    async def import_bills(request: Request, who: Writer, file: FileName = "upload") -> ImportedReply:
        taken = await bills.take_all(
            read_bills(await file_of(request), file), who, source=file, request_id=request_id(request)
        )
        return ImportedReply(bills=len(taken), corrected=sum(version > 1 for version in taken))

    @router.get("/bills/reconciliation", tags=["bills"], summary="The bills of an account beside its meters")
    async def reconcile_bills(
        who: Reader,
        account: Annotated[str, Query(max_length=64)],
        first: First,
        last: Last,
        rounding: RoundingChoice = Rounding.HALF_UP,
    ) -> ReconciliationsReply:
        found = await costs.reconciliation(who, account=account, first=first, last=last)
        return ReconciliationsReply(items=[_reconciliation(one, rounding) for one in found])

    @router.get(
        "/bills/accruals", tags=["bills"], summary="What was used and is not billed yet, by account and civil month"
    )
    async def list_accruals(
        who: Reader,
        first: First,
        asked_on: Annotated[
            CalendarDate | None, Query(alias="to", description="the day of asking, not included; absent: today")
        ] = None,
        account: Account_ = None,
        site: Site_ = None,
        rounding: RoundingChoice = Rounding.HALF_UP,
        cursor: Cursor = None,
    ) -> Page[AccrualReply]:
        rows, after = await costs.accruals(
            who, account=account, site=site, first=first, asked_on=asked_on, after=read_key_cursor(cursor) or ""
        )
        return Page(
            items=[_accrual(one, rounding) for one in rows], next_cursor=None if after is None else key_cursor(after)
        )

    @router.get("/bills/{account}/{number}", tags=["bills"], summary="The versions of a bill")
    async def get_bill(account: Number, number: Number, who: Reader) -> BillVersionsReply:
        return BillVersionsReply(
            items=[
                BillVersionReply(
                    **_bill(one.bill), version=one.version, recorded_at=one.recorded_at, recorded_by=one.recorded_by
                )
                for one in await bills.versions(who, account, number)
            ]
        )


def _account(one: Account) -> AccountReply:
    return AccountReply(
        account_number=one.account_number,
        valid_from=one.valid_from,
        site=one.site_id,
        circuits=one.circuits,
        region=one.region,
        customer_class=one.customer_class,
        voltage=one.voltage,
        transformers=[TransformerBody(rated_kva=each.rated_kva, sealed=each.sealed) for each in one.transformers],
        capacity_kva=one.capacity_kva,
        contract_kw=one.contract_kw,
        basic_mode=one.basic_mode,
    )


def _bill(one: Bill) -> dict[str, Any]:
    return {
        "account_number": one.account_number,
        "number": one.number,
        "first_day": one.start,
        "last_day": one.end - timedelta(days=1),
        "energy_kwh": one.energy_kwh,
        "amount_cny": one.amount_cny,
        "issued_on": one.issued_on,
        "energy_by_band": dict(one.energy_by_band),
        "parts_cny": dict(one.parts_cny),
    }


def _reconciliation(one: ReconciledBill, rounding: Rounding) -> ReconciliationReply:
    found = one.found
    return ReconciliationReply(
        bill=BillReply(**_bill(found.bill)),
        metered_kwh=found.metered_kwh,
        metered_by_band=one.metered_by_band,
        interval_completeness=found.completeness,
        difference_kwh=found.difference_kwh,
        difference_share=found.difference_share,
        expected_cny=shown(found.expected_cny, rounding),
        verdict=found.verdict,
        unknown=[unknown_reply(each) for each in one.unknown],
    )


def _accrual(one: Accrual, rounding: Rounding) -> AccrualReply:
    return AccrualReply(
        account_number=one.account_number,
        month=f"{one.month:%Y-%m}",
        metered_kwh=one.metered_kwh,
        billed_kwh=one.billed_kwh,
        billed_cny=to_cents(one.billed_cny, rounding),
        open_days=one.open_days,
        open_kwh=one.open_kwh,
        open_cny=shown(one.open_cny, rounding),
        open_completeness=one.open_completeness,
        age_days=one.age_days,
        crosses_year=one.crosses_year,
    )
