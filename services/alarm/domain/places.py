"""Where an alarm is, in people's words and on the map."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A site as far as telling and counting want to know it."""

    site_id: str
    name: str
    name_zh: str | None = None
    regions: Sequence[str] = ()
    """Its region and those that this lies in, smallest first."""
    station_class: str | None = None
    lon: float | None = None
    lat: float | None = None
    """[°], WGS 84 as the registry has it."""

    def called(self, language: str) -> str:
        """Return its name in a language."""
        return (self.name_zh if language == "zh" else None) or self.name
