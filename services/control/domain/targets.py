"""Which loads a plan means: named one by one, or by device, tag, site and region.

A group is a tag of the registry. What a group means is settled when the plan is approved, and shown until then: a
load that joins the group later is in no plan that nobody has approved for it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from libs.common.errors import InvalidInput
from libs.common.ids import LoadId
from services.control.domain.loads import LoadInfo


class NothingMeant(InvalidInput):
    """A name in a plan's targets stands for no load."""

    code = "empty_target"
    title_zh = "目标没有负载"


@dataclass(frozen=True, slots=True)
class Groups:
    """Loads that are not named one by one."""

    device_ids: tuple[str, ...] = ()
    """Breakers; all loads behind them."""
    tags: tuple[str, ...] = ()
    site_ids: tuple[str, ...] = ()
    region_ids: tuple[str, ...] = ()
    """Provinces, cities, districts; all loads of the sites in them."""
    excluded_load_ids: tuple[str, ...] = ()
    """Loads of these groups that are left out."""

    def __bool__(self) -> bool:
        """Return whether a group is named."""
        return bool(self.device_ids or self.tags or self.site_ids or self.region_ids)


def resolve(load_ids: Sequence[str], groups: Groups, loads: Iterable[LoadInfo]) -> tuple[LoadId, ...]:
    """Return the loads that are meant: those named, in their order, then those of the groups by id.

    Args:
        load_ids: Named one by one; they need not exist, which is found elsewhere.
        groups: The others.
        loads: All loads there are; asked only if groups are named.

    Raises:
        NothingMeant: A device, tag, site or region has no load.
    """
    named = [LoadId(load_id) for load_id in load_ids]
    if not groups:
        return tuple(named)
    every = list(loads)
    found: set[LoadId] = set()
    for field, carried in _CARRIED.items():
        meant: frozenset[str] = frozenset(getattr(groups, field))
        if not meant:
            continue
        met = [load for load in every if not meant.isdisjoint(carried(load))]
        unmet = meant.difference(*map(carried, met))
        if unmet:
            shown = ", ".join(sorted(unmet)[:20])
            raise NothingMeant(
                f"{field}: there is no load of {shown}", message_zh=f"{field}:{shown} 下没有负载", field=field
            )
        found.update(load.load_id for load in met)
    left = found - set(named) - set(groups.excluded_load_ids)
    return (*named, *sorted(left))


_CARRIED: Mapping[str, Callable[[LoadInfo], Collection[str]]] = {
    "device_ids": lambda load: () if load.device_id is None else (load.device_id,),
    "tags": lambda load: load.tags,
    "site_ids": lambda load: (load.site_id,),
    "region_ids": lambda load: load.region_ids,
}
"""What a load belongs to, by the field of ``Groups`` that names it."""
