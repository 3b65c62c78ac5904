"""HTTP of tariffs, special days and prices: what holds, what people enter and import."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from libs.common.errors import InvalidFile, InvalidInput, Problem
from services.carbon.api.common import CSV, Body, Exact, FileName, Reader, Text, Writer, file_body, file_of, request_id
from services.carbon.domain.tariff.basic import BasicPrices
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.periods import Band, TariffRow, clock, is_trusted
from services.carbon.domain.tariff.sheet import NOT_RECORDED, SheetPrice, SpecialDays
from services.carbon.pricefile import OPTIONAL, REQUIRED, UNIT, month_of, read_prices
from services.carbon.tablefile import MAX_FILE_ROWS
from services.carbon.tariff_file import COLUMNS, minute, read_tariff_rows, write_tariff_rows
from services.carbon.usecases.tariffs import StoredTariff, Tariffs

TariffId = Annotated[str, Path(max_length=64, description="id of the tariff")]
FIRST, LAST = date(1990, 1, 1), date(2200, 1, 1)


class WindowBody(Body):
    """A window of the day in some months, on all days or those of one kind."""

    region: Text = Field(description="CN-44: country and province (GB/T 2260)")
    customer_class: Text
    valid_from: CalendarDate
    valid_to: CalendarDate | None = Field(default=None, description="the last day, included; absent while it is open")
    months: Annotated[list[Annotated[int, Field(ge=1, le=12)]], Field(min_length=1, max_length=12)]
    day_type: Text = Field(default="all", description="all, or the kind of special day: holiday, hot_day …")
    start: str = Field(pattern=r"^\d\d:\d\d$", description="HH:MM, civil time")
    end: str = Field(pattern=r"^\d\d:\d\d$", description="HH:MM, not included; 24:00 is the next midnight")
    band: Band
    price_ratio: Exact = Field(ge=0, description="of the part of the price that floats [1]")
    ratio_base: Text = Field(default="energy_purchase_price", description="which part of the price floats")
    source: Text = Field(description="the notice")
    confidence: Text = Field(default="verified-1src", description="how it was checked; what is from memory is not used")


class TariffBody(Body):
    """A whole tariff."""

    windows: Annotated[list[WindowBody], Field(min_length=1, max_length=MAX_FILE_ROWS)]
    end_previous: bool = Field(default=False, description="end what the same customers pay by on the day before")
    reason: Text | None = None


class ConfirmBody(Body):
    """Why a tariff that was not checked may be counted with."""

    reason: Text


class SpecialDaysBody(Body):
    """All special days of one kind in a civil year, as far as they are known."""

    days: Annotated[list[CalendarDate], Field(max_length=366)]
    known_until: CalendarDate | None = Field(
        default=None, description="up to which day the list is complete, not included; absent: the whole year"
    )
    source: Text = Field(description="the notice")


class BasicPricesBody(Body):
    """Prices and rules of the basic fee of one month."""

    capacity_cny_per_kva: Exact | None = Field(default=None, description="[CNY/(kVA month)]")
    demand_cny_per_kw: Exact | None = Field(default=None, description="[CNY/(kW month)]")
    contract_tolerance: Exact = Field(default=Decimal("1.05"), ge=1, le=2)
    surcharge_multiple: Exact = Field(default=Decimal(2), ge=0, le=10)
    contract_floor_share: Exact | None = Field(default=None, ge=0, le=1)
    discount_from_kwh_per_kva: Exact | None = Field(default=None, ge=0, le=1000)
    discount_multiple: Exact = Field(default=Decimal(1), ge=0, le=1)


class PriceBody(Body):
    """The price of one province, class, voltage and month: base * ratio of the band + fixed."""

    region: Text
    customer_class: Text
    voltage: Text = Field(description="as the price sheet prints it, for example 1-10kV")
    month: str = Field(pattern=r"^\d{4}-\d\d$", description="2026-03")
    base_cny_per_kwh: Exact = Field(description="the part that floats with the band [CNY/kWh]")
    fixed_cny_per_kwh: Exact = Field(description="the part that does not [CNY/kWh]")
    unit: Literal["CNY/kWh"] = Field(default="CNY/kWh", description="of both parts; any other is refused")
    basic: BasicPricesBody | None = None
    source: Text


class PricesBody(Body):
    """Some prices."""

    prices: Annotated[list[PriceBody], Field(min_length=1, max_length=1000)]


class TariffReply(BaseModel):
    """A tariff as it holds."""

    tariff_id: str
    revision: int = Field(description="0 for what ships")
    regions: Sequence[str]
    customer_classes: Sequence[str]
    valid_from: date
    valid_to: date | None = Field(description="the last day; null while it is open")
    windows: int
    sources: Sequence[str]
    confidence: Sequence[str]
    counted_with: bool = Field(description="whether costs are counted with it; confirm it, or enter it checked")
    entered_by: str | None = Field(description="null for what ships")


class WindowReply(BaseModel):
    """One window."""

    region: str
    customer_class: str
    valid_from: date
    valid_to: date | None
    months: Sequence[int]
    day_type: str
    start: str
    end: str
    band: Band
    price_ratio: Decimal
    ratio_base: str
    source: str
    confidence: str


class TariffDetailReply(TariffReply):
    """A tariff with its windows."""

    rows: Sequence[WindowReply]


class TariffsReply(BaseModel):
    """Every tariff."""

    items: Sequence[TariffReply]


class SpecialDaysReply(BaseModel):
    """A year's list of special days."""

    region: str
    day_type: str
    year: int
    version: int
    days: Sequence[date]
    known_until: date
    source: str


