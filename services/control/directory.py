"""Loads as control sees them, read from its projection of the registry."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs.common.clock import Clock
from libs.common.contracts.control import CommandAction
from libs.common.contracts.registry import Device, Load, Site
from libs.common.ids import DeviceId, LineId, LoadId, RegionId, SiteId
from libs.common.profiles import Control, DeviceProfile, ModbusControl, ProfileCatalogue, Protocol, RegisterType
from libs.common.registry import RegistryView
from libs.common.tokens import Principal
from services.control.domain.loads import LoadInfo


class RegistryLoads:
    """The registry's loads, each put together once until something changes or its time has come."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._known: dict[str, LoadInfo | None] = {}
        self._all: list[LoadInfo] | None = None
        self._holds: tuple[datetime, datetime] | None = None
        """From when and until before when what is known holds, as long as nobody changes the registry."""
        view.on_change(lambda kind, entity_id: self._forget())

    def get(self, load_id: str) -> LoadInfo | None:
        """Return a load, None when there is no such load now."""
        self._keep_true()
        return self._get(load_id)

    def all(self) -> Sequence[LoadInfo]:
        """Return every load there is."""
        self._keep_true()
        if self._all is not None:
            return self._all
        found = self._of(self._view.loads())
        if self._view.is_ready:
            self._all = found
        return found

    def at_site(self, site_id: str) -> list[LoadInfo]:
        """Return the loads of a site."""
        self._keep_true()
        return self._of(self._view.loads(SiteId(site_id)))

    def devices_of_site(self, site_id: str) -> list[str]:
        """Return every device of a site."""
        return [device.id for device in self._view.devices(SiteId(site_id))]

    def meter_at(self, load_id: str, when: datetime) -> DeviceId | None:
        """Return the device that measured a load at a time; of one that is gone, or has no meter, None."""
        load = self._view.load(LoadId(load_id))
        bindings = [] if load is None or load.meter is None else self._view.bindings(load.meter, when)
        return bindings[0].device if bindings else None

    def _keep_true(self) -> None:
        """Forget what is known when a version of anything has begun or ended, whichever way the clock has gone."""
        now = self._clock.now()
        if self._holds is None or not self._holds[0] <= now < self._holds[1]:
            self._forget()
            if self._view.is_ready:  # what a start reads is told to nobody
                self._holds = self._view.index.unchanged_around(now)

    def _forget(self) -> None:
        self._known.clear()
        self._all = None
        self._holds = None

    def _get(self, load_id: str) -> LoadInfo | None:
        if load_id not in self._known:
            load = self._view.load(LoadId(load_id))
            found = None if load is None else self._put_together(load)
            if not self._view.is_ready:
                return found
            self._known[load_id] = found
        return self._known[load_id]

    def _of(self, loads: Iterable[Load]) -> list[LoadInfo]:
        found = (self._get(load.id) for load in loads)
        return [load for load in found if load is not None]

    def _put_together(self, load: Load) -> LoadInfo:
        site = self._view.site(load.site)
        device = None if load.breaker is None else self._view.device(load.breaker.device)
        return LoadInfo(
            load_id=LoadId(load.id),
            name=load.name_zh or load.name,
            site_id=load.site,
            region_ids=() if site is None or site.region is None else tuple(self._view.regions_above(site.region)),
            device_id=None if device is None else DeviceId(device.id),
            channel=None if load.breaker is None else load.breaker.channel,
            line_id=None if device is None else device.line,
            obstacle=load.plan_obstacle,
            command_latency_s=None if device is None else device.command_latency_s,
            meter_device_id=self._meter(load),
            tags=load.tags,
            kind=load.kind.value,
            is_radio=load.kind.is_radio,
            sector=load.sector,
            keeps_coverage=load.kind.is_radio and load.coverage_layer is not False,
            site_kind=None if site is None else site.kind.value,
            site_class=None if site is None or site.station_class is None else site.station_class.value,
        )

    def _meter(self, load: Load) -> DeviceId | None:
        if load.meter is None:
            return None
        bindings = self._view.bindings(load.meter)
        return bindings[0].device if bindings else None


