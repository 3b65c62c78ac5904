"""Expected against received: per device and hour, and added up by device, site, region or protocol."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

import numpy as np

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, DeviceRecord, EntityKind, RegistryRecord
from libs.common.db import Database
from libs.common.ids import RegionId, SiteId
from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.completeness import Counts, Duty, Loss, expected, hours_between, in_use_within, losses
from services.ingest.settings import PollingSettings
from services.ingest.store.counts import fetch_counts
from services.ingest.usecases.topology import Topology

DEVICES_AT_A_TIME = 1000
"""Between two of so many the event loop gets its turn."""
NOTHING = Loss()
NO_REGION = "-"
"""Where a site names none."""


class By(StrEnum):
    """What losses are added up by."""

    DEVICE = "device"
    SITE = "site"
    REGION = "region"
    PROTOCOL = "protocol"


@dataclass(frozen=True, slots=True)
class HourlyLoss:
    """One device in one hour."""

    device_id: str
    site_id: str
    hour: datetime
    loss: Loss
    received: int
    """All that came, those too many among them."""


@dataclass(slots=True)
class Group:
    """What is added up under one key."""

    loss: Loss = NOTHING
    devices: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which devices are looked at; None is all."""

    sites: frozenset[str] | None = None
    site: str | None = None
    region: str | None = None
    device: str | None = None
    after: str | None = None
    """Only devices with a greater id."""


class Losses:
    """Answers what share of the reports is missing."""

    def __init__(
        self,
        *,
        db: Database,
        topology: Topology,
        catalogue: ProfileCatalogue,
        settings: PollingSettings,
        clock: Clock,
    ) -> None:
        self._db = db
        self._topology = topology
        self._catalogue = catalogue
        self._settings = settings
        self._clock = clock

    async def hourly(
        self, scope: Scope, start: datetime, end: datetime, *, limit: int
    ) -> tuple[list[HourlyLoss], bool]:
        """Return the hours that touch ``[start, end)`` of the first ``limit`` devices, and whether there are more."""
        duties = await self.duties(scope, start, end)
        devices = sorted({duty.device_id for duty in duties})
        shown = set(devices[:limit])
        duties = [duty for duty in duties if duty.device_id in shown]
        hours = hours_between(start, end)
        wanted = expected(duties, [hour.timestamp() for hour in hours])
        got = await self._received(duties, hours, sorted(shown))
        rows: dict[tuple[str, int], HourlyLoss] = {}
        for place, duty in enumerate(duties):
            for column, hour in enumerate(hours):
                if not wanted[place, column]:
                    continue
                known = rows.get((duty.device_id, column))
                count, received = int(wanted[place, column]), int(got[place, column])
                total = count + (0 if known is None else known.loss.expected)
                rows[duty.device_id, column] = HourlyLoss(
                    duty.device_id, duty.site_id, hour, Loss(total, min(total, received)), received
                )
        return [rows[key] for key in sorted(rows)], len(devices) > limit

    async def summary(self, by: By, scope: Scope, start: datetime, end: datetime) -> tuple[Loss, Mapping[str, Group]]:
        """Return the loss over ``[start, end)``, whole and by key."""
        duties = await self.duties(scope, start, end)
        of_duty = [NOTHING] * len(duties)
        hours = hours_between(start, end)
        for day in sorted({hour.date() for hour in hours}):
            here = [hour for hour in hours if hour.date() == day]
            got = await self._received(duties, here, None)
            wanted = await asyncio.to_thread(expected, duties, [hour.timestamp() for hour in here])
            of_duty = [one.plus(more) for one, more in zip(of_duty, losses(duties, wanted, got), strict=True)]
        key_of = self._keys(by, end)
        total, groups = NOTHING, dict[str, Group]()
        for duty, loss in zip(duties, of_duty, strict=True):
            total = total.plus(loss)
            group = groups.setdefault(key_of(duty), Group())
            group.loss = group.loss.plus(loss)
            group.devices.add(duty.device_id)
        return total, groups

    async def duties(self, scope: Scope, start: datetime, end: datetime) -> list[Duty]:
        """Return when which devices are expected to report in ``[start, end)``, as far as that has passed."""
        until = min(end, self._clock.now())
        regions: dict[str, bool] = {}
        found: list[Duty] = []
        for number, record in enumerate(self._records(scope), start=1):
            if number % DEVICES_AT_A_TIME == 0:
                await asyncio.sleep(0)
            for version in record.versions:
                stretch = in_use_within(version, start, until)
                if stretch is None or version.profile is None or not self._is_in(scope, version, regions, until):
                    continue
                duty = Duty(
                    device_id=version.id,
                    site_id=version.site,
                    begins=stretch[0].timestamp(),
                    ends=stretch[1].timestamp(),
                    interval_s=self._settings.interval_of(version.kind, version.period_s),
                    protocol=self._protocol(version),
                )
                if found and found[-1].goes_on_in(duty):
                    found[-1] = replace(found[-1], ends=duty.ends)
                else:
                    found.append(duty)
        return found

    def _records(self, scope: Scope) -> Iterable[DeviceRecord]:
        if scope.device is not None:
            found: Iterable[RegistryRecord | None] = [self._topology.index.record(EntityKind.DEVICE, scope.device)]
        else:
            found = self._topology.index.records(EntityKind.DEVICE)
        return (
            record
            for record in found
            if isinstance(record, DeviceRecord) and (scope.after is None or record.id > scope.after)
        )

    def _is_in(self, scope: Scope, device: Device, regions: dict[str, bool], when: datetime) -> bool:
        if scope.sites is not None and device.site not in scope.sites:
            return False
        if scope.site is not None and device.site != scope.site:
            return False
        if scope.region is None:
            return True
        if device.site not in regions:
            site = self._topology.index.site(SiteId(device.site), when)
            above = [] if site is None or site.region is None else self._topology.index.regions_above(site.region, when)
            regions[device.site] = scope.region in above
        return regions[device.site]

    def _protocol(self, device: Device) -> str:
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        return "unknown" if profile is None else profile.protocol.code

    def _keys(self, by: By, when: datetime) -> Callable[[Duty], str]:
        match by:
            case By.DEVICE:
                return lambda duty: duty.device_id
            case By.SITE:
                return lambda duty: duty.site_id
            case By.PROTOCOL:
                return lambda duty: duty.protocol
            case By.REGION:
                known: dict[str, RegionId | None] = {}

                def region(duty: Duty) -> str:
                    if duty.site_id not in known:
                        site = self._topology.index.site(SiteId(duty.site_id), when)
                        known[duty.site_id] = None if site is None else site.region
                    return known[duty.site_id] or NO_REGION

                return region

    async def _received(self, duties: Sequence[Duty], hours: Sequence[datetime], devices: list[str] | None) -> Counts:
        """Return how many reports came of each duty's device in each hour, shape (duties, hours)."""
        received = np.zeros((len(duties), len(hours)), dtype=np.int64)
        for day in sorted({hour.date() for hour in hours}):
            columns = [column for column, hour in enumerate(hours) if hour.date() == day]
            async with self._db.read() as conn:
                counts = await fetch_counts(conn, day, devices)
            of_day = [hours[column].hour for column in columns]
            for place, duty in enumerate(duties):
                if place % DEVICES_AT_A_TIME == 0:
                    await asyncio.sleep(0)
                if duty.device_id in counts:
                    received[place, columns] = counts[duty.device_id][of_day]
        return received
