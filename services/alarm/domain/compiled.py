"""Rules as matrices: all devices of one profile are judged together.

A *shape* is what devices of one profile and kind have in common: the columns of their matrix and the rules
over them. A *variant* is one set of parameters over a shape; devices without overrides of their own share it.
Judging a batch is a cheap screen first (is any value beyond the tightest limits?), and the full conditions
only for the few reports that pass it or whose device is not NORMAL.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from services.alarm.domain.derived import REMEMBERING, Derived, columns_of
from services.alarm.domain.model import Comparison, EffectiveRule, Measure, NoData, Quantifier, Values
from services.alarm.domain.rulebook import Target

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Verdicts = npt.NDArray[np.int8]

TRUE, FALSE, OPEN = 1, 0, -1
"""Verdicts on a condition; OPEN where bad or missing values decide."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Every (rule, point) of a shape in one row, rule by rule."""

    column: Ints
    rule: Ints
    starts: Ints
    """Where each rule's pairs begin."""
    sizes: Ints
    ranged: Ints
    """Pairs compared with ABOVE or BELOW."""
    sign: Floats
    """+1 for ABOVE and -1 for BELOW, of the ranged pairs."""
    equal: Ints
    not_equal: Ints
    bits: Ints


class Shape:
    """What devices of one profile and kind have in common."""

    def __init__(self, rules: Sequence[EffectiveRule], target: Target) -> None:
        """Compile the rules that apply to ``target`` and its like."""
        rules = _ordered(rules)
        judging = [effective for effective in rules if not effective.is_silence]
        compared = [columns_of(effective.rule, target.all_points) for effective in judging]
        made = {one.name: one for columns in compared for one in columns}
        self.points: tuple[str, ...] = tuple(sorted({point for one in made.values() for point in one.points}))
        more = [one for name, one in sorted(made.items()) if one.measure is not Measure.VALUE]
        self.columns: tuple[str, ...] = (*self.points, *(one.name for one in more))
        """The points, and behind them what is made of them."""
        self.optional: Bools = np.array([name in target.optional_points for name in self.points], dtype=bool)
        self.rule_ids: tuple[str, ...] = tuple(effective.rule.rule_id for effective in rules)
        """Those that judge reports first, in order of their ids; then those that wait for them."""
        self.index: Mapping[str, int] = {rule_id: place for place, rule_id in enumerate(self.rule_ids)}
        self.judging = len(judging)
        """How many of the rules judge reports."""
        column = {name: place for place, name in enumerate(self.columns)}
        self.derived = Derived(more, column)
        self._made = [(column[one.name], [column[point] for point in one.points]) for one in more]
        self.rule_columns: tuple[tuple[tuple[str, int], ...], ...] = tuple(
            tuple((one.name, column[one.name]) for one in columns) for columns in compared
        )
        self._pairs = _pair(judging, self.rule_columns)
        quantifiers = [effective.rule.quantifier for effective in judging]
        self._all: Bools = np.array([quantifier is Quantifier.ALL for quantifier in quantifiers], dtype=bool)
        self._some: Bools = np.array([quantifier is Quantifier.SOME for quantifier in quantifiers], dtype=bool)
        self.variants: list[tuple[EffectiveRule, ...]] = []
        self._variant_of: dict[int, int] = {}
        self._waiting: list[tuple[EffectiveRule, ...]] = []
        self._remembers: list[bool] = []
        self._kept: list[tuple[EffectiveRule, ...]] = []
        """The sets whose identities are known: as long as they are here nothing else gets one of those."""
        self._limits = _Limits.of((), self)
        self._getter = itemgetter(*self.points) if len(self.points) > 1 else None

    def variant(self, rules: tuple[EffectiveRule, ...]) -> int:
        """Return the number of a set of parameters; known by its identity, which the rule book keeps."""
        known = self._variant_of.get(id(rules))
        if known is None:
            known = self._variant_of[id(rules)] = len(self.variants)
            self.variants.append(_ordered(rules))
            self._kept.append(rules)
            self._remembers.append(any(one.active and one.rule.measure in REMEMBERING for one in rules))
            self._waiting.append(
                tuple(one for one in rules if one.active and (one.is_silence or one.no_data is NoData.ALARM))
            )
        return known

    def remembers(self, variant: int) -> bool:
        """Return whether an active rule asks what was before."""
        return self._remembers[variant]

    def remembering(self, variants: Ints) -> Bools:
        """Return of which reports the values are to be remembered."""
        return np.array(self._remembers, dtype=np.bool_)[variants]

    def waiting(self, variant: int) -> tuple[EffectiveRule, ...]:
        """Return the active rules that the lack of reports can raise."""
        return self._waiting[variant]

    def _compiled(self) -> "_Limits":
        """Return the matrices of all variants, made anew after some were added."""
        if len(self._limits.trigger) != len(self.variants):
            self._limits = _Limits.of(self.variants, self)
        return self._limits

    def matrix(self, points: Sequence[Values], bad: Sequence[Iterable[str] | None], rated_a: Floats) -> Floats:
        """Return the values of reports, shape (reports, columns), NaN where bad, missing or null.

        Columns that need the report before are left NaN.

        Args:
            points: Of each report.
            bad: Points whose quality is bad.
            rated_a: Rated current of each report's device, NaN where unknown. [A]

        Raises:
            TypeError, ValueError: A value is not a number.
        """
        width = len(self.points)
        flat = np.fromiter(chain.from_iterable(self._rows(points)), np.float64, len(points) * width)
        values = flat.reshape(len(points), width)
        for row, names in enumerate(bad):
            if names:
                for name in names:
                    if name in self.points:
                        values[row, self.points.index(name)] = np.nan
        if len(self.columns) > width:
            values = np.hstack([values, np.full((len(points), len(self.columns) - width), np.nan)])
            self.derived.fill(values, rated_a)
        return values

    def _rows(self, points: Sequence[Values]) -> Iterator[Iterable[float | None]]:
        getter, columns = self._getter, self.points
        if getter is None:
            yield from ([report.get(name) for name in columns] for report in points)
            return
        for report in points:
            try:
                yield getter(report)
            except KeyError:
                yield map(report.get, columns)

    def absent(self, points: Sequence[Values], bad: Sequence[Iterable[str] | None]) -> Bools:
        """Return which columns the devices of these reports do not have, shape (reports, columns).

        An optional point that a report does not name, and what is made of such a point.
        """
        gone = np.zeros((len(points), len(self.columns)), dtype=bool)
        for place in np.flatnonzero(self.optional).tolist():
            name = self.points[place]
            gone[:, place] = [
                name not in report and name not in (flagged or ()) for report, flagged in zip(points, bad, strict=True)
            ]
        for place, inputs in self._made:
            gone[:, place] = gone[:, inputs].any(axis=1)
        return gone

    def screen(self, values: Floats, variants: Ints) -> Bools:
        """Return which reports have a value beyond the tightest limit of any of their rules."""
        limits = self._compiled()
        with np.errstate(invalid="ignore"):
            beyond: Bools = (values > limits.high[variants]) | (values < limits.low[variants])
        return np.asarray(np.any(beyond, axis=1), dtype=np.bool_)

    def verdicts(self, values: Floats, absent: Bools, variants: Ints, raised: Sequence[tuple[int, int]]) -> Verdicts:
        """Judge every rule on every report.

        Args:
            values: Shape (reports, columns).
            absent: Points that the device does not have; same shape.
            variants: Parameters per report.
            raised: (report, rule) whose alarm is active: judged with the recovery threshold.

        Returns:
            TRUE, FALSE or OPEN, shape (reports, rules).
        """
        compiled = self._compiled()
        limits = compiled.trigger[variants]
        for row, rule in raised:
            limits[row, rule] = compiled.recover[variants[row], rule]
        pairs = self._pairs
        violated = self._violated(values[:, pairs.column], limits[:, pairs.rule])
        gone = absent[:, pairs.column]
        known = ~np.isnan(values[:, pairs.column]) & ~gone
        count = np.add.reduceat(violated & known, pairs.starts, axis=1)
        present = pairs.sizes - np.add.reduceat(gone, pairs.starts, axis=1)
        unknown = present - np.add.reduceat(known, pairs.starts, axis=1)
        least = np.where(self._all, present, 1)
        most = np.where(self._some, present - 1, present)
        verdicts = np.full(count.shape, OPEN, dtype=np.int8)
        verdicts[(count >= least) & (count + unknown <= most)] = TRUE
        verdicts[(count + unknown < least) | (count > most)] = FALSE
        verdicts[present == 0] = OPEN
        return verdicts

    def _violated(self, values: Floats, limits: Floats) -> Bools:
        pairs = self._pairs
        violated = np.zeros(values.shape, dtype=bool)
        with np.errstate(invalid="ignore"):
            violated[:, pairs.ranged] = (values[:, pairs.ranged] - limits[:, pairs.ranged]) * pairs.sign > 0
            if pairs.equal.size:
                violated[:, pairs.equal] = values[:, pairs.equal] == limits[:, pairs.equal]
            if pairs.not_equal.size:
                violated[:, pairs.not_equal] = values[:, pairs.not_equal] != limits[:, pairs.not_equal]
            if pairs.bits.size:
                word = np.nan_to_num(values[:, pairs.bits]).astype(np.int64)
                mask = np.nan_to_num(limits[:, pairs.bits]).astype(np.int64)
                violated[:, pairs.bits] = word & mask != 0
        # A rule that sleeps has no threshold; NaN compares unequal to everything.
        violated &= ~np.isnan(limits)
        return violated

    def values_of(self, row: Floats, absent: Bools, rule: int) -> dict[str, float | None]:
        """Return the values of a rule's points in one report, as an episode keeps them."""
        return {
            name: None if np.isnan(row[place]) else float(row[place])
            for name, place in self.rule_columns[rule]
            if not absent[place]
        }


