"""How a payload becomes a message."""

from datetime import datetime, timedelta, timezone

import pytest
from pydantic import BaseModel, Field

from libs.common.bus import envelope
from libs.common.bus.port import Message, Received

TIME = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=8)))


class Payload(BaseModel):
    site_id: str
    note: str | None = None
    begins: int = Field(default=1, alias="from")


def received(message: Message) -> Received:
    return Received(
        topic=message.topic,
        partition=0,
        offset=0,
        key=message.key,
        value=message.value,
        headers=message.headers,
        appended_at=TIME,
    )


def test_a_payload_becomes_compact_json_with_cloudevents_headers() -> None:
    message = envelope.message(
        "wattring.control.events.v1",
        "站点-1",
        Payload(site_id="站点-1"),
        source="control",
        time=TIME,
        event_id="e-1",
        subject="load-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    assert message.value == '{"site_id":"站点-1","from":1}'.encode()
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"e-1",
        "ce_source": b"control",
        "ce_type": b"wattring.control.events.v1",
        "ce_time": b"2026-03-01T04:00:00.250000Z",
        "content-type": b"application/json",
        "ce_subject": b"load-1",
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def test_the_reader_finds_what_the_writer_said() -> None:
    read = received(envelope.message("wattring.a.b.v1", "k", Payload(site_id="s"), source="ingest", time=TIME))
    assert envelope.event_type(read) == "wattring.a.b.v1"
    assert read.header("ce_source") == b"ingest"
    assert envelope.traceparent(read) is None
    assert len(envelope.event_id(read) or "") == 36


def test_events_without_an_id_of_their_own_get_different_ones() -> None:
    ids = {
        envelope.event_id(received(envelope.message("t", "k", Payload(site_id="s"), source="x", time=TIME)))
        for _ in range(5)
    }
    assert len(ids) == 5


def test_a_message_of_a_stranger_has_no_id() -> None:
    read = received(Message("t", "k", b"1"))
    assert envelope.event_id(read) is None
    assert envelope.event_type(read) is None


def test_a_tombstone_has_no_value_and_the_same_headers() -> None:
    message = envelope.tombstone("wattring.device.status.v1", "d-1", source="ingest", time=TIME, partition_key="s-1")
    assert message.value is None
    assert message.partition_key == "s-1"
    assert envelope.event_type(received(message)) == "wattring.device.status.v1"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        envelope.message("t", "k", Payload(site_id="s"), source="x", time=datetime(2026, 1, 1))  # noqa: DTZ001
