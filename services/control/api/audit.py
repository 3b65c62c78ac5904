"""The audit over HTTP: lists, exports that can be verified, the chain's head; and refused attempts put on record."""

import asyncio
import csv
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

from libs.common.auditchain import FIELDS, GENESIS, Head
from libs.common.contracts.base import UtcTime
from libs.common.db import Database
from libs.common.errors import PlatformError, TooManyRequests, Unauthenticated
from libs.common.problems import status_of
from libs.common.serving import Platform
from libs.common.tokens import KeyRing, Principal
from libs.common.web import (
    Cursor,
    From,
    Limit,
    Page,
    ProblemDetail,
    To,
    check_span,
    read_time_cursor,
    time_cursor,
)
from services.control.api.common import View, actor_of, door_of, right
from services.control.bus import SOURCE
from services.control.domain.audit import Entry
from services.control.store import audit as store
from services.control.store.audit import Stored
from services.control.usecases.auditing import record
from services.control.usecases.ports import SteadyClock

logger = logging.getLogger(__name__)

Auditor = Annotated[Principal, Depends(right("control:admin", apps=False))]
EXPORT_PAGE = 1000
"""Entries read, and written in a thread, at once."""
SIEVE_S = 60.0
REFUSALS_AT_MOST = 60
"""Refused attempts of one caller that are put on record within ``SIEVE_S``: a program that runs wild is on record then,
and everybody else still has room. Of those refused for coming too often one is enough."""
CALLERS_REMEMBERED = 1000
ASKED_AT_MOST = 16 * 1024
"""Of a refused attempt so much of its body is kept. [bytes]"""

ATTEMPTS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("POST", "/api/v1/plans"): ("plan.draft", "plan:new"),
    ("POST", "/api/v1/plans/{plan_id}/approve"): ("plan.approve", "plan:{plan_id}"),
    ("POST", "/api/v1/plans/{plan_id}/end"): ("plan.end", "plan:{plan_id}"),
    ("POST", "/api/v1/plans/setpoints"): ("setpoint_plan.draft", "plan:new"),
    ("POST", "/api/v1/plans/setpoints/{plan_id}/approve"): ("setpoint_plan.approve", "plan:{plan_id}"),
    ("POST", "/api/v1/plans/setpoints/{plan_id}/end"): ("setpoint_plan.end", "plan:{plan_id}"),
    ("PUT", "/api/v1/calendars/{calendar_id}"): ("calendar.put", "calendar:{calendar_id}"),
    ("POST", "/api/v1/commands"): ("command.order", "group:new"),
    ("POST", "/api/v1/commands/groups/{group_id}/approve"): ("command.approve", "group:{group_id}"),
    ("POST", "/api/v1/commands/groups/{group_id}/decline"): ("command.decline", "group:{group_id}"),
    ("POST", "/api/v1/commands/{command_id}/cancel"): ("command.cancel", "command:{command_id}"),
    ("POST", "/api/v1/commands/isolations"): ("isolation.request", "isolation:new"),
    ("POST", "/api/v1/commands/isolations/{isolation_id}/approve"): ("isolation.approve", "isolation:{isolation_id}"),
    ("POST", "/api/v1/commands/isolations/{isolation_id}/release"): ("isolation.release", "isolation:{isolation_id}"),
    ("POST", "/api/v1/commands/trip-releases"): ("trip.release", "load:?"),
    ("POST", "/api/v1/commands/settings"): ("device.set", "device:?"),
    ("POST", "/api/v1/commands/settings/groups"): ("device.set", "group:new"),
    ("POST", "/api/v1/commands/settings/groups/{group_id}/approve"): ("device.set.approve", "group:{group_id}"),
    ("POST", "/api/v1/commands/settings/groups/{group_id}/decline"): ("device.set.decline", "group:{group_id}"),
    ("POST", "/api/v1/commands/settings/{setting_id}/approve"): ("device.set.approve", "setting:{setting_id}"),
    ("POST", "/api/v1/commands/settings/{setting_id}/decline"): ("device.set.decline", "setting:{setting_id}"),
    ("POST", "/api/v1/wake-ups"): ("wake_up.order", "wake_up:new"),
    ("POST", "/api/v1/wake-ups/{wake_up_id}/release"): ("wake_up.release", "wake_up:{wake_up_id}"),
    ("PUT", "/api/v1/guards/policies/{scope}/{target}"): ("guard_policy.set", "guard_policy:{scope}:{target}"),
    ("POST", "/api/v1/guards/policies/{scope}/{target}/remove"): (
        "guard_policy.remove", "guard_policy:{scope}:{target}",
    ),
    ("PUT", "/api/v1/guards/setpoints/policies/{scope}/{target}"): (
        "setpoint_policy.set", "setpoint_policy:{scope}:{target}",
    ),
    ("POST", "/api/v1/guards/setpoints/policies/{scope}/{target}/remove"): (
        "setpoint_policy.remove", "setpoint_policy:{scope}:{target}",
    ),
    ("PUT", "/api/v1/guards/apps/{caller}"): ("app_limits.set", "app:{caller}"),
    ("POST", "/api/v1/guards/apps/{caller}/remove"): ("app_limits.remove", "app:{caller}"),
    ("POST", "/api/v1/guards/opt-outs"): ("opt_out.declare", "site:?"),
    ("POST", "/api/v1/guards/opt-outs/{opt_out_id}/end"): ("opt_out.end", "opt_out:{opt_out_id}"),
    ("POST", "/api/v1/guards/emergencies"): ("emergency_mode.declare", "emergency:new"),
    ("POST", "/api/v1/guards/emergencies/{emergency_id}/end"): ("emergency_mode.end", "emergency:{emergency_id}"),
}  # fmt: skip
"""What a request attempts, and at what; so that a refused attempt is found beside those that passed."""
UNCHANGING = frozenset(("POST", f"/api/v1/plans/{what}") for what in ("preview", "simulate", "setpoints/preview"))
"""POSTs that change nothing."""


