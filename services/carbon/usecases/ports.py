"""What the use cases of carbon share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from libs.common.contracts.audit import AuditEvent
from libs.common.db import WriteConn
from libs.common.errors import Forbidden
from libs.common.tokens import Principal


class Audit(Protocol):
    """Publishes who changed what, in the transaction that changes it (``bus.audit``)."""

    async def __call__(self, conn: WriteConn, event: AuditEvent) -> None:
        """Publish one change."""


def audit_event(
    who: Principal,
    action: str,
    subject: str,
    at: datetime,
    *,
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    reason: str | None = None,
    request_id: str | None = None,
    site_id: str | None = None,
) -> AuditEvent:
    """Return what the audit log says of a change by the API."""
    return AuditEvent.model_validate(
        {
            "actor": who.actor,
            "door": "api",
            "action": action,
            "subject": subject,
            "at": at,
            "before": before,
            "after": after,
            "reason": reason,
            "request_id": request_id,
            "site_id": site_id,
        }
    )


def refuse_limited(who: Principal, what: str, what_zh: str) -> None:
    """Refuse somebody who is limited to sites to change what holds for all of them.

    Raises:
        Forbidden: They are.
    """
    if who.sites is not None:
        raise Forbidden(
            f"{who.subject} is limited to sites and may not change {what}",
            message_zh=f"{who.subject} 仅限部分局站,无权修改{what_zh}",
        )
