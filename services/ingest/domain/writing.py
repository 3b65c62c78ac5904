"""From the value that a command carries to the number that is written to the device."""

from libs.common.errors import InvalidInput
from libs.common.profiles import Control, DeviceProfile


def raw_of(control: Control, value: float | None, profile: DeviceProfile) -> float:
    """Return the raw number of a control that takes its value from the command.

    Scale and offset are those of the point that proves it, whose unit the value has.

    Raises:
        InvalidInput: There is no value, or it is outside the device's limits.
    """
    low = control.min if control.min is not None else float("-inf")
    high = control.max if control.max is not None else float("inf")
    if value is None or not low <= value <= high:
        raise InvalidInput(
            f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
            message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
        )
    point = profile.points.get(control.read_back.points[0])
    return value if point is None else (value - point.offset) / point.scale
