"""Reads a topic of Wattring with a consumer group of its own, and prints what it read. 以自己的消费组读取主题并打印。

    pip install aiokafka cramjam
    python consume.py localhost:9092 wattring.telemetry.readings.v1 my-app

cramjam unpacks zstd, which the messages are compressed with. A fourth argument ends it after so many messages.
"""

import asyncio
import json
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

READING = "wattring.telemetry.readings.v1"
HEARTBEAT = "wattring.telemetry.heartbeat.v1"


def handle(headers: dict[str, str], value: dict[str, Any] | None) -> None:
    """Do your work here. The same ce_id comes again after a crash: what it did must then be done once."""
    kind = headers["ce_type"]
    if kind == HEARTBEAT:
        return  # says that ingest is alive; you may need it to tell silent devices from a silent platform
    if kind == READING and value is not None:
        quality = value.get("quality") or {}
        for point, number in sorted(value["points"].items()):
            shown = "-" if number is None else number
            print(value["source_time"], value["site_id"], value["device_id"], point, shown, quality.get(point, "good"))
    else:  # a value of null removes its key from a compacted topic
        print(headers["ce_time"], kind, headers["ce_id"], json.dumps(value, ensure_ascii=False, separators=(",", ":")))


async def consume(bootstrap: str, topic: str, group: str, count: int | None) -> None:
    """Read, work, then commit: what was not committed comes again, so nothing is lost."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        done = 0
        while count is None or done < count:
            batches: dict[Any, list[ConsumerRecord]] = await consumer.getmany(timeout_ms=1000, max_records=500)
            for record in (record for records in batches.values() for record in records):
                headers = {name: value.decode() for name, value in record.headers}
                handle(headers, None if record.value is None else json.loads(record.value))
                done += 1
            if batches:
                await consumer.commit()
                sys.stdout.flush()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    server, name, own_group, *many = sys.argv[1:]
    asyncio.run(consume(server, name, own_group, int(many[0]) if many else None))
