"""What was measured in past windows, out of ingest's history by its direct door, in small questions.

The door is the way of emergency wake-ups too: one question at a time, none of them larger than some thousand reports,
and nothing of it is kept.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from libs.common.ids import LoadId
from services.control.domain.conditions import Quantity, Sample
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Doors
from services.control.drivers.samples import DEVICES_AT_ONCE, POINTS

LONGEST = timedelta(hours=6)
"""Of one question: reports every 5 s for so long fit into an answer (5,000 of a device)."""
DEVICE_TIME = timedelta(hours=30)
"""Devices times time of one question: 21,600 reports when there is one every 5 s, 1,800 with one a minute."""


class History:
    """The past of loads."""

    def __init__(
        self,
        doors: Doors,
        *,
        meter_at: Callable[[str, datetime], str | None],
        devices_of_site: Callable[[str], Sequence[str]],
    ) -> None:
        """Prepare.

        Args:
            doors: Ingest's direct doors; any of them knows the history.
            meter_at: The device that measured a load at a time.
            devices_of_site: Every device of a site; those that measure no outdoor temperature say nothing.
        """
        self._doors = doors
        self._meter_at = meter_at
        self._devices_of_site = devices_of_site

    async def values(
        self, loads: Sequence[LoadInfo], quantity: Quantity, start: datetime, end: datetime
    ) -> Mapping[LoadId, Sequence[Sequence[Sample]]]:
        """Return the good values of each load's sources within ``[start, end)``, oldest first.

        Raises:
            Unavailable: No door answered.
        """
        sources = {load.load_id: self._sources(load, quantity, end) for load in loads}
        names = {device_id for devices in sources.values() for device_id in devices}
        found = await self._ask(names, POINTS[quantity], start, end)
        series = {
            device_id: next(by_point[point] for point in POINTS[quantity] if point in by_point)
            for device_id, by_point in found.items()
        }
        return {
            load_id: [series[device_id] for device_id in devices if device_id in series]
            for load_id, devices in sources.items()
        }

    async def states(
        self, loads: Sequence[LoadInfo], start: datetime, end: datetime
    ) -> Mapping[LoadId, Sequence[Sample]]:
        """Return what each load's breaker read within ``[start, end)``, oldest first.

        Raises:
            Unavailable: No door answered.
        """
        by_points: dict[tuple[str, ...], list[LoadInfo]] = defaultdict(list)
        for load in loads:
            by_points[_state_points(load)].append(load)
        states: dict[LoadId, Sequence[Sample]] = {}
        for points, group in by_points.items():
            found = await self._ask((str(load.device_id) for load in group if load.device_id), points, start, end)
            for load in group:
                by_point = found.get(str(load.device_id), {})
                states[load.load_id] = next((by_point[point] for point in points if point in by_point), ())
        return states

    def _sources(self, load: LoadInfo, quantity: Quantity, when: datetime) -> Sequence[str]:
        match quantity:
            case Quantity.POWER:
                meter = self._meter_at(load.load_id, when)
                # A breaker with one load behind it often measures it.
                own = load.device_id if load.channel is None else None
                return [str(one) for one in (meter or own,) if one is not None]
            case Quantity.TRAFFIC_LOAD:
                return (load.load_id,)
            case Quantity.TEMPERATURE_OUTDOOR:
                return self._devices_of_site(load.site_id)

    async def _ask(
        self, device_ids: Iterable[str], points: Sequence[str], start: datetime, end: datetime
    ) -> Mapping[str, Mapping[str, list[Sample]]]:
        devices = sorted(set(device_ids))
        found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for first, last in _parts(start, end):
            at_once = max(min(DEVICE_TIME // (last - first), DEVICES_AT_ONCE), 1)
            for position in range(0, len(devices), at_once):
                body = {
                    "device_ids": devices[position : position + at_once], "points": list(points),
                    "start": first.isoformat(), "end": last.isoformat(),
                }  # fmt: skip
                for row in await self._doors.samples(body):
                    found[row.device_id][row.point].append(Sample(row.at, row.value))
        return found


def _parts(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        last = min(start + LONGEST, end)
        yield start, last
        start = last


def _state_points(load: LoadInfo) -> tuple[str, ...]:
    """Return the points that say how a load's breaker stands; a single switch may be addressed as channel 1."""
    if load.channel is None:
        return ("breaker_state",)
    own = f"relay_{load.channel}_state"
    return (own, "breaker_state") if load.channel == 1 else (own,)
