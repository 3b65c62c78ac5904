"""HTTP of energy performance contracts (合同能源管理): contracts, statements, reconciliation, and both signatures."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_key_cursor
from services.carbon.api.access import Body, VersionView, View, require_sites, sees_all, visible_page
from services.carbon.api.common import Reader, Writer
from services.carbon.api.projectbody import Driver, Key, Name, PeriodBody, PricesBody
from services.carbon.api.projects import AdjustmentBody, MeasuredView, measured_view
from services.carbon.domain.epc.metering import Agreement, Party
from services.carbon.domain.epc.statement import State
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.loads import LoadDirectory
from services.carbon.store.statements import ContractRow
from services.carbon.usecases.statements import Correction, ShownStatement, Statements

Person = Annotated[str, StringConstraints(pattern=r"^user:.{1,100}$")]
"""As the audit log names people."""


class ContractMeasurement(Body):
    """How every period of the contract is measured."""

    basis: Basis
    before: PeriodBody | None = None
    """The baseline, for comparison and regression."""
    driver: str = Field(default="", max_length=200)
    """What a comparison is in proportion to."""
    driver_before: Driver = 1.0
    load_circuits: list[str] = Field(default=[], max_length=50)


class Both(Body):
    """Something of each party."""

    customer: Name
    """Who uses the energy."""
    company: Name
    """The energy-service company."""


class Signers(Body):
    """Who may sign for each party; nobody for both."""

    customer: list[Person] = Field(min_length=1, max_length=20)
    company: list[Person] = Field(min_length=1, max_length=20)


class ContractBody(Body):
    """An energy performance contract."""

    contract_id: Key
    name: Name
    name_zh: Name
    parties: Both
    signers: Signers
    circuits: list[str] = Field(min_length=1, max_length=50)
    """Whose meters show what is saved."""
    measurement: ContractMeasurement
    prices: PricesBody
    """Agreed prices of saved energy."""
    company_share: Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$")]
    """Of the saved money, 0 to 1, as exact text such as ``0.7``."""
    start: CalendarDate
    end: CalendarDate
    """The day after its last."""

    def document(self) -> dict[str, Any]:
        """Return what is stored."""
        return self.model_dump(mode="json", exclude_none=True)


class ContractVersion(Body):
    """A version of a contract: 1 for a new one, else the one after the latest."""

    version: int = Field(ge=1)
    contract: ContractBody


class ContractView(VersionView):
    """One version of a contract."""

    contract_id: str
    contract: ContractBody = Field(validation_alias="document")


class DraftBody(Body):
    """A statement to be made out of the books."""

    start: CalendarDate
    end: CalendarDate
    """The day after the period."""
    driver_after: Driver = 1.0
    """What a comparison is in proportion to, per day of the period."""
    supersedes: str | None = Field(default=None, max_length=64)
    """The frozen statement of the same days that this one corrects."""
    adjustments: list[AdjustmentBody] = Field(default=[], max_length=50)


class AgainBody(Body):
    """What a statement is made anew with."""

    driver_after: Driver = 1.0
    adjustments: list[AdjustmentBody] = Field(default=[], max_length=50)


class TheirsBody(Body):
    """What the other receiver has of a meter, for the same registers."""

    theirs_kwh: float = Field(ge=0, le=1e12)
    source: Name
    """Where that was taken from."""


class ReasonBody(Body):
    """Why."""

    reason: Name


class SignBody(Body):
    """A signature over what was shown."""

    party: Party
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of the statement as it was shown."""


class RegistersView(View):
    """A meter's register at both ends."""

    circuit_id: str
    device_id: str
    start_at: UtcTime
    start_kwh: float
    """As the meter showed it, before the ratio. [kWh]"""
    end_at: UtcTime
    end_kwh: float
    ratio: float
    modulus_kwh: float | None
    energy_kwh: float


class LineView(View):
    """Saved energy in one price band."""

    band: str
    energy_kwh: float
    price_cny_per_kwh: Decimal
    money_cny: Decimal


class ReconciliationView(View):
    """One meter as its two receivers have it."""

    device_id: str
    ours_kwh: float
    theirs_kwh: float | None
    """Null where the other receiver has said nothing, which is not zero."""
    difference_kwh: float | None
    agreement: Agreement
    theirs_source: str
    accepted_by: dict[Party, str]
    reason: str


