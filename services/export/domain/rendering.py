"""A batch in the words of a destination: columns, names and envelope are data."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from services.export.domain.feeds import Format
from services.export.domain.rows import COLUMNS

DEFAULT_ENVELOPE: Mapping[str, object] = {"feed": "$feed", "batch": "$batch", "hash": "$hash", "rows": "$rows"}
CONTENT_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
EXTENSIONS = {"json": "json", "ndjson": "ndjson", "csv": "csv"}
_PLACES = {name: place for place, name in enumerate(COLUMNS)}
_MOST_DEPTH = 20
_MOST_BODIES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """A closed batch with its rows."""

    feed_id: str
    number: int
    hash: str
    """Of all its rows, as ``Tally.hash``."""
    lines: Sequence[str]
    """Canonical lines in their order."""
    bodies: list[tuple[Format, bytes]] = field(default_factory=list, repr=False, compare=False)
    """What was rendered of it: parties often want the same."""


def problem(format_: Format) -> str | None:
    """Return what is wrong with a format, None when it can be used."""
    if format_.kind not in CONTENT_TYPES:
        return f"kind: expected one of {', '.join(CONTENT_TYPES)}, found {format_.kind!r}"
    if not format_.columns:
        return "columns: expected at least one"
    for name, source in format_.columns.items():
        if source not in _PLACES and not source.startswith("="):
            return f"columns.{name}: expected one of {', '.join(COLUMNS)} or =text, found {source!r}"
    if format_.envelope is None:
        return None
    if format_.kind != "json":
        return "envelope: only json has one"
    try:
        count = _count_rows(format_.envelope, 0)
    except RecursionError:
        return f"envelope: deeper than {_MOST_DEPTH}"
    return None if count == 1 else f'envelope: expected "$rows" once, found it {count} times'


def render(format_: Format, batch: Batch) -> bytes:
    """Return a batch as a destination wants it, in UTF-8; rendered once for all that want it alike."""
    for known, body in batch.bodies:
        if known == format_:
            return body
    body = _rendered(format_, batch)
    if len(batch.bodies) >= _MOST_BODIES:
        del batch.bodies[0]
    batch.bodies.append((format_, body))
    return body


def _rendered(format_: Format, batch: Batch) -> bytes:
    if format_.kind == "csv":
        fields = [(_PLACES.get(source), source[1:]) for source in format_.columns.values()]
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
        writer.writerow(list(format_.columns))
        rows = (line.split("\t") for line in batch.lines)
        writer.writerows([text if place is None else row[place] for place, text in fields] for row in rows)
        return out.getvalue().encode()
    objects = _objects(format_, batch.lines)
    if format_.kind == "ndjson":
        return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in objects)
    envelope = DEFAULT_ENVELOPE if format_.envelope is None else format_.envelope
    facts: Mapping[str, object] = {
        "$feed": batch.feed_id, "$batch": batch.number, "$count": len(batch.lines), "$hash": batch.hash,
        "$rows": list(objects),
    }  # fmt: skip
    return orjson.dumps(_filled(envelope, facts))


def _objects(format_: Format, lines: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield an object per row, its members in the order of the columns."""
    template: dict[str, object] = {name: source[1:] for name, source in format_.columns.items()}
    value_at = _PLACES["value"]
    places = [(name, _PLACES[source]) for name, source in format_.columns.items() if source in _PLACES]
    numbers = [name for name, place in places if place == value_at and format_.numbers]
    copied = [(name, place) for name, place in places if name not in numbers]
    for line in lines:
        row = line.split("\t")
        found = template.copy()
        for name, place in copied:
            found[name] = row[place]
        # A decimal text is a JSON number as it stands; read back it is the double that it was made of.
        for name in numbers:
            found[name] = orjson.Fragment(row[value_at]) if row[value_at] else None
        yield found


def _filled(part: object, facts: Mapping[str, object]) -> object:
    """Return an envelope with its placeholders replaced."""
    if isinstance(part, Mapping):
        return {str(name): _filled(each, facts) for name, each in part.items()}
    if isinstance(part, list):
        return [_filled(each, facts) for each in part]
    return facts.get(part, part) if isinstance(part, str) else part


def _count_rows(part: object, depth: int) -> int:
    if depth > _MOST_DEPTH:
        raise RecursionError
    if isinstance(part, Mapping):
        return sum(_count_rows(each, depth + 1) for each in part.values())
    if isinstance(part, list):
        return sum(_count_rows(each, depth + 1) for each in part)
    return int(part == "$rows")
