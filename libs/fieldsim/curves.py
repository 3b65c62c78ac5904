"""Measured curves, repeated for ever, as pure functions of absolute time.

A curve is a straight line from sample to sample of a measured series that repeats after its last sample.
``at`` reads the line, ``integral`` is its exact area, summed in whole thousandths of the unit: power and energy
register of a simulated meter therefore always agree, a restart continues where time stands, and two days of
past reports fit the live registers to the last digit.

What is measured, what is bridged and what is moved in time: ``data/README.md``.
"""

import csv
import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from math import floor, pi, sin

MINUTE_S = 60
DAY_S = 86_400
SAMPLES_PER_UNIT = 1000
"""Samples are kept in thousandths of the unit, which is the resolution of both files."""

CYCLE_ORIGIN_S = int(datetime(2023, 12, 31, 16, tzinfo=UTC).timestamp())
"""Monday 2024-01-01 00:00 in Asia/Shanghai (UTC+8, no summer time since 1991): first sample of every cycle."""

NOMINAL_VOLTAGE_RATIO = 220 / 230
"""China's nominal phase voltage over the one of the network where the series was measured."""

_DWELLING = "uci_household_power_200612.csv.gz"
_DWELLING_FIRST = datetime(2006, 12, 18)  # noqa: DTZ001 - civil time of Paris, a Monday, as the file has it
_DWELLING_MINUTES = 14 * 24 * 60
_MAST = "surfrad_alamosa_20160101_00-16utc.csv.gz"
_MAST_ZONE_H = -7
_GOOD = "0"


@dataclass(frozen=True, slots=True)
class Curve:
    """A periodic line through equally spaced samples."""

    step_s: int
    """Distance of two samples. [s]"""
    samples: tuple[int, ...] = field(repr=False)
    """Thousandths of the unit; the first follows the last."""
    sums: tuple[int, ...] = field(repr=False)
    """``sums[k]``: twice the area of the first k steps, in samples times steps; one longer than ``samples``."""
    origin_s: int = CYCLE_ORIGIN_S
    """When the first sample is played. [s since 1970]"""

    @classmethod
    def through(cls, samples: Iterable[int], *, step_s: int, origin_s: int = CYCLE_ORIGIN_S) -> "Curve":
        """Return the curve through ``samples``, given in thousandths of the unit."""
        values = tuple(samples)
        if not values:
            raise ValueError("a curve needs at least one sample")
        sums = [0]
        for here, following in zip(values, values[1:] + values[:1], strict=True):
            sums.append(sums[-1] + here + following)
        return cls(step_s=step_s, samples=values, sums=tuple(sums), origin_s=origin_s)

    @property
    def period_s(self) -> int:
        """Time after which the curve repeats. [s]"""
        return self.step_s * len(self.samples)

    def at(self, time_s: float) -> float:
        """Return the value at a time, in the unit. [s since 1970]"""
        samples = self.samples
        step, fraction = divmod((time_s - self.origin_s) / self.step_s, 1.0)
        index = int(step) % len(samples)
        here = samples[index]
        following = samples[index + 1 - len(samples)]
        return (here + fraction * (following - here)) / SAMPLES_PER_UNIT

    def integral(self, from_s: float, to_s: float) -> float:
        """Return the area between two times, in unit times seconds; negative when they are exchanged."""
        return self._area(to_s) - self._area(from_s)

    def _area(self, time_s: float) -> float:
        samples = self.samples
        steps = (time_s - self.origin_s) / self.step_s
        whole = floor(steps)
        fraction = steps - whole
        cycles, index = divmod(whole, len(samples))
        here = samples[index]
        following = samples[index + 1 - len(samples)]
        doubled = cycles * self.sums[-1] + self.sums[index]
        partial = fraction * (2 * here + fraction * (following - here))
        return (doubled + partial) * self.step_s / (2 * SAMPLES_PER_UNIT)


