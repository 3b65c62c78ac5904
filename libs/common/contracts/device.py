"""What is known of a device besides its readings: the alarms it sends itself, and its state."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import Field

from libs.common.contracts.base import Code, Number, Payload, Phase, PointName, UtcTime
from libs.common.ids import DeviceId, LineId, SiteId


class DeviceEvent(Payload):
    """An alarm or event that the device itself sends (AEP events, 104 SOE, 1363.3 alarm bytes)."""

    device_id: DeviceId
    site_id: SiteId
    source_time: UtcTime
    code: str
    """The device's own code, unique within its profile."""
    phase: Literal[Phase.BEGIN, Phase.END, Phase.ONCE]
    text: str
    """As the device or its profile words it; empty where neither does."""
    received_at: UtcTime | None = None
    driver: Code | None = None
    severity: int | None = Field(default=None, ge=1, le=4)
    """As the device rates it, 1 the worst."""
    point: PointName | None = None
    value: Number | None = None
    seq: int | None = None


class Connectivity(StrEnum):
    """Whether the device can be heard; derived from the age of its data and the platform's own events."""

    ONLINE = "online"
    OFFLINE = "offline"
    SLEEPING = "sleeping"
    NEVER_SEEN = "never_seen"


class RadioSignal(Payload):
    """The radio link of the last report; all fields absent for a wired device."""

    rsrp_dbm: Number | None = None
    rsrq_db: Number | None = None
    rssi_dbm: Number | None = None
    sinr_db: Number | None = None
    coverage_level: int | None = Field(default=None, ge=0, le=2)
    cell_id: str | None = None
    pci: int | None = None
    at: UtcTime | None = None


class Battery(Payload):
    """The device's own battery; all fields absent when it has none."""

    level_percent: Number | None = None
    voltage_v: Number | None = None
    at: UtcTime | None = None


class SimState(Payload):
    """The SIM as the device reports it; all fields absent when it has none."""

    iccid: str | None = None
    imsi: str | None = None
    imei: str | None = None
    at: UtcTime | None = None


class DeviceStatus(Payload):
    """The latest state of a device; the topic is compacted, so that its end is the present."""

    device_id: DeviceId
    site_id: SiteId
    connectivity: Connectivity
    texts: Mapping[PointName, str]
    """Text points such as ``meter_address``."""
    signal: RadioSignal
    battery: Battery
    sim: SimState
    last_report_at: UtcTime | None = None
    """``received_at`` of the last report; absent for a device never heard of."""
    connectivity_since: UtcTime | None = None
    clock_skew_s: Number | None = None
    """Device time minus our time. [s]"""
    line_id: LineId | None = None
    epoch: int | None = None
    """Of the line's holder that wrote this; a lower one than seen is stale."""
    reason: Code | None = None
    """Why it is offline: ``timeout``, ``line_down``, ``platform_event`` …"""
