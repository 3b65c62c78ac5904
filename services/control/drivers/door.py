"""Ingest's direct doors: what the breakers read, and an ON that needs neither bus nor database."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from libs.common.client import ServiceClient
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, PlatformError, Unavailable
from libs.common.tokens import KeyRing
from services.control import metrics
from services.control.domain.guards import Reading
from services.control.frames import DoorLoad, DoorSample, read_loads, read_samples
from services.control.usecases.ports import SteadyClock

logger = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 2.0
ON_TIMEOUT_S = 20.0
"""A breaker motor takes up to 10 s, and the door reads back before it answers. [s]"""
SAMPLES_TIMEOUT_S = 10.0
AT_ONCE = 50
"""Wake-ups by the direct door at the same time."""
BOARD_MAX_AGE_S = 10.0
"""A door that has not answered for this long tells nothing. [s]"""


@dataclass(frozen=True, slots=True)
class OnRequest:
    """An ON by the direct door."""

    load_id: str
    device_id: str
    channel: int | None
    reason: str
    request_id: str
    released_trip: int | None = None


class Doors:
    """The direct doors of all ingest processes."""

    def __init__(self, urls: Sequence[str], keys: KeyRing, *, issuer: str = "control") -> None:
        scopes = ("ingest:wake", "ingest:read")
        self._doors = [ServiceClient(keys, url, caller=issuer, audience="ingest", scopes=scopes) for url in urls]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Doors":
        for door in self._doors:
            await self._stack.enter_async_context(door)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def loads(self, named: Collection[str] | None = None, *, timeout_s: float = LOOK_TIMEOUT_S) -> list[DoorLoad]:
        """Return what the doors know; of a load that several know, the youngest reading.

        Args:
            named: The loads to tell of, 500 at most; None for all.
            timeout_s: For each door. [s]

        Raises:
            Unavailable: No door answered.
        """
        answers = await asyncio.gather(*(_look(door, named, timeout_s) for door in self._doors), return_exceptions=True)
        found: dict[str, DoorLoad] = {}
        problems: list[str] = []
        for answer in answers:
            if isinstance(answer, PlatformError):
                problems.append(answer.message)
                continue
            if isinstance(answer, BaseException):
                raise answer
            for load in answer:
                known = found.get(load.load_id)
                if known is None or _age(load) < _age(known):
                    found[load.load_id] = load
        if len(problems) == len(self._doors):
            raise Unavailable("; ".join(problems) or "no direct door is configured")
        return list(found.values())

    async def samples(self, wanted: Mapping[str, Any]) -> list[DoorSample]:
        """Return values out of the history, which every door reads; of the first that answers.

        Raises:
            Unavailable: No door answered.
        """
        problems: list[str] = []
        for door in self._doors:
            try:
                return read_samples(await door.post("/direct/v1/samples", wanted, timeout_s=SAMPLES_TIMEOUT_S))
            except PlatformError as exc:
                problems.append(f"{door.url}: {exc.message}")
        raise Unavailable("; ".join(problems) or "no direct door is configured")

    async def on(self, request: OnRequest) -> Mapping[str, Any] | None:
        """Ask for an ON and return the first door's answer that took it, None when none did.

        Raises:
            Unavailable: No door answered.
        """
        problems: list[str] = []
        wanted = {
            "load_id": request.load_id, "device_id": request.device_id, "channel": request.channel,
            "reason": request.reason, "request_id": request.request_id, "released_trip": request.released_trip,
        }  # fmt: skip
        body = {name: value for name, value in wanted.items() if value is not None}
        for door in self._doors:
            try:
                answer: Mapping[str, Any] = await door.post("/direct/v1/on", body, timeout_s=ON_TIMEOUT_S)
            except PlatformError as exc:  # one that does not hold the line refuses
                problems.append(f"{door.url}: {exc.message}")
            else:
                return answer
        if problems:
            raise Unavailable("; ".join(problems))
        return None

    async def on_many(self, requests: Sequence[OnRequest]) -> list[str]:
        """Ask for many ONs at the same time; return the loads that no door took."""
        room = asyncio.Semaphore(AT_ONCE)
        failed: list[str] = []

        async def one(request: OnRequest) -> None:
            async with room:
                try:
                    await self.on(request)
                except Unavailable as exc:
                    failed.append(request.load_id)
                    logger.warning(
                        "wake-up by the direct door failed", extra={"load_id": request.load_id, "reason": exc.message}
                    )
                else:
                    logger.info("wake-up by the direct door", extra={"load_id": request.load_id})

        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(one(request), name=f"wake {request.load_id}")
        return failed


async def _look(door: ServiceClient, named: Collection[str] | None, timeout_s: float) -> list[DoorLoad]:
    if named is not None:
        try:
            return read_loads(await door.get("/direct/v1/loads", timeout_s=timeout_s, load=sorted(named)))
        except InvalidInput:
            pass  # a door of a former release knows no names, and refuses what it does not know
    return read_loads(await door.get("/direct/v1/loads", timeout_s=timeout_s))


def _age(load: DoorLoad) -> float:
    return float("inf") if load.age_s is None else load.age_s


class Board:
    """The doors' last answers, aged by our own monotonic clock, so that no clock of another machine matters."""

    def __init__(self, doors: Doors, clock: Clock, steady: SteadyClock) -> None:
        self._doors = doors
        self._clock = clock
        self._steady = steady
        self._seen: dict[str, _Seen] = {}
        self._heard_at = float("-inf")
        """When the doors were last asked for all loads, and answered."""
        self._silent = False
        self._looking = asyncio.Lock()

    def of(self, load_id: str) -> Reading | None:
        """Return a load's reading, with its age brought up to now; None when no door has answered recently."""
        seen = self._seen.get(load_id)
        if seen is None or (since_s := self._clock.monotonic() - seen.asked_at) > BOARD_MAX_AGE_S:
            return None
        reading = seen.reading
        age_s = None if reading.age_s is None else reading.age_s + since_s
        read_at = None if age_s is None else self._steady.now() - timedelta(seconds=age_s)
        return replace(reading, age_s=age_s, read_at=read_at)

    def is_isolated(self, load_id: str) -> bool:
        """Return whether the line's holder has opened the load under a work permit, as last heard."""
        seen = self._seen.get(load_id)
        return seen is not None and seen.is_isolated

    async def refresh(self, max_age_s: float, named: Collection[str] | None = None) -> None:
        """Look again unless that was done within ``max_age_s``; without an answer the old one ages.

        Args:
            max_age_s: Of an answer that needs no other. [s]
            named: The loads to look at, 500 at most; None for all.
        """
        async with self._looking:
            if self._clock.monotonic() - self._oldest(named) <= max_age_s:
                return
            asked_at = self._clock.monotonic()
            try:
                loads = await self._doors.loads(named)
            except Unavailable as exc:
                metrics.DOOR_AGE.set(min(asked_at - self._heard_at, 1e9))
                if not self._silent:
                    logger.warning("no direct door answers; nothing can be switched off", extra={"reason": exc.message})
                self._silent = True
                return
            self._silent = False
            metrics.DOOR_AGE.set(0.0)
            seen = {load.load_id: _seen(load, asked_at) for load in loads}
            if named is None:
                self._heard_at = asked_at
                self._seen = seen
            else:  # what no door has told of is as unknown as in an answer with all of them
                self._seen = {name: one for name, one in self._seen.items() if name not in named} | seen

    def _oldest(self, named: Collection[str] | None) -> float:
        """Return when the loads were last asked for, all of them. [s]"""
        if named is None:
            return self._heard_at
        return min(
            (seen.asked_at if (seen := self._seen.get(one)) is not None else self._heard_at for one in named),
            default=self._heard_at,
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the doors said of a load, and when they were asked."""

    reading: Reading
    is_isolated: bool
    asked_at: float


def _seen(load: DoorLoad, asked_at: float) -> _Seen:
    reading = Reading(
        breaker=load.breaker_state, read_at=None, age_s=load.age_s, local_lock=load.local_lock,
        trip_reason=load.trip_reason,
    )  # fmt: skip
    return _Seen(reading, load.isolation_id is not None, asked_at)
