"""Callbacks to endpoints: what is due is taken, sent beside everything else, and marked, each in one statement.

Every process of export sends. What one has taken is out of the others' reach for the time that a call may last; one
that dies is replaced then, or by itself when it is started again, and what it had sent without writing so is sent a
second time, under the same id. While the database is away nothing new is taken, and what was sent is remembered.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.bus.port import Message
from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.rounds import Rounds
from libs.common.tracing import span
from services.export import bus
from services.export.callbacks import endpoints, queues
from services.export.callbacks.bodies import body_of
from services.export.callbacks.outlet import Outlet, keys_of
from services.export.callbacks.queues import Mark, Taken
from services.export.domain.callbacks import (
    Endpoint,
    EndpointState,
    Health,
    Lane,
    Next,
    Outcome,
    Verdict,
    after,
    free_places,
    health_after,
)
from services.export.secrets import Secrets, SecretsUnreadable
from services.export.worker.finishing import GRACE_S

logger = logging.getLogger(__name__)

CLAIM_MARGIN_S = 30.0
"""What has been taken is another's this long after the call must have ended. [s]"""
CALLS_AT_ONCE = 100
"""So many calls are under way, and besides one to each endpoint: those that hang keep nobody else from being called.
More would not be faster, and would keep the loop from everything else."""
BUSY_CALLS = 16
PACE_S = 0.02
"""With more than so many calls under way, ends are gathered for this long before they are written: a transaction of
fifty costs little more than one of five. A few calls are not held up. [s]"""
LOOK_S = 0.5
"""How long it is believed how endpoints are, without a word that one has changed. [s]"""
LAST_WORDS_S = 2.0
"""For writing what became of the last calls when the process is stopped. [s]"""
FINDING_AFTER = timedelta(minutes=5)
"""An endpoint that has only failed for so long is told to alarm."""


@dataclass(frozen=True, slots=True)
class _Result:
    """An attempt that has ended."""

    taken: Taken
    outcome: Outcome
    ended_at: datetime

    @property
    def key(self) -> tuple[str, int]:
        return self.taken.endpoint_id, self.taken.event_key


