"""The statement of an energy performance contract (合同能源管理): what both parties sign and then cannot change.

A statement names the registers at its start and end, the measured saving with its method and uncertainty, the tariff,
how the money is shared, and what the two receivers of the same meters say about them. Both parties sign the same
content, by its digest. From the first signature on the content is fixed; once both have signed, the statement is
frozen for good, and a correction is another statement beside it.

    draft → offered → signed by one → frozen
              └──── withdrawn by either party before both have signed

Money is shared in fen; what the shares leave over by rounding goes to the party that loses most by it, so that the
two amounts always sum to the whole.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import Conflict
from services.carbon.domain.epc.metering import (
    REGISTER_TOLERANCE_KWH,
    Agreement,
    Party,
    Reconciliation,
    Registers,
    wrong,
)
from services.carbon.domain.savings.measurement.measured import MeasuredSaving
from services.carbon.domain.savings.projects.measures import refuse_above_baseline

FEN_PER_CNY = 100


class State(StrEnum):
    """How far a statement is."""

    DRAFT = "draft"
    OFFERED = "offered"
    """Both parties may sign."""
    SIGNED_BY_ONE = "signed_by_one"
    FROZEN = "frozen"
    WITHDRAWN = "withdrawn"


class Frozen(Conflict):
    """A statement that is signed cannot be changed."""

    code = "statement_frozen"
    title_zh = "结算单已签署"


class NotReconciled(Conflict):
    """The two receivers of a meter disagree, and nobody has answered for it."""

    code = "not_reconciled"
    title_zh = "双发数据未对账"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Saved energy in one price band."""

    band: str
    energy_kwh: float
    price_cny_per_kwh: Decimal

    @property
    def money_cny(self) -> Decimal:
        """Unrounded. [CNY]"""
        return Decimal(str(self.energy_kwh)) * self.price_cny_per_kwh


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything that is signed."""

    statement_id: str
    contract_id: str
    contract_version: int
    version: int
    start: date
    end: date
    """The first day after the period, civil."""
    registers: tuple[Registers, ...]
    saving: MeasuredSaving
    lines: tuple[Line, ...]
    tariff_id: str
    tariff_version: int
    company_share: Decimal
    """Of the saved money, 0 to 1."""
    reconciliation: tuple[Reconciliation, ...]
    supersedes: str | None = None
    """The frozen statement that this one corrects."""

    def __post_init__(self) -> None:
        """Refuse what cannot be stated.

        Raises:
            InvalidInput: A saving that is unknown or does not cover the period, lines that do not sum to it, a share
                outside 0 to 1, registers outside the period, or a meter that is named twice.
            SavingAboveBaseline: More is saved than would have been used.
        """
        if self.end <= self.start:
            raise wrong(self.statement_id, "end", f"a day after {self.start}", self.end)
        if not 0 <= self.company_share <= 1:
            raise wrong(self.statement_id, "company_share", "a share from 0 to 1", self.company_share)
        saved = self.saving.saving_kwh
        if saved is None:
            raise wrong(self.statement_id, "saving", "a measured saving", None)
        if (self.saving.start, self.saving.end) != (self.start, self.end):
            raise wrong(
                self.statement_id,
                "saving",
                f"one of {self.start} to {self.end}",
                f"{self.saving.start} to {self.saving.end}",
            )
        refuse_above_baseline(self.statement_id, saved, self.saving.baseline_kwh, "kWh")
        lines = math.fsum(one.energy_kwh for one in self.lines)
        if not math.isclose(lines, saved, rel_tol=1e-9, abs_tol=REGISTER_TOLERANCE_KWH):
            raise wrong(self.statement_id, "lines", f"a sum of {saved:g} kWh", f"{lines:g} kWh")
        self._check_registers()

    def _check_registers(self) -> None:
        if not self.registers:
            raise wrong(self.statement_id, "registers", "at least one meter", None)
        opening = datetime.combine(self.start, datetime.min.time(), CIVIL_ZONE)
        closing = datetime.combine(self.end, datetime.min.time(), CIVIL_ZONE)
        for one in self.registers:
            if one.start_at < opening or one.end_at > closing:
                raise wrong(one.device_id, "registers", f"times from {opening} to {closing}", one.end_at)
        meters = [one.device_id for one in self.registers]
        if len(set(meters)) < len(meters):
            raise wrong(self.statement_id, "registers", "each meter once", ", ".join(meters))
        compared = [one.device_id for one in self.reconciliation]
        if sorted(compared) != sorted(meters):
            raise wrong(self.statement_id, "reconciliation", f"the meters {', '.join(meters)}", ", ".join(compared))
        for meter, other in zip(
            sorted(self.registers, key=lambda one: one.device_id),
            sorted(self.reconciliation, key=lambda one: one.device_id),
            strict=True,
        ):
            if not math.isclose(meter.energy_kwh, other.ours_kwh, rel_tol=1e-9, abs_tol=REGISTER_TOLERANCE_KWH):
                raise wrong(
                    meter.device_id, "reconciliation.ours_kwh", f"the registers' {meter.energy_kwh:g}", other.ours_kwh
                )

    @property
    def money_fen(self) -> int:
        """The saved money, rounded half up to the fen, as bills are. [fen]"""
        exact = sum((one.money_cny for one in self.lines), Decimal(0)) * FEN_PER_CNY
        return int((exact + Decimal("0.5")).to_integral_value(ROUND_FLOOR))

    @property
    def shares_fen(self) -> dict[Party, int]:
        """What each party gets of the saved money; together all of it. [fen]"""
        return share(self.money_fen, self.company_share)

    @property
    def open_meters(self) -> tuple[str, ...]:
        """Meters about which the receivers disagree and nobody has answered for it."""
        settled = (Agreement.AGREED, Agreement.ACCEPTED)
        return tuple(one.device_id for one in self.reconciliation if one.agreement not in settled)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical form of everything above, as both parties sign it, in hexadecimal."""
        canonical = json.dumps(_plain(asdict(self)), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One party's signature."""

    party: Party
    person: str
    signed_at: datetime
    digest: str
    """Of what the person saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement with its signatures."""

    content: Content
    state: State = State.DRAFT
    signatures: tuple[Signature, ...] = ()
    withdrawn_reason: str | None = None

    def revise(self, content: Content) -> "Statement":
        """Return a draft with other content and the next version; signatures there are none of.

        Raises:
            Frozen: A party has signed. Before both have, either may withdraw; after that, a new statement that
                ``supersedes`` this one says what is different.
        """
        if self.signatures or self.state in (State.FROZEN, State.WITHDRAWN):
            raise self._fixed()
        return Statement(content=replace(content, version=self.content.version + 1))

    def offer(self) -> "Statement":
        """Return the statement ready to be signed.

        Raises:
            Conflict: It is no draft.
            NotReconciled: A meter's receivers disagree and nobody has answered for it.
        """
        if self.state is not State.DRAFT:
            raise self._fixed()
        if self.content.open_meters:
            meters = ", ".join(self.content.open_meters)
            raise NotReconciled(
                f"statement {self.content.statement_id}: the receivers disagree about {meters}",
                message_zh=f"结算单 {self.content.statement_id}:以下电表双发数据不一致:{meters}",
                meters=list(self.content.open_meters),
            )
        return replace(self, state=State.OFFERED)

    def sign(self, signature: Signature) -> "Statement":
        """Return the statement with a signature; with both it is frozen.

        Raises:
            Conflict: It is not offered, the party has signed, the same person signs for both, or somebody else's
                content was signed.
        """
        if self.state not in (State.OFFERED, State.SIGNED_BY_ONE):
            raise self._fixed()
        subject = f"statement {self.content.statement_id}"
        if signature.digest != self.content.digest:
            raise Conflict(
                f"{subject}: the content has changed since it was shown: expected {self.content.digest}",
                message_zh="结算单内容在展示后已变化,请重新查看后签署",
            )
        if any(one.party is signature.party for one in self.signatures):
            raise Conflict(f"{subject}: {signature.party} has signed already", message_zh="该方已签署")
        if any(one.person == signature.person for one in self.signatures):
            raise Conflict(f"{subject}: one person cannot sign for both parties", message_zh="同一人不能代表双方签署")
        signatures = (*self.signatures, signature)
        state = State.FROZEN if len(signatures) == len(Party) else State.SIGNED_BY_ONE
        return replace(self, state=state, signatures=signatures)

    def withdraw(self, reason: str) -> "Statement":
        """Return the statement withdrawn, before both have signed.

        Raises:
            Frozen: Both have signed.
            InvalidInput: There is no reason.
        """
        if self.state in (State.FROZEN, State.WITHDRAWN):
            raise self._fixed()
        if not reason.strip():
            raise wrong(self.content.statement_id, "reason", "a text", reason)
        return replace(self, state=State.WITHDRAWN, withdrawn_reason=reason)

    def _fixed(self) -> Frozen:
        return Frozen(
            f"statement {self.content.statement_id} is {self.state}; this cannot be done any more or not yet",
            message_zh=f"结算单 {self.content.statement_id} 当前状态为 {self.state},不能进行该操作",
            state=self.state.value,
        )


def share(money_fen: int, company_share: Decimal) -> dict[Party, int]:
    """Divide money between the parties so that nothing is lost and nothing appears. [fen]

    Args:
        money_fen: The whole; negative where nothing was saved and the contract has both bear it.
        company_share: 0 to 1.
    """
    exact = {Party.COMPANY: money_fen * company_share, Party.CUSTOMER: money_fen * (1 - company_share)}
    found = {party: int(amount.to_integral_value(ROUND_FLOOR)) for party, amount in exact.items()}
    # Of equal losses the customer's is made good, so that the result never depends on an order of parties.
    losers = sorted(exact, key=lambda party: (found[party] - exact[party], party is Party.COMPANY))
    for party in losers[: money_fen - sum(found.values())]:
        found[party] += 1
    return found


def corrected_by(before: Content, after: Content) -> Mapping[Party, int]:
    """Return what a correcting statement gives each party beyond the frozen one. [fen]

    Raises:
        InvalidInput: ``after`` does not supersede ``before``.
    """
    if after.supersedes != before.statement_id:
        raise wrong(after.statement_id, "supersedes", before.statement_id, after.supersedes)
    return {party: after.shares_fen[party] - before.shares_fen[party] for party in Party}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: times in UTC, decimals and floats as their shortest exact texts."""
    match value:
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case set() | frozenset():
            return sorted(_plain(one) for one in value)
        case bool() | None | int():
            return value
        case float():
            return repr(value)
        case datetime():
            return value.astimezone(CIVIL_ZONE).isoformat()
        case Decimal():
            return str(value.normalize())
    return str(value)
