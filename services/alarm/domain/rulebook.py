"""Which parameters hold for which device: the table, and overrides from the general to the specific.

An override names a rule, a scope and the parameters it changes; what it leaves out is inherited, parameter by
parameter: dictionary, then device kind, then site class, then site, then device. An override that was taken
back stays as an empty one, so that the version of what holds only ever rises.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from services.alarm.domain.model import (
    BAND_ORDER,
    CLASSES,
    LEVELS,
    SECOND_US,
    Band,
    Comparison,
    EffectiveRule,
    Measure,
    NoData,
    Params,
    Quantifier,
    Rule,
)

POLICY_START_DELAY_S: Mapping[int, float] = {1: 60.0, 2: 120.0, 3: 180.0, 4: 240.0}
"""Start delay by level where a row gives none; general policy of the interface text of the dictionary. [s]"""
MAX_DELAY_S = 86_400.0
"""Longest delay or gap that makes sense: a day. [s]"""
STATION_CLASSES = ("A", "B", "C", "D", "E")
"""Of the registry."""
PARAMETERS = ("enabled", "level", "threshold", "hysteresis", "start_delay_s", "end_delay_s", "max_gap_s", "no_data")


class Scope(StrEnum):
    """How far an override reaches, the more specific later."""

    DEVICE_KIND = "device_kind"
    SITE_CLASS = "site_class"
    SITE = "site"
    DEVICE = "device"


SCOPES = tuple(Scope)


@dataclass(frozen=True, slots=True)
class Override:
    """What an override changes; None inherits."""

    rule_id: str
    scope: Scope
    scope_id: str
    version: int
    enabled: bool | None = None
    level: int | None = None
    threshold: float | None = None
    hysteresis: float | None = None
    start_delay_s: float | None = None
    end_delay_s: float | None = None
    max_gap_s: float | None = None
    no_data: NoData | None = None

    @property
    def empty(self) -> bool:
        """Whether it changes nothing: it was taken back."""
        return all(getattr(self, name) is None for name in PARAMETERS)


@dataclass(frozen=True, slots=True)
class Target:
    """What the rules need to know of a device."""

    device_id: str
    site_id: str
    kind: str
    station_class: str
    """As the registry has it, A to E."""
    profile: str
    """Name and version; devices of one profile have the same points."""
    points: frozenset[str]
    """Numeric points that every device of the profile reports."""
    optional_points: frozenset[str] = frozenset()
    """Points that only some devices of the profile have."""
    period_s: float | None = None
    """How often it is to report; None: whenever it has something to say. [s]"""
    rated_current_a: float | None = None
    """Of the circuit that it measures. [A]"""

    @property
    def all_points(self) -> frozenset[str]:
        """Every point that the device may report."""
        return self.points | self.optional_points


class Comparing(Protocol):
    """What a threshold means: that of a rule, or of one that is still being written."""

    @property
    def comparison(self) -> Comparison:
        """How a value is compared."""

    @property
    def points(self) -> tuple[str, ...]:
        """What is compared."""

    @property
    def unit(self) -> str:
        """Of what is compared."""

    @property
    def measure(self) -> Measure:
        """What is made of the points."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a change of a rule is refused."""

    field: str
    expected: str
    expected_zh: str
    found: object


