"""Virtual meters: what no device measures and others add up to.

A signed sum of circuits and other virtual meters, whole or by a share, plus what is lost: ``factor`` is +1 or -1, a
part of a shared meter, or 1 plus a share that is lost behind it; a transformer loses so many kilowatts whatever it
carries. An unknown part leaves the result unknown, unless the definition says otherwise, and then the share of what
is known is told.

Source:
    The platform's energy methods, section 1.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite

import numpy as np
from numpy.typing import NDArray

from libs.common.errors import InvalidInput
from services.carbon.domain.intervals import Grade, Intervals
from services.carbon.domain.registers import BoolArray, FloatArray

DEPTH_MAX = 16
"""Virtual meters of virtual meters go no deeper."""
TERMS_MAX = 500
FACTOR_MAX = 1000.0


class WrongVirtualMeter(InvalidInput):
    """A definition of a virtual meter cannot be computed."""

    code = "wrong_virtual_meter"
    title_zh = "虚拟表定义有误"


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a sum."""

    child: str
    """A circuit or a virtual meter."""
    factor: float
    """+1, -1, or a share of it; never 0. [1]"""


@dataclass(frozen=True, slots=True)
class VirtualMeter:
    """How it is computed."""

    id: str
    terms: Sequence[Term]
    constant_kw: float = 0.0
    """Lost or used at any time, such as the iron loss of a transformer; negative where it is taken off. [kW]"""
    allow_partial: bool = False
    """Whether the known parts make a result while others are unknown."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.terms) <= TERMS_MAX:
            raise self._wrong(f"expected 1 to {TERMS_MAX} parts, found {len(self.terms)}", f"应有 1 至 {TERMS_MAX} 项")
        if not isfinite(self.constant_kw):
            raise self._wrong("constant_kw: expected a finite number", "固定功率应为有限数值")
        seen: set[str] = set()
        for term in self.terms:
            if not (isfinite(term.factor) and 0.0 < abs(term.factor) <= FACTOR_MAX):
                raise self._wrong(
                    f"factor of {term.child}: expected a number other than 0 of at most {FACTOR_MAX:g}, "
                    f"found {term.factor:g}",
                    f"{term.child} 的系数应为非零且绝对值不超过 {FACTOR_MAX:g},实际为 {term.factor:g}",
                )
            if term.child in seen:
                raise self._wrong(f"{term.child} is named twice", f"{term.child} 重复出现")
            seen.add(term.child)

    def _wrong(self, why: str, why_zh: str) -> WrongVirtualMeter:
        return WrongVirtualMeter(f"virtual meter {self.id}: {why}", message_zh=f"虚拟表 {self.id}:{why_zh}")


@dataclass(frozen=True, slots=True)
class VirtualIntervals:
    """The intervals of a virtual meter."""

    start: FloatArray
    """Shape (n,). [s since the epoch]"""
    energy_kwh: FloatArray
    """NaN where it is unknown; may be negative, as of a loss within the meters' accuracy. Shape (n,). [kWh]"""
    grade: NDArray[np.int8]
    """The worst of the parts that count. Shape (n,)."""
    present_share: FloatArray
    """How many of the measured circuits behind it are known, by their factors. Shape (n,). [1]"""
    lower_bound: BoolArray
    """Whether it was at least this much: a part that is added is a lower bound. Shape (n,)."""
    upper_bound: BoolArray
    """Whether it was at most this much: a part that is taken off is a lower bound. Shape (n,)."""
    step_s: float


@dataclass(frozen=True, slots=True)
class Total:
    """What a virtual meter comes to over a span."""

    energy_kwh: float | None
    """Sum of what is known; None when nothing is. [kWh]"""
    known_share: float
    """Share of the span's intervals that have a value. [1]"""
    present_share: float
    """Mean share of the parts that are known. [1]"""
    measured_share: float
    """Share of the span's intervals that are measured. [1]"""


def check(meters: Mapping[str, VirtualMeter]) -> list[str]:
    """Return the virtual meters in an order in which each can be computed.

    Raises:
        WrongVirtualMeter: One is a part of itself, through others or not, or they are nested too deeply.
    """
    order: list[str] = []
    depth: dict[str, int] = {}
    for root in meters:
        path: list[str] = []
        waiting: list[tuple[str, bool]] = [(root, False)]
        while waiting:
            one, left = waiting.pop()
            if left:
                path.pop()
                inner = [depth[term.child] for term in meters[one].terms if term.child in meters]
                depth[one] = 1 + max(inner, default=0)
                if depth[one] > DEPTH_MAX:
                    raise WrongVirtualMeter(
                        f"virtual meter {one}: expected at most {DEPTH_MAX} levels, found {depth[one]}",
                        message_zh=f"虚拟表 {one}:嵌套应不超过 {DEPTH_MAX} 层,实际为 {depth[one]} 层",
                    )
                order.append(one)
            elif one in path:
                told = " → ".join([*path[path.index(one) :], one])
                raise WrongVirtualMeter(
                    f"virtual meter {one} would be a part of itself: {told}",
                    message_zh=f"虚拟表 {one} 不能包含自身:{told}",
                )
            elif one not in depth:
                path.append(one)
                waiting.append((one, True))
                waiting += [(term.child, False) for term in reversed(meters[one].terms) if term.child in meters]
    return order


