"""SQL of occurrences: one shutdown of one load by a plan.

There may be millions of them: plans are numbered, the key is the identity, and what is written in bulk is written in
the order of the key. The id that people and topics see is the key in words.

Occurrences are *distant* until their window is some days away: narrow rows with nothing but the numbers of window and
load and when they begin, in no index by time. All that happens to one happens when it is near.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from libs.common.contracts.control import OccurrenceState
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import InvalidInput
from libs.common.ids import LoadId, OccurrenceId, PlanId
from services.control.domain.plans import Plan, WindowInstance
from services.control.domain.stagger import Stagger, offsets_of_loads, offsets_of_windows
from services.control.store import copying

_WALL = "%Y%m%dT%H%M%S"
COLUMNS = """
    o.plan_no, p.plan_id, o.load_id, o.start_local, o.off_at, o.on_at, o.state, o.reason, o.off_command_id,
    o.on_command_id, o.went_off_at, o.came_on_at, o.changed_at
"""
OPEN = "o.state = 'planned' and o.off_command_id is null"
"""Occurrences that nobody has begun; the condition of one of the two indexes by time, its opposite of the other."""
FINAL = ("awake", "skipped", "called_off")
COPIED = ("plan_no", "start_local", "on_at", "changed_at", "off_at", "load_id")
"""Fields of a new row, those first that are the same in very many."""
COPIED_DISTANT = ("window_no", "off_at", "load_no")
LOADS_AT_ONCE = 10_000
"""Rows are handed to the database in parts of so many."""


class Key(NamedTuple):
    """The identity of an occurrence."""

    plan_no: int
    start_local: datetime
    """Wall time in the plan's zone, without offset."""
    load_id: str


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One shutdown of one load by a plan."""

    plan_no: int
    plan_id: PlanId
    load_id: LoadId
    start_local: datetime
    """Wall time of the window's start in the plan's zone, without offset."""
    off_at: datetime
    on_at: datetime
    state: OccurrenceState
    reason: str
    off_command_id: str | None
    on_command_id: str | None
    went_off_at: datetime | None
    came_on_at: datetime | None
    changed_at: datetime

    @property
    def occurrence_id(self) -> OccurrenceId:
        """Its identity in words: plan number, wall time of the window, load."""
        return OccurrenceId(f"{self.plan_no}.{self.start_local:{_WALL}}.{self.load_id}")


def key_of(occurrence_id: str) -> Key:
    """Return what an id means.

    Raises:
        InvalidInput: It is none.
    """
    try:
        number, wall, load_id = occurrence_id.split(".", 2)
        key = Key(int(number), datetime.strptime(wall, _WALL), load_id)  # noqa: DTZ007 - a wall time has no zone
        if not 0 < key.plan_no < 2**31:
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f"{occurrence_id[:100]!r} is no id of an occurrence", message_zh=f"{occurrence_id[:100]!r} 不是关断记录编号"
        ) from None
    return key


async def insert(
    conn: WriteConn,
    plan: Plan,
    plan_no: int,
    windows: Sequence[WindowInstance],
    at: datetime,
    *,
    near_until: datetime,
) -> int:
    """Make the occurrences of windows for every load of the stored plan; returns how many.

    The caller makes each window once: a second time would break the key. Those of windows that begin at
    ``near_until`` or later are distant, until ``bring_near``.
    """
    if not windows:
        return 0
    rows = await conn.fetch(
        """
        insert into plan_windows (plan_no, start_local, off_at, on_at, distant_made_at)
        select $1, w.*, case when w.off_at >= $6 then $5::timestamptz end
          from unnest($2::timestamp[], $3::timestamptz[], $4::timestamptz[]) as w(start_local, off_at, on_at)
        returning start_local, window_no
        """,
        plan_no,
        [window.start_local for window in windows],
        [window.off_at for window in windows],
        [window.on_at for window in windows],
        at,
        near_until,
    )
    near = [window for window in windows if window.off_at < near_until]
    distant = [window for window in windows if window.off_at >= near_until]
    made = 0
    if near:
        made += await _copy(conn, "plan_occurrences", COPIED, near_rows(plan, plan_no, near, at))
    if distant:
        await _number_loads(conn, plan, plan_no)
        numbers = {row["start_local"]: row["window_no"] for row in rows}
        made += await _copy(
            conn, "distant_shutdowns", COPIED_DISTANT,
            distant_rows(plan, [(numbers[window.start_local], window) for window in distant]),
        )  # fmt: skip
    return made


async def _number_loads(conn: WriteConn, plan: Plan, plan_no: int) -> None:
    """Number the loads of an approved plan, which it keeps; those of one that has been numbered stay as they are."""
    if await conn.fetchval("select exists (select from plan_loads where plan_no = $1)", plan_no):
        return
    await conn.execute(
        """
        insert into plan_loads (plan_no, load_no, load_id)
        select $1, l.place - 1, l.load_id from unnest($2::text[]) with ordinality as l(load_id, place)
        """,
        plan_no,
        sorted(plan.load_ids),
    )


async def make_lazily(conn: WriteConn) -> None:
    """Let this transaction end before it is on the disk: what a power cut takes of it is just made again.

    Whatever is built upon it is behind it in the same log, and not on the disk without it.
    """
    await conn.execute("set local synchronous_commit to off")


async def _copy(conn: WriteConn, table: str, columns: Sequence[str], rows: Iterator[bytes]) -> int:
    async def in_parts() -> AsyncGenerator[bytes, None]:
        for part in rows:  # some milliseconds each
            yield part
            await asyncio.sleep(0)

    async with aclosing(in_parts()) as parts:
        tag = await conn.copy_to_table(table, source=parts, columns=columns, format="binary")
    return int(tag.split()[-1])


def near_rows(plan: Plan, plan_no: int, windows: Sequence[WindowInstance], at: datetime) -> Iterator[bytes]:
    """Yield new near occurrences as a binary COPY takes them (``COPIED``), window by window in the order of the loads.

    Args:
        plan: The plan.
        plan_no: Its number.
        windows: The windows.
        at: When they are made.
    """
    begin = copying.begin_row(len(COPIED)) + copying.integer(plan_no)
    made_at = copying.instant(at)
    heads = [begin + copying.wall_time(one.start_local) + copying.instant(one.on_at) + made_at for one in windows]
    return _rows(plan, list(zip(heads, windows, strict=True)), copying.texts)


def distant_rows(plan: Plan, windows: Iterable[tuple[int, WindowInstance]]) -> Iterator[bytes]:
    """Yield distant ones (``COPIED_DISTANT``) of numbered windows likewise; loads are numbered in their order."""
    begin = copying.begin_row(len(COPIED_DISTANT))
    return _rows(plan, [(begin + copying.integer(number), window) for number, window in windows], _numbers)


def _rows(
    plan: Plan, windows: Sequence[tuple[bytes, WindowInstance]], name: Callable[[Sequence[LoadId]], list[bytes]]
) -> Iterator[bytes]:
    """Yield the rows of windows: what is the same in all of one, when it begins, the load."""
    stagger = plan.options.stagger
    loads, of_loads = _of_loads(plan.plan_id, plan.load_ids, stagger, name)
    of_windows = offsets_of_windows(plan.plan_id, [window.start_local for _, window in windows], stagger)
    yield copying.HEADER
    for (head, window), of_window in zip(windows, of_windows, strict=True):
        begins: dict[int, bytes | None] = {}
        for first in range(0, len(loads), LOADS_AT_ONCE):
            part = slice(first, first + LOADS_AT_ONCE)
            delays = [(of_load + of_window) % stagger.modulus for of_load in of_loads[part]]
            begins |= {delay: _begin(head, window, delay) for delay in set(delays) - begins.keys()}
            found = zip(map(begins.__getitem__, delays), loads[part], strict=True)
            yield b"".join([begin + load for begin, load in found if begin is not None])
    yield copying.TRAILER


@lru_cache(maxsize=1)
def _of_loads(
    plan_id: str, load_ids: tuple[LoadId, ...], stagger: Stagger, name: Callable[[Sequence[LoadId]], list[bytes]]
) -> tuple[list[bytes], list[int]]:
    """Return the loads in their order as fields, and their offsets; kept, as a plan's next windows follow at once."""
    ordered = sorted(load_ids)
    return name(ordered), offsets_of_loads(plan_id, ordered, stagger) or [0] * len(ordered)


