"""Files and pushed reports over HTTP."""

import codecs
import csv
import io
import zlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor
from services.ingest.api.common import Reader, Writer, actor_of, allowed_sites
from services.ingest.api.schemas import FILE_BODY, PUSH_BODY, REPLAY_BODY
from services.ingest.domain.acceptance import Refused
from services.ingest.store.imports import Import
from services.ingest.usecases.imports import Imports, Kind
from services.ingest.usecases.submissions import Answer, Submissions, split_batch
from services.ingest.usecases.topology import Topology

MAX_REPORTS = 1000
"""Reports in one push."""
MAX_PUSH_BYTES = 16 << 20
"""A pushed batch, unpacked. [B]"""
GZIP = b"\x1f\x8b"
Key = Annotated[
    str | None, Query(min_length=1, max_length=200, pattern=r"^[!-~]+$", description="the sender's own name of it")
]
CSV_ANSWER: dict[str, Any] = {"content": {"text/csv": {}}, "description": "line, reason, detail, detail_zh"}


class ImportOut(BaseModel):
    """An import: what was asked, how far it is, what came of it."""

    id: str
    kind: str
    file: str
    actor: str
    dry_run: bool
    state: str
    """queued, running, succeeded or failed."""
    bytes: int
    created_at: datetime
    finished_at: datetime | None = None
    done: int | None = None
    """Lines that are committed, of a large one that runs."""
    counts: dict[str, Any] | None = None
    problems: list[dict[str, Any]] | None = None
    """Wrong places: line, field, what was expected, what was found."""
    key: str | None = None
    """The sender's own name of it."""
    changes: list[dict[str, Any]] | None = None
    """Of a registry file: per entity the fields that differ, before and after; the first five hundred."""
    detail: str | None = None
    detail_zh: str | None = None


class WrongLineOut(BaseModel):
    """A line that was not taken."""

    line: int
    reason: str
    detail: str
    detail_zh: str


class ProblemOut(BaseModel):
    """Why one report of a batch was not taken."""

    index: int
    reason: str
    detail: str
    detail_zh: str | None = None


class PushOut(BaseModel):
    """What became of a pushed batch; everything in it is durable when this is answered."""

    accepted: int
    late: int
    duplicate: int
    parked: int
    """Of devices that the registry does not know yet: kept for a minute, then rejected."""
    rejected: int
    problems: list[ProblemOut]


def build_router(*, imports: Imports, submissions: Submissions, topology: Topology) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/api/v1", tags=["imports"])

    @router.post("/imports", status_code=201, response_model_exclude_none=True, openapi_extra=FILE_BODY)
    async def start_import(
        request: Request,
        response: Response,
        principal: Writer,
        kind: Kind = "registry",
        file: Annotated[str, Query(max_length=200, pattern=r"^[^/\\\x00-\x1f]+$", description="its name")] = "upload",
        dry_run: bool = False,
        timezone: Annotated[
            str | None, Query(max_length=64, description="IANA zone of times in tables that have no offset")
        ] = None,
        key: Key = None,
    ) -> ImportOut:
        """Import a registry file (YAML, Excel) or readings (JSON lines, CSV, Parquet, Excel); the body is the file.

        Text plain or gzip. A small file is done when this answers (201, or 400 with every wrong place); a large one is
        queued (202): ask again under ``Location``. What was sent under the same ``key`` and has not failed is not taken
        again, and answered as it stands.
        """
        actor = actor_of(principal, request, topology)
        body = await request.body()
        found = await imports.start(kind, file, body, actor, dry_run=dry_run, timezone=timezone, key=key)
        response.headers["location"] = f"/api/v1/imports/{found.id}"
        response.status_code = 202 if found.state in ("queued", "running") else 201
        return _shown(found)

    @router.get("/imports", response_model_exclude_none=True)
    async def list_imports(_: Reader, cursor: Cursor = None, limit: Limit = 50, key: Key = None) -> Page[ImportOut]:
        """Return imports, the youngest first."""
        found = await imports.page(before=read_key_cursor(cursor), limit=limit + 1, key=key)
        items = [_shown(one) for one in found[:limit]]
        return Page(items=items, next_cursor=key_cursor(items[-1].id) if len(found) > limit else None)

    @router.get("/imports/{import_id}", response_model_exclude_none=True)
    async def get_import(import_id: str, _: Reader) -> ImportOut:
        """Return one import."""
        return _shown(await imports.get(import_id))

    @router.get("/imports/{import_id}/lines")
    async def wrong_lines(import_id: str, _: Reader, cursor: Cursor = None, limit: Limit = 100) -> Page[WrongLineOut]:
        """Return the lines of an archive that were not taken (in a dry run: would not be), in order."""
        after = read_key_cursor(cursor)
        found = await imports.wrong_lines(import_id, after=_line(after), limit=limit + 1)
        items = [
            WrongLineOut(line=one.line, reason=one.reason, detail=one.detail, detail_zh=one.detail_zh)
            for one in found[:limit]
        ]
        return Page(items=items, next_cursor=key_cursor(str(items[-1].line)) if len(found) > limit else None)

    @router.get("/imports/{import_id}/lines.csv", response_class=Response, responses={200: CSV_ANSWER})
    async def wrong_lines_csv(import_id: str, _: Reader) -> StreamingResponse:
        """Return the same whole, as a table."""
        await imports.get(import_id)

        async def rows() -> AsyncIterator[bytes]:
            yield codecs.BOM_UTF8 + b"line,reason,detail,detail_zh\r\n"  # with it Excel knows the encoding
            after = 0
            while found := await imports.wrong_lines(import_id, after=after, limit=1000):
                text = io.StringIO()
                csv.writer(text).writerows((one.line, one.reason, one.detail, one.detail_zh) for one in found)
                yield text.getvalue().encode()
                after = found[-1].line

        return StreamingResponse(
            rows(), media_type="text/csv", headers={"content-disposition": f'attachment; filename="{import_id}.csv"'}
        )

    @router.post("/readings", tags=["readings"], openapi_extra=PUSH_BODY)
    async def push(request: Request, principal: Writer) -> PushOut:
        """Take one report or an array of up to 1,000 (JSON, plain or gzip), live.

        A report: ``device_id``, ``source_time`` (RFC 3339 with offset), ``points`` (name to number), and if need be
        ``units`` (name to unit), ``quality``, ``seq``, ``message_id``. The traffic of a load has ``load_id``, or
        ``network_element_id`` and ``sector``, in place of ``device_id``, and the one point ``traffic_load`` in per
        cent. 503 means that nothing is promised: send again.
        """
        body, source = await request.body(), f"{principal.kind}:{principal.subject}"
        raws = _reports(body)
        if isinstance(raws, Refused):
            media_type = "application/gzip" if body.startswith(GZIP) else "application/json"
            await submissions.refuse(body, raws, source=source, content_type=media_type)
            raise InvalidInput(raws.detail, message_zh=raws.detail_zh, reason=raws.reason)
        allowed = allowed_sites(principal, topology, request)
        answer = await submissions.submit(
            raws,
            source=source,
            may=lambda site: allowed is None or site in allowed,
        )
        return _pushed(answer)

    @router.post("/rejected/{rejected_id}/replay", tags=["readings"], openapi_extra=REPLAY_BODY)
    async def replay(rejected_id: str, request: Request, principal: Writer) -> PushOut:
        """Send a rejected report again: as it was (empty body), or mended (the body)."""
        allowed = allowed_sites(principal, topology, request)
        answer = await submissions.replay(
            rejected_id,
            mended=await request.body(),
            source=f"{principal.kind}:{principal.subject}",
            may=lambda site: allowed is None or site in allowed,
        )
        return _pushed(answer)

    return router


