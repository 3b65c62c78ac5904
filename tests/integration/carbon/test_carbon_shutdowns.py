"""Shutdown savings on a real database, bus and API: what control proved is kept once, and valued against the books."""

import math
import statistics
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.port import Message
from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.control import CommandState
from libs.common.contracts.registry import Load, LoadKind
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.accounts import Account
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.sheet import SheetPrice
from services.carbon.store import bills as bills_store
from services.carbon.store import tariffs as tariffs_store
from tests.integration.carbon.savings_world import COMMON, NIGHT, World, control_event, night, open_world, registry
from tests.integration.carbon.why_walk import Walk

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

OFF, ON = NIGHT - timedelta(seconds=1), NIGHT + timedelta(hours=6)
"""The windows of source 000: 23:59:59 to 06:00:00."""
DAYS = 21
FIRST = NIGHT - timedelta(days=DAYS)


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(postgres_url, tmp_path, registry()) as found:
        yield found


def branch(*, off: range = range(0), days: int = DAYS + 3, kwh: float = 0.5) -> list[float]:
    """Quarter hours of a branch of 2 kW, which uses a tenth of it in the windows of some nights."""
    energy = [kwh] * (days * 96)
    for one in off:
        start = (DAYS + one) * 96
        energy[start : start + 24] = [kwh / 10] * 24
    return energy


async def test_proved_switchings_are_kept_once_however_often_they_are_told(world: World) -> None:
    events = night(OFF, ON, "o1")
    await world.tell(events)
    await world.consume(len(events))
    kept = await world.switchings()
    assert kept == [
        ("aau-1", OFF.astimezone(UTC), True, "o1", "p1"),
        ("aau-1", ON.astimezone(UTC), False, "o1", "p1"),
    ]
    await world.tell(events)  # control says it again, and carbon was started anew
    await world.consume(2 * len(events))
    assert await world.switchings() == kept
    async with world.db.write() as conn:  # the group reads the topic from its beginning
        await conn.execute("update consumer_cursors set next = 0 where grp = 'carbon.switchings'")
    await world.consume(2 * len(events))
    assert await world.switchings() == kept


async def test_a_switching_by_hand_is_kept_and_learns_its_occurrence_when_that_is_told_later(world: World) -> None:
    command, occurrence = night(OFF, ON, "o1")[2:4]
    nameless = command.model_copy(update={"occurrence_id": None, "plan_id": None})
    await world.tell([nameless])
    await world.consume(1)
    assert await world.switchings() == [("aau-1", OFF.astimezone(UTC), True, None, None)]
    await world.tell([occurrence, nameless])
    await world.consume(3)
    assert await world.switchings() == [("aau-1", OFF.astimezone(UTC), True, "o1", "p1")]


async def test_what_is_no_event_is_put_aside_and_stops_nobody(world: World) -> None:
    await world.bus.publish(
        [Message(topic=topics.CONTROL_EVENTS, key="site-1", value=b'{"state": "gone"}', headers=())], timeout_s=20.0
    )
    await world.tell(night(OFF, ON, "o1"))
    await world.consume(8)
    assert len(await world.switchings()) == 2
    async with world.db.read() as conn:
        assert await conn.fetchval("select count(*) from dead_letters where grp = 'carbon.switchings'") == 1


async def two_nights(world: World) -> None:
    await world.book("branch-1", FIRST, branch(off=range(2)))
    events = [
        *night(OFF, ON, "o1"),
        *night(OFF + timedelta(days=1), ON + timedelta(days=1), "o2"),
        control_event(CommandState.FAILED, ON, command_id="x", load_id="dark", occurrence_id=None, plan_id=None),
    ]
    await world.tell(events)
    await world.consume(len(events))


def span(days: int = 3) -> dict[str, Any]:
    return {"start": (NIGHT - timedelta(hours=1)).isoformat(), "end": (NIGHT + timedelta(days=days)).isoformat()}


