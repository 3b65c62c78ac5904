"""SQL of plans that set points, and of their windows."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import PlanId
from services.control.domain.calendars import DayClass
from services.control.domain.plans import PlanState, Schedule, Window, WindowInstance, ends_at, starts_at
from services.control.domain.setpointplans import MIN_WINDOW_S, SetpointPlan, SetpointWindow, WindowState

_PLAN = """
    p.plan_id, p.name, p.state, p.target, p.device_ids, p.point, p.value, p.value_after, p.schedule, p.calendar_ids,
    p.created_by, p.created_at, p.note, p.approved_by, p.approved_at, p.ended_by, p.ended_at, p.end_reason
"""
_WINDOW = """
    w.plan_id, w.start_local, w.begin_at, w.end_at, w.state, w.next_at, w.reason, w.left_over, w.set_in,
    w.begin_groups, w.end_groups
"""


async def serialise(conn: WriteConn) -> None:
    """Let one transaction at a time put plans into force, so that no two of them find the devices free."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('control.setpoint_plans', 0))")


async def insert(conn: WriteConn, plan: SetpointPlan) -> None:
    """Insert a new plan."""
    await conn.execute(
        """
        insert into setpoint_plans (plan_id, name, state, target, device_ids, point, value, value_after, schedule,
                                    calendar_ids, working_calendar, starts_at, ends_at, created_by, created_at, note)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        """,
        plan.plan_id,
        plan.name,
        plan.state.value,
        dict(plan.target),
        list(plan.device_ids),
        plan.point,
        plan.value,
        plan.value_after,
        _schedule_json(plan.schedule),
        list(plan.calendar_ids),
        plan.schedule.working_calendar,
        starts_at(plan.schedule),
        ends_at(plan.schedule),
        plan.created_by,
        plan.created_at,
        plan.note,
    )


async def lock(conn: WriteConn, plan_id: str) -> SetpointPlan | None:
    """Lock and return a plan."""
    row = await conn.fetchrow(f"select {_PLAN} from setpoint_plans p where plan_id = $1 for update", plan_id)  # noqa: S608
    return None if row is None else _plan(row)


async def update_state(conn: WriteConn, plan: SetpointPlan) -> None:
    """Write a locked plan's state, who brought it there, and the devices that it has then."""
    await conn.execute(
        """
        update setpoint_plans
           set state = $2, approved_by = $3, approved_at = $4, ended_by = $5, ended_at = $6, end_reason = $7,
               device_ids = $8
         where plan_id = $1
        """,
        plan.plan_id,
        plan.state.value,
        plan.approved_by,
        plan.approved_at,
        plan.ended_by,
        plan.ended_at,
        plan.end_reason,
        list(plan.device_ids),
    )


async def lock_to_advance(conn: WriteConn, now: datetime) -> list[tuple[SetpointPlan, bool]]:
    """Lock and return plans whose first date has come or whose last window is over, and whether it is the latter."""
    rows = await conn.fetch(
        f"""
        select {_PLAN}, ends_at <= $1 as is_over from setpoint_plans p
         where (state = 'approved' and starts_at <= $1) or (state = 'active' and ends_at <= $1)
         order by plan_id for update skip locked
        """,  # noqa: S608
        now,
    )
    return [(_plan(row), row["is_over"]) for row in rows]


async def fetch(conn: ReadConn, plan_id: str) -> SetpointPlan | None:
    """Return one plan."""
    row = await conn.fetchrow(f"select {_PLAN} from setpoint_plans p where plan_id = $1", plan_id)  # noqa: S608
    return None if row is None else _plan(row)


