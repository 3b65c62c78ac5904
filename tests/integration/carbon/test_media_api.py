"""Other media over HTTP, on a real database: each by itself, counted once; emissions only where somebody says how."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.ids import CircuitId, SiteId
from services.carbon.api.media import build_media_router
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT, BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.library import load_shipped
from services.carbon.store.media import MediumBooks
from services.carbon.usecases.media import MediaUses
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import QUARTER, START, City, city, open_city

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SPAN = {"from": START.isoformat(), "to": (START + 96 * QUARTER).isoformat(), "step": "day"}


class Town:
    """A city with its media."""

    def __init__(self, city: City, door: Door) -> None:
        self.city, self.door = city, door

    async def book(self, point: str, circuit: str, quantities: list[float], *, site: str = "site-1") -> None:
        async with self.city.db.write() as conn:
            await MediumBooks(point).book(
                conn,
                [
                    BookedInterval(
                        CircuitId(circuit), SiteId(site), START + number * QUARTER, 900, 1, quantity, Grade.MEASURED,
                        False, False, START,
                    )
                    for number, quantity in enumerate(quantities)
                ],
            )  # fmt: skip

    async def ask(self, path: str, *, status: int = 200, sites: tuple[str, ...] | None = None, **more: Any) -> Any:
        return await self.door.ask("GET", path, status=status, sites=sites, **{**SPAN, **more})


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_city(postgres_url, [[one] for one in city()]) as found:
        directory = RegistryDirectory(found.view, None, found.clock, point=ENERGY_POINT)  # type: ignore[arg-type]
        media = MediaUses(db=found.db, boundaries=found.boundaries, directory=directory, factors=load_shipped())
        async with open_door(found.db, tmp_path, found.clock, [build_media_router(media)]) as door:
            yield Town(found, door)


async def test_media_are_told_by_register_and_a_part_is_counted_once(town: Town) -> None:
    await town.book("water_volume", "feed", [0.5] * 96)
    await town.book("water_volume", "lift", [0.1] * 96)  # hangs beneath the feed
    await town.book("heat_energy", "lift", [2.0] * 48)
    found = await town.ask("/energy/media", site="site-1")
    assert {one["point"]: (one["medium"], one["unit"], one["circuits"]) for one in found["media"]} == {
        "heat_energy": ("heat", "kWh", ["lift"]),
        "water_volume": ("water", "m3", ["feed"]),
    }
    heat, water = found["media"]
    assert (heat["periods"][0]["quantity"], heat["periods"][0]["interval_completeness"]) == (96.0, 0.5)
    assert (water["periods"][0]["quantity"], water["periods"][0]["usable_share"]) == (pytest.approx(48.0), 1.0)
    (room,) = (await town.ask("/energy/media", circuit="lift"))["media"][1:]
    assert room["periods"][0]["quantity"] == pytest.approx(9.6)
    assert (await town.ask("/energy/media", room="room-1"))["media"] == []
    await town.ask("/energy/media", status=403, sites=("site-2",), site="site-1")


async def test_emissions_are_told_where_the_factor_is_known_and_else_why_not(town: Town) -> None:
    await town.book("heat_energy", "lift", [10.0] * 96)
    await town.book("gas_volume", "lift", [1.0] * 96)
    await town.book("gas_volume_normal", "lift", [1.0] * 96)
    await town.book("fuel_mass", "tenant", [0.01] * 96, site="site-2")
    found = {one["point"]: one for one in (await town.ask("/emissions/media", region="gz"))["media"]}
    # 0.11 tCO2/GJ: 960 kWh are 3.456 GJ.
    assert found["heat_energy"]["periods"][0]["emission_kg_co2e"] == pytest.approx(3.456 * 110.0)
    assert found["heat_energy"]["factors"] == ["HEAT-CN-DEFAULT r1"]
    assert "reference condition" in found["gas_volume"]["why"]
    assert found["gas_volume_normal"]["periods"][0]["emission_kg_co2e"] is None
    assert found["fuel_mass"]["why_zh"]
    said = await town.ask("/emissions/media", region="gz", gas="NATGAS", fuel="DIESEL")
    found = {one["point"]: one for one in said["media"]}
    # 21.622 tCO2 per 10^4 Nm3 and 3.0959 kgCO2/kg, out of NCV, carbon content and oxidation.
    assert found["gas_volume_normal"]["periods"][0]["emission_kg_co2e"] == pytest.approx(96 * 2.1622, rel=1e-4)
    assert found["fuel_mass"]["periods"][0]["emission_kg_co2e"] == pytest.approx(960 * 3.0959, rel=1e-4)
    assert "methane_and_nitrous_oxide_not_quantified" in found["fuel_mass"]["periods"][0]["marks"]
    await town.ask("/emissions/media", status=400, region="gz", gas="DIESEL")