def _numbers(load_ids: Sequence[LoadId]) -> list[bytes]:
    return [copying.integer(number) for number in range(len(load_ids))]


def _begin(head: bytes, window: WindowInstance, delay: int) -> bytes | None:
    """Return a row up to its load, or None for a delay that leaves nothing of the window."""
    off_at = window.off_at + timedelta(seconds=delay)
    return head + copying.instant(off_at) if off_at < window.on_at else None


@dataclass(frozen=True, slots=True)
class DistantWindow:
    """A window whose occurrences are distant."""

    window_no: int
    plan_no: int
    start_local: datetime
    off_at: datetime


async def lock_distant(conn: WriteConn, until: datetime, limit: int) -> list[DistantWindow]:
    """Lock and return windows that begin before that time and are distant, the earliest first, and their plans."""
    rows = await conn.fetch(
        f"""
        select w.window_no, w.plan_no, w.start_local, w.off_at
          from plan_windows w join plans p using (plan_no)
         where {_IS_DISTANT} and w.off_at < $1
         order by w.off_at
         limit $2
           for update of w, p skip locked
        """,  # noqa: S608
        until,
        limit,
    )
    return [DistantWindow(**dict(row)) for row in rows]


async def bring_near(conn: WriteConn, window: DistantWindow) -> int:
    """Let the occurrences of a locked window be followed from now on; returns how many there were.

    Those of a plan that somebody has ended are forgotten, as ``call_off`` does.
    """
    tag = await conn.execute(
        f"""
        with numbered as (
            delete from distant_shutdowns where window_no = $1
            returning load_no, off_at
        ), named as (
            delete from distant_occurrences where plan_no = $2 and start_local = $3
            returning load_id, off_at
        ), gone as (
            select l.load_id, d.off_at from numbered d join plan_loads l on l.plan_no = $2 and l.load_no = d.load_no
             union all
            select load_id, off_at from named
        )
        insert into plan_occurrences (plan_no, start_local, load_id, off_at, on_at, changed_at)
        select w.plan_no, w.start_local, gone.load_id, gone.off_at, w.on_at, {_MADE_AT}
          from gone
         cross join plan_windows w
          join plans p using (plan_no)
         where w.window_no = $1 and {_NOT_ENDED}
        """,  # noqa: S608
        window.window_no,
        window.plan_no,
        window.start_local,
    )
    await conn.execute(
        "update plan_windows set distant_made_at = null, distant_since = null where window_no = $1", window.window_no
    )
    return int(tag.split()[-1])


