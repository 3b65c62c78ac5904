"""Spreading the LOGINs of many units over time, so that a centre that comes back is not run down by all at once."""


class Pace:
    """A rate with a second's worth of credit at most."""

    def __init__(self, now_s: float) -> None:
        self._free_at_s = now_s

    def allowed(self, now_s: float, per_s: float) -> int:
        """Return how many may begin now: none before the rate allows, a second's worth (and one at least) at most.

        Args:
            now_s: Of a clock that only goes forward. [s]
            per_s: The rate. [1/s]
        """
        waited_s = now_s - self._free_at_s
        return 0 if waited_s < 0 else min(int(waited_s * per_s) + 1, max(1, int(per_s)))

    def took(self, now_s: float, per_s: float) -> None:
        """Count one that has begun."""
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + 1.0 / per_s
