"""Where loads are, as far as waking has to know: which loads a device, a site or a region has."""

from dataclasses import dataclass
from datetime import datetime

from services.ingest.usecases.topology import Topology


@dataclass(frozen=True, slots=True)
class Place:
    """A load with a switch."""

    load_id: str
    name: str
    device_id: str
    channel: int | None
    site_id: str
    site_name: str
    region_ids: tuple[str, ...]
    """The site's region and those above it."""


def places_of(topology: Topology, when: datetime) -> list[Place]:
    """Return the loads that have a switch, in the order of their ids."""
    found = []
    above: dict[str, tuple[str, ...]] = {}
    for load in sorted(topology.loads(when), key=lambda load: load.id):
        if load.breaker is None:
            continue
        site = topology.index.site(load.site, when)
        if load.site not in above:
            region = None if site is None else site.region
            above[load.site] = () if region is None else tuple(topology.index.regions_above(region, when))
        found.append(
            Place(
                load_id=load.id, name=load.name_zh or load.name, device_id=load.breaker.device,
                channel=load.breaker.channel, site_id=load.site,
                site_name=load.site if site is None else site.name_zh or site.name, region_ids=above[load.site],
            )
        )  # fmt: skip
    return found
