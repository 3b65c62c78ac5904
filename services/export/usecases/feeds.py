"""Feeds and their destinations over the API: who may, what is checked, what is told; statements and checks.

A feed has an owner, who sees and changes it with its destinations; whoever administers export sees all. What a feed
tells never goes beyond the part of the site tree that its owner may see. A destination may have a *party*: a key or a
person that sees this destination's side of the statements, and says what it has itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import new_id
from libs.common.outgoing import AddressGuard
from services.export import bus
from services.export.connectors.factory import connector_of
from services.export.connectors.port import BadAddress
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import (
    Destination,
    DestinationKind,
    DestinationState,
    Egress,
    Feed,
    Format,
    Selection,
)
from services.export.domain.rendering import Batch, render
from services.export.domain.rows import Tally, decimal_text, tally_of
from services.export.domain.statements import Found, Side, Statement, check
from services.export.feeds import batches, destinations, statements
from services.export.secrets import Secrets
from services.export.usecases.callbacks import Caller

MOST_AGAIN = 10_000
"""Batches that are asked for once more in one call."""
SAMPLE_ROWS = 3


class TooManyFeeds(Conflict):
    """There are as many as this installation takes."""

    code = "too_many_feeds"
    title_zh = "数据流数量已达上限"


@dataclass(frozen=True, slots=True)
class FeedWish:
    """What people set of a feed."""

    name: str
    selection: Selection
    max_rows: int
    max_wait_s: float
    keep_s: float


@dataclass(frozen=True, slots=True)
class DestinationWish:
    """What people set of a destination."""

    name: str
    kind: DestinationKind
    address: Mapping[str, object]
    egress: Egress
    format: Format
    timeout_s: float
    min_interval_s: float
    party: str | None
    secrets: Mapping[str, str] | None
    """None keeps those that are stored; else all of them are replaced."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a test or a dry run of a destination showed."""

    body: bytes
    """What is sent, for a look; without anything that authenticates."""
    outcome: Outcome | None
    """None for a dry run."""


