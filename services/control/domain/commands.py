"""The life of a command: which state follows which, on what evidence, and what it means for the load.

    RECEIVED -> VALIDATED -> (APPROVAL) -> SCHEDULED -> DISPATCHED -> ACCEPTED -> VERIFYING -> SUCCEEDED

An OFF is sent at most once without knowing better: when nothing is known of it (UNKNOWN), the breaker is read,
and only a breaker that was read closed after the OFF had lost its validity may be asked again. Whatever becomes
of an OFF that was sent, unless it is a proven shutdown, its wake-up is sent at once. An ON is sent again until it
is verified; only a person on the spot stops it (see ``guards.on_obstacle``), and then it waits, it never ends.

These are pure functions: from a command and what is known to what follows. ``usecases`` applies the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from libs.common.contracts.control import CommandAction, CommandState, Priority, Stage
from libs.common.errors import Conflict
from libs.common.evolve import evolved
from libs.common.ids import CommandId, DeviceId, LineId, LoadId, OccurrenceId, PlanId, SiteId
from services.control.domain.faults import NO_POWER_KW, Fault, fault_after
from services.control.domain.guards import (
    Facts,
    Hold,
    Obstacle,
    Policy,
    Reading,
    obstacle_seen,
    off_refusal,
    off_refusals,
    on_obstacle,
)
from services.control.domain.refusals import Refusal

S = CommandState

TRANSITIONS: Mapping[CommandState, frozenset[CommandState]] = {
    S.RECEIVED: frozenset({S.VALIDATED, S.REJECTED}),
    S.VALIDATED: frozenset({S.APPROVAL, S.SCHEDULED, S.REJECTED}),
    S.APPROVAL: frozenset({S.SCHEDULED, S.REJECTED, S.CANCELLED, S.EXPIRED, S.SUPERSEDED}),
    # An ON that a person's presence holds up stays scheduled, with that reason; one that finds the load on is done.
    S.SCHEDULED: frozenset({S.SCHEDULED, S.DISPATCHED, S.SUCCEEDED, S.REJECTED, S.CANCELLED, S.EXPIRED, S.SUPERSEDED}),
    # Results may overtake each other when a line changes hands, so later stages may come first.
    S.DISPATCHED: frozenset(
        {S.ACCEPTED, S.VERIFYING, S.SUCCEEDED, S.REJECTED, S.FAILED, S.UNKNOWN, S.SCHEDULED, S.SUPERSEDED}
    ),
    S.ACCEPTED: frozenset({S.VERIFYING, S.SUCCEEDED, S.REJECTED, S.FAILED, S.UNKNOWN, S.SCHEDULED, S.SUPERSEDED}),
    S.VERIFYING: frozenset({S.SUCCEEDED, S.FAILED, S.UNKNOWN, S.SCHEDULED, S.SUPERSEDED}),
    S.UNKNOWN: frozenset({S.ACCEPTED, S.VERIFYING, S.SUCCEEDED, S.FAILED, S.SCHEDULED, S.SUPERSEDED}),
    S.SUCCEEDED: frozenset(),
    S.REJECTED: frozenset(),
    S.CANCELLED: frozenset(),
    S.EXPIRED: frozenset(),
    S.FAILED: frozenset(),
    S.SUPERSEDED: frozenset(),
}
"""Every transition that exists; a single command never becomes PARTIAL, only a group does."""

PENDING = frozenset({S.RECEIVED, S.VALIDATED, S.APPROVAL, S.SCHEDULED})
"""Nothing has been sent, or an earlier attempt is settled."""
IN_FLIGHT = frozenset({S.DISPATCHED, S.ACCEPTED, S.VERIFYING})
"""Sent, and an answer is still expected: the device is busy."""

ENDS = frozenset({Stage.VERIFIED, Stage.REFUSED, Stage.FAILED, Stage.UNKNOWN})
"""Stages with which the line's holder is done; only these are worth recording when they come late."""