class SignatureView(View):
    """One party's signature."""

    party: Party
    person: str
    signed_at: UtcTime
    digest: str


class StatementView(View):
    """A statement: what is signed, by its digest, and how far it is."""

    statement_id: str
    contract_id: str
    contract_version: int
    parties: dict[Party, str]
    version: int
    state: State
    digest: str
    """SHA-256 over everything that is signed; both signatures carry it."""
    start: date
    end: date
    registers: list[RegistersView]
    saving: MeasuredView
    lines: list[LineView]
    prices_id: str
    prices_version: int
    company_share: Decimal
    money_fen: int
    shares_fen: dict[Party, int]
    """Together the whole."""
    reconciliation: list[ReconciliationView]
    open_meters: list[str]
    """About which the receivers disagree and nobody has answered for it."""
    signatures: list[SignatureView]
    withdrawn_reason: str | None
    supersedes: str | None
    corrects_fen: dict[Party, int] | None
    """What each party gets beyond the superseded statement."""


class BriefView(View):
    """A statement in brief."""

    statement_id: str
    start: date
    end: date
    state: State
    supersedes: str | None


def build_statement_router(statements: Statements, *, loads: LoadDirectory) -> APIRouter:
    """Return the routes of contracts and statements."""
    router = APIRouter(prefix="/api/v1/savings", tags=["savings"])

    async def visible_contract(who: Principal, contract_id: str) -> ContractRow:
        row = await statements.contract(contract_id)
        _require_circuits(who, row.document["circuits"], loads)
        return row

    async def visible(who: Principal, statement_id: str) -> ShownStatement:
        found = await statements.shown(statement_id)
        _require_circuits(who, found.contract.circuits, loads)
        return found

    @router.get("/contracts", summary="List energy performance contracts")
    async def list_contracts(who: Reader, limit: Limit = 100, cursor: Cursor = None) -> Page[ContractView]:
        found = await statements.contracts(after=read_key_cursor(cursor) or "", limit=limit)
        return visible_page(
            found,
            limit=limit,
            seen=lambda row: sees_all(who, _sites_of(row.document["circuits"], loads), loads),
            key=lambda row: row.contract_id,
            view=ContractView,
        )

    @router.put("/contracts/{contract_id}", summary="Store a version of a contract")
    async def put_contract(who: Writer, contract_id: Key, body: ContractVersion) -> ContractView:
        if body.contract.contract_id != contract_id:
            raise InvalidInput(
                f"contract_id: expected {contract_id}, found {body.contract.contract_id}",
                message_zh=f"contract_id 应为 {contract_id},实际为 {body.contract.contract_id}",
            )
        circuits = [*body.contract.circuits, *body.contract.measurement.load_circuits]
        for circuit in circuits:
            if loads.site_of(CircuitId(circuit)) is None:
                raise NotFound(f"there is no circuit {circuit}", message_zh=f"没有回路 {circuit}")
        _require_circuits(who, circuits, loads)
        if body.version > 1:
            await visible_contract(who, contract_id)
        return ContractView.model_validate(
            await statements.put_contract(body.contract.document(), version=body.version, who=who)
        )

    @router.get("/contracts/{contract_id}", summary="A contract as it is")
    async def read_contract(who: Reader, contract_id: Key) -> ContractView:
        return ContractView.model_validate(await visible_contract(who, contract_id))

    @router.get("/contracts/{contract_id}/statements", summary="Statements of a contract, by period")
    async def list_statements(who: Reader, contract_id: Key) -> list[BriefView]:
        await visible_contract(who, contract_id)
        return [BriefView.model_validate(one) for one in await statements.of_contract(contract_id)]

    @router.post("/contracts/{contract_id}/statements", status_code=201, summary="Draft a statement out of the books")
    async def draft(who: Writer, contract_id: Key, body: DraftBody) -> StatementView:
        await visible_contract(who, contract_id)
        found = await statements.draft(
            contract_id,
            start=body.start,
            end=body.end,
            who=who,
            driver_after=body.driver_after,
            supersedes=body.supersedes,
            corrections=_corrections(body.adjustments),
        )
        return _statement(found)

    @router.get("/statements/{statement_id}", summary="A statement with its registers, money, shares and signatures")
    async def read_statement(who: Reader, statement_id: str) -> StatementView:
        return _statement(await visible(who, statement_id))

    @router.post("/statements/{statement_id}/compute-again", summary="Make an unsigned statement anew out of the books")
    async def compute_again(who: Writer, statement_id: str, body: AgainBody) -> StatementView:
        await visible(who, statement_id)
        found = await statements.compute_again(
            statement_id, who=who, driver_after=body.driver_after, corrections=_corrections(body.adjustments)
        )
        return _statement(found)

    @router.put("/statements/{statement_id}/meters/{device_id}", summary="Enter what the other receiver has of a meter")
    async def reconcile(who: Writer, statement_id: str, device_id: str, body: TheirsBody) -> StatementView:
        await visible(who, statement_id)
        return _statement(
            await statements.reconcile(statement_id, device_id, theirs_kwh=body.theirs_kwh, source=body.source, who=who)
        )

    @router.post(
        "/statements/{statement_id}/meters/{device_id}/accept",
        summary="Take a meter's difference as it is, as a signer of a party",
    )
    async def accept(who: Reader, statement_id: str, device_id: str, body: ReasonBody) -> StatementView:
        await visible(who, statement_id)
        return _statement(await statements.accept(statement_id, device_id, reason=body.reason, who=who))

    @router.post("/statements/{statement_id}/offer", summary="Put a reconciled draft before both parties")
    async def offer(who: Writer, statement_id: str) -> StatementView:
        await visible(who, statement_id)
        return _statement(await statements.offer(statement_id, who))

    @router.post("/statements/{statement_id}/sign", summary="Sign for a party; both signatures freeze the statement")
    async def sign(who: Reader, statement_id: str, body: SignBody) -> StatementView:
        await visible(who, statement_id)
        return _statement(await statements.sign(statement_id, party=body.party, digest=body.digest, who=who))

    @router.post("/statements/{statement_id}/withdraw", summary="Withdraw a statement that not both have signed")
    async def withdraw(who: Reader, statement_id: str, body: ReasonBody) -> StatementView:
        await visible(who, statement_id)
        return _statement(await statements.withdraw(statement_id, reason=body.reason, who=who))

    return router


