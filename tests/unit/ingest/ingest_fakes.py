"""Stand-ins for what ingest works with: a bus that can be away, a line with one switch, a store, a registry."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

from libs.common.bus.port import BusUnavailable, Message, MessageRefused, TopicSpec
from libs.common.clock import Clock
from libs.common.contracts.control import Command
from libs.common.contracts.registry import Device, Entity, Line, LineKind, Load, Site, SiteKind, record_of
from libs.common.errors import Unavailable
from libs.common.ids import LineId, SiteId
from libs.common.lease import Lease
from libs.common.outgoing import AddressGuard
from libs.common.profiles import Control
from libs.common.secretstore import SecretStore
from libs.common.testing.clock import FakeClock
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineSink,
    RawReport,
)
from services.ingest.drivers.pushed import PushBoard
from services.ingest.usecases.topology import Topology

LONG_AGO = datetime.fromisoformat("2025-01-01T00:00:00+00:00")
MEANS = Means(
    secrets=SecretStore(Path("no-such-folder")),
    guard=AddressGuard(),
    pushes=PushBoard(FakeClock()),
    latest=AsyncMock(return_value=None),
    folder=Path("no-such-folder"),
)
"""No line has a secret, nothing was pushed, nothing inside may be called."""


class FakeBus:
    """Keeps what is published; away while ``away`` is set; refuses a value that contains ``refuses``."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.steps = 0
        self.away = False
        self.refuses: bytes | None = None

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        if self.away:
            raise BusUnavailable("away")
        for message in messages:
            if self.refuses is not None and self.refuses in (message.value or b"") and "rejected" not in message.topic:
                raise MessageRefused(message, "too large")
        self.published += messages
        self.steps += 1

    async def check(self) -> None:
        if self.away:
            raise BusUnavailable("away")

    async def at_risk(self) -> Sequence[Any]:
        return []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None: ...

    async def partitions(self, topic: str) -> int:
        return 4

    def member(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def tail(self, *_: Any) -> Any:
        raise NotImplementedError

    def topics(self) -> list[str]:
        return [message.topic for message in self.published]


class FakeDevice:
    """A device of raw numbers; silent, refusing or slow on request, and a breaker when it is written to."""

    def __init__(self, clock: Clock, **raw: float) -> None:
        self.clock = clock
        self.raw: dict[str, float] = raw
        self.silent = False
        self.line_down = False
        self.obeys = True
        self.loses_answers = False
        self.garbage: bytes | None = None
        self.reads = 0
        self.writes: list[str] = []

    async def read(self) -> RawReport:
        return await self.read_points(list(self.raw))

    async def read_points(self, names: Collection[str]) -> RawReport:
        self.reads += 1
        self._fail()
        return RawReport({name: self.raw[name] for name in names if name in self.raw}, self.clock.now())

    async def write(self, control: Control, value: float | None) -> str:
        self._fail()
        self.writes.append(control.name)
        if self.obeys:
            self.raw["breaker_state"] = 240 if control.name.endswith("close") else 15
        if self.loses_answers:
            raise DeviceSilent("no answer")
        return "acknowledged"

    def _fail(self) -> None:
        if self.line_down:
            raise LineDown("unreachable")
        if self.silent:
            raise DeviceSilent("no answer")
        if self.garbage is not None:
            raise BadAnswer("garbage", raw=self.garbage)


class FakeDriver:
    """A line of fake devices."""

    protocol = "fake"

    def __init__(self, devices: dict[str, FakeDevice]) -> None:
        self.devices = devices
        self.closed = 0

    def session(self, address: Address) -> FakeDevice:
        return self.devices[address.device_id]

    async def close(self) -> None:
        self.closed += 1


class FakeTellingLine:
    """A line whose devices speak by themselves, played by the test: ``sink`` is where they speak into."""

    protocol = "fake"

    def __init__(self, *devices: str, clock: Clock) -> None:
        self.devices = {device_id: FakeDevice(clock, breaker_state=240) for device_id in devices}
        self.sink: LineSink | None = None
        self.runs: list[dict[str, Address]] = []
        self.refuses: Exception | None = None
        self.lost = asyncio.Event()
        self.closed = 0

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        self.runs.append(dict(devices))
        if self.refuses is not None:
            raise self.refuses
        self.sink = sink
        self.lost.clear()
        sink.up()
        try:
            await self.lost.wait()
        finally:
            self.sink = None
        raise LineDown("connection lost")

    def session(self, address: Address) -> DeviceSession:
        return _WhileConnected(self, self.devices[address.device_id])

    async def close(self) -> None:
        self.closed += 1

    def says(self) -> LineSink:
        assert self.sink is not None, "the line is not connected"
        return self.sink


class _WhileConnected:
    """A device that can be reached while its line is connected."""

    def __init__(self, line: FakeTellingLine, device: FakeDevice) -> None:
        self._line = line
        self._device = device

    async def read(self) -> RawReport:
        return await self._reached().read()

    async def read_points(self, names: Collection[str]) -> RawReport:
        return await self._reached().read_points(names)

    async def write(self, control: Control, value: float | None) -> str:
        return await self._reached().write(control, value)

    def _reached(self) -> FakeDevice:
        if self._line.sink is None:
            raise LineDown("not connected")
        return self._device


class FakeCommandStore:
    """Notes commands in memory; away while ``away`` is set."""

    def __init__(self) -> None:
        self.noted: set[str] = set()
        self.away = False

    async def record(self, commands: Sequence[tuple[Command, int]], *, instance: str, at: datetime) -> set[str]:
        if self.away:
            raise Unavailable("away")
        new = {str(command.command_id) for command, _ in commands} - self.noted
        self.noted |= new
        return new


class FakeHolder:
    """Holds lines under leases that end when told."""

    def __init__(self, clock: Clock, *line_ids: str, valid_s: float = 1e9) -> None:
        self._clock = clock
        self.leases = {
            line_id: Lease(f"line/{line_id}", "me", 7, clock.monotonic() + valid_s, clock) for line_id in line_ids
        }

    def lease(self, line_id: str) -> Lease | None:
        return self.leases.get(line_id)


def site(**changes: Any) -> Site:
    return Site(**{"id": "site-1", "name": "S", "code": "1", "kind": SiteKind.BASE_STATION, **_common(), **changes})


def line(**changes: Any) -> Line:
    return Line(
        **{"id": "line-1", "name": "L", "kind": LineKind.TCP, "endpoint": "127.0.0.1:1", **_common(), **changes}
    )


def device(**changes: Any) -> Device:
    fields = {
        "id": "breaker-1", "name": "B", "kind": "breaker", "profile": "lx47le_125", "site": SiteId("site-1"),
        "line": LineId("line-1"), "address": "1", **_common(), **changes,
    }  # fmt: skip
    return Device(**fields)


def load(**changes: Any) -> Load:
    fields = {
        "id": "load-1", "name": "AAU", "kind": "aau", "site": SiteId("site-1"), "sector": "1",
        "breaker": {"device": "breaker-1"}, **_common(), **changes,
    }  # fmt: skip
    return Load(**fields)


def topology(*entities: Entity) -> Topology:
    found = Topology()
    for entity in entities:
        found.put(record_of([entity]))
    return found


def _common() -> dict[str, Any]:
    return {"valid_from": LONG_AGO, "version": 1, "changed_by": "test"}
