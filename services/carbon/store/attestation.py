"""SQL of attestation: leaves and heads are appended, the last tile of a level grows, nothing else is written again."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import orjson
from asyncpg import InsufficientPrivilegeError, Record, UniqueViolationError

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, SiteId
from libs.common.merkle import TileKey
from libs.common.tokens import canonical
from services.carbon.domain.attestation import (
    FACTOR,
    REPORT,
    Fact,
    Kind,
    Leaf,
    Link,
    TreeHead,
    factor_fact,
    interval_fact,
    report_fact,
    report_subject,
)
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.domain.media import MEDIA
from services.carbon.store import inventories

logger = logging.getLogger(__name__)

# What is in the books is read there, so that a proof shows what stands there now; nearly all of it are intervals.
FACTS = """
    f.kind, f.subject, f.at, f.version, f.facts, m.point,
    coalesce(i.circuit_id, m.circuit_id) as circuit_id, coalesce(i.site_id, m.site_id) as site_id,
    coalesce(i.start, m.start) as start, coalesce(i.step_s, m.step_s) as step_s,
    coalesce(i.energy_kwh, m.quantity) as energy_kwh, coalesce(i.flag, m.flag) as flag,
    coalesce(i.lower_bound, m.lower_bound) as lower_bound, coalesce(i.uncertain, m.uncertain) as uncertain,
    coalesce(i.computed_at, m.computed_at) as computed_at
"""
# The name of a register has no slash, the id of a circuit may have some.
INTERVAL = """
    left join intervals i
      on f.kind = 'interval' and f.subject ^@ 'circuit:' and i.circuit_id = substring(f.subject from 9)
     and i.start = f.at and i.version = f.version
    left join medium_intervals m
      on f.kind = 'interval' and f.subject ^@ 'medium:'
     and m.circuit_id = substring(f.subject from position('/' in f.subject) + 1)
     and m.point = split_part(substring(f.subject from 8), '/', 1) and m.start = f.at and m.version = f.version
"""


@dataclass(frozen=True, slots=True)
class LogRow:
    """Where the log ends."""

    tree: date | None
    """The tree that runs; None before the first."""
    size: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A leaf as it can be made again."""

    tree: date
    index: int
    leaf: Leaf


@dataclass(frozen=True, slots=True)
class Stray:
    """A row of the books that the log does not know, or that holds where another one should."""

    subject: str
    at: datetime | None
    """Start of an interval."""
    version: int
    is_committed: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """A leaf whose facts are no longer in the database."""

    subject: str
    what: str


class LogRefused(Exception):
    """The database does not take what is appended: something stands there already."""


class FactsGone(Exception):
    """What was committed is no longer in the database."""


async def add_facts(conn: WriteConn, facts: Sequence[Fact]) -> None:
    """Ask for facts to be committed that stand nowhere else; what is in the books is asked for where it is written."""
    await conn.execute(
        """
        insert into attest_pending (kind, subject, at, version, facts)
        select kind, subject, at, version, facts
          from unnest($1::text[], $2::text[], $3::timestamptz[], $4::integer[], $5::text[]) with ordinality
            as f(kind, subject, at, version, facts, number)
         order by number
        """,
        [one.kind.value for one in facts],
        [one.subject for one in facts],
        [one.at for one in facts],
        [one.version for one in facts],
        [_facts_text(one) for one in facts],
    )


async def lock_log(conn: WriteConn) -> LogRow:
    """Lock the log's end, so that nobody else appends."""
    row = await conn.fetchrow("select tree, size from attest_log for update")
    return LogRow(row["tree"], row["size"])


async def set_log(conn: WriteConn, log: LogRow) -> None:
    """Note where the log ends, its end being locked."""
    await conn.execute("update attest_log set tree = $1, size = $2", log.tree, log.size)


async def take_facts(conn: WriteConn, limit: int) -> list[Fact]:
    """Take facts that are not committed yet off the list of those, the oldest first; the log is locked.

    What is no longer in the books is passed over, at ERROR: there is nothing left to commit.
    """
    rows = await conn.fetch(
        f"""
        with f as (
            delete from attest_pending
             where place in (select place from attest_pending order by place limit $1)
            returning place, kind, subject, at, version, facts
        )
        select {FACTS} from f {INTERVAL} order by f.place
        """,  # noqa: S608 - our own words
        limit,
    )
    elsewhere = await _elsewhere(conn, rows)
    facts = []
    for row in rows:
        fact = _fact(row, elsewhere)
        if fact is None:
            logger.error(
                "what waited to be committed is no longer in the books",
                extra={"subject": row["subject"], "at": row["at"].isoformat(), "version": row["version"]},
            )
        else:
            facts.append(fact)
    return facts


