"""A centre as those see it who talk to it: its connection, calls, sessions written with the findings they change."""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from libs.common import metrics
from libs.common.backoff import Backoff
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.base import Phase as FindingPhase
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from services.export import bus
from services.export.dialects import Dialect
from services.export.dialects.messages import Operation, Outcome, UnitRequest
from services.export.domain import session
from services.export.domain.connection import Connection, Unit
from services.export.soap_client import Answered, CallOutcome, CentreClient
from services.export.store import sessions as session_store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_calls = metrics.counter("export_sc_calls_total", "Calls to centres", ("destination", "operation", "outcome"))


class CentreLink:
    """One centre, and what is written of its units."""

    def __init__(
        self,
        connection: Connection,
        *,
        db: Database,
        clock: Clock,
        dialect: Dialect,
        committed: Callable[[], None],
        phase_changed: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            connection: The centre's.
            db: The service's database.
            clock: For times.
            dialect: What the centre speaks.
            committed: To be called after a commit that may have filled the outbox.
            phase_changed: Called when a unit has changed its phase: a LOGIN may follow.
        """
        self.connection = connection
        """May be replaced by one that differs neither in dialect nor in what the client was made with."""
        self.db = db
        self.clock = clock
        self.dialect = dialect
        self.committed = committed
        self.rng = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._phase_changed = phase_changed
        self._client = CentreClient(dialect, timeout_s=connection.options.timeout_s)

    async def close(self) -> None:
        """Close the connections to the centre."""
        await self._client.close()

    @property
    def login_interval_s(self) -> float:
        """Least time between two LOGINs of a unit. [s]"""
        own = self.connection.options.login_interval_s
        return self.dialect.login_interval_s if own is None else own

    async def save(self, conn: WriteConn, unit: Unit, *, before: Unit) -> None:
        """Write a session; see ``save_all``."""
        await self.save_all(conn, [(unit, before)])

    async def save_all(
        self, conn: WriteConn, changes: Sequence[tuple[Unit, Unit]], *, released_by: str | None = None
    ) -> None:
        """Write sessions, each with what it was before, and tell the platform which findings have changed.

        With ``released_by`` the claim on their queues is given up, if it is still that owner's.
        """
        saved, news = [], []
        for after, before in changes:
            found = session.finding_of(after, self.connection.options)
            unit = replace(after, finding=None if found is None else found.value)
            saved.append(unit)
            if unit.phase is not before.phase:
                self._phase_changed()
                logger.info(
                    "unit changed its phase",
                    extra={"unit": unit.ref.unit_id, "phase": unit.phase.value, "reason": unit.error},
                )
            if unit.finding == before.finding:
                continue
            kinds = []
            if before.finding is not None:
                kinds.append((ConditionKind(before.finding), FindingPhase.END))
            if found is not None:
                kinds.append((found, FindingPhase.BEGIN))
            news += [
                bus.finding(
                    unit,
                    kind,
                    phase,
                    detail=unit.error or "the centre has let the unit in",
                    detail_zh=unit.error or "监控中心已接受注册",
                    at=self.clock.now(),
                )
                for kind, phase in kinds
            ]
        await session_store.save_sessions(conn, saved, released_by=released_by)
        if news:
            await outbox.put(conn, news)

    async def persistently(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write an outcome, again and again while the database is away: the call itself must not be made twice."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            try:
                return await write()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("outcome of a call waits for the database", extra={"reason": exc.message})
                await self.clock.sleep(backoff.next_s())

    async def call(self, url: str, request: UnitRequest, operation: Operation) -> CallOutcome:
        """Say something to the centre; see ``CentreClient.call``."""
        outcome = await self._client.call(url, request, operation)
        kind = type(outcome).__name__
        _calls.labels(self.connection.id, operation.value, kind).inc()
        return outcome


def reason_of(outcome: CallOutcome) -> str:
    """Return why an outcome is no yes, in words."""
    if not isinstance(outcome, Answered):
        return outcome.reason
    if isinstance(outcome.reply, Outcome) and not outcome.reply.ok:
        return f"the centre answered no {outcome.reply.reason}".rstrip()
    return "unexpected reply"


def wants_a_login(outcome: CallOutcome) -> bool:
    """Return whether the centre has answered that it does not know the unit (any more)."""
    return isinstance(outcome, Answered) and isinstance(outcome.reply, Outcome) and outcome.reply.log_in_again