class Callbacks:
    """Calls endpoints."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        outlet: Outlet,
        secrets: Secrets,
        owner: str,
        poll_s: float,
        committed: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        """Prepare the worker.

        Args:
            db: The service's database.
            clock: For times and waiting.
            outlet: Makes the calls.
            secrets: Opens the endpoints' secrets.
            owner: Name of this replica, the same after a restart.
            poll_s: How often the queues are looked at without being woken. [s]
            committed: Called after something was put into the outbox.
            rng: For jitter.
        """
        self._db = db
        self._clock = clock
        self._outlet = outlet
        self._secrets = secrets
        self._owner = owner
        self._committed = committed
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, protects nothing
        self._rounds = Rounds(clock, worker="callbacks", every_s=poll_s)
        self._endpoints: dict[str, Endpoint] = {}
        self._looked_at = float("-inf")
        self._busy: dict[str, set[int]] = {}
        """Events by endpoint that are on their way, or whose end is not written yet."""
        self._results: list[_Result] = []
        self._given_back = False
        self._calls: set[asyncio.Task[None]] = set()
        """Calls that are under way."""
        self._broken: BaseException | None = None
        """What a call has raised that no receiver can be to blame for."""
        self._keys: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        """Secrets by endpoint, beside what they were read from."""

    def wake(self) -> None:
        """Say that something may have been queued."""
        self._rounds.wake()

    def changed(self) -> None:
        """Say that endpoints are not as they were."""
        self._looked_at = float("-inf")
        self._rounds.wake()

    async def run(self, beat: Callable[[], None]) -> None:
        """Call for ever, until cancelled; calls that are under way then get a moment to be answered."""
        self._broken = None
        try:
            await self._rounds.run(self._paced_round, beat)
        finally:
            await self._end_calls()
            await self._last_words()

    async def _paced_round(self) -> bool:
        try:
            moved = await self._round()
        except Unavailable:
            self._given_back = False  # what was being taken may have been taken without our hearing of it
            raise
        if moved and len(self._calls) > BUSY_CALLS:
            await asyncio.sleep(PACE_S)
        return moved

    async def _round(self) -> bool:
        """Write what has ended and begin what is due; return whether there was anything.

        Raises:
            Exception: What a call has raised that is no receiver's fault.
        """
        if self._broken is not None:
            raise self._broken
        written = await self._write_results()
        if not self._given_back:
            async with self._db.write() as conn:
                await queues.give_back(conn, self._owner, self._clock.now())
            self._given_back = True
        await self._look()
        taken = await self._take()
        for each in taken:
            self._busy.setdefault(each.endpoint_id, set()).add(each.event_key)
            call = asyncio.create_task(self._attempt(self._endpoints[each.endpoint_id], each), name="callback")
            self._calls.add(call)
            call.add_done_callback(self._ended)
        return written or bool(taken)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (exc := call.exception()) is not None:
            self._broken = exc
        self._rounds.wake()

    async def _end_calls(self) -> None:
        """Let calls that are under way come to their end: one that is cut off would be made a second time."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=GRACE_S)
        left = list(self._calls)
        for call in left:
            call.cancel()
        if left:
            await asyncio.wait(left)

    async def _look(self) -> None:
        """Read how endpoints are, unless that was only just done."""
        if self._clock.monotonic() - self._looked_at < LOOK_S:
            return
        async with self._db.read() as conn:
            found = await endpoints.fetch_active(conn)
        self._looked_at = self._clock.monotonic()
        self._endpoints = {each.id: each for each in found}
        self._keys = {each: known for each, known in self._keys.items() if each in self._endpoints}
        # One that is called right now is still there for its call.
        self._outlet.keep([*self._endpoints, *(each for each, events in self._busy.items() if events)])

    async def _take(self) -> list[Taken]:
        now = self._clock.now()
        places = self._places(now)
        if not places:
            return []
        until = {each.id: now + timedelta(seconds=each.timeout_s + CLAIM_MARGIN_S) for each in self._endpoints.values()}
        async with self._db.statements() as conn:
            taken = await queues.take(conn, places, now, until=until, owner=self._owner)
        # What we are at ourselves may come again when the database was away for longer than a claim lasts.
        return [each for each in taken if each.event_key not in self._busy.get(each.endpoint_id, ())]

    def _places(self, now: datetime) -> dict[str, int]:
        """Return how many calls may begin to each endpoint: a fair share of what is left, and one in any case."""
        busy = {each: len(events) for each, events in self._busy.items()}
        free = {each.id: free_places(each, busy.get(each.id, 0), now) for each in self._endpoints.values()}
        open_ones = [each for each, places in free.items() if places > 0]
        left = max(CALLS_AT_ONCE - len(self._calls), 0)
        share = -(-left // len(open_ones)) if open_ones else 0
        found = {each: min(free[each], max(share, 0 if busy.get(each) else 1)) for each in open_ones}
        return {each: places for each, places in found.items() if places > 0}

    async def _attempt(self, endpoint: Endpoint, taken: Taken) -> None:
        body = body_of(
            event_id=taken.event_id,
            ce_type=taken.type.ce_type,
            source=taken.source,
            resource=taken.resource,
            site_id=taken.site_id,
            at=taken.at,
            sequence=taken.sequence,
            data=taken.data,
            traceparent=taken.traceparent,
        )
        try:
            keys = keys_of(self._unsealed(endpoint), self._clock.now())
        except SecretsUnreadable as exc:
            outcome = Outcome(Verdict.FAILED, 0.0, error=exc.message)
        else:
            with span("callback", traceparent=taken.traceparent, destination=endpoint.id):
                outcome = await self._outlet.call(
                    endpoint.id,
                    endpoint.url,
                    message_id=taken.event_id,
                    body=body,
                    keys=keys,
                    timeout_s=endpoint.timeout_s,
                )
        self._results.append(_Result(taken, outcome, self._clock.now()))

    def _unsealed(self, endpoint: Endpoint) -> Mapping[str, str]:
        known = self._keys.get(endpoint.id)
        if known is None or known[0] != endpoint.secrets:
            known = self._keys[endpoint.id] = (endpoint.secrets, self._secrets.unseal(endpoint.secrets))
        return known[1]

    # ---- what has ended --------------------------------------------------------------------------

    async def _write_results(self) -> bool:
        results = list(self._results)
        if not results:
            return False
        async with self._db.write() as conn:
            health = await self._write_health(conn, results)
            told = await self._write_marks(conn, results)
            await outbox.put(conn, [*health, *told])
        del self._results[: len(results)]
        for each in results:
            self._busy[each.taken.endpoint_id].discard(each.taken.event_key)
        if health or told:
            self._committed()
        return True

    async def _write_marks(self, conn: WriteConn, results: Sequence[_Result]) -> list[Message]:
        nexts = {
            each.key: after(each.taken.attempts + 1, each.taken.lane, each.outcome, jitter=self._rng.random())
            for each in results
        }
        written = set(await queues.mark(conn, [_mark(each, nexts[each.key]) for each in results], owner=self._owner))
        return [
            bus.callback_event(
                each.taken.endpoint_id, each.taken.event_id, each.taken.site_id, nexts[each.key].state,
                attempts=each.taken.attempts + 1, error=each.outcome.error, queued_at=each.taken.queued_at,
                at=each.ended_at,
            )
            for each in results
            if each.key in written and _is_told(each.taken.attempts + 1, nexts[each.key].state)
        ]  # fmt: skip

    async def _write_health(self, conn: WriteConn, results: Sequence[_Result]) -> list[Message]:
        """Write how endpoints are doing that fail or have failed; those that do well cost nothing."""
        now = self._clock.now()
        outcomes: dict[str, list[Outcome]] = {}
        for each in results:
            outcomes.setdefault(each.taken.endpoint_id, []).append(each.outcome)
        doing_well = {
            endpoint_id
            for endpoint_id, found in outcomes.items()
            if all(each.verdict is Verdict.DELIVERED for each in found)
            and (known := self._endpoints.get(endpoint_id)) is not None
            and known.failures == 0
            and known.failing_since is None
        }
        troubled = outcomes.keys() - doing_well
        if not troubled:
            return []
        news, health = [], {}
        for endpoint, told in await endpoints.lock_many(conn, troubled):
            found = health_after(_health(endpoint), outcomes[endpoint.id], now, jitter=self._rng.random())
            fails = found.state is EndpointState.DISABLED or (
                found.failing_since is not None and now - found.failing_since >= FINDING_AFTER
            )
            if fails is not told:
                phase = Phase.BEGIN if fails else Phase.END
                news.append(bus.callback_finding(endpoint, phase, error=found.state_reason or found.error, at=now))
            if found.state is not endpoint.state:
                logger.error("callbacks stop", extra={"endpoint": endpoint.id, "reason": found.state_reason})
            health[endpoint.id] = (found, fails)
            self._note(endpoint.id, found)
        await endpoints.save_health(conn, health)
        return news

    def _note(self, endpoint_id: str, health: Health) -> None:
        """Heed at once what was found; should the transaction fail, the next look mends it."""
        known = self._endpoints.get(endpoint_id)
        if known is not None:
            self._endpoints[endpoint_id] = replace(
                known,
                state=health.state,
                failures=health.failures,
                failing_since=health.failing_since,
                not_before=health.not_before,
            )

    async def _last_words(self) -> None:
        """Write what became of the last calls; what cannot be written soon is sent again later."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._write_results()
        except (Unavailable, TimeoutError):
            logger.info("callbacks may be sent again", extra={"count": len(self._results)})


def _health(endpoint: Endpoint) -> Health:
    return Health(
        endpoint.state,
        endpoint.failures,
        endpoint.failing_since,
        endpoint.not_before,
        endpoint.state_reason,
        endpoint.error,
    )


def _is_told(attempts: int, state: DeliveryState) -> bool:
    """Return whether others are told: of what did not arrive at first, when that shows and when it is over."""
    if state in (DeliveryState.DELIVERED, DeliveryState.GIVEN_UP):
        return attempts > 1 or state is DeliveryState.GIVEN_UP
    return attempts == 1


def _mark(result: _Result, following: Next) -> Mark:
    taken, outcome = result.taken, result.outcome
    due_at = {lane: result.ended_at + timedelta(seconds=following.wait_s.get(lane, 0.0)) for lane in Lane}
    entry: dict[str, object] = {
        "at": (result.ended_at - timedelta(seconds=outcome.took_s)).isoformat(),
        "outcome": outcome.verdict.value,
        "took_s": round(outcome.took_s, 4),
    }
    if outcome.status is not None:
        entry["status"] = outcome.status
    if outcome.error is not None:
        entry["error"] = outcome.error
    return Mark(
        endpoint_id=taken.endpoint_id,
        event_key=taken.event_key,
        resource=taken.resource,
        state=following.state,
        attempts=taken.attempts + 1,
        entry=entry,
        status=outcome.status,
        error=outcome.error,
        finished_at=result.ended_at if following.is_over else None,
        due_at=due_at,
    )