IN_LINE = timedelta(seconds=30)
"""So long an ON that nobody has taken is waited for while the lines answer others."""
IN_TURN = timedelta(seconds=90)
"""The same of an ON that was taken up: its holder has it in line, and does the others before it."""
IN_LINE_LOOK_S = 3.0
"""How often it is looked whether it still is: of ten thousand each look is work. [s]"""

OPEN, CLOSED = 0, 1
"""Values of the point ``breaker_state``."""


class TransitionRefused(Conflict):
    """The command's state does not allow it."""

    code = "command_state"
    title_zh = "命令状态不允许"


@dataclass(frozen=True, slots=True)
class Command:
    """One order for one breaker, and how far it is."""

    command_id: CommandId
    action: CommandAction
    """``open`` (OFF) or ``close`` (ON)."""
    site_id: SiteId
    device_id: DeviceId
    line_id: LineId
    load_id: LoadId
    priority: Priority
    state: CommandState
    created_at: datetime
    not_before: datetime
    next_at: datetime | None
    """When the scheduler has to look at it; None once it is final or waits for a person."""
    channel: int | None = None
    not_after: datetime | None = None
    """Of an OFF: when it is dropped. An ON has none: a late one always runs."""
    restore_at: datetime | None = None
    off_at_most_s: float | None = None
    isolation_id: str | None = None
    pair_id: CommandId | None = None
    """The wake-up of an OFF, the OFF of a wake-up."""
    occurrence_id: OccurrenceId | None = None
    plan_id: PlanId | None = None
    wake_up_id: str | None = None
    group_id: str | None = None
    attempt: int = 0
    """How often it was sent."""
    looks: int = 0
    """How often the line was asked to read the breaker since the last sending."""
    sent_at: datetime | None = None
    wire_not_after: datetime | None = None
    """The holder does not execute the last sending after this."""
    unknown_since: datetime | None = None
    hold: Hold | None = None
    """What keeps an ON from being sent."""
    alarmed: bool = False
    """A person was called because it is overdue."""
    fault: Fault | None = None
    """What is the matter with it; stays while it is sent again."""
    reason: str = ""
    actor: str = ""
    note: str | None = None

    @property
    def is_off(self) -> bool:
        """Whether it takes the load off."""
        return self.action is CommandAction.OPEN

    @property
    def was_sent(self) -> bool:
        """Whether it ever left us: then only the breaker knows whether it happened."""
        return self.attempt > 0

    @property
    def wire_id(self) -> str:
        """Identity of the current sending; each is executed at most once."""
        return self.command_id if self.attempt <= 1 else f"{self.command_id}.{self.attempt}"

    @property
    def look_id(self) -> str:
        """Identity of the current request to read the breaker."""
        return f"{self.command_id}.r{self.attempt}-{self.looks}"


@dataclass(frozen=True, slots=True)
class WireId:
    """What a ``command_id`` on the bus refers to."""

    command_id: CommandId
    attempt: int
    is_look: bool

    @classmethod
    def parse(cls, text: str) -> "WireId":
        """Read what ``wire_id`` or ``look_id`` has made; a foreign id is taken as it is."""
        head, dot, tail = text.rpartition(".")
        if not dot:
            return cls(CommandId(text), 1, False)
        if tail.isdigit():
            return cls(CommandId(head), int(tail), False)
        number, _, look = tail.removeprefix("r").partition("-")
        if tail.startswith("r") and number.isdigit() and look.isdigit():
            return cls(CommandId(head), int(number), True)
        return cls(CommandId(text), 1, False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the line's holder says of one sending."""

    stage: Stage
    attempt: int
    is_look: bool
    at: datetime
    breaker: int | None = None
    """Feedback point, 0 open, 1 closed, None when it was not read."""
    power_kw: float | None = None
    local_lock: bool | None = None
    trip_reason: int | None = None
    reason: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)


