"""What the lines answer: results move commands on, in one transaction with the position on the bus."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.control import CommandState, Stage
from libs.common.db import WriteConn
from libs.common.ids import CommandId
from services.control import bus
from services.control.domain import commands as life
from services.control.domain.commands import Change, Command, Outcome, WireId
from services.control.store import commands as store
from services.control.store import loads as load_store
from services.control.usecases.ports import SteadyClock
from services.control.usecases.rush import Rush
from services.control.usecases.switching import Switching

logger = logging.getLogger(__name__)

RECENT = timedelta(seconds=5)
"""In a flood answers come by the thousand and not steadily: a pause of some seconds is none of the bus."""
ONE_BY_ONE = 20
"""So many answers of a set are logged one by one; of more of them those that did not work, and how many did."""
ON_THE_WAY = frozenset({CommandState.ACCEPTED, CommandState.VERIFYING})
"""They are in the command's history; the log needs what comes of it."""


class ResultHandler:
    """The effects of ``control.results``; everything it knows is in the database."""

    def __init__(self, *, clock: SteadyClock, switching: Switching, wake_relay: Callable[[], None], rush: Rush) -> None:
        self._clock = clock
        self._rush = rush
        self._switching = switching
        self._wake_relay = wake_relay
        self._answered_at: datetime | None = None

    def answers_come(self) -> bool:
        """Return whether an answer was taken within the last seconds, so that the bus is known to work."""
        return self._answered_at is not None and self._clock.now() - self._answered_at < RECENT

    def heard(self) -> None:
        """Note that answers have come, which need not be handled yet."""
        self._answered_at = self._clock.now()

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Let the outbox go out at once: a wake-up may be in it."""
        self._wake_relay()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Apply results in their order; those of different commands go together in one set.

        Raises:
            PoisonMessage: A message is no result.
        """
        todo: list[tuple[WireId, Outcome]] = []
        for received in batch:
            try:
                todo.append(bus.read_result(received))
            except bus.Unreadable as exc:
                raise PoisonMessage(received, str(exc)) from exc
        loads = await store.loads_of(conn, {wire.command_id for wire, _ in todo})
        await load_store.lock_loads(conn, loads.values())
        released = await load_store.released_trips(conn, loads.values())
        while todo:
            now = self._clock.now()
            current = await store.fetch_many(conn, {wire.command_id for wire, _ in todo})
            pairs = await store.fetch_many(conn, {c.pair_id for c in current.values() if c.pair_id is not None})
            changes, todo = self._follow(todo, loads, current, pairs, released, now)
            _log(changes)
            self._rush.note(len(changes))
            await self._switching.apply(conn, changes, now)
        self.heard()

    def _follow(
        self,
        todo: list[tuple[WireId, Outcome]],
        loads: Mapping[str, str],
        current: dict[CommandId, Command],
        pairs: Mapping[CommandId, Command],
        released: Mapping[str, int],
        now: datetime,
    ) -> tuple[list[Change], list[tuple[WireId, Outcome]]]:
        """Follow the answers as far as nothing else depends on them; return the changes, and what is left.

        That a sending was accepted, and executed, concerns its command alone, and the answers to it mostly come
        together: they are one set. What means something to other commands ends the set for its load.
        """
        changes: list[Change] = []
        left: list[tuple[WireId, Outcome]] = []
        moved: dict[str, CommandId] = {}
        ended: set[str] = set()
        for wire, outcome in todo:
            load_id = loads.get(wire.command_id)
            if load_id is None:
                continue
            if load_id in ended or moved.get(load_id, wire.command_id) != wire.command_id:
                ended.add(load_id)
                left.append((wire, outcome))
                continue
            change = self._change(current.get(wire.command_id), pairs, outcome, now, released)
            if change is None:
                continue
            changes.append(change)
            current[change.after.command_id] = change.after
            moved[load_id] = change.after.command_id
            if change.effects or change.after.command_id != wire.command_id:
                ended.add(load_id)
        return changes, left

    def _change(
        self,
        command: Command | None,
        pairs: Mapping[CommandId, Command],
        outcome: Outcome,
        now: datetime,
        released: Mapping[str, int],
    ) -> Change | None:
        if command is None:
            return None  # of another installation, or older than what we keep
        by_holder = outcome.stage is Stage.VERIFIED and outcome.breaker == life.CLOSED and command.state.is_final
        if outcome.stage is Stage.RESTORED or (command.is_off and by_holder):
            # The line's holder closed by itself, and names the OFF that it had opened for.
            on = pairs.get(command.pair_id) if command.is_off and command.pair_id is not None else None
            return None if on is None else life.restored(on, outcome, now)
        return life.on_outcome(
            command, outcome, now, self._switching.policy, released_trip=released.get(command.load_id)
        )


def _log(changes: Sequence[Change]) -> None:
    """Log what has become of commands; each of them is in the command's history and in the audit too."""
    answered = [change for change in changes if change.is_transition]
    many = len(answered) > ONE_BY_ONE
    for change in answered:
        after = change.after
        if after.state in ON_THE_WAY or (many and after.state is CommandState.SUCCEEDED):
            continue
        logger.info(
            "command answered",
            extra={
                "command_id": after.command_id,
                "load_id": after.load_id,
                "action": after.action.value,
                "state": after.state.value,
                "reason": after.reason,
            },
        )
    if many:
        states = Counter(change.after.state.value for change in answered)
        logger.info("many commands answered", extra={"states": dict(states)})