def _require_circuits(who: Principal, circuits: list[str] | tuple[str, ...], loads: LoadDirectory) -> None:
    require_sites(who, _sites_of(circuits, loads), loads)


def _sites_of(circuits: Iterable[str], loads: LoadDirectory) -> list[SiteId | None]:
    return [loads.site_of(CircuitId(one)) for one in circuits]


def _corrections(rows: list[AdjustmentBody]) -> list[Correction]:
    return [Correction(energy_kwh=row.energy_kwh, reason=row.reason, evidence=row.evidence) for row in rows]


def _statement(found: ShownStatement) -> StatementView:
    statement, content = found.statement, found.statement.content
    return StatementView(
        statement_id=content.statement_id,
        contract_id=content.contract_id,
        contract_version=content.contract_version,
        parties=dict(found.contract.names),
        version=content.version,
        state=statement.state,
        digest=content.digest,
        start=content.start,
        end=content.end,
        registers=[RegistersView.model_validate(one) for one in content.registers],
        saving=measured_view(content.saving),
        lines=[LineView.model_validate(one) for one in content.lines],
        prices_id=content.tariff_id,
        prices_version=content.tariff_version,
        company_share=content.company_share,
        money_fen=content.money_fen,
        shares_fen=content.shares_fen,
        reconciliation=[
            ReconciliationView(
                device_id=one.device_id,
                ours_kwh=one.ours_kwh,
                theirs_kwh=one.theirs_kwh,
                difference_kwh=one.difference_kwh,
                agreement=one.agreement,
                theirs_source=one.theirs_source,
                accepted_by=dict(one.accepted_by),
                reason=one.reason,
            )
            for one in content.reconciliation
        ],
        open_meters=list(content.open_meters),
        signatures=[SignatureView.model_validate(one) for one in statement.signatures],
        withdrawn_reason=statement.withdrawn_reason,
        supersedes=content.supersedes,
        corrects_fen=None if found.corrects is None else dict(found.corrects),
    )
