"""News that nobody has asked for: passed over many at a time, until somebody asks."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandState
from libs.common.db import WriteConn
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import running, until
from services.export.worker.callback_queue import GROUP, TOPICS, UNHEARD_S, CallbackQueue
from tests.integration.export.callback_world import Places, control, world

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


class Counting(CallbackQueue):
    """Notes how many messages each transaction had."""

    batches: list[int]

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        self.batches.append(len(batch))
        await super().handle(conn, batch)


@pytest.mark.sql
async def test_an_endpoint_made_while_news_nobody_asked_for_are_gathered_misses_none(
    postgres_url: str, tmp_path: Path
) -> None:
    bus = PgLogBus(DatabaseSettings(url=SecretStr(postgres_url)), BusSettings(), SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        async with world(postgres_url, tmp_path) as found:
            handler = Counting(found.clock, Places(), wake=found.wake)
            handler.batches = []
            consumer = EffectsConsumer(
                bus=bus, db=found.db, clock=found.clock, group=GROUP, topics=TOPICS, handler=handler,
                member_id="export-a", gather_s=handler.gather_s,
            )  # fmt: skip

            async def publish(event_id: str) -> None:
                event = control(CommandState.FAILED)
                message = envelope.message(
                    topics.CONTROL_EVENTS, "s-1", event, source="control", time=event.at, event_id=event_id
                )
                await bus.publish([message], timeout_s=10)

            async def position() -> int:
                """Return how far the group is, over the partitions that it has read of."""
                async with found.db.read() as conn:
                    told = await conn.fetchval(
                        "select sum(next) from consumer_cursors where grp = $1 and next > 0", GROUP
                    )
                return int(told)

            async with running(consumer):
                await publish("before-0")
                await until(lambda: found.clock.sleeping == 1)  # it has passed over it, and gathers
                assert (handler.batches, await position()) == ([1], 1)
                for number in range(1, 5):
                    await publish(f"before-{number}")
                endpoint, _ = await found.endpoint("http://127.0.0.1:1/")
                await publish("after")
                assert (handler.batches, await position()) == ([1], 1)
                await found.clock.advance(UNHEARD_S)

                async def queued(event_id: str) -> bool:
                    return event_id in {each.event_id for each in await found.log(endpoint)}

                await until(lambda: queued("after"))
                assert (handler.batches, await position()) == ([1, 5], 6)
                await publish("heard")
                await until(lambda: queued("heard"))  # and nobody had to let time pass
                assert (handler.batches, await position()) == ([1, 5, 1], 7)
    finally:
        await bus.stop()
