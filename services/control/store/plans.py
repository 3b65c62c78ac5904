"""SQL of plans and calendars."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, time
from typing import Any

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import LoadId, PlanId
from services.control.domain.calendars import Calendar, DayClass
from services.control.domain.conditions import (
    Band,
    BandTime,
    Condition,
    Conditions,
    Quantity,
    Side,
    TariffCondition,
)
from services.control.domain.plans import (
    Plan,
    PlanOptions,
    PlanState,
    Schedule,
    Window,
    ends_at,
    starts_at,
)
from services.control.domain.stagger import Spread, Stagger
from services.control.domain.targets import Groups

COLUMNS = """
    plan_id, plan_no, name, state, load_ids, first_date, last_date, windows, zone, weekdays, exceptions, calendar_ids,
    note, day_class, working_calendar, named, options, created_by, created_at, approved_by, approved_at, ended_by,
    ended_at, end_reason, made_until, app
"""


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan, its number, and how far its occurrences have been made."""

    plan: Plan
    plan_no: int
    made_until: datetime | None


async def insert(conn: WriteConn, plan: Plan) -> None:
    """Insert a new plan; the database numbers it."""
    schedule = plan.schedule
    await conn.execute(
        """
        insert into plans (plan_id, name, state, load_ids, first_date, last_date, windows, zone, weekdays, exceptions,
                           calendar_ids, note, created_by, created_at, starts_at, ends_at, day_class, working_calendar,
                           named, rank, options, app)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
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
        plan.app,
    )


async def lock(conn: WriteConn, plan_id: str) -> StoredPlan | None:
    """Lock and return a plan."""
    row = await conn.fetchrow(f"select {COLUMNS} from plans where plan_id = $1 for update", plan_id)  # noqa: S608
    return None if row is None else StoredPlan(_plan(row), row["plan_no"], row["made_until"])


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


async def advance_states(conn: WriteConn, now: datetime) -> list[tuple[Plan, Plan]]:
    """Make plans active whose first date has come, and end those whose last window is over; return what changed.

    Returns:
        Each plan as it was and as it is now.
    """
    rows = await conn.fetch(
        f"""
        with due as (
            select plan_id as due_id, state as state_before from plans
             where (state = 'approved' and starts_at <= $1) or (state = 'active' and ends_at <= $1)
               for update
        )
        update plans
           set state = case when ends_at <= $1 then 'ended' else 'active' end,
               ended_at = case when ends_at <= $1 then $1 end,
               end_reason = case when ends_at <= $1 then 'finished' end
          from due
         where plan_id = due_id
        returning {COLUMNS}, state_before
        """,  # noqa: S608
        now,
    )
    return [
        (replace(plan, state=PlanState(row["state_before"]), ended_at=None, end_reason=None), plan)
        for row in rows
        for plan in (_plan(row),)
    ]


async def lock_to_make(conn: WriteConn, until: datetime, former: StoredPlan | None) -> StoredPlan | None:
    """Lock and return the running plan whose occurrences end the earliest before that time.

    Args:
        conn: The transaction.
        until: The time.
        former: The last one that this has returned; if it is its turn again, its loads and days, which do not change
            after the approval, are not read once more.
    """
    row = await conn.fetchrow(
        """
        select plan_id, made_until from plans
         where state in ('approved', 'active') and (made_until is null or made_until < least($1, ends_at))
         order by made_until nulls first
         limit 1
           for update skip locked
        """,
        until,
    )
    if row is None:
        return None
    if former is not None and former.plan.plan_id == row["plan_id"]:
        return replace(former, made_until=row["made_until"])
    return await lock(conn, row["plan_id"])


async def set_made_until(conn: WriteConn, plan_id: str, until: datetime) -> None:
    """Note how far a locked plan's occurrences have been made."""
    await conn.execute("update plans set made_until = $2 where plan_id = $1", plan_id, until)


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


async def fetch_asked(conn: ReadConn, until: datetime) -> dict[LoadId, Conditions]:
    """Return the loads that a plan with conditions wants off before that time, with these conditions."""
    rows = await conn.fetch(
        """
        select c.load_id, p.options -> 'conditions' as conditions
          from commands c join plans p using (plan_id)
         where c.action = 'open' and c.state = 'scheduled' and c.next_at <= $1
           and jsonb_array_length(p.options -> 'conditions' -> 'measured') > 0
        """,
        until,
    )
    return {LoadId(row["load_id"]): conditions_of(row["conditions"]) for row in rows}


async def fetch_page(
    conn: ReadConn, *, state: str | None, app: str | None, before: tuple[datetime, str] | None, limit: int
) -> list[Plan]:
    """Return plans, the youngest first; of one upstream app only, if given."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from plans
         where ($1::text is null or state = $1)
           and ($2::timestamptz is null or (created_at, plan_id) < ($2, $3))
           and ($5::text is null or app = $5)
         order by created_at desc, plan_id desc
         limit $4
        """,  # noqa: S608
        state,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
        app,
    )
    return [_plan(row) for row in rows]


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
         union all
        select plan_id from setpoint_plans
         where ($1 = any(calendar_ids) or $1 = working_calendar) and state in ('approved', 'active')
        """,
        calendar_id,
    )
    return [PlanId(row["plan_id"]) for row in rows]


def _plan(row: Mapping[str, Any]) -> Plan:
    return Plan(
        plan_id=PlanId(row["plan_id"]),
        name=row["name"],
        state=PlanState(row["state"]),
        load_ids=tuple(row["load_ids"]),
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
        named=tuple(row["named"]),
        options=_options_of(row["options"]),
        app=row["app"],
    )


def _options_json(options: PlanOptions) -> dict[str, Any]:
    tariff = options.conditions.tariff
    return {
        "groups": asdict(options.groups),
        "rank": options.rank,
        "stagger": asdict(options.stagger),
        "conditions": {
            "measured": [asdict(one) for one in options.conditions.measured],
            "tariff": None
            if tariff is None
            else {
                "bands": sorted(tariff.bands),
                "table": [[one.start.isoformat(), one.end.isoformat(), one.band] for one in tariff.table],
            },
            "zone": options.conditions.zone,
        },
    }


def _options_of(stored: Mapping[str, Any]) -> PlanOptions:
    groups = Groups(**{name: tuple(values) for name, values in stored["groups"].items()})
    stagger = stored.get("stagger")
    return PlanOptions(
        groups=groups,
        rank=stored["rank"],
        stagger=Stagger() if stagger is None else Stagger(Spread(stagger["spread"]), stagger["within_s"]),
        conditions=conditions_of(stored.get("conditions")),
    )


def conditions_of(stored: Mapping[str, Any] | None) -> Conditions:
    """Return the conditions in a plan's options."""
    if stored is None:
        return Conditions()
    tariff = stored["tariff"]
    return Conditions(
        measured=tuple(
            Condition(Quantity(one["quantity"]), Side(one["side"]), one["limit"], one["for_s"])
            for one in stored["measured"]
        ),
        tariff=None
        if tariff is None
        else TariffCondition(
            frozenset(map(Band, tariff["bands"])),
            tuple(
                BandTime(time.fromisoformat(start), time.fromisoformat(end), Band(band))
                for start, end, band in tariff["table"]
            ),
        ),
        zone=stored["zone"],
    )
