"""How far other systems have been read, over HTTP."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from libs.common.db import Database
from libs.common.errors import NotFound
from services.ingest.api.common import Reader, allowed_sites
from services.ingest.store import pulls as store
from services.ingest.usecases.topology import Topology

FILES_SHOWN = 20


class NeverRead(NotFound):
    """The line is no pull and no folder, or was never read."""

    code = "never_read"
    title_zh = "尚未读取"


class DroppedFileOut(BaseModel):
    """A file that was dropped for us."""

    name: str
    sha256: str
    bytes: int
    found_at: datetime
    finished_at: datetime | None
    outcome: str | None
    """taken or refused; absent while it is not finished."""
    lines_done: int
    counts: dict[str, int]
    problems: list[dict[str, Any]]
    """The first wrong lines."""


class ProgressOut(BaseModel):
    """How far a line of kind pull or file has been read."""

    line_id: str
    watermark: datetime | int | str | None
    rows_taken: int
    rows_refused: int
    last_success_at: datetime | None
    failing_since: datetime | None
    detail: str | None
    """Why it cannot be read."""
    detail_zh: str | None
    files: list[DroppedFileOut]


def build_router(*, db: Database, topology: Topology) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/api/v1", tags=["lines"])

    @router.get("/lines/{line_id}/progress", response_model_exclude_none=False)
    async def progress(line_id: str, request: Request, principal: Reader) -> ProgressOut:
        """Return how far the source behind a line of kind ``pull`` or ``file`` has been read.

        Its wrong lines name devices, so somebody limited to sites sees it when all devices on the line are in them.
        """
        allowed = allowed_sites(principal, topology, request)
        if allowed is not None:
            sites = {one.site for one in topology.devices_on(line_id, request.app.state.platform.clock.now())}
            if not sites or not sites <= allowed:
                raise NeverRead(f"line {line_id} has never been read", message_zh=f"线路 {line_id} 尚未读取")
        async with db.read() as conn:
            found = await store.fetch(conn, line_id)
            files = await store.fetch_files(conn, line_id, FILES_SHOWN)
        if found is None:
            raise NeverRead(
                f"line {line_id} has never been read; it is once a device is registered on it",
                message_zh=f"线路 {line_id} 尚未读取;登记设备后才开始读取",
            )
        return ProgressOut(
            line_id=line_id,
            watermark=None if found.mark is None else found.mark.value,
            rows_taken=found.rows_taken,
            rows_refused=found.rows_refused,
            last_success_at=found.last_success_at,
            failing_since=found.failing_since,
            detail=found.detail,
            detail_zh=found.detail_zh,
            files=[
                DroppedFileOut(
                    name=one.name,
                    sha256=one.sha256.hex(),
                    bytes=one.bytes,
                    found_at=one.found_at,
                    finished_at=one.finished_at,
                    outcome=one.outcome,
                    lines_done=one.lines_done,
                    counts=dict(one.counts),
                    problems=[dict(problem) for problem in one.problems],
                )
                for one in files
            ],
        )

    return router
