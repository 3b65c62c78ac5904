"""Entering factors and certificates, publishing, restating: what is refused and what stays."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime
from typing import Any, cast

import polars as pl
import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.audit import AuditEvent
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.testing.clock import FakeClock
from services.carbon.domain.emissions.certificates import (
    Certificate,
    CertificateRefused,
    CertificateUsedTwice,
    Registered,
)
from services.carbon.domain.factors import EmissionFactor, Place
from services.carbon.domain.factors.library import RevisionTaken
from services.carbon.domain.figures import Mark
from services.carbon.domain.inventory.boundary import Approach, Boundary, CountedTwice, Part, Span
from services.carbon.domain.inventory.sources import (
    Activity,
    FuelUse,
    HeatUse,
    HotWaterUse,
    Inputs,
    MeteredUse,
    UnitUse,
)
from services.carbon.domain.levels.cover import Branch, Term
from services.carbon.domain.statements import Stated, StatementKind
from services.carbon.library import load_coal, load_library
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.inventories import Inventories, StatementAltered
from services.carbon.usecases.metering import Metering, OutsideBoundary, SpanNotOver, TooLargeInventory
from tests.unit.carbon.inventory_data import GREEN, NOW, OWN, WANG, YEAR, inputs


class MemoryBooks:
    """What ``store.inventories`` does, in memory."""

    def __init__(self) -> None:
        self.audits: list[AuditEvent] = []
        self.factors: list[EmissionFactor] = []
        self.certificates: dict[str, list[Registered]] = {}
        self.uses: dict[str, str] = {}
        self.statements: dict[tuple[StatementKind, str, int], tuple[str, str]] = {}

    async def audit(self, conn: WriteConn, event: AuditEvent) -> None:
        self.audits.append(event)

    async def add_factor(self, conn: WriteConn, row: EmissionFactor) -> None:
        self.factors.append(row)

    async def fetch_factors(self, conn: ReadConn | WriteConn) -> list[EmissionFactor]:
        return list(self.factors)

    async def add_certificate(self, conn: WriteConn, one: Certificate, *, revision: int, by: str, at: datetime) -> bool:
        rows = self.certificates.setdefault(one.number, [])
        new = len(rows) == revision - 1
        if new:
            rows.append(Registered(one, revision))
        return new

    async def fetch_certificates(self, conn: ReadConn | WriteConn, numbers: Sequence[str]) -> list[Registered]:
        return [self.certificates[number][-1] for number in numbers if number in self.certificates]

    async def use_certificates(
        self, conn: WriteConn, used: Sequence[Registered], *, inventory_id: str, by: str, at: datetime
    ) -> dict[str, str]:
        numbers = [one.certificate.number for one in used]
        return {number: self.uses.setdefault(number, inventory_id) for number in numbers}

    async def fetch_uses(self, conn: ReadConn | WriteConn, numbers: Sequence[str]) -> dict[str, str]:
        return {number: self.uses[number] for number in numbers if number in self.uses}

    async def lock_statement(self, conn: WriteConn, kind: StatementKind, statement_id: str) -> None:
        pass

    async def last_version(self, conn: ReadConn | WriteConn, kind: StatementKind, statement_id: str) -> int:
        return max((key[2] for key in self.statements if key[:2] == (kind, statement_id)), default=0)

    async def add_statement(self, conn: WriteConn, one: Stated, statement: str) -> None:
        self.statements[one.kind, one.statement_id, one.version] = (statement, one.digest)

    async def fetch_statement(
        self, conn: ReadConn, kind: StatementKind, statement_id: str, version: int
    ) -> tuple[str, str] | None:
        return self.statements.get((kind, statement_id, version))

    async def fetch_stated(
        self, conn: ReadConn, kind: StatementKind, after: tuple[str, int] | None, limit: int
    ) -> list[Stated]:
        raise NotImplementedError


class NoDatabase:
    """Transactions over nothing."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConn]:
        yield cast(Any, None)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConn]:
        yield cast(Any, None)