async def fetch_ends(conn: WriteConn, subjects: Collection[str]) -> dict[str, Link]:
    """Return where chains end; a subject without one is absent."""
    rows = await conn.fetch(
        "select subject, seq, commitment from attest_ends where subject = any($1::text[])", sorted(subjects)
    )
    return {row["subject"]: Link(row["seq"], row["commitment"].hex()) for row in rows}


async def set_ends(conn: WriteConn, ends: Mapping[str, Link]) -> None:
    """Note where chains end."""
    await conn.execute(
        """
        insert into attest_ends (subject, seq, commitment)
        select * from unnest($1::text[], $2::bigint[], $3::bytea[])
            on conflict on constraint attest_ends_pk
            do update set seq = excluded.seq, commitment = excluded.commitment
        """,
        list(ends),
        [one.seq for one in ends.values()],
        [bytes.fromhex(one.commitment) for one in ends.values()],
    )


async def fetch_places(
    conn: WriteConn, names: Sequence[tuple[str, datetime, int]]
) -> dict[tuple[str, datetime, int], str]:
    """Return the leaves, ``<tree>/<index>``, of facts by subject, time and version; the last of several."""
    rows = await conn.fetch(
        """
        select l.subject, l.at, l.version, l.tree, l.index
          from unnest($1::text[], $2::timestamptz[], $3::integer[]) as n(subject, at, version)
          join attest_leaves l using (subject, at, version)
         order by l.tree, l.index
        """,
        [one[0] for one in names],
        [one[1] for one in names],
        [one[2] for one in names],
    )
    return {(row["subject"], row["at"], row["version"]): f"{row['tree']}/{row['index']}" for row in rows}


async def append_leaves(conn: WriteConn, tree: date, first: int, leaves: Sequence[Leaf]) -> None:
    """Append leaves to a tree; ``first`` is the index of the first one.

    Raises:
        LogRefused: One of them is there already.
    """
    await _append(
        conn,
        """
        insert into attest_leaves (tree, index, kind, subject, at, version, seq, salt, previous, corrects, facts)
        select $1, $2 + number - 1, kind, subject, at, version, seq, salt, previous, corrects, facts
          from unnest($3::text[], $4::text[], $5::timestamptz[], $6::integer[], $7::bigint[], $8::bytea[],
                      $9::bytea[], $10::text[], $11::text[]) with ordinality
            as l(kind, subject, at, version, seq, salt, previous, corrects, facts, number)
        """,
        tree,
        first,
        [one.fact.kind.value for one in leaves],
        [one.fact.subject for one in leaves],
        [one.fact.at for one in leaves],
        [one.fact.version for one in leaves],
        [one.seq for one in leaves],
        [one.salt for one in leaves],
        [bytes.fromhex(one.entry["previous"]) for one in leaves],
        [one.entry.get("corrects") for one in leaves],
        [_facts_text(one.fact) for one in leaves],
    )


async def fetch_tiles(conn: ReadConn | WriteConn, tree: date, keys: Iterable[TileKey]) -> dict[TileKey, bytes]:
    """Return tiles of a tree; one that is not there is absent."""
    wanted = sorted(keys)
    rows = await conn.fetch(
        """
        select t.level, t.number, t.hashes
          from unnest($2::smallint[], $3::bigint[]) as k(level, number)
          join attest_tiles t on t.tree = $1 and t.level = k.level and t.number = k.number
        """,
        tree,
        [key.level for key in wanted],
        [key.number for key in wanted],
    )
    return {TileKey(row["level"], row["number"]): row["hashes"] for row in rows}


async def put_tiles(conn: WriteConn, tree: date, tiles: Mapping[TileKey, bytes]) -> None:
    """Add tiles, or make them longer.

    Raises:
        LogRefused: A tile holds other hashes.
    """
    await _append(
        conn,
        """
        insert into attest_tiles (tree, level, number, hashes)
        select $1, level, number, hashes
          from unnest($2::smallint[], $3::bigint[], $4::bytea[]) as t(level, number, hashes)
            on conflict on constraint attest_tiles_pk do update set hashes = excluded.hashes
        """,
        tree,
        [key.level for key in tiles],
        [key.number for key in tiles],
        list(tiles.values()),
    )


