"""The REST API of feeds: what third parties are told of readings, by which way, and what both sides have of a day."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from libs.common.contracts.base import CalendarDate, Flag, Number
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database
from libs.common.tokens import Principal
from libs.common.web import Limit, require
from services.export.domain.callbacks import Verdict
from services.export.domain.feeds import (
    Destination,
    DestinationKind,
    DestinationState,
    Egress,
    Feed,
    Format,
    Selection,
    Source,
)
from services.export.domain.rendering import CONTENT_TYPES
from services.export.domain.rows import COLUMNS, PointSum, Tally
from services.export.feeds import batches, destinations
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from services.export.usecases.feeds import DestinationWish, FeedAdministration, FeedWish, Tried

Reader = Annotated[Principal, Depends(require("export:read"))]
Writer = Annotated[Principal, Depends(require("export:write"))]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
BatchNumber = Annotated[int, Field(ge=1, le=2**62)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
STATES_ZH = {DestinationState.ACTIVE: "启用", DestinationState.PAUSED: "已暂停"}
SHOWN_BODY_CHARS = 4000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeedBody(_Body):
    """What is chosen of all readings, and how it is cut into batches."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "Guangzhou to both parties", "sites": ["region:440100"], "points": ["energy_*"]}]
        }
    )

    name: Name
    sites: tuple[str, ...] | None = Field(
        default=None, max_length=10_000, description="only these sites or region:<id>; none: all that its owner may see"
    )
    devices: tuple[str, ...] | None = Field(default=None, max_length=10_000, description="only these; none: all")
    points: tuple[str, ...] | None = Field(
        default=None, max_length=500, description="only these; with * and ? for many; none: all"
    )
    sources: tuple[Source, ...] = Field(
        default=(Source.LIVE, Source.BACKFILL),
        min_length=1,
        max_length=2,
        description="what comes live, what is filled in",
    )
    max_rows: int = Field(default=5000, ge=1, le=20_000, description="of a batch; a row is one value of one point")
    max_wait_s: Number = Field(default=10.0, ge=1, le=3600, description="after which a batch is closed, full or not")
    keep_s: Number = Field(
        default=3 * 86_400.0, ge=60, le=31 * 86_400.0,
        description="how long the rows of a batch are kept after everybody has them, to be told once more",
    )  # fmt: skip

    def wish(self) -> FeedWish:
        """Return what the use case takes."""
        selection = Selection(
            sites=self.sites, devices=self.devices, points=self.points, sources=frozenset(self.sources)
        )
        return FeedWish(self.name, selection, self.max_rows, self.max_wait_s, self.keep_s)


class EgressBody(_Body):
    """By which way the destination is reached."""

    proxy: str | None = Field(
        default=None, max_length=300, description="http://host:port (CONNECT) or socks5://host:port"
    )
    source_address: str | None = Field(default=None, max_length=45, description="our own address to come from")
    trust: str | None = Field(
        default=None, max_length=200_000, description="PEM of the authorities that count; none: the public ones"
    )


class FormatBody(_Body):
    """How rows are written."""

    kind: str = Field(default="json", description=", ".join(CONTENT_TYPES))
    columns: dict[str, str] = Field(
        default_factory=lambda: {name: name for name in COLUMNS}, min_length=1, max_length=50,
        description=f"the destination's name of a column to ours ({', '.join(COLUMNS)}), or to =text",
    )  # fmt: skip
    envelope: Any = Field(
        default=None,
        description='of json: any JSON with "$rows" once, and "$feed", "$batch", "$count", "$hash" where wanted',
    )
    numbers: Flag = Field(default=True, description="whether values are numbers; else decimal texts")