class SpecialDaysListReply(BaseModel):
    """Every list that holds."""

    items: Sequence[SpecialDaysReply]


class PriceReply(BaseModel):
    """One version of a price."""

    region: str
    customer_class: str
    voltage: str
    month: str
    version: int
    base_cny_per_kwh: Decimal
    fixed_cny_per_kwh: Decimal
    unit: str = UNIT
    basic: BasicPricesBody | None
    source: str
    recorded_at: datetime


class PricesReply(BaseModel):
    """Prices by place and month."""

    items: Sequence[PriceReply]


class TakenPricesReply(PricesReply):
    """What an entry or import added; what was known already is not among it."""

    unchanged: int


def add_tariff_routes(router: APIRouter, tariffs: Tariffs) -> None:
    """Add the routes."""

    @router.get("/tariffs", tags=["tariffs"], summary="The tariffs that hold: shipped, and entered by people")
    async def list_tariffs(
        _: Reader, region: Annotated[str | None, Query(max_length=20, description="CN-44")] = None
    ) -> TariffsReply:
        return TariffsReply(
            items=[
                reply for reply in map(_tariff, await tariffs.tariffs()) if region is None or region in reply.regions
            ]
        )

    @router.get("/tariffs/prices", tags=["tariffs"], summary="Prices by province, class, voltage and month")
    async def list_prices(
        _: Reader,
        region: Annotated[str | None, Query(max_length=20)] = None,
        customer_class: Annotated[str | None, Query(max_length=200)] = None,
        voltage: Annotated[str | None, Query(max_length=200)] = None,
        first: Annotated[CalendarDate | None, Query(alias="from", description="months that begin on it or later")] = (
            None
        ),
        last: Annotated[CalendarDate | None, Query(alias="to", description="… and before it")] = None,
        versions: Annotated[bool, Query(description="every version instead of the one that holds")] = False,
    ) -> PricesReply:
        found = await tariffs.prices(
            region=region, customer_class=customer_class, voltage=voltage, first=first or FIRST, last=last or LAST,
            versions=versions,
        )  # fmt: skip
        return PricesReply(items=[_price(one) for one in found])

    @router.post("/tariffs/prices", tags=["tariffs"], summary="Enter prices; a corrected one is a version of its own")
    async def enter_prices(body: PricesBody, request: Request, who: Writer) -> TakenPricesReply:
        wanted = [_wanted(one) for one in body.prices]
        new = await tariffs.take_prices(wanted, who, source="api", request_id=request_id(request))
        return TakenPricesReply(items=[_price(one) for one in new], unchanged=len(wanted) - len(new))

    @router.post(
        "/tariffs/prices/imports",
        tags=["tariffs"],
        summary="Import prices from a file, all of it or nothing",
        openapi_extra=file_body(f"prices, with columns {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)},"),
    )
    async def import_prices(request: Request, who: Writer, file: FileName = "upload") -> TakenPricesReply:
        wanted = read_prices(await file_of(request), file)
        new = await tariffs.take_prices(wanted, who, source=file, request_id=request_id(request))
        return TakenPricesReply(items=[_price(one) for one in new], unchanged=len(wanted) - len(new))

    @router.get(
        "/tariffs/special-days", tags=["tariffs"], summary="Which days are holidays, hot days …, and until when"
    )
    async def list_special_days(_: Reader) -> SpecialDaysListReply:
        return SpecialDaysListReply(items=[_days(one) for one in await tariffs.special_days()])

    @router.put(
        "/tariffs/special-days/{region}/{day_type}/{year}",
        tags=["tariffs"],
        summary="Enter the special days of a year; the list before is corrected",
    )
    async def put_special_days(
        region: Annotated[str, Path(max_length=20, description="CN-44, or CN for every region")],
        day_type: Annotated[str, Path(max_length=40)],
        year: Annotated[int, Path(ge=1990, le=2199)],
        body: SpecialDaysBody,
        request: Request,
        who: Writer,
    ) -> SpecialDaysReply:
        wanted = SpecialDays(
            region=region,
            day_type=day_type,
            year=year,
            version=1,
            days=frozenset(body.days),
            known_until=body.known_until or date(year + 1, 1, 1),
            source=body.source,
        )
        return _days(await tariffs.put_special_days(wanted, who, request_id=request_id(request)))

    @router.post(
        "/tariffs/imports",
        tags=["tariffs"],
        summary="Import tariffs from a file, all of it or nothing; each tariff in it is taken whole",
        openapi_extra=file_body(f"tariffs, with columns {', '.join(COLUMNS)},"),
    )
    async def import_tariffs(
        request: Request,
        who: Writer,
        file: FileName = "upload",
        end_previous: Annotated[
            bool, Query(description="end what the same customers pay by on the day before")
        ] = False,
        reason: Annotated[str | None, Query(max_length=200)] = None,
    ) -> TariffsReply:
        taken = await tariffs.take(
            read_tariff_rows(await file_of(request), file), who, source=file, end_previous=end_previous,
            reason=reason, request_id=request_id(request),
        )  # fmt: skip
        return TariffsReply(items=[_tariff(one) for one in taken])

    @router.get("/tariffs/{tariff_id}", tags=["tariffs"], summary="A tariff with its windows")
    async def get_tariff(tariff_id: TariffId, _: Reader) -> TariffDetailReply:
        found = await tariffs.tariff(tariff_id)
        return TariffDetailReply(**_tariff(found).model_dump(), rows=[_window(row) for row in found.rows])

    @router.get(
        "/tariffs/{tariff_id}/export",
        tags=["tariffs"],
        summary="A tariff as CSV, which can be imported again",
        response_class=Response,
        responses={200: {"content": {CSV: {}}, "description": "the tariff"}},
    )
    async def export_tariff(tariff_id: TariffId, _: Reader) -> Response:
        found = await tariffs.tariff(tariff_id)
        return Response(
            write_tariff_rows(found.rows),
            media_type=CSV,
            headers={"content-disposition": 'attachment; filename="tariff.csv"'},
        )

    @router.put("/tariffs/{tariff_id}", tags=["tariffs"], summary="Enter a tariff whole; the one before is kept")
    async def put_tariff(tariff_id: TariffId, body: TariffBody, request: Request, who: Writer) -> TariffsReply:
        rows = [_row(tariff_id, one, place) for place, one in enumerate(body.windows, start=1)]
        taken = await tariffs.take(
            rows, who, source=tariff_id, end_previous=body.end_previous, reason=body.reason,
            request_id=request_id(request),
        )  # fmt: skip
        return TariffsReply(items=[_tariff(one) for one in taken])

    @router.post(
        "/tariffs/{tariff_id}/confirm",
        tags=["tariffs"],
        summary="Count with a tariff that nobody has checked against its notice",
    )
    async def confirm_tariff(tariff_id: TariffId, body: ConfirmBody, request: Request, who: Writer) -> TariffReply:
        return _tariff(await tariffs.confirm(tariff_id, who, reason=body.reason, request_id=request_id(request)))


