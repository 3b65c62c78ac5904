"""How many loads of a sector, a site and a region are off or about to be, and whether one more may be.

Who counts holds the locks of the places concerned (``store.areas``), so that no two orders pass on the same count.
A load counts as off from the moment its OFF is on its way until it is proven on again; also when its breaker reads
open for another reason. For coverage a unit whose breaker has not been read does not count as one that is on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from services.control.domain.guards import Policy
from services.control.domain.loads import LoadInfo
from services.control.domain.refusals import Refusal


@dataclass(slots=True)
class Headcount:
    """The counts of one transaction; OFFs that it lets pass are added as it goes."""

    members: Mapping[str, Collection[LoadInfo]] = field(default_factory=dict)
    """All loads of each site concerned."""
    off: dict[str, set[str]] = field(default_factory=dict)
    """Loads that are off or about to be, by site."""
    unseen: Collection[str] = ()
    """Loads with a breaker that was not read lately."""
    off_in_region: dict[str, int] = field(default_factory=dict)
    """Number of loads that are off or about to be, by region that has a limit."""

    def add(self, load: LoadInfo) -> None:
        """Note that a load goes off."""
        of_site = self.off.setdefault(load.site_id, set())
        if load.load_id in of_site:
            return
        of_site.add(load.load_id)
        for region in load.region_ids:
            if region in self.off_in_region:
                self.off_in_region[region] += 1

    def refusal(self, load: LoadInfo, policy: Policy) -> Refusal | None:
        """Return the first count that forbids the load to go off as well; the values are those it would bring about."""
        found = [
            *self._coverage(load, policy),
            *self._at_once(load, policy),
        ]
        return next((refusal for refusal in found if refusal.is_final), next(iter(found), None))

    def values(self, load: LoadInfo) -> dict[str, object]:
        """Return the counts as they would be with the load off, by guard."""
        found: dict[str, object] = {"max_off_site": len(self._others_off(load)) + 1}
        if load.is_radio:
            found["coverage_site"] = len(self._staying(load, sector=None))
            if load.sector is not None:
                found["coverage_sector"] = len(self._staying(load, sector=load.sector))
        regions = {region: self._in_region(load, region) for region in load.region_ids if region in self.off_in_region}
        if regions:
            found["max_off_region"] = regions
        return found

    def _coverage(self, load: LoadInfo, policy: Policy) -> list[Refusal]:
        if not load.is_radio:
            return []
        found = []
        wanted = (("coverage_sector", policy.min_on_sector, load.sector), ("coverage_site", policy.min_on_site, None))
        for guard, limit, sector in wanted:
            if limit <= 0 or (guard == "coverage_sector" and sector is None):
                continue
            staying = len(self._staying(load, sector=sector))
            if staying < limit:
                hopeless = len(self._peers(load, sector=sector)) < limit
                found.append(Refusal(guard, staying, limit, hopeless))
        return found

    def _at_once(self, load: LoadInfo, policy: Policy) -> list[Refusal]:
        found = []
        if policy.max_off_site is not None:
            off = len(self._others_off(load)) + 1
            if off > policy.max_off_site:
                found.append(Refusal("max_off_site", off, policy.max_off_site, policy.max_off_site == 0))
        for region in load.region_ids:
            limit = policy.max_off_region.get(region)
            if limit is not None and self._in_region(load, region) > limit:
                found.append(Refusal("max_off_region", self._in_region(load, region), limit, limit == 0))
        return found

    def _others_off(self, load: LoadInfo) -> set[str]:
        return self.off.get(load.site_id, set()) - {load.load_id}

    def _in_region(self, load: LoadInfo, region: str) -> int:
        itself = load.load_id in self.off.get(load.site_id, ())
        return self.off_in_region.get(region, 0) + (0 if itself else 1)

    def _peers(self, load: LoadInfo, *, sector: str | None) -> list[LoadInfo]:
        """Return the other radio units of the site, or of one of its sectors."""
        return [
            other
            for other in self.members.get(load.site_id, ())
            if other.is_radio and other.load_id != load.load_id and (sector is None or other.sector == sector)
        ]

    def _staying(self, load: LoadInfo, *, sector: str | None) -> list[LoadInfo]:
        off = self.off.get(load.site_id, set())
        return [
            other
            for other in self._peers(load, sector=sector)
            if other.load_id not in off and other.load_id not in self.unseen
        ]
