"""Which emission factor applies, and what it says about itself.

Source:
    GHG Protocol Scope 2 Guidance (2015), chapter 6: the location-based method takes the average factor of
    the grid that the site draws from. Order of choice: province, then grid region, then the country; at each
    level the year of the activity, else the newest earlier year, marked provisional. A later data
    year is never taken, and average factors are never mixed with margin or life-cycle ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

GRID_REGIONS: dict[str, str] = {
    **dict.fromkeys(("11", "12", "13", "14", "37"), "CN-North"),
    **dict.fromkeys(("21", "22", "23"), "CN-Northeast"),
    **dict.fromkeys(("31", "32", "33", "34", "35"), "CN-East"),
    **dict.fromkeys(("36", "41", "42", "43"), "CN-Central"),
    **dict.fromkeys(("44", "45", "46", "52", "53"), "CN-South"),
    **dict.fromkeys(("50", "51"), "CN-Southwest"),
    **dict.fromkeys(("61", "62", "63", "64", "65"), "CN-Northwest"),
}
"""Grid region of each province (GB/T 2260 code) in the releases from data year 2021 on. Inner Mongolia lies in
two of them and Tibet in none, so both take the national factor."""

TRUSTED = ("verified", "derived", "definition", "source")
DOUBTED = ("derived-from-memory", "source-doubtful")


@dataclass(frozen=True, slots=True)
class EmissionFactor:
    """One row of the factor library."""

    factor_id: str
    category: str
    region: str
    """``CN``, ``CN-44`` (province), ``CN-South`` (grid region)."""
    data_year: int
    """The year that the factor describes."""
    value: Decimal
    """[unit]"""
    unit: str
    """For example kgCO2/kWh."""
    source: str
    source_year: int | None
    """The year of publication; not known before."""
    confidence: str
    name_en: str
    name_zh: str

    @property
    def trusted(self) -> bool:
        """Whether it may be used without a person's decision."""
        return self.confidence.startswith(TRUSTED) and not self.confidence.startswith(DOUBTED)


@dataclass(frozen=True, slots=True)
class Choice:
    """A factor for one place and year, and how exact the hit was."""

    factor: EmissionFactor
    provisional: bool
    """The factor's year is earlier than the activity's: official factors appear about two years late."""
    fallback: bool
    """The factor is of a wider region than asked for."""


def choose_grid_factor(
    factors: Iterable[EmissionFactor], *, province: str | None, year: int, known_in: int
) -> Choice | None:
    """Return the location-based grid factor of a place and year.

    Args:
        factors: The library.
        province: First two digits of the region code (GB/T 2260); None falls back to the country.
        year: Year of the activity.
        known_in: Year of the calculation; factors published later are not known yet.

    Returns:
        The choice, or None when the library has no usable factor: the emission is then unknown.
    """
    averages = [
        factor
        for factor in factors
        if factor.category == "electricity"
        and factor.trusted
        and factor.unit == "kgCO2/kWh"
        and factor.data_year <= year
        and (factor.source_year is None or factor.source_year <= known_in)
        and _is_average(factor)
    ]
    levels = [] if province is None else [f"CN-{province}", GRID_REGIONS.get(province)]
    for depth, region in enumerate([*levels, "CN"]):
        candidates = [factor for factor in averages if factor.region == region]
        if candidates:
            newest = max(candidates, key=lambda factor: (factor.data_year, factor.source_year or 0))
            return Choice(newest, provisional=newest.data_year < year, fallback=depth > 0)
    return None


def _is_average(factor: EmissionFactor) -> bool:
    """Tell average grid factors from residual, fossil, margin, footprint and trading-scheme ones."""
    parts = factor.factor_id.split("-")
    return parts[0] == "GRID" and not {"RESIDUAL", "FOSSIL", "ETS"} & set(parts)
