"""What leaves the embedded log: by age, by size, by compaction; and who would lose something by it.

Messages leave in batches of deletes, each a short transaction that moves the stream's floor first in the same
breath; offsets are never given twice. Of compacted topics the newest message of every key stays, and the newest of
the stream in any case; a tombstone goes a day after it was written.
"""

import logging
from collections.abc import Sequence

import asyncpg

from libs.common.backoff import Backoff
from libs.common.bus.port import AtRisk
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.metrics import counter, gauge

logger = logging.getLogger(__name__)

EVERY_S = 10.0
DELETE_BATCH = 5000
"""Rows in one transaction: some 30 ms."""
TOMBSTONE_S = 86_400.0
"""How long a tombstone stays for readers that are behind. [s]"""
RISK_SHARE = 0.75
"""A group that has used up this part of what retention gives it is at risk."""
KEEPER_LOCK = 0x77626B70
"""Advisory lock: one process at a time lets messages go ("wbkp")."""

BYTES = gauge("bus_log_bytes", "Size of the messages of a topic in the embedded log", ("topic",))
MESSAGES = gauge(
    "bus_log_messages", "Messages of a topic in the embedded log; compacted ones by their offsets", ("topic",)
)
GONE = counter("bus_log_removed_total", "Messages that left the embedded log", ("topic", "why"))
AT_RISK = gauge("bus_at_risk_messages", "Messages that a group will lose unless it reads them soon", ("group", "topic"))


