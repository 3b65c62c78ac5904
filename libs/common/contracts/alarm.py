"""What is wrong: findings of the platform itself, alarms, maintenance windows and diagnoses."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from libs.common.contracts.base import Code, Number, Payload, Phase, PointName, UtcTime, Value, needs
from libs.common.ids import AlarmId, CircuitId, DeviceId, LoadId, SiteId


class AlarmLevel(IntEnum):
    """How bad it is; 1 is the worst."""

    CRITICAL = 1
    MAJOR = 2
    MINOR = 3
    WARNING = 4


class EndReason(StrEnum):
    """Why an alarm ended."""

    RECOVERED = "recovered"
    NO_DATA = "no_data"
    RULE_CHANGED = "rule_changed"
    MANUAL = "manual"
    DEVICE_REMOVED = "device_removed"


class ConditionKind(StrEnum):
    """Findings that the platform knows about itself; a service may add its own."""

    SPOOL_FULL = "spool_full"
    DATA_GAP = "data_gap"
    BUS_LOSS = "bus_loss"
    RETENTION_RISK = "retention_risk"
    CLOCK_NOT_SYNCHRONISED = "clock_not_synchronised"
    DEVICE_CLOCK_SKEW = "device_clock_skew"
    LINE_DOWN = "line_down"
    WAKE_UP_OVERDUE = "wake_up_overdue"
    WAKE_UP_STOPPED = "wake_up_stopped"
    """An isolation, a local lock or a protection trip forbids the ON: a person is called."""
    ISOLATION_ACTIVE = "isolation_active"
    SC_REFUSES = "sc_refuses"
    SC_UNREACHABLE = "sc_unreachable"
    CALLBACK_FAILING = "callback_failing"
    FILES_WAITING = "files_waiting"
    TARGET_EXCEEDED = "target_exceeded"
    REGISTER_DECREASED = "register_decreased"
    IMPOSSIBLE_JUMP = "impossible_jump"
    INTERVAL_SUM_DIFFERS = "interval_sum_differs"
    """The intervals that a meter formed itself do not add up to what its register counted."""
    AUTH_FAILED = "auth_failed"
    DISK_FULL = "disk_full"
    ALARM_STORM = "alarm_storm"
    """A site raises more alarms than anybody can read; they go on under this one."""
    INGEST_SILENT = "ingest_silent"
    """A process of ingest does not beat; nothing else is called silent as long as that may be the reason."""


class Condition(Payload):
    """A finding of the platform itself; alarm makes signals of it."""

    site_id: SiteId
    """``PLATFORM_SITE`` when it concerns no site."""
    source: Code
    """The service that found it."""
    kind: Code
    """One of ``ConditionKind``, or the service's own."""
    subject: str
    """What it is about: an id of a device, a load, a destination, a process …; begin and end agree on it."""
    phase: Phase
    detail: str
    detail_zh: str | None = None
    at: UtcTime | None = None
    """When it was so; the event's ``ce_time`` where absent."""
    level: AlarmLevel | None = None
    """What the finder thinks; the signal table has the last word."""
    device_id: DeviceId | None = None
    load_id: LoadId | None = None
    circuit_id: CircuitId | None = None
    values: Mapping[str, Value] | None = None


