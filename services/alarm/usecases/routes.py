"""The routes that say who is told of which alarms, and who would be."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.tokens import Principal
from services.alarm.domain.routing import Route, Subject, routes_for
from services.alarm.routebody import RouteBody
from services.alarm.store import channels as channels_store
from services.alarm.store import routes as store
from services.alarm.store.channels import ChannelRow
from services.alarm.store.routes import RouteRow
from services.alarm.usecases.changes import Asker
from services.alarm.usecases.ports import Audit, Directory

MAX_ROUTES = 500


class UnknownRoute(NotFound):
    """There is no such route."""

    code = "unknown_route"
    title_zh = "通知路由不存在"


class InvalidRoute(InvalidInput):
    """A route names what is not there."""

    code = "invalid_route"
    title_zh = "通知路由有误"


@dataclass(frozen=True, slots=True)
class Expected:
    """Who would be told of an alarm by one route, and when."""

    route: Route
    name: str
    group_key: str
    first_told_at: datetime
    held_until: datetime | None
    """End of the quiet hours that hold it."""
    channels: Sequence[ChannelRow]
    escalation: Sequence[tuple[float, Sequence[str]]]


class Routes:
    """Who is told of which alarms."""

    def __init__(self, *, db: Database, directory: Directory, clock: Clock, audit: Audit) -> None:
        """Keep what is needed.

        Args:
            db: Where they are.
            directory: The registry.
            clock: Our clock.
            audit: Publishes who changed what.
        """
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit

    def now(self) -> datetime:
        """Return what our clock shows."""
        return self._clock.now()

    async def all(self) -> list[RouteRow]:
        """Return all routes, in their order."""
        async with self._db.read() as conn:
            return list((await store.fetch_routes(conn)).values())

    async def put(self, route_id: str, body: RouteBody, asker: Asker) -> RouteRow:
        """Set a route up, or change it.

        Raises:
            NotAllSites: The asker is limited to some sites.
            InvalidRoute: It names channels or sites that are not there.
        """
        asker.require_all_sites(self._directory)
        now = self._clock.now()
        row = RouteRow(route_id, body, asker.name, now)
        strangers = sorted(site for site in body.match.sites or () if not self._directory.has_site(site))
        if strangers:
            raise _invalid("match.sites", "sites of the registry", "已登记的站点", ", ".join(strangers[:20]))
        async with self._db.write() as conn:
            missing = sorted(body.named_channels() - set(await channels_store.fetch_channels(conn)))
            if missing:
                raise _invalid("channels", "channels that are there", "已建立的通知渠道", ", ".join(missing))
            known = await store.fetch_routes(conn)
            if route_id not in known and len(known) >= MAX_ROUTES:
                raise InvalidInput(f"at most {MAX_ROUTES} routes", message_zh=f"通知路由最多 {MAX_ROUTES} 条")
            before = known.get(route_id)
            await store.put_route(conn, row)
            await self._audit(
                conn,
                asker.did(
                    "notification_route.put",
                    f"notification_route:{route_id}",
                    now,
                    before=_facts(before),
                    after=_facts(row),
                ),
            )
        return row

    async def delete(self, route_id: str, asker: Asker) -> None:
        """Forget a route; whom it told of alarms still hears that they ended.

        Raises:
            NotAllSites: The asker is limited to some sites.
            UnknownRoute: There is none.
        """
        asker.require_all_sites(self._directory)
        async with self._db.write() as conn:
            before = (await store.fetch_routes(conn)).get(route_id)
            if before is None:
                raise UnknownRoute(f"there is no route {route_id}", message_zh=f"通知路由 {route_id} 不存在")
            await store.delete_route(conn, route_id)
            await self._audit(
                conn,
                asker.did(
                    "notification_route.delete",
                    f"notification_route:{route_id}",
                    self._clock.now(),
                    before=_facts(before),
                    after=None,
                ),
            )

    async def expect(
        self, *, site_id: str, signal: str, level: int, device_id: str | None, at: datetime, who: Principal
    ) -> list[Expected]:
        """Return who would be told of an alarm that begins at a time; nothing is sent.

        Raises:
            InvalidRoute: The site or the device is not there, or not for the asker.
        """
        place = self._directory.place(site_id)
        allowed = self._directory.sites_of(who)
        if place is None or (allowed is not None and site_id not in allowed):
            raise _invalid("site_id", "a site of the registry", "已登记的站点", site_id)
        target = None if device_id is None else self._directory.target(device_id)
        if device_id is not None and (target is None or target.site_id != site_id):
            raise _invalid("device_id", f"a device of {site_id}", f"{site_id} 的设备", device_id)
        subject = Subject(
            alarm_id="",
            site_id=site_id,
            signal=signal,
            level=level,
            regions=place.regions,
            station_class=place.station_class,
            device_kind=None if target is None else target.kind,
        )
        async with self._db.read() as conn:
            rows = await store.fetch_routes(conn)
            channels = await channels_store.fetch_channels(conn)
        routes = [row.body.to_route(row.route_id) for row in rows.values() if row.body.enabled]
        found = []
        for route in routes_for(routes, subject, at):
            told_at = route.next_digest(at) if route.digest_at else at + timedelta(seconds=route.group_wait_s)
            quiet = route.quiet_until(told_at) if level > route.quiet_told_level else None
            found.append(
                Expected(
                    route=route,
                    name=rows[route.route_id].body.name,
                    group_key=route.key_of(subject),
                    first_told_at=quiet or told_at,
                    held_until=quiet,
                    channels=[channels[one] for one in route.channels if one in channels],
                    escalation=[(step.after_s, step.channels) for step in route.escalation],
                )
            )
        return found


def _invalid(field: str, expected: str, expected_zh: str, found: str) -> InvalidRoute:
    return InvalidRoute(
        f"{field}: expected {expected}, found {found}",
        message_zh=f"{field}：应为{expected_zh}，实际为 {found}",
        problems=[{"field": field, "expected": expected, "expected_zh": expected_zh, "found": found}],
    )


def _facts(row: RouteRow | None) -> JsonObject | None:
    return None if row is None else row.body.model_dump(mode="json", by_alias=True)
