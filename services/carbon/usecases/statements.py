"""Statements of energy performance contracts: made from the books, reconciled, offered, signed by both, then fixed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from libs.common.clock import Clock
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.ids import new_id
from libs.common.tokens import Principal
from services.carbon.documents.statements import contract_of
from services.carbon.domain.epc.contract import Contract
from services.carbon.domain.epc.metering import Party, Reconciliation, Registers
from services.carbon.domain.epc.statement import (
    Content,
    Line,
    Signature,
    State,
    Statement,
    corrected_by,
)
from services.carbon.domain.savings.measurement.measured import Adjustment
from services.carbon.domain.savings.measurement.plan import Period
from services.carbon.store import statements as store
from services.carbon.store.statements import Brief, ContractRow
from services.carbon.usecases.measurements import Measurements
from services.carbon.usecases.meterends import MeterEnds
from services.carbon.usecases.ports import Audit, audit_event


class UnknownContract(NotFound):
    """There is no such contract."""

    code = "unknown_contract"
    title_zh = "合同不存在"


class UnknownStatement(NotFound):
    """There is no such statement."""

    code = "unknown_statement"
    title_zh = "结算单不存在"


class PeriodStated(Conflict):
    """A day would be stated twice."""

    code = "period_stated"
    title_zh = "该时段已有结算单"


class NotASigner(Forbidden):
    """The contract does not name the person for the party."""

    code = "not_a_signer"
    title_zh = "非合同约定签署人"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """An adjustment that a statement is made with."""

    energy_kwh: float
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStatement:
    """A statement with its contract, and what it changes about the one that it corrects."""

    statement: Statement
    contract: Contract
    corrects: Mapping[Party, int] | None
    """What each party gets beyond the superseded statement; None where it supersedes none. [fen]"""


class Statements:
    """Keeps contracts and their statements."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        audit: Audit,
        measurements: Measurements,
        meter_ends: MeterEnds,
    ) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit
        self._measurements = measurements
        self._meter_ends = meter_ends

    # Contracts

    async def put_contract(self, document: Mapping[str, Any], *, version: int, who: Principal) -> ContractRow:
        """Store a version of a contract: 1 for a new one, else the one after the latest.

        Raises:
            InvalidInput: The domain refuses it.
            Conflict: That version is there already, or is not the next.
        """
        contract = contract_of(document, version=version)
        row = ContractRow(contract.contract_id, version, document, who.actor, self._clock.now())
        async with self._db.write() as conn:
            await store.lock_contract(conn, contract.contract_id)
            before = await store.fetch_contract(conn, contract.contract_id)
            latest = 0 if before is None else before.version
            if version != latest + 1 or not await store.add_contract(conn, row):
                raise Conflict(
                    f"contract {contract.contract_id}: expected version {latest + 1}, found {version}",
                    message_zh=f"合同 {contract.contract_id}:版本应为 {latest + 1},实际为 {version}",
                )
            said = {"version": version, "name": contract.name}
            event = audit_event(who, "contract.put", f"contract:{contract.contract_id}", row.changed_at, after=said)
            await self._audit(conn, event)
        return row

    async def contract(self, contract_id: str) -> ContractRow:
        """Return a contract as it is.

        Raises:
            UnknownContract: There is none.
        """
        async with self._db.read() as conn:
            return await self._contract(conn, contract_id)

    async def contracts(self, *, after: str, limit: int) -> Sequence[ContractRow]:
        """Return contracts by id."""
        async with self._db.read() as conn:
            return await store.fetch_contracts(conn, after=after, limit=limit)

    # Making and changing drafts

    async def draft(
        self,
        contract_id: str,
        *,
        start: date,
        end: date,
        who: Principal,
        driver_after: float = 1.0,
        supersedes: str | None = None,
        corrections: Sequence[Correction] = (),
    ) -> ShownStatement:
        """Make a draft of ``[start, end)`` from what the books say now.

        Raises:
            UnknownContract: There is no such contract.
            PeriodStated: Another statement says something of a day of it, and this one does not supersede it.
            NoRegisters: A meter has no registers in the period.
            InvalidInput: The period is not within the contract, or nothing was measured in it.
        """
        async with self._db.read() as conn:
            row = await self._contract(conn, contract_id)
            contract = contract_of(row.document, version=row.version)
            content = await self._content(
                conn,
                contract,
                Period(start=start, end=end),
                statement_id=new_id(),
                supersedes=supersedes,
                driver_after=driver_after,
                adjustments=self._adjustments(corrections, who),
            )
        statement = Statement(content=content)
        async with self._db.write() as conn:
            await store.lock_contract(conn, contract_id)
            _require_free(content, await store.fetch_briefs(conn, contract_id))
            await store.add_statement(conn, statement, who.actor, self._clock.now())
            await self._told(conn, "statement.draft", statement, who)
        return await self.shown(content.statement_id)

    async def compute_again(
        self,
        statement_id: str,
        *,
        who: Principal,
        driver_after: float = 1.0,
        corrections: Sequence[Correction] = (),
    ) -> ShownStatement:
        """Make a statement that nobody has signed anew from what the books say now.

        The other receiver's figures stay; what was taken as it is has to be taken again.

        Raises:
            UnknownStatement: There is none.
            Frozen: A party has signed.
        """
        async with self._db.read() as conn:
            before = await self._statement(conn, statement_id)
            old = before.content
            row = await self._contract(conn, old.contract_id)
            content = await self._content(
                conn,
                contract_of(row.document, version=row.version),
                Period(start=old.start, end=old.end),
                statement_id=statement_id,
                supersedes=old.supersedes,
                driver_after=driver_after,
                adjustments=self._adjustments(corrections, who),
                theirs={one.device_id: one for one in old.reconciliation},
            )
        return await self._change(statement_id, "statement.compute_again", who, lambda one: one.revise(content))

    async def reconcile(
        self, statement_id: str, device_id: str, *, theirs_kwh: float, source: str, who: Principal
    ) -> ShownStatement:
        """Enter what the other receiver has of a meter.

        Raises:
            UnknownStatement: There is none.
            NotFound: It has no such meter.
            Frozen: A party has signed.
        """

        def enter(one: Reconciliation) -> Reconciliation:
            return replace(one, theirs_kwh=theirs_kwh, theirs_source=source, accepted_by=(), reason="")

        return await self._reconciled(statement_id, device_id, "statement.reconcile", who, enter)

    async def accept(self, statement_id: str, device_id: str, *, reason: str, who: Principal) -> ShownStatement:
        """Take a meter's difference as it is, for the party that the contract names the person for.

        Raises:
            UnknownStatement: There is none.
            NotFound: It has no such meter.
            NotASigner: The contract does not name the person.
            Frozen: A party has signed.
        """
        party = await self._party(statement_id, who)

        def take(one: Reconciliation) -> Reconciliation:
            others = tuple(each for each in one.accepted_by if each[0] is not party)
            said = reason if not others or one.reason == reason else f"{one.reason}; {reason}"
            return replace(one, accepted_by=(*others, (party, who.actor)), reason=said)

        return await self._reconciled(statement_id, device_id, "statement.accept_difference", who, take)

    # Signing

    async def offer(self, statement_id: str, who: Principal) -> ShownStatement:
        """Put a draft before both parties.

        Raises:
            UnknownStatement: There is none.
            NotReconciled: The receivers of a meter disagree, and nobody has answered for it.
            Frozen: It is no draft.
        """
        return await self._change(statement_id, "statement.offer", who, lambda one: one.offer())

    async def sign(self, statement_id: str, *, party: Party, digest: str, who: Principal) -> ShownStatement:
        """Sign for a party what was shown; with both signatures the statement is frozen.

        Raises:
            UnknownStatement: There is none.
            NotASigner: The contract does not name the person for this party.
            Conflict: It is not offered, the party has signed, or something else was shown.
        """
        if await self._party(statement_id, who) is not party:
            raise _no_signer(statement_id, who, party)
        signature = Signature(party=party, person=who.actor, signed_at=self._clock.now(), digest=digest)
        return await self._change(statement_id, "statement.sign", who, lambda one: one.sign(signature))

    async def withdraw(self, statement_id: str, *, reason: str, who: Principal) -> ShownStatement:
        """Withdraw a statement that not both have signed.

        Raises:
            UnknownStatement: There is none.
            NotASigner: The contract does not name the person.
            Frozen: Both have signed.
        """
        await self._party(statement_id, who)
        return await self._change(statement_id, "statement.withdraw", who, lambda one: one.withdraw(reason))

    # Reading

    async def shown(self, statement_id: str) -> ShownStatement:
        """Return a statement with its contract as it was when it was made.

        Raises:
            UnknownStatement: There is none.
        """
        async with self._db.read() as conn:
            statement = await self._statement(conn, statement_id)
            content = statement.content
            row = await self._contract(conn, content.contract_id, content.contract_version)
            corrects = None
            if content.supersedes is not None:
                corrects = corrected_by((await self._statement(conn, content.supersedes)).content, content)
        return ShownStatement(
            statement=statement, contract=contract_of(row.document, version=row.version), corrects=corrects
        )

    async def of_contract(self, contract_id: str) -> Sequence[Brief]:
        """Return every statement of a contract in brief, by period.

        Raises:
            UnknownContract: There is no such contract.
        """
        async with self._db.read() as conn:
            await self._contract(conn, contract_id)
            return await store.fetch_briefs(conn, contract_id)

    # What these are made of

    async def _content(
        self,
        conn: ReadConn,
        contract: Contract,
        period: Period,
        *,
        statement_id: str,
        supersedes: str | None,
        driver_after: float,
        adjustments: Sequence[Adjustment],
        theirs: Mapping[str, Reconciliation] = {},
    ) -> Content:
        measurement = await self._measurements.measure(
            conn, contract.circuits, contract.plan(period, driver_after=driver_after), adjustments=adjustments
        )
        registers = await self._meter_ends.of(conn, contract.circuits, period)
        return Content(
            statement_id=statement_id,
            contract_id=contract.contract_id,
            contract_version=contract.version,
            version=1,
            start=period.start,
            end=period.end,
            registers=tuple(registers),
            saving=measurement.saving,
            lines=tuple(
                Line(band=band.band, energy_kwh=energy, price_cny_per_kwh=Decimal(str(band.price_cny_per_kwh)))
                for band, energy in contract.prices.split(measurement.by_slot)
            ),
            tariff_id=contract.prices.prices_id,
            tariff_version=contract.prices.version,
            company_share=contract.company_share,
            reconciliation=tuple(_compared(one, theirs.get(one.device_id)) for one in registers),
            supersedes=supersedes,
        )

    async def _reconciled(
        self,
        statement_id: str,
        device_id: str,
        action: str,
        who: Principal,
        change: Callable[[Reconciliation], Reconciliation],
    ) -> ShownStatement:
        def revise(one: Statement) -> Statement:
            if device_id not in [each.device_id for each in one.content.reconciliation]:
                raise NotFound(
                    f"statement {statement_id} has no meter {device_id}",
                    message_zh=f"结算单 {statement_id} 不含电表 {device_id}",
                )
            return one.revise(
                replace(
                    one.content,
                    reconciliation=tuple(
                        change(each) if each.device_id == device_id else each for each in one.content.reconciliation
                    ),
                )
            )

        return await self._change(statement_id, action, who, revise)

    async def _change(
        self, statement_id: str, action: str, who: Principal, change: Callable[[Statement], Statement]
    ) -> ShownStatement:
        async with self._db.write() as conn:
            before = await store.fetch_statement(conn, statement_id, for_change=True)
            if before is None:
                raise _unknown(statement_id)
            after = change(before)
            await store.put_statement(conn, before, after, who.actor, self._clock.now())
            await self._told(conn, action, after, who, before=before)
        return await self.shown(statement_id)

    async def _party(self, statement_id: str, who: Principal) -> Party:
        """Return for which party a person may speak.

        Raises:
            UnknownStatement: There is no such statement.
            NotASigner: The contract does not name them; programs never sign.
        """
        shown = await self.shown(statement_id)
        party = shown.contract.party_of(who.actor) if who.kind == "user" else None
        if party is None:
            raise _no_signer(statement_id, who, None)
        return party

    def _adjustments(self, corrections: Sequence[Correction], who: Principal) -> list[Adjustment]:
        now = self._clock.now()
        return [
            Adjustment(
                energy_kwh=one.energy_kwh, reason=one.reason, author=who.actor, made_at=now, evidence=one.evidence
            )
            for one in corrections
        ]

    async def _contract(self, conn: ReadConn | WriteConn, contract_id: str, version: int | None = None) -> ContractRow:
        found = await store.fetch_contract(conn, contract_id, version)
        if found is None:
            raise UnknownContract(f"there is no contract {contract_id}", message_zh=f"没有合同 {contract_id}")
        return found

    async def _statement(self, conn: ReadConn, statement_id: str) -> Statement:
        found = await store.fetch_statement(conn, statement_id)
        if found is None:
            raise _unknown(statement_id)
        return found

    async def _told(
        self, conn: WriteConn, action: str, after: Statement, who: Principal, *, before: Statement | None = None
    ) -> None:
        event = audit_event(
            who,
            action,
            f"statement:{after.content.statement_id}",
            self._clock.now(),
            before=None if before is None else {"state": before.state, "version": before.content.version},
            after={"state": after.state, "version": after.content.version, "digest": after.content.digest},
            reason=after.withdrawn_reason,
        )
        await self._audit(conn, event)


