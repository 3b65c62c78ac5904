"""The simulated device platform over real sockets: it checks what the real one checks, and pushes as that does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from libs.common.clock import SystemClock
from libs.fieldsim.aep.platform import DevicePlatform, Oddities
from libs.fieldsim.aep.signature import expected
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request

pytestmark = pytest.mark.integration

ORDER = {
    "productId": 10000001, "deviceId": "dev0001", "operator": "op", "ttl": 60, "level": 1,
    "content": {"serviceIdentifier": "switch_set", "params": {"switch": 0}},
}  # fmt: skip


class Subscriber:
    """Takes pushes; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.calls = 0
        self.status = 200
        self.server = HttpServer(self._take)

    async def _take(self, request: Request) -> Reply:
        self.calls += 1
        if self.status == 200:
            self.taken.append(orjson.loads(request.body))
        return Reply(self.status)

    def results(self) -> list[str]:
        return [one["result"]["resultCode"] for one in self.taken if one["messageType"] == "commandResponse"]


async def until(condition: Callable[[], Any], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # the condition is in others' hands
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(**given: Any) -> AsyncIterator[tuple[DevicePlatform, Subscriber, Callable[..., Awaitable[Any]]]]:
    subscriber = Subscriber()
    await subscriber.server.start()
    platform = DevicePlatform(
        clock=SystemClock(), push_url=f"http://127.0.0.1:{subscriber.server.port}/push", **{"act_s": 0.0, **given}
    )
    await platform.start()
    task = asyncio.create_task(platform.run(), name="platform")
    try:
        async with httpx.AsyncClient(base_url=platform.url, timeout=20) as client:

            async def call(method: str, path: str, version: str, **changed: Any) -> Any:
                body = orjson.dumps(changed["json"]) if "json" in changed else b""
                params = changed.get("params", {})
                echo = await client.get("/echo")
                stamp = echo.headers["x-ag-timestamp"]
                named = {**params, "MasterKey": "demoMasterKey"}
                headers = {
                    "application": "demoAppKey01", "timestamp": stamp, "version": version, "MasterKey": "demoMasterKey",
                    "signature": expected("demoSecret01", "demoAppKey01", stamp, named, body),
                    **changed.get("headers", {}),
                }  # fmt: skip
                return (await client.request(method, path, params=params, content=body, headers=headers)).json()

            yield platform, subscriber, call
    finally:
        task.cancel()
        await asyncio.wait([task])
        await platform.stop()
        await subscriber.server.stop()


async def issue(call: Callable[..., Awaitable[Any]], **changed: Any) -> Any:
    return await call("POST", "/aep_device_command/command", "20190712225145", json={**ORDER, **changed})


def test_the_check_knows_the_vectors_of_the_description() -> None:
    """southbound.md 11.1."""
    named = {"productId": "10000001", "deviceId": "dev0001", "MasterKey": "demoMasterKey"}
    stamp = "1700000000000"
    assert expected("demoSecret01", "demoAppKey01", stamp, named, b"") == "Cxolu0joGmHHN6KcvKaBYzN0qoE="
    body = orjson.dumps({**ORDER, "ttl": 7200})
    only_key = {"MasterKey": "demoMasterKey"}
    assert expected("demoSecret01", "demoAppKey01", stamp, only_key, body) == "0nf0WPiQxQ9yh8ka4XyJuNSurTM="


async def test_a_command_goes_its_way_and_the_device_reports() -> None:
    async with running() as (platform, subscriber, call):
        answer = await issue(call)
        assert answer["code"] == 0
        await until(lambda: "SUCCESSFUL" in subscriber.results())
        assert not platform.devices["dev0001"].closed
        reports = [one for one in subscriber.taken if one["messageType"] == "dataReport"]
        assert reports[-1]["payload"]["switch_state"] == 0
        shown = await call(
            "GET", "/aep_device_command/command", "20190712225241",
            params={"commandId": answer["result"]["commandId"], "productId": "10000001", "deviceId": "dev0001"},
        )  # fmt: skip
        assert shown["result"]["commandStatus"] == 4
        assert not platform.findings


@pytest.mark.parametrize(
    "headers",
    [{"signature": "x"}, {"MasterKey": "another"}, {"version": "20200101000000"}, {"timestamp": "1700000000000"},
     {"application": "stranger"}],
)  # fmt: skip
async def test_a_wrong_request_is_refused_with_http_200(headers: dict[str, str]) -> None:
    async with running() as (platform, _, call):
        answer = await call("POST", "/aep_device_command/command", "20190712225145", json=ORDER, headers=headers)
        assert answer["code"] != 0
        assert platform.findings
        assert not platform.tasks


async def test_a_sleeping_device_takes_a_command_with_its_next_report_or_not_at_all() -> None:
    async with running() as (platform, subscriber, call):
        platform.devices["dev0001"].asleep = True
        kept = (await issue(call, ttl=60))["result"]["commandId"]
        gone = (await issue(call, ttl=0))["result"]["commandId"]
        await until(lambda: platform.tasks[gone].state == 999)
        assert platform.tasks[kept].state == 1
        platform.report("dev0001")
        await until(lambda: platform.tasks[kept].state == 4)
        await until(lambda: {"EXPIRED", "SUCCESSFUL"} <= set(subscriber.results()))


async def test_cancelled_before_delivery() -> None:
    async with running() as (platform, _, call):
        platform.devices["dev0001"].asleep = True
        order = await issue(call)
        body = {"commandId": order["result"]["commandId"], "productId": 10000001, "deviceId": "dev0001"}
        answer = await call("PUT", "/aep_device_command/cancelCommand", "20190615023142", json=body)
        assert (answer["code"], platform.tasks["1"].state) == (0, 6)
        again = await call("PUT", "/aep_device_command/cancelCommand", "20190615023142", json=body)
        assert again["code"] != 0


async def test_oddities_of_pushes() -> None:
    odd = Oddities(copies=3, numbers_as_text=True, product_as_number=True, results_out_of_order=True)
    async with running(oddities=odd) as (platform, subscriber, call):
        platform.report("dev0001")
        await until(lambda: len(subscriber.taken) == 3)
        assert subscriber.taken[0] == subscriber.taken[1] == subscriber.taken[2]
        first = subscriber.taken[0]
        assert (first["IMSI"], first["productId"], first["payload"]["voltage"]) == ("undefined", 10000001, "2301")
        await issue(call)
        await until(lambda: len(subscriber.results()) == 9)
        assert Counter(subscriber.results()) == {"SUCCESSFUL": 3, "DELIVERED": 3, "SENT": 3}


async def test_a_subscriber_that_fails_is_tried_three_times_and_then_left_alone() -> None:
    async with running(pause_s=3600.0) as (platform, subscriber, _):
        subscriber.status = 500
        platform.report("dev0001")
        await until(lambda: platform.pusher.counts.lost == 1)
        assert subscriber.calls == 3
        for _ in range(20):
            platform.report("dev0001")
        await until(lambda: platform.pusher.idle)
        assert platform.pusher.resting
        subscriber.status = 200
        platform.report("dev0001")
        assert platform.pusher.idle
        assert not subscriber.taken
