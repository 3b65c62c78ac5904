"""SQL of what judging keeps: how far devices were judged, what is not normal, which shutdowns explain what."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import asyncpg
import orjson

from libs.common.db import WriteConn
from services.alarm.domain.engine import Judged
from services.alarm.domain.model import (
    SECOND_US,
    Episode,
    State,
    from_us,
    to_us,
)
from services.alarm.domain.shutdowns import Shutdown


async def fetch_judged(conn: WriteConn, partitions: Collection[int]) -> list[Judged]:
    """Return how far the devices of partitions were judged."""
    rows = await conn.fetch(
        "select device_id, partition, judged_at, received_at from judged where partition = any($1::integer[])",
        sorted(partitions),
    )
    return [
        Judged(row["device_id"], row["partition"], to_us(row["judged_at"]), to_us(row["received_at"])) for row in rows
    ]


async def put_judged(conn: WriteConn, judged: Sequence[Judged]) -> None:
    """Write how far devices were judged."""
    await conn.execute(
        """
        insert into judged (device_id, partition, judged_at, received_at)
        select * from unnest($1::text[], $2::integer[], $3::timestamptz[], $4::timestamptz[])
            on conflict (device_id) do update set
               partition = excluded.partition, judged_at = excluded.judged_at, received_at = excluded.received_at
        """,
        [one.device_id for one in judged],
        [one.partition for one in judged],
        [from_us(one.judged_us) for one in judged],
        [from_us(one.received_us) for one in judged],
    )


async def fetch_episodes(conn: WriteConn, partitions: Collection[int]) -> list[tuple[str, str, Episode]]:
    """Return device, rule and episode of everything that is not NORMAL in partitions."""
    rows = await conn.fetch(
        """
        select device_id, rule_id, state, since, began_at, seen_at, point_values, rule_version, site_id, signal, level,
               alarm_id, sequence, inhibited_by, raised_at, hold_s,
               dismissed
          from episodes where partition = any($1::integer[])
         order by device_id, rule_id
        """,
        sorted(partitions),
    )
    return [(row["device_id"], row["rule_id"], _episode(row)) for row in rows]


def _episode(row: asyncpg.Record) -> Episode:
    return Episode(
        state=State.DISMISSED if row["dismissed"] else State(row["state"]),
        since_us=to_us(row["since"]),
        began_us=to_us(row["began_at"]),
        seen_us=to_us(row["seen_at"]),
        values=row["point_values"],
        rule_version=row["rule_version"],
        site_id=row["site_id"],
        signal=row["signal"],
        level=row["level"],
        alarm_id=row["alarm_id"],
        sequence=row["sequence"],
        inhibited_by=row["inhibited_by"],
        raised_us=None if row["raised_at"] is None else to_us(row["raised_at"]),
        hold_us=round(row["hold_s"] * SECOND_US),
    )


async def put_episodes(
    conn: WriteConn, episodes: Mapping[tuple[str, str], Episode | None], partitions: Mapping[str, int]
) -> None:
    """Write what is not NORMAL and delete what is again.

    Args:
        conn: The transaction.
        episodes: (device, rule) to its episode, None for NORMAL.
        partitions: Device to partition.
    """
    over = [key for key, episode in episodes.items() if episode is None]
    if over:
        await conn.execute(
            """
            delete from episodes e using unnest($1::text[], $2::text[]) as gone (device_id, rule_id)
             where e.device_id = gone.device_id and e.rule_id = gone.rule_id
            """,
            [device_id for device_id, _ in over],
            [rule_id for _, rule_id in over],
        )
    # The state of a dismissed episode is in a column of its own: the check of the table knows the other three.
    kept = [(*key, episode) for key, episode in episodes.items() if episode is not None]
    if not kept:
        return
    await conn.execute(
        """
        insert into episodes (device_id, rule_id, partition, state, since, began_at, seen_at, point_values,
                              rule_version, site_id, signal, level, alarm_id, sequence, inhibited_by, raised_at,
                              hold_s, dismissed)
        select device_id, rule_id, partition, state, since, began_at, seen_at, point_values::jsonb, rule_version,
               site_id, signal, level, alarm_id, sequence, inhibited_by, raised_at, hold_s, dismissed
          from unnest($1::text[], $2::text[], $3::integer[], $4::smallint[], $5::timestamptz[], $6::timestamptz[],
                      $7::timestamptz[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::integer[],
                      $13::text[], $14::integer[], $15::text[], $16::timestamptz[], $17::float8[], $18::boolean[])
            as e (device_id, rule_id, partition, state, since, began_at, seen_at, point_values, rule_version, site_id,
                  signal, level, alarm_id, sequence, inhibited_by, raised_at, hold_s,
                  dismissed)
            on conflict (device_id, rule_id) do update set
               partition = excluded.partition, state = excluded.state, since = excluded.since,
               began_at = excluded.began_at, seen_at = excluded.seen_at, point_values = excluded.point_values,
               rule_version = excluded.rule_version, site_id = excluded.site_id, signal = excluded.signal,
               level = excluded.level, alarm_id = excluded.alarm_id, sequence = excluded.sequence,
               inhibited_by = excluded.inhibited_by, raised_at = excluded.raised_at, hold_s = excluded.hold_s,
               dismissed = excluded.dismissed
        """,
        [device_id for device_id, _, _ in kept],
        [rule_id for _, rule_id, _ in kept],
        [partitions[device_id] for device_id, _, _ in kept],
        [int(min(episode.state, State.CLEARING)) for _, _, episode in kept],
        [from_us(episode.since_us) for _, _, episode in kept],
        [from_us(episode.began_us) for _, _, episode in kept],
        [from_us(episode.seen_us) for _, _, episode in kept],
        [orjson.dumps(dict(episode.values)).decode() for _, _, episode in kept],
        [episode.rule_version for _, _, episode in kept],
        [episode.site_id for _, _, episode in kept],
        [episode.signal for _, _, episode in kept],
        [episode.level for _, _, episode in kept],
        [episode.alarm_id for _, _, episode in kept],
        [episode.sequence for _, _, episode in kept],
        [episode.inhibited_by for _, _, episode in kept],
        [None if episode.raised_us is None else from_us(episode.raised_us) for _, _, episode in kept],
        [episode.hold_us / SECOND_US for _, _, episode in kept],
        [episode.state is State.DISMISSED for _, _, episode in kept],
    )


async def fetch_shutdowns(conn: WriteConn, partitions: Collection[int]) -> list[Shutdown]:
    """Return what control has switched off in partitions."""
    rows = await conn.fetch(
        """
        select device_id, partition, reference, since, planned_end, until
          from shutdowns where partition = any($1::integer[])
        """,
        sorted(partitions),
    )
    return [
        Shutdown(
            device_id=row["device_id"],
            partition=row["partition"],
            reference=row["reference"],
            since_us=to_us(row["since"]),
            planned_end_us=None if row["planned_end"] is None else to_us(row["planned_end"]),
            until_us=None if row["until"] is None else to_us(row["until"]),
        )
        for row in rows
    ]


async def put_shutdowns(conn: WriteConn, shutdowns: Iterable[Shutdown]) -> None:
    """Write shutdowns, one per device."""
    for shutdown in shutdowns:
        await conn.execute(
            """
            insert into shutdowns (device_id, partition, reference, since, planned_end, until)
            values ($1, $2, $3, $4, $5, $6)
                on conflict (device_id) do update set
                   partition = excluded.partition, reference = excluded.reference, since = excluded.since,
                   planned_end = excluded.planned_end, until = excluded.until
            """,
            shutdown.device_id,
            shutdown.partition,
            shutdown.reference,
            from_us(shutdown.since_us),
            None if shutdown.planned_end_us is None else from_us(shutdown.planned_end_us),
            None if shutdown.until_us is None else from_us(shutdown.until_us),
        )


async def delete_shutdowns(conn: WriteConn, device_ids: Sequence[str]) -> None:
    """Forget shutdowns."""
    await conn.execute("delete from shutdowns where device_id = any($1::text[])", list(device_ids))
