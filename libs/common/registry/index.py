"""The registry in memory: every record by id, and who refers to whom, for any time.

Answers are those of the versions that hold at the asked time, so that a reading of last week finds the
ratio and the site of last week.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

from libs.common.contracts.registry import (
    Binding,
    BindingRecord,
    Circuit,
    CircuitRecord,
    Device,
    DeviceRecord,
    Entity,
    EntityKind,
    Line,
    LineRecord,
    Load,
    LoadRecord,
    RegionRecord,
    RegistryRecord,
    Room,
    RoomRecord,
    Site,
    SiteRecord,
    references_of,
)
from libs.common.ids import CircuitId, DeviceId, LineId, LoadId, RegionId, RoomId, SiteId

E = TypeVar("E", bound=Entity)

_Reference = tuple[EntityKind, str, str]
"""Kind of the referring entity, its field, and the id that stands there."""


_EVER, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class RegistryIndex:
    """Records and the ways through them; knows no clock, every question says for when it is asked."""

    def __init__(self) -> None:
        """Start empty."""
        self._records: dict[str, RegistryRecord] = {}
        self._by_kind: dict[EntityKind, dict[str, RegistryRecord]] = {kind: {} for kind in EntityKind}
        self._referring: dict[_Reference, dict[str, None]] = {}
        self._turns: Counter[datetime] = Counter()
        """When versions begin and end, and how many do."""

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: RegistryRecord) -> None:
        """Take a record in place of the one with its id."""
        self.discard(record.id)
        self._records[record.id] = record
        self._by_kind[record.kind][record.id] = record
        for reference in _references(record):
            self._referring.setdefault(reference, {})[record.id] = None
        self._turns.update(_turns(record))

    def discard(self, entity_id: str) -> EntityKind | None:
        """Forget a record and return its kind, None when it is not known."""
        record = self._records.pop(entity_id, None)
        if record is None:
            return None
        del self._by_kind[record.kind][entity_id]
        for reference in _references(record):
            referring = self._referring[reference]
            referring.pop(entity_id, None)
            if not referring:
                del self._referring[reference]
        for turn in _turns(record):
            self._turns[turn] -= 1
            if not self._turns[turn]:
                del self._turns[turn]
        return record.kind

    def unchanged_around(self, when: datetime) -> tuple[datetime, datetime]:
        """Return from when and until before when every answer is what it is at ``when``: no version begins or ends.

        Records that are put or discarded change it.
        """
        before = (turn for turn in self._turns if turn <= when)
        after = (turn for turn in self._turns if turn > when)
        return max(before, default=_EVER), min(after, default=_NEVER)

    def record(self, kind: EntityKind, entity_id: str) -> RegistryRecord | None:
        """Return the whole history of an entity."""
        return self._by_kind[kind].get(entity_id)

    def records(self, kind: EntityKind) -> list[RegistryRecord]:
        """Return the whole history of every entity of a kind."""
        return list(self._by_kind[kind].values())

    def at(self, kind: EntityKind, entity_id: str, when: datetime) -> Entity | None:
        """Return the version of an entity that held at a time."""
        record = self._by_kind[kind].get(entity_id)
        return None if record is None else record.at(when)

    def all_of(self, cls: type[E], when: datetime) -> Iterator[E]:
        """Yield the entities of a class that were there at a time."""
        for record in self._by_kind[cls.kind_of].values():
            version = record.at(when)
            if isinstance(version, cls):
                yield version

    def referring(self, cls: type[E], field: str, entity_id: str, when: datetime) -> Iterator[E]:
        """Yield the entities of a class whose ``field`` named an entity at a time."""
        for referring_id in self._referring.get((cls.kind_of, field, entity_id), ()):
            version = self.at(cls.kind_of, referring_id, when)
            if isinstance(version, cls) and _names(version, field, entity_id):
                yield version

    def records_of(self, kind: EntityKind) -> Iterator[RegistryRecord]:
        """Yield the whole histories of a kind, of what is gone too."""
        yield from self._by_kind[kind].values()

    def ever_referring(self, kind: EntityKind, field: str, entity_id: str) -> list[RegistryRecord]:
        """Return the histories of a kind in which ``field`` named an entity at any time."""
        return [self._records[found] for found in self._referring.get((kind, field, entity_id), ())]

    # The questions that services ask most.

    def site(self, site_id: SiteId, when: datetime) -> Site | None:
        """Return a site."""
        record = self._records.get(site_id)
        return record.at(when) if isinstance(record, SiteRecord) else None

    def device(self, device_id: DeviceId, when: datetime) -> Device | None:
        """Return a device."""
        record = self._records.get(device_id)
        return record.at(when) if isinstance(record, DeviceRecord) else None

    def circuit(self, circuit_id: CircuitId, when: datetime) -> Circuit | None:
        """Return a circuit."""
        record = self._records.get(circuit_id)
        return record.at(when) if isinstance(record, CircuitRecord) else None

    def line(self, line_id: LineId, when: datetime) -> Line | None:
        """Return a line."""
        record = self._records.get(line_id)
        return record.at(when) if isinstance(record, LineRecord) else None

    def load(self, load_id: LoadId, when: datetime) -> Load | None:
        """Return a load."""
        record = self._records.get(load_id)
        return record.at(when) if isinstance(record, LoadRecord) else None

    def room(self, room_id: RoomId, when: datetime) -> Room | None:
        """Return a room."""
        record = self._records.get(room_id)
        return record.at(when) if isinstance(record, RoomRecord) else None

    def bindings_of_circuit(self, circuit_id: CircuitId, when: datetime) -> list[Binding]:
        """Return what measured a circuit."""
        return list(self.referring(Binding, "circuit", circuit_id, when))

    def bindings_of_device(self, device_id: DeviceId, when: datetime) -> list[Binding]:
        """Return what a device measured."""
        return list(self.referring(Binding, "device", device_id, when))

    def binding_history(self, circuit_id: CircuitId) -> list[Binding]:
        """Return every binding that a circuit ever had, oldest first, to replay replacements."""
        found = [
            version
            for binding_id in self._referring.get((EntityKind.BINDING, "circuit", circuit_id), ())
            if isinstance(record := self._records[binding_id], BindingRecord)
            for version in record.versions
            if version.circuit == circuit_id
        ]
        return sorted(found, key=lambda binding: (binding.valid_from, binding.id))

    def circuits_ever_measured(self, device_id: DeviceId) -> list[CircuitId]:
        """Return every circuit that a device measures or has measured."""
        found = {
            version.circuit: None
            for binding_id in self._referring.get((EntityKind.BINDING, "device", device_id), ())
            if isinstance(record := self._records[binding_id], BindingRecord)
            for version in record.versions
            if version.device == device_id
        }
        return list(found)

    def site_of_circuit(self, circuit: Circuit, when: datetime) -> SiteId | None:
        """Return where a circuit is, over its room where it names none; None while the room is unknown."""
        if circuit.site is not None:
            return circuit.site
        room = None if circuit.room is None else self.room(circuit.room, when)
        return None if room is None else room.site

    def circuits_of_site(self, site_id: SiteId, when: datetime) -> list[Circuit]:
        """Return the circuits of a site, those of its rooms among them."""
        found = {circuit.id: circuit for circuit in self.referring(Circuit, "site", site_id, when)}
        for room in self.referring(Room, "site", site_id, when):
            for circuit in self.referring(Circuit, "room", room.id, when):
                if circuit.site is None:
                    found[circuit.id] = circuit
        return list(found.values())

    def regions_above(self, region_id: RegionId, when: datetime) -> list[RegionId]:
        """Return a region and those that it lies in, smallest first; a loop in the data ends the list."""
        found: list[RegionId] = []
        current: RegionId | None = region_id
        while current is not None and current not in found:
            found.append(current)
            record = self._records.get(current)
            version = record.at(when) if isinstance(record, RegionRecord) else None
            current = None if version is None else version.parent
        return found


def _turns(record: RegistryRecord) -> Iterator[datetime]:
    for version in record.versions:
        yield version.valid_from
        if version.valid_to is not None:
            yield version.valid_to


def _references(record: RegistryRecord) -> set[_Reference]:
    """Return what any version of a record refers to."""
    return {
        (version.kind_of, field, entity_id)
        for version in record.versions
        for field, _, entity_id in references_of(version)
    }


def _names(entity: Entity, field: str, entity_id: str) -> bool:
    return any(name == field and found == entity_id for name, _, found in references_of(entity))
