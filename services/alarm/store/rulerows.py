"""SQL of the rows of device events and energy rules that people made."""

from datetime import datetime

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.energy import EnergyScope
from services.alarm.rulerows import Kept, Place, R, Table


async def fetch_rows(conn: ReadConn | WriteConn, table: Table[R]) -> dict[Place, Kept[R] | None]:
    """Return what people made of a table; None where they removed a row."""
    rows = await conn.fetch(
        "select rule_id, scope, scope_id, version, definition, changed_by from rule_rows where kind = $1", table.kind
    )
    found: dict[Place, Kept[R] | None] = {}
    for row in rows:
        place = Place(row["rule_id"], EnergyScope(row["scope"]), row["scope_id"])
        definition = row["definition"]
        found[place] = (
            None if definition is None else Kept(place, table.parse(definition), row["version"], row["changed_by"])
        )
    return found


async def put_row(
    conn: WriteConn,
    kind: str,
    place: Place,
    definition: JsonObject | None,
    *,
    version: int,
    changed_by: str,
    changed_at: datetime,
    reason: str | None,
) -> None:
    """Write a row, or None that it is removed, and the version into the history."""
    values = [kind, place.rule_id, place.scope.value, place.scope_id, version, definition, changed_by, changed_at]
    await conn.execute(
        """
        insert into rule_rows (kind, rule_id, scope, scope_id, version, definition, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            on conflict (kind, rule_id, scope, scope_id) do update set
               version = excluded.version, definition = excluded.definition, changed_by = excluded.changed_by,
               changed_at = excluded.changed_at, reason = excluded.reason
        """,
        *values,
        reason,
    )
    await conn.execute(
        """
        insert into rule_row_versions (kind, rule_id, scope, scope_id, version, definition, changed_by, changed_at,
                                       reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        *values,
        reason,
    )
