"""What energy cost: of a site, a circuit or an account, split by band; and what bills say beside it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum

import polars as pl

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database
from libs.common.errors import Bilingual, InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from services.carbon.boundary import Boundaries
from services.carbon.domain.accounts import Account, Supply, holding, supplies
from services.carbon.domain.bills import (
    COMPLETE_ENOUGH,
    TOLERANCE,
    Accrual,
    Bill,
    BilledDay,
    DayUse,
    Reconciliation,
    UnknownAccount,
    accruals,
    by_day,
    reconcile,
)
from services.carbon.domain.booking import floor
from services.carbon.domain.levels.energy import every_interval
from services.carbon.domain.money import decimal_of, total
from services.carbon.domain.tariff.basic import (
    Comparison,
    DemandMonth,
    Obligation,
    compare,
    obligation,
    recommend_contract,
)
from services.carbon.domain.tariff.cost import CostLine, EnergyCost, EnergyPrice, PriceKey, cost_range, energy_cost
from services.carbon.domain.tariff.demand import PeakDemand, peak_demands
from services.carbon.domain.tariff.grid import RateGrid, possible_grids, slots_of, split
from services.carbon.domain.tariff.periods import Tariff
from services.carbon.domain.tariff.sheet import SheetPrice, calendar_of, month_after
from services.carbon.sites import Sites
from services.carbon.store import bills as bills_store
from services.carbon.store import tariffs as tariffs_store
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.bills import MAX_BILLS, Bills
from services.carbon.usecases.tariffs import TariffBook, Tariffs

LINES_MAX = 20_000
"""Lines of one answer."""
ACCOUNTS_AT_ONCE = 50
"""Accounts whose accruals one answer computes."""


class Reason(StrEnum):
    """Why a cost is not known."""

    NO_ACCOUNT = "no_account"
    NO_TARIFF = "no_tariff"
    NO_PRICE = "no_price"
    UNCHECKED = "unchecked"


_REASONS = {
    Reason.NO_ACCOUNT: Bilingual("no electricity account is entered for {}", "未录入用电户号:{}"),
    Reason.NO_TARIFF: Bilingual("no tariff is in force for {}", "无有效电价方案:{}"),
    Reason.NO_PRICE: Bilingual("no price is entered for {}", "未录入电价:{}"),
    Reason.UNCHECKED: Bilingual("nobody has checked or confirmed the tariff {}", "电价方案未核对或确认:{}"),
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """One reason why some cost is not known, and of what."""

    reason: Reason
    subject: str

    @property
    def text(self) -> Bilingual:
        """The reason in words."""
        english, chinese = _REASONS[self.reason]
        return Bilingual(english.format(self.subject), chinese.format(self.subject))


@dataclass(frozen=True)
class SupplyCost:
    """What the energy of one supply cost."""

    supply: Supply
    cost: EnergyCost
    grid: RateGrid
    """By which its energy was split."""
    range_cny: tuple[Decimal, Decimal] | None
    """The least and the greatest that special days may still make of it; None where a price is missing."""

    @property
    def slot_s(self) -> int:
        """Length of what its energy was split into. [s]"""
        return self.grid.slot_s


@dataclass(frozen=True)
class LineSlots:
    """One line of a cost with the slots that its energy is the sum of."""

    whole: "NodeCost"
    part: SupplyCost
    line: CostLine
    slots: pl.DataFrame
    """``circuit_id``, ``start`` of the interval, ``energy_kwh`` of its part in the line; by circuit and start."""


class UnknownLine(NotFound):
    """A cost has no line of this number."""

    code = "unknown_line"
    title_zh = "电费明细不存在"


@dataclass(frozen=True)
class NodeCost:
    """What the energy of a node cost in ``[start, end)``, with all that it is made of."""

    node: str
    node_kind: str
    start: datetime
    end: datetime
    """The end of what is past, where more was asked for."""
    parts: Sequence[SupplyCost]
    unknown: Sequence[Unknown]

    @property
    def lines(self) -> list[tuple[Supply, CostLine]]:
        """Every line with its supply."""
        return [(part.supply, line) for part in self.parts for line in part.cost.lines]

    @property
    def whole(self) -> EnergyCost:
        """All lines as one cost."""
        return EnergyCost(tuple(line for part in self.parts for line in part.cost.lines))

    @property
    def interval_completeness(self) -> float | None:
        """Time whose energy is known over all of it, by circuit, 0 to 1."""
        whole = sum(line.slots * part.slot_s for part in self.parts for line in part.cost.lines)
        unknown = sum(line.unknown * part.slot_s for part in self.parts for line in part.cost.lines)
        return 1 - unknown / whole if whole else None

    @property
    def range_cny(self) -> tuple[Decimal, Decimal] | None:
        """The least and the greatest cost, the same when everything is known; None where a price is missing."""
        ranges = [part.range_cny for part in self.parts if any(one.slots > one.unknown for one in part.cost.lines)]
        known = [one for one in ranges if one is not None]
        if not known or len(known) < len(ranges):
            return None
        return total(low for low, _ in known), total(high for _, high in known)


@dataclass(frozen=True)
class ReconciledBill:
    """A bill beside its meters, and the bands beside each other where it names them."""

    found: Reconciliation
    metered_by_band: dict[str, Decimal]
    unknown: Sequence[Unknown]


@dataclass(frozen=True)
class Accrued:
    """One row of the accrual list, with its days."""

    row: Accrual
    open: Mapping[date, DayUse | None]
    """The days without a bill; None of one that nothing is known of."""
    billed: Mapping[date, BilledDay]


@dataclass(frozen=True)
class BasicAnalysis:
    """Capacity or demand (容需分析) of one account."""

    account: Account
    obligation: Obligation
    peaks: dict[date, PeakDemand]
    """By month, the incomplete ones too."""
    months: Sequence[DemandMonth]
    comparison: Comparison
    contract: tuple[Decimal, Decimal] | None
    """The declared demand that would have been the cheapest [kW], and its mean fee [CNY/month]."""


class Costs:
    """Computes costs when they are asked for; nothing of them is stored."""

    def __init__(
        self, *, db: Database, tariffs: Tariffs, bills: Bills, sites: Sites, boundaries: Boundaries, clock: Clock
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._tariffs = tariffs
        self._bills = bills
        self._sites = sites
        self._boundaries = boundaries
        self._clock = clock

    async def cost(self, who: Principal, asked: Node | str, *, start: datetime, end: datetime, daily: bool) -> NodeCost:
        """Return what the energy of a node, or of the account of this number, cost.

        Raises:
            InvalidInput: A span that is empty, too long or yet to come.
            NotFound: There is no such node or account.
            Forbidden: Some of its sites are not among those of the asker.
        """
        start, until = floor(start), min(floor(end), floor(self._clock.now()))
        if until <= start:
            raise InvalidInput(
                "from, to: expected a span that has begun, with to after from",
                message_zh="from、to:时间段须已开始,且 to 晚于 from",
            )
        found = await self._cost(who, asked, start, until, daily=daily)
        if len(found.lines) > LINES_MAX:
            raise InvalidInput(
                f"expected at most {LINES_MAX} lines, found {len(found.lines)}; ask for a smaller node or by month",
                message_zh=f"明细最多 {LINES_MAX} 行,实际 {len(found.lines)} 行;请缩小范围或按月查询",
            )
        return found

    async def line(
        self, who: Principal, asked: Node | str, *, start: datetime, end: datetime, daily: bool, number: int
    ) -> LineSlots:
        """Return one line of what ``cost`` returns, counted from 0, with what its energy is the sum of.

        Raises:
            UnknownLine: There are fewer lines.
            InvalidInput, NotFound, Forbidden: As for ``cost``.
        """
        whole, frame = await self._costed(who, asked, floor(start), floor(end), daily=daily)
        lines = [(part, line) for part in whole.parts for line in part.cost.lines]
        if number >= len(lines):
            raise UnknownLine(
                f"line: expected less than {len(lines)}, found {number}",
                message_zh=f"line:应小于 {len(lines)},实际为 {number}",
            )
        part, line = lines[number]
        rows = frame.filter(
            pl.col("circuit_id").is_in(list(part.supply.circuits))
            & (pl.col("start") >= max(whole.start, midnight(part.supply.first)))
            & (pl.col("start") < min(whole.end, midnight(part.supply.last)))
        )
        keys = ("circuit_id", "start")
        slots = await asyncio.to_thread(
            slots_of, rows, part.grid, period=line.period, rate=line.rate, keys=keys, daily=daily
        )
        return LineSlots(whole, part, line, slots.sort(keys))

    async def days(self, node: Node, *, first: date, last: date) -> list[DayUse]:
        """Return what every civil day of ``[first, last)`` that is over used and cost."""
        return _days(await self._cost(None, node, midnight(first), midnight(last), daily=True))

    async def reconciliation(self, who: Principal, *, account: str, first: date, last: date) -> list[ReconciledBill]:
        """Return the bills of an account that cover some day of ``[first, last)`` beside their meters.

        Raises:
            UnknownAccount: No site has the account.
            Forbidden: Its site is not among those of the asker.
        """
        await self._account(who, account)
        found = []
        for bill in await self._bills_of(account, first, last):
            cost = await self._cost(who, account, midnight(bill.start), midnight(bill.end), daily=True)
            bands: dict[str, Decimal] = defaultdict(Decimal)
            for band, energy in cost.whole.by_band().items():
                bands["unknown" if band is None else band.value] += energy
            found.append(ReconciledBill(reconcile(bill, _days(cost), tolerance=TOLERANCE), dict(bands), cost.unknown))
        return found

    async def accruals(
        self, who: Principal, *, account: str | None, site: str | None, first: date, asked_on: date | None, after: str
    ) -> tuple[list[Accrual], str | None]:
        """Return the accrual list of some accounts, by account and month.

        Args:
            who: Who asks; sees the accounts of his sites.
            account: Of this account.
            site: Of the accounts of this site.
            first: The first day looked at.
            asked_on: The day of asking; None is today.
            after: The last account of the page before.

        Returns:
            The rows of at most ``ACCOUNTS_AT_ONCE`` accounts, and the last of these where there are more.
        """
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        asked = min(asked_on or today, today)
        self._boundaries.check_span(midnight(first), midnight(asked))
        if account is not None:
            numbers = [account]
        else:
            numbers = sorted({one.account_number for one in await self._bills.accounts(who, site=site)})
        page = [number for number in numbers if number > after][: ACCOUNTS_AT_ONCE + 1]
        found: list[Accrual] = []
        for number in page[:ACCOUNTS_AT_ONCE]:
            bills = await self._bills_of(number, first, asked)
            # A bill is divided by the meters of all its days, whichever month is asked for.
            begin = min([first, *(bill.start for bill in bills)])
            end = max([asked, *(bill.end for bill in bills)])
            cost = await self._cost(who, number, midnight(begin), midnight(end), daily=True)
            found += accruals(number, bills, _days(cost), first=first, asked_on=asked)
        return found, page[ACCOUNTS_AT_ONCE - 1] if len(page) > ACCOUNTS_AT_ONCE else None

    async def accrued(self, who: Principal, *, account: str, month: date, asked_on: date | None) -> Accrued:
        """Return one row of the accrual list with the days that it is the sum of.

        Raises:
            InvalidInput: The month has not begun.
            UnknownAccount: No site has the account.
            Forbidden: Its site is not among those of the asker.
        """
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        asked = min(asked_on or today, today)
        first, last = month, min(month_after(month), asked)
        if last <= first:
            raise InvalidInput("from: expected a month that has begun", message_zh="from:所查月份须已开始")
        bills = await self._bills_of(account, first, last)
        begin = min([first, *(bill.start for bill in bills)])
        end = max([last, *(bill.end for bill in bills)])
        cost = await self._cost(who, account, midnight(begin), midnight(end), daily=True)
        use = _days(cost)
        (row,) = accruals(account, bills, use, first=first, asked_on=last)
        billed, by_date = by_day(bills, {one.day: one for one in use}), {one.day: one for one in use}
        within = [first + timedelta(days=offset) for offset in range((last - first).days)]
        return Accrued(
            row=row,
            open={day: by_date.get(day) for day in within if day not in billed},
            billed={day: billed[day] for day in within if day in billed},
        )

    async def peak(
        self, who: Principal, *, account: str, month: date
    ) -> tuple[PeakDemand | None, list[tuple[str, float | None]]]:
        """Return the highest demand of an account in a civil month, and each circuit's energy in that quarter hour.

        Raises:
            UnknownAccount: No site has the account.
            Forbidden: Its site is not among those of the asker.
        """
        site, states = await self._account(who, account)
        asked = _Asked(account, "account", Node(NodeKind.SITE, site), account, not states)
        parts, frame = await self._supplied(asked, midnight(month), midnight(month_after(month)))
        circuits = next((part.circuits for part in parts if part.first <= month < part.last), ())
        found = await asyncio.to_thread(_month, frame, circuits, month)
        if found is None:
            return None, [(circuit, None) for circuit in circuits]
        then = frame.filter((pl.col("start") == found.at) & pl.col("circuit_id").is_in(list(circuits)))
        energies = dict(then.select("circuit_id", "energy_kwh").iter_rows())
        return found, [(circuit, energies.get(circuit)) for circuit in circuits]

    async def basic(self, who: Principal, *, account: str, first: date, last: date, hold_months: int) -> BasicAnalysis:
        """Return what the basic fee of an account was by every mode in the civil months of ``[first, last)``.

        Raises:
            InvalidInput: A month is not over, the account's transformers are not entered, or its contract lies below
                the floor of a month.
            UnknownAccount: No site has the account.
            Forbidden: Its site is not among those of the asker.
        """
        first, last = first.replace(day=1), last.replace(day=1)
        self._boundaries.check_span(midnight(first), midnight(last))
        if midnight(last) > self._clock.now():
            raise InvalidInput("to: expected months that are over", message_zh="to:所含月份须已结束")
        site, states = await self._account(who, account)
        asked = _Asked(account, "account", Node(NodeKind.SITE, site), account, not states)
        parts, frame = await self._supplied(asked, midnight(first), midnight(last))
        async with self._db.read() as conn:
            prices = await tariffs_store.fetch_prices(conn, first=first, last=last)
        by_key = {one.energy.key: one for one in prices}
        months, peaks = [], {}
        for month in _months(first, last):
            state = next(iter(holding(states, month)), None)
            if state is None or state.capacity_kva is None:
                raise InvalidInput(
                    f"account {account}: expected the transformers of its supply point on {month}",
                    message_zh=f"户号 {account}:请录入 {month} 的变压器容量",
                )
            circuits = next((part.circuits for part in parts if part.first <= month < part.last), ())
            found = await asyncio.to_thread(_month, frame, circuits, month)
            if found is not None:
                peaks[month] = found
            months.append(_demand_month(state, month, frame, circuits, found, by_key))
        latest = months[-1].prices
        demands = [one.demand_kw for one in months if one.demand_kw is not None]
        newest = holding(states, last - timedelta(days=1))[0]
        return BasicAnalysis(
            account=newest,
            obligation=obligation(newest.capacity_kva or Decimal(0)),
            peaks=peaks,
            months=months,
            comparison=compare(months, hold_months=hold_months),
            contract=None
            if latest is None
            else recommend_contract(demands, capacity_kva=months[-1].capacity_kva, prices=latest),
        )

    async def _account(self, who: Principal | None, number: str) -> tuple[SiteId, list[Account]]:
        """Return the site of an account and every state of it; none where only the registry names it.

        Raises:
            UnknownAccount: No site has the account.
            Forbidden: Its site is not among those of the asker.
        """
        async with self._db.read() as conn:
            states = await bills_store.fetch_accounts(conn, account_number=number)
        site = SiteId(states[-1].site_id) if states else self._sites.site_of_account(number)
        if site is None:
            raise UnknownAccount(
                f"account: expected the electricity account of a site, found {number!r}",
                message_zh=f"account:应为某局站的用电户号,实际为 {number!r}",
            )
        if who is not None:
            self._sites.check(who, Node(NodeKind.SITE, site))
        return site, states

    async def _cost(
        self, who: Principal | None, wanted: Node | str, start: datetime, end: datetime, *, daily: bool
    ) -> NodeCost:
        return (await self._costed(who, wanted, start, end, daily=daily))[0]

    async def _costed(
        self, who: Principal | None, wanted: Node | str, start: datetime, end: datetime, *, daily: bool
    ) -> tuple[NodeCost, pl.DataFrame]:
        """Return what a node or account cost within ``[start, end)``, as far as that is past, and its intervals.

        No connection is held while another one is asked for: the pool would run dry of requests that wait for each
        other.
        """
        if isinstance(wanted, str):
            site, states = await self._account(who, wanted)
            asked = _Asked(wanted, "account", Node(NodeKind.SITE, site), wanted, not states)
        else:
            if who is not None:
                self._sites.check(who, wanted)
            asked = _Asked(wanted.id, wanted.kind.value, wanted, None, False)
        until = max(start, min(end, floor(self._clock.now())))
        parts, frame = await self._supplied(asked, start, until)
        days = [day for part in parts for day in (part.first.replace(day=1), part.last)]
        async with self._db.read() as conn:
            book = await self._tariffs.book(conn)
            prices = await tariffs_store.fetch_prices(conn, first=min(days), last=max(days)) if days else []
        found = await asyncio.to_thread(_priced, frame, parts, book, prices, start, until, daily)
        unknown = dict.fromkeys(one for part in found for one in _unknown(part, asked.name))
        return NodeCost(asked.name, asked.kind, start, until, found, list(unknown)), frame

    async def _bills_of(self, account: str, first: date, last: date) -> list[Bill]:
        async with self._db.read() as conn:
            return await bills_store.fetch_bills(
                conn, account_numbers=[account], first=first, last=last, limit=MAX_BILLS
            )

    async def _supplied(self, asked: "_Asked", start: datetime, end: datetime) -> tuple[list[Supply], pl.DataFrame]:
        """Return which account supplies which circuits when, and every quarter hour of these circuits."""
        if start < end:
            self._boundaries.check_span(start, end)
        found = await self._boundaries.energy(asked.node, start, end)
        frame = await asyncio.to_thread(every_interval, found.intervals, found.terms, start=start, end=end)
        sites: dict[SiteId, dict[str, Sequence[str]]] = defaultdict(dict)
        for term in found.terms:
            sites[term.site][term.circuit] = term.above
        first = start.astimezone(CIVIL_ZONE).date()
        last = (end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE).date() + timedelta(days=1)
        accounts: dict[str, list[Account]] = defaultdict(list)
        async with self._db.read() as conn:
            entered = await bills_store.fetch_accounts(conn, sites=list(sites))
        for one in entered:
            accounts[one.site_id].append(one)
        parts = [
            part
            for site, circuits in sorted(sites.items())
            for part in (supplies(accounts[site], circuits, first=first, last=last) if first < last else ())
        ]
        if asked.account is None:
            return parts, frame
        # An account that only the registry names is what its site has no other account for.
        number = None if asked.unstated else asked.account
        return [
            part for part in parts if number == (None if part.account is None else part.account.account_number)
        ], frame


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a cost is asked of."""

    name: str
    kind: str
    node: Node
    account: str | None
    """Only what this account supplies."""
    unstated: bool
    """Nobody has entered the account."""


