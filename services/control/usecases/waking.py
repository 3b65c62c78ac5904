"""Carrying out wake-up orders: the order is stored first, its commands are made in parts and sent at once.

What one key has to store for ten thousand loads is done in one transaction and answered; from then on every load of it
is to be woken, whoever dies. Each part is a transaction of its own: it takes loads that have no command yet, decides by
the same rules as of every ON that is due, and leaves a command that is sent, or waits with its reason.
"""

from collections.abc import Callable
from datetime import datetime
from itertools import groupby

from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import Database
from libs.common.ids import CommandId, new_id
from services.control.domain.commands import Change, Command, Effect, on_due
from services.control.domain.guards import Facts
from services.control.store import waking as store
from services.control.store.waking import ToWake
from services.control.usecases.ports import Readings
from services.control.usecases.rush import Rush
from services.control.usecases.switching import Switching

PART = 1000
"""Loads in one transaction: some tenths of a second, in which the first of them are on their way already."""

ONLY_SENT = frozenset({Effect.SEND})


class Waking:
    """Makes the commands of wake-up orders; several processes may do so beside each other."""

    def __init__(
        self, *, db: Database, switching: Switching, readings: Readings, answers_come: Callable[[], bool], rush: Rush
    ) -> None:
        """Prepare; ``answers_come`` says whether the lines have answered anything within the last seconds."""
        self._db = db
        self._switching = switching
        self._readings = readings
        self._answers_come = answers_come
        self._rush = rush
        self.is_sending = False
        """Whether the last turn found loads that were to be woken, so that there may be more."""

    async def turn(self, now: datetime) -> bool:
        """Make and send the commands of some loads; returns whether there were any, so that there may be more."""
        async with self._db.write() as conn:
            taken = await store.take_todo(conn, now, PART)
            self.is_sending = bool(taken)
            if not taken:
                return False
            self._rush.note(len(taken))
            sent: list[Change] = []
            others: list[Change] = []
            for one in taken:
                change = self._decide(one, now)
                (sent if change.effects == ONLY_SENT else others).append(change)
            for _, alike in groupby(sent, key=_together):
                await self._switching.send_new(conn, list(alike), now)
            await self._switching.store_new(conn, [change.before for change in others], now)
            await self._switching.apply(conn, others, now)
        return True

    def _decide(self, one: ToWake, now: datetime) -> Change:
        facts = Facts(
            reading=self._readings.of(one.load_id), busy=one.busy, isolation_id=one.isolation_id,
            released_trip=one.released_trip, answers_come=self._answers_come(),
        )  # fmt: skip
        return on_due(_command(one, now), facts, now, self._switching.policy)


def _command(one: ToWake, now: datetime) -> Command:
    """Return the ON of a load as its order has wanted it; it is late from the moment of the order."""
    wanted_at = min(one.ordered_at, now)  # the clock may have been put back since
    return Command(
        command_id=CommandId(new_id()), action=CommandAction.CLOSE, site_id=one.site_id, device_id=one.device_id,
        line_id=one.line_id, load_id=one.load_id, channel=one.channel, priority=Priority.EMERGENCY,
        state=CommandState.SCHEDULED, created_at=wanted_at, not_before=wanted_at, next_at=wanted_at,
        wake_up_id=one.wake_up_id, actor=one.actor, note=one.note,
    )  # fmt: skip


def _together(change: Change) -> tuple[object, ...]:
    """Return what is the same for commands that are stored by one statement."""
    after = change.after
    return after.wake_up_id, after.created_at, after.sent_at, after.next_at, after.wire_not_after
