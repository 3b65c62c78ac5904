"""Batches: what comes in thousands a second is told many at a time, those of one site together.

A batch is made of what one transaction of the consumer holds, so that nothing is remembered between two of them and
no reading is a row. Endpoints that have chosen the same are told the same batch: it is kept once.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import HEARTBEAT_TYPE
from services.export.domain.callbacks import Lane, News, NewsType

MOST_ITEMS = 500
"""In one callback."""
MOST_BYTES = 256 * 1024
"""Of their payloads in one callback; one that is larger goes alone. [B]"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a topic's payloads are told as."""

    type: NewsType
    source: str
    name: str
    """Of the list in the body, and of the subject."""


KINDS: Mapping[str, _Kind] = {
    topics.READINGS: _Kind(NewsType.READINGS_BATCH, "ingest", "readings"),
    topics.BACKFILL: _Kind(NewsType.BACKFILL_BATCH, "ingest", "readings"),
    topics.INTERVALS: _Kind(NewsType.INTERVALS_BATCH, "carbon", "intervals"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One payload of a topic."""

    topic: str
    place: str
    """Where it stood on the bus: partition and offset."""
    appended_at: datetime
    site_id: str
    device_id: str | None
    said: Mapping[str, Any]
    value: bytes

    @property
    def type(self) -> NewsType:
        """What it is told as."""
        return KINDS[self.topic].type


def item_of(received: Received) -> Item | None:
    """Return what a message holds; None for a heartbeat, and for what has been deleted.

    Raises:
        ValueError: It cannot be told; the reason says why.
    """
    if received.value is None or envelope.event_type(received) == HEARTBEAT_TYPE:
        return None
    try:
        said = orjson.loads(received.value)
    except orjson.JSONDecodeError as exc:
        raise ValueError(f"no event of {received.topic}: {exc}") from exc
    site_id = said.get("site_id") if isinstance(said, dict) else None
    device_id = said.get("device_id") if isinstance(said, dict) else None
    if not isinstance(site_id, str) or not isinstance(device_id, str | None):
        raise ValueError(f"no event of {received.topic}: site_id or device_id is no text")
    if KINDS[received.topic].type.is_of_points and not isinstance(said.get("points"), dict):
        raise ValueError(f"no event of {received.topic}: points are missing")
    return Item(
        topic=received.topic,
        place=f"{received.partition}/{received.offset}",
        appended_at=received.appended_at,
        site_id=site_id,
        device_id=device_id,
        said=said,
        value=received.value,
    )


def batches_of(items: Sequence[Item], points: Collection[str] | None) -> list[News]:
    """Return the news that tell these, in their order.

    Args:
        items: Of one topic and one site.
        points: Points of readings that are told; None for all. A reading without one of them is left out.
    """
    chosen = points if points is not None and items and items[0].type.is_of_points else None
    told = [(item, item.value if chosen is None else _with_points(item, chosen)) for item in items]
    return [_news(portion) for portion in _portions([(item, value) for item, value in told if value is not None])]


def _with_points(item: Item, points: Collection[str]) -> bytes | None:
    """Return a reading with nothing but these points, None when it has none of them."""
    kept = {name: value for name, value in item.said["points"].items() if name in points}
    if not kept:
        return None
    said = {**item.said, "points": kept}
    for beside in ("quality", "raw"):
        if isinstance(found := said.get(beside), dict):
            said[beside] = {name: value for name, value in found.items() if name in points}
            if not said[beside]:
                del said[beside]
    return orjson.dumps(said)


def _portions(told: Sequence[tuple[Item, bytes]]) -> Iterator[list[tuple[Item, bytes]]]:
    portion: list[tuple[Item, bytes]] = []
    size = 0
    for item, value in told:
        if portion and (len(portion) >= MOST_ITEMS or size + len(value) > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append((item, value))
        size += len(value)
    if portion:
        yield portion


def _news(portion: Sequence[tuple[Item, bytes]]) -> News:
    first, last = portion[0][0], portion[-1][0]
    kind = KINDS[first.topic]
    data = orjson.dumps(
        {
            "site_id": first.site_id,
            "count": len(portion),
            kind.name: [orjson.Fragment(value) for _, value in portion],
        }
    )
    # The same choice of the same messages has the same name, and nothing else has.
    seed = f"{first.topic}/{first.place}-{last.place}/".encode() + data
    return News(
        event_id=f"bat_{hashlib.sha256(seed).hexdigest()[:32]}",
        type=kind.type,
        source=kind.source,
        resource=f"{kind.type.value.partition('.')[0]}/{first.site_id}",
        site_id=first.site_id,
        at=last.appended_at,
        data=data,
        lane=Lane.BULK,
    )
