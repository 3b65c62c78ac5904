"""What the platform pushes: messages as they were seen in the wild, three attempts, and the pause after failures."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from libs.common.clock import Clock

logger = logging.getLogger(__name__)

ATTEMPTS = 3
ATTEMPT_PAUSE_S = 0.2
TIMEOUT_S = 5.0
FAILED_IN_A_ROW = 100
FAILED_SHARE = 0.1
SHARE_WITHIN_S = 10.0
SHARE_AT_LEAST = 20
"""Pushes within that time below which a share says nothing."""
PAUSE_S = 60.0
"""Pushing rests this long after too many failures; what happens meanwhile is lost. [s]"""
MAX_WAITING = 10_000


@dataclass(slots=True)
class PushCounts:
    """What became of the pushes."""

    delivered: int = 0
    repeated: int = 0
    failed: int = 0
    lost: int = 0
    pauses: int = 0


class Pusher:
    """Sends messages to the one subscriber, in order, several at a time."""

    def __init__(self, *, url: str | None, clock: Clock, at_once: int = 8, pause_s: float = PAUSE_S) -> None:
        """Prepare.

        Args:
            url: Of the subscriber; None pushes nothing.
            clock: For pauses.
            at_once: Messages under way at a time.
            pause_s: Rest after too many failures. [s]
        """
        self.url = url
        self.counts = PushCounts()
        self._clock = clock
        self._at_once = at_once
        self._pause_s = pause_s
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._under_way = 0
        self._in_a_row = 0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=10_000)
        self._rests_until = float("-inf")

    @property
    def resting(self) -> bool:
        """Whether pushing is paused; what would be pushed now is lost."""
        return self._clock.monotonic() < self._rests_until

    @property
    def idle(self) -> bool:
        """Whether everything has been sent or given up."""
        return self._waiting.empty() and not self._under_way

    def put(self, message: Mapping[str, Any], *, copies: int = 1) -> None:
        """Push a message, ``copies`` times the same."""
        for _ in range(copies):
            if self.url is None or self.resting or self._waiting.full():
                self.counts.lost += 1
            else:
                self._waiting.put_nowait(orjson.dumps(message))

    async def run(self) -> None:
        """Send for ever."""
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._at_once):
                group.create_task(self._send_all(client), name=f"aep push {number}")

    async def _send_all(self, client: httpx.AsyncClient) -> None:
        while True:
            body = await self._waiting.get()
            self._under_way += 1
            try:
                await self._send(client, body)
            finally:
                self._under_way -= 1

    async def _send(self, client: httpx.AsyncClient, body: bytes) -> None:
        for attempt in range(ATTEMPTS):
            if self.resting:
                break
            if attempt:
                self.counts.repeated += 1
                await self._clock.sleep(ATTEMPT_PAUSE_S)
            if await self._attempt(client, body):
                self.counts.delivered += 1
                return
        self.counts.lost += 1

    async def _attempt(self, client: httpx.AsyncClient, body: bytes) -> bool:
        try:
            answer = await client.post(self.url or "", content=body, headers={"content-type": "application/json"})
            taken = answer.status_code == 200
        except httpx.HTTPError as exc:
            logger.debug("push failed", extra={"reason": str(exc)})
            taken = False
        self._note(taken)
        return taken

    def _note(self, taken: bool) -> None:
        now = self._clock.monotonic()
        self._outcomes.append((now, taken))
        self._in_a_row = 0 if taken else self._in_a_row + 1
        self.counts.failed += not taken
        recent = [ok for at, ok in self._outcomes if now - at <= SHARE_WITHIN_S]
        share = recent.count(False) / len(recent)
        if self._in_a_row > FAILED_IN_A_ROW or (len(recent) >= SHARE_AT_LEAST and share > FAILED_SHARE):
            self.counts.pauses += 1
            self._rests_until = now + self._pause_s
            self._in_a_row = 0
            self._outcomes.clear()
