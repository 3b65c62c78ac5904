"""The device platform end to end: a simulated one pushes and takes commands, over real sockets, with its oddities."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandAction
from libs.fieldsim.aep.platform import DevicePlatform, Oddities
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_gaps import put_gap, settled_gap
from tests.integration.ingest.test_ingest_outage import outage
from tests.integration.ingest.test_ingest_switching import ended, order, send, stages

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

TOKEN = "0123456789abcdef0123456789abcdef"
PATH = f"/push/aep/product-1/{TOKEN}"


@dataclass
class Setting:
    """An ingest, the platform that pushes to it, and the door between them."""

    ingest: RunningIngest
    platform: DevicePlatform
    sender: str = "127.0.0.1"

    async def push(self, body: bytes, path: str = PATH) -> httpx.Response:
        headers = self.ingest.headers(scopes=("ingest:push",), subject=self.sender, kind="service")
        return await self.ingest.http.post(path, content=body, headers=headers)

    async def reports(self, device: str = "breaker-1") -> list[dict[str, Any]]:
        found = [*await self.ingest.messages(topics.READINGS), *await self.ingest.messages(topics.BACKFILL)]
        return [one for one in found if one.get("device_id") == device]

    async def status(self) -> Any:
        found = [m for m in await self.ingest.messages(topics.DEVICE_STATUS) if m["device_id"] == "breaker-1"]
        return found[-1] if found else None


@asynccontextmanager
async def playing(
    postgres_url: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    line: dict[str, Any] | None = None,
    secret: str = "demoSecret01",
    known: bool = True,
    profile: Path | None = None,
    **platform: Any,
) -> AsyncIterator[Setting]:
    quick(monkeypatch)
    monkeypatch.setenv("WATTRING_INGEST__OUTGOING_ALLOWED", '["127.0.0.0/8"]')
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    lines = ("app_key=demoAppKey01", f"app_secret={secret}", "master_key=demoMasterKey", f"push_token={TOKEN}")
    (secrets / "ctwing").write_text("\n".join(lines))
    (secrets / "ctwing").chmod(0o600)
    async with AsyncExitStack() as stack:
        profiles = () if profile is None else (profile,)
        ingest = await stack.enter_async_context(running(postgres_url, folder, profile_dirs=profiles))
        setting = Setting(ingest, DevicePlatform(clock=SystemClock(), **platform))

        async def door(request: Request) -> Reply:
            answer = await setting.push(request.body, request.path)
            return Reply(answer.status_code, answer.content)

        server = HttpServer(door)
        await server.start()
        stack.push_async_callback(server.stop)
        setting.platform.pusher.url = f"http://127.0.0.1:{server.port}{PATH}"
        await setting.platform.start()
        stack.push_async_callback(setting.platform.stop)
        task = asyncio.create_task(setting.platform.run(), name="platform")
        stack.push_async_callback(_ended, task)
        await ingest.create("/api/v1/sites/site-1", SITE)
        await ingest.create(
            "/api/v1/lines/product-1",
            {"name": "CTWing", "kind": "aep", "endpoint": setting.platform.url, "credentials_ref": "ctwing",
             "settings": {"product": 10000001, "tenant": "20001234", "news_within_s": 2, **(line or {})}},
        )  # fmt: skip
        if known:
            await create_breaker(ingest)
        yield setting


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def create_breaker(ingest: RunningIngest) -> None:
    await ingest.create(
        "/api/v1/devices/breaker-1",
        {"name": "Breaker", "kind": "breaker", "profile": "aep_breaker_example", "site": "site-1",
         "line": "product-1", "address": "dev0001", "serial": "860000000000001", "period_s": 60},
    )  # fmt: skip
    await ingest.create(
        "/api/v1/loads/load-1",
        {"name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"}},
    )

    async def watched() -> bool:
        return any(m["device_id"] == "breaker-1" for m in await ingest.messages(topics.DEVICE_STATUS))

    await until(watched, "the line to be held")


async def test_what_a_device_reports_arrives_once_however_often_it_is_pushed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Oddities(copies=3, numbers_as_text=True, product_as_number=True)
    async with playing(postgres_url, tmp_path, monkeypatch, oddities=odd) as setting:
        platform = setting.platform
        for _ in range(5):
            platform.report("dev0001")
            await asyncio.sleep(0.01)  # the platform's times are milliseconds: two reports need two of them
        platform.signal("dev0001")
        await until(_idle(platform), "the platform to have pushed")
        assert (platform.pusher.counts.delivered, platform.pusher.counts.failed) == (18, 0)
        reports = await setting.reports()
        assert len(reports) == 6
        first = min(reports, key=lambda one: one["source_time"])
        assert first["driver"] == "aep"
        assert (first["points"]["voltage_a"], first["points"]["active_power_a"]) == (230.1, 0.943)
        assert (first["points"]["breaker_state"], first["points"]["active_power_total"]) == (1, 0.943)
        assert len({one["points"]["energy_active_import"] for one in reports if "voltage_a" in one["points"]}) == 5

        async def known() -> Any:
            found = await setting.status()
            return found if found and found["sim"].get("imei") and found["connectivity"] == "online" else None

        status = await until(known, "the status")
        assert status["sim"]["imei"] == "860000000000001"
        assert "imsi" not in status["sim"]  # it came as "undefined"


def _idle(platform: DevicePlatform) -> Any:
    async def idle() -> bool:
        return platform.pusher.idle

    return idle


async def test_who_does_not_know_the_path_or_may_not_call_gets_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(postgres_url, tmp_path, monkeypatch, line={"sources": "127.0.0.0/8, 2001:db8::/32"}) as setting:
        body = b"{}"
        assert (await setting.push(body)).status_code == 200
        for path in (f"/push/aep/product-1/{TOKEN[:-1]}x", f"/push/aep/no-such/{TOKEN}", "/push/aep/product-1/x"):
            assert (await setting.push(body, path)).status_code == 404
        setting.sender = "203.0.113.9"
        assert (await setting.push(body)).status_code == 404
        setting.sender = "unknown"
        assert (await setting.push(body)).status_code == 404
        answer = await setting.ingest.http.post(PATH, content=body)
        assert answer.status_code == 401  # past the gateway nobody gets anywhere
        answer = await setting.ingest.http.post(PATH, content=body, headers=setting.ingest.headers(scopes=("x:read",)))
        assert answer.status_code == 403


async def test_what_cannot_be_taken_is_on_record_and_answered_200(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(postgres_url, tmp_path, monkeypatch) as setting:
        now = int(setting.ingest.platform.clock.now().timestamp() * 1000)
        good = {"messageType": "dataReport", "tenantId": "20001234", "productId": "10000001", "deviceId": "dev0001",
                "timestamp": now, "serviceId": "data_report", "payload": {"voltage": 2300}}  # fmt: skip
        wrong: list[tuple[str, Any]] = [
            ("undecodable", b"not json"),
            ("undecodable", b'{"messageType": "dataReport", "payload": {"v": NaN}}'),
            ("not_authenticated", {**good, "tenantId": "another"}),
            ("not_authenticated", {**good, "productId": 999}),
            ("unreadable_time", {**good, "timestamp": "yesterday"}),
            ("future_time", {**good, "timestamp": now + 3 * 86_400_000}),
            ("unknown_point", {**good, "serviceId": "odd", "payload": {"who": 1}}),
            ("no_profile", {**good, "payload": {"APPdata": base64.b64encode(b"\x68").decode()}}),
            ("too_large", b"x" * 300_000),
        ]
        for _, message in wrong:
            body = message if isinstance(message, bytes) else orjson.dumps(message)
            assert (await setting.push(body)).status_code == 200

        async def recorded() -> Any:
            items = (await setting.ingest.get("/api/v1/rejected", limit=100))["items"]
            return sorted(item["reason"] for item in items) == sorted(reason for reason, _ in wrong)

        await until(recorded, "all refusals on record")
        assert await setting.reports() == []


@pytest.mark.sql
async def test_an_unknown_device_waits_for_the_registry_and_a_rejected_message_can_be_replayed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRING_INGEST__ACCEPTANCE__PARK_S", "30")
    async with playing(postgres_url, tmp_path, monkeypatch, known=False) as setting:
        setting.platform.report("dev0001")
        await until(_idle(setting.platform), "the push")
        now = int(setting.ingest.platform.clock.now().timestamp() * 1000)
        foreign = {"messageType": "dataReport", "tenantId": "other", "productId": "10000001", "deviceId": "dev0001",
                   "timestamp": now, "serviceId": "data_report", "payload": {"voltage": 2200}}  # fmt: skip
        assert (await setting.push(orjson.dumps(foreign))).status_code == 200
        assert await setting.reports() == []
        await create_breaker(setting.ingest)

        async def settled() -> bool:
            return len(await setting.reports()) == 1

        await until(settled, "the parked message to be taken", within_s=30)

        async def on_record() -> Any:
            return (await setting.ingest.get("/api/v1/rejected", reason="not_authenticated"))["items"]

        (rejected,) = await until(on_record, "the rejection")
        path = f"/api/v1/rejected/{rejected['id']}/replay"
        again = (await setting.ingest.http.post(path, headers=setting.ingest.headers())).json()
        assert (again["rejected"], again["problems"][0]["reason"]) == (1, "not_authenticated")
        mended = orjson.dumps({**foreign, "tenantId": "20001234"})
        answer = await setting.ingest.http.post(path, content=mended, headers=setting.ingest.headers())
        assert answer.json()["accepted"] == 1
        assert sorted(one["points"]["voltage_a"] for one in await setting.reports()) == [220.0, 230.1]


async def test_alarms_of_the_device_and_its_coming_and_going_are_told(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(postgres_url, tmp_path, monkeypatch, oddities=Oddities(copies=3)) as setting:
        platform = setting.platform
        platform.signal("dev0001")
        platform.event("dev0001", "overload_alarm", {"state": 1})
        platform.event("dev0001", "overload_alarm", {"state": 0})
        platform.event("dev0001", "mystery", {"x": 1}, event_type=1)
        await until(_idle(platform), "the pushes")
        events = [m for m in await setting.ingest.messages(topics.DEVICE_EVENTS) if m["device_id"] == "breaker-1"]
        assert sorted((one["code"], one["phase"], one["severity"]) for one in events) == [
            ("aep_mystery", "once", 4), ("overload", "begin", 2), ("overload", "end", 2),
        ]  # fmt: skip

        def connectivity(wanted: str) -> Any:
            async def found() -> Any:
                status = await setting.status()
                return status if status and status["connectivity"] == wanted else None

            return found

        online = await until(connectivity("online"), "online")
        platform.connectivity("dev0001", online=False)
        offline = await until(connectivity("offline"), "offline")
        assert offline["reason"] == "platform_event"
        assert offline["signal"]["rsrp_dbm"] == -101
        assert (offline["signal"]["cell_id"], offline["signal"]["pci"]) == ("123456789", 77)
        assert offline["battery"]["voltage_v"] == 3.61
        assert datetime.fromisoformat(offline["connectivity_since"]) > datetime.fromisoformat(
            online["connectivity_since"]
        )
        platform.connectivity("dev0001", online=True)
        await until(connectivity("online"), "online again")


async def test_a_breaker_is_opened_and_closed_over_the_signed_api_and_its_own_report_proves_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, own = Oddities(copies=2, results_out_of_order=True), _quick_profile(tmp_path, 15)
    async with playing(
        postgres_url, tmp_path, monkeypatch, profile=own, oddities=odd, clock_offset_s=1000.0
    ) as setting:
        platform = setting.platform
        platform.report("dev0001")
        off = await send(setting.ingest, order(setting.ingest, CommandAction.OPEN, line_id="product-1"))
        proof = await ended(setting.ingest, off, "verified")
        assert proof["evidence"]["feedback_value"] == 0
        assert proof["evidence"]["answer"] in ("command 1: completed", "command 1: the device reports it")
        assert platform.findings == []
        assert not platform.devices["dev0001"].closed
        on = await send(setting.ingest, order(setting.ingest, CommandAction.CLOSE, line_id="product-1"))
        proof = await ended(setting.ingest, on, "verified")
        assert proof["evidence"]["feedback_value"] == 1
        assert len(platform.tasks) == 2


async def test_an_off_never_comes_late_to_a_sleeping_device_and_an_on_waits_for_it_once(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile's OFF has a ttl of 0; its ON is kept, and is not issued again while it still waits."""
    own = _quick_profile(tmp_path, 1)
    async with playing(postgres_url, tmp_path, monkeypatch, line={"news_within_s": 0.5}, profile=own) as setting:
        platform = setting.platform
        device = platform.devices["dev0001"]
        platform.report("dev0001")
        device.asleep = True
        off = await send(setting.ingest, order(setting.ingest, CommandAction.OPEN, line_id="product-1"))
        await ended(setting.ingest, off, "unknown")
        device.closed = False  # somebody at the panel
        for _ in range(2):
            on = await send(setting.ingest, order(setting.ingest, CommandAction.CLOSE, line_id="product-1"))
            await ended(setting.ingest, on, "unknown")
        waiting = [task for task in platform.tasks.values() if task.state == 1]
        assert [task.content["params"]["switch"] for task in waiting] == [1]
        platform.report("dev0001")  # it wakes up, and takes what waits

        async def closed() -> bool:
            return device.closed

        await until(closed, "the ON to arrive")
        off_task = next(task for task in platform.tasks.values() if task.content["params"]["switch"] == 0)
        assert off_task.state == 999  # expired: it never moved the breaker


