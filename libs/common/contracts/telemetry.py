"""What a device said: readings, the heartbeat of ingest among them, and what could not be understood."""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from libs.common.contracts.base import Code, Number, Payload, PointName, UtcTime
from libs.common.ids import DeviceId, LineId, LoadId, SiteId

HEARTBEAT_TYPE = "wattring.telemetry.heartbeat.v1"
"""``ce_type`` by which a heartbeat is told from a reading on the readings topic."""


class Quality(StrEnum):
    """Why a point is not good; a good point has no entry.

    Uncertain values are judged by alarm and used by carbon with a mark. Bad ones hold alarm's state and
    are not used by carbon.
    """

    SUSPECT = "suspect"
    ESTIMATED = "estimated"
    SUBSTITUTED = "substituted"
    MANUAL = "manual"
    CLOCK_SKEW = "clock_skew"
    INVALID = "invalid"
    STALE = "stale"
    FROZEN = "frozen"

    @property
    def is_bad(self) -> bool:
        """Whether the value must not be used."""
        return self in _BAD

    @property
    def is_uncertain(self) -> bool:
        """Whether the value may be used with a mark."""
        return self not in _BAD


_BAD = frozenset({Quality.INVALID, Quality.STALE, Quality.FROZEN})


class Reading(Payload):
    """One report of one device at one time, on ``telemetry.readings`` and ``telemetry.backfill``.

    A missing value is absent or null, never 0. Energy counters are as the meter shows them, with the
    ratios beside them; everything else is on the primary side and in the canonical unit of its point.
    """

    device_id: DeviceId
    site_id: SiteId
    source_time: UtcTime
    """The device's time of the values, or ``received_at`` where the device gave none that can be used."""
    received_at: UtcTime
    """When it was accepted here."""
    driver: Code
    """Which driver decoded it: modbus, dlt645, mqtt, push, import, manual …"""
    points: Mapping[PointName, Number | None]
    """Point name to number in the point's canonical unit."""
    seq: int | None = None
    """The device's own counter of its reports."""
    quality: Mapping[PointName, Quality] | None = None
    """Only points that are not good."""
    raw: Mapping[PointName, Number] | None = None
    """Numbers of bad points as they came, kept for people; never for logic."""
    device_time: UtcTime | None = None
    """What the device's clock said, where ``source_time`` is not it."""
    message_id: str | None = None
    """Identity that the source gave the report, where the profile names it as the duplicate key."""
    replaces: str | None = None
    """``message_id`` of a report of the same device and time that was wrong, and whose place this one takes."""
    line_id: LineId | None = None
    profile: str | None = None
    profile_version: str | None = None
    ct_ratio: Number | None = Field(default=None, gt=0)
    """Current transformer ratio that held for this report. [1]"""
    pt_ratio: Number | None = Field(default=None, gt=0)
    """Voltage transformer ratio that held for this report. [1]"""
    energy_ratio: Number | None = Field(default=None, gt=0)
    """What energy counters still have to be multiplied with; absent is 1 (the meter applied its ratios). [1]"""

    load_id: LoadId | None = None
    """Of the traffic of a load (``traffic_load``): which. Such a report stands under the load's id in ``device_id``."""

    def quality_of(self, point: str) -> Quality | None:
        """Return the flag of a point, None for good."""
        return self.quality.get(point) if self.quality else None

    def usable(self, point: str) -> float | None:
        """Return the number of a point that is present and not bad, else None."""
        flag = self.quality_of(point)
        return None if flag is not None and flag.is_bad else self.points.get(point)


class Heartbeat(Payload):
    """Ingest is alive: one a second into every partition of ``telemetry.readings``, through the same spool.

    Consumers of a partition move its clock by it, so that silence of a device is told from silence of
    ingest. Its ``ce_type`` is ``HEARTBEAT_TYPE``; it carries no ``device_id``.
    """

    ce_type: ClassVar[str | None] = HEARTBEAT_TYPE

    instance: str
    """Which ingest process."""
    partition: int = Field(ge=0)
    received_at: UtcTime
    """The writer's time."""
    seq: int | None = None
    """Counts up while the process lives."""


class RejectReason(StrEnum):
    """Why a report was not taken."""

    UNDECODABLE = "undecodable"
    CHECKSUM = "checksum"
    TOO_LARGE = "too_large"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_POINT = "unknown_point"
    WRONG_UNIT = "wrong_unit"
    NOT_A_NUMBER = "not_a_number"
    UNREADABLE_TIME = "unreadable_time"
    FUTURE_TIME = "future_time"
    TOO_OLD = "too_old"
    MISSING_FIELD = "missing_field"
    FOREIGN_ADDRESS = "foreign_address"
    NOT_AUTHENTICATED = "not_authenticated"
    NO_PROFILE = "no_profile"


class Rejected(Payload):
    """Something that could not be understood, kept with its bytes so that it can be mended and replayed."""

    reason: Code
    """One of ``RejectReason``, or a driver's own."""
    source: str
    """Line id, or address of the sender."""
    received_at: UtcTime
    raw_base64: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """The bytes as they came, possibly cut: see ``truncated``."""
    detail: str | None = None
    """For people: what was expected and what was found."""
    detail_zh: str | None = None
    rejected_id: str | None = None
    device_id: DeviceId | None = None
    site_id: SiteId | None = None
    line_id: LineId | None = None
    driver: Code | None = None
    content_type: str | None = None
    truncated: bool | None = None
    """Whether the bytes were cut to the size that is kept."""
