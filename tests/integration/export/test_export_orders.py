"""Orders of a centre by the real control and the real alarm: nothing unasked for, one command each, told in time."""

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from libs.common.bus import envelope, topics
from tests.integration.control.test_control_process import Installation, installation
from tests.integration.export.alarm_process import meter, running_alarm
from tests.integration.export.conftest import Export, Kit, ScriptedCentre
from tests.integration.export.test_export_polls import Poller, ids, request, result

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

BREAKER = "44010641500003"
OFF_AND_ON = {
    "kinds": ["switch_off", "switch_on"],
    "points": [{"point": "0415202*"}],
    "off_at_most_s": 3600,
    "same_within_s": 3600,
}
LIMITS = {"actions": ["off", "on", "settings"], "load_ids": ["aau-1", "aau-2", "aau-3"], "device_ids": ["ac-1"]}
POINTS = {
    "0415202001": "brk-aau-1",
    "0415202002": "brk-aau-2",
    "0415202003": "brk-hospital",
    "0415202004": "brk-aau-3",
}


@dataclass
class Place:
    """A suite: control, alarm and export as they are, ingest with breakers that answer."""

    control: Installation
    export: Export
    poller: Poller

    async def set_points(self, **values: float) -> ET.Element:
        inner = "".join(
            f'<TSemaphore Type="4" Id="{point.removeprefix("p")}" MeasuredVal="0" SetupVal="{value:g}" Status="0"/>'
            for point, value in values.items()
        )
        return await self.poller.ask(request("SET_POINT", 1001, ids(Kit.fsu) + in_devices(BREAKER, inner)))

    async def until_done(self, **values: float) -> ET.Element:
        """Say it until each point that can be done is done: on a slow machine an answer may not come in time."""
        [first, *_] = (point.removeprefix("p") for point in values)
        answer: list[ET.Element] = []

        async def done() -> bool:
            answer[:] = [await self.set_points(**values)]
            return first in lists(answer[0])[0]

        await Kit.until(done)
        return answer[0]

    async def permit(self, permits: dict[str, Any]) -> None:
        await self.export.api("PUT", "/sc-connections/gd/permits", {"permits": permits, "source": "agreement 7"})

    async def orders(self, load: str) -> list[dict[str, Any]]:
        found = (await self.export.api("GET", "/sc-connections/gd/orders"))["items"]
        return [one for one in found if one["load_id"] == load]

    async def commands(self, load: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.control.get(f"/api/v1/commands?actor=sc:gd&load={load}"))["items"]
        return found

    async def offs(self, load: str) -> list[dict[str, Any]]:
        return [one for one in await self.commands(load) if one["action"] == "open"]

    def closed(self, load: str) -> bool:
        return self.control.field.breakers[load].closed


def in_devices(device: str, inner: str) -> str:
    return f'<Value><DeviceList><Device Id="{device}" Code="{device}">{inner}</Device></DeviceList></Value>'


def lists(answer: ET.Element) -> tuple[list[str | None], list[str | None]]:
    """Return what stands in the two lists of an answer."""
    found = [
        [each.text for each in answer.findall(f"Info/DeviceList/Device/{name}/Id")]
        for name in ("SuccessList", "FailList")
    ]
    return found[0], found[1]


def mapping() -> dict[str, Any]:
    switches = [
        {"device_id": device, "kind": "point", "source": "breaker_state", "sc_device_id": BREAKER, "point_id": point,
         "type": "DO"}
        for point, device in POINTS.items()
    ]  # fmt: skip
    switches += [
        {"device_id": device, "kind": "point", "source": "temperature_setpoint", "sc_device_id": BREAKER,
         "point_id": point, "type": "AO"}
        for point, device in {"0415302001": "ac-1", "0415302002": "ac-2"}.items()
    ]  # fmt: skip
    small = Kit.mapping()
    return {
        "devices": [*small["devices"], {"device_id": BREAKER, "name": "空开"}],
        "points": [*small["points"], *switches],
    }


@asynccontextmanager
async def suite(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, centre: ScriptedCentre
) -> AsyncIterator[Place]:
    async with (
        installation(postgres_url, folder, monkeypatch, watchdog=False) as found,
        running_alarm(found.platform, found.folder) as url,
        _export(found, monkeypatch, centre, {"alarm": url}) as place,
    ):
        yield place


@asynccontextmanager
async def _export(
    found: Installation, monkeypatch: pytest.MonkeyPatch, centre: ScriptedCentre, more: dict[str, str]
) -> AsyncIterator[Place]:
    url = found.platform.settings.database.url
    assert url is not None
    export = Export(url.get_secret_value(), found.folder, monkeypatch, service_urls={**found.urls, **more})
    await export.bus.start()
    await export.start()
    try:
        await export.connect(centre)
        await export.api("PUT", f"/mappings/gd/{Kit.fsu}", mapping())
        yield Place(found, export, Poller(export.unit_port))
    finally:
        try:
            await export.stop()
        finally:
            await export.bus.stop()