class Effect(StrEnum):
    """What a change of a command means beyond the command."""

    SEND = "send"
    """Publish the signed command."""
    LOOK = "look"
    """Publish a request to read the breaker."""
    LOAD_OFF = "load_off"
    """Proven off."""
    LOAD_ON = "load_on"
    """Proven on: leases end, alarms end, older wake-ups of the load are done."""
    DROP_WAKE_UP = "drop_wake_up"
    """The OFF never left us, so its wake-up is not needed."""
    WAKE_NOW = "wake_now"
    """The OFF was sent and is no proven shutdown: its wake-up is due at once."""
    CALL_PERSON = "call_person"
    """Somebody has to go there: level 1, at once."""


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a command's life."""

    before: Command
    after: Command
    at: datetime
    evidence: Mapping[str, object]
    effects: frozenset[Effect] = frozenset()
    released_trip: int | None = None
    """Trip reason that a person has released; the line's holder has to know of it."""
    is_late: bool = False
    """An answer about what is over, or about an earlier sending: it is kept, and the command stays as it is."""

    @property
    def is_transition(self) -> bool:
        """Whether it belongs into the history: another state, or another reason to stand still."""
        return self.before.state is not self.after.state or self.before.hold is not self.after.hold


def step(
    command: Command,
    state: CommandState,
    at: datetime,
    reason: str,
    *effects: Effect,
    evidence: Mapping[str, object] | None = None,
    next_at: datetime | None = None,
    **changes: object,
) -> Change:
    """Return the change of a command to ``state``.

    Raises:
        TransitionRefused: The table knows no such transition.
    """
    if state not in TRANSITIONS[command.state]:
        raise TransitionRefused(
            f"command {command.command_id} is {command.state}, it cannot become {state}",
            message_zh=f"命令 {command.command_id} 当前状态为 {command.state},不能变为 {state}",
            command_id=command.command_id,
            state=command.state,
        )
    fault = fault_after(command.fault, state, reason, is_off=command.is_off)
    after = evolved(command, state=state, reason=reason, next_at=next_at, fault=fault, **changes)
    return Change(command, after, at, dict(evidence or {}), frozenset(effects))


def wait(command: Command, at: datetime, reason: str, delay_s: float, **changes: object) -> Change:
    """Return the change that leaves the state and looks again after ``delay_s``. [s]"""
    after = evolved(command, reason=reason, next_at=at + timedelta(seconds=delay_s), **changes)
    return Change(command, after, at, {})


# What follows from an answer of the line.


def on_outcome(
    command: Command, outcome: Outcome, now: datetime, policy: Policy, *, released_trip: int | None = None
) -> Change | None:
    """Return what an answer changes, None when it says nothing new.

    Args:
        command: As it is now, locked.
        outcome: What was answered, perhaps late, twice, or about an earlier sending.
        now: The time, by our clock.
        policy: Limits.
        released_trip: Trip reason that a person has released.
    """
    if outcome.stage is Stage.RESTORED:
        return None
    if command.state in PENDING and not command.was_sent:
        return None
    if command.is_off:
        change = _off_outcome(command, outcome, now, policy)
    else:
        change = _on_outcome(command, outcome, now, policy, released_trip)
    return change or _late(command, outcome, now)


def _late(command: Command, outcome: Outcome, now: datetime) -> Change | None:
    """Return the record of an end that comes too late to decide anything; a look is no sending, so it has none.

    The answer that has decided may come twice over the bus, and is no news.
    """
    is_past = command.state.is_final or outcome.attempt != command.attempt
    if outcome.is_look or not is_past or outcome.stage not in ENDS:
        return None
    decided = command.state is S.SUCCEEDED and outcome.stage is Stage.VERIFIED and outcome.reason == command.reason
    if decided and outcome.attempt == command.attempt:
        return None
    return Change(command, command, now, {**outcome.evidence, "sending": outcome.attempt}, is_late=True)


