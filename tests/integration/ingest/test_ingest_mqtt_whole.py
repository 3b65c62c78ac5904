"""MQTT through a whole ingest: into the history once and only once, though killed on the way; and a load switched."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import asyncpg
import orjson
import pytest

from libs.common.bus import open_bus, topics
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandAction
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, until
from tests.integration.ingest.test_ingest_switching import door_load, ended, order, send
from tests.integration.ingest.test_ingest_takeover import process
from tests.peers.mosquitto import Mosquitto

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "mosquitto") as found:
        yield found


@asynccontextmanager
async def device(broker: Mosquitto, name: str) -> AsyncIterator[aiomqtt.Client]:
    client = aiomqtt.Client(
        "127.0.0.1", broker.port, identifier=name, protocol=aiomqtt.ProtocolVersion.V5, max_inflight_messages=100
    )
    client.pending_calls_threshold = 1000
    async with client:
        yield client


def message(n: int, at: datetime, **values: Any) -> bytes:
    return orjson.dumps({"t": int(at.timestamp() * 1000), "n": n, "v": values})


def entities(broker: Mosquitto) -> dict[str, dict[str, Any]]:
    return {
        "sites/site-1": SITE,
        "lines/line-1": {"name": "Broker", "kind": "mqtt", "endpoint": broker.endpoint},
        "devices/breaker-1": {
            "name": "M", "kind": "breaker", "profile": "example_mqtt_meter", "site": "site-1", "line": "line-1",
            "address": "SN1",
        },
    }  # fmt: skip


class Breaker:
    """A meter with breaker that reports when asked and obeys."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.closed = True
        self.orders: list[str] = []
        self._n = 0

    async def report(self) -> None:
        self._n += 1
        word, watts = ("closed", 1200) if self.closed else ("open", 0)
        await self.client.publish(
            "meters/SN1/up", message(self._n, datetime.now(UTC), ua=230, p=watts, breaker=word), qos=1
        )

    async def obey(self) -> None:
        async for command in self.client.messages:
            asked = orjson.loads(bytes(command.payload))
            self.orders.append(asked["cmd"])
            if asked["cmd"] in ("open", "close"):
                self.closed = asked["cmd"] == "close"
                await self.client.publish("meters/SN1/reply", orjson.dumps({"id": asked["id"], "code": 0}))
            await self.report()


async def test_load_behind_a_broker_is_switched_and_proved(ingest: RunningIngest, broker: Mosquitto) -> None:
    async with device(broker, "breaker") as client:
        await client.subscribe("meters/SN1/down", qos=1)
        breaker = Breaker(client)
        obeying = asyncio.create_task(breaker.obey())
        try:
            for path, body in entities(broker).items():
                await ingest.create(f"/api/v1/{path}", body)
            await ingest.create(
                "/api/v1/circuits/circuit-1", {"name": "AAU", "level": 3, "role": "load", "site": "site-1"}
            )
            await ingest.create(
                "/api/v1/bindings/binding-1", {"name": "own meter", "device": "breaker-1", "circuit": "circuit-1"}
            )
            await ingest.create(
                "/api/v1/loads/load-1",
                {"name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"},
                 "meter": "circuit-1"},
            )  # fmt: skip

            async def heard() -> Any:
                await breaker.report()
                return (await ingest.get("/api/v1/readings/latest", site="site-1"))["items"]

            (found,) = await until(heard, "a reading of the meter")
            assert (found["points"]["active_power_total"], found["points"]["breaker_state"]) == (1.2, 1)
            await until(lambda: door_load(ingest, breaker_state=1), "the breaker read closed")
            off = await send(ingest, order(ingest, CommandAction.OPEN))
            result = await ended(ingest, off, "verified")
            assert result["evidence"]["feedback_value"] == 0
            assert result["evidence"]["meter_power_kw"] == 0
            answer = await ingest.http.post(
                "/direct/v1/on", json={"load_id": "load-1"}, headers=ingest.headers("watchdog", ("ingest:wake",))
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["verified"]
            assert breaker.closed
            assert [word for word in breaker.orders if word != "report"] == ["open", "close"]
        finally:
            obeying.cancel()
            await asyncio.wait([obeying])


async def test_killed_between_acceptance_and_acknowledgement(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Mosquitto
) -> None:
    """SIGKILL while messages stream in, twice: every report is in the history, and none twice."""
    quick(monkeypatch)
    KeyRing.create(tmp_path / "keys")
    settings = CommonSettings(data_dir=tmp_path, database={"url": postgres_url})
    bus = open_bus(settings, SystemClock())
    await bus.start()
    await bus.ensure_topics(topics.specs(settings.bus))
    await bus.stop()
    keys = KeyRing.open(tmp_path / "keys", SystemClock())
    headers = {"authorization": f"Bearer {keys.sign_token('cli', audience='ingest', scopes=('*:*',), ttl_s=300)}"}
    begin, sent = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30), 0

    def at(n: int) -> datetime:
        return begin + timedelta(seconds=n)

    async def stored() -> int:
        connection = await asyncpg.connect(postgres_url)
        try:
            return int(await connection.fetchval("select count(*) from ingest.readings"))
        finally:
            await connection.close()

    async def listening() -> bool:
        return "Received SUBSCRIBE from wattring-line-1" in broker.log()

    async def stream(client: aiomqtt.Client, count: int) -> None:
        nonlocal sent
        for _ in range(0, count, 50):
            messages = [message(n, at(n), ua=200 + n % 50) for n in range(sent, sent + 50)]
            await asyncio.gather(*(client.publish("meters/SN1/up", one, qos=1) for one in messages))
            sent += 50

    async with device(broker, "meter") as client:
        for round_ in range(2):
            async with process(postgres_url, tmp_path, "one") as (running, http):
                if round_ == 0:
                    for path, body in entities(broker).items():
                        response = await http.put(f"/api/v1/{path}", json=body, headers=headers)
                        assert response.status_code == 201, response.text
                    await until(listening, "ingest listens")
                before = await stored()
                streaming = asyncio.create_task(stream(client, 400))

                async def some_stored(before: int = before) -> bool:
                    return await stored() > before

                await until(some_stored, "some of them stored", every_s=0.02)
                running.send_signal(signal.SIGKILL)
                await streaming
        async with process(postgres_url, tmp_path, "one"):

            async def all_stored() -> bool:
                return await stored() >= sent

            await until(all_stored, "all of them stored", within_s=60)
    connection = await asyncpg.connect(postgres_url)
    try:
        times = await connection.fetch("select source_time from ingest.readings order by 1")
    finally:
        await connection.close()
    # A second, different report of one instant would be kept beside the first, under the time at which it came.
    assert [row["source_time"] for row in times] == [at(n) for n in range(sent)]
