"""Nodes of the registry as the boundary of an inventory names them: what contains a node, and where it lies.

Which node contains which is what held at the time that is asked for; of what was not there yet the first version of its
record tells, of what is gone the last, so that a site which was closed since is still of its organisation.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from libs.common.contracts.registry import (
    Circuit,
    CircuitRecord,
    Entity,
    EntityKind,
    Organisation,
    OrganisationRecord,
    Region,
    RegionRecord,
    Room,
    RoomRecord,
    Site,
    SiteRecord,
)
from libs.common.registry import RegistryView
from services.carbon.domain.factors import Place
from services.carbon.tree import Node, NodeKind

Version = TypeVar("Version", bound=Entity)


class Topology:
    """The registry in the words of inventories."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view

    def node(self, name: str) -> Node | None:
        """Return the node that has an id, whether it is there now or was once; None where there never was one."""
        kinds = {
            EntityKind.CIRCUIT: NodeKind.CIRCUIT,
            EntityKind.ROOM: NodeKind.ROOM,
            EntityKind.SITE: NodeKind.SITE,
            EntityKind.ORGANISATION: NodeKind.ORGANISATION,
            EntityKind.REGION: NodeKind.REGION,
        }
        return next((Node(kind, name) for of, kind in kinds.items() if self._view.record(of, name) is not None), None)

    def ancestors_of(self, name: str, when: datetime) -> Sequence[str]:
        """Return the nodes that contain a node, nearest first: circuits, room, site, organisations, regions."""
        found: list[str] = []
        circuit, room, site = self._circuit(name, when), self._room(name, when), self._site(name, when)
        if circuit is not None:
            found += self._circuits_above(circuit, when)
            room = None if circuit.room is None else self._room(circuit.room, when)
            found += [] if room is None else [room.id]
            if circuit.site is not None:
                found.append(circuit.site)
                site = self._site(circuit.site, when)
        if room is not None and site is None:
            found.append(room.site)
            site = self._site(room.site, when)
        if site is not None:
            found += self._organisations(site.organisation, when)
            found += self._regions(site.region, when)
        elif (organisation := self._organisation(name, when)) is not None:
            found += self._organisations(organisation.parent, when)
        elif (region := self._region(name, when)) is not None:
            found += self._regions(region.parent, when)
        return [one for one in dict.fromkeys(found) if one != name]

    def place_of(self, name: str, when: datetime) -> Place:
        """Return where a circuit, room or site lies, as far as grids care."""
        for node in (name, *self.ancestors_of(name, when)):
            site = self._site(node, when)
            if site is not None and site.region is not None:
                region = self._region(site.region, when)
                return Place.of_code(None if region is None else region.code)
        return Place(None)

    def _circuits_above(self, circuit: Circuit, when: datetime) -> list[str]:
        found: list[str] = []
        parent = circuit.parent
        while parent is not None and parent not in found:
            found.append(parent)
            above = self._circuit(parent, when)
            parent = None if above is None else above.parent
        return found

    def _organisations(self, first: str | None, when: datetime) -> list[str]:
        found: list[str] = []
        while first is not None and first not in found:
            found.append(first)
            one = self._organisation(first, when)
            first = None if one is None else one.parent
        return found

    def _regions(self, first: str | None, when: datetime) -> list[str]:
        found: list[str] = []
        while first is not None and first not in found:
            found.append(first)
            one = self._region(first, when)
            first = None if one is None else one.parent
        return found

    def _circuit(self, name: str, when: datetime) -> Circuit | None:
        record = self._view.record(EntityKind.CIRCUIT, name)
        return _version(record.versions, when) if isinstance(record, CircuitRecord) else None

    def _room(self, name: str, when: datetime) -> Room | None:
        record = self._view.record(EntityKind.ROOM, name)
        return _version(record.versions, when) if isinstance(record, RoomRecord) else None

    def _site(self, name: str, when: datetime) -> Site | None:
        record = self._view.record(EntityKind.SITE, name)
        return _version(record.versions, when) if isinstance(record, SiteRecord) else None

    def _organisation(self, name: str, when: datetime) -> Organisation | None:
        record = self._view.record(EntityKind.ORGANISATION, name)
        return _version(record.versions, when) if isinstance(record, OrganisationRecord) else None

    def _region(self, name: str, when: datetime) -> Region | None:
        record = self._view.record(EntityKind.REGION, name)
        return _version(record.versions, when) if isinstance(record, RegionRecord) else None


def _version(versions: Sequence[Version], when: datetime) -> Version:
    """Return the version that held at a time, else the last one before it, else the first."""
    before = [one for one in versions if one.valid_from <= when]
    return before[-1] if before else versions[0]
