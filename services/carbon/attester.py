"""The loop that commits what was booked, and how signed heads are told."""

import logging
from collections.abc import Callable, Sequence

from libs.common import metrics
from libs.common.bus import envelope, outbox, topics
from libs.common.bus.port import Message
from libs.common.clock import Clock
from libs.common.contracts.carbon import AttestationHead
from libs.common.db import WriteConn
from libs.common.errors import Unavailable
from libs.common.tokens import MissingKey
from services.carbon.domain.attestation import TreeHead
from services.carbon.domain.factors import EmissionFactor
from services.carbon.usecases.attesting import Attesting, LogDamaged

logger = logging.getLogger(__name__)

LOG = "carbon"
"""Name of the attestation log; one key, so that its heads keep their order."""
STOPPED = metrics.gauge(
    "carbon_attestation_stopped", "1 while nothing is attested: the log is not what was signed, or the key is missing"
)
REST = 3.0
"""A log that is behind rests this many times as long as it worked, so that booking has most of the processor."""


class HeadPublisher:
    """Tells signed heads by the outbox: one that was not stored is not told."""

    async def head(self, conn: WriteConn, head: TreeHead) -> None:
        """Tell the world where the log stands."""
        await outbox.put(conn, [head_message(head)])


def head_message(head: TreeHead) -> Message:
    """Return the message that tells where the attestation log stands, for whoever carries it to a witness."""
    kind = "final" if head.final else "running"
    # With its root, so that a head of a forked log is another event to whoever drops what he knows.
    name = f"head-{head.tree.isoformat()}-{head.size}-{kind}-{head.root.hex()[:16]}"
    return envelope.message(
        topics.ATTESTATIONS,
        LOG,
        AttestationHead.model_validate(head.as_json()),
        source="carbon",
        time=head.at,
        event_id=name,
    )


class AttestingLoop:
    """Commits what was booked, a moment after; several replicas take turns at the end of the log."""

    def __init__(self, *, attesting: Attesting, factors: Sequence[EmissionFactor], clock: Clock, poll_s: float) -> None:
        self._attesting = attesting
        self._factors = factors
        self._clock = clock
        self._poll_s = poll_s
        self._noted = False
        self._stopped = False

    async def run(self, beat: Callable[[], None]) -> None:
        """Commit what waits; never returns."""
        while True:
            beat()
            await self._clock.sleep(await self._turn())

    async def _turn(self) -> float:
        """Commit what waits, up to the most of one turn; return how long to wait for the next one. [s]"""
        began = self._clock.monotonic()
        more = False
        try:
            if not self._noted:
                await self._attesting.note_factors(self._factors)
                self._noted = True
            more = await self._attesting.turn()
            self._stopped = False
        except (LogDamaged, MissingKey) as exc:
            if not self._stopped:  # once: it stays so until a person has looked, and booking goes on meanwhile
                logger.error("attestation stands still", extra={"reason": exc.message})
            self._stopped = True
        except Unavailable as exc:
            logger.warning("attestation waits", extra={"reason": exc.message})
        STOPPED.set(self._stopped)
        worked_s = self._clock.monotonic() - began
        return min(REST * worked_s, self._poll_s) if more else self._poll_s
