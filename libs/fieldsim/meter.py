"""Meters and room sensors: devices that only show."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile
from libs.fieldsim.curves import Track, weather
from libs.fieldsim.device import Device
from libs.fieldsim.electrical import (
    DEMAND_WINDOW_S,
    HOUR_S,
    Flow,
    Load,
    Mains,
    electrical_points,
    measure,
    sag_of,
    total_energy,
)
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, VoltageSag

ROOM_DEGC = 24.0
ROOM_HUMIDITY_PCT = 45.0
ROOM_SHARE = 0.15
"""How much of the weather's swing gets into an air-conditioned room."""
TERMINAL_DEGC = 28.0
CLOCK_BATTERY_V = 3.6
DC_VOLTAGE_V = 53.5
"""Float voltage of a -48 V plant."""


class Meter(Device):
    """An electricity meter in front of some loads.

    Args:
        device_id: See ``Device``.
        profile: Any profile of a one-phase, three-phase or DC meter.
        loads: What it measures.
        mains: The voltage of its site.
        installed_at: When its register stood at ``initial_kwh``.
        initial_kwh: Content of the import register then, primary side, spread over the phases. [kWh]
        faults: See ``Device``.
        events: See ``Device``.
        ct_ratio: See ``Device``.
        pt_ratio: See ``Device``.
        refresh_s: See ``Device``.
        gap_registers: See ``Device``.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        loads: Sequence[Load],
        mains: Mains,
        installed_at: datetime,
        faults: FaultBoard,
        events: EventLog,
        initial_kwh: float = 0.0,
        ct_ratio: float = 1.0,
        pt_ratio: float = 1.0,
        refresh_s: float = 0.0,
        gap_registers: int = 16,
    ) -> None:
        super().__init__(
            device_id,
            profile,
            names=profile.points,
            faults=faults,
            events=events,
            ct_ratio=ct_ratio,
            pt_ratio=pt_ratio,
            refresh_s=refresh_s,
            gap_registers=gap_registers,
        )
        if profile.is_single_phase and any(load.phases != "a" for load in loads):
            raise InvalidInput(
                f"meter {device_id}: {profile.name} knows phase a only, and so must its loads",
                message_zh=f"电表 {device_id}：{profile.name} 为单相，负载只能接 A 相",
            )
        self.loads = tuple(loads)
        self._mains = mains
        self._installed_s = installed_at.timestamp()
        third = initial_kwh / 3
        self._initial = Flow((third, third, third), (0.0, 0.0, 0.0))

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return every electrical point at a time, primary side."""
        order = self.faults.active(self.device_id, VoltageSag, time_s)
        seen = measure(self.loads, self._mains, time_s, sag=None if order is None else sag_of(order))
        seen.energy = self._initial.plus(total_energy(self.loads, self._installed_s, time_s))
        window = total_energy(self.loads, time_s - DEMAND_WINDOW_S, time_s)
        seen.demand_kw = sum(window.active) * HOUR_S / DEMAND_WINDOW_S
        points = electrical_points(seen)
        points["ct_ratio"] = self.ct_ratio
        points["pt_ratio"] = self.pt_ratio
        points["temperature_device"] = TERMINAL_DEGC
        points["energy_reactive_1"] = points["energy_reactive_import"]
        points["energy_reactive_2"] = points["energy_reactive_export"]
        points["battery_voltage"] = CLOCK_BATTERY_V
        points["meter_status_word_3"] = 0.0
        if self.profile.category == "meter_dc":
            points["voltage_dc"] = DC_VOLTAGE_V
            points["active_power_dc"] = points["active_power_total"]
            points["current_dc"] = 1000.0 * points["active_power_total"] / DC_VOLTAGE_V
            points["ct_primary"] = 5.0 * self.ct_ratio
        return points

    def settle(self, now_s: float) -> None:
        """Let the breakers behind it come up to ``now_s``."""
        for load in self.loads:
            load.settle(now_s)


class RoomSensor(Device):
    """Temperature and humidity of a room: the measured weather, damped.

    Args:
        device_id: See ``Device``.
        profile: A profile with ``temperature`` and ``humidity``.
        faults: See ``Device``.
        events: See ``Device``.
        room_degc: Mean temperature of the room. [degC]
        shift_s: How much later than the original it plays the weather. [s]
        refresh_s: See ``Device``.
    """

    def __init__(
        self,
        device_id: str,
        profile: DeviceProfile,
        *,
        faults: FaultBoard,
        events: EventLog,
        room_degc: float = ROOM_DEGC,
        shift_s: float = 0.0,
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
        self._temperature = _damped(Track(weather().temperature, shift_s=shift_s), room_degc)
        self._humidity = _damped(Track(weather().humidity, shift_s=shift_s), ROOM_HUMIDITY_PCT)

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return temperature and humidity at a time. [degC, %]"""
        return {"temperature": self._temperature.at(time_s), "humidity": self._humidity.at(time_s)}


def _damped(outside: Track, mean: float) -> Track:
    """Return the swing of a track around its daily mean, damped and moved to another mean."""
    curve = outside.curve
    outside_mean = curve.integral(curve.origin_s, curve.origin_s + curve.period_s) / curve.period_s
    return Track(curve, ROOM_SHARE, mean - ROOM_SHARE * outside_mean, outside.shift_s)
