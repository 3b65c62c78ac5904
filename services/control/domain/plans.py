"""Savings plans: on which dates which loads are off from when until when.

A plan's dates are those on which a window *starts*, both included; a window whose end is not later on the
clock face than its start ends on the next day. So 2022-05-01 to 2022-06-01, 23:59:59 to 06:00:00, is 32 windows,
the last of which ends on 2022-06-02 at 06:00:00.

Wall times belong to the plan's IANA zone and become instants here, once: a wall time is the moment at which
the local clock *first* shows it or, where the clock jumps over it, the moment of the jump. A clock that is put
back therefore never opens a breaker twice, and a wake-up never comes later than people read it from the wall.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from dateutil.rrule import DAILY, rrule

from libs.common.contracts.base import EARLIEST, LATEST
from libs.common.errors import Conflict, InvalidInput
from libs.common.ids import LoadId, PlanId
from services.control.domain.calendars import Calendar, DayClass
from services.control.domain.conditions import Conditions, Quantity
from services.control.domain.stagger import Spread, Stagger
from services.control.domain.targets import Groups

if TYPE_CHECKING:
    from services.control.domain.overlap import Overlap

ALL_WEEKDAYS = frozenset(range(1, 8))
"""ISO weekdays, Monday is 1."""
MAX_WINDOWS = 24
"""Windows a day; more is a mistake."""
MAX_INSTANCES = 4000
"""Windows of a whole plan: ten years of one a day. Longer plans would hold the event loop while they are counted."""
MAX_LOADS = 100_000
MAX_CONDITIONS = 10
MAX_CONDITION_S = 14_400
"""Values of so long before an OFF are asked for. [s]"""
RANKS = range(1, 101)
"""1 counts before all others, 100 after them."""
RANK = 50
"""Rank of a plan that says none."""


class InvalidPlan(InvalidInput):
    """The plan cannot be followed as it is written."""

    code = "invalid_plan"
    title_zh = "节能策略有误"


class PlanState(StrEnum):
    """The life of a plan."""

    DRAFT = "draft"
    APPROVED = "approved"
    ACTIVE = "active"
    """Its first date has come."""
    ENDED = "ended"


class PlanTransitionRefused(Conflict):
    """The plan's state does not allow it."""

    code = "plan_state"
    title_zh = "策略状态不允许"


PLAN_TRANSITIONS: frozenset[tuple[PlanState, PlanState]] = frozenset(
    {
        (PlanState.DRAFT, PlanState.APPROVED),
        (PlanState.DRAFT, PlanState.ENDED),
        (PlanState.APPROVED, PlanState.ACTIVE),
        (PlanState.APPROVED, PlanState.ENDED),
        (PlanState.ACTIVE, PlanState.ENDED),
    }
)


def require_transition(plan_id: str, current: PlanState, wanted: PlanState) -> None:
    """Check that a plan may go from one state to another.

    Raises:
        PlanTransitionRefused: It may not.
    """
    if (current, wanted) not in PLAN_TRANSITIONS:
        raise PlanTransitionRefused(
            f"plan {plan_id} is {current}, it cannot become {wanted}",
            message_zh=f"策略 {plan_id} 当前状态为 {current},不能变为 {wanted}",
            plan_id=plan_id,
            state=current,
        )


@dataclass(frozen=True, slots=True)
class Window:
    """When loads are off, on the clock face of the plan's zone."""

    start: time
    """OFF."""
    end: time
    """ON; on the next day unless it is later than ``start``."""

    @property
    def days(self) -> int:
        """Days between the date of the OFF and that of the ON."""
        return 0 if self.end > self.start else 1

    @property
    def length(self) -> timedelta:
        """How long it is on the clock face."""
        start = timedelta(hours=self.start.hour, minutes=self.start.minute, seconds=self.start.second)
        end = timedelta(hours=self.end.hour, minutes=self.end.minute, seconds=self.end.second)
        return end - start + timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When, without which loads."""

    first_date: date
    last_date: date
    """Both are dates on which a window starts."""
    windows: tuple[Window, ...]
    zone: str
    weekdays: frozenset[int] = ALL_WEEKDAYS
    """ISO weekdays on which a window may start."""
    exceptions: frozenset[date] = field(default_factory=frozenset)
    """Dates on which none starts."""
    day_class: DayClass = DayClass.ANY
    """On which days of the working calendar one may start."""
    working_calendar: str | None = None
    """Id of the calendar that says which days are worked; there unless ``day_class`` is any."""


@dataclass(frozen=True, slots=True)
class WindowInstance:
    """One window on one date, as instants."""

    start_local: datetime
    """Wall time of the OFF in the plan's zone, without offset; with plan and load the identity of an occurrence."""
    off_at: datetime
    on_at: datetime


