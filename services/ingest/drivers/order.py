"""When values hold that a device tells over a connection which keeps their order."""

from dataclasses import dataclass
from datetime import datetime, timedelta

TICK = timedelta(microseconds=1)


@dataclass(slots=True)
class Order:
    """When the values of one device hold, in the order in which they were told."""

    last: datetime | None = None
    """Of what was told last."""

    def untimed(self, received_at: datetime) -> datetime:
        """Return when something holds that has just come without a time."""
        self.last = received_at if self.last is None else max(received_at, self.last + TICK)
        return self.last

    def timed(self, told_at: datetime, received_at: datetime) -> datetime:
        """Return when something holds that has just come with a time; nothing arrives before it was sent."""
        if told_at > received_at or (self.last is not None and told_at <= self.last):
            return self.untimed(received_at)
        self.last = told_at
        return told_at