def _row(tariff_id: str, body: WindowBody, place: int) -> TariffRow:
    """Return a window; ``line`` counts the windows from 1, for messages.

    Raises:
        InvalidFile: A time of day is none.
    """
    times = []
    for name, text in (("start", body.start), ("end", body.end)):
        try:
            times.append(minute(text))
        except ValueError as exc:
            problem = Problem(
                line=place, field=name, expected="a time from 00:00 to 24:00", expected_zh="00:00 至 24:00 的时刻",
                found=text,
            )  # fmt: skip
            raise InvalidFile(tariff_id, [problem]) from exc
    return TariffRow(
        line=place,
        tariff_id=tariff_id,
        region=body.region,
        customer_class=body.customer_class,
        valid_from=body.valid_from,
        valid_to=body.valid_to,
        months=frozenset(body.months),
        day_type=body.day_type,
        start_min=times[0],
        end_min=times[1],
        band=body.band,
        ratio=body.price_ratio,
        ratio_base=body.ratio_base,
        source=body.source,
        confidence=body.confidence,
    )


def _wanted(body: PriceBody) -> SheetPrice:
    try:
        month = month_of(body.month)
    except ValueError as exc:
        raise InvalidInput(
            f"month: expected a month as 2026-03, found {body.month}",
            message_zh=f"month:应为月份,如 2026-03,实际为 {body.month}",
        ) from exc
    return SheetPrice(
        EnergyPrice(
            key=PriceKey(body.region, body.customer_class, body.voltage, month),
            version=1,
            base_cny_per_kwh=body.base_cny_per_kwh,
            fixed_cny_per_kwh=body.fixed_cny_per_kwh,
            source=body.source,
            recorded_at=NOT_RECORDED,
        ),
        None if body.basic is None else BasicPrices(**body.basic.model_dump()),
    )


