"""Which emission factor applies.

Levels, nearest first: the supplier (market-based, with evidence), the province, the grid region, the country, the
world. At the first level that has a usable row: that of the activity's year, else the newest earlier one known on
the day of the calculation. A later data year is never taken. Rows whose confidence is from memory or doubtful are
not usable unless a person has enabled them, and families are never mixed.

Source:
    GHG Protocol Scope 2 Guidance (2015), chapter 6; the platform's energy methods, section 3.4.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum, StrEnum

from services.carbon.domain.factors.model import EmissionFactor, Family, Use
from services.carbon.domain.factors.places import Place, grid_region

NONE_ENABLED: frozenset[str] = frozenset()


class Level(IntEnum):
    """How near the factor's area is; the smallest is the nearest."""

    SUPPLIER = 1
    PROVINCE = 2
    REGION = 3
    COUNTRY = 4
    WORLD = 5


class Why(StrEnum):
    """Why no factor applies."""

    NONE = "none"
    """The library has no such factor for the place."""
    NOT_TRUSTED = "not_trusted"
    """There are some, and a person would have to enable one."""
    LATER_YEARS_ONLY = "later_years_only"
    """There are some of later years, which is not the activity's world."""
    NOT_KNOWN_YET = "not_known_yet"
    """There are some, published after the day of the calculation."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A factor for one place and year, and how exact the hit was."""

    factor: EmissionFactor
    provisional: bool
    """The factor's year is earlier than the activity's: official factors appear about two years late."""
    fallback: bool
    """The factor is of a wider area than the place has factors for elsewhere: not its province's."""
    level: Level = Level.COUNTRY
    years_behind: int = 0
    """Years between activity and factor."""
    enabled: bool = False
    """The row is not trusted and a person enabled it."""


@dataclass(frozen=True, slots=True)
class Absence:
    """No factor applies: what would be computed with it is unknown."""

    series: str
    why: Why
    candidates: Sequence[str] = ()
    """Ids that would have been taken if the reason were not."""


def choose(
    rows: Iterable[EmissionFactor],
    *,
    series: str,
    use: Use,
    place: Place,
    year: int,
    known_on: date,
    unit: str | None = None,
    enabled: frozenset[str] = NONE_ENABLED,
    supplier: str | None = None,
) -> Choice | Absence:
    """Return the factor of a place and year as known on a day.

    Args:
        rows: The library, all revisions.
        series: What is wanted, for example ``grid-average``.
        use: What for; rows of other families are not looked at.
        place: Where the activity was.
        year: Civil year of the activity.
        known_on: The day of the calculation.
        unit: The unit that the caller can use; None takes any.
        enabled: Ids of rows that a person has enabled although they are not trusted.
        supplier: Who supplied; None leaves the level of suppliers out.
    """
    known, unknown = _known(rows, series, known_on)
    fitting = [row for row in known if _fits(row, use, unit, supplier)]
    usable = [row for row in fitting if row.trusted or row.factor_id in enabled]
    found = _nearest(usable, place, year)
    if found is not None:
        factor, level = found
        return Choice(
            factor,
            provisional=factor.annual and factor.data_year < year,
            fallback=level in (Level.REGION, Level.COUNTRY) and _has_grids(factor) and place.province is not None,
            level=level,
            years_behind=max(0, year - factor.data_year),
            enabled=not factor.trusted,
        )
    if (doubted := _nearest(fitting, place, year)) is not None:
        return Absence(series, Why.NOT_TRUSTED, (doubted[0].factor_id,))
    if later := _within(fitting, place):
        return Absence(series, Why.LATER_YEARS_ONLY, tuple(sorted(row.factor_id for row in later)))
    coming = _within([row for row in unknown if _fits(row, use, unit, supplier)], place)
    if coming:
        return Absence(series, Why.NOT_KNOWN_YET, tuple(sorted({row.factor_id for row in coming})))
    return Absence(series, Why.NONE)


def holding(rows: Iterable[EmissionFactor], known_on: date) -> list[EmissionFactor]:
    """Return the revision of each row that held on a day, without those taken back, by id."""
    newest: dict[str, EmissionFactor] = {}
    for row in rows:
        before = newest.get(row.factor_id)
        if row.known_from <= known_on and (before is None or row.revision > before.revision):
            newest[row.factor_id] = row
    return [newest[factor_id] for factor_id in sorted(newest) if not newest[factor_id].withdrawn]


def _known(
    rows: Iterable[EmissionFactor], series: str, known_on: date
) -> tuple[list[EmissionFactor], list[EmissionFactor]]:
    """Return the rows of a series that held on a day, and those that were published later."""
    mine = [row for row in rows if row.series == series]
    held = holding(mine, known_on)
    names = {row.factor_id for row in held}
    return held, [row for row in mine if row.known_from > known_on and row.factor_id not in names]


def _fits(row: EmissionFactor, use: Use, unit: str | None, supplier: str | None) -> bool:
    if not row.may_serve(use) or (unit is not None and row.unit != unit):
        return False
    if row.family is Family.SUPPLIER:
        return supplier is not None and row.supplier == supplier and bool(row.evidence)
    return True


def _nearest(rows: Sequence[EmissionFactor], place: Place, year: int) -> tuple[EmissionFactor, Level] | None:
    """Return the row of the nearest level that has one of the year or an earlier one."""
    best: tuple[EmissionFactor, Level] | None = None
    for row in rows:
        level = _level(row, place)
        if level is None or (row.data_year > year and not row.timeless):
            continue
        if best is None or (level, *_later_first(row)) < (best[1], *_later_first(best[0])):
            best = (row, level)
    return best


def _later_first(row: EmissionFactor) -> tuple[int, int, str]:
    """Order rows of one level: the newest data year, of these what became known last, and then by id."""
    return -row.data_year, -row.known_from.toordinal(), row.factor_id


def _within(rows: Sequence[EmissionFactor], place: Place) -> list[EmissionFactor]:
    return [row for row in rows if _level(row, place) is not None]


def _level(row: EmissionFactor, place: Place) -> Level | None:
    """Return at which level a row stands for a place, None where it does not."""
    if row.family is Family.SUPPLIER:
        return Level.SUPPLIER
    if row.region == "GLOBAL":
        return Level.WORLD
    if row.region == "CN":
        return Level.COUNTRY
    if place.province is not None and row.region == f"CN-{place.province}":
        return Level.PROVINCE
    if row.region == grid_region(place, row.data_year):
        return Level.REGION
    return None


def _has_grids(factor: EmissionFactor) -> bool:
    """Return whether the series has values below the country, so that a national one is a fall-back."""
    return factor.family in (Family.AVERAGE, Family.MARGIN)
