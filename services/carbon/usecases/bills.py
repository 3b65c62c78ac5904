"""Accounts and bills: who is supplied by what, and what was billed."""

from collections.abc import Awaitable, Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TypeVar

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidFile, InvalidInput, NotFound, PlatformError, Problem
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from services.carbon.domain.accounts import Account, check_circuits, holding
from services.carbon.domain.bills import Bill, UnknownAccount, accept_bill
from services.carbon.sites import Sites
from services.carbon.store import bills as store
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.ports import Audit, audit_event

B = TypeVar("B")
SiteOf = Callable[[str], str | None]
ALL_DAYS = (date(1990, 1, 1), date(2200, 1, 1))
MAX_BILLS = 5_000
"""Bills of one answer, and of the neighbours that a new one is compared with."""


@dataclass(frozen=True, slots=True)
class BillVersion:
    """One version of a bill."""

    version: int
    bill: Bill
    recorded_at: datetime
    recorded_by: str


class Bills:
    """Keeps accounts and bills."""

    def __init__(self, *, db: Database, sites: Sites, clock: Clock, audit: Audit) -> None:
        """Keep what is needed."""
        self.db = db
        self._sites = sites
        self._clock = clock
        self._audit = audit

    async def accounts(self, who: Principal, *, site: str | None = None) -> list[Account]:
        """Return every state of every account that somebody may see."""
        async with self.db.read() as conn:
            found = await store.fetch_accounts(conn, sites=None if site is None else [site])
        return [one for one in found if self._sites.may_see_site(who, one.site_id)]

    async def put_account(self, wanted: Account, who: Principal, *, request_id: str | None = None) -> int:
        """Take what holds of an account from a day on; return how often that was entered for this day.

        Raises:
            NotFound: There is no such site.
            InvalidInput: A circuit is no feed of the site.
            Conflict: The account belongs to another site.
            SharedCircuit: Another account is supplied by one of its circuits already.
            Forbidden: The site is not among those of the asker.
        """
        site = SiteId(wanted.site_id)
        self._sites.check(who, Node(NodeKind.SITE, site))
        now = self._clock.now()
        since = datetime.combine(wanted.valid_from, time(), CIVIL_ZONE)
        feeds = self._sites.feeds_of(site, min(since, now), now + timedelta(days=1))
        strange = sorted(set(wanted.circuits) - set(feeds))
        if strange:
            raise InvalidInput(
                f"circuits: expected feeds of site {site} ({', '.join(feeds)}), found {', '.join(strange)}",
                message_zh=f"circuits:应为局站 {site} 的进线回路({'、'.join(feeds)}),实际为 {'、'.join(strange)}",
            )
        async with self.db.write() as conn:
            await store.lock_bills(conn)
            neighbours = await store.fetch_accounts(conn, sites=[site])
            before = await store.fetch_accounts(conn, account_number=wanted.account_number)
            if any(one.site_id != wanted.site_id for one in before):
                raise Conflict(
                    f"account {wanted.account_number} belongs to another site",
                    message_zh=f"户号 {wanted.account_number} 属于其他局站",
                )
            others = [
                one
                for one in holding(neighbours, wanted.valid_from)
                if one.account_number != wanted.account_number and one.site_id == wanted.site_id
            ]
            check_circuits(wanted, others, feeds)
            version = await store.add_account(conn, wanted, at=now, by=who.actor)
            await self._audit(
                conn,
                audit_event(
                    who,
                    "account.enter",
                    f"account:{wanted.account_number}",
                    now,
                    after=_account(wanted),
                    request_id=request_id,
                    site_id=wanted.site_id,
                ),
            )
        return version

    async def bills(
        self, who: Principal, *, account_number: str | None, first: date | None, last: date | None
    ) -> list[Bill]:
        """Return the bills that hold and cover some day of ``[first, last)``, by account and day.

        Raises:
            InvalidInput: There are too many for one answer.
        """
        async with self.db.read() as conn:
            found = await store.fetch_bills(
                conn, account_numbers=None if account_number is None else [account_number], first=first or ALL_DAYS[0],
                last=last or ALL_DAYS[1], limit=MAX_BILLS + 1,
            )  # fmt: skip
            site_of = await self._lookup(conn)
        refuse_too_many(found)
        return [one for one in found if self._sites.may_see_site(who, site_of(one.account_number))]

    async def versions(self, who: Principal, account_number: str, number: str) -> list[BillVersion]:
        """Return the versions of a bill, oldest first.

        Raises:
            NotFound: There is none, or the asker may not see it.
        """
        async with self.db.read() as conn:
            rows = await store.fetch_bill_versions(conn, account_number, number)
            site_of = await self._lookup(conn)
        if not rows or not self._sites.may_see_site(who, site_of(account_number)):
            raise NotFound(
                f"there is no bill {number} of account {account_number}",
                message_zh=f"户号 {account_number} 没有账单 {number}",
            )
        return [BillVersion(*row) for row in rows]

    async def take(self, bill: Bill, who: Principal, *, request_id: str | None = None) -> int:
        """Take a bill; one of the same number corrects it. Return its version.

        Raises:
            UnknownAccount: No site has the account.
            OverlappingBill: Another bill of the account covers some of its days.
            Forbidden: The site is not among those of the asker.
        """
        async with self.db.write() as conn:
            await store.lock_bills(conn)
            site_of = await self._lookup(conn)
            return await self._add(conn, bill, who, site_of, request_id)

    async def take_all(
        self, bills: Sequence[tuple[int, Bill]], who: Principal, *, source: str, request_id: str | None = None
    ) -> list[int]:
        """Take the bills of a file, all of them or none; return their versions.

        Args:
            bills: Each with its line.
            who: Who imports them.
            source: The file's name, for messages.
            request_id: Of the request.

        Raises:
            InvalidFile: Some are refused; each is named with its line and the reason.
            Forbidden: A site is not among those of the asker.
        """
        async with self.db.write() as conn:
            await store.lock_bills(conn)
            site_of = await self._lookup(conn)
            return await add_each(bills, lambda bill: self._add(conn, bill, who, site_of, request_id), source=source)

    async def _add(
        self,
        conn: WriteConn,
        bill: Bill,
        who: Principal,
        site_of: SiteOf,
        request_id: str | None,
    ) -> int:
        near = await store.fetch_bills(
            conn, account_numbers=[bill.account_number], first=bill.start, last=bill.end, limit=MAX_BILLS
        )
        site = site_of(bill.account_number)
        accept_bill(bill, accounts=[] if site is None else [bill.account_number], bills=near)
        self._sites.check(who, Node(NodeKind.SITE, site or ""))
        now = self._clock.now()
        version = await store.add_bill(conn, bill, at=now, by=who.actor)
        await self._audit(
            conn,
            audit_event(
                who,
                "bill.enter",
                f"bill:{bill.account_number}/{bill.number}",
                now,
                after=_bill(bill) | {"version": version},
                request_id=request_id,
                site_id=site,
            ),
        )
        return version

    async def _lookup(self, conn: ReadConn | WriteConn) -> SiteOf:
        """Return what says the site of an account: as entered, or as the registry has it."""
        entered = {one.account_number: one.site_id for one in await store.fetch_accounts(conn)}
        return lambda number: entered.get(number) or self._sites.site_of_account(number)