def _line(cursor: str | None) -> int:
    if cursor is not None and not cursor.isdecimal():
        raise InvalidInput("cursor: expected one that a page gave", message_zh="cursor 无效")
    return int(cursor or 0)


def _pushed(answer: Answer) -> PushOut:
    return PushOut(
        accepted=answer.accepted,
        late=answer.late,
        duplicate=answer.duplicate,
        parked=answer.parked,
        rejected=answer.rejected,
        problems=[
            ProblemOut(index=one.index, reason=one.reason, detail=one.detail, detail_zh=one.detail_zh)
            for one in answer.problems
        ],
    )


def _shown(found: Import) -> ImportOut:
    return ImportOut(**{name: getattr(found, name) for name in ImportOut.model_fields})


def _reports(body: bytes) -> list[bytes] | Refused:
    """Return the reports of a delivery, or why nothing of it is looked into."""
    plain = _plain(body)
    if isinstance(plain, Refused):
        return plain
    if not plain.strip():
        return Refused(RejectReason.UNDECODABLE, "the body is empty, expected a report or an array", "请求体为空")
    raws = split_batch(plain)
    if len(raws) <= MAX_REPORTS:
        return raws
    return Refused(
        RejectReason.TOO_LARGE,
        f"{len(raws)} reports in one push, expected at most {MAX_REPORTS}",
        f"单次推送 {len(raws)} 条,最多 {MAX_REPORTS} 条",
    )


def _plain(body: bytes) -> bytes | Refused:
    """Return a body unpacked, up to a bound."""
    plain, packed = b"", body
    while packed.startswith(GZIP) and len(plain) <= MAX_PUSH_BYTES:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            plain += unpacker.decompress(packed, MAX_PUSH_BYTES + 1 - len(plain))
        except zlib.error as exc:
            return Refused(RejectReason.UNDECODABLE, f"the body is no undamaged gzip: {exc}", "gzip 数据损坏")
        if len(plain) <= MAX_PUSH_BYTES and not unpacker.eof:
            return Refused(RejectReason.UNDECODABLE, "the gzip of the body is cut off", "gzip 数据不完整")
        packed = unpacker.unused_data  # a gzip may have several members, one behind the other
    if not body.startswith(GZIP):
        plain = body
    elif packed.strip(b"\0") and len(plain) <= MAX_PUSH_BYTES:
        return Refused(
            RejectReason.UNDECODABLE, "something that is no gzip stands behind the gzip", "gzip 之后有多余数据"
        )
    if len(plain) > MAX_PUSH_BYTES:
        return Refused(
            RejectReason.TOO_LARGE,
            f"the body is larger than {MAX_PUSH_BYTES} bytes, unpacked",
            f"数据解压后超过 {MAX_PUSH_BYTES} 字节",
        )
    return plain
