"""SQL of wake-up orders that are being carried out: which loads have no command yet, and the commands that are sent.

A row of ``wake_up_todo`` goes in with its order and goes out in the transaction that makes its command, under the lock
of its load. So whoever dies between the two leaves it to the next one, and two that work beside each other make one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import WriteConn
from libs.common.ids import DeviceId, LineId, LoadId, SiteId
from services.control.domain.commands import Change
from services.control.domain.loads import LoadInfo
from services.control.store.loads import lock_loads

TAKE = """
    with taken as (
        delete from wake_up_todo where id = any($1::bigint[]) and load_id = any($2::text[]) returning *)
    select t.wake_up_id, t.load_id, t.site_id, t.device_id, t.line_id, t.channel, t.ordered_at,
           o.actor, o.reason as note, i.isolation_id, w.released_trip,
           exists (select from commands b
                    where b.device_id = t.device_id and not b.is_final
                      and b.state in ('dispatched', 'accepted', 'verifying')
                      and (b.action = 'close'
                           or (b.wire_not_after >= $3 and (b.restore_at is null or b.restore_at > $3)))) as busy
      from taken t
      join wake_ups o using (wake_up_id)
      left join isolations i on i.load_id = t.load_id and i.state = 'active'
      left join load_switching w on w.load_id = t.load_id
     order by t.id
"""
"""What an ON is decided by, as ``store.commands.DUE`` has it for one that is stored."""

INSERT_SENT = """
    with made as (
        insert into commands (
            command_id, action, site_id, device_id, line_id, load_id, channel, priority, state, created_at, changed_at,
            not_before, next_at, wake_up_id, attempt, sent_at, wire_not_after, reason, actor, note)
        select command_id, 'close', site_id, device_id, line_id, load_id, channel, $7::smallint, 'dispatched',
               $8::timestamptz, $9::timestamptz, $8, $10::timestamptz, $11::text, 1, $9, $12::timestamptz, '',
               $13::text, $14::text
          from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[])
            as c(command_id, site_id, device_id, line_id, load_id, channel)
        returning command_id)
    insert into command_history (command_id, at, state, reason, attempt, evidence)
    select command_id, $9, 'dispatched', '', 1, $15::jsonb from made order by command_id
"""


@dataclass(frozen=True, slots=True)
class ToWake:
    """A load of an order that has no command yet, and what the database knows of it."""

    wake_up_id: str
    load_id: LoadId
    site_id: SiteId
    device_id: DeviceId
    line_id: LineId
    channel: int | None
    ordered_at: datetime
    actor: str
    note: str
    isolation_id: str | None
    """In force on the load."""
    released_trip: int | None
    busy: bool
    """Another command for the device is in flight."""


async def insert_todo(conn: WriteConn, wake_up_id: str, loads: Sequence[LoadInfo], at: datetime) -> None:
    """Note which loads of an order need a command; they are locked, and each has a breaker that can be reached."""
    await conn.execute(
        """
        insert into wake_up_todo (wake_up_id, load_id, site_id, device_id, line_id, channel, ordered_at)
        select $1::text, load_id, site_id, device_id, line_id, channel, $2::timestamptz
          from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::integer[]) with ordinality
            as t(load_id, site_id, device_id, line_id, channel, place)
         order by place
        """,
        wake_up_id,
        at,
        [load.load_id for load in loads],
        [load.site_id for load in loads],
        [load.device_id for load in loads],
        [load.line_id for load in loads],
        [load.channel for load in loads],
    )


async def take_todo(conn: WriteConn, now: datetime, limit: int) -> list[ToWake]:
    """Lock and take about ``limit`` loads that have no command yet, of the oldest order first.

    They are not to be done any more once the transaction is committed. What somebody else is taking is left, and a load
    that somebody else has locked.
    """
    first = await conn.fetch("select id, load_id from wake_up_todo order by id limit $1 for update skip locked", limit)
    if not first:
        return []
    locked = await lock_loads(conn, [row["load_id"] for row in first], skip_locked=True)
    # Only now is it certain that nobody else has made the command meanwhile.
    rows = await conn.fetch(TAKE, [row["id"] for row in first], locked, now)
    return [ToWake(**dict(row)) for row in rows]


async def insert_sent(conn: WriteConn, changes: Sequence[Change]) -> None:
    """Insert ONs of one order that were sent as soon as they were made.

    Their history begins with the sending: what was before it is in the command (``lookup.fetch_history``).

    Args:
        conn: The transaction; the loads are locked.
        changes: From a new command to its first sending, all decided at one time and by the same limits.
    """
    first = changes[0].after
    commands = [change.after for change in changes]
    await conn.execute(
        INSERT_SENT,
        [c.command_id for c in commands],
        [c.site_id for c in commands],
        [c.device_id for c in commands],
        [c.line_id for c in commands],
        [c.load_id for c in commands],
        [c.channel for c in commands],
        int(first.priority),
        first.created_at,
        first.sent_at,
        first.next_at,
        first.wake_up_id,
        first.wire_not_after,
        first.actor,
        first.note,
        changes[0].evidence,
    )
