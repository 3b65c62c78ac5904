"""Orders that set something inside devices, as they go over the bus."""

from datetime import datetime, timedelta

import orjson
from pydantic import ValidationError

from libs.common.bus import topics
from libs.common.bus.envelope import message
from libs.common.bus.port import Message, Received
from libs.common.contracts import control as contract
from libs.common.contracts.base import Value
from libs.common.contracts.control import CommandAction
from libs.common.ids import CommandId
from libs.common.tokens import KeyRing
from libs.common.tracing import current_traceparent
from services.control.bus import SOURCE, Unreadable, signed
from services.control.domain.adjusting import ACCEPT_S, CLOCK_WITHIN_S, Adjustment, Answer
from services.control.domain.commands import WireId


def order_message(one: Adjustment, keys: KeyRing) -> Message:
    """Return the signed order for the current sending."""
    if one.sent_at is None or one.wire_not_after is None:
        raise ValueError(f"order {one.adjustment_id} has not been sent")
    arguments: dict[str, Value] = {}
    if one.point is not None and one.value is not None:
        arguments = {"point": one.point, "value": one.value}
    elif one.action is CommandAction.SET_CLOCK:
        arguments = {"within_s": CLOCK_WITHIN_S}
    return _order(one, keys, one.wire_id, one.action, arguments, one.sent_at, one.wire_not_after)


def look_message(one: Adjustment, keys: KeyRing, now: datetime) -> Message:
    """Return the signed order to read the point, or the clock."""
    until = now + timedelta(seconds=ACCEPT_S)
    arguments: dict[str, Value] = {"clock": True} if one.point is None else {"point": one.point}
    return _order(one, keys, one.look_id, CommandAction.READ_BACK, arguments, now, until)


def _order(
    one: Adjustment,
    keys: KeyRing,
    wire_id: str,
    action: CommandAction,
    arguments: dict[str, Value],
    issued_at: datetime,
    not_after: datetime,
) -> Message:
    unsigned = contract.Command(
        command_id=CommandId(wire_id),
        site_id=one.site_id,
        device_id=one.device_id,
        line_id=one.line_id,
        action=action,
        arguments=arguments,
        not_after=not_after,
        issued_at=issued_at,
        signature="",
        attempt=max(one.attempt, 1),
        actor=one.actor,
        reason=one.note,
    )
    return signed(unsigned, keys)


SWITCHINGS = (CommandAction.OPEN.value, CommandAction.CLOSE.value)


def read_answer(received: Received) -> Answer | None:
    """Return what a line says of a sending; None where it tells itself that it is about a switching.

    Of ten thousand switchings nothing is to be known here, so no more of their results is read than that.

    Raises:
        Unreadable: It is no result.
    """
    try:
        raw = orjson.loads(received.value or b"")
        if isinstance(raw, dict) and raw.get("action") in SWITCHINGS:
            return None
        result = contract.Result.model_validate(raw)
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise Unreadable(str(exc)[:500]) from exc
    seen = result.evidence
    return Answer(
        wire=WireId.parse(result.command_id),
        stage=result.stage,
        found=seen.feedback_value,
        found_at=seen.feedback_at or result.at,
        reason=result.reason or "",
    )


def event(one: Adjustment, at: datetime) -> Message:
    """Return the event of an order's new state."""
    evidence = None
    if one.found is not None:
        evidence = contract.Evidence(feedback_point=one.point, feedback_value=one.found, feedback_at=one.found_at)
    payload = contract.ControlEvent(
        site_id=one.site_id,
        state=one.state,
        at=at,
        reason=one.reason,
        command_id=one.adjustment_id,
        device_id=one.device_id,
        action=one.action,
        actor=one.actor,
        group_id=one.group_id,
        evidence=evidence,
        point=one.point,
        # What nobody has agreed to is no value that the platform wants.
        value=one.value if one.is_agreed else None,
    )
    return message(
        topics.CONTROL_EVENTS, one.site_id, payload, source=SOURCE, time=at, subject=one.device_id,
        traceparent=current_traceparent(),
    )  # fmt: skip
