"""A site with two feeds and an account, its meters' intervals, and the API of money over them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import (
    Circuit,
    CircuitRole,
    Entity,
    Organisation,
    OrganisationKind,
    Region,
    Site,
    SiteKind,
)
from libs.common.ids import CircuitId, OrganisationId, RegionId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.carbon.api.money import build_money_router
from services.carbon.boundary import Boundaries, Limits
from services.carbon.bus import audit, result
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT, BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.library import load_library
from services.carbon.queries import Queries
from services.carbon.sites import Sites
from services.carbon.store import intervals as store
from services.carbon.tariff_file import shipped_rows
from services.carbon.tree import Tree
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs
from services.carbon.usecases.figures import Figures
from services.carbon.usecases.targets import Targets
from services.carbon.usecases.tariffs import Tariffs
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import open_city

SITE, OTHER = SiteId("site-1"), SiteId("site-2")
ONE, TWO, SUB, NINE = CircuitId("feed-1"), CircuitId("feed-2"), CircuitId("cooling-1"), CircuitId("feed-9")
ACCOUNT, LISTED = "0320001", "0320002"
"""Entered by a person, and named only by the registry."""
NOW = datetime(2026, 4, 2, 4, tzinfo=UTC)
SHIPPED = shipped_rows()
FACTORS = load_library().rows
STATE: dict[str, Any] = {
    "valid_from": "2025-01-01",
    "site": SITE,
    "region": "CN-44",
    "customer_class": "industrial_commercial",
    "voltage": "1-10kV",
}
PRICE: dict[str, Any] = {
    "region": "CN-44",
    "customer_class": "industrial_commercial",
    "voltage": "1-10kV",
    "month": "2026-03",
    "base_cny_per_kwh": "0.6",
    "fixed_cny_per_kwh": "0.03",
    "source": "price sheet of March",
}


SINCE: dict[str, Any] = {"valid_from": datetime(2024, 1, 1, tzinfo=UTC), "version": 1, "changed_by": "user:test"}


def registry() -> list[Entity]:
    place = {"region": RegionId("gd"), "organisation": OrganisationId("shop")}
    return [
        Region(id=RegionId("gd"), name="Guangdong", code="440000", **SINCE),
        Organisation(id="shop", name="Shop", kind=OrganisationKind.OPERATOR, **SINCE),
        Site(id=SITE, name="One", code="1", kind=SiteKind.IDC, **place, **SINCE),
        Site(id=OTHER, name="Two", code="2", kind=SiteKind.IDC, account_number=LISTED, **place, **SINCE),
        Circuit(id=ONE, name="One", level=1, role=CircuitRole.SITE_FEED, site=SITE, **SINCE),
        Circuit(id=TWO, name="Two", level=1, role=CircuitRole.SITE_FEED, site=SITE, **SINCE),
        Circuit(id=SUB, name="Cooling", level=3, role=CircuitRole.COOLING, site=SITE, parent=TWO, **SINCE),
        Circuit(id=NINE, name="Nine", level=1, role=CircuitRole.SITE_FEED, site=OTHER, **SINCE),
    ]


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), CIVIL_ZONE).astimezone(UTC)


@dataclass
class World:
    """What the tests need."""

    door: Door
    clock: FakeClock
    tariffs: Tariffs
    targets: Targets
    queries: Queries

    async def use(
        self,
        circuit: CircuitId,
        first: date,
        last: date,
        kwh: Callable[[datetime], float | None],
        grade: Grade = Grade.MEASURED,
    ) -> None:
        """Book every quarter hour of some civil days; ``kwh`` is asked with its civil start."""
        start, end = midnight(first), midnight(last)
        count = int((end - start) / timedelta(minutes=15))
        times = [start + timedelta(minutes=15 * index) for index in range(count)]
        energies = [kwh(at.astimezone(CIVIL_ZONE)) for at in times]
        async with self.door.db.write() as conn:
            await store.book(
                conn,
                [
                    BookedInterval(
                        circuit_id=circuit,
                        site_id=SITE,
                        start=at,
                        step_s=900,
                        version=1,
                        energy_kwh=energy,
                        grade=Grade.MISSING if energy is None else grade,
                        lower_bound=False,
                        uncertain=False,
                        computed_at=NOW,
                    )
                    for at, energy in zip(times, energies, strict=True)
                ],
            )


@asynccontextmanager
async def open_world(url: str, tmp_path: Path) -> AsyncIterator[World]:
    clock = FakeClock(NOW)
    async with open_city(url, [[one] for one in registry()]) as city:
        tree = Tree(city.view)
        sites = Sites(tree, city.view, clock)
        limits = Limits(days=400, intervals=1_000_000, periods=10_000)
        boundaries = Boundaries(db=city.db, tree=tree, clock=clock, limits=limits)
        tariffs = Tariffs(db=city.db, clock=clock, audit=audit, shipped=SHIPPED)
        bills = Bills(db=city.db, sites=sites, clock=clock, audit=audit)
        costs = Costs(db=city.db, tariffs=tariffs, bills=bills, sites=sites, boundaries=boundaries, clock=clock)
        directory = RegistryDirectory(city.view, ProfileCatalogue.load(), clock, point=ENERGY_POINT)
        queries = Queries(
            db=city.db, directory=directory, boundaries=boundaries, clock=clock, factors=FACTORS, point=ENERGY_POINT
        )
        figures = Figures(queries, costs)
        targets = Targets(db=city.db, figures=figures, sites=sites, clock=clock, audit=audit, publish=result)
        async with open_door(city.db, tmp_path, clock, [build_money_router(tariffs, bills, costs, targets)]) as door:
            yield World(door, clock, tariffs, targets, queries)
