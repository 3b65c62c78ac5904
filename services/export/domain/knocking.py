"""Who knocks at the units' door and is turned away: when it is too often to be a mistake. Pure."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

LIMIT = 10
"""Refused messages of one address within the window before anybody is told."""
WINDOW_S = 60.0
QUIET_S = 900.0
"""Without a refusal for this long it is over. [s]"""
MOST_PEERS = 1000
"""Addresses that are watched at once; the one silent for longest is forgotten first."""


@dataclass(slots=True)
class Knocking:
    """Counts refusals per address.

    One wrong message is a misconfigured centre or a scanner passing by. ``LIMIT`` of them within ``WINDOW_S`` are told,
    and again once per window as long as they go on, so that the time of the last is known well enough.
    """

    _times: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def refused(self, peer: str, now_s: float) -> bool:
        """Count a refusal; return whether it is time to tell.

        Args:
            peer: The address.
            now_s: Monotonic time. [s]
        """
        times = self._times.setdefault(peer, deque(maxlen=LIMIT))
        self._times.move_to_end(peer)
        if len(self._times) > MOST_PEERS:
            self._times.popitem(last=False)
        times.append(now_s)
        if len(times) < LIMIT or now_s - times[0] > WINDOW_S:
            return False
        times.clear()
        return True
