"""How feeds are shown: what they are, how far their destinations are, what both sides have of a day."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from pydantic import BaseModel

from libs.common.contracts.delivery import DeliveryState
from services.export.api.feed_bodies import EgressBody, FormatBody
from services.export.domain.callbacks import Verdict
from services.export.domain.feeds import Destination, DestinationKind, DestinationState, Feed, Source
from services.export.feeds import batches
from services.export.usecases.feeds import Tried

STATES_ZH = {DestinationState.ACTIVE: "启用", DestinationState.PAUSED: "已暂停"}
SHOWN_BODY_CHARS = 4000


class FeedView(BaseModel):
    """A feed and how far it is."""

    id: str
    name: str
    owner: str
    sites: tuple[str, ...] | None
    devices: tuple[str, ...] | None
    points: tuple[str, ...] | None
    sources: list[Source]
    max_rows: int
    max_wait_s: float
    keep_s: float
    last_batch: int
    """The last that is closed; 0 before the first."""
    open_rows: int
    open_since: datetime | None
    created_at: datetime
    updated_at: datetime


class DestinationView(BaseModel):
    """A destination and how it is doing; secrets are never shown."""

    id: str
    feed_id: str
    name: str
    kind: DestinationKind
    address: dict[str, Any]
    egress: EgressBody
    format: FormatBody
    timeout_s: float
    min_interval_s: float
    party: str | None
    has_secrets: bool
    state: DestinationState
    state_zh: str
    next_batch: int
    waiting: int
    """Closed batches that it has not been told."""
    failures: int
    failing_since: datetime | None
    next_attempt_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime


class BatchView(BaseModel):
    """A closed batch."""

    batch: int
    rows: int
    hash: str
    opened_at: datetime
    closed_at: datetime
    kept: bool
    """Whether its rows are still here, so that it can be told once more."""


class FeedDeliveryView(BaseModel):
    """What became of a batch at a destination."""

    batch: int
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    took_s: float | None
    first_at: datetime
    last_at: datetime


class TriedView(BaseModel):
    """What a test or a dry run showed."""

    body: str
    """What is sent, cut after some thousand characters."""
    outcome: Verdict | None
    status: int | None
    took_s: float | None
    error: str | None


class AgainView(BaseModel):
    """Which batches will be told once more; the others' rows are no longer kept, or their turn comes anyway."""

    batches: list[int]


class PointTallyView(BaseModel):
    """What there is of one point."""

    rows: int
    values: int
    """Rows that have a value."""
    sum: str
    """Exact decimal, of the values."""


class TallyView(BaseModel):
    """What there is of a day."""

    rows: int
    hash: str
    points: dict[str, PointTallyView]


class SideView(TallyView):
    """What one destination has acknowledged of a day."""

    destination: str
    name: str
    from_batch: int
    told: list[tuple[int, int]]
    """Acknowledged batches with rows of the day, as closed ranges."""
    missing: list[tuple[int, int]]
    complete: bool


class BatchOfDayView(BaseModel):
    """What one batch has of a day."""

    batch: int
    rows: int
    hash: str


class StatementView(TallyView):
    """What a feed has of a day, and what each destination has acknowledged of it."""

    feed: str
    day: date
    zone: str
    through_batch: int
    """Later batches may have more rows of the day, never fewer."""
    recipe: str
    """How the hash is made, in words."""
    batches: list[BatchOfDayView]
    destinations: list[SideView]


class WrittenStatementView(StatementView):
    """A statement as it stood two hours after the day."""

    made_at: datetime


class DifferenceView(BaseModel):
    """Where the two sides differ."""

    what: str
    ours: str
    theirs: str


class CheckView(BaseModel):
    """What the comparison showed."""

    agrees: bool
    differences: list[DifferenceView]
    wrong_batches: list[int]
    """Acknowledged, and missing or different at the party."""
    unknown_batches: list[int]
    """The party has them, and they have no rows of the day here."""
    missing_batches: list[int]
    """Not acknowledged yet."""
    sent_again: list[int]


def feed_view(feed: Feed, progress: batches.Progress) -> FeedView:
    """Return a feed as it is shown."""
    selection = feed.selection
    return FeedView(
        id=feed.id, name=feed.name, owner=feed.owner, sites=selection.sites, devices=selection.devices,
        points=selection.points, sources=sorted(selection.sources), max_rows=feed.max_rows,
        max_wait_s=feed.max_wait_s, keep_s=feed.keep_s, last_batch=progress.last_number,
        open_rows=progress.open_rows, open_since=progress.open_since, created_at=feed.created_at,
        updated_at=feed.updated_at,
    )  # fmt: skip


def destination_view(destination: Destination, waiting: Mapping[str, int]) -> DestinationView:
    """Return a destination as it is shown; ``waiting`` counts batches by destination."""
    egress, format_ = destination.egress, destination.format
    return DestinationView(
        id=destination.id, feed_id=destination.feed_id, name=destination.name, kind=destination.kind,
        address=dict(destination.address),
        egress=EgressBody(proxy=egress.proxy, source_address=egress.source_address, trust=egress.trust),
        format=FormatBody(
            kind=format_.kind, columns=dict(format_.columns), envelope=format_.envelope, numbers=format_.numbers
        ),
        timeout_s=destination.timeout_s, min_interval_s=destination.min_interval_s, party=destination.party,
        has_secrets=destination.sealed is not None, state=destination.state, state_zh=STATES_ZH[destination.state],
        next_batch=destination.next_number, waiting=max(waiting.get(destination.id, 0), 0),
        failures=destination.failures, failing_since=destination.failing_since,
        next_attempt_at=destination.not_before, error=destination.error, created_at=destination.created_at,
        updated_at=destination.updated_at,
    )  # fmt: skip


def tried_view(tried: Tried) -> TriedView:
    """Return what a test or a dry run showed, the body cut."""
    outcome = tried.outcome
    return TriedView(
        body=tried.body.decode()[:SHOWN_BODY_CHARS],
        outcome=None if outcome is None else outcome.verdict,
        status=None if outcome is None else outcome.status,
        took_s=None if outcome is None else outcome.took_s,
        error=None if outcome is None else outcome.error,
    )
