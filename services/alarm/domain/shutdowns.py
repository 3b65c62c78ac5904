"""What control has switched off on purpose: a unit without supply then is no power failure.

A shutdown explains what begins while it lasts, at most until its planned end: a load that is not woken by then
is not off on purpose any more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A device that a planned shutdown takes the supply from."""

    device_id: str
    partition: int
    reference: str
    """``occurrence:<id>`` or ``command:<id>``; what ``inhibited_by`` names."""
    since_us: int
    """When control began to switch off."""
    planned_end_us: int | None = None
    """When the load is to be awake again; None for an isolation without end."""
    until_us: int | None = None
    """When the load was confirmed awake again, or the shutdown was called off."""

    def explains(self, began_us: int) -> bool:
        """Return whether it explains a lost supply that began then."""
        return self.since_us <= began_us and (self.end_us is None or began_us <= self.end_us)

    @property
    def end_us(self) -> int | None:
        """When it stops explaining anything, None while that is open."""
        ends = [end for end in (self.planned_end_us, self.until_us) if end is not None]
        return min(ends, default=None)


class Shutdowns:
    """The shutdowns of the partitions that this process holds, one per device."""

    def __init__(self) -> None:
        self._of: dict[str, Shutdown] = {}
        self._in: dict[int, set[str]] = {}

    def begin(self, shutdown: Shutdown) -> bool:
        """Take note of a shutdown, or of another planned end of it; return whether it is news."""
        known = self._of.get(shutdown.device_id)
        if known is not None and known.reference == shutdown.reference:
            if known.until_us is not None or shutdown.planned_end_us in (None, known.planned_end_us):
                return False
            self._keep(replace(known, planned_end_us=shutdown.planned_end_us))
            return True
        if known is not None and known.since_us > shutdown.since_us:
            return False
        self._keep(shutdown)
        return True

    def end(self, device_id: str, reference: str | None, at_us: int) -> Shutdown | None:
        """Take note that the device has its supply again; return what to store, None when it is no news.

        Args:
            device_id: Which.
            reference: Whose shutdown is over; None for any (somebody closed the breaker).
            at_us: When. [µs]
        """
        known = self._of.get(device_id)
        if known is None or known.until_us is not None or at_us < known.since_us:
            return None
        if reference is not None and reference != known.reference:
            return None
        ended = replace(known, until_us=at_us)
        self._keep(ended)
        return ended

    def of(self, device_id: str) -> Shutdown | None:
        """Return the last shutdown of a device that is still remembered."""
        return self._of.get(device_id)

    def over(self, partition: int, before_us: int) -> Sequence[str]:
        """Return the devices of a partition whose shutdown explains nothing since then or earlier, in order."""
        return sorted(
            device_id
            for device_id in self._in.get(partition, ())
            if (end_us := self._of[device_id].end_us) is not None and end_us <= before_us
        )

    def remove(self, device_id: str) -> None:
        """Forget a device's shutdown."""
        known = self._of.pop(device_id, None)
        if known is not None:
            self._in[known.partition].discard(device_id)

    def load(self, shutdowns: Iterable[Shutdown]) -> None:
        """Take over stored shutdowns."""
        for shutdown in shutdowns:
            self._keep(shutdown)

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget these partitions."""
        for partition in partitions:
            for device_id in self._in.pop(partition, ()):
                self._of.pop(device_id, None)

    def _keep(self, shutdown: Shutdown) -> None:
        self.remove(shutdown.device_id)
        self._of[shutdown.device_id] = shutdown
        self._in.setdefault(shutdown.partition, set()).add(shutdown.device_id)
