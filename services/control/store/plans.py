"""SQL of plans, calendars and occurrences."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from typing import Any

from libs.common.contracts.control import OccurrenceState
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import LoadId, OccurrenceId, PlanId
from services.control.domain.calendars import Calendar, DayClass
from services.control.domain.plans import (
    Plan,
    PlanOptions,
    PlanState,
    Schedule,
    Window,
    WindowInstance,
    ends_at,
    starts_at,
)
from services.control.domain.targets import Groups

COLUMNS = """
    plan_id, name, state, load_ids, first_date, last_date, windows, zone, weekdays, exceptions, calendar_ids, note,
    day_class, working_calendar, named, options, created_by, created_at, approved_by, approved_at, ended_by, ended_at,
    end_reason, made_until
"""
OCCURRENCE_COLUMNS = """
    occurrence_id, plan_id, load_id, start_local, off_at, on_at, state, reason, off_command_id, on_command_id,
    went_off_at, came_on_at, changed_at
"""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One shutdown of one load by a plan."""

    occurrence_id: OccurrenceId
    plan_id: PlanId
    load_id: LoadId
    start_local: datetime
    """Wall time in the plan's zone, without offset."""
    off_at: datetime
    on_at: datetime
    state: OccurrenceState
    reason: str
    off_command_id: str | None
    on_command_id: str | None
    went_off_at: datetime | None
    came_on_at: datetime | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan and how far its occurrences have been made."""

    plan: Plan
    made_until: datetime | None


async def insert(conn: WriteConn, plan: Plan) -> None:
    """Insert a new plan."""
    schedule = plan.schedule
    await conn.execute(
        """
        insert into plans (plan_id, name, state, load_ids, first_date, last_date, windows, zone, weekdays, exceptions,
                           calendar_ids, note, created_by, created_at, starts_at, ends_at, day_class, working_calendar,
                           named, rank, options)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
        """,
        plan.plan_id,
        plan.name,
        plan.state.value,
        list(plan.load_ids),
        schedule.first_date,
        schedule.last_date,
        [{"start": window.start.isoformat(), "end": window.end.isoformat()} for window in schedule.windows],
        schedule.zone,
        sorted(schedule.weekdays),
        sorted(schedule.exceptions),
        list(plan.calendar_ids),
        plan.note,
        plan.created_by,
        plan.created_at,
        starts_at(schedule),
        ends_at(schedule),
        schedule.day_class.value,
        schedule.working_calendar,
        list(plan.named),
        plan.rank,
        _options_json(plan.options),
    )


async def lock(conn: WriteConn, plan_id: str) -> Plan | None:
    """Lock and return a plan."""
    row = await conn.fetchrow(f"select {COLUMNS} from plans where plan_id = $1 for update", plan_id)  # noqa: S608
    return None if row is None else _plan(row)


async def update_state(conn: WriteConn, plan: Plan) -> None:
    """Write a locked plan's state, who brought it there, and the loads that it has then."""
    await conn.execute(
        """
        update plans
           set state = $2, approved_by = $3, approved_at = $4, ended_by = $5, ended_at = $6, end_reason = $7,
               load_ids = $8
         where plan_id = $1
        """,
        plan.plan_id,
        plan.state.value,
        plan.approved_by,
        plan.approved_at,
        plan.ended_by,
        plan.ended_at,
        plan.end_reason,
        list(plan.load_ids),
    )


async def advance_states(conn: WriteConn, now: datetime) -> dict[PlanId, PlanState]:
    """Make plans active whose first date has come, and end those whose last window is over; return what changed."""
    rows = await conn.fetch(
        """
        update plans
           set state = case when ends_at <= $1 then 'ended' else 'active' end,
               ended_at = case when ends_at <= $1 then $1 end,
               end_reason = case when ends_at <= $1 then 'finished' end
         where (state = 'approved' and starts_at <= $1) or (state = 'active' and ends_at <= $1)
        returning plan_id, state
        """,
        now,
    )
    return {PlanId(row["plan_id"]): PlanState(row["state"]) for row in rows}


