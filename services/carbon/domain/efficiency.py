"""The carbon efficiency code (碳效码): what an enterprise or a building emits per value added or area, and which of
five levels and three classes that is.

    net = max(emission - zero-carbon electricity - sinks, 0)
    L   = net / value added [t per 10^4 CNY], of a building net / area [kg per m2 in a year]
    K   = L / average of the sector, of a building L / quota

Sector averages, quotas and limits are rows with days on which they hold. Limits belong to the level beneath them. Where
a level cannot be said there is none, and a reason; a figure that is not known is never taken for zero.

Source:
    Industrial carbon efficiency code of Huzhou, Zhejiang; the platform's energy methods, section 18. Buildings and
    public institutions by a quota per area and with the same levels are a convention of this platform.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum, StrEnum
from itertools import pairwise

from libs.common.errors import Bilingual, Conflict, InvalidInput
from services.carbon.domain.factors.model import DOUBTED, TRUSTED
from services.carbon.domain.inventory.metered import LEAST_USABLE
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, NoDenominator
from services.carbon.domain.why import Number, Rule, recomputed

ON_THE_LIMIT = 1e-9
"""A ratio that is above a limit by less, in proportion to it, is on it: 0.06 / 0.1 is no more than 0.6. [1]"""
USABLE_WHOLE = 0.9
"""Below this share a figure is marked (methods, section 2). [1]"""
BENCHMARK_MIN, BENCHMARK_MAX = 1e-4, 1e6
"""Beyond these somebody has taken the wrong unit. [t per 10^4 CNY, kg per m2]"""
ALWAYS = date.max


class Kind(StrEnum):
    """What is divided by."""

    INDUSTRY = "industry"
    BUILDING = "building"

    @property
    def per(self) -> FactKind:
        """What of a node is divided by."""
        return FactKind.VALUE_ADDED if self is Kind.INDUSTRY else FactKind.AREA

    @property
    def scale(self) -> float:
        """How many units of the numerator of L a kilogram is. [t/kg, kg/kg]"""
        return 0.001 if self is Kind.INDUSTRY else 1.0

    @property
    def unit(self) -> str:
        """The unit of L and of the benchmark."""
        return "tCO2e/1e4 CNY" if self is Kind.INDUSTRY else "kgCO2e/m2"

    @property
    def least(self) -> float:
        """The least that is divided by: 100 CNY, 1 m2. Less of it is a slip, and its quotient says nothing."""
        return 0.01 if self is Kind.INDUSTRY else 1.0


class Level(IntEnum):
    """Level by K; 1 is the best."""

    HIGH = 1
    GOOD = 2
    AVERAGE = 3
    POOR = 4
    LOW = 5

    @property
    def text(self) -> Bilingual:
        """What people call it."""
        return _LEVELS[self]


class CarbonClass(StrEnum):
    """Class by L, of industry only."""

    LOW = "low_carbon"
    MEDIUM = "medium_carbon"
    HIGH = "high_carbon"

    @property
    def text(self) -> Bilingual:
        """What people call it."""
        return _CLASSES[self]


class NoCode(StrEnum):
    """Why there is no level, or no figure at all."""

    NOT_OVER = "not_over"
    PART_OF_A_YEAR = "part_of_a_year"
    """A quota per area is of a whole civil year."""
    EMISSION_UNKNOWN = "emission_unknown"
    MEDIUM_UNSAID = "medium_unsaid"
    """Gas, fuel, cold or steam was used, and nobody says what it is."""
    TOO_LITTLE_KNOWN = "too_little_known"
    NOT_ENTERED = "not_entered"
    NOT_POSITIVE = "not_positive"
    TOO_SMALL = "too_small"
    MIXED_BASES = "mixed_bases"
    CUT = "cut"
    NO_BENCHMARK = "no_benchmark"
    NOT_TRUSTED = "not_trusted"
    """The average or quota that holds is from memory or doubtful."""

    @property
    def text(self) -> Bilingual:
        """What to tell people."""
        return _REASONS[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """What held of a sector, or of a kind of building, from a day on."""

    standard_id: str
    kind: Kind
    name: str
    name_zh: str
    valid_from: date
    valid_to: date | None = None
    """The first day on which it holds no more."""
    benchmark: float | None = None
    """Sector average [t per 10^4 CNY] or quota [kg per m2 in a year]; None for the limits of a scheme alone."""
    levels: tuple[float, ...] = ()
    """The upper ends of levels 1 to 4; none takes those of the shipped scheme of the kind. [1]"""
    classes: tuple[float, ...] = ()
    """The upper ends of low and medium carbon; none takes those of the shipped scheme. [t per 10^4 CNY]"""
    source: str
    confidence: str
    version: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidInput: No days, a benchmark out of its limits, limits that do not rise or are too many or too few.
        """
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise InvalidInput(
                f"valid_to: expected a day after {self.valid_from}, found {self.valid_to}",
                message_zh=f"valid_to:应晚于 {self.valid_from},实际为 {self.valid_to}",
            )
        if self.benchmark is not None and not BENCHMARK_MIN <= self.benchmark <= BENCHMARK_MAX:
            raise InvalidInput(
                f"benchmark: expected {BENCHMARK_MIN:g} to {BENCHMARK_MAX:g}, found {self.benchmark:g}",
                message_zh=f"benchmark:应为 {BENCHMARK_MIN:g} 至 {BENCHMARK_MAX:g},实际为 {self.benchmark:g}",
            )
        _require_rising("levels", self.levels, len(Level) - 1)
        _require_rising("classes", self.classes, len(CarbonClass) - 1)
        if self.classes and self.kind is Kind.BUILDING:
            raise InvalidInput("classes: expected none for buildings", message_zh="classes:建筑不分低碳、中碳、高碳")

    @property
    def trusted(self) -> bool:
        """Whether it may be used: neither from memory nor doubtful, as of emission factors."""
        return self.confidence.startswith(TRUSTED) and not self.confidence.startswith(DOUBTED)

    def holds_on(self, day: date) -> bool:
        """Return whether it holds on a day."""
        return self.valid_from <= day < (self.valid_to or ALWAYS)


