"""Bills of other media than electricity (水费、燃气费、供热费、供冷费) beside what was metered of their days.

A bill covers whole civil days and is compared with what its account's place used of the medium on exactly these days,
in the unit of the bill. It has no bands, and no tariff says what it should have cost. One that states no quantity (heat
by floor area, a fee for a year) is kept as it is and compared with nothing.

Source:
    The platform's energy methods, section 1.3; tables 3 and 4 of the data-access standard for what is billed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from libs.common.contracts.carbon import Medium
from services.carbon.domain.accounts import SharedCircuit
from services.carbon.domain.bills import UnknownAccount, Verdict, check_days, compared, refuse_overlap, wrong
from services.carbon.domain.media import MEDIA
from services.carbon.domain.money import decimal_of, exact

NAMES_ZH: Final[Mapping[Medium, str]] = {
    Medium.WATER: "水",
    Medium.GAS: "燃气",
    Medium.HEAT: "热",
    Medium.COLD: "冷",
    Medium.STEAM: "蒸汽",
    Medium.FUEL: "燃料",
}


class UnknownMediumAccount(UnknownAccount):
    """A bill names an account of a medium that no site has."""

    title_zh = "户号不存在"


@dataclass(frozen=True, slots=True)
class BilledUnit:
    """A unit that a medium is billed in."""

    point: str
    """The register that counts the same (``domain/media.py``)."""
    factor: Decimal
    """How many of it the register's unit is."""


def _of(point: str, **factors: str) -> dict[str, BilledUnit]:
    return {MEDIA[point].unit: BilledUnit(point, Decimal(1))} | {
        unit: BilledUnit(point, Decimal(factor)) for unit, factor in factors.items()
    }


_HEAT: Final = {"GJ": "0.0036", "MWh": "0.001"}
UNITS: Final[Mapping[Medium, Mapping[str, BilledUnit]]] = {
    Medium.WATER: _of("water_volume", t="1"),  # a tonne of water is a cubic metre
    Medium.GAS: _of("gas_volume") | _of("gas_volume_standard") | _of("gas_volume_normal"),
    Medium.HEAT: _of("heat_energy", **_HEAT),
    Medium.COLD: _of("cold_energy", **_HEAT),
    Medium.STEAM: _of("steam_mass"),
    Medium.FUEL: _of("fuel_volume", L="1000") | _of("fuel_mass", kg="1000"),
}
"""What each medium may be billed in; all factors are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumAccount:
    """An account of a water, gas or heating company (销根号、客户编号)."""

    medium: Medium
    account_number: str
    site_id: str
    circuit_id: str | None = None
    """The circuit that its meter is bound to; None is all that the site uses of the medium."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumBill:
    """One bill of one account, as printed."""

    medium: Medium
    account_number: str
    number: str
    start: date
    end: date
    """The day after the last."""
    quantity: Decimal | None = None
    """None where the bill states none. [unit]"""
    unit: str | None = None
    """One of ``UNITS``; None without a quantity."""
    amount_cny: Decimal
    """All that is to be paid, tax included; a credit is below 0. [CNY]"""
    issued_on: date

    def __post_init__(self) -> None:
        """Refuse a bill that contradicts itself.

        Raises:
            InvalidInput: Naming the field.
        """
        check_days(self.start, self.end)
        known = ", ".join(UNITS[self.medium])
        if self.quantity is None:
            if self.unit is not None:
                raise wrong("unit", "none without a quantity", "无用量时不填单位", self.unit)
        elif self.unit not in UNITS[self.medium]:
            expected = f"one of {known} for {self.medium}"
            raise wrong("unit", expected, f"{known} 之一({NAMES_ZH[self.medium]})", self.unit or "none")
        elif not (self.quantity.is_finite() and self.quantity >= 0):
            raise wrong("quantity", f"0 or more {self.unit}", f"不小于 0 的用量({self.unit})", self.quantity)
        if not self.amount_cny.is_finite():
            raise wrong("amount_cny", "a finite number", "有限数值", self.amount_cny)

    @property
    def billed_unit(self) -> BilledUnit | None:
        """What its quantity is in; None without one."""
        return None if self.unit is None else UNITS[self.medium][self.unit]


@dataclass(frozen=True, slots=True)
class ReconciledMediumBill:
    """A bill beside the meters of its days."""

    bill: MediumBill
    metered: Decimal | None
    """What is known of it; None where nothing is, which is not zero. [unit of the bill]"""
    completeness: float
    """Share of the days' intervals that are known, 0 to 1."""
    difference: Decimal | None
    """Billed minus metered. [unit of the bill]"""
    difference_share: float | None
    """Of the billed quantity; None where nothing was billed. [1]"""
    verdict: Verdict


def accept_account(wanted: MediumAccount, others: Iterable[MediumAccount]) -> None:
    """Check that a circuit has one account of a medium.

    Raises:
        SharedCircuit: Another account of the medium has it already.
    """
    for other in others:
        if (
            wanted.circuit_id is not None
            and (other.medium, other.circuit_id) == (wanted.medium, wanted.circuit_id)
            and other.account_number != wanted.account_number
        ):
            raise SharedCircuit(
                f"circuit {wanted.circuit_id} belongs to {wanted.medium} account {other.account_number} already",
                message_zh=f"回路 {wanted.circuit_id} 已属于{NAMES_ZH[wanted.medium]}户号 {other.account_number}",
            )


def accept_medium_bill(
    bill: MediumBill, *, account: MediumAccount | None, bills: Iterable[MediumBill]
) -> MediumAccount:
    """Check a bill against what is there; return its account.

    Args:
        bill: The new one.
        account: Its account; None where no site has it.
        bills: Those of its medium that are there; one of the same number is the version that the new one replaces.

    Raises:
        UnknownMediumAccount: No site has the account.
        OverlappingBill: Another bill of the account covers some of its days.
    """
    if account is None:
        raise unknown_account(bill.medium, bill.account_number)
    refuse_overlap(bill, (other for other in bills if other.medium is bill.medium))
    return account


def unknown_account(medium: Medium, number: str) -> UnknownMediumAccount:
    """Return what to say of an account that no site has."""
    return UnknownMediumAccount(
        f"account_number: expected the {medium} account of a site, found {number!r}",
        message_zh=f"account_number:应为某局站的{NAMES_ZH[medium]}户号,实际为 {number!r}",
    )


def reconcile_medium(bill: MediumBill, quantity: float | None, completeness: float) -> ReconciledMediumBill:
    """Return a bill beside what was metered on its days.

    Args:
        bill: The bill.
        quantity: What is known of the place's use, in the unit of the register; None where nothing is.
        completeness: Share of the intervals that are known, 0 to 1.
    """
    unit = bill.billed_unit
    if quantity is None or unit is None or bill.quantity is None:
        return ReconciledMediumBill(bill, None, completeness, None, None, Verdict.NOT_COMPARABLE)
    with exact():
        metered = unit.factor * decimal_of(quantity)
    return ReconciledMediumBill(bill, metered, completeness, *compared(bill.quantity, metered, completeness))
