"""Readings into batches: the handler of group ``export.feeds``.

A message is read once for all feeds. Rows and position are one transaction, so a row is in exactly one batch, whatever
crashes. Rows wait in the database compressed, a row of the table for what one transaction brought to one batch: what a
destination is to be told does not depend on how long the bus keeps readings, which are two hours on the embedded one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import orjson

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.db import WriteConn
from services.export.domain.feeds import Feed, LineMaker, Source, cuts
from services.export.feeds import batches

GROUP = "export.feeds"
SOURCES = {topics.READINGS: Source.LIVE, topics.BACKFILL: Source.BACKFILL}
TOPICS = tuple(SOURCES)
MAX_BATCH = 1000
"""Messages of one transaction: their rows for one feed are made between two statements, which must not take long."""
GATHER_S = 1.0
"""A transaction waits so long for company: a batch may wait much longer, and fewer pieces compress better. [s]"""


class SitePlaces(Protocol):
    """The site tree, for choices by region."""

    def places_of(self, site_id: str) -> Collection[str]:
        """Return a site and ``region:<id>`` of each region that it lies in.

        Raises:
            Unavailable: The registry is not known yet.
        """


class FeedCutter:
    """Cuts readings into the batches of every feed."""

    def __init__(self, clock: Clock, places: SitePlaces, *, wake: Callable[[], None]) -> None:
        """Prepare the handler; ``wake`` is called after a commit that may have closed a batch."""
        self._clock = clock
        self._places = places
        self._wake = wake
        self._makers: dict[str, tuple[Feed, LineMaker]] = {}

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory but what follows from a feed's row."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing has to be dropped."""

    def committed(self) -> None:
        """Let the senders look."""
        self._wake()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Append what feeds have chosen of a batch of messages.

        Raises:
            PoisonMessage: One is no reading.
            Unavailable: A feed chooses by site, and the registry is not known yet.
        """
        readings = [(received, reading) for received in batch if (reading := _read(received)) is not None]
        feeds = await batches.fetch_all(conn) if readings else []
        self._makers = {feed.id: (feed, self._maker(feed)) for feed in feeds}
        # In the order of their ids, as every other process does. One after the other, since the server ends a
        # transaction in which nothing is said for too long.
        for feed, maker in self._makers.values():
            lines = self._chosen(feed, maker, readings)
            if lines:
                await _append(conn, feed, lines, self._clock.now())

    def _maker(self, feed: Feed) -> LineMaker:
        known = self._makers.get(feed.id)
        return known[1] if known is not None and known[0].selection == feed.selection else LineMaker(feed.selection)

    def _chosen(
        self, feed: Feed, maker: LineMaker, readings: Sequence[tuple[Received, Mapping[str, object]]]
    ) -> list[str]:
        found: list[str] = []
        for received, reading in readings:
            # What the bus held before the feed was there is nothing that anybody asked for.
            if SOURCES[received.topic] not in feed.selection.sources or received.appended_at < feed.created_at:
                continue
            site_id = reading.get("site_id")
            if feed.needs_places and not (isinstance(site_id, str) and feed.has_place(self._places.places_of(site_id))):
                continue
            try:
                found += maker.lines(reading)
            except ValueError as exc:
                raise PoisonMessage(received, str(exc)) from exc
        return found


async def _append(conn: WriteConn, feed: Feed, lines: Sequence[str], now: datetime) -> None:
    progress = await batches.lock_progress(conn, feed.id)
    if progress is None:
        return  # it was removed just now
    found = cuts(
        last_closed=progress.last_number, open_rows=progress.open_rows, arrived=len(lines), max_rows=feed.max_rows
    )
    await batches.append(conn, feed.id, [(cut, lines[cut.start : cut.end]) for cut in found], now)


def _read(received: Received) -> Mapping[str, object] | None:
    """Return the parsed reading, None for a heartbeat."""
    if received.value is None:
        return None
    try:
        parsed = orjson.loads(received.value)
    except orjson.JSONDecodeError as exc:
        raise PoisonMessage(received, f"no JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise PoisonMessage(received, "no reading: expected an object")
    return parsed if "device_id" in parsed else None
