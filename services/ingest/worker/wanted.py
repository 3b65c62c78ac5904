"""Which lines have devices to poll or to listen to, line by line, so that a large registry costs nothing at rest."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Line
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from services.ingest.drivers.factory import is_served, open_line, supports
from services.ingest.drivers.means import Means
from services.ingest.settings import PollingSettings
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)

CHANGED_AT_A_TIME = 500
LOOKED_AT_ANYWAY = 50
"""Lines that are looked at though nobody said that they changed: what begins or ends by its own date."""
LOOKED_AT_EVERY_S = 10.0
"""As often as that at most. [s]"""
REST = 200
"""A line that took long rests for so many times as long: it may have ten thousand devices. [1]"""


@dataclass(frozen=True, slots=True)
class WantedLine:
    """A line and the devices to be polled or listened to on it."""

    line: Line
    devices: Mapping[str, tuple[Device, DeviceProfile]]


class WantedLines:
    """The lines of the registry that there are drivers for."""

    def __init__(
        self,
        *,
        topology: Topology,
        catalogue: ProfileCatalogue,
        clock: Clock,
        settings: PollingSettings,
        means: Means,
    ) -> None:
        self.lines: dict[str, WantedLine] = {}
        self._topology = topology
        self._catalogue = catalogue
        self._clock = clock
        self._settings = settings
        self._means = means
        self._changed: dict[str, None] = {}
        self._known: set[str] = set()
        self._due: list[tuple[float, str]] = []
        """A heap: when a line is looked at anyway, by the monotonic clock, and the line."""
        self._line_of: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def note(self, kind: EntityKind, entity_id: str) -> bool:
        """Learn that an entity has changed; return whether a line may be concerned."""
        if kind is EntityKind.LINE:
            if entity_id not in self._known:
                self._known.add(entity_id)
                heappush(self._due, (self._clock.monotonic() + LOOKED_AT_EVERY_S, entity_id))
            self._changed[entity_id] = None
            return True
        if kind is not EntityKind.DEVICE:
            return False
        lines = {self._line_of.get(entity_id)}
        record = self._topology.index.record(kind, entity_id)
        if record is not None:
            lines |= {version.line for version in record.versions if isinstance(version, Device)}
        self._changed.update((line_id, None) for line_id in lines if line_id is not None)
        return True

    def refresh(self) -> set[str]:
        """Bring some lines up to date and return those whose devices or settings are others now."""
        changed = list(self._changed)[:CHANGED_AT_A_TIME]
        for line_id in changed:
            del self._changed[line_id]
        others = {line_id for line_id in changed if self._refresh(line_id)}
        now = self._clock.monotonic()
        for _ in range(LOOKED_AT_ANYWAY):
            if not self._due or self._due[0][0] > now:
                break
            _, line_id = heappop(self._due)
            began = self._clock.monotonic()
            if self._refresh(line_id):
                others.add(line_id)
            ended = self._clock.monotonic()
            heappush(self._due, (ended + max(LOOKED_AT_EVERY_S, REST * (ended - began)), line_id))
        return others

    def _refresh(self, line_id: str) -> bool:
        before, now = self.lines.get(line_id), self._look(line_id)
        if now == before:
            return False
        for device_id in before.devices if before is not None else ():
            if self._line_of.get(device_id) == line_id:
                del self._line_of[device_id]
        if now is None:
            del self.lines[line_id]
            return True
        self.lines[line_id] = now
        self._line_of.update(dict.fromkeys(now.devices, line_id))
        return True

    def _look(self, line_id: str) -> WantedLine | None:
        now = self._clock.now()
        line = self._topology.line(line_id, now)
        if line is None or not is_served(line):
            return None
        devices: dict[str, tuple[Device, DeviceProfile]] = {}
        for device in self._topology.devices_on(line_id, now):
            profile = self._profile(line, device)
            if profile is not None:
                devices[device.id] = (device, profile)
        if not devices:
            return None
        try:
            open_line(line, self._clock, self._settings, self._means)  # connects to nothing; says what is wrong
        except InvalidInput as exc:
            self._say_once(line_id, exc.message)
            return None
        return WantedLine(line, devices)

    def _profile(self, line: Line, device: Device) -> DeviceProfile | None:
        if device.profile is None:
            return None
        profile = self._catalogue.find(device.profile, device.profile_version)
        if profile is None:
            self._say_once(device.id, f"there is no profile {device.profile} {device.profile_version or ''}".rstrip())
            return None
        return profile if supports(line, profile) else None

    def _say_once(self, subject: str, reason: str) -> None:
        if self._said.get(subject) != reason:
            logger.error("cannot be polled", extra={"subject": subject, "reason": reason})
            self._said[subject] = reason