SAME_STEP = 1e-6
"""Part of a step that is a rounding of the caller's arithmetic."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as something that can be set."""

    device_id: str
    site_id: SiteId
    line_id: LineId | None
    profile: str | None
    model: DeviceProfile | None
    kind: str = ""
    """Category of the profile, as the registry has it."""
    tags: tuple[str, ...] = ()
    site_kind: str | None = None
    region_ids: tuple[str, ...] = ()
    """The site's region and those above it."""

    def control_of(self, point: str) -> Control | None:
        """Return the control that writes a point, None when its profile has none."""
        controls = () if self.model is None else self.model.controls.values()
        takes = (one for one in controls if one.read_back.value is None and one.read_back.points[0] == point)
        return next(takes, None)

    def step_missed(self, point: str, value: float) -> float | None:
        """Return the step in which a device takes a point when the value lies between two of them, else None.

        Steps are known where the profile writes whole registers.
        """
        control, known = self.control_of(point), None if self.model is None else self.model.points.get(point)
        if not isinstance(control, ModbusControl) or known is None or (control.type or RegisterType.UINT16).is_float:
            return None
        raw = (value - known.offset) / known.scale
        return None if abs(raw - round(raw)) <= SAME_STEP else abs(known.scale)

    def is_switched_by(self, point: str) -> bool:
        """Return whether a point shows the position of a switch, or its timer, which only switching may move."""
        return self.model is not None and point in self.model.switching_points

    @property
    def can_be_cared_for(self) -> frozenset[CommandAction]:
        """Which orders without a value the device's protocol or profile may know; the line has the last word."""
        if self.model is None:
            return frozenset()
        restart = "restart" in self.model.controls or self.model.protocol in RESTARTED
        clock = self.model.clock is not None or self.model.protocol in CLOCKED
        known = ((CommandAction.RESTART, restart), (CommandAction.SET_CLOCK, clock))
        return frozenset(action for action, can in known if can)

    @property
    def is_part_of_station(self) -> bool:
        """Whether a restart stops whatever else is behind the same telecontrol station."""
        return self.model is not None and self.model.protocol in RESTARTED and "restart" not in self.model.controls

    def unit_of(self, point: str) -> str | None:
        """Return the unit of a point, None when its profile has no such point."""
        known = None if self.model is None else self.model.points.get(point)
        return None if known is None else known.unit


CLOCKED = frozenset({Protocol.DLT645, Protocol.YD1363, Protocol.IEC60870_5, Protocol.IEC60870_5_103})
"""Protocols whose standard sets clocks: DL/T 645 (14, 08), YD/T 1363 (4E), IEC 60870-5 (C_CS_NA_1; 103: type 6)."""
RESTARTED = frozenset({Protocol.IEC60870_5})
"""Protocols whose standard restarts stations: C_RP_NA_1 of IEC 60870-5-101 and -104."""


class RegistryDevices:
    """The registry's devices, with what their profiles can."""

    def __init__(self, view: RegistryView, folders: Sequence[Path]) -> None:
        """Keep where profiles are; they are read when somebody asks for the first time."""
        self._view = view
        self._folders = folders
        self._profiles: ProfileCatalogue | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all of the registry has been read."""
        return self._view.is_ready

    def get(self, device_id: str) -> DeviceInfo | None:
        """Return a device, None when there is no such device now."""
        device = self._view.device(DeviceId(device_id))
        return None if device is None else self._put_together(device)

    def at_site(self, site_id: str) -> list[DeviceInfo]:
        """Return the devices of a site."""
        return [self._put_together(device) for device in self._view.devices(SiteId(site_id))]

    def in_region(self, region_id: str) -> list[DeviceInfo]:
        """Return the devices of the sites in a province, city or district."""
        sites = (site.id for site in self._view.sites() if region_id in self._regions(site))
        return [device for site_id in sites for device in self.at_site(site_id)]

    def tagged(self, tag: str) -> list[DeviceInfo]:
        """Return the devices that carry a tag."""
        return [self._put_together(device) for device in self._view.devices() if tag in device.tags]

    def stopped_with(self, device_id: str) -> list[str]:
        """Return what a restart of a device stops: itself, and with a telecontrol station all that is on its line."""
        device = self.get(device_id)
        if device is None or device.line_id is None or not device.is_part_of_station:
            return [device_id]
        return [device_id, *(one.id for one in self._view.devices_on(device.line_id))]

    def _put_together(self, device: Device) -> DeviceInfo:
        if self._profiles is None:
            self._profiles = ProfileCatalogue.load(self._folders)
        model = None if device.profile is None else self._profiles.find(device.profile, device.profile_version)
        site = self._view.site(device.site)
        return DeviceInfo(
            device.id, device.site, device.line, device.profile, model, kind=device.kind, tags=device.tags,
            site_kind=None if site is None else site.kind.value,
            region_ids=() if site is None else tuple(self._regions(site)),
        )  # fmt: skip

    def sites_of(self, who: Principal) -> list[str] | None:
        """Return the sites that somebody is limited to, None for all."""
        if who.sites is None:
            return None
        return [
            site.id
            for site in self._view.sites()
            if not set(who.sites).isdisjoint({site.id, *(f"region:{region}" for region in self._regions(site))})
        ]

    def _regions(self, site: Site) -> list[RegionId]:
        return [] if site.region is None else self._view.regions_above(RegionId(site.region))
