"""Terminals that nobody knows are put on record, once it can be known that nobody knows them."""

import asyncio
from typing import Any

from libs.common.contracts.registry import LineKind, record_of
from libs.common.testing.clock import FakeClock
from services.ingest.domain.report import Rejection
from services.ingest.settings import DtuSettings
from services.ingest.worker.terminals import SWEEP_S, Terminals
from tests.unit.ingest.ingest_fakes import line, topology


class Record:
    """Keeps what is put on record."""

    def __init__(self) -> None:
        self.rejections: list[Rejection] = []

    async def reject(self, rejections: list[Rejection]) -> None:
        self.rejections += rejections


async def test_nobody_is_called_unknown_before_every_line_of_the_registry_is_learnt() -> None:
    complete = False
    clock, lines, record = FakeClock(), topology(), Record()
    acceptor: Any = record
    terminals = Terminals(
        topology=lines,
        acceptor=acceptor,
        clock=clock,
        settings=DtuSettings(port=0, host="127.0.0.1"),
        complete=lambda: complete,
    )

    def dials() -> list[bytes]:
        terminals.refused("10.0.0.1:5000", b"DTU-0001", "no line registers with this")
        return [one.raw for one in terminals._to_record if one.raw]

    runs = asyncio.create_task(terminals.run(lambda: None))
    try:
        await clock.advance(SWEEP_S)
        assert not dials(), "the registry is being read"
        lines.put(record_of([line(kind=LineKind.DTU, endpoint="DTU-0002")]))
        complete = True
        assert not dials(), "it has been read, but not all of it is learnt"
        await clock.advance(SWEEP_S)
        assert dials() == [b"DTU-0001"]
    finally:
        runs.cancel()
        await asyncio.gather(runs, return_exceptions=True)
