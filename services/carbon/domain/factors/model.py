"""One row of the factor library: what it describes, since when it is known, who says so, what it may be used for.

Rows are never changed. A correction is a new revision of the same id with a later ``known_from``, a withdrawal is
a revision too, so what was known on any day can be asked again.

Families that must not be mixed, although all of them may stand in kgCO2/kWh:

    average    of a grid, for inventories
    residual   the grid without market-traded non-fossil electricity, for the market-based method
    margin     operating and build margin, for offset projects only: 0.7921 of East China is the usual wrong
               value in inventories
    footprint  life cycle, for products and for scope 3 category 3
    trading    of the emissions trading scheme's reports
"""

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from libs.common.errors import InvalidInput

TRUSTED = ("verified", "derived", "definition", "source")
"""A confidence that begins so may be used without a person's decision, except:"""
DOUBTED = ("derived-from-memory", "source-doubtful")


class Family(StrEnum):
    """What kind of factor a row is."""

    AVERAGE = "average"
    RESIDUAL = "residual"
    FOSSIL = "fossil"
    TRADING = "trading"
    MARGIN = "margin"
    FOOTPRINT = "footprint"
    SUPPLIER = "supplier"
    """Of one supplier or contract; counts only with evidence."""
    INSTRUMENT = "instrument"
    """Electricity that a certificate, or one's own plant, stands behind."""
    FUEL = "fuel"
    """Heat value, carbon content, oxidation, density, CH4 and N2O of a fuel."""
    HEAT = "heat"
    WARMING = "warming"
    """Global warming potentials."""
    ACTIVITY = "activity"
    """Per unit of something else: water, paper, travel, waste treated."""
    AVOIDED = "avoided"
    """What somebody else did not emit; for its own statement only."""
    REFERENCE = "reference"
    """Kept to reproduce or compare printed figures, for nothing else."""


class Use(StrEnum):
    """What a factor is wanted for."""

    LOCATION_BASED = "location_based"
    MARKET_RESIDUAL = "market_residual"
    MARKET_INSTRUMENT = "market_instrument"
    COMBUSTION = "combustion"
    HEAT = "heat"
    WARMING = "warming"
    VALUE_CHAIN = "value_chain"
    PRODUCT = "product"
    PROJECT = "project"
    TRADING_REPORT = "trading_report"
    AVOIDED = "avoided"


FAMILIES: dict[Use, frozenset[Family]] = {
    Use.LOCATION_BASED: frozenset({Family.AVERAGE}),
    # Without a residual factor of the year the national average stands in, and the figure says so.
    Use.MARKET_RESIDUAL: frozenset({Family.RESIDUAL, Family.AVERAGE}),
    Use.MARKET_INSTRUMENT: frozenset({Family.INSTRUMENT, Family.SUPPLIER}),
    Use.COMBUSTION: frozenset({Family.FUEL}),
    Use.HEAT: frozenset({Family.HEAT, Family.SUPPLIER}),
    Use.WARMING: frozenset({Family.WARMING}),
    Use.VALUE_CHAIN: frozenset({Family.ACTIVITY, Family.FOOTPRINT, Family.SUPPLIER}),
    Use.PRODUCT: frozenset({Family.FOOTPRINT, Family.ACTIVITY, Family.SUPPLIER}),
    Use.PROJECT: frozenset({Family.MARGIN}),
    Use.TRADING_REPORT: frozenset({Family.TRADING}),
    Use.AVOIDED: frozenset({Family.AVOIDED, Family.AVERAGE, Family.FOOTPRINT, Family.ACTIVITY}),
}
"""Which families each use may take its factors from. A person may enable a doubted row, never another family."""

