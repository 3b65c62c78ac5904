"""What a meter says beside its register of imported energy, kept once a quarter hour.

Of a quarter hour the earliest report counts, whichever comes first: so replays and late data change nothing that the
meter did not say earlier, and a register lies as near to the boundary as it can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.ids import DeviceId
from services.carbon.domain.booking import floor

EXPORT = "energy_active_export"
"""Register of exported energy. [kWh]"""
REACTIVE = ("energy_reactive_import", "energy_reactive_export")
"""Registers whose sum bills count; a meter with neither has ``REACTIVE_TOTAL``. [kvarh]"""
REACTIVE_TOTAL = "energy_reactive_total"
CURRENTS = ("current_a", "current_b", "current_c")
"""[A]"""
LINE_VOLTAGES = ("voltage_ab", "voltage_bc", "voltage_ca")
"""[V]"""
REGISTERS = frozenset({EXPORT, *REACTIVE, REACTIVE_TOTAL})
"""Points that have the energy ratio of their report."""
POINTS = (EXPORT, *REACTIVE, REACTIVE_TOTAL, *CURRENTS, *LINE_VOLTAGES)


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of one report."""

    device_id: DeviceId
    point: str
    source_time: datetime
    value: float
    """As the meter shows it."""
    ratio: float
    """What a register has to be multiplied with; 1 for what is no register. [1]"""

    @property
    def slot(self) -> datetime:
        """The quarter hour that it lies in."""
        return floor(self.source_time)


class Earliest:
    """Remembers what of each device's newest quarter hour is kept already, so that most reports cost nothing."""

    def __init__(self) -> None:
        self._kept: dict[tuple[DeviceId, str], tuple[datetime, datetime]] = {}

    def forget(self) -> None:
        """Drop what is remembered; the database has the truth."""
        self._kept.clear()

    def pick(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that may be the earliest of their quarter hour, at most one of each."""
        found: dict[tuple[DeviceId, str, datetime], Sample] = {}
        for one in samples:
            slot, at = self._kept.get((one.device_id, one.point), (None, None))
            if slot == one.slot and at is not None and at <= one.source_time:
                continue
            key = (one.device_id, one.point, one.slot)
            if key not in found or one.source_time < found[key].source_time:
                found[key] = one
        for one in found.values():
            kept = self._kept.get((one.device_id, one.point))
            if kept is None or kept[0] <= one.slot:
                self._kept[one.device_id, one.point] = (one.slot, one.source_time)
        return list(found.values())