async def lock_to_make(conn: WriteConn, until: datetime, limit: int) -> list[StoredPlan]:
    """Lock and return running plans whose occurrences have not been made up to that time."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from plans
         where state in ('approved', 'active') and (made_until is null or made_until < least($1, ends_at))
         order by made_until nulls first
         limit $2
           for update skip locked
        """,  # noqa: S608
        until,
        limit,
    )
    return [StoredPlan(_plan(row), row["made_until"]) for row in rows]


async def insert_occurrences(
    conn: WriteConn, plan: Plan, instances: Sequence[WindowInstance], made_until: datetime, at: datetime
) -> int:
    """Make occurrences of every load of the plan; those that are there already stay. Returns how many are new."""
    tag = await conn.execute(
        """
        insert into occurrences (plan_id, load_id, start_local, off_at, on_at, changed_at)
        select $1, load_id, start_local, off_at, on_at, $6
          from unnest($3::timestamp[], $4::timestamptz[], $5::timestamptz[]) as w(start_local, off_at, on_at)
         cross join unnest($2::text[]) as load_id
        on conflict on constraint occurrences_once do nothing
        """,
        plan.plan_id,
        list(plan.load_ids),
        [instance.start_local for instance in instances],
        [instance.off_at for instance in instances],
        [instance.on_at for instance in instances],
        at,
    )
    await conn.execute("update plans set made_until = $2 where plan_id = $1", plan.plan_id, made_until)
    return int(tag.split()[-1])


async def lock_due_occurrences(conn: WriteConn, until: datetime, limit: int) -> list[Occurrence]:
    """Lock and return planned occurrences that begin before that time and have no commands yet."""
    rows = await conn.fetch(
        f"""
        select {OCCURRENCE_COLUMNS} from occurrences
         where state = 'planned' and off_command_id is null and off_at <= $1
         order by off_at
         limit $2
           for update skip locked
        """,  # noqa: S608
        until,
        limit,
    )
    return [_occurrence(row) for row in rows]


async def set_commands(conn: WriteConn, rows: Sequence[tuple[OccurrenceId, str, str]], at: datetime) -> None:
    """Note the OFF and the ON of occurrences."""
    await conn.execute(
        """
        update occurrences o
           set off_command_id = c.off_id, on_command_id = c.on_id, changed_at = $4
          from unnest($1::text[], $2::text[], $3::text[]) as c(occurrence_id, off_id, on_id)
         where o.occurrence_id = c.occurrence_id
        """,
        [occurrence_id for occurrence_id, _, _ in rows],
        [off_id for _, off_id, _ in rows],
        [on_id for _, _, on_id in rows],
        at,
    )


FINAL = ("awake", "skipped", "called_off")


async def set_states(
    conn: WriteConn, rows: Sequence[tuple[str, OccurrenceState, str, datetime | None, datetime | None]], at: datetime
) -> list[Occurrence]:
    """Move occurrences on; one that has ended stays as it is.

    Args:
        conn: Where.
        rows: Occurrence, new state, reason, when it went off, when it came on (None leaves these two).
        at: The time.

    Returns:
        Those that changed.
    """
    if not rows:
        return []
    found = await conn.fetch(
        f"""
        update occurrences o
           set state = n.state, reason = n.reason, went_off_at = coalesce(n.went_off_at, o.went_off_at),
               came_on_at = coalesce(n.came_on_at, o.came_on_at), changed_at = $6
          from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
            as n(id, state, reason, went_off_at, came_on_at)
         where o.occurrence_id = n.id and o.state <> n.state and o.state <> all($7::text[])
        returning {_qualified(OCCURRENCE_COLUMNS, "o")}
        """,  # noqa: S608
        [row[0] for row in rows],
        [row[1].value for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
        at,
        list(FINAL),
    )
    return [_occurrence(row) for row in found]


async def call_off(conn: WriteConn, at: datetime, reason: str, *, plan_id: str) -> list[Occurrence]:
    """End all occurrences of a plan that have no commands yet; return them."""
    rows = await conn.fetch(
        f"""
        update occurrences set state = 'called_off', reason = $2, changed_at = $3
         where plan_id = $1 and state = 'planned' and off_command_id is null
        returning {OCCURRENCE_COLUMNS}
        """,  # noqa: S608
        plan_id,
        reason,
        at,
    )
    return [_occurrence(row) for row in rows]


async def fetch(conn: ReadConn, plan_id: str) -> Plan | None:
    """Return one plan."""
    row = await conn.fetchrow(f"select {COLUMNS} from plans where plan_id = $1", plan_id)  # noqa: S608
    return None if row is None else _plan(row)


async def fetch_sharing(
    conn: ReadConn | WriteConn, plan_id: str, load_ids: Sequence[str], first: datetime, last: datetime
) -> list[Plan]:
    """Return other plans in force over some of the loads, between two instants."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from plans
         where plan_id <> $1 and state in ('approved', 'active') and starts_at < $4 and ends_at > $3
           and load_ids && $2::text[]
         order by plan_id
        """,  # noqa: S608
        plan_id,
        list(load_ids),
        first,
        last,
    )
    return [_plan(row) for row in rows]


