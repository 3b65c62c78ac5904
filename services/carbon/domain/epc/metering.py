"""The meters behind a statement: their registers at its start and end, and what the two receivers say of them.

Data of the meters are sent to both parties at once (double-send, 双发). A statement goes on only where both receivers
have the same energy, or where a person of each party has taken the difference as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.errors import InvalidInput

RECONCILED_SHARE = 0.01
"""Two receivers' energies of one meter may differ by this share of the larger."""
REGISTER_TOLERANCE_KWH = 1e-6


class Party(StrEnum):
    """Who signs."""

    CUSTOMER = "customer"
    """Uses the energy."""
    COMPANY = "company"
    """The energy-service company."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """One meter's register at the start and the end of the period."""

    circuit_id: str
    device_id: str
    start_at: datetime
    start_kwh: float
    """As the meter showed it, before any ratio. [kWh]"""
    end_at: datetime
    end_kwh: float
    ratio: float = 1.0
    modulus_kwh: float | None = None
    """First value that the register cannot show; None where no rollover is allowed for. [kWh]"""

    def __post_init__(self) -> None:
        """Refuse registers from which no energy follows.

        Raises:
            InvalidInput: A value is negative, not finite or beyond the modulus, or the end is before the start.
        """
        for name in ("start_kwh", "end_kwh", "ratio"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name == "ratio" and value == 0):
                raise wrong(self.device_id, name, "a number of 0 or more (ratio: above 0)", value)
        if self.modulus_kwh is not None and max(self.start_kwh, self.end_kwh) >= self.modulus_kwh:
            raise wrong(self.device_id, "register", f"less than {self.modulus_kwh:g} kWh", self.end_kwh)
        if self.end_at <= self.start_at:
            raise wrong(self.device_id, "end_at", f"a time after {self.start_at.isoformat()}", self.end_at)
        if self.end_kwh < self.start_kwh and self.modulus_kwh is None:
            raise wrong(self.device_id, "end_kwh", f"{self.start_kwh:g} kWh or more", self.end_kwh)

    @property
    def energy_kwh(self) -> float:
        """What the meter counted between the two, with at most one rollover. [kWh]"""
        counted = self.end_kwh - self.start_kwh
        return (counted if counted >= 0 else counted + (self.modulus_kwh or 0.0)) * self.ratio


class Agreement(StrEnum):
    """What the reconciliation of one meter came to."""

    AGREED = "agreed"
    DEVIATES = "deviates"
    MISSING = "missing"
    """The other receiver has said nothing."""
    ACCEPTED = "accepted"
    """It deviates or is missing, and a person of each party has taken it as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The same meter as its two receivers have it: data are sent to both at once (double-send, 双发)."""

    device_id: str
    ours_kwh: float
    theirs_kwh: float | None
    """None where the other receiver has none, which is not zero. [kWh]"""
    theirs_source: str = ""
    """Where the other receiver's figure was taken from."""
    accepted_by: tuple[tuple[Party, str], ...] = ()
    """Who of which party took a deviation as it is."""
    reason: str = ""

    @property
    def difference_kwh(self) -> float | None:
        """Theirs minus ours. [kWh]"""
        return None if self.theirs_kwh is None else self.theirs_kwh - self.ours_kwh

    @property
    def agreement(self) -> Agreement:
        """Whether both say the same, within ``RECONCILED_SHARE``."""
        difference = self.difference_kwh
        if difference is not None and self.theirs_kwh is not None:
            reach = RECONCILED_SHARE * max(abs(self.ours_kwh), abs(self.theirs_kwh)) + REGISTER_TOLERANCE_KWH
            if abs(difference) <= reach:
                return Agreement.AGREED
        parties = {party for party, _ in self.accepted_by}
        persons = {person for _, person in self.accepted_by}
        if len(parties) == len(persons) == len(Party) and self.reason.strip():
            return Agreement.ACCEPTED
        return Agreement.MISSING if difference is None else Agreement.DEVIATES


def metered_kwh(registers: Sequence[Registers]) -> float:
    """Return the energy of all meters of a statement. [kWh]"""
    return math.fsum(one.energy_kwh for one in registers)


def wrong(subject: str, field: str, expected: str, found: object) -> InvalidInput:
    """Return the refusal of a value, naming what, where, what was expected and what was found."""
    return InvalidInput(
        f"{subject}: {field}: expected {expected}, found {found}",
        message_zh=f"{subject}:{field}:应为 {expected},实际为 {found}",
    )
