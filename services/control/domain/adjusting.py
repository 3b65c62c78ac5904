"""The life of an order that sets something inside a device: a set point, a threshold, how often it reports, its clock.

    (APPROVAL ->) SCHEDULED -> DISPATCHED -> ACCEPTED -> VERIFYING -> SUCCEEDED

Nothing is switched, so sending one again does no harm; still it is read back before it is sent again, so that what
is told of it is true. What nobody has taken within its validity is sent again until ``not_after``; what a device does
not follow is sent again some times and then failed. A restart is the exception: it loses what the device was doing, so
one that may have happened is never sent again. Switching goes first: while one is in flight to the device, in
doubt, or a wake-up is due, a setting waits; no switching ever waits for a setting. Pure functions: what follows from
an answer, and from time.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.contracts.control import CommandAction, CommandState, Stage
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from services.control.domain.commands import WireId
from services.control.domain.guards import RESTART_S

S = CommandState
PREFIX = "setting_"
"""Points that hold what a device is set to."""
REPORT_PERIOD = "setting_report_period"
"""How often a device reports. [s]"""
ATTEMPTS = 3
"""So often it is sent to a device that answers and does not follow."""
ACCEPT_S = 10.0
"""A line's holder takes a sending within this, or never. [s]"""
VERIFY_S = 90.0
"""An accepted one is verified within this, or looked after. [s]"""
AGAIN_S = 15.0
"""Between two sendings, and between two looks. [s]"""
SETTLE_S = 2.0
"""After the validity of a sending is over, its answer may still be on the way. [s]"""
SAME = 1e-6
"""Numbers that differ by less, in proportion, are the same."""
CLOCK_WITHIN_S = 10.0
"""A clock that is off by less is right: meters tell it in whole seconds, and some take seconds to answer. [s]"""
APPROVE_WITHIN_S = 3600.0
"""An order that nobody has agreed to is over after this. [s]"""
HOPELESS = frozenset(
    {
        "bad_arguments", "unsupported", "no_control", "unknown_device", "wrong_line", "bad_signature", "load_off",
        "switching_point",
    }
)  # fmt: skip
"""Reasons of a refusal that another sending would meet again."""
LOAD_OFF = "load_off"
"""Guard of a restart: a load behind the device is off, or being woken, and the device could lose what it was told."""
NOT_APPROVED, DECLINED = "not_approved", "declined"
"""Ends of an order that a second person has not agreed to."""
IN_FLIGHT = frozenset({S.DISPATCHED, S.ACCEPTED, S.VERIFYING})


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One order for one device, and how far it is."""

    adjustment_id: CommandId
    action: CommandAction
    site_id: SiteId
    device_id: DeviceId
    line_id: LineId
    point: str | None
    """None of a clock or a restart."""
    value: float | None
    """What it is to be, in the point's canonical unit."""
    state: CommandState
    created_at: datetime
    not_after: datetime
    next_at: datetime | None
    actor: str
    reason: str = ""
    """Of the state, for programs."""
    note: str | None = None
    attempt: int = 0
    looks: int = 0
    sent_at: datetime | None = None
    wire_not_after: datetime | None = None
    found: float | None = None
    """What was read back last; of a clock how far it is ahead of ours. [s]"""
    found_at: datetime | None = None
    group_id: str | None = None
    """The order for many that it belongs to."""
    door: str = ""
    """Through which door it was ordered; empty of one that a former release has taken."""

    @property
    def is_agreed(self) -> bool:
        """Whether its value is wanted: false while it waits for a second person, and when that person never came."""
        return self.state is not S.APPROVAL and self.reason not in (NOT_APPROVED, DECLINED)

    @property
    def wire_id(self) -> str:
        """Identity of the current sending; each is executed at most once."""
        return self.adjustment_id if self.attempt <= 1 else f"{self.adjustment_id}.{self.attempt}"

    @property
    def look_id(self) -> str:
        """Identity of the current request to read the point."""
        return f"{self.adjustment_id}.r{self.attempt}-{self.looks}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the line's holder says."""

    wire: WireId
    stage: Stage
    found: float | None
    found_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """What an order becomes, and what is to be published."""

    after: Adjustment
    send: bool = False
    look: bool = False


def action_of(point: str) -> CommandAction:
    """Return by which action a point is set."""
    if point == REPORT_PERIOD:
        return CommandAction.SET_SAMPLING_PERIOD
    return CommandAction.SET_THRESHOLD if point.startswith(PREFIX) else CommandAction.SET_POINT


def is_same(found: float, wanted: float) -> bool:
    """Return whether what was read is what was wanted."""
    return abs(found - wanted) <= SAME * max(abs(wanted), 1.0)


def follows(one: Adjustment, found: float | None) -> bool:
    """Return whether what was read is what the order wanted."""
    if found is None or one.action is CommandAction.RESTART:
        return False
    return abs(found) <= CLOCK_WITHIN_S if one.value is None else is_same(found, one.value)


def expected_end(one: Adjustment) -> datetime | None:
    """Return when the result of an order is expected; None when it is over, or when a person has to act first."""
    if one.state.is_final or one.state is S.APPROVAL:
        return None
    return (one.sent_at or one.created_at) + timedelta(seconds=ACCEPT_S + _verify_s(one))


