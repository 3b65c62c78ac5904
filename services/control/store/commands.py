"""SQL of commands and their history, as their life needs it; all in sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CommandId, DeviceId, LineId, LoadId, OccurrenceId, PlanId, SiteId
from services.control.domain.commands import Change, Command
from services.control.domain.faults import Fault
from services.control.domain.guards import Hold
from services.control.store.loads import lock_loads

COLUMNS = """
    command_id, action, site_id, device_id, line_id, load_id, channel, priority, state, created_at, not_before,
    next_at, not_after, restore_at, off_at_most_s, isolation_id, pair_id, occurrence_id, plan_id, wake_up_id, group_id,
    attempt, looks, sent_at, wire_not_after, unknown_since, hold, alarmed, fault, reason, actor, note
"""

INSERT = """
    insert into commands (
        command_id, action, site_id, device_id, line_id, load_id, channel, priority, state, created_at, changed_at,
        not_before, next_at, not_after, restore_at, off_at_most_s, isolation_id, pair_id, occurrence_id, plan_id,
        wake_up_id, group_id, reason, actor, note)
    select command_id, action, site_id, device_id, line_id, load_id, channel, priority, state, created_at, created_at,
           not_before, next_at, not_after, restore_at, off_at_most_s, isolation_id, pair_id, occurrence_id, plan_id,
           wake_up_id, group_id, reason, actor, note
      from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
                  $8::smallint[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
                  $13::timestamptz[], $14::timestamptz[], $15::double precision[], $16::text[], $17::text[],
                  $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[])
        as c(command_id, action, site_id, device_id, line_id, load_id, channel, priority, state, created_at,
             not_before, next_at, not_after, restore_at, off_at_most_s, isolation_id, pair_id, occurrence_id, plan_id,
             wake_up_id, group_id, reason, actor, note)
"""

CANDIDATES = """
    select load_id
      from (select load_id, priority, action, next_at from commands
             where next_at <= $1 and not is_final
             order by priority, action, next_at
             limit $2) c
     group by load_id
"""

DUE = """
    select c.*, coalesce(l.told and l.closed_at is null, false) as lease_acknowledged,
           i.isolation_id as isolating, s.wake_up_id as suspended_by, w.last_on_at, w.released_trip,
           exists (select from commands b
                    where b.device_id = c.device_id and b.command_id <> c.command_id and not b.is_final
                      and b.state in ('dispatched', 'accepted', 'verifying')
                      and (c.action = 'open' or b.action = 'close'
                           or (b.wire_not_after >= $1 and (b.restore_at is null or b.restore_at > $1)))) as busy,
           exists (select from commands b
                    where b.device_id = c.device_id and b.command_id <> c.command_id and not b.is_final
                      and (b.state = 'unknown'
                           or (b.load_id = c.load_id and b.action = 'close' and b.not_before <= $1)))
               or exists (select from wake_up_todo t where t.load_id = c.load_id) as in_doubt,
           exists (select from off_leases o join commands b using (command_id)
                    where o.load_id = c.load_id and o.closed_at is null and o.command_id <> c.command_id
                      and b.attempt > 0) as already_off,
           case when c.action = 'open' then
               (select count(*) from commands b
                 where b.load_id = c.load_id and b.action = 'open' and b.attempt > 0 and b.command_id <> c.command_id
                   and b.created_at > $1::timestamptz - interval '1 day')
           else 0 end as offs_last_day,
           case when c.action = 'open' then
               (select p.options -> 'conditions' from plans p where p.plan_id = c.plan_id)
           end as conditions
      from commands c
      left join off_leases l on l.command_id = c.command_id
      left join isolations i on i.load_id = c.load_id and i.state = 'active'
      left join lateral (select wake_up_id from suspensions where load_id = c.load_id limit 1) s on true
      left join load_switching w on w.load_id = c.load_id
     where c.load_id = any($2::text[]) and c.next_at <= $1 and not c.is_final
     order by c.priority, c.action, c.next_at
"""
"""Sorted by priority, then ``close`` before ``open``: of two commands for one device the wake-up goes first. A wake-up
does not wait for an OFF whose answer is out while nobody may execute that OFF any more: the answer may never come."""

UPDATE = """
    update commands c
       set state = n.state, changed_at = n.at, next_at = n.next_at, not_before = n.not_before, attempt = n.attempt,
           looks = n.looks, sent_at = n.sent_at, wire_not_after = n.wire_not_after, unknown_since = n.unknown_since,
           hold = n.hold, alarmed = n.alarmed, reason = n.reason, not_after = n.not_after,
           off_at_most_s = n.off_at_most_s, fault = n.fault
      from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
                  $7::integer[], $8::integer[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::text[],
                  $13::boolean[], $14::text[], $15::timestamptz[], $16::double precision[], $17::text[])
        as n(command_id, old_state, state, at, next_at, not_before, attempt, looks, sent_at, wire_not_after,
             unknown_since, hold, alarmed, reason, not_after, off_at_most_s, fault)
     where c.command_id = n.command_id and c.state = n.old_state