class StandardsOverlap(Conflict):
    """A day would have two averages or quotas."""

    code = "standards_overlap"
    title_zh = "基准有效期重叠"


def check_apart(new: Standard, before: Iterable[Standard]) -> None:
    """Refuse a row whose days another one of its id has already, unless it replaces just that.

    Raises:
        StandardsOverlap: It does.
        InvalidInput: The others are of another kind.
    """
    for one in before:
        if one.kind is not new.kind:
            raise InvalidInput(
                f"kind: expected {one.kind}, as the other rows of {new.standard_id}, found {new.kind}",
                message_zh=f"kind:{new.standard_id} 的其他行为 {one.kind},实际为 {new.kind}",
            )
        if one.valid_from == new.valid_from:
            continue
        if one.valid_from < (new.valid_to or ALWAYS) and new.valid_from < (one.valid_to or ALWAYS):
            raise StandardsOverlap(
                f"{new.standard_id}: from {new.valid_from} it overlaps the row from {one.valid_from}; "
                "end that one first",
                message_zh=f"{new.standard_id}:自 {new.valid_from} 起与自 {one.valid_from} 起的一行重叠,请先结束后者",
            )


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What a code is held against in one period."""

    row: Standard | None
    """With the average or quota; None where no row holds."""
    scheme: Standard
    """With the limits."""
    changed: bool
    """Another row held on the first day of the period."""

    @property
    def levels(self) -> Sequence[float]:
        """The upper ends of levels 1 to 4."""
        return self.row.levels if self.row is not None and self.row.levels else self.scheme.levels

    @property
    def classes(self) -> Sequence[float]:
        """The upper ends of low and medium carbon."""
        return self.row.classes if self.row is not None and self.row.classes else self.scheme.classes


def yardstick(rows: Sequence[Standard], schemes: Sequence[Standard], first: date, last: date) -> Yardstick:
    """Return what holds on the last day of a period, of the rows of one id and the shipped schemes."""
    kind = rows[0].kind
    held = [next((row for row in rows if row.holds_on(day)), None) for day in (first, last)]
    mine = [one for one in schemes if one.kind is kind]
    scheme = next((one for one in mine if one.holds_on(last)), mine[0])
    return Yardstick(held[1], scheme, held[0] != held[1])


def level_of(ratio: float, limits: Sequence[float]) -> Level:
    """Return the level of a K; each limit belongs to the level beneath it."""
    return Level(1 + sum(ratio > limit * (1 + ON_THE_LIMIT) for limit in limits))


def class_of(intensity: float, limits: Sequence[float]) -> CarbonClass:
    """Return the class of an L; each limit belongs to the class beneath it."""
    return list(CarbonClass)[sum(intensity > limit * (1 + ON_THE_LIMIT) for limit in limits)]


@dataclass(frozen=True, slots=True)
class Deduction:
    """What is subtracted for one period, by facts that lie wholly within it."""

    amount: float
    """[kWh, kgCO2e]"""
    sources: tuple[str, ...] = ()
    cut: bool = False
    """There are facts that the period cuts; nothing of them counts."""


def deduction(facts: Iterable[Fact], first_day: date, end_day: date) -> Deduction:
    """Return what facts of one kind say of the days ``[first_day, end_day)``."""
    touching = [one for one in facts if one.first_day < end_day and one.end_day > first_day]
    inside = [one for one in touching if one.first_day >= first_day and one.end_day <= end_day]
    return Deduction(
        math.fsum(one.value for one in inside),
        tuple(sorted({one.source for one in inside})),
        len(inside) < len(touching),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What a node emitted in a period, and what is taken off it. [kgCO2e]"""

    electricity: float | None
    """Location-based."""
    energy_kwh: float | None
    """The electricity that it is of. [kWh]"""
    media: tuple[tuple[str, float | None], ...] = ()
    """Of heat, gas, fuel …, by register; None where it is not known."""
    zero_carbon: Deduction = Deduction(0.0)
    sinks: Deduction = Deduction(0.0)

    @property
    def gross(self) -> float | None:
        """All that was emitted; None where a part is not known."""
        return _float(recomputed(Rule.WHOLE_SUM, [self.electricity, *(value for _, value in self.media)]))

    @property
    def covered_kwh(self) -> float:
        """Zero-carbon electricity that there was consumption for; more of it covers nothing. [kWh]"""
        return min(self.zero_carbon.amount, max(self.energy_kwh or 0.0, 0.0))

    @property
    def covered(self) -> float | None:
        """What the covered electricity would have emitted, by the period's own mean factor."""
        if self.covered_kwh == 0.0:
            return 0.0
        return _float(recomputed(Rule.BY_FACTOR, [self.covered_kwh, self.energy_kwh, self.electricity]))

    @property
    def deducted(self) -> float | None:
        """Zero-carbon electricity and sinks."""
        return _float(recomputed(Rule.WHOLE_SUM, [self.covered, self.sinks.amount]))

    @property
    def net(self) -> float | None:
        """What is left, and no less than nothing."""
        return _float(recomputed(Rule.EXCESS, [self.gross, self.deducted]))

    @property
    def marks(self) -> list[str]:
        """What a reader has to know of it."""
        found = []
        if self.zero_carbon.cut or self.sinks.cut:
            found.append("deductions_cut_by_the_period")
        if self.zero_carbon.amount > self.covered_kwh:
            found.append("surplus_zero_carbon_electricity")
        if self.gross is not None and self.deducted is not None and self.deducted > self.gross:
            found.append("more_deducted_than_emitted")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What else decides whether there is a figure."""

    over: bool
    whole_year: bool
    unsaid: tuple[str, ...]
    """Registers whose medium nobody has named."""
    usable_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code of a node for one period."""

    kind: Kind
    balance: Balance
    denominator: Denominator
    yardstick: Yardstick
    intensity: float | None
    """L. [t per 10^4 CNY, kg per m2]"""
    carbon_class: CarbonClass | None
    ratio: float | None
    """K. [1]"""
    level: Level | None
    reason: NoCode | None
    """Why there is no level."""
    marks: tuple[str, ...]


