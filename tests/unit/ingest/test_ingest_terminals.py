"""Terminals that nobody knows are put on record, once it can be known that nobody knows them."""

from typing import Any

from libs.common.testing.clock import FakeClock
from services.ingest.domain.report import Rejection
from services.ingest.settings import DtuSettings
from services.ingest.worker.terminals import Terminals
from tests.unit.ingest.ingest_fakes import topology


class Record:
    """Keeps what is put on record."""

    def __init__(self) -> None:
        self.rejections: list[Rejection] = []

    async def reject(self, rejections: list[Rejection]) -> None:
        self.rejections += rejections


async def test_nobody_is_called_unknown_while_the_registry_is_being_read() -> None:
    complete = False
    record: Any = Record()
    terminals = Terminals(
        topology=topology(), acceptor=record, clock=FakeClock(), settings=DtuSettings(), complete=lambda: complete
    )
    terminals.refused("10.0.0.1:5000", b"DTU-0001", "no line registers with this")
    assert not terminals._to_record
    complete = True
    terminals.refused("10.0.0.1:5000", b"DTU-0001", "no line registers with this")
    assert [one.raw for one in terminals._to_record] == [b"DTU-0001"]