def _compared(ours: Registers, theirs: Reconciliation | None) -> Reconciliation:
    return Reconciliation(
        device_id=ours.device_id,
        ours_kwh=ours.energy_kwh,
        theirs_kwh=None if theirs is None else theirs.theirs_kwh,
        theirs_source="" if theirs is None else theirs.theirs_source,
    )


def _require_free(content: Content, others: Sequence[Brief]) -> None:
    """Check that no day is stated twice: what another statement says of a day is superseded whole, or not at all.

    Raises:
        PeriodStated: A day is.
        InvalidInput: What is to be superseded is not frozen, not of the same days, or superseded already.
    """
    alive = [one for one in others if one.state is not State.WITHDRAWN]
    replaced = {one.supersedes for one in alive}
    holding = [one for one in alive if one.statement_id not in replaced]
    if content.supersedes is not None:
        old = next((one for one in holding if one.statement_id == content.supersedes), None)
        if old is None or old.state is not State.FROZEN or (old.start, old.end) != (content.start, content.end):
            raise InvalidInput(
                f"supersedes: expected a frozen statement of {content.start} to {content.end} that holds, "
                f"found {content.supersedes}",
                message_zh=f"supersedes:应为 {content.start} 至 {content.end} 的有效且已签署结算单,"
                f"实际为 {content.supersedes}",
            )
    for one in holding:
        if one.statement_id != content.supersedes and one.start < content.end and content.start < one.end:
            raise PeriodStated(
                f"statement {one.statement_id} ({one.state}) is of {one.start} to {one.end} already",
                message_zh=f"结算单 {one.statement_id}({one.state})已覆盖 {one.start} 至 {one.end}",
                statement_id=one.statement_id,
            )


def _no_signer(statement_id: str, who: Principal, party: Party | None) -> NotASigner:
    return NotASigner(
        f"statement {statement_id}: {who.actor} is not named by the contract to sign for "
        f"{party or 'either party'}; only people sign",
        message_zh=f"结算单 {statement_id}:合同未约定 {who.actor} 代表{'该方' if party else '任一方'}签署;"
        "仅限自然人签署",
    )


def _unknown(statement_id: str) -> UnknownStatement:
    return UnknownStatement(f"there is no statement {statement_id}", message_zh=f"没有结算单 {statement_id}")