async def test_savings_of_a_site_a_plan_and_an_occurrence(world: World) -> None:
    await two_nights(world)
    found = await world.ask("GET", "/savings/shutdowns", site="site-1", **span())
    # 24 quarter hours at 0.45 kWh less; the quarter hour in which the load goes off lies before them and is unchanged.
    assert found["total"]["saving_kwh"] == pytest.approx(2 * 24 * 0.45)
    assert found["total"]["completeness"] == 1.0
    assert found["total"]["standard_error_kwh"] == pytest.approx(0.0, abs=1e-9)
    assert found["total"]["publishable"] is True
    assert found["by_occurrence"]["o1"]["saving_kwh"] == pytest.approx(10.8)
    assert found["by_site"]["site-1"]["saving_kwh"] == pytest.approx(21.6)
    assert found["unmetered"] == ["dark"]
    window = found["windows"][0]
    assert window["method"] == "clean_days"
    assert len(window["clean_days"]) >= 10
    assert window["interval_completeness"] == 1.0
    assert window["baseline_kwh"] - window["actual_kwh"] == pytest.approx(window["saving_kwh"])
    # MEE/NBS announcement: Guangdong, data year 2022, 0.4403 kgCO2/kWh.
    assert found["factors"][0]["factor_id"] == "GRID-44-2022"
    assert found["total"]["emission_kg_co2"] == pytest.approx(21.6 * 0.4403)

    plan = await world.ask("GET", "/savings/shutdowns", plan="p1", **span())
    assert plan["total"]["saving_kwh"] == pytest.approx(21.6)
    occurrence = await world.ask("GET", "/savings/shutdowns/o2")
    assert occurrence["total"]["saving_kwh"] == pytest.approx(10.8)
    assert [one["parts"][0]["occurrence_id"] for one in occurrence["windows"]] == ["o2"]


async def test_an_interval_that_is_unknown_leaves_its_window_without_a_figure(world: World) -> None:
    await two_nights(world)
    await world.book("branch-1", NIGHT + timedelta(hours=2), [None], version=2)
    found = await world.ask("GET", "/savings/shutdowns", site="site-1", **span())
    assert found["total"]["windows"] == 2
    assert found["total"]["completeness"] == 0.5
    assert found["by_occurrence"]["o1"]["saving_kwh"] is None
    assert found["windows"][0]["reason"] == "window_incomplete"
    assert found["windows"][0]["interval_version"] == 2
    assert found["total"]["saving_kwh"] == pytest.approx(10.8)


async def test_late_data_change_the_saving(world: World) -> None:
    await two_nights(world)
    await world.book("branch-1", NIGHT, [0.25] * 24, version=2)
    found = await world.ask("GET", "/savings/shutdowns/o1")
    assert found["total"]["saving_kwh"] == pytest.approx(24 * 0.25)


async def test_too_few_clean_days_are_made_up_for_by_similar_sites(world: World) -> None:
    first = NIGHT - timedelta(days=3)
    await world.book("branch-1", first, branch(off=range(1))[(DAYS - 3) * 96 :])
    # The other site has used 20 % more since the night in question.
    others = branch()
    others[DAYS * 96 :] = [0.6] * (3 * 96)
    await world.book("branch-2", FIRST, others)
    events = night(OFF, ON, "o1")
    await world.tell(events)
    await world.consume(len(events))
    (window,) = (await world.ask("GET", "/savings/shutdowns/o1"))["windows"]
    assert window["method"] == "control_group"
    assert window["control_group"] == ["branch-2"]
    assert window["baseline_kwh"] > 24 * 0.5


async def test_a_cluster_has_what_the_neighbour_used_more(world: World) -> None:
    await two_nights(world)
    more = branch()
    more[DAYS * 96 : DAYS * 96 + 24] = [0.6] * 24
    more[(DAYS + 1) * 96 : (DAYS + 1) * 96 + 24] = [0.6] * 24
    await world.book("branch-2", FIRST, more)
    found = await world.ask("GET", "/savings/shutdowns", site="site-1", neighbour="site-2", **span())
    assert found["total"]["saving_kwh"] == pytest.approx(21.6)
    assert found["cluster"]["saving_kwh"] == pytest.approx(21.6 - 2 * 24 * 0.1)
    assert (await world.ask("GET", "/savings/shutdowns", site="site-1", **span()))["cluster"] is None


