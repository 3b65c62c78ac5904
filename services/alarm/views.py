"""What is read of alarms and rules, as it stands in the database; shared by SQL, use cases and API."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.alarm.domain.rulebook import Override


@dataclass(frozen=True, slots=True)
class StoredOverride:
    """An override and who made it."""

    override: Override
    changed_by: str
    changed_at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm as it stands."""

    alarm_id: str
    site_id: str
    device_id: str | None
    rule_id: str | None
    rule_version: int | None
    subject: str | None
    circuit_id: str | None
    signal: str
    signal_name: str | None
    signal_name_zh: str | None
    level: int
    sequence: int
    began_at: datetime
    raised_at: datetime
    ended_at: datetime | None
    closed_at: datetime | None
    end_reason: str | None
    inhibited_by: str | None
    point: str | None
    value: float | None
    threshold: float | None
    unit: str | None
    detail: str | None
    detail_zh: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    flapping: bool
    assigned_to: str | None
    shelved_until: datetime | None
    shelved_by: str | None


@dataclass(frozen=True, slots=True)
class AlarmFilter:
    """Which alarms are asked for; None does not limit."""

    active: bool | None = None
    sites: Sequence[str] | None = None
    device_id: str | None = None
    signal: str | None = None
    levels: Sequence[int] | None = None
    acknowledged: bool | None = None
    inhibited: bool | None = None
    began_from: datetime | None = None
    began_before: datetime | None = None
    assigned_to: str | None = None
    flapping: bool | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What a person wrote about an alarm."""

    at: datetime
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """Where the delivery of one event of an alarm to one destination stands (上报状态)."""

    alarm_id: str
    destination: str
    item: str
    item_kind: str | None
    state: str
    attempts: int
    at: datetime
    error: str | None
