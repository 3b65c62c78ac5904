"""Own factors, certificates and statements on a real database: rows are only added, and a certificate serves once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from libs.common.db import Database
from libs.common.testing.clock import FakeClock
from services.carbon.bus import audit
from services.carbon.domain.emissions.certificates import CertificateUsedTwice
from services.carbon.domain.factors.library import RevisionTaken
from services.carbon.domain.figures import Mark
from services.carbon.domain.inventory.boundary import Approach, Boundary, CountedTwice, Part, Span
from services.carbon.domain.inventory.sources import Inputs, MeteredUse
from services.carbon.library import load_coal, load_library
from services.carbon.store import inventories as books
from services.carbon.topology import Topology
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.metering import Metering
from tests.integration.carbon.carbon_levels import START, City, city, open_city
from tests.unit.carbon.inventory_data import GREEN, NOW, OWN, WANG, inputs

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


@pytest.fixture
async def town(postgres_url: str) -> AsyncIterator[City]:
    async with open_city(postgres_url, [[one] for one in city()]) as found:
        yield found


@pytest.fixture
def db(town: City) -> Database:
    return town.db


@pytest.fixture
def inventories(town: City) -> Inventories:
    clock = FakeClock(NOW)
    metering = Metering(nodes=Topology(town.view), energy=town.boundaries, clock=clock, intervals_max=1_000_000)
    return Inventories(
        db=town.db,
        books=books,
        metering=metering,
        clock=clock,
        shipped=load_library(),
        coal=load_coal(),
        audit=audit,
        software="0.1.0",
    )


async def test_an_own_factor_reads_back_as_entered_digit_by_digit(inventories: Inventories) -> None:
    entered = await inventories.enter_factor(OWN, who=WANG)
    (stored,) = await inventories.revisions("MY-44-2023")
    assert stored == entered
    assert str(stored.value) == "0.4300"
    with pytest.raises(RevisionTaken):
        await inventories.enter_factor(OWN, who=WANG)


async def test_a_publication_reads_back_and_restates(inventories: Inventories) -> None:
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    published = await inventories.publish("inv-1", "2023", inputs(GREEN), who=WANG)
    await inventories.enter_factor(OWN, who=WANG)
    again = await inventories.published("inv-1", 1)
    assert again.location == published.publication.location
    found = await inventories.restate("inv-1", 1, meters=True)
    assert found.difference_kg_co2e == pytest.approx(-119)


async def test_of_two_inventories_that_want_one_certificate_at_once_one_gets_it(inventories: Inventories) -> None:
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    found = await asyncio.gather(
        *(inventories.publish(f"inv-{number}", "2023", inputs(GREEN), who=WANG) for number in range(2)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in found) == ["CertificateUsedTwice", "Published"]
    assert any(isinstance(one, CertificateUsedTwice) for one in found)


async def test_a_refused_publication_books_no_certificate(inventories: Inventories, db: Database) -> None:
    other = replace(GREEN, number="GEC-2")
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    await inventories.enter_certificate(other, revision=1, who=WANG)
    await inventories.publish("inv-1", "2023", inputs(GREEN), who=WANG)
    with pytest.raises(CertificateUsedTwice):
        await inventories.publish("inv-2", "2023", inputs(other, GREEN), who=WANG)
    async with db.read() as conn:
        assert await books.fetch_uses(conn, ["GEC-1", "GEC-2"]) == {"GEC-1": "inv-1"}


async def test_not_even_sql_changes_what_was_published(db: Database) -> None:
    columns = {
        "emission_factors": "factor_id",
        "certificates": "number",
        "certificate_uses": "number",
        "published_statements": "name",
    }
    for table, column in columns.items():
        for statement in ("update {} set {} = {}", "delete from {}", "truncate {} cascade"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with db.write() as conn:
                    await conn.execute(statement.format(table, column, column))


DAY = Span(START, START + timedelta(days=1))
GUANGDONG_2023 = 0.4419
"""Stands in for 2026. [kgCO2/kWh]"""


def metered(*parts: Part, node: str | None = None) -> Inputs:
    boundary = Boundary("operator", Approach.OPERATIONAL_CONTROL, parts)
    return Inputs(boundary=boundary, sources=[], metered=[MeteredUse(line_id="grid", node=node)])


async def book_everything(town: City) -> None:
    for name, energy in {"feed": 10.0, "room-feed": 6.0, "it": 4.0, "cool": 2.0, "lift": 3.0, "roof": 1.0}.items():
        await town.book(name, [energy] * 96)
    await town.book("tenant", [1.0] * 96, site="site-2")


async def test_whatever_the_boundary_names_gets_its_energy_from_the_intervals(
    town: City, inventories: Inventories
) -> None:
    await book_everything(town)
    event = Span(START + timedelta(hours=9, minutes=5), START + timedelta(hours=10, minutes=30))
    cases = {
        "operator": (metered(Part("operator", DAY)), 960.0),
        "province": (metered(Part("gd", DAY)), 960.0),
        "building": (metered(Part("site-1", DAY)), 960.0),
        "a third of it": (metered(Part("site-1", DAY, 1 / 3, "floor area")), 320.0),
        "meeting room": (metered(Part("room-1", DAY)), 576.0),
        "event": (metered(Part("room-1", event)), 6.0 * (85 / 15)),
        "circuit of the building": (metered(Part("site-1", DAY), node="lift"), 288.0),
    }
    for name, (asked, energy) in cases.items():
        found, _ = await inventories.preview("inv-1", asked)
        assert found.imported_kwh == pytest.approx(energy), name
        assert found.location.kg_co2e == pytest.approx(energy * GUANGDONG_2023), name
        assert found.location.whole, name
        assert (found.lines[0].source.completeness, found.lines[0].source.estimated_share) == (1.0, 0.0), name
    whole, _ = await inventories.preview("inv-1", cases["operator"][0])
    assert [(line.source.line_id, line.source.metered.circuits) for line in whole.lines if line.source.metered] == [
        ("grid:site-1:1", ("feed",))
    ]
    cut, _ = await inventories.preview("inv-1", cases["event"][0])
    assert Mark.APPORTIONED in cut.lines[0].marks


async def test_missing_intervals_are_never_zero(town: City, inventories: Inventories) -> None:
    await town.book("feed", [10.0] * 72 + [None] * 24)
    found, _ = await inventories.preview("inv-1", metered(Part("site-1", DAY)))
    assert (found.imported_kwh, found.location.incomplete, found.location.whole) == (720.0, ("grid:site-1:1",), False)
    assert found.lines[0].source.completeness == 0.75
    two, _ = await inventories.preview("inv-1", metered(Part("site-1", Span(START, START + timedelta(days=2)))))
    assert (two.imported_kwh, two.location.kg_co2e, two.location.unknown) == (None, None, ("grid:site-1:1",))


async def test_late_registers_and_better_factors_are_told_beside_what_was_published(
    town: City, inventories: Inventories
) -> None:
    await town.book("feed", [10.0] * 95 + [None])
    published = await inventories.publish("inv-1", "one day", metered(Part("site-1", DAY)), who=WANG)
    assert published.result.imported_kwh == 950.0
    await town.book("feed", [14.0], first=95, version=2)
    found = await inventories.restate("inv-1", 1, meters=True)
    assert found.difference_kg_co2e == pytest.approx(14.0 * GUANGDONG_2023)
    assert (found.changes[0].line_id, found.changes[0].because) == ("grid:site-1:1", ("activity",))
    assert (await inventories.restate("inv-1", 1, meters=False)).changes == []
    assert (await inventories.published("inv-1", 1)).location.kg_co2e == published.publication.location.kg_co2e


async def test_what_a_landlord_passes_on_is_counted_once(town: City, inventories: Inventories) -> None:
    await book_everything(town)
    with pytest.raises(CountedTwice, match="electricity of site-2 is counted 2 times"):
        await inventories.preview("inv-1", metered(Part("site-1", DAY), Part("site-2", DAY)))
    shared = metered(Part("site-1", DAY, 0.5, "lease"), Part("room-1", DAY, 0.5, "lease"))
    found, _ = await inventories.preview("inv-1", shared)
    assert found.imported_kwh == pytest.approx(0.5 * 960 + 0.5 * 576)


async def test_a_part_of_a_boundary_that_overlaps_another_reads_each_interval_once(
    town: City, inventories: Inventories
) -> None:
    await book_everything(town)
    half = Span(START, START + timedelta(hours=12))
    asked = metered(Part("branch", DAY, 0.5, "equity"), Part("site-1", half, 0.25, "lease"))
    found, _ = await inventories.preview("inv-1", asked)
    assert found.imported_kwh == pytest.approx(0.5 * 960 + 0.25 * 480)
    again = replace(asked, metered=[MeteredUse(line_id="grid", node="feed")])
    assert (await inventories.preview("inv-1", again))[0].imported_kwh == pytest.approx(0.5 * 960 + 0.25 * 480)
