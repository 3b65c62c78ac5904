"""Bills beside meters: what was billed, whether the meter agrees, and what is used and not billed yet (电费递延).

A bill covers whole civil days, ``[start, end)``. It is reconciled with the metered energy of exactly these days.
What days that no bill covers have cost by the tariff is accrued in their own month, so that a bill of January for
December's days does not become a cost of January.

Source:
    The platform's energy methods, section 1.3.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from libs.common.errors import Conflict, InvalidInput, NotFound
from services.carbon.domain.money import CENT, exact, total
from services.carbon.domain.tariff.cost import PRICE_MAX_CNY_PER_KWH
from services.carbon.domain.tariff.periods import Band

TOLERANCE = Decimal("0.01")
"""Share of the billed energy by which the meter may differ."""
COMPLETE_ENOUGH = 0.9
"""Share of a cycle's intervals that have to be known to judge its bill (methods, section 2: a month)."""
ENERGY_PART = "energy"
"""The part of a bill that its energy costs."""
BILL_DAYS_MAX = 400
"""A bill of more days is a mistake in a date. [d]"""


class UnknownAccount(NotFound):
    """A bill names an electricity account that no site has."""

    code = "unknown_account"
    title_zh = "用电户号不存在"


class OverlappingBill(Conflict):
    """Another bill of the account covers some of the days."""

    code = "overlapping_bill"
    title_zh = "账单日期重叠"


class Billed(Protocol):
    """What every bill says, of whatever it is."""

    @property
    def number(self) -> str:
        """As printed."""

    @property
    def account_number(self) -> str:
        """Whose."""

    @property
    def start(self) -> date:
        """The first day."""

    @property
    def end(self) -> date:
        """The day after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One bill of one account, as printed."""

    number: str
    account_number: str
    start: date
    end: date
    """The day after the last."""
    energy_kwh: Decimal
    """[kWh]"""
    amount_cny: Decimal
    """All that is to be paid, tax included. [CNY]"""
    issued_on: date
    energy_by_band: Mapping[Band, Decimal] = field(default_factory=dict)
    """Empty where the bill does not say; otherwise it adds up to ``energy_kwh``. [kWh]"""
    parts_cny: Mapping[str, Decimal] = field(default_factory=dict)
    """Energy, basic, power factor, funds … Empty or adding up to ``amount_cny``; parts may be credits. [CNY]"""

    def __post_init__(self) -> None:
        """Refuse a bill that contradicts itself.

        Raises:
            InvalidInput: Naming the field.
        """
        check_days(self.start, self.end)
        if not (self.energy_kwh.is_finite() and self.energy_kwh >= 0):
            raise wrong("energy_kwh", "0 or more kWh", "不小于 0 的电量(千瓦时)", self.energy_kwh)
        for name, parts, whole, step in (
            ("energy_by_band", self.energy_by_band, self.energy_kwh, Decimal(1)),
            ("parts_cny", self.parts_cny, self.amount_cny, CENT),
        ):
            if not all(part.is_finite() for part in (whole, *parts.values())):
                raise wrong(name, "finite numbers", "有限数值", sorted(parts))
            # Every printed part is rounded by itself, each by up to half a step.
            if parts and abs(total(parts.values()) - whole) > step * len(parts) / 2:
                raise wrong(name, f"parts that add up to {whole}", f"各项之和等于 {whole}", total(parts.values()))
        for band, energy in self.energy_by_band.items():
            if energy < 0:
                raise wrong(f"energy_by_band.{band}", "0 or more kWh", "不小于 0 的电量(千瓦时)", energy)
        energy_cny = self.parts_cny.get(ENERGY_PART)
        if energy_cny is not None and energy_cny > PRICE_MAX_CNY_PER_KWH * self.energy_kwh:
            raise wrong(
                f"parts_cny.{ENERGY_PART}",
                f"at most {PRICE_MAX_CNY_PER_KWH} CNY for each of {self.energy_kwh} kWh (is the energy in MWh?)",
                f"{self.energy_kwh} 千瓦时每千瓦时不超过 {PRICE_MAX_CNY_PER_KWH} 元(电量单位是否为兆瓦时?)",
                energy_cny,
            )

    @property
    def days(self) -> int:
        """How many civil days it covers."""
        return (self.end - self.start).days

    def covers(self, day: date) -> bool:
        """Return whether it covers a civil day."""
        return self.start <= day < self.end


@dataclass(frozen=True, slots=True)
class DayUse:
    """What the meters of an account say of one civil day."""

    day: date
    energy_kwh: Decimal | None
    """What is known of it, None where nothing is. [kWh]"""
    cost_cny: Decimal | None
    """By the tariff; None where it is unknown, which is not zero. [CNY]"""
    completeness: float
    """Share of the day's intervals that are known, 0 to 1."""


