"""Putting on record: an entry is written in the transaction of what it tells of, and told to the audit of all services.

The chain is made behind: one process links what others have written, in its own transactions, so that no switching ever
waits for another one's record.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from libs.common.auditchain import Head, digest_of
from libs.common.bus import outbox
from libs.common.contracts.control import CommandState
from libs.common.db import Database, WriteConn
from libs.common.ids import CommandId
from libs.common.tokens import KeyRing
from services.control import bus
from services.control.domain.adjusting import Adjustment
from services.control.domain.audit import CLOCKWORK, ENDS, PLAN, Entry, has_ended, setting_ended, switched
from services.control.domain.commands import Change
from services.control.store import audit as store
from services.control.store.audit import HeadRow, Stored
from services.control.store.occurrences import Occurrence
from services.control.usecases.ports import SteadyClock

logger = logging.getLogger(__name__)

AT_ONCE = 500
"""Entries linked in one transaction: a few milliseconds of hashing."""
PUBLISH_EVERY = timedelta(minutes=1)
HEAD_SUBJECT = "audit:control"


async def record(conn: WriteConn, *entries: Entry) -> None:
    """Put what somebody has done on record, in the transaction that does it, and tell the audit of all services."""
    await store.append(conn, entries)
    await outbox.put(conn, [bus.audit(entry) for entry in entries])


async def record_switchings(conn: WriteConn, changes: Iterable[Change]) -> None:
    """Put the switchings of loads that have ended on record; in a set, and here only: ``control.events`` tells them."""
    ended = [change for change in changes if has_ended(change)]
    plans = {str(change.after.plan_id) for change in ended if change.after.plan_id is not None}
    approvers = await store.fetch_approvers(conn, plans)
    await store.append(conn, [switched(change, approvers.get(str(change.after.plan_id))) for change in ended])


async def record_skipped(
    conn: WriteConn, skipped: Iterable[Occurrence], apps: Mapping[str, str], now: datetime
) -> None:
    """Put on record why plans have not switched loads off of which no command was made; ``control.events`` tells them.

    Args:
        conn: The transaction that skips them.
        skipped: As they are now.
        apps: The upstream app of each plan that is one's.
        now: The time.
    """
    found = list(skipped)
    approvers = await store.fetch_approvers(conn, {one.plan_id for one in found})
    entries = []
    for one in found:
        app = apps.get(one.plan_id)
        after = {
            "state": one.state, "reason": one.reason, "occurrence_id": one.occurrence_id, "plan_id": one.plan_id,
            "wanted_at": one.off_at, "restore_at": one.on_at, "approved_by": approvers.get(one.plan_id),
        }  # fmt: skip
        entry = Entry(
            app or f"plan:{one.plan_id}", PLAN, "load.off", f"load:{one.load_id}", now, before={"state": "planned"},
            after=after, succeeded=False,
        )  # fmt: skip
        entries.append(entry)
    await store.append(conn, entries)


async def record_settings(
    conn: WriteConn, before: Mapping[CommandId, CommandState], after: Iterable[Adjustment], now: datetime
) -> None:
    """Put the ends of orders inside devices on record; in a set, and here only: ``control.events`` tells them.

    Args:
        conn: The transaction that ends them.
        before: In which state each of them was.
        after: As they have become; those that have not ended are left out.
        now: The time.
    """
    ended = [one for one in after if one.state in ENDS]
    await store.append(conn, [setting_ended(before[one.adjustment_id], one, now) for one in ended])


class Linker:
    """Makes the chain; one process does it at a time, and two at once would wait for each other at the head."""

    def __init__(self, *, db: Database, clock: SteadyClock, keys: KeyRing) -> None:
        self._db = db
        self._clock = clock
        self._keys = keys
        self._published_at = clock.now() - PUBLISH_EVERY

    async def turn(self) -> bool:
        """Link what waits, publish the head now and then; return whether there may be more."""
        async with self._db.write() as conn:
            head = await store.lock_head(conn)
            waiting = await store.take_pending(conn, AT_ONCE)
            links = await asyncio.to_thread(chained, head, waiting)
            if links:
                await store.link(conn, links)
                seq, _, digest = links[-1]
                head = HeadRow(seq, digest, head.published_seq)
            await self._publish(conn, head)
        return len(waiting) >= AT_ONCE

    async def _publish(self, conn: WriteConn, head: HeadRow) -> None:
        """Tell the world where the chain ends, so that a shorter or another one shows."""
        now = self._clock.now()
        if head.seq == head.published_seq or now - self._published_at < PUBLISH_EVERY:
            return
        self._published_at = now
        signed = Head.signed(self._keys, bus.SOURCE, head.seq, head.hash, now)
        await store.set_published(conn, head.seq)
        entry = Entry(CLOCKWORK, "service", "audit.head", HEAD_SUBJECT, now, after=signed.as_json())
        await outbox.put(conn, [bus.audit(entry)])


def chained(head: HeadRow, waiting: Sequence[Stored]) -> list[tuple[int, int, str]]:
    """Return the links ``(seq, place, hash)`` of entries behind the head."""
    seq, previous = head.seq, head.hash
    links: list[tuple[int, int, str]] = []
    for one in waiting:
        if one.seq is not None:  # linked already: somebody has put it on the list again
            continue
        seq += 1
        previous = digest_of({**one.entry, "seq": seq}, previous)
        links.append((seq, one.place, previous))
    return links
