"""Live push: what happens on the bus, to every open page, as server-sent events.

The hub reads the topics once, from now on, whatever the number of pages. A page that is too slow loses its oldest
events and is told how many; it never holds up the others.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import orjson

from libs.common import metrics
from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import HEARTBEAT_TYPE
from libs.common.errors import Unavailable

logger = logging.getLogger(__name__)

TOPICS = (
    topics.READINGS,
    topics.DEVICE_STATUS,
    topics.ALARM_EVENTS,
    topics.CONTROL_EVENTS,
    topics.INTERVALS,
    topics.DELIVERY_EVENTS,
    topics.DIAGNOSES,
)
PING_S = 15.0
"""A comment is sent after this much silence, so that proxies keep the connection. [s]"""

CLIENTS = metrics.gauge("gateway_live_clients", "Pages with live push")
DROPPED = metrics.counter("gateway_live_dropped_total", "Events that slow pages lost")

_HEARTBEAT = HEARTBEAT_TYPE.encode()

Allowed = Callable[[str | None], bool]
"""Whether a page may see what concerns a site; None is what concerns no site."""


class TooManyPages(Unavailable):
    """The limit of pages with live push is reached."""

    code = "too_many_pages"
    title_zh = "实时页面过多"


class LivePage:
    """One open page: a bounded queue that forgets its oldest events."""

    def __init__(self, allowed: Allowed, limit: int) -> None:
        self.allowed = allowed
        self._events: deque[bytes] = deque(maxlen=limit)
        self._lost = 0
        self._wake = asyncio.Event()

    def put(self, event: bytes) -> None:
        """Queue an event; the oldest goes when the queue is full."""
        if len(self._events) == self._events.maxlen:
            self._lost += 1
            DROPPED.inc()
        self._events.append(event)
        self._wake.set()

    async def next_chunk(self) -> bytes:
        """Return what has queued up, or a comment after a long silence."""
        try:
            async with asyncio.timeout(PING_S):
                await self._wake.wait()
        except TimeoutError:
            return b": still here\n\n"
        self._wake.clear()
        parts = list(self._events)
        self._events.clear()
        if self._lost:
            parts.insert(0, b'event: lost\ndata: {"events":%d}\n\n' % self._lost)
            self._lost = 0
        return b"".join(parts)


class LiveHub:
    """Spreads what happens over the open pages."""

    def __init__(self, *, clients_max: int, queue_max: int) -> None:
        self._clients_max = clients_max
        self._queue_max = queue_max
        self._pages: set[LivePage] = set()

    async def handle(self, batch: Sequence[Received]) -> None:
        """Take a batch from the tail."""
        if not self._pages:
            return
        for received in batch:
            if received.value is None or received.header("ce_type") == _HEARTBEAT:
                continue
            name = received.topic.removeprefix("wattring.").removesuffix(".v1")
            event = b"event: %s\ndata: %s\n\n" % (name.encode(), received.value)
            site = _site(received)
            for page in self._pages:
                if page.allowed(site):
                    page.put(event)

    def open(self, allowed: Allowed) -> "LivePage":
        """Return a place for a page that opens; pass it to ``stream``.

        Raises:
            TooManyPages: The limit is reached.
        """
        if len(self._pages) >= self._clients_max:
            raise TooManyPages(
                f"{self._clients_max} pages have live push already",
                message_zh=f"实时页面数已达上限 {self._clients_max}",
            )
        return LivePage(allowed, self._queue_max)

    async def stream(self, page: "LivePage", draining: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page goes or the process drains."""
        self._pages.add(page)
        CLIENTS.set(len(self._pages))
        try:
            yield b"retry: 2000\n\n"
            while not draining():
                yield await page.next_chunk()
        finally:
            self._pages.discard(page)
            CLIENTS.set(len(self._pages))

    def close(self) -> None:
        """Wake every page so that it sees the drain."""
        for page in self._pages:
            page.put(b": bye\n\n")


def _site(received: Received) -> str | None:
    """Return the site that an event is about; its key, except where the body says it."""
    if received.topic in (topics.DEVICE_STATUS, topics.DELIVERY_EVENTS) and received.value is not None:
        found = orjson.loads(received.value).get("site_id")
        return found if isinstance(found, str) else None
    return received.key
