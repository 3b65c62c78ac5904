"""The embedded bus: a log in PostgreSQL behind the same port as Kafka. Its tables: ``migrations/``, why: ``README.md``.

Publishing: whatever this process publishes within a few milliseconds becomes one append, one statement and one
transaction of its own, sent by one task, so order is kept. Reading: a member or tail asks for what lies beyond its
positions when it hears of an append, by an event within the process, by NOTIFY from others (after the commit, at
most every ``NOTIFY_EVERY_S``, because a NOTIFY inside the append halves the commits of concurrent writers), and
once a second in any case.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from libs.common.backoff import Backoff
from libs.common.bus.headers import pack_headers
from libs.common.bus.pglog_keep import Keeper
from libs.common.bus.pglog_read import PgGroupMember, PgTailReader, bus_errors
from libs.common.bus.port import (
    AtRisk,
    BusUnavailable,
    GroupListener,
    GroupMember,
    Message,
    MessageRefused,
    StartAt,
    TailReader,
    TopicPartition,
    TopicSpec,
    check_message,
    partition_for,
)
from libs.common.clock import Clock
from libs.common.db import AWAY, Connection, Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.settings import BusSettings, DatabaseSettings

logger = logging.getLogger(__name__)

SCHEMA = "bus"
ROLE = "wattring_bus"
CHANNEL = "wattring_bus"
NOTIFY_EVERY_S = 0.005
NOTIFY_BYTES = 7000
"""A notification holds under 8000 bytes; beyond that it says "all". [B]"""
APPEND_MESSAGES = 1000
"""Messages in one append; more gains little and holds the streams' locks longer."""
LISTENER_PING_S = 10.0
"""A listening connection that has died silently is noticed within this. [s]"""

REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError)
"""What PostgreSQL or its client says when it is the message that is wrong."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it exists."""

    name: str
    streams: tuple[int, ...]
    """Stream ids, by partition."""
    compacted: bool


@dataclass(slots=True)
class _Entry:
    """One call of ``publish`` on its way."""

    messages: Sequence[Message]
    streams: Sequence[int]
    headers: Sequence[str]
    done: asyncio.Future[None]
    appended: int = 0
    """How many of the messages are in the log; a call can be longer than one append."""


@dataclass(slots=True)
class Wakers:
    """Who in this process wants to hear of appends to which streams."""

    by_stream: dict[int, set[Callable[[], None]]] = field(default_factory=dict)
    by_group: dict[str, set[Callable[[], None]]] = field(default_factory=dict)

    def wake(self, streams: Iterable[int]) -> None:
        """Wake the readers of these streams."""
        for wake in {wake for stream in streams for wake in self.by_stream.get(stream, ())}:
            wake()

    def wake_all(self) -> None:
        """Wake everybody: something may have been missed."""
        self.wake(list(self.by_stream))
        for group in list(self.by_group):
            self.wake_group(group)

    def wake_group(self, group: str) -> None:
        """Wake the members of a group, because its membership has changed."""
        for wake in list(self.by_group.get(group, ())):
            wake()


