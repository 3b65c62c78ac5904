"""The gateway, wired."""

import asyncio
import sys
from collections.abc import Collection
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from libs.common.bus import topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.port import StartAt
from libs.common.bus.tail import Tail
from libs.common.migrations import BUS, SchemaGate
from libs.common.registry import RegistryView
from libs.common.runtime import Beat, Check, Health, Platform, Service, Worker, group_check, run
from libs.common.settings import load_common, load_section
from libs.common.tokens import Principal
from libs.common.web import build_version, create_app
from services.gateway.api import build_router, identify_by
from services.gateway.description import merge
from services.gateway.domain import SERVICES
from services.gateway.live import TOPICS, LiveHub
from services.gateway.pages import add_pages
from services.gateway.proxy import Proxy
from services.gateway.push import PushDoor
from services.gateway.settings import GatewaySettings
from services.gateway.sites import SiteScope
from services.gateway.usecases import Accounts
from services.gateway.worker import AuditHandler


class Reason(BaseModel):
    """What keeps a service from working."""

    reason: str
    reason_zh: str


def build(platform: Platform) -> Service:
    """Return the service, not yet started."""
    settings = load_section("gateway", GatewaySettings)
    db = platform.database("gateway")
    owner = f"gateway-{platform.settings.instance}"
    accounts = Accounts(db=db, clock=platform.clock, keys=platform.keys, settings=settings)
    proxy = Proxy(platform, timeout_s=settings.proxy_timeout_s)
    hub = LiveHub(clients_max=settings.live_clients_max, queue_max=settings.live_queue_max)
    view = RegistryView(bus=platform.bus, db=db, clock=platform.clock)
    relay = OutboxRelay(bus=platform.bus, db=db, clock=platform.clock, owner=owner)
    audit = EffectsConsumer(
        bus=platform.bus,
        db=db,
        clock=platform.clock,
        group="gateway.audit",
        topics=[topics.AUDIT],
        handler=AuditHandler(),
        member_id=owner,
    )
    tail = Tail(bus=platform.bus, clock=platform.clock, topics=TOPICS, start=StartAt.end(), handle=hub.handle)

    async def live(beat: Beat) -> None:
        try:
            await tail.run(beat)
        finally:
            hub.close()

    health = Health(platform.clock)
    examples = files("services.gateway") / "api_examples.yaml"
    app = create_app("gateway", platform, health, title="Wattring gateway", examples=examples)
    identify = identify_by(accounts)

    async def describe(services: Collection[str]) -> dict[str, Any]:
        asked = [name for name in SERVICES if name in services]
        answers = dict(zip(asked, await asyncio.gather(*(proxy.openapi(name) for name in asked)), strict=True))
        found = {name: description for name, description in answers.items() if description is not None}
        if "gateway" in services:
            found = {"gateway": app.openapi()} | found
        return await asyncio.to_thread(merge, found, version=build_version("gateway"))

    app.include_router(
        build_router(accounts, db, hub, identify, SiteScope(view).allowed, secure_cookie=settings.secure_cookie)
    )

    @app.get("/api/v1/readiness", tags=["live"], summary="Which services can work, and what keeps the others")
    async def readiness(_: Annotated[Principal, Depends(identify)]) -> dict[str, dict[str, Reason]]:
        found = {"gateway": await health.not_ready()} | {name: await proxy.readiness(name) for name in SERVICES}
        return {
            service: {name: Reason(reason=both.english, reason_zh=both.chinese) for name, both in reasons.items()}
            for service, reasons in found.items()
        }

    @app.api_route("/api/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def forward(request: Request, who: Annotated[Principal, Depends(identify)]) -> Response:
        return await proxy.forward(request, who)

    push_door = PushDoor(proxy, settings.push)

    @app.post("/push/{path:path}", include_in_schema=False)
    async def push(request: Request) -> Response:
        return await push_door.take(request)

    add_pages(app, describe)
    return Service(
        name="gateway",
        app=app,
        health=health,
        resources=[SchemaGate(platform.settings.database, BUS, "gateway"), db, proxy, accounts],
        workers=[
            Worker("registry", view.run),
            Worker("audit", audit.run),
            Worker("live", live),
            Worker("outbox", relay.run),
        ],
        checks=[
            Check("database", db.check),
            Check("bus", platform.bus.check),
            Check("registry", view.check),
            group_check("audit", lambda: audit.ready, "gateway.audit"),
        ],
    )


def main() -> int:
    """Run the gateway as a process of its own."""
    return run([build], load_common, process="gateway")


if __name__ == "__main__":
    sys.exit(main())