class DestinationBody(_Body):
    """A place that is told the feed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "energy service company",
                    "kind": "http",
                    "address": {
                        "url": "https://esco.example.com/readings",
                        "auth": "oauth2",
                        "token_url": "https://esco.example.com/token",
                    },
                    "secrets": {"client_id": "wattring", "client_secret": "…"},
                    "egress": {"proxy": "socks5://10.0.0.5:1080"},
                    "format": {"columns": {"meter": "device_id", "item": "point", "t": "source_time", "v": "value"}},
                }
            ]
        }
    )

    name: Name
    kind: DestinationKind
    address: dict[str, Any] = Field(max_length=30, description="what the kind needs")
    secrets: dict[str, SecretStr] | None = Field(
        default=None, max_length=20,
        description="stored encrypted, never shown; replaces all that are stored; none keeps them while address and "
        "way stay the same",
    )  # fmt: skip
    egress: EgressBody = EgressBody()
    format: FormatBody = FormatBody()
    timeout_s: Number = Field(default=30.0, ge=0.5, le=300, description="for one batch")
    min_interval_s: Number = Field(default=0.0, ge=0, le=3600, description="between two batches: the rate")
    party: str | None = Field(
        default=None,
        pattern=r"^(user|key):.{1,200}$",
        description="who receives there and may compare, such as key:abc",
    )

    @field_validator("secrets")
    @classmethod
    def _are_short(cls, value: dict[str, SecretStr] | None) -> dict[str, SecretStr] | None:
        if value is not None and any(len(each.get_secret_value()) > 20_000 for each in value.values()):
            raise ValueError("expected secrets of at most 20000 characters each")
        return value

    def wish(self) -> DestinationWish:
        """Return what the use case takes."""
        secrets = None
        if self.secrets is not None:
            secrets = {name: each.get_secret_value() for name, each in self.secrets.items()}
        return DestinationWish(
            name=self.name, kind=self.kind, address=self.address, egress=Egress(**self.egress.model_dump()),
            format=Format(**self.format.model_dump()), timeout_s=self.timeout_s, min_interval_s=self.min_interval_s,
            party=self.party, secrets=secrets,
        )  # fmt: skip


class NewDestinationBody(DestinationBody):
    """A new one."""

    from_batch: BatchNumber | None = Field(
        default=None, description="the first that it is told, if its rows are still kept; none: the next that is closed"
    )


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


class AgainBody(_Body):
    """Which batches are told once more."""

    first: BatchNumber
    last: BatchNumber | None = Field(default=None, description="default: only the first; at most 10,000 in one call")


class AgainView(BaseModel):
    """Which batches will be told once more; the others' rows are no longer kept, or their turn comes anyway."""

    batches: list[int]


class LeaveOutBody(_Body):
    """The batch that the destination is at."""

    batch: BatchNumber


class PointCheck(_Body):
    """What a party has of one point."""

    rows: int = Field(ge=0)
    values: int = Field(ge=0)
    sum: str = Field(max_length=1000, description="exact decimal")

    @field_validator("sum")
    @classmethod
    def _is_decimal(cls, value: str) -> str:
        try:
            found = Decimal(value)
        except InvalidOperation as exc:
            raise ValueError("expected a decimal") from exc
        if not found.is_finite() or abs(found.adjusted()) > 400:
            raise ValueError("expected a finite decimal")
        return value


class CheckBody(_Body):
    """What a party has of a day."""

    rows: int = Field(ge=0)
    hash: Hash
    points: dict[str, PointCheck] | None = Field(default=None, max_length=2000, description="compared when given")
    batches: dict[BatchNumber, Hash] | None = Field(
        default=None, max_length=100_000, description="hash of the day's rows of each batch; names those that differ"
    )
    through_batch: int | None = Field(default=None, ge=0, description="the last that the party has counted")
    send_again: Flag = Field(default=False, description="whether batches that are missing or wrong are told once more")

    def tally(self) -> Tally:
        """Return what the party has."""
        points = {
            name: PointSum(each.rows, each.values, Decimal(each.sum)) for name, each in (self.points or {}).items()
        }
        return Tally(self.rows, int(self.hash, 16), points)


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


