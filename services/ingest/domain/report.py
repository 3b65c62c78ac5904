"""A report: what one device said at one time, as it travels inside ingest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.ids import DeviceId, LineId, LoadId, SiteId


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report, normalised; the fields are those of ``libs.common.contracts.telemetry.Reading``."""

    device_id: DeviceId
    site_id: SiteId
    source_time: datetime
    received_at: datetime
    driver: str
    points: Mapping[str, float | None]
    quality: Mapping[str, Quality] = field(default_factory=dict)
    raw: Mapping[str, float] = field(default_factory=dict)
    seq: int | None = None
    device_time: datetime | None = None
    message_id: str | None = None
    replaces: str | None = None
    line_id: LineId | None = None
    profile: str | None = None
    profile_version: str | None = None
    ct_ratio: float | None = None
    pt_ratio: float | None = None
    energy_ratio: float | None = None
    load_id: LoadId | None = None
    """Of a load's traffic, which stands under the load's id in place of a device's."""

    @property
    def tells_clock(self) -> bool:
        """Whether the device's clock was read beside values that are of now."""
        return self.device_time is not None and self.source_time == self.received_at

    @property
    def is_dated_by_device(self) -> bool:
        """Whether anything is known of the device's clock from it."""
        return self.device_time is not None or self.source_time != self.received_at

    def content(self) -> int:
        """Return a number that two deliveries of one report have in common, for telling a duplicate.

        Good within this process only. It is remembered for every device, so it must be small.
        """
        return hash((frozenset(self.points.items()), frozenset(self.quality.items()), self.seq, self.message_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Something that is not taken, with its bytes."""

    reason: RejectReason
    source: str
    """Line id, or address of the sender."""
    received_at: datetime
    raw: bytes = field(repr=False)
    detail: str
    detail_zh: str | None = None
    device_id: DeviceId | None = None
    site_id: SiteId | None = None
    line_id: LineId | None = None
    driver: str | None = None
    content_type: str | None = None
