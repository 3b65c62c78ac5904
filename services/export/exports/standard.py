"""Tables 1 to 6 of the data-access standard as rows, of what this platform knows.

One row is one item of one subject over one time, in the unit of its table. A run tells the items that are updated as
often as its periods are long, and the archives as they are when it is made:

    15m, 1h   table 2: load; table 5: voltage, current, active and reactive power, in files of an hour energy
    day       tables 2 and 6: energy; table 6: water, gas, cooling, heating
    month     table 1: emissions; table 2: energy and bills; table 3: water and its bills; table 4: cooling and heating
    year      table 4: bills of cooling and heating

Archives that others have sent (``domain/records.py``) are told as they are on file, the others out of the registry's
own fields. Not told, since nobody here knows them: generation, load rates of the utility's substations and lines. A
value that is not known has an empty value, never 0; so has a bill of other days than its row of the table is of.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import AwareDatetime, BaseModel

from libs.common.accessstandard import ITEMS, Item, ItemKind, Record, Update, WrongRecord, checked, item_of
from libs.common.clock import CIVIL_ZONE
from services.export.domain.exports import Column, ColumnKind, Period, Row, Span
from services.export.exports.asking import CALL_TIMEOUT_S, PAGE_ROWS, Asked, pages_of, read_as, text_of

COLUMNS = (
    Column("table", ColumnKind.COUNT, None, "表号"),
    Column("number", ColumnKind.COUNT, None, "序号"),
    Column("item", ColumnKind.TEXT, None, "数据项标识"),
    Column("item_zh", ColumnKind.TEXT, None, "数据项"),
    Column("subject", ColumnKind.TEXT, None, "对象(局站、电路或设备编号)"),
    Column("point", ColumnKind.TEXT, None, "测点"),
    Column("start", ColumnKind.TIME, None, "开始时间"),
    Column("end", ColumnKind.TIME, None, "结束时间"),
    Column("value", ColumnKind.NUMBER, None, "数值"),
    Column("text", ColumnKind.TEXT, None, "文本"),
    Column("unit", ColumnKind.TEXT, None, "单位"),
    Column("completeness", ColumnKind.NUMBER, "1", "数据完整率"),
    Column("note", ColumnKind.TEXT, None, "说明"),
)
USER_LEVELS = (2, 3)
"""Metering levels of table 6: what a customer meters itself (二/三级)."""
POINTS = {
    "voltage_v": ("voltage_a", "voltage_b", "voltage_c"),
    "current_a": ("current_a", "current_b", "current_c"),
    "active_power_kw": ("active_power_total",),
    "reactive_power_var": ("reactive_power_total",),
}
"""Which points of a meter are which item of table 5."""
POINT_UNITS = {"voltage_v": "V", "current_a": "A", "active_power_kw": "kW", "reactive_power_var": "kvar"}
MEDIA = {"water": "water_t", "gas": "gas_m3", "cold": "cooling_kwh", "heat": "heating_kwh"}
FEES = {"water_cost_cny": "water", "cooling_cost_cny": "cold", "heating_cost_cny": "heat"}
"""Which medium each fee beside that of electricity is of."""
STEPS = {Span.QUARTER_HOUR: "quarter_hour", Span.HOUR: "hour", Span.DAY: "day", Span.MONTH: "month"}
UPDATES = {Span.DAY: Update.DAY, Span.MONTH: Update.MONTH, Span.YEAR: Update.YEAR}
QUARTER_H = 0.25


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the registry says of a site."""

    name: str
    address: str | None
    account_number: str | None
    organisation: str | None
    valid_from: datetime
    archive: Mapping[str, str] = field(default_factory=dict)
    """What others have on file of it and of its organisation, as the registry names it: ``t2_nature_of_use``."""


@dataclass(frozen=True, slots=True)
class CircuitFacts:
    """What the registry says of a circuit."""

    id: str
    name: str
    level: int
    path: str
    """Names from the site's feed down to it."""
    valid_from: datetime
    archive: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """The registry as these tables ask it."""

    def all_sites(self) -> Sequence[str]:
        """Return the ids of all sites, in order."""

    def devices_at(self, site_id: str) -> Sequence[str]:
        """Return the ids of a site's devices, in order."""

    def site(self, site_id: str) -> SiteFacts | None:
        """Return a site."""

    def circuits_at(self, site_id: str) -> Sequence[CircuitFacts]:
        """Return a site's circuits, in order."""


class _Used(BaseModel):
    start: AwareDatetime
    end: AwareDatetime
    quantity: float | None
    interval_completeness: float | None


class _Medium(BaseModel):
    medium: str
    unit: str
    periods: list[_Used]


class _Media(BaseModel):
    media: list[_Medium]


class _Energy(BaseModel):
    start: AwareDatetime
    end: AwareDatetime
    energy_kwh: float | None
    interval_completeness: float | None
    emission_kg_co2: float | None = None


