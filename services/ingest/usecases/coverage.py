"""How many sites have a meter that can be heard, by class, kind or region: the coverage figure of reports."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Region, RegionLevel, Site
from libs.common.db import Database
from services.ingest.store.status import fetch_online
from services.ingest.usecases.topology import Topology, in_use

METER = "meter"
"""Devices whose kind has this in its name measure: ``meter_3p``, ``meter_dc``, ``water_meter`` …"""


class CoverageBy(StrEnum):
    """What sites are grouped by."""

    ALL = "all"
    CLASS = "class"
    KIND = "kind"
    PROVINCE = "province"
    CITY = "city"
    DISTRICT = "district"


@dataclass(frozen=True, slots=True)
class Coverage:
    """One group of sites."""

    group: str | None
    """Class, kind or region id; None for sites that have none, and for all of them together."""
    name: str | None
    sites: int
    metered: int
    """With a meter in the registry."""
    live: int
    """With a meter that is online."""

    @property
    def ratio(self) -> float | None:
        """Sites with a live meter ÷ all sites; None without sites."""
        return self.live / self.sites if self.sites else None


class Coverages:
    """Counts."""

    def __init__(self, db: Database, clock: Clock, topology: Topology) -> None:
        self._db = db
        self._clock = clock
        self._topology = topology

    async def count(self, by: CoverageBy, allowed: Collection[str] | None) -> list[Coverage]:
        """Return the groups in order of their names; ``allowed`` limits the sites that are counted."""
        now = self._clock.now()
        meters: dict[str, list[str]] = {}
        for device in self._topology.index.all_of(Device, now):
            if METER in device.kind and in_use(device, now):
                meters.setdefault(device.site, []).append(device.id)
        async with self._db.read() as conn:
            online = await fetch_online(conn, [one for devices in meters.values() for one in devices])
        live = {site for site, devices in meters.items() if not online.isdisjoint(devices)}
        sites = [site for site in self._topology.index.all_of(Site, now) if allowed is None or site.id in allowed]
        groups: dict[str | None, list[str]] = {}
        for site in sites:
            groups.setdefault(self._group(site, by, now), []).append(site.id)
        return [
            Coverage(group, self._name(group, by, now), len(ids), _among(ids, meters), _among(ids, live))
            for group, ids in sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
        ]

    def _group(self, site: Site, by: CoverageBy, now: datetime) -> str | None:
        match by:
            case CoverageBy.ALL:
                return None
            case CoverageBy.CLASS:
                return None if site.station_class is None else site.station_class.value
            case CoverageBy.KIND:
                return site.kind.value
            case _:
                return self._region(site, RegionLevel(by.value), now)

    def _region(self, site: Site, level: RegionLevel, now: datetime) -> str | None:
        above = [] if site.region is None else self._topology.index.regions_above(site.region, now)
        for region_id in above:
            region = self._topology.index.at(EntityKind.REGION, region_id, now)
            if isinstance(region, Region) and region.level is level:
                return region.id
        return None

    def _name(self, group: str | None, by: CoverageBy, now: datetime) -> str | None:
        if group is None or by in (CoverageBy.ALL, CoverageBy.CLASS, CoverageBy.KIND):
            return None
        region = self._topology.index.at(EntityKind.REGION, group, now)
        return None if region is None else region.name_zh or region.name


def _among(ids: Iterable[str], wanted: Collection[str]) -> int:
    return sum(one in wanted for one in ids)
