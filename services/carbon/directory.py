"""What carbon asks of the registry: which meters measure a circuit, which circuits feed a site, where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from libs.common.clock import Clock
from libs.common.contracts.registry import Binding as BindingEntity
from libs.common.contracts.registry import BindingRecord, EntityKind, Region
from libs.common.ids import CircuitId, DeviceId, RegionId, SiteId
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.common.registry import RegistryView
from services.carbon.domain.booking import INTERVAL_POINT, POWER_POINT, Binding, Told
from services.carbon.domain.factors import Place
from services.carbon.domain.media import consumed

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RegistryDirectory:
    """The registry in carbon's words, and the circuits that its changes concern."""

    def __init__(self, view: RegistryView, profiles: ProfileCatalogue, clock: Clock, *, point: str) -> None:
        self._view = view
        self._profiles = profiles
        self._point = point
        self._clock = clock
        self._changed: dict[CircuitId, datetime] = {}
        self._served: dict[tuple[CircuitId, str], Sequence[Binding]] = {}
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
        """Return the circuit's meters in the order in which they served, for the register of energy."""
        return self.bindings_for(circuit, self._point)

    def bindings_for(self, circuit: CircuitId, point: str) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served, with the modulus of a register.

        Versions of one binding that follow each other without a register between them are one service. One that
        begins with a register of zero while nobody wrote down how the one before it ended is a reset on record.
        """
        kept = self._served.get((circuit, point))
        if kept is None:
            kept = self._read_bindings(circuit, point)
            # What is not known of a device today may be tomorrow, without a record that says so.
            if all(self._view.device(one.device_id, one.valid_from) is not None for one in kept):
                self._served[circuit, point] = kept
        return kept

    def _read_bindings(self, circuit: CircuitId, point: str) -> Sequence[Binding]:
        found: list[Binding] = []
        previous: BindingEntity | None = None
        for version in self._view.index.binding_history(circuit):
            recorded = point == self._recorded_register(version.device, version.valid_from)
            told = self.stands_in(version.device, version.valid_from) if point == self._point else None
            one = Binding(
                device_id=version.device,
                valid_from=version.valid_from,
                valid_to=version.valid_to,
                initial_register=version.initial_register if recorded and told is None else None,
                final_register=version.final_register if recorded and told is None else None,
                modulus_kwh=self._modulus(version.device, version.valid_from, point),
                point=point if told is None else told.point,
                period_s=None if told is None else told.period_s,
            )
            before = found[-1] if found else None
            goes_on = (
                before is not None
                and before.device_id == one.device_id
                and before.valid_to == one.valid_from
                and before.final_register is None
                and (before.point, before.period_s) == (one.point, one.period_s)
            )
            # A later version of a record carries the initial register of the first along.
            carried = one.initial_register is None or (
                previous is not None
                and previous.id == version.id
                and previous.initial_register == version.initial_register
            )
            previous = version
            if before is not None and goes_on and (carried or one.initial_register == 0):
                resets = before.resets if carried else (*before.resets, one.valid_from)
                found[-1] = replace(before, valid_to=one.valid_to, final_register=one.final_register, resets=resets)
            else:
                found.append(one)
        return found

    def stands_in(self, device: DeviceId, when: datetime | None = None) -> Told | None:
        """Return what of a device is booked whose profile has no register of energy: its own intervals, else power.

        None is returned for one that has a register, and where there is no profile, for then nobody knows.
        """
        profile = self._profile(device, when)
        if profile is None or self._point in profile.points:
            return None
        return _intervals_of(profile) or (Told(POWER_POINT) if POWER_POINT in profile.points else None)

    def tells_beside(self, device: DeviceId) -> Told | None:
        """Return the intervals that a device tells beside its register of energy; None where it tells none."""
        profile = self._profile(device, None)
        return None if profile is None or self._point not in profile.points else _intervals_of(profile)

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

    def _modulus(self, device_id: DeviceId, when: datetime, register: str) -> float | None:
        """Return the first value that a meter's register cannot show, where its profile knows it. [unit of it]"""
        profile = self._profile(device_id, when)
        point = None if profile is None else profile.points.get(register)
        return None if point is None else point.modulus

    def _recorded_register(self, device_id: DeviceId, when: datetime) -> str:
        """Return of which of a meter's registers people write down what it showed: energy, else its first medium."""
        profile = self._profile(device_id, when)
        points = {} if profile is None else profile.points
        if self._point in points:
            return self._point
        return next((one.point for one in consumed(points)), self._point)

    def _profile(self, device_id: DeviceId, when: datetime | None) -> DeviceProfile | None:
        device = self._view.device(device_id, when) or self._view.device(device_id)
        if device is None or device.profile is None:
            return None
        return self._profiles.find(device.profile, device.profile_version)

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        self._served.clear()
        if kind is EntityKind.CIRCUIT:
            self._mark(CircuitId(entity_id), EPOCH)
        elif kind is EntityKind.BINDING:
            record = self._view.record(kind, entity_id)
            if isinstance(record, BindingRecord):
                for version in record.versions:
                    self._mark(version.circuit, version.valid_from)

    def _mark(self, circuit: CircuitId, since: datetime) -> None:
        self._changed[circuit] = min(self._changed.get(circuit, since), since)


def _intervals_of(profile: DeviceProfile) -> Told | None:
    point = profile.points.get(INTERVAL_POINT)
    if point is None or point.period_s is None:
        return None
    return Told(INTERVAL_POINT, point.period_s, point.stamped_at_start)


class MediumDirectory:
    """The registry as the booking of another register than that of energy sees it."""

    def __init__(self, directory: RegistryDirectory, point: str) -> None:
        self._directory = directory
        self._point = point

    def circuits_of(self, device: DeviceId) -> Sequence[CircuitId]:
        """Return the circuits that the device measures or has measured."""
        return self._directory.circuits_of(device)

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served."""
        return self._directory.bindings_for(circuit, self._point)

    def stands_in(self, device: DeviceId) -> Told | None:
        """Return None: nothing stands in for a register of a medium."""
        return None

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known."""
        return self._directory.site_of(circuit)

    def rated_kw(self, circuit: CircuitId) -> float | None:
        """Return None: the rated power of a circuit says nothing of its water, so no step of it is impossible."""
        return None
