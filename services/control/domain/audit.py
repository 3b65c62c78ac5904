"""What control puts on record: who changed what, why, through which door, before and after."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from libs.common.contracts.control import CommandState, Priority
from libs.common.ids import new_id
from services.control.domain.adjusting import Adjustment
from services.control.domain.commands import Change, Effect
from services.control.domain.plans import Plan, PlanState
from services.control.domain.setpointplans import SetpointPlan

CLOCKWORK = "service:control"
"""Who acts when time does."""
SERVICE = "service"
"""The door of what a service does of itself."""
PLAN, HOLDER, LOOK = "plan", "holder", "look"
"""Doors that no person comes through: a plan's hour, the line's holder by itself, and what was found at the breaker."""
ENDS = frozenset({CommandState.SUCCEEDED, CommandState.FAILED, CommandState.REJECTED, CommandState.EXPIRED})
"""Ends of a command that are an outcome: what was called off or overtaken before it was sent has switched nothing."""
_EVIDENCE = ("guard", "value", "limit", "breaker_state", "feedback_value", "meter_power_kw", "read_at", "result_at",
             "instance")  # fmt: skip
"""What of the evidence stands in the audit; the whole of it is in the command's history."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that somebody did, or tried to do."""

    actor: str
    """``user:…``, ``key:…``, ``service:…`` or ``plan:…``."""
    door: str
    """``console``, ``api``, ``cli``, ``upstream_app``, ``sc``, ``service``, ``watchdog``, ``plan``, ``holder`` or
    ``look``."""
    action: str
    """Noun and verb, such as ``plan.approve``."""
    subject: str
    """Kind and id, such as ``plan:…``."""
    at: datetime
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    reason: str | None = None
    succeeded: bool = True
    """False for a refused attempt, and for a switching that came to nothing."""
    entry_id: str = field(default_factory=new_id)


def has_ended(change: Change) -> bool:
    """Return whether a step in a command's life is the outcome of a switching."""
    return change.after.state in ENDS and change.is_transition


def switched(change: Change, approver: str | None) -> Entry:
    """Return the record of a load's switching that has come to its end.

    Args:
        change: The last step in the life of its command.
        approver: Who approved the plan that it belongs to.
    """
    command = change.after
    proven = {Effect.LOAD_OFF: "off", Effect.LOAD_ON: "on"}
    after: dict[str, object] = {
        "state": command.state,
        "load": next((word for effect, word in proven.items() if effect in change.effects), None),
        "reason": command.reason or None,
        "command_id": command.command_id,
        "site_id": command.site_id,
        "device_id": command.device_id,
        "priority": command.priority.name.lower(),
        "ordered_at": command.created_at,
        "wanted_at": command.not_before,
        "restore_at": command.restore_at,
        "sent_at": command.sent_at,
        "attempts": command.attempt,
        "approved_by": approver,
        "group_id": command.group_id,
        "wake_up_id": command.wake_up_id,
        "occurrence_id": command.occurrence_id,
        "isolation_id": command.isolation_id,
        **{name: change.evidence[name] for name in _EVIDENCE if change.evidence.get(name) is not None},
    }
    return Entry(
        actor=command.actor or CLOCKWORK,
        door=_door(change),
        action="load.off" if command.is_off else "load.on",
        subject=f"load:{command.load_id}",
        at=change.at,
        before={"state": change.before.state},
        after={name: value for name, value in after.items() if value is not None},
        reason=command.note,
        succeeded=command.state is CommandState.SUCCEEDED,
    )


def plan_step(
    before: Plan | SetpointPlan | None,
    plan: Plan | SetpointPlan,
    actor: str,
    door: str,
    action: str,
    at: datetime,
    *,
    why: str | None = None,
) -> Entry:
    """Return the record of a plan that somebody, or its hour, has brought into another state.

    Args:
        before: As it was; None of one that is new.
        plan: As it is now; it switches loads, or sets a point in devices.
        actor: Who has done it.
        door: Through which door.
        action: What was done to it.
        at: When.
        why: The reason, where neither its end nor its note is.
    """
    after = _of_plan(plan)
    if plan.state is PlanState.APPROVED:  # once: there may be a hundred thousand
        after |= {"loads": list(plan.load_ids)} if isinstance(plan, Plan) else {"devices": list(plan.device_ids)}
    return Entry(
        actor, door, action, f"plan:{plan.plan_id}", at, before=None if before is None else _of_plan(before),
        after=after, reason=why or plan.end_reason or plan.note,
    )  # fmt: skip


def _of_plan(plan: Plan | SetpointPlan) -> dict[str, object]:
    """Return what a plan says and whose it is; which loads or devices it is about is in the entry that approves it."""
    what: dict[str, object] = (
        {"load_count": len(plan.load_ids), "rank": plan.rank}
        if isinstance(plan, Plan)
        else {
            "target": dict(plan.target), "device_count": len(plan.device_ids), "point": plan.point,
            "value": plan.value, "value_after": plan.value_after,
        }
    )  # fmt: skip
    return {
        "name": plan.name,
        "state": plan.state,
        **what,
        "first_date": plan.schedule.first_date.isoformat(),
        "last_date": plan.schedule.last_date.isoformat(),
        "windows": [f"{one.start:%H:%M:%S}-{one.end:%H:%M:%S}" for one in plan.schedule.windows],
        "zone": plan.schedule.zone,
        "created_by": plan.created_by,
        "approved_by": plan.approved_by,
        "ended_by": plan.ended_by,
    }


def setting_ended(before: CommandState, one: Adjustment, at: datetime) -> Entry:
    """Return the record of what became of an order that sets something inside a device.

    Args:
        before: The state that it was in.
        one: The order, at its end.
        at: When.
    """
    after: dict[str, object] = {
        "state": one.state,
        "reason": one.reason or None,
        "adjustment_id": one.adjustment_id,
        "action": one.action.value,
        "point": one.point,
        "value": one.value,
        "found": one.found,
        "found_at": one.found_at,
        "ordered_at": one.created_at,
        "sent_at": one.sent_at,
        "attempts": one.attempt,
        "group_id": one.group_id,
    }
    return Entry(
        one.actor, one.door or door_of(one.actor, app=False), "device.set.end", f"device:{one.device_id}", at,
        before={"state": before}, after={name: value for name, value in after.items() if value is not None},
        reason=one.note, succeeded=one.state is CommandState.SUCCEEDED,
    )  # fmt: skip


def _door(change: Change) -> str:
    """Return what brought a load where it is."""
    command = change.after
    if change.evidence.get("stage") == "restored":
        return HOLDER
    if not command.was_sent and command.state is CommandState.SUCCEEDED:
        return LOOK
    if command.plan_id is not None:
        return PLAN
    return door_of(command.actor, app=command.priority is Priority.UPSTREAM_APP)


def door_of(actor: str, *, app: bool) -> str:
    """Return through which door an actor comes: people by the console's session, programs by their key, centres by
    their connection."""
    kind, _, name = actor.partition(":")
    if kind == "sc":
        return "sc"
    if app:
        return "upstream_app"
    if kind == "service":
        return name if name in ("cli", "watchdog") else "service"
    return {"user": "console", "key": "api", "plan": PLAN}.get(kind, "service")


def facts_text(facts: Mapping[str, object]) -> str:
    """Return facts as JSON with sorted keys: times in RFC 3339 UTC, what is not finite as null, a set as a list."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(facts, default=_listed, option=options).decode()


def _listed(value: object) -> object:
    if isinstance(value, Set):
        return sorted(value, key=str)
    return str(value)
