"""Calls of the watchdog: ingest's direct doors first, control where no door answers."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from libs.common.client import ServiceClient
from libs.common.errors import PlatformError, Unavailable
from libs.common.tokens import KeyRing
from services.control.domain.watch import Judgement, Seen
from services.control.frames import read_loads
from services.control.watchdog.engine import Look
from services.control.watchdog.settings import call_body

ISSUER = "watchdog"
LOOK_TIMEOUT_S = 5.0
ON_TIMEOUT_S = 20.0
"""A breaker motor takes up to 10 s, and the door reads back before it answers. [s]"""
CONTROL_TIMEOUT_S = 5.0
WEBHOOK_TIMEOUT_S = 10.0


class Calls:
    """Everything that the watchdog can reach."""

    def __init__(
        self, doors: Sequence[str], control: str | None, keys: KeyRing, *, call_url: SecretStr | None = None,
        body: str = "",
    ) -> None:  # fmt: skip
        self._doors = [
            ServiceClient(keys, url, caller=ISSUER, audience="ingest", scopes=("ingest:wake",)) for url in doors
        ]
        scopes = ("control:switch", "control:watchdog")
        self._control = ServiceClient(keys, control, caller=ISSUER, audience="control", scopes=scopes)
        self._call_url = call_url
        self._body = body
        self._stack = AsyncExitStack()
        self._holders: dict[str, ServiceClient] = {}
        """The door of the process that holds a load's line, as last seen."""

    async def __aenter__(self) -> "Calls":
        for client in (*self._doors, self._control):
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def look(self) -> Look:
        """Return what the doors show, the youngest reading of each load, and why doors did not answer."""
        answers = await asyncio.gather(*(self._look(door) for door in self._doors))
        found: dict[str, Seen] = {}
        problems: list[str] = [] if self._doors else ["no direct door is configured"]
        for answer in answers:
            if isinstance(answer, str):
                problems.append(answer)
                continue
            for seen in answer:
                known = found.get(seen.load_id)
                if known is None or _age(seen) < _age(known):
                    found[seen.load_id] = seen
        return Look(found, tuple(problems), any(not isinstance(answer, str) for answer in answers))

    async def _look(self, door: ServiceClient) -> list[Seen] | str:
        """Return what one door shows, or why it does not."""
        try:
            loads = read_loads(await door.get("/direct/v1/loads", timeout_s=LOOK_TIMEOUT_S))
        except PlatformError as exc:
            return f"{door.url}: {exc.message}"
        self._holders.update({load.load_id: door for load in loads if load.held})
        return [
            Seen(
                load_id=load.load_id, device_id=load.device_id, site_id=load.site_id, channel=load.channel,
                breaker=load.breaker_state, age_s=load.age_s, local_lock=load.local_lock, trip_reason=load.trip_reason,
                isolation_id=load.isolation_id,
            )
            for load in loads
        ]  # fmt: skip

    async def wake(self, load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        """Ask the doors for an ON, that of the line's holder first; return what the one that took it answered.

        Raises:
            Unavailable: No door took it.
        """
        wanted = {
            "load_id": load.load_id, "device_id": load.device_id, "channel": load.channel, "reason": reason,
            "request_id": request_id, "released_trip": released_trip,
        }  # fmt: skip
        body = {name: value for name, value in wanted.items() if value is not None}
        problems: list[str] = []
        holder = self._holders.get(load.load_id)
        for door in sorted(self._doors, key=lambda door: door is not holder):
            try:
                answer = await door.post("/direct/v1/on", body, timeout_s=ON_TIMEOUT_S)
            except PlatformError as exc:
                problems.append(f"{door.url}: {exc.message}")
            else:
                return orjson.dumps(answer).decode()[:500]
        raise Unavailable("; ".join(problems) or "no direct door is configured")

    async def ask_control(self, load_ids: Sequence[str], request_id: str, reason: str) -> None:
        """Ask control to wake loads: the other path.

        Raises:
            Unavailable: It did not take the order.
        """
        body = {"scope": "loads", "load_ids": list(load_ids), "reason": reason, "suspend_plans": False}
        await self._to_control("/api/v1/wake-ups", body, request_id)

    async def tell_control(self, findings: Sequence[Mapping[str, Any]]) -> None:
        """Leave findings with control, which publishes them.

        Raises:
            Unavailable: It did not take them.
        """
        await self._to_control("/watchdog/v1/findings", {"findings": list(findings)}, None)

    async def call_person(self, text: str) -> None:
        """Post a text to the webhook: the way to a person that needs nothing of the platform.

        Raises:
            Unavailable: None is configured, or it did not take the text.
        """
        if self._call_url is None:
            raise Unavailable("no webhook is configured")
        try:
            # The library's own bound is for each step; one byte now and then would keep it waiting for ever.
            async with (
                asyncio.timeout(WEBHOOK_TIMEOUT_S),
                httpx.AsyncClient(timeout=WEBHOOK_TIMEOUT_S, trust_env=False) as client,
            ):
                answer = await client.post(
                    self._call_url.get_secret_value(), content=call_body(self._body, text),
                    headers={"content-type": "application/json"},
                )  # fmt: skip
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as exc:
            # Their texts may name the address, which is a secret: whoever knows it can write to the group.
            raise Unavailable(f"the webhook cannot be reached: {type(exc).__name__}") from exc
        if not answer.is_success:
            raise Unavailable(f"the webhook answered {answer.status_code}")

    async def _to_control(self, path: str, body: object, request_id: str | None) -> None:
        try:
            await self._control.post(path, body, timeout_s=CONTROL_TIMEOUT_S, idempotency_key=request_id)
        except Unavailable:
            raise
        except PlatformError as exc:
            raise Unavailable(f"control does not take it: {exc.message}") from exc


def _age(seen: Seen) -> float:
    return float("inf") if seen.age_s is None else seen.age_s