def _priced(
    frame: pl.DataFrame,
    parts: Sequence[Supply],
    book: TariffBook,
    prices: Sequence[SheetPrice],
    start: datetime,
    end: datetime,
    daily: bool,
) -> list[SupplyCost]:
    """Return what each supply cost within ``[start, end)``; what has no account has lines without a rate.

    Supplies with the same tariff and days are split together, so that a province costs a few passes over its intervals.
    """
    by_key = {one.energy.key: one.energy for one in prices}
    groups: dict[tuple[str, str, date, date], list[int]] = defaultdict(list)
    for index, part in enumerate(parts):
        account = part.account
        place = ("", "") if account is None else (account.region, account.customer_class)
        groups[(*place, part.first, part.last)].append(index)
    found: dict[int, SupplyCost] = {}
    for (region, customer_class, first, last), members in groups.items():
        begin, until = max(start, midnight(first)), min(end, midnight(last))
        if begin >= until:
            continue
        rows = _of_parts(frame, parts, members).filter((pl.col("start") >= begin) & (pl.col("start") < until))
        tariff = book.tariffs.get((region, customer_class)) or Tariff(region, customer_class, ())
        days = calendar_of(book.special_days, region)
        grids = possible_grids(tariff, first=first, last=last, calendar=days)
        by_period = _by_part(rows, grids[0], daily=daily)
        by_day = [(_by_part(rows, grid, daily=True), grid) for grid in grids] if len(grids) > 1 else []
        for index in members:
            price_of = _prices_of(parts[index].account, by_key)
            cost = EnergyCost(()) if index not in by_period else energy_cost(by_period[index], grids[0], price_of)
            known = cost.cost_cny
            least_and_most = None if known is None else (known, known)
            if known is not None and by_day:
                least_and_most = cost_range([(one[index], grid) for one, grid in by_day], price_of)
            found[index] = SupplyCost(parts[index], cost, grids[0], least_and_most)
    return [found[index] for index in sorted(found)]


