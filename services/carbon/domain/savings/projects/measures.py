"""One measure of a retrofit project: what it is expected to save, and what it was measured to save.

A formula estimates; a meter decides. Where a measured saving exists the formula is kept beside it and no longer
counts. A formula that saves more than the thing used before is refused: the worked table of a published case did
that with its lamps, by multiplying their hours where it meant to subtract them.

Avoided emissions (recycling, green travel) are not reductions of the own inventory. They have a statement of their
own and are never added to one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.measured import MeasuredSaving
from services.carbon.domain.savings.measurement.plan import MeasurementPlan
from services.carbon.domain.savings.projects.formula import Formula, Parameter, values_of

TOLERANCE = 1e-9
"""Relative; two computations of one quantity that differ by less are the same."""


class Statement(StrEnum):
    """Where a measure's effect is stated."""

    ELECTRICITY = "electricity"
    WATER = "water"
    MATERIALS = "materials"
    """Paper and other goods that are bought less."""
    AVOIDED = "avoided"
    """Outside the own inventory: recycling, travel of others, offsets."""


class SavingAboveBaseline(InvalidInput):
    """A formula saves more than was used before."""

    code = "saving_above_baseline"
    title_zh = "节约量超过基准用量"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """The emission factor of a measure, pinned: the same project gives the same figure next year."""

    factor_id: str
    value: float
    """[kgCO2e/unit of the measure]"""
    unit: str
    source: str
    confidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure with its formula.

    ``parameters`` serve both formulas and the money; each has to be used by one of them.
    """

    measure_id: str
    name: str
    name_zh: str
    statement: Statement
    unit: str
    """Of what is saved in a year: kWh, t (water), sheet, kg …"""
    saving: Formula
    parameters: Mapping[str, Parameter]
    factor: Factor
    baseline: Formula | None = None
    """What was used before, in the same unit; needed for energy and water that is bought less."""
    money: Formula | None = None
    """What is saved in a year. [CNY]"""
    circuits: tuple[str, ...] = ()
    """Whose meters show it."""
    measurement: MeasurementPlan | None = None
    """How it is measured; None for one that only its formula speaks for."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            InvalidInput: A name is missing or unused, a quantity is negative, or the factor is per another unit.
            SavingAboveBaseline: The formula saves more than was used.
        """
        used = self.saving.names | (self.baseline.names if self.baseline else set())
        used |= self.money.names if self.money else set()
        given = set(self.parameters)
        if used != given:
            wrong = ", ".join(sorted(used ^ given))
            raise InvalidInput(
                f"measure {self.measure_id}: expected each parameter once given and used, wrong: {wrong}",
                message_zh=f"措施 {self.measure_id}:参数缺失或未被使用:{wrong}",
            )
        if not self.factor.unit.endswith(f"/{self.unit}"):
            raise InvalidInput(
                f"measure {self.measure_id}: expected a factor per {self.unit}, found {self.factor.unit}",
                message_zh=f"措施 {self.measure_id}:排放因子单位应为每 {self.unit},实际为 {self.factor.unit}",
            )
        if self.measurement is not None and not (self.circuits and self.unit == "kWh"):
            raise InvalidInput(
                f"measure {self.measure_id}: measurement: expected circuits and the unit kWh, found {self.unit}",
                message_zh=f"措施 {self.measure_id}:实测需要回路且单位为 kWh,实际为 {self.unit}",
            )
        estimate(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a measure's formulas give for a year."""

    quantity: float
    """[unit of the measure/a]"""
    baseline: float | None
    emission_kg: float
    """[kgCO2e/a]"""
    money_cny: float | None