class FeedAdministration:
    """Creates, changes and removes feeds and destinations, and compares."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        guard: AddressGuard,
        max_feeds: int,
        max_destinations: int,
        changed: Callable[[], None],
    ) -> None:
        """Keep what is needed.

        Args:
            db: The service's database.
            clock: Our clock.
            secrets: Encrypts the destinations' secrets.
            guard: Knows which addresses may be called.
            max_feeds: More are refused.
            max_destinations: Of one feed; more are refused.
            changed: Called after a change.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._guard = guard
        self._max_feeds = max_feeds
        self._max_destinations = max_destinations
        self._changed = changed

    # ---- feeds -----------------------------------------------------------------------------------

    async def create(self, wish: FeedWish, caller: Caller) -> Feed:
        """Create a feed; it has what the bus brings from now on. Raises ``TooManyFeeds``."""
        now = self._clock.now()
        feed = Feed(
            id=new_id(), name=wish.name, owner=caller.actor.name, limits=caller.sites, selection=wish.selection,
            max_rows=wish.max_rows, max_wait_s=wish.max_wait_s, keep_s=wish.keep_s, created_at=now, updated_at=now,
        )  # fmt: skip
        async with self._db.write() as conn:
            if len(await batches.fetch_all(conn)) >= self._max_feeds:
                raise TooManyFeeds(
                    f"{self._max_feeds} feeds are the most (WATTRING_EXPORT__FEEDS__MAX_FEEDS)",
                    message_zh=f"最多 {self._max_feeds} 个数据流(WATTRING_EXPORT__FEEDS__MAX_FEEDS)",
                )
            await batches.put(conn, feed)
            await self._audit(conn, caller, "feed.create", f"feed:{feed.id}", {"name": feed.name})
        self._changed()
        return feed

    async def change(self, feed_id: str, wish: FeedWish, caller: Caller) -> Feed:
        """Change a feed; batches that are closed stay as they are. Raises ``NotFound``."""
        async with self._db.write() as conn:
            progress = await batches.lock_progress(conn, feed_id)
            before = _own(await batches.fetch(conn, feed_id), feed_id, caller)
            if progress is not None and progress.open_rows >= wish.max_rows:
                # It must not be fuller than a batch may be.
                await batches.close_open(conn, feed_id, progress, self._clock.now())
            feed = replace(
                before,
                name=wish.name,
                selection=wish.selection,
                max_rows=wish.max_rows,
                max_wait_s=wish.max_wait_s,
                keep_s=wish.keep_s,
                # Somebody else who administers does not widen what the owner may see.
                limits=caller.sites if before.owner == caller.actor.name else before.limits,
                updated_at=self._clock.now(),
            )
            await batches.put(conn, feed)
            await self._audit(conn, caller, "feed.change", f"feed:{feed.id}", {"name": feed.name})
        self._changed()
        return feed

    async def remove(self, feed_id: str, caller: Caller) -> None:
        """Take a feed and its destinations out of use. Raises ``NotFound``."""
        async with self._db.write() as conn:
            _own(await batches.fetch(conn, feed_id), feed_id, caller)
            for destination in await destinations.fetch_of(conn, feed_id):
                await self._end_finding(conn, destination)
            await batches.remove(conn, feed_id, self._clock.now())
            await self._audit(conn, caller, "feed.remove", f"feed:{feed_id}", None)
        self._changed()

    async def fetch(self, feed_id: str, caller: Caller) -> Feed:
        """Return a feed. Raises ``NotFound``, also for one that is not the caller's."""
        async with self._db.read() as conn:
            return _own(await batches.fetch(conn, feed_id), feed_id, caller)

    async def fetch_all(self, caller: Caller) -> list[Feed]:
        """Return the feeds that a caller sees."""
        async with self._db.read() as conn:
            found = await batches.fetch_all(conn)
        return [feed for feed in found if caller.sees_all or feed.owner == caller.actor.name]

    # ---- destinations ----------------------------------------------------------------------------

    async def add(self, feed_id: str, wish: DestinationWish, caller: Caller, *, from_batch: int | None) -> Destination:
        """Add a destination; it is told from a batch on, by default from the next one that is closed.

        Raises:
            NotFound: There is no such feed, or it is not the caller's.
            InvalidInput: Something of it cannot be used, or it is to begin where no rows are any more.
            TooManyFeeds: The feed has as many as it may have.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            progress = await batches.lock_progress(conn, feed_id)
            _own(await batches.fetch(conn, feed_id), feed_id, caller)
            last_number = 0 if progress is None else progress.last_number
            first = last_number + 1 if from_batch is None else from_batch
            if first > last_number + 1:
                raise InvalidInput(
                    f"from_batch: expected at most {last_number + 1}, the one that is open, found {first}",
                    message_zh=f"from_batch 最大为当前批次 {last_number + 1},收到 {first}",
                )
            if first <= last_number and await batches.fetch_batch(conn, feed_id, first) is None:
                raise InvalidInput(
                    f"from_batch: the rows of batch {first} are no longer kept",
                    message_zh=f"from_batch:批次 {first} 的数据已不再保留",
                )
            if len(await destinations.fetch_of(conn, feed_id)) >= self._max_destinations:
                raise TooManyFeeds(
                    f"{self._max_destinations} destinations of a feed are the most "
                    "(WATTRING_EXPORT__FEEDS__MAX_DESTINATIONS)",
                    message_zh=f"每个数据流最多 {self._max_destinations} 个目的地"
                    "(WATTRING_EXPORT__FEEDS__MAX_DESTINATIONS)",
                )
            destination = Destination(
                id=new_id(), feed_id=feed_id, name=wish.name, kind=wish.kind, address=wish.address, egress=wish.egress,
                format=wish.format, timeout_s=wish.timeout_s, min_interval_s=wish.min_interval_s, party=wish.party,
                next_number=first, sealed=self._secrets.seal(wish.secrets) if wish.secrets else None, created_at=now,
                updated_at=now,
            )  # fmt: skip
            await self._check(destination)
            await destinations.put(conn, destination)
            await self._audit(conn, caller, "feed.destination.add", _subject(destination), _shown(destination))
        self._changed()
        return destination

    async def change_destination(
        self, feed_id: str, destination_id: str, wish: DestinationWish, caller: Caller
    ) -> Destination:
        """Change a destination; it goes on where it was. Raises ``NotFound``, ``InvalidInput``."""
        async with self._db.write() as conn:
            before = await self._locked(conn, feed_id, destination_id, caller)
            sealed = before.sealed
            if wish.secrets is not None:
                sealed = self._secrets.seal(wish.secrets) if wish.secrets else None
            elif _place(wish.kind, wish.address, wish.egress) != _place(before.kind, before.address, before.egress):
                # Or who may change an address could have a secret, which nobody is shown, sent to one of his own.
                sealed = None
            destination = replace(
                before, name=wish.name, kind=wish.kind, address=wish.address, egress=wish.egress, format=wish.format,
                timeout_s=wish.timeout_s, min_interval_s=wish.min_interval_s, party=wish.party, sealed=sealed,
                updated_at=self._clock.now(),
            )  # fmt: skip
            await self._check(destination)
            await destinations.put(conn, destination)
            await self._audit(conn, caller, "feed.destination.change", _subject(destination), _shown(destination))
        self._changed()
        return destination

    async def remove_destination(self, feed_id: str, destination_id: str, caller: Caller) -> None:
        """Take a destination out of use. Raises ``NotFound``."""
        async with self._db.write() as conn:
            destination = await self._locked(conn, feed_id, destination_id, caller)
            await self._end_finding(conn, destination)
            await destinations.remove(conn, destination_id, self._clock.now())
            await self._audit(conn, caller, "feed.destination.remove", _subject(destination), None)
        self._changed()

    async def set_state(
        self, feed_id: str, destination_id: str, state: DestinationState, caller: Caller
    ) -> Destination:
        """Pause a destination, or tell it again at once. Raises ``NotFound``."""
        async with self._db.write() as conn:
            before = await self._locked(conn, feed_id, destination_id, caller)
            destination = replace(before, state=state, updated_at=self._clock.now())
            await destinations.put(conn, destination)
            action = "resume" if state is DestinationState.ACTIVE else "pause"
            await self._audit(conn, caller, f"feed.destination.{action}", _subject(destination), None)
        self._changed()
        return destination

    async def leave_out(self, feed_id: str, destination_id: str, number: int, caller: Caller) -> Destination:
        """Give up the batch that a destination is at, and go on with the next.

        Raises:
            NotFound: There is none, or it is not the caller's.
            Conflict: The destination is not at this batch, or it is not closed yet.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            destination = await self._locked(conn, feed_id, destination_id, caller)
            todo = await destinations.todo(conn, destination)
            if todo is None or todo.number != number:
                at = "nothing" if todo is None else f"batch {todo.number}"
                raise Conflict(
                    f"the destination is at {at}, not at batch {number}",
                    message_zh=f"目的地当前批次为 {'无' if todo is None else todo.number},不是 {number}",
                )
            outcome = Outcome(Verdict.REFUSED, 0.0, error=f"left out by {caller.actor.name}")
            await destinations.leave_out(conn, destination, number, outcome, now, moves=not todo.again)
            await self._audit(conn, caller, "feed.destination.leave_out", _subject(destination), {"batch": number})
            found = await self._locked(conn, feed_id, destination_id, caller)
        self._changed()
        return found

    async def again(self, feed_id: str, destination_id: str, numbers: Sequence[int], caller: Caller) -> list[int]:
        """Tell batches once more, under their numbers; return those whose rows are still here and whose turn has been.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        async with self._db.write() as conn:
            destination = await self._locked(conn, feed_id, destination_id, caller)
            noted = await destinations.ask_again(
                conn, destination, numbers[:MOST_AGAIN], by=caller.actor.name, now=self._clock.now()
            )
            after = {"batches": len(noted), "first": noted[0] if noted else None, "last": noted[-1] if noted else None}
            await self._audit(conn, caller, "feed.destination.again", _subject(destination), after)
        self._changed()
        return noted

    async def attempt(self, feed_id: str, destination_id: str, caller: Caller, *, dry: bool) -> Tried:
        """Make up a batch that means nothing, number 0, and send it unless it is a dry run.

        Neither the queue nor the waits of the destination hear of it, so a paused one can be tried.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        async with self._db.read() as conn:
            _own(await batches.fetch(conn, feed_id), feed_id, caller)
            destination = _of(await destinations.fetch(conn, destination_id), feed_id, destination_id)
        batch = sample(feed_id, self._clock.now())
        body = render(destination.format, batch)
        if dry:
            return Tried(body, None)
        connector = connector_of(
            destination, self._secrets.unseal(destination.sealed), guard=self._guard, clock=self._clock
        )
        try:
            return Tried(body, await connector.tell(batch))
        finally:
            await connector.close()

    # ---- statements ------------------------------------------------------------------------------

    async def statement(self, feed_id: str, day: date, caller: Caller, *, through: int | None) -> Statement:
        """Return what a feed has of a day; a party sees no side but its own.

        Raises:
            NotFound: There is none, or it is not for the caller.
        """
        async with self._db.read() as conn:
            feed = await batches.fetch(conn, feed_id)
            progress = await batches.fetch_progress(conn, feed_id)
            of_feed = await destinations.fetch_of(conn, feed_id)
            if feed is None or progress is None:
                raise _no_feed(feed_id)
            if not _is_own(feed, caller):
                of_feed = [each for each in of_feed if each.party == caller.actor.name]
                if not of_feed:
                    raise _no_feed(feed_id)
            last = progress.last_number if through is None else min(through, progress.last_number)
            return await statements.make(conn, feed_id, day, through=last, of=of_feed)

    async def written(self, feed_id: str, caller: Caller, *, before: date | None, limit: int) -> list[dict[str, Any]]:
        """Return the statements that were written down when their days were over; a party sees no side but its own.

        Raises:
            NotFound: There is none, or it is not for the caller.
        """
        async with self._db.read() as conn:
            feed = await batches.fetch(conn, feed_id)
            of_feed = await destinations.fetch_of(conn, feed_id)
            if feed is None:
                raise _no_feed(feed_id)
            if _is_own(feed, caller):
                return await statements.fetch_written(conn, feed_id, before=before, limit=limit)
            own = {each.id for each in of_feed if each.party == caller.actor.name}
            if not own:
                raise _no_feed(feed_id)
            found = await statements.fetch_written(conn, feed_id, before=before, limit=limit)
        return [
            {**each, "destinations": [side for side in each["destinations"] if side["destination"] in own]}
            for each in found
        ]

    async def compare(
        self,
        feed_id: str,
        destination_id: str,
        day: date,
        caller: Caller,
        *,
        theirs: Tally,
        with_points: bool,
        their_hashes: Mapping[int, str] | None,
        through: int | None,
    ) -> tuple[Side, Found]:
        """Compare what a party has of a day with what it has acknowledged; return our side and what was found.

        Raises:
            NotFound: There is none, or it is not for the caller.
        """
        statement = await self.statement(feed_id, day, caller, through=through)
        side = next((each for each in statement.sides if each.destination_id == destination_id), None)
        if side is None:
            raise _no_destination(destination_id)
        found = check(side, statement.batches, theirs, with_points=with_points, their_hashes=their_hashes)
        async with self._db.write() as conn:
            after = {"day": day.isoformat(), "agrees": found.agrees, "wrong": len(found.wrong), "rows": theirs.rows}
            await self._audit(conn, caller, "feed.destination.check", f"feed-destination:{destination_id}", after)
        self._changed()
        return side, found

    async def again_for_party(
        self, feed_id: str, destination_id: str, numbers: Sequence[int], caller: Caller
    ) -> list[int]:
        """Tell batches once more because a party has found them missing or wrong; arguments as for ``again``."""
        async with self._db.write() as conn:
            destination = _of(await destinations.lock(conn, destination_id), feed_id, destination_id)
            feed = await batches.fetch(conn, feed_id)
            if feed is None or not (_is_own(feed, caller) or destination.party == caller.actor.name):
                raise _no_feed(feed_id)
            noted = await destinations.ask_again(
                conn, destination, numbers[:MOST_AGAIN], by=caller.actor.name, now=self._clock.now()
            )
        self._changed()
        return noted

    # ---- helpers ---------------------------------------------------------------------------------

    async def _check(self, destination: Destination) -> None:
        """Refuse what could never be told; one that has no address yet may get one."""
        try:
            connector = connector_of(
                destination, self._secrets.unseal(destination.sealed), guard=self._guard, clock=self._clock
            )
        except BadAddress as exc:
            raise InvalidInput(str(exc), message_zh=f"目的地配置有误:{exc}") from exc
        await connector.close()

    async def _locked(self, conn: WriteConn, feed_id: str, destination_id: str, caller: Caller) -> Destination:
        _own(await batches.fetch(conn, feed_id), feed_id, caller)
        return _of(await destinations.lock(conn, destination_id), feed_id, destination_id)

    async def _end_finding(self, conn: WriteConn, destination: Destination) -> None:
        if await destinations.set_finding(conn, destination.id, fails=False):
            message = bus.feed_finding(destination, Phase.END, error=None, at=self._clock.now())
            await outbox.put(conn, [message])

    async def _audit(
        self, conn: WriteConn, caller: Caller, action: str, subject: str, after: Mapping[str, object] | None
    ) -> None:
        message = bus.change_audited(
            caller.actor.name, action, subject, after=after, request_id=caller.actor.request_id, at=self._clock.now()
        )
        await outbox.put(conn, [message])


