"""What flows in a simulated site: loads that follow measured curves, and what their breakers let through.

A load is a constant-power consumer, as telecom rectifiers are: when the voltage sags its current rises and its
power stays. That keeps one rule simple and exact everywhere: energy is the integral of power.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import acos, cos, hypot, pi, sin, sqrt, tan
from typing import NamedTuple, Protocol

from libs.fieldsim.curves import DAY_S, NOMINAL_VOLTAGE_RATIO, Track, dwelling, frequency_hz
from libs.fieldsim.faults import VoltageSag

HOUR_S = 3600
PHASES = "abc"
PHASE_SHIFT_S = (0.0, 7 * DAY_S + 11 * 60.0, 3 * DAY_S + 29 * 60.0)
"""How much later phases a, b and c play the one measured phase: other days, and never the same minute."""

DEMAND_WINDOW_S = 900
"""Demand is the mean power of the last 15 minutes."""

MAX_STEPS = 1000
"""Switchings kept of a supply; older ones are folded into the sums of those kept."""


class Flow(NamedTuple):
    """Power per phase at one instant, or energy per phase since some instant."""

    active: tuple[float, float, float]
    """[kW] or [kWh]"""
    reactive: tuple[float, float, float]
    """Positive when inductive. [kvar] or [kvarh]"""

    def plus(self, other: "Flow", share: float = 1.0) -> "Flow":
        """Return the sum of this and ``share`` of another."""
        a, r, oa, orr = self.active, self.reactive, other.active, other.reactive
        return Flow(
            (a[0] + share * oa[0], a[1] + share * oa[1], a[2] + share * oa[2]),
            (r[0] + share * orr[0], r[1] + share * orr[1], r[2] + share * orr[2]),
        )


NO_FLOW = Flow((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


class Step(NamedTuple):
    """From ``at_s`` on ``share`` of the demand flows; ``missing`` did not flow before."""

    at_s: float
    share: float
    missing: Flow


class Switch(Protocol):
    """What can change a supply by itself with time: a breaker whose motor still turns."""

    def settle(self, now_s: float) -> None:
        """Apply everything that has happened up to ``now_s``."""


@dataclass(frozen=True, slots=True)
class Mains:
    """The supply voltage of a site: the measured one, per unit of the nominal voltage, on 220 V."""

    shift_s: float = 0.0
    """How much later than the original the site plays it. [s]"""

    def voltages(self, time_s: float) -> tuple[float, float, float]:
        """Return the three phase voltages. [V]"""
        curve = dwelling().voltage
        a, b, c = (NOMINAL_VOLTAGE_RATIO * curve.at(time_s - self.shift_s - shift_s) for shift_s in PHASE_SHIFT_S)
        return a, b, c


class Load:
    """A consumer on one or three phases.

    Args:
        load_id: Its name in the field file and the state file.
        phases: Which of ``abc`` it is connected to.
        constant_kw: Power it always takes, all phases together. [kW]
        gain: What each phase's measured power is multiplied with.
        power_factor: Of the constant part, inductive.
        shift_s: How much later than the original it plays the curve. [s]
    """

    def __init__(
        self,
        load_id: str,
        *,
        phases: str = PHASES,
        constant_kw: float = 0.0,
        gain: float = 1.0,
        power_factor: float = 0.98,
        shift_s: float = 0.0,
    ) -> None:
        if not phases or set(phases) - set(PHASES):
            raise ValueError(f"load {load_id}: phases are some of 'abc', not {phases!r}")
        self.load_id = load_id
        self.phases = phases
        self.switch: Switch | None = None
        self._steps: list[Step] = []
        curves = dwelling()
        each_kw = constant_kw / len(phases)
        each_kvar = each_kw * tan(acos(power_factor))
        self._tracks: list[tuple[Track, Track] | None] = [
            (
                Track(curves.active_power, gain, each_kw, shift_s + moved_s),
                Track(curves.reactive_power, gain, each_kvar, shift_s + moved_s),
            )
            if phase in phases
            else None
            for phase, moved_s in zip(PHASES, PHASE_SHIFT_S, strict=True)
        ]

    def power(self, time_s: float) -> Flow:
        """Return what flows at a time. [kW, kvar]"""
        share = self.share(time_s)
        if share == 0.0:
            return NO_FLOW
        pairs = [
            (0.0, 0.0) if track is None else (share * track[0].at(time_s), share * track[1].at(time_s))
            for track in self._tracks
        ]
        return _by_phase(pairs)

    def energy(self, from_s: float, to_s: float) -> Flow:
        """Return what flowed between two times. [kWh, kvarh]"""
        wanted = self.demand(from_s, to_s)
        if not self._steps:
            return wanted
        return wanted.plus(self._missing(to_s), -1.0).plus(self._missing(from_s))

    def demand(self, from_s: float, to_s: float) -> Flow:
        """Return what would have flowed between two times with the breaker closed. [kWh, kvarh]"""
        pairs = [
            (0.0, 0.0)
            if track is None
            else (track[0].integral(from_s, to_s) / HOUR_S, track[1].integral(from_s, to_s) / HOUR_S)
            for track in self._tracks
        ]
        return _by_phase(pairs)

    def share(self, time_s: float) -> float:
        """Return the part of the demand that is let through at a time: 1 closed, 0 open, above 1 inrush."""
        step = self._step(time_s)
        return 1.0 if step is None else step.share

    def let_through(self, share: float, at_s: float) -> None:
        """Let ``share`` of the demand through from ``at_s`` on; what was planned for later is forgotten."""
        while self._steps and self._steps[-1].at_s > at_s:
            self._steps.pop()
        self._steps.append(Step(at_s, share, self._missing(at_s)))
        del self._steps[:-MAX_STEPS]

    def settle(self, now_s: float) -> None:
        """Let the breaker in front come up to a time before the load is read at it."""
        if self.switch is not None:
            self.switch.settle(now_s)

    def steps(self) -> Sequence[Step]:
        """Return the switchings on record, oldest first."""
        return tuple(self._steps)

    def restore(self, steps: Iterable[Step]) -> None:
        """Take over the switchings of an earlier run."""
        self._steps = list(steps)

    def _step(self, time_s: float) -> Step | None:
        steps = self._steps
        if not steps or time_s < steps[0].at_s:
            return None
        if time_s >= steps[-1].at_s:
            return steps[-1]
        return steps[bisect_right(steps, time_s, key=_step_time) - 1]

    def _missing(self, time_s: float) -> Flow:
        step = self._step(time_s)
        if step is None:
            return NO_FLOW
        if step.share == 1.0:
            return step.missing
        return step.missing.plus(self.demand(step.at_s, time_s), 1.0 - step.share)


@dataclass(slots=True)
class Sag:
    """A changed voltage on some phases as one meter sees it."""

    phases: str
    to_v: float | None = None
    """What the phases fall to; none: ``factor`` counts. [V]"""
    factor: float = 1.0

    def applied(self, voltages: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return the voltages with the sag on them. [V]"""
        a, b, c = (
            (self.to_v if self.to_v is not None else volts * self.factor) if phase in self.phases else volts
            for phase, volts in zip(PHASES, voltages, strict=True)
        )
        return a, b, c


