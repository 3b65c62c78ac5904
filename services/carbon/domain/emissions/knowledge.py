"""What a calculation may know: the library as of a day, what a person has enabled, which warming potentials count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from services.carbon.domain.factors import Absence, Choice, EmissionFactor, FactorLibrary, Place, Use
from services.carbon.domain.figures import Figure, Input, Mark


class GwpSet(StrEnum):
    """Assessment report whose 100-year warming potentials count; one statement uses one."""

    AR5 = "AR5"
    AR6 = "AR6"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The library as a calculation sees it."""

    library: FactorLibrary
    known_on: date
    """The day of the calculation; what was published later is not known."""
    enabled: frozenset[str] = frozenset()
    """Ids of rows that a person has enabled although they are not trusted."""
    gwp_set: GwpSet = GwpSet.AR6
    _chosen: dict[tuple[str, Use, Place, int, str | None, str | None], Choice | Absence] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Answers so far: the sites of a province ask the same thousands of times, and nothing that decides can change."""

    def choose(
        self, series: str, *, use: Use, place: Place, year: int, unit: str | None = None, supplier: str | None = None
    ) -> Choice | Absence:
        """Return the factor of a place and year; see ``factors.selection``."""
        key = (series, use, place, year, unit, supplier)
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = self.library.choose(
                series,
                use=use,
                place=place,
                year=year,
                known_on=self.known_on,
                unit=unit,
                enabled=self.enabled,
                supplier=supplier,
            )
        return found

    def warming(self, substance: str) -> Choice | Absence:
        """Return the warming potential of a pure substance: ``CO2``, ``CH4-FOSSIL``, ``R32``. [kgCO2e/kg]

        The edition is chosen by the statement, so the year of the activity does not matter.
        """
        return self.choose(
            f"GWP-{self.gwp_set}-{substance}",
            use=Use.WARMING,
            place=Place(None),
            year=self.known_on.year,
            unit="kgCO2e/kg",
        )


@dataclass(frozen=True, slots=True)
class Emission:
    """What one activity emitted."""

    figure: Figure
    """In totals. [kgCO2e]"""
    by_gas: Mapping[str, float | None]
    """The same by gas, in carbon dioxide equivalents; its values sum to the figure. [kgCO2e]"""
    used: tuple[EmissionFactor, ...] = ()
    absent: tuple[Absence, ...] = ()
    memo_kg_co2e: float | None = 0.0
    """Of gases of the Montreal Protocol that are in no total; None where it is unknown. [kgCO2e]"""
    biogenic_kg_co2: float | None = 0.0
    """Carbon dioxide of biomass, in no total; None where it is unknown. [kgCO2]"""
    facts: Mapping[str, float | None] = field(default_factory=dict)
    """Further figures of the method, such as the covered energy of the market-based method."""


class Chosen:
    """Collects the factors of one figure, and what has to be said of them."""

    def __init__(self) -> None:
        self.used: list[EmissionFactor] = []
        self.absent: list[Absence] = []
        self.marks: set[Mark] = set()
        self.inputs: list[Input] = []

    def take(self, name: str, found: Choice | Absence) -> float | None:
        """Note a factor; return its value, None where there is none."""
        if isinstance(found, Absence):
            self.absent.append(found)
            self.marks.add(Mark.NO_FACTOR)
            self.inputs.append(Input(name, None, "", f"no factor {found.series}: {found.why}"))
            return None
        factor = found.factor
        self.used.append(factor)
        self.inputs.append(Input(name, float(factor.value), factor.unit, origin_of(factor)))
        self.marks |= marks_of(found)
        return float(factor.value)

    def given(self, name: str, value: float | None, unit: str, origin: str) -> None:
        """Note an input that is no factor."""
        self.inputs.append(Input(name, value, unit, origin))
        if value is None:
            self.marks.add(Mark.UNKNOWN_INPUT)

    def figure(self, value: float | None, unit: str, formula: str, source: str, more: Iterable[Mark] = ()) -> Figure:
        """Return the figure with everything noted."""
        return Figure(value, unit, formula, source, tuple(self.inputs), frozenset({*self.marks, *more}))

    def emission(
        self,
        by_gas: Mapping[str, float | None],
        total: float | None,
        formula: str,
        source: str,
        more: Iterable[Mark] = (),
    ) -> Emission:
        """Return the emission of everything noted."""
        return Emission(
            self.figure(total, "kgCO2e", formula, source, more), dict(by_gas), tuple(self.used), tuple(self.absent)
        )


def origin_of(factor: EmissionFactor) -> str:
    """Return how a trace names a factor."""
    return f"factor {factor.factor_id} r{factor.revision} ({factor.data_year}, known from {factor.known_from})"


def marks_of(choice: Choice) -> set[Mark]:
    """Return what a choice says of the figure that is made with it."""
    marks = set()
    if choice.provisional:
        marks.add(Mark.PROVISIONAL_FACTOR)
    if choice.fallback:
        marks.add(Mark.WIDER_AREA)
    if choice.enabled:
        marks.add(Mark.ENABLED_BY_PERSON)
    return marks


def product(*values: float | None) -> float | None:
    """Return a product, None where one of its parts is unknown."""
    result = 1.0
    for value in values:
        if value is None:
            return None
        result *= value
    return result