async def add_head(conn: WriteConn, head: TreeHead) -> None:
    """Append a signed head."""
    await conn.execute(
        """
        insert into attest_heads (tree, size, root, at, final, key, signature)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        head.tree,
        head.size,
        head.root,
        head.at,
        head.final,
        bytes.fromhex(head.key),
        head.signature,
    )


async def fetch_last_head(conn: ReadConn | WriteConn, tree: date | None = None) -> TreeHead | None:
    """Return the newest head, of one tree or of all."""
    row = await conn.fetchrow(
        """
        select tree, size, root, at, final, key, signature from attest_heads
         where $1::date is null or tree = $1 order by tree desc, size desc, final desc limit 1
        """,
        tree,
    )
    return None if row is None else _head(row)


async def fetch_head(conn: ReadConn, tree: date, size: int) -> TreeHead | None:
    """Return the head of a tree at a size; the closing one of two."""
    row = await conn.fetchrow(
        """
        select tree, size, root, at, final, key, signature from attest_heads
         where tree = $1 and size = $2 order by final desc limit 1
        """,
        tree,
        size,
    )
    return None if row is None else _head(row)


async def fetch_heads(conn: ReadConn, start: date, end: date, limit: int) -> list[TreeHead]:
    """Return the heads of trees ``[start, end]``, the oldest first."""
    rows = await conn.fetch(
        """
        select tree, size, root, at, final, key, signature from attest_heads
         where tree between $1 and $2 order by tree, size, final limit $3
        """,
        start,
        end,
        limit,
    )
    return [_head(row) for row in rows]


async def fetch_closing_heads(conn: ReadConn, start: date, end: date) -> list[TreeHead]:
    """Return the heads that closed trees of ``[start, end)``, the oldest first."""
    rows = await conn.fetch(
        """
        select tree, size, root, at, final, key, signature from attest_heads
         where tree >= $1 and tree < $2 and final order by tree
        """,
        start,
        end,
    )
    return [_head(row) for row in rows]


async def fetch_leaf(conn: ReadConn, subject: str, at: datetime | None, version: int | None) -> Kept | None:
    """Return the leaf about a subject at a time and of a version; the last of those that fit.

    Raises:
        FactsGone: It was committed, and what it was about is gone.
    """
    row = await conn.fetchrow(
        f"""
        select f.tree, f.index, f.seq, f.salt, f.previous, f.corrects, {FACTS} from attest_leaves f {INTERVAL}
         where f.subject = $1 and ($2::timestamptz is null or f.at = $2) and ($3::integer is null or f.version = $3)
         order by f.seq desc limit 1
        """,  # noqa: S608 - our own words
        subject,
        at,
        version,
    )
    return None if row is None else _kept(row, await _elsewhere(conn, [row]))


async def fetch_leaf_at(conn: ReadConn, tree: date, index: int) -> Kept | None:
    """Return a leaf by its place.

    Raises:
        FactsGone: It was committed, and what it was about is gone.
    """
    row = await conn.fetchrow(
        f"""
        select f.tree, f.index, f.seq, f.salt, f.previous, f.corrects, {FACTS} from attest_leaves f {INTERVAL}
         where f.tree = $1 and f.index = $2
        """,  # noqa: S608 - our own words
        tree,
        index,
    )
    return None if row is None else _kept(row, await _elsewhere(conn, [row]))


async def fetch_leaves(conn: ReadConn, tree: date, start: int, end: int) -> dict[int, Kept | Lost]:
    """Return leaves ``[start, end)`` of a tree by their index; one whose row is missing is absent."""
    rows = await conn.fetch(
        f"""
        select f.tree, f.index, f.seq, f.salt, f.previous, f.corrects, {FACTS} from attest_leaves f {INTERVAL}
         where f.tree = $1 and f.index >= $2 and f.index < $3
        """,  # noqa: S608 - our own words
        tree,
        start,
        end,
    )
    elsewhere = await _elsewhere(conn, rows)
    found: dict[int, Kept | Lost] = {}
    for row in rows:
        try:
            found[row["index"]] = _kept(row, elsewhere)
        except FactsGone as exc:
            found[row["index"]] = Lost(row["subject"], str(exc))
    return found


async def fetch_circuits(conn: ReadConn, after: str, limit: int) -> list[str]:
    """Return circuits that have intervals, of whatever medium, by id, from behind ``after`` on."""
    rows = await conn.fetch(
        """
        with recursive c as (
            select least((select circuit_id from intervals where circuit_id > $1 order by circuit_id limit 1),
                         (select circuit_id from medium_intervals where circuit_id > $1 order by circuit_id limit 1)
                        ) as circuit_id
            union all
            select least((select i.circuit_id from intervals i
                           where i.circuit_id > c.circuit_id order by i.circuit_id limit 1),
                         (select m.circuit_id from medium_intervals m
                           where m.circuit_id > c.circuit_id order by m.circuit_id limit 1))
              from c where c.circuit_id is not null
        )
        select circuit_id from c where circuit_id is not null limit $2
        """,
        after,
        limit,
    )
    return [row["circuit_id"] for row in rows]


async def fetch_stray_intervals(conn: ReadConn, circuits: Sequence[str], limit: int) -> list[Stray]:
    """Return intervals that are neither committed nor waiting for it, and those that hold without being the last."""
    rows = await conn.fetch(
        """
        select b.subject, b.start, b.version, l.subject is not null as committed
          from (select 'circuit:' || circuit_id as subject, circuit_id, start, version, current,
                       version = max(version) over (partition by circuit_id, start) as is_last
                  from intervals where circuit_id = any($1::text[])
                union all
                select 'medium:' || point || '/' || circuit_id, circuit_id, start, version, current,
                       version = max(version) over (partition by circuit_id, point, start)
                  from medium_intervals where circuit_id = any($1::text[])) as b
          left join attest_leaves l on l.subject = b.subject and l.at = b.start and l.version = b.version
         where b.current <> b.is_last
            or (l.subject is null and not exists (
                select from attest_pending p
                 where p.subject = b.subject and p.at = b.start and p.version = b.version))
         order by b.circuit_id, b.subject, b.start, b.version limit $2
        """,
        list(circuits),
        limit,
    )
    return [Stray(row["subject"], row["start"], row["version"], row["committed"]) for row in rows]


async def fetch_stray_others(conn: ReadConn, limit: int) -> list[Stray]:
    """Return own factors and published statements that are neither committed nor waiting for it."""
    rows = await conn.fetch(
        """
        select subject, version
          from (select 'factor:' || factor_id as subject, revision as version from emission_factors
                union all
                select 'report:' || kind || '/' || statement_id, version from published_statements) as b
         where not exists (select from attest_leaves l where l.subject = b.subject and l.version = b.version)
           and not exists (select from attest_pending p where p.subject = b.subject and p.version = b.version)
         order by subject, version limit $1
        """,
        limit,
    )
    return [Stray(row["subject"], None, row["version"], is_committed=False) for row in rows]


async def fetch_tree_heads(conn: ReadConn, tree: date) -> list[TreeHead]:
    """Return all heads of a tree, the smallest first."""
    rows = await conn.fetch(
        """
        select tree, size, root, at, final, key, signature from attest_heads
         where tree = $1 order by size, final
        """,
        tree,
    )
    return [_head(row) for row in rows]


async def fetch_upper_tiles(conn: ReadConn, tree: date) -> dict[TileKey, bytes]:
    """Return the tiles of a tree above the lowest level, and the last one of the lowest."""
    rows = await conn.fetch(
        """
        select level, number, hashes from attest_tiles where tree = $1 and level > 0
        union all
        (select level, number, hashes from attest_tiles where tree = $1 and level = 0 order by number desc limit 1)
        """,
        tree,
    )
    return {TileKey(row["level"], row["number"]): row["hashes"] for row in rows}


async def fetch_chain(conn: ReadConn, subject: str, after: int, limit: int) -> list[Kept]:
    """Return the leaves of a subject with higher numbers than ``after``, in the order of its chain.

    Raises:
        FactsGone: What one of them was about is gone.
    """
    rows = await conn.fetch(
        f"""
        select f.tree, f.index, f.seq, f.salt, f.previous, f.corrects, {FACTS} from attest_leaves f {INTERVAL}
         where f.subject = $1 and f.seq > $2 order by f.seq limit $3
        """,  # noqa: S608 - our own words
        subject,
        after,
        limit,
    )
    elsewhere = await _elsewhere(conn, rows)
    return [_kept(row, elsewhere) for row in rows]


async def fetch_known(conn: WriteConn, kind: Kind) -> dict[tuple[str, int], Fact]:
    """Return the last fact of a kind by subject and version, committed or waiting, of those that are kept here."""
    rows = await conn.fetch(
        """
        select distinct on (subject, version) kind, subject, at, version, facts
          from (select kind, subject, at, version, facts, false as waits, seq as number from attest_leaves
                 where kind = $1 and kind <> 'interval' and facts is not null
                union all
                select kind, subject, at, version, facts, true, place from attest_pending
                 where kind = $1 and facts is not null) as f
         order by subject, version, waits desc, number desc
        """,
        kind.value,
    )
    return {(row["subject"], row["version"]): _own_fact(row) for row in rows}


async def _append(conn: WriteConn, statement: str, *arguments: object) -> None:
    try:
        await conn.execute(statement, *arguments)
    except (UniqueViolationError, InsufficientPrivilegeError) as exc:
        raise LogRefused(str(exc)) from exc


def _facts_text(fact: Fact) -> str | None:
    """Return what of a fact is kept in the log: nothing of what the books hold, all of the others."""
    if fact.kind is Kind.INTERVAL or (fact.kind is Kind.FACTOR and fact.fields["entered_by"] is not None):
        return None
    if fact.kind is Kind.REPORT:
        return canonical({"inputs": fact.fields["inputs"]}).decode()
    return canonical(fact.fields).decode()


Elsewhere = Mapping[tuple[str, int], Fact]
"""Facts that stand in tables of their own, by subject and version; intervals come with their leaves."""


async def _elsewhere(conn: ReadConn | WriteConn, rows: Sequence[Record]) -> Elsewhere:
    """Return the facts of own factors and of reports as they stand in the books now."""
    found: dict[tuple[str, int], Fact] = {}
    factors = [
        (row["subject"].removeprefix(FACTOR), row["version"])
        for row in rows
        if row["kind"] == Kind.FACTOR and row["facts"] is None
    ]
    if factors:
        for factor in (await inventories.fetch_revisions(conn, factors)).values():
            fact = factor_fact(factor)
            found[fact.subject, fact.version] = fact
    inputs = {(row["subject"], row["version"]): row["facts"] for row in rows if row["kind"] == Kind.REPORT}
    if inputs:
        names = [(*subject.removeprefix(REPORT).split("/", 1), version) for subject, version in inputs]
        for statement, digest in await inventories.fetch_stated_texts(conn, names):
            name = (report_subject(statement), statement.version)
            found[name] = report_fact(statement, file_sha256=digest, inputs=orjson.loads(inputs[name]))
    return found


def _fact(row: Record, elsewhere: Elsewhere) -> Fact | None:
    """Return a fact as it stands in the books now; None when it no longer does."""
    if row["kind"] == Kind.INTERVAL:
        return None if row["circuit_id"] is None else _interval_fact(row)
    if row["kind"] == Kind.REPORT or row["facts"] is None:
        return elsewhere.get((row["subject"], row["version"]))
    return _own_fact(row)


def _interval_fact(row: Record) -> Fact:
    return interval_fact(
        BookedInterval(
            circuit_id=CircuitId(row["circuit_id"]),
            site_id=SiteId(row["site_id"]),
            start=row["start"],
            step_s=row["step_s"],
            version=row["version"],
            energy_kwh=row["energy_kwh"],
            grade=Grade.of(row["flag"]),
            lower_bound=row["lower_bound"],
            uncertain=row["uncertain"],
            computed_at=row["computed_at"],
        ),
        None if row["point"] is None else MEDIA[row["point"]],
    )


def _own_fact(row: Record) -> Fact:
    """Return a fact that is kept in the log itself."""
    fields: dict[str, Any] = orjson.loads(row["facts"])
    return Fact(Kind(row["kind"]), row["subject"], row["at"], row["version"], fields)


def _kept(row: Record, elsewhere: Elsewhere) -> Kept:
    fact = _fact(row, elsewhere)
    if fact is None:
        raise FactsGone(f"leaf {row['tree']}/{row['index']}: {row['subject']} at {row['at'].isoformat()}")
    end = Link(row["seq"] - 1, row["previous"].hex())
    leaf = Leaf.of(fact, end=end, salt=row["salt"], corrects=row["corrects"])
    return Kept(row["tree"], row["index"], leaf)


def _head(row: Record) -> TreeHead:
    return TreeHead(row["tree"], row["size"], row["root"], row["at"], row["final"], row["key"].hex(), row["signature"])