def _off_outcome(command: Command, outcome: Outcome, now: datetime, policy: Policy) -> Change | None:
    if command.state.is_final:
        # Whoever gave it up had its wake-up sent; a breaker that opened after all is closed by that, or read open
        # by the watchdog. Only when this is news to everybody is the wake-up due again.
        late = outcome.stage in (Stage.EXECUTED, Stage.VERIFIED) and not outcome.is_look
        if late and command.state is not S.SUCCEEDED:
            evidence = {**outcome.evidence, "sending": outcome.attempt}
            return Change(command, command, now, evidence, frozenset({Effect.WAKE_NOW}), is_late=True)
        return None
    if outcome.is_look:
        return _off_read(command, now, outcome.breaker, now, outcome.evidence, policy)
    if outcome.attempt != command.attempt:
        return None
    match outcome.stage:
        case Stage.ACCEPTED if command.state in (S.DISPATCHED, S.UNKNOWN):
            return step(command, S.ACCEPTED, now, "", evidence=outcome.evidence,
                        next_at=now + timedelta(seconds=policy.verify_timeout_s))  # fmt: skip
        case Stage.EXECUTED if command.state in (S.DISPATCHED, S.ACCEPTED, S.UNKNOWN):
            return step(command, S.VERIFYING, now, "", evidence=outcome.evidence,
                        next_at=now + timedelta(seconds=policy.verify_timeout_s))  # fmt: skip
        case Stage.VERIFIED:
            contradiction = _off_contradiction(outcome, policy)
            if contradiction is not None:
                return step(command, S.FAILED, now, contradiction, Effect.WAKE_NOW, evidence=outcome.evidence)
            return step(command, S.SUCCEEDED, now, outcome.reason, Effect.LOAD_OFF, evidence=outcome.evidence)
        case Stage.REFUSED if command.state in (S.DISPATCHED, S.ACCEPTED):
            # A holder that has just lost its line refuses too, while the next one executes: so wake anyway.
            return step(command, S.REJECTED, now, outcome.reason or "refused", Effect.WAKE_NOW,
                        evidence=outcome.evidence)  # fmt: skip
        case Stage.FAILED:
            return step(command, S.FAILED, now, outcome.reason or "failed", Effect.WAKE_NOW,
                        evidence=outcome.evidence)  # fmt: skip
        case Stage.UNKNOWN if command.state is not S.UNKNOWN:
            return _to_unknown(command, now, outcome.reason or "no_answer", outcome.evidence)
        case _:
            return None


def _off_contradiction(outcome: Outcome, policy: Policy) -> str | None:
    """Return why an OFF that is called verified is none."""
    if outcome.breaker not in (None, OPEN):
        return "reads_closed"
    if outcome.power_kw is not None and outcome.power_kw > policy.off_power_max_kw:
        return "still_draws_power"
    if outcome.breaker is None and outcome.power_kw is None:
        return "no_evidence"
    return None


def _on_outcome(
    command: Command, outcome: Outcome, now: datetime, policy: Policy, released_trip: int | None
) -> Change | None:
    if command.state.is_final:
        return None
    if outcome.breaker == CLOSED and (outcome.stage is Stage.VERIFIED or outcome.is_look):
        # Also the answer to an earlier sending proves it: the breaker reads closed after we wanted it closed.
        unused = outcome.power_kw is not None and outcome.power_kw < NO_POWER_KW
        return step(command, S.SUCCEEDED, now, "no_power" if unused else outcome.reason, Effect.LOAD_ON,
                    evidence=outcome.evidence, hold=None)  # fmt: skip
    if outcome.attempt != command.attempt:
        return None
    if outcome.is_look:
        return _on_read(command, outcome, now, policy, released_trip)
    if command.state is S.SCHEDULED:
        return None
    match outcome.stage:
        case Stage.ACCEPTED if command.state in (S.DISPATCHED, S.UNKNOWN):
            return step(command, S.ACCEPTED, now, "", evidence=outcome.evidence,
                        next_at=now + timedelta(seconds=policy.verify_timeout_s))  # fmt: skip
        case Stage.EXECUTED if command.state in (S.DISPATCHED, S.ACCEPTED, S.UNKNOWN):
            return step(command, S.VERIFYING, now, "", evidence=outcome.evidence,
                        next_at=now + timedelta(seconds=policy.verify_timeout_s))  # fmt: skip
        case Stage.VERIFIED:
            return _again(command, now, "no_evidence", policy, outcome.evidence)
        case Stage.REFUSED | Stage.FAILED:
            obstacle = _obstacle_of(outcome, released_trip)
            if obstacle is not None:
                return _held(command, now, obstacle, policy)
            return _again(command, now, outcome.reason or outcome.stage.value, policy, outcome.evidence)
        case Stage.UNKNOWN if command.state is not S.UNKNOWN:
            return _to_unknown(command, now, outcome.reason or "no_answer", outcome.evidence)
        case _:
            return None