class _Energies(BaseModel):
    periods: list[_Energy]


class _Bill(BaseModel):
    first_day: str
    last_day: str
    amount_cny: float


class _Bills(BaseModel):
    items: list[_Bill]


class _MediumBill(_Bill):
    account_number: str


class _MediumBills(BaseModel):
    items: list[_MediumBill]


class _Reading(BaseModel):
    source_time: AwareDatetime
    points: dict[str, float | None]
    quality: dict[str, str] = {}


class _Readings(BaseModel):
    items: list[_Reading]


class StandardTables:
    """Rows of the tables."""

    def __init__(self, *, carbon: Asked, ingest: Asked, registry: Registry) -> None:
        """Keep whom to ask."""
        self._carbon = carbon
        self._ingest = ingest
        self._registry = registry

    async def pages(self, table: int, span: Span, sites: Sequence[str], period: Period) -> AsyncIterator[Sequence[Row]]:
        """Return what a table says of sites (none: all) and a period of that length, site by site.

        Raises:
            PlatformError: Somebody is away (``Unavailable``) or refuses.
        """
        for site in sites or self._registry.all_sites():
            yield list(self._archive(table, site))
            async for page in self._measured(table, span, site, period):
                yield page

    def _archive(self, table: int, site: str) -> Iterable[Row]:
        facts = self._registry.site(site)
        if facts is None:
            return
        own: dict[str, str | None] = {
            "entity_name": facts.organisation,
            "account_number": facts.account_number if table == 2 else None,
            "user_name": facts.organisation or facts.name,
            "address": facts.address,
        }
        yield from _archived(table, site, facts.valid_from, facts.archive, own)
        if table == 6:
            for circuit in self._users(site):
                named: dict[str, str | None] = {"supply_path": circuit.path, "metering_point": circuit.name}
                yield from _archived(table, circuit.id, circuit.valid_from, circuit.archive, named)

    def _users(self, site: str) -> list[CircuitFacts]:
        return [one for one in self._registry.circuits_at(site) if one.level in USER_LEVELS]

    async def _measured(self, table: int, span: Span, site: str, period: Period) -> AsyncIterator[Sequence[Row]]:
        match table:
            case 1 if span is Span.MONTH:
                yield await self._emissions(site, period)
            case 2:
                yield await self._electricity(span, site, period)
                if span is Span.MONTH:
                    yield await self._bills(site, period)
            case 3 | 4:
                yield await self._media(table, "site", site, span, period)
                yield await self._fees(table, site, span, period)
            case 5 if span in (Span.QUARTER_HOUR, Span.HOUR):
                if span is Span.HOUR:
                    yield await self._energy(table, "energy_kwh", "site", site, "hour", period)
                for device in self._registry.devices_at(site):
                    async for page in self._readings(device, period):
                        yield page
            case 6 if span is Span.DAY:
                for circuit in self._users(site):
                    yield await self._energy(table, "energy_kwh", "circuit", circuit.id, "day", period)
                    yield await self._media(table, "circuit", circuit.id, span, period)

    async def _asked(self, path: str, kind: str, node: str, step: str, period: Period) -> Any:
        span = {"from": text_of(period.start), "to": text_of(period.end), "step": step}
        return await self._carbon.get(path, timeout_s=CALL_TIMEOUT_S, **{kind: node, **span})

    async def _emissions(self, site: str, period: Period) -> list[Row]:
        answer = await self._asked("/api/v1/emissions", "site", site, "month", period)
        found = []
        for one in read_as(_Energies, answer, "carbon").periods:
            record = (1, "emission_tco2e", site, one.start, one.end)
            found.append(_figure(record, one.emission_kg_co2, "kgCO2", one.interval_completeness))
        return found

    async def _electricity(self, span: Span, site: str, period: Period) -> list[Row]:
        if span in (Span.DAY, Span.MONTH):
            return await self._energy(2, "energy_kwh", "site", site, STEPS[span], period)
        answer = await self._asked("/api/v1/energy", "site", site, "quarter_hour", period)
        found = []
        for one in read_as(_Energies, answer, "carbon").periods:
            load_kw = None if one.energy_kwh is None else one.energy_kwh / QUARTER_H
            found.append(_figure((2, "load_kw", site, one.start, one.end), load_kw, "kW", one.interval_completeness))
        return found

    async def _energy(self, table: int, key: str, kind: str, node: str, step: str, period: Period) -> list[Row]:
        answer = await self._asked("/api/v1/energy", kind, node, step, period)
        return [
            _figure((table, key, node, one.start, one.end), one.energy_kwh, "kWh", one.interval_completeness)
            for one in read_as(_Energies, answer, "carbon").periods
        ]

    async def _bills(self, site: str, period: Period) -> list[Row]:
        facts = self._registry.site(site)
        if facts is None or facts.account_number is None:
            return []
        first, last = (at.astimezone(CIVIL_ZONE).date().isoformat() for at in (period.start, period.end))
        question = {"account": facts.account_number, "from": first, "to": last}
        answer = await self._carbon.get("/api/v1/bills", timeout_s=CALL_TIMEOUT_S, **question)
        return [_fee(2, "electricity_cost_cny", site, one) for one in read_as(_Bills, answer, "carbon").items]

    async def _fees(self, table: int, site: str, span: Span, period: Period) -> list[Row]:
        """Return the bills of a site's other media; of several accounts of one medium each by its own number."""
        first, last = (at.astimezone(CIVIL_ZONE).date().isoformat() for at in (period.start, period.end))
        found: list[Row] = []
        for key, medium in FEES.items():
            if not _has(table, key) or UPDATES.get(span) not in item_of(table, key).updates:
                continue
            question = {"medium": medium, "site": site, "from": first, "to": last}
            answer = await self._carbon.get("/api/v1/bills/media", timeout_s=CALL_TIMEOUT_S, **question)
            bills = read_as(_MediumBills, answer, "carbon").items
            is_one = len({one.account_number for one in bills}) == 1
            found += [_fee(table, key, site if is_one else one.account_number, one) for one in bills]
        return found

    async def _media(self, table: int, kind: str, node: str, span: Span, period: Period) -> list[Row]:
        update = UPDATES.get(span)
        wanted = {
            medium: key for medium, key in MEDIA.items()
            if _has(table, key) and update in item_of(table, key).updates
        }  # fmt: skip
        if not wanted or span not in STEPS:
            return []
        answer = await self._asked("/api/v1/energy/media", kind, node, STEPS[span], period)
        return [
            _figure((table, wanted[medium.medium], node, one.start, one.end), one.quantity, medium.unit,
                    one.interval_completeness)
            for medium in read_as(_Media, answer, "carbon").media if medium.medium in wanted
            for one in medium.periods
        ]  # fmt: skip

    async def _readings(self, device: str, period: Period) -> AsyncIterator[Sequence[Row]]:
        names = ",".join(point for points in POINTS.values() for point in points)
        question = {"device": device, "from": text_of(period.start), "to": text_of(period.end), "points": names}
        async for answer in pages_of(self._ingest, "/api/v1/readings", {**question, "limit": PAGE_ROWS}):
            yield [
                {**_figure((5, key, device, one.source_time, one.source_time), one.points[point], POINT_UNITS[key],
                           None), "point": point}
                for one in read_as(_Readings, answer, "ingest").items
                for key, points in POINTS.items() for point in points if point in one.points
            ]  # fmt: skip


