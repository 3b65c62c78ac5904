"""HTTP of notifications: channels, routes, who would be told, and what became of messages."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Flag, UtcTime
from libs.common.web import Cursor, Limit, Page, check_span, read_time_cursor, time_cursor
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.channels.config import DEFAULT_RATE_PER_MIN, ChannelConfig
from services.alarm.routebody import RouteBody
from services.alarm.store.channels import ChannelRow
from services.alarm.store.notifications import NotificationFilter, NotificationRow
from services.alarm.store.routes import RouteRow
from services.alarm.usecases.changes import Asker
from services.alarm.usecases.channels import ChannelRequest, Channels
from services.alarm.usecases.notifications import Notifications
from services.alarm.usecases.routes import Expected, Routes

Named = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
KIND = Literal["news", "reminder", "escalation", "digest", "summary", "trial"]


class ChannelBody(BaseModel):
    """A way to tell people."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    config: ChannelConfig
    credentials_ref: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the stored secret; its values are never shown",
    )
    language: Literal["zh", "en"] = "zh"
    enabled: Flag = True
    rate_per_min: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=6000,
        description="more become one message; null: what the receiver takes",
    )


class ChannelReply(BaseModel):
    """A channel as it stands."""

    channel_id: str
    name: str
    config: ChannelConfig
    credentials_ref: str | None
    language: str
    enabled: bool
    rate_per_min: int
    failing_since: datetime | None = Field(description="since when messages are given up; null: not")
    changed_by: str
    changed_at: datetime


class RouteReply(BaseModel):
    """A route as it stands."""

    route_id: str
    route: RouteBody
    changed_by: str
    changed_at: datetime


class NotificationReply(BaseModel):
    """A message and what became of it."""

    notification_id: str
    channel_id: str
    route_id: str | None
    kind: str
    created_at: datetime
    title: str
    body: str
    alarms: Sequence[dict[str, Any]] = Field(description="the first of its alarms")
    alarm_count: int
    state: str = Field(description="pending, sent or failed")
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    error: str | None
    error_zh: str | None


