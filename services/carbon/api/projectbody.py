"""The document of a retrofit project over HTTP; what it means is the domain's (``domain/savings``)."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from libs.common.contracts.base import CalendarDate
from services.carbon.api.access import Body
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.domain.savings.projects.claims import ClaimKind
from services.carbon.domain.savings.projects.measures import Statement

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=1000)]
FormulaText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Clock = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
ClockEnd = Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Amount = Annotated[float, Field(ge=0, le=1e12)]
"""Money; beyond it somebody has slipped. [CNY]"""
Driver = Annotated[float, Field(ge=1e-6, le=1e9)]
"""What a use is in proportion to, per day."""
Quantity = Annotated[float, Field(ge=-1e12, le=1e12)]


class ParameterBody(Body):
    """A named number of a formula."""

    value: Quantity
    unit: Name
    source: Text = ""
    """Document, standard or measurement."""
    note: Text = ""


class PinnedFactor(Body):
    """An emission factor as it was chosen for the project."""

    factor_id: Name
    value: float = Field(ge=0, le=1e9)
    unit: Name
    """Per unit of the measure, such as kgCO2/kWh."""
    source: Text
    confidence: Text = ""


class PeriodBody(Body):
    """Civil days, the last not included."""

    start: CalendarDate
    end: CalendarDate


class MeasurementBody(Body):
    """How a saving is measured."""

    basis: Basis
    after: PeriodBody
    before: PeriodBody | None = None
    """For comparison and regression."""
    driver: Text = ""
    """What a comparison is in proportion to."""
    driver_before: Driver = 1.0
    driver_after: Driver = 1.0
    load_circuits: list[str] = Field(default=[], max_length=50)
    """Circuits of the equipment inside, a regressor beside the temperature."""


class MeasureBody(Body):
    """A measure with its formulas: numbers, parameters, + - * / and parentheses."""

    measure_id: Key
    name: Name
    name_zh: Name
    statement: Statement
    unit: Name
    saving: FormulaText
    """What is saved in a year. [unit/a]"""
    baseline: FormulaText | None = None
    """What was used before, in the same unit; a saving above it is refused."""
    money: FormulaText | None = None
    """What is saved in a year. [CNY/a]"""
    parameters: dict[str, ParameterBody] = Field(default={}, max_length=50)
    factor: PinnedFactor
    circuits: list[str] = Field(default=[], max_length=50)
    """Whose meters show it."""
    measurement: MeasurementBody | None = None
    """Absent: only its formula speaks for it."""


class InvestmentBody(Body):
    """Money that was or will be spent."""

    name: Name
    amount_cny: Amount
    spent_on: CalendarDate | None = None


class StageBody(Body):
    """A step of the project."""

    name: Name
    name_zh: Name
    planned: CalendarDate
    actual: CalendarDate | None = None
    person: Text | None = None
    evidence: Text | None = None


class ClaimBody(Body):
    """A figure that somebody printed: kept, marked, never summed."""

    claim_id: Key
    name: Name
    name_zh: Name
    kind: ClaimKind
    printed: Quantity
    unit: Name
    decimals: int = Field(ge=-9, le=9)
    formula: FormulaText | None = None
    """The printed arithmetic."""
    parameters: dict[str, ParameterBody] | None = None
    parts: list[Key] = Field(default=[], max_length=200)
    reason: Text = ""
    reason_zh: Text = ""
    corrected_by: str | None = None


class PriceBandBody(Body):
    """A price and when it holds."""

    band: Name
    price_cny_per_kwh: float
    hours: list[tuple[Clock, ClockEnd]] = Field(min_length=1, max_length=24)
    """Half-open clock times on quarter hours, ``24:00`` is midnight."""


class PricesBody(Body):
    """Agreed prices, which cover the day without overlap."""

    prices_id: Name
    version: int = Field(ge=1)
    source: Name
    bands: list[PriceBandBody] = Field(min_length=1, max_length=24)


class ProjectBody(Body):
    """A retrofit project."""

    project_id: Key
    name: Name
    name_zh: Name
    nodes: list[str] = Field(min_length=1, max_length=200)
    """Sites or circuits that it is about."""
    measures: list[MeasureBody] = Field(min_length=1, max_length=100)
    investments: list[InvestmentBody] = Field(default=[], max_length=200)
    stages: list[StageBody] = Field(default=[], max_length=100)
    claims: list[ClaimBody] = Field(default=[], max_length=200)
    source: Text | None = None
    """Where the claims were printed."""
    prices: PricesBody | None = None
    """What measured savings are worth; absent: their money is unknown."""
    years: int = Field(default=15, ge=1, le=50)
    """N of the N-year sums."""
    offset_price_cny_per_t: Amount = 0.0

    def document(self) -> dict[str, Any]:
        """Return what is stored."""
        return self.model_dump(mode="json", exclude_none=True)