def on_answer(one: Adjustment, answer: Answer, now: datetime) -> Step | None:
    """Return what follows from an answer, None when it is no news."""
    if one.state.is_final or one.state is S.APPROVAL:
        return None
    if answer.found is not None:
        one = replace(one, found=answer.found, found_at=answer.found_at)
    if follows(one, answer.found) and (answer.stage is Stage.VERIFIED or answer.wire.is_look):
        return Step(_state(one, S.SUCCEEDED, "", None))
    if answer.wire.is_look:
        if one.state is not S.UNKNOWN:
            return None
        if answer.found is None:
            # A clock that cannot be read is set again; a point that cannot be read now is looked at again.
            cannot = answer.stage is Stage.REFUSED and one.value is None
            return _again(one, "not_readable", now) if cannot else None
        return _again(one, "reads_otherwise", now)
    if answer.wire.attempt != one.attempt or one.state is S.SCHEDULED:
        return None
    match answer.stage:
        case Stage.ACCEPTED if one.state in (S.DISPATCHED, S.UNKNOWN):
            return Step(_state(one, S.ACCEPTED, "", now + timedelta(seconds=_verify_s(one))))
        case Stage.EXECUTED if one.state in (S.DISPATCHED, S.ACCEPTED, S.UNKNOWN):
            return Step(_state(one, S.VERIFYING, "", now + timedelta(seconds=_verify_s(one))))
        case Stage.VERIFIED if one.value is None and answer.found is None:
            # The device has confirmed it, or answers again; there is nothing to compare.
            return Step(_state(one, S.SUCCEEDED, answer.reason, None))
        case Stage.REFUSED if answer.reason in HOPELESS:
            return Step(_state(one, S.REJECTED, answer.reason, None))
        case Stage.REFUSED:
            return Step(_state(one, S.SCHEDULED, answer.reason or "refused", now + timedelta(seconds=AGAIN_S)))
        case Stage.FAILED | Stage.VERIFIED:
            return _again(one, answer.reason or "not_followed", now)
        case Stage.UNKNOWN if one.action is CommandAction.RESTART:
            return Step(_state(one, S.FAILED, answer.reason or "unconfirmed", None))
        case Stage.UNKNOWN if one.state is not S.UNKNOWN:
            return Step(_state(one, S.UNKNOWN, answer.reason or "no_answer", now))
        case _:
            return None


def on_due(one: Adjustment, now: datetime, *, busy: bool, load_off: bool = False) -> Step:
    """Return what becomes of an order whose time has come.

    Args:
        one: As it is, locked.
        now: The time.
        busy: The device has something else to do first: another order, or switching.
        load_off: A load behind the device is off by our order, is about to be, or is being woken.
    """
    if one.state is S.APPROVAL:
        return Step(_state(one, S.EXPIRED, NOT_APPROVED, None))
    if one.state is S.UNKNOWN:
        if now > one.not_after:
            return Step(_state(one, S.FAILED, "unresolved", None))
        looked = replace(one, looks=one.looks + 1, next_at=now + timedelta(seconds=AGAIN_S))
        return Step(looked, look=True)
    if one.state in (S.ACCEPTED, S.VERIFYING):
        if one.action is CommandAction.RESTART:
            return Step(_state(one, S.FAILED, "not_verified", None))
        return Step(_state(one, S.UNKNOWN, "not_verified", now))
    if now > one.not_after:
        return Step(_state(one, S.EXPIRED, one.reason or "too_late", None))
    if one.state is S.DISPATCHED and one.action is CommandAction.RESTART:
        # Nobody took it within its validity, or their word is lost on the way.
        return Step(_state(one, S.FAILED, "not_accepted", None))
    if one.state is S.DISPATCHED:
        # Nobody took it within its validity, so nobody will.
        return Step(_state(one, S.SCHEDULED, "not_accepted", now + timedelta(seconds=AGAIN_S)))
    if busy:
        return Step(replace(one, reason="device_busy", next_at=now + timedelta(seconds=AGAIN_S)))
    if load_off and one.action is CommandAction.RESTART:
        return Step(_state(one, S.REJECTED, LOAD_OFF, None))
    valid_until = min(now + timedelta(seconds=ACCEPT_S), one.not_after)
    sent = replace(one, attempt=one.attempt + 1, looks=0, sent_at=now, wire_not_after=valid_until)
    return Step(_state(sent, S.DISPATCHED, "", valid_until + timedelta(seconds=SETTLE_S)), send=True)


def is_restarting(one: Adjustment, now: datetime) -> bool:
    """Return whether a restart has left us and is not proven over, so that nobody can tell what its device reads.

    One that was given up without a word may be going on all the same, until its time is over.
    """
    if one.action is not CommandAction.RESTART or one.sent_at is None:
        return False
    given_up = one.state is S.FAILED and now < one.sent_at + timedelta(seconds=ACCEPT_S + RESTART_S)
    return given_up or one.state in IN_FLIGHT or one.state is S.UNKNOWN


def superseded(one: Adjustment) -> Adjustment:
    """Return an order that a younger one for the same point has replaced before it was sent."""
    return _state(one, S.SUPERSEDED, "superseded", None)


def approved(one: Adjustment, now: datetime, not_after: datetime) -> Adjustment:
    """Return an order that a second person has agreed to."""
    return replace(_state(one, S.SCHEDULED, "", now), not_after=not_after)


def declined(one: Adjustment) -> Adjustment:
    """Return an order that somebody did not agree to."""
    return _state(one, S.CANCELLED, DECLINED, None)


def _verify_s(one: Adjustment) -> float:
    return RESTART_S if one.action is CommandAction.RESTART else VERIFY_S


def _again(one: Adjustment, reason: str, now: datetime) -> Step:
    if one.attempt >= ATTEMPTS or one.action is CommandAction.RESTART:
        return Step(_state(one, S.FAILED, reason, None))
    return Step(_state(one, S.SCHEDULED, reason, now + timedelta(seconds=AGAIN_S)))


def _state(one: Adjustment, state: CommandState, reason: str, next_at: datetime | None) -> Adjustment:
    return replace(one, state=state, reason=reason, next_at=next_at)