def _on_read(
    command: Command, outcome: Outcome, now: datetime, policy: Policy, released_trip: int | None
) -> Change | None:
    """Return what a look that found the breaker open, or not at all, means for an ON."""
    obstacle = _obstacle_of(outcome, released_trip)
    if command.state is S.UNKNOWN:
        if obstacle is not None:
            return _held(command, now, obstacle, policy)
        reason = "reads_open" if outcome.breaker == OPEN else outcome.reason or "no_answer"
        return _again(command, now, reason, policy, outcome.evidence)
    if command.state is S.SCHEDULED and command.hold in (Hold.LOCAL_LOCK, Hold.PROTECTION_TRIP):
        if obstacle is None and outcome.breaker == OPEN:
            return step(command, S.SCHEDULED, now, "obstacle_gone", evidence=outcome.evidence,
                        next_at=now, hold=None)  # fmt: skip
    return None


def _obstacle_of(outcome: Outcome, released_trip: int | None) -> Obstacle | None:
    return obstacle_seen(
        outcome.breaker, outcome.local_lock, outcome.trip_reason, released_trip, evidence=outcome.evidence
    )


def _held(command: Command, at: datetime, obstacle: Obstacle, policy: Policy) -> Change:
    """Return the change that stops an ON and calls a person."""
    return step(command, S.SCHEDULED, at, obstacle.hold.value, Effect.CALL_PERSON, evidence=obstacle.evidence,
                next_at=at + timedelta(seconds=policy.hold_look_s), hold=obstacle.hold, unknown_since=None)  # fmt: skip


# What follows from time.


def on_due(command: Command, facts: Facts, now: datetime, policy: Policy) -> Change:
    """Return what becomes of a command whose ``next_at`` has come.

    Args:
        command: As it is now, locked.
        facts: What is known of its load.
        now: The time.
        policy: Limits.
    """
    if command.state is S.APPROVAL:
        evidence = {"approve_by": _iso(command.next_at)}
        return step(command, S.EXPIRED, now, "not_approved", Effect.DROP_WAKE_UP, evidence=evidence)
    if command.state is S.UNKNOWN:
        return _resolve(command, facts, now, policy)
    reading = facts.reading
    if not command.is_off and reading is not None and _was_closed(command, reading):
        # Also by the direct door, by the holder itself, or by hand: it reads closed after we wanted it closed.
        return step(command, S.SUCCEEDED, now, "read_closed", Effect.LOAD_ON, evidence=reading.as_evidence(), hold=None)
    if command.state in IN_FLIGHT:
        if _is_in_line(command, facts, now):
            return wait(command, now, command.reason, IN_LINE_LOOK_S)
        return _overrun(command, now, policy)
    return _off_due(command, facts, now, policy) if command.is_off else _on_due(command, facts, now, policy)


def _was_closed(command: Command, reading: Reading) -> bool:
    """Return whether the breaker was read closed after an ON had been sent."""
    after = command.sent_at is not None and reading.read_at is not None and reading.read_at > command.sent_at
    return after and reading.breaker == CLOSED


def _is_in_line(command: Command, facts: Facts, now: datetime) -> bool:
    """Return whether an ON is likely to be answered after the many that were sent with it.

    Sending ten thousand again because the answers to them take longer than ten seconds would make it twenty thousand.
    """
    at_most = {S.DISPATCHED: IN_LINE, S.ACCEPTED: IN_TURN}.get(command.state)
    if command.is_off or at_most is None or command.sent_at is None:
        return False
    return facts.answers_come and timedelta() <= now - command.sent_at < at_most


