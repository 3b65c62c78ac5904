"""What an alarm is made of: signals, rules and their parameters, the episode of a rule on a device, its steps.

Event times inside the domain are whole microseconds since 1970 in UTC (``_us``): exact, and numpy compares
them by the thousand. They become ``datetime`` at the edges only.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_US = 1_000_000
NEVER_US = -(1 << 62)
"""A time before everything."""

CLASSES = ("A", "B", "C", "D")
"""Station classes of the dictionary, the more important first; which sites count as which is configured."""
LEVELS = (1, 2, 3, 4)
"""Alarm levels, 1 the worst."""

ALARM_NAMESPACE = uuid.UUID("6f3a3f0e-6f0a-5f43-9d5a-0c1e6a2b7d11")
"""Fixed for ever: alarm ids are derived from it."""


def to_us(when: datetime) -> int:
    """Return an aware time in microseconds."""
    return (when - EPOCH) // timedelta(microseconds=1)


def from_us(when_us: int) -> datetime:
    """Return microseconds as an aware time in UTC."""
    return EPOCH + timedelta(microseconds=when_us)


class SignalKind(StrEnum):
    """What kind of signal a row of the table is."""

    DI = "DI"
    """遥信: a state or an alarm."""
    AI = "AI"
    """遥测: a measured value."""
    DO = "DO"
    """遥控: a command."""
    AO = "AO"
    """遥调: a set-point."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of the standard signal table."""

    code: str
    """Code in the dictionary, one for all station classes: the ``s`` in the second place of a ten-digit code
    stands for the digit of the class."""
    dictionary: str
    equipment_type: str
    equipment_zh: str
    kind: SignalKind
    name_zh: str
    name_en: str
    unit: str | None
    """As the dictionary prints it."""
    levels: Mapping[str, int]
    """Station class to level; a class without a level has no such alarm."""
    thresholds: Mapping[str, float]
    start_delay_s: float | None
    """None: the delay that the dictionary's policy gives to the level. [s]"""
    end_delay_s: float
    period_s: float | None
    """Storage period. [s]"""
    absolute_change: float | None
    """Dead-band of reporting, in ``unit``."""
    alarm_text_zh: str | None
    normal_text_zh: str | None
    required: bool
    points: tuple[str, ...]
    """Our points that it speaks of."""
    note: str | None
    cells: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The row as its file has it, by heading; empty where no file of a person's gave it."""
    retired: bool = False
    """The table has it no more; alarms still name it, rules over it sleep."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Where rows of the table come from."""

    dictionary: str
    name_zh: str
    name_en: str
    source: str


class Comparison(StrEnum):
    """How a value is compared with the rule's threshold."""

    ABOVE = "above"
    BELOW = "below"
    EQUAL = "equal"
    NOT_EQUAL = "not_equal"
    BITS = "bits"
    """Any bit of the threshold, read as a mask, is set in the value."""


class Quantifier(StrEnum):
    """Of a rule over several points: how many of them must violate the threshold."""

    ANY = "any"
    ALL = "all"
    SOME = "some"
    """At least one and not all: a lost phase is not a lost supply."""


class Measure(StrEnum):
    """What of a rule's points is compared with the threshold."""

    VALUE = "value"
    """The points as they are reported."""
    RATE = "rate"
    """How fast each point changes between two reports, per minute; falling is negative."""
    AGE = "age"
    """For how long the device has reported without a usable value of the point. [s]"""
    RATED = "rated"
    """Each current as a share of the rated current of the circuit. [%]"""
    UNBALANCE = "unbalance"
    """How far the phases lie apart: (greatest - least) / greatest. [%]"""
    EXPRESSION = "expression"
    """One number out of several points."""
    SILENCE = "silence"
    """How many reports in a row the device has missed; on the partition's clock."""


class NoData(StrEnum):
    """What it means for an alarm's condition when usable values stay away for longer than ``max_gap``."""

    HOLD = "hold"
    """Nothing: what is active stays active, what was pending is forgotten."""
    ALARM = "alarm"
    """It counts as a violation: what was pending goes on, and what was normal is raised."""
    CLEAR = "clear"
    """It counts as recovered: what is active ends with ``no_data``."""


class Need(StrEnum):
    """What the thing that a rule watches lives on; where it is lacking, the alarm is no news."""

    LOAD = "load"
    """The load behind the device is switched on: control may have switched it off on purpose."""
    SUPPLY = "supply"
    """Mains, through the circuits above."""
    LINK = "link"
    """The way of its data: gateways and the line."""


class Band(StrEnum):
    """Place of a threshold among those of its group; the order is checked whenever one is changed."""

    HIGH_HIGH = "high_high"
    HIGH = "high"
    LOW = "low"
    LOW_LOW = "low_low"


BAND_ORDER = (Band.LOW_LOW, Band.LOW, Band.HIGH, Band.HIGH_HIGH)


