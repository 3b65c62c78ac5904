"""The outbox: what must be published because of a change is written with the change, and published after it.

A row is written in the transaction that makes the change, by whoever holds the lock of the thing that
changed; so rows of one key stand in the order of the changes. One relay per service, under a lease, publishes
them in that order and deletes them. A relay that dies between the two publishes again, under the same event
id. A message that the bus will never take (too large) is parked with the reason, and with it the later ones
of its topic and key, until a person mends or deletes the row; other keys go on.
"""

import logging
from collections.abc import Callable, Sequence
from struct import Struct

from libs.common import pgcopy
from libs.common.bus import topics
from libs.common.bus.headers import pack_header, pack_headers, unpack_headers
from libs.common.bus.port import Bus, Header, Message, MessageRefused
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.lease import OneHolder
from libs.common.metrics import gauge
from libs.common.pgcopy import copy_in
from libs.common.rounds import Rounds

logger = logging.getLogger(__name__)

LEASE_NAME = "outbox"
LEASE_S = 6.0
"""A dead relay is replaced after this. [s]"""
PUBLISH_TIMEOUT_S = 2.0
"""Also the validity that the lease must have left, so that two relays do not publish side by side. [s]"""
BATCH = 1000
POLL_S = 0.5
"""Rows of other processes of the service are found by looking. [s]"""
MEASURE_S = 5.0
COPIED_FROM = 100
"""So many messages are copied instead of inserted."""
OF_ONE = "ce_id"
"""The header that no two messages share."""
_COLUMNS = ("topic", "key", "value", "headers", "partition_key", "partition")
_BEGIN = pgcopy.begin(len(_COLUMNS))
_PARTITION = Struct("!ii")

URGENT = (topics.COMMANDS, topics.CONDITIONS)
"""Topics whose rows go first: a wake-up must not wait until ten thousand events have been told, nor must the call of a
person. Order matters per key and topic only."""

_TAKE = """
    select id, topic, key, value, headers, partition_key, partition
      from outbox o
     where parked_at is null and topic {which}
       and not exists (
           select from outbox p where p.parked_at is not null and p.topic = o.topic and p.key = o.key and p.id < o.id)
     order by id
     limit $1
"""
_NAMES = ", ".join(f"'{name}'" for name in URGENT)
TAKE_URGENT = _TAKE.format(which=f"in ({_NAMES})")
"""Said as an index can be made for it, where commands stand behind many events."""
TAKE = f"""
    select * from (({TAKE_URGENT}) union all ({_TAKE.format(which=f"not in ({_NAMES})")})) as both_lanes limit $1
"""  # noqa: S608 - our own words

BY_INDEX = """
    set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off;
    set local max_parallel_workers_per_gather = 0
"""
"""How ``TAKE`` is planned. The outbox is empty nearly always, so its statistics say that reading and joining it whole
costs nothing; then fifty thousand rows come at once, and the plan made before (kept with the connection) compares each
with each, for minutes."""

WAITING = gauge("bus_outbox_rows", "Messages in the outbox, by state", ("service", "state"))
OLDEST = gauge("bus_outbox_oldest_seconds", "Age of the oldest message that waits and is not parked", ("service",))


async def put(conn: WriteConn, messages: Sequence[Message]) -> None:
    """Write messages to be published once the transaction of ``conn`` has been committed; in this order."""
    if not messages:
        return
    # One row after the other gets its id, so ids follow the order of the list.
    if len(messages) >= COPIED_FROM:
        await copy_in(conn, "outbox", _COLUMNS, _rows(messages))
        return
    await conn.execute(
        """
        insert into outbox (topic, key, value, headers, partition_key, partition)
        select topic, key, value, headers, partition_key, partition
          from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::integer[]) with ordinality
            as m(topic, key, value, headers, partition_key, partition, place)
         order by place
        """,
        [message.topic for message in messages],
        [message.key for message in messages],
        [message.value for message in messages],
        [pack_headers(message.headers) for message in messages],
        [message.partition_key for message in messages],
        [message.partition for message in messages],
    )


def _rows(messages: Sequence[Message]) -> list[bytes]:
    """Return messages as rows; topic, key and most headers are shared by many of them and written once."""
    heads: dict[tuple[str, str], bytes] = {}
    packed: dict[Header, str] = {}
    found = []
    for message in messages:
        place = message.topic, message.key
        head = heads.get(place)
        if head is None:
            head = heads[place] = _BEGIN + pgcopy.text(message.topic) + pgcopy.text(message.key)
        parts = []
        for header in message.headers:
            part = packed.get(header)
            if part is None:
                part = pack_header(header)
                if header[0] != OF_ONE:
                    packed[header] = part
            parts.append(part)
        found.append(b"".join((
            head,
            pgcopy.NULL if message.value is None else pgcopy.blob(message.value),
            pgcopy.text(f"[{','.join(parts)}]"),
            pgcopy.NULL if message.partition_key is None else pgcopy.text(message.partition_key),
            pgcopy.NULL if message.partition is None else _PARTITION.pack(4, message.partition),
        )))  # fmt: skip
    return found


