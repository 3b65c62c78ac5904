"""What is known of a device that is silent or failing, who said so, and when.

A fact that is absent is *not known*; it is never taken for its contrary. So a platform that does not answer takes
causes away and adds none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

FactValue = bool | int | float | str


class Source(StrEnum):
    """Whom to ask, the cheapest first."""

    LOCAL = "local"
    """Our own projections of status, registry, findings and commands."""
    PLATFORM = "device_platform"
    """The device platform (AEP) behind which the device is."""
    CARD = "card"
    """The card platform: state of the card, arrears, usage, kind."""
    SESSION = "session"
    """The card platform: network session, module, directed addresses."""


ASKING_ORDER = tuple(Source)


class Known(StrEnum):
    """Names of facts; each comes from one source only."""

    # Local
    SILENT = "silent"
    SILENT_FOR_S = "silent_for_s"
    PERIOD_S = "period_s"
    EXPLAINED_BY = "explained_by"
    """A maintenance window or a planned shutdown: nothing is to be found out."""
    INGEST_SILENT_S = "ingest_silent_s"
    """Age of the newest sign of life of our own listeners. [s]"""
    MAINS_ALARM = "mains_alarm"
    LAST_VOLTAGE_LOW = "last_voltage_low"
    SITE_DEVICES = "site_devices"
    SITE_SILENT = "site_silent"
    """Devices of the site that fell silent within the window before or after this one, itself included."""
    SITE_ALIVE = "site_alive"
    GATEWAY_DEVICES = "gateway_devices"
    GATEWAY_SILENT = "gateway_silent"
    GATEWAY_ALIVE = "gateway_alive"
    """Whether the gateway or the connection of the line can be reached; absent where nobody can say."""
    LINE_DEVICES = "line_devices"
    LINE_SILENT = "line_silent"
    LINE_ALIVE = "line_alive"
    """Other devices of the line that answer."""
    ASLEEP = "asleep"
    SLEEP_PERIOD_S = "sleep_period_s"
    DEVICE_FAULT = "device_fault"
    IMPOSSIBLE_READINGS = "impossible_readings"
    BATTERY_PERCENT = "battery_percent"
    BATTERY_V = "battery_v"
    BATTERY_LIMIT_V = "battery_limit_v"
    RSRP_DBM = "rsrp_dbm"
    SINR_DB = "sinr_db"
    COVERAGE_LEVEL = "coverage_level"
    SAME_ADDRESS = "same_address"
    """Devices at this address of the line, this one included."""
    SAME_NUMBER = "same_number"
    """Another device of the line that tells the same meter number."""
    AUTH_REFUSED = "auth_refused"
    LAST_FAILURE = "last_failure"
    """Why the device was not heard, as ingest says it: ``timeout``, ``bad_answer``, ``device_refused`` …"""
    COMMAND_STATE = "command_state"
    SWITCH_DIFFERS = "switch_differs"
    """A command was confirmed and the read-back says otherwise after the settle time."""
    CLOCK_SKEW_S = "clock_skew_s"
    CLOCK_SKEW_TIMES = "clock_skew_times"
    DATA_GAP = "data_gap"
    """Reports are missing, as ingest tells it: since when and how many."""
    DEVICE_IMEI = "device_imei"
    DEVICE_NETWORK = "device_network"
    """``nb`` or ``4g``, of the card that was ordered for the device."""
    DEVICE_DIRECTED = "device_directed"
    """Whether a card with directed traffic was ordered."""
    OUR_ADDRESS = "our_address"
    """Where the device is told to report to."""
    CARD_SHARED = "card_shared"
    """One card is reported by two modules."""
    # Device platform
    PLATFORM_ONLINE = "platform_online"
    PLATFORM_ASLEEP = "platform_asleep"
    PLATFORM_LAST_REPORT_AT = "platform_last_report_at"
    PLATFORM_AHEAD_S = "platform_ahead_s"
    """How much younger the platform's last report is than the last that was pushed to us. [s]"""
    PLATFORM_COMMAND_STATE = "platform_command_state"
    # Card platform
    CARD_STATE = "card_state"
    """1 ready to activate, 2 test, 3 test off, 4 in use, 5 stopped, 6 managed by the operator, 7 removed."""
    CARD_OWED = "card_owed"
    CARD_USED_KB = "card_used_kb"
    CARD_PACKAGE_KB = "card_package_kb"
    CARD_QUOTA_KB = "card_quota_kb"
    """Usage at which the card is cut off. [kB]"""
    CARD_CUT_OFF = "card_cut_off"
    CARD_REAL_NAMED = "card_real_named"
    CARD_NETWORK = "card_network"
    CARD_DIRECTED = "card_directed"
    CARD_EXPIRES_ON = "card_expires_on"
    SESSION = "session"
    """``start`` while there is one, ``stop`` while there is none."""
    SESSION_SINCE = "session_since"
    SESSION_IMEI = "session_imei"
    SESSION_APN = "session_apn"
    CARD_BOUND = "card_bound"
    CARD_TARGETS = "card_targets"
    """Addresses that directed traffic may go to, joined by commas."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing known."""

    name: Known
    value: FactValue
    at: datetime
    """When it was so, as far as its source says; else when it was asked."""
    source: str
    """A topic, or the name of a platform."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a platform answered; a fact that is absent is not known, one that has no name here is passed over."""

    facts: Mapping[str, FactValue]
    at: datetime
    missing: Sequence[str] = ()
    """Parts of the question that were not answered, though others were."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A source that could not tell."""

    source: Source
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known at one moment."""

    facts: Mapping[Known, Fact] = field(default_factory=dict)
    unreachable: Mapping[Source, Silence] = field(default_factory=dict)

    def get(self, name: Known) -> Fact | None:
        """Return a fact, None when it is not known."""
        return self.facts.get(name)

    def with_facts(self, facts: Iterable[Fact]) -> "Evidence":
        """Return the evidence with more of it."""
        return Evidence({**self.facts, **{fact.name: fact for fact in facts}}, self.unreachable)

    def without(self, silence: Silence) -> "Evidence":
        """Return the evidence with a source noted that could not tell."""
        return Evidence(self.facts, {**self.unreachable, silence.source: silence})

    def answered(self, source: Source) -> "Evidence":
        """Return the evidence without the note that a source could not tell."""
        return Evidence(self.facts, {name: one for name, one in self.unreachable.items() if name is not source})