_FAMILY_OF_ID: tuple[tuple[str, Family], ...] = (
    (r"(OM|BM|CM)-", Family.MARGIN),
    (r"CFP-", Family.FOOTPRINT),
    (r"GRID-.*\bETS\b", Family.TRADING),
    (r"GRID-.*\bRESIDUAL\b", Family.RESIDUAL),
    (r"GRID-.*\bFOSSIL\b", Family.FOSSIL),
    (r"GRID-", Family.AVERAGE),
    (r"ELEC-(MB|ONSITE)-", Family.INSTRUMENT),
    (r"ELEC-SOURCE-|SCE-", Family.REFERENCE),
    (r"(WASTE-RECYCLE|TRAVEL-GREEN)-", Family.AVOIDED),
    (r"FUEL-", Family.FUEL),
    (r"HEAT-", Family.HEAT),
    (r"GWP-", Family.WARMING),
)
_YEAR_AT_END = re.compile(r"-(19|20)\d\d$")
_GRID_FAMILIES = (Family.AVERAGE, Family.RESIDUAL, Family.FOSSIL, Family.TRADING, Family.MARGIN)


class WrongFamily(InvalidInput):
    """A factor was asked for a use that its family is not made for."""

    code = "wrong_factor_family"
    title_zh = "排放因子用途不符"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmissionFactor:
    """One revision of one row of the factor library."""

    factor_id: str
    series: str
    """What it is a value of; rows of one series differ by place and year only."""
    family: Family
    category: str
    region: str
    """``CN``, ``CN-44`` (province), ``CN-South`` (grid region), ``GLOBAL``."""
    data_year: int
    """The year that the factor describes."""
    value: Decimal
    """[unit]"""
    unit: str
    """For example kgCO2/kWh."""
    gas: str
    source: str
    source_year: int | None
    known_from: date
    """The civil day from which it counts as known: its publication, or for an own factor its entry. Where only a year
    of publication is known this is that year's last day, so that nothing is used before it was published."""
    confidence: str
    name_en: str
    name_zh: str
    revision: int = 1
    withdrawn: bool = False
    """A revision that takes the row back; from its ``known_from`` on there is no such factor."""
    evidence: str | None = None
    """Document or record that stands behind an own factor; a supplier's factor without it never counts."""
    supplier: str | None = None
    """Whose electricity or heat it describes; only of family ``supplier``."""
    entered_by: str | None = None
    """The person who entered an own factor; None for those that ship with Wattring."""
    entered_at: datetime | None = None

    @property
    def trusted(self) -> bool:
        """Whether it may be used without a person's decision."""
        return self.confidence.startswith(TRUSTED) and not self.confidence.startswith(DOUBTED)

    @property
    def annual(self) -> bool:
        """Whether a new value is published for each year, so that an earlier one only stands in.

        Heat values, default parameters and warming potentials hold until they are replaced.
        """
        return self.family in _GRID_FAMILIES or self.family in (Family.FOOTPRINT, Family.SUPPLIER)

    @property
    def timeless(self) -> bool:
        """Whether it is a definition, which has no data year: a certificate of any year stands for zero."""
        return self.confidence.startswith("definition")

    def may_serve(self, use: Use) -> bool:
        """Return whether its family is made for a use."""
        return self.family in FAMILIES[use]

    def require(self, use: Use) -> None:
        """Refuse a use that the family is not made for.

        Raises:
            WrongFamily: It is not.
        """
        if not self.may_serve(use):
            made_for = ", ".join(sorted(family.value for family in FAMILIES[use]))
            raise WrongFamily(
                f"factor {self.factor_id} is of family {self.family}: {use} takes {made_for} only",
                message_zh=f"排放因子 {self.factor_id} 属于 {self.family} 类,{use} 只能使用 {made_for}",
                factor_id=self.factor_id,
                family=self.family.value,
                use=use.value,
            )


def family_of(factor_id: str) -> Family:
    """Return the family that an id of the shipped library names."""
    for pattern, family in _FAMILY_OF_ID:
        if re.match(pattern, factor_id):
            return family
    return Family.ACTIVITY


def series_of_id(factor_id: str) -> str:
    """Return what a shipped row is a value of: ``grid-average``, ``FUEL-DIESEL-NCV``, ``CFP-ELEC-CN``."""
    family = family_of(factor_id)
    if family in _GRID_FAMILIES:
        return f"grid-{family.value}"
    return _YEAR_AT_END.sub("", factor_id)
