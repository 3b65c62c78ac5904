"""How a measure's saving is to be measured: which days before, which after, and by which method."""

import math
from dataclasses import dataclass
from datetime import date

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.measured import Basis

DAYS_MAX = 1100
"""Three years: a longer baseline is another building."""
YEARS = (1900, 2199)
"""Beyond them a date is a slip of the pen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Civil days ``[start, end)``."""

    start: date
    end: date

    def __post_init__(self) -> None:
        """Refuse a period without days, one that is too long, and one that nobody can have measured.

        Raises:
            InvalidInput: It is.
        """
        if not YEARS[0] <= self.start.year <= self.end.year <= YEARS[1]:
            raise InvalidInput(
                f"period: expected days from {YEARS[0]} to {YEARS[1]}, found {self.start} to {self.end}",
                message_zh=f"时段:应在 {YEARS[0]} 至 {YEARS[1]} 年之间,实际为 {self.start} 至 {self.end}",
            )
        if not 0 < (self.end - self.start).days <= DAYS_MAX:
            raise InvalidInput(
                f"period: expected an end 1 to {DAYS_MAX} days after {self.start}, found {self.end}",
                message_zh=f"时段:结束日应在 {self.start} 之后 1 至 {DAYS_MAX} 天内,实际为 {self.end}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementPlan:
    """How a measure's saving is measured."""

    basis: Basis
    after: Period
    before: Period | None = None
    """Needed by comparison and regression; shutdowns find their own clean days."""
    driver: str = ""
    """What the use is in proportion to, for a comparison: hours of operation, output, degree days."""
    driver_before: float = 1.0
    """Per day before."""
    driver_after: float = 1.0
    """Per day after."""
    load_circuits: tuple[str, ...] = ()
    """Circuits of the equipment inside, for a regression."""

    def __post_init__(self) -> None:
        """Refuse a plan by which nothing can be measured.

        Raises:
            InvalidInput: Days before are missing, not needed, or not before those after; or a driver is not positive.
        """
        if (self.before is None) is not (self.basis is Basis.SHUTDOWN):
            raise InvalidInput(
                f"measurement: before: expected {'none' if self.before else 'a period'} for {self.basis}",
                message_zh=f"测量方案:{self.basis} {'不需要' if self.before else '需要'} before 时段",
            )
        if self.before is not None and self.before.end > self.after.start:
            raise InvalidInput(
                f"measurement: before: expected an end on or before {self.after.start}, found {self.before.end}",
                message_zh=f"测量方案:before 应不晚于 {self.after.start} 结束,实际为 {self.before.end}",
            )
        for name in ("driver_before", "driver_after"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(
                    f"measurement: {name}: expected a number above 0, found {value:g}",
                    message_zh=f"测量方案:{name} 应为大于 0 的数,实际为 {value:g}",
                )