class Keeper:
    """Applies retention and compaction, in whichever process comes first."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Prepare; ``db`` is the bus's own pool."""
        self._db = db
        self._clock = clock
        self._endangered: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Do it again and again; an absent database is waited for."""
        backoff = Backoff(first_s=1.0, cap_s=EVERY_S)
        while True:
            try:
                await self.run_once(patiently=False)
            except (Unavailable, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError) as exc:
                if backoff.first:
                    logger.warning("log not trimmed", extra={"reason": str(exc)})
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()
                await self._clock.sleep(EVERY_S)

    async def run_once(self, *, patiently: bool) -> None:
        """Do it once; unless ``patiently``, not when another process is at it."""
        async with self._db.statements() as conn:
            if patiently:
                await conn.execute("select pg_advisory_lock($1)", KEEPER_LOCK)
            elif not await conn.fetchval("select pg_try_advisory_lock($1)", KEEPER_LOCK):
                return
            try:
                await self._watch_groups()
                await self._retain()
                await self._compact()
            finally:
                if not conn.is_closed():
                    await conn.execute("select pg_advisory_unlock($1)", KEEPER_LOCK)

    async def at_risk(self) -> Sequence[AtRisk]:
        """Return the groups that are so far behind that retention will soon overtake them."""
        async with self._db.read() as conn:
            rows = await conn.fetch(
                """
                with streams_of_topics as (
                    select s.id, s.topic, s.partition, s.floor, t.retention_s, t.retention_bytes,
                           newest.total as newest, newest."off" + 1 as past, oldest.total as oldest
                      from streams s
                      join topics t on t.name = s.topic
                     cross join lateral (
                           select m."off", m.total from messages m where m.stream = s.id order by m."off" desc limit 1
                           ) as newest
                     cross join lateral (
                           select m.total from messages m where m.stream = s.id order by m."off" limit 1) as oldest
                     where not t.compacted
                ), sized as (
                    select *, sum(newest - oldest) over (partition by topic) as topic_bytes from streams_of_topics
                )
                select g.grp, z.topic, z.partition, z.past - greatest(g.next, z.floor) as records,
                       z.retention_s - extract(epoch from clock_timestamp() - unread.at) as left_s,
                       extract(epoch from clock_timestamp() - unread.at) / z.retention_s as by_age,
                       (z.newest - unread.total)::float8 * z.topic_bytes
                           / nullif(z.newest - z.oldest, 0) / z.retention_bytes as by_size
                  from group_positions g
                  join sized z on z.id = g.stream
                  cross join lateral (
                       select m.at, m.total from messages m
                        where m.stream = z.id and m."off" >= g.next order by m."off" limit 1) as unread
                 where g.next < z.past
                 order by g.grp, z.topic, z.partition
                """
            )
        return [
            AtRisk(
                group=row["grp"],
                topic=row["topic"],
                partition=row["partition"],
                records=row["records"],
                left_s=None if row["left_s"] is None else max(float(row["left_s"]), 0.0),
            )
            for row in rows
            if max(float(row["by_age"] or 0), float(row["by_size"] or 0)) >= RISK_SHARE
        ]

    async def _watch_groups(self) -> None:
        """Say which groups are at risk: as a metric always, as a log line when it begins."""
        endangered: dict[tuple[str, str], int] = {}
        for risk in await self.at_risk():
            place = (risk.group, risk.topic)
            endangered[place] = endangered.get(place, 0) + risk.records
        for place, records in endangered.items():
            AT_RISK.labels(*place).set(records)
            if place not in self._endangered:
                logger.error(
                    "a group is about to lose messages to retention",
                    extra={"group": place[0], "topic": place[1], "messages": records},
                )
        for place in self._endangered - endangered.keys():
            AT_RISK.labels(*place).set(0)
        self._endangered = set(endangered)

    async def _retain(self) -> None:
        async with self._db.read() as conn:
            rows = await conn.fetch(
                """
                select s.id, s.topic, s.floor, s.compacted, t.retention_bytes,
                       case when t.retention_s is not null and not t.compacted
                            then offset_since(s.id, clock_timestamp() - make_interval(secs => t.retention_s))
                            else s.floor end as by_age,
                       coalesce(newest."off" + 1, s.floor) as past,
                       coalesce(newest.total, 0) as newest,
                       coalesce(newest.total - oldest.total, 0) as bytes
                  from streams s
                  join topics t on t.name = s.topic
                  left join lateral (
                       select m."off", m.total from messages m where m.stream = s.id order by m."off" desc limit 1
                       ) as newest on true
                  left join lateral (
                       select m.total from messages m where m.stream = s.id order by m."off" limit 1) as oldest on true
                 order by s.topic, s.partition
                """
            )
        sizes: dict[str, int] = {}
        counts: dict[str, int] = {}
        for row in rows:
            sizes[row["topic"]] = sizes.get(row["topic"], 0) + row["bytes"]
            counts[row["topic"]] = counts.get(row["topic"], 0) + row["past"] - row["floor"]
        for topic, size in sizes.items():
            BYTES.labels(topic).set(size)
            MESSAGES.labels(topic).set(counts[topic])
        for row in rows:
            limit, size = row["retention_bytes"], sizes[row["topic"]]
            await self._trim(row["id"], row["topic"], row["floor"], row["by_age"], "age")
            if limit is not None and size > limit and not row["compacted"]:
                # Every stream of the topic gives up the same part of its size.
                keep = row["bytes"] * limit // size
                async with self._db.read() as conn:
                    by_size = await conn.fetchval("select offset_over($1, $2)", row["id"], row["newest"] - keep)
                await self._trim(row["id"], row["topic"], max(row["floor"], row["by_age"]), by_size, "size")

    async def _trim(self, stream: int, topic: str, floor: int, below: int, why: str) -> None:
        while floor < below:
            upper = min(floor + DELETE_BATCH, below)
            async with self._db.write() as conn:
                await conn.execute("update streams set floor = $2 where id = $1 and floor < $2", stream, upper)
                gone = await conn.fetchval(
                    """
                    with gone as (
                        delete from messages where stream = $1 and "off" >= $2 and "off" < $3 returning 1)
                    select count(*) from gone
                    """,
                    stream,
                    floor,
                    upper,
                )
            GONE.labels(topic, why).inc(gone)
            floor = upper

    async def _compact(self) -> None:
        async with self._db.read() as conn:
            rows = await conn.fetch(
                """
                select s.id, s.topic, s.cleaned, newest."off" as newest
                  from streams s
                  cross join lateral (
                       select m."off" from messages m where m.stream = s.id order by m."off" desc limit 1) as newest
                 where s.compacted
                 order by s.id
                """
            )
        for row in rows:
            cleaned = row["cleaned"]
            while cleaned <= row["newest"]:
                upper = min(cleaned + DELETE_BATCH, row["newest"] + 1)
                await self._compact_part(row["id"], row["topic"], cleaned, upper)
                cleaned = upper
            await self._drop_tombstones(row["id"], row["topic"], row["newest"])

    async def _compact_part(self, stream: int, topic: str, lower: int, upper: int) -> None:
        """Remove what the messages from ``lower`` to ``upper`` replace, wherever in the stream it lies."""
        async with self._db.write() as conn:
            gone = await conn.fetchval(
                """
                with latest as (
                    select key, max("off") as "off" from messages
                     where stream = $1 and "off" >= $2 and "off" < $3 and compacted group by key
                ), gone as (
                    delete from messages m using latest
                     where m.stream = $1 and m.compacted and m.key = latest.key and m."off" < latest."off"
                    returning 1
                )
                select count(*) from gone
                """,
                stream,
                lower,
                upper,
            )
            await conn.execute("update streams set cleaned = $2 where id = $1", stream, upper)
        GONE.labels(topic, "compaction").inc(gone)

    async def _drop_tombstones(self, stream: int, topic: str, newest: int) -> None:
        """Remove old tombstones; all they replace has gone. The newest message stays: the next offset follows it."""
        async with self._db.write() as conn:
            gone = await conn.fetchval(
                """
                with gone as (
                    delete from messages
                     where stream = $1 and "off" < $2 and compacted and value is null
                       and at < clock_timestamp() - make_interval(secs => $3)
                    returning 1
                )
                select count(*) from gone
                """,
                stream,
                newest,
                TOMBSTONE_S,
            )
        GONE.labels(topic, "tombstone").inc(gone)
