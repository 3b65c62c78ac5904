"""What goes wrong in a night: drawn from a seed, so that a night that found something can be lived again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

VICTIMS = ("control", "ingest", "broker", "database", "watchdog")
AWAY_S = (0.2, 4.0)
AROUND_S = 2.0
"""Things begin to go wrong this long before the window, and end this long after it. [s]"""
KILLS_PER_VICTIM_AND_MINUTE = 2.0
LEAVE = 0.02
"""Share of the units that cannot be reached any more from some moment on. [1]"""
STOPPED = 0.02
"""Share of the units that are locked or trip while they are off. [1]"""


@dataclass(frozen=True, slots=True)
class Kill:
    """A process dies, and is started again."""

    at_s: float
    """From the start of the window. [s]"""
    victim: str
    away_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something happens to a unit."""

    at_s: float
    unit: int
    what: str
    """``leaves``, ``lock`` or ``trip``."""


def draw(seed: int, window_s: float, units: int) -> tuple[Sequence[Kill], Sequence[Trouble]]:
    """Return what goes wrong, in order of time; each victim dies at least once, one of them near the window's end.

    Every other evening (odd seeds) is calm for the first third of the window, so that units are off when it begins;
    on the others so much may be away at the start that nothing is switched off, which is right as well.
    """
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    times = max(1, round(KILLS_PER_VICTIM_AND_MINUTE * window_s / 60))
    first_s = window_s / 3 if seed % 2 else -AROUND_S
    kills = [
        Kill(chance.uniform(first_s, window_s + AROUND_S), victim, chance.uniform(*AWAY_S))
        for victim in VICTIMS
        for _ in range(times)
    ]
    kills.append(Kill(window_s - chance.uniform(0, 1), chance.choice(VICTIMS), AWAY_S[1]))
    numbers = chance.sample(range(units), units)
    leaving, stopped = max(1, round(units * LEAVE)), max(2, round(units * STOPPED))
    troubles = [Trouble(chance.uniform(0, window_s), numbers.pop(), "leaves") for _ in range(leaving)]
    troubles += [
        Trouble(chance.uniform(window_s / 3, 0.9 * window_s), numbers.pop(), ("lock", "trip")[n % 2])
        for n in range(stopped)
    ]
    return sorted(kills, key=lambda one: one.at_s), sorted(troubles, key=lambda one: one.at_s)
