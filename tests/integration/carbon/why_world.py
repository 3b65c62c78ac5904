"""A small city with the routes of every figure, and of their traces."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from libs.common.contracts.registry import Binding
from libs.common.ids import CircuitId, DeviceId
from services.carbon.api import build_router
from services.carbon.api.levels import build_levels_router
from services.carbon.api.money import build_money_router
from services.carbon.api.virtual import build_virtual_router
from services.carbon.api.why import Explainers, build_why_router
from services.carbon.bus import audit, result
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT, RegisterReading
from services.carbon.domain.samples import EXPORT, Sample
from services.carbon.library import load_coal, load_library
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Queries
from services.carbon.sites import Sites
from services.carbon.store import intervals as store
from services.carbon.store import inventories as inventory_store
from services.carbon.store import levels as levels_store
from services.carbon.tariff_file import shipped_rows
from services.carbon.topology import Topology
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs
from services.carbon.usecases.figures import Figures
from services.carbon.usecases.intervals import Booking
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.supply import Supply
from services.carbon.usecases.targets import Targets
from services.carbon.usecases.tariffs import Tariffs
from services.carbon.usecases.virtual import VirtualMeters
from services.carbon.usecases.why import EnergyWhys, InventoryWhys, MoneyWhys, RatioWhys, VirtualWhys
from services.carbon.worker import OutboxPublisher
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import COMMON, QUARTER, START, City, city, open_city
from tests.integration.carbon.why_walk import Walk


class Town:
    """A city with every figure's route, and the one of traces."""

    def __init__(self, city: City, door: Door, booking: Booking) -> None:
        self.city, self.door, self.book, self.ask = city, door, city.book, door.ask
        self._booking = booking

    def walk(self, branches: int = 1, limit: int = 100) -> Walk:
        """Return an auditor."""
        return Walk(self.ask, branches, limit)

    async def take(self, *readings: RegisterReading) -> None:
        """Take registers and book what they close or change."""
        async with self.city.db.effects() as conn:
            await self._booking.take(conn, readings)

    async def read(self, circuit: str, shown: Sequence[float], *, first: int = 0) -> None:
        """Take registers of a circuit's meter, one a quarter hour from START on and a little late, and book."""
        readings = [
            RegisterReading(
                device_id=DeviceId(f"m-{circuit}"),
                point=ENERGY_POINT,
                source_time=START + (first + number) * QUARTER + timedelta(seconds=37 if number else 0),
                received_at=START + (first + number) * QUARTER + timedelta(minutes=1),
                shown=value,
                ratio=1.0,
                uncertain=False,
            )
            for number, value in enumerate(shown)
        ]
        await self.take(*readings)

    async def sampled(self, circuit: str, shown: Sequence[float], *, point: str = EXPORT) -> None:
        """Keep what another register of a circuit's meter said, once a quarter hour from START on."""
        samples = [
            Sample(DeviceId(f"m-{circuit}"), point, START + number * QUARTER, value, 1.0)
            for number, value in enumerate(shown)
        ]
        async with self.city.db.write() as conn:
            await levels_store.add_samples(conn, samples)


def bound(name: str) -> Binding:
    return Binding(id=f"b-{name}", name=name, device=DeviceId(f"m-{name}"), circuit=CircuitId(name), **COMMON)


@asynccontextmanager
async def open_town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """Yield a small city with every figure's route."""
    entities = [*city(), *(bound(name) for name in ("feed", "roof", "it"))]
    async with open_city(postgres_url, [[one] for one in entities]) as found:
        db, clock, boundaries = found.db, found.clock, found.boundaries
        shipped = load_library()
        directory = RegistryDirectory(found.view, None, clock, point=ENERGY_POINT)  # type: ignore[arg-type]
        queries = Queries(
            db=db, directory=directory, boundaries=boundaries, clock=clock, factors=shipped.rows, point=ENERGY_POINT
        )
        levels = Levels(db=db, boundaries=boundaries, directory=directory, audit=audit)
        sites = Sites(boundaries.tree, found.view, clock)
        tariffs = Tariffs(db=db, clock=clock, audit=audit, shipped=shipped_rows())
        bills = Bills(db=db, sites=sites, clock=clock, audit=audit)
        costs = Costs(db=db, tariffs=tariffs, bills=bills, sites=sites, boundaries=boundaries, clock=clock)
        targets = Targets(db=db, figures=Figures(queries, costs), sites=sites, clock=clock, audit=audit, publish=result)
        inventories = Inventories(
            db=db,
            books=inventory_store,
            metering=Metering(nodes=Topology(found.view), energy=boundaries, clock=clock, intervals_max=1_000_000),
            clock=clock,
            shipped=shipped,
            coal=load_coal(),
            audit=audit,
            software="0.1.0",
        )
        virtual = VirtualMeters(db=db, circuits=directory, boundaries=boundaries, audit=audit)
        supply = Supply(db=db, boundaries=boundaries, directory=directory)
        explain = Explainers(
            energy=EnergyWhys(queries),
            ratios=RatioWhys(levels, supply),
            money=MoneyWhys(costs, targets),
            inventories=InventoryWhys(inventories),
            savings=None,  # type: ignore[arg-type]  # have a world of their own
            projects=None,  # type: ignore[arg-type]
            statements=None,  # type: ignore[arg-type]
            virtual=VirtualWhys(virtual),
            boundaries=boundaries,
            loads=LoadDirectory(found.view, clock),
        )
        routers = [
            build_why_router(explain),
            build_router(queries, inventories),
            build_levels_router(levels, supply),
            build_virtual_router(virtual, levels, queries),
            build_money_router(tariffs, bills, costs, targets),
        ]
        booking = Booking(
            directory=directory, books=store, publisher=OutboxPublisher(), clock=clock, point=ENERGY_POINT
        )
        async with open_door(db, tmp_path, clock, routers) as door:
            yield Town(found, door, booking)