class NotificationQuery(BaseModel):
    """Which messages."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["pending", "sent", "failed"] | None = None
    channel: str | None = None
    kind: KIND | None = None
    alarm: str | None = Field(default=None, description="messages that told of this alarm")
    start: UtcTime | None = Field(default=None, alias="from")
    end: UtcTime | None = Field(default=None, alias="to")
    limit: Limit = 100
    cursor: Cursor = None


class TryBody(BaseModel):
    """An alarm that might be."""

    model_config = ConfigDict(extra="forbid")

    site_id: str = Field(min_length=1, max_length=100)
    device_id: str | None = Field(default=None, min_length=1, max_length=100)
    signal: str = Field(min_length=1, max_length=100)
    level: int = Field(strict=True, ge=1, le=4)
    at: UtcTime | None = Field(default=None, description="when it begins; null: now")


class StepReply(BaseModel):
    """Whom an escalation tells as well."""

    after_s: float
    channels: Sequence[str]


class ExpectedReply(BaseModel):
    """Who would be told by one route."""

    route_id: str
    route_name: str
    group_key: str
    first_told_at: datetime
    held_until: datetime | None = Field(description="end of the quiet hours that hold it; null: nothing holds it")
    channels: Sequence[str]
    disabled_channels: Sequence[str]
    escalation: Sequence[StepReply]


def build_notifications_router(channels: Channels, routes: Routes, notifications: Notifications) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1", tags=["notifications"])
    _add_channels(router, channels)
    _add_routes(router, routes)
    _add_messages(router, notifications)
    return router


def _add_channels(router: APIRouter, channels: Channels) -> None:
    @router.get("/notifications/channels", summary="Ways to tell people")
    async def list_channels(who: Reader) -> list[ChannelReply]:
        return [_channel(row) for row in await channels.all()]

    @router.put("/notifications/channels/{channel_id}", summary="Set a channel up or change it")
    async def put_channel(channel_id: Named, body: ChannelBody, who: Writer, request: Request) -> ChannelReply:
        rate = body.rate_per_min or DEFAULT_RATE_PER_MIN[body.config.kind]
        wanted = ChannelRequest(body.name, body.config, body.credentials_ref, body.language, body.enabled, rate)
        return _channel(await channels.put(channel_id, wanted, Asker(who, request_id(request))))

    @router.delete(
        "/notifications/channels/{channel_id}",
        summary="Forget a channel that no route names",
        status_code=204,
    )
    async def delete_channel(channel_id: Named, who: Writer, request: Request) -> Response:
        await channels.delete(channel_id, Asker(who, request_id(request)))
        return Response(status_code=204)

    @router.post(
        "/notifications/channels/{channel_id}/test",
        summary="Send a trial message now",
        status_code=204,
    )
    async def test_channel(channel_id: Named, who: Writer, request: Request) -> Response:
        await channels.test(channel_id, Asker(who, request_id(request)))
        return Response(status_code=204)


def _add_routes(router: APIRouter, routes: Routes) -> None:
    @router.get("/notifications/routes", summary="Who is told of which alarms, in their order")
    async def list_routes(who: Reader) -> list[RouteReply]:
        return [_route(row) for row in await routes.all()]

    @router.put("/notifications/routes/{route_id}", summary="Set a route up or change it")
    async def put_route(route_id: Named, body: RouteBody, who: Writer, request: Request) -> RouteReply:
        return _route(await routes.put(route_id, body, Asker(who, request_id(request))))

    @router.delete("/notifications/routes/{route_id}", summary="Forget a route", status_code=204)
    async def delete_route(route_id: Named, who: Writer, request: Request) -> Response:
        await routes.delete(route_id, Asker(who, request_id(request)))
        return Response(status_code=204)

    @router.post("/notifications/try", summary="Who would be told of an alarm, and when; sends nothing")
    async def try_routes(body: TryBody, who: Reader) -> list[ExpectedReply]:
        found = await routes.expect(
            site_id=body.site_id,
            signal=body.signal,
            level=body.level,
            device_id=body.device_id,
            at=body.at or routes.now(),
            who=who,
        )
        return [_expected(one) for one in found]


def _add_messages(router: APIRouter, notifications: Notifications) -> None:
    @router.get("/notifications", summary="Messages to people, the youngest first")
    async def list_notifications(who: Reader, query: Annotated[NotificationQuery, Query()]) -> Page[NotificationReply]:
        check_span(query.start, query.end)
        after = None if query.cursor is None else read_time_cursor(query.cursor)
        wanted = NotificationFilter(
            state=query.state,
            channel_id=query.channel,
            kind=query.kind,
            alarm_id=query.alarm,
            created_from=query.start,
            created_before=query.end,
        )
        found = await notifications.page(wanted, who, after=after, limit=query.limit + 1)
        page = [_notification(row) for row in found[: query.limit]]
        more = len(found) > query.limit
        return Page(
            items=page, next_cursor=time_cursor(page[-1].created_at, page[-1].notification_id) if more else None
        )

    @router.get("/notifications/{notification_id}", summary="One message")
    async def get_notification(notification_id: str, who: Reader) -> NotificationReply:
        return _notification(await notifications.one(notification_id, who))

    @router.post(
        "/notifications/{notification_id}/retry",
        summary="Try a message again that has failed",
        status_code=202,
    )
    async def retry(notification_id: str, who: Writer, request: Request) -> NotificationReply:
        return _notification(await notifications.retry(notification_id, Asker(who, request_id(request))))


def _channel(row: ChannelRow) -> ChannelReply:
    return ChannelReply(
        channel_id=row.channel_id,
        name=row.name,
        config=row.config,
        credentials_ref=row.credentials_ref,
        language=row.language,
        enabled=row.enabled,
        rate_per_min=row.rate_per_min,
        failing_since=row.failing_since,
        changed_by=row.changed_by,
        changed_at=row.changed_at,
    )


def _route(row: RouteRow) -> RouteReply:
    return RouteReply(route_id=row.route_id, route=row.body, changed_by=row.changed_by, changed_at=row.changed_at)


def _notification(row: NotificationRow) -> NotificationReply:
    return NotificationReply(**asdict(row))


def _expected(one: Expected) -> ExpectedReply:
    return ExpectedReply(
        route_id=one.route.route_id,
        route_name=one.name,
        group_key=one.group_key,
        first_told_at=one.first_told_at,
        held_until=one.held_until,
        channels=[row.channel_id for row in one.channels if row.enabled],
        disabled_channels=[row.channel_id for row in one.channels if not row.enabled],
        escalation=[StepReply(after_s=after_s, channels=channels) for after_s, channels in one.escalation],
    )
