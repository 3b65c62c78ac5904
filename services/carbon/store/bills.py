"""Electricity accounts and their bills; a correction is a version of its own, and the one before stays."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.accounts import Account
from services.carbon.domain.bills import Bill
from services.carbon.domain.tariff.basic import Mode, Transformer
from services.carbon.domain.tariff.periods import Band


async def lock_bills(conn: WriteConn) -> None:
    """Keep other changes of accounts and bills out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('carbon.bills', 77))")


async def fetch_accounts(
    conn: ReadConn | WriteConn, *, sites: Sequence[str] | None = None, account_number: str | None = None
) -> list[Account]:
    """Return what holds of each account from which day on, by number and day; None is any."""
    rows = await conn.fetch(
        """
        select distinct on (account_number, valid_from) account_number, valid_from, site_id, circuits, region,
               customer_class, voltage, transformers, contract_kw, basic_mode
          from billing_accounts
         where ($1::text[] is null or site_id = any($1)) and ($2::text is null or account_number = $2)
         order by account_number, valid_from, version desc
        """,
        None if sites is None else list(sites),
        account_number,
    )
    return [_account(row) for row in rows]


async def add_account(conn: WriteConn, one: Account, *, at: datetime, by: str) -> int:
    """Add a version of an account from a day on; return its number."""
    version: int = await conn.fetchval(
        """
        insert into billing_accounts (account_number, valid_from, version, site_id, circuits, region, customer_class,
                                      voltage, transformers, contract_kw, basic_mode, recorded_at, recorded_by)
        select $1, $2, 1 + coalesce((select max(version) from billing_accounts
                                      where account_number = $1 and valid_from = $2), 0),
               $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
        returning version
        """,
        one.account_number,
        one.valid_from,
        one.site_id,
        list(one.circuits),
        one.region,
        one.customer_class,
        one.voltage,
        [{"rated_kva": str(each.rated_kva), "sealed": each.sealed} for each in one.transformers],
        one.contract_kw,
        None if one.basic_mode is None else one.basic_mode.value,
        at,
        by,
    )
    return version


async def fetch_bills(
    conn: ReadConn | WriteConn, *, account_numbers: Sequence[str] | None, first: date, last: date, limit: int
) -> list[Bill]:
    """Return the bills that hold and cover some day of ``[first, last)``, by account and day; None is any account."""
    rows = await conn.fetch(
        """
        select account_number, number, first_day, end_day, energy_kwh, amount_cny, energy_by_band, parts_cny, issued_on
          from bills
         where current and ($1::text[] is null or account_number = any($1)) and first_day < $3 and end_day > $2
         order by account_number, first_day, number
         limit $4
        """,
        None if account_numbers is None else list(account_numbers),
        first,
        last,
        limit,
    )
    return [_bill(row) for row in rows]


async def fetch_bill_versions(
    conn: ReadConn | WriteConn, account_number: str, number: str
) -> list[tuple[int, Bill, datetime, str]]:
    """Return (version, bill, when and by whom it was recorded), oldest first."""
    rows = await conn.fetch(
        """
        select account_number, number, version, first_day, end_day, energy_kwh, amount_cny, energy_by_band, parts_cny,
               issued_on, recorded_at, recorded_by
          from bills where account_number = $1 and number = $2 order by version
        """,
        account_number,
        number,
    )
    return [(row["version"], _bill(row), row["recorded_at"], row["recorded_by"]) for row in rows]


async def add_bill(conn: WriteConn, bill: Bill, *, at: datetime, by: str) -> int:
    """Add a version of a bill, which holds from now on; return its number."""
    await conn.execute(
        "update bills set current = false where account_number = $1 and number = $2 and current",
        bill.account_number,
        bill.number,
    )
    version: int = await conn.fetchval(
        """
        insert into bills (account_number, number, version, current, first_day, end_day, energy_kwh, amount_cny,
                           energy_by_band, parts_cny, issued_on, recorded_at, recorded_by)
        select $1, $2, 1 + coalesce((select max(version) from bills where account_number = $1 and number = $2), 0),
               true, $3, $4, $5, $6, $7, $8, $9, $10, $11
        returning version
        """,
        bill.account_number,
        bill.number,
        bill.start,
        bill.end,
        bill.energy_kwh,
        bill.amount_cny,
        {band.value: str(energy) for band, energy in bill.energy_by_band.items()},
        {part: str(amount) for part, amount in bill.parts_cny.items()},
        bill.issued_on,
        at,
        by,
    )
    return version


def _account(row: Record) -> Account:
    return Account(
        account_number=row["account_number"],
        valid_from=row["valid_from"],
        site_id=row["site_id"],
        circuits=tuple(row["circuits"]),
        region=row["region"],
        customer_class=row["customer_class"],
        voltage=row["voltage"],
        transformers=tuple(Transformer(Decimal(one["rated_kva"]), one["sealed"]) for one in row["transformers"]),
        contract_kw=row["contract_kw"],
        basic_mode=None if row["basic_mode"] is None else Mode(row["basic_mode"]),
    )


def _bill(row: Record) -> Bill:
    return Bill(
        account_number=row["account_number"],
        number=row["number"],
        start=row["first_day"],
        end=row["end_day"],
        energy_kwh=row["energy_kwh"],
        amount_cny=row["amount_cny"],
        issued_on=row["issued_on"],
        energy_by_band={Band(band): Decimal(text) for band, text in row["energy_by_band"].items()},
        parts_cny={part: Decimal(text) for part, text in row["parts_cny"].items()},
    )
