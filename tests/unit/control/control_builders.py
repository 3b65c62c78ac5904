"""Commands, facts and outcomes with sensible values, to be changed where a test cares."""

from datetime import UTC, datetime, timedelta

from libs.common.contracts.control import CommandAction, CommandState, Priority, Stage
from libs.common.ids import CommandId, DeviceId, LineId, LoadId, SiteId
from services.control.domain.commands import Command, Outcome
from services.control.domain.guards import Facts, Policy, Reading

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
POLICY = Policy()


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def off(**changes: object) -> Command:
    return Command(
        **{  # type: ignore[arg-type]
            "command_id": CommandId("off-1"), "action": CommandAction.OPEN, "site_id": SiteId("s"),
            "device_id": DeviceId("d"), "line_id": LineId("l"), "load_id": LoadId("aau"),
            "priority": Priority.SCHEDULE, "state": CommandState.SCHEDULED, "created_at": NOW, "not_before": NOW,
            "next_at": NOW, "not_after": later(600), "restore_at": later(6 * 3600), "off_at_most_s": 6 * 3600.0,
            "pair_id": CommandId("on-1"), "actor": "plan:p", **changes,
        }
    )  # fmt: skip


def on(**changes: object) -> Command:
    return Command(
        **{  # type: ignore[arg-type]
            "command_id": CommandId("on-1"), "action": CommandAction.CLOSE, "site_id": SiteId("s"),
            "device_id": DeviceId("d"), "line_id": LineId("l"), "load_id": LoadId("aau"),
            "priority": Priority.SCHEDULE, "state": CommandState.SCHEDULED, "created_at": NOW, "not_before": NOW,
            "next_at": NOW, "pair_id": CommandId("off-1"), "actor": "plan:p", **changes,
        }
    )  # fmt: skip


def reading(breaker: int | None = 1, *, at_s: float = 0.0, age_s: float = 0.0, **changes: object) -> Reading:
    return Reading(breaker=breaker, read_at=later(at_s), age_s=age_s, **changes)  # type: ignore[arg-type]


def facts(**changes: object) -> Facts:
    return Facts(**{"reading": reading(), "lease_acknowledged": True, **changes})  # type: ignore[arg-type]


def outcome(stage: Stage, **changes: object) -> Outcome:
    return Outcome(**{"stage": stage, "attempt": 1, "is_look": False, "at": NOW, **changes})  # type: ignore[arg-type]
