"""HTTP of the signal table's versions: import, comparison, export."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from libs.common.errors import InvalidInput
from libs.common.workbook import MEDIA_TYPE
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.domain.signal_table import MAX_DIFFERENCES, TableDiff
from services.alarm.files.table_file import MAX_TABLE_BYTES
from services.alarm.store.tables import TableVersion
from services.alarm.usecases.tables import FileFormat, Missing, TableImport, TableRequest, Tables

CSV = "text/csv"
Dictionary = Annotated[str, Path(max_length=64, description="id of the table")]
FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"the table as an Excel workbook or CSV (UTF-8 or GB 18030), at most {MAX_TABLE_BYTES} bytes",
        "content": {
            MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
            CSV: {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
FILE_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA_TYPE: {}, CSV: {}}, "description": "the table"}}


class VersionReply(BaseModel):
    """One version of a table."""

    dictionary: str
    version: int
    shipped: bool = Field(description="as a release ships it; a newer release may replace it")
    file_name: str
    digest: str = Field(description="SHA-256 of the file")
    rows: int
    columns: Sequence[str]
    imported_by: str
    imported_at: datetime
    reason: str | None


class TableReply(BaseModel):
    """A table and the version that counts."""

    dictionary: str
    name: str
    name_zh: str
    source: str
    latest: VersionReply


class TablesReply(BaseModel):
    """Every table."""

    items: Sequence[TableReply]


class VersionsReply(BaseModel):
    """The versions of a table, the youngest first."""

    items: Sequence[VersionReply]


class DifferenceReply(BaseModel):
    """A field of a row, or a kept cell by its heading, before and after."""

    field: str
    before: Any
    after: Any


class ChangedRowReply(BaseModel):
    """A row that is not as it was."""

    change: Literal["added", "changed", "removed"]
    code: str
    name_zh: str
    line: int | None = Field(default=None, description="of the file")
    fields: Sequence[DifferenceReply]
    rules: Sequence[str] = Field(default=(), description="that judge by the row; by one that has gone they sleep")


class DiffReply(BaseModel):
    """How a version differs from the one before."""

    added: int
    changed: int
    removed: int
    unchanged: int
    rows: Sequence[ChangedRowReply] = Field(description=f"the first {MAX_DIFFERENCES} that differ")


class VersionDetailReply(VersionReply):
    """A version, and how it differs from the one before."""

    diff: DiffReply


class NoteReply(BaseModel):
    """What a person should know of a row that was taken."""

    line: int
    field: str
    text: str
    text_zh: str


class ImportReply(BaseModel):
    """What an import did, or in a dry run would do."""

    dictionary: str
    dry_run: bool
    version: int | None = Field(description="that the table is at now; null in a dry run")
    rows: int
    diff: DiffReply
    notes: Sequence[NoteReply]


def add_table_routes(router: APIRouter, tables: Tables) -> None:
    """Add the routes."""

    @router.get("/signals/tables", tags=["signals"], summary="The signal tables with the version that counts")
    async def list_tables(_: Reader) -> TablesReply:
        return TablesReply(
            items=[
                TableReply(
                    dictionary=one.dictionary.dictionary,
                    name=one.dictionary.name_en,
                    name_zh=one.dictionary.name_zh,
                    source=one.dictionary.source,
                    latest=VersionReply(**_facts(one.latest)),
                )
                for one in await tables.tables()
            ]
        )

    @router.get("/signals/tables/{dictionary}/versions", tags=["signals"], summary="The versions of a table")
    async def list_versions(dictionary: Dictionary, _: Reader) -> VersionsReply:
        return VersionsReply(items=[VersionReply(**_facts(one)) for one in await tables.versions(dictionary)])

    @router.get(
        "/signals/tables/{dictionary}/versions/{version}",
        tags=["signals"],
        summary="A version, and how it differs from the one before",
    )
    async def get_version(
        dictionary: Dictionary, version: Annotated[int, Path(ge=1, le=2**31 - 1)], _: Reader
    ) -> VersionDetailReply:
        found, diff = await tables.version(dictionary, version)
        return VersionDetailReply(**_facts(found), diff=_diff(diff, None))

    @router.get(
        "/signals/tables/{dictionary}/export",
        tags=["signals"],
        summary="A version as Excel or CSV, which can be imported again",
        response_class=Response,
        responses=FILE_ANSWER,
    )
    async def export_table(
        dictionary: Dictionary,
        _: Reader,
        file_format: Annotated[FileFormat, Query(alias="format")] = "xlsx",
        version: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="default: the one that counts")] = None,
    ) -> Response:
        body = await tables.export(dictionary, version, file_format)
        return Response(
            body,
            media_type=MEDIA_TYPE if file_format == "xlsx" else CSV,
            headers={"content-disposition": f'attachment; filename="{dictionary}.{file_format}"'},
        )

    @router.post(
        "/signals/tables/{dictionary}/imports",
        tags=["signals"],
        summary="Import a table as its next version, all of it or nothing; the body is the file",
        openapi_extra=FILE_BODY,
    )
    async def import_table(
        dictionary: Dictionary,
        request: Request,
        who: Writer,
        file: Annotated[str, Query(max_length=200, pattern=r"^[^/\\\x00-\x1f]+$", description="its name")] = "upload",
        dry_run: Annotated[bool, Query(description="say what would change, and change nothing")] = False,
        missing: Annotated[Missing, Query(description="rows that the file lacks stay, or go")] = "keep",
        name: Annotated[str | None, Query(min_length=1, max_length=200, description="of a new table")] = None,
        reason: Annotated[str | None, Query(max_length=1000)] = None,
    ) -> ImportReply:
        wanted = TableRequest(
            dictionary=dictionary,
            file_name=file,
            body=await _bounded(request),
            dry_run=dry_run,
            missing=missing,
            name=name,
            reason=reason,
        )
        done = await tables.take(wanted, who, request_id(request))
        return ImportReply(
            dictionary=dictionary,
            dry_run=dry_run,
            version=done.version,
            rows=done.rows,
            diff=_diff(done.diff, done),
            notes=[
                NoteReply(line=one.line, field=one.field, text=one.text, text_zh=one.text_zh)
                for one in done.notes[:MAX_DIFFERENCES]
            ],
        )


async def _bounded(request: Request) -> bytes:
    """Return the body, none of which is kept once it is too long.

    Raises:
        InvalidInput: It is larger than a table may be.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_TABLE_BYTES:
            raise InvalidInput(
                f"the file is larger than {MAX_TABLE_BYTES} bytes", message_zh=f"文件超过 {MAX_TABLE_BYTES} 字节"
            )
    return bytes(body)


def _facts(version: TableVersion) -> dict[str, Any]:
    return {
        "dictionary": version.dictionary,
        "version": version.version,
        "shipped": version.shipped,
        "file_name": version.file_name,
        "digest": version.digest,
        "rows": version.row_count,
        "columns": [column.title for column in version.layout.columns],
        "imported_by": version.imported_by,
        "imported_at": version.imported_at,
        "reason": version.reason,
    }


def _diff(diff: TableDiff, done: TableImport | None) -> DiffReply:
    return DiffReply(
        added=diff.count("added"),
        changed=diff.count("changed"),
        removed=diff.count("removed"),
        unchanged=diff.unchanged,
        rows=[
            ChangedRowReply(
                change=row.change,
                code=row.code,
                name_zh=row.name_zh,
                line=None if done is None else done.lines.get(row.code),
                fields=[DifferenceReply(field=one.field, before=one.before, after=one.after) for one in row.fields],
                rules=[] if done is None else done.rules.get(row.code, []),
            )
            for row in diff.rows[:MAX_DIFFERENCES]
        ],
    )