def circuits_behind(meter: str, meters: Mapping[str, VirtualMeter]) -> dict[str, float]:
    """Return the circuits that a virtual meter comes down to, each with what it counts in all.

    Raises:
        WrongVirtualMeter: As ``check``.
    """
    check(meters)
    found: dict[str, float] = {}
    waiting = [(meter, 1.0)]
    while waiting:
        one, factor = waiting.pop()
        for term in meters[one].terms:
            if term.child in meters:
                waiting.append((term.child, factor * term.factor))
            else:
                found[term.child] = found.get(term.child, 0.0) + factor * term.factor
    return found


def compute(
    meter: str, meters: Mapping[str, VirtualMeter], intervals_of: Callable[[str], Intervals]
) -> VirtualIntervals:
    """Return the intervals of a virtual meter.

    Args:
        meter: Which.
        meters: All definitions that it may refer to.
        intervals_of: Intervals of a circuit; all of them of one span and step.

    Raises:
        WrongVirtualMeter: As ``check``, or the circuits' spans differ.
    """
    known: dict[str, VirtualIntervals] = {}
    needed = _needed(meter, meters)
    for one in check(meters):
        if one in needed:
            parts = [
                known[term.child] if term.child in meters else _of_circuit(intervals_of(term.child))
                for term in meters[one].terms
            ]
            known[one] = _sum(meters[one], parts)
    return known[meter]


def total(found: VirtualIntervals) -> Total:
    """Return what the intervals come to; unknown ones are left out and told, never zero."""
    value = np.isfinite(found.energy_kwh)
    count = max(found.start.size, 1)
    return Total(
        energy_kwh=fsum(found.energy_kwh[value]) if value.any() else None,
        known_share=float(value.sum()) / count,
        present_share=float(found.present_share.sum()) / count,
        measured_share=float((found.grade == Grade.MEASURED).sum()) / count,
    )


def _needed(meter: str, meters: Mapping[str, VirtualMeter]) -> set[str]:
    found: set[str] = set()
    waiting = [meter]
    while waiting:
        one = waiting.pop()
        if one in meters and one not in found:
            found.add(one)
            waiting += [term.child for term in meters[one].terms]
    return found


def _of_circuit(found: Intervals) -> VirtualIntervals:
    return VirtualIntervals(
        start=found.start,
        energy_kwh=found.energy_kwh,
        grade=found.grade,
        present_share=np.isfinite(found.energy_kwh).astype(np.float64),
        lower_bound=found.lower_bound,
        upper_bound=np.zeros(found.start.size, np.bool_),
        step_s=found.step_s,
    )


def _sum(meter: VirtualMeter, parts: Sequence[VirtualIntervals]) -> VirtualIntervals:
    first = parts[0]
    for term, part in zip(meter.terms, parts, strict=True):
        if part.step_s != first.step_s or not np.array_equal(part.start, first.start):
            raise WrongVirtualMeter(
                f"virtual meter {meter.id}: {term.child}: expected the same span as {meter.terms[0].child}",
                message_zh=f"虚拟表 {meter.id}:{term.child} 的区间与 {meter.terms[0].child} 不一致",
            )
    factors = np.array([term.factor for term in meter.terms])
    energies = np.array([part.energy_kwh for part in parts])
    there = np.isfinite(energies)
    energy = np.full(first.start.size, meter.constant_kw * first.step_s / 3600.0)
    for factor, part in zip(factors, np.where(there, energies, 0.0), strict=True):  # in the order that a trace names
        energy = energy + factor * part
    enough = there.any(axis=0) if meter.allow_partial else there.all(axis=0)
    grades = np.array([part.grade for part in parts])
    worst = np.where(there, grades, np.int8(Grade.MEASURED)).max(axis=0)
    weights = np.abs(factors) / np.abs(factors).sum()
    adds = (factors > 0.0)[:, np.newaxis]
    lower = there & np.array([part.lower_bound for part in parts])
    upper = there & np.array([part.upper_bound for part in parts])
    return VirtualIntervals(
        start=first.start,
        energy_kwh=np.where(enough, energy, np.nan),
        grade=np.where(enough, worst, np.int8(Grade.MISSING)).astype(np.int8),
        present_share=weights @ np.array([part.present_share for part in parts]),
        lower_bound=enough & (np.where(adds, lower, upper)).any(axis=0),
        upper_bound=enough & (np.where(adds, upper, lower)).any(axis=0),
        step_s=first.step_s,
    )