async def has_distant(conn: ReadConn | WriteConn, until: datetime) -> bool:
    """Return whether a window that begins before that time is distant still."""
    return bool(
        await conn.fetchval(
            f"select exists (select from plan_windows w where {_IS_DISTANT} and w.off_at < $1)",  # noqa: S608
            until,
        )
    )


async def lock_due(conn: WriteConn, until: datetime, limit: int) -> list[Occurrence]:
    """Lock and return planned occurrences that begin before that time and have no commands yet."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from plan_occurrences o join plans p using (plan_no)
         where {OPEN} and o.off_at <= $1
         order by o.off_at
         limit $2
           for update of o skip locked
        """,  # noqa: S608
        until,
        limit,
    )
    return [_occurrence(row) for row in rows]


async def fetch_outranked(conn: WriteConn, keys: Sequence[Key]) -> set[Key]:
    """Return those of the occurrences that touch one of a plan that counts before theirs (``domain/overlap.py``)."""
    rows = await conn.fetch(
        f"""
        select o.plan_no, o.start_local, o.load_id
          from {_KEYS}
          join plan_occurrences o using (plan_no, start_local, load_id)
          join plans p using (plan_no)
         where exists (
               select from plans q
                 join plan_windows w on w.plan_no = q.plan_no
                 join plan_occurrences s
                   on s.plan_no = w.plan_no and s.start_local = w.start_local and s.load_id = o.load_id
                where q.state in ('approved', 'active') and q.plan_no <> p.plan_no
                  and (q.rank, q.approved_at, q.plan_id) < (p.rank, p.approved_at, p.plan_id)
                  and w.off_at < o.on_at and w.on_at > o.off_at
                  and s.off_at < o.on_at and s.on_at > o.off_at and s.state <> 'called_off'
           )
        """,  # noqa: S608
        *_columns(keys),
    )
    return {Key(row["plan_no"], row["start_local"], row["load_id"]) for row in rows}


