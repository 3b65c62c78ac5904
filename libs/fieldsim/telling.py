"""Breakers with a meter that speak by themselves, over MQTT or in an OPC UA server: what both have in common."""

from collections.abc import Mapping

from libs.fieldsim.breaker import INSTALLED_AT, Breaker

SHOWN = (
    "voltage_a", "voltage_b", "voltage_c", "current_a", "current_b", "current_c", "active_power_total", "frequency",
    "breaker_state",
)  # fmt: skip
DIGITS = 3
"""Decimals that a meter shows."""


def shown(device: Breaker, now_s: float) -> Mapping[str, float]:
    """Return what a breaker with its meter shows at a time, in canonical units."""
    device.settle(now_s)
    values = device.values(now_s)
    energy = 0.0 if device.load is None else sum(device.load.energy(INSTALLED_AT.timestamp(), now_s).active)
    found = {name: round(values[name], DIGITS) for name in SHOWN if name in values}
    return found | {"energy_active_import": round(energy, 2)}
