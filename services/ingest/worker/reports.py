"""From what a driver brought of one device to the report that is accepted."""

from datetime import datetime

from libs.common.contracts import device as contracts
from libs.common.contracts.registry import Device
from libs.common.ids import DeviceId, LineId
from libs.common.profiles import DeviceProfile
from services.ingest.domain.normalise import UNITY, Normaliser, Ratios
from services.ingest.domain.report import Report
from services.ingest.drivers.port import DeviceEvent, RawReport


def report_of(
    raw: RawReport, *, device: Device, profile: DeviceProfile, normaliser: Normaliser, driver: str, line_id: str
) -> Report | None:
    """Return the report, None when there is no number in it."""
    measured = normaliser.measure(raw.raw, ratios_of(device), raw.quality)
    if not measured.points:
        return None
    return Report(
        device_id=DeviceId(device.id),
        site_id=device.site,
        source_time=raw.source_time or raw.received_at,
        received_at=raw.received_at,
        driver=driver,
        points=measured.points,
        quality=measured.quality,
        raw=measured.raw,
        seq=raw.seq,
        device_time=raw.device_time,
        message_id=raw.message_id,
        line_id=LineId(line_id),
        profile=profile.name,
        profile_version=profile.version,
        ct_ratio=device.ct_ratio,
        pt_ratio=device.pt_ratio,
        energy_ratio=measured.energy_ratio,
    )


def event_of(event: DeviceEvent, *, device: Device, driver: str, received_at: datetime) -> contracts.DeviceEvent:
    """Return the event as it is published."""
    return contracts.DeviceEvent(
        device_id=DeviceId(device.id),
        site_id=device.site,
        source_time=event.source_time,
        code=event.code,
        phase=event.phase,
        text=event.text,
        received_at=received_at,
        driver=driver,
        severity=event.severity,
        point=event.point,
        value=event.value,
        seq=event.seq,
    )


def ratios_of(device: Device) -> Ratios:
    """Return the transformer ratios of a device as the registry has them now."""
    return UNITY if device.ct_ratio == device.pt_ratio == 1.0 else Ratios(ct=device.ct_ratio, pt=device.pt_ratio)
