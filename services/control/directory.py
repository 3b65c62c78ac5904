"""Loads as control sees them, read from its projection of the registry."""

from datetime import datetime, timedelta

from libs.common.clock import Clock
from libs.common.contracts.registry import EntityKind, Load
from libs.common.ids import DeviceId, LoadId, SiteId
from libs.common.registry import RegistryView
from services.control.domain.loads import LoadInfo

KEPT = timedelta(seconds=60)
"""A load is put together again after this even if nothing has changed: validity passes by itself."""


class RegistryLoads:
    """The registry's loads, each put together once until something changes."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._known: dict[str, LoadInfo | None] = {}
        self._kept_until: datetime | None = None
        view.on_change(self._forget)

    def get(self, load_id: str) -> LoadInfo | None:
        """Return a load, None when there is no such load now."""
        now = self._clock.now()
        if self._kept_until is None or not now < self._kept_until <= now + KEPT:
            self._known.clear()
            self._kept_until = now + KEPT
        if load_id not in self._known:
            load = self._view.load(LoadId(load_id))
            found = None if load is None else self._put_together(load)
            if not self._view.is_ready:  # what a start reads is told to nobody, so an answer before it is not kept
                return found
            self._known[load_id] = found
        return self._known[load_id]

    def all(self) -> list[LoadInfo]:
        """Return every load there is."""
        found = (self.get(load.id) for load in self._view.loads())
        return [load for load in found if load is not None]

    def at_site(self, site_id: str) -> list[LoadInfo]:
        """Return the loads of a site."""
        found = (self.get(load.id) for load in self._view.loads(SiteId(site_id)))
        return [load for load in found if load is not None]

    def _forget(self, kind: EntityKind, entity_id: str) -> None:
        self._known.clear()

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
