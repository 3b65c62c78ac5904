"""Targets with their adjustments, and what was last said of each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from asyncpg import Record

from libs.common.contracts.carbon import Granularity
from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.targets import Adjustment, Target
from services.carbon.tree import Node, NodeKind


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """A target and what is kept beside it."""

    target: Target
    name: str
    node_kind: NodeKind
    granularity: Granularity
    owner: str | None
    """Who answers for it."""

    @property
    def place(self) -> Node:
        """Where it holds."""
        return Node(self.node_kind, self.target.node)


@dataclass(frozen=True, slots=True)
class Said:
    """What was last published of a target's measure."""

    version: int
    value: float | None
    target: float
    completeness: float
    exceeded: bool | None


async def lock_targets(conn: WriteConn) -> None:
    """Keep other changes of targets out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('carbon.targets', 77))")


async def fetch_targets(
    conn: ReadConn | WriteConn,
    *,
    target_id: str | None = None,
    parent_id: str | None = None,
    node: str | None = None,
    first: date = date(1990, 1, 1),
    last: date = date(2200, 1, 1),
    after: str = "",
    limit: int = 100_000,
) -> list[StoredTarget]:
    """Return targets by id, those that hold on some day of ``[first, last)``; None is any."""
    rows = await conn.fetch(
        """
        select target_id, name, node, node_kind, measure, unit, granularity, first_day, end_day, parent_id, owner
          from targets
         where ($1::text is null or target_id = $1) and ($2::text is null or parent_id = $2)
           and ($3::text is null or node = $3) and first_day < $5 and end_day > $4 and target_id > $6
         order by target_id limit $7
        """,
        target_id,
        parent_id,
        node,
        first,
        last,
        after,
        limit,
    )
    adjusted = await conn.fetch(
        """
        select target_id, on_day, amount, reason, author
          from target_adjustments where target_id = any($1::text[]) order by target_id, adjustment_no
        """,
        [row["target_id"] for row in rows],
    )
    adjustments: dict[str, list[Adjustment]] = defaultdict(list)
    for row in adjusted:
        adjustments[row["target_id"]].append(Adjustment(row["on_day"], row["amount"], row["reason"], row["author"]))
    return [_target(row, adjustments[row["target_id"]]) for row in rows]


async def add_target(conn: WriteConn, one: StoredTarget, *, at: datetime, by: str) -> None:
    """Add a target with its adjustments."""
    target = one.target
    await conn.execute(
        """
        insert into targets (target_id, name, node, node_kind, measure, unit, granularity, first_day, end_day,
                             parent_id, owner, recorded_at, recorded_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        """,
        target.target_id,
        one.name,
        target.node,
        one.node_kind.value,
        target.measure,
        target.unit,
        one.granularity.value,
        target.start,
        target.end,
        target.parent_id,
        one.owner,
        at,
        by,
    )
    for adjustment in target.adjustments:
        await add_adjustment(conn, target.target_id, adjustment, at=at)


async def add_adjustment(conn: WriteConn, target_id: str, one: Adjustment, *, at: datetime) -> None:
    """Add a change of what is allowed."""
    await conn.execute(
        """
        insert into target_adjustments (target_id, adjustment_no, on_day, amount, reason, author, recorded_at)
        select $1, 1 + coalesce((select max(adjustment_no) from target_adjustments where target_id = $1), 0),
               $2, $3, $4, $5, $6
        """,
        target_id,
        one.on,
        one.amount,
        one.reason,
        one.author,
        at,
    )


async def fetch_said(conn: WriteConn, target_id: str) -> dict[str, Said]:
    """Return what was last published of a target, by measure."""
    rows = await conn.fetch(
        "select measure, version, value, target, completeness, exceeded from target_results where target_id = $1",
        target_id,
    )
    return {
        row["measure"]: Said(row["version"], row["value"], row["target"], row["completeness"], row["exceeded"])
        for row in rows
    }


async def put_said(conn: WriteConn, target_id: str, measure: str, said: Said, *, at: datetime) -> None:
    """Remember what is published of a target."""
    await conn.execute(
        """
        insert into target_results (target_id, measure, version, value, target, completeness, exceeded, computed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
            on conflict on constraint target_results_pk
            do update set version = excluded.version, value = excluded.value, target = excluded.target,
                          completeness = excluded.completeness, exceeded = excluded.exceeded,
                          computed_at = excluded.computed_at
        """,
        target_id,
        measure,
        said.version,
        said.value,
        said.target,
        said.completeness,
        said.exceeded,
        at,
    )


def _target(row: Record, adjustments: Sequence[Adjustment]) -> StoredTarget:
    return StoredTarget(
        target=Target(
            target_id=row["target_id"],
            node=row["node"],
            measure=row["measure"],
            unit=row["unit"],
            start=row["first_day"],
            end=row["end_day"],
            adjustments=tuple(adjustments),
            parent_id=row["parent_id"],
        ),
        name=row["name"],
        node_kind=NodeKind(row["node_kind"]),
        granularity=Granularity(row["granularity"]),
        owner=row["owner"],
    )
