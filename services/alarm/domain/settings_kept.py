"""What devices are set to, beside what the platform has ordered: protection thresholds, how often they report."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

SAME = 1e-6
"""Numbers that differ by less, in proportion, are the same."""


@dataclass(frozen=True, slots=True)
class DeviceSetting:
    """One point of one device that the platform has ordered something for."""

    device_id: str
    point: str
    site_id: str
    partition: int
    wanted: float | None
    """What was ordered last and not refused; None while nothing holds."""
    ordered_us: int
    state: str
    """Of the last order, as on ``control.events``."""
    reason: str
    order_id: str
    found: float | None = None
    """What the device said last, read back or reported."""
    found_us: int | None = None

    @property
    def differs(self) -> bool | None:
        """Whether the device is set to something else than the platform wants; None when it is not known."""
        if self.found is None or self.wanted is None:
            return None
        return abs(self.found - self.wanted) > SAME * max(abs(self.wanted), 1.0)

    def seen(self, found: float, at_us: int) -> "DeviceSetting":
        """Return the setting after the device has said what it is; what is older than the last word changes nothing."""
        if self.found_us is not None and at_us < self.found_us:
            return self
        return replace(self, found=found, found_us=at_us)


class DeviceSettings:
    """The settings of the partitions that this process holds."""

    def __init__(self) -> None:
        """Start with none."""
        self._of: dict[str, dict[str, DeviceSetting]] = {}

    def get(self, device_id: str, point: str) -> DeviceSetting | None:
        """Return a setting, None when nothing was ordered for it."""
        return self._of.get(device_id, {}).get(point)

    def put(self, setting: DeviceSetting) -> None:
        """Keep a setting."""
        self._of.setdefault(setting.device_id, {})[setting.point] = setting

    def watched(self, device_ids: Iterable[str]) -> Iterator[tuple[int, dict[str, DeviceSetting]]]:
        """Yield the place of each of these devices that has settings, and its settings."""
        if self._of:
            for place, device_id in enumerate(device_ids):
                known = self._of.get(device_id)
                if known is not None:
                    yield place, known

    def drop(self, partitions: Collection[int]) -> None:
        """Forget these partitions."""
        for device_id, known in list(self._of.items()):
            if any(setting.partition in partitions for setting in known.values()):
                del self._of[device_id]
