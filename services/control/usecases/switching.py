"""Applying changes of commands: state, history, events, and what a change means for other commands, in one transaction.

Every caller has locked the loads concerned (``store.commands.lock_loads``). Changes are applied in sets; what follows
from a set is again a set, until nothing follows.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.bus.port import Message
from libs.common.contracts import control as contract
from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction, CommandState, OccurrenceState, Priority
from libs.common.db import WriteConn
from libs.common.ids import CommandId, DeviceId, OccurrenceId, PlanId, SiteId, new_id
from libs.common.tokens import KeyRing
from services.control import bus, metrics
from services.control.domain import commands as life
from services.control.domain.commands import Change, Command, Effect
from services.control.domain.guards import Policy
from services.control.domain.loads import LoadInfo
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store import occurrences as occurrence_store
from services.control.store import waking as waking_store
from services.control.store.commands import HistoryRow
from services.control.store.occurrences import Occurrence
from services.control.usecases.auditing import record_switchings
from services.control.usecases.ports import Loads

logger = logging.getLogger(__name__)

S = CommandState
BREATH = 96
"""Commands handled before the event loop gets its turn: some milliseconds, and some times ``signing.TOGETHER``."""
MAX_ROUNDS = 10
"""A change has consequences, and these have some; more rounds than this are a fault of ours."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A shutdown that has passed the guards."""

    load: LoadInfo
    off_at: datetime
    restore_at: datetime | None
    """None only under an isolation."""
    priority: Priority
    actor: str
    occurrence_id: OccurrenceId | None = None
    plan_id: PlanId | None = None
    group_id: str | None = None
    isolation_id: str | None = None
    not_after: datetime | None = None
    """When it is dropped, where the order says so; the grace time of every other shutdown."""
    lease_until: datetime | None = None
    """An isolation's expiry; ``restore_at`` of every other shutdown."""
    note: str | None = None