def _tariff(one: StoredTariff) -> TariffReply:
    ends = [row.valid_to for row in one.rows]
    known = [end for end in ends if end is not None]
    confidence = sorted({row.confidence for row in one.rows})
    return TariffReply(
        tariff_id=one.tariff_id,
        revision=one.revision,
        regions=sorted({row.region for row in one.rows}),
        customer_classes=sorted({row.customer_class for row in one.rows}),
        valid_from=min(row.valid_from for row in one.rows),
        valid_to=max(known) if len(known) == len(ends) else None,
        windows=len(one.rows),
        sources=sorted({row.source for row in one.rows}),
        confidence=confidence,
        counted_with=all(is_trusted(text) for text in confidence),
        entered_by=one.recorded_by,
    )


def _window(row: TariffRow) -> WindowReply:
    return WindowReply(
        region=row.region,
        customer_class=row.customer_class,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
        months=sorted(row.months),
        day_type=row.day_type,
        start=clock(row.start_min),
        end=clock(row.end_min),
        band=row.band,
        price_ratio=row.ratio,
        ratio_base=row.ratio_base,
        source=row.source,
        confidence=row.confidence,
    )


def _days(one: SpecialDays) -> SpecialDaysReply:
    return SpecialDaysReply(
        region=one.region,
        day_type=one.day_type,
        year=one.year,
        version=one.version,
        days=sorted(one.days),
        known_until=one.known_until,
        source=one.source,
    )


def _price(one: SheetPrice) -> PriceReply:
    price, basic = one.energy, one.basic
    return PriceReply(
        region=price.key.region,
        customer_class=price.key.customer_class,
        voltage=price.key.voltage,
        month=f"{price.key.month:%Y-%m}",
        version=price.version,
        base_cny_per_kwh=price.base_cny_per_kwh,
        fixed_cny_per_kwh=price.fixed_cny_per_kwh,
        basic=None
        if basic is None
        else BasicPricesBody(**{name: getattr(basic, name) for name in BasicPricesBody.model_fields}),
        source=price.source,
        recorded_at=price.recorded_at,
    )
