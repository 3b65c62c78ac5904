"""Outages: times in which a place had no supply. What was used then is no measure of what is usual.

A person records them with a reason; what was recorded by mistake is withdrawn and stays on record.
"""

from dataclasses import dataclass
from datetime import datetime

from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, SiteId


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A half-open time without supply."""

    outage_id: str
    site_id: SiteId
    circuit_id: CircuitId | None
    """None for the whole site."""
    began_at: datetime
    ended_at: datetime
    reason: str
    recorded_by: str
    recorded_at: datetime
    withdrawn_by: str | None = None
    withdrawn_at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse an outage without length.

        Raises:
            InvalidInput: It ends before it began.
        """
        if self.ended_at <= self.began_at:
            raise InvalidInput(
                f"ended_at: expected a time after {self.began_at.isoformat()}, found {self.ended_at.isoformat()}",
                message_zh=f"ended_at:应晚于 {self.began_at.isoformat()},实际为 {self.ended_at.isoformat()}",
            )

    def concerns(self, circuit: CircuitId) -> bool:
        """Return whether a circuit of its site was without supply."""
        return self.circuit_id is None or self.circuit_id == circuit
