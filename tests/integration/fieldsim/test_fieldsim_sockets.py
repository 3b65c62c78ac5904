"""Smart sockets as an integrator starts them, at a real broker, with a client that knows nothing of them."""

import asyncio
from pathlib import Path
from typing import Any

import aiomqtt
import orjson
import pytest

from tests.integration.fieldsim.test_fieldsim_process import running
from tests.peers.mosquitto import Mosquitto

pytestmark = pytest.mark.integration

STATUS, ORDERS = "plug-1/status/switch:0", "plug-1/command/switch:0"


async def test_a_socket_reports_obeys_and_meters(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        options = ("--broker", broker.endpoint, "--power-kw", "0.5", "--period-s", "3600")
        async with (
            running(tmp_path / "ready.json", "socket", *options) as (_, told),
            aiomqtt.Client("127.0.0.1", broker.port) as client,
        ):
            assert (told["addresses"], told["profile"]) == (["plug-1"], "shelly_gen2_plug")
            await client.subscribe(STATUS)
            reports: list[dict[str, Any]] = []

            async def listen() -> None:
                async for message in client.messages:
                    reports.append(orjson.loads(bytes(message.payload)))

            async def after(word: str, *, output: bool) -> dict[str, Any]:
                """Say a word, again while nobody listens yet, and return the report that follows."""
                known = len(reports)
                async with asyncio.timeout(60):
                    while not (found := [one for one in reports[known:] if one["output"] is output]):
                        await client.publish(ORDERS, word, qos=1)
                        await asyncio.sleep(0.2)  # the socket is a process of its own
                return found[-1]

            listening = asyncio.create_task(listen())
            try:
                on = await after("status_update", output=True)
                assert (on["apower"], on["voltage"]) == (500.0, 230.0)
                off = await after("off", output=False)
                assert off["apower"] == 0
                assert off["aenergy"]["total"] >= on["aenergy"]["total"]
                later = await after("status_update", output=False)
                assert later["aenergy"] == off["aenergy"], "nothing flows through an open socket"
                assert (await after("on", output=True))["apower"] == 500.0
            finally:
                listening.cancel()
                await asyncio.wait([listening])
