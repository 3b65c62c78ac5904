"""The registry's tables: one row per entity, one per version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.contracts.registry import (
    ENTITY_TYPES,
    Entity,
    EntityKind,
    EntityState,
    RegistryRecord,
    record_of,
    references_of,
)
from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class Change:
    """A record to be written, and the site that it belongs to."""

    record: RegistryRecord
    site: str | None


async def fetch_record(conn: ReadConn | WriteConn, entity_id: str) -> RegistryRecord | None:
    """Return an entity's whole history, None when there is none."""
    return (await fetch_records(conn, [entity_id])).get(entity_id)


async def fetch_records(conn: ReadConn | WriteConn, ids: Sequence[str]) -> dict[str, RegistryRecord]:
    """Return the histories of entities by id."""
    rows = await conn.fetch(
        """
        select e.id, e.kind, e.state, v.body
          from entities e join entity_versions v on v.id = e.id
         where e.id = any($1::text[])
         order by e.id, v.valid_from
        """,
        ids,
    )
    found: dict[str, tuple[EntityState, list[Entity]]] = {}
    for row in rows:
        version = ENTITY_TYPES[EntityKind(row["kind"])].model_validate(row["body"])
        found.setdefault(row["id"], (EntityState(row["state"]), []))[1].append(version)
    return {entity_id: record_of(versions, state=state) for entity_id, (state, versions) in found.items()}


async def lock_entities(conn: WriteConn, ids: Sequence[str]) -> None:
    """Lock the rows of entities until the end of the transaction, in order of their ids."""
    await conn.execute("select 1 from entities where id = any($1::text[]) order by id for update", sorted(ids))


async def fetch_kinds(conn: ReadConn | WriteConn, ids: Sequence[str] | None) -> dict[str, EntityKind]:
    """Return the kinds of active entities by id; of all with None."""
    rows = await conn.fetch(
        "select id, kind from entities where ($1::text[] is null or id = any($1)) and state = 'active'", ids
    )
    return {row["id"]: EntityKind(row["kind"]) for row in rows}


async def fetch_sites(conn: ReadConn | WriteConn, ids: Sequence[str]) -> dict[str, str | None]:
    """Return the sites that entities belong to, by id of the entity."""
    rows = await conn.fetch("select id, site from entities where id = any($1::text[])", ids)
    return {row["id"]: row["site"] for row in rows}


async def fetch_referring(conn: WriteConn, entity_id: str, *, when: datetime, limit: int) -> list[str]:
    """Return ``kind id`` of active entities that name this one now or later."""
    rows = await conn.fetch(
        """
        select distinct e.kind, e.id
          from entity_versions v join entities e on e.id = v.id
         where v.refers_to @> array[$1] and e.state = 'active' and (v.valid_to is null or v.valid_to > $2)
         order by 1, 2
         limit $3
        """,
        entity_id,
        when,
        limit,
    )
    return [f"{row['kind']} {row['id']}" for row in rows]


async def fetch_referring_ids(conn: ReadConn | WriteConn, entity_id: str) -> list[str]:
    """Return the ids of active entities that name this one now, or have named it."""
    rows = await conn.fetch(
        """
        select distinct e.id
          from entity_versions v join entities e on e.id = v.id
         where v.refers_to @> array[$1] and e.state = 'active'
         order by 1
        """,
        entity_id,
    )
    return [row["id"] for row in rows]


async def fetch_page(
    conn: ReadConn,
    kind: EntityKind,
    *,
    when: datetime,
    filters: Mapping[str, Any],
    sites: Sequence[str] | None,
    text: str | None,
    with_removed: bool,
    after: str | None,
    limit: int,
) -> list[tuple[Entity, int, EntityState]]:
    """Return entities of a kind as they are at ``when``, by id, with revision and state.

    Args:
        conn: A connection.
        kind: Which.
        when: For which time; an entity that has not begun is shown as it will be.
        filters: Fields of the body that must be equal.
        sites: Only entities of these sites, and those of none; None is all.
        text: Only entities whose id, name or Chinese name contains this.
        with_removed: Also those that are gone.
        after: Id behind which the page begins.
        limit: How many at most.
    """
    rows = await conn.fetch(
        """
        select e.id, e.revision, e.state, v.body
          from entities e
         cross join lateral (
               select body from entity_versions v
                where v.id = e.id
                order by v.valid_from <= $2 desc, case when v.valid_from <= $2 then v.valid_from end desc, v.valid_from
                limit 1) v
         where e.kind = $1
           and ($3::text is null or e.id > $3)
           and ($4 or e.state = 'active')
           and v.body @> $5::jsonb
           and ($6::text[] is null or e.site is null or e.site = any($6))
           and ($7::text is null or strpos(lower(concat_ws(' ', e.id, v.body->>'name', v.body->>'name_zh',
                                                           v.body->>'code', v.body->>'serial')), lower($7)) > 0)
         order by e.id
         limit $8
        """,
        kind.value,
        when,
        after,
        with_removed,
        dict(filters),
        sites,
        text,
        limit,
    )
    cls = ENTITY_TYPES[kind]
    return [(cls.model_validate(row["body"]), row["revision"], EntityState(row["state"])) for row in rows]


async def save(conn: WriteConn, changes: Sequence[Change], changed_at: datetime) -> None:
    """Write records whole, in place of what was there."""
    ids = [change.record.id for change in changes]
    await conn.execute(
        """
        insert into entities (id, kind, state, revision, site, changed_at)
        select id, kind, state, revision, site, $6
          from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::text[])
            as new (id, kind, state, revision, site)
         order by id
        on conflict (id) do update
           set state = excluded.state, revision = excluded.revision, site = excluded.site,
               changed_at = excluded.changed_at
        """,
        ids,
        [change.record.kind.value for change in changes],
        [change.record.state.value for change in changes],
        [change.record.revision for change in changes],
        [change.site for change in changes],
        changed_at,
    )
    await conn.execute("delete from entity_versions where id = any($1::text[])", ids)
    versions = [version for change in changes for version in change.record.versions]
    await conn.executemany(
        """
        insert into entity_versions (id, version, valid_from, valid_to, body, changed_by, changed_at, refers_to)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        [
            (
                version.id,
                version.version,
                version.valid_from,
                version.valid_to,
                version.model_dump(mode="json", exclude_none=True),
                version.changed_by,
                changed_at,
                sorted({entity_id for _, _, entity_id in references_of(version)}),
            )
            for version in versions
        ],
    )


async def fetch_revisions(conn: ReadConn) -> list[tuple[str, EntityKind, int]]:
    """Return id, kind and revision of every entity, to see what the topic lacks."""
    rows = await conn.fetch("select id, kind, revision from entities order by id")
    return [(row["id"], EntityKind(row["kind"]), row["revision"]) for row in rows]
