"""Own factors, certificates and statements on a real database: rows are only added, and a certificate serves once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.clock import CIVIL_ZONE
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.carbon.domain.emissions.certificates import Certificate, CertificateUsedTwice, InstrumentKind
from services.carbon.domain.factors import EmissionFactor, Family, Place
from services.carbon.domain.factors.library import RevisionTaken
from services.carbon.domain.inventory.boundary import Approach, Boundary, Part, Span
from services.carbon.domain.inventory.sources import ElectricityUse, Inputs, Source
from services.carbon.library import load_library
from services.carbon.store import inventories as books
from services.carbon.usecases.inventories import Inventories

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

NOW = datetime(2026, 11, 21, 4, tzinfo=UTC)
YEAR = Span(datetime(2023, 1, 1, tzinfo=CIVIL_ZONE), datetime(2024, 1, 1, tzinfo=CIVIL_ZONE))
GREEN = Certificate(
    number="GEC-1",
    kind=InstrumentKind.CERTIFICATE,
    market="CN",
    vintage=2023,
    technology="wind",
    beneficiary="org-1",
    cancelled_on=date(2024, 2, 1),
    sold_with_power=False,
    evidence="scan.pdf",
)
OWN = EmissionFactor(
    factor_id="MY-44-2023",
    series="grid-average",
    family=Family.AVERAGE,
    category="electricity",
    region="CN-44",
    data_year=2023,
    value=Decimal("0.4300"),
    unit="kgCO2/kWh",
    gas="CO2",
    source="a correction",
    source_year=None,
    known_from=date(2026, 11, 21),
    confidence="verified",
    name_en="Guangdong",
    name_zh="广东",
    evidence="announcement.pdf",
)


class NoRegistry:
    """A registry in which nothing contains anything."""

    def ancestors_of(self, node: str) -> Sequence[str]:
        return ()


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="carbon", role="wattring_carbon")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def inventories(db: Database) -> Inventories:
    return Inventories(
        db=db, books=books, places=NoRegistry(), clock=FakeClock(NOW), shipped=load_library(), software="0.1.0"
    )


def inputs(*certificates: Certificate) -> Inputs:
    return Inputs(
        boundary=Boundary("org-1", Approach.OPERATIONAL_CONTROL, [Part("site-1", YEAR)]),
        sources=[
            Source(
                line_id="a",
                node="site-1",
                place=Place("44"),
                category="electricity",
                span=YEAR,
                activity=ElectricityUse(imported_kwh=10_000.0),
                origin="meter",
            )
        ],
        certificates=list(certificates),
    )


async def test_an_own_factor_reads_back_as_entered_digit_by_digit(inventories: Inventories) -> None:
    entered = await inventories.enter_factor(OWN, by="zhang")
    (stored,) = await inventories.revisions("MY-44-2023")
    assert stored == entered
    assert str(stored.value) == "0.4300"
    with pytest.raises(RevisionTaken):
        await inventories.enter_factor(OWN, by="zhang")


async def test_a_publication_reads_back_and_restates(inventories: Inventories) -> None:
    await inventories.enter_certificate(GREEN, revision=1, by="li")
    published = await inventories.publish("inv-1", "2023", inputs(GREEN), by="wang")
    await inventories.enter_factor(OWN, by="zhang")
    again = await inventories.published("inv-1", 1)
    assert again.location == published.publication.location
    found = await inventories.restate("inv-1", 1)
    assert found.difference_kg_co2e == pytest.approx(-119)


async def test_of_two_inventories_that_want_one_certificate_at_once_one_gets_it(inventories: Inventories) -> None:
    await inventories.enter_certificate(GREEN, revision=1, by="li")
    found = await asyncio.gather(
        *(inventories.publish(f"inv-{number}", "2023", inputs(GREEN), by="wang") for number in range(2)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in found) == ["CertificateUsedTwice", "Published"]
    assert any(isinstance(one, CertificateUsedTwice) for one in found)


async def test_a_refused_publication_books_no_certificate(inventories: Inventories, db: Database) -> None:
    other = replace(GREEN, number="GEC-2")
    await inventories.enter_certificate(GREEN, revision=1, by="li")
    await inventories.enter_certificate(other, revision=1, by="li")
    await inventories.publish("inv-1", "2023", inputs(GREEN), by="wang")
    with pytest.raises(CertificateUsedTwice):
        await inventories.publish("inv-2", "2023", inputs(other, GREEN), by="wang")
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
