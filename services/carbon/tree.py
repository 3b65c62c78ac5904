"""The tree of regions, organisations, sites, rooms and circuits as the registry had it at any time.

What a site consisted of is read once from the histories of its records and kept until one of them changes.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from libs.common.contracts.registry import (
    Circuit,
    EntityKind,
    Organisation,
    RegistryRecord,
    Site,
    SiteRecord,
)
from libs.common.errors import NotFound
from libs.common.ids import CircuitId, RegionId, RoomId, SiteId
from libs.common.registry import RegistryView
from services.carbon.domain.levels.cover import (
    Branch,
    Choose,
    Dimension,
    Segment,
    Term,
    clip,
    cover,
    matching,
    only,
    together,
    whole_room,
    whole_site,
)
from services.carbon.domain.virtual import VirtualMeter, circuits_behind

EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
STRUCTURAL = frozenset(
    {EntityKind.REGION, EntityKind.ORGANISATION, EntityKind.SITE, EntityKind.ROOM, EntityKind.CIRCUIT}
)
NOWHERE = SiteId("")
"""Where the sum of several sites lies: only what holds of the whole country holds of it."""
DEPTH_MAX = 32
"""Parents further up are a loop in the data."""


class NodeKind(StrEnum):
    """What energy can be asked of."""

    CIRCUIT = "circuit"
    ROOM = "room"
    SITE = "site"
    REGION = "region"
    """A province, a city or a district."""
    ORGANISATION = "organisation"
    VIRTUAL = "virtual"
    """A virtual meter: circuits that others add up to."""

    @property
    def is_group(self) -> bool:
        """Whether it is a set of sites."""
        return self in (NodeKind.REGION, NodeKind.ORGANISATION)


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the tree."""

    kind: NodeKind
    id: str
    meters: Mapping[str, VirtualMeter] = field(default_factory=dict, compare=False, repr=False)
    """Of a virtual meter its definition, and those that it refers to."""


NAMES_ZH = {
    NodeKind.CIRCUIT: "回路",
    NodeKind.ROOM: "机房",
    NodeKind.SITE: "局站",
    NodeKind.REGION: "区域",
    NodeKind.ORGANISATION: "组织",
    NodeKind.VIRTUAL: "虚拟表",
}


