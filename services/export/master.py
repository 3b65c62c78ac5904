"""The registry and the device profiles, as a proposal of a mapping asks them."""

from collections.abc import Sequence

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Region, Site
from libs.common.ids import DeviceId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryNotReady, RegistryView


class RegistryMaster:
    """Answers from the projection of the registry and the shipped profiles."""

    def __init__(self, view: RegistryView, profiles: ProfileCatalogue, clock: Clock) -> None:
        self._view = view
        self._profiles = profiles
        self._clock = clock

    def site(self, site_id: str) -> Site | None:
        """Return a site as it is now."""
        return self._view.site(SiteId(site_id))

    def region(self, region_id: str) -> Region | None:
        """Return a region as it is now."""
        found = self._view.at(EntityKind.REGION, region_id, self._clock.now())
        return found if isinstance(found, Region) else None

    def routed(self, site_id: str, connection_id: str) -> bool:
        """Return whether a site reports over a connection: its ``sc_routing`` names it; empty is local only.

        A site that the registry does not know is not limited by it.

        Raises:
            RegistryNotReady: The registry has not been read to its end.
        """
        if not self._view.is_ready:
            raise RegistryNotReady("the registry is being read", message_zh="正在读取台账")
        site = self._view.site(SiteId(site_id))
        return site is None or connection_id in site.sc_routing

    def devices_of(self, site_id: str) -> Sequence[Device]:
        """Return the devices that stand at a site now."""
        return self._view.devices(SiteId(site_id))

    def profile_points(self, device: Device) -> frozenset[str]:
        """Return the points of the device's profile; none for a device without one."""
        profile = None if device.profile is None else self._profiles.find(device.profile, device.profile_version)
        return frozenset() if profile is None else frozenset(profile.points)

    def loads_of(self, device_id: str, channel: int | None) -> Sequence[str]:
        """Return the loads of the device's site that its switch, or one channel of it, feeds now."""
        device = self._view.device(DeviceId(device_id))
        return [
            load.id
            for load in (() if device is None else self._view.loads(device.site))
            if load.breaker is not None and (load.breaker.device, load.breaker.channel) == (device_id, channel)
        ]

    def sites_within(self, limits: Sequence[str]) -> list[str]:
        """Return the sites that limits such as ``s-1`` and ``region:440100`` mean."""
        regions = {limit.removeprefix("region:") for limit in limits if limit.startswith("region:")}
        sites = [limit for limit in limits if not limit.startswith("region:")]
        if regions:
            for site in self._view.sites():
                if site.region is not None and regions & {site.region, *self._view.regions_above(site.region)}:
                    sites.append(site.id)
        return sites

    def places_of(self, site_id: str) -> frozenset[str]:
        """Return a site and ``region:<id>`` of each region that it lies in.

        Raises:
            RegistryNotReady: The registry has not been read to its end.
        """
        if not self._view.is_ready:
            raise RegistryNotReady("the registry is being read", message_zh="正在读取台账")
        site = self._view.site(SiteId(site_id))
        if site is None or site.region is None:
            return frozenset({site_id})
        regions = {site.region, *self._view.regions_above(site.region)}
        return frozenset({site_id, *(f"region:{region}" for region in regions)})

    def kind_of(self, device_id: str) -> str | None:
        """Return the kind of a device, None when the registry does not know it.

        Raises:
            RegistryNotReady: The registry has not been read to its end.
        """
        if not self._view.is_ready:
            raise RegistryNotReady("the registry is being read", message_zh="正在读取台账")
        device = self._view.device(DeviceId(device_id))
        return None if device is None else device.kind
