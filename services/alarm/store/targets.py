"""SQL of which targets are exceeded."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import WriteConn

Key = tuple[str, str, str]
"""Node, measure and granularity."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """What is known of a target."""

    period_start: datetime
    version: int
    """Of the result of that period."""
    exceeded: bool


async def fetch_states(conn: WriteConn, keys: Collection[Key]) -> dict[Key, TargetState]:
    """Return what is known of targets; one never heard of is left out."""
    rows = await conn.fetch(
        """
        select t.node, t.measure, t.granularity, t.period_start, t.version, t.exceeded
          from target_states t
          join unnest($1::text[], $2::text[], $3::text[]) as k (node, measure, granularity)
            on (t.node, t.measure, t.granularity) = (k.node, k.measure, k.granularity)
        """,
        [node for node, _, _ in keys],
        [measure for _, measure, _ in keys],
        [granularity for _, _, granularity in keys],
    )
    return {
        (row["node"], row["measure"], row["granularity"]): TargetState(
            row["period_start"], row["version"], row["exceeded"]
        )
        for row in rows
    }


async def put_states(conn: WriteConn, states: dict[Key, tuple[int, TargetState]]) -> None:
    """Write what is known of targets: key to partition and state."""
    if not states:
        return
    kept = list(states.items())
    await conn.execute(
        """
        insert into target_states (node, measure, granularity, partition, period_start, version, exceeded)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::bigint[],
                             $7::boolean[])
            on conflict (node, measure, granularity) do update set
               partition = excluded.partition, period_start = excluded.period_start, version = excluded.version,
               exceeded = excluded.exceeded
        """,
        [node for (node, _, _), _ in kept],
        [measure for (_, measure, _), _ in kept],
        [granularity for (_, _, granularity), _ in kept],
        [partition for _, (partition, _) in kept],
        [state.period_start for _, (_, state) in kept],
        [state.version for _, (_, state) in kept],
        [state.exceeded for _, (_, state) in kept],
    )