class PgLogBus:
    """The bus in the PostgreSQL that the services use anyway."""

    def __init__(self, database: DatabaseSettings, settings: BusSettings, clock: Clock) -> None:
        """Prepare the bus; the database needs the migrations of the schema ``bus``."""
        # One connection sends, one listens, the others read; all readers of a process share them.
        self.db = Database(database, schema=SCHEMA, role=ROLE)
        self.settings = settings
        self.clock = clock
        self.wakers = Wakers()
        self._topics: dict[str, Topic] = {}
        self._queue: deque[_Entry] = deque()
        self._queued = asyncio.Event()
        self._instance = uuid.uuid4().hex[:12]
        self._news: set[int] = set()
        self._group_news: set[str] = set()
        self._has_news = asyncio.Event()
        self._keeper = Keeper(self.db, clock)
        self._runner: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Connect; may be called again after it has raised."""
        if self._runner is not None:
            return
        with bus_errors():
            await self.db.open()
            try:
                async with self.db.read() as conn:
                    await conn.execute("select from messages limit 0")
            except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
                await self.db.close()
                raise BusUnavailable(
                    "the schema bus is missing: run `wattring migrate`",
                    message_zh="缺少 bus 模式:请运行 `wattring migrate`",
                ) from None
            except asyncpg.PostgresError as exc:
                await self.db.close()
                raise BusUnavailable(f"bus: {exc}") from exc
        # start and stop are the scope of this task: they are called by different tasks at times.
        self._stopping = False
        self._runner = asyncio.create_task(self._run(), name="bus")

    async def stop(self) -> None:
        """Publish what was taken, then disconnect."""
        self._stopping = True
        self._queued.set()
        self._has_news.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await asyncio.wait([runner], timeout=self.settings.publish_timeout_s)
            if not runner.done():
                runner.cancel()
                await asyncio.wait([runner])
        await self.db.close()
        if runner is not None and not runner.cancelled():
            runner.result()

    async def check(self) -> None:
        """Raise ``BusUnavailable`` when the bus cannot be used."""
        try:
            self.require_running()
        except RuntimeError as exc:
            raise BusUnavailable(f"{exc}: {exc.__cause__!r}") from exc
        with bus_errors():
            await self.db.check()

    def require_running(self) -> None:
        """Check that the bus has been started and not stopped.

        Raises:
            BusUnavailable: It is not running.
            RuntimeError: It has failed in a way that was not foreseen; the process should end.
        """
        if self._runner is None or self._stopping:
            raise BusUnavailable("the bus is not running", message_zh="总线未运行")
        if self._runner.done():
            raise RuntimeError("the bus has failed") from self._runner.exception()

    # Topics.

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing; those that exist keep their partitions and get the new retention."""
        with bus_errors():
            async with self.db.write() as conn:
                for spec in sorted(specs, key=lambda spec: spec.name):
                    await _ensure_topic(conn, spec)

    async def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        return len((await self.topic(topic)).streams)

    async def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            BusUnavailable: There is no such topic, or the database is away.
        """
        found = self._topics.get(name)
        if found is not None:
            return found
        with bus_errors():
            async with self.db.read() as conn:
                rows = await conn.fetch("select id, compacted from streams where topic = $1 order by partition", name)
        if not rows:
            raise BusUnavailable(
                f"topic {name} does not exist: run `wattring topics`",
                message_zh=f"主题 {name} 不存在:请运行 `wattring topics`",
            )
        topic = Topic(name, tuple(row["id"] for row in rows), rows[0]["compacted"])
        self._topics[name] = topic
        return topic

    async def streams(self, topics: Sequence[str]) -> dict[int, TopicPartition]:
        """Return the streams of these topics."""
        return {
            stream: TopicPartition(name, partition)
            for name in topics
            for partition, stream in enumerate((await self.topic(name)).streams)
        }

    # Publishing.

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        """Append the messages, together with what others publish in the same few milliseconds."""
        if not messages:
            return
        self.require_running()
        entry: _Entry | None = None
        try:
            async with asyncio.timeout(timeout_s):
                streams = [await self._stream_of(message) for message in messages]
                headers = [pack_headers(message.headers) for message in messages]
                entry = _Entry(messages, streams, headers, asyncio.get_running_loop().create_future())
                self._queue.append(entry)
                self._queued.set()
                await entry.done
        except TimeoutError:
            raise BusUnavailable(
                f"not appended within {timeout_s:g} s", message_zh=f"{timeout_s:g} 秒内未写入总线"
            ) from None
        finally:
            if entry is not None:
                entry.done.cancel()

    async def _stream_of(self, message: Message) -> int:
        check_message(message)
        streams = (await self.topic(message.topic)).streams
        partition = partition_for(message, len(streams))
        if not 0 <= partition < len(streams):
            raise MessageRefused(message, f"there is no partition {partition}, only {len(streams)}")
        return streams[partition]

    # Reading.

    def member(self, group: str, topics: Sequence[str], listener: GroupListener, *, member_id: str) -> GroupMember:
        """Return a member, not yet joined."""
        return PgGroupMember(self, group, topics, listener, member_id)

    def tail(self, topics: Sequence[str], start: StartAt) -> TailReader:
        """Return a reader outside any group."""
        return PgTailReader(self, topics, start)

    async def at_risk(self) -> Sequence[AtRisk]:
        """Return the groups that retention is about to overtake."""
        with bus_errors():
            return await self._keeper.at_risk()

    async def keep(self) -> None:
        """Let go what retention and compaction say, now; it also happens by itself."""
        with bus_errors():
            await self._keeper.run_once(patiently=True)

    def group_changed(self, group: str) -> None:
        """Tell the members of a group, here and elsewhere, that its membership has changed."""
        self.wakers.wake_group(group)
        self._group_news.add(group)
        self._has_news.set()

    # What runs beside: sending, telling others, hearing from others, letting go.

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._notify_and_listen(), name="bus-notify"),
                tasks.create_task(self._keeper.run(), name="bus-keep"),
            ]
            await self._send()
            for helper in helpers:
                helper.cancel()

    async def _send(self) -> None:
        """Append what is queued, until told to stop and nothing is left."""
        backoff = Backoff(first_s=0.05, cap_s=1.0)
        while True:
            try:
                async with self.db.statements() as conn:
                    while True:
                        await self._queued.wait()
                        if not self._queue and self._stopping:
                            return
                        await self._append_next(conn)
                        backoff.reset()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("bus cannot append", extra={"reason": exc.message})
            await self.clock.sleep(backoff.next_s())

    async def _append_next(self, conn: WriteConn) -> None:
        """Append one batch from the head of the queue."""
        self._discard_finished()
        if sum(len(entry.messages) - entry.appended for entry in self._queue) < APPEND_MESSAGES:
            await asyncio.sleep(self.settings.linger_s)
            self._discard_finished()
        batch: list[tuple[_Entry, int]] = []
        room = APPEND_MESSAGES
        for entry in self._queue:
            take = min(room, len(entry.messages) - entry.appended)
            batch.append((entry, take))
            room -= take
            if not room:
                break
        if batch:
            try:
                await self._append(conn, batch)
            except REFUSALS:
                await self._append_singly(conn, batch)
        self._discard_finished()
        if not self._queue and not self._stopping:
            self._queued.clear()

    async def _append(self, conn: WriteConn, batch: Sequence[tuple[_Entry, int]]) -> None:
        streams: list[int] = []
        headers: list[str] = []
        messages: list[Message] = []
        for entry, take in batch:
            part = slice(entry.appended, entry.appended + take)
            streams += entry.streams[part]
            headers += entry.headers[part]
            messages += entry.messages[part]
        try:
            await conn.execute(
                "select append($1::integer[], $2::text[], $3::bytea[], $4::text[])",
                streams,
                [message.key for message in messages],
                [message.value for message in messages],
                headers,
            )
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as exc:
            raise BusUnavailable(str(exc)) from exc
        for entry, take in batch:
            entry.appended += take
            if entry.appended == len(entry.messages) and not entry.done.done():
                entry.done.set_result(None)
        appended = set(streams)
        self.wakers.wake(appended)
        self._news |= appended
        self._has_news.set()

    async def _append_singly(self, conn: WriteConn, batch: Sequence[tuple[_Entry, int]]) -> None:
        """After a batch was refused as a whole: find out whose message it was, so that only that call fails."""
        for entry, _ in batch:
            while entry.appended < len(entry.messages) and not entry.done.done():
                message = entry.messages[entry.appended]
                try:
                    await self._append(conn, [(entry, 1)])
                except REFUSALS as exc:
                    self._topics.pop(message.topic, None)
                    entry.done.set_exception(MessageRefused(message, str(exc)))

    def _discard_finished(self) -> None:
        """Forget the calls at the head of the queue that are done, or that have given up."""
        while self._queue and self._queue[0].done.done():
            self._queue.popleft()
        if any(entry.done.done() for entry in self._queue):
            self._queue = deque(entry for entry in self._queue if not entry.done.done())

    async def _notify_and_listen(self) -> None:
        backoff = Backoff(first_s=0.1, cap_s=2.0)
        while True:
            try:
                async with self.db.listen() as conn:
                    heard = self._heard
                    await conn.add_listener(CHANNEL, heard)
                    try:
                        # A notification carries no data that must survive: its commit need not wait for the disk.
                        await conn.execute("set synchronous_commit = off")
                        self.wakers.wake_all()  # what was appended while nobody listened
                        backoff.reset()
                        while True:
                            await self._tell(conn)
                    finally:
                        # The pool may have taken a broken connection back already; an error here would take the
                        # place of a cancellation, and this task would go on for ever.
                        with contextlib.suppress(*AWAY, asyncpg.InterfaceError):
                            if conn.is_closed():
                                conn.terminate()  # else asyncpg misses the listener when the pool takes it back
                            else:
                                await conn.remove_listener(CHANNEL, heard)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("bus hears nothing of other processes", extra={"reason": exc.message})
            await self.clock.sleep(backoff.next_s())

    async def _tell(self, conn: Connection) -> None:
        """Tell other processes what was appended here; now and then see that the connection still lives."""
        try:
            async with asyncio.timeout(LISTENER_PING_S):
                await self._has_news.wait()
        except TimeoutError:
            await conn.execute("select 1", timeout=LISTENER_PING_S)
            return
        self._has_news.clear()
        streams, self._news = self._news, set()
        groups, self._group_news = self._group_news, set()
        said = ",".join(str(stream) for stream in streams)
        payload = f"{self._instance} {said if len(said) < NOTIFY_BYTES else '*'}"
        if streams:
            await conn.execute("select pg_notify($1, $2)", CHANNEL, payload, timeout=LISTENER_PING_S)
        for group in groups:
            await conn.execute(
                "select pg_notify($1, $2)", CHANNEL, f"{self._instance} group {group}", timeout=LISTENER_PING_S
            )
        await asyncio.sleep(NOTIFY_EVERY_S)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        instance, _, said = str(payload).partition(" ")
        if instance == self._instance:
            return
        if said.startswith("group "):
            self.wakers.wake_group(said.removeprefix("group "))
        elif said == "*":
            self.wakers.wake_all()
        else:
            self.wakers.wake(int(stream) for stream in said.split(",") if stream.isdecimal())


async def _ensure_topic(conn: WriteConn, spec: TopicSpec) -> None:
    partitions = await conn.fetchval(
        """
        insert into topics (name, partitions, compacted, retention_s, retention_bytes) values ($1, $2, $3, $4, $5)
        on conflict (name) do update set retention_s = excluded.retention_s, retention_bytes = excluded.retention_bytes
        returning partitions
        """,
        spec.name,
        spec.partitions,
        spec.compacted,
        spec.retention_s,
        spec.retention_bytes,
    )
    if partitions != spec.partitions:
        logger.warning(
            "topic keeps its number of partitions: changing it would break the order per key",
            extra={"topic": spec.name, "partitions": partitions, "wanted": spec.partitions},
        )
    await conn.execute(
        """
        insert into streams (topic, partition, compacted)
        select t.name, p, t.compacted from topics t, generate_series(0, t.partitions - 1) as p where t.name = $1
        on conflict (topic, partition) do nothing
        """,
        spec.name,
    )
