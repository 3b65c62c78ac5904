"""Rows, tariffs and intervals as the tests of money need them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.periods import ALL_DAYS, Band, Tariff, TariffRow, build_tariffs

YEAR = frozenset(range(1, 13))


def row(
    start: int,
    end: int,
    band: Band = Band.FLAT,
    ratio: str = "1",
    *,
    tariff_id: str = "T-1",
    valid_from: date = date(2026, 1, 1),
    valid_to: date | None = None,
    months: frozenset[int] = YEAR,
    day_type: str = ALL_DAYS,
    customer_class: str = "industrial",
    confidence: str = "verified-1src",
) -> TariffRow:
    return TariffRow(
        line=None,
        tariff_id=tariff_id,
        region="CN-44",
        customer_class=customer_class,
        valid_from=valid_from,
        valid_to=valid_to,
        months=months,
        day_type=day_type,
        start_min=start,
        end_min=end,
        band=band,
        ratio=Decimal(ratio),
        ratio_base="total_ex_funds",
        source="a notice",
        confidence=confidence,
    )


def tariff(*rows: TariffRow, customer_class: str = "industrial") -> Tariff:
    return build_tariffs(rows, source="test")["CN-44", customer_class]


def figures(*values: object) -> tuple[object, ...]:
    """Return values to compare with others of any type: Decimal(1) is 1."""
    return values


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), CIVIL_ZONE).astimezone(UTC)


def intervals(first: date, energies: Sequence[float | None], step_min: int = 15) -> pl.DataFrame:
    start = midnight(first)
    return pl.DataFrame(
        {
            "start": [start + timedelta(minutes=step_min * index) for index in range(len(energies))],
            "energy_kwh": energies,
        },
        schema={"start": pl.Datetime("us", "UTC"), "energy_kwh": pl.Float64},
    )


def price(base: str, fixed: str, month: date = date(2026, 3, 1), version: int = 1, known: int = 1) -> EnergyPrice:
    return EnergyPrice(
        key=PriceKey("CN-44", "industrial", "1-10kV", month),
        version=version,
        base_cny_per_kwh=Decimal(base),
        fixed_cny_per_kwh=Decimal(fixed),
        source="price sheet",
        recorded_at=datetime(2026, 4, known, tzinfo=UTC),
    )
