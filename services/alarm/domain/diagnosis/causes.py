"""Names of causes, how sure they are, and where evidence begins to count."""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Keys of the causes; their codes and texts are data."""

    OWN_LISTENER_DOWN = "own_listener_down"
    SITE_POWER_LOSS = "site_power_loss"
    GATEWAY_OFFLINE = "gateway_offline"
    AUTH_FAILED = "auth_failed"
    LINE_SILENT = "line_silent"
    DORMANT = "dormant"
    PLATFORM_PUSH_BROKEN = "platform_push_broken"
    SIM_ARREARS = "sim_arrears"
    SIM_SUSPENDED = "sim_suspended"
    SIM_CUT_OFF = "sim_cut_off"
    SIM_NOT_ACTIVE = "sim_not_active"
    SIM_IMEI_MISMATCH = "sim_imei_mismatch"
    SIM_CARD_TYPE = "sim_card_type"
    SIM_TARGET_ADDRESS = "sim_target_address"
    ADDRESS_CONFLICT = "address_conflict"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    DEVICE_FAULT = "device_fault"
    LOW_BATTERY = "low_battery"
    POOR_SIGNAL = "poor_signal"
    NO_SESSION = "no_session"
    BUS_NO_ANSWER = "bus_no_answer"
    STATE_MISMATCH = "state_mismatch"
    SIM_USAGE_ALARM = "sim_usage_alarm"
    COMMAND_EXPIRED = "command_expired"
    CLOCK_DRIFT = "clock_drift"
    DATA_GAP = "data_gap"
    PLATFORM_UNREACHABLE = "platform_unreachable"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"


class Certainty(StrEnum):
    """How sure a cause is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFORMATION = "information"


@dataclass(frozen=True, slots=True)
class Limits:
    """Where evidence begins to count. The figures for signal are habit of the trade, not of a standard."""

    ingest_silent_s: float = 60.0
    """Our listeners beat every second; this is many of them."""
    site_least: float = 2.0
    """So many devices of a site that fell silent together are "several"."""
    push_behind_s: float = 300.0
    usage_warning: float = 0.9
    """Share of the package."""
    impossible_least: float = 3.0
    battery_percent: float = 20.0
    rsrp_dbm: float = -110.0
    sinr_db: float = -3.0
    coverage_level: float = 2.0
    skew_s: float = 300.0
    skew_times: float = 2.0
    silent_periods: float = 3.0
    silent_least_s: float = 600.0