class OneRoom:
    """A registry of one room in one site of Guangdong, without meters."""

    def node(self, name: str) -> Node | None:
        return {"room-1": Node(NodeKind.ROOM, "room-1"), "site-1": Node(NodeKind.SITE, "site-1")}.get(name)

    def ancestors_of(self, name: str, when: datetime) -> Sequence[str]:
        return {"room-1": ("site-1", "org-1"), "site-1": ("org-1",)}.get(name, ())

    def place_of(self, name: str, when: datetime) -> Place:
        return Place("44") if self.node(name) else Place(None)

    def sites(self, node: Node, start: datetime, end: datetime) -> list[tuple[SiteId, datetime, datetime]]:
        return [(SiteId("site-1"), start, end)]

    def terms(self, node: Node, start: datetime, end: datetime) -> list[Term]:
        return []

    def branches(self, node: Node, start: datetime, end: datetime) -> list[Branch]:
        return []

    async def in_pieces(self, terms: Sequence[Term], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        for _ in terms:
            yield pl.DataFrame()


@pytest.fixture
def books() -> MemoryBooks:
    return MemoryBooks()


@pytest.fixture
def inventories(books: MemoryBooks) -> Inventories:
    return Inventories(
        db=NoDatabase(),
        books=books,
        metering=Metering(nodes=OneRoom(), energy=OneRoom(), clock=FakeClock(NOW), intervals_max=1000),
        clock=FakeClock(NOW),
        shipped=load_library(),
        coal=load_coal(),
        audit=books.audit,
        software="0.1.0",
    )


async def test_an_own_factor_is_known_from_the_day_it_was_entered_whatever_it_says(inventories: Inventories) -> None:
    entered = await inventories.enter_factor(OWN, who=WANG)
    assert (entered.known_from, entered.entered_by, entered.entered_at) == (date(2026, 11, 21), "user:wang", NOW)
    result, _ = await inventories.preview("inv-1", inputs())
    assert result.location.kg_co2e == pytest.approx(4300)
    before, _ = await inventories.preview("inv-1", inputs(), known_on=date(2026, 11, 20))
    assert before.location.kg_co2e == pytest.approx(4419)


async def test_an_own_factor_needs_evidence_and_cannot_take_a_shipped_id(inventories: Inventories) -> None:
    with pytest.raises(InvalidInput, match="evidence"):
        await inventories.enter_factor(replace(OWN, evidence=None), who=WANG)
    with pytest.raises(RevisionTaken):
        await inventories.enter_factor(replace(OWN, factor_id="GRID-44-2023"), who=WANG)


async def test_a_published_inventory_stays_when_a_better_factor_comes(inventories: Inventories) -> None:
    published = await inventories.publish("inv-1", "2023", inputs(), who=WANG)
    await inventories.enter_factor(OWN, who=WANG)
    again = await inventories.published("inv-1", 1)
    found = await inventories.restate("inv-1", 1, meters=True)
    assert again.location.kg_co2e == published.publication.location.kg_co2e == pytest.approx(4419)
    assert found.difference_kg_co2e == pytest.approx(-119)
    assert found.changes[0].because == ("MY-44-2023",)


async def test_versions_count_up(inventories: Inventories) -> None:
    first = await inventories.publish("inv-1", "2023", inputs(), who=WANG)
    second = await inventories.publish("inv-1", "2023", inputs(), who=WANG)
    assert (first.publication.version, second.publication.version) == (1, 2)
    with pytest.raises(NotFound, match="no version 3"):
        await inventories.published("inv-1", 3)


async def test_a_text_that_was_changed_in_the_database_is_refused(inventories: Inventories, books: MemoryBooks) -> None:
    await inventories.publish("inv-1", "2023", inputs(), who=WANG)
    text, stamp = books.statements[StatementKind.INVENTORY, "inv-1", 1]
    books.statements[StatementKind.INVENTORY, "inv-1", 1] = (text.replace("4419", "4000"), stamp)
    with pytest.raises(StatementAltered):
        await inventories.published("inv-1", 1)


async def test_a_certificate_serves_one_inventory_in_all_its_versions(inventories: Inventories) -> None:
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    await inventories.publish("inv-1", "2023", inputs(GREEN), who=WANG)
    again = await inventories.publish("inv-1", "2023, corrected", inputs(GREEN), who=WANG)
    assert again.result.covered_kwh == 1000
    with pytest.raises(CertificateUsedTwice, match="GEC-1 is used by inv-1"):
        await inventories.publish("inv-2", "2023", inputs(GREEN), who=WANG)
    with pytest.raises(CertificateUsedTwice):
        await inventories.preview("inv-2", inputs(GREEN))


async def test_a_certificate_has_to_be_registered_as_it_is_stated(inventories: Inventories) -> None:
    with pytest.raises(NotFound, match="GEC-1 is not registered"):
        await inventories.publish("inv-1", "2023", inputs(GREEN), who=WANG)
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    with pytest.raises(Conflict, match="revision: expected 2, found 1"):
        await inventories.enter_certificate(replace(GREEN, kwh=500.0), revision=1, who=WANG)
    with pytest.raises(NotFound):
        await inventories.publish("inv-1", "2023", inputs(replace(GREEN, kwh=900.0)), who=WANG)


async def test_a_held_certificate_counts_once_it_is_cancelled_and_then_stays(inventories: Inventories) -> None:
    held = replace(GREEN, cancelled_on=None)
    await inventories.enter_certificate(held, revision=1, who=WANG)
    with pytest.raises(CertificateRefused, match="neither cancelled nor allocated"):
        await inventories.publish("inv-1", "2023", inputs(held), who=WANG)
    await inventories.enter_certificate(GREEN, revision=2, who=WANG)
    (registered,) = await inventories.certificates(["GEC-1"])
    assert (await inventories.publish("inv-1", "2023", inputs(registered), who=WANG)).result.covered_kwh == 1000
    with pytest.raises(CertificateUsedTwice, match="stays as it is"):
        await inventories.enter_certificate(held, revision=3, who=WANG)


async def test_a_certificate_of_a_year_without_consumption_is_refused(inventories: Inventories) -> None:
    old = replace(GREEN, vintage=2022)
    await inventories.enter_certificate(old, revision=1, who=WANG)
    with pytest.raises(CertificateRefused, match="vintage is 2022, expected 2023"):
        await inventories.publish("inv-1", "2023", inputs(old), who=WANG)


async def test_a_boundary_that_counts_twice_is_never_published(inventories: Inventories, books: MemoryBooks) -> None:
    with pytest.raises(CountedTwice):
        await inventories.publish("inv-1", "2023", inputs(nodes=("site-1", "room-1")), who=WANG)
    assert not books.statements


async def test_what_was_entered_of_a_room_counts_for_its_site_and_lies_where_the_site_does(
    inventories: Inventories,
) -> None:
    bill = replace(inputs().sources[0], node="room-1", place=Place(None))
    found, _ = await inventories.preview("inv-1", replace(inputs(), sources=[bill]))
    assert found.location.kg_co2e == pytest.approx(4419)
    assert not found.outside


async def test_a_node_that_no_meter_tells_is_unknown_and_never_zero(inventories: Inventories) -> None:
    asked = replace(inputs(), sources=[], metered=[MeteredUse(line_id="grid")])
    found, _ = await inventories.preview("inv-1", asked)
    assert found.location.kg_co2e is None
    assert found.location.unknown == ("grid:site-1:1",)
    assert found.imported_kwh is None


async def test_a_bill_beside_the_meters_of_its_site_is_refused(inventories: Inventories) -> None:
    with pytest.raises(CountedTwice, match=r"electricity of site-1 is counted 2 times .*: a, grid:site-1:1"):
        await inventories.preview("inv-1", replace(inputs(), metered=[MeteredUse(line_id="grid")]))


async def test_only_nodes_of_the_registry_and_of_the_boundary_can_be_metered(inventories: Inventories) -> None:
    with pytest.raises(NotFound, match="line grid: there is no circuit, room, site, organisation or region site-9"):
        await inventories.preview(
            "inv-1", replace(inputs(nodes=["site-9"]), sources=[], metered=[MeteredUse(line_id="grid")])
        )
    with pytest.raises(OutsideBoundary, match="node site-1 is in no part"):
        await inventories.preview(
            "inv-1", replace(inputs(nodes=["room-1"]), metered=[MeteredUse(line_id="grid", node="site-1")])
        )


async def test_more_than_one_request_may_ask_of_meters_is_refused(inventories: Inventories) -> None:
    twice = replace(inputs(), sources=[], metered=[MeteredUse(line_id="a"), MeteredUse(line_id="b")])
    with pytest.raises(TooLargeInventory, match="one line without a node, found 365 days and 2 lines"):
        await inventories.preview("inv-1", twice)
    ages = Span(datetime(2000, 1, 1, tzinfo=CIVIL_ZONE), datetime(2020, 1, 1, tzinfo=CIVIL_ZONE))
    long = Boundary("org-1", Approach.OPERATIONAL_CONTROL, [Part("site-1", ages)])
    with pytest.raises(TooLargeInventory, match="at most 3700 days"):
        await inventories.preview("inv-1", Inputs(boundary=long, sources=[], metered=[MeteredUse(line_id="grid")]))


async def test_a_span_that_is_not_over_is_previewed_and_not_published(inventories: Inventories) -> None:
    year = Span(datetime(2026, 1, 1, tzinfo=CIVIL_ZONE), datetime(2027, 1, 1, tzinfo=CIVIL_ZONE))
    boundary = Boundary("org-1", Approach.OPERATIONAL_CONTROL, [Part("site-1", year)])
    asked = Inputs(boundary=boundary, sources=[], metered=[MeteredUse(line_id="grid")])
    running, _ = await inventories.preview("inv-1", asked)
    assert Mark.RUNNING in running.lines[0].marks
    with pytest.raises(SpanNotOver, match="expected a span that is over"):
        await inventories.publish("inv-1", "2026", asked, who=WANG)


async def test_who_entered_and_published_what_is_audited(inventories: Inventories, books: MemoryBooks) -> None:
    await inventories.enter_factor(OWN, who=WANG)
    await inventories.enter_certificate(GREEN, revision=1, who=WANG)
    published = await inventories.publish("inv-1", "2023", inputs(), who=WANG)
    assert [(one.actor, one.action, one.subject) for one in books.audits] == [
        ("user:wang", "factor.enter", "factor:MY-44-2023:1"),
        ("user:wang", "certificate.enter", "certificate:GEC-1:1"),
        ("user:wang", "inventory.publish", "inventory:inv-1:1"),
    ]
    assert books.audits[-1].after == {"name": "2023", "digest": published.digest}


async def test_avoided_emissions_have_a_statement_of_their_own(inventories: Inventories) -> None:
    recycled = replace(
        inputs().sources[0],
        category="other",
        place=Place("51"),
        activity=UnitUse(series="WASTE-RECYCLE-SOURCE-003", amount=1000.0, unit="kg"),
    )
    published, stamp = await inventories.publish_avoided("avoided-1", "2023", [recycled], who=WANG)
    # Source 003: 1000 kg x 2.06 = 2060 kg.
    assert published.total.kg_co2e == pytest.approx(2060)
    text, kept = await inventories.statement(StatementKind.AVOIDED, "avoided-1", 1)
    assert kept == stamp == hashlib.sha256(text.encode()).hexdigest()
    again = await inventories.published_avoided("avoided-1", 1)
    assert (again.total, again.lines[0].figure.value) == (published.total, published.total.kg_co2e)
    with pytest.raises(NotFound, match="inventory statement avoided-1 has no version 1"):
        await inventories.published("avoided-1", 1)


async def test_the_consumption_of_a_boundary_is_told_in_standard_coal_too(inventories: Inventories) -> None:
    electricity, span = inputs().sources[0], YEAR
    more: list[tuple[str, Activity]] = [
        ("stationary_combustion", FuelUse(fuel="DIESEL", amount=100.0, unit="kg")),
        ("stationary_combustion", FuelUse(fuel="NATGAS", amount=1.0, unit="1e4Nm3", ncv=389.31)),
        ("heat", HeatUse(amount=1.0, unit="GJ")),
        ("heat", HotWaterUse(mass_t=10.0, temperature_c=80.0)),
        ("waste", UnitUse(series="WATER-SOURCE-003", amount=5.0, unit="t")),
    ]
    sources = [electricity] + [
        replace(electricity, line_id=f"line-{number}", category=category, activity=use, span=span)
        for number, (category, use) in enumerate(more)
    ]
    _, coal = await inventories.preview("inv-1", replace(inputs(), sources=sources))
    # GB/T 2589-2020: 0.1229 kgce/kWh, 1.4571 kgce/kg, 0.03412 kgce/MJ; 389.31 GJ and 29307.6 kJ/kgce.
    expected = 10_000 * 0.1229 + 100 * 1.4571 + 389.31e6 / 29307.6 + 1000 * 0.03412 + 2512.08 * 0.03412
    assert coal.total.value == pytest.approx(expected)
    unknown = replace(sources[1], activity=FuelUse(fuel="DIESEL", amount=100.0, unit="L"))
    _, partly = await inventories.preview("inv-1", replace(inputs(), sources=[electricity, unknown]))
    assert partly.total.value is None
