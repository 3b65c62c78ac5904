"""Devices that hold what was written to them: relay boards, air conditioners, anything with settable points."""

from collections.abc import Mapping, Sequence

from libs.common.profiles import Area, DeviceProfile, ModbusControl, ModbusPoint
from libs.fieldsim.device import Device, ExceptionCode, RefusedRequest
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, IgnoresCommands


class PlainDevice(Device):
    """Points with given values; those that a control of the profile names can be written.

    Args:
        device_id: See ``Device``.
        profile: Any profile.
        values: Canonical values; a point that is not given starts with 0, or the first meaning of its map.
        faults: See ``Device``.
        events: See ``Device``.
        refresh_s: See ``Device``.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        values: Mapping[str, float],
        faults: FaultBoard,
        events: EventLog,
        refresh_s: float = 0.0,
    ) -> None:
        super().__init__(
            device_id,
            profile,
            names=profile.points,
            faults=faults,
            events=events,
            refresh_s=refresh_s,
        )
        self._values = {point.name: values.get(point.name, _first(point)) for point in self.registers.points}
        self._controls = [c for c in profile.controls.values() if isinstance(c, ModbusControl)]

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return what stands in the points now; a plain device has no past."""
        return self._values

    def write(self, area: Area, address: int, words: Sequence[int], now_s: float) -> None:
        """Take a write of points that have a control.

        Raises:
            RefusedRequest: One of the addresses has none, or the word means nothing there.
        """
        orders = [self._order(area, address + index, word) for index, word in enumerate(words)]
        if self.faults.active(self.device_id, IgnoresCommands, now_s) is not None:
            return
        for point, value in orders:
            self._values[point.name] = value
            self.events.record(now_s, self.device_id, "written", point=point.name, value=value)
        self.changed()

    def snapshot(self) -> dict[str, object]:
        """Return the values."""
        return dict(self._values)

    def restore(self, kept: Mapping[str, object]) -> None:
        """Take over values of points that still exist."""
        for name, value in kept.items():
            if name in self._values and isinstance(value, int | float):
                self._values[name] = float(value)
        self.changed()

    def _order(self, area: Area, address: int, word: int) -> tuple[ModbusPoint, float]:
        """Return which point a word goes to, and what it means there."""
        controls = [c for c in self._controls if (c.area, c.address) == (area, address)]
        points = [p for p in self.registers.points if (p.area, p.address) == (area, address)]
        if not controls or not points:
            raise RefusedRequest(ExceptionCode.ILLEGAL_ADDRESS)
        value = _meaning(points[0], word)
        if value is None or not any(_takes(control, word, value) for control in controls):
            raise RefusedRequest(ExceptionCode.ILLEGAL_VALUE)
        return points[0], value


def _meaning(point: ModbusPoint, word: int) -> float | None:
    if point.area.is_bits:
        return float(word != 0)
    if point.value_map is not None:
        return point.value_map.get(word)
    return word * point.scale + point.offset


def _takes(control: ModbusControl, word: int, value: float) -> bool:
    if control.value is not None:
        return word == control.value
    low, high = control.min, control.max
    return (low is None or value >= low) and (high is None or value <= high)


def _first(point: ModbusPoint) -> float:
    return next(iter(point.value_map.values())) if point.value_map else 0.0
