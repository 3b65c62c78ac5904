"""What energy costs by its bands, with every line's price and source beside it.

The price of a band is ``price_base * ratio + price_fixed``: one part of the price floats with the band, the rest
(funds, and what else a notice leaves out) does not. Without the prices of a month its cost is unknown, which is
not zero. Amounts are exact decimals; nothing is rounded here.

Source:
    The platform's energy methods, section 9.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import polars as pl

from libs.common.errors import InvalidInput
from services.carbon.domain.money import decimal_of, exact, total
from services.carbon.domain.tariff.grid import Rate, RateGrid
from services.carbon.domain.tariff.periods import Band

PRICE_MAX_CNY_PER_KWH = Decimal(10)
"""Beyond it somebody has entered fen, or CNY per MWh. [CNY/kWh]"""


@dataclass(frozen=True, slots=True)
class PriceKey:
    """Whose price of which month."""

    region: str
    customer_class: str
    voltage: str
    """As the price sheet prints it, for example ``1-10kV``."""
    month: date
    """The first day of the civil month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPrice:
    """One version of a month's price; the latest that was known holds."""

    key: PriceKey
    version: int
    base_cny_per_kwh: Decimal
    """The part that floats with the band. [CNY/kWh]"""
    fixed_cny_per_kwh: Decimal
    """The part that does not; shares that are paid back make it smaller than zero. [CNY/kWh]"""
    source: str
    recorded_at: datetime

    def __post_init__(self) -> None:
        """Refuse what cannot be a price per kilowatt hour.

        Raises:
            InvalidInput: The month has a day other than the first, or a part lies outside of its limits.
        """
        if self.key.month.day != 1:
            raise InvalidInput(
                f"month: expected the first day of a month, found {self.key.month}",
                message_zh=f"month:应为某月第一天,实际为 {self.key.month}",
            )
        for name, value, least in (
            ("base_cny_per_kwh", self.base_cny_per_kwh, Decimal(0)),
            ("fixed_cny_per_kwh", self.fixed_cny_per_kwh, -PRICE_MAX_CNY_PER_KWH),
        ):
            if not (value.is_finite() and least <= value <= PRICE_MAX_CNY_PER_KWH):
                raise InvalidInput(
                    f"{name}: expected {least} to {PRICE_MAX_CNY_PER_KWH} CNY/kWh, found {value}; "
                    "is it in fen, or per MWh?",
                    message_zh=f"{name}:应为 {least} 至 {PRICE_MAX_CNY_PER_KWH} 元/千瓦时,实际为 {value};"
                    "单位是否为分,或按兆瓦时计?",
                )

    def of(self, ratio: Decimal) -> Decimal:
        """Return the price of a band. [CNY/kWh]"""
        with exact():
            return self.base_cny_per_kwh * ratio + self.fixed_cny_per_kwh


@dataclass(frozen=True, slots=True)
class CostLine:
    """The energy of one month (or day) at one rate."""

    period: date
    """The first day of the month, or the day."""
    rate: Rate | None
    """None where no tariff is in force."""
    energy_kwh: Decimal
    """What is known of it. [kWh]"""
    slots: int
    unknown: int
    """Slots whose energy is not known."""
    price: EnergyPrice | None
    price_cny_per_kwh: Decimal | None
    """The price of the band, None where it is unknown. [CNY/kWh]"""
    cost_cny: Decimal | None
    """None where it is unknown, which is not zero. [CNY]"""


