"""The last value of every point of a device: its last report, and beside it what that report did not hold.

A daily register is in one report of a day. It is not gone with the next one, it only gets older.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from libs.common.contracts.telemetry import Quality


@dataclass(frozen=True, slots=True)
class OlderPoint:
    """A point's last value, out of a report that is not the last one."""

    value: float | None
    source_time: datetime
    quality: Quality | None = None


def points_key(names: Iterable[str]) -> int:
    """Return a number that two reports with the same points have in common, the same in every process; 64 bits."""
    digest = blake2b("\n".join(sorted(names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def older_points(in_last: Iterable[str], reports: Iterable[Mapping[str, OlderPoint]]) -> dict[str, OlderPoint]:
    """Return the youngest value of every point that the last report does not hold.

    Args:
        in_last: Points of the last report.
        reports: Points of other reports, in any order.
    """
    held = set(in_last)
    found: dict[str, OlderPoint] = {}
    for points in reports:
        for name, point in points.items():
            known = found.get(name)
            if name not in held and (known is None or point.source_time > known.source_time):
                found[name] = point
    return found
