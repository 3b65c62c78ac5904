"""What carbon asks of the registry: which meters measure a circuit, which circuits feed a site, where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from libs.common.clock import Clock
from libs.common.contracts.registry import BindingRecord, EntityKind, Region
from libs.common.ids import CircuitId, DeviceId, RegionId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from services.carbon.domain.booking import Binding
from services.carbon.domain.factors import Place

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RegistryDirectory:
    """The registry in carbon's words, and the circuits that its changes concern."""

    def __init__(self, view: RegistryView, profiles: ProfileCatalogue, clock: Clock, *, point: str) -> None:
        self._view = view
        self._profiles = profiles
        self._point = point
        self._clock = clock
        self._changed: dict[CircuitId, datetime] = {}
        view.on_change(self._note)

    async def ready(self) -> None:
        """Wait until the registry has been read."""
        await self._view.ready()

    def circuits(self) -> list[CircuitId]:
        """Return all circuits there are."""
        return [CircuitId(circuit.id) for circuit in self._view.circuits()]

    def circuits_of(self, device: DeviceId) -> Sequence[CircuitId]:
        """Return the circuits that the device measures or has measured."""
        return self._view.index.circuits_ever_measured(device)

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served.

        Versions of one binding that follow each other without a register between them are one service.
        """
        found: list[Binding] = []
        for version in self._view.index.binding_history(circuit):
            one = Binding(
                device_id=version.device,
                valid_from=version.valid_from,
                valid_to=version.valid_to,
                initial_register=version.initial_register,
                final_register=version.final_register,
                modulus_kwh=self._modulus_kwh(version.device, version.valid_from),
            )
            before = found[-1] if found else None
            if (
                before is not None
                and before.device_id == one.device_id
                and before.valid_to == one.valid_from
                and before.final_register is None
            ):
                found[-1] = replace(before, valid_to=one.valid_to, final_register=one.final_register)
            else:
                found.append(one)
        return found

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known."""
        found = self._view.circuit(circuit)
        return None if found is None else self._view.site_of_circuit(found)

    def places_of(self, site: SiteId) -> frozenset[str]:
        """Return a site and ``region:<id>`` of each region that it lies in, as users are limited to them."""
        found = self._view.site(site)
        if found is None or found.region is None:
            return frozenset({site})
        regions = {found.region, *self._view.regions_above(found.region)}
        return frozenset({site, *(f"region:{region}" for region in regions)})

    def rated_kw(self, circuit: CircuitId) -> float | None:
        """Return the circuit's rated power. [kW]"""
        found = self._view.circuit(circuit)
        return None if found is None else found.rated_power_kw

    def place_of(self, site: SiteId) -> Place:
        """Return where a site lies, as far as grids care; the side of Inner Mongolia by its prefecture."""
        found = self._view.site(site)
        region = None if found is None or found.region is None else self._region_code(found.region)
        return Place.of_code(region)

    def take_changed(self) -> dict[CircuitId, datetime]:
        """Return the circuits whose intervals may have changed, and since when; they are forgotten here."""
        changed, self._changed = self._changed, {}
        return changed

    def put_back(self, changed: Mapping[CircuitId, datetime]) -> None:
        """Remember again what could not be written down."""
        for circuit, since in changed.items():
            self._mark(circuit, since)

    def _region_code(self, region_id: RegionId) -> str | None:
        region = self._view.at(EntityKind.REGION, region_id, self._clock.now())
        return region.code if isinstance(region, Region) else None

    def _modulus_kwh(self, device_id: DeviceId, when: datetime) -> float | None:
        """Return the first value that the meter's register cannot show, where its profile knows it. [kWh]"""
        device = self._view.device(device_id, when) or self._view.device(device_id)
        if device is None or device.profile is None:
            return None
        profile = self._profiles.find(device.profile, device.profile_version)
        point = None if profile is None else profile.points.get(self._point)
        return None if point is None else point.modulus

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        if kind is EntityKind.CIRCUIT:
            self._mark(CircuitId(entity_id), EPOCH)
        elif kind is EntityKind.BINDING:
            record = self._view.record(kind, entity_id)
            if isinstance(record, BindingRecord):
                for version in record.versions:
                    self._mark(version.circuit, version.valid_from)

    def _mark(self, circuit: CircuitId, since: datetime) -> None:
        self._changed[circuit] = min(self._changed.get(circuit, since), since)
