"""Factors, inventories and avoided emissions over HTTP: who may, what is answered, and what is refused."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from libs.common.clock import SystemClock
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from services.carbon.api.avoided import add_avoided_routes
from services.carbon.api.coal import add_coal_routes
from services.carbon.api.factors import add_factor_routes
from services.carbon.api.inventories import add_inventory_routes
from services.carbon.bus import audit
from services.carbon.library import load_coal, load_library
from services.carbon.store import inventories as books
from services.carbon.topology import Topology
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.metering import Metering
from tests.integration.carbon.carbon_levels import START, City, city, open_city

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = {"start": START.isoformat(), "end": (START + timedelta(days=1)).isoformat()}
YEAR = {"start": "2023-01-01T00:00:00+08:00", "end": "2024-01-01T00:00:00+08:00"}
OWN = {
    "factor_id": "MY-44-2023",
    "series": "grid-average",
    "family": "average",
    "category": "electricity",
    "region": "CN-44",
    "data_year": 2023,
    "value": "0.43",
    "unit": "kgCO2/kWh",
    "gas": "CO2",
    "source": "a correction",
    "confidence": "verified",
    "name_en": "Guangdong",
    "name_zh": "广东",
    "evidence": "announcement.pdf",
}
GREEN = {
    "number": "GEC-1",
    "kind": "certificate",
    "market": "CN",
    "vintage": 2023,
    "technology": "wind",
    "beneficiary": "operator",
    "cancelled_on": "2024-02-01",
    "sold_with_power": False,
    "evidence": "scan.pdf",
}


class Door:
    """The routes of inventories over a small city, asked as somebody."""

    def __init__(self, town: City, client: httpx.AsyncClient, keys: KeyRing) -> None:
        self.town, self.client, self.keys = town, client, keys

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        scopes: tuple[str, ...] = ("carbon:read", "carbon:write"),
        sites: tuple[str, ...] | None = None,
        **params: Any,
    ) -> httpx.Response:
        token = self.keys.sign_token(
            "gateway", subject="li", kind="user", audience="carbon", scopes=scopes, sites=sites
        )
        return await self.client.request(
            method, f"/api/v1{path}", json=body, params=params, headers={"authorization": f"Bearer {token}"}
        )

    async def ask(self, method: str, path: str, body: object = None, *, status: int = 200, **more: Any) -> Any:
        reply = await self.send(method, path, body, **more)
        assert reply.status_code == status, reply.text
        return reply.json()


@pytest.fixture
async def door(postgres_url: str, tmp_path: Path) -> AsyncIterator[Door]:
    clock = SystemClock()
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    async with open_city(postgres_url, [[one] for one in city()]) as town:
        metering = Metering(nodes=Topology(town.view), energy=town.boundaries, clock=clock, intervals_max=1_000_000)
        inventories = Inventories(
            db=town.db,
            books=books,
            metering=metering,
            clock=clock,
            shipped=load_library(),
            coal=load_coal(),
            audit=audit,
            software="0.1.0",
        )
        router = APIRouter(prefix="/api/v1")
        add_factor_routes(router, inventories)
        add_inventory_routes(router, inventories)
        add_avoided_routes(router, inventories)
        add_coal_routes(router, inventories.coal)
        health = Health(clock)
        health.starting = None
        app = create_app("carbon", Platform(CommonSettings(), clock, town.bus, keys), health, title="carbon")
        app.include_router(router)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://carbon") as client:
            yield Door(town, client, keys)


def bought(kwh: float | None = 10_000.0, **more: object) -> dict[str, object]:
    source = {
        "line_id": "bill",
        "node": "site-1",
        "category": "electricity",
        **YEAR,
        "activity": {"kind": "electricity", "imported_kwh": kwh},
        "origin": "bill 2023",
    }
    return {
        "name": "2023",
        "organisation": "operator",
        "parts": [{"node": "operator", **YEAR}],
        "sources": [source],
    } | more


async def test_a_factor_is_entered_with_evidence_and_told_as_it_was_known(door: Door) -> None:
    before = await door.ask("GET", "/factors", region="CN-44", series="grid-average")
    assert {one["factor_id"] for one in before} >= {"GRID-44-2023"}
    refused = await door.ask("POST", "/factors", OWN | {"evidence": None}, status=400)
    assert "evidence: expected a document" in refused["detail"]
    assert "证明材料" in refused["detail_zh"]
    entered = await door.ask("POST", "/factors", OWN, status=201)
    assert (entered["entered_by"], entered["value"], entered["trusted"]) == ("user:li", 0.43, True)
    await door.ask("POST", "/factors", OWN, status=409)
    await door.ask("POST", "/factors", OWN | {"value": "0.44", "revision": 2}, status=201)
    revisions = await door.ask("GET", "/factors/MY-44-2023")
    assert [(one["revision"], one["value"]) for one in revisions] == [(1, 0.43), (2, 0.44)]
    then = await door.ask("GET", "/factors", region="CN-44", known_on="2024-12-31")
    assert "MY-44-2023" not in {one["factor_id"] for one in then}
    assert "GRID-44-2023" not in {one["factor_id"] for one in then}
    await door.ask("GET", "/factors/nothing", status=404)


async def test_an_inventory_is_previewed_published_frozen_and_restated(door: Door) -> None:
    preview = await door.ask("POST", "/inventories/inv-1/preview", bought())
    # Guangdong of 2023 by the site's region: 0.4419; residual of 2023: 0.6096 kgCO2/kWh.
    assert preview["by_scope"]["2_location"]["kg_co2e"] == pytest.approx(4419)
    assert preview["by_scope"]["2_market"]["kg_co2e"] == pytest.approx(6096)
    assert preview["standard_coal"]["value"] == pytest.approx(1229)
    (line,) = preview["lines"]
    assert (line["scope"], line["iso_category"], line["gb_group"]) == (2, 2, "purchased_electricity_and_heat")
    assert line["location"]["formula"] == "E = imported * EF"
    assert [one["name"] for one in line["location"]["inputs"]] == ["imported", "EF"]
    excluded = bought(exclusions=[{"subject": "commuting", "reason": "no data yet"}])
    published = await door.ask("POST", "/inventories/inv-1/versions", excluded, status=201)
    await door.ask("POST", "/factors", OWN, status=201)
    frozen = await door.ask("GET", "/inventories/inv-1/versions/1")
    assert frozen == published["publication"]
    assert frozen["location"]["kg_co2e"] == pytest.approx(4419)
    assert frozen["exclusions"] == [{"subject": "commuting", "reason": "no data yet", "significance": None}]
    restated = await door.ask("GET", "/inventories/inv-1/versions/1/restatement")
    assert restated["difference_kg_co2e"] == pytest.approx(-119)
    assert restated["changes"][0]["because"] == ["MY-44-2023"]
    assert restated["frozen"] == frozen
    text = await door.send("GET", "/inventories/inv-1/versions/1/statement")
    assert hashlib.sha256(text.content).hexdigest() == published["digest"] == text.headers["x-statement-sha256"]
    listed = await door.ask("GET", "/inventories")
    assert [(one["id"], one["version"], one["digest"]) for one in listed] == [("inv-1", 1, published["digest"])]
    assert await door.ask("GET", "/inventories", after="inv-1", after_version=1) == []
    await door.ask("GET", "/inventories/inv-1/versions/2", status=404)


async def test_meters_tell_an_inventory_what_a_node_used_and_what_is_missing(door: Door) -> None:
    await door.town.book("feed", [10.0] * 90 + [None] * 6)
    asked = {
        "name": "a day",
        "organisation": "operator",
        "parts": [{"node": "operator", **DAY}],
        "metered": [{"line_id": "grid"}],
    }
    found = await door.ask("POST", "/inventories/inv-1/preview", asked)
    assert (found["imported_kwh"], found["location"]["incomplete"]) == (900.0, ["grid:site-1:1"])
    (line,) = found["lines"]
    assert line["completeness"] == pytest.approx(90 / 96)
    assert (line["meters"]["circuits"], line["meters"]["unknown"]) == (["feed"], [])
    assert "incomplete" in line["location"]["marks"]
    unknown = await door.ask("POST", "/inventories/inv-1/preview", asked | {"parts": [{"node": "site-2", **DAY}]})
    assert (unknown["location"]["kg_co2e"], unknown["location"]["unknown"]) == (None, ["grid:site-2:1"])
    nowhere = await door.ask(
        "POST", "/inventories/inv-1/preview", asked | {"parts": [{"node": "nowhere", **DAY}]}, status=404
    )
    assert "没有回路、机房、局站、组织或区域 nowhere" in nowhere["detail_zh"]


async def test_a_certificate_serves_one_inventory(door: Door) -> None:
    held = await door.ask("POST", "/inventories/certificates", GREEN | {"cancelled_on": None}, status=201)
    assert held["revision"] == 1
    refused = await door.ask("POST", "/inventories/inv-1/versions", bought(certificates=["GEC-1"]), status=400)
    assert (refused["code"], "尚未核销" in refused["detail_zh"]) == ("certificate_refused", True)
    await door.ask("POST", "/inventories/certificates", GREEN | {"revision": 2}, status=201)
    published = await door.ask("POST", "/inventories/inv-1/versions", bought(certificates=["GEC-1"]), status=201)
    summary = published["publication"]["summary"]
    assert (summary["covered_kwh"], summary["coverage"]) == (1000.0, 0.1)
    twice = await door.ask("POST", "/inventories/inv-2/versions", bought(certificates=["GEC-1"]), status=409)
    assert twice["code"] == "certificate_used_twice"
    assert twice["detail"] == "certificate GEC-1 is used by inv-1 already"
    await door.ask("POST", "/inventories/inv-2/preview", bought(certificates=["GEC-9"]), status=404)


async def test_avoided_emissions_are_published_apart(door: Door) -> None:
    recycled = {
        "line_id": "boards",
        "node": "site-1",
        "region_code": "51",
        **YEAR,
        "series": "WASTE-RECYCLE-SOURCE-003",
        "amount": 1000.0,
        "unit": "kg",
        "origin": "weighing slip",
    }
    body = {"name": "2023", "sources": [recycled]}
    preview = await door.ask("POST", "/emissions/avoided/green/preview", body)
    assert preview["total"]["kg_co2e"] == pytest.approx(2060)
    published = await door.ask("POST", "/emissions/avoided/green/versions", body, status=201)
    assert await door.ask("GET", "/emissions/avoided/green/versions/1") == published["publication"]
    text = await door.send("GET", "/emissions/avoided/green/versions/1/statement")
    assert hashlib.sha256(text.content).hexdigest() == published["digest"]
    assert [one["id"] for one in await door.ask("GET", "/emissions/avoided")] == ["green"]
    assert await door.ask("GET", "/inventories") == []
    wrong = await door.ask(
        "POST", "/emissions/avoided/green/preview", {"name": "x", "sources": [recycled | {"unit": "kWh"}]}, status=400
    )
    assert wrong["code"] == "wrong_unit"


async def test_standard_coal_of_a_list(door: Door) -> None:
    table = {one["coeff_id"]: one for one in await door.ask("GET", "/energy/standard-coal")}
    assert (table["ELEC-EQ"]["kgce_per_unit"], table["WATER-FRESH"]["kgce_per_unit"]) == (0.1229, 0.2571)
    power = {"coeff_id": "ELEC-EQ", "amount": 1000.0, "unit": "kWh", "origin": "bill"}
    found = await door.ask("POST", "/energy/standard-coal", {"uses": [power]})
    assert (found["total"]["value"], found["basis"]) == (pytest.approx(122.9), "equivalent")
    stock = {"opening": 50.0, "purchased": 100.0, "closing": 30.0, "transferred_out": 20.0}
    diesel = {"coeff_id": "DIESEL", "stock": stock, "unit": "kg", "origin": "stock book"}
    assert (await door.ask("POST", "/energy/standard-coal", {"uses": [diesel]}))["total"]["value"] == pytest.approx(
        145.71
    )
    valued = {"uses": [power], "basis": "equal-value", "equal_value_kgce_per_kwh": 0.3}
    assert (await door.ask("POST", "/energy/standard-coal", valued))["total"]["value"] == pytest.approx(300)
    await door.ask("POST", "/energy/standard-coal", {"uses": [power | {"unit": "MWh"}]}, status=400)


async def test_only_who_may_write_publishes_and_who_sees_some_sites_sees_no_statement(door: Door) -> None:
    reads = ("carbon:read",)
    for method, path, body in [
        ("POST", "/factors", OWN),
        ("POST", "/inventories/certificates", GREEN),
        ("POST", "/inventories/inv-1/versions", bought()),
        ("POST", "/emissions/avoided/a/versions", {"name": "x", "sources": []}),
    ]:
        await door.ask(method, path, body, scopes=reads, status=403)
    limited = await door.ask("POST", "/inventories/inv-1/preview", bought(), sites=("site-1",), status=403)
    assert "limited to sites" in limited["detail"]
    await door.ask("GET", "/inventories", sites=("site-1",), status=403)
    await door.ask("GET", "/factors", scopes=("alarm:read",), status=403)
