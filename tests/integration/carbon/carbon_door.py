"""The API of carbon over a real database, asked as somebody; the registry is as a test says."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter

from libs.common.bus import topics
from libs.common.bus.port import Bus
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app


@dataclass
class Door:
    """Routes of carbon over a database."""

    db: Database
    client: httpx.AsyncClient
    keys: KeyRing

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int = 200,
        content: bytes | None = None,
        scopes: tuple[str, ...] = ("carbon:read", "carbon:write"),
        sites: tuple[str, ...] | None = None,
        **params: Any,
    ) -> Any:
        token = self.keys.sign_token(
            "gateway", subject="wang", kind="user", audience="carbon", scopes=scopes, sites=sites
        )
        reply = await self.client.request(
            method, f"/api/v1{path}", json=body, content=content, params=params,
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        assert reply.status_code == status, reply.text
        return reply.json() if reply.headers.get("content-type", "").endswith("json") else reply.content

    async def audits(self) -> list[AuditEvent]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
        return [AuditEvent.from_json(row["value"]) for row in rows]


@asynccontextmanager
async def open_door(db: Database, tmp_path: Path, clock: Clock, routers: Sequence[APIRouter]) -> AsyncIterator[Door]:
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
    health = Health(clock)
    health.starting = None
    app = create_app("carbon", Platform(CommonSettings(), clock, bus, keys), health, title="carbon")
    for router in routers:
        app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://carbon") as client:
        yield Door(db, client, keys)
