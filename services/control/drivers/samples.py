"""What conditions of plans compare: the last values out of ingest's history, by its direct door."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.ids import LoadId
from services.control.domain.conditions import MAX_AGE_S, Condition, Quantity, Sample
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Doors
from services.control.usecases.ports import SteadyClock

logger = logging.getLogger(__name__)

POINTS: Mapping[Quantity, tuple[str, ...]] = {
    Quantity.POWER: ("active_power_total", "active_power_dc", "active_power_a"),
    Quantity.TRAFFIC_LOAD: ("traffic_load",),
    Quantity.TEMPERATURE_OUTDOOR: ("temperature_outdoor",),
}
"""Points that say a quantity; of several in a report the first counts."""
HEARD_MAX_AGE_S = 15.0
"""Values that were asked for longer ago than this are asked for again before they count. [s]"""
ASK_EVERY_S = 5.0
"""The history is asked this often while loads wait for their conditions. [s]"""
DEVICES_AT_ONCE = 200
"""Of one question to the door."""


class SampleBoard:
    """The values of the loads that are about to go off."""

    def __init__(
        self,
        doors: Doors,
        clock: Clock,
        steady: SteadyClock,
        *,
        load_of: Callable[[str], LoadInfo | None],
        devices_of_site: Callable[[str], Sequence[str]],
    ) -> None:
        """Prepare.

        Args:
            doors: Ingest's direct doors; any of them knows the history.
            clock: For the age of what was heard.
            steady: The time.
            load_of: The registry's loads.
            devices_of_site: Every device of a site; those that measure no outdoor temperature say nothing.
        """
        self._doors = doors
        self._clock = clock
        self._steady = steady
        self._load_of = load_of
        self._devices_of_site = devices_of_site
        self._heard: dict[tuple[str, Quantity], tuple[float, list[list[Sample]]]] = {}
        self._asked: frozenset[str] = frozenset()
        self._asked_at = float("-inf")

    def series(self, load_id: str, quantity: Quantity) -> Sequence[Sequence[Sample]]:
        """Return the values of each source, oldest first; nothing when they were not asked for just now."""
        heard_at, found = self._heard.get((load_id, quantity), (float("-inf"), []))
        return found if self._clock.monotonic() - heard_at <= HEARD_MAX_AGE_S else []

    async def refresh(self, asked: Mapping[LoadId, Sequence[Condition]]) -> None:
        """Ask for what these loads' conditions compare; what cannot be had is not known afterwards."""
        if self._clock.monotonic() - self._asked_at < ASK_EVERY_S and asked.keys() <= self._asked:
            return
        wanted: dict[tuple[str, Quantity], float] = {}
        loads = {load_id: load for load_id in asked if (load := self._load_of(load_id)) is not None}
        for load_id in loads:
            for condition in asked[load_id]:
                length_s = condition.for_s + 2 * MAX_AGE_S[condition.quantity]
                key = (load_id, condition.quantity)
                wanted[key] = max(wanted.get(key, 0.0), length_s)
        self._asked_at, self._asked = self._clock.monotonic(), frozenset(asked)
        if not wanted:
            self._heard.clear()
            return
        asked_at = self._clock.monotonic()
        heard: dict[tuple[str, Quantity], tuple[float, list[list[Sample]]]] = {}
        for quantity in {quantity for _, quantity in wanted}:
            lengths = {load_id: length_s for (load_id, other), length_s in wanted.items() if other is quantity}
            sources = {load_id: self._sources(loads[LoadId(load_id)], quantity) for load_id in lengths}
            try:
                found = await self._fetch(quantity, sources, max(lengths.values()))
            except PlatformError as exc:
                logger.warning("conditions cannot be judged", extra={"quantity": quantity, "reason": exc.message})
                continue
            for name, devices in sources.items():
                series = [found[device_id] for device_id in devices if device_id in found]
                heard[name, quantity] = (asked_at, series)
        self._heard = heard

    def _sources(self, load: LoadInfo, quantity: Quantity) -> Sequence[str]:
        match quantity:
            case Quantity.POWER:
                return () if load.meter_device_id is None else (load.meter_device_id,)
            case Quantity.TRAFFIC_LOAD:
                return (load.load_id,)
            case Quantity.TEMPERATURE_OUTDOOR:
                return self._devices_of_site(load.site_id)

    async def _fetch(
        self, quantity: Quantity, sources: Mapping[str, Sequence[str]], length_s: float
    ) -> dict[str, list[Sample]]:
        devices = sorted({device_id for found in sources.values() for device_id in found})
        end = self._steady.now()
        by_device: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for first in range(0, len(devices), DEVICES_AT_ONCE):
            body = {
                "device_ids": devices[first : first + DEVICES_AT_ONCE],
                "points": POINTS[quantity],
                "start": (end - timedelta(seconds=length_s)).isoformat(),
                "end": (end + timedelta(seconds=1)).isoformat(),
            }
            for row in await self._doors.samples(body):
                by_device[row.device_id][row.point].append(Sample(row.at, row.value))
        return {
            device_id: next(found[point] for point in POINTS[quantity] if point in found)
            for device_id, found in by_device.items()
        }
