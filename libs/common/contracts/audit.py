"""Who changed what, through which door."""

from libs.common.contracts.base import Code, JsonObject, Payload, UtcTime
from libs.common.ids import SiteId


class AuditEvent(Payload):
    """One change by a person, a key or a service; append-only."""

    actor: str
    """``user:<name>``, ``key:<id>`` or ``service:<name>``; the key."""
    door: Code
    """``api``, ``console``, ``cli``, ``direct_door``, ``sc``, ``upstream_app`` …"""
    action: str
    """Verb and noun, such as ``device.replace``."""
    subject: str
    """Kind and id, such as ``device:m-17``."""
    at: UtcTime
    before: JsonObject | None = None
    """What it was; absent for a creation."""
    after: JsonObject | None = None
    """What it is; absent for a removal."""
    reason: str | None = None
    address: str | None = None
    """Where the request came from."""
    request_id: str | None = None
    site_id: SiteId | None = None
    succeeded: bool | None = None
    """False for a refused attempt; absent is true."""
