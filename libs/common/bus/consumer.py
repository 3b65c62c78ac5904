"""The runtime of a consumer whose effects are in the database: effects and position in one transaction.

A partition is *claimed* before its first message: its cursor row gets a higher epoch, then the handler loads
its state, both in one transaction. Every batch is one transaction over all partitions in it, which moves the
cursors ``where next = old and epoch = mine``. If a cursor did not move, somebody else has claimed it: all is
rolled back, everything in memory is dropped, and what is still ours is claimed again. So an effect happens
once, whatever crashes, freezes or doubles, and the bus decides only who *tries*, never who is right.

What goes wrong is sorted into four kinds:

* the database or the bus is away, a deadlock, a statement that took too long: wait and try again;
* a claim is lost: drop everything, claim again;
* a message cannot be handled: the batch is tried again one message at a time, and the one that fails again goes
  to ``dead_letters``, in the transaction in which it would have been handled; the partition goes on;
* the program does not fit the schema (a table or a right is missing): no message is to blame, the worker ends.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from libs.common.backoff import Backoff
from libs.common.bus.headers import pack_headers
from libs.common.bus.port import Bus, GroupMember, Received, TopicPartition
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.metrics import counter, gauge

logger = logging.getLogger(__name__)

BROKER_COMMIT_S = 1.0
"""How often the bus is told how far we are; only tools read it. [s]"""
MEASURE_S = 2.0
FROM_THE_START = -1
"""Position of a cursor that has read nothing yet."""

LAG_RECORDS = gauge("bus_lag_records", "Messages that a group has not handled yet", ("group", "topic"))
LAG_SECONDS = gauge("bus_lag_seconds", "Age of the oldest message that a group has not handled yet", ("group", "topic"))
CLAIMS = counter("bus_rebalances_total", "Changes of the partitions that this member holds", ("group",))
LOST_CLAIMS = counter("bus_lost_claims_total", "Batches rolled back because the partition had gone", ("group",))
HANDLED = counter("bus_handled_total", "Messages handled, effects committed", ("group", "topic"))
DEAD = counter("bus_dead_letters_total", "Messages put aside because they could not be handled", ("group", "topic"))
LOST = counter(
    "bus_lost_messages_total", "Messages that left the bus before the group had read them", ("group", "topic")
)
REFUSED = counter("bus_refused_messages_total", "Messages delivered again below the position", ("group", "topic"))

TRANSIENT = (
    Unavailable,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
"""Says nothing about the message: the same batch may pass later."""


class PoisonMessage(Exception):
    """The handler says that this message can never be handled."""

    def __init__(self, received: Received, reason: str) -> None:
        super().__init__(f"{received.topic}/{received.partition}@{received.offset}: {reason}")
        self.received = received
        self.reason = reason


class LostClaim(Exception):
    """Another member has claimed a partition of the batch."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a consumer is behind, over all its partitions."""

    records: int
    seconds: float


class EffectHandler(Protocol):
    """What a service does with the messages. Its methods are never called at the same time."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Read the state of these partitions from the database; nothing of them has been handled since the claim.

        A partition number means that partition of every topic of the group.
        """

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget what is in memory about these partitions; called before every ``load`` too."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Make all effects by ``conn``, one transaction with the positions; in order per partition.

        After any failure comes ``drop`` and ``load``, then the same messages again, perhaps one by one.

        Raises:
            PoisonMessage: This message can never be handled.
            Unavailable: Something needed is away; the batch comes again.
        """

    def committed(self) -> None:
        """Note that the last batch has been committed, to wake an outbox relay or to count."""


_Place = tuple[TopicPartition, int]


class _Again(Exception):
    """The batch was rolled back and has to come again, sorted differently."""


@dataclass(frozen=True, slots=True)
class _Loss:
    """Messages that we should have read and never saw."""

    expected: int
    found: int
    kind: str


@dataclass(frozen=True, slots=True)
class _Move:
    """A cursor's step."""

    where: TopicPartition
    old: int
    new: int
    epoch: int


@dataclass(slots=True)
class _Claim:
    """A partition that we hold."""

    epoch: int
    next: int
    """Offset to be handled next; ``FROM_THE_START`` before the first."""
    seen_at: float
    """When the last handled message had been appended, as a POSIX time; for the lag. [s]"""