@dataclass(frozen=True, slots=True)
class _Limits:
    """Parameters of all variants of a shape, a row each."""

    high: Floats
    """Per column the greatest value that violates no rule; shape (variants, columns)."""
    low: Floats
    trigger: Floats
    """Threshold per rule, NaN where the rule sleeps; shape (variants, rules)."""
    recover: Floats

    @classmethod
    def of(cls, variants: Sequence[tuple[EffectiveRule, ...]], shape: Shape) -> "_Limits":
        high = np.full((len(variants), len(shape.columns)), np.inf)
        low = np.full((len(variants), len(shape.columns)), -np.inf)
        trigger = np.full((len(variants), shape.judging), np.nan)
        recover = np.full((len(variants), shape.judging), np.nan)
        for row, rules in enumerate(variants):
            for place, (effective, columns) in enumerate(zip(rules[: shape.judging], shape.rule_columns, strict=True)):
                threshold = effective.threshold
                if not effective.active or threshold is None:
                    continue
                comparison = effective.rule.comparison
                trigger[row, place] = threshold
                recover[row, place] = effective.recovery_threshold
                up, down = _screen_limits(comparison, threshold)
                for _, column in columns:
                    high[row, column] = min(high[row, column], up)
                    low[row, column] = max(low[row, column], down)
        return cls(high, low, trigger, recover)