class Origin(StrEnum):
    """Where the figure that counts comes from."""

    MEASURED = "measured"
    FORMULA = "formula"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What counts for a measure over a period, with both figures beside each other."""

    measure_id: str
    statement: Statement
    origin: Origin
    quantity: float
    unit: str
    emission_kg: float
    publishable: bool
    """A formula is an estimate and may be shown as one; a measured figure has to pass its own test."""
    estimate: Estimate
    measured: MeasuredSaving | None
    factor: Factor


def estimate(measure: Measure) -> Estimate:
    """Return what the formulas give for a year.

    Raises:
        InvalidInput: A formula has no value or a quantity is negative.
        SavingAboveBaseline: More is saved than was used.
    """
    values = values_of(measure.parameters)
    quantity = measure.saving.value(values)
    baseline = measure.baseline.value(values) if measure.baseline else None
    for name, value in (("saving", quantity), ("baseline", baseline)):
        if value is not None and value < 0:
            raise InvalidInput(
                f"measure {measure.measure_id}: {name}: expected 0 or more, found {value:g} {measure.unit}",
                message_zh=f"措施 {measure.measure_id}:{name} 不能为负({value:g} {measure.unit})",
            )
    refuse_above_baseline(measure.measure_id, quantity, baseline, measure.unit)
    return Estimate(
        quantity=quantity,
        baseline=baseline,
        emission_kg=quantity * measure.factor.value,
        money_cny=measure.money.value(values) if measure.money else None,
    )


def refuse_above_baseline(subject: str, saving: float, baseline: float | None, unit: str) -> None:
    """Check that no more is saved than was used.

    Raises:
        SavingAboveBaseline: It is; nothing may be computed from it.
    """
    if baseline is not None and saving > baseline * (1 + TOLERANCE):
        raise SavingAboveBaseline(
            f"{subject}: saving: expected at most the baseline of {baseline:g} {unit}, found {saving:g} {unit}",
            message_zh=f"{subject}:节约量 {saving:g} {unit} 超过基准用量 {baseline:g} {unit}",
            saving=saving,
            baseline=baseline,
            unit=unit,
        )


def outcome(measure: Measure, measured: Sequence[MeasuredSaving] = (), *, years: float = 1.0) -> Outcome:
    """Return what counts for a measure.

    A measured saving outranks the formula even where it is smaller, negative or not yet sure enough to be
    published; only one that knows nothing does not. Of several the one with the latest end counts.

    Args:
        measure: The measure.
        measured: Measured savings of its circuits.
        years: Length of the period, for the formula; a measured saving has its own. [a]

    Raises:
        SavingAboveBaseline: The measured saving exceeds its baseline.
    """
    guess = estimate(measure)
    latest = max((one for one in measured if one.saving_kwh is not None), key=lambda one: one.end, default=None)
    if latest is None or latest.saving_kwh is None:
        quantity = guess.quantity * years
        return Outcome(
            measure_id=measure.measure_id,
            statement=measure.statement,
            origin=Origin.FORMULA,
            quantity=quantity,
            unit=measure.unit,
            emission_kg=quantity * measure.factor.value,
            publishable=True,
            estimate=guess,
            measured=None,
            factor=measure.factor,
        )
    if measure.unit != "kWh":
        raise InvalidInput(
            f"measure {measure.measure_id}: expected a measured saving in {measure.unit}, found kWh",
            message_zh=f"措施 {measure.measure_id}:实测节约量单位应为 {measure.unit},实际为 kWh",
        )
    refuse_above_baseline(measure.measure_id, latest.saving_kwh, latest.baseline_kwh, measure.unit)
    return Outcome(
        measure_id=measure.measure_id,
        statement=measure.statement,
        origin=Origin.MEASURED,
        quantity=latest.saving_kwh,
        unit=measure.unit,
        emission_kg=latest.saving_kwh * measure.factor.value,
        publishable=latest.publishable,
        estimate=guess,
        measured=latest,
        factor=measure.factor,
    )


def emissions_by_statement(outcomes: Iterable[Outcome]) -> dict[Statement, float]:
    """Return the emissions of each statement; they are stated side by side. [kgCO2e]"""
    found: dict[Statement, float] = {}
    for one in outcomes:
        found[one.statement] = found.get(one.statement, 0.0) + one.emission_kg
    return found