def _overrun(command: Command, now: datetime, policy: Policy) -> Change:
    """Return what follows when the expected answer has not come."""
    if not command.is_off and command.state is S.DISPATCHED:
        # Nobody took it, so nothing is lost by sending it again.
        return _again(command, now, "not_accepted", policy, {})
    reason = "not_accepted" if command.state is S.DISPATCHED else "not_verified"
    return _to_unknown(command, now, reason, {"deadline": _iso(command.next_at)})


def _to_unknown(command: Command, at: datetime, reason: str, evidence: Mapping[str, object]) -> Change:
    return step(command, S.UNKNOWN, at, reason, evidence=evidence, next_at=at, unknown_since=at)


def _resolve(command: Command, facts: Facts, now: datetime, policy: Policy) -> Change:
    """Return what a look at the breaker says about a command of unknown outcome; ask for a look if nobody looked."""
    reading = facts.reading
    since = command.unknown_since or now
    if reading is not None and reading.read_at is not None and reading.breaker is not None:
        evidence = reading.as_evidence()
        if command.is_off:
            found = _off_read(command, now, reading.breaker, reading.read_at, evidence, policy)
            if found is not None:
                return found
        elif _was_closed(command, reading):
            return step(command, S.SUCCEEDED, now, "read_closed", Effect.LOAD_ON, evidence=evidence)
        elif command.sent_at is not None and reading.read_at > command.sent_at:
            return _again(command, now, "reads_open", policy, evidence)
    waited_s = (now - since).total_seconds()
    if waited_s < 0:
        # The clock was put back meanwhile, and no time that was noted before can be compared with now.
        waited_s = policy.off_look_limit_s
    if not command.is_off and waited_s >= policy.on_look_limit_s and command.looks > 0:
        # Somebody was asked to look, also when the doubt is older than this process.
        return _again(command, now, command.reason, policy, {"waited_s": waited_s})
    if command.is_off and waited_s >= policy.off_look_limit_s:
        return step(command, S.FAILED, now, "unresolved", Effect.WAKE_NOW, evidence={"waited_s": waited_s})
    after = wait(command, now, command.reason, policy.look_every_s, looks=command.looks + 1)
    return evolved(after, effects=frozenset({Effect.LOOK}))


def _off_read(
    command: Command,
    now: datetime,
    breaker: int | None,
    read_at: datetime,
    evidence: Mapping[str, object],
    policy: Policy,
) -> Change | None:
    """Return what a reading of the breaker proves about an OFF that was sent; None while it proves nothing."""
    if breaker is None or command.state is not S.UNKNOWN or command.sent_at is None or read_at <= command.sent_at:
        return None
    if breaker == OPEN:
        return step(command, S.SUCCEEDED, now, "read_open", Effect.LOAD_OFF, evidence=evidence)
    settled = command.wire_not_after is not None and read_at > command.wire_not_after + timedelta(
        seconds=policy.settle_s
    )
    if not settled:
        return None
    in_time = command.not_after is not None and now < command.not_after
    if command.attempt < policy.off_attempts and in_time:
        return step(command, S.SCHEDULED, now, "read_closed", evidence=evidence, next_at=now, unknown_since=None)
    return step(command, S.FAILED, now, "read_closed", Effect.WAKE_NOW, evidence=evidence)


def _again(command: Command, at: datetime, reason: str, policy: Policy, evidence: Mapping[str, object]) -> Change:
    """Return the change that lets an ON be sent again after a pause that grows with its attempts."""
    pause_s = min(policy.on_retry_first_s * 2.0 ** max(command.attempt - 1, 0), policy.on_retry_cap_s)
    return step(command, S.SCHEDULED, at, reason, evidence={**evidence, "pause_s": pause_s},
                next_at=at + timedelta(seconds=pause_s), unknown_since=None)  # fmt: skip


