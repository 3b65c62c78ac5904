"""Until the registry has been read nobody is called unknown: found by the soak, with ingest killed and the bus away."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest

from libs.common.contracts.registry import LineKind, record_of
from libs.common.ids import LineId
from libs.common.lease import Lease, LeaseKeeper
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.ingest.settings import PollingSettings
from services.ingest.usecases.addresses import LoadNames
from services.ingest.usecases.submissions import Submissions
from services.ingest.usecases.topology import RegistryUnread, Topology
from services.ingest.worker.aep import AepPushes, UnknownPath
from services.ingest.worker.lines import LineManager
from tests.unit.ingest.ingest_fakes import MEANS, device, line, site

UNNEEDED = cast(Any, None)


class Read:
    """Whether the registry has been read to its end."""

    def __init__(self) -> None:
        self.is_complete = False

    def __call__(self) -> bool:
        return self.is_complete


class NoLeases:
    """Gives no lease and notes who was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def acquire_many(self, names: Sequence[str], limit: int) -> list[Lease]:
        self.asked.update(names)
        return []

    async def renew_many(self, leases: Iterable[Lease]) -> list[Lease]:
        return []

    async def take_over(self, names: Sequence[str]) -> list[Lease]:
        return []

    async def release_many(self, leases: Iterable[Lease]) -> None:
        pass


class Alone:
    """The only process."""

    async def seen(self, instance: str) -> int:
        return 1

    async def gone(self, instance: str) -> None:
        pass


def test_push_to_a_line_that_may_be_there_is_to_be_sent_again() -> None:
    read = Read()
    pushes = AepPushes(
        topology=Topology(), addresses=UNNEEDED, catalogue=UNNEEDED, acceptor=UNNEEDED, submissions=UNNEEDED,
        status=UNNEEDED, pushes=UNNEEDED, secrets=UNNEEDED, clock=FakeClock(), complete=read,
    )  # fmt: skip
    with pytest.raises(RegistryUnread):
        pushes.line_of("product-1", "token", "127.0.0.1")
    read.is_complete = True
    with pytest.raises(UnknownPath):
        pushes.line_of("product-1", "token", "127.0.0.1")


async def test_traffic_of_a_load_that_may_be_there_is_to_be_sent_again() -> None:
    known = Topology()
    submissions = Submissions(
        acceptor=UNNEEDED, topology=known, loads=LoadNames(known), catalogue=UNNEEDED, db=UNNEEDED, clock=FakeClock(),
        park_s=60, complete=Read(),
    )  # fmt: skip
    report = b'{"load_id": "load-1", "source_time": "2026-06-01T08:00:00+08:00", "points": {"traffic_load": 12.5}}'
    with pytest.raises(RegistryUnread):
        await submissions.submit([report], source="test")


async def test_broker_is_not_listened_to_before_all_its_devices_are_known() -> None:
    """A message of a device that is not read yet would be refused and acknowledged; a meter just answers."""
    read, keeper, clock, known = Read(), NoLeases(), FakeClock(), Topology()
    lines = LineManager(
        topology=known, catalogue=ProfileCatalogue.load(), keeper=cast(LeaseKeeper, keeper), instances=Alone(),
        acceptor=UNNEEDED, status=UNNEEDED, findings=UNNEEDED, clock=clock, settings=PollingSettings(), means=MEANS,
        instance="test", complete=read,
    )  # fmt: skip
    for entity in (
        site(), line(), device(), line(id="broker", kind=LineKind.MQTT),
        device(id="meter-1", line=LineId("broker"), profile="example_mqtt_meter", address="SN1"),
    ):  # fmt: skip
        known.put(record_of([entity]))
    running = asyncio.create_task(lines.run(lambda: None), name="lines")
    try:
        await clock.advance(10.0)
        assert keeper.asked == {"line/line-1"}
        read.is_complete = True
        await clock.advance(10.0)
        assert keeper.asked == {"line/line-1", "line/broker"}
    finally:
        running.cancel()
        await asyncio.wait([running])