class Switching:
    """Writes commands and what follows from them."""

    def __init__(self, *, loads: Loads, keys: KeyRing, policy: Policy) -> None:
        self.loads = loads
        self.policy = policy
        self._keys = keys

    # New commands.

    async def shut_down(
        self,
        conn: WriteConn,
        wanted: Sequence[Wanted],
        now: datetime,
        *,
        approval: bool = False,
        approve_by: datetime | None = None,
    ) -> list[Command]:
        """Store shutdowns, each with its wake-up and its lease, in the caller's transaction; return the OFFs.

        Args:
            conn: The transaction; the loads are locked.
            wanted: What is to happen.
            now: The time.
            approval: A second person has to agree first; until then there is no lease.
            approve_by: The same, by that time, or the OFFs are over.
        """
        approval = approval or approve_by is not None
        offs: list[Command] = []
        ons: list[Command] = []
        until: list[datetime] = []
        for number, one in enumerate(wanted):
            await _breathe(number)
            off, on = self._pair(one, now, approval=approval)
            if approve_by is not None:
                off = replace(off, next_at=approve_by)
            offs.append(off)
            if on is not None:
                ons.append(on)
            lease_until = one.lease_until or one.restore_at
            if lease_until is None:
                raise ValueError(f"{one.load.load_id}: an OFF without any end")
            until.append(lease_until)
        await store.insert(conn, [*offs, *ons])
        if not approval:
            await lease_store.insert_leases(conn, offs, until)
        await self._announce(conn, [*offs, *ons], now)
        return offs

    def _pair(self, one: Wanted, now: datetime, *, approval: bool) -> tuple[Command, Command | None]:
        load = one.load
        if load.device_id is None or load.line_id is None:
            raise ValueError(f"{load.load_id} has no breaker that can be reached")
        off_id, on_id = CommandId(new_id()), CommandId(new_id())
        off_at_most_s = None if one.restore_at is None else (one.restore_at - one.off_at).total_seconds()
        off = Command(
            command_id=off_id, action=CommandAction.OPEN, site_id=load.site_id, device_id=load.device_id,
            line_id=load.line_id, load_id=load.load_id, channel=load.channel, priority=one.priority,
            state=S.APPROVAL if approval else S.SCHEDULED, created_at=now, not_before=one.off_at,
            next_at=None if approval else one.off_at,
            not_after=one.not_after or one.off_at + timedelta(seconds=self.policy.off_grace_s),
            restore_at=one.restore_at, off_at_most_s=off_at_most_s, isolation_id=one.isolation_id,
            pair_id=None if one.restore_at is None else on_id, occurrence_id=one.occurrence_id, plan_id=one.plan_id,
            group_id=one.group_id, actor=one.actor, note=one.note,
        )  # fmt: skip
        if one.restore_at is None:
            return off, None
        on = replace(
            off, command_id=on_id, action=CommandAction.CLOSE, state=S.SCHEDULED, not_before=one.restore_at,
            next_at=one.restore_at, not_after=None, restore_at=None, off_at_most_s=None, pair_id=off_id,
        )  # fmt: skip
        return off, on

    async def wake(
        self,
        conn: WriteConn,
        loads: Iterable[LoadInfo],
        now: datetime,
        *,
        priority: Priority,
        actor: str,
        group_id: str | None = None,
        at: datetime | None = None,
        note: str | None = None,
    ) -> list[Command]:
        """Store plain wake-ups in the caller's transaction and return them; a load without a breaker is left out."""
        commands = [
            Command(
                command_id=CommandId(new_id()), action=CommandAction.CLOSE, site_id=load.site_id,
                device_id=load.device_id, line_id=load.line_id, load_id=load.load_id, channel=load.channel,
                priority=priority, state=S.SCHEDULED, created_at=now, not_before=at or now, next_at=at or now,
                group_id=group_id, actor=actor, note=note,
            )
            for load in loads
            if load.device_id is not None and load.line_id is not None
        ]  # fmt: skip
        await self.store_new(conn, commands, now)
        return commands

    async def clear_the_way(
        self, conn: WriteConn, load_ids: Iterable[str], priority: Priority, by: str, now: datetime
    ) -> None:
        """End the OFFs of these loads that have not been sent and give way to an ON of that priority."""
        running = await store.fetch_running(conn, load_ids, CommandAction.OPEN)
        yielding = [off for off in running if life.gives_way_to_on(off, priority)]
        await self.apply(conn, [life.superseded(off, by, now, Effect.DROP_WAKE_UP) for off in yielding], now)

    async def send_new(self, conn: WriteConn, changes: Sequence[Change], now: datetime) -> None:
        """Store ONs of one order that are sent as soon as they are made, in the caller's transaction.

        Nobody is told that such a command is scheduled: the first that is heard of it is that it was dispatched.

        Args:
            conn: The transaction; the loads are locked.
            changes: From a new command to its first sending, all decided at ``now`` and by the same limits.
            now: The time.
        """
        await waking_store.insert_sent(conn, changes)
        messages: list[Message] = []
        for first in range(0, len(changes), BREATH):
            part = changes[first : first + BREATH]
            messages += bus.signed_together([self._order(change) for change in part], self._keys)
            messages += [bus.command_event(change) for change in part]
            for change in part:
                metrics.note(change)
            await asyncio.sleep(0)
        await outbox.put(conn, messages)

    async def store_new(self, conn: WriteConn, commands: Sequence[Command], now: datetime) -> None:
        """Store commands in the caller's transaction, begin their history and tell of them."""
        await store.insert(conn, commands)
        await self._announce(conn, commands, now)

    async def _announce(self, conn: WriteConn, commands: Sequence[Command], now: datetime) -> None:
        """Begin the history of new commands and tell of them."""
        history: list[tuple[CommandId, HistoryRow]] = []
        messages: list[Message] = []
        for number, command in enumerate(commands):
            await _breathe(number)
            history += [(command.command_id, step) for step in store.birth(command)]
            messages.append(_born(command, now))
        await store.insert_history(conn, history)
        await outbox.put(conn, messages)

    # Changes.

    async def apply(self, conn: WriteConn, changes: Sequence[Change], now: datetime) -> None:
        """Write changes and all that follows from them.

        Raises:
            RuntimeError: Consequences do not end; a fault of ours.
        """
        messages: list[Message] = []
        todo = list(changes)
        for _ in range(MAX_ROUNDS):
            if not todo:
                await outbox.put(conn, messages)
                return
            await store.update(conn, todo)
            await record_switchings(conn, todo)
            for number, change in enumerate(todo):
                await _breathe(number)
                messages += self._messages(change, now)
                metrics.note(change)
            todo = await self._consequences(conn, todo, now, messages)
        raise RuntimeError("the consequences of a change do not end")

    def _messages(self, change: Change, now: datetime) -> list[Message]:
        before, after = change.before, change.after
        found: list[Message] = []
        if change.is_transition:
            found.append(bus.command_event(change))
        if Effect.SEND in change.effects:
            found.append(bus.signed(self._order(change), self._keys))
        if Effect.LOOK in change.effects:
            valid_until = now + timedelta(seconds=self.policy.accept_timeout_s)
            found.append(bus.look_message(after, self._keys, now, valid_until, meter=self._meter(after)))
        if Effect.CALL_PERSON in change.effects and after.hold is not None:
            found.append(
                bus.condition(
                    ConditionKind.WAKE_UP_STOPPED, Phase.BEGIN, load_id=after.load_id, site_id=after.site_id,
                    device_id=after.device_id, at=change.at, text=after.hold.value,
                )
            )  # fmt: skip
        if before.hold is not None and after.hold is None:
            found.append(self._ended(ConditionKind.WAKE_UP_STOPPED, before.hold.value, change))
        if after.alarmed and after.state.is_final:
            found.append(self._ended(ConditionKind.WAKE_UP_OVERDUE, "overdue", change))
        return found

    def _order(self, change: Change) -> contract.Command:
        return bus.order_of(change.after, meter=self._meter(change.after), released_trip=change.released_trip)

    def _meter(self, command: Command) -> DeviceId | None:
        load = self.loads.get(command.load_id)
        return None if load is None else load.meter_device_id

    def _ended(self, kind: ConditionKind, text: str, change: Change) -> Message:
        return bus.condition(
            kind, Phase.END, load_id=change.after.load_id, site_id=change.after.site_id,
            device_id=change.after.device_id, at=change.at, text=text,
        )  # fmt: skip

    # Consequences.

    async def _consequences(
        self, conn: WriteConn, changes: Sequence[Change], now: datetime, messages: list[Message]
    ) -> list[Change]:
        by_effect = {effect: [c for c in changes if effect in c.effects] for effect in Effect}
        await self._move_occurrences(conn, changes, now, messages)
        following: dict[CommandId, Change] = {}
        if went_off := by_effect[Effect.LOAD_OFF]:
            await load_store.note_switched(conn, [c.after.load_id for c in went_off], now, on=False)
        # A proven shutdown that somebody has asked to end meanwhile has to be woken as well.
        over = await lease_store.over_leases(conn, [c.after.command_id for c in went_off])
        unwanted = [c for c in went_off if c.after.command_id in over]
        await self._wake_now(conn, [*by_effect[Effect.WAKE_NOW], *unwanted], now, following)
        await self._drop_wake_ups(conn, by_effect[Effect.DROP_WAKE_UP], now, following)
        await self._came_on(conn, by_effect[Effect.LOAD_ON], now, following, messages)
        return list(following.values())

    async def _wake_now(
        self, conn: WriteConn, changes: Sequence[Change], now: datetime, following: dict[CommandId, Change]
    ) -> None:
        """Make the wake-up of OFFs due; where it is over already, send a new one."""
        wanted = [c for c in changes if c.after.isolation_id is None]
        pairs = await store.fetch_many(conn, [c.after.pair_id for c in wanted if c.after.pair_id is not None])
        missing: list[Command] = []
        for change in wanted:
            off = change.after
            on = None if off.pair_id is None else pairs.get(off.pair_id)
            if on is None or on.state.is_final:
                missing.append(off)
            elif on.state is S.SCHEDULED and on.not_before > now:
                after = replace(on, not_before=now, next_at=now, reason="off_not_proven")
                following[on.command_id] = Change(on, after, now, {"off": off.state.value, "reason": off.reason})
        fresh = [
            replace(
                off, command_id=CommandId(new_id()), action=CommandAction.CLOSE, state=S.SCHEDULED, created_at=now,
                not_before=now, next_at=now, not_after=None, restore_at=None, off_at_most_s=None,
                pair_id=off.command_id, attempt=0, looks=0, sent_at=None, wire_not_after=None, unknown_since=None,
                hold=None, alarmed=False, fault=None, reason="off_after_wake_up",
            )
            for off in missing
        ]  # fmt: skip
        await self.store_new(conn, fresh, now)

    async def _drop_wake_ups(
        self, conn: WriteConn, changes: Sequence[Change], now: datetime, following: dict[CommandId, Change]
    ) -> None:
        """End the wake-ups and leases of OFFs that never left us."""
        if not changes:
            return
        pairs = await store.fetch_many(conn, [c.after.pair_id for c in changes if c.after.pair_id is not None])
        for on in pairs.values():
            if on.state is S.SCHEDULED and not on.was_sent:
                following[on.command_id] = life.step(on, S.CANCELLED, now, "off_not_sent", hold=None)
        await lease_store.close_leases(conn, command_ids=[c.after.command_id for c in changes], at=now)

    async def _came_on(
        self,
        conn: WriteConn,
        changes: Sequence[Change],
        now: datetime,
        following: dict[CommandId, Change],
        messages: list[Message],
    ) -> None:
        """End leases and other wake-ups of loads that are proven on, as far as their OFF is settled."""
        if not changes:
            return
        proof = {c.after.load_id: c.after for c in changes}
        proven = {c.after.command_id: c.after for c in changes}
        await load_store.note_switched(conn, list(proof), now, on=True)
        running = await store.fetch_running(conn, proof, CommandAction.CLOSE)
        ons = [*proven.values(), *(on for on in running if on.command_id not in proven)]
        offs = await store.fetch_many(conn, [on.pair_id for on in ons if on.pair_id is not None])
        settled: list[CommandId] = []
        woken: list[Command] = []
        for on in ons:
            off = None if on.pair_id is None else offs.get(on.pair_id)
            if off is not None and not (off.state.is_final and off.was_sent):
                if not _is_moot(off, proof[on.load_id], now):
                    continue  # its shutdown is still to come, or in doubt
                evidence = {"by": proof[on.load_id].command_id}
                following[off.command_id] = life.step(off, S.FAILED, now, "on_again", evidence=evidence)
            if off is not None:
                settled.append(off.command_id)
            if on.command_id not in proven and (off is not None or on.not_before <= now):
                following[on.command_id] = life.superseded(on, proof[on.load_id].command_id, now)
                woken.append(on)
        await lease_store.close_leases(conn, command_ids=settled, at=now)
        ended = [
            (on.occurrence_id, OccurrenceState.AWAKE, proof[on.load_id].reason, None, now)
            for on in woken
            if on.occurrence_id is not None
        ]
        for occurrence in await occurrence_store.set_states(conn, ended, now):
            messages.append(_occurrence_event(occurrence, proof[occurrence.load_id], now))

    async def _move_occurrences(
        self, conn: WriteConn, changes: Sequence[Change], now: datetime, messages: list[Message]
    ) -> None:
        rows: dict[str, tuple[str, OccurrenceState, str, datetime | None, datetime | None]] = {}
        by: dict[str, Command] = {}
        for change in changes:
            command = change.after
            state = _occurrence_state(change)
            if command.occurrence_id is None or state is None:
                continue
            went_off_at = now if state is OccurrenceState.SHUT_DOWN else None
            came_on_at = now if state is OccurrenceState.AWAKE else None
            rows[command.occurrence_id] = (command.occurrence_id, state, command.reason, went_off_at, came_on_at)
            by[command.occurrence_id] = command
        for occurrence in await occurrence_store.set_states(conn, list(rows.values()), now):
            messages.append(_occurrence_event(occurrence, by[occurrence.occurrence_id], now))