class AuditView(View):
    """One entry of the audit of switching."""

    seq: int | None
    """Its number in the chain; null for the second until it is linked."""
    entry_id: str
    """The same as in the audit of all services."""
    at: UtcTime
    actor: str
    door: str
    """``console``, ``api``, ``cli``, ``upstream_app``, ``sc``, ``service``, ``watchdog``; ``plan``, ``holder`` (the
    line's holder closed by itself) and ``look`` (found so at the breaker) of a load's switching."""
    action: str
    subject: str
    reason: str | None
    succeeded: bool
    """False for a refused attempt, and for a switching that came to nothing."""
    before: Any
    after: Any
    hash: str | None


class HeadView(View):
    """Where the chain ends, signed by control."""

    seq: int
    hash: str
    """SHA-256 of the last entry, in hexadecimal; zeros before the first one."""
    at: str
    signature: str
    """Base64 Ed25519 over the canonical JSON of ``{"at", "hash", "kind": "audit_head", "seq"}``."""


def build_audit_router(*, db: Database, clock: SteadyClock, keys: KeyRing) -> APIRouter:
    """Return the routes of the audit; the gateway's own path ``/audit`` has what all services tell."""
    router = APIRouter(prefix="/api/v1/commands/audit")

    @router.get("", summary="Who switched or changed what, why and through which door; the youngest first")
    async def list_entries(
        _: Auditor,
        start: From = None,
        end: To = None,
        actor: Annotated[str | None, Query(max_length=200)] = None,
        subject: Annotated[str | None, Query(max_length=200, description="such as load:… or plan:…")] = None,
        action: Annotated[str | None, Query(max_length=100, description="such as plan.approve")] = None,
        succeeded: Annotated[bool | None, Query(description="false: refused attempts and failures only")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[AuditView]:
        check_span(start, end)
        before = None
        if cursor is not None:
            at, place = read_time_cursor(cursor)
            before = (at, int(place) if place.isdigit() and len(place) < 19 else 0)
        async with db.read() as conn:
            found = await store.fetch_page(
                conn, start=start, end=end, actor=actor, subject=subject, action=action, succeeded=succeeded,
                before=before, limit=limit + 1,
            )  # fmt: skip
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            items=[AuditView(seq=one.seq, hash=one.hash, **one.entry) for one in found[:limit]],
            next_cursor=None if last is None else time_cursor(last.entry["at"], str(last.place)),
        )

    @router.get("/head", summary="Where the chain ends, signed")
    async def head(_: Auditor) -> HeadView:
        return HeadView.model_validate((await signed_head(db, clock, keys)).as_json())

    @router.get(
        "/export",
        summary="The chain as a file that can be verified; NDJSON ends with the signed head",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}, 404: {"model": ProblemDetail}},
    )
    async def export(
        _: Auditor,
        form: Annotated[Literal["ndjson", "csv"], Query(alias="format")] = "ndjson",
        start: From = None,
        end: To = None,
        after: Annotated[int, Query(ge=0, le=2**62, description="only entries with a higher number")] = 0,
    ) -> StreamingResponse:
        check_span(start, end)
        signed = await signed_head(db, clock, keys)
        first, last = 1, signed.seq
        if start is not None or end is not None:
            async with db.read() as conn:
                first, last = await store.fetch_span(conn, start, end) or (1, 0)
        headers = {"content-disposition": f'attachment; filename="audit-{signed.at[:10]}.{form}"'}
        stream = pieces(db, form, max(after, first - 1), last, signed)
        media_type = "application/x-ndjson" if form == "ndjson" else "text/csv; charset=utf-8"
        return StreamingResponse(stream, media_type=media_type, headers=headers)

    return router


