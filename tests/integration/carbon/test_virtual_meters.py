"""Virtual meters over HTTP, on a real database: defined in versions, never a part of themselves, honest about holes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.carbon.api.virtual import build_virtual_router
from services.carbon.bus import audit
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.library import load_shipped
from services.carbon.queries import Queries
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.virtual import VirtualMeters
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import QUARTER, START, City, city, open_city

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SPAN: dict[str, Any] = {"from": START.isoformat(), "to": (START + 4 * QUARTER).isoformat()}


class Town:
    """A city with its virtual meters."""

    def __init__(self, city: City, door: Door) -> None:
        self.city, self.door, self.book = city, door, city.book

    async def define(self, name: str, *terms: tuple[str, float], status: int = 200, **more: Any) -> Any:
        body = {"name": name, "terms": [{"child": child, "factor": factor} for child, factor in terms], **more}
        return await self.door.ask("PUT", f"/energy/virtual-meters/{name}", body, status=status)

    async def read(self, name: str, **more: Any) -> Any:
        return await self.door.ask("GET", f"/energy/virtual-meters/{name}", **{**SPAN, **more})


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_city(postgres_url, [[one] for one in city()]) as found:
        directory = RegistryDirectory(found.view, None, found.clock, point=ENERGY_POINT)  # type: ignore[arg-type]
        meters = VirtualMeters(db=found.db, circuits=directory, boundaries=found.boundaries, audit=audit)
        levels = Levels(db=found.db, boundaries=found.boundaries, directory=directory, audit=audit)
        queries = Queries(
            db=found.db, directory=directory, boundaries=found.boundaries, clock=found.clock, factors=load_shipped(),
            point=ENERGY_POINT,
        )  # fmt: skip
        routers = [build_virtual_router(meters, levels, queries)]
        async with open_door(found.db, tmp_path, found.clock, routers) as door:
            yield Town(found, door)


async def test_a_signed_sum_with_shares_and_losses_tells_what_it_does_not_know(town: Town) -> None:
    await town.book("feed", [10.0, 10.0, 10.0, 10.0])
    await town.book("it", [4.0, 4.0, 4.0])
    await town.define("rest", ("feed", 1.0), ("it", -1.0))
    await town.define("half", ("rest", 0.5), constant_kw=0.4)
    found = await town.read("half")
    assert [one["energy_kwh"] for one in found["intervals"]] == [pytest.approx(3.1)] * 3 + [None]
    assert [one["interval_flag"] for one in found["intervals"]] == ["measured"] * 3 + ["missing"]
    assert found["intervals"][3]["present_share"] == 0.5
    assert (found["energy_kwh"], found["known_share"]) == (pytest.approx(9.3), 0.75)
    assert found["circuits"] == {"feed": 0.5, "it": -0.5}
    await town.define("rest", ("feed", 1.0), ("it", -1.0), allow_partial=True)
    assert (await town.read("rest"))["intervals"][3]["energy_kwh"] == 10.0


async def test_it_is_a_node_like_any_other(town: Town) -> None:
    day: dict[str, Any] = {"from": START.isoformat(), "to": (START + 96 * QUARTER).isoformat(), "step": "day"}
    await town.book("feed", [10.0] * 48 + [20.0] * 47)
    await town.book("tenant", [4.0] * 96, site="site-2")
    await town.define("own", ("feed", 1.0), ("tenant", -1.0))
    await town.define("it-share", ("feed", 0.25))
    found = await town.door.ask("GET", "/energy/virtual-meters/own/profile", **day)
    (row,) = found["periods"]
    assert (found["node_kind"], found["circuits"]) == ("virtual", ["own"])
    assert row["energy_kwh"] == 48 * 6 + 47 * 16
    assert (row["max_kw"], row["min_kw"]) == (64.0, 24.0)
    assert row["interval_completeness"] == pytest.approx(95 / 96)
    (emitted,) = (await town.door.ask("GET", "/energy/virtual-meters/it-share/emissions", **day))["periods"]
    # MEE/NBS announcement 2025 No. 47: Guangdong, data year 2023, 0.4419 kgCO2/kWh.
    assert emitted["emission_kg_co2"] == pytest.approx((48 * 2.5 + 47 * 5.0) * 0.4419)
    whole = await town.door.ask("GET", "/energy/virtual-meters/own/emissions", **day)
    assert [one["region"] for one in whole["factors"]] == ["CN-44"], "each site has its own, which are of one province"
    # What the feed used beside what is passed on: 95 quarter hours, of which the tenant's share is taken off.
    assert [(one["site"], one["energy_kwh"]) for one in whole["sites"]] == [
        ("site-1", 48 * 10.0 + 47 * 20.0), ("site-2", -95 * 4.0),
    ]  # fmt: skip
    assert sum(one["share"] for one in whole["sites"]) == pytest.approx(1.0)
    await town.door.ask("GET", "/energy/virtual-meters/own/profile", status=403, sites=("site-1",), **day)
    await town.door.ask("GET", "/energy/virtual-meters/nobody/emissions", status=404, **day)


async def test_definitions_have_versions_and_authors(town: Town) -> None:
    assert (await town.define("all", ("feed", 1.0)))["version"] == 1
    assert (await town.define("all", ("feed", 1.0), ("it", 1.0)))["version"] == 2
    (held,) = await town.door.ask("GET", "/energy/virtual-meters")
    assert (held["version"], [one["child"] for one in held["terms"]]) == (2, ["feed", "it"])
    first, second = await town.door.audits()
    assert (first.action, first.before, second.actor) == ("virtual_meter.define", None, "user:wang")


async def test_what_cannot_be_computed_is_refused(town: Town) -> None:
    await town.define("a", ("feed", 1.0))
    await town.define("b", ("a", 1.0))
    cycle = await town.define("a", ("b", 1.0), status=400)
    assert "a → b → a" in cycle["detail"]
    assert "no circuit or virtual meter nobody" in (await town.define("c", ("nobody", 1.0), status=400))["detail"]
    assert "circuit of that id" in (await town.define("feed", ("a", 1.0), status=400))["detail"]
    assert "other than 0" in (await town.define("c", ("feed", 0.0), status=400))["detail"]
    await town.door.ask("GET", "/energy/virtual-meters/nobody", status=404, **SPAN)


async def test_who_is_limited_to_sites_sees_sums_of_their_circuits_only(town: Town) -> None:
    await town.define("own", ("feed", 1.0))
    body = {"name": "x", "terms": [{"child": "feed"}]}
    await town.door.ask("PUT", "/energy/virtual-meters/x", body, status=403, sites=("site-1",))
    await town.door.ask("GET", "/energy/virtual-meters", status=403, sites=("site-1",))
    await town.door.ask("GET", "/energy/virtual-meters/own", sites=("site-1",), **SPAN)
    await town.door.ask("GET", "/energy/virtual-meters/own", status=403, sites=("site-9",), **SPAN)