"""


LOOK_AHEAD = timedelta(seconds=35)
LOOK_AHEAD_IN_FLIGHT = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class DueRow:
    """A command that is due, with what the database knows of its load."""

    command: Command
    lease_acknowledged: bool
    isolation_id: str | None
    suspended_by: str | None
    last_on_at: datetime | None
    released_trip: int | None
    busy: bool
    """Another command for the device is in flight; for an OFF also: in doubt, or a wake-up that is due."""
    already_off: bool
    offs_last_day: int
    conditions: Mapping[str, Any] | None
    """Of an OFF of a plan: the plan's, as they are stored."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One step in a command's life."""

    at: datetime
    state: str
    reason: str
    hold: str | None
    attempt: int
    evidence: Mapping[str, Any]


def birth(command: Command) -> list[HistoryRow]:
    """Return the first steps of a new command's history."""
    request: dict[str, object] = {
        "actor": command.actor,
        "priority": command.priority.name.lower(),
        "not_before": command.not_before.isoformat(),
        "restore_at": None if command.restore_at is None else command.restore_at.isoformat(),
        "note": command.note,
    }
    bound: dict[str, object] = {
        "wake_up" if command.is_off else "off": command.pair_id,
        "isolation_id": command.isolation_id,
    }
    last = CommandState.APPROVAL if command.state is CommandState.APPROVAL else CommandState.SCHEDULED
    steps: list[tuple[CommandState, dict[str, object]]] = [
        (CommandState.RECEIVED, request),
        (CommandState.VALIDATED, {"device_id": command.device_id}),
        (last, bound),
    ]
    return [
        HistoryRow(at=command.created_at, state=state.value, reason=command.reason, hold=None, attempt=0,
                   evidence={key: value for key, value in evidence.items() if value is not None})
        for state, evidence in steps
    ]  # fmt: skip


async def insert(conn: WriteConn, commands: Sequence[Command]) -> None:
    """Insert new commands."""
    if not commands:
        return
    await conn.execute(
        INSERT,
        [c.command_id for c in commands],
        [c.action.value for c in commands],
        [c.site_id for c in commands],
        [c.device_id for c in commands],
        [c.line_id for c in commands],
        [c.load_id for c in commands],
        [c.channel for c in commands],
        [int(c.priority) for c in commands],
        [c.state.value for c in commands],
        [c.created_at for c in commands],
        [c.not_before for c in commands],
        [c.next_at for c in commands],
        [c.not_after for c in commands],
        [c.restore_at for c in commands],
        [c.off_at_most_s for c in commands],
        [c.isolation_id for c in commands],
        [c.pair_id for c in commands],
        [c.occurrence_id for c in commands],
        [c.plan_id for c in commands],
        [c.wake_up_id for c in commands],
        [c.group_id for c in commands],
        [c.reason for c in commands],
        [c.actor for c in commands],
        [c.note for c in commands],
    )


async def insert_history(conn: WriteConn, rows: Sequence[tuple[CommandId, HistoryRow]]) -> None:
    """Append steps; in the order given."""
    if not rows:
        return
    await conn.execute(
        """
        insert into command_history (command_id, at, state, reason, hold, attempt, evidence)
        select command_id, at, state, reason, hold, attempt, evidence
          from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::jsonb[])
               with ordinality as h(command_id, at, state, reason, hold, attempt, evidence, place)
         order by place
        """,
        [command_id for command_id, _ in rows],
        [row.at for _, row in rows],
        [row.state for _, row in rows],
        [row.reason for _, row in rows],
        [row.hold for _, row in rows],
        [row.attempt for _, row in rows],
        [row.evidence for _, row in rows],
    )


async def loads_of(conn: ReadConn | WriteConn, command_ids: Iterable[str]) -> dict[str, str]:
    """Return the load of each command that is known."""
    rows = await conn.fetch(
        "select command_id, load_id from commands where command_id = any($1::text[])", sorted(set(command_ids))
    )
    return {row["command_id"]: row["load_id"] for row in rows}


async def due(conn: WriteConn, now: datetime, limit: int) -> list[DueRow]:
    """Lock the loads of about ``limit`` commands whose ``next_at`` has come and return these commands, urgent first."""
    candidates = [row["load_id"] for row in await conn.fetch(CANDIDATES, now, limit)]
    locked = await lock_loads(conn, candidates, skip_locked=True)
    if not locked:
        return []
    return [
        DueRow(
            command=command_of(row),
            lease_acknowledged=row["lease_acknowledged"],
            isolation_id=row["isolating"],
            suspended_by=row["suspended_by"],
            last_on_at=row["last_on_at"],
            released_trip=row["released_trip"],
            busy=row["busy"] or (row["action"] == "open" and row["in_doubt"]),
            already_off=row["already_off"],
            offs_last_day=row["offs_last_day"],
            conditions=row["conditions"],
        )
        for row in await conn.fetch(DUE, now, locked)
    ]