@dataclass(frozen=True, slots=True)
class Params:
    """What an override may change, before the delay policy is applied."""

    enabled: bool
    level: int | None
    threshold: float | None
    """In the unit of the rule's points."""
    hysteresis: float
    """How far a value must come back behind the threshold to count as recovered; same unit."""
    start_delay_s: float | None
    """None: the policy's delay of the level. [s]"""
    end_delay_s: float
    max_gap_s: float
    """A last value stands for this long; what a longer gap means ``no_data`` says. [s]"""
    no_data: NoData = NoData.HOLD


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as the table ships it: which points, compared how, with parameters per station class."""

    rule_id: str
    signal: str
    comparison: Comparison
    quantifier: Quantifier
    points: tuple[str, ...]
    unit: str
    device_kinds: frozenset[str]
    """Kinds of devices it applies to; empty is every kind that has the points."""
    defaults: Mapping[str, Params]
    """Per station class A to D."""
    band: Band | None = None
    group: str | None = None
    """Rules of one group keep the order of their bands on every device."""
    needs: frozenset[Need] = frozenset()
    """Where one of these is lacking, that explains the alarm."""
    takes: Need | None = None
    """What its alarm says that the device lacks, and everything behind the device with it."""
    version: int = 1
    measure: Measure = Measure.VALUE
    expression: str | None = None
    """Of ``Measure.EXPRESSION``: the formula over ``points``."""


@dataclass(frozen=True, slots=True)
class EffectiveRule:
    """A rule with the parameters that hold for one device, and where each comes from."""

    rule: Rule
    signal: str
    enabled: bool
    level: int | None
    threshold: float | None
    hysteresis: float
    start_delay_us: int
    end_delay_us: int
    max_gap_us: int
    version: int
    """Rises with every change of the rule or of an override that touches the device."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    """Parameter to ``dictionary`` or ``<scope>:<id>``."""
    no_data: NoData = NoData.HOLD

    @property
    def is_silence(self) -> bool:
        """Whether it waits for reports instead of judging them."""
        return self.rule.measure is Measure.SILENCE

    @property
    def active(self) -> bool:
        """Whether it judges; a rule without threshold or level is shipped asleep."""
        return self.enabled and self.level is not None and self.threshold is not None

    @property
    def recovery_threshold(self) -> float | None:
        """Threshold that an active alarm is judged with; None without a threshold."""
        if self.threshold is None:
            return None
        if self.rule.comparison is Comparison.ABOVE:
            return self.threshold - self.hysteresis
        if self.rule.comparison is Comparison.BELOW:
            return self.threshold + self.hysteresis
        return self.threshold


class State(IntEnum):
    """Life of a rule on a device. NORMAL is the absence of an episode."""

    NORMAL = 0
    PENDING = 1
    """The condition holds, the start delay runs."""
    ACTIVE = 2
    CLEARING = 3
    """The condition does not hold any more, the end delay runs."""
    DISMISSED = 4
    """A person has ended the alarm; the rule is armed again once the condition does not hold."""


class EndReason(StrEnum):
    """Why an alarm ended."""

    RECOVERED = "recovered"
    NO_DATA = "no_data"
    RULE_CHANGED = "rule_changed"
    MANUAL = "manual"
    DEVICE_REMOVED = "device_removed"


class StepPhase(StrEnum):
    """What a step does to the alarm."""

    BEGIN = "begin"
    UPDATE = "update"
    END = "end"


Values = Mapping[str, float | None]
"""Values of a rule's points in one report; None is bad or missing, a point the device lacks is left out."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A rule that is not NORMAL on a device; everything that must survive a crash."""

    state: State
    since_us: int
    """PENDING: when the condition first held. ACTIVE, DISMISSED: the same. CLEARING: when it first did not hold."""
    began_us: int
    """When the condition first held."""
    seen_us: int
    """Time of the last report that decided the condition."""
    values: Values
    rule_version: int
    site_id: str
    signal: str
    level: int
    alarm_id: str | None = None
    """From ACTIVE on."""
    sequence: int = 0
    """Of the alarm's last step."""
    inhibited_by: str | None = None
    raised_us: int | None = None
    """From ACTIVE on: when it was raised, on the partition's clock."""
    hold_us: int = 0
    """The alarm flaps: it must be over for so long at least before it ends. [µs]"""


@dataclass(frozen=True, slots=True)
class AlarmStep:
    """One step in an alarm's life, to be stored and published once."""

    phase: StepPhase
    alarm_id: str
    sequence: int
    site_id: str
    device_id: str
    rule_id: str
    rule_version: int
    signal: str
    level: int
    began_us: int
    ended_us: int | None
    end_reason: EndReason | None
    inhibited_by: str | None
    point: str | None
    value: float | None
    threshold: float | None
    unit: str
    received_us: int
    """When the report that decided it was accepted, or the partition's clock where a delay ran out. [µs]"""
    flapping: bool = False
    actor: str | None = None
    """Who ended it by hand, and why."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ConditionAlarm:
    """The last alarm that a finding of the platform itself made."""

    alarm_id: str
    sequence: int
    level: int
    began_at: datetime
    ended_at: datetime | None
    detail: str | None
    inhibited_by: str | None = None
    dismissed: bool = False
    """A person has ended it, and the finding itself has not."""


def alarm_id_of(device_id: str, rule_id: str, began_us: int) -> str:
    """Return the id of the alarm that a rule raises on a device for a condition that began then.

    The same readings give the same id, so that a replay can never make a second alarm of the first.
    """
    return str(uuid.uuid5(ALARM_NAMESPACE, f"{device_id}|{rule_id}|{began_us}"))
