"""The clock of a Modbus device in its registers, as its profile says."""

from collections.abc import Sequence
from datetime import datetime

from libs.common.profiles import ModbusClock

CENTURY = 2000
PARTS = ("mo", "dd", "hh", "mi", "ss")


def words_of(clock: ModbusClock, local: datetime) -> list[int]:
    """Return the registers that show a local time."""
    year = {"yyyy": local.year, "yy": local.year - CENTURY}
    values = dict(zip(PARTS, (local.month, local.day, local.hour, local.minute, local.second), strict=True))
    values |= {**year, "-": 0}
    return [sum(values[part] << 8 * at for at, part in enumerate(reversed(parts))) for parts in clock.registers]


def local_of(clock: ModbusClock, words: Sequence[int]) -> datetime:
    """Return the time, without zone, that registers show.

    Raises:
        ValueError: They show none.
    """
    found: dict[str, int] = {}
    for parts, word in zip(clock.registers, words, strict=True):
        bytes_ = (word,) if len(parts) == 1 else (word >> 8, word & 0xFF)
        found |= dict(zip(parts, bytes_, strict=True))
    year = found["yyyy"] if "yyyy" in found else CENTURY + found["yy"]
    month, day, hour, minute, second = (found[part] for part in PARTS)
    return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001  # the profile says the zone