class AlarmEvent(Payload):
    """One step in an alarm's life: exactly one begin and one end, with rising sequence."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [needs("phase", [Phase.END], ["ended_at", "end_reason"])]},
    )

    alarm_id: AlarmId
    site_id: SiteId
    sequence: int = Field(ge=1)
    """1 for the begin, then rising by one."""
    phase: Literal[Phase.BEGIN, Phase.UPDATE, Phase.END]
    level: AlarmLevel
    signal: str
    """Code in the signal table."""
    began_at: UtcTime
    """When the condition first held, in event time."""
    device_id: DeviceId | None = None
    """Absent for an alarm of a site or of the platform."""
    ended_at: UtcTime | None = None
    """When the condition last stopped holding, in event time; on the end only."""
    end_reason: EndReason | None = None
    """On the end only."""
    inhibited_by: str | None = None
    """Id of the parent alarm or window that keeps it from being told; absent when it is told."""
    signal_name: str | None = None
    signal_name_zh: str | None = None
    text: str | None = None
    text_zh: str | None = None
    point: PointName | None = None
    value: Number | None = None
    threshold: Number | None = None
    unit: str | None = None
    subject: str | None = None
    """What it is about where it is no device."""
    circuit_id: CircuitId | None = None
    rule_id: str | None = None
    rule_version: int | None = None
    raised_at: UtcTime | None = None
    """When this step was decided, by our clock."""
    actor: str | None = None
    """Who ended it by hand."""
    note: str | None = None
    historical: bool | None = None
    """Found in late data; nobody is told."""
    flapping: bool | None = None
    """It came and went so often that its end waits until it has stayed away."""

    @model_validator(mode="after")
    def _end_is_complete(self) -> Self:
        ended = self.ended_at is not None and self.end_reason is not None
        if self.phase is Phase.END and not ended:
            raise ValueError("an end needs ended_at and end_reason")
        if self.phase is not Phase.END and (self.ended_at is not None or self.end_reason is not None):
            raise ValueError("ended_at and end_reason belong to the end only")
        if self.ended_at is not None and self.ended_at < self.began_at:
            raise ValueError("ended_at lies before began_at")
        return self


class AlarmAction(StrEnum):
    """What a person orders about an alarm."""

    CLEAR = "clear"
    """End it; it arms again once the condition has been false."""
    SHELVE = "shelve"
    """Put it, and what the same rule raises on the device, aside for some time."""
    UNSHELVE = "unshelve"


class AlarmOrder(Payload):
    """What a person orders about an alarm, for whoever holds its life."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [needs("action", [AlarmAction.SHELVE], ["until"])]},
    )

    order_id: str
    site_id: SiteId
    alarm_id: AlarmId
    action: AlarmAction
    actor: str
    at: UtcTime
    reason: str | None = None
    until: UtcTime | None = None
    """How long it is shelved."""
    device_id: DeviceId | None = None
    rule_key: str | None = None
    """Rule, or signal of a finding, that is shelved."""

    @model_validator(mode="after")
    def _shelf_has_an_end(self) -> Self:
        if self.action is AlarmAction.SHELVE and (self.until is None or self.rule_key is None):
            raise ValueError("a shelf needs until and rule_key")
        return self


class MaintenanceScope(Payload):
    """What a window covers: a site, or some devices of it."""

    site_id: SiteId
    device_ids: tuple[DeviceId, ...] | None = None
    """Absent: the whole site."""

    def covers(self, site_id: SiteId, device_id: DeviceId | None = None) -> bool:
        """Return whether the device, or the site as a whole, lies within."""
        if site_id != self.site_id:
            return False
        return self.device_ids is None or device_id in self.device_ids


class MaintenanceWindow(Payload):
    """Time in which work goes on: alarms are kept but not told, and plans do not switch.

    Half-open, ``[from, to)``. A window that is called off is followed by a tombstone.
    """

    window_id: str
    scope: MaintenanceScope
    from_: UtcTime = Field(alias="from")
    to: UtcTime
    owner: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.to <= self.from_:
            raise ValueError("to must lie after from")
        return self


class EvidenceItem(Payload):
    """One fact behind a diagnosis."""

    name: Code
    value: Value
    at: UtcTime
    source: str | None = None
    """Who said so: a topic, the card platform, the device platform."""


class Confidence(StrEnum):
    """How sure a diagnosis is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFORMATION = "information"


class Diagnosis(Payload):
    """Why a device is silent or failing, and what to do."""

    diagnosis_id: str
    site_id: SiteId
    device_id: DeviceId
    code: str = Field(pattern=r"^[0-9]{2}$")
    """Fault code, two digits."""
    cause: Code
    """The code's key, such as ``sim_suspended``."""
    evidence: tuple[EvidenceItem, ...]
    advice_zh: str
    advice_en: str
    phase: Literal[Phase.BEGIN, Phase.UPDATE, Phase.END]
    at: UtcTime | None = None
    confidence: Confidence | None = None
    also_possible: tuple[Code, ...] | None = None
    alarm_id: AlarmId | None = None
    group_id: str | None = None
    """The same cause on many devices, reported once."""
