"""Where something is used, and which grid it draws from."""

from dataclasses import dataclass
from enum import StrEnum

REDRAWN = 2015
"""First data year of the seven regions; before it Sichuan and Chongqing belonged to Central China."""

_REGIONS: dict[str, str] = {
    **dict.fromkeys(("11", "12", "13", "14", "37"), "CN-North"),
    **dict.fromkeys(("21", "22", "23"), "CN-Northeast"),
    **dict.fromkeys(("31", "32", "33", "34", "35"), "CN-East"),
    **dict.fromkeys(("36", "41", "42", "43"), "CN-Central"),
    **dict.fromkeys(("44", "45", "46", "52", "53"), "CN-South"),
    **dict.fromkeys(("50", "51"), "CN-Southwest"),
    **dict.fromkeys(("61", "62", "63", "64", "65"), "CN-Northwest"),
}
"""Grid region of each province (GB/T 2260) in the releases from data year 2021 on. Tibet (54) has none."""
_INNER_MONGOLIA = "15"
_EAST_PREFECTURES = ("1504", "1505", "1507", "1522")
"""Chifeng, Tongliao, Hulunbuir and Hinggan draw from the northeast grid, the rest of Inner Mongolia from the north."""


class Side(StrEnum):
    """The part of Inner Mongolia."""

    WEST = "west"
    EAST = "east"


@dataclass(frozen=True, slots=True)
class Place:
    """A place as far as grids care."""

    province: str | None
    """First two digits of the region code (GB/T 2260); None when only the country is known."""
    side: Side | None = None
    """For Inner Mongolia, where it is known."""

    @classmethod
    def of_code(cls, code: str | None) -> "Place":
        """Return the place of a region code; a code of two digits leaves the side of Inner Mongolia open."""
        if not code:
            return cls(None)
        province = code[:2]
        if province != _INNER_MONGOLIA or len(code) < 4 or code[2:4] == "00":
            return cls(province)
        return cls(province, Side.EAST if code.startswith(_EAST_PREFECTURES) else Side.WEST)


def grid_region(place: Place, data_year: int) -> str | None:
    """Return the grid region that factors of a data year use for a place; None where there is none or it is not known.

    Source:
        Electricity CO2 emission factors of 2021, 2022 and 2023 (MEE/NBS), their table of regions; for data years
        before 2015 the six regions of the NDRC releases.
    """
    if place.province == _INNER_MONGOLIA:
        return {Side.WEST: "CN-North", Side.EAST: "CN-Northeast", None: None}[place.side]
    region = _REGIONS.get(place.province or "")
    return "CN-Central" if region == "CN-Southwest" and data_year < REDRAWN else region