async def test_saved_energy_is_worth_what_its_account_pays_at_night(world: World) -> None:
    await two_nights(world)
    assert (await world.ask("GET", "/savings/shutdowns/o1"))["total"]["money_cny"] is None
    sheet: dict[str, Any] = {"region": "CN-44", "customer_class": "industrial_commercial", "voltage": "1-10kV"}
    price = EnergyPrice(
        key=PriceKey(**sheet, month=date(2022, 5, 1)),
        version=1,
        base_cny_per_kwh=Decimal("0.6"),
        fixed_cny_per_kwh=Decimal("0.03"),
        source="price sheet of May 2022",
        recorded_at=world.clock.now(),
    )
    account = Account(account_number="0320001", valid_from=date(2022, 1, 1), site_id="site-1", **sheet)
    async with world.db.write() as conn:
        await bills_store.add_account(conn, account, at=world.clock.now(), by="user:li")
        await tariffs_store.add_prices(conn, [SheetPrice(price, None)], by="user:li")
    found = await world.ask("GET", "/savings/shutdowns", site="site-1", **span())
    # Guangdong's valley is 0:00 to 8:00 at 0.38 of the base (粤发改价格〔2021〕331号).
    assert found["total"]["money_cny"] == pytest.approx(21.6 * (0.6 * 0.38 + 0.03))


async def test_a_branch_with_cooling_is_held_against_the_weather(world: World) -> None:
    cooler = Load(
        id="ac-1",
        name="Cooler",
        kind=LoadKind.AIR_CONDITIONER,
        site=SiteId("site-1"),
        meter=CircuitId("branch-1"),
        **COMMON,
    )
    await world.learn([cooler])
    first = NIGHT - timedelta(days=60)
    # The weather has a period of its own, so that days of one class differ.
    warm = [26.0 + 6.0 * math.sin(index / 3) for index in range(62)]
    use = [(48.0 + 2.4 * max(0.0, each - 22.0)) / 96 for each in warm]
    energy = [each for each in use for _ in range(96)]
    energy[60 * 96 : 60 * 96 + 24] = [0.05] * 24
    await world.book("branch-1", first, energy)
    events = night(OFF, ON, "o1")
    await world.tell(events)
    await world.consume(len(events))
    (blind,) = (await world.ask("GET", "/savings/shutdowns/o1"))["windows"]
    assert (blind["adjustment_kwh"], blind["marks"]) == (0.0, ["temperature_unknown"])

    days = [(first + timedelta(days=index)).date() for index in range(62)]
    rows = [{"day": day.isoformat(), "mean_c": each} for day, each in zip(days, warm, strict=True)]
    await world.ask("PUT", "/savings/temperatures/site-1", {"source": "station 59287", "days": rows})
    (window,) = (await world.ask("GET", "/savings/shutdowns/o1"))["windows"]
    outside = dict(zip((day.isoformat() for day in days), warm, strict=True))
    usual = statistics.median(outside[day] for day in window["clean_days"])
    # 2.4 kWh a day and kelvin are 0.1 kW/K, over the six hours and a quarter of the window.
    assert window["marks"] == []
    assert window["adjustment_kwh"] == pytest.approx(0.1 * (warm[60] - usual) * 6.25, rel=0.02)


async def test_the_days_of_a_recorded_outage_are_no_clean_days(world: World) -> None:
    await two_nights(world)
    day = (NIGHT - timedelta(days=2)).astimezone(CIVIL_ZONE)
    body = {
        "site": "site-1",
        "circuit": "branch-1",
        "began_at": day.isoformat(),
        "ended_at": (day + timedelta(hours=3)).isoformat(),
        "reason": "mains failure",
    }
    before = (await world.ask("GET", "/savings/shutdowns/o1"))["windows"][0]["clean_days"]
    one = await world.ask("POST", "/savings/outages", body, status=201)
    assert one["recorded_by"] == "user:li"
    after = (await world.ask("GET", "/savings/shutdowns/o1"))["windows"][0]["clean_days"]
    assert set(before) - set(after) == {day.date().isoformat()}
    listed = await world.ask("GET", "/savings/outages", site="site-1", start=FIRST.isoformat(), end=ON.isoformat())
    assert [row["outage_id"] for row in listed] == [one["outage_id"]]
    await world.ask("POST", f"/savings/outages/{one['outage_id']}/withdraw")
    assert (await world.ask("GET", "/savings/shutdowns/o1"))["windows"][0]["clean_days"] == before
    await world.ask("POST", f"/savings/outages/{one['outage_id']}/withdraw", status=409)
    async with world.db.read() as conn:
        assert await conn.fetchval("select count(*) from outbox where topic = $1", topics.AUDIT) == 2


