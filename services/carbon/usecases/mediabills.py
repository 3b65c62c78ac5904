"""Accounts and bills of other media: entered, imported, corrected, and beside the meters of their days."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from libs.common.clock import Clock
from libs.common.contracts.carbon import Medium
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from services.carbon.domain.levels.energy import Promise, energy_in_span, known_energy
from services.carbon.domain.mediabills import (
    MediumAccount,
    MediumBill,
    ReconciledMediumBill,
    accept_account,
    accept_medium_bill,
    reconcile_medium,
    unknown_account,
)
from services.carbon.domain.why import Rule, recomputed
from services.carbon.sites import Sites
from services.carbon.store import mediabills as store
from services.carbon.store.bills import lock_bills
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.bills import ALL_DAYS, MAX_BILLS, add_each, refuse_too_many
from services.carbon.usecases.costs import midnight
from services.carbon.usecases.media import MediaUses
from services.carbon.usecases.ports import Audit, audit_event

RECONCILED_MAX = 500
"""Bills of one account that are put beside its meters in one answer: more than a year of days."""
Key = tuple[Medium, str]
"""Medium and number of an account."""


@dataclass(frozen=True, slots=True)
class MediumBillVersion:
    """One version of a bill."""

    version: int
    bill: MediumBill
    recorded_at: datetime
    recorded_by: str


@dataclass(frozen=True, slots=True)
class MeteredBill:
    """A bill beside its meters, and what these are."""

    found: ReconciledMediumBill
    place: Node | None
    """Whose use it is compared with; None where nobody knows which part of the site's is the account's."""
    quantity: float | None
    """What is known of that use; None where nothing is. [unit of the register]"""


class MediumBills:
    """Keeps accounts and bills of other media."""

    def __init__(self, *, db: Database, sites: Sites, media: MediaUses, clock: Clock, audit: Audit) -> None:
        """Keep what is needed."""
        self._db = db
        self._sites = sites
        self._media = media
        self._clock = clock
        self._audit = audit

    async def accounts(
        self, who: Principal, *, medium: Medium | None = None, site: str | None = None
    ) -> list[MediumAccount]:
        """Return the accounts that somebody may see, by medium and number: entered ones, and those of archives."""
        async with self._db.read() as conn:
            found = await self._accounts(conn, list(Medium) if medium is None else [medium])
        return [
            one for _, one in sorted(found.items())
            if site in (None, one.site_id) and self._sites.may_see_site(who, one.site_id)
        ]  # fmt: skip

    async def put_account(self, wanted: MediumAccount, who: Principal, *, request_id: str | None = None) -> int:
        """Take what holds of an account; return how often that was entered.

        Raises:
            NotFound: There is no such site or circuit.
            InvalidInput: The circuit is none of the site's.
            Conflict: The account belongs to another site.
            SharedCircuit: Another account of the medium has the circuit already.
            Forbidden: The site is not among those of the asker.
        """
        site = Node(NodeKind.SITE, SiteId(wanted.site_id))
        self._sites.check(who, site)
        circuit = wanted.circuit_id
        if circuit is not None and not self._sites.contains(site, Node(NodeKind.CIRCUIT, circuit)):
            raise InvalidInput(
                f"circuit: expected one of site {site.id}, found {circuit}",
                message_zh=f"circuit:应为局站 {site.id} 的回路,实际为 {circuit}",
            )
        now = self._clock.now()
        async with self._db.write() as conn:
            await lock_bills(conn)
            held = {(one.medium, one.account_number): one for one in await store.fetch_accounts(conn)}
            before = held.get((wanted.medium, wanted.account_number))
            if before is not None and before.site_id != wanted.site_id:
                raise Conflict(
                    f"account {wanted.account_number} belongs to another site",
                    message_zh=f"户号 {wanted.account_number} 属于其他局站",
                )
            accept_account(wanted, held.values())
            version = await store.add_account(conn, wanted, at=now, by=who.actor)
            await self._audit(
                conn,
                audit_event(
                    who,
                    "account.enter",
                    f"account:{wanted.medium}/{wanted.account_number}",
                    now,
                    after={"circuit": wanted.circuit_id},
                    request_id=request_id,
                    site_id=wanted.site_id,
                ),
            )
        return version

    async def bills(
        self,
        who: Principal,
        *,
        medium: Medium | None = None,
        account_number: str | None = None,
        site: str | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> list[MediumBill]:
        """Return the bills that hold and cover some day of ``[first, last)``, by medium, account and day.

        Raises:
            InvalidInput: There are too many for one answer.
        """
        async with self._db.read() as conn:
            known = await self._accounts(conn, list(Medium) if medium is None else [medium])
            numbers = None if account_number is None else {account_number}
            if site is not None:
                of_site = {number for (_, number), one in known.items() if one.site_id == site}
                numbers = of_site if numbers is None else numbers & of_site
            found = await store.fetch_bills(
                conn, medium=medium, account_numbers=None if numbers is None else sorted(numbers),
                first=first or ALL_DAYS[0], last=last or ALL_DAYS[1], limit=MAX_BILLS + 1,
            )  # fmt: skip
        refuse_too_many(found)
        sites = {key: one.site_id for key, one in known.items()}
        return [
            one for one in found
            if site in (None, place := sites.get((one.medium, one.account_number)))
            and self._sites.may_see_site(who, place)
        ]  # fmt: skip

    async def versions(
        self, who: Principal, medium: Medium, account_number: str, number: str
    ) -> list[MediumBillVersion]:
        """Return the versions of a bill, oldest first.

        Raises:
            NotFound: There is none, or the asker may not see it.
        """
        async with self._db.read() as conn:
            rows = await store.fetch_bill_versions(conn, medium, account_number, number)
            account = (await self._accounts(conn, [medium])).get((medium, account_number))
        if not rows or not self._sites.may_see_site(who, None if account is None else account.site_id):
            raise NotFound(
                f"there is no bill {number} of {medium} account {account_number}",
                message_zh=f"户号 {account_number} 没有账单 {number}",
            )
        return [MediumBillVersion(*row) for row in rows]

    async def take(self, bill: MediumBill, who: Principal, *, request_id: str | None = None) -> int:
        """Take a bill; one of the same number corrects it. Return its version.

        Raises:
            UnknownMediumAccount: No site has the account.
            OverlappingBill: Another bill of the account covers some of its days.
            Forbidden: The site is not among those of the asker.
        """
        async with self._db.write() as conn:
            await lock_bills(conn)
            return await self._add(conn, bill, who, await self._accounts(conn, [bill.medium]), request_id)

    async def take_all(
        self, bills: Sequence[tuple[int, MediumBill]], who: Principal, *, source: str, request_id: str | None = None
    ) -> list[int]:
        """Take the bills of a file, each with its line, all of them or none; return their versions.

        Raises:
            InvalidFile: Some are refused; each is named with its line and the reason.
            Forbidden: A site is not among those of the asker.
        """
        async with self._db.write() as conn:
            await lock_bills(conn)
            known = await self._accounts(conn, sorted({bill.medium for _, bill in bills}))
            return await add_each(bills, lambda bill: self._add(conn, bill, who, known, request_id), source=source)

    async def reconciliation(
        self, who: Principal, *, medium: Medium, account_number: str, first: date, last: date
    ) -> list[MeteredBill]:
        """Return the bills of an account that cover some day of ``[first, last)`` beside their meters.

        Raises:
            UnknownMediumAccount: No site has the account.
            InvalidInput: There are too many for one answer.
            Forbidden: Its site is not among those of the asker.
        """
        async with self._db.read() as conn:
            known = await self._accounts(conn, [medium])
            account = known.get((medium, account_number))
            if account is None:
                raise unknown_account(medium, account_number)
            self._sites.check(who, Node(NodeKind.SITE, account.site_id))
            bills = await store.fetch_bills(
                conn, medium=medium, account_numbers=[account_number], first=first, last=last, limit=RECONCILED_MAX + 1
            )
        if len(bills) > RECONCILED_MAX:
            raise InvalidInput(
                f"from, to: expected at most {RECONCILED_MAX} bills; ask for fewer days",
                message_zh=f"账单数超过 {RECONCILED_MAX} 张,请缩短时间",
            )
        place = _place(account, known.values())
        return [await self._beside_meters(one, place) for one in bills]

    async def _beside_meters(self, bill: MediumBill, place: Node | None) -> MeteredBill:
        quantity, completeness = None, 0.0
        if place is not None and bill.billed_unit is not None:
            start, end = midnight(bill.start), midnight(bill.end)
            quantity, completeness = await self._used(place, bill.billed_unit.point, start, end)
        return MeteredBill(reconcile_medium(bill, quantity, completeness), place, quantity)

    async def _used(self, place: Node, point: str, start: datetime, end: datetime) -> tuple[float | None, float]:
        """Return what is known of a place's use within a span, and the share of the span that is known."""
        try:
            found = await self._media.summed(place, point, start, end)
        except NotFound:  # it has no such meter
            return None, 0.0
        now = self._clock.now()

        def sums() -> tuple[float | None, float]:
            by_circuit = dict(known_energy(found.intervals, ["circuit_id"]).iter_rows())
            quantity = recomputed(Rule.SUM, list(by_circuit.values()))
            row = energy_in_span(found.intervals, Promise(found.terms, now), start=start, end=end)
            # Of days that are still to come nothing is expected yet, but the bill has them.
            elapsed = max(min(end, now) - start, timedelta()) / (end - start)
            share = (row["usable_share"] or 0.0) * elapsed
            return None if quantity is None else float(quantity), share

        return await asyncio.to_thread(sums)

    async def _add(
        self,
        conn: WriteConn,
        bill: MediumBill,
        who: Principal,
        known: Mapping[Key, MediumAccount],
        request_id: str | None,
    ) -> int:
        near = await store.fetch_bills(
            conn, medium=bill.medium, account_numbers=[bill.account_number], first=bill.start, last=bill.end,
            limit=MAX_BILLS,
        )  # fmt: skip
        account = accept_medium_bill(bill, account=known.get((bill.medium, bill.account_number)), bills=near)
        site = account.site_id
        self._sites.check(who, Node(NodeKind.SITE, site))
        now = self._clock.now()
        version = await store.add_bill(conn, bill, at=now, by=who.actor)
        await self._audit(
            conn,
            audit_event(
                who,
                "bill.enter",
                f"bill:{bill.medium}/{bill.account_number}/{bill.number}",
                now,
                after=_bill(bill) | {"version": version},
                request_id=request_id,
                site_id=site,
            ),
        )
        return version

    async def _accounts(self, conn: ReadConn | WriteConn, media: Iterable[Medium]) -> dict[Key, MediumAccount]:
        """Return every account of some media: as entered, or as a site's archive has it."""
        wanted = frozenset(media)
        archived = {
            (medium, number): MediumAccount(medium=medium, account_number=number, site_id=site)
            for medium in wanted
            for number, site in self._sites.medium_accounts(medium).items()
        }
        entered = [one for one in await store.fetch_accounts(conn) if one.medium in wanted]
        return archived | {(one.medium, one.account_number): one for one in entered}


def _place(account: MediumAccount, known: Iterable[MediumAccount]) -> Node | None:
    """Return whose use an account's bills are compared with: its circuit, or else its site when that has no other."""
    if account.circuit_id is not None:
        return Node(NodeKind.CIRCUIT, account.circuit_id)
    of_site = [one for one in known if (one.medium, one.site_id) == (account.medium, account.site_id)]
    return Node(NodeKind.SITE, account.site_id) if len(of_site) == 1 else None


def _bill(bill: MediumBill) -> dict[str, object]:
    return {
        "first_day": bill.start.isoformat(),
        "end_day": bill.end.isoformat(),
        "quantity": None if bill.quantity is None else str(bill.quantity),
        "unit": bill.unit,
        "amount_cny": str(bill.amount_cny),
    }
