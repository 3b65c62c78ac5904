"""SQL of endpoints: who is called, and how each is doing."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.callbacks import Choice, Endpoint, EndpointState, Health, NewsType

Conn = ReadConn | WriteConn

_ENDPOINT = """
    select id, name, owner, limits, url, types, sites, actors, points, kinds, concurrency, timeout_s, state,
           state_reason, failures, failing_since, not_before, error, secrets, created_at, updated_at
      from callback_endpoints
"""


async def fetch_listening(conn: Conn) -> list[Endpoint]:
    """Return the endpoints that news are queued for: also those that a person has paused."""
    rows = await conn.fetch(_ENDPOINT + " where removed_at is null and state in ('active', 'paused') order by id")
    return [_endpoint(row) for row in rows]


async def fetch_active(conn: Conn) -> list[Endpoint]:
    """Return the endpoints that are called."""
    rows = await conn.fetch(_ENDPOINT + " where removed_at is null and state = 'active' order by id")
    return [_endpoint(row) for row in rows]


async def fetch_all(conn: Conn, owner: str | None) -> list[Endpoint]:
    """Return all endpoints, or those of one owner."""
    rows = await conn.fetch(
        _ENDPOINT + " where removed_at is null and ($1::text is null or owner = $1) order by created_at, id", owner
    )
    return [_endpoint(row) for row in rows]


async def fetch(conn: Conn, endpoint_id: str) -> Endpoint | None:
    """Return one endpoint."""
    row = await conn.fetchrow(_ENDPOINT + " where id = $1 and removed_at is null", endpoint_id)
    return None if row is None else _endpoint(row)


async def lock(conn: WriteConn, endpoint_id: str) -> Endpoint | None:
    """Return one endpoint, and hold its row until the transaction ends."""
    row = await conn.fetchrow(_ENDPOINT + " where id = $1 and removed_at is null for no key update", endpoint_id)
    return None if row is None else _endpoint(row)


async def lock_many(conn: WriteConn, ids: Collection[str]) -> list[tuple[Endpoint, bool]]:
    """Return endpoints, each with whether alarm was told that it fails; holds their rows until the transaction ends."""
    rows = await conn.fetch(
        _ENDPOINT.replace("updated_at", "updated_at, finding")
        + " where id = any($1::text[]) and removed_at is null order by id for no key update",
        list(ids),
    )
    return [(_endpoint(row), row["finding"]) for row in rows]


async def count(conn: Conn) -> int:
    """Return how many there are."""
    return int(await conn.fetchval("select count(*) from callback_endpoints where removed_at is null"))


async def put(conn: WriteConn, endpoint: Endpoint) -> None:
    """Create an endpoint, or write what people set of it; how it is doing stays."""
    await conn.execute(
        """
        insert into callback_endpoints (id, name, owner, limits, url, types, sites, actors, concurrency, timeout_s,
                                        state, secrets, created_at, updated_at, points, kinds)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        on conflict (id) do update
           set name = excluded.name, owner = excluded.owner, limits = excluded.limits, url = excluded.url,
               types = excluded.types, sites = excluded.sites, actors = excluded.actors,
               points = excluded.points, kinds = excluded.kinds,
               concurrency = excluded.concurrency, timeout_s = excluded.timeout_s, secrets = excluded.secrets,
               updated_at = excluded.updated_at
        """,
        endpoint.id,
        endpoint.name,
        endpoint.owner,
        _listed(endpoint.limits),
        endpoint.url,
        sorted(endpoint.choice.types),
        _listed(endpoint.choice.sites),
        _listed(endpoint.choice.actors),
        endpoint.concurrency,
        endpoint.timeout_s,
        endpoint.state,
        endpoint.secrets,
        endpoint.created_at,
        endpoint.updated_at,
        _listed(endpoint.choice.points),
        _listed(endpoint.choice.kinds),
    )


async def remove(conn: WriteConn, endpoint_id: str, now: datetime) -> None:
    """Take an endpoint out of use; its rows go little by little."""
    await conn.execute("update callback_endpoints set removed_at = $2 where id = $1", endpoint_id, now)


async def disable_of(conn: WriteConn, owner: str, reason: str) -> list[str]:
    """Disable the endpoints of an owner; return the ids of those that were not."""
    rows = await conn.fetch(
        """
        update callback_endpoints set state = 'disabled', state_reason = $2
         where owner = $1 and removed_at is null and state <> 'disabled'
        returning id
        """,
        owner,
        reason,
    )
    return sorted(row["id"] for row in rows)


async def limit_of(conn: WriteConn, owner: str, limits: tuple[str, ...] | None, at: datetime) -> list[str]:
    """Set what the owner of endpoints may see, unless they were changed since; return the ids of those that differed.

    Args:
        conn: The transaction.
        owner: Such as ``user:li``.
        limits: What it may see of the site tree; None is all.
        at: Since when; news of owners may come in another order than they happened.
    """
    rows = await conn.fetch(
        """
        update callback_endpoints set limits = $2, updated_at = $3
         where owner = $1 and removed_at is null and updated_at < $3 and limits is distinct from $2
        returning id
        """,
        owner,
        _listed(limits),
        at,
    )
    return sorted(row["id"] for row in rows)


async def save_health(conn: WriteConn, health: Mapping[str, tuple[Health, bool]]) -> None:
    """Write how endpoints are doing, and whether alarm was told that they fail; their rows are held."""
    items = sorted(health.items())
    await conn.execute(
        """
        update callback_endpoints e
           set state = h.state, state_reason = h.state_reason, failures = h.failures, failing_since = h.failing_since,
               not_before = h.not_before, error = h.error, finding = h.finding
          from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::timestamptz[],
                      $7::text[], $8::boolean[])
            as h(id, state, state_reason, failures, failing_since, not_before, error, finding)
         where e.id = h.id
        """,
        [endpoint_id for endpoint_id, _ in items],
        [each.state.value for _, (each, _) in items],
        [each.state_reason for _, (each, _) in items],
        [each.failures for _, (each, _) in items],
        [each.failing_since for _, (each, _) in items],
        [each.not_before for _, (each, _) in items],
        [each.error for _, (each, _) in items],
        [finding for _, (_, finding) in items],
    )


async def count_by_state(conn: Conn) -> dict[EndpointState, int]:
    """Return how many endpoints are in each state."""
    rows = await conn.fetch(
        "select state, count(*) as n from callback_endpoints where removed_at is null group by state"
    )
    found = {EndpointState(row["state"]): int(row["n"]) for row in rows}
    return {state: found.get(state, 0) for state in EndpointState}


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _endpoint(row: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        limits=_tuple(row["limits"]),
        url=row["url"],
        choice=Choice(
            types=frozenset(NewsType(each) for each in row["types"]),
            sites=_tuple(row["sites"]),
            actors=_tuple(row["actors"]),
            points=_tuple(row["points"]),
            kinds=_tuple(row["kinds"]),
        ),
        concurrency=row["concurrency"],
        timeout_s=row["timeout_s"],
        state=EndpointState(row["state"]),
        state_reason=row["state_reason"],
        failures=row["failures"],
        failing_since=row["failing_since"],
        not_before=row["not_before"],
        error=row["error"],
        secrets=row["secrets"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
