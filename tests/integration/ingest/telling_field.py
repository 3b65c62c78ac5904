"""A telling line over real sockets, with the door, the spool and the switching of ingest behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.device import DeviceEvent
from libs.common.contracts.registry import Device, Line
from libs.common.contracts.telemetry import Reading, Rejected
from libs.common.profiles import DeviceProfile
from services.ingest.domain.acceptance import Limits
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import TellingLine
from services.ingest.settings import PollingSettings, SwitchingSettings
from services.ingest.spool import Spool
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.boards import LastSeen
from services.ingest.usecases.reach import Target
from services.ingest.usecases.status import StatusBoard, StatusRow
from services.ingest.usecases.switching import Switcher
from services.ingest.worker.lines import LineManager
from services.ingest.worker.reach import LineReach
from services.ingest.worker.telling import TellingRunner
from tests.unit.ingest.ingest_fakes import MEANS, FakeBus

WITHIN_S = 40.0
Found = TypeVar("Found")


@dataclass
class Watch:
    """What was found out about lines and clocks."""

    said: list[str] = field(default_factory=list)

    def spool_full(self, detail: str) -> None: ...

    def spool_accepts(self) -> None: ...

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None:
        self.said.append(f"clock of {device_id}")

    def clock_right(self, device_id: str, site_id: str) -> None: ...

    def line_down(self, line_id: str, site_id: str, detail: str) -> None:
        self.said.append("down")

    def line_up(self, line_id: str, site_id: str) -> None:
        self.said.append("up")


class NoStore:
    """Status that nobody keeps."""

    async def load(self, device_ids: Any) -> Mapping[str, StatusRow]:
        return {}

    async def publish(self, rows: Any) -> None: ...


class NoPower:
    """Loads without meters."""

    async def latest(self, device_id: str) -> None:
        return None


class OneLine:
    """Stands in for ``LineManager``: holds the one line, while it is held."""

    def __init__(self, runner: TellingRunner | None) -> None:
        self.held = runner

    def runner(self, line_id: str) -> TellingRunner | None:
        return self.held

    def runner_of(self, device_id: str) -> TellingRunner | None:
        return self.held


@dataclass
class TellingField:
    """One line and what it has brought."""

    line: Line
    runner: TellingRunner
    bus: FakeBus
    watch: Watch
    lines: OneLine
    switcher: Switcher

    def readings(self, topic: str = topics.READINGS) -> list[Reading]:
        """Return the reports on a topic."""
        return [Reading.from_json(m.value or b"") for m in self.bus.published if m.topic == topic]

    def events(self) -> list[DeviceEvent]:
        """Return the events that devices sent."""
        return [DeviceEvent.from_json(m.value or b"") for m in self.bus.published if m.topic == topics.DEVICE_EVENTS]

    def rejected(self) -> list[Rejected]:
        """Return what was not understood."""
        return [Rejected.from_json(m.value or b"") for m in self.bus.published if m.topic == topics.REJECTED]

    def last(self, point: str, device_id: str | None = None) -> float | None:
        """Return the youngest value of a point."""
        for reading in reversed(self.readings()):
            if point in reading.points and device_id in (None, reading.device_id):
                return reading.points[point]
        return None

    def target(self, device: Device, profile: DeviceProfile) -> Target:
        """Return a device as something to switch."""
        return Target(device.id, device.site, self.line, device.address, profile)


@asynccontextmanager
async def telling_field(
    folder: Path, line: Line, devices: Mapping[str, tuple[Device, DeviceProfile]]
) -> AsyncIterator[TellingField]:
    """Hold a line, with its real driver."""
    clock, bus, watch = SystemClock(), FakeBus(), Watch()
    settings = PollingSettings(reconnect_cap_s=1.0)
    driver = open_line(line, clock, settings, MEANS)
    assert isinstance(driver, TellingLine)
    async with Spool(folder, max_bytes=1 << 20, wall=lambda: clock.now().timestamp()) as spool:
        acceptor = Acceptor(bus=bus, spool=spool, clock=clock, limits=Limits(), watch=watch)
        status = StatusBoard(NoStore(), clock, offline_after_missed=3)
        acceptor.on_live(status.heard)
        runner = TellingRunner(
            line=line, driver=driver, acceptor=acceptor, status=status, findings=watch, clock=clock, settings=settings
        )
        runner.update(devices)
        lines = OneLine(runner)
        switcher = Switcher(
            reach=LineReach(lines=cast(LineManager, lines), clock=clock, settings=settings, means=MEANS),
            seen=LastSeen(clock),
            power=NoPower(),
            clock=clock,
            settings=SwitchingSettings(settle_s=0.1, read_back_every_s=0.2, meter_wait_s=0, verify_within_s=20),
        )
        task = asyncio.create_task(runner.run(), name="telling line")
        try:
            yield TellingField(line, runner, bus, watch, lines, switcher)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def eventually(look: Callable[[], Found | None], what: str) -> Found:
    """Return what ``look`` finds, once it finds something true."""
    async with asyncio.timeout(WITHIN_S):
        while not (found := look()):  # noqa: ASYNC110  # peers of others tell nobody
            await asyncio.sleep(0.02)
    assert found, what
    return found