def _of_parts(frame: pl.DataFrame, parts: Sequence[Supply], members: Sequence[int]) -> pl.DataFrame:
    """Return the intervals of some supplies, each with the number of its supply."""
    owners = [(circuit, index) for index in members for circuit in parts[index].circuits]
    schema = {"circuit_id": pl.String, "part": pl.Int64}
    return frame.join(pl.DataFrame(owners, schema=schema, orient="row"), on="circuit_id")


def _by_part(rows: pl.DataFrame, grid: RateGrid, *, daily: bool) -> dict[int, pl.DataFrame]:
    """Return what ``split`` makes of the intervals of each supply."""
    summed = split(rows, grid, keys=("part",), daily=daily)
    return {index: some for (index,), some in summed.partition_by("part", as_dict=True).items()}


def _prices_of(account: Account | None, prices: Mapping[PriceKey, EnergyPrice]) -> Callable[[date], EnergyPrice | None]:
    """Return what gives the price of a month of an account, None where nobody has entered it."""

    def price_of(month: date) -> EnergyPrice | None:
        if account is None:
            return None
        return prices.get(PriceKey(account.region, account.customer_class, account.voltage, month))

    return price_of


def _unknown(part: SupplyCost, node: str) -> list[Unknown]:
    """Return why lines of a supply have no cost though their energy is known."""
    account = part.supply.account
    if account is None:
        return [Unknown(Reason.NO_ACCOUNT, node)]
    found = []
    for line in part.cost.lines:
        if line.cost_cny is not None or line.slots == line.unknown:
            continue
        place = f"{account.region} {account.customer_class}"
        if line.rate is None:
            found.append(Unknown(Reason.NO_TARIFF, f"{place} {line.period:%Y-%m}"))
        elif line.price is None:
            found.append(Unknown(Reason.NO_PRICE, f"{place} {account.voltage} {line.period:%Y-%m}"))
        else:
            found.append(Unknown(Reason.UNCHECKED, line.rate.tariff_id))
    return found