def _on_due(command: Command, facts: Facts, now: datetime, policy: Policy) -> Change:
    reading = facts.reading
    obstacle = on_obstacle(facts)
    if obstacle is not None:
        if command.hold is obstacle.hold:
            return wait(command, now, obstacle.hold.value, policy.hold_look_s)
        return _held(command, now, obstacle, policy)
    unseen = reading is None or reading.breaker is None
    if unseen and command.hold in (Hold.LOCAL_LOCK, Hold.PROTECTION_TRIP):
        # What was last seen stands until somebody has looked again.
        waiting = wait(command, now, command.reason, policy.hold_look_s, looks=command.looks + 1)
        return evolved(waiting, effects=frozenset({Effect.LOOK}))
    locked_while_on = reading is not None and reading.breaker == CLOSED and bool(reading.local_lock)
    if reading is not None and locked_while_on and _is_fresh(reading.age_s, policy):
        # Nobody may switch it, and nothing is to be switched.
        return step(command, S.SUCCEEDED, now, "read_closed", Effect.LOAD_ON, evidence=reading.as_evidence(), hold=None)
    if facts.busy and command.priority is not Priority.EMERGENCY:
        waiting = wait(command, now, "device_busy", policy.queue_look_s, hold=None)
        return waiting if command.hold is None else evolved(waiting, evidence={"gone": command.hold.value})
    change = _send(command, now, policy, now + timedelta(seconds=policy.accept_timeout_s))
    return change if facts.released_trip is None else evolved(change, released_trip=facts.released_trip)


def _off_due(command: Command, facts: Facts, now: datetime, policy: Policy) -> Change:
    if command.not_after is not None and now > command.not_after:
        standing = off_refusals(command.restore_at, command.isolation_id, facts, now, policy)
        why = next((refusal for refusal in standing if refusal.guard == command.reason), None)
        evidence = {"not_after": _iso(command.not_after), **({} if why is None else why.as_evidence())}
        return _off_dropped(command, now, S.EXPIRED, command.reason or "too_late", evidence)
    refusal = off_refusal(command.restore_at, command.isolation_id, facts, now, policy)
    if refusal is not None and refusal.is_final:
        state = S.EXPIRED if refusal.guard == "too_little_left" else S.REJECTED
        return _off_dropped(command, now, state, refusal.guard, refusal.as_evidence())
    if refusal is not None:
        return wait(command, now, refusal.guard, policy.queue_look_s)
    if facts.busy:
        return wait(command, now, "device_busy", policy.queue_look_s)
    if not facts.lease_acknowledged:
        return wait(command, now, "watchdog_unreachable", policy.queue_look_s)
    valid_until = now + timedelta(seconds=policy.accept_timeout_s)
    return _send(command, now, policy, min(valid_until, command.not_after or valid_until))


def _off_dropped(
    command: Command, now: datetime, state: CommandState, reason: str, evidence: Mapping[str, object]
) -> Change:
    if command.was_sent:
        # Only after a look that read it closed; the wake-up proves it.
        return step(command, state, now, reason, Effect.WAKE_NOW, evidence=evidence)
    return step(command, state, now, reason, Effect.DROP_WAKE_UP, evidence=evidence)


def _send(command: Command, now: datetime, policy: Policy, wire_not_after: datetime) -> Change:
    slack = timedelta(seconds=policy.settle_s)
    return step(
        command, S.DISPATCHED, now, "", Effect.SEND,
        evidence={"attempt": command.attempt + 1, "not_after": _iso(wire_not_after)},
        next_at=wire_not_after + slack, attempt=command.attempt + 1, sent_at=now, wire_not_after=wire_not_after,
        looks=0, unknown_since=None, hold=None,
    )  # fmt: skip


def _is_fresh(age_s: float | None, policy: Policy) -> bool:
    return age_s is not None and age_s <= policy.stale_after_s


# What follows from other commands.


