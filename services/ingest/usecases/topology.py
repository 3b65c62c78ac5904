"""What ingest knows of the registry while it works: lines, their devices and the loads these switch, in memory.

Fed from the compacted topic, which this service writes itself; so every replica learns of a change in the same
way, and a process keeps working on what it knows while the database is away.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import ValidationError

from libs.common.bus.port import Received
from libs.common.contracts.registry import (
    Device,
    EntityKind,
    Line,
    Load,
    RegistryRecord,
    parse_record,
)
from libs.common.errors import Unavailable
from libs.common.ids import CircuitId, DeviceId, LineId, LoadId
from libs.common.registry import RegistryIndex

logger = logging.getLogger(__name__)

RECORDS_AT_A_TIME = 200
"""Parsed before the event loop gets its turn: some milliseconds."""

ChangeListener = Callable[[EntityKind, str], None]


class RegistryUnread(Unavailable):
    """The registry has not been read to its end since the start, so nobody can be called unknown."""

    code = "starting"
    title_zh = "正在启动"

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the registry is being read", message_zh="正在加载档案数据")


class Topology:
    """The registry in memory, with the ways through it that ingest goes."""

    def __init__(self) -> None:
        self.index = RegistryIndex()
        self._listeners: list[ChangeListener] = []

    def on_change(self, listener: ChangeListener) -> None:
        """Call ``listener`` after an entity has changed."""
        self._listeners.append(listener)

    async def handle(self, batch: Sequence[Received]) -> None:
        """Take records from the topic."""
        for number, received in enumerate(batch, start=1):
            if number % RECORDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            if received.value is None:
                self._forget(received.key)
                continue
            try:
                self.put(parse_record(received.value))
            except (ValidationError, ValueError) as exc:
                logger.error("registry record cannot be read", extra={"key": received.key, "reason": str(exc)[:500]})

    def put(self, record: RegistryRecord) -> None:
        """Take the whole history of one entity; an older one than known is passed over."""
        known = self.index.record(record.kind, record.id)
        if known is not None and known.revision > record.revision:
            return
        self.index.put(record)
        self._tell(record.kind, record.id)

    def revision(self, kind: EntityKind, entity_id: str) -> int:
        """Return the revision of an entity that is known here, 0 for none."""
        record = self.index.record(kind, entity_id)
        return 0 if record is None else record.revision

    def device(self, device_id: str, when: datetime) -> Device | None:
        """Return a device as it is or was, None when there is or was none."""
        return self.index.device(DeviceId(device_id), when)

    def line(self, line_id: str, when: datetime) -> Line | None:
        """Return a line as it is or was."""
        return self.index.line(LineId(line_id), when)

    def load(self, load_id: str, when: datetime) -> Load | None:
        """Return a load as it is or was."""
        return self.index.load(LoadId(load_id), when)

    def lines(self, when: datetime) -> list[Line]:
        """Return the lines that exist."""
        return list(self.index.all_of(Line, when))

    def loads(self, when: datetime) -> list[Load]:
        """Return the loads that exist."""
        return list(self.index.all_of(Load, when))

    def devices_on(self, line_id: str, when: datetime) -> list[Device]:
        """Return the devices on a line that are in use."""
        return [device for device in self.index.referring(Device, "line", line_id, when) if in_use(device, when)]

    def loads_of(self, device_id: str, when: datetime) -> list[Load]:
        """Return the loads that a device switches."""
        return list(self.index.referring(Load, "breaker.device", device_id, when))

    def meter_of(self, load: Load, when: datetime) -> DeviceId | None:
        """Return the device that measures a load's circuit."""
        if load.meter is None:
            return None
        bindings = self.index.bindings_of_circuit(CircuitId(load.meter), when)
        return bindings[0].device if bindings else None

    def _forget(self, entity_id: str | None) -> None:
        kind = None if entity_id is None else self.index.discard(entity_id)
        if kind is not None and entity_id is not None:
            self._tell(kind, entity_id)

    def _tell(self, kind: EntityKind, entity_id: str) -> None:
        for listener in self._listeners:
            listener(kind, entity_id)


def in_use(device: Device, when: datetime) -> bool:
    """Return whether a device is installed and not yet taken out."""
    installed = device.installed_at is None or device.installed_at <= when
    return installed and (device.decommissioned_at is None or when < device.decommissioned_at)
