"""The REST API of feeds: what third parties are told of readings, by which way, and what both sides have of a day."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from libs.common.contracts.base import CalendarDate
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database
from libs.common.tokens import Principal
from libs.common.web import Limit, require
from services.export.api.feed_bodies import (
    AgainBody,
    BatchNumber,
    CheckBody,
    DestinationBody,
    FeedBody,
    LeaveOutBody,
    NewDestinationBody,
)
from services.export.api.feed_views import (
    AgainView,
    BatchView,
    CheckView,
    DestinationView,
    DifferenceView,
    FeedDeliveryView,
    FeedView,
    StatementView,
    TriedView,
    WrittenStatementView,
    destination_view,
    feed_view,
    tried_view,
)
from services.export.domain.feeds import Destination, DestinationState, Feed
from services.export.feeds import batches, destinations
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from services.export.usecases.feeds import FeedAdministration

Reader = Annotated[Principal, Depends(require("export:read"))]
Writer = Annotated[Principal, Depends(require("export:write"))]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def build_feeds_router(administration: FeedAdministration, db: Database) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(prefix="/api/v1/feeds", tags=["feeds"])

    async def shown(feed: Feed) -> FeedView:
        async with db.read() as conn:
            progress = await batches.fetch_progress(conn, feed.id)
        return feed_view(feed, progress or batches.Progress(0, 0, None))

    async def view(destination: Destination) -> DestinationView:
        async with db.read() as conn:
            waiting = await destinations.waiting(conn)
        return destination_view(destination, waiting)

    @router.get("")
    async def list_feeds(who: Reader, request: Request) -> list[FeedView]:
        """List one's feeds; whoever administers export sees all."""
        return [await shown(feed) for feed in await administration.fetch_all(_caller(who, request))]

    @router.post("", status_code=201)
    async def create_feed(body: FeedBody, who: Writer, request: Request) -> FeedView:
        """Create a feed: it has what comes from now on."""
        return await shown(await administration.create(body.wish(), _caller(who, request)))

    @router.get("/{feed_id}")
    async def get_feed(feed_id: Id, who: Reader, request: Request) -> FeedView:
        """Return a feed and how far it is."""
        return await shown(await administration.fetch(feed_id, _caller(who, request)))

    @router.put("/{feed_id}")
    async def change_feed(feed_id: Id, body: FeedBody, who: Writer, request: Request) -> FeedView:
        """Change a feed; batches that are closed stay as they are."""
        return await shown(await administration.change(feed_id, body.wish(), _caller(who, request)))

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
        return [destination_view(each, waiting) for each in found]

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
        return tried_view(await administration.attempt(feed_id, destination_id, _caller(who, request), dry=False))

    @router.post("/{feed_id}/destinations/{destination_id}/dry-run")
    async def dry_run_destination(feed_id: Id, destination_id: Id, who: Writer, request: Request) -> TriedView:
        """Show what it would be told, and tell nobody."""
        return tried_view(await administration.attempt(feed_id, destination_id, _caller(who, request), dry=True))

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
