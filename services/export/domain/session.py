"""What becomes of a unit's session after a call; pure, so that every path can be tried without a centre."""

from dataclasses import replace
from datetime import datetime, timedelta

from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.delivery import DeliveryState
from services.export.dialects.messages import Registered
from services.export.domain.connection import ConnectionOptions, Phase, Unit, retry_after_s, valid_address
from services.export.domain.delivery import Delivery

LOGOUT_ATTEMPTS = 5
"""A centre that does not take the LOGOUT of a removed unit is left without one after so many."""


def let_in_or_refused(unit: Unit, reply: Registered, now: datetime) -> Unit:
    """Return the unit after the centre's answer to its LOGIN.

    The interval counts from the answer, so that a slow way to the centre does not bring two LOGINs closer there.
    """
    unit = replace(unit, last_login_at=now)
    if not reply.accepted:
        return replace(
            unit,
            phase=Phase.REFUSED,
            right=reply.right,
            login_failures=unit.login_failures + 1,
            login_not_before=None,
            error=_refusal(reply),
        )
    assigned = reply.centre_address
    if assigned is not None and not valid_address(assigned):
        error = f"assigned address {assigned[:60]!r} is none, events go to the registration address"
        assigned = None
    else:
        error = None
    return replace(
        unit,
        phase=Phase.REGISTERED,
        right=reply.right,
        assigned_address=assigned,
        logged_in_at=now,
        heard_at=now,
        login_failures=0,
        login_not_before=None,
        send_failures=0,
        error=error,
    )


def _refusal(reply: Registered) -> str:
    if reply.reason:
        return f"refused by the centre: {reply.reason}"[:300]
    return f"refused by the centre (right {'not given' if reply.right is None else reply.right})"


def login_not_sent(
    unit: Unit, reason: str, now: datetime, options: ConnectionOptions, *, last_login_at: datetime | None, jitter: float
) -> Unit:
    """Return the unit after a LOGIN that never left: the interval counts from the one before, a short wait does."""
    failures = unit.login_failures + 1
    return replace(
        unit,
        phase=Phase.NEW if unit.phase is Phase.NEW else Phase.LOST,
        last_login_at=last_login_at,
        login_failures=failures,
        login_not_before=now + timedelta(seconds=retry_after_s(failures, options, jitter)),
        error=reason,
    )


def login_unanswered(unit: Unit, reason: str, now: datetime) -> Unit:
    """Return the unit after a LOGIN without a usable answer; the next one waits for the whole interval."""
    return replace(
        unit,
        phase=Phase.NEW if unit.phase is Phase.NEW else Phase.LOST,
        last_login_at=now,
        login_failures=unit.login_failures + 1,
        login_not_before=None,
        error=reason,
    )


def alarms_acknowledged(unit: Unit, now: datetime) -> Unit:
    """Return the unit after an acknowledgement: the connection works, also one that was thought lost."""
    return replace(unit, phase=Phase.REGISTERED, send_failures=0, heard_at=now, error=None)


def forgotten(unit: Unit) -> Unit:
    """Return the unit after the centre has said that it does not know it any more: a LOGIN follows."""
    return replace(unit, phase=Phase.LOST, error="the centre asks for another LOGIN")


def alarms_failed(unit: Unit, reason: str, options: ConnectionOptions) -> Unit:
    """Return the unit after a call that brought no answer to the question."""
    failures = unit.send_failures + 1
    lost = failures >= options.failures_to_lost and unit.phase is Phase.REGISTERED
    return replace(unit, phase=Phase.LOST if lost else unit.phase, send_failures=failures, error=reason)


def logged_out(unit: Unit, *, answered: bool, now: datetime, options: ConnectionOptions, jitter: float) -> Unit:
    """Return a removed unit after an attempt at its LOGOUT."""
    failures = unit.login_failures + 1
    if answered or failures >= LOGOUT_ATTEMPTS:
        return replace(unit, phase=Phase.LEFT, login_not_before=None, login_failures=0, logged_in_at=None)
    wait = timedelta(seconds=retry_after_s(failures, options, jitter))
    return replace(unit, login_failures=failures, login_not_before=now + wait)


def finding_of(unit: Unit, options: ConnectionOptions) -> ConditionKind | None:
    """Return what the platform should know about the unit's connection now."""
    if unit.phase is Phase.REFUSED:
        return ConditionKind.SC_REFUSES
    if unit.phase is Phase.LOST:
        return ConditionKind.SC_UNREACHABLE
    if unit.phase is Phase.NEW and unit.login_failures >= options.failures_to_lost:
        return ConditionKind.SC_UNREACHABLE
    return None


# ---- deliveries -------------------------------------------------------------------------------------


def acknowledged(delivery: Delivery, now: datetime) -> Delivery:
    """Return the delivery after the centre's yes."""
    return replace(
        delivery,
        state=DeliveryState.DELIVERED,
        attempts=delivery.attempts + 1,
        next_attempt_at=None,
        finished_at=now,
        error=None,
    )


def not_taken(
    delivery: Delivery,
    now: datetime,
    options: ConnectionOptions,
    *,
    refused: bool,
    company: bool,
    reason: str,
    jitter: float,
) -> Delivery:
    """Return the delivery after an attempt that did not end in a yes.

    Args:
        delivery: As it was.
        now: When the attempt ended.
        options: Waits.
        refused: The centre said no, as opposed to nothing.
        company: It was one of several in the message: each goes alone next, at once, so that one bad alarm
            does not hold up the others.
        reason: For people.
        jitter: 0 to 1.
    """
    attempts = delivery.attempts + 1
    wait_s = 0.0 if company else retry_after_s(attempts, options, jitter)
    return replace(
        delivery,
        state=DeliveryState.REFUSED if refused else DeliveryState.RETRYING,
        attempts=attempts,
        alone=delivery.alone or company,
        next_attempt_at=now + timedelta(seconds=wait_s),
        error=reason,
    )


def given_up(delivery: Delivery, now: datetime, reason: str) -> Delivery:
    """Return the delivery after somebody decided that it need not arrive."""
    return replace(delivery, state=DeliveryState.GIVEN_UP, next_attempt_at=None, finished_at=now, error=reason)


def due_now(delivery: Delivery, now: datetime) -> Delivery:
    """Return the delivery to be tried at once."""
    return replace(delivery, next_attempt_at=now)
