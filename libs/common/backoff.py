"""Growing waits between attempts, with jitter, so that many who wait do not come back together."""

import random

_SHARED = random.Random()  # noqa: S311 - spreads load, protects nothing; 2.5 kB, and those who wait are many


class Backoff:
    """Waits that double from ``first_s`` to ``cap_s``."""

    def __init__(self, *, first_s: float, cap_s: float, rng: random.Random | None = None) -> None:
        """Prepare the first wait. [s]"""
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = rng or _SHARED
        self._attempt = 0

    @property
    def first(self) -> bool:
        """Whether nothing has been waited for since the last reset: the moment to log."""
        return self._attempt == 0

    def next_s(self) -> float:
        """Return the next wait, between half and all of the doubled time. [s]"""
        limit = min(self._first_s * 2.0**self._attempt, self._cap_s)
        self._attempt = min(self._attempt + 1, 30)
        return limit * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again: an attempt has succeeded."""
        self._attempt = 0
