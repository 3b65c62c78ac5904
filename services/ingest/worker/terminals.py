"""The port that data terminals dial in to, and what is done with those that nobody knows.

It listens as soon as any line of terminals is known, which after a restart is at once, from this machine's disk: loads
behind terminals must be woken while database and broker are away too.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable

from libs.common.clock import Clock
from libs.common.contracts.registry import EntityKind, LineKind
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from services.ingest.domain.report import Rejection
from services.ingest.drivers.dtu import CannotListen, DtuHub
from services.ingest.drivers.factory import registration_of
from services.ingest.settings import DtuSettings
from services.ingest.spool import SpoolFull
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)

SWEEP_S = 1.0
LISTEN_AGAIN_S = 5.0
"""After the port could not be had. [s]"""
RECORD_AGAIN_S = 600.0
"""One and the same stranger, who dials every few seconds, is put on record this often. [s]"""
MAX_STRANGERS = 1_000
"""Strangers that are told apart."""
RECORDS_AT_A_TIME = 10
"""Refusals put on record in a second; whoever floods the port does not flood the bus, nor the log."""
MAX_WAITING = 100
"""Refusals that wait for their record; further ones are counted only."""
DRIVER = "dtu"


class Terminals:
    """The terminals' port of this process; implements ``HubWatch``."""

    def __init__(
        self,
        *,
        topology: Topology,
        acceptor: Acceptor,
        clock: Clock,
        settings: DtuSettings,
        complete: Callable[[], bool],
    ) -> None:
        """Prepare; ``run`` listens.

        Args:
            topology: Where the lines come from.
            acceptor: Where refused packets are put on record.
            clock: Ours.
            settings: Of the port.
            complete: Whether the registry has been read to its end.
        """
        self.hub = DtuHub(clock=clock, settings=settings, watch=self)
        self._topology = topology
        self._acceptor = acceptor
        self._clock = clock
        self._complete = complete
        self._on_connected: list[Callable[[str], None]] = []
        self._changed: dict[str, None] = {}
        self._all_learnt = False
        self._disputed: dict[str, str] = {}
        self._strangers: OrderedDict[bytes, float] = OrderedDict()
        self._to_record: deque[Rejection] = deque()
        topology.on_change(self._note)

    def on_connected(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with a line's id whenever its terminal has dialled in."""
        self._on_connected.append(listener)

    async def run(self, beat: Callable[[], None]) -> None:
        """Listen and sweep, for ever; disconnect all when cancelled."""
        self._changed.update((line.id, None) for line in self._topology.lines(self._clock.now()))
        try:
            while True:
                beat()
                complete = self._complete()
                self._learn()
                self._all_learnt = complete
                if self.hub.port is None and (self.hub.knows_lines or complete):
                    await self._listen()
                self.hub.sweep()
                await self._clock.sleep(SWEEP_S)
        finally:
            await self.hub.close()

    async def record(self, beat: Callable[[], None]) -> None:
        """Put refusals on record, for ever."""
        while True:
            beat()
            waiting = [self._to_record.popleft() for _ in range(min(len(self._to_record), RECORDS_AT_A_TIME))]
            if waiting:
                try:
                    await self._acceptor.reject(waiting)
                except SpoolFull:
                    logger.warning("refused terminals are not on record, the spool is full")
            await self._clock.sleep(SWEEP_S)

    def connected(self, line_id: str) -> None:
        """The terminal of a line has dialled in."""
        for listener in self._on_connected:
            listener(line_id)

    def refused(self, place: str, packet: bytes, reason: str) -> None:
        """A connection was refused; remember it for the record, unless it was there a moment ago."""
        if not packet or not self._all_learnt or self._changed:
            # Until every line of the registry is learnt nobody can be called unknown: whoever is known dials again.
            logger.debug("connection at the terminals' port refused", extra={"peer": place, "reason": reason})
            return
        now = self._clock.monotonic()
        known = now - self._strangers.get(packet, float("-inf")) < RECORD_AGAIN_S
        if known or len(self._to_record) >= MAX_WAITING:
            return
        self._strangers[packet] = now
        self._strangers.move_to_end(packet)
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers.popitem(last=False)
        logger.warning("unknown terminal refused", extra={"peer": place, "reason": reason, "packet": packet.hex()})
        self._to_record.append(
            Rejection(
                reason=RejectReason.UNKNOWN_DEVICE,
                source=place,
                received_at=self._clock.now(),
                raw=packet,
                detail=f"a terminal that dialled in: {reason}",
                detail_zh="DTU 注册包未登记",
                driver=DRIVER,
            )
        )

    async def _listen(self) -> None:
        try:
            await self.hub.listen()
        except CannotListen as exc:
            logger.error("terminals cannot dial in", extra={"reason": exc.message})
            await self._clock.sleep(LISTEN_AGAIN_S)

    def _note(self, kind: EntityKind, entity_id: str) -> None:
        if kind is EntityKind.LINE:
            self._changed[entity_id] = None

    def _learn(self) -> None:
        """Learn the lines that have changed."""
        changed, self._changed = self._changed, {}
        if not changed:
            return
        now = self._clock.now()
        # A packet that another line has given up may be had now.
        for line_id in dict.fromkeys((*changed, *self._disputed)):
            line = self._topology.line(line_id, now)
            try:
                found = None if line is None or line.kind is not LineKind.DTU else registration_of(line)
            except InvalidInput as exc:
                logger.error("line of a terminal cannot be used", extra={"line_id": line_id, "reason": exc.message})
                found = None
            other = self.hub.learn(line_id, found)
            if other is None:
                self._disputed.pop(line_id, None)
            elif self._disputed.get(line_id) != other:
                self._disputed[line_id] = other
                logger.error(
                    "two lines have the same registration packet; the first keeps it",
                    extra={"line_id": line_id, "first": other},
                )
