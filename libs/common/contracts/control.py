"""Switching: the signed command, what its execution showed, and what became of it."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from libs.common.contracts.base import CalendarDate, Code, Number, Payload, PointName, UtcTime, Value, needs
from libs.common.ids import CommandId, DeviceId, LineId, LoadId, OccurrenceId, PlanId, SiteId


class CommandAction(StrEnum):
    """What a device is asked to do; ``open`` takes the load off, ``close`` wakes it."""

    OPEN = "open"
    CLOSE = "close"
    SET_POINT = "set_point"
    SET_THRESHOLD = "set_threshold"
    SET_SAMPLING_PERIOD = "set_sampling_period"
    SET_CLOCK = "set_clock"
    RESTART = "restart"
    READ_BACK = "read_back"


class Priority(IntEnum):
    """Who wins; the lower number does."""

    EMERGENCY = 1
    LOCAL = 2
    OPERATOR = 3
    SCHEDULE = 4
    UPSTREAM_APP = 5


class CommandState(StrEnum):
    """The life of a command; every state names its evidence, and being sent is not being delivered."""

    RECEIVED = "received"
    VALIDATED = "validated"
    APPROVAL = "approval"
    SCHEDULED = "scheduled"
    DISPATCHED = "dispatched"
    ACCEPTED = "accepted"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SUPERSEDED = "superseded"
    PARTIAL = "partial"
    """Of a group only: some members succeeded."""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows; ``unknown`` is settled by reading back, so something does."""
        return self in _FINAL


_FINAL = frozenset(
    {
        CommandState.SUCCEEDED,
        CommandState.REJECTED,
        CommandState.CANCELLED,
        CommandState.EXPIRED,
        CommandState.FAILED,
        CommandState.SUPERSEDED,
        CommandState.PARTIAL,
    }
)


class OccurrenceState(StrEnum):
    """The life of one shutdown of one load; the values differ from those of ``CommandState``."""

    PLANNED = "planned"
    SHUTTING_DOWN = "shutting_down"
    SHUT_DOWN = "shut_down"
    WAKING = "waking"
    AWAKE = "awake"
    OVERDUE = "overdue"
    """Its wake-up is not confirmed in time."""
    SKIPPED = "skipped"
    """A guard or the grace time kept it from starting."""
    CALLED_OFF = "called_off"


class Stage(StrEnum):
    """How far the execution of a command got at the line."""

    ACCEPTED = "accepted"
    """The line's holder checked signature and time, and recorded it durably."""
    REFUSED = "refused"
    """Not executed; the reason says why."""
    EXECUTED = "executed"
    """The device acknowledged the write; not yet a success."""
    VERIFIED = "verified"
    """Read back and as wished."""
    FAILED = "failed"
    """The device answered no, or the read-back differs after the settle time."""
    UNKNOWN = "unknown"
    """No answer after the write; read back before anything is repeated."""
    RESTORED = "restored"
    """The holder closed by itself at ``restore_at`` because nobody else had."""


class Command(Payload):
    """An order to the holder of a line, signed by control."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [needs("action", [CommandAction.OPEN], ["restore_at", "off_at_most_s"], ["isolation_id"])]
        }
    )

    command_id: CommandId
    site_id: SiteId
    device_id: DeviceId
    line_id: LineId
    action: CommandAction
    arguments: Mapping[str, Value]
    """Of the action: ``channel`` of a relay board, ``point`` and ``value`` of a set-point, …"""
    not_after: UtcTime
    """Not executed later."""
    issued_at: UtcTime
    signature: str
    """Base64 of control's Ed25519 over the canonical form of everything else, or, where there is a ``proof``, over the
    root of a hash tree in which that is a leaf."""
    proof: str | None = Field(default=None, max_length=400)
    """Where several orders were signed at once: base64 of this one's place among them (one byte) and of the hashes
    beside its way to the root, lowest first (SHA-256, RFC 6962). What is signed is the root behind a text that says so.
    """
    restore_at: UtcTime | None = None
    """When the load is to be on again; on every OFF that is not an isolation."""
    off_at_most_s: Number | None = Field(default=None, gt=0)
    """The same as a length, for clocks that may be wrong. [s]"""
    isolation_id: str | None = None
    """The work permit under which an OFF may stay open-ended."""
    load_id: LoadId | None = None
    occurrence_id: OccurrenceId | None = None
    plan_id: PlanId | None = None
    priority: Priority | None = None
    not_before: UtcTime | None = None
    attempt: int | None = Field(default=None, ge=1)
    """Counts the repetitions of an ON."""
    settle_s: Number | None = Field(default=None, ge=0)
    """How long to wait before the state is read back. [s]"""
    meter_device_id: DeviceId | None = None
    """The meter whose power proves the switching."""
    actor: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _off_carries_its_wake_up(self) -> Self:
        if self.action is CommandAction.OPEN and self.isolation_id is None:
            if self.restore_at is None or self.off_at_most_s is None:
                raise ValueError("an OFF needs restore_at and off_at_most_s, or an isolation_id")
        return self

    def signing_payload(self) -> dict[str, JsonValue]:
        """Return what control signs: every field as it goes onto the topic, without what shows that it did."""
        payload: dict[str, JsonValue] = self.model_dump(mode="json", exclude_none=True, exclude=_SHOWN_BY)
        return payload

    @staticmethod
    def signed_part(received: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Return what was signed, from the parsed JSON as received.

        A reader checks this and not its own model: fields of a newer writer are signed too.
        """
        return {name: value for name, value in received.items() if name not in _SHOWN_BY}


