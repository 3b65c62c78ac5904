"""HTTP of the units' files: accounts at our file server, templates of measurement files, what is pushed where."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema

from libs.common.contracts.base import Flag, Number
from libs.common.db import Database
from libs.common.errors import Forbidden
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, require, time_cursor
from services.export.domain.unitfiles import Column, Content, FileTemplate, Shows
from services.export.files import queue
from services.export.files.accounts import StoredAccount
from services.export.files.queue import FilePlan, FileState, PushPlace, UnitFile
from services.export.usecases.administration import Actor
from services.export.usecases.files import FileAccounts
from services.export.usecases.unitfiles import UnitFileAdministration

Reader = Annotated[Principal, Depends(require("export:read"))]
FileId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Admin = Annotated[Principal, Depends(require("export:admin"))]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileAccountBody(_Body):
    """An account at the unit's file server."""

    username: str = Field(max_length=20, description="unique over all units")
    password: SecretStr = Field(max_length=32, description="8 to 32 printable characters; never given back here")
    uploads: Flag = Field(default=False, description="whether firmware may be put there; nothing installs it")


class FileAccountView(BaseModel):
    """An account without its password."""

    username: str
    uploads: bool
    changed_by: str = Field(description="sc:<connection> when the centre has changed it (SET_FTP)")
    changed_at: datetime


class ColumnBody(_Body):
    """One column of a file."""

    heading: str = Field(max_length=100)
    shows: Shows
    format: str = Field(default="", max_length=100, description="of a time as strftime, of a value such as .2f")


class TemplateBody(_Body):
    """One kind of measurement file; no public text says what they look like, so the centre does."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    name: str = Field(max_length=200, description="with {unit_id}, {start:%Y%m%d%H%M} and {end:%Y%m%d%H%M}")
    columns: tuple[ColumnBody, ...] = Field(min_length=1, max_length=50)
    every_s: int = Field(default=900, ge=60, le=86400, description="length of a period, a divisor of the day")
    content: Content = Field(
        default=Content.LATEST, description="newest values at the period's end, or the hourly samples within it"
    )
    folder: str = Field(default="", max_length=160, description="below the unit's root, here and at the centre")
    heading: Flag = True
    separator: str = Field(default=",", min_length=1, max_length=1)
    # Generators of clients make no name of it.
    line_end: Annotated[
        Literal["\r\n", "\n"], WithJsonSchema({"type": "string", "description": "CR LF, or LF alone"})
    ] = "\r\n"
    encoding: Literal["utf-8", "utf-8-sig", "gb18030"] = "utf-8"
    no_value: str = Field(default="", max_length=20, description="stands where no value holds")
    invalid_too: Flag = Field(default=True, description="whether points without a value have a line")
    keep: int = Field(default=200, ge=1, le=10_000, description="files of this kind that stay in the unit's folder")

    def template(self) -> FileTemplate:
        """Return the template as the domain wants it."""
        plain = self.model_dump(exclude={"columns"})
        return FileTemplate(**plain, columns=tuple(Column(**column.model_dump()) for column in self.columns))


class PushAccountBody(_Body):
    """Account at the centre's server; never given back."""

    username: str = Field(max_length=200)
    password: SecretStr = Field(default=SecretStr(""), max_length=200)
    private_key: SecretStr = Field(default=SecretStr(""), max_length=10_000, description="OpenSSH or PEM, for SFTP")


class PushBody(_Body):
    """Where files go."""

    url: str = Field(max_length=500, description="ftp://, ftps:// (implicit TLS) or sftp://host:port/folder")
    host_key: str | None = Field(
        default=None, max_length=2000, description="public key of an SFTP server: ssh-ed25519 AAAA…"
    )
    timeout_s: Number = Field(default=30.0, gt=0, le=600, description="for one file")
    retry_first_s: Number = Field(default=5.0, gt=0, le=3600, description="wait after a failure, then doubling")
    retry_cap_s: Number = Field(default=600.0, gt=0, le=86400)
    account: PushAccountBody | None = Field(default=None, description="absent: the stored one stays, for the same url")

    def place(self) -> PushPlace:
        """Return the place without its account."""
        return PushPlace(**self.model_dump(exclude={"account"}))

    def credentials(self) -> dict[str, str] | None:
        """Return the account in plain, None when none was given."""
        if self.account is None:
            return None
        return {
            "username": self.account.username,
            "password": self.account.password.get_secret_value(),
            "private_key": self.account.private_key.get_secret_value(),
        }


class FilesBody(_Body):
    """Measurement files of all units of a connection."""

    templates: tuple[TemplateBody, ...] = Field(default=(), max_length=10)
    push: PushBody | None = Field(default=None, description="null: they lie at our file server only")


class FilesView(BaseModel):
    """Measurement files of a connection, without the account."""

    connection_id: str
    templates: Any
    push: Any
    changed_by: str
    changed_at: datetime | None


class UnitFileView(BaseModel):
    """One file and how far it is."""

    id: int
    unit_id: str
    template_id: str
    period_end: datetime
    folder: str
    name: str
    size_bytes: int
    made_at: datetime
    state: FileState
    attempts: int
    next_attempt_at: datetime | None
    finished_at: datetime | None
    error: str | None


