"""Live push: to those who may see it, and never held up by the slow."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import orjson
import pytest

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import HEARTBEAT_TYPE
from services.gateway.live import LiveHub, TooManyPages


def received(site: str, number: int, ce_type: bytes = b"x") -> Received:
    return Received(
        topic=topics.READINGS,
        partition=0,
        offset=number,
        key=site,
        value=orjson.dumps({"n": number}),
        headers=(("ce_type", ce_type),),
        appended_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


async def read(hub: LiveHub, sites: set[str], batches: list[list[Received]]) -> str:
    draining = False
    stream = hub.stream(hub.open(lambda site: site in sites), lambda: draining)
    chunks = [await anext(stream)]
    for batch in batches:
        await hub.handle(batch)
    chunks.append(await anext(stream))
    draining = True
    hub.close()
    chunks += [chunk async for chunk in stream]
    return b"".join(chunks).decode()


async def test_a_page_sees_its_sites_only_and_no_heartbeats() -> None:
    hub = LiveHub(clients_max=1, queue_max=10)
    batch = [received("a", 1), received("b", 2), received("a", 3, HEARTBEAT_TYPE.encode())]
    text = await read(hub, {"a"}, [batch])
    assert 'event: telemetry.readings\ndata: {"n":1}' in text
    assert '"n":2' not in text
    assert '"n":3' not in text


async def test_a_slow_page_loses_its_oldest_events_and_is_told() -> None:
    hub = LiveHub(clients_max=1, queue_max=2)
    text = await read(hub, {"a"}, [[received("a", n) for n in range(5)]])
    assert 'event: lost\ndata: {"events":3}' in text
    assert '"n":3' in text
    assert '"n":4' in text


async def test_pages_are_bounded() -> None:
    hub = LiveHub(clients_max=1, queue_max=2)
    stream = hub.stream(hub.open(lambda _: True), lambda: False)
    assert isinstance(stream, AsyncGenerator)
    await anext(stream)
    with pytest.raises(TooManyPages):
        hub.open(lambda _: True)
    await stream.aclose()
    await asyncio.sleep(0)
    hub.open(lambda _: True)