def _days(cost: NodeCost) -> list[DayUse]:
    """Return daily lines by civil day."""
    by_day: dict[date, list[tuple[CostLine, int]]] = defaultdict(list)
    for part in cost.parts:
        for line in part.cost.lines:
            by_day[line.period].append((line, part.slot_s))
    found = []
    for day, lines in sorted(by_day.items()):
        known = [line for line, _ in lines if line.slots > line.unknown]
        costs = [line.cost_cny for line in known if line.cost_cny is not None]
        whole = sum(line.slots * slot_s for line, slot_s in lines)
        found.append(
            DayUse(
                day=day,
                energy_kwh=total(line.energy_kwh for line in known) if known else None,
                cost_cny=total(costs) if known and len(costs) == len(known) else None,
                completeness=1 - sum(line.unknown * slot_s for line, slot_s in lines) / whole,
            )
        )
    return found


def _month(frame: pl.DataFrame, circuits: Sequence[str], month: date) -> PeakDemand | None:
    """Return the highest demand of one civil month."""
    rows = _within(frame, circuits, month)
    return next(iter(peak_demands(rows, circuits)), None)


def _within(frame: pl.DataFrame, circuits: Sequence[str], month: date) -> pl.DataFrame:
    begin, end = midnight(month), midnight(month_after(month))
    return frame.filter(
        pl.col("circuit_id").is_in(list(circuits)) & (pl.col("start") >= begin) & (pl.col("start") < end)
    )