@dataclass(slots=True)
class Measured:
    """What a measuring device sees at one instant, before names and registers."""

    flow: Flow
    """Power. [kW, kvar]"""
    voltages: tuple[float, float, float]
    """Phase to neutral. [V]"""
    frequency_hz: float
    energy: Flow = NO_FLOW
    """Register content. [kWh, kvarh]"""
    demand_kw: float = 0.0
    currents: tuple[float, float, float] = field(init=False)
    """[A]"""

    def __post_init__(self) -> None:
        a, b, c = (
            1000.0 * hypot(p_kw, q_kvar) / volts if volts > 0.0 else 0.0
            for p_kw, q_kvar, volts in zip(self.flow.active, self.flow.reactive, self.voltages, strict=True)
        )
        self.currents = (a, b, c)


def sag_of(order: VoltageSag) -> Sag:
    """Return what an ordered sag does to the voltages."""
    return Sag(order.phase, to_v=order.to_v, factor=1.0 - (order.depth or 0.0))


def total_flow(loads: Iterable[Load], time_s: float) -> Flow:
    """Return what several loads take together at a time. [kW, kvar]"""
    total = NO_FLOW
    for load in loads:
        load.settle(time_s)
        total = total.plus(load.power(time_s))
    return total


def total_energy(loads: Iterable[Load], from_s: float, to_s: float) -> Flow:
    """Return what several loads took together between two times. [kWh, kvarh]"""
    total = NO_FLOW
    for load in loads:
        load.settle(to_s)
        total = total.plus(load.energy(from_s, to_s))
    return total