async def fetch_outranked(conn: WriteConn, occurrence_ids: Sequence[str]) -> set[str]:
    """Return those of the occurrences that touch one of a plan that counts before theirs (``domain/overlap.py``)."""
    rows = await conn.fetch(
        """
        select o.occurrence_id
          from occurrences o
          join plans p on p.plan_id = o.plan_id
         where o.occurrence_id = any($1::text[])
           and exists (
               select from plans q
                 join occurrences s on s.plan_id = q.plan_id and s.load_id = o.load_id
                where q.state in ('approved', 'active') and q.plan_id <> p.plan_id
                  and (q.rank, q.approved_at, q.plan_id) < (p.rank, p.approved_at, p.plan_id)
                  and s.off_at < o.on_at and s.on_at > o.off_at and s.state <> 'called_off'
                  and s.start_local between o.start_local - interval '3 days' and o.start_local + interval '3 days'
           )
        """,
        list(occurrence_ids),
    )
    return {row["occurrence_id"] for row in rows}


async def fetch_page(
    conn: ReadConn, *, state: str | None, before: tuple[datetime, str] | None, limit: int
) -> list[Plan]:
    """Return plans, the youngest first."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from plans
         where ($1::text is null or state = $1)
           and ($2::timestamptz is null or (created_at, plan_id) < ($2, $3))
         order by created_at desc, plan_id desc
         limit $4
        """,  # noqa: S608
        state,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_plan(row) for row in rows]


async def fetch_occurrence(conn: ReadConn, occurrence_id: str) -> Occurrence | None:
    """Return one occurrence."""
    row = await conn.fetchrow(
        f"select {OCCURRENCE_COLUMNS} from occurrences where occurrence_id = $1",  # noqa: S608
        occurrence_id,
    )
    return None if row is None else _occurrence(row)


