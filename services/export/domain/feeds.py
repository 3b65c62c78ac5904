"""Feeds: a choice of readings, cut once into numbered batches, which any number of destinations are told.

A *feed* says what is chosen and how it is cut. Its batches are numbered from 1 without gaps and never change once they
are closed; so everybody who is told a feed is told the same under the same number, and two parties can compare. A
*destination* is a place that is told a feed's batches one after the other, each until it is acknowledged or a person
leaves it out. What it has been told is one number: the next.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.rows import COLUMNS, decimal_text

PAUSE_FIRST_S = 2.0
PAUSE_CAP_S = 300.0
"""Waits after failures double up to this. [s]"""
JITTER_SHARE = 0.25
"""A wait is longer by up to this share, so that those who failed together do not come back together."""
BREAKER_FAILURES = 5
"""So many failures in a row are told to alarm. Waits are the breaker: only one batch is ever tried, and seldom."""


class Source(StrEnum):
    """Which topic a reading came by."""

    LIVE = "live"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows a feed has; None is all."""

    sites: tuple[str, ...] | None = None
    """Ids of sites, or ``region:<id>``."""
    devices: tuple[str, ...] | None = None
    points: tuple[str, ...] | None = None
    """Names, or patterns with ``*`` and ``?``."""
    sources: frozenset[Source] = frozenset(Source)

    def has_point(self, point: str) -> bool:
        """Return whether a point is chosen."""
        return self.points is None or any(fnmatchcase(point, pattern) for pattern in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A choice of readings and how it is cut."""

    id: str
    name: str
    owner: str
    limits: tuple[str, ...] | None
    """What of the site tree its owner could see when it was last changed; nothing else is told."""
    selection: Selection
    max_rows: int
    """Of a batch. [rows]"""
    max_wait_s: float
    """After which an open batch is closed however little it has. [s]"""
    keep_s: float
    """How long the rows of a batch that everybody has are kept, to be sent again. [s]"""
    created_at: datetime
    updated_at: datetime

    def has_place(self, places: Collection[str]) -> bool:
        """Return whether a site is chosen, by its id and ``region:<id>`` of each region that it lies in."""
        return all(
            limits is None or any(one in places for one in limits) for limits in (self.selection.sites, self.limits)
        )

    @property
    def needs_places(self) -> bool:
        """Whether the site tree has to be known to choose."""
        return self.selection.sites is not None or self.limits is not None


NAMES_KNOWN = 10_000
"""Sets of points whose choice is remembered: devices of one kind send the same ones all day."""


class LineMaker:
    """Canonical lines of readings; remembers what is chosen of the points that come together."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._devices = None if selection.devices is None else frozenset(selection.devices)
        self._chosen = lru_cache(NAMES_KNOWN)(self._choose)

    def lines(self, reading: Mapping[str, object]) -> list[str]:
        """Return the canonical lines of what is chosen of a reading, by name of the point.

        Args:
            reading: The parsed payload of ``telemetry.readings``, which ingest has checked.

        Raises:
            ValueError: It is no reading; the reason says why.
        """
        device_id, points = reading.get("device_id"), reading.get("points")
        site_id, source_time = reading.get("site_id"), reading.get("source_time")
        if not isinstance(device_id, str) or not isinstance(points, dict) or not isinstance(site_id, str):
            raise ValueError("no reading: expected device_id, site_id and points")
        if self._devices is not None and device_id not in self._devices:
            return []
        at = utc_text(source_time)
        flags = reading.get("quality")
        quality = flags if isinstance(flags, dict) else {}
        return [
            f"{site_id}\t{device_id}\t{point}\t{at}\t{decimal_text(points[point])}\t{quality.get(point, '')}"
            for point in self._chosen(tuple(points))
        ]

    def _choose(self, points: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(point for point in sorted(points) if self._selection.has_point(point))


def utc_text(value: object) -> str:
    """Return a time of a payload as canonical lines have it.

    Raises:
        ValueError: It is none, or without its zone.
    """
    if not isinstance(value, str):
        raise ValueError("no reading: expected source_time")
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError(f"source_time: expected a time with its zone, found {value[:40]!r}")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of what came, for one batch."""

    number: int
    start: int
    end: int
    """Of the lines that came: ``[start, end)``."""
    closes: bool
    """Whether the batch is full with it."""


def cuts(*, last_closed: int, open_rows: int, arrived: int, max_rows: int) -> Iterator[Cut]:
    """Return how what came is spread over the open batch and the following ones.

    Args:
        last_closed: Number of the last closed batch.
        open_rows: Rows that the open batch has.
        arrived: Rows that came.
        max_rows: Of a batch.
    """
    # A feed that was made smaller just now may have an open batch that is too full: it ends with the next row.
    number, room, start = last_closed + 1, max(max_rows - open_rows, 1), 0
    while start < arrived:
        end = min(start + room, arrived)
        yield Cut(number, start, end, closes=end - start == room)
        number, room, start = number + 1, max_rows, end


# ---- destinations -------------------------------------------------------------------------------------


class DestinationKind(StrEnum):
    """By what a destination is told."""

    HTTP = "http"
    MQTT = "mqtt"
    KAFKA = "kafka"
    POSTGRESQL = "postgresql"
    FILE = "file"
    """CSV or JSON files on an FTP or SFTP server."""


class DestinationState(StrEnum):
    """Whether a destination is told."""

    ACTIVE = "active"
    PAUSED = "paused"
    """By a person: its batches wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """By which way this machine reaches a destination."""

    proxy: str | None = None
    """``http://host:port`` (CONNECT) or ``socks5://host:port``; without an account, which is a secret."""
    source_address: str | None = None
    """Our own address that the connection comes from, on a machine that stands in several networks."""
    trust: str | None = None
    """PEM of the authorities that the destination's certificate is checked against; None: the public ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How rows are written: data, not code."""

    kind: str = "json"
    """``json``, ``ndjson`` or ``csv``."""
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in COLUMNS})
    """The destination's name of a column to ours: one of ``COLUMNS``, ``=text`` for a fixed text."""
    envelope: object = None
    """Of ``json``: any JSON in which ``$rows``, ``$feed``, ``$batch``, ``$count`` and ``$hash`` are replaced; None is
    ``{"feed": "$feed", "batch": "$batch", "hash": "$hash", "rows": "$rows"}``."""
    numbers: bool = True
    """Of ``json`` and ``ndjson``: whether values are numbers, or decimal texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A place that is told a feed."""

    id: str
    feed_id: str
    name: str
    kind: DestinationKind
    address: Mapping[str, object]
    """What the kind needs: see its connector."""
    egress: Egress = Egress()
    format: Format = Format()
    timeout_s: float = 30.0
    """For one batch. [s]"""
    min_interval_s: float = 0.0
    """Between the beginnings of two batches: the rate. [s]"""
    party: str | None = None
    """Who receives there, as the audit log names people and keys: may read its side of the statements."""
    state: DestinationState = DestinationState.ACTIVE
    next_number: int = 1
    """Of the batch that it is told next."""
    failures: int = 0
    failing_since: datetime | None = None
    not_before: datetime | None = None
    error: str | None = None
    sealed: bytes | None = field(default=None, repr=False)
    """Its secrets as stored: encrypted."""
    version: int = 1
    """Rises with every change by people."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How a destination is doing after an attempt."""

    taken: bool
    failures: int
    failing_since: datetime | None
    not_before: datetime | None
    error: str | None


def standing_after(destination: Destination, outcome: Outcome, now: datetime, *, jitter: float) -> Standing:
    """Return what an attempt makes of a destination.

    A batch is never given up by itself: a numbered stream with a hole is for a person to decide, also when the
    destination says that a batch is wrong.

    Args:
        destination: As it was.
        outcome: What the attempt showed.
        now: When it ended.
        jitter: Between 0 and 1.
    """
    if outcome.verdict is Verdict.DELIVERED:
        wait_s = max(destination.min_interval_s - outcome.took_s, 0.0)
        return Standing(True, 0, None, now + timedelta(seconds=wait_s) if wait_s else None, None)
    failures = destination.failures + 1
    pause_s = min(PAUSE_FIRST_S * 2.0 ** min(failures - 1, 20), PAUSE_CAP_S) * (1.0 + JITTER_SHARE * jitter)
    pause_s = max(pause_s, outcome.retry_after_s or 0.0)
    return Standing(False, failures, destination.failing_since or now, now + timedelta(seconds=pause_s), outcome.error)


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return rising numbers as closed ranges, for people: 1, 2, 3, 7 are 1-3 and 7-7."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