class Verdict(StrEnum):
    """What comes of a bill beside its meters."""

    AGREES = "agrees"
    BILLED_MORE = "billed_more"
    BILLED_LESS = "billed_less"
    NOT_COMPARABLE = "not_comparable"
    """Too little was metered to say."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A bill beside the meters of its days."""

    bill: Bill
    metered_kwh: Decimal | None
    """What is known of it. [kWh]"""
    completeness: float
    """Share of the cycle's intervals that are known, 0 to 1."""
    difference_kwh: Decimal | None
    """Billed minus metered. [kWh]"""
    difference_share: float | None
    """Of the billed energy; None where nothing was billed. [1]"""
    expected_cny: Decimal | None
    """What the tariff makes of the metered energy, without what is not energy; None where it is unknown. [CNY]"""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class BilledDay:
    """One day's part of a bill."""

    bill: Bill
    energy_kwh: Decimal
    amount_cny: Decimal


@dataclass(frozen=True, slots=True)
class Accrual:
    """What one account used in one civil month, billed and not billed yet."""

    account_number: str
    month: date
    """The first day of it."""
    metered_kwh: Decimal | None
    billed_kwh: Decimal
    """This month's part of what bills say. [kWh]"""
    billed_cny: Decimal
    """The same of what they ask for. [CNY]"""
    open_days: int
    """Days of the month, up to the day of asking, that no bill covers."""
    open_kwh: Decimal | None
    """What was metered on them; None where nothing is known. [kWh]"""
    open_cny: Decimal | None
    """What it cost by the tariff: the amount to accrue; None where any of it is unknown. [CNY]"""
    open_completeness: float | None
    """Share of the open days' intervals that are known; None without open days."""
    age_days: int
    """From the oldest open day to the day of asking. [d]"""
    crosses_year: bool
    """Days of an earlier year than that of asking are still open, or were billed in a later year."""


def accept_bill(bill: Bill, *, accounts: Iterable[str], bills: Iterable[Bill]) -> None:
    """Check a bill against what is there.

    Args:
        bill: The new one.
        accounts: Account numbers of the sites.
        bills: Those already there; one of the same number is the version that the new one replaces.

    Raises:
        UnknownAccount: No site has the account.
        OverlappingBill: Another bill of the account covers some of its days.
    """
    if bill.account_number not in set(accounts):
        raise UnknownAccount(
            f"account_number: expected the electricity account of a site, found {bill.account_number!r}",
            message_zh=f"account_number:应为某局站的用电户号,实际为 {bill.account_number!r}",
        )
    refuse_overlap(bill, bills)


def check_days(start: date, end: date) -> None:
    """Refuse days ``[start, end)`` that no bill covers.

    Raises:
        InvalidInput: There are none, or more than ``BILL_DAYS_MAX``.
    """
    if end <= start or (end - start).days > BILL_DAYS_MAX:
        latest = start + timedelta(days=BILL_DAYS_MAX - 1)
        raise wrong("last_day", f"{start} to {latest}", f"{start} 至 {latest}", end - timedelta(days=1))


def refuse_overlap(bill: Billed, bills: Iterable[Billed]) -> None:
    """Refuse a bill of days that another bill of its account covers; one of the same number it replaces.

    Raises:
        OverlappingBill: There is one.
    """
    for other in bills:
        if (
            other.account_number == bill.account_number
            and other.number != bill.number
            and other.start < bill.end
            and bill.start < other.end
        ):
            raise OverlappingBill(
                f"bill {bill.number} ({bill.start} to {bill.end}) overlaps with bill {other.number} "
                f"({other.start} to {other.end}) of account {bill.account_number}",
                message_zh=f"户号 {bill.account_number} 的账单 {bill.number}({bill.start} 至 {bill.end})"
                f"与账单 {other.number}({other.start} 至 {other.end})日期重叠",
            )


def reconcile(bill: Bill, days: Iterable[DayUse], *, tolerance: Decimal = TOLERANCE) -> Reconciliation:
    """Return a bill beside what was metered on its days.

    Args:
        bill: The bill.
        days: What was metered; days outside of the bill are not looked at, missing ones count as unknown.
        tolerance: Share of the billed energy by which the meter may differ.
    """
    mine = [day for day in days if bill.covers(day.day)]
    completeness = sum(day.completeness for day in mine) / bill.days
    known = [day.energy_kwh for day in mine if day.energy_kwh is not None]
    costs = [day.cost_cny for day in mine if day.cost_cny is not None]
    expected = total(costs) if len(costs) == bill.days else None
    if not known:
        return Reconciliation(bill, None, completeness, None, None, expected, Verdict.NOT_COMPARABLE)
    metered = total(known)
    difference, share, verdict = compared(bill.energy_kwh, metered, completeness, tolerance=tolerance)
    return Reconciliation(bill, metered, completeness, difference, share, expected, verdict)