async def fetch_occurrences(
    conn: ReadConn,
    *,
    plan_id: str | None,
    load_ids: Sequence[str] | None,
    state: str | None,
    start: datetime | None,
    end: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Occurrence]:
    """Return occurrences in the order of their OFF, of the half-open time [start, end), of some loads or of all."""
    rows = await conn.fetch(
        f"""
        select {OCCURRENCE_COLUMNS} from occurrences
         where ($1::text is null or plan_id = $1) and ($2::text[] is null or load_id = any($2))
           and ($3::text is null or state = $3)
           and ($4::timestamptz is null or off_at >= $4) and ($5::timestamptz is null or off_at < $5)
           and ($6::timestamptz is null or (off_at, occurrence_id) > ($6, $7))
         order by off_at, occurrence_id
         limit $8
        """,  # noqa: S608
        plan_id,
        None if load_ids is None else list(load_ids),
        state,
        start,
        end,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [_occurrence(row) for row in rows]


# Calendars.


async def put_calendar(conn: WriteConn, calendar: Calendar) -> None:
    """Insert or replace a calendar."""
    await conn.execute(
        """
        insert into calendars (calendar_id, name, source, changed_by, changed_at) values ($1, $2, $3, $4, $5)
        on conflict (calendar_id) do update
           set name = excluded.name, source = excluded.source, changed_by = excluded.changed_by,
               changed_at = excluded.changed_at
        """,
        calendar.calendar_id,
        calendar.name,
        calendar.source,
        calendar.changed_by,
        calendar.changed_at,
    )
    await conn.execute("delete from calendar_days where calendar_id = $1", calendar.calendar_id)
    await conn.execute(
        """
        insert into calendar_days (calendar_id, day, label, worked)
        select $1, * from unnest($2::date[], $3::text[], $4::boolean[])
        """,
        calendar.calendar_id,
        [*calendar.days, *calendar.working_days],
        [*calendar.days.values(), *calendar.working_days.values()],
        [False] * len(calendar.days) + [True] * len(calendar.working_days),
    )


async def fetch_calendars(conn: ReadConn | WriteConn, calendar_ids: Iterable[str] | None = None) -> list[Calendar]:
    """Return the stored calendars by their ids, or all."""
    heads = await conn.fetch(
        """
        select calendar_id, name, source, changed_by, changed_at from calendars
         where $1::text[] is null or calendar_id = any($1::text[])
         order by calendar_id
        """,
        None if calendar_ids is None else list(calendar_ids),
    )
    rows = await conn.fetch(
        "select calendar_id, day, label, worked from calendar_days where calendar_id = any($1::text[]) order by day",
        [head["calendar_id"] for head in heads],
    )
    days: dict[tuple[str, bool], dict[date, str]] = defaultdict(dict)
    for row in rows:
        days[row["calendar_id"], row["worked"]][row["day"]] = row["label"]
    return [
        Calendar(**dict(head), days=days[head["calendar_id"], False], working_days=days[head["calendar_id"], True])
        for head in heads
    ]


async def plans_using(conn: ReadConn, calendar_id: str) -> list[PlanId]:
    """Return approved and active plans that a calendar's dates matter to."""
    rows = await conn.fetch(
        """
        select plan_id from plans
         where ($1 = any(calendar_ids) or $1 = working_calendar) and state in ('approved', 'active')
        """,
        calendar_id,
    )
    return [PlanId(row["plan_id"]) for row in rows]


def _qualified(columns: str, alias: str) -> str:
    return ", ".join(f"{alias}.{column.strip()}" for column in columns.split(","))


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    values = dict(row)
    values["state"] = OccurrenceState(values["state"])
    return Occurrence(**values)


def _plan(row: Mapping[str, Any]) -> Plan:
    return Plan(
        plan_id=PlanId(row["plan_id"]),
        name=row["name"],
        state=PlanState(row["state"]),
        load_ids=tuple(LoadId(load_id) for load_id in row["load_ids"]),
        schedule=Schedule(
            first_date=row["first_date"],
            last_date=row["last_date"],
            windows=tuple(
                Window(time.fromisoformat(window["start"]), time.fromisoformat(window["end"]))
                for window in row["windows"]
            ),
            zone=row["zone"],
            weekdays=frozenset(row["weekdays"]),
            exceptions=frozenset(row["exceptions"]),
            day_class=DayClass(row["day_class"]),
            working_calendar=row["working_calendar"],
        ),
        calendar_ids=tuple(row["calendar_ids"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        approved_by=row["approved_by"],
        approved_at=row["approved_at"],
        ended_by=row["ended_by"],
        ended_at=row["ended_at"],
        end_reason=row["end_reason"],
        note=row["note"],
        named=tuple(LoadId(load_id) for load_id in row["named"]),
        options=_options_of(row["options"]),
    )


def _options_json(options: PlanOptions) -> dict[str, Any]:
    return {"groups": asdict(options.groups), "rank": options.rank}


def _options_of(stored: Mapping[str, Any]) -> PlanOptions:
    groups = Groups(**{name: tuple(values) for name, values in stored["groups"].items()})
    return PlanOptions(groups=groups, rank=stored["rank"])
