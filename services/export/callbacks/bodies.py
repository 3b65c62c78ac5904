"""How news are said: CloudEvents 1.0 in structured JSON, the payload of the topic as ``data``.

Source:
    CloudEvents 1.0.2; its documented extensions Sequence and Distributed Tracing.
"""

from datetime import UTC, datetime

import orjson

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SEQUENCE_DIGITS = 12
"""Padded, so that sequences compare as texts too, as the extension asks."""


def body_of(
    *,
    event_id: str,
    ce_type: str,
    source: str,
    resource: str,
    site_id: str,
    at: datetime,
    sequence: int,
    data: bytes,
    traceparent: str | None,
) -> bytes:
    """Return the body of a call.

    Args:
        event_id: Identity of the event, also its ``webhook-id``.
        ce_type: Its type.
        source: Which service said it.
        resource: What it is news of.
        site_id: Where that is.
        at: When it happened.
        sequence: Its number among the news of the resource for this endpoint, from 1, without gaps.
        data: The payload, JSON.
        traceparent: Trace to go on from.
    """
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/wattring/{source}",
        "type": ce_type,
        "subject": resource,
        "time": at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "sequence": str(sequence).zfill(SEQUENCE_DIGITS),
        "siteid": site_id,
    }
    if traceparent is not None:
        event["traceparent"] = traceparent
    event["data"] = orjson.Fragment(data)
    return orjson.dumps(event)
