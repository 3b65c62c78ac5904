"""What the producer, the members and the tails of the Kafka bus have in common."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from libs.common.bus.kafka_security import security
from libs.common.bus.port import BusUnavailable, Received, TopicPartition
from libs.common.settings import BusSettings

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
"""Questions to the broker: topics, offsets, connecting. [s]"""
REQUEST_TIMEOUT_MS = 10_000

READING: dict[str, Any] = {
    "enable_auto_commit": False,
    # "none" cannot be combined with positions kept elsewhere: aiokafka raises before they have been sought.
    "auto_offset_reset": "earliest",
    "fetch_max_wait_ms": 500,
    "max_partition_fetch_bytes": 1 << 20,
    "fetch_max_bytes": 16 << 20,
}


def client_settings(settings: BusSettings) -> dict[str, Any]:
    """Return what every client of the cluster is made with.

    Raises:
        InvalidSettings: A file of the connection's security cannot be used.
    """
    return {
        **security(settings),
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": "wattring",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": 60_000,
    }


@asynccontextmanager
async def within(timeout_s: float, what: str) -> AsyncIterator[None]:
    """Run the block within a time; let an absent broker be an absent bus."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise BusUnavailable(
            f"{what} within {timeout_s:g} s", message_zh=f"Kafka 在 {timeout_s:g} 秒内无应答"
        ) from None
    except KafkaError as exc:
        nobody = [f"{host}:{port}" for host, port in _TRIED.findall(str(exc))]
        if isinstance(exc, KafkaConnectionError) and nobody:
            places = ", ".join(nobody)
            raise BusUnavailable(
                f"{what}: nobody at {places}; check KAFKA_BOOTSTRAP_SERVERS",
                message_zh=f"Kafka 无应答:{places} 无法连接,请检查 KAFKA_BOOTSTRAP_SERVERS",
            ) from exc
        reason = str(exc) or type(exc).__name__
        raise BusUnavailable(f"{what}: {reason}", message_zh=f"Kafka 无应答:{reason}") from exc


_TRIED = re.compile(r"\('([^']+)', (\d+),")
"""The addresses in what aiokafka says when it reaches none of them."""


async def ends_of(consumer: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the offset after the last message of each partition."""
    asked = [KafkaPartition(*place) for place in places]
    found = await consumer.end_offsets(asked) if asked else {}
    return {TopicPartition(*place): offset for place, offset in found.items()}


async def starts_of(consumer: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the first offset of each partition that retention has left; compaction does not move it."""
    asked = [KafkaPartition(*place) for place in places]
    found = await consumer.beginning_offsets(asked) if asked else {}
    return {TopicPartition(*place): offset for place, offset in found.items()}


def to_received(record: "ConsumerRecord[bytes, bytes]") -> Received:
    """Return a record as the port shows it."""
    return Received(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=None if record.key is None else record.key.decode(errors="replace"),
        value=record.value,
        headers=tuple((name, value) for name, value in record.headers),
        appended_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
    )


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer within a bound, whatever the broker does.

    It stops in a task of its own: aiokafka cancels the fetches that are under way and awaits them, and that
    cancellation would come out here as if somebody had cancelled us.
    """
    stopping = asyncio.create_task(consumer.stop(), name="stop of a consumer")
    try:
        await asyncio.wait([stopping], timeout=CALL_TIMEOUT_S)
    finally:
        stopping.cancel()
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    reason = repr(stopping.exception()) if stopping.done() and not stopping.cancelled() else "interrupted"
    logger.warning("consumer not closed cleanly", extra={"reason": reason})
    try:
        # What was interrupted has not come to its connections.
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await consumer._client.close()  # noqa: SLF001
    except (TimeoutError, KafkaError):
        logger.warning("connections of a consumer left open")