def _is_moot(off: Command, on: Command, now: datetime) -> bool:
    """Return whether an OFF without an answer is over because its load was proven on after it had lost its validity."""
    if not off.was_sent or off.wire_not_after is None or off.state is S.SCHEDULED:
        return False
    return (on.sent_at or now) > off.wire_not_after


async def _breathe(number: int) -> None:
    """Let others run now and then: signing and serialising a thousand commands takes a fifth of a second."""
    if number % BREATH == BREATH - 1:
        await asyncio.sleep(0)


def _occurrence_state(change: Change) -> OccurrenceState | None:
    """Return what a change of one of its commands makes of an occurrence."""
    command = change.after
    if Effect.LOAD_OFF in change.effects:
        return OccurrenceState.SHUT_DOWN
    if Effect.LOAD_ON in change.effects:
        return OccurrenceState.AWAKE
    if Effect.DROP_WAKE_UP in change.effects:
        by_people = command.state in (S.CANCELLED, S.SUPERSEDED)
        return OccurrenceState.CALLED_OFF if by_people else OccurrenceState.SKIPPED
    if Effect.WAKE_NOW in change.effects and command.is_off:
        return OccurrenceState.WAKING
    if command.alarmed and not change.before.alarmed:
        return OccurrenceState.OVERDUE
    if Effect.SEND in change.effects:
        return OccurrenceState.SHUTTING_DOWN if command.is_off else OccurrenceState.WAKING
    return None


def _occurrence_event(occurrence: Occurrence, command: Command, now: datetime) -> Message:
    return bus.occurrence_event(occurrence, command, SiteId(command.site_id), now)


def _born(command: Command, now: datetime) -> Message:
    return bus.command_event(Change(command, command, now, {}))