def refuse_too_many(found: Sized) -> None:
    """Refuse a question that has more than ``MAX_BILLS`` bills for its answer.

    Raises:
        InvalidInput: It has.
    """
    if len(found) > MAX_BILLS:
        raise InvalidInput(
            f"from, to, account: expected at most {MAX_BILLS} bills; ask for fewer days or one account",
            message_zh=f"账单数超过 {MAX_BILLS} 张,请缩短时间或指定户号",
        )


async def add_each(bills: Iterable[tuple[int, B]], add: Callable[[B], Awaitable[int]], *, source: str) -> list[int]:
    """Add the bills of a file one after the other within the caller's transaction; return their versions.

    Args:
        bills: Each with its line.
        add: Adds one and returns its version.
        source: The file's name, for messages.

    Raises:
        InvalidFile: Some are refused; each is named with its line and the reason.
    """
    versions, problems = [], []
    for line, bill in bills:
        try:
            versions.append(await add(bill))
        except (UnknownAccount, Conflict) as exc:
            problems.append(_problem(line, exc))
    if problems:
        raise InvalidFile(source, problems)
    return versions


def _problem(line: int, refused: PlatformError) -> Problem:
    """Return why a bill was refused, as a place of its file."""
    english, chinese = refused.both
    field, _, expected = english.partition(": expected ")
    if not expected:
        return Problem(
            line=line, field="first_day", expected=f"other days: {english}", expected_zh=f"其他日期:{chinese}"
        )
    return Problem(line=line, field=field, expected=expected, expected_zh=chinese.partition(":应为")[2] or chinese)


def _account(one: Account) -> dict[str, object]:
    return {
        "valid_from": one.valid_from.isoformat(),
        "circuits": list(one.circuits),
        "region": one.region,
        "customer_class": one.customer_class,
        "voltage": one.voltage,
        "transformers": [{"rated_kva": str(each.rated_kva), "sealed": each.sealed} for each in one.transformers],
        "contract_kw": None if one.contract_kw is None else str(one.contract_kw),
        "basic_mode": one.basic_mode,
    }


def _bill(bill: Bill) -> dict[str, object]:
    return {
        "first_day": bill.start.isoformat(),
        "end_day": bill.end.isoformat(),
        "energy_kwh": str(bill.energy_kwh),
        "amount_cny": str(bill.amount_cny),
    }