async def audit(export: Export, complete: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Return the records of the centre's orders, once they are complete."""
    from tests.integration.export.test_export_polls import _audit

    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [one for one in await _audit(export) if one["action"] in ("point.write", "threshold.write")]
        return bool(found) and complete(found)

    await Kit.until(there)
    return found


async def test_a_centre_orders_what_is_permitted_and_nothing_else(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    centre: ScriptedCentre,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with suite(postgres_url, tmp_path, monkeypatch, centre) as place:
        await when_control_is_away_an_order_has_failed_and_is_still_one_command(place)
        await an_off_that_control_comes_to_too_late_is_not_behind_an_on(place, postgres_url, caplog)
        await it_switches_only_what_both_export_and_control_permit(place)
        await it_adjusts_what_is_on_its_list_of_devices(place)
        await it_reads_and_sets_thresholds_by_way_of_alarm(place)


async def it_switches_only_what_both_export_and_control_permit(place: Place) -> None:
    # Nothing is permitted unless it is said, and control is not even asked.
    await place.permit({})
    reply = await place.control.call("POST", "/api/v1/guards/apps/sc:gd/remove", {"reason": "it begins anew"})
    assert reply.status_code == 200, reply.text
    assert (await place.export.api("GET", "/sc-connections/gd/permits"))["permits"]["kinds"] == []
    assert lists(await place.set_points(p0415202001=0)) == ([], ["0415202001"])
    assert await place.orders("aau-1") == []
    # Permitted here, but control has no limits for this caller.
    await place.permit(OFF_AND_ON)

    async def refused() -> bool:
        assert result(await place.set_points(p0415202001=0)) == ("SET_POINT_ACK", "1002", "0")
        [order, *_] = await place.orders("aau-1")
        return order["state"] == "refused" and str(order["reason"]).startswith("app_limit")

    await Kit.until(refused)
    assert await place.commands("aau-1") == []
    limits = {"limits": LIMITS, "source": "agreement 7"}
    reply = await place.control.call("PUT", "/api/v1/guards/apps/sc:gd", limits)
    assert reply.status_code == 200, reply.text
    # Each point is in one list: off; not on its list; a value without a meaning; not mapped.
    before = datetime.now(UTC)
    answer = await place.until_done(p0415202001=0, p0415202003=0, p0415202002=7, p0415202009=0)
    assert lists(answer) == (["0415202001"], ["0415202003", "0415202002", "0415202009"])
    assert result(answer)[2] == "0"
    await Kit.until(lambda: _is(not place.closed("aau-1")))
    assert place.closed("hospital")
    [off] = await place.offs("aau-1")
    restore_at = datetime.fromisoformat(off["restore_at"])
    assert timedelta(seconds=3590) < restore_at - before < timedelta(seconds=3900)
    assert (off["actor"], off["priority"], off["load_id"]) == ("sc:gd", "upstream_app", "aau-1")
    # The same again is the same command.
    answer = await place.until_done(p0415202001=0)
    assert (result(answer)[2], lists(answer)) == ("1", (["0415202001"], []))
    assert len(await place.offs("aau-1")) == 1
    [order] = [one for one in await place.orders("aau-1") if one["state"] != "refused"]
    assert order["repeats"] >= 1
    # An ON wakes; said again after it is done, it asks for power again.
    await place.until_done(p0415202001=1)
    await Kit.until(lambda: _is(place.closed("aau-1")))

    async def woken() -> bool:
        return all(one["state"] in ("succeeded", "superseded") for one in await place.commands("aau-1"))

    await Kit.until(woken)
    ons = {one["id"] for one in await place.orders("aau-1") if one["kind"] == "switch_on"}
    await place.until_done(p0415202001=1)
    assert {one["id"] for one in await place.orders("aau-1") if one["kind"] == "switch_on"} > ons
    # Success may mean that it is proven.
    await place.permit({**OFF_AND_ON, "success": "verified"})
    await place.until_done(p0415202002=0)
    assert not place.closed("aau-2")
    told = await audit(place.export, lambda found: found[-1]["after"]["orders"][0]["point"] == "0415202002")
    assert {(one["actor"], one["door"], one["address"]) for one in told} == {("sc:gd", "sc", "127.0.0.1")}
    assert told[-1]["succeeded"]
    mixed = next(one for one in told if one["after"]["count"] == 4)
    reasons = [one["reason"].partition(":")[0] for one in mixed["after"]["orders"][1:]]
    assert (mixed["succeeded"], reasons[1:]) == (False, ["no_meaning", "not_mapped"])
    assert reasons[0] in ("rejected", "not_known")  # the second where control took its time
    doors = await place.control.get("/api/v1/commands/audit?actor=sc:gd")
    assert {one["door"] for one in doors["items"]} == {"sc"}


async def when_control_is_away_an_order_has_failed_and_is_still_one_command(place: Place) -> None:
    await place.permit({**OFF_AND_ON, "answer_within_s": 1.0})
    await place.control.call("PUT", "/api/v1/guards/apps/sc:gd", {"limits": LIMITS, "source": "agreement 7"})
    socket = place.control.folder / "control.sock"
    socket.rename(socket.with_suffix(".away"))
    assert lists(await place.set_points(p0415202004=0)) == ([], ["0415202004"])
    [order] = await place.orders("aau-3")
    assert order["state"] == "open"
    socket.with_suffix(".away").rename(socket)
    await place.permit(OFF_AND_ON)
    await asyncio.gather(*(place.until_done(p0415202004=0) for _ in range(3)))
    assert [one["id"] for one in await place.orders("aau-3")] == [order["id"]]
    assert len(await place.offs("aau-3")) == 1


async def an_off_that_control_comes_to_too_late_is_not_behind_an_on(
    place: Place, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.permit({**OFF_AND_ON, "answer_within_s": 1.0})
    await place.control.call("PUT", "/api/v1/guards/apps/sc:gd", {"limits": LIMITS, "source": "agreement 7"})
    database = await asyncpg.connect(postgres_url)
    try:
        async with database.transaction():  # control stands still before it has the load
            load = "insert into control.load_switching (load_id) values ('aau-2') on conflict (load_id) do nothing"
            await database.execute(load)
            await database.execute("select from control.load_switching where load_id = 'aau-2' for update")
            assert lists(await place.set_points(p0415202002=0)) == ([], ["0415202002"])
    finally:
        await database.close()
    await place.permit(OFF_AND_ON)
    await place.until_done(p0415202002=1)
    await Kit.until(lambda: _is("OFF came too late" in caplog.text))
    assert await place.offs("aau-2") == []
    assert place.closed("aau-2")


async def it_adjusts_what_is_on_its_list_of_devices(place: Place) -> None:
    assert lists(await place.set_points(p0415302001=26)) == ([], ["0415302001"])
    await place.permit({"kinds": ["adjust"], "points": [{}], "success": "verified"})
    answer = await place.until_done(p0415302001=26, p0415302002=26, p0415202001=0)
    assert lists(answer)[1] == ["0415302002", "0415202001"]
    assert place.control.field.settings["ac-1", "temperature_setpoint"] == 26
    assert ("ac-2", "temperature_setpoint") not in place.control.field.settings
    # A value outside of what the device takes is control's to refuse.
    assert lists(await place.set_points(p0415302001=99)) == ([], ["0415302001"])
    assert place.control.field.settings["ac-1", "temperature_setpoint"] == 26


async def it_reads_and_sets_thresholds_by_way_of_alarm(place: Place) -> None:
    record = envelope.message(topics.REGISTRY, "m-1", meter(), source="test", time=datetime.now(UTC))
    await place.export.bus.publish([record], timeout_s=5)

    async def write(value: str) -> ET.Element:
        inner = f'<TThreshold Type="2" Id="0416003001" Threshold="{value}" AbsoluteVal="0" RelativeVal="0" Status="3"/>'
        body = in_devices(Kit.meter, inner)
        return await place.poller.ask(request("SET_THRESHOLD", 2001, ids(Kit.fsu) + body))

    assert lists(await write("170")) == ([], ["0416003001"])
    await place.permit({"kinds": ["threshold"], "points": [{"point": "0416003001", "unit": "V"}]})

    async def set_() -> bool:
        return lists(await write("170")) == (["0416003001"], [])

    await Kit.until(set_)
    # What was set is read back, by name and with the wildcard; what has none is not in the answer.
    everything = f'<DeviceList><Device Id="{"9" * 14}" Code="{"9" * 14}"/></DeviceList>'
    one = f'<DeviceList><Device Id="{Kit.meter}" Code="{Kit.meter}"><Id>0416003001</Id></Device></DeviceList>'
    for asked in (everything, one):
        answer = await place.poller.ask(request("GET_THRESHOLD", 1901, ids(Kit.fsu) + asked))
        assert result(answer) == ("GET_THRESHOLD_ACK", "1902", "1")
        found = {each.get("Id"): each.get("Threshold") for each in answer.iter("TThreshold")}
        assert found["0416003001"] == "170"
        assert "0416104001" not in found
    assert lists(await write("1000000")) == ([], ["0416003001"])
    assert lists(await write("no number")) == ([], ["0416003001"])
    await place.permit({"kinds": ["threshold"], "points": [{"unit": "kV"}]})
    assert lists(await write("171")) == ([], ["0416003001"])


async def _is(value: bool) -> bool:
    return value