def code_of(
    *, kind: Kind, balance: Balance, denominator: Denominator, against: Yardstick, found: Circumstances
) -> Code:
    """Return the code of a node for one period, with a level or the first reason why there is none."""
    marks = list(balance.marks)
    if against.changed:
        marks.append("standard_changed_within_the_period")
    if found.usable_share is not None and found.usable_share < USABLE_WHOLE:
        marks.append("incomplete")
    reason = _no_intensity(kind, balance, denominator, found)
    intensity = carbon_class = ratio = None
    if reason is None:
        intensity = _float(recomputed(Rule.BY_FACTOR, [kind.scale, denominator.value, balance.net]))
    if intensity is not None:
        if kind is Kind.INDUSTRY:
            carbon_class = class_of(intensity, against.classes)
        row = against.row
        if row is None or row.benchmark is None:
            reason = NoCode.NO_BENCHMARK
        elif not row.trusted:
            reason = NoCode.NOT_TRUSTED
        else:
            ratio = _float(recomputed(Rule.QUOTIENT, [intensity, row.benchmark]))
    return Code(
        kind=kind,
        balance=balance,
        denominator=denominator,
        yardstick=against,
        intensity=intensity,
        carbon_class=carbon_class,
        ratio=ratio,
        level=None if ratio is None else level_of(ratio, against.levels),
        reason=reason,
        marks=tuple(marks),
    )


