"""The API of alarm over a world, asked as somebody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from libs.common.bus import outbox
from libs.common.bus.port import Bus
from libs.common.clock import SystemClock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import WriteConn
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from services.alarm.api import build_router
from services.alarm.api.analysis import build_analysis_router
from services.alarm.api.notifications import build_notifications_router
from services.alarm.api.rulerows import build_rule_rows_router
from services.alarm.api.settings_kept import build_settings_router
from services.alarm.bus import audit_message
from services.alarm.store.channels import ChannelRow
from services.alarm.store.notifications import NotificationRow
from services.alarm.usecases.alarms import Alarms
from services.alarm.usecases.analysis import Analysis
from services.alarm.usecases.channels import Channels
from services.alarm.usecases.maintenance import Maintenance
from services.alarm.usecases.notifications import Notifications
from services.alarm.usecases.routes import Routes
from services.alarm.usecases.rulemaking import RuleMaking
from services.alarm.usecases.rulerows import RuleRows
from services.alarm.usecases.rules import Rules
from services.alarm.usecases.tables import Tables
from services.alarm.usecases.thresholds import Thresholds
from tests.integration.alarm.alarm_world import CLASSES, LOW, World


@dataclass
class Door:
    """The API over a world, asked as somebody."""

    world: World
    client: httpx.AsyncClient
    keys: KeyRing

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int = 200,
        scopes: tuple[str, ...] = ("alarm:read", "alarm:write"),
        sites: tuple[str, ...] | None = None,
        service: str | None = None,
        **params: Any,
    ) -> Any:
        headers = self._as(scopes, sites, service)
        reply = await self.client.request(method, f"/api/v1{path}", json=body, params=params, headers=headers)
        assert reply.status_code == status, reply.text
        return reply.json() if reply.content else None

    async def send(
        self,
        path: str,
        content: bytes,
        *,
        status: int = 200,
        scopes: tuple[str, ...] = ("alarm:write",),
        sites: tuple[str, ...] | None = None,
        **params: Any,
    ) -> Any:
        """Post a file."""
        headers = self._as(scopes, sites, None)
        reply = await self.client.post(f"/api/v1{path}", content=content, params=params, headers=headers)
        assert reply.status_code == status, reply.text
        return reply.json()

    async def file(self, path: str, **params: Any) -> bytes:
        """Return the file that a GET answers with."""
        reply = await self.client.get(f"/api/v1{path}", params=params, headers=self._as(("alarm:read",), None, None))
        assert reply.status_code == 200, reply.text
        return reply.content

    def _as(self, scopes: tuple[str, ...], sites: tuple[str, ...] | None, service: str | None) -> dict[str, str]:
        if service is not None:
            token = self.keys.sign_token(service, audience="alarm", scopes=scopes)
        else:
            token = self.keys.sign_token(
                "gateway", subject="wang", kind="user", audience="alarm", scopes=scopes, sites=sites
            )
        return {"authorization": f"Bearer {token}"}

    async def override(self, body: object, *, rule: str = LOW, scope: str = "device/m-1", status: int = 200) -> Any:
        return await self.ask("PUT", f"/alarm-rules/{rule}/overrides/{scope}", body, status=status)

    async def raise_alarm(self, device_id: str = "m-1", second: float = 0) -> str:
        await self.world.take(
            self.world.volts(second, 150, device_id=device_id), self.world.volts(second + 180, 150, device_id=device_id)
        )
        return str((await self.world.events())[-1].alarm_id)


async def delivered_to_nobody(channel: ChannelRow, row: NotificationRow) -> None:
    """What sends trial messages in the service; shown elsewhere."""


@asynccontextmanager
async def open_door(world: World, tmp_path: Path) -> AsyncIterator[Door]:
    clock = SystemClock()
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
    platform = Platform(CommonSettings(), clock, bus, keys)
    health = Health(clock)
    health.starting = None

    async def audit(conn: WriteConn, event: AuditEvent) -> None:
        await outbox.put(conn, [audit_message(event)])

    world.registry.add("m-2", site_id="site-2", station_class="A")
    world.registry.add("t-1", kind="env_sensor")
    app = create_app("alarm", platform, health, title="alarm")
    rules = Rules(db=world.db, directory=world.registry, clock=clock, audit=audit, class_map=CLASSES)
    making = RuleMaking(db=world.db, directory=world.registry, clock=clock, audit=audit, class_map=CLASSES)
    thresholds = Thresholds(
        db=world.db, directory=world.registry, clock=clock, audit=audit, class_map=CLASSES, rules=rules
    )
    tables = Tables(db=world.db, directory=world.registry, clock=clock, audit=audit, class_map=CLASSES)
    alarms = Alarms(db=world.db, directory=world.registry, clock=clock, audit=audit, longest_shelf=timedelta(days=7))
    maintenance = Maintenance(
        db=world.db, directory=world.registry, clock=clock, audit=audit, longest=timedelta(days=30)
    )
    rows = RuleRows(db=world.db, directory=world.registry, circuits=world.registry, clock=clock, audit=audit)
    app.include_router(build_rule_rows_router(rows))
    app.include_router(build_settings_router(world.db, world.registry))
    app.include_router(
        build_router(
            rules=rules,
            making=making,
            thresholds=thresholds,
            tables=tables,
            alarms=alarms,
            maintenance=maintenance,
        )
    )
    parts: Any = {"db": world.db, "directory": world.registry, "clock": clock, "audit": audit}
    app.include_router(
        build_notifications_router(
            Channels(**parts, deliver=delivered_to_nobody), Routes(**parts), Notifications(**parts)
        )
    )
    app.include_router(build_analysis_router(Analysis(db=world.db, directory=world.registry, clock=clock)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alarm") as client:
        yield Door(world, client, keys)
