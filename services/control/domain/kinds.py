"""What the kind of a load says by itself: limits that the settings may raise and not lower; a policy may do both.

Radio units need nothing here: coverage, sector and what may never be off are guards of their own. A lamp or a socket is
worn by nothing that the general limits do not cover. A compressor is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.control.domain.guards import Policy


@dataclass(frozen=True, slots=True)
class KindLimits:
    """Least times of a kind of load, and why."""

    min_off_s: float
    """An OFF with less time left is not begun. [s]"""
    min_on_s: float
    """Least time between a wake-up and the next OFF. [s]"""
    why: str
    why_zh: str
    source: str


BY_KIND: Mapping[str, KindLimits] = {
    "air_conditioner": KindLimits(
        min_off_s=180.0,
        min_on_s=180.0,
        why="a compressor rests three minutes between two starts, or it starts against the pressure of its last run",
        why_zh="压缩机两次启动之间至少停机三分钟,避免带压启动",
        source="instruction sheet of the LAE BD1-28 controller: compressor rest time (CRT) of 3 minutes recommended, "
        "counted from the last switch-over",
    )
}


def raised(settings: Policy, kind: str) -> tuple[Policy, dict[str, str]]:
    """Return the settings as they hold for a kind of load, and by limit who says so where the kind does."""
    limits = BY_KIND.get(kind)
    if limits is None:
        return settings, {}
    higher = replace(
        settings,
        min_off_s=max(settings.min_off_s, limits.min_off_s),
        min_on_s=max(settings.min_on_s, limits.min_on_s),
    )
    changed = [name for name in ("min_off_s", "min_on_s") if getattr(higher, name) != getattr(settings, name)]
    return higher, dict.fromkeys(changed, f"kind:{kind}")
