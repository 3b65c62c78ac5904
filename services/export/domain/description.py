"""What a unit tells of its devices: those of its mapping, with thresholds as far as they are known. Pure."""

from collections.abc import Mapping

from services.export.dialects.messages import DeviceDescription, SignalDescription, ThresholdValue
from services.export.domain.mapping import Mapping as UnitMapping

Thresholds = Mapping[tuple[str, str], ThresholdValue]
"""What holds, by the centre's device and point."""


def described(
    mapping: UnitMapping, thresholds: Thresholds, *, only: str | None = None
) -> tuple[DeviceDescription, ...]:
    """Return the devices of a mapping, or the one with that id; what is not known of a signal is left out.

    Args:
        mapping: The unit's.
        thresholds: What holds in alarm; empty when nobody was asked.
        only: The centre's id of a device; None for all.
    """
    found = []
    for device in mapping.devices:
        device_id = device.ref.device_id
        if only is not None and device_id != only:
            continue
        signals = []
        for point in mapping.points:
            if point.sc_device_id != device_id:
                continue
            held = thresholds.get((device_id, point.point_id))
            signals.append(
                SignalDescription(
                    point_id=point.point_id,
                    type=point.type,
                    name=point.name or "",
                    threshold=None if held is None else held.value,
                    level=point.level or (None if held is None else held.level or None),
                    network_alarm=point.network_alarm or "",
                )
            )
        found.append(DeviceDescription(device.ref, device.name, tuple(signals), device.details))
    return tuple(found)
