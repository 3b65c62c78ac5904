"""Tariffs that people entered, special days, and prices by month; everything is added, nothing is changed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.tariff.basic import BasicPrices
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.periods import Band, TariffRow
from services.carbon.domain.tariff.sheet import SheetPrice, SpecialDays


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a tariff that a person entered; the highest revision of each holds."""

    tariff_id: str
    revision: int
    rows: tuple[TariffRow, ...]
    recorded_at: datetime
    recorded_by: str


async def lock_tariffs(conn: WriteConn) -> None:
    """Keep other changes of tariffs, special days and prices out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('carbon.tariffs', 77))")


async def fetch_revisions(conn: ReadConn | WriteConn) -> dict[str, Revision]:
    """Return the revision that holds of every tariff that somebody entered."""
    rows = await conn.fetch(
        """
        select tariff_id, revision, region, customer_class, valid_from, valid_to, months, day_type, start_min, end_min,
               band, ratio, ratio_base, source, confidence, recorded_at, recorded_by
          from tariff_windows w
         where revision = (select max(revision) from tariff_windows m where m.tariff_id = w.tariff_id)
         order by tariff_id, row_no
        """
    )
    grouped: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        grouped[row["tariff_id"]].append(row)
    return {
        tariff_id: Revision(
            tariff_id,
            mine[0]["revision"],
            tuple(_row(one) for one in mine),
            mine[0]["recorded_at"],
            mine[0]["recorded_by"],
        )
        for tariff_id, mine in grouped.items()
    }


async def add_revision(conn: WriteConn, revision: Revision) -> None:
    """Add a state of a tariff."""
    rows = revision.rows
    await conn.execute(
        """
        insert into tariff_windows (tariff_id, revision, row_no, region, customer_class, valid_from, valid_to, months,
                                    day_type, start_min, end_min, band, ratio, ratio_base, source, confidence,
                                    recorded_at, recorded_by)
        select $1, $2, row_no, region, customer_class, valid_from, valid_to, string_to_array(months, ';')::smallint[],
               day_type, start_min, end_min, band, ratio, ratio_base, source, confidence, $16, $17
          from unnest($3::text[], $4::text[], $5::date[], $6::date[], $7::text[], $8::text[], $9::smallint[],
                      $10::smallint[], $11::text[], $12::numeric[], $13::text[], $14::text[], $15::text[])
               with ordinality
            as n(region, customer_class, valid_from, valid_to, months, day_type, start_min, end_min, band, ratio,
                 ratio_base, source, confidence, row_no)
        """,
        revision.tariff_id,
        revision.revision,
        [one.region for one in rows],
        [one.customer_class for one in rows],
        [one.valid_from for one in rows],
        [one.valid_to for one in rows],
        [";".join(map(str, sorted(one.months))) for one in rows],
        [one.day_type for one in rows],
        [one.start_min for one in rows],
        [one.end_min for one in rows],
        [one.band.value for one in rows],
        [one.ratio for one in rows],
        [one.ratio_base for one in rows],
        [one.source for one in rows],
        [one.confidence for one in rows],
        revision.recorded_at,
        revision.recorded_by,
    )


async def fetch_special_days(conn: ReadConn | WriteConn) -> list[SpecialDays]:
    """Return the lists of special days that hold."""
    rows = await conn.fetch(
        """
        select distinct on (region, day_type, year) region, day_type, year, version, days, known_until, source
          from special_day_lists order by region, day_type, year, version desc
        """
    )
    return [
        SpecialDays(
            region=row["region"],
            day_type=row["day_type"],
            year=row["year"],
            version=row["version"],
            days=frozenset(row["days"]),
            known_until=row["known_until"],
            source=row["source"],
        )
        for row in rows
    ]


async def add_special_days(conn: WriteConn, one: SpecialDays, *, at: datetime, by: str) -> None:
    """Add a version of a year's list."""
    await conn.execute(
        """
        insert into special_day_lists (region, day_type, year, version, days, known_until, source, recorded_at,
                                       recorded_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        one.region,
        one.day_type,
        one.year,
        one.version,
        sorted(one.days),
        one.known_until,
        one.source,
        at,
        by,
    )


async def fetch_prices(
    conn: ReadConn | WriteConn,
    *,
    region: str | None = None,
    customer_class: str | None = None,
    voltage: str | None = None,
    first: date,
    last: date,
    versions: bool = False,
    limit: int = 1_000_000,
) -> list[SheetPrice]:
    """Return the prices of the months that begin in ``[first, last)``, by place and month; None is any.

    Args:
        conn: A connection.
        region: Of this region.
        customer_class: Of this class.
        voltage: Of this voltage.
        first: The first day looked at.
        last: The day after the last.
        versions: Every version of each, oldest first, instead of the one that holds.
        limit: Of the rows.
    """
    rows = await conn.fetch(
        """
        select region, customer_class, voltage, month, version, base_cny_per_kwh, fixed_cny_per_kwh, basic_prices,
               source, recorded_at
          from energy_prices p
         where ($1::text is null or region = $1) and ($2::text is null or customer_class = $2)
           and ($3::text is null or voltage = $3) and month >= $4 and month < $5
           and ($6 or not exists (
               select from energy_prices n
                where n.region = p.region and n.customer_class = p.customer_class and n.voltage = p.voltage
                  and n.month = p.month and n.version > p.version))
         order by region, customer_class, voltage, month, version
         limit $7
        """,
        region,
        customer_class,
        voltage,
        first,
        last,
        versions,
        limit,
    )
    return [_price(row) for row in rows]


async def add_prices(conn: WriteConn, prices: Sequence[SheetPrice], *, by: str) -> None:
    """Add versions of prices."""
    await conn.executemany(
        """
        insert into energy_prices (region, customer_class, voltage, month, version, base_cny_per_kwh, fixed_cny_per_kwh,
                                   basic_prices, source, recorded_at, recorded_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        [
            (
                one.energy.key.region,
                one.energy.key.customer_class,
                one.energy.key.voltage,
                one.energy.key.month,
                one.energy.version,
                one.energy.base_cny_per_kwh,
                one.energy.fixed_cny_per_kwh,
                None if one.basic is None else _basic_json(one.basic),
                one.energy.source,
                one.energy.recorded_at,
                by,
            )
            for one in prices
        ],
    )


def _row(row: Record) -> TariffRow:
    return TariffRow(
        line=None,
        tariff_id=row["tariff_id"],
        region=row["region"],
        customer_class=row["customer_class"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        months=frozenset(row["months"]),
        day_type=row["day_type"],
        start_min=row["start_min"],
        end_min=row["end_min"],
        band=Band(row["band"]),
        ratio=row["ratio"],
        ratio_base=row["ratio_base"],
        source=row["source"],
        confidence=row["confidence"],
    )


def _price(row: Record) -> SheetPrice:
    basic = row["basic_prices"]
    return SheetPrice(
        energy=EnergyPrice(
            key=PriceKey(row["region"], row["customer_class"], row["voltage"], row["month"]),
            version=row["version"],
            base_cny_per_kwh=row["base_cny_per_kwh"],
            fixed_cny_per_kwh=row["fixed_cny_per_kwh"],
            source=row["source"],
            recorded_at=row["recorded_at"],
        ),
        basic=None if basic is None else _basic(basic),
    )


def _basic(stored: Mapping[str, str | None]) -> BasicPrices:
    values: dict[str, Any] = {name: None if text is None else Decimal(text) for name, text in stored.items()}
    return BasicPrices(**values)


def _basic_json(basic: BasicPrices) -> dict[str, str | None]:
    """Return the prices with decimals as texts, which JSON carries exactly."""
    values = {name: getattr(basic, name) for name in BasicPrices.__dataclass_fields__}
    return {name: None if value is None else str(value) for name, value in values.items()}
