"""Electricity accounts (用电户号): what a customer is supplied by, which sheet prices it, and from when on.

An account changes its class, its voltage or its transformers from a day on; each such state is a version. What is
entered again for the same day corrects it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise

from libs.common.errors import Conflict, InvalidInput
from services.carbon.domain.tariff.basic import Mode, Transformer, billed_capacity

CAPACITY_MAX_KVA = Decimal(1_000_000)
"""Beyond it somebody has entered VA. [kVA]"""


class SharedCircuit(Conflict):
    """Two accounts claim to be supplied by one circuit on the same day."""

    code = "shared_circuit"
    title_zh = "回路已属于其他户号"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account from a day on."""

    account_number: str
    valid_from: date
    site_id: str
    circuits: tuple[str, ...] = ()
    """What its meter measures; empty means all feeds of the site."""
    region: str
    """Whose tariff: ``CN-44``."""
    customer_class: str
    voltage: str
    """As the price sheet prints it, for example ``1-10kV``."""
    transformers: tuple[Transformer, ...] = ()
    """Of its supply point; empty where they are not known."""
    contract_kw: Decimal | None = None
    """The declared demand; None where nothing was declared. [kW]"""
    basic_mode: Mode | None = None
    """What it pays its basic fee by; None for a single-part customer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be an account.

        Raises:
            InvalidInput: A rating or a contract lies outside of its limits.
        """
        ratings = [("transformers.rated_kva", one.rated_kva, "kVA") for one in self.transformers]
        if self.contract_kw is not None:
            ratings.append(("contract_kw", self.contract_kw, "kW"))
        for name, value, unit in ratings:
            if not (value.is_finite() and 0 < value <= CAPACITY_MAX_KVA):
                raise InvalidInput(
                    f"{name}: expected more than 0 and at most {CAPACITY_MAX_KVA} {unit}, found {value}",
                    message_zh=f"{name}:应大于 0 且不超过 {CAPACITY_MAX_KVA} {unit},实际为 {value}",
                )

    @property
    def capacity_kva(self) -> Decimal | None:
        """The capacity that is paid for, None where no transformer is known. [kVA]"""
        return billed_capacity(self.transformers) if self.transformers else None


@dataclass(frozen=True, slots=True)
class Supply:
    """Circuits that one account supplies during ``[first, last)``."""

    first: date
    last: date
    account: Account | None
    """None where nobody has entered an account."""
    circuits: tuple[str, ...]


def holding(accounts: Iterable[Account], on: date) -> list[Account]:
    """Return the state of every account that holds on a day, by number."""
    found: dict[str, Account] = {}
    for one in sorted(accounts, key=lambda one: one.valid_from):
        if one.valid_from <= on:
            found[one.account_number] = one
    return [found[number] for number in sorted(found)]


def supplies(
    accounts: Sequence[Account], circuits: Mapping[str, Sequence[str]], *, first: date, last: date
) -> list[Supply]:
    """Say which account of a site supplies which circuits, for every day of ``[first, last)``.

    A circuit is supplied by the account that names it, or else names the nearest of those that it hangs beneath; or
    else by the account that names none. Where several might be meant it is supplied by none.

    Args:
        accounts: Every state of every account of the site.
        circuits: Of the site, each with those that it hangs beneath, nearest first.
        first: The first day.
        last: The day after the last.

    Returns:
        Each circuit is in exactly one part of each day.
    """
    cuts = sorted({first, last} | {one.valid_from for one in accounts if first < one.valid_from < last})
    found = []
    for start, end in pairwise(cuts):
        held = holding(accounts, start)
        mine: dict[str | None, list[str]] = defaultdict(list)
        for circuit in sorted(circuits):
            account = _supplier(held, (circuit, *circuits[circuit]))
            mine[None if account is None else account.account_number].append(circuit)
        by_number = {one.account_number: one for one in held}
        for number, some in mine.items():
            found.append(Supply(start, end, None if number is None else by_number[number], tuple(some)))
    return found


def _supplier(held: Sequence[Account], chain: Sequence[str]) -> Account | None:
    for circuit in chain:
        naming = [one for one in held if circuit in one.circuits]
        if naming:
            return naming[0] if len(naming) == 1 else None
    rest = [one for one in held if not one.circuits]
    return rest[0] if len(rest) == 1 else None


def check_circuits(wanted: Account, others: Iterable[Account], feeds: Sequence[str]) -> None:
    """Check that nobody else is supplied by the circuits of an account.

    Args:
        wanted: The new version.
        others: The version of each other account of the site that holds on its first day.
        feeds: The feeds of the site, which two accounts without circuits would both take.

    Raises:
        SharedCircuit: Another account has one of them already.
    """
    for other in others:
        # One account may take what the others leave.
        both = sorted({*wanted.circuits} & {*other.circuits}) if wanted.circuits or other.circuits else sorted(feeds)
        if both:
            raise SharedCircuit(
                f"circuits: {', '.join(both)} of site {wanted.site_id} belong to account {other.account_number} "
                f"since {other.valid_from}; name the circuits of each account",
                message_zh=f"circuits:局站 {wanted.site_id} 的回路 {'、'.join(both)} 自 {other.valid_from} 起"
                f"属于户号 {other.account_number},请分别指定各户号的回路",
            )