@dataclass(frozen=True, slots=True)
class EnergyCost:
    """What energy cost, by line."""

    lines: tuple[CostLine, ...]

    @property
    def energy_kwh(self) -> Decimal:
        """All that is known of the energy. [kWh]"""
        return total(line.energy_kwh for line in self.lines)

    @property
    def priced_kwh(self) -> Decimal:
        """The part of it whose cost is known. [kWh]"""
        return total(line.energy_kwh for line in self.lines if line.cost_cny is not None)

    @property
    def known_cost_cny(self) -> Decimal | None:
        """What the priced part cost; None when nothing has a price. [CNY]"""
        costs = [line.cost_cny for line in self.lines if line.cost_cny is not None]
        return total(costs) if costs else None

    @property
    def cost_cny(self) -> Decimal | None:
        """What the known energy cost; None when any of it has no price. [CNY]"""
        if any(line.cost_cny is None and line.slots > line.unknown for line in self.lines):
            return None
        return self.known_cost_cny

    @property
    def interval_completeness(self) -> float | None:
        """Slots whose energy is known over all of these intervals', 0 to 1."""
        slots = sum(line.slots for line in self.lines)
        return None if not slots else 1 - sum(line.unknown for line in self.lines) / slots

    def by_band(self) -> dict[Band | None, Decimal]:
        """Return the energy of each band that occurs, None for what no tariff covers. [kWh]"""
        found: dict[Band | None, Decimal] = defaultdict(Decimal)
        with exact():
            for line in self.lines:
                found[None if line.rate is None else line.rate.band] += line.energy_kwh
        return dict(found)

    def shares(self) -> dict[Band, float] | None:
        """Return the share of each band in the energy that has one; None without any."""
        bands = {band: energy for band, energy in self.by_band().items() if band is not None}
        whole = total(bands.values())
        return {band: float(energy / whole) for band, energy in bands.items()} if whole else None

    @property
    def average_ratio(self) -> float | None:
        """The mean ratio by energy: above 1 the timing costs, below 1 it saves; None without banded energy."""
        banded = [(line.energy_kwh, line.rate.ratio) for line in self.lines if line.rate is not None]
        with exact():
            weighted = total(energy * ratio for energy, ratio in banded)
        whole = total(energy for energy, _ in banded)
        return float(weighted / whole) if whole else None


def energy_cost(
    summed: pl.DataFrame,
    grid: RateGrid,
    price_of: Callable[[date], EnergyPrice | None],
    *,
    trusted_only: bool = True,
) -> EnergyCost:
    """Return what energy cost.

    Args:
        summed: As ``grid.split`` returns it, of one key (columns of keys are not looked at).
        grid: The rates that it was split by.
        price_of: The price of the civil month that begins on a day, None where nobody has entered it.
        trusted_only: Whether ratios from memory leave the cost unknown until a person enables them.
    """
    lines = []
    for period, code, energy_kwh, slots, unknown in summed.select(
        "period", "rate", "energy_kwh", "slots", "unknown"
    ).iter_rows():
        rate = None if code is None else grid.rates[code]
        price = price_of(period.replace(day=1))
        energy = Decimal(0) if energy_kwh is None else decimal_of(energy_kwh)
        each = None
        if price is not None and rate is not None and (rate.trusted or not trusted_only):
            each = price.of(rate.ratio)
        with exact():
            cost = None if each is None or energy_kwh is None else energy * each
        lines.append(CostLine(period, rate, energy, slots, unknown, price, each, cost))
    return EnergyCost(tuple(lines))


def cost_range(
    days: Iterable[tuple[pl.DataFrame, RateGrid]],
    price_of: Callable[[date], EnergyPrice | None],
    *,
    trusted_only: bool = True,
) -> tuple[Decimal, Decimal] | None:
    """Return the least and the greatest cost that special days may still make of energy. [CNY]

    Every day may turn out to be of any of the kinds that are not known of it, each for itself.

    Args:
        days: The energy by day, of one key, as ``grid.split`` returns it for each of ``possible_grids``.
        price_of: As for ``energy_cost``.
        trusted_only: As for ``energy_cost``.

    Returns:
        Both are the same when everything is known; None where a price is missing.
    """
    found: dict[date, list[Decimal]] = defaultdict(list)
    for summed, grid in days:
        cost = energy_cost(summed, grid, price_of, trusted_only=trusted_only)
        if cost.cost_cny is None:
            return None
        by_day: dict[date, list[Decimal]] = defaultdict(list)
        for line in cost.lines:
            by_day[line.period].append(line.cost_cny or Decimal(0))
        for day, parts in by_day.items():
            found[day].append(total(parts))
    return total(min(costs) for costs in found.values()), total(max(costs) for costs in found.values())
