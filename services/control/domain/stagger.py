"""Not all loads of a plan go off in the same second: each has its delay after the window's start.

The delay follows from plan, window and load alone, so that every process finds the same one and a preview is true.
Delays only ever make a shutdown shorter: the wake-up is at the window's end for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from zlib import crc32


class Spread(StrEnum):
    """How delays are given."""

    NONE = "none"
    EVEN = "even"
    """One after the other, in the order of the loads' ids, over the whole time."""
    RANDOM = "random"
    """Anywhere within the time, another place every night."""


@dataclass(frozen=True, slots=True)
class Stagger:
    """Over how long the shutdowns of a window are spread."""

    spread: Spread = Spread.NONE
    within_s: int = 0
    """Longest delay. [s]"""

    @property
    def modulus(self) -> int:
        """How many different delays there are."""
        return self.within_s + 1


@dataclass(frozen=True, slots=True)
class Offsets:
    """Delay of a load in a window: (its own number + that of the window) modulo ``modulus``. [s]"""

    of_loads: list[int]
    """Empty where all are 0."""
    of_windows: list[int]
    modulus: int


def offsets(plan_id: str, load_ids: Sequence[str], windows: Sequence[datetime], stagger: Stagger) -> Offsets:
    """Return the delays of loads in windows.

    Args:
        plan_id: The plan.
        load_ids: All its loads, in the order of their ids.
        windows: Wall times of the windows' starts.
        stagger: How.
    """
    return Offsets(
        of_loads=offsets_of_loads(plan_id, load_ids, stagger),
        of_windows=offsets_of_windows(plan_id, windows, stagger),
        modulus=stagger.modulus,
    )


def offsets_of_loads(plan_id: str, load_ids: Sequence[str], stagger: Stagger) -> list[int]:
    """Return the loads' part of ``offsets``, the same in all windows."""
    match stagger.spread:
        case Spread.NONE:
            return []
        case Spread.EVEN:
            return [position * stagger.modulus // len(load_ids) for position in range(len(load_ids))]
        case Spread.RANDOM:
            return _numbers(plan_id, load_ids, stagger.modulus)


def offsets_of_windows(plan_id: str, windows: Sequence[datetime], stagger: Stagger) -> list[int]:
    """Return the windows' part of ``offsets``, the same for all loads."""
    if stagger.spread is Spread.RANDOM:
        return _numbers(plan_id, [window.isoformat() for window in windows], stagger.modulus)
    return [0] * len(windows)


def _numbers(plan_id: str, names: Sequence[str], modulus: int) -> list[int]:
    # No secret and no proof: a checksum spreads well enough, and there are a hundred thousand loads.
    seed = crc32(plan_id.encode())
    return [crc32(name.encode(), seed) % modulus for name in names]