async def test_who_may_see_and_record(world: World) -> None:
    await two_nights(world)
    elsewhere = ("site-2",)
    await world.ask("GET", "/savings/shutdowns", site="site-1", sites=elsewhere, status=404, **span())
    await world.ask("GET", "/savings/shutdowns", plan="p1", sites=elsewhere, status=403, **span())
    await world.ask("GET", "/savings/shutdowns/o1", sites=elsewhere, status=403)
    await world.ask("GET", "/savings/shutdowns/o1", sites=("region:gd",))
    await world.ask("GET", "/savings/shutdowns/o1", scopes=("alarm:read",), status=403)
    body = {"site": "site-1", "began_at": FIRST.isoformat(), "ended_at": ON.isoformat(), "reason": "x"}
    await world.ask("POST", "/savings/outages", body, scopes=("carbon:read",), status=403)
    await world.ask("POST", "/savings/outages", body, sites=elsewhere, status=404)


async def test_what_is_asked_wrongly_is_refused_in_both_languages(world: World) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "name either site or plan"),
        ({"site": "site-1", "plan": "p1"}, "name either site or plan"),
        ({"plan": "p1", "neighbour": "site-2"}, "expected with site only"),
        ({"site": "site-1", "end": "2032-01-01T00:00:00Z"}, "at most 400 days"),
    ]
    for params, message in wrong:
        reply = await world.ask("GET", "/savings/shutdowns", status=400, **(span() | params))
        assert message in reply["detail"]
        assert reply["detail_zh"]
    reply = await world.ask("GET", "/savings/shutdowns/never", status=404)
    assert "never" in reply["detail_zh"]


async def test_a_wrong_outage_is_refused(world: World) -> None:
    body = {"site": "site-1", "began_at": ON.isoformat(), "ended_at": OFF.isoformat(), "reason": "x"}
    assert "after" in (await world.ask("POST", "/savings/outages", body, status=400))["detail"]
    other = body | {"circuit": "branch-2", "ended_at": datetime(2023, 1, 1, tzinfo=UTC).isoformat()}
    assert "branch-2" in (await world.ask("POST", "/savings/outages", other, status=400))["detail"]


async def test_a_saving_is_walked_down_to_the_intervals_of_its_windows(world: World) -> None:
    await two_nights(world)
    found = await world.ask("GET", "/savings/shutdowns/o1")
    walk = Walk(world.ask)
    saving = await walk.figure(figure="saving", id="o1")
    assert saving["value"] == found["total"]["saving_kwh"]
    assert [one["factor_id"] for one in saving["factors"]] == ["GRID-44-2022"]
    assert {"saving_window", "saving_baseline", "saving_usual", "saving_rebound"} <= set(walk.seen)
    assert {"energy", "circuit", "interval"} <= set(walk.seen)
    for figure, name in (
        ("saving_emission", "emission_kg_co2"), ("saving_money", "money_cny"), ("saving_error", "standard_error_kwh"),
    ):  # fmt: skip
        assert (await walk.figure(figure=figure, id="o1"))["value"] == found["total"][name]
    baseline = await walk.figure(figure="saving_baseline", id="o1", line="0")
    assert baseline["value"] == found["windows"][0]["baseline_kwh"]
    days = await walk.figure(figure="saving_usual", id="o1", line="0")
    assert (days["rule"], len(days["inputs"])) == ("median", len(found["windows"][0]["clean_days"]))
    parts = [("part", found["windows"][0]["circuit_id"]), ("of_site", "site-1"), ("plan", "p1")]
    for name, value in parts:
        some = await walk.figure(figure="saving", site="site-1", **{name: value}, **span())
        assert some["value"] is not None
    wholes: list[dict[str, Any]] = [{"plan": "p1"}, {"site": "site-1"}]
    for whole in wholes:
        report = await world.ask("GET", "/savings/shutdowns", **whole, **span())
        also = await Walk(world.ask).figure(figure="saving", **whole, **span())
        assert also["value"] == report["total"]["saving_kwh"] is not None
        await world.ask("GET", "/energy/trace", figure="saving", sites=("elsewhere",), status=403, **whole, **span())
    refused = await world.ask("GET", "/energy/trace", figure="saving", id="o1", sites=("elsewhere",), status=403)
    assert refused["detail_zh"]
    missing = await world.ask("GET", "/energy/trace", figure="saving_window", id="o1", line="99", status=400)
    assert missing["detail_zh"]