def build_feeds_router(administration: FeedAdministration, db: Database) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(prefix="/api/v1/feeds", tags=["feeds"])

    async def feed_view(feed: Feed) -> FeedView:
        async with db.read() as conn:
            progress = await batches.fetch_progress(conn, feed.id)
        return _feed_view(feed, progress or batches.Progress(0, 0, None))

    async def view(destination: Destination) -> DestinationView:
        async with db.read() as conn:
            waiting = await destinations.waiting(conn)
        return _view(destination, waiting)

    @router.get("")
    async def list_feeds(who: Reader, request: Request) -> list[FeedView]:
        """List one's feeds; whoever administers export sees all."""
        return [await feed_view(feed) for feed in await administration.fetch_all(_caller(who, request))]

    @router.post("", status_code=201)
    async def create_feed(body: FeedBody, who: Writer, request: Request) -> FeedView:
        """Create a feed: it has what comes from now on."""
        return await feed_view(await administration.create(body.wish(), _caller(who, request)))

    @router.get("/{feed_id}")
    async def get_feed(feed_id: Id, who: Reader, request: Request) -> FeedView:
        """Return a feed and how far it is."""
        return await feed_view(await administration.fetch(feed_id, _caller(who, request)))

    @router.put("/{feed_id}")
    async def change_feed(feed_id: Id, body: FeedBody, who: Writer, request: Request) -> FeedView:
        """Change a feed; batches that are closed stay as they are."""
        return await feed_view(await administration.change(feed_id, body.wish(), _caller(who, request)))

    @router.delete("/{feed_id}", status_code=204)
    async def remove_feed(feed_id: Id, who: Writer, request: Request) -> Response:
        """Remove a feed, with its destinations and what waits for them."""
        await administration.remove(feed_id, _caller(who, request))
        return Response(status_code=204)

    @router.get("/{feed_id}/batches")
    async def list_batches(
        feed_id: Id, who: Reader, request: Request, before: BatchNumber | None = None, limit: Limit = 100
    ) -> list[BatchView]:
        """List closed batches, the youngest first; ``before`` goes on."""
        await administration.fetch(feed_id, _caller(who, request))
        async with db.read() as conn:
            found = await batches.fetch_closed(conn, feed_id, before=before, limit=limit)
        return [
            BatchView(
                batch=each.number, rows=each.rows, hash=each.hash, opened_at=each.opened_at, closed_at=each.closed_at,
                kept=each.kept,
            )
            for each in found
        ]  # fmt: skip

    @router.get("/{feed_id}/statements/{day}", response_model=StatementView)
    async def get_statement(
        feed_id: Id, day: CalendarDate, who: Reader, request: Request, through_batch: BatchNumber | None = None
    ) -> dict[str, Any]:
        """Return what the feed has of a civil day, and what each destination has acknowledged (parties: their own)."""
        statement = await administration.statement(feed_id, day, _caller(who, request), through=through_batch)
        return statement.document()

    @router.get("/{feed_id}/statements", response_model=list[WrittenStatementView])
    async def list_statements(
        feed_id: Id, who: Reader, request: Request, before: CalendarDate | None = None, limit: Limit = 31
    ) -> list[dict[str, Any]]:
        """List the statements that were written down two hours after each day, the youngest first."""
        return await administration.written(feed_id, _caller(who, request), before=before, limit=limit)

    @router.get("/{feed_id}/destinations")
    async def list_destinations(feed_id: Id, who: Reader, request: Request) -> list[DestinationView]:
        """List the destinations of a feed."""
        await administration.fetch(feed_id, _caller(who, request))
        async with db.read() as conn:
            found = await destinations.fetch_of(conn, feed_id)
            waiting = await destinations.waiting(conn)
        return [_view(each, waiting) for each in found]

    @router.post("/{feed_id}/destinations", status_code=201)
    async def add_destination(feed_id: Id, body: NewDestinationBody, who: Writer, request: Request) -> DestinationView:
        """Add a destination."""
        caller = _caller(who, request)
        return await view(await administration.add(feed_id, body.wish(), caller, from_batch=body.from_batch))

    @router.put("/{feed_id}/destinations/{destination_id}")
    async def change_destination(
        feed_id: Id, destination_id: Id, body: DestinationBody, who: Writer, request: Request
    ) -> DestinationView:
        """Change a destination; it goes on where it was."""
        caller = _caller(who, request)
        return await view(await administration.change_destination(feed_id, destination_id, body.wish(), caller))

    @router.delete("/{feed_id}/destinations/{destination_id}", status_code=204)
    async def remove_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> Response:
        """Remove a destination."""
        await administration.remove_destination(feed_id, destination_id, _caller(who, request))
        return Response(status_code=204)

    @router.post("/{feed_id}/destinations/{destination_id}/pause")
    async def pause_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> DestinationView:
        """Stop telling it; its batches wait."""
        caller = _caller(who, request)
        return await view(await administration.set_state(feed_id, destination_id, DestinationState.PAUSED, caller))

    @router.post("/{feed_id}/destinations/{destination_id}/resume")
    async def resume_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> DestinationView:
        """Tell it again, at once."""
        caller = _caller(who, request)
        return await view(await administration.set_state(feed_id, destination_id, DestinationState.ACTIVE, caller))

    @router.post("/{feed_id}/destinations/{destination_id}/test")
    async def test_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> TriedView:
        """Tell it batch 0, which means nothing, and say what came of it."""
        return _tried(await administration.attempt(feed_id, destination_id, _caller(who, request), dry=False))

    @router.post("/{feed_id}/destinations/{destination_id}/dry-run")
    async def dry_run_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> TriedView:
        """Show what it would be told, and tell nobody."""
        return _tried(await administration.attempt(feed_id, destination_id, _caller(who, request), dry=True))

    @router.post("/{feed_id}/destinations/{destination_id}/again", status_code=202)
    async def tell_again(feed_id: Id, destination_id: Id, body: AgainBody, who: Writer, request: Request) -> AgainView:
        """Tell batches once more, under their numbers."""
        last = body.first if body.last is None else min(body.last, body.first + 9_999)
        noted = await administration.again(feed_id, destination_id, range(body.first, last + 1), _caller(who, request))
        return AgainView(batches=noted)

    @router.post("/{feed_id}/destinations/{destination_id}/leave-out")
    async def leave_out_batch(
        feed_id: Id, destination_id: Id, body: LeaveOutBody, who: Writer, request: Request
    ) -> DestinationView:
        """Give up the batch that the destination is at, and go on with the next; the statement says so."""
        caller = _caller(who, request)
        return await view(await administration.leave_out(feed_id, destination_id, body.batch, caller))

    @router.get("/{feed_id}/destinations/{destination_id}/deliveries")
    async def list_feed_deliveries(
        feed_id: Id, destination_id: Id, who: Reader, request: Request, state: DeliveryState | None = None,
        before: BatchNumber | None = None, limit: Limit = 100,
    ) -> list[FeedDeliveryView]:  # fmt: skip
        """List what became of batches, the youngest first; ``before`` goes on."""
        await administration.fetch(feed_id, _caller(who, request))
        async with db.read() as conn:
            destination = await destinations.fetch(conn, destination_id)
            if destination is None or destination.feed_id != feed_id:
                return []
            found = await destinations.fetch_log(conn, destination_id, state=state, before=before, limit=limit)
        return [
            FeedDeliveryView(
                batch=each.number, state=each.state, attempts=each.attempts, status=each.status, error=each.error,
                took_s=each.took_s, first_at=each.first_at, last_at=each.last_at,
            )
            for each in found
        ]  # fmt: skip

    @router.post("/{feed_id}/destinations/{destination_id}/checks/{day}")
    async def check_day(
        feed_id: Id, destination_id: Id, day: CalendarDate, body: CheckBody, who: Reader, request: Request
    ) -> CheckView:
        """Compare what the party has of a day with what it has acknowledged; on request what differs is told again."""
        caller = _caller(who, request)
        side, found = await administration.compare(
            feed_id, destination_id, day, caller, theirs=body.tally(), with_points=body.points is not None,
            their_hashes=body.batches, through=body.through_batch,
        )  # fmt: skip
        sent_again: list[int] = []
        if body.send_again and found.wrong:
            sent_again = await administration.again_for_party(feed_id, destination_id, found.wrong, caller)
        return CheckView(
            agrees=found.agrees,
            differences=[
                DifferenceView(what=each.what, ours=each.ours, theirs=each.theirs) for each in found.differences
            ],
            wrong_batches=list(found.wrong),
            unknown_batches=list(found.unknown),
            missing_batches=list(side.missing),
            sent_again=sent_again,
        )

    return router


