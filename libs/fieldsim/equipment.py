"""Power-room equipment: rectifiers, DC panels, batteries, air conditioners. Numbers that stand where they were put."""

from collections.abc import Mapping, Sequence

from libs.common.profiles import DeviceProfile
from libs.fieldsim.device import Device
from libs.fieldsim.electrical import Load, total_flow
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.meter import DC_VOLTAGE_V


class PowerEquipment(Device):
    """Equipment with given numbers; what loads it feeds show as its DC current.

    Args:
        device_id: See ``Device``.
        profile: Of YD/T 1363.3.
        values: Canonical values, and those of a table's fields by ``table.way``.
        loads: What a rectifier or DC panel feeds.
        faults: See ``Device``.
        events: See ``Device``.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        values: Mapping[str, float],
        loads: Sequence[Load],
        faults: FaultBoard,
        events: EventLog,
    ) -> None:
        super().__init__(device_id, profile, names=profile.points, faults=faults, events=events)
        self.loads = tuple(loads)
        self.fields = {name: value for name, value in values.items() if "." in name}
        """What stands in fields that no point reads."""
        self._put = {name: value for name, value in values.items() if "." not in name}

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return what was put, and what flows to the loads."""
        if not self.loads:
            return self._put
        amps = 1000.0 * sum(total_flow(self.loads, time_s).active) / DC_VOLTAGE_V
        modules = [name for name in self.profile.points if name.startswith("x_yd1363_module_1_current")]
        flowing = {"voltage_dc": DC_VOLTAGE_V, "current_dc": amps, **dict.fromkeys(modules, amps)}
        return {**flowing, **self._put}

    def put(self, name: str, value: float) -> None:
        """Let a point have a value from now on."""
        self._put[name] = value

    def settle(self, now_s: float) -> None:
        """Let the breakers in front of its loads come up to ``now_s``."""
        for load in self.loads:
            load.settle(now_s)

    def snapshot(self) -> dict[str, object]:
        """Return what was put."""
        return dict(self._put)

    def restore(self, kept: Mapping[str, object]) -> None:
        """Take over what was put."""
        self._put.update({name: float(value) for name, value in kept.items() if isinstance(value, int | float)})
