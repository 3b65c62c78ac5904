"""Which of a centre's orders hold, device by device; every point in exactly one list. Pure."""

from collections.abc import Iterable

from services.export.dialects.messages import DeviceOutcome, DeviceRef


def outcomes_of(orders: Iterable[tuple[DeviceRef, str, bool]]) -> tuple[DeviceOutcome, ...]:
    """Return the lists of devices in their order; a point that is ordered twice holds when both of its orders do.

    Args:
        orders: Device, point, and whether the order holds.
    """
    holds: dict[DeviceRef, dict[str, bool]] = {}
    for device, point_id, right in orders:
        points = holds.setdefault(device, {})
        points[point_id] = points.get(point_id, True) and right
    return tuple(
        DeviceOutcome(
            device,
            tuple(point for point, right in points.items() if right),
            tuple(point for point, right in points.items() if not right),
        )
        for device, points in holds.items()
    )
