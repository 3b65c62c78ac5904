"""The factor library: what a factor says about itself, which one applies, and which kinds are never mixed.

``model`` one row and its revisions, ``places`` provinces and grid regions, ``selection`` the rule of choice,
``library`` all rows that there are and what of them was known on a day.
"""

from services.carbon.domain.factors.library import FactorLibrary
from services.carbon.domain.factors.model import EmissionFactor, Family, Use, WrongFamily, family_of, series_of_id
from services.carbon.domain.factors.places import Place, grid_region
from services.carbon.domain.factors.selection import Absence, Choice, Level, Why, choose

__all__ = [
    "Absence",
    "Choice",
    "EmissionFactor",
    "FactorLibrary",
    "Family",
    "Level",
    "Place",
    "Use",
    "Why",
    "WrongFamily",
    "choose",
    "family_of",
    "grid_region",
    "series_of_id",
]
