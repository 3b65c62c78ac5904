"""Closing a consumer whose fetches are under way; found by the soak, as a process that ended when its broker died."""

import asyncio
from typing import Any

import pytest

from libs.common.bus import kafka_client
from libs.common.bus.kafka_client import close_consumer


class Client:
    def __init__(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True


class Consumer:
    """Stops as aiokafka does: it awaits the fetches that it has just cancelled."""

    def __init__(self, fetching: Any) -> None:
        self._fetch = asyncio.ensure_future(fetching)
        self._client = self.client = Client()

    async def stop(self) -> None:
        self._fetch.cancel()
        await self._fetch
        await self._client.close()


async def never() -> None:
    await asyncio.Event().wait()


async def stubborn() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling() > 1:  # type: ignore[union-attr]
                raise


async def test_a_fetch_that_is_cancelled_cancels_nobody_else() -> None:
    consumer = Consumer(never())
    await asyncio.sleep(0)
    await close_consumer(consumer)
    assert consumer.client.is_closed


async def test_a_stop_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_client, "CALL_TIMEOUT_S", 0.01)
    consumer = Consumer(stubborn())
    await asyncio.sleep(0)
    await close_consumer(consumer)
    assert consumer.client.is_closed


async def test_who_closes_can_be_cancelled() -> None:
    consumer = Consumer(stubborn())
    await asyncio.sleep(0)
    closing = asyncio.create_task(close_consumer(consumer))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
