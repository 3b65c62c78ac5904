"""Where the watchdog leaves what it finds, so that alarm hears of it; not part of the public API."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmLevel, ConditionKind
from libs.common.contracts.base import Phase, UtcTime
from libs.common.db import Database
from libs.common.tokens import Principal
from libs.common.web import require
from services.control import bus
from services.control.api.common import Model
from services.control.usecases.ports import Loads

WatchdogOnly = Annotated[Principal, Depends(require("control:watchdog"))]


class Finding(Model):
    """A load that the watchdog has to wake, or may not."""

    load_id: str
    site_id: str | None = None
    device_id: str | None = None
    kind: Literal["wake_up_overdue", "wake_up_stopped"]
    phase: Literal["begin", "end"]
    text: Literal["overdue", "isolation", "local_lock", "protection_trip"]
    detail: str = ""
    at: UtcTime


class Findings(Model):
    """What changed since the last call."""

    findings: tuple[Finding, ...]


def build_finding_router(*, db: Database, clock: Clock, loads: Loads) -> APIRouter:
    """Return the route for the watchdog."""
    router = APIRouter()

    @router.post("/watchdog/v1/findings", status_code=204, include_in_schema=False)
    async def take(body: Findings, _: WatchdogOnly) -> None:
        messages = []
        for one in body.findings:
            load = loads.get(one.load_id)
            site_id = one.site_id or ("platform" if load is None else load.site_id)
            messages.append(
                bus.condition(
                    ConditionKind(one.kind), Phase(one.phase), load_id=one.load_id, site_id=site_id,
                    device_id=one.device_id, at=one.at, text=one.text, level=AlarmLevel.CRITICAL, source="watchdog",
                    detail=one.detail or None,
                )
            )  # fmt: skip
        async with db.write() as conn:
            await outbox.put(conn, messages)

    return router
