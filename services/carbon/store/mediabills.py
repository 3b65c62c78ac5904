"""Accounts and bills of other media; a correction is a version of its own, and the one before stays."""

from collections.abc import Sequence
from datetime import date, datetime

from asyncpg import Record

from libs.common.contracts.carbon import Medium
from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.mediabills import MediumAccount, MediumBill


async def fetch_accounts(conn: ReadConn | WriteConn) -> list[MediumAccount]:
    """Return what holds of every account that was entered, by medium and number."""
    rows = await conn.fetch(
        """
        select distinct on (medium, account_number) medium, account_number, site_id, circuit_id
          from medium_accounts order by medium, account_number, version desc
        """
    )
    return [
        MediumAccount(
            medium=Medium(row["medium"]), account_number=row["account_number"], site_id=row["site_id"],
            circuit_id=row["circuit_id"],
        )
        for row in rows
    ]  # fmt: skip


async def add_account(conn: WriteConn, one: MediumAccount, *, at: datetime, by: str) -> int:
    """Add a version of an account; return its number."""
    version: int = await conn.fetchval(
        """
        insert into medium_accounts (medium, account_number, version, site_id, circuit_id, recorded_at, recorded_by)
        select $1, $2, 1 + coalesce((select max(version) from medium_accounts
                                      where medium = $1 and account_number = $2), 0),
               $3, $4, $5, $6
        returning version
        """,
        one.medium.value,
        one.account_number,
        one.site_id,
        one.circuit_id,
        at,
        by,
    )
    return version


async def fetch_bills(
    conn: ReadConn | WriteConn,
    *,
    medium: Medium | None,
    account_numbers: Sequence[str] | None,
    first: date,
    last: date,
    limit: int,
) -> list[MediumBill]:
    """Return the bills that hold and cover some day of ``[first, last)``, by medium, account and day; None is any."""
    rows = await conn.fetch(
        """
        select medium, account_number, number, first_day, end_day, quantity, unit, amount_cny, issued_on
          from medium_bills
         where current and ($1::text is null or medium = $1) and ($2::text[] is null or account_number = any($2))
           and first_day < $4 and end_day > $3
         order by medium, account_number, first_day, number
         limit $5
        """,
        None if medium is None else medium.value,
        None if account_numbers is None else list(account_numbers),
        first,
        last,
        limit,
    )
    return [_bill(row) for row in rows]


async def fetch_bill_versions(
    conn: ReadConn | WriteConn, medium: Medium, account_number: str, number: str
) -> list[tuple[int, MediumBill, datetime, str]]:
    """Return (version, bill, when and by whom it was recorded), oldest first."""
    rows = await conn.fetch(
        """
        select medium, account_number, number, version, first_day, end_day, quantity, unit, amount_cny, issued_on,
               recorded_at, recorded_by
          from medium_bills where medium = $1 and account_number = $2 and number = $3 order by version
        """,
        medium.value,
        account_number,
        number,
    )
    return [(row["version"], _bill(row), row["recorded_at"], row["recorded_by"]) for row in rows]


async def add_bill(conn: WriteConn, bill: MediumBill, *, at: datetime, by: str) -> int:
    """Add a version of a bill, which holds from now on; return its number."""
    await conn.execute(
        """
        update medium_bills set current = false
         where medium = $1 and account_number = $2 and number = $3 and current
        """,
        bill.medium.value,
        bill.account_number,
        bill.number,
    )
    version: int = await conn.fetchval(
        """
        insert into medium_bills (medium, account_number, number, version, current, first_day, end_day, quantity, unit,
                                  amount_cny, issued_on, recorded_at, recorded_by)
        select $1, $2, $3, 1 + coalesce((select max(version) from medium_bills
                                          where medium = $1 and account_number = $2 and number = $3), 0),
               true, $4, $5, $6, $7, $8, $9, $10, $11
        returning version
        """,
        bill.medium.value,
        bill.account_number,
        bill.number,
        bill.start,
        bill.end,
        bill.quantity,
        bill.unit,
        bill.amount_cny,
        bill.issued_on,
        at,
        by,
    )
    return version


def _bill(row: Record) -> MediumBill:
    return MediumBill(
        medium=Medium(row["medium"]),
        account_number=row["account_number"],
        number=row["number"],
        start=row["first_day"],
        end=row["end_day"],
        quantity=row["quantity"],
        unit=row["unit"],
        amount_cny=row["amount_cny"],
        issued_on=row["issued_on"],
    )
