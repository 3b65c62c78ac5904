"""Lines whose leases are not renewed: taken again when they have only run out, let go when another process has them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from libs.common.contracts.registry import record_of
from libs.common.lease import Lease, LeaseKeeper
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.ingest.settings import PollingSettings
from services.ingest.usecases.topology import Topology
from services.ingest.worker.lines import LineManager
from tests.unit.ingest.ingest_fakes import MEANS, device, line, site

LEASE_S = 9.0


class Table:
    """The leases of a database: renewed while they last, and taken when nobody else has them."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.epoch = 0
        self.ran_out = False
        self.others = False
        """Whether another process has taken what ran out."""

    def _lease(self, name: str) -> Lease:
        return Lease(name, "test", self.epoch, self.clock.monotonic() + LEASE_S, self.clock)

    async def acquire_many(self, names: Sequence[str], limit: int) -> list[Lease]:
        if self.others or not names:
            return []
        self.epoch += 1
        self.ran_out = False
        return [self._lease(name) for name in names]

    async def renew_many(self, leases: Iterable[Lease]) -> list[Lease]:
        return [] if self.ran_out else [self._lease(lease.name) for lease in leases]

    async def take_over(self, names: Sequence[str]) -> list[Lease]:
        return []

    async def release_many(self, leases: Iterable[Lease]) -> None: ...


class Alone:
    """The only process."""

    async def seen(self, instance: str) -> int:
        return 1

    async def gone(self, instance: str) -> None: ...


class Runner:
    """Serves a line until it is stopped."""

    def __init__(self, line: Any) -> None:
        self.line = line
        self.device_ids: set[str] = set()
        self.begun = 0

    def update(self, devices: Any) -> None: ...

    async def run(self) -> None:
        self.begun += 1
        await asyncio.Event().wait()


class Setting:
    """A process that holds a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.table = Table(self.clock)
        self.runners: list[Runner] = []
        known = Topology()
        self.lines = LineManager(
            topology=known, catalogue=ProfileCatalogue.load(), keeper=cast(LeaseKeeper, self.table), instances=Alone(),
            acceptor=cast(Any, None), status=cast(Any, None), findings=cast(Any, None), clock=self.clock,
            settings=PollingSettings(lease_s=LEASE_S), means=MEANS, instance="test", complete=lambda: True,
        )  # fmt: skip
        self.taken: list[str] = []
        self.lines.on_taken(self.taken.append)
        monkeypatch.setattr(self.lines, "_runner", self._runner)
        for entity in (site(), line(), device()):
            known.put(record_of([entity]))

    def _runner(self, line: Any) -> Runner:
        self.runners.append(Runner(line))
        return self.runners[-1]


@asynccontextmanager
async def holding(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setting]:
    setting = Setting(monkeypatch)
    running = asyncio.create_task(setting.lines.run(lambda: None), name="lines")
    try:
        await setting.clock.advance(2.0)
        assert setting.lines.held() == {"line-1"}
        yield setting
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_line_whose_lease_has_only_run_out_goes_on_under_another_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(monkeypatch) as setting:
        before = setting.lines.lease("line-1")
        setting.table.ran_out = True
        await setting.clock.advance(LEASE_S)
        after = setting.lines.lease("line-1")
        assert before is not None
        assert after is not None
        assert (before.epoch, after.epoch) == (1, 2)
        assert [runner.begun for runner in setting.runners] == [1]
        assert setting.taken == ["line-1"]


async def test_a_line_that_another_process_has_taken_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(monkeypatch) as setting:
        setting.table.ran_out = setting.table.others = True
        await setting.clock.advance(LEASE_S)
        assert setting.lines.held() == frozenset()
        assert setting.lines.lease("line-1") is None
        setting.table.others = False
        await setting.clock.advance(LEASE_S)
        assert setting.lines.held() == {"line-1"}
        assert [runner.begun for runner in setting.runners] == [1, 1]
        assert setting.taken == ["line-1", "line-1"]
