"""A member of a group in a process of its own, to be killed or frozen by a test: see ``test_bus.py``.

Arguments: one JSON object. It writes ``ready`` when it holds its partitions. After the effect of a message whose value
is ``hold`` it locks its cursors, as it does when it commits, writes ``holding`` and waits for a line on its standard
input: the worst moment to be stopped in.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from libs.common.bus import open_bus
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.db import Database, WriteConn
from libs.common.settings import CommonSettings
from libs.common.testing.bus import Recorder


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def main(arguments: dict[str, Any]) -> None:
    settings = CommonSettings.model_validate(arguments["settings"])
    clock = SystemClock()
    db = Database(settings.database, schema=arguments["schema"])
    bus = open_bus(settings, clock)
    await db.open()
    await bus.start()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    class Holding(Recorder):
        async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
            await super().handle(conn, batch)
            if any(received.value == b"hold" for received in batch):
                await conn.execute("select from consumer_cursors for update")
                say("holding")
                await lines.readline()

    consumer = EffectsConsumer(
        bus=bus,
        db=db,
        clock=clock,
        group=arguments["group"],
        topics=[arguments["topic"]],
        handler=Holding(arguments["name"]),
        member_id=arguments["name"],
        fetch_timeout_s=0.1,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run(lambda: None))
        while not (consumer.ready and consumer.partitions):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
        say("ready")


asyncio.run(main(json.loads(sys.argv[1])))