def compared(
    billed: Decimal, metered: Decimal, completeness: float, *, tolerance: Decimal = TOLERANCE
) -> tuple[Decimal, float | None, Verdict]:
    """Return what was billed less what was metered, the same as a share of the billed, and what comes of it.

    The share is None where nothing was billed; what too little is known of has a difference and no verdict.
    """
    with exact():
        difference = billed - metered
        agrees = abs(difference) <= tolerance * billed
    share = float(difference / billed) if billed else None
    if completeness < COMPLETE_ENOUGH:
        verdict = Verdict.NOT_COMPARABLE
    elif agrees:
        verdict = Verdict.AGREES
    else:
        verdict = Verdict.BILLED_MORE if difference > 0 else Verdict.BILLED_LESS
    return difference, share, verdict


def accruals(
    account_number: str, bills: Sequence[Bill], days: Sequence[DayUse], *, first: date, asked_on: date
) -> list[Accrual]:
    """Return the accrual list of an account: one row per civil month, oldest first.

    What a bill says is divided among its days as the meters say, or evenly where they do not know every one of
    them; so the parts of all months add up to the bill, whatever was metered.

    Args:
        account_number: Whose; bills of other accounts are not looked at.
        bills: The bills that hold.
        days: What was metered, each day at most once.
        first: The first day that is looked at.
        asked_on: The day of asking, which is not over and not looked at.
    """
    mine = [bill for bill in bills if bill.account_number == account_number]
    use = {day.day: day for day in days}
    billed = by_day(mine, use)
    issued = {day: bill.issued_on for bill in mine for day in _days(bill.start, bill.end)}
    months: dict[date, list[date]] = defaultdict(list)
    for day in _days(first, asked_on):
        months[day.replace(day=1)].append(day)
    found = []
    for month, within in sorted(months.items()):
        known = [use[day].energy_kwh for day in within if day in use]
        metered = [energy for energy in known if energy is not None]
        open_days = [day for day in within if day not in billed]
        open_use = [use[day] for day in open_days if day in use]
        open_kwh = [day.energy_kwh for day in open_use if day.energy_kwh is not None]
        open_cny = [day.cost_cny for day in open_use if day.cost_cny is not None]
        found.append(
            Accrual(
                account_number=account_number,
                month=month,
                metered_kwh=total(metered) if metered else None,
                billed_kwh=total(billed[day].energy_kwh for day in within if day in billed),
                billed_cny=total(billed[day].amount_cny for day in within if day in billed),
                open_days=len(open_days),
                open_kwh=(total(open_kwh) if open_kwh else None) if open_days else Decimal(0),
                open_cny=total(open_cny) if len(open_cny) == len(open_days) else None,
                open_completeness=sum(day.completeness for day in open_use) / len(open_days) if open_days else None,
                age_days=(asked_on - open_days[0]).days if open_days else 0,
                crosses_year=any(issued.get(day, asked_on).year > day.year for day in within),
            )
        )
    return found


def by_day(bills: Iterable[Bill], use: Mapping[date, DayUse]) -> dict[date, BilledDay]:
    """Return each billed day's part of its bill; the last day takes what is left."""
    found: dict[date, BilledDay] = {}
    for bill in bills:
        within = _days(bill.start, bill.end)
        weights = [use[day].energy_kwh if day in use else None for day in within]
        shares = [weight for weight in weights if weight is not None]
        whole = total(shares)
        if len(shares) < len(within) or not whole:
            shares, whole = [Decimal(1)] * len(within), Decimal(len(within))
        left_kwh, left_cny = bill.energy_kwh, bill.amount_cny
        with exact():
            for day, share in zip(within[:-1], shares, strict=False):
                part = BilledDay(bill, bill.energy_kwh * share / whole, bill.amount_cny * share / whole)
                found[day] = part
                left_kwh, left_cny = left_kwh - part.energy_kwh, left_cny - part.amount_cny
        found[within[-1]] = BilledDay(bill, left_kwh, left_cny)
    return found


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days)]


def wrong(name: str, expected: str, expected_zh: str, found: object) -> InvalidInput:
    """Return what to say of a field that is not what was expected."""
    return InvalidInput(
        f"{name}: expected {expected}, found {found}", message_zh=f"{name}:应为 {expected_zh},实际为 {found}"
    )
