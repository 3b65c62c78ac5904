"""Anything with a factor per unit: water, paper, waste treated, travel, purchased goods, transmission losses (scope 3).

E = AD · EF. Life-cycle factors of electricity may serve here (scope 3 category 3) and never in scope 2. What
somebody else did not emit (recycling, green travel) has factors of another family and goes into its own statement.

Source:
    GHG Protocol Corporate Value Chain Standard (2011), chapter 7.
"""

from collections.abc import Sequence

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.knowledge import Chosen, Emission, Knowledge, product
from services.carbon.domain.emissions.units import convert, not_negative
from services.carbon.domain.factors import Choice, EmissionFactor, Place, Use

SOURCE = "GHG Protocol Corporate Value Chain Standard (2011)"


def activity(
    knowledge: Knowledge,
    *,
    series: str,
    amount: float | None,
    unit: str,
    year: int,
    place: Place,
    origin: str,
    use: Use = Use.VALUE_CHAIN,
    supplier: str | None = None,
) -> Emission:
    """Return what an activity emitted, or with ``Use.AVOIDED`` what it kept others from emitting.

    Args:
        knowledge: Factors as of a day.
        series: Of the factor, for example ``WATER-SOURCE-003`` or ``CFP-ELEC-CN``.
        amount: None where it is unknown. [unit]
        unit: One that converts to the factor's.
        year: Civil year.
        place: Where.
        origin: Bill, meter, count.
        use: ``VALUE_CHAIN``, ``PRODUCT`` or ``AVOIDED``.
        supplier: Whose product it was, for a supplier's own factor.

    Raises:
        InvalidInput: A negative amount, or a unit that does not fit the factor's.
        WrongFamily: The series is of a family that the use does not take.
    """
    not_negative(series, amount)
    for row in knowledge.library.series(series):
        row.require(use)
    chosen = Chosen()
    chosen.given("AD", amount, unit, origin)
    found = knowledge.choose(series, use=use, place=place, year=year, supplier=supplier)
    factor = chosen.take("EF", found)
    in_unit = amount
    gas = "CO2e"
    if isinstance(found, Choice):
        in_unit = None if amount is None else convert(amount, unit, per_of(found.factor))
        gas = found.factor.gas
    total = product(in_unit, factor)
    return chosen.emission({gas: total}, total, "E = AD * EF", SOURCE)


def per_of(factor: EmissionFactor, masses: Sequence[str] = ("kgCO2", "kgCO2e")) -> str:
    """Return what a factor is per.

    Raises:
        InvalidInput: Its unit is not one of the masses per something.
    """
    mass, _, per = factor.unit.partition("/")
    if mass not in masses or not per:
        raise InvalidInput(
            f"factor {factor.factor_id}: expected a unit in {masses[-1]} per something, found {factor.unit}",
            message_zh=f"排放因子 {factor.factor_id}:单位应为 {masses[-1]}/…,实际为 {factor.unit}",
        )
    return per
