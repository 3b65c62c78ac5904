"""Green electricity certificates and contracts: what makes one count, and that none counts twice.

A certificate stands for 1 MWh. It counts in an inventory when it was cancelled for, or allocated to, this
organisation, is of the same market, of the year of consumption, not sold together with the power to somebody else,
and not used by another inventory.

Source:
    GHG Protocol Scope 2 Guidance (2015), chapter 7 (quality criteria); the platform's energy methods, section 5.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from libs.common.errors import Conflict, InvalidInput

CERTIFICATE_KWH = 1000.0
"""One certificate stands for this much. [kWh]"""
MAINLAND = "CN"
"""The market of mainland China."""


class InstrumentKind(StrEnum):
    """What stands behind covered energy."""

    CERTIFICATE = "certificate"
    """A green electricity certificate bought apart from the power."""
    GREEN_POWER = "green_power"
    """Power traded together with its certificates."""
    SUPPLIER = "supplier"
    """A supplier's own factor, with evidence."""


class CertificateUsedTwice(Conflict):
    """A certificate stands in another inventory already."""

    code = "certificate_used_twice"
    title_zh = "绿证重复使用"


class CertificateRefused(InvalidInput):
    """A certificate does not count in this inventory."""

    code = "certificate_refused"
    title_zh = "绿证不可用"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate as its registry shows it."""

    number: str
    """Unique in its registry; the key of use."""
    kind: InstrumentKind
    market: str
    vintage: int
    """Civil year of generation."""
    technology: str
    beneficiary: str
    """The organisation that it was cancelled for or allocated to."""
    cancelled_on: date | None
    """None while it is only held, and then it covers nothing."""
    sold_with_power: bool
    """Whether it went to somebody else together with the power."""
    evidence: str
    kwh: float = CERTIFICATE_KWH

    def problems(self, *, year: int, organisation: str) -> Sequence[tuple[str, str]]:
        """Return why it does not count in an organisation's year, in English and Chinese; nothing when it does."""
        found: list[tuple[str, str]] = []
        if self.cancelled_on is None:
            found.append(("it is neither cancelled nor allocated", "尚未核销或划转"))
        if self.beneficiary != organisation:
            found.append(
                (
                    f"it was cancelled for {self.beneficiary}, not {organisation}",
                    f"核销受益方为 {self.beneficiary},不是 {organisation}",
                )
            )
        if self.market != MAINLAND:
            found.append((f"its market is {self.market}, expected {MAINLAND}", f"市场为 {self.market},应为 {MAINLAND}"))
        if self.vintage != year:
            found.append((f"its vintage is {self.vintage}, expected {year}", f"电量年份为 {self.vintage},应为 {year}"))
        if self.sold_with_power:
            found.append(("it was sold with the power to somebody else", "已随电量售予他人"))
        if not 0 < self.kwh <= CERTIFICATE_KWH:
            found.append(
                (
                    f"it stands for {self.kwh:g} kWh, expected at most {CERTIFICATE_KWH:g}",
                    f"对应电量 {self.kwh:g} kWh,应不超过 {CERTIFICATE_KWH:g}",
                )
            )
        if not self.evidence:
            found.append(("it has no evidence", "缺少证明材料"))
        return found


@dataclass(frozen=True, slots=True)
class Registered:
    """A certificate as it is registered here; what its registry says of it later is another revision."""

    certificate: Certificate
    revision: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Energy of one certificate that covers the consumption of one line."""

    number: str
    line: str
    kwh: float


def check_certificates(
    certificates: Iterable[Certificate], *, year: int, organisation: str, inventory: str, used: Mapping[str, str]
) -> None:
    """Refuse certificates that do not count.

    Args:
        certificates: Those that the inventory wants to use.
        year: Civil year of consumption.
        organisation: Whose inventory.
        inventory: Its id; a restatement keeps it.
        used: Certificate numbers in use and the inventory that uses each.

    Raises:
        CertificateUsedTwice: One is used by another inventory, or is named twice here.
        CertificateRefused: One does not count; all reasons are told.
    """
    seen: set[str] = set()
    for one in certificates:
        holder = used.get(one.number, inventory)
        if holder != inventory or one.number in seen:
            where = holder if holder != inventory else "this list"
            where_zh = holder if holder != inventory else "本清单"
            raise CertificateUsedTwice(
                f"certificate {one.number} is used by {where} already",
                message_zh=f"绿证 {one.number} 已被 {where_zh} 使用",
                number=one.number,
                inventory=holder,
            )
        seen.add(one.number)
        if problems := one.problems(year=year, organisation=organisation):
            raise CertificateRefused(
                f"certificate {one.number}: {'; '.join(english for english, _ in problems)}",
                message_zh=f"绿证 {one.number}:{';'.join(chinese for _, chinese in problems)}",
                number=one.number,
            )


def spread(certificates: Sequence[Certificate], needs: Mapping[str, float]) -> list[Allocation]:
    """Cover lines with certificates, one after the other in the given order; a certificate may be split between lines.

    Args:
        certificates: In the order in which they shall be used up.
        needs: Uncovered consumption by line, in the order in which it shall be covered. [kWh]

    Returns:
        Allocations; for no line more than it needs, of no certificate more than it stands for.
    """
    found: list[Allocation] = []
    rest = [(one.number, one.kwh) for one in certificates]
    for line, need in needs.items():
        missing = need
        while missing > 0 and rest:
            number, left = rest[0]
            taken = min(left, missing)
            found.append(Allocation(number, line, taken))
            missing -= taken
            rest[0] = (number, left - taken)
            if rest[0][1] <= 0:
                rest.pop(0)
    return found