def _archived(
    table: int, subject: str, since: datetime, archive: Mapping[str, str], own: Mapping[str, str | None]
) -> Iterable[Row]:
    """Return a table's archives of a subject: what is on file, else what a field of the registry says."""
    for item in (one for one in ITEMS.values() if one.table == table and one.is_archive):
        text = archive.get(f"t{table}_{item.key}") or own.get(item.key)
        if text:
            yield _row(Record(table, item.key, subject, since, None, _read_archive(item, text), item.unit))


def _read_archive(item: Item, text: str) -> float | str:
    """Return a text as its item wants it; a number that is none is refused by the table, with a note."""
    if item.kind is not ItemKind.NUMBER:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _has(table: int, key: str) -> bool:
    try:
        item_of(table, key)
    except WrongRecord:
        return False
    return True


def _fee(table: int, key: str, subject: str, bill: _Bill) -> Row:
    start = datetime.fromisoformat(bill.first_day).replace(tzinfo=CIVIL_ZONE)
    end = datetime.fromisoformat(bill.last_day).replace(tzinfo=CIVIL_ZONE) + timedelta(days=1)
    return _figure((table, key, subject, start, end), bill.amount_cny, "CNY", None)


def _figure(
    place: tuple[int, str, str, datetime, datetime], value: float | None, unit: str, completeness: float | None
) -> Row:
    record = Record(*place, value=0.0 if value is None else value, unit=unit)
    return _row(record, known=value is not None, completeness=completeness)


def _row(record: Record, *, known: bool = True, completeness: float | None = None) -> Row:
    """Return a record as a row in the unit of its table; what its row of the table refuses has a note, and no value."""
    item = item_of(record.table, record.key)
    note = None
    try:
        taken = checked(record)
    except WrongRecord as exc:
        taken, known, note = record, False, exc.message
    return {
        "table": item.table,
        "number": item.number,
        "item": item.key,
        "item_zh": item.name_zh,
        "subject": record.subject,
        "start": record.start,
        "end": record.end,
        **_shown(item, taken, known=known),
        "unit": item.unit,
        "completeness": completeness,
        "note": note,
    }


def _shown(item: Item, record: Record, *, known: bool) -> Row:
    if not known:
        return {}
    if item.kind is ItemKind.NUMBER and isinstance(record.value, int | float):
        return {"value": float(record.value)}
    return {"text": str(record.value)}
