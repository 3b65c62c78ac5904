"""SQL of occurrences: one shutdown of one load by a plan.

There may be millions of them: plans are numbered, the key is the identity, and what is written in bulk is written in
the order of the key. The id that people and topics see is the key in words.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from libs.common.contracts.control import OccurrenceState
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import InvalidInput
from libs.common.ids import LoadId, OccurrenceId, PlanId
from services.control.domain.plans import Plan, WindowInstance
from services.control.domain.stagger import offsets
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


async def insert(conn: WriteConn, plan: Plan, plan_no: int, windows: Sequence[WindowInstance], at: datetime) -> int:
    """Make the occurrences of windows for every load of the stored plan; returns how many.

    The caller makes each window once: a second time would break the key.
    """
    if not windows:
        return 0
    await conn.execute(
        """
        insert into plan_windows (plan_no, start_local, off_at, on_at)
        select $1, * from unnest($2::timestamp[], $3::timestamptz[], $4::timestamptz[])
        """,
        plan_no,
        [window.start_local for window in windows],
        [window.off_at for window in windows],
        [window.on_at for window in windows],
    )
    async with aclosing(_in_parts(copied_rows(plan, plan_no, windows, at))) as parts:
        tag = await conn.copy_to_table("plan_occurrences", source=parts, columns=COPIED, format="binary")
    return int(tag.split()[-1])


def copied_rows(plan: Plan, plan_no: int, windows: Sequence[WindowInstance], at: datetime) -> Iterator[bytes]:
    """Yield occurrences as a binary COPY takes them, window by window in the order of the loads."""
    load_ids = sorted(plan.load_ids)
    spread = offsets(plan.plan_id, load_ids, [window.start_local for window in windows], plan.options.stagger)
    of_loads = spread.of_loads or [0] * len(load_ids)
    loads = [copying.text(load_id) for load_id in load_ids]
    yield copying.HEADER
    for window, of_window in zip(windows, spread.of_windows, strict=True):
        head = (
            copying.begin_row(len(COPIED)) + copying.integer(plan_no) + copying.wall_time(window.start_local)
            + copying.instant(window.on_at) + copying.instant(at)
        )  # fmt: skip
        for first in range(0, len(loads), LOADS_AT_ONCE):
            part = slice(first, first + LOADS_AT_ONCE)
            delays = [(of_load + of_window) % spread.modulus for of_load in of_loads[part]]
            begins = _begins(head, window, delays)
            yield b"".join(
                [begins[delay] + load for delay, load in zip(delays, loads[part], strict=True) if delay in begins]
            )
    yield copying.TRAILER


def _begins(head: bytes, window: WindowInstance, delays: Iterable[int]) -> dict[int, bytes]:
    """Return the rows up to the load, by delay; one that leaves nothing of the window is not among them."""
    found: dict[int, bytes] = {}
    for delay in set(delays):
        off_at = window.off_at + timedelta(seconds=delay)
        if off_at < window.on_at:
            found[delay] = head + copying.instant(off_at)
    return found


async def _in_parts(rows: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    for part in rows:  # some milliseconds each
        yield part
        await asyncio.sleep(0)


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
    return [_occurrence(row) for row in rows]


async def fetch(conn: ReadConn, occurrence_id: str) -> Occurrence | None:
    """Return one occurrence.

    Raises:
        InvalidInput: That is no id.
    """
    row = await conn.fetchrow(
        f"""
        select {COLUMNS} from plan_occurrences o join plans p using (plan_no)
         where o.plan_no = $1 and o.start_local = $2 and o.load_id = $3
        """,  # noqa: S608
        *key_of(occurrence_id),
    )
    return None if row is None else _occurrence(row)


async def fetch_page(
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
    wanted = """
        ($1::text is null or o.plan_no = (select plan_no from plans where plan_id = $1))
          and ($2::text[] is null or o.load_id = any($2))
          and ($3::text is null or o.state = $3)
          and ($4::timestamptz is null or o.off_at >= $4) and ($5::timestamptz is null or o.off_at < $5)
          and ($6::timestamptz is null or o.off_at >= $6 and (o.off_at, o.plan_no, o.start_local, o.load_id)
                                                           > ($6, $7::integer, $8::timestamp, $9::text))
    """
    # Every occurrence is in one of two indexes by time.
    part = f"""
        (select o.* from plan_occurrences o where {{}} and {wanted}
          order by o.off_at, o.plan_no, o.start_local, o.load_id limit $10)
    """  # noqa: S608
    rows = await conn.fetch(
        f"""
        select {COLUMNS}
          from ({part.format(OPEN)} union all {part.format(f"not ({OPEN})")}) o
          join plans p using (plan_no)
         order by o.off_at, o.plan_no, o.start_local, o.load_id
         limit $10
        """,  # noqa: S608
        plan_id,
        None if load_ids is None else list(load_ids),
        state,
        start,
        end,
        None if after is None else after[0],
        *((None, None, None) if after is None else key_of(after[1])),
        limit,
    )
    return [_occurrence(row) for row in rows]


_KEYS = "unnest($1::integer[], $2::timestamp[], $3::text[]) as k(plan_no, start_local, load_id)"
_SAME = "o.plan_no = k.plan_no and o.start_local = k.start_local and o.load_id = k.load_id"


def _columns(keys: Iterable[Key]) -> tuple[list[int], list[datetime], list[str]]:
    ordered = list(keys)
    return [key.plan_no for key in ordered], [key.start_local for key in ordered], [key.load_id for key in ordered]


def _occurrence(row: Mapping[str, Any]) -> Occurrence:
    values = dict(row)
    values["state"] = OccurrenceState(values["state"])
    return Occurrence(**values)