async def test_a_lock_at_the_breaker_stops_an_on_however_old_its_report_is(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(postgres_url, tmp_path, monkeypatch, line={"fresh_s": 0.001}) as setting:
        device = setting.platform.devices["dev0001"]
        device.closed, device.locked = False, True
        setting.platform.report("dev0001")

        async def heard() -> bool:
            return bool(await setting.reports())

        await until(heard, "the report")
        on = await send(setting.ingest, order(setting.ingest, CommandAction.CLOSE, line_id="product-1"))
        result = await ended(setting.ingest, on, "refused")
        assert result["reason"] == "local_lock"
        assert setting.platform.tasks == {}


@pytest.mark.sql
async def test_a_platform_that_refuses_our_signature_fails_the_command(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with playing(postgres_url, tmp_path, monkeypatch, secret="wrong") as setting:
        setting.platform.report("dev0001")
        off = await send(setting.ingest, order(setting.ingest, CommandAction.OPEN, line_id="product-1"))
        result = await ended(setting.ingest, off, "failed")
        assert "signature does not match" in result["evidence"]["answer"]
        assert [m["stage"] for m in await stages(setting.ingest, off)] == ["accepted", "failed"]


async def test_two_hundred_pushes_a_second_are_answered_while_the_bus_is_away_and_none_is_lost(
    postgres_server: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform tries three times and rests after failures: nothing behind us may make us slow."""
    async with playing(postgres_url, tmp_path, monkeypatch, pause_s=3600.0) as setting:
        platform = setting.platform
        now = int(setting.ingest.platform.clock.now().timestamp() * 1000)
        async with outage(postgres_server, postgres_url):
            for number in range(600):
                platform.report("dev0001", at_ms=now + number)
            await until(_idle(platform), "all pushes answered", within_s=60)
            assert platform.pusher.counts.delivered == 600
            assert (platform.pusher.counts.failed, platform.pusher.counts.lost) == (0, 0)
        wanted = {now + number for number in range(600)}

        async def drained() -> bool:
            if (await setting.ingest.http.get("/readyz")).status_code != 200:
                return False
            times = {
                round(datetime.fromisoformat(one["source_time"]).timestamp() * 1000) for one in await setting.reports()
            }
            return wanted <= times

        await until(drained, "all 600 on the bus", within_s=60, every_s=0.5)


def _quick_profile(folder: Path, verify_within_s: float) -> Path:
    """The shipped example with short times, under its own name."""

    text = files("libs.common").joinpath("data/device_profiles/aep_breaker_example.yaml").read_text(encoding="utf-8")
    own = folder / "profiles"
    own.mkdir()
    text = text.replace("verify_within_s: 60", f"verify_within_s: {verify_within_s:g}").replace(
        "settle_s: 2", "settle_s: 0"
    )
    (own / "aep_breaker_example.yaml").write_text(text)
    return own


async def test_what_was_not_pushed_is_asked_of_the_platform_s_history(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.worker.backfill.LOOK_S", 0.2)
    monkeypatch.setattr("services.ingest.domain.aep.HISTORY_PAGE", 7)
    async with playing(postgres_url, tmp_path, monkeypatch) as setting:
        now = datetime.now(UTC).replace(microsecond=0)
        began, ended = now - timedelta(hours=8), now - timedelta(minutes=30)
        times = [began + timedelta(minutes=15 * number) for number in range(31)]
        for number, at in enumerate(times):
            setting.platform.remember(
                "dev0001", int(at.timestamp() * 1000), {"energy": 100_000 + number, "stranger": 1}
            )
        await put_gap(postgres_url, "breaker-1", "product-1", began, ended)
        gap = await until(lambda: settled_gap(setting.ingest), "the gap to be settled", within_s=40)
        assert (gap["state"], gap["reason"], gap["recovered"]) == ("filled", "memory", 29)
        reports = [one for one in await setting.reports() if one["points"].keys() == {"energy_active_import"}]
        assert [datetime.fromisoformat(one["source_time"]) for one in reports] == times[1:30]
        live = [one for one in await setting.ingest.messages(topics.READINGS) if one.get("device_id") == "breaker-1"]
        assert not live
        assert setting.platform.findings == []