def gives_way_to_off(off: Command, priority: Priority) -> bool:
    """Return whether an OFF on its way makes place for a new one of that priority: a higher one, before it was sent."""
    return _is_waiting(off) and off.priority > priority


def gives_way_to_on(off: Command, priority: Priority) -> bool:
    """Return whether an OFF on its way ends because somebody wants the load on: the same priority is enough.

    There is no such question about a wake-up: nothing that is ordered puts an ON off.
    """
    return _is_waiting(off) and off.priority >= priority


def _is_waiting(off: Command) -> bool:
    """Return whether an OFF has not been sent; one under a work permit gives way to nobody."""
    return off.state is S.SCHEDULED and not off.was_sent and off.isolation_id is None


def superseded(command: Command, by: str, at: datetime, *effects: Effect) -> Change:
    """Return the end of a command whose purpose another one has taken over."""
    return step(command, S.SUPERSEDED, at, "superseded", *effects, evidence={"by": by}, hold=None)


def cancelled(command: Command, actor: str, reason: str, at: datetime) -> Change:
    """Return the end of an OFF that a person calls off before it was sent.

    Raises:
        TransitionRefused: It has been sent, or it is a wake-up, which only an isolation may put off.
    """
    if not command.is_off:
        raise TransitionRefused(
            f"command {command.command_id} is a wake-up; only an isolation may put it off",
            message_zh=f"命令 {command.command_id} 为唤醒命令,只有检修隔离可以推迟",
            command_id=command.command_id,
        )
    return step(command, S.CANCELLED, at, reason or "cancelled", Effect.DROP_WAKE_UP, evidence={"actor": actor})


def approved(command: Command, actor: str, at: datetime, grace_s: float) -> Change:
    """Return the change that lets an OFF go on that a second person has agreed to; its end stays where it was.

    So does the time until which it may be sent, where the order has said one.
    """
    off_at = max(command.not_before, at)
    not_after = off_at + timedelta(seconds=grace_s)
    if command.not_after is not None and command.not_after < command.not_before + timedelta(seconds=grace_s):
        not_after = command.not_after
    length_s = None if command.restore_at is None else (command.restore_at - off_at).total_seconds()
    return step(
        command, S.SCHEDULED, at, "approved", evidence={"approved_by": actor}, next_at=off_at, not_before=off_at,
        not_after=not_after, off_at_most_s=length_s,
    )  # fmt: skip


def rejected(command: Command, refusal: Refusal, at: datetime) -> Change:
    """Return the end of an OFF that a guard refuses before it was sent."""
    return step(command, S.REJECTED, at, refusal.guard, Effect.DROP_WAKE_UP, evidence=refusal.as_evidence())


def restored(command: Command, outcome: Outcome, now: datetime) -> Change | None:
    """Return what it means for a wake-up that the line's holder closed the breaker by itself."""
    if command.is_off or command.state.is_final or outcome.breaker != CLOSED:
        return None
    return step(command, S.SUCCEEDED, now, "restored_by_holder", Effect.LOAD_ON, evidence=outcome.evidence,
                hold=None)  # fmt: skip


def group_state(states: list[CommandState]) -> CommandState:
    """Return the state of a group: the least advanced that is not final, else the common end, else PARTIAL."""
    running = [state for state in states if not state.is_final]
    if running:
        order = list(CommandState)
        return min(running, key=order.index)
    ends = set(states)
    if len(ends) == 1:
        return ends.pop()
    return S.PARTIAL if S.SUCCEEDED in ends else S.FAILED


def expected_end(command: Command, policy: Policy) -> datetime | None:
    """Return when the result of a command that runs is expected; None where only a person can say, or when it is over.

    An OFF that waits for a guard may still go out until its grace time is over; what is told is the end if nothing
    hinders it.
    """
    if command.state.is_final or command.state is S.APPROVAL or command.hold is not None:
        return None
    start = command.sent_at or max(command.not_before, command.created_at)
    return start + timedelta(seconds=policy.accept_timeout_s + policy.verify_timeout_s)


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
