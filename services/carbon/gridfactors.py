"""The location-based factor of a site, out of the library as it is known today."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import ReadConn
from libs.common.ids import SiteId
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.factors import Choice, EmissionFactor, FactorLibrary, Use
from services.carbon.store import inventories


@dataclass(frozen=True, slots=True)
class GridFactors:
    """Chooses out of the shipped and the own factors by where a site lies."""

    shipped: Sequence[EmissionFactor]
    directory: RegistryDirectory
    clock: Clock

    async def chooser(self, conn: ReadConn) -> Callable[[SiteId, int], Choice | None]:
        """Return what gives the factor of a site in a civil year, None if the library has none."""
        library = FactorLibrary([*self.shipped, *await inventories.fetch_factors(conn)])
        today = self.clock.now().astimezone(CIVIL_ZONE).date()

        def choose(site: SiteId, year: int) -> Choice | None:
            found = library.choose(
                "grid-average",
                use=Use.LOCATION_BASED,
                place=self.directory.place_of(site),
                year=year,
                known_on=today,
                unit="kgCO2/kWh",
            )
            return found if isinstance(found, Choice) else None

        return choose
