"""News into the queues of endpoints: the handler of group ``export.callbacks``.

Everything happens in the consumer's transaction: the news, the numbers that they get, the deliveries to come. Nothing
is kept in memory, so that nothing has to be dropped.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.db import WriteConn
from services.export.callbacks import endpoints, queues
from services.export.callbacks.queues import Addition, QueueKey
from services.export.callbacks.sources import SOURCES, news_of
from services.export.domain.callbacks import Endpoint, Lane, News, wants

CLOCKS_DIFFER = timedelta(seconds=5)
"""By so much the bus' clock may be behind ours."""
GROUP = "export.callbacks"
TOPICS = tuple(SOURCES)
UNHEARD_S = 1.0
"""While there is no endpoint events are gathered for so long: a transaction for each would only move a position. [s]"""


class SitePlaces(Protocol):
    """The registry, for choices by region and by kind of device."""

    def places_of(self, site_id: str) -> Collection[str]:
        """Return a site and ``region:<id>`` of each region that it lies in.

        Raises:
            Unavailable: The registry is not known yet.
        """

    def kind_of(self, device_id: str) -> str | None:
        """Return the kind of a device, None when the registry does not know it.

        Raises:
            Unavailable: The registry is not known yet.
        """


class CallbackQueue:
    """Queues what endpoints are to be told."""

    def __init__(self, clock: Clock, places: SitePlaces, *, wake: Callable[[], None]) -> None:
        """Prepare the handler; ``wake`` is called after a commit that may have queued something."""
        self._clock = clock
        self._places = places
        self._wake = wake
        self._is_heard = True
        """Whether there was an endpoint when a batch was last handled."""

    def gather_s(self) -> float:
        """Return how long the next events are to wait for company. [s]

        They wait on the bus, and whether there is an endpoint is asked anew in the transaction that passes over them:
        one that was made meanwhile misses nothing.
        """
        return 0.0 if self._is_heard else UNHEARD_S

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Let the senders look at once."""
        self._wake()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Queue a batch of events; what nobody has chosen any of is not even read.

        Raises:
            PoisonMessage: One cannot be read.
            Unavailable: Somebody has chosen by region, and the registry is not known yet.
        """
        listening = await endpoints.fetch_listening(conn)
        self._is_heard = bool(listening)
        wanted = {each for endpoint in listening for each in endpoint.choice.types}
        told = [
            (received, _read(received)) for received in batch if not wanted.isdisjoint(SOURCES[received.topic].types)
        ]
        chosen = [
            (endpoint, news)
            for received, news in told
            if news is not None
            for endpoint in self._listeners(listening, news)
            # What the bus held before the endpoint was there is nothing that it asked for.
            if received.appended_at >= endpoint.created_at - CLOCKS_DIFFER
        ]
        chosen = await _without_hushed(conn, chosen)
        if chosen:
            await queue_up(conn, chosen, self._clock.now())

    def _listeners(self, listening: Sequence[Endpoint], news: News) -> list[Endpoint]:
        by_place = any(each.limits is not None or each.choice.sites is not None for each in listening)
        sites = news.site_ids or (news.site_id,)
        places: set[str] = set()
        if by_place:
            places.update(*(self._places.places_of(site_id) for site_id in sites))
        by_kind = news.device_id is not None and any(each.choice.kinds is not None for each in listening)
        kind = self._places.kind_of(news.device_id) if by_kind and news.device_id is not None else None
        return [each for each in listening if wants(each, news, places, kind)]


async def queue_up(conn: WriteConn, chosen: Sequence[tuple[Endpoint, News]], now: datetime) -> None:
    """Queue news for endpoints that have chosen them, each for each endpoint once."""
    news = {each.event_id: each for _, each in chosen}
    keys, known = await queues.put_events(conn, list(news.values()), now)
    before = await queues.fetch_known(conn, [keys[event_id] for event_id in known]) if known else set()
    fresh: dict[tuple[str, str], tuple[Endpoint, News]] = {}
    for endpoint, each in chosen:
        if (endpoint.id, keys[each.event_id]) not in before:
            fresh[endpoint.id, each.event_id] = (endpoint, each)
    growth: dict[QueueKey, tuple[int, Lane]] = {}
    for endpoint, each in fresh.values():
        n, lane = growth.get((endpoint.id, each.resource), (0, each.lane))
        growth[endpoint.id, each.resource] = (n + 1, min(lane, each.lane))
    last = await queues.grow(conn, growth, now) if growth else {}
    await queues.insert(conn, _numbered(fresh.values(), last, keys), now)


def _read(received: Received) -> News | None:
    try:
        return news_of(received)
    except ValueError as exc:
        raise PoisonMessage(received, str(exc)) from exc


async def _without_hushed(
    conn: WriteConn, chosen: Sequence[tuple[Endpoint, News]]
) -> list[tuple[Endpoint, News]]:  # fmt: skip
    """Return what is told: of what something else explains only what goes on with something that was told."""
    asked = {(endpoint.id, news.resource) for endpoint, news in chosen if news.hushed}
    told = await queues.fetch_told(conn, asked) if asked else set()
    found = []
    for endpoint, news in chosen:
        if news.hushed and (endpoint.id, news.resource) not in told:
            continue
        told.add((endpoint.id, news.resource))
        found.append((endpoint, news))
    return found


def _numbered(
    fresh: Collection[tuple[Endpoint, News]], last: Mapping[QueueKey, int], keys: Mapping[str, int]
) -> list[Addition]:
    """Return the deliveries with their sequence, in the order in which the news came."""
    sequences = dict(last)
    found = []
    for endpoint, news in fresh:
        key = (endpoint.id, news.resource)
        sequences[key] += 1
        found.append(
            Addition(
                endpoint_id=endpoint.id,
                event_key=keys[news.event_id],
                resource=news.resource,
                sequence=sequences[key],
                lane=news.lane,
            )
        )
    return found