def _screen_limits(comparison: Comparison, threshold: float) -> tuple[float, float]:
    """Return the limits between which a rule cannot be violated.

    Equality and bits have no such limits; theirs let through more than violates.
    """
    if comparison is Comparison.ABOVE:
        return threshold, -np.inf
    if comparison is Comparison.BELOW:
        return np.inf, threshold
    if comparison is Comparison.NOT_EQUAL:
        return threshold, threshold
    if comparison is Comparison.BITS:
        return 0.0, 0.0
    if threshold > 0:
        return float(np.nextafter(threshold, -np.inf)), -np.inf
    return np.inf, float(np.nextafter(threshold, np.inf))


def _ordered(rules: Sequence[EffectiveRule]) -> tuple[EffectiveRule, ...]:
    """Return the rules that judge reports, then those that wait for them."""
    return (
        *(effective for effective in rules if not effective.is_silence),
        *(effective for effective in rules if effective.is_silence),
    )


def _pair(rules: Sequence[EffectiveRule], columns: Sequence[Sequence[tuple[str, int]]]) -> _Pairs:
    comparisons = [
        effective.rule.comparison
        for effective, places in zip(rules, columns, strict=True)
        for _ in places
    ]  # fmt: skip
    sizes = np.array([len(places) for places in columns], dtype=np.int64)
    ranged = [place for place, kind in enumerate(comparisons) if kind in (Comparison.ABOVE, Comparison.BELOW)]

    def places_of(wanted: Comparison) -> Ints:
        return np.array([place for place, kind in enumerate(comparisons) if kind is wanted], dtype=np.int64)

    return _Pairs(
        column=np.array([place for places in columns for _, place in places], dtype=np.int64),
        rule=np.repeat(np.arange(len(sizes)), sizes),
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        sizes=sizes,
        ranged=np.array(ranged, dtype=np.int64),
        sign=np.array([1.0 if comparisons[place] is Comparison.ABOVE else -1.0 for place in ranged]),
        equal=places_of(Comparison.EQUAL),
        not_equal=places_of(Comparison.NOT_EQUAL),
        bits=places_of(Comparison.BITS),
    )
