"""What control has switched off on purpose: a unit without supply then is no power failure."""

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
    until_us: int | None = None
    """When the load was confirmed awake again, or the shutdown was called off."""


class Shutdowns:
    """The shutdowns of the partitions that this process holds, one per device."""

    def __init__(self) -> None:
        self._of: dict[str, Shutdown] = {}
        self._ended: set[str] = set()

    def begin(self, shutdown: Shutdown) -> bool:
        """Take note of a shutdown; return whether it is news."""
        known = self._of.get(shutdown.device_id)
        if known is not None and known.reference == shutdown.reference:
            return False
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

    def explains(self, device_id: str, began_us: int) -> str | None:
        """Return the shutdown that explains a lost supply that began then, None when none does."""
        known = self._of.get(device_id)
        if known is None or began_us < known.since_us:
            return None
        return known.reference if known.until_us is None or began_us <= known.until_us else None

    def over(self, partition: int, before_us: int) -> Sequence[str]:
        """Return the devices of a partition whose shutdown ended before then, in order."""
        return [
            device_id
            for device_id in sorted(self._ended)
            if (known := self._of[device_id]).partition == partition
            and known.until_us is not None
            and known.until_us <= before_us
        ]

    def remove(self, device_id: str) -> None:
        """Forget a device's shutdown."""
        self._of.pop(device_id, None)
        self._ended.discard(device_id)

    def load(self, shutdowns: Iterable[Shutdown]) -> None:
        """Take over stored shutdowns."""
        for shutdown in shutdowns:
            self._keep(shutdown)

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget these partitions."""
        gone = frozenset(partitions)
        for device_id in [known.device_id for known in self._of.values() if known.partition in gone]:
            self.remove(device_id)

    def _keep(self, shutdown: Shutdown) -> None:
        self._of[shutdown.device_id] = shutdown
        if shutdown.until_us is None:
            self._ended.discard(shutdown.device_id)
        else:
            self._ended.add(shutdown.device_id)