_SHOWN_BY = {"signature", "proof"}


class Evidence(Payload):
    """What was seen at the device; empty while nothing was read back."""

    feedback_point: PointName | None = None
    feedback_value: Number | None = None
    feedback_at: UtcTime | None = None
    meter_device_id: DeviceId | None = None
    meter_power_kw: Number | None = None
    meter_at: UtcTime | None = None
    local_lock: bool | None = None
    """The breaker is locked at the device."""
    trip_reason: int | None = None
    """Number of ``breaker_trip_reason``."""
    answer: str | None = None
    """The device's answer, in its protocol's words."""


class Result(Payload):
    """One stage of a command's execution, with the evidence for it."""

    command_id: CommandId
    site_id: SiteId
    stage: Stage
    evidence: Evidence
    epoch: int
    """Of the lease on the line; of two holders the lower one is stale."""
    at: UtcTime
    device_id: DeviceId | None = None
    line_id: LineId | None = None
    action: CommandAction | None = None
    attempt: int | None = None
    reason: Code | None = None
    """Why refused, failed or unknown: ``bad_signature``, ``expired``, ``lease_lost``, ``local_lock`` …"""
    detail: str | None = None
    detail_zh: str | None = None
    instance: str | None = None
    """Which ingest process."""


class ControlEvent(Payload):
    """A change of state of a command or of an occurrence of a plan."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"anyOf": [{"required": ["command_id"]}, {"required": ["occurrence_id"]}]},
                {"anyOf": [{"required": ["load_id"]}, {"required": ["device_id"]}]},
            ]
        }
    )

    site_id: SiteId
    state: CommandState | OccurrenceState
    """Of the occurrence when it is one of its states, else of the command."""
    at: UtcTime
    reason: str
    """For programs; empty when the state says it all."""
    command_id: CommandId | None = None
    occurrence_id: OccurrenceId | None = None
    load_id: LoadId | None = None
    """Absent only for a command to a device that feeds no load (a clock, a threshold)."""
    device_id: DeviceId | None = None
    plan_id: PlanId | None = None
    action: CommandAction | None = None
    off_at: UtcTime | None = None
    """When the load went off, as verified."""
    restore_at: UtcTime | None = None
    priority: Priority | None = None
    actor: str | None = None
    """Who ordered it: ``user:…``, ``key:…`` (also of everything that an upstream app's plan does), ``plan:…`` …"""
    group_id: str | None = None
    """Of the order that it belongs to, as its sender was answered."""
    detail: str | None = None
    detail_zh: str | None = None
    evidence: Evidence | None = None
    point: PointName | None = None
    """Of a command that sets something in a device: which point."""
    value: Number | None = None
    """What it is to be, in the point's canonical unit; what it is now is in the evidence."""
    fault_code: str | None = Field(default=None, pattern=r"^[A-Z][0-9]{2}$")
    """What is the matter with a command that did not do what it should: control's table of fault codes."""

    @model_validator(mode="after")
    def _has_subjects(self) -> Self:
        if self.command_id is None and self.occurrence_id is None:
            raise ValueError("command_id or occurrence_id is needed")
        if self.load_id is None and self.device_id is None:
            raise ValueError("load_id or, where there is no load, device_id is needed")
        return self


class PlanEvent(Payload):
    """A change of state of a plan."""

    plan_id: PlanId
    """The key."""
    state: Literal["draft", "approved", "active", "ended"]
    """``active``: its first date has come."""
    at: UtcTime
    name: str
    load_count: int = Field(ge=0)
    """Loads that it has; of a draft's groups those that they have now."""
    first_date: CalendarDate
    last_date: CalendarDate
    """Both are dates on which a window starts."""
    zone: str
    site_ids: tuple[SiteId, ...] | None = None
    """Sites of its loads, in order of their ids; absent when there are more than 10,000."""
    actor: str | None = None
    """Who brought it there; absent for the clock."""
    app: str | None = None
    """The upstream app whose plan it is."""
    created_by: str | None = None
    reason: str | None = None
    """Why it ended: ``finished`` after its last window, else in somebody's words."""