class Tree:
    """Questions to the tree; every answer says for when it is."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view
        self._histories: dict[SiteId, tuple[Segment, ...]] = {}
        view.on_change(self._forget)

    def terms(self, node: Node, start: datetime, end: datetime, which: Dimension | Choose | None = None) -> list[Term]:
        """Return what the energy of a node, or of some of its circuits, is the sum of within ``[start, end)``.

        Raises:
            NotFound: There never was such a node.
        """
        found: list[Term] = []
        if node.kind is NodeKind.VIRTUAL:
            # It has no circuits of its own that one could choose among.
            is_part = callable(which) or (which is not None and not which.is_free)
            return [] if is_part else self._virtual(node, start, end)
        for site, first, last in self.sites(node, start, end):
            found += clip(cover(self.history(site), self._choice(node, which)), first, last)
        return together(found)

    def sites(self, node: Node, start: datetime, end: datetime) -> list[tuple[SiteId, datetime, datetime]]:
        """Return the sites that a node lies in or consists of, and when, within ``[start, end)``; sorted.

        Raises:
            NotFound: There never was such a node.
        """
        if node.kind is NodeKind.VIRTUAL:
            records = (self._view.record(EntityKind.CIRCUIT, one) for one in circuits_behind(node.id, node.meters))
            every = {site for one in records if one is not None for site in self._sites_of(one)}
            return [(site, start, end) for site in sorted(every)]
        record = self._view.record(_ENTITY[node.kind], node.id)
        if record is None:
            raise NotFound(f"there is no {node.kind} {node.id}", message_zh=f"没有{NAMES_ZH[node.kind]} {node.id}")
        if node.kind is NodeKind.SITE:
            return [(SiteId(node.id), start, end)]
        if not node.kind.is_group:
            sites = self._sites_of(record)
            return [(site, start, end) for site in sorted(sites)]
        found: list[tuple[SiteId, datetime, datetime]] = []
        for candidate in self._view.index.records_of(EntityKind.SITE):
            if isinstance(candidate, SiteRecord):
                for version in candidate.versions:
                    first, last = max(version.valid_from, start), min(version.valid_to or EVER[1], end)
                    if first < last and node.id in self._above(node.kind, version, first):
                        found.append((SiteId(version.id), first, last))
        return sorted(found)

    def history(self, site: SiteId) -> tuple[Segment, ...]:
        """Return the circuits that a site ever had, by the times between which nothing of them changed."""
        kept = self._histories.get(site)
        if kept is None:
            kept = self._histories[site] = tuple(self._read(site))
        return kept

    def branches(self, node: Node, start: datetime, end: datetime) -> list[Branch]:
        """Return the circuits of a node as they last were within ``[start, end)``, by id; a virtual meter has none.

        Raises:
            NotFound: There never was such a node.
        """
        if node.kind is NodeKind.VIRTUAL:
            return []
        found: dict[CircuitId, Branch] = {}
        for site, first, last in self.sites(node, start, end):
            for segment in self.history(site):
                if segment.start < last and segment.end > first:
                    found |= {one.circuit: one for one in segment.branches if self._within(node, one)}
        return [found[circuit] for circuit in sorted(found)]

    def site_values(self, site: SiteId, name: str) -> list[tuple[datetime, datetime, float | None]]:
        """Return what a number of a site was through its history: (from, to, value)."""
        record = self._view.record(EntityKind.SITE, site)
        return [
            (one.valid_from, one.valid_to or EVER[1], getattr(one, name)) for one in (record.versions if record else ())
        ]

    def peers_of(self, site: SiteId, when: datetime) -> str:
        """Return what sites it can be compared with have in common: their kind, and their class where they have one."""
        found = self._view.site(site, when - timedelta(microseconds=1))
        if found is None:
            return ""
        return found.kind.value if found.station_class is None else f"{found.kind.value}, {found.station_class.value}"

    def places_of(self, site: SiteId, when: datetime) -> frozenset[str]:
        """Return the site and its regions, as a principal's limits name them."""
        found = self._view.site(site, when)
        regions = [] if found is None or found.region is None else self._view.regions_above(found.region, when)
        return frozenset({site, *(f"region:{region}" for region in regions)})

    def _virtual(self, node: Node, start: datetime, end: datetime) -> list[Term]:
        """Return the one term of a virtual meter, at its site; at no site where it has several."""
        sites = {site for site, _, _ in self.sites(node, start, end)}
        return [Term(CircuitId(node.id), sites.pop() if len(sites) == 1 else NOWHERE, start, end)]

    def _within(self, node: Node, branch: Branch) -> bool:
        if node.kind is NodeKind.CIRCUIT:
            return branch.circuit == node.id or node.id in branch.above
        return node.kind is not NodeKind.ROOM or branch.room == node.id

    def _choice(self, node: Node, which: Dimension | Choose | None) -> Choose:
        if callable(which):
            return which
        room = RoomId(node.id) if node.kind is NodeKind.ROOM else None
        if which is not None and not which.is_free:
            return matching(which, room=room, beneath=CircuitId(node.id) if node.kind is NodeKind.CIRCUIT else None)
        if node.kind is NodeKind.CIRCUIT:
            return only(CircuitId(node.id))
        return whole_site if room is None else whole_room(room)

    def _sites_of(self, record: RegistryRecord) -> set[SiteId]:
        """Return every site that a circuit or room was ever of."""
        found = set()
        for version in record.versions:
            site = getattr(version, "site", None)
            if site is None and isinstance(version, Circuit) and version.room is not None:
                room = self._view.record(EntityKind.ROOM, version.room)
                found |= set() if room is None else self._sites_of(room)
            elif site is not None:
                found.add(SiteId(site))
        return found

    def _above(self, kind: NodeKind, site: Site, when: datetime) -> Sequence[str]:
        """Return the regions or organisations that a site belongs to."""
        if kind is NodeKind.REGION:
            return [] if site.region is None else self._view.regions_above(RegionId(site.region), when)
        found: list[str] = []
        current: str | None = site.organisation
        while current is not None and current not in found:
            found.append(current)
            version = self._view.at(EntityKind.ORGANISATION, current, when)
            current = version.parent if isinstance(version, Organisation) else None
        return found

    def _read(self, site: SiteId) -> Iterable[Segment]:
        index = self._view.index
        rooms = index.ever_referring(EntityKind.ROOM, "site", site)
        records = [
            *index.ever_referring(EntityKind.CIRCUIT, "site", site),
            *(one for room in rooms for one in index.ever_referring(EntityKind.CIRCUIT, "room", room.id)),
        ]
        # What a circuit passes on to another site hangs beneath it too.
        children = [one for record in records for one in index.ever_referring(EntityKind.CIRCUIT, "parent", record.id)]
        times = {
            at
            for record in (*rooms, *records, *children)
            for version in record.versions
            for at in (version.valid_from, version.valid_to)
            if at is not None and EVER[0] < at < EVER[1]
        }
        edges = [EVER[0], *sorted(times), EVER[1]]
        for first, last in itertools.pairwise(edges):
            circuits = index.circuits_of_site(site, first)
            if circuits:
                yield Segment(first, last, tuple(self._branch(one, site, first) for one in circuits))

    def _branch(self, circuit: Circuit, site: SiteId, when: datetime) -> Branch:
        return Branch(
            circuit=CircuitId(circuit.id),
            site=site,
            room=circuit.room,
            level=circuit.level,
            role=circuit.role,
            parent=circuit.parent,
            above=self._circuits_above(circuit, when),
            children=tuple(
                sorted(
                    (CircuitId(child.id), child.role)
                    for child in self._view.index.referring(Circuit, "parent", circuit.id, when)
                )
            ),
            tags=circuit.tags,
            rated_kw=circuit.rated_power_kw,
            transformer=circuit.transformer,
            line=circuit.line,
        )

    def _circuits_above(self, circuit: Circuit, when: datetime) -> tuple[CircuitId, ...]:
        found: list[CircuitId] = []
        current = circuit.parent
        while current is not None and current not in found and current != circuit.id and len(found) < DEPTH_MAX:
            found.append(current)
            parent = self._view.circuit(current, when)
            current = None if parent is None else parent.parent
        return tuple(found)

    def _forget(self, kind: EntityKind, entity_id: str) -> None:
        if kind in STRUCTURAL:
            self._histories.clear()


_ENTITY = {
    NodeKind.CIRCUIT: EntityKind.CIRCUIT,
    NodeKind.ROOM: EntityKind.ROOM,
    NodeKind.SITE: EntityKind.SITE,
    NodeKind.REGION: EntityKind.REGION,
    NodeKind.ORGANISATION: EntityKind.ORGANISATION,
}
