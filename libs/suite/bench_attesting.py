"""The attestation log under load: what booking costs with it and without, how fast it appends, proves and is checked.

python -m libs.suite.bench attesting
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.db import Database
from libs.common.ids import CircuitId, SiteId
from libs.common.migrations import migrate
from libs.common.settings import DatabaseSettings
from libs.common.tokens import KeyRing
from libs.common.verifier import Verifier
from libs.suite.postgres import EmbeddedPostgres
from services.carbon.attester import AttestingLoop, HeadPublisher
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store import attestation as log
from services.carbon.store import intervals as store
from services.carbon.usecases.attestchecks import Checks
from services.carbon.usecases.attesting import Attesting, Proofs

CIRCUITS = 2000
ROUNDS = 25
"""Quarter hours that all circuits book."""
BACKLOG = CIRCUITS * ROUNDS
AT_ONCE = 10
"""Intervals in a transaction, as when late data change some quarter hours of a circuit."""
TRANSACTIONS = 400
PROOFS = 200
START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    append_s: float
    """For 10,000 intervals, with nothing beside it."""
    append_cpu_s: float
    """Of this process, for the same."""
    booked_ms: float
    """A transaction of ``AT_ONCE`` intervals, while the log has nothing to do."""
    booked_beside_ms: float
    """The same while carbon's loop works off a backlog in the same process."""
    proof_ms: float
    """Made, and judged by the verifier."""
    check_s: float
    """10,000 leaves held against the books."""
    leaf_bytes: float
    """In the database, with indexes and tiles, besides the interval itself."""


async def measure() -> Figures:
    """Book, append, prove and check on a database of its own."""
    async with _database() as db:
        clock, key = SystemClock(), Ed25519PrivateKey.generate()
        keys = KeyRing({"carbon": key}, {"carbon": key.public_key()}, clock)
        attesting = Attesting(db=db, log=log, publisher=HeadPublisher(), clock=clock, keys=keys, head_every_s=1e-6)
        loop = AttestingLoop(attesting=attesting, factors=[], clock=clock, poll_s=1.0)
        await _backlog(db, 0)
        append_s, append_cpu_s = await _append(attesting)
        leaf_bytes = await _size(db) / BACKLOG
        booked_ms = await _booking(db, 2 * ROUNDS)
        await _append(attesting)
        await _backlog(db, ROUNDS)
        appending = asyncio.create_task(loop.run(lambda: None))
        booked_beside_ms = await _booking(db, 3 * ROUNDS)
        appending.cancel()
        await asyncio.wait([appending])
        await _append(attesting)
        return Figures(
            append_s=append_s * 10_000 / BACKLOG,
            append_cpu_s=append_cpu_s * 10_000 / BACKLOG,
            booked_ms=booked_ms,
            booked_beside_ms=booked_beside_ms,
            proof_ms=await _prove(Proofs(db=db, log=log), key),
            check_s=await _check(Checks(db=db, rows=log, keys=keys), clock),
            leaf_bytes=leaf_bytes,
        )


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place, EmbeddedPostgres(Path(place)) as server:
        await migrate(server.url, phase="post")
        db = Database(DatabaseSettings(url=server.url), schema="carbon", role="wattring_carbon")
        await db.open()
        try:
            yield db
        finally:
            await db.close()


async def _backlog(db: Database, first: int) -> None:
    for quarter in range(first, first + ROUNDS):
        async with db.write() as conn:
            await store.book(conn, [_interval(circuit, quarter) for circuit in range(CIRCUITS)])


async def _append(attesting: Attesting) -> tuple[float, float]:
    """Commit all that waits; return how long it took, and the processor's time of it. [s]"""
    began, cpu = time.perf_counter(), time.process_time()
    while await attesting.turn():
        pass
    return time.perf_counter() - began, time.process_time() - cpu


async def _booking(db: Database, quarter: int) -> float:
    """Return how long a transaction of ``AT_ONCE`` intervals takes. [ms]"""
    took_s = 0.0
    for number in range(TRANSACTIONS):
        intervals = [_interval(number, quarter + one) for one in range(AT_ONCE)]
        began = time.perf_counter()
        async with db.write() as conn:
            await store.book(conn, intervals)
        took_s += time.perf_counter() - began
        await asyncio.sleep(0)
    return took_s * 1000 / TRANSACTIONS


async def _prove(proofs: Proofs, key: Ed25519PrivateKey) -> float:
    began = time.perf_counter()
    for number in range(PROOFS):
        document = await proofs.inclusion(f"circuit:circuit-{number:05}", START, 1)
        verifier = Verifier([key.public_key()])
        verifier.take(document)
        if verifier.conclude().exit_code != 0:
            raise RuntimeError("a proof does not hold")
    return (time.perf_counter() - began) * 1000 / PROOFS


async def _check(checks: Checks, clock: SystemClock) -> float:
    tree = clock.now().astimezone(CIVIL_ZONE).date()
    began, first = time.perf_counter(), 0
    while first < 10_000:
        part = await checks.check(tree, first)
        if part.faults or part.end == first:
            raise RuntimeError(f"the log does not hold, or the day has ended meanwhile: {part.faults}")
        first = part.end
    return (time.perf_counter() - began) * 10_000 / first


async def _size(db: Database) -> float:
    async with db.read() as conn:
        return float(
            await conn.fetchval(
                "select sum(pg_total_relation_size(one)) from unnest("
                "array['attest_leaves', 'attest_tiles', 'attest_ends']::regclass[]) as one"
            )
        )


def _interval(circuit: int, quarter: int) -> BookedInterval:
    start = START + timedelta(minutes=15 * quarter)
    return BookedInterval(
        CircuitId(f"circuit-{circuit:05}"), SiteId(f"site-{circuit % 100}"), start, 900, 1, 0.25 + circuit * 0.001,
        Grade.MEASURED, False, False, start + timedelta(minutes=15, microseconds=17),
    )  # fmt: skip
