"""What savings ask of the registry: which meter shows a load, what else it shows, and which branches are alike."""

from collections.abc import Sequence

from libs.common.clock import Clock
from libs.common.contracts.registry import Circuit, CircuitRole, EntityKind, Load, LoadKind, RecordOf
from libs.common.ids import CircuitId, LoadId, SiteId
from libs.common.registry import RegistryView

PEERS_MAX = 12
"""Circuits of a control group: more of them hardly change its mean, and each is a year of intervals to read."""
COOLED = frozenset({CircuitRole.COOLING, CircuitRole.ROOM_FEED, CircuitRole.SITE_FEED})
"""Roles of circuits that have cooling behind them."""


class LoadDirectory:
    """Loads and their meters, as the registry has them now."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        self._view = view
        self._clock = clock

    def meter_of(self, load: LoadId) -> CircuitId | None:
        """Return the circuit whose meter shows the load, None for one without a meter."""
        found = self._load(load)
        return None if found is None else found.meter

    def site_of_load(self, load: LoadId) -> SiteId | None:
        """Return where a load is; of one that is gone where it was, None for one that never was."""
        found = self._load(load)
        return None if found is None else found.site

    def knows_site(self, site: SiteId) -> bool:
        """Return whether there is such a site now."""
        return self._view.site(site) is not None

    def knows_region(self, region: str) -> bool:
        """Return whether there is such a region now."""
        return self._view.at(EntityKind.REGION, region, self._clock.now()) is not None

    def loads_at(self, site: SiteId) -> list[LoadId]:
        """Return the loads of a site."""
        return sorted(LoadId(load.id) for load in self._view.loads(site))

    def loads_behind(self, circuit: CircuitId) -> list[LoadId]:
        """Return every load behind a circuit's meter: its own and those of the circuits that branch off from it."""
        now = self._clock.now()
        found: set[LoadId] = set()
        seen: set[str] = set()
        open_ = [str(circuit)]
        while open_:
            one = open_.pop()
            if one in seen:
                continue
            seen.add(one)
            found |= {LoadId(load.id) for load in self._view.index.referring(Load, "meter", one, now)}
            open_ += [child.id for child in self._view.index.referring(Circuit, "parent", one, now)]
        return sorted(found)

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known."""
        found = self._view.circuit(circuit)
        return None if found is None else self._view.site_of_circuit(found)

    def above(self, circuit: CircuitId) -> list[CircuitId]:
        """Return the circuits that a circuit branches off from, nearest first."""
        found: list[CircuitId] = []
        one = self._view.circuit(circuit)
        while one is not None and one.parent is not None and one.parent not in found:
            found.append(one.parent)
            one = self._view.circuit(one.parent)
        return found

    def has_cooling(self, circuit: CircuitId) -> bool:
        """Return whether what a circuit feeds moves with the weather."""
        found = self._view.circuit(circuit)
        if found is not None and found.role in COOLED:
            return True
        kinds = {load.kind for one in self.loads_behind(circuit) if (load := self._load(one)) is not None}
        return LoadKind.AIR_CONDITIONER in kinds

    def peers_of(self, circuit: CircuitId) -> Sequence[CircuitId]:
        """Return similar circuits at other sites: those that feed loads of the same kind, the likest first.

        Of two the one in the same region comes first, then the one whose rated power is nearer.
        """
        mine = [load for one in self.loads_behind(circuit) if (load := self._load(one)) is not None]
        kinds = {load.kind for load in mine}
        power = sum(load.rated_power_kw or 0.0 for load in mine)
        site = self.site_of(circuit)
        region = self._region(site)
        found: dict[CircuitId, tuple[bool, float, str]] = {}
        for load in self._view.loads():
            if load.kind not in kinds or load.meter is None or load.meter == circuit or load.site == site:
                continue
            apart = abs((load.rated_power_kw or 0.0) - power)
            rank = (region is None or self._region(load.site) != region, apart, load.meter)
            found[load.meter] = min(found.get(load.meter, rank), rank)
        return sorted(found, key=lambda one: found[one])[:PEERS_MAX]

    def places_of(self, site: SiteId) -> list[str]:
        """Return a site and the regions that it lies in, smallest first."""
        found = self._view.site(site)
        if found is None or found.region is None:
            return [site]
        return [site, *self._view.regions_above(found.region)]

    def _region(self, site: SiteId | None) -> str | None:
        found = None if site is None else self._view.site(site)
        return None if found is None else found.region

    def _load(self, load: LoadId) -> Load | None:
        found = self._view.load(load)
        if found is not None:
            return found
        record = self._view.record(EntityKind.LOAD, load)
        return record.latest if isinstance(record, RecordOf) and isinstance(record.latest, Load) else None