def sample(feed_id: str, now: datetime) -> Batch:
    """Return a batch that means nothing: number 0, of a site and a device that cannot be."""
    at = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lines = [f"test\ttest\ttest\t{at}\t{decimal_text(float(n))}\t" for n in range(SAMPLE_ROWS)]
    return Batch(feed_id, 0, tally_of(lines).hash, lines)


def _is_own(feed: Feed, caller: Caller) -> bool:
    return caller.sees_all or feed.owner == caller.actor.name


def _own(feed: Feed | None, feed_id: str, caller: Caller) -> Feed:
    if feed is None or not _is_own(feed, caller):
        raise _no_feed(feed_id)
    return feed


def _of(destination: Destination | None, feed_id: str, destination_id: str) -> Destination:
    if destination is None or destination.feed_id != feed_id:
        raise _no_destination(destination_id)
    return destination


def _no_feed(feed_id: str) -> NotFound:
    return NotFound(f"no feed {feed_id}", message_zh=f"没有数据流 {feed_id}")


def _no_destination(destination_id: str) -> NotFound:
    return NotFound(f"no destination {destination_id}", message_zh=f"没有目的地 {destination_id}")


def _place(kind: DestinationKind, address: Mapping[str, object], egress: Egress) -> tuple[object, ...]:
    """Return what decides where secrets go."""
    return kind, dict(address), egress


def _subject(destination: Destination) -> str:
    return f"feed-destination:{destination.id}"


def _shown(destination: Destination) -> dict[str, object]:
    """Return what the audit log keeps; addresses may hold what is secret in their path, so only names are kept."""
    return {
        "name": destination.name, "feed": destination.feed_id, "kind": destination.kind.value,
        "address": sorted(destination.address), "party": destination.party, "from_batch": destination.next_number,
    }  # fmt: skip