def _demand_month(
    state: Account,
    month: date,
    frame: pl.DataFrame,
    circuits: Sequence[str],
    peak: PeakDemand | None,
    prices: dict[PriceKey, SheetPrice],
) -> DemandMonth:
    """Return what the fee of a month depends on; what too little is known of is unknown."""
    energies = _within(frame, circuits, month)["energy_kwh"]
    known = energies.drop_nulls()
    enough = len(energies) > 0 and len(known) >= COMPLETE_ENOUGH * len(energies)
    price = prices.get(PriceKey(state.region, state.customer_class, state.voltage, month))
    return DemandMonth(
        month=month,
        capacity_kva=state.capacity_kva or Decimal(0),
        demand_kw=decimal_of(peak.demand_kw) if peak is not None and peak.completeness >= COMPLETE_ENOUGH else None,
        contract_kw=state.contract_kw,
        energy_kwh=decimal_of(float(known.sum())) if enough else None,
        prices=None if price is None else price.basic,
    )


def _months(first: date, last: date) -> list[date]:
    found = [first]
    while (following := month_after(found[-1])) < last:
        found.append(following)
    return found


def midnight(day: date) -> datetime:
    """Return when a civil day begins."""
    return datetime.combine(day, time(), CIVIL_ZONE).astimezone(UTC)
