"""What goes wrong when: a plan drawn from a seed, so that a run that found something can be run again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

FIRST_AT_S = 2.0
LEAST_GAP_S = 2.0
MEAN_GAP_S = 12.0
"""Between two deeds of a long run; a broker needs some seconds to come back. [s]"""


class Deed(StrEnum):
    """Something that goes wrong."""

    KILL_INGEST = "kill ingest"
    KILL_BROKER = "kill broker"
    STOP_BROKER = "stop broker"
    FREEZE_BROKER = "freeze broker"
    KILL_DATABASE = "kill database"
    STOP_DATABASE = "stop database"
    CUT_LINES = "cut lines"
    HANG_UP = "hang up terminals"
    STOP_MQTT = "stop mqtt broker"


AWAY_S = {
    Deed.KILL_INGEST: (0.2, 4.0),
    Deed.KILL_BROKER: (0.5, 6.0),
    Deed.STOP_BROKER: (0.5, 8.0),
    Deed.FREEZE_BROKER: (1.0, 8.0),
    Deed.KILL_DATABASE: (0.2, 6.0),
    Deed.STOP_DATABASE: (0.5, 8.0),
    Deed.CUT_LINES: (0.0, 0.0),
    Deed.HANG_UP: (0.0, 0.0),
    Deed.STOP_MQTT: (0.5, 5.0),
}
"""How long the victim stays away, at least and at most, before it is started again. [s]"""
KILLS = (Deed.KILL_INGEST, Deed.KILL_BROKER, Deed.KILL_DATABASE, Deed.CUT_LINES, Deed.HANG_UP)
"""One of each kind, for a short run."""


@dataclass(frozen=True, slots=True)
class Step:
    """A deed of the plan."""

    at_s: float
    """From the beginning of the disturbances. [s]"""
    deed: Deed
    away_s: float


def draw(seed: int, length_s: float, deeds: Sequence[Deed] = tuple(Deed)) -> list[Step]:
    """Return the steps of a run, in order of time; every deed at least once, in every round once."""
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    rounds = max(1, round((length_s - FIRST_AT_S) / (MEAN_GAP_S * len(deeds))))
    order: list[Deed] = []
    for _ in range(rounds):
        order += chance.sample(list(deeds), len(deeds))
    room_s = max(length_s - FIRST_AT_S, LEAST_GAP_S * len(order))
    # Even and uneven gaps: two deeds may well fall together.
    times = sorted(FIRST_AT_S + chance.uniform(0.0, room_s) for _ in order)
    return [Step(at_s, deed, chance.uniform(*AWAY_S[deed])) for at_s, deed in zip(times, order, strict=True)]