def _no_intensity(kind: Kind, balance: Balance, denominator: Denominator, found: Circumstances) -> NoCode | None:
    """Return why there is no L, the gravest reason first."""
    if not found.over:
        return NoCode.NOT_OVER
    if kind is Kind.BUILDING and not found.whole_year:
        return NoCode.PART_OF_A_YEAR
    if found.unsaid:
        return NoCode.MEDIUM_UNSAID
    if balance.net is None:
        return NoCode.EMISSION_UNKNOWN
    if found.usable_share is None or found.usable_share < LEAST_USABLE:
        return NoCode.TOO_LITTLE_KNOWN
    if denominator.reason is not None:
        return _OF_DENOMINATORS[denominator.reason]
    if denominator.value is None:
        return NoCode.NOT_ENTERED
    if denominator.value <= 0:
        return NoCode.NOT_POSITIVE
    return NoCode.TOO_SMALL if denominator.value < kind.least else None


def _require_rising(name: str, limits: Sequence[float], count: int) -> None:
    if not limits:
        return
    rising = all(low < high for low, high in pairwise(limits))
    if len(limits) != count or not rising or not 0 < limits[0] or not limits[-1] <= BENCHMARK_MAX:
        raise InvalidInput(
            f"{name}: expected {count} limits above 0 and at most {BENCHMARK_MAX:g}, each above the one before it",
            message_zh=f"{name}:应为 {count} 个大于 0、不超过 {BENCHMARK_MAX:g} 且依次递增的界限",
        )


def _float(value: Number | None) -> float | None:
    return None if value is None else float(value)


_LEVELS = {
    Level.HIGH: Bilingual("high efficiency", "高效"),
    Level.GOOD: Bilingual("above average", "较高"),
    Level.AVERAGE: Bilingual("about average", "中等"),
    Level.POOR: Bilingual("below average", "较低"),
    Level.LOW: Bilingual("low efficiency", "低效"),
}
_CLASSES = {
    CarbonClass.LOW: Bilingual("low carbon", "低碳"),
    CarbonClass.MEDIUM: Bilingual("medium carbon", "中碳"),
    CarbonClass.HIGH: Bilingual("high carbon", "高碳"),
}
_OF_DENOMINATORS = {
    NoDenominator.NOT_ENTERED: NoCode.NOT_ENTERED,
    NoDenominator.ZERO: NoCode.NOT_POSITIVE,
    NoDenominator.MIXED_BASES: NoCode.MIXED_BASES,
    NoDenominator.CUT: NoCode.CUT,
}
_REASONS = {
    NoCode.NOT_OVER: Bilingual("the period is not over", "该时段尚未结束"),
    NoCode.PART_OF_A_YEAR: Bilingual("a quota per area is of a whole civil year", "单位面积定额按整个自然年计"),
    NoCode.EMISSION_UNKNOWN: Bilingual("the emission of some part is not known", "部分排放量未知"),
    NoCode.MEDIUM_UNSAID: Bilingual(
        "gas, fuel, cold or steam was used, and nobody says what it is (gas=, fuel=, cop=, steam_kj_per_kg=)",
        "有燃气、燃料、冷量或蒸汽用量,但未说明其种类或参数(gas=、fuel=、cop=、steam_kj_per_kg=)",
    ),
    NoCode.TOO_LITTLE_KNOWN: Bilingual("less than half of the intervals are known", "已知区间不足一半"),
    NoCode.NOT_ENTERED: Bilingual(
        "value added or area is not entered for all of its days", "增加值或面积未覆盖全部日期"
    ),
    NoCode.NOT_POSITIVE: Bilingual("value added or area is zero or less", "增加值或面积不大于零"),
    NoCode.TOO_SMALL: Bilingual("value added below 100 CNY or area below 1 m2", "增加值低于 100 元或面积低于 1 平方米"),
    NoCode.MIXED_BASES: Bilingual("value added is entered in different prices", "增加值的价格基准不一致"),
    NoCode.CUT: Bilingual("the period cuts an entered value added", "时段截断了已填报的增加值"),
    NoCode.NO_BENCHMARK: Bilingual(
        "no sector average or quota holds on the last day", "期末没有有效的行业平均值或定额"
    ),
    NoCode.NOT_TRUSTED: Bilingual(
        "the sector average or quota is from memory or doubtful; enter it with its document",
        "行业平均值或定额出自记忆或存疑,请附文件重新填报",
    ),
}
