"""What alarm asks of the registry: which rules can judge a device, what a load feeds, who may see a site."""

from collections.abc import Iterable, Mapping, Sequence
from zoneinfo import ZoneInfo

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import BindingRecord, CircuitRole, Device, EntityKind, LineKind, Site
from libs.common.ids import CircuitId, DeviceId, LineId, LoadId, RegionId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.tokens import Principal
from services.alarm.domain.energy import CircuitFacts
from services.alarm.domain.places import Place
from services.alarm.domain.rulebook import Target
from services.alarm.domain.sites import LINE

REGION = "region:"
AC_VOLTAGE_V = 220.0
"""Nominal voltage of a phase (GB/T 156). [V]"""
DC_VOLTAGE_V = 48.0
"""Nominal voltage of telecom power (YD/T 1051). [V]"""
UNTIMED_LINES = (LineKind.MANUAL, LineKind.FILE)
"""What comes over these comes when somebody brings it."""


class RegistryDirectory:
    """The registry in alarm's words, and the devices that its changes concern."""

    def __init__(self, view: RegistryView, profiles: ProfileCatalogue, *, default_class: str) -> None:
        """Follow the registry.

        Args:
            view: The projection; run by somebody else.
            profiles: What the points of a device are.
            default_class: Station class of a site that has none.
        """
        self._view = view
        self._profiles = profiles
        self._default_class = default_class
        self._points: dict[tuple[str, str | None], tuple[str, frozenset[str], frozenset[str]]] = {}
        self._changed: set[str] = set()
        view.on_change(self._note)

    async def ready(self) -> None:
        """Wait until the registry has been read."""
        await self._view.ready()

    def target(self, device_id: str) -> Target | None:
        """Return what the rules need to know of a device, None when there is no such device."""
        device = self._view.device(DeviceId(device_id))
        return None if device is None else self._target(device)

    def targets(self) -> Iterable[Target]:
        """Return all devices."""
        return (self._target(device) for device in self._view.devices())

    def kinds(self) -> Mapping[str, frozenset[str]]:
        """Return the numeric points that devices of each kind can have, by the known profiles."""
        found: dict[str, frozenset[str]] = {}
        for profile in self._profiles:
            numeric = frozenset(point.name for point in profile.points.values() if not point.is_text)
            found[profile.category] = found.get(profile.category, frozenset()) | numeric
        return found

    def is_removed(self, device_id: str) -> bool:
        """Return whether the registry says that the device is gone."""
        record = self._view.record(EntityKind.DEVICE, device_id)
        return record is not None and not record.is_active

    def take_changed(self) -> set[str]:
        """Return the devices that the registry said something new about; they are forgotten here."""
        changed, self._changed = self._changed, set()
        return changed

    def order_of(self, device_id: str) -> int:
        """Return the order number of the circuit that a device measures: its channel, its binding's, or 1."""
        device = self._view.device(DeviceId(device_id))
        if device is not None and device.channel is not None:
            return device.channel
        return next((binding.channel for binding in self._view.bindings_of_device(DeviceId(device_id))), 1)

    def fed_by(self, load_id: str) -> list[str]:
        """Return the devices that have no supply while the load has none: its breaker and its meters."""
        load = self._view.load(LoadId(load_id))
        if load is None:
            return []
        found = [] if load.breaker is None else [str(load.breaker.device)]
        if load.meter is not None:
            found += [str(binding.device) for binding in self._view.bindings(load.meter)]
        return sorted(set(found))

    def suppliers(self, device_id: str) -> Sequence[frozenset[str]]:
        """Return groups of devices: the device has no supply when all of one group have none.

        What measures a circuit above its own is a group each; what measures the feeds of its site is one group, since
        a site with two feeds has supply while one of them has.
        """
        device = self._view.device(DeviceId(device_id))
        if device is None:
            return []
        above: list[CircuitId] = []
        feeds_itself = False
        for binding in self._view.bindings_of_device(DeviceId(device.id)):
            circuit = self._view.circuit(binding.circuit)
            while circuit is not None and circuit.id not in above:
                feeds_itself |= circuit.role is CircuitRole.SITE_FEED and circuit.id == binding.circuit
                above += [] if circuit.id == binding.circuit else [CircuitId(circuit.id)]
                circuit = None if circuit.parent is None else self._view.circuit(circuit.parent)
        groups = [frozenset({measuring}) for circuit_id in above for measuring in self._measuring(circuit_id)]
        if not feeds_itself:
            feeds = [CircuitId(one.id) for one in self._view.circuits(device.site) if one.role is CircuitRole.SITE_FEED]
            groups.append(frozenset(measuring for feed in feeds for measuring in self._measuring(feed)))
        return [group for group in groups if group and device_id not in group]

    def carriers(self, device_id: str) -> frozenset[str]:
        """Return what its data come through: the devices that it hangs on by id, their lines as ``line:<id>``."""
        found: set[str] = set()
        device = self._view.device(DeviceId(device_id))
        while device is not None:
            if device.line is not None:
                found.add(LINE + device.line)
            if device.parent is None or device.parent in found:
                break
            found.add(device.parent)
            device = self._view.device(device.parent)
        return frozenset(found)

    def circuit(self, circuit_id: str) -> CircuitFacts | None:
        """Return what energy rules need to know of a circuit, None when there is no such circuit."""
        circuit = self._view.circuit(CircuitId(circuit_id))
        site_id = None if circuit is None else self._view.site_of_circuit(circuit)
        if circuit is None or site_id is None:
            return None
        site = self._view.site(site_id)
        station_class = None if site is None else site.station_class
        return CircuitFacts(
            circuit_id=circuit.id,
            site_id=site_id,
            role=circuit.role.value,
            station_class=self._default_class if station_class is None else station_class.value,
            zone=CIVIL_ZONE if site is None else ZoneInfo(site.timezone),
            meters=tuple(sorted(set(self._measuring(CircuitId(circuit.id))))),
            loads=frozenset(load.kind.value for load in self._view.loads(site_id) if load.meter == circuit.id),
            parent=circuit.parent,
            children=tuple(sorted(one.id for one in self._view.circuits(site_id) if one.parent == circuit.id)),
        )

    def _measuring(self, circuit_id: CircuitId) -> list[str]:
        return [binding.device for binding in self._view.bindings(circuit_id)]

    def devices_of(self, site_id: str) -> frozenset[str]:
        """Return the devices of a site."""
        return frozenset(device.id for device in self._view.devices(SiteId(site_id)))

    def place(self, site_id: str) -> Place | None:
        """Return where a site is, None when there is no such site."""
        site = self._view.site(SiteId(site_id))
        return None if site is None else self._place(site)

    def places(self) -> Iterable[Place]:
        """Return all sites."""
        return (self._place(site) for site in self._view.sites())

    def device_name(self, device_id: str, language: str) -> str:
        """Return what people call a device, its id where the registry does not know it."""
        device = self._view.device(DeviceId(device_id))
        if device is None:
            return device_id
        return (device.name_zh if language == "zh" else None) or device.name

    def region_name(self, region_id: str, language: str) -> str:
        """Return what people call a region, its id where the registry does not know it."""
        record = self._view.record(EntityKind.REGION, region_id)
        region = None if record is None else record.versions[-1]
        if region is None:
            return region_id
        return (region.name_zh if language == "zh" else None) or region.name

    def has_site(self, site_id: str) -> bool:
        """Return whether there is such a site."""
        return self._view.site(SiteId(site_id)) is not None

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        """Return the sites that somebody is limited to, None for all."""
        if who.sites is None:
            return None
        sites = {limit for limit in who.sites if not limit.startswith(REGION)}
        regions = {limit.removeprefix(REGION) for limit in who.sites if limit.startswith(REGION)}
        if regions:
            sites |= {
                site.id
                for site in self._view.sites()
                if site.region is not None and not regions.isdisjoint(self._view.regions_above(RegionId(site.region)))
            }
        return frozenset(sites)

    def _place(self, site: Site) -> Place:
        return Place(
            site_id=site.id,
            name=site.name,
            name_zh=site.name_zh,
            regions=() if site.region is None else tuple(self._view.regions_above(RegionId(site.region))),
            station_class=self._default_class if site.station_class is None else site.station_class.value,
            lon=site.lon,
            lat=site.lat,
        )

    def _target(self, device: Device) -> Target:
        profile, points, optional = self._points_of(device.profile, device.profile_version)
        site = self._view.site(device.site)
        station_class = site.station_class if site is not None else None
        return Target(
            device_id=device.id,
            site_id=device.site,
            kind=device.kind,
            station_class=self._default_class if station_class is None else station_class.value,
            profile=profile,
            points=points,
            optional_points=optional,
            period_s=self._period_s(device),
            rated_current_a=self._rated_current_a(device, points | optional),
        )

    def _period_s(self, device: Device) -> float | None:
        """Return how often a device is to report: its own period, else the slowest that its points allow.

        None for one that has been taken out of use, or of which nobody says when it reports.
        """
        if device.decommissioned_at is not None:
            return None
        if device.period_s is not None:
            return device.period_s
        line = None if device.line is None else self._view.line(device.line)
        if line is None or line.kind in UNTIMED_LINES:
            return None
        profile = None if device.profile is None else self._profiles.find(device.profile, device.profile_version)
        points = [] if profile is None else [point.canonical for point in profile.points.values()]
        return min((age_s for one in points if one is not None and (age_s := one.max_age_s) is not None), default=None)

    def _rated_current_a(self, device: Device, points: frozenset[str]) -> float | None:
        """Return the current at which the circuit that a device measures has its rated power."""
        phases = len(points & {"current_a", "current_b", "current_c"})
        volts = phases * AC_VOLTAGE_V if phases else DC_VOLTAGE_V
        powers = [
            circuit.rated_power_kw
            for binding in self._view.bindings_of_device(DeviceId(device.id))
            if (circuit := self._view.circuit(binding.circuit)) is not None and circuit.rated_power_kw is not None
        ]
        return powers[0] * 1000.0 / volts if len(powers) == 1 else None

    def _points_of(self, name: str | None, version: str | None) -> tuple[str, frozenset[str], frozenset[str]]:
        key = (name or "", version)
        known = self._points.get(key)
        if known is None:
            profile = None if name is None else self._profiles.find(name, version)
            numeric = [] if profile is None else [point for point in profile.points.values() if not point.is_text]
            known = self._points[key] = (
                f"{name}/{version}",
                frozenset(point.name for point in numeric if not point.optional),
                frozenset(point.name for point in numeric if point.optional),
            )
        return known

    def _measured_by(self, kind: EntityKind, entity_id: str) -> list[str]:
        if kind is EntityKind.CIRCUIT:
            return self._measuring(CircuitId(entity_id))
        record = self._view.record(EntityKind.BINDING, entity_id)
        return [] if not isinstance(record, BindingRecord) else [version.device for version in record.versions]

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        if kind is EntityKind.DEVICE:
            self._changed.add(entity_id)
        elif kind is EntityKind.LINE:
            self._changed.update(device.id for device in self._view.devices_on(LineId(entity_id)))
        elif kind in (EntityKind.BINDING, EntityKind.CIRCUIT):
            self._changed.update(self._measured_by(kind, entity_id))
        elif kind is EntityKind.SITE:
            self._changed.update(device.id for device in self._view.devices(SiteId(entity_id)))
