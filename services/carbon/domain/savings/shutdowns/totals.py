"""Savings of many windows: by occurrence, by plan, by site; what may be published, and what it is worth.

A total says how many of its windows are known. It is published as a saving only if it is larger than twice its
standard error; otherwise it is shown, with that remark.

Source:
    The platform's energy methods, section 15, rules 5 and 7.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.carbon.domain.savings.shutdowns.executed import ExecutedPart
from services.carbon.domain.savings.shutdowns.windows import Method, WindowSaving

PUBLISH_ERRORS = 2.0
"""A saving is published if it is more than so many of its standard errors."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of some windows' savings."""

    saving_kwh: float | None
    """Of the windows that are known; None if none is. [kWh]"""
    standard_error_kwh: float | None
    """Of the sum; None if a known window has no variance. [kWh]"""
    windows: int
    windows_known: int
    windows_failed: int
    """Windows that were commanded and in which the load went on as usual."""
    methods: frozenset[Method]
    emission_kg: float | None
    """Location-based, of the windows that are known; None if the factor of one of them is unknown. [kgCO2]"""
    money_cny: float | None
    """Of the windows that are known; None if the price of one of them is unknown. [CNY]"""

    @property
    def completeness(self) -> float | None:
        """Windows with a figure over all windows, 0 to 1; None where there is no window."""
        return self.windows_known / self.windows if self.windows else None

    @property
    def publishable(self) -> bool:
        """Whether the figure may be called a saving."""
        if self.saving_kwh is None or self.standard_error_kwh is None:
            return False
        return self.saving_kwh > PUBLISH_ERRORS * self.standard_error_kwh


def total(savings: Iterable[WindowSaving]) -> Total:
    """Return the sum of whole windows."""
    return _total([(one, 1.0) for one in savings])


def totals_by(savings: Sequence[WindowSaving], key: Callable[[ExecutedPart], Key]) -> dict[Key, Total]:
    """Return the sums by something that an executed part belongs to: its occurrence, its plan, its load.

    A window that parts of several share is divided among them by the time that each was off, so that the sums
    together are the sum of all windows.
    """
    shares: dict[Key, list[tuple[WindowSaving, float]]] = {}
    for one in savings:
        whole = sum(part.off_s for part in one.window.parts)
        mine: dict[Key, float] = {}
        for part in one.window.parts:
            mine[key(part)] = mine.get(key(part), 0.0) + part.off_s
        for each, off_s in mine.items():
            shares.setdefault(each, []).append((one, off_s / whole if whole else 1 / len(mine)))
    return {each: _total(parts) for each, parts in shares.items()}


def cluster(site: Total, neighbours: Sequence[Total]) -> Total:
    """Return the saving of a site with its first neighbours, to which its traffic moved.

    Args:
        site: What the switched site saved.
        neighbours: The same difference on each neighbour's branch in the same windows; usually negative. One that is
            unknown leaves the windows of the cluster incomplete.
    """
    together = [site, *neighbours]
    known = [one for one in together if one.saving_kwh is not None]
    errors = [one.standard_error_kwh for one in known]
    return Total(
        saving_kwh=sum(one.saving_kwh or 0.0 for one in known) if len(known) == len(together) else None,
        standard_error_kwh=_root_sum([None if error is None else error**2 for error in errors]),
        windows=site.windows,
        windows_known=min(int((one.completeness or 0.0) * site.windows) for one in together),
        windows_failed=site.windows_failed,
        methods=frozenset().union(*(one.methods for one in together)),
        emission_kg=_sum_known([one.emission_kg for one in known]) if len(known) == len(together) else None,
        money_cny=_sum_known([one.money_cny for one in known]) if len(known) == len(together) else None,
    )


def _total(shares: Sequence[tuple[WindowSaving, float]]) -> Total:
    whole = [(one, share) for one, share in shares if one.saving_kwh is not None]
    known = [(one.saving_kwh, one.variance_kwh2, share) for one, share in shares if one.saving_kwh is not None]
    return Total(
        saving_kwh=math.fsum(saving * share for saving, _, share in known) if known else None,
        standard_error_kwh=_root_sum([None if var is None else var * share**2 for _, var, share in known]),
        windows=len(shares),
        windows_known=len(known),
        windows_failed=sum(1 for one, _ in shares if one.successful is False),
        methods=frozenset(one.method for one, _ in shares if one.method is not None),
        emission_kg=_sum_known([_share_of(one.emission_kg, part) for one, part in whole]),
        money_cny=_sum_known([_share_of(one.money_cny, part) for one, part in whole]),
    )


def _share_of(value: float | None, share: float) -> float | None:
    return None if value is None else value * share


def _sum_known(parts: Sequence[float | None]) -> float | None:
    """Return the sum, None if a part is unknown or there is none."""
    known = [one for one in parts if one is not None]
    return math.fsum(known) if known and len(known) == len(parts) else None


def _root_sum(variances: Sequence[float | None]) -> float | None:
    known = [one for one in variances if one is not None]
    return math.sqrt(math.fsum(known)) if known and len(known) == len(variances) else None
