"""What outside parties were told, and whether they got it."""

from enum import StrEnum

from pydantic import Field

from libs.common.contracts.base import Code, Payload, UtcTime
from libs.common.ids import AlarmId, SiteId


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    QUEUED = "queued"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    """The receiver acknowledged."""
    REFUSED = "refused"
    """The receiver answered no; whether it is tried again is the destination's rule."""
    GIVEN_UP = "given_up"
    """By a person or a limit."""


class DeliveryEvent(Payload):
    """A change of state of one item on its way to one destination."""

    destination: str
    """Id of an SC connection, a subscription or a connector; the key."""
    item: str
    """Id of what is delivered: an event id, a file."""
    state: DeliveryState
    attempts: int = Field(ge=0)
    at: UtcTime
    item_kind: Code | None = None
    """``alarm_begin``, ``alarm_end``, ``callback``, ``file`` …"""
    site_id: SiteId | None = None
    alarm_id: AlarmId | None = None
    error: str | None = None
    """What the receiver or the network said, without secrets."""
    next_attempt_at: UtcTime | None = None
    queued_at: UtcTime | None = None
