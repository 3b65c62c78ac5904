"""Readings that people take, over HTTP."""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.errors import Forbidden, InvalidInput
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor
from services.ingest.api.common import Reader, Writer, actor_of, allowed_sites
from services.ingest.store.manual import ManualReading
from services.ingest.usecases.manual import MAX_PHOTO_BYTES, ManualReadings, Taken
from services.ingest.usecases.topology import Topology

MAX_PHOTO_TEXT = MAX_PHOTO_BYTES * 4 // 3 + 8


class ReadingIn(BaseModel):
    """What was read."""

    model_config = ConfigDict(extra="forbid")

    points: dict[str, Any] = Field(min_length=1, max_length=100, description="point name to number")
    units: dict[str, str] | None = None
    """Point name to the unit that its number is in, where that is not the canonical one."""
    reader: str = Field(min_length=1, max_length=100)
    """Who read the meter."""
    note: str | None = Field(default=None, max_length=1000)
    photo: str | None = Field(default=None, max_length=MAX_PHOTO_TEXT, description="JPEG, PNG or WebP as base64")
    confirm: bool = False
    """The reading is right though it does not fit the meter's history."""


class ManualIn(ReadingIn):
    """A reading of one meter."""

    device_id: str
    source_time: str = Field(description="when it was read: RFC 3339 with an offset")


class CorrectionIn(ReadingIn):
    """A reading in the place of one that was wrong."""

    reason: str = Field(min_length=1, max_length=1000)


class ManualOut(BaseModel):
    """A reading as it is kept."""

    id: str
    device_id: str
    site_id: str
    source_time: datetime
    recorded_at: datetime
    points: dict[str, float]
    reader: str
    recorded_by: str
    note: str | None = None
    confirmed: list[dict[str, Any]] | None = None
    corrects: str | None = None
    reason: str | None = None
    photo_type: str | None = None
    photo_sha256: str | None = None
    corrected_by: str | None = None


def build_router(*, manual: ManualReadings, topology: Topology) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/api/v1/readings/manual", tags=["readings"])

    @router.post("", status_code=201, response_model_exclude_none=True)
    async def take(body: ManualIn, request: Request, principal: Writer) -> ManualOut:
        """Take a reading; 409 ``needs_confirmation`` asks about one that does not fit the meter's history."""
        payload = {"device_id": body.device_id, "source_time": body.source_time, **_payload(body)}
        taken = Taken(payload=payload, **_common(body))
        return _shown(await manual.take(taken, actor_of(principal, request, topology)))

    @router.get("", response_model_exclude_none=True)
    async def list_readings(
        request: Request,
        principal: Reader,
        cursor: Cursor = None,
        limit: Limit = 100,
        device: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Page[ManualOut]:
        """Return readings, the last recorded first; corrected ones stay in the list and name their correction."""
        found = await manual.page(
            device_id=device,
            sites=allowed_sites(principal, topology, request),
            before=read_key_cursor(cursor),
            limit=limit + 1,
        )
        items = [_shown(one) for one in found[:limit]]
        return Page(items=items, next_cursor=key_cursor(items[-1].id) if len(found) > limit else None)

    @router.get("/{reading_id}", response_model_exclude_none=True)
    async def get_reading(reading_id: str, request: Request, principal: Reader) -> ManualOut:
        """Return one reading."""
        found = await manual.get(reading_id)
        _check_seen(found, allowed_sites(principal, topology, request))
        return _shown(found)

    @router.get("/{reading_id}/photo", response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def get_photo(reading_id: str, request: Request, principal: Reader) -> Response:
        """Return the photo of a reading."""
        found = await manual.get(reading_id)
        _check_seen(found, allowed_sites(principal, topology, request))
        headers = {"x-content-type-options": "nosniff", "content-disposition": "inline"}
        return Response(await manual.photo(reading_id), media_type=found.photo_type, headers=headers)

    @router.post("/{reading_id}/correction", status_code=201, response_model_exclude_none=True)
    async def correct(reading_id: str, body: CorrectionIn, request: Request, principal: Writer) -> ManualOut:
        """Put another reading in the place of one that was wrong; the old value stays on record."""
        taken = Taken(payload=_payload(body), reason=body.reason, **_common(body))
        return _shown(await manual.correct(reading_id, taken, actor_of(principal, request, topology)))

    return router


def _payload(body: ReadingIn) -> dict[str, Any]:
    return {"points": body.points, "units": body.units}


def _common(body: ReadingIn) -> dict[str, Any]:
    return {"reader": body.reader, "note": body.note, "photo": _photo(body.photo), "confirm": body.confirm}


def _photo(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput("photo: expected base64", message_zh="photo:应为 base64") from exc


def _check_seen(found: ManualReading, allowed: frozenset[str] | None) -> None:
    if allowed is not None and found.site_id not in allowed:
        raise Forbidden(f"{found.id} belongs to another site", message_zh=f"{found.id} 属于其他局站")


def _shown(found: ManualReading) -> ManualOut:
    fields: Mapping[str, Any] = {name: getattr(found, name) for name in ManualOut.model_fields}
    return ManualOut(**fields)
