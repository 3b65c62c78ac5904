"""What a price sheet of a month says, and which days of a year are special."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from libs.common.errors import InvalidInput
from services.carbon.domain.tariff.basic import BasicPrices
from services.carbon.domain.tariff.cost import EnergyPrice
from services.carbon.domain.tariff.periods import ALL_DAYS, DayCalendar

WHOLE_COUNTRY = "CN"
"""Special days of every region: the holidays are the same everywhere."""
NOT_RECORDED = datetime(1970, 1, 1, tzinfo=UTC)
"""When a price was recorded that is still on its way into the books."""


@dataclass(frozen=True, slots=True)
class SheetPrice:
    """The prices of one province, class, voltage and month."""

    energy: EnergyPrice
    basic: BasicPrices | None
    """What the basic fee is counted with; None where the sheet has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialDays:
    """Which days of a civil year are of one kind; entering a list says that all others up to a day are not."""

    region: str
    """``CN-44``, or ``CN`` for every region."""
    day_type: str
    year: int
    version: int
    days: frozenset[date]
    known_until: date
    """The day up to which the list is complete, not included; hot days are known only up to today."""
    source: str

    def __post_init__(self) -> None:
        """Refuse days that no such list can hold.

        Raises:
            InvalidInput: A day of another year, or behind what is known.
        """
        if self.day_type == ALL_DAYS:
            raise InvalidInput(
                f"day_type: expected a kind of special day, found {ALL_DAYS}",
                message_zh=f"day_type:应为特殊日类别,实际为 {ALL_DAYS}",
            )
        first, end = date(self.year, 1, 1), date(self.year + 1, 1, 1)
        if not first <= self.known_until <= end:
            raise InvalidInput(
                f"known_until: expected {first} to {end}, found {self.known_until}",
                message_zh=f"known_until:应为 {first} 至 {end},实际为 {self.known_until}",
            )
        strange = sorted(day for day in self.days if not first <= day < self.known_until)
        if strange:
            raise InvalidInput(
                f"days: expected days from {first} to before {self.known_until}, found {strange[0]}",
                message_zh=f"days:应为 {first} 起、{self.known_until} 之前的日期,实际为 {strange[0]}",
            )


def calendar_of(lists: Iterable[SpecialDays], region: str) -> DayCalendar:
    """Return which days are special in a region, by its own lists and those of the whole country."""
    days: dict[str, set[date]] = defaultdict(set)
    known: dict[str, list[tuple[date, date]]] = defaultdict(list)
    for one in lists:
        if one.region not in (region, WHOLE_COUNTRY):
            continue
        days[one.day_type] |= one.days
        known[one.day_type].append((date(one.year, 1, 1), one.known_until))
    return DayCalendar({kind: frozenset(some) for kind, some in days.items()}, dict(known))


def month_after(month: date) -> date:
    """Return the first day of the month after the one that a day lies in."""
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)