class OutboxRelay:
    """Publishes what ``put`` has written; run one in every process of the service, one of them works."""

    def __init__(
        self,
        *,
        bus: Bus,
        db: Database,
        clock: Clock,
        owner: str,
        gather_s: float = 0.0,
        only_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare a relay.

        Args:
            bus: Where to.
            db: Where the outbox is.
            clock: For waits and the lease.
            owner: Names this process in the lease.
            gather_s: After what was published wait this long for company: looking, publishing and deleting cost as
                much for one message as for a hundred. [s]
            only_urgent: Whether what is not urgent has to wait; for some seconds, or it would never be told.
        """
        self._bus = bus
        self._db = db
        self._clock = clock
        self._turn = OneHolder(db=db, clock=clock, owner=owner, name=LEASE_NAME, ttl_s=LEASE_S)
        self._gather_s = gather_s
        self._only_urgent = only_urgent
        self._rounds = Rounds(clock, worker=f"outbox of {db.schema}", every_s=POLL_S)
        self._has_published = False
        """Whether there was something, when it was looked last."""
        self._measured_at = float("-inf")

    def wake(self) -> None:
        """Say that there is something to publish, instead of waiting for the next look."""
        self._rounds.wake()

    async def run(self, beat: Callable[[], None]) -> None:
        """Publish for ever; while another process holds the lease, stand by."""
        try:
            await self._rounds.run(self._round, beat)
        finally:
            await self._turn.let_go()

    async def _round(self) -> bool:
        """Publish, measure; return whether there may be more."""
        busy = await self._turn.hold() and await self._relay_once()
        await self._measure()
        if not busy and self._gather_s and self._has_published:
            await self._clock.sleep(self._gather_s)
        return busy

    async def _relay_once(self) -> bool:
        """Publish one batch; return whether there may be more."""
        async with self._db.write() as conn:
            await conn.execute(BY_INDEX)
            rows = await conn.fetch(TAKE_URGENT if self._only_urgent() else TAKE, BATCH)
        self._has_published = bool(rows)
        if not rows:
            return False
        messages = [
            Message(
                topic=row["topic"],
                key=row["key"],
                value=row["value"],
                headers=unpack_headers(row["headers"]),
                partition_key=row["partition_key"],
                partition=row["partition"],
            )
            for row in rows
        ]
        if self._turn.valid_for_s() <= PUBLISH_TIMEOUT_S:
            return True
        try:
            await self._bus.publish(messages, timeout_s=PUBLISH_TIMEOUT_S)
        except MessageRefused as exc:
            guilty = next(row for row, message in zip(rows, messages, strict=True) if message is exc.refused)
            await self._park(guilty["id"], exc)
            return True
        async with self._db.write() as conn:
            await conn.execute("delete from outbox where id = any($1::bigint[])", [row["id"] for row in rows])
        return len(rows) == BATCH

    async def _park(self, row_id: int, exc: MessageRefused) -> None:
        logger.error(
            "outbox message parked: the bus will never take it",
            extra={
                "schema": self._db.schema,
                "outbox_id": row_id,
                "topic": exc.refused.topic,
                "key": exc.refused.key,
                "reason": exc.message,
            },
        )
        async with self._db.write() as conn:
            await conn.execute(
                "update outbox set parked_at = now(), parked_reason = $2 where id = $1", row_id, exc.message
            )

    async def _measure(self) -> None:
        if not self._turn.held:
            if self._measured_at > float("-inf"):  # another process counts from here on
                self._measured_at = float("-inf")
                self._show(0, 0, 0.0)
            return
        if self._clock.monotonic() - self._measured_at < MEASURE_S:
            return
        self._measured_at = self._clock.monotonic()
        async with self._db.read() as conn:
            row = await conn.fetchrow(
                """
                select count(*) filter (where parked_at is null) as waiting,
                       count(*) filter (where parked_at is not null) as parked,
                       extract(epoch from now() - min(created_at) filter (where parked_at is null)) as oldest
                  from outbox
                """
            )
        self._show(row["waiting"], row["parked"], float(row["oldest"] or 0))

    def _show(self, waiting: int, parked: int, oldest_s: float) -> None:
        WAITING.labels(self._db.schema, "waiting").set(waiting)
        WAITING.labels(self._db.schema, "parked").set(parked)
        OLDEST.labels(self._db.schema).set(oldest_s)
