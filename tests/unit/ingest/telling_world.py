"""A driver of a line whose devices speak by themselves, run as the runner does it, into a sink that the test plays."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from libs.common.contracts.telemetry import RejectReason
from libs.common.profiles import DeviceProfile
from services.ingest.drivers.port import Address, DeviceEvent, LineSink, RawReport, TellingLine
from services.ingest.spool import SpoolFull


@dataclass
class FakeSink:
    """Keeps what it is told; refuses while ``full`` is set, and waits while ``gate`` is closed."""

    told: list[tuple[str, RawReport]] = field(default_factory=list)
    events: list[tuple[str, DeviceEvent]] = field(default_factory=list)
    rejected: list[tuple[RejectReason, bytes, str, str | None]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    ups: int = 0
    full: bool = False
    takes_s: float = 0.0
    """How long an acceptance takes, as one by the bus does. [s]"""
    refusals: int = 0
    offered: int = 0
    """How often something was handed over, accepted or not."""

    def __post_init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()

    async def report(self, device_id: str, report: RawReport) -> None:
        await self.reports([(device_id, report)])

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        await self._pass()
        self.told += told
        self.batches.append(len(told))

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        await self._pass()
        self.events.append((device_id, event))

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        await self._pass()
        self.rejected.append((reason, raw, detail, device_id))

    def up(self) -> None:
        self.ups += 1
        self.changed.set()

    def failed(self, device_id: str, reason: str) -> None:
        self.failures.append((device_id, reason))
        self.changed.set()

    async def _pass(self) -> None:
        self.offered += 1
        self.changed.set()
        await self.gate.wait()
        await asyncio.sleep(self.takes_s)
        if self.full:
            self.refusals += 1
            self.changed.set()
            raise SpoolFull("full")

    async def until(self, condition: Callable[[], object], what: str, within_s: float = 20.0) -> None:
        """Wait until a condition on what was told holds."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self.changed.clear()
                    # The condition may hang on something else than this sink, so look anyway now and then.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await self.changed.wait()
        except TimeoutError:
            pytest.fail(f"not within {within_s:g} s: {what}; told {len(self.told)}, rejected {self.rejected[:3]}")


def addresses(profile: DeviceProfile, **devices: str) -> dict[str, Address]:
    """Return the devices of a line: id and address."""
    return {device_id: Address(device_id, text, profile) for device_id, text in devices.items()}


@asynccontextmanager
async def told_by(
    driver: TellingLine, devices: Mapping[str, Address], sink: FakeSink
) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a driver until the block ends; it is up when the block begins."""
    taker: LineSink = sink
    ups = sink.ups
    task = asyncio.create_task(driver.run(devices, taker), name="telling line")
    try:
        await sink.until(lambda: task.done() or sink.ups > ups, "line up")
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await driver.close()
