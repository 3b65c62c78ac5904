"""What the lines answer: results move commands on, in one transaction with the position on the bus."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.control import Stage
from libs.common.db import WriteConn
from libs.common.ids import CommandId
from services.control import bus
from services.control.domain import commands as life
from services.control.domain.commands import Change, Command, Outcome, WireId
from services.control.store import commands as store
from services.control.store import loads as load_store
from services.control.usecases.ports import SteadyClock
from services.control.usecases.switching import Switching

logger = logging.getLogger(__name__)


class ResultHandler:
    """The effects of ``control.results``; everything it knows is in the database."""

    def __init__(self, *, clock: SteadyClock, switching: Switching, wake_relay: Callable[[], None]) -> None:
        self._clock = clock
        self._switching = switching
        self._wake_relay = wake_relay

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
            taken, todo = _one_per_load(todo, loads)
            current = await store.fetch_many(conn, {wire.command_id for wire, _ in taken})
            pairs = await store.fetch_many(conn, {c.pair_id for c in current.values() if c.pair_id is not None})
            changes = [
                change
                for wire, outcome in taken
                if (change := self._change(current.get(wire.command_id), pairs, outcome, now, released)) is not None
            ]
            await self._switching.apply(conn, changes, now)

    def _change(
        self,
        command: Command | None,
        pairs: dict[CommandId, Command],
        outcome: Outcome,
        now: datetime,
        released: dict[str, int],
    ) -> Change | None:
        if command is None:
            return None  # of another installation, or older than what we keep
        by_holder = outcome.stage is Stage.VERIFIED and outcome.breaker == life.CLOSED and command.state.is_final
        if outcome.stage is Stage.RESTORED or (command.is_off and by_holder):
            # The line's holder closed by itself, and names the OFF that it had opened for.
            on = pairs.get(command.pair_id) if command.is_off and command.pair_id is not None else None
            return None if on is None else life.restored(on, outcome, now)
        change = life.on_outcome(
            command, outcome, now, self._switching.policy, released_trip=released.get(command.load_id)
        )
        if change is not None and change.after.state is not command.state:
            logger.info(
                "command answered",
                extra={
                    "command_id": command.command_id,
                    "load_id": command.load_id,
                    "action": command.action.value,
                    "state": change.after.state.value,
                    "reason": change.after.reason,
                },
            )
        return change


def _one_per_load(
    todo: list[tuple[WireId, Outcome]], loads: dict[str, str]
) -> tuple[list[tuple[WireId, Outcome]], list[tuple[WireId, Outcome]]]:
    """Split off the first result of each load, so that a set never changes a command twice."""
    taken: list[tuple[WireId, Outcome]] = []
    rest: list[tuple[WireId, Outcome]] = []
    seen: set[str] = set()
    for wire, outcome in todo:
        load_id = loads.get(wire.command_id)
        if load_id is None:
            continue
        (rest if load_id in seen else taken).append((wire, outcome))
        seen.add(load_id)
    return taken, rest
