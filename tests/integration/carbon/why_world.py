"""A small city with the routes of every figure, and of their traces."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from libs.common.contracts.registry import Binding
from libs.common.ids import CircuitId, DeviceId
from services.carbon.api.why import build_why_router
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT, RegisterReading
from services.carbon.domain.samples import EXPORT, Sample
from services.carbon.main import energy_routers, explainers
from services.carbon.settings import CarbonSettings
from services.carbon.store import intervals as store
from services.carbon.store import levels as levels_store
from services.carbon.usecases.intervals import Booking
from services.carbon.wiring import Answers, World
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
        db, clock = found.db, found.clock
        directory = RegistryDirectory(found.view, None, clock, point=ENERGY_POINT)  # type: ignore[arg-type]
        answers = Answers.of(World(db, clock, found.view, directory), CarbonSettings(), intervals_max=1_000_000)
        routers = [*energy_routers(answers), build_why_router(explainers(answers, db))]
        booking = Booking(
            directory=directory, books=store, publisher=OutboxPublisher(), clock=clock, point=ENERGY_POINT
        )
        async with open_door(db, tmp_path, clock, routers) as door:
            yield Town(found, door, booking)
