"""Many wake-ups at once: what is only told of them waits until they are under way, for some seconds.

Events and links of the audit's chain are safe in the database by then. Each costs as much of the processor as sending
or proving a wake-up does, and while both are done side by side each takes twice as long.
"""

from libs.common.clock import Clock

RUSH = 300
"""So many loads of an order are sent at once, or answered at once, before others wait for them."""
LASTS_S = 3.0
"""It is over when nothing of that kind has happened for so long. [s]"""
AT_MOST_S = 20.0
"""What waits does not wait for longer, and is left in peace for as long afterwards. [s]"""


class Rush:
    """Knows whether thousands are being woken at the moment."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is under way yet."""
        self._clock = clock
        self._until = self._at_most_until = float("-inf")

    @property
    def is_on(self) -> bool:
        """Whether what can wait is to wait."""
        return self._clock.monotonic() < min(self._until, self._at_most_until)

    def note(self, loads: int) -> None:
        """Learn that so many loads were sent their wake-up, or are known to be awake, in one set."""
        now = self._clock.monotonic()
        if not self.is_on:
            if loads < RUSH or now < self._at_most_until + AT_MOST_S:
                return
            self._at_most_until = now + AT_MOST_S
        self._until = now + LASTS_S
