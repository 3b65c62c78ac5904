"""Statistics of alarms on a real database, held against a count by hand; the command line over the real API."""

import asyncio
import io
import random
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Self

import openpyxl
import pytest

from libs.common.contracts.alarm import AlarmEvent, EndReason
from libs.common.contracts.base import Phase
from libs.common.settings import CommonSettings
from libs.suite import alarms as shown
from libs.suite.words import Words
from services.alarm.domain.places import Place
from services.alarm.store import alarms as alarms_store
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, LOW, START, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SPAN: dict[str, Any] = {"from": at(0).isoformat(), "to": at(86_400).isoformat()}


class History:
    """Alarms written as judging writes them, and the same in a list."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.alarms: list[dict[str, Any]] = []

    async def add(self, seconds: float, **facts: Any) -> str:
        alarm_id = f"a-{len(self.alarms):05}"
        alarm = {
            "alarm_id": alarm_id,
            "site_id": "site-1",
            "device_id": "m-1",
            "signal": FAILURE,
            "level": 2,
            "inhibited_by": None,
            "lasted": None,
            "taken_up": None,
            "at": at(seconds),
            **facts,
        }
        self.alarms.append(alarm)
        begin = AlarmEvent(
            alarm_id=alarm_id,
            site_id=alarm["site_id"],
            device_id=alarm["device_id"],
            signal=alarm["signal"],
            level=alarm["level"],
            inhibited_by=alarm["inhibited_by"],
            sequence=1,
            phase=Phase.BEGIN,
            began_at=alarm["at"],
            raised_at=alarm["at"],
            rule_id=alarm["signal"],
        )
        events = [begin]
        if alarm["lasted"] is not None:
            ended = alarm["at"] + timedelta(seconds=alarm["lasted"])
            changes = {"sequence": 2, "phase": Phase.END, "ended_at": ended, "end_reason": EndReason.RECOVERED}
            events.append(AlarmEvent.model_validate(begin.model_dump() | changes))
        async with self.door.world.db.write() as conn:
            await alarms_store.put_events(conn, events, [0] * len(events))
            if alarm["taken_up"] is not None:
                taken_up = alarm["at"] + timedelta(seconds=alarm["taken_up"])
                await alarms_store.acknowledge(conn, alarm_id, actor="user:wang", at=taken_up)
        return alarm_id


async def some(door: Door, number: int = 120) -> History:
    chance = random.Random(7)
    history = History(door)
    for site in range(4):
        door.world.registry.at[f"site-{site}"] = Place(
            f"site-{site}", f"Site {site}", f"站点 {site}", (f"d-{site % 2}", "province"), "D", 120.0 + site, 30.0
        )
    for _ in range(number):
        await history.add(
            chance.uniform(0, 86_000),
            site_id=f"site-{chance.randrange(4)}",
            signal=chance.choice([FAILURE, LOW, LOW]),
            level=chance.randrange(1, 5),
            inhibited_by=chance.choice([None, None, None, "window:w-1"]),
            lasted=chance.choice([None, chance.uniform(1, 9000)]),
            taken_up=chance.choice([None, chance.uniform(1, 4000)]),
        )
    return history


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("level", lambda one: str(one["level"])),
        ("signal", lambda one: one["signal"]),
        ("site", lambda one: one["site_id"]),
        ("kind", lambda one: "16"),
        ("end_reason", lambda one: "active" if one["lasted"] is None else "recovered"),
        ("hour_of_day", lambda one: f"{(one['at'] + timedelta(hours=8)).hour:02}"),
        ("day", lambda one: f"{(one['at'] + timedelta(hours=8)).date()}"),
        ("hour", lambda one: f"{one['at'] + timedelta(hours=8):%Y-%m-%dT%H:00}"),
        ("weekday", lambda one: str((one["at"] + timedelta(hours=8)).isoweekday())),
    ],
)
async def test_counts_are_those_counted_by_hand(door: Door, by: str, key: Callable[[dict[str, Any]], str]) -> None:
    history = await some(door)
    found = await door.ask("GET", "/alarms/statistics/counts", by=by, **SPAN)
    counted = Counter(map(key, history.alarms))
    told = Counter(key(one) for one in history.alarms if one["inhibited_by"] is None)
    active = Counter(key(one) for one in history.alarms if one["lasted"] is None)
    assert {one["key"]: (one["alarms"], one["told"], one["active"]) for one in found} == {
        name: (number, told[name], active[name]) for name, number in counted.items()
    }
    assert sum(one["share"] for one in found) == pytest.approx(1.0)


async def test_a_region_counts_what_lies_in_it_and_sites_are_limited_to_what_the_asker_may_see(door: Door) -> None:
    history = await some(door)
    found = await door.ask("GET", "/alarms/statistics/counts", by="region", **SPAN)
    counts = {one["key"]: one["alarms"] for one in found}
    assert counts["province"] == 120 == counts["d-0"] + counts["d-1"]
    assert found[0]["name_zh"] == "区域 province"
    limited = await door.ask("GET", "/alarms/statistics/counts", by="site", sites=("site-2",), **SPAN)
    here = [one for one in history.alarms if one["site_id"] == "site-2"]
    assert [(one["key"], one["alarms"], one["name_zh"]) for one in limited] == [("site-2", len(here), "站点 2")]


async def test_durations_are_medians_and_ninetieth_percentiles_by_level(door: Door) -> None:
    history = await some(door)
    for one in await door.ask("GET", "/alarms/statistics/durations", **SPAN):
        mine = [alarm for alarm in history.alarms if alarm["level"] == one["level"]]
        lasted = [alarm["lasted"] for alarm in mine if alarm["lasted"] is not None]
        taken_up = [alarm["taken_up"] for alarm in mine if alarm["taken_up"] is not None]
        assert (one["alarms"], one["ended"], one["acknowledged"]) == (len(mine), len(lasted), len(taken_up))
        assert one["clear_median_s"] == pytest.approx(statistics.median(lasted), abs=0.01)
        p90 = statistics.quantiles(taken_up, n=10, method="inclusive")[-1]
        assert one["acknowledge_p90_s"] == pytest.approx(p90, abs=0.01)


async def test_a_flood_begins_above_ten_in_ten_minutes_and_ends_below_five(door: Door) -> None:
    history = History(door)
    for window, number in ((0, 2), (2, 11), (3, 5), (4, 4), (10, 10)):
        for place in range(number):
            await history.add(window * 600 + place, device_id=f"m-{place}")
    for place in range(50):
        await history.add(1200 + place, inhibited_by="alarm:storm", device_id=f"m-{place}")
    span: dict[str, Any] = {"from": at(0).isoformat(), "to": at(12_000).isoformat()}
    found = await door.ask("GET", "/alarms/statistics/floods", **span)
    assert found["alarms"] == 32
    assert found["mean_per_10_min"] == pytest.approx(32 / 20)
    assert (found["windows"], found["windows_above_10"], found["peak_per_10_min"]) == (20, 1, 11)
    (flood,) = found["floods"]
    assert (datetime.fromisoformat(flood["start"]), datetime.fromisoformat(flood["end"])) == (at(1200), at(2400))
    assert (flood["alarms"], found["flood_share"]) == (16, pytest.approx(0.1))
    two = await door.ask("GET", "/alarms/statistics/floods", operators=2, **span)
    assert (two["floods"], two["mean_per_10_min"]) == ([], pytest.approx(0.8))


async def test_chattering_frequent_and_stale_alarms_are_named(door: Door) -> None:
    history = History(door)
    for second in (0, 20, 40, 60, 3600, 3700, 3800):
        await history.add(second, lasted=5.0, device_id="m-2", signal=LOW)
    await history.add(100, inhibited_by="window:w-1")
    old = await history.add(50)
    found = await door.ask("GET", "/alarms/statistics/floods", **SPAN)
    assert found["chattering"] == [{"device_id": "m-2", "signal": LOW, "bursts": 2}]
    assert [(one["key"], one["alarms"]) for one in found["most_frequent"]] == [(LOW, 7), (FAILURE, 1)]
    assert (found["stale"], [one["alarm_id"] for one in found["oldest"]]) == (1, [old])


async def test_the_map_shows_the_worst_that_is_active_and_told(door: Door) -> None:
    history = await some(door, 0)
    await history.add(0, site_id="site-1", level=3)
    await history.add(0, site_id="site-1", level=2, taken_up=5.0)
    await history.add(0, site_id="site-1", level=1, inhibited_by="window:w-1")
    await history.add(0, site_id="site-2", level=1, lasted=5.0)
    await history.add(0, site_id="site-3", level=1)
    found = await door.ask("GET", "/alarms/statistics/map")
    assert [(one["site_id"], one["worst_level"], one["alarms"], one["unacknowledged"]) for one in found] == [
        ("site-3", 1, 1, 1),
        ("site-1", 2, 2, 1),
    ]
    assert (found[0]["lon"], found[0]["lat"], found[0]["name_zh"]) == (123.0, 30.0, "站点 3")
    everything = await door.ask("GET", "/alarms/statistics/map", all=True)
    assert {one["site_id"]: one["worst_level"] for one in everything}["site-2"] is None


async def test_ranges_are_bounded_and_named(door: Door) -> None:
    long: dict[str, Any] = {"from": at(0).isoformat(), "to": at(401 * 86_400).isoformat()}
    refused = await door.ask("GET", "/alarms/statistics/durations", status=400, **long)
    assert "at most 400 days" in refused["detail"]
    hours: dict[str, Any] = {"from": at(0).isoformat(), "to": at(32 * 86_400).isoformat()}
    refused = await door.ask("GET", "/alarms/statistics/counts", status=400, by="hour", **hours)
    assert "不超过 31 天" in refused["detail_zh"]
    await door.ask("GET", "/alarms/statistics/counts", status=422, by="nothing", **SPAN)
    await door.ask("GET", "/alarms/statistics/counts", status=422, by="day", timezone="Nowhere", **SPAN)


async def test_all_of_it_as_a_workbook(door: Door) -> None:
    history = await some(door, 30)
    token = door.keys.sign_token("gateway", subject="wang", kind="user", audience="alarm", scopes=("alarm:read",))
    reply = await door.client.get(
        "/api/v1/alarms/statistics/workbook", params=SPAN, headers={"authorization": f"Bearer {token}"}
    )
    assert reply.status_code == 200, reply.text
    book = openpyxl.load_workbook(io.BytesIO(reply.content))
    by_level = list(book["等级 level"].iter_rows(min_row=2, values_only=True))
    counted = Counter(str(one["level"]) for one in history.alarms)
    assert {row[0]: row[2] for row in by_level} == counted
    assert {"ISA-18.2", "长期未恢复 stale", "时长 durations"} <= set(book.sheetnames)
    book.close()


class DoorApi:
    """The command line's client, over the application itself."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()

    def get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, **{name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        return self._ask("POST", path, body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        status = 201 if method == "POST" and path.rpartition("/")[2] in ("maintenance-windows", "notes") else 200
        if method != "GET" and path.rpartition("/")[2] in ("clear", "shelve", "shelf"):
            status = 202
        asked = self._door.ask(method, f"/{path}", body, status=status, **params)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Stay open."""


async def test_a_person_on_duty_works_with_alarms_on_the_command_line(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = DoorApi(door)
    monkeypatch.setattr(shown, "LocalApi", lambda settings: api)
    alarm_id = await door.raise_alarm()
    said: list[str] = []
    english, chinese = Words(chinese=False), Words(chinese=True)

    async def run(command: Callable[..., None], *arguments: Any, words: Words = english, **options: Any) -> str:
        said.clear()
        await asyncio.to_thread(command, CommonSettings(), *arguments, words=words, say=said.append, **options)
        return "\n".join(said)

    which: dict[str, Any] = {"state": "active", "sites": [], "levels": [], "signal": None, "limit": 50}
    listed = await run(shown.list_alarms, words=chinese, **which)
    assert alarm_id in listed
    assert "未恢复" in listed
    assert "acknowledged" in await run(shown.acknowledge, [alarm_id], note="on my way")
    assert "lin sees to" in await run(shown.assign, alarm_id, to="lin", note=None)
    now = shown.now()
    assert "shelved until" in await run(shown.shelve, alarm_id, hours=2.0, reason="spare part", now=now)
    assert "已备注" in await run(shown.note, alarm_id, "fuse is out", words=chinese)
    told = await run(shown.show, alarm_id)
    assert "user:wang: fuse is out" in told
    assert "acknowledged by: user:wang" in told
    assert "assigned to: lin" in told
    assert "on my way" in told
    assert "off its shelf" in await run(shown.unshelve, alarm_id)
    assert "已指派" not in await run(shown.assign, alarm_id, to=None, note=None, words=chinese)
    assert "will end" in await run(shown.clear, alarm_id, reason="tested")
    opened = await run(shown.open_window, "site-1", start=now, hours=1.0, devices=["m-1"], reason="work")
    window_id = opened.split()[1]
    windows = await run(shown.list_windows, sites=["site-1"])
    assert window_id in windows
    assert "m-1" in windows
    await run(shown.end_window, window_id)
    assert "called off" in await run(shown.list_windows, sites=[])
    span: dict[str, Any] = {
        "days": 365.0,
        "by": "signal",
        "operators": 2,
        "top": 5,
        "now": max(now, START + timedelta(days=1)),
    }
    measured = await run(shown.statistics, **span)
    assert "ISA-18.2, 2 operators" in measured
    assert await run(shown.list_alarms, **{**which, "sites": ["site-2"]}) == "no such alarms"
