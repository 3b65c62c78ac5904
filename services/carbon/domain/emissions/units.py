"""Units of activity data. A gas volume always says its reference condition."""

from libs.common.errors import InvalidInput

NORMAL_PER_STANDARD = 273.15 / 293.15
"""Volume at 0 °C of a gas measured at 20 °C, both at 101.325 kPa: 0.9318. [Nm3/m3@20C]"""

_KINDS: dict[str, tuple[str, float]] = {
    "g": ("mass", 1e-3),
    "kg": ("mass", 1.0),
    "t": ("mass", 1e3),
    "kWh": ("energy", 1.0),
    "MWh": ("energy", 1e3),
    "MJ": ("energy", 1 / 3.6),
    "GJ": ("energy", 1e3 / 3.6),
    "TJ": ("energy", 1e6 / 3.6),
    "L": ("liquid", 1.0),
    "Nm3": ("gas", 1.0),
    "1e4Nm3": ("gas", 1e4),
    "m3@20C": ("gas", NORMAL_PER_STANDARD),
}
"""Kind of quantity, and how much of its base (kg, kWh, L, Nm3) one unit is. Everything else converts to itself only."""


class WrongUnit(InvalidInput):
    """A unit cannot be what was asked for."""

    code = "wrong_unit"
    title_zh = "单位不符"


def convert(amount: float, unit: str, to: str) -> float:
    """Return an amount in another unit.

    Raises:
        WrongUnit: The units are not of one kind; a bare ``m3`` of gas is none, for 0 °C and 20 °C differ by 7 %.
    """
    if unit == to:
        return amount
    here, there = _KINDS.get(unit), _KINDS.get(to)
    if here is None or there is None or here[0] != there[0]:
        raise WrongUnit(
            f"unit: expected one that converts to {to}, found {unit!r}",
            message_zh=f"单位:应能换算为 {to},实际为 {unit!r}",
            unit=unit,
            expected=to,
        )
    return amount * here[1] / there[1]


def kind_of(unit: str) -> str | None:
    """Return ``mass``, ``energy``, ``liquid`` or ``gas``; None for a unit that only converts to itself."""
    found = _KINDS.get(unit)
    return None if found is None else found[0]


def not_negative(name: str, amount: float | None) -> None:
    """Refuse an amount below zero.

    Raises:
        InvalidInput: It is.
    """
    if amount is not None and not amount >= 0:
        raise InvalidInput(
            f"{name}: expected 0 or more, found {amount}", message_zh=f"{name}:应不小于 0,实际为 {amount}"
        )
