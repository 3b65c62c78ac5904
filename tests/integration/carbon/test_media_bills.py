"""Bills of other media on a real database: entered, imported, corrected, beside their meters, traced, refused."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.registry import Site, SiteKind
from libs.common.ids import CircuitId, OrganisationId, RegionId, SiteId
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store.media import MediumBooks
from tests.integration.carbon.carbon_levels import COMMON, QUARTER, START
from tests.integration.carbon.why_world import Town, open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAYS: dict[str, Any] = {"from": "2026-03-02", "to": "2026-03-03"}
SPAN: dict[str, Any] = {"from": START.isoformat(), "to": (START + 96 * QUARTER).isoformat()}
LISTED = Site(
    id=SiteId("site-2"), name="Two", code="2", kind=SiteKind.BASE_STATION, region=RegionId("gz"),
    organisation=OrganisationId("branch"), archive={"t3_account_number": "W-2", "t4_account_number": "H-2"},
    **COMMON | {"version": 2},
)  # fmt: skip


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(postgres_url, tmp_path) as found:
        yield found


async def use(town: Town, point: str, circuit: str, quantities: list[float], *, site: str = "site-1") -> None:
    async with town.city.db.write() as conn:
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


def bill(**changed: object) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "medium": "water", "account_number": "W-1", "number": "B-1", "first_day": "2026-03-02",
        "last_day": "2026-03-02", "quantity": "50", "unit": "m3", "amount_cny": "200.00", "issued_on": "2026-04-01",
    }  # fmt: skip
    return {name: value for name, value in (fields | changed).items() if value != "absent"}


async def enter(town: Town, number: str = "W-1", medium: str = "water", **more: Any) -> None:
    await town.ask("PUT", f"/bills/media/{medium}/accounts/{number}", {"site": "site-1", **more})


async def beside(town: Town, medium: str = "water", account: str = "W-1") -> list[dict[str, Any]]:
    path = f"/bills/media/{medium}/reconciliation"
    items: list[dict[str, Any]] = (await town.ask("GET", path, account=account, **DAYS))["items"]
    return items


async def test_a_bill_is_kept_in_versions_and_listed_by_medium_account_site_and_day(town: Town) -> None:
    await enter(town)
    await enter(town, "W-1", "heat")
    assert await town.ask("POST", "/bills/media", bill()) == {"version": 1}
    assert await town.ask("POST", "/bills/media", bill(medium="heat", unit="GJ", quantity=1.5)) == {"version": 1}
    assert await town.ask("POST", "/bills/media", bill(quantity="48.5")) == {"version": 2}
    every = (await town.ask("GET", "/bills/media"))["items"]
    assert [(one["medium"], one["quantity"], one["unit"]) for one in every] == [
        ("heat", "1.5", "GJ"), ("water", "48.5", "m3"),
    ]  # fmt: skip
    assert every[1] == bill(quantity="48.5")

    async def numbers(**asked: Any) -> list[str]:
        return [one["medium"] for one in (await town.ask("GET", "/bills/media", **asked))["items"]]

    assert await numbers(medium="water") == ["water"]
    assert await numbers(medium="gas") == []
    assert await numbers(account="W-1", site="site-1") == ["heat", "water"]
    assert await numbers(site="site-2") == await numbers(account="W-9") == []
    assert await numbers(**{"from": "2026-03-03"}) == await numbers(to="2026-03-02") == []
    assert (await town.ask("GET", "/bills"))["items"] == []  # of electricity, as ever
    versions = (await town.ask("GET", "/bills/media/water/W-1/B-1"))["items"]
    assert [(one["version"], one["quantity"], one["recorded_by"]) for one in versions] == [
        (1, "50", "user:wang"), (2, "48.5", "user:wang"),
    ]  # fmt: skip
    await town.ask("GET", "/bills/media/gas/W-1/B-1", status=404)
    said = [(one.action, one.subject) for one in await town.door.audits()]
    assert said == [
        ("account.enter", "account:water/W-1"), ("account.enter", "account:heat/W-1"),
        ("bill.enter", "bill:water/W-1/B-1"), ("bill.enter", "bill:heat/W-1/B-1"), ("bill.enter", "bill:water/W-1/B-1"),
    ]  # fmt: skip


async def test_a_bill_is_compared_with_the_meters_of_its_days_in_its_own_unit(town: Town) -> None:
    await use(town, "water_volume", "feed", [0.5] * 96)
    await use(town, "water_volume", "lift", [0.25] * 96)  # a part of it
    await enter(town)
    await town.ask("POST", "/bills/media", bill(unit="t"))
    (row,) = await beside(town)
    assert (row["verdict"], row["place"], row["point"], row["metered_quantity"], row["difference"]) == (
        "billed_more", "site-1", "water_volume", "48.0", "2.0",
    )  # fmt: skip
    assert (row["interval_completeness"], row["difference_share"]) == (1.0, 0.04)
    await enter(town, circuit="lift")
    await town.ask("POST", "/bills/media", bill(quantity="24"))
    (row,) = await beside(town)
    assert (row["verdict"], row["place"], row["metered_quantity"]) == ("agrees", "lift", "24.0")
    await use(town, "heat_energy", "lift", [250.0] * 90)
    await enter(town, "H-1", "heat")
    await town.ask("POST", "/bills/media", bill(medium="heat", account_number="H-1", unit="GJ", quantity="81.3"))
    (row,) = await beside(town, "heat", "H-1")
    assert (row["verdict"], row["metered_quantity"], row["difference"]) == ("agrees", "81.00000", "0.30000")
    assert row["interval_completeness"] == 90 / 96


async def test_what_is_not_metered_not_billed_or_of_nobody_knows_whom_is_unknown(town: Town) -> None:
    await enter(town)
    await town.ask("POST", "/bills/media", bill())
    (row,) = await beside(town)
    unknown = (None, None, None, "not_comparable")
    assert (row["metered_quantity"], row["difference"], row["difference_share"], row["verdict"]) == unknown
    await use(town, "water_volume", "feed", [0.5] * 96)
    await enter(town, "W-5")  # whose part of the site's water is whose?
    (row,) = await beside(town)
    assert (row["metered_quantity"], row["place"], row["verdict"]) == (None, None, "not_comparable")
    await enter(town, "H-1", "heat")
    await use(town, "heat_energy", "lift", [1.0] * 96)
    area = bill(medium="heat", account_number="H-1", quantity=None, unit="absent", last_day="2026-12-31")
    await town.ask("POST", "/bills/media", area)
    (row,) = await beside(town, "heat", "H-1")
    assert (row["bill"]["quantity"], row["point"], row["metered_quantity"]) == (None, None, None)


async def test_days_that_are_still_to_come_leave_a_bill_unjudged(town: Town) -> None:
    now = town.city.clock.now()
    await enter(town, circuit="feed")
    await use(town, "water_volume", "feed", [0.5] * 96)
    until = f"{now.year + 1}-03-01"  # bills have at most 400 days, and none of these is metered but the first
    await town.ask("POST", "/bills/media", bill(first_day=f"{now.year}-03-02", last_day=until))
    days: dict[str, Any] = {"from": f"{now.year}-03-02", "to": until}
    (row,) = (await town.ask("GET", "/bills/media/water/reconciliation", account="W-1", **days))["items"]
    assert row["verdict"] == "not_comparable"
    assert 0.0 <= row["interval_completeness"] < 0.01


async def test_an_account_that_a_sites_archive_names_is_known(town: Town) -> None:
    await town.city.change(LISTED)
    await use(town, "water_volume", "tenant", [1.0] * 96, site="site-2")
    await town.ask("POST", "/bills/media", bill(account_number="W-2", quantity="96"))
    await town.ask("POST", "/bills/media", bill(account_number="W-1"), status=404)
    for medium in ("heat", "cold"):
        await town.ask("POST", "/bills/media", bill(medium=medium, account_number="H-2", unit="kWh"))
    (row,) = await beside(town, account="W-2")
    assert (row["verdict"], row["place"]) == ("agrees", "site-2")
    accounts = (await town.ask("GET", "/bills/media/water/accounts"))["items"]
    assert accounts == [{"medium": "water", "account_number": "W-2", "site": "site-2", "circuit": None}]
    assert (await town.ask("GET", "/bills/media/gas/accounts"))["items"] == []
    mine = (await town.ask("GET", "/bills/media", site="site-2", medium="cold"))["items"]
    assert [one["account_number"] for one in mine] == ["H-2"]


async def test_a_difference_is_traced_down_to_the_intervals(town: Town) -> None:
    await use(town, "heat_energy", "lift", [2.125] * 96)
    await enter(town, "H-1", "heat")
    await town.ask("POST", "/bills/media", bill(medium="heat", account_number="H-1", unit="GJ", quantity="0.75"))
    (row,) = await beside(town, "heat", "H-1")
    asked: dict[str, Any] = {"account": "H-1", "line": "B-1", "point": "heat_energy"}
    walk = town.walk()
    found = await walk.figure(figure="medium_bill", **asked, **SPAN)
    assert (found["value"], found["marks"], found["unit"]) == (row["difference"], [row["verdict"]], "GJ")
    assert Decimal(found["value"]) == Decimal("0.75") - Decimal("0.0036") * 204
    assert ["medium_bill", "medium_metered", "medium", "medium_circuit"] == walk.seen[:4]
    assert "medium_interval" in walk.seen
    refused: dict[str, Any] = {"status": 403, "sites": ("site-2",), "figure": "medium_bill"}
    await town.ask("GET", "/energy/trace", **refused, **asked, **SPAN)
    for wrong in ({"line": "B-9"}, {"point": "cold_energy"}, {"account": "H-9"}):
        gone: dict[str, Any] = {"status": 404, "figure": "medium_metered", **asked, **wrong}
        assert (await town.ask("GET", "/energy/trace", **gone, **SPAN))["detail_zh"]


async def test_the_trace_of_a_bill_without_meters_ends_with_the_bill(town: Town) -> None:
    await enter(town)
    await town.ask("POST", "/bills/media", bill())
    asked: dict[str, Any] = {"account": "W-1", "line": "B-1", "point": "water_volume", **SPAN}
    for figure in ("medium_bill", "medium_metered"):
        walk = town.walk()
        found = await walk.figure(figure=figure, **asked)
        assert (found["value"], walk.seen) == (None, [figure])


async def test_what_cannot_be_is_refused_in_both_languages_and_nothing_is_kept(town: Town) -> None:
    await enter(town)
    await town.ask("POST", "/bills/media", bill())
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"account_number": "W-9"}, 404, "water account of a site", "水户号"),
        ({"medium": "heat", "unit": "GJ"}, 404, "heat account of a site", "热户号"),
        ({"number": "B-2", "last_day": "2026-03-09"}, 409, "overlaps with bill B-1", "日期重叠"),
        ({"number": "B-2", "last_day": "2026-03-01"}, 400, "last_day: expected", "last_day:应为"),
        ({"number": "B-2", "last_day": "2027-12-31"}, 400, "last_day: expected", "last_day:应为"),
        ({"quantity": "-1"}, 400, "quantity: expected 0 or more", "不小于 0"),
        ({"unit": "kWh"}, 400, "one of m3, t for water", "m3, t 之一(水)"),
        ({"unit": "absent"}, 400, "found none", "unit:应为"),
        ({"quantity": "absent"}, 400, "none without a quantity", "无用量时不填单位"),
        ({"medium": "electricity"}, 422, "body.medium", "body.medium"),
        ({"energy_kwh": "1"}, 422, "energy_kwh", "energy_kwh"),
        ({"amount_cny": "much"}, 422, "amount_cny", "amount_cny"),
        ({"number": ""}, 422, "number", "number"),
    ]
    audits = len(await town.door.audits())
    for changed, status, english, chinese in cases:
        refused = await town.ask("POST", "/bills/media", bill(**changed), status=status)
        assert english in refused["detail"], (changed, refused)
        assert chinese in refused["detail_zh"], (changed, refused)
        assert refused["detail"] != refused["detail_zh"]
    assert (await town.ask("GET", "/bills/media"))["items"] == [bill()]
    assert len(await town.door.audits()) == audits
    path = "/bills/media/water/accounts/W-1"
    await town.ask("PUT", path, {"site": "nowhere"}, status=404)
    await town.ask("PUT", path, {"site": "site-2"}, status=409)
    await town.ask("PUT", path, {"site": "site-1", "circuit": "tenant"}, status=400)
    await town.ask("PUT", path, {"site": "site-1", "circuit": "nothing"}, status=404)
    await town.ask("PUT", path, {"site": "site-1", "circuit": "lift"})
    shared = await town.ask("PUT", path.replace("W-1", "W-3"), {"site": "site-1", "circuit": "lift"}, status=409)
    assert "W-1" in shared["detail_zh"]
    await town.ask("PUT", path.replace("water", "beer"), {"site": "site-1"}, status=422)
    await town.ask("GET", "/bills/media/water/reconciliation", status=404, account="W-9", **DAYS)


async def test_sites_of_others_are_not_seen_and_not_billed(town: Town) -> None:
    await enter(town)
    await town.ask("POST", "/bills/media", bill())
    other: dict[str, Any] = {"sites": ("site-2",)}
    assert (await town.ask("GET", "/bills/media", **other))["items"] == []
    assert (await town.ask("GET", "/bills/media/water/accounts", **other))["items"] == []
    await town.ask("GET", "/bills/media/water/W-1/B-1", status=404, **other)
    await town.ask("GET", "/bills/media/water/reconciliation", status=403, account="W-1", **other, **DAYS)
    await town.ask("POST", "/bills/media", bill(quantity="1"), status=403, **other)
    await town.ask("PUT", "/bills/media/water/accounts/W-8", {"site": "site-1"}, status=403, **other)
    await town.ask("POST", "/bills/media", bill(), status=403, scopes=("carbon:read",))


async def test_a_file_is_taken_whole_or_not_at_all(town: Town) -> None:
    await enter(town)
    await enter(town, "H-1", "heat")
    head = "介质,户号,账单号,起始日,截止日,用量,单位,金额(元),出账日\n"
    good = (
        "水,W-1,B-1,2026-03-01,2026-03-31,120,t,480,2026-04-05\nheat,H-1,B-1,2026-01-01,2026-12-31,,,9000,2027-01-05\n"
    )
    unknown = "冷,H-1,B-1,2026-03-01,2026-03-31,1,kWh,1,2026-04-05\n"
    twice = "水,W-1,B-2,2026-03-31,2026-04-30,1,t,1,2026-05-05\n"
    wrong = "水,W-1,B-2,2026-04-01,2026-04-30,1,GJ,1,2026-05-05\n"

    async def load(*rows: str, status: int = 200) -> Any:
        content = "".join((head, *rows)).encode("gb18030")
        return await town.ask("POST", "/bills/media/imports", content=content, file="water.csv", status=status)

    for bad, field in ((unknown, "account_number"), (twice, "first_day"), (wrong, "unit")):
        refused = await load(good, bad, status=400)
        assert [(one["line"], one["field"]) for one in refused["facts"]["problems"]] == [(4, field)]
        assert all(one["expected"] != one["expected_zh"] for one in refused["facts"]["problems"])
    assert (await town.ask("GET", "/bills/media"))["items"] == []
    assert await load(good) == {"bills": 2, "corrected": 0}
    assert await load(good) == {"bills": 2, "corrected": 2}
    assert len((await town.ask("GET", "/bills/media"))["items"]) == 2
