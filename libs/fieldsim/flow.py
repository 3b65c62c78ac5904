"""Water and heat: what flows follows a load's measured curve, a valve lets it through or not."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from libs.common.profiles import DeviceProfile
from libs.fieldsim.device import Device
from libs.fieldsim.electrical import Load, total_energy, total_flow
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard

M3_PER_KWH = 0.05
"""Water that is used for each kilowatt-hour of the curve: a dwelling's ratio."""
SUPPLY_DEGC, RETURN_DEGC = 65.0, 45.0
KWH_PER_M3_K = 1.163
"""Heat that a cubic metre of water gives off for each kelvin."""


class FlowMeter(Device):
    """A water or heat meter, with a valve where its profile has one.

    Args:
        device_id: See ``Device``.
        profile: Of CJ/T 188.
        loads: What the flow follows.
        installed_at: When its register stood at ``initial_m3``.
        initial_m3: Content of the register then. [m3]
        faults: See ``Device``.
        events: See ``Device``.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        loads: Sequence[Load],
        installed_at: datetime,
        faults: FaultBoard,
        events: EventLog,
        initial_m3: float = 0.0,
    ) -> None:
        super().__init__(device_id, profile, names=profile.points, faults=faults, events=events)
        self.loads = tuple(loads)
        self._installed_s = installed_at.timestamp()
        self._initial_m3 = initial_m3
        self._open = True

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return volume, heat, flow and the position of the valve."""
        kwh = sum(total_energy(self.loads, self._installed_s, time_s).active)
        kw = sum(total_flow(self.loads, time_s).active)
        if self.profile.category == "heat_meter":
            per_m3 = KWH_PER_M3_K * (SUPPLY_DEGC - RETURN_DEGC)
            return {
                "heat_energy": kwh,
                "heat_power": kw,
                "flow_rate": kw / per_m3,
                "water_volume": self._initial_m3 + kwh / per_m3,
                "temperature_supply": SUPPLY_DEGC,
                "temperature_return": RETURN_DEGC,
                "working_hours": (time_s - self._installed_s) / 3600,
            }
        return {
            "water_volume": self._initial_m3 + kwh * M3_PER_KWH,
            "flow_rate": kw * M3_PER_KWH,
            "valve_state": float(self._open),
        }

    def set_valve(self, open_: bool, now_s: float) -> None:
        """Let the flow through, or not."""
        if open_ == self._open:
            return
        self._open = open_
        for load in self.loads:
            load.let_through(1.0 if open_ else 0.0, now_s)
        self.events.record(now_s, self.device_id, "moved", open=open_)

    def snapshot(self) -> dict[str, object]:
        """Return the position of the valve."""
        return {"open": self._open}

    def restore(self, kept: Mapping[str, object]) -> None:
        """Take over the position of the valve."""
        self._open = bool(kept.get("open", True))
