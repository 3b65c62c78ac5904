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
    modulus = stagger.within_s + 1
    if stagger.spread is Spread.RANDOM:
        return Offsets(
            of_loads=_numbers(plan_id, load_ids, modulus),
            of_windows=_numbers(plan_id, [window.isoformat() for window in windows], modulus),
            modulus=modulus,
        )
    even = stagger.spread is Spread.EVEN
    return Offsets(
        of_loads=[position * modulus // len(load_ids) for position in range(len(load_ids))] if even else [],
        of_windows=[0] * len(windows),
        modulus=modulus,
    )


def _numbers(plan_id: str, names: Sequence[str], modulus: int) -> list[int]:
    # No secret and no proof: a checksum spreads well enough, and there are a hundred thousand loads.
    seed = crc32(plan_id.encode())
    return [crc32(name.encode(), seed) % modulus for name in names]