@dataclass(frozen=True, slots=True)
class Track:
    """A curve as one phase of one device plays it: moved, scaled and raised."""

    curve: Curve
    gain: float = 1.0
    """What the measured value is multiplied with."""
    constant: float = 0.0
    """What is added, in the unit of the curve."""
    shift_s: float = 0.0
    """How much later than the original it is played. [s]"""

    def at(self, time_s: float) -> float:
        """Return the value at a time, in the unit of the curve. [s since 1970]"""
        return self.constant + self.gain * self.curve.at(time_s - self.shift_s)

    def integral(self, from_s: float, to_s: float) -> float:
        """Return the area between two times, in unit times seconds."""
        varying = self.curve.integral(from_s - self.shift_s, to_s - self.shift_s)
        return self.constant * (to_s - from_s) + self.gain * varying


@dataclass(frozen=True, slots=True)
class Dwelling:
    """The two weeks of the measured dwelling."""

    active_power: Curve
    """[kW]"""
    reactive_power: Curve
    """[kvar]"""
    voltage: Curve
    """Of one phase, on the network where it was measured (nominal 230 V). [V]"""


@dataclass(frozen=True, slots=True)
class Weather:
    """The measured night of the mast, closed to a day."""

    temperature: Curve
    """[degC]"""
    humidity: Curve
    """[%]"""


@lru_cache(maxsize=1)
def dwelling() -> Dwelling:
    """Return the curves of the dwelling, read once."""
    columns: dict[str, dict[int, int]] = {
        "global_active_power_kw": {},
        "global_reactive_power_kvar": {},
        "voltage_v": {},
    }
    for row in _rows(_DWELLING):
        minute = _minutes_between(_DWELLING_FIRST, datetime.fromisoformat(row["time_local"]))
        if 0 <= minute < _DWELLING_MINUTES:
            for name, samples in columns.items():
                samples[minute] = _thousandths(row[name])
    active, reactive, voltage = (
        Curve.through(bridge(samples, _DWELLING_MINUTES), step_s=MINUTE_S) for samples in columns.values()
    )
    return Dwelling(active_power=active, reactive_power=reactive, voltage=voltage)


@lru_cache(maxsize=1)
def weather() -> Weather:
    """Return the curves of the mast, read once."""
    columns: dict[str, dict[int, int]] = {"temperature_degc": {}, "humidity_pct": {}}
    for row in _rows(_MAST):
        local = datetime.fromisoformat(row["time_utc"]) + timedelta(hours=_MAST_ZONE_H)
        minute = local.hour * 60 + local.minute
        for name, samples in columns.items():
            if row[f"{name}_qc"] == _GOOD:
                samples[minute] = _thousandths(row[name])
    temperature, humidity = (
        Curve.through(bridge(samples, DAY_S // MINUTE_S), step_s=MINUTE_S) for samples in columns.values()
    )
    return Weather(temperature=temperature, humidity=humidity)


def bridge(samples: Mapping[int, int], length: int) -> list[int]:
    """Return ``length`` samples, those missing put on the line between their neighbours in the cycle."""
    known = sorted(samples)
    if not known:
        raise ValueError("nothing to bridge from")
    series = [0] * length
    for left, right in zip(known, [*known[1:], known[0] + length], strict=True):
        start, end = samples[left], samples[right % length]
        for index in range(left, right):
            series[index % length] = round(start + (end - start) * (index - left) / (right - left))
    return series


def frequency_hz(time_s: float) -> float:
    """Return the network frequency: invented, 50 Hz with slow swings of at most 0.03 Hz. [Hz]"""
    return 50.0 + 0.02 * sin(2 * pi * time_s / 97) + 0.01 * sin(2 * pi * time_s / 23)


def _rows(name: str) -> Iterable[dict[str, str]]:
    packed = files("libs.fieldsim").joinpath("data", name).read_bytes()
    return csv.DictReader(gzip.decompress(packed).decode("ascii").splitlines())


def _thousandths(text: str) -> int:
    return round(float(text) * SAMPLES_PER_UNIT)


def _minutes_between(first: datetime, then: datetime) -> int:
    return (then - first) // timedelta(minutes=1)