async def fetch_many(conn: ReadConn | WriteConn, command_ids: Iterable[str]) -> dict[CommandId, Command]:
    """Return commands by their ids."""
    ids = sorted(set(command_ids))
    if not ids:
        return {}
    rows = await conn.fetch(f"select {COLUMNS} from commands where command_id = any($1::text[])", ids)  # noqa: S608
    return {row["command_id"]: command_of(row) for row in rows}


async def fetch_running(
    conn: ReadConn | WriteConn, load_ids: Iterable[str], action: CommandAction | None = None
) -> list[Command]:
    """Return every command of these loads that is not final, the oldest first."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from commands
         where load_id = any($1::text[]) and not is_final and ($2::text is null or action = $2)
         order by created_at, command_id
        """,  # noqa: S608
        sorted(set(load_ids)),
        None if action is None else action.value,
    )
    return [command_of(row) for row in rows]


async def update(conn: WriteConn, changes: Sequence[Change]) -> None:
    """Write changes of commands whose loads are locked; of one command several, each going on from the one before.

    Raises:
        RuntimeError: A command was not in the state that the change starts from; its load was not locked.
    """
    if not changes:
        return
    first = {change.after.command_id: change.before for change in reversed(changes)}
    last = {change.after.command_id: change for change in changes}
    after = [change.after for change in last.values()]
    tag = await conn.execute(
        UPDATE,
        [c.command_id for c in after],
        [first[c.command_id].state.value for c in after],
        [c.state.value for c in after],
        [change.at for change in last.values()],
        [c.next_at for c in after],
        [c.not_before for c in after],
        [c.attempt for c in after],
        [c.looks for c in after],
        [c.sent_at for c in after],
        [c.wire_not_after for c in after],
        [c.unknown_since for c in after],
        [None if c.hold is None else c.hold.value for c in after],
        [c.alarmed for c in after],
        [c.reason for c in after],
        [c.not_after for c in after],
        [c.off_at_most_s for c in after],
        [None if c.fault is None else c.fault.value for c in after],
    )
    if tag != f"UPDATE {len(last)}":
        raise RuntimeError(f"{tag}: expected {len(last)} commands in their old state")
    await insert_history(
        conn,
        [
            (
                change.after.command_id,
                HistoryRow(
                    at=change.at,
                    state=change.after.state.value,
                    reason="late_answer" if change.is_late else change.after.reason,
                    hold=None if change.after.hold is None else change.after.hold.value,
                    attempt=change.after.attempt,
                    evidence=change.evidence,
                ),
            )
            for change in changes
            if change.is_transition or change.is_late
        ],
    )


async def newly_overdue(conn: WriteConn, before: datetime, limit: int) -> list[Command]:
    """Lock the loads of, and return, wake-ups wanted before that time that are neither verified nor alarmed."""
    candidates = await conn.fetch(
        """
        select distinct load_id from (
            select load_id from commands
             where action = 'close' and not is_final and not_before < $1 and not alarmed
             order by not_before
             limit $2) c
        """,
        before,
        limit,
    )
    if not candidates:
        return []
    locked = await lock_loads(conn, [row["load_id"] for row in candidates], skip_locked=True)
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from commands
         where load_id = any($2::text[]) and action = 'close' and not is_final and not_before < $1 and not alarmed
        """,  # noqa: S608
        before,
        locked,
    )
    return [command_of(row) for row in rows]


async def count_overdue(conn: ReadConn, before: datetime) -> int:
    """Return how many wake-ups that were wanted before that time are not verified."""
    count: int = await conn.fetchval(
        """
        select (select count(*) from commands where action = 'close' and not is_final and not_before < $1)
             + (select count(*) from wake_up_todo where ordered_at < $1)
        """,
        before,
    )
    return count


async def stuck_wake_ups(conn: ReadConn, unanswered_since: datetime, limit: int) -> list[Command]:
    """Return wake-ups that the bus has not carried through: a second attempt, or an emergency without an answer.

    Args:
        conn: Any connection.
        unanswered_since: Emergencies that were sent before that time and not answered are stuck.
        limit: So many at most.
    """
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from commands
         where action = 'close' and not is_final and hold is null and attempt > 0
           and (attempt > 1 or (priority = 1 and state = 'dispatched' and sent_at < $1::timestamptz))
         order by priority, not_before
         limit $2
        """,  # noqa: S608
        unanswered_since,
        limit,
    )
    return [command_of(row) for row in rows]