async def set_commands(conn: WriteConn, rows: Sequence[tuple[OccurrenceId, str, str]], at: datetime) -> None:
    """Note the OFF and the ON of occurrences."""
    await conn.execute(
        f"""
        update plan_occurrences o
           set off_command_id = k.off_id, on_command_id = k.on_id, changed_at = $6
          from unnest($1::integer[], $2::timestamp[], $3::text[], $4::text[], $5::text[])
            as k(plan_no, start_local, load_id, off_id, on_id)
         where {_SAME}
        """,  # noqa: S608
        *_columns([key_of(occurrence_id) for occurrence_id, _, _ in rows]),
        [off_id for _, off_id, _ in rows],
        [on_id for _, _, on_id in rows],
        at,
    )


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
        update plan_occurrences o
           set state = k.state, reason = k.reason, went_off_at = coalesce(k.went_off_at, o.went_off_at),
               came_on_at = coalesce(k.came_on_at, o.came_on_at), changed_at = $8
          from unnest($1::integer[], $2::timestamp[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                      $7::timestamptz[])
            as k(plan_no, start_local, load_id, state, reason, went_off_at, came_on_at)
          join plans p using (plan_no)
         where {_SAME} and o.state <> k.state and o.state <> all($9::text[])
        returning {COLUMNS}
        """,  # noqa: S608
        *_columns([key_of(row[0]) for row in rows]),
        [row[1].value for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
        at,
        list(FINAL),
    )
    return [_occurrence(row) for row in found]


async def call_off(
    conn: WriteConn, plan_id: str, at: datetime, reason: str, *, told_until: datetime
) -> list[Occurrence]:
    """End all occurrences of a plan that have no commands yet; return those that begin before ``told_until``.

    Later ones are forgotten: nobody was ever told of them, and there may be millions.
    """
    rows = await conn.fetch(
        f"""
        update plan_occurrences o set state = 'called_off', reason = $2, changed_at = $3
          from plans p
         where p.plan_id = $1 and o.plan_no = p.plan_no and {OPEN} and o.off_at < $4
        returning {COLUMNS}
        """,  # noqa: S608
        plan_id,
        reason,
        at,
        told_until,
    )
    await conn.execute(
        f"delete from plan_occurrences o using plans p where p.plan_id = $1 and o.plan_no = p.plan_no and {OPEN}",  # noqa: S608
        plan_id,
    )
    await conn.execute(
        f"""
        delete from distant_shutdowns d using plans p, plan_windows w
         where p.plan_id = $1 and w.plan_no = p.plan_no and {_IS_DISTANT} and d.window_no = w.window_no
        """,  # noqa: S608
        plan_id,
    )
    await conn.execute(
        "delete from distant_occurrences d using plans p where p.plan_id = $1 and d.plan_no = p.plan_no", plan_id
    )
    await conn.execute("delete from plan_loads l using plans p where p.plan_id = $1 and l.plan_no = p.plan_no", plan_id)
    await conn.execute(
        f"""
        update plan_windows w set distant_made_at = null, distant_since = null
          from plans p where p.plan_id = $1 and w.plan_no = p.plan_no and {_IS_DISTANT}
        """,  # noqa: S608
        plan_id,
    )
    return [_occurrence(row) for row in rows]


async def fetch(conn: ReadConn, occurrence_id: str) -> Occurrence | None:
    """Return one occurrence.

    Raises:
        InvalidInput: That is no id.
    """
    row = await conn.fetchrow(
        f"""
        select {COLUMNS} from plan_occurrences o join plans p using (plan_no) where {_IS_KEY}
         union all
        select {COLUMNS} from ({_DISTANT}) o join plans p using (plan_no) where {_IS_KEY} and {_NOT_ENDED}
        """,  # noqa: S608
        *key_of(occurrence_id),
    )
    return None if row is None else _occurrence(row)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which occurrences somebody wants to see."""

    plan_id: str | None = None
    load_ids: Sequence[str] | None = None
    state: str | None = None
    start: datetime | None = None
    """They begin in the half-open time [start, end)."""
    end: datetime | None = None
    after: tuple[datetime, str] | None = None
    """Begin and id of the one that the page follows."""

    @property
    def values(self) -> tuple[object, ...]:
        """The parameters of ``_WANTED``."""
        return (
            self.plan_id,
            None if self.load_ids is None else list(self.load_ids),
            self.state,
            self.start,
            self.end,
            None if self.after is None else self.after[0],
            *((None, None, None) if self.after is None else key_of(self.after[1])),
        )


async def fetch_page(conn: ReadConn, asked: Asked, limit: int) -> list[Occurrence]:
    """Return occurrences in the order of their OFF."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):  # one that comes near is in one of both
        found = await _fetch_near(conn, asked, limit)
        if asked.state in (None, OccurrenceState.PLANNED):
            found = await _with_distant(conn, asked, limit, found)
    return found


async def _fetch_near(conn: ReadConn, asked: Asked, limit: int) -> list[Occurrence]:
    # Each of them is in one of two indexes by time.
    part = f"(select o.* from plan_occurrences o where {{}} and {_WANTED} order by {_ORDER} limit $10)"  # noqa: S608
    rows = await conn.fetch(
        f"""
        select {COLUMNS}
          from ({part.format(OPEN)} union all {part.format(f"not ({OPEN})")}) o
          join plans p using (plan_no)
         order by {_ORDER}
         limit $10
        """,  # noqa: S608
        *asked.values,
        limit,
    )
    return [_occurrence(row) for row in rows]


async def _with_distant(conn: ReadConn, asked: Asked, limit: int, found: list[Occurrence]) -> list[Occurrence]:
    """Return the page with distant ones among the others: window by window, until all others begin later."""
    passed: tuple[datetime, int, datetime] | None = None
    at_once = 1
    while True:
        windows = await conn.fetch(
            f"""
            select w.plan_no, w.start_local, w.off_at
              from plan_windows w join plans p using (plan_no)
             where {_IS_DISTANT} and {_NOT_ENDED}
               and ($1::text is null or p.plan_id = $1)
               and ($2::timestamptz is null or w.on_at > $2) and ($3::timestamptz is null or w.off_at < $3)
               and ($4::timestamptz is null or w.off_at >= $4
                    and (w.off_at, w.plan_no, w.start_local) > ($4, $5::integer, $6::timestamp))
             order by w.off_at, w.plan_no, w.start_local
             limit $7
            """,  # noqa: S608
            asked.plan_id,
            asked.start if asked.after is None else asked.after[0],
            asked.end,
            *(passed or (None, None, None)),
            at_once,
        )
        if not windows or (len(found) >= limit and found[-1].off_at < windows[0]["off_at"]):
            return found
        rows = await conn.fetch(
            f"""
            select {COLUMNS}
              from unnest($11::integer[], $12::timestamp[]) as k(plan_no, start_local)
             cross join lateral (
                   select * from ({_DISTANT}) o
                    where o.plan_no = k.plan_no and o.start_local = k.start_local and {_WANTED}
                    order by {_ORDER} limit $10
             ) o
              join plans p on p.plan_no = o.plan_no
             order by {_ORDER}
             limit $10
            """,  # noqa: S608
            *asked.values,
            limit,
            [window["plan_no"] for window in windows],
            [window["start_local"] for window in windows],
        )
        found = sorted([*found, *map(_occurrence, rows)], key=_place)[:limit]
        passed = (windows[-1]["off_at"], windows[-1]["plan_no"], windows[-1]["start_local"])
        at_once *= 2


def _place(one: Occurrence) -> tuple[datetime, int, datetime, str]:
    return one.off_at, one.plan_no, one.start_local, one.load_id


_ORDER = "o.off_at, o.plan_no, o.start_local, o.load_id"
_IS_KEY = "o.plan_no = $1 and o.start_local = $2 and o.load_id = $3"
_WANTED = """
    ($1::text is null or o.plan_no = (select plan_no from plans where plan_id = $1))
      and ($2::text[] is null or o.load_id = any($2))
      and ($3::text is null or o.state = $3)
      and ($4::timestamptz is null or o.off_at >= $4) and ($5::timestamptz is null or o.off_at < $5)
      and ($6::timestamptz is null or o.off_at >= $6 and (o.off_at, o.plan_no, o.start_local, o.load_id)
                                                       > ($6, $7::integer, $8::timestamp, $9::text))
"""
_IS_DISTANT = "coalesce(w.distant_made_at, w.distant_since) is not null"
_MADE_AT = "coalesce(w.distant_made_at, w.distant_since)"
_LIKE_NEAR = f"""
    w.plan_no, w.start_local, d.off_at, w.on_at, 'planned'::text as state, ''::text as reason,
    null::text as off_command_id, null::text as on_command_id, null::timestamptz as went_off_at,
    null::timestamptz as came_on_at, {_MADE_AT} as changed_at
"""
_DISTANT = f"""
    select l.load_id, {_LIKE_NEAR}
      from plan_windows w
      join distant_shutdowns d using (window_no)
      join plan_loads l on l.plan_no = w.plan_no and l.load_no = d.load_no
     union all
    select d.load_id, {_LIKE_NEAR}
      from plan_windows w
      join distant_occurrences d using (plan_no, start_local)
"""  # noqa: S608
"""All distant ones with the columns of near ones; the second part is what a release before revision 0017 has made."""
_NOT_ENDED = "p.ended_by is null"
"""A plan whose last window is over has ended too, but what nobody has looked at yet is not called off by that."""
_KEYS = "unnest($1::integer[], $2::timestamp[], $3::text[]) as k(plan_no, start_local, load_id)"
_SAME = "o.plan_no = k.plan_no and o.start_local = k.start_local and o.load_id = k.load_id"


def _columns(keys: Iterable[Key]) -> tuple[list[int], list[datetime], list[str]]:
    ordered = list(keys)
    return [key.plan_no for key in ordered], [key.start_local for key in ordered], [key.load_id for key in ordered]


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    values = dict(row)
    values["state"] = OccurrenceState(values["state"])
    return Occurrence(**values)
