"""What switches and meters last read in this process, with its age by a clock that nobody can set."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.clock import Clock
from services.ingest.domain.report import Report

POWER_POINTS = ("active_power_total", "active_power_a", "active_power_dc")
_SWITCH_POINTS = ("breaker_", "relay_", "light_state", "valve_state", "ac_power_state")


@dataclass(frozen=True, slots=True)
class Seen:
    """The youngest values of a device's points, of those that switching asks for."""

    points: Mapping[str, float | None]
    received_at: datetime
    monotonic: float
    """When that was. [s]"""


class LastSeen:
    """Fed by every live report and by every look at a switch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, Seen] = {}

    def heard(self, report: Report) -> None:
        """Take a live report."""
        usable = {
            name: value
            for name, value in report.points.items()
            if (name.startswith(_SWITCH_POINTS) or name in POWER_POINTS) and not _is_bad(report, name)
        }
        if usable:
            self._take(report.device_id, usable, report.received_at)

    def looked(self, device_id: str, points: Mapping[str, float | None], at: datetime) -> None:
        """Take what was read back of a switch."""
        known = self._seen.get(device_id)
        self._take(device_id, {**(known.points if known is not None else {}), **points}, at)

    def of(self, device_id: str) -> Seen | None:
        """Return what was last read of a device, None when it was never read."""
        return self._seen.get(device_id)

    def age_s(self, seen: Seen) -> float:
        """Return how long ago that was. [s]"""
        return max(self._clock.monotonic() - seen.monotonic, 0.0)

    def _take(self, device_id: str, points: Mapping[str, float | None], at: datetime) -> None:
        self._seen[device_id] = Seen(points, at, self._clock.monotonic())


def _is_bad(report: Report, name: str) -> bool:
    flag = report.quality.get(name)
    return flag is not None and flag.is_bad