async def looked_for(conn: ReadConn, now: datetime, by_name: int) -> list[str]:
    """Return the loads whose breakers' state is worth knowing now, some twice; more than ``by_name`` are not all.

    It is for commands that are due within ``LOOK_AHEAD``, to the guards of an OFF above all. An ON is sent whatever
    the breaker reads unless something is known to stop it, and of an ON in flight the line itself tells; only when its
    answer is nearly out is it worth asking for it, and of thousands that are in line only for the first.
    """
    rows = await conn.fetch(
        """
        with needed as (
            select load_id from commands
             where next_at <= $1 and not is_final and state <> 'approval'
               and (action = 'open' or hold is not null
                    or sent_at is not null and state not in ('dispatched', 'accepted', 'verifying'))
             limit $3 + 1)
        select load_id from needed
        union all
        (select load_id from commands
          where next_at <= $2 and not is_final and action = 'close' and hold is null and sent_at is not null
            and state in ('dispatched', 'accepted', 'verifying')
          order by next_at
          limit (select greatest($3 - count(*), 0) from needed))
        """,
        now + LOOK_AHEAD,
        now + LOOK_AHEAD_IN_FLIGHT,
        by_name,
    )
    return [row["load_id"] for row in rows]


async def recover(conn: WriteConn, now: datetime) -> dict[str, int]:
    """Make sure that every command in flight will be looked at, and tell the watchdog everything again.

    What is in doubt is read back at once. What is in flight keeps the time until which its line's holder may be at it,
    whoever has died: to ask again before would be to send again too early. What was sent is looked at within minutes;
    a later time was written under a clock that has been put back since.

    Returns:
        Number of commands by state that are not final.
    """
    await conn.execute(
        """
        update commands set next_at = $1
         where not is_final and state <> 'approval'
           and (next_at is null or state = 'unknown'
                or (attempt > 0 and next_at > $1::timestamptz + interval '5 minutes'))
        """,
        now,
    )
    await conn.execute("update off_leases set told = false where closed_at is null")
    rows = await conn.fetch("select state, count(*) as number from commands where not is_final group by state")
    return {row["state"]: row["number"] for row in rows}


async def follow_clock(conn: WriteConn, old: datetime, new: datetime) -> None:
    """Bring the times of what is to be looked at soon from a reckoning that is given up to the one that holds now.

    Everything that was due under the old one has been done once; what waits for another look, or was ordered since,
    would else wait for as long as the clock was put back. What is far in the future was planned by the wall clock.
    """
    if new >= old:
        return
    await conn.execute(
        """
        update commands
           set next_at = case when action = 'close' then $2 else greatest(not_before, $2) end,
               not_before = case when action = 'close' then least(not_before, $2) else not_before end
         where not is_final and state <> 'approval'
           and next_at > $2 and next_at <= $1::timestamptz + interval '5 minutes'
        """,
        old,
        new,
    )


async def insert_group(
    conn: WriteConn, group_id: str, action: str, actor: str, at: datetime, refused: Sequence[Mapping[str, Any]]
) -> None:
    """Insert a group with the loads that were refused."""
    await conn.execute(
        "insert into command_groups (group_id, action, actor, created_at, refused) values ($1, $2, $3, $4, $5)",
        group_id,
        action,
        actor,
        at,
        list(refused),
    )


def command_of(row: Mapping[str, Any]) -> Command:
    """Return the command of a row that has ``COLUMNS``."""
    return Command(
        command_id=CommandId(row["command_id"]),
        action=CommandAction(row["action"]),
        site_id=SiteId(row["site_id"]),
        device_id=DeviceId(row["device_id"]),
        line_id=LineId(row["line_id"]),
        load_id=LoadId(row["load_id"]),
        channel=row["channel"],
        priority=Priority(row["priority"]),
        state=CommandState(row["state"]),
        created_at=row["created_at"],
        not_before=row["not_before"],
        next_at=row["next_at"],
        not_after=row["not_after"],
        restore_at=row["restore_at"],
        off_at_most_s=row["off_at_most_s"],
        isolation_id=row["isolation_id"],
        pair_id=row["pair_id"],
        occurrence_id=None if row["occurrence_id"] is None else OccurrenceId(row["occurrence_id"]),
        plan_id=None if row["plan_id"] is None else PlanId(row["plan_id"]),
        wake_up_id=row["wake_up_id"],
        group_id=row["group_id"],
        attempt=row["attempt"],
        looks=row["looks"],
        sent_at=row["sent_at"],
        wire_not_after=row["wire_not_after"],
        unknown_since=row["unknown_since"],
        hold=None if row["hold"] is None else Hold(row["hold"]),
        alarmed=row["alarmed"],
        fault=None if row["fault"] is None else Fault(row["fault"]),
        reason=row["reason"],
        actor=row["actor"],
        note=row["note"],
    )