async def signed_head(db: Database, clock: SteadyClock, keys: KeyRing) -> Head:
    """Return where the chain ends."""
    async with db.read() as conn:
        found = await store.fetch_head(conn)
    return Head.signed(keys, SOURCE, found.seq, found.hash, clock.now())


async def pieces(db: Database, form: str, after: int, until: int, head: Head) -> AsyncIterator[bytes]:
    """Yield an export page by page; nothing is held between two of them but a number and a hash."""
    async with db.read() as conn:
        previous = GENESIS if after == 0 else await store.fetch_hash(conn, after) or GENESIS
    if form == "csv":
        yield (",".join(FIELDS) + "\r\n").encode()
    while after < until:
        async with db.read() as conn:
            found = await store.fetch_links(conn, after, until, EXPORT_PAGE)
        if not found:
            break
        yield await asyncio.to_thread(_written, form, found, previous)
        after, previous = found[-1].seq or until, found[-1].hash or GENESIS
    if form == "ndjson":
        yield orjson.dumps({"head": head.as_json()}) + b"\n"


def _written(form: str, found: Sequence[Stored], previous: str) -> bytes:
    lines: list[dict[str, Any]] = []
    for one in found:
        entry = {**one.entry, "seq": one.seq, "previous": previous, "hash": one.hash}
        lines.append({name: entry[name] for name in FIELDS})
        previous = one.hash or GENESIS
    if form == "ndjson":
        return b"".join(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE) for line in lines)
    sheet = io.StringIO()
    csv.writer(sheet).writerows([_cell(value) for value in line.values()] for line in lines)
    return sheet.getvalue().encode()


def _cell(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().strip('"')


def record_refusals(app: FastAPI, *, db: Database, clock: SteadyClock) -> None:
    """Let every refused attempt to change something go on record, under who attempted it and with what was asked."""
    sieve = Sieve()
    answer = cast(Callable[[Request, Exception], Awaitable[Response]], app.exception_handlers[PlatformError])

    async def refuse(request: Request, exc: Exception) -> Response:
        if isinstance(exc, PlatformError) and status_of(exc) < 500 and not isinstance(exc, Unauthenticated):
            await _record_refusal(request, exc, db, clock, sieve)
        return await answer(request, exc)

    app.add_exception_handler(PlatformError, refuse)


class Sieve:
    """Lets so many of a kind pass within ``SIEVE_S``."""

    def __init__(self) -> None:
        self._passed: dict[tuple[str, bool], tuple[float, int]] = {}

    def lets(self, kind: tuple[str, bool], now: float, at_most: int) -> bool:
        """Return whether one more passes; ``now`` is monotonic. [s]"""
        since, number = self._passed.get(kind, (now, 0))
        if now - since >= SIEVE_S:
            since, number = now, 0
        if number >= at_most:
            return False
        if len(self._passed) >= CALLERS_REMEMBERED:
            self._passed.clear()
        self._passed[kind] = (since, number + 1)
        return True


async def _record_refusal(
    request: Request, exc: PlatformError, db: Database, clock: SteadyClock, sieve: "Sieve"
) -> None:
    attempt = ATTEMPTS.get((request.method, getattr(request.scope.get("route"), "path", "")))
    if attempt is None:
        return
    action, subject = attempt
    token = request.headers.get("authorization", "").partition(" ")[2]
    platform: Platform = request.app.state.platform
    try:
        who = platform.keys.verify_token(token, audience=request.app.state.service)
    except Unauthenticated:
        return
    too_often = isinstance(exc, TooManyRequests)
    if not sieve.lets((who.actor, too_often), platform.clock.monotonic(), 1 if too_often else REFUSALS_AT_MOST):
        return
    asked = _asked(await request.body())
    entry = Entry(
        actor_of(who), door_of(who), action, _storable(subject.format(**request.path_params))[:300], clock.now(),
        after={"asked": asked, "code": exc.code, "refusal": _storable(exc.message)[:2000]}, succeeded=False,
    )  # fmt: skip
    try:
        async with db.write() as conn:
            await record(conn, entry)
    except PlatformError as failure:
        logger.error("refused attempt is not on record", extra={"action": action, "reason": failure.message})


def _storable(text: str) -> str:
    """Return a text without the one character that no database of ours takes."""
    return text.replace("\0", "\ufffd")


def _asked(body: bytes) -> object:
    """Return what was asked; of a large body, or one that no database takes, only how large it was, of none nothing."""
    if len(body) > ASKED_AT_MOST or b"\\u0000" in body:
        return {"bytes": len(body)}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
