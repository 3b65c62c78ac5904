"""Which device or load of the registry is meant by a name from outside, at once and however many there are."""

from datetime import datetime

from libs.common.contracts.registry import Device, EntityKind, Load
from services.ingest.domain.traffic import LoadName
from services.ingest.usecases.topology import Topology, in_use

SERIAL = "serial:"


class Addresses:
    """Addresses and serial numbers per line, kept up to date with the registry."""

    def __init__(self, topology: Topology) -> None:
        """Prepare; the registry must not have been read yet."""
        self._topology = topology
        self._ids: dict[tuple[str, str], set[str]] = {}
        self._places: dict[str, set[tuple[str, str]]] = {}
        topology.on_change(self._note)

    def find(self, line_id: str, when: datetime, *, address: str, serial: str | None = None) -> Device | None:
        """Return the device in use that has an address on a line, or else the serial number; None for none."""
        return self._one(line_id, address, when, serial=False) or (
            None if serial is None else self._one(line_id, serial, when, serial=True)
        )

    def _one(self, line_id: str, text: str, when: datetime, *, serial: bool) -> Device | None:
        key = (line_id, SERIAL + text if serial else text)
        for device_id in sorted(self._ids.get(key, ())):
            device = self._topology.device(device_id, when)
            if device is None or device.line != line_id or not in_use(device, when):
                continue
            if (device.serial if serial else device.address) == text:
                return device
        return None

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        if kind is not EntityKind.DEVICE:
            return
        record = self._topology.index.record(kind, entity_id)
        versions = () if record is None else record.versions
        places = {place for version in versions if isinstance(version, Device) for place in _places(version)}
        for gone in self._places.pop(entity_id, set()) - places:
            self._ids[gone].discard(entity_id)
            if not self._ids[gone]:
                del self._ids[gone]
        for place in places:
            self._ids.setdefault(place, set()).add(entity_id)
        if places:
            self._places[entity_id] = places


class LoadNames:
    """Loads by their id and by what the radio network calls them, kept up to date with the registry."""

    def __init__(self, topology: Topology) -> None:
        """Prepare; the registry must not have been read yet."""
        self._topology = topology
        self._ids: dict[str, set[str]] = {}
        self._elements: dict[str, set[str]] = {}
        topology.on_change(self._note)

    def find(self, name: LoadName, when: datetime) -> Load | None:
        """Return the load of a name; None when there is none, or more than one."""
        if name.load_id is not None:
            return self._topology.load(name.load_id, when)
        candidates = (
            self._topology.load(load_id, when) for load_id in self._ids.get(name.network_element_id or "", ())
        )
        found = [
            load
            for load in candidates
            if load is not None
            and load.network_element_id == name.network_element_id
            and (name.sector is None or load.sector == name.sector)
        ]
        return found[0] if len(found) == 1 else None

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        if kind is not EntityKind.LOAD:
            return
        record = self._topology.index.record(kind, entity_id)
        versions = () if record is None else record.versions
        elements = {one.network_element_id for one in versions if isinstance(one, Load)} - {None}
        for gone in self._elements.pop(entity_id, set()) - elements:
            self._ids[gone].discard(entity_id)
            if not self._ids[gone]:
                del self._ids[gone]
        known = {element for element in elements if element is not None}
        for element in known:
            self._ids.setdefault(element, set()).add(entity_id)
        if known:
            self._elements[entity_id] = known


def _places(device: Device) -> list[tuple[str, str]]:
    if device.line is None:
        return []
    texts = [device.address, None if device.serial is None else SERIAL + device.serial]
    return [(device.line, text) for text in texts if text is not None]
