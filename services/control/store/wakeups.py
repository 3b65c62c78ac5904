"""SQL of the progress of wake-up orders: counts of one statement, and the loads that are not awake, in pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from libs.common.contracts.control import CommandState
from libs.common.db import ReadConn
from services.control.domain.faults import SILENT_AFTER_S, Fault
from services.control.domain.guards import Hold

Which = Literal["not_awake", "failed", "held", "unreachable", "all"]

AWAKE = "c.state in ('succeeded', 'superseded')"
"""A wake-up that another one has overtaken is over because the load was proven on."""

FAULT = f"""
    case when {AWAKE} or c.fault is not null then c.fault
         when c.state in ('accepted', 'verifying') and c.sent_at < $2 then 'no_answer'
         when c.state = 'dispatched' and c.sent_at < $2 then 'not_taken'
         when c.attempt = 0 and c.created_at < $2 then 'not_sent' end
"""
"""What is the matter, also of a command whose answer is still waited for; by the time ``$2`` it should be there."""

TODO_FAULT = "case when t.ordered_at < $2 then 'not_sent' end"
"""The same of a load whose command is still to be made."""

COUNTS = f"""
    select c.wake_up_id, {AWAKE} as awake, c.hold is not null and not c.is_final as held, {FAULT} as fault,
           count(*) as loads,
           count(*) filter (where c.attempt > 0 or {AWAKE}) as commanded,
           count(*) filter (where {AWAKE} or c.state in ('accepted', 'verifying', 'unknown')
                               or (c.state = 'scheduled' and c.attempt > 0
                                   and c.fault is distinct from 'not_taken')) as accepted
      from commands c
     where c.wake_up_id = any($1::text[])
     group by 1, 2, 3, 4
    union all
    select t.wake_up_id, false, false, {TODO_FAULT}, count(*), 0, 0
      from wake_up_todo t
     where t.wake_up_id = any($1::text[])
     group by 1, 4
"""  # noqa: S608 - of constants
"""A load whose command is still to be made is one that has not been commanded."""

PAGE = f"""
    select c.load_id, c.site_id, c.device_id, c.channel, c.state, c.attempt, c.sent_at, c.changed_at, c.reason, c.hold,
           {FAULT} as fault, {AWAKE} as awake
      from commands c
     where c.wake_up_id = $1 and c.load_id > $3
       and case $4 when 'not_awake' then not ({AWAKE})
                   when 'held' then c.hold is not null and not c.is_final
                   when 'failed' then not ({AWAKE}) and {FAULT} is not null
                   else $4 = 'all' end
    union all
    select t.load_id, t.site_id, t.device_id, t.channel, 'scheduled', 0, null, t.ordered_at, '', null,
           {TODO_FAULT}, false
      from wake_up_todo t
     where t.wake_up_id = $1 and t.load_id > $3
       and ($4 in ('not_awake', 'all') or ($4 = 'failed' and {TODO_FAULT} is not null))
    union all
    select u.load_id, null, null, null, 'rejected', 0, null, w.created_at, 'no_breaker', null, 'no_breaker', false
      from wake_ups w, unnest(w.unreachable) as u(load_id)
     where w.wake_up_id = $1 and u.load_id > $3 and $4 in ('unreachable', 'all')
     order by load_id
     limit $5
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class Counted:
    """How many loads of an order are in one situation."""

    awake: bool
    held: bool
    fault: Fault | None
    loads: int
    commanded: int
    """Sent once at least, or found on."""
    accepted: int
    """Taken by the holder of the line, as far as the last sending goes, or proven on."""


@dataclass(frozen=True, slots=True)
class WakeLoad:
    """One load of an order, and how far its wake-up is."""

    load_id: str
    site_id: str | None
    """None where the registry knows no breaker."""
    device_id: str | None
    channel: int | None
    state: CommandState
    attempts: int
    sent_at: datetime | None
    changed_at: datetime
    reason: str
    hold: Hold | None
    fault: Fault | None
    awake: bool


async def count(conn: ReadConn, wake_up_ids: Sequence[str], now: datetime) -> dict[str, list[Counted]]:
    """Return the situations of the loads of several orders."""
    found: dict[str, list[Counted]] = {wake_up_id: [] for wake_up_id in wake_up_ids}
    for row in await conn.fetch(COUNTS, list(wake_up_ids), _silent_since(now)):
        found[row["wake_up_id"]].append(
            Counted(
                awake=row["awake"], held=row["held"], fault=_fault(row["fault"]), loads=row["loads"],
                commanded=row["commanded"], accepted=row["accepted"],
            )
        )  # fmt: skip
    rows = await conn.fetch(
        "select wake_up_id, cardinality(unreachable) as loads from wake_ups where wake_up_id = any($1::text[])",
        list(wake_up_ids),
    )
    for row in rows:
        if row["loads"]:
            found[row["wake_up_id"]].append(Counted(False, False, Fault.NO_BREAKER, row["loads"], 0, 0))
    return found


async def fetch_loads(
    conn: ReadConn, wake_up_id: str, *, which: Which, after: str, limit: int, now: datetime
) -> list[WakeLoad]:
    """Return loads of an order in the order of their ids."""
    rows = await conn.fetch(PAGE, wake_up_id, _silent_since(now), after, which, limit)
    return [
        WakeLoad(
            load_id=row["load_id"], site_id=row["site_id"], device_id=row["device_id"], channel=row["channel"],
            state=CommandState(row["state"]), attempts=row["attempt"], sent_at=row["sent_at"],
            changed_at=row["changed_at"], reason=row["reason"], hold=None if row["hold"] is None else Hold(row["hold"]),
            fault=_fault(row["fault"]), awake=row["awake"],
        )
        for row in rows
    ]  # fmt: skip


def _silent_since(now: datetime) -> datetime:
    return now - timedelta(seconds=SILENT_AFTER_S)


def _fault(value: Any) -> Fault | None:
    return None if value is None else Fault(value)