async def fetch_page(
    conn: ReadConn, *, state: str | None, before: tuple[datetime, str] | None, limit: int
) -> list[SetpointPlan]:
    """Return plans, the youngest first."""
    rows = await conn.fetch(
        f"""
        select {_PLAN} from setpoint_plans p
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


async def find_rival(
    conn: ReadConn | WriteConn, plan: SetpointPlan, windows: Sequence[WindowInstance]
) -> tuple[str, str] | None:
    """Return id and name of another plan in force that sets the point in one of the devices at such a time."""
    row = await conn.fetchrow(
        """
        select o.plan_id, o.name
          from setpoint_plans o join setpoint_windows w using (plan_id)
         where o.plan_id <> $1 and o.point = $2 and o.device_ids && $3::text[] and o.state in ('approved', 'active')
           and w.next_at is not null
           and exists (select from unnest($4::timestamptz[], $5::timestamptz[]) as n(begin_at, end_at)
                        where w.begin_at < n.end_at + $6::interval and w.end_at + $6::interval > n.begin_at)
         order by w.begin_at
         limit 1
        """,
        plan.plan_id,
        plan.point,
        list(plan.device_ids),
        [one.off_at for one in windows],
        [one.on_at for one in windows],
        timedelta(seconds=MIN_WINDOW_S),
    )
    return None if row is None else (row["plan_id"], row["name"])


# Windows.


async def insert_windows(conn: WriteConn, plan_id: str, windows: Sequence[WindowInstance], at: datetime) -> None:
    """Insert the windows of a plan."""
    await conn.execute(
        """
        insert into setpoint_windows (plan_id, start_local, begin_at, end_at, state, next_at, changed_at)
        select $1, start_local, begin_at, end_at, 'planned', begin_at, $5
          from unnest($2::timestamp[], $3::timestamptz[], $4::timestamptz[]) as w(start_local, begin_at, end_at)
        """,
        plan_id,
        [one.start_local for one in windows],
        [one.off_at for one in windows],
        [one.on_at for one in windows],
        at,
    )


async def lock_due(conn: WriteConn, now: datetime) -> tuple[SetpointPlan, SetpointWindow] | None:
    """Lock and return the window, with its plan, that is to be looked at first; ends before begins of one time."""
    row = await conn.fetchrow(
        """
        select w.plan_id, w.start_local
          from setpoint_plans p join setpoint_windows w using (plan_id)
         where w.next_at <= $1
         order by w.next_at, w.state, w.plan_id
         limit 1
           for update skip locked
        """,
        now,
    )
    if row is None:
        return None
    plan = await lock(conn, row["plan_id"])
    window = await conn.fetchrow(
        f"select {_WINDOW} from setpoint_windows w where plan_id = $1 and start_local = $2",  # noqa: S608
        row["plan_id"],
        row["start_local"],
    )
    return None if plan is None or window is None else (plan, _window(window))


async def update_window(conn: WriteConn, window: SetpointWindow, at: datetime) -> None:
    """Write a locked window."""
    await conn.execute(
        """
        update setpoint_windows
           set state = $3, next_at = $4, reason = $5, left_over = $6, set_in = $7, begin_groups = $8, end_groups = $9,
               changed_at = $10
         where plan_id = $1 and start_local = $2
        """,
        window.plan_id,
        window.start_local,
        window.state.value,
        window.next_at,
        window.reason,
        list(window.left),
        list(window.set_in),
        list(window.begin_groups),
        list(window.end_groups),
        at,
    )


async def postpone(conn: WriteConn, window: SetpointWindow, reason: str, until: datetime) -> None:
    """Look at a window again later, unless somebody has moved it meanwhile."""
    await conn.execute(
        """
        update setpoint_windows set next_at = $3, reason = $4
         where plan_id = $1 and start_local = $2 and next_at = $5 and state = $6
        """,
        window.plan_id,
        window.start_local,
        until,
        reason,
        window.next_at,
        window.state.value,
    )


async def call_off(conn: WriteConn, plan_id: str, reason: str, at: datetime) -> None:
    """End the windows of a locked plan that have set nothing; the others go on to their end."""
    await conn.execute(
        """
        update setpoint_windows
           set state = case when set_in = '{}' then 'called_off' else 'begun' end,
               next_at = case when set_in = '{}' then null else end_at end,
               reason = case when set_in = '{}' then $2 else '' end, left_over = '{}', changed_at = $3
         where plan_id = $1 and state = 'planned'
        """,
        plan_id,
        reason,
        at,
    )


async def fetch_windows(
    conn: ReadConn, plan_id: str, *, after: datetime | None, limit: int
) -> list[tuple[SetpointWindow, datetime]]:
    """Return windows of a plan that begin after that time, in their order, each with when it changed last."""
    rows = await conn.fetch(
        f"""
        select {_WINDOW}, w.changed_at from setpoint_windows w
         where plan_id = $1 and ($2::timestamptz is null or begin_at > $2)
         order by begin_at
         limit $3
        """,  # noqa: S608
        plan_id,
        after,
        limit,
    )
    return [(_window(row), row["changed_at"]) for row in rows]


def _schedule_json(schedule: Schedule) -> dict[str, Any]:
    return {
        "first_date": schedule.first_date.isoformat(),
        "last_date": schedule.last_date.isoformat(),
        "windows": [[one.start.isoformat(), one.end.isoformat()] for one in schedule.windows],
        "zone": schedule.zone,
        "weekdays": sorted(schedule.weekdays),
        "exceptions": sorted(one.isoformat() for one in schedule.exceptions),
        "day_class": schedule.day_class.value,
        "working_calendar": schedule.working_calendar,
    }


def _schedule_of(stored: Mapping[str, Any]) -> Schedule:
    return Schedule(
        first_date=date.fromisoformat(stored["first_date"]),
        last_date=date.fromisoformat(stored["last_date"]),
        windows=tuple(Window(time.fromisoformat(start), time.fromisoformat(end)) for start, end in stored["windows"]),
        zone=stored["zone"],
        weekdays=frozenset(stored["weekdays"]),
        exceptions=frozenset(map(date.fromisoformat, stored["exceptions"])),
        day_class=DayClass(stored["day_class"]),
        working_calendar=stored["working_calendar"],
    )


def _plan(row: Mapping[str, Any]) -> SetpointPlan:
    return SetpointPlan(
        plan_id=PlanId(row["plan_id"]),
        name=row["name"],
        state=PlanState(row["state"]),
        target=row["target"],
        device_ids=tuple(row["device_ids"]),
        point=row["point"],
        value=row["value"],
        value_after=row["value_after"],
        schedule=_schedule_of(row["schedule"]),
        calendar_ids=tuple(row["calendar_ids"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        note=row["note"],
        approved_by=row["approved_by"],
        approved_at=row["approved_at"],
        ended_by=row["ended_by"],
        ended_at=row["ended_at"],
        end_reason=row["end_reason"],
    )


def _window(row: Mapping[str, Any]) -> SetpointWindow:
    return SetpointWindow(
        plan_id=PlanId(row["plan_id"]),
        start_local=row["start_local"],
        begin_at=row["begin_at"],
        end_at=row["end_at"],
        state=WindowState(row["state"]),
        next_at=row["next_at"],
        reason=row["reason"],
        left=tuple(row["left_over"]),
        set_in=tuple(row["set_in"]),
        begin_groups=tuple(row["begin_groups"]),
        end_groups=tuple(row["end_groups"]),
    )
