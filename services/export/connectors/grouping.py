"""A batch in parts: rows of one device, site or point together, where messages or their keys say so."""

from collections.abc import Callable

from services.export.domain.rendering import Batch
from services.export.domain.rows import COLUMNS


def parts(batch: Batch, key_of: Callable[[dict[str, str]], str]) -> dict[str, Batch]:
    """Return the batch cut by a key of its rows, in the order in which keys come; each with the whole batch's hash."""
    lines: dict[str, list[str]] = {}
    known: dict[tuple[str, ...], str] = {}
    for line in batch.lines:
        fields = line.split("\t")
        place = tuple(fields[:3])
        key = known.get(place)
        if key is None:
            key = known[place] = key_of(dict(zip(COLUMNS[:3], fields, strict=False)))
        lines.setdefault(key, []).append(line)
    return {key: Batch(batch.feed_id, batch.number, batch.hash, found) for key, found in lines.items()}