class GiveUpFileBody(_Body):
    """Why a file need not arrive."""

    reason: str = Field(min_length=1, max_length=500)


class SiteTree(Protocol):
    """Which sites a user's limits mean."""

    def sites_within(self, limits: Sequence[str]) -> list[str]:
        """Return the sites of limits such as ``region:440100``."""


def build_files_router(
    accounts: FileAccounts, files: UnitFileAdministration, db: Database, tree: SiteTree
) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    router.include_router(_accounts(accounts))
    router.include_router(_measurements(files, db, tree))
    return router


def _measurements(files: UnitFileAdministration, db: Database, tree: SiteTree) -> APIRouter:
    router = APIRouter(prefix="/api/v1/sc-connections/{connection_id}/files", tags=["sc-connections"])

    @router.get("", summary="Measurement files of a connection's units: templates and where they go")
    async def read_plan(connection_id: str, who: Admin) -> FilesView:
        _unlimited(who)
        return _plan_view(await files.plan(connection_id))

    @router.put("", summary="Set the measurement files of a connection's units")
    async def put_plan(connection_id: str, body: FilesBody, who: Admin, request: Request) -> FilesView:
        """A template that is new begins with the period that runs now."""
        _unlimited(who)
        place, account = (None, None) if body.push is None else (body.push.place(), body.push.credentials())
        templates = [each.template() for each in body.templates]
        return _plan_view(await files.put(connection_id, templates, place, account, _actor(who, request)))

    @router.get("/made", summary="Files that were made, the youngest first, and how far they are")
    async def list_files(
        connection_id: str,
        who: Reader,
        unit: str | None = None,
        state: FileState | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[UnitFileView]:
        before = None if cursor is None else read_time_cursor(cursor)
        sites = None if who.sites is None else tree.sites_within(who.sites)
        place = None if before is None else (before[0], int(before[1]) if before[1].isdigit() else 0)
        async with db.read() as conn:
            found = await queue.fetch_page(
                conn, connection_id, unit_id=unit, state=state, sites=sites, before=place, limit=limit
            )
        after = time_cursor(found[-1].made_at, str(found[-1].id)) if len(found) == limit else None
        return Page(items=[_file_view(each) for each in found], next_cursor=after)

    @router.post("/made/{file_id}/retry", summary="Push a file that waits now")
    async def retry(connection_id: str, file_id: FileId, who: Admin, request: Request) -> UnitFileView:
        _unlimited(who)
        return _file_view(await files.retry(connection_id, file_id, _actor(who, request)))

    @router.post("/made/{file_id}/give-up", summary="Give a file up, so that those behind it go")
    async def give_up(
        connection_id: str, file_id: FileId, body: GiveUpFileBody, who: Admin, request: Request
    ) -> UnitFileView:
        _unlimited(who)
        return _file_view(await files.give_up(connection_id, file_id, body.reason, _actor(who, request)))

    return router


def _plan_view(plan: FilePlan) -> FilesView:
    return FilesView(
        connection_id=plan.connection_id, **plan.document(), changed_by=plan.changed_by, changed_at=plan.changed_at
    )


def _file_view(file: UnitFile) -> UnitFileView:
    return UnitFileView.model_validate(file, from_attributes=True)


def _accounts(accounts: FileAccounts) -> APIRouter:
    router = APIRouter(prefix="/api/v1/sc-connections/{connection_id}/units/{unit_id}", tags=["sc-connections"])

    @router.get("/file-account", summary="The unit's account at the file server")
    async def read_account(connection_id: str, unit_id: str, who: Admin) -> FileAccountView:
        _unlimited(who)
        return _view(await accounts.stored(connection_id, unit_id))

    @router.put("/file-account", summary="Give the unit an account at the file server, or change it")
    async def put_account(
        connection_id: str, unit_id: str, body: FileAccountBody, who: Admin, request: Request
    ) -> FileAccountView:
        """With an account the centre is told it (GET_FTP) and may fetch the unit's files, from its networks only."""
        _unlimited(who)
        return _view(
            await accounts.put(
                connection_id, unit_id, body.username, body.password.get_secret_value(), uploads=body.uploads,
                actor=_actor(who, request),
            )
        )  # fmt: skip

    @router.delete("/file-account", status_code=204, summary="Take the unit's account away")
    async def remove_account(connection_id: str, unit_id: str, who: Admin, request: Request) -> Response:
        _unlimited(who)
        await accounts.remove(connection_id, unit_id, _actor(who, request))
        return Response(status_code=204)

    return router


def _view(found: StoredAccount) -> FileAccountView:
    return FileAccountView.model_validate(found, from_attributes=True)


def _unlimited(who: Principal) -> None:
    if who.sites is not None:
        raise Forbidden(
            "only users who are not limited to sites may manage file accounts",
            message_zh="只有不限局站的用户可以管理文件账号",
        )


def _actor(who: Principal, request: Request) -> Actor:
    return Actor(who.actor, request.headers.get("x-request-id"))