def _caller(who: Principal, request: Request) -> Caller:
    return Caller(
        actor=Actor(who.actor, request.headers.get("x-request-id")),
        sites=who.sites,
        sees_all=who.may("export:admin") and who.sites is None,
    )


def _feed_view(feed: Feed, progress: batches.Progress) -> FeedView:
    selection = feed.selection
    return FeedView(
        id=feed.id, name=feed.name, owner=feed.owner, sites=selection.sites, devices=selection.devices,
        points=selection.points, sources=sorted(selection.sources), max_rows=feed.max_rows,
        max_wait_s=feed.max_wait_s, keep_s=feed.keep_s, last_batch=progress.last_number,
        open_rows=progress.open_rows, open_since=progress.open_since, created_at=feed.created_at,
        updated_at=feed.updated_at,
    )  # fmt: skip


def _view(destination: Destination, waiting: Mapping[str, int]) -> DestinationView:
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


def _tried(tried: Tried) -> TriedView:
    outcome = tried.outcome
    return TriedView(
        body=tried.body.decode()[:SHOWN_BODY_CHARS],
        outcome=None if outcome is None else outcome.verdict,
        status=None if outcome is None else outcome.status,
        took_s=None if outcome is None else outcome.took_s,
        error=None if outcome is None else outcome.error,
    )
