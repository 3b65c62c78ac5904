"""Readings and intervals into the queues of endpoints, in batches: the handler of group ``export.batches``.

It is a group of its own, so that no flood of readings keeps an alarm or a command from being told.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.db import WriteConn
from services.export.callbacks import batches, endpoints
from services.export.callbacks.batches import Item
from services.export.domain.callbacks import Endpoint, News, NewsType, hears_of
from services.export.worker.callback_queue import CLOCKS_DIFFER, SitePlaces, queue_up

GROUP = "export.batches"
TOPICS = tuple(batches.KINDS)
MOST_MESSAGES = 5000
"""In one transaction."""


_Choice = tuple[frozenset[str] | None, frozenset[str] | None, datetime | None]
"""Points, kinds of devices, and since when: None is all."""


class CallbackBatches:
    """Queues batches for the endpoints that have chosen them."""

    def __init__(self, clock: Clock, places: SitePlaces, *, wake: Callable[[], None]) -> None:
        """Prepare the handler; ``wake`` is called after a commit that has queued something."""
        self._clock = clock
        self._places = places
        self._wake = wake
        self._has_queued = False

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Let the senders look at once."""
        if self._has_queued:
            self._wake()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Queue what a batch of messages holds; while nobody has chosen any of it, it is not even read.

        Raises:
            PoisonMessage: One cannot be read.
            Unavailable: Somebody has chosen by region or kind, and the registry is not known yet.
        """
        self._has_queued = False
        listening = await endpoints.fetch_listening(conn)
        wanted = {each for endpoint in listening for each in endpoint.choice.types}
        held: dict[tuple[NewsType, str], list[Item]] = {}
        for received in batch:
            if batches.KINDS[received.topic].type in wanted and (item := _read(received)) is not None:
                held.setdefault((item.type, item.site_id), []).append(item)
        chosen = [
            each for (type_, site_id), items in held.items() for each in self._told(listening, type_, site_id, items)
        ]
        if chosen:
            await queue_up(conn, chosen, self._clock.now())
            self._has_queued = True

    def _told(
        self, listening: Sequence[Endpoint], type_: NewsType, site_id: str, items: Sequence[Item]
    ) -> list[tuple[Endpoint, News]]:
        """Return who is told what of a site; those who have chosen alike are told the same."""
        asking = [each for each in listening if type_ in each.choice.types]
        by_place = any(each.limits is not None or each.choice.sites is not None for each in asking)
        places = self._places.places_of(site_id) if by_place else ()
        oldest = min(each.appended_at for each in items)
        alike: dict[_Choice, list[Endpoint]] = {}
        for endpoint in asking:
            if hears_of(endpoint, places):
                alike.setdefault(_choice(endpoint, type_, oldest), []).append(endpoint)
        return [
            (endpoint, news)
            for choice, hearers in alike.items()
            for news in batches.batches_of(self._chosen(items, choice), choice[0])
            for endpoint in hearers
        ]

    def _chosen(self, items: Sequence[Item], choice: _Choice) -> list[Item]:
        _, kinds, since = choice
        return [
            each
            for each in items
            if (since is None or each.appended_at >= since)
            and (kinds is None or (each.device_id is not None and self._places.kind_of(each.device_id) in kinds))
        ]


def _choice(endpoint: Endpoint, type_: NewsType, oldest: datetime) -> _Choice:
    points, kinds = endpoint.choice.points, endpoint.choice.kinds
    # What the bus held before the endpoint was there is nothing that it asked for.
    since = endpoint.created_at - CLOCKS_DIFFER
    return (
        None if points is None or not type_.is_of_points else frozenset(points),
        None if kinds is None or not type_.is_of_devices else frozenset(kinds),
        since if since > oldest else None,
    )


def _read(received: Received) -> Item | None:
    try:
        return batches.item_of(received)
    except ValueError as exc:
        raise PoisonMessage(received, str(exc)) from exc
