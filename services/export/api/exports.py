"""HTTP of exports: files that are made again and again and brought to others."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from libs.common.contracts.base import CalendarDate, Flag, Number, UtcTime
from libs.common.db import Database
from libs.common.errors import Forbidden
from libs.common.recurrence import RULE_LENGTH_MAX
from libs.common.tokens import Principal
from libs.common.web import (
    Cursor,
    Limit,
    Page,
    key_cursor,
    read_key_cursor,
    read_time_cursor,
    require,
    time_cursor,
)
from services.export.domain.exports import (
    DELAY_MAX_S,
    MAKE_UP_MAX_S,
    SUBJECTS_MAX,
    Dataset,
    Destination,
    DestinationKind,
    ExportPlan,
    FileForm,
    Run,
    RunState,
    Span,
    Step,
)
from services.export.exports import rows
from services.export.exports.rows import StoredExport
from services.export.usecases.administration import Actor
from services.export.usecases.exports import ExportAdministration

ExportId = Annotated[str, Path(max_length=48, pattern=r"^[a-z0-9][a-z0-9-]*$", description="of an export")]
RunId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Id = Annotated[str, Field(min_length=1, max_length=64)]


def _unlimited(who: Principal) -> Principal:
    """Refuse somebody who may see some sites only: an export may name any."""
    if who.sites is not None:
        raise Forbidden(
            "only users who are not limited to sites may see and manage exports",
            message_zh="只有不限局站的用户可以查看和管理导出",
        )
    return who


def _reader(who: Annotated[Principal, Depends(require("export:read"))]) -> Principal:
    return _unlimited(who)


def _admin(who: Annotated[Principal, Depends(require("export:admin"))]) -> Principal:
    return _unlimited(who)


Reader = Annotated[Principal, Depends(_reader)]
Admin = Annotated[Principal, Depends(_admin)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DestinationAccountBody(_Body):
    """Account at the destination; never given back."""

    username: str = Field(max_length=200, description="of S3 the access key")
    password: SecretStr = Field(default=SecretStr(""), max_length=200, description="of S3 the secret key")
    private_key: SecretStr = Field(default=SecretStr(""), max_length=10_000, description="OpenSSH or PEM, for SFTP")


class DestinationBody(_Body):
    """Where files go."""

    kind: DestinationKind
    url: str = Field(
        max_length=500, description="ftp://, ftps:// (implicit TLS) or sftp://host:port/folder; of S3 the endpoint"
    )
    host_key: str | None = Field(
        default=None, max_length=2000, description="public key of an SFTP server: ssh-ed25519 AAAA…"
    )
    trust: str | None = Field(
        default=None, max_length=20_000,
        description="PEM of the authority of an FTPS or S3 server's certificate; absent: the machine's",
    )  # fmt: skip
    bucket: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="of S3")
    prefix: str = Field(
        default="", max_length=400, pattern=r"^[A-Za-z0-9._=/-]*$", description="of S3: how names of objects begin"
    )
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,40}$", description="of S3, for signatures")
    timeout_s: Number = Field(default=300.0, gt=0, le=21_600, description="for one file")
    retry_first_s: Number = Field(default=30.0, gt=0, le=3600, description="wait after a failure, then doubling")
    retry_cap_s: Number = Field(default=3600.0, gt=0, le=86_400)
    account: DestinationAccountBody | None = Field(
        default=None, description="absent: the stored one stays, for the same url"
    )

    def destination(self) -> Destination:
        """Return the destination without its account."""
        return Destination(**self.model_dump(exclude={"account"}))

    def credentials(self) -> dict[str, str] | None:
        """Return the account in plain, None when none was given."""
        if self.account is None:
            return None
        return {
            "username": self.account.username,
            "password": self.account.password.get_secret_value(),
            "private_key": self.account.private_key.get_secret_value(),
        }


class ExportBody(_Body):
    """What is made and brought again and again."""

    version: int = Field(ge=1, le=2_000_000_000, description="1 for a new export, else the one after the last")
    name: str = Field(min_length=1, max_length=200)
    dataset: Dataset
    form: FileForm = FileForm.CSV
    span: Span = Field(description="length of a period; a run is of the last one that is over")
    rule: str | None = Field(
        default=None, max_length=RULE_LENGTH_MAX,
        description="RFC 5545 recurrence in civil time, of a day's frequency for a day and so on: "
        "FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6; none for 15m and 1h, which are due after each period",
    )  # fmt: skip
    delay_s: Number = Field(default=120.0, ge=0, le=DELAY_MAX_S, description="of 15m and 1h: after the period")
    since: CalendarDate = Field(description="the first civil day that counts; in the past, runs since are made up")
    zone: str = Field(default="Asia/Shanghai", max_length=64, description="IANA name of the civil time")
    make_up_s: Number = Field(
        default=31 * 86_400.0, ge=0, le=MAKE_UP_MAX_S, description="missed runs are made up so far back"
    )
    file_name: str = Field(
        max_length=200,
        description="with {export}, {start:%Y%m%d}, {end:%Y%m%d} and {due:%Y%m%d%H%M}; the extension is added",
    )
    folder: str = Field(default="", max_length=400, description="below the destination's own folder or prefix")
    sites: list[Id] = Field(default=[], max_length=SUBJECTS_MAX, description="none: all")
    circuits: list[Id] = Field(default=[], max_length=SUBJECTS_MAX, description="of energy")
    devices: list[Id] = Field(default=[], max_length=SUBJECTS_MAX, description="of readings")
    points: list[Id] = Field(default=[], max_length=1000, description="of readings; none: all")
    step: Step = Field(default=Step.HOUR, description="of energy")
    table: int | None = Field(default=None, ge=1, le=6, description="of the data-access standard")
    reports: list[Id] = Field(default=[], max_length=SUBJECTS_MAX, description="of reports: definitions; none: all")
    language: Literal["zh", "en"] = Field(default="zh", description="of reports")
    enabled: Flag = Field(default=True, description="while it is not, nothing falls due; afterwards it is made up")
    destination: DestinationBody

    def plan(self, export_id: str) -> ExportPlan:
        """Return the plan as the domain wants it."""
        plain = self.model_dump(exclude={"destination", "sites", "circuits", "devices", "points", "reports"})
        return ExportPlan(
            export_id=export_id, **plain, destination=self.destination.destination(), sites=tuple(self.sites),
            circuits=tuple(self.circuits), devices=tuple(self.devices), points=tuple(self.points),
            reports=tuple(self.reports),
        )  # fmt: skip


class ExportView(BaseModel):
    """An export as it is, without the account."""

    export_id: str
    version: int
    plan: Any = Field(description="as it was put, without the account")
    has_account: bool
    next_due_at: UtcTime
    changed_by: str
    changed_at: UtcTime


class MadeFileView(BaseModel):
    """A file of a run."""

    name: str
    rows: int
    size_bytes: int
    sha256: str


class RunView(BaseModel):
    """One due time and what came of it."""

    id: int
    export_id: str
    due_at: UtcTime
    start: UtcTime
    end: UtcTime
    state: RunState
    version: int | None = Field(description="of the export that its files were made by")
    attempts: int = Field(description="that have failed, of making it or of bringing it")
    next_attempt_at: datetime | None
    made_at: datetime | None
    finished_at: datetime | None
    files: Sequence[MadeFileView] = Field(description="the manifest is the last")
    error: str | None


class GiveUpRunBody(_Body):
    """Why a run need not arrive."""

    reason: str = Field(min_length=1, max_length=500)


def build_exports_router(exports: ExportAdministration, db: Database) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/exports", tags=["exports"])

    @router.get("", summary="Exports by id")
    async def list_exports(_: Reader, cursor: Cursor = None, limit: Limit = 100) -> Page[ExportView]:
        async with db.read() as conn:
            found = await rows.fetch_exports(conn, after=read_key_cursor(cursor) or "", limit=limit + 1)
        items = [_view(one) for one in found[:limit]]
        return Page(items=items, next_cursor=key_cursor(items[-1].export_id) if len(found) > limit else None)

    @router.get("/{export_id}", summary="An export as it is")
    async def get_export(export_id: ExportId, _: Reader) -> ExportView:
        return _view(await exports.get(export_id))

    @router.put("/{export_id}", summary="Store the next version of an export")
    async def put_export(export_id: ExportId, body: ExportBody, who: Admin, request: Request) -> ExportView:
        """Runs are made from its first day on, each of a whole period that is over, in order."""
        plan, account = body.plan(export_id), body.destination.credentials()
        return _view(await exports.put(plan, account, _actor(who, request)))

    @router.delete("/{export_id}", status_code=204, summary="Take an export away")
    async def remove_export(export_id: ExportId, who: Admin, request: Request) -> Response:
        await exports.remove(export_id, _actor(who, request))
        return Response(status_code=204)

    @router.get("/{export_id}/runs", summary="Runs of an export, the youngest first")
    async def list_runs(
        export_id: ExportId,
        _: Reader,
        state: Annotated[RunState | None, Query()] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[RunView]:
        before = None if cursor is None else read_time_cursor(cursor)
        place = None if before is None else (before[0], int(before[1]) if before[1].isdigit() else 0)
        async with db.read() as conn:
            found = await rows.fetch_runs(conn, export_id, state=state, before=place, limit=limit + 1)
        items = [_run_view(one) for one in found[:limit]]
        more = time_cursor(found[limit - 1].due_at, str(found[limit - 1].id)) if len(found) > limit else None
        return Page(items=items, next_cursor=more)

    @router.post("/{export_id}/runs/{run_id}/retry", summary="Try a run now, or make and bring a finished one again")
    async def retry(export_id: ExportId, run_id: RunId, who: Admin, request: Request) -> RunView:
        return _run_view(await exports.retry(export_id, run_id, _actor(who, request)))

    @router.post("/{export_id}/runs/{run_id}/give-up", summary="Give a run up, so that those behind it go")
    async def give_up(export_id: ExportId, run_id: RunId, body: GiveUpRunBody, who: Admin, request: Request) -> RunView:
        return _run_view(await exports.give_up(export_id, run_id, body.reason, _actor(who, request)))

    return router


def _view(one: StoredExport) -> ExportView:
    return ExportView(
        export_id=one.plan.export_id, version=one.plan.version, plan=one.plan.document(),
        has_account=one.sealed is not None, next_due_at=one.next_due_at, changed_by=one.changed_by,
        changed_at=one.changed_at,
    )  # fmt: skip


def _run_view(run: Run) -> RunView:
    return RunView(
        id=run.id, export_id=run.export_id, due_at=run.due_at, start=run.start, end=run.end, state=run.state,
        version=run.version, attempts=run.attempts, next_attempt_at=run.next_attempt_at, made_at=run.made_at,
        finished_at=run.finished_at, error=run.error,
        files=[
            MadeFileView(name=one.name, rows=one.rows, size_bytes=one.size_bytes, sha256=one.sha256)
            for one in run.files
        ],
    )  # fmt: skip


def _actor(who: Principal, request: Request) -> Actor:
    return Actor(who.actor, request.headers.get("x-request-id"))
