"""Whether a reading that a person took fits what the meter has shown before and after.

A register grows; it may roll over where its modulus is known. How fast it may grow follows from the rated power of the
circuit that it measures; where that is not known either, no such test is made (contracts.md 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.points import POINTS, PointKind

LOAD_FACTOR = 1.2
"""More than the rated power on average is not believed without a question."""
SLACK = 1.0
"""Rise that is believed in no time at all: what the last digit and the clock of the reader may be off. [unit]"""


class Doubt(StrEnum):
    """Why a person is asked whether a reading is right."""

    DECREASE = "decrease"
    """Less than before, and no rollover explains it."""
    JUMP = "jump"
    """More than the circuit can have used."""
    ABOVE_NEXT = "above_next"
    """More than what was read later."""
    IMPLAUSIBLE = "implausible"
    """Outside the range that the quantity can have."""


@dataclass(frozen=True, slots=True)
class Known:
    """A value of a point at another time."""

    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class Question:
    """One doubt, with the figures that make it checkable."""

    point: str
    doubt: Doubt
    value: float
    detail: str
    detail_zh: str
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of the meter."""

    modulus: Mapping[str, float]
    """Of its counters: first value that the register cannot show, in the point's unit."""
    rated_kw: float | None
    """Of the circuit that it measures. [kW]"""
    energy_ratio: float = 1.0
    """What its energy registers are multiplied with. [1]"""


def questions(
    points: Mapping[str, float], at: datetime, before: Mapping[str, Known], after: Mapping[str, Known], limits: Limits
) -> list[Question]:
    """Return what a person has to confirm before the reading is taken; empty when nothing is in doubt.

    Args:
        points: Values in canonical units.
        at: When they were read.
        before: The last value of each point before that.
        after: The first value of each point after that.
        limits: What is known of the meter.
    """
    found: list[Question] = []
    for name, value in points.items():
        point = POINTS.get(name)
        if point is not None and not point.is_plausible(value):
            text = f"{name} {value:g} {point.unit} is outside what it can be"
            found.append(Question(name, Doubt.IMPLAUSIBLE, value, text, f"{name} {value:g} {point.unit} 超出可能范围"))
        if point is None or point.kind is not PointKind.COUNTER:
            continue
        modulus = limits.modulus.get(name)
        most_per_hour = None if limits.rated_kw is None else limits.rated_kw * LOAD_FACTOR / limits.energy_ratio
        if (last := before.get(name)) is not None:
            found += _against_last(name, value, at, last, modulus, most_per_hour)
        if (following := after.get(name)) is not None and value > following.value and modulus is None:
            found.append(
                Question(
                    name,
                    Doubt.ABOVE_NEXT,
                    value,
                    f"{name} {value:g} is more than {following.value:g}, read later at {following.at.isoformat()}",
                    f"{name} {value:g} 大于其后 {following.at.isoformat()} 的读数 {following.value:g}",
                    following,
                )
            )
    return found


def _against_last(
    name: str, value: float, at: datetime, last: Known, modulus: float | None, most_per_hour: float | None
) -> list[Question]:
    hours = (at - last.at).total_seconds() / 3600
    most = None if most_per_hour is None else hours * most_per_hour + SLACK
    rise = value - last.value
    if rise < 0 and modulus is not None:
        rolled = rise + modulus
        # Without a rated power a rollover is believed from the last tenth of the register to its first tenth.
        believed = rolled <= most if most is not None else last.value >= 0.9 * modulus and value <= 0.1 * modulus
        rise = rolled if believed else rise
    if rise < 0:
        text = f"{name} {value:g} is less than {last.value:g}, read at {last.at.isoformat()}"
        text_zh = f"{name} {value:g} 小于 {last.at.isoformat()} 的读数 {last.value:g}"
        return [Question(name, Doubt.DECREASE, value, text, text_zh, last)]
    if most is not None and rise > most:
        text = f"{name} rose by {rise:g} in {hours:.1f} h, the circuit can have used {most:g} at most"
        text_zh = f"{name} 在 {hours:.1f} 小时内增加 {rise:g},回路最多可能用 {most:g}"
        return [Question(name, Doubt.JUMP, value, text, text_zh, last)]
    return []
