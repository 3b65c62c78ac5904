"""Plans that want the same load at the same time: which one counts.

The lower rank counts, of one rank the plan that was approved first. The plan that yields does nothing with the load
in a window that touches one of the stronger plan's, not even when the stronger one's own conditions keep the load
on: whoever ranks plans wants one of them to decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.ids import LoadId, PlanId
from services.control.domain.plans import Plan, WindowInstance


class Outcome(StrEnum):
    """What becomes of the plan that is looked at."""

    YIELDS = "yields"
    PREVAILS = "prevails"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Another plan in force over some of the same loads and times."""

    plan_id: PlanId
    name: str
    rank: int
    outcome: Outcome
    """Of the plan that is looked at, against this one."""
    load_ids: tuple[LoadId, ...]
    """Loads of both."""
    windows: int
    """Windows of the plan that is looked at that touch one of this one."""
    first_at: datetime
    """When both first want the loads off."""


def find_overlap(
    plan: Plan, windows: Sequence[WindowInstance], other: Plan, others: Sequence[WindowInstance]
) -> Overlap | None:
    """Return how a plan meets another one, None when it does not.

    Args:
        plan: The plan that is looked at; while nobody has approved it, it counts as the later one.
        windows: Its windows.
        other: A plan in force.
        others: Its windows.
    """
    both = set(other.load_ids)
    load_ids = tuple(load_id for load_id in plan.load_ids if load_id in both)
    if not load_ids:
        return None
    met = _meeting(windows, others)
    if not met:
        return None
    return Overlap(
        plan_id=other.plan_id,
        name=other.name,
        rank=other.rank,
        outcome=Outcome.PREVAILS if _counts_before(plan, other) else Outcome.YIELDS,
        load_ids=load_ids,
        windows=len(met),
        first_at=min(met),
    )


def _counts_before(plan: Plan, other: Plan) -> bool:
    if plan.rank != other.rank:
        return plan.rank < other.rank
    if plan.approved_at is None or other.approved_at is None:
        return False
    return (plan.approved_at, plan.plan_id) < (other.approved_at, other.plan_id)


def _meeting(windows: Sequence[WindowInstance], others: Sequence[WindowInstance]) -> list[datetime]:
    """Return, of every window that touches another one, from when on both are open; both lists end in their order."""
    found: list[datetime] = []
    ordered, position = sorted(others, key=lambda one: one.off_at), 0
    for window in sorted(windows, key=lambda one: one.off_at):
        while position < len(ordered) and ordered[position].on_at <= window.off_at:
            position += 1
        if position < len(ordered) and ordered[position].off_at < window.on_at:
            found.append(max(window.off_at, ordered[position].off_at))
    return found