@dataclass(frozen=True)
class RuleBook:
    """All rules and overrides at one version."""

    rules: Mapping[str, Rule]
    overrides: Mapping[tuple[str, Scope, str], Override]
    class_map: Mapping[str, str]
    """Station class of the registry to class of the dictionary; E takes D unless configured."""
    version: int = 0
    _touched: frozenset[tuple[Scope, str]] = field(init=False, repr=False, compare=False)
    _cache: dict[object, tuple[EffectiveRule, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_touched", frozenset((scope, scope_id) for _, scope, scope_id in self.overrides))

    def for_device(self, target: Target) -> tuple[EffectiveRule, ...]:
        """Return every rule that applies to the device, sleeping ones too, in the order of their ids.

        Devices that no override tells apart share one tuple, so that they also share compiled matrices.
        """
        site = target.site_id if (Scope.SITE, target.site_id) in self._touched else None
        device = target.device_id if (Scope.DEVICE, target.device_id) in self._touched else None
        key = (target.profile, target.kind, target.station_class, site, device)
        found = self._cache.get(key)
        if found is None:
            found = tuple(
                self.effective(rule, target) for _, rule in sorted(self.rules.items()) if applies(rule, target)
            )
            self._cache[key] = found
        return found

    def effective(self, rule: Rule, target: Target) -> EffectiveRule:
        """Return the parameters of a rule for a device, with their origin."""
        chain = [
            override
            for scope, scope_id in scopes_of(target)
            if (override := self.overrides.get((rule.rule_id, scope, scope_id))) is not None
        ]
        return resolve(rule, dictionary_class(self.class_map, target.station_class), chain)

    def with_override(self, override: Override) -> "RuleBook":
        """Return the book in which this override stands in place of the one of its scope."""
        overrides = dict(self.overrides)
        overrides[override.rule_id, override.scope, override.scope_id] = override
        return RuleBook(self.rules, overrides, self.class_map, max(self.version, override.version))


def scopes_of(target: Target) -> Sequence[tuple[Scope, str]]:
    """Return the scopes that a device lies in, the more specific later."""
    return (
        (Scope.DEVICE_KIND, target.kind),
        (Scope.SITE_CLASS, target.station_class),
        (Scope.SITE, target.site_id),
        (Scope.DEVICE, target.device_id),
    )


def applies(rule: Rule, target: Target) -> bool:
    """Return whether a rule can judge a device: the kind fits and the points are there.

    A rule over all or some of several phases needs to see more than one to mean anything else than "any"; what is
    made of several points together needs all of them, and silence a device that reports anything at all.
    """
    if rule.device_kinds and target.kind not in rule.device_kinds:
        return False
    if rule.measure is Measure.SILENCE:
        return bool(target.all_points)
    if rule.measure in (Measure.UNBALANCE, Measure.EXPRESSION):
        return target.all_points.issuperset(rule.points)
    there = target.all_points.intersection(rule.points)
    return len(there) >= (2 if rule.quantifier is Quantifier.SOME else 1)


def dictionary_class(class_map: Mapping[str, str], station_class: str) -> str:
    """Return the class of the table for a station class of the registry; the least important one for a stranger."""
    return class_map.get(station_class, CLASSES[-1])


def resolve(rule: Rule, class_: str, chain: Iterable[Override]) -> EffectiveRule:
    """Return a rule's parameters for a class of stations under a chain of overrides."""
    base = rule.defaults[class_]
    values: dict[str, object] = {name: getattr(base, name) for name in PARAMETERS}
    sources = dict.fromkeys(PARAMETERS, "dictionary")
    version = rule.version
    for override in chain:
        version = max(version, override.version)
        for name in PARAMETERS:
            value = getattr(override, name)
            if value is not None:
                values[name] = value
                sources[name] = f"{override.scope}:{override.scope_id}"
    params = Params(**values)  # type: ignore[arg-type]  # the names are those of Params
    start_delay_s = params.start_delay_s
    if start_delay_s is None:
        start_delay_s = POLICY_START_DELAY_S.get(params.level or LEVELS[-1], POLICY_START_DELAY_S[4])
        sources["start_delay_s"] = "policy"
    return EffectiveRule(
        rule=rule,
        signal=rule.signal,
        enabled=params.enabled,
        level=params.level,
        threshold=params.threshold,
        hysteresis=params.hysteresis,
        start_delay_us=round(start_delay_s * SECOND_US),
        end_delay_us=round(params.end_delay_s * SECOND_US),
        max_gap_us=round(params.max_gap_s * SECOND_US),
        version=version,
        sources=sources,
        no_data=params.no_data,
    )


def class_code(family: str, class_: str) -> str:
    """Return the code that a class of stations has: in ten-digit codes the ``s`` is 1 for class A to 4 for D."""
    if len(family) == 10 and family[1] == "s":
        return f"{family[0]}{CLASSES.index(class_) + 1}{family[2:]}"
    return family


def order_faults(rules: Iterable[EffectiveRule]) -> list[Fault]:
    """Return where thresholds of one group contradict their bands.

    Every active high-high must lie above every high, that above every low, that above every low-low; and a
    recovery threshold must not reach into the next band, or the alarm beside it would never end.
    """
    groups: dict[str, list[EffectiveRule]] = {}
    for rule in rules:
        if rule.active and rule.rule.group is not None and rule.rule.band is not None:
            groups.setdefault(rule.rule.group, []).append(rule)
    faults: list[Fault] = []
    for members in groups.values():
        for lower in members:
            for upper in members:
                fault = _pair_fault(lower, upper)
                if fault is not None:
                    faults.append(fault)
    return faults


def contradictions(book: RuleBook, groups: Collection[str], targets: Iterable[Target]) -> list[Fault]:
    """Return where thresholds of these groups would contradict each other on any of these devices.

    Devices that no override tells apart are looked at once.
    """
    seen: set[int] = set()
    faults: dict[Fault, None] = {}
    for target in targets:
        rules = book.for_device(target)
        if id(rules) in seen:
            continue
        seen.add(id(rules))
        faults |= dict.fromkeys(order_faults(one for one in rules if one.rule.group in groups))
    return list(faults)


def devices_to_come(book: RuleBook, groups: Collection[str], points: frozenset[str]) -> Iterator[Target]:
    """Yield a device with every point of each kind and class that rules or overrides of these groups tell apart.

    Args:
        book: The rules.
        groups: Whose rules.
        points: Every point there is.
    """
    members = [rule for rule in book.rules.values() if rule.group in groups]
    kinds = {kind for rule in members for kind in rule.device_kinds}
    kinds |= {one.scope_id for one in book.overrides.values() if one.scope is Scope.DEVICE_KIND}
    any_kind = [] if kinds and all(rule.device_kinds for rule in members) else ["any"]
    for kind in (*sorted(kinds), *any_kind):
        for station_class in STATION_CLASSES:
            yield Target("", "", kind, station_class, "any", points)


def _pair_fault(lower: EffectiveRule, upper: EffectiveRule) -> Fault | None:
    low_band, high_band = lower.rule.band, upper.rule.band
    if low_band is None or high_band is None or lower.threshold is None or upper.threshold is None:
        return None
    if BAND_ORDER.index(low_band) >= BAND_ORDER.index(high_band):
        return None
    unit = lower.rule.unit
    if lower.threshold >= upper.threshold:
        return Fault(
            field="threshold",
            expected=f"{lower.rule.rule_id} ({low_band}) below {upper.rule.rule_id} ({high_band})",
            expected_zh=f"{lower.rule.rule_id}({low_band})须低于 {upper.rule.rule_id}({high_band})",
            found=f"{lower.threshold:g} {unit} >= {upper.threshold:g} {unit}",
        )
    middle = low_band in (Band.LOW, Band.LOW_LOW) and high_band in (Band.HIGH, Band.HIGH_HIGH)
    if middle and lower.threshold + lower.hysteresis >= upper.threshold - upper.hysteresis:
        return Fault(
            field="hysteresis",
            expected=f"recovery of {lower.rule.rule_id} below recovery of {upper.rule.rule_id}",
            expected_zh=f"{lower.rule.rule_id} 的恢复值须低于 {upper.rule.rule_id} 的恢复值",
            found=f"{lower.threshold + lower.hysteresis:g} {unit} >= {upper.threshold - upper.hysteresis:g} {unit}",
        )
    return None


def override_faults(
    override: Override, rule: Comparing, *, plausible: Mapping[str, tuple[float | None, float | None]]
) -> list[Fault]:
    """Return what is wrong with an override by itself.

    Args:
        override: What is asked for.
        rule: The rule it changes.
        plausible: Point to the least and the greatest value that such a point can have.
    """
    faults: list[Fault] = []
    if override.level is not None and override.level not in LEVELS:
        faults.append(Fault("level", "1, 2, 3 or 4", "1、2、3 或 4", override.level))
    for name in ("start_delay_s", "end_delay_s", "max_gap_s"):
        value: float | None = getattr(override, name)
        if value is not None and not 0 <= value <= MAX_DELAY_S:
            faults.append(Fault(name, f"0 to {MAX_DELAY_S:g} s", f"0 至 {MAX_DELAY_S:g} 秒", value))
    if override.hysteresis is not None and not 0 <= override.hysteresis < math.inf:
        faults.append(Fault("hysteresis", f"0 or more {rule.unit}", f"不小于 0 {rule.unit}", override.hysteresis))
    if override.threshold is not None:
        if rule.measure is Measure.VALUE:
            faults += _threshold_faults(override.threshold, rule, plausible)
        else:
            faults += _measure_faults(override.threshold, rule)
    return faults


MEASURE_RANGE: Mapping[Measure, tuple[float, float]] = {
    Measure.RATE: (-math.inf, math.inf),
    Measure.AGE: (0.0, MAX_DELAY_S),
    Measure.RATED: (0.0, 1000.0),
    Measure.UNBALANCE: (0.0, 100.0),
    Measure.EXPRESSION: (-math.inf, math.inf),
    Measure.SILENCE: (1.0, 1000.0),
}
"""Least and greatest threshold that makes sense, in the unit of the measure."""


def _measure_faults(threshold: float, rule: Comparing) -> list[Fault]:
    low, high = MEASURE_RANGE[rule.measure]
    if math.isfinite(threshold) and low <= threshold <= high:
        return []
    if math.isinf(high):
        return [Fault("threshold", f"a number in {rule.unit}", f"数值,单位 {rule.unit}", threshold)]
    return [
        Fault(
            "threshold", f"{low:g} to {high:g} {rule.unit}", f"{low:g} 至 {high:g} {rule.unit}", threshold
        )
    ]  # fmt: skip


def _threshold_faults(
    threshold: float, rule: Comparing, plausible: Mapping[str, tuple[float | None, float | None]]
) -> list[Fault]:
    if rule.comparison is Comparison.BITS and (threshold < 1 or threshold != int(threshold)):
        return [Fault("threshold", "a whole number above 0 (a mask)", "大于 0 的整数(掩码)", threshold)]
    lows = [low for name in rule.points if (low := plausible.get(name, (None, None))[0]) is not None]
    highs = [high for name in rule.points if (high := plausible.get(name, (None, None))[1]) is not None]
    low, high = min(lows, default=-math.inf), max(highs, default=math.inf)
    if not math.isfinite(threshold) or not low <= threshold <= high:
        what = f"{low:g} to {high:g} {rule.unit}"
        return [Fault("threshold", what, f"{low:g} 至 {high:g} {rule.unit}", threshold)]
    return []
