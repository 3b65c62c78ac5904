"""SQL of what energy rules remember of circuits, and of when control has switched devices off."""

from collections.abc import Collection, Mapping
from datetime import datetime

import orjson

from libs.common.db import WriteConn
from services.alarm.domain.energy import Memory, OffTime
from services.alarm.domain.model import from_us, to_us


async def fetch_memory(conn: WriteConn, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Memory]:
    """Return what rules remember, by rule and circuit; what was never judged is left out."""
    rows = await conn.fetch(
        """
        select m.rule_id, m.circuit_id, m.judged_at, m.since, m.count, m.raised, m.version, m.figures
          from energy_memory m
          join unnest($1::text[], $2::text[]) as k (rule_id, circuit_id)
            on (m.rule_id, m.circuit_id) = (k.rule_id, k.circuit_id)
        """,
        [rule_id for rule_id, _ in keys],
        [circuit_id for _, circuit_id in keys],
    )
    return {
        (row["rule_id"], row["circuit_id"]): Memory(
            judged_us=to_us(row["judged_at"]),
            since_us=None if row["since"] is None else to_us(row["since"]),
            count=row["count"],
            raised=row["raised"],
            version=row["version"],
            figures={
                member: {int(start): (int(end), float(value)) for start, (end, value) in known.items()}
                for member, known in row["figures"].items()
            },
        )
        for row in rows
    }


async def put_memory(conn: WriteConn, memories: Mapping[tuple[str, str], tuple[int, Memory]]) -> None:
    """Write what rules remember: rule and circuit to partition and memory."""
    if not memories:
        return
    kept = list(memories.items())
    await conn.execute(
        """
        insert into energy_memory (rule_id, circuit_id, partition, judged_at, since, count, raised, version, figures)
        select rule_id, circuit_id, partition, judged_at, since, count, raised, version, figures::jsonb
          from unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[], $5::timestamptz[], $6::integer[],
                      $7::boolean[], $8::bigint[], $9::text[])
            as m (rule_id, circuit_id, partition, judged_at, since, count, raised, version, figures)
            on conflict (rule_id, circuit_id) do update set
               partition = excluded.partition, judged_at = excluded.judged_at, since = excluded.since,
               count = excluded.count, raised = excluded.raised, version = excluded.version,
               figures = excluded.figures
        """,
        [rule_id for (rule_id, _), _ in kept],
        [circuit_id for (_, circuit_id), _ in kept],
        [partition for _, (partition, _) in kept],
        [from_us(memory.judged_us) for _, (_, memory) in kept],
        [None if memory.since_us is None else from_us(memory.since_us) for _, (_, memory) in kept],
        [memory.count for _, (_, memory) in kept],
        [memory.raised for _, (_, memory) in kept],
        [memory.version for _, (_, memory) in kept],
        [_figures(memory) for _, (_, memory) in kept],
    )


async def fetch_off_times(conn: WriteConn, partitions: Collection[int]) -> list[OffTime]:
    """Return when control has switched off devices of partitions."""
    rows = await conn.fetch(
        """
        select device_id, partition, since, planned_end, until
          from off_times where partition = any($1::integer[]) order by device_id, since
        """,
        sorted(partitions),
    )
    return [
        OffTime(
            row["device_id"],
            row["partition"],
            to_us(row["since"]),
            None if row["planned_end"] is None else to_us(row["planned_end"]),
            None if row["until"] is None else to_us(row["until"]),
        )
        for row in rows
    ]


async def put_off_times(conn: WriteConn, times: Collection[OffTime]) -> None:
    """Write when control has switched devices off; each device at most once a begin."""
    if not times:
        return
    last = {(one.device_id, one.since_us): one for one in times}
    await conn.execute(
        """
        insert into off_times (device_id, since, partition, planned_end, until)
        select * from unnest($1::text[], $2::timestamptz[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
            on conflict (device_id, since) do update set
               partition = excluded.partition, planned_end = excluded.planned_end, until = excluded.until
        """,
        [one.device_id for one in last.values()],
        [from_us(one.since_us) for one in last.values()],
        [one.partition for one in last.values()],
        [None if one.planned_end_us is None else from_us(one.planned_end_us) for one in last.values()],
        [None if one.until_us is None else from_us(one.until_us) for one in last.values()],
    )


async def delete_off_times(conn: WriteConn, partitions: Collection[int], before: datetime) -> None:
    """Forget what was over by then."""
    await conn.execute(
        "delete from off_times where partition = any($1::integer[]) and until < $2", sorted(partitions), before
    )


def _figures(memory: Memory) -> str:
    told = {member: {str(start): one for start, one in known.items()} for member, known in memory.figures.items()}
    return orjson.dumps(told).decode()
