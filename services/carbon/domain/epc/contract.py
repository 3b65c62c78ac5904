"""An energy performance contract: whose meters, measured how, at which prices, shared how, signed for by whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from services.carbon.domain.epc.metering import Party, wrong
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.domain.savings.measurement.plan import MeasurementPlan, Period
from services.carbon.domain.savings.measurement.prices import AgreedPrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One version of a contract."""

    contract_id: str
    version: int
    name: str
    name_zh: str
    names: Mapping[Party, str]
    """What the parties are called."""
    signers: Mapping[Party, tuple[str, ...]]
    """Who may sign for each, as the audit log names them (``user:…``); nobody for both."""
    circuits: tuple[str, ...]
    """Whose meters show what is saved."""
    basis: Basis
    before: Period | None
    """The baseline; shutdowns find their own."""
    driver: str
    driver_before: float
    load_circuits: tuple[str, ...]
    prices: AgreedPrices
    company_share: Decimal
    """Of the saved money, 0 to 1."""
    start: date
    end: date
    """The day after its last."""

    def __post_init__(self) -> None:
        """Refuse a contract by which nothing can be stated.

        Raises:
            InvalidInput: It has no meters, no signers for a party or one for both, a share outside 0 to 1, or no days.
        """
        if not self.circuits:
            raise wrong(self.contract_id, "circuits", "at least one", None)
        if not 0 <= self.company_share <= 1:
            raise wrong(self.contract_id, "company_share", "a share from 0 to 1", self.company_share)
        if self.end <= self.start:
            raise wrong(self.contract_id, "end", f"a day after {self.start}", self.end)
        for party in Party:
            if not self.signers.get(party):
                raise wrong(self.contract_id, f"signers.{party}", "at least one person", None)
        both = sorted(set(self.signers[Party.CUSTOMER]) & set(self.signers[Party.COMPANY]))
        if both:
            raise wrong(self.contract_id, "signers", "nobody who signs for both parties", ", ".join(both))
        # A plan for the whole term: what is wrong with it is wrong with every period.
        self.plan(Period(start=self.start, end=min(self.end, date.fromordinal(self.start.toordinal() + 1))))

    def plan(self, period: Period, *, driver_after: float = 1.0) -> MeasurementPlan:
        """Return how a period of the contract is measured.

        Args:
            period: The civil days.
            driver_after: What the use is in proportion to, per day of the period.

        Raises:
            InvalidInput: The period is not within the contract, or not after its baseline.
        """
        if period.start < self.start or period.end > self.end:
            found = f"{period.start} to {period.end}"
            raise wrong(self.contract_id, "period", f"days from {self.start} to {self.end}", found)
        return MeasurementPlan(
            basis=self.basis,
            after=period,
            before=self.before,
            driver=self.driver,
            driver_before=self.driver_before,
            driver_after=driver_after,
            load_circuits=self.load_circuits,
        )

    def party_of(self, person: str) -> Party | None:
        """Return for which party a person may sign, None for nobody's."""
        for party, persons in self.signers.items():
            if person in persons:
                return party
        return None