@dataclass(frozen=True, slots=True)
class Preview:
    """What a schedule amounts to."""

    count: int
    first_off_at: datetime | None
    last_on_at: datetime | None
    instances: tuple[WindowInstance, ...]
    """The first of them."""
    load_ids: tuple[LoadId, ...] = ()
    """Loads that the plan means now."""
    overlaps: "tuple[Overlap, ...]" = ()
    """Plans in force over some of the same loads and times."""
    stays_on: tuple[LoadId, ...] = ()
    """Loads that a guard keeps on whenever the plan wants them off: those of the coverage layer."""


def parse_zone(name: str) -> ZoneInfo:
    """Return the time zone of that IANA name.

    Raises:
        InvalidPlan: There is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise InvalidPlan(
            f"zone: {name!r} is not an IANA time zone such as Asia/Shanghai",
            message_zh=f"时区 {name!r} 不存在,应为 IANA 名称,如 Asia/Shanghai",
            field="zone",
        ) from exc


def check_schedule(schedule: Schedule, *, min_off_s: float, min_on_s: float) -> None:
    """Check that the schedule can be followed.

    Args:
        schedule: What is wanted.
        min_off_s: Shortest window that is worth a switching. [s]
        min_on_s: Shortest time between two windows. [s]

    Raises:
        InvalidPlan: It names the field and what was expected.
    """
    parse_zone(schedule.zone)
    if schedule.last_date < schedule.first_date:
        raise InvalidPlan(
            f"last_date: {schedule.last_date} lies before first_date {schedule.first_date}",
            message_zh=f"结束日期 {schedule.last_date} 早于开始日期 {schedule.first_date}",
            field="last_date",
        )
    if schedule.first_date.year < EARLIEST.year or schedule.last_date.year >= LATEST.year:
        raise InvalidPlan(
            f"first_date, last_date: expected years from {EARLIEST.year} to {LATEST.year - 1}",
            message_zh=f"起止日期应在 {EARLIEST.year} 至 {LATEST.year - 1} 年之间",
            field="last_date",
        )
    if ((schedule.last_date - schedule.first_date).days + 1) * len(schedule.windows) > MAX_INSTANCES:
        raise InvalidPlan(
            f"last_date: a plan has at most {MAX_INSTANCES} windows",
            message_zh=f"一个策略最多 {MAX_INSTANCES} 个时段",
            field="last_date",
        )
    if not schedule.weekdays or not schedule.weekdays <= ALL_WEEKDAYS:
        raise InvalidPlan(
            "weekdays: expected at least one of 1 (Monday) to 7 (Sunday)",
            message_zh="weekdays 应为 1(周一)到 7(周日)中的至少一个",
            field="weekdays",
        )
    if (schedule.working_calendar is None) is not (schedule.day_class is DayClass.ANY):
        raise InvalidPlan(
            "working_calendar: expected with day_class working_days or days_off, and only with these",
            message_zh="day_class 为 working_days 或 days_off 时须给出 working_calendar,否则不应给出",
            field="working_calendar",
        )
    _check_windows(schedule.windows, min_off_s=min_off_s, min_on_s=min_on_s)


def _check_windows(windows: Sequence[Window], *, min_off_s: float, min_on_s: float) -> None:
    if not 1 <= len(windows) <= MAX_WINDOWS:
        raise InvalidPlan(
            f"windows: expected 1 to {MAX_WINDOWS}", message_zh=f"时段数应为 1 到 {MAX_WINDOWS}", field="windows"
        )
    for window in windows:
        if window.start.tzinfo is not None or window.end.tzinfo is not None:
            raise InvalidPlan(
                "windows: times are on the clock face of the plan's zone, without an offset",
                message_zh="时段时间为策略时区的钟面时间,不带偏移",
                field="windows",
            )
        if window.start.microsecond or window.end.microsecond:
            raise InvalidPlan("windows: whole seconds", message_zh="时段时间应为整秒", field="windows")
        if window.start == window.end:
            raise InvalidPlan(
                f"windows: {window.start} to {window.end} has no length",
                message_zh=f"时段 {window.start} 到 {window.end} 长度为零",
                field="windows",
            )
        if window.length.total_seconds() < min_off_s:
            raise InvalidPlan(
                f"windows: {window.start} to {window.end} is shorter than the minimum off time of {min_off_s:g} s",
                message_zh=f"时段 {window.start} 到 {window.end} 短于最小关断时长 {min_off_s:g} 秒",
                field="windows",
            )
    day = timedelta(days=1)
    ordered = sorted(windows, key=lambda window: window.start)
    for position, window in enumerate(ordered):
        following = ordered[(position + 1) % len(ordered)]
        wrap = day if position + 1 == len(ordered) else timedelta()
        gap = _since_midnight(following.start) + wrap - _since_midnight(window.start) - window.length
        if gap.total_seconds() < min_on_s:
            one, other = f"{window.start}-{window.end}", f"{following.start}-{following.end}"
            raise InvalidPlan(
                f"windows: between {one} and {other} there must be at least {min_on_s:g} s",
                message_zh=f"时段 {one} 与 {other} 之间至少应间隔 {min_on_s:g} 秒",
                field="windows",
            )


def _since_midnight(wall: time) -> timedelta:
    return timedelta(hours=wall.hour, minutes=wall.minute, seconds=wall.second)


def check_stagger(stagger: Stagger, windows: Sequence[Window], *, min_off_s: float) -> None:
    """Check that a delay leaves of every window what is worth a switching.

    Raises:
        InvalidPlan: It does not, or method and time do not belong together.
    """
    if (stagger.spread is Spread.NONE) is not (stagger.within_s == 0) or stagger.within_s < 0:
        raise InvalidPlan(
            "stagger: within_s is above 0 with even or random, and 0 with none",
            message_zh="错峰方式为 even 或 random 时 within_s 应大于 0,为 none 时应为 0",
            field="stagger",
        )
    shortest_s = min(window.length.total_seconds() for window in windows)
    if shortest_s - stagger.within_s < min_off_s:
        raise InvalidPlan(
            f"stagger: within_s {stagger.within_s} leaves less than {min_off_s:g} s of a window of {shortest_s:g} s",
            message_zh=f"错峰时间 {stagger.within_s} 秒使 {shortest_s:g} 秒的时段剩余不足 {min_off_s:g} 秒",
            field="stagger",
        )


def check_conditions(conditions: Conditions, *, has_meter: bool) -> None:
    """Check that the conditions can be judged.

    Raises:
        InvalidPlan: They cannot.
    """
    if len(conditions.measured) > MAX_CONDITIONS or any(
        not 0 <= one.for_s <= MAX_CONDITION_S or not isfinite(one.limit) for one in conditions.measured
    ):
        raise InvalidPlan(
            f"conditions: expected at most {MAX_CONDITIONS}, with a limit, for 0 to {MAX_CONDITION_S} s",
            message_zh=f"条件最多 {MAX_CONDITIONS} 个,须有限值,持续时间 0 到 {MAX_CONDITION_S} 秒",
            field="conditions",
        )
    if not has_meter and any(one.quantity is Quantity.POWER for one in conditions.measured):
        raise InvalidPlan(
            "conditions: power is asked of loads of which some have no meter",
            message_zh="条件用到功率,但部分负载没有电表",
            field="conditions",
        )
    tariff = conditions.tariff
    if tariff is not None and not tariff.bands <= {one.band for one in tariff.table}:
        raise InvalidPlan(
            "conditions: every band has to be in the table of the tariff", message_zh="电价时段须在电价表中",
            field="conditions",
        )  # fmt: skip


def instances(
    schedule: Schedule, *, holidays: Collection[date] = (), working: Calendar | None = None
) -> Iterator[WindowInstance]:
    """Yield every window of the schedule in the order of its date and start.

    A window of which nothing remains because the clock jumps over it is left out.

    Args:
        schedule: A schedule that ``check_schedule`` passes.
        holidays: Further dates on which no window starts, from calendars.
        working: The schedule's working calendar, if it names one.

    Raises:
        YearNotCovered: The working calendar does not reach so far.
    """
    if working is not None:
        working.require_years(range(schedule.first_date.year, schedule.last_date.year + 1))
    zone = parse_zone(schedule.zone)
    windows = sorted(schedule.windows, key=lambda window: window.start)
    days = rrule(
        DAILY,
        dtstart=datetime.combine(schedule.first_date, time()),
        until=datetime.combine(schedule.last_date, time()),
        byweekday=[number - 1 for number in sorted(schedule.weekdays)],
    )
    for midnight in days:
        if midnight.date() in schedule.exceptions or midnight.date() in holidays:
            continue
        if working is not None and not working.allows(midnight.date(), schedule.day_class):
            continue
        for window in windows:
            start_local = datetime.combine(midnight.date(), window.start)
            end_local = datetime.combine(midnight.date() + timedelta(days=window.days), window.end)
            off_at, on_at = instant(start_local, zone), instant(end_local, zone)
            if off_at < on_at:
                yield WindowInstance(start_local, off_at, on_at)


def summary(windows: Sequence[WindowInstance], *, limit: int = 100) -> Preview:
    """Return how many windows there are, the first OFF, the last ON, and the first ``limit`` windows."""
    return Preview(
        count=len(windows),
        first_off_at=windows[0].off_at if windows else None,
        last_on_at=max(window.on_at for window in windows) if windows else None,
        instances=tuple(windows[:limit]),
    )


def ends_at(schedule: Schedule) -> datetime:
    """Return the instant after which the schedule can have no window open, whatever the exceptions."""
    zone = parse_zone(schedule.zone)
    return max(
        instant(datetime.combine(schedule.last_date + timedelta(days=window.days), window.end), zone)
        for window in schedule.windows
    )


def narrowed(schedule: Schedule, first: datetime, last: datetime) -> Schedule:
    """Return the part of a schedule that can have a window open between two instants."""
    zone, day = parse_zone(schedule.zone), timedelta(days=1)
    return replace(
        schedule,
        first_date=max(schedule.first_date, first.astimezone(zone).date() - 2 * day),
        last_date=min(schedule.last_date, last.astimezone(zone).date() + day),
    )


def starts_at(schedule: Schedule) -> datetime:
    """Return the instant at which the first date begins in the plan's zone."""
    return instant(datetime.combine(schedule.first_date, time()), parse_zone(schedule.zone))


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return when a clock in ``zone`` first shows ``wall`` or a later time.

    Args:
        wall: Wall time without offset.
        zone: Where the clock hangs.
    """
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # The clock jumps over this wall time: with fold=1 it is read by the offset after the jump, which lies before
    # it, with fold=0 by the offset before, which lies after it. In between is the jump, found to the second.
    low, high = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a plan may say beyond loads and times."""

    groups: Groups = field(default_factory=Groups)
    """Loads that are not named one by one."""
    rank: int = RANK
    """1 to 100; of plans that want a load at the same time the lower one counts."""
    stagger: Stagger = field(default_factory=Stagger)
    """How the shutdowns of a window are spread."""
    conditions: Conditions = field(default_factory=Conditions)
    """What has to hold right before an OFF."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A savings plan."""

    plan_id: PlanId
    name: str
    state: PlanState
    load_ids: tuple[LoadId, ...]
    """All of them; of groups those that belonged to them when the plan was drafted or, later, approved."""
    schedule: Schedule
    calendar_ids: tuple[str, ...]
    """Calendars whose days off are exceptions too."""
    created_by: str
    created_at: datetime
    approved_by: str | None = None
    approved_at: datetime | None = None
    ended_by: str | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    note: str | None = None
    named: tuple[LoadId, ...] = ()
    """Loads that were named one by one."""
    options: PlanOptions = field(default_factory=PlanOptions)
    app: str | None = None
    """The upstream app whose plan it is: its limits hold, and its priority is the lowest."""

    @property
    def rank(self) -> int:
        """Of plans that want a load at the same time the lower one counts."""
        return self.options.rank