def measure(
    loads: Sequence[Load],
    mains: Mains,
    time_s: float,
    *,
    sag: Sag | None = None,
) -> Measured:
    """Return what a device in front of ``loads`` sees, registers left empty."""
    voltages = mains.voltages(time_s)
    return Measured(
        flow=total_flow(loads, time_s),
        voltages=voltages if sag is None else sag.applied(voltages),
        frequency_hz=frequency_hz(time_s),
    )


def electrical_points(seen: Measured) -> dict[str, float]:
    """Return every electrical point that a profile may ask for, canonical names and units, primary side.

    A dead phase has power factor 1: meters show that for no current.
    """
    p, q = seen.flow
    u, i = seen.voltages, seen.currents
    points: dict[str, float] = {"frequency": seen.frequency_hz, "demand_active_power": seen.demand_kw}
    for index, phase in enumerate(PHASES):
        apparent = hypot(p[index], q[index])
        points[f"voltage_{phase}"] = u[index]
        points[f"current_{phase}"] = i[index]
        points[f"active_power_{phase}"] = p[index]
        points[f"reactive_power_{phase}"] = q[index]
        points[f"apparent_power_{phase}"] = apparent
        points[f"power_factor_{phase}"] = p[index] / apparent if apparent > 0.0 else 1.0
        points[f"energy_active_import_{phase}"] = seen.energy.active[index]
        points[f"energy_active_export_{phase}"] = 0.0
    active_kw, reactive_kvar = sum(p), sum(q)
    apparent_kva = hypot(active_kw, reactive_kvar)
    points["active_power_total"] = active_kw
    points["reactive_power_total"] = reactive_kvar
    points["apparent_power_total"] = apparent_kva
    points["power_factor_total"] = active_kw / apparent_kva if apparent_kva > 0.0 else 1.0
    for name, first, second in (("ab", 0, 1), ("bc", 1, 2), ("ca", 2, 0)):
        points[f"voltage_{name}"] = sqrt(u[first] ** 2 + u[second] ** 2 + u[first] * u[second])
    points["current_n"] = points["current_zero_sequence"] = _vector_sum(i, p, q)
    points.update(_registers(seen.energy))
    return points


def _registers(energy: Flow) -> Mapping[str, float]:
    """Return the totals; a meter whose tariff table nobody loaded counts everything as flat."""
    active_kwh, reactive_kvarh = sum(energy.active), sum(energy.reactive)
    return {
        "energy_active_import": active_kwh,
        "energy_active_export": 0.0,
        "energy_active_total": active_kwh,
        "energy_active_net": active_kwh,
        "energy_active_import_sharp": 0.0,
        "energy_active_import_peak": 0.0,
        "energy_active_import_flat": active_kwh,
        "energy_active_import_valley": 0.0,
        "energy_reactive_import": reactive_kvarh,
        "energy_reactive_export": 0.0,
        "energy_reactive_total": reactive_kvarh,
        "energy_reactive_q1": reactive_kvarh,
        "energy_reactive_q2": 0.0,
        "energy_reactive_q3": 0.0,
        "energy_reactive_q4": 0.0,
    }


def _vector_sum(
    currents: tuple[float, float, float],
    active: tuple[float, float, float],
    reactive: tuple[float, float, float],
) -> float:
    """Return the length of Ia + Ib + Ic, the voltages taken 120 degrees apart. [A]"""
    real = imaginary = 0.0
    for index, amps in enumerate(currents):
        apparent = hypot(active[index], reactive[index])
        if apparent == 0.0:
            continue
        lag = acos(max(-1.0, min(1.0, active[index] / apparent)))
        angle = -2 * pi * index / 3 - (lag if reactive[index] >= 0.0 else -lag)
        real += amps * cos(angle)
        imaginary += amps * sin(angle)
    return hypot(real, imaginary)


def _step_time(step: Step) -> float:
    return step.at_s


def _by_phase(pairs: Sequence[tuple[float, float]]) -> Flow:
    a, b, c = pairs
    return Flow((a[0], b[0], c[0]), (a[1], b[1], c[1]))
