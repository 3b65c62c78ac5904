"""Connections, units, mappings and deliveries over the API: what is refused, and what is said about it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from libs.common.bus import envelope, topics
from libs.common.contracts.registry import Device, Region, Site, SiteKind, StationClass, record_of
from libs.common.ids import RegionId, SiteId
from tests.integration.export.conftest import Export, Kit, ScriptedCentre
from tests.integration.export.test_export_centre_writes import OPTIONS, _put

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

NEW = {"id": "gd", "name": "广东SC", "url": "http://127.0.0.1:9"}
COMMON = {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "version": 1, "changed_by": "user:test"}


WRONG: list[tuple[dict[str, object], int, str]] = [
    ({"dialect": "Q"}, 400, "known are C, M, T, U, Y"),
    ({"url": "ftp://10.20.0.1/"}, 400, "http://host:port/path"),
    ({"url": "http://user:secret@10.20.0.1/"}, 400, "without an account"),
    ({"url": "http://[::1"}, 400, "expected http://host:port/path"),
    ({"url": "http://a b/"}, 400, "expected http://host:port/path"),
    ({"url": "http://10..0.1/"}, 400, "expected http://host:port/path"),
    ({"options": {"silence_s": 1e15}}, 422, "silence_s"),
    ({"url": "http://10.20.0.1:99999/"}, 400, "http://host:port/path"),
    ({"id": "../x"}, 422, "id"),
    ({"options": {"batch_size": 0}}, 422, "batch_size"),
    ({"options": {"peers": ["10.0.0.0/99"]}}, 422, "peers"),
    ({"options": {"timeout": 3}}, 422, "timeout"),
]


async def test_a_wrong_connection_is_refused_with_the_field(export: Export) -> None:
    for changes, status, words in WRONG:
        answer = await export.api("POST", "/sc-connections", {**NEW, **changes}, status=status)
        assert words in answer["detail"], changes
        assert answer["detail_zh"]
        assert await export.api("GET", "/sc-connections") == [], changes


async def test_a_connection_is_created_once_and_changed_in_place(export: Export) -> None:
    created = await export.api("POST", "/sc-connections", NEW, status=201)
    assert created["url"] == "http://127.0.0.1:9/services/SCService"
    assert (await export.api("POST", "/sc-connections", NEW, status=409))["code"] == "connection_exists"
    await export.api("PUT", "/sc-connections/gd", {"name": "改名", "url": NEW["url"], "enabled": False})
    [connection] = await export.api("GET", "/sc-connections")
    assert (connection["name"], connection["enabled"]) == ("改名", False)
    await export.api("DELETE", "/sc-connections/gd", status=204)
    await export.api("DELETE", "/sc-connections/gd", status=404)
    await export.api("POST", "/sc-connections", NEW, status=201)


@pytest.mark.sql
async def test_what_was_granted_to_a_removed_connection_does_not_count_for_a_new_one_of_its_name(
    export: Export, postgres_url: str
) -> None:
    new = {**NEW, "dialect": "Y"}
    permits: dict[str, Any] = {"kinds": ["threshold"], "points": [{"point": "220200010010"}]}

    async def stored() -> Mapping[str, Any]:
        connection = await asyncpg.connect(postgres_url)
        try:
            [row] = await connection.fetch(
                "select credentials, (select count(*) from export.option_books) as books from export.sc_connections"
            )
            return dict(row)
        finally:
            await connection.close()

    await export.api("POST", "/sc-connections", {**new, "account": {"username": "sc", "password": "p"}}, status=201)
    await export.api("PUT", "/sc-connections/gd/permits", {"permits": permits, "source": "agreement 9"})
    await _put(export, "/sc-connections/gd/options", OPTIONS)
    before = await stored()
    assert (before["credentials"] is not None, before["books"]) == (True, 1)
    await export.api("DELETE", "/sc-connections/gd", status=204)
    assert (await stored())["books"] == 0
    await export.api("POST", "/sc-connections", new, status=201)
    await export.api("GET", "/sc-connections/gd/options", status=404)
    ended, granted = await export.api("GET", "/sc-connections/gd/permits/versions")
    assert (ended["permits"]["kinds"], ended["source"]) == ([], "the connection was removed")
    assert granted["permits"]["kinds"] == ["threshold"]
    assert (await stored())["credentials"] is None
    # One that never was permitted anything has no version of it.
    await export.api("POST", "/sc-connections", {**new, "id": "gx"}, status=201)
    await export.api("DELETE", "/sc-connections/gx", status=204)
    await export.api("POST", "/sc-connections", {**new, "id": "gx"}, status=201)
    assert await export.api("GET", "/sc-connections/gx/permits/versions") == []


@pytest.mark.sql
async def test_accounts_are_encrypted_kept_over_a_change_and_never_shown(
    export: Export, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = {"username": "sc-user", "password": "geheim-8731"}
    await export.api("POST", "/sc-connections", {**NEW, "account": account})
    await export.api("PUT", "/sc-connections/gd", {"name": "x", "url": NEW["url"]})
    shown = str(await export.api("GET", "/sc-connections/gd"))
    connection = await asyncpg.connect(postgres_url)
    try:
        sealed = await connection.fetchval("select credentials from export.sc_connections")
        told = str(await connection.fetch("select value from export.outbox"))
    finally:
        await connection.close()
    assert sealed
    for place in (shown, sealed.decode(), told, caplog.text):
        assert "geheim" not in place
        assert "sc-user" not in place


@pytest.mark.sql
async def test_unit_and_mapping_say_what_an_id_looks_like(export: Export, kit: Kit) -> None:
    await export.api("POST", "/sc-connections", NEW)
    answer = await export.api("PUT", "/sc-connections/gd/units/4401064380001", {"name": "x"}, status=400)
    assert "14 digits" in answer["detail"]
    assert "14位数字" in answer["detail_zh"]
    await export.api("PUT", f"/sc-connections/none/units/{kit.fsu}", {"name": "x"}, status=404)
    await export.api("PUT", f"/sc-connections/gd/units/{kit.fsu}", {"name": "x"})

    mapping = kit.mapping()
    mapping["points"][0]["point_id"] = "16104001"
    mapping["points"][1]["source"] = "hertz"
    answer = await export.api("PUT", f"/mappings/gd/{kit.fsu}", mapping, status=400)
    assert [problem["field"] for problem in answer["facts"]["problems"]] == ["points[0].point_id", "points[1].source"]
    assert "10 digits" in answer["detail"]
    assert (await export.api("GET", f"/mappings/gd/{kit.fsu}")) == {"devices": [], "points": []}

    await export.api("PUT", f"/mappings/gd/{kit.fsu}", kit.mapping())
    assert await export.api("GET", "/mappings") == [
        {"connection_id": "gd", "unit_id": kit.fsu, "devices": 1, "points": 4}
    ]
    await export.api("GET", "/mappings/gd/44010643800099", status=404)


async def test_a_proposal_follows_the_registry_and_the_profiles(export: Export, kit: Kit) -> None:
    region = Region(id="tianhe", name="Tianhe", code="440106", **COMMON)
    site = Site(
        id="s-1", name="Site", code="03921", kind=SiteKind.ACCESS_ROOM, region=RegionId("tianhe"),
        station_class=StationClass.D, **COMMON,
    )  # fmt: skip
    device = Device(id="m-1", name="Meter", kind="meter_3p", site=SiteId("s-1"), profile="chint_dtsu666", **COMMON)
    await export.bus.publish(
        [
            envelope.message(topics.REGISTRY, each.id, record_of([each]), source="test", time=datetime.now(UTC))
            for each in (region, site, device)
        ],
        timeout_s=5,
    )
    await export.api("POST", "/sc-connections", NEW)
    await export.api("PUT", f"/sc-connections/gd/units/{kit.fsu}", {"name": "x", "sites": ["s-1"]})
    found: dict[str, Any] = {}

    async def proposed() -> bool:
        try:
            found.update(await export.api("POST", f"/mappings/gd/{kit.fsu}/proposal", {}))
        except AssertionError:
            return False
        return bool(found["mapping"]["points"])

    await kit.until(proposed)
    points = {point["source"]: point["point_id"] for point in found["mapping"]["points"]}
    assert points["voltage_a"] == "0416104001"
    assert points["0s16001001"] == "0416001001"
    assert points["0s19012001"] == "0419012001"
    assert any("current_a" in note for note in found["notes"])
    await export.api("PUT", f"/mappings/gd/{kit.fsu}", found["mapping"])

    await export.api("PUT", f"/sc-connections/gd/units/{kit.fsu}", {"name": "x", "sites": ["s-2"]})
    answer = await export.api("POST", f"/mappings/gd/{kit.fsu}/proposal", {}, status=409)
    assert "s-2" in answer["detail"]


async def test_rights_are_asked_for(export: Export, kit: Kit) -> None:
    async def status(method: str, path: str, **claims: Any) -> int:
        token = export.keys.sign_token("gateway", audience="export", subject="li", kind="user", **claims)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{export.api_port}", trust_env=False) as http:
            headers = {"authorization": f"Bearer {token}"} if claims else {}
            return (await http.request(method, f"/api/v1{path}", json=NEW, headers=headers)).status_code

    assert await status("GET", "/deliveries") == 401
    assert await status("GET", "/deliveries", scopes=["alarm:read"]) == 403
    assert await status("GET", "/deliveries", scopes=["export:read"]) == 200
    assert await status("POST", "/sc-connections", scopes=["export:write"]) == 403
    assert await status("POST", "/sc-connections", scopes=["export:admin"], sites=["s-1"]) == 403
    assert await status("POST", "/sc-connections", scopes=["export:admin"]) == 201


async def test_deliveries_are_paged_filtered_and_limited_to_one_s_sites(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre)
    await export.publish(*(kit.begin(f"a-{n}") for n in range(5)))

    async def all_there() -> bool:
        return len(await export.deliveries(state="delivered")) == 5

    await kit.until(all_there)
    first = await export.api("GET", "/deliveries?limit=2")
    second = await export.api("GET", f"/deliveries?limit=2&cursor={first['next_cursor'].replace('+', '%2B')}")
    third = await export.api("GET", f"/deliveries?limit=2&cursor={second['next_cursor'].replace('+', '%2B')}")
    shown = [row["alarm_id"] for page in (first, second, third) for row in page["items"]]
    assert sorted(shown) == [f"a-{n}" for n in range(5)]
    assert third["next_cursor"] is None
    assert [row["alarm_id"] for row in await export.deliveries(alarm="a-3")] == ["a-3"]
    assert await export.deliveries(unit="44010643800099") == []
    await export.api("GET", "/deliveries?cursor=nonsense", status=400)

    for sites, expected in ((["s-1"], 5), (["s-2"], 0), (["region:nowhere"], 0)):
        token = export.keys.sign_token(
            "gateway", audience="export", subject="li", kind="user", scopes=["export:read"], sites=sites
        )
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{export.api_port}", trust_env=False) as http:
            answer = await http.get("/api/v1/deliveries", headers={"authorization": f"Bearer {token}"})
        assert len(answer.json()["items"]) == expected