class EffectsConsumer:
    """One member of a group whose effects are in the database of its service."""

    def __init__(
        self,
        *,
        bus: Bus,
        db: Database,
        clock: Clock,
        group: str,
        topics: Sequence[str],
        handler: EffectHandler,
        member_id: str,
        max_batch: int = 2000,
        fetch_timeout_s: float = 0.5,
        gather_s: float | Callable[[], float] = 0.0,
        give_way: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare a member.

        Args:
            bus: Where to read.
            db: Where effects and positions are written.
            clock: Used for waiting and for the lag.
            group: Name of the group, ``<service>.<purpose>``.
            topics: What to read; all with the same number of partitions, or of no site at all.
            handler: What to do with it.
            member_id: Name of this member, the same after a restart; no two living members share it.
            max_batch: Messages in one transaction, at most.
            fetch_timeout_s: How long to wait for messages before beating again. [s]
            gather_s: After a batch that was not full wait this long for company: a transaction of ten messages costs
                nearly as much as one of a hundred. Where it depends on what was handled last, it is asked. [s]
            give_way: Awaited between fetching and handling: what is more urgent in this process goes first. Some
                seconds at most, for nothing is heard of this member meanwhile.
        """
        self._bus = bus
        self._db = db
        self._clock = clock
        self._group = group
        self._topics = tuple(topics)
        self._handler = handler
        self._member_id = member_id
        self._max_batch = max_batch
        self._fetch_timeout_s = fetch_timeout_s
        self._gather_s = gather_s if callable(gather_s) else lambda: gather_s
        self._give_way = give_way
        self._member: GroupMember | None = None
        self._claims: dict[TopicPartition, _Claim] = {}
        self._rewind = False
        """Whether the member must be set back to the positions, because something it gave was not handled."""
        self._singly: set[_Place] = set()
        self._poison: dict[_Place, str] = {}
        self._losses: dict[TopicPartition, _Loss] = {}
        self._gaps: dict[TopicPartition, int] = {}
        self._starts: Mapping[TopicPartition, int] = {}
        self._ends: Mapping[TopicPartition, int] = {}
        self._told: dict[TopicPartition, int] = {}
        self._told_at = self._measured_at = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether the group has answered and all positions are known; having no partition is ready."""
        member = self._member
        return member is not None and member.joined and member.assignment == frozenset(self._claims)

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The partitions that this member has claimed."""
        return frozenset(self._claims)

    def lag(self) -> Lag:
        """Return how far this member was behind when it last looked."""
        behind = {where: self._behind(where) for where in self._claims}
        return Lag(
            records=sum(behind.values()),
            seconds=max((self._age_s(where) for where, records in behind.items() if records), default=0.0),
        )

    async def run(self, beat: Callable[[], None]) -> None:
        """Consume for ever. Cancel it to stop: an open batch is rolled back, the partitions are given back.

        Raises:
            Exception: What is no message's fault and waiting does not mend, such as a missing table.
        """
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            beat()
            try:
                async with self._bus.member(self._group, self._topics, self, member_id=self._member_id) as member:
                    self._member = member
                    try:
                        await self._consume(member, beat, backoff)
                    finally:
                        await self._tell_broker_last(member)
            except TRANSIENT as exc:
                await self._wait(backoff, "consumer waits", exc)
            finally:
                self._member = None
                self._forget(self._claims)

    # The listener's part: called by the member from within fetch, so never beside a batch.

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Claim the partitions, load their state, and return where to read on."""
        CLAIMS.labels(self._group).inc()
        await self._claim(partitions)
        logger.info("partitions claimed", extra={"group": self._group, "partitions": _numbers(partitions)})
        return {where: self._claims[where].next for where in partitions if self._claims[where].next != FROM_THE_START}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget the partitions."""
        if not self._claims.keys().isdisjoint(partitions):
            CLAIMS.labels(self._group).inc()
            logger.info("partitions given up", extra={"group": self._group, "partitions": _numbers(partitions)})
        self._forget(partitions)
        gone = set(partitions)
        self._singly = {place for place in self._singly if place[0] not in gone}
        self._poison = {place: reason for place, reason in self._poison.items() if place[0] not in gone}

    # One member's life.

    async def _consume(self, member: GroupMember, beat: Callable[[], None], backoff: Backoff) -> None:
        while True:
            beat()
            try:
                if self._rewind:
                    await self._recover(member)
                await self._measure(member)
                fetched = await member.fetch(max_messages=self._max_batch, timeout_s=self._fetch_timeout_s)
                # Should anything below end early, what was fetched has to come again.
                self._rewind = bool(fetched)
                if fetched and self._give_way is not None:
                    await self._give_way()
                await self._handle_all(await self._expected(member, fetched), beat)
                self._rewind = False
                await self._tell_broker(member)
                if 0 < len(fetched) < self._max_batch and (gather_s := self._gather_s()):
                    await self._clock.sleep(gather_s)
            except _Again:
                self._rewind = True
            except LostClaim:
                self._rewind = True
                LOST_CLAIMS.labels(self._group).inc()
                await self._wait(backoff, "claim lost, batch rolled back", None)
            except TRANSIENT as exc:
                await self._wait(backoff, "batch waits" if self._rewind else "consumer waits", exc)
            else:
                backoff.reset()

    async def _handle_all(self, todo: Sequence[Received], beat: Callable[[], None]) -> None:
        while todo:
            beat()
            batch = self._next_batch(todo)
            await self._attempt(batch)
            todo = todo[len(batch) :]

    async def _attempt(self, batch: Sequence[Received]) -> None:
        """Handle one batch and commit; after a failure that a message is to blame for, note which and begin again."""
        try:
            await self._commit_batch(batch)
        except (LostClaim, *TRANSIENT, asyncpg.SyntaxOrAccessError):
            raise
        except PoisonMessage as exc:
            if _place(exc.received) not in {_place(received) for received in batch}:
                raise
            self._condemn(exc.received, exc.reason, None)
            raise _Again from exc
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            if len(batch) == 1:
                self._condemn(batch[0], reason, exc)
            else:
                logger.warning(
                    "batch failed, its messages are tried one by one",
                    extra={"group": self._group, "messages": len(batch), "reason": reason[:500]},
                )
                self._singly = {_place(received) for received in batch}
            raise _Again from exc

    async def _commit_batch(self, batch: Sequence[Received]) -> None:
        last = {received.topic_partition: received for received in batch}
        good = [received for received in batch if _place(received) not in self._poison]
        dead = {received: self._poison[_place(received)] for received in batch if _place(received) in self._poison}
        losses = {where: loss for where, loss in self._losses.items() if where in last}
        async with self._db.effects() as conn:
            if good:
                await self._handler.handle(conn, good)
            if dead:
                await _bury(conn, self._group, dead)
            if losses:
                await _record_losses(conn, self._group, losses)
            moves = [
                _Move(where, self._claims[where].next, received.offset + 1, self._claims[where].epoch)
                for where, received in sorted(last.items())
            ]
            await _move_cursors(conn, self._group, moves)
        for where, received in last.items():
            claim = self._claims[where]
            claim.next = received.offset + 1
            claim.seen_at = received.appended_at.timestamp()
        for where, loss in losses.items():
            del self._losses[where]
            LOST.labels(self._group, where.topic).inc(loss.found - loss.expected)
        for received in batch:
            self._singly.discard(_place(received))
            self._poison.pop(_place(received), None)
        for topic, count in Counter(received.topic for received in good).items():
            HANDLED.labels(self._group, topic).inc(count)
        for received in dead:
            DEAD.labels(self._group, received.topic).inc()
        self._handler.committed()

    def _next_batch(self, todo: Sequence[Received]) -> Sequence[Received]:
        """Return the longest beginning of ``todo`` that may be one transaction."""
        if not self._singly:
            return todo
        if _place(todo[0]) in self._singly:
            return todo[:1]
        return todo[: next((i for i, received in enumerate(todo) if _place(received) in self._singly), len(todo))]

    def _condemn(self, received: Received, reason: str, exc: BaseException | None) -> None:
        self._poison[_place(received)] = reason[:2000]
        logger.error(
            "message cannot be handled, goes to the dead letters",
            exc_info=exc,
            extra={
                "group": self._group,
                "topic": received.topic,
                "partition": received.partition,
                "offset": received.offset,
                "reason": reason[:500],
            },
        )

    async def _recover(self, member: GroupMember) -> None:
        """Learn what is still ours, claim it again and read on from the positions in the database."""
        held = list(self._claims)
        self._forget(held)
        # First the news of the membership: a member that was frozen learns here what it has lost, before it would
        # claim what others have taken over.
        await member.fetch(max_messages=0, timeout_s=0.0)
        kept = [where for where in member.assignment if where not in self._claims]
        if kept:
            await self._claim(kept)
            await member.seek({where: max(self._claims[where].next, 0) for where in kept})
        self._rewind = False

    async def _wait(self, backoff: Backoff, what: str, exc: Exception | None) -> None:
        if backoff.first:
            logger.warning(what, extra={"group": self._group, "reason": None if exc is None else str(exc)})
        await self._clock.sleep(backoff.next_s())

    # Positions.

    async def _claim(self, partitions: Sequence[TopicPartition]) -> None:
        """Raise the epochs and load the state, in one transaction."""
        self._forget(partitions)
        ordered = sorted(partitions)
        if not ordered:
            return
        async with self._db.effects() as conn:
            claims = await _raise_epochs(conn, self._group, ordered, self._member_id)
            await self._handler.load(conn, frozenset(where.partition for where in ordered))
        now = self._clock.now().timestamp()
        for where, (next_offset, epoch) in claims.items():
            self._claims[where] = _Claim(epoch=epoch, next=next_offset, seen_at=now)

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        gone = list(partitions)
        if not gone:
            return
        for where in gone:
            self._claims.pop(where, None)
            self._losses.pop(where, None)
            self._told.pop(where, None)
        self._handler.drop(frozenset(where.partition for where in gone))

    async def _expected(self, member: GroupMember, fetched: Sequence[Received]) -> list[Received]:
        """Return what of ``fetched`` may be handled: what goes on exactly where we are."""
        by_partition: dict[TopicPartition, list[Received]] = {}
        for received in fetched:
            by_partition.setdefault(received.topic_partition, []).append(received)
        todo: list[Received] = []
        for where, part in by_partition.items():
            claim = self._claims.get(where)
            if claim is None:
                continue
            if claim.next != FROM_THE_START and part[0].offset != claim.next:
                part = await self._mend(member, where, claim, part)
            todo += part
        return todo

    async def _mend(
        self, member: GroupMember, where: TopicPartition, claim: _Claim, part: list[Received]
    ) -> list[Received]:
        """Return what may be handled of a part that does not begin at our position."""
        first = part[0].offset
        if first < claim.next:
            end = (await member.end_offsets()).get(where, claim.next)
            if end < claim.next:
                await self._start_over(where, claim, first)
                return part
            REFUSED.labels(self._group, where.topic).inc(sum(received.offset < claim.next for received in part))
            part = [received for received in part if received.offset >= claim.next]
            if part and part[0].offset == claim.next:
                return part
            await member.seek({where: claim.next})
            return []
        start = (await member.start_offsets()).get(where, claim.next)
        if start > claim.next:
            self._losses[where] = _Loss(expected=claim.next, found=start, kind="retention")
            logger.error(
                "messages had left the bus before they were read; the history must be rebuilt",
                extra={
                    "group": self._group,
                    "topic": where.topic,
                    "partition": where.partition,
                    "lost": start - claim.next,
                },
            )
            return part
        # Compaction leaves gaps. Anything else that skips messages is asked for again once.
        if self._gaps.get(where) == first:
            return part
        self._gaps[where] = first
        await member.seek({where: claim.next})
        return []

    async def _start_over(self, where: TopicPartition, claim: _Claim, first: int) -> None:
        """The log is shorter than our position, so it is not the log that we read: read it from its beginning."""
        logger.error(
            "the log is shorter than our position: it was replaced, and is read from its beginning",
            extra={"group": self._group, "topic": where.topic, "partition": where.partition, "position": claim.next},
        )
        async with self._db.effects() as conn:
            loss = _Loss(expected=claim.next, found=first, kind="replaced")
            await _record_losses(conn, self._group, {where: loss})
            await _move_cursors(conn, self._group, [_Move(where, claim.next, first, claim.epoch)])
        claim.next = first

    # What tools and metrics see.

    async def _tell_broker(self, member: GroupMember) -> None:
        now = self._clock.monotonic()
        if now - self._told_at < BROKER_COMMIT_S:
            return
        self._told_at = now
        # A group that has handled nothing yet says so too, or nobody would see that it is about to lose messages.
        news = {
            where: max(claim.next, 0)
            for where, claim in self._claims.items()
            if self._told.get(where) != max(claim.next, 0)
        }
        if not news:
            return
        try:
            await member.commit(news)
        except Unavailable as exc:
            logger.debug("positions not told to the bus", extra={"group": self._group, "reason": exc.message})
        else:
            self._told |= news

    async def _tell_broker_last(self, member: GroupMember) -> None:
        """Tell the last positions when stopping, within a bound."""
        self._told_at = float("-inf")
        try:
            async with asyncio.timeout(1.0):
                await self._tell_broker(member)
        except TimeoutError:
            logger.debug("last positions not told to the bus", extra={"group": self._group})

    async def _measure(self, member: GroupMember) -> None:
        """Look how far behind we are, now and then."""
        now = self._clock.monotonic()
        if now - self._measured_at < MEASURE_S:
            return
        self._measured_at = now
        self._ends = await member.end_offsets()
        if any(claim.next == FROM_THE_START for claim in self._claims.values()):
            self._starts = await member.start_offsets()
        records = dict.fromkeys(self._topics, 0)
        seconds = dict.fromkeys(self._topics, 0.0)
        for where, claim in self._claims.items():
            behind = self._behind(where)
            if behind:
                records[where.topic] += behind
                seconds[where.topic] = max(seconds[where.topic], self._age_s(where))
            else:
                claim.seen_at = self._clock.now().timestamp()
        for topic in self._topics:
            LAG_RECORDS.labels(self._group, topic).set(records[topic])
            LAG_SECONDS.labels(self._group, topic).set(seconds[topic])

    def _behind(self, where: TopicPartition) -> int:
        position = self._claims[where].next
        if position == FROM_THE_START:
            position = self._starts.get(where, 0)
        return max(self._ends.get(where, position) - position, 0)

    def _age_s(self, where: TopicPartition) -> float:
        return max(self._clock.now().timestamp() - self._claims[where].seen_at, 0.0)


# SQL on the runtime's tables, see ``libs/common/schema.py``.


async def _raise_epochs(
    conn: WriteConn, group: str, partitions: Sequence[TopicPartition], owner: str
) -> dict[TopicPartition, tuple[int, int]]:
    """Return position and new epoch of each partition, after waiting for whoever is just moving it."""
    topics = [where.topic for where in partitions]
    numbers = [where.partition for where in partitions]
    await conn.execute(
        """
        insert into consumer_cursors (grp, topic, partition, owner)
        select $1, topic, partition, $4 from unnest($2::text[], $3::integer[]) as wanted(topic, partition)
        on conflict (grp, topic, partition) do nothing
        """,
        group,
        topics,
        numbers,
        owner,
    )
    # Locked in one order by everybody, and in a statement of its own: the update then sees what the former
    # owner committed while we waited.
    await conn.execute(
        """
        select from consumer_cursors
          join unnest($2::text[], $3::integer[]) as wanted(topic, partition) using (topic, partition)
         where grp = $1
         order by topic, partition
           for update of consumer_cursors
        """,
        group,
        topics,
        numbers,
    )
    rows = await conn.fetch(
        """
        update consumer_cursors c
           set epoch = c.epoch + 1, owner = $4, claimed_at = now()
          from unnest($2::text[], $3::integer[]) as wanted(topic, partition)
         where c.grp = $1 and c.topic = wanted.topic and c.partition = wanted.partition
        returning c.topic, c.partition, c.next, c.epoch
        """,
        group,
        topics,
        numbers,
        owner,
    )
    return {TopicPartition(row["topic"], row["partition"]): (row["next"], row["epoch"]) for row in rows}


async def _move_cursors(conn: WriteConn, group: str, moves: Sequence[_Move]) -> None:
    """Move the positions, if all are still ours.

    Raises:
        LostClaim: Not all of them are where we left them, under our epoch.
    """
    moved = await conn.fetch(
        """
        update consumer_cursors c
           set next = m.new, moved_at = now()
          from unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
            as m(topic, partition, old, new, epoch)
         where c.grp = $1 and c.topic = m.topic and c.partition = m.partition
           and c.next = m.old and c.epoch = m.epoch
        returning c.partition
        """,
        group,
        [move.where.topic for move in moves],
        [move.where.partition for move in moves],
        [move.old for move in moves],
        [move.new for move in moves],
        [move.epoch for move in moves],
    )
    if len(moved) != len(moves):
        raise LostClaim(f"{len(moves) - len(moved)} of {len(moves)} partitions are no longer ours")


async def _bury(conn: WriteConn, group: str, dead: Mapping[Received, str]) -> None:
    await conn.executemany(
        """
        insert into dead_letters (grp, topic, partition, "offset", key, value, headers, appended_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        on conflict on constraint dead_letters_once do nothing
        """,
        [
            (
                group,
                received.topic,
                received.partition,
                received.offset,
                None if received.key is None else received.key.replace("\x00", "\ufffd"),
                received.value,
                pack_headers(received.headers),
                received.appended_at,
                reason.replace("\x00", "\ufffd"),
            )
            for received, reason in dead.items()
        ],
    )


async def _record_losses(conn: WriteConn, group: str, losses: Mapping[TopicPartition, _Loss]) -> None:
    await conn.executemany(
        """
        insert into consumer_losses (grp, topic, partition, expected, found, kind) values ($1, $2, $3, $4, $5, $6)
        """,
        [(group, where.topic, where.partition, loss.expected, loss.found, loss.kind) for where, loss in losses.items()],
    )


def _place(received: Received) -> _Place:
    return received.topic_partition, received.offset


def _numbers(partitions: Iterable[TopicPartition]) -> list[int]:
    return sorted({where.partition for where in partitions})
