"""The attestation log on a real database: what is booked by a test is committed by turns that the test makes."""

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.ids import CircuitId, SiteId
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from libs.common.verifier import Verifier
from services.carbon.attester import HeadPublisher
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store import attestation as log
from services.carbon.store import intervals as store
from services.carbon.usecases.attestchecks import CIRCUITS_AT_ONCE, Checks
from services.carbon.usecases.attesting import Attesting, Proofs

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
DAY = START.date()
KEY = Ed25519PrivateKey.generate()


def interval(quarter: int, energy_kwh: float | None, *, circuit: str = "c-1", version: int = 1) -> BookedInterval:
    start = START + timedelta(minutes=15 * quarter)
    grade = Grade.MISSING if energy_kwh is None else Grade.MEASURED
    return BookedInterval(
        CircuitId(circuit), SiteId("site-1"), start, 900, version, energy_kwh, grade, False, False,
        start + timedelta(minutes=15, microseconds=17),
    )  # fmt: skip


def ring(clock: Clock, key: Ed25519PrivateKey = KEY) -> KeyRing:
    return KeyRing({"carbon": key}, {"carbon": key.public_key()}, clock)


def appender(db: Any, clock: Clock, key: Ed25519PrivateKey = KEY) -> Attesting:
    """What commits, as a process that has just started has it."""
    return Attesting(db=db, log=log, publisher=HeadPublisher(), clock=clock, keys=ring(clock, key), head_every_s=3600)


class House:
    """An operator's log and its clock."""

    def __init__(self, db: Database) -> None:
        self.db, self.clock = db, FakeClock(START)
        self.attesting = appender(db, self.clock)
        self.proofs = Proofs(db=db, log=log)
        self.checks = Checks(db=db, rows=log, keys=ring(self.clock))

    async def book(self, *booked: BookedInterval) -> None:
        async with self.db.write() as conn:
            await store.book(conn, booked)

    async def commit(self, *booked: BookedInterval, after: timedelta = timedelta()) -> None:
        self.clock.set_wall(self.clock.now() + after)
        if booked:
            await self.book(*booked)
        while await self.attesting.turn():
            pass

    async def faults(self, tree: Any = DAY) -> list[tuple[str | None, str]]:
        """What the operator's own look finds, part by part."""
        found: list[tuple[str | None, str]] = []
        first = 0
        while True:
            checked = await self.checks.check(tree, first)
            found += [(one.leaf, one.english) for one in checked.faults]
            first = checked.end
            if first >= checked.size:
                return found

    async def strays(self) -> list[tuple[str | None, str]]:
        """What the operator's own look at the books finds."""
        found: list[tuple[str | None, str]] = []
        after = ""
        while True:
            part = await self.checks.check_books(after)
            found += [(one.subject, one.english) for one in part.faults]
            if len(part.circuits) < CIRCUITS_AT_ONCE:
                return found
            after = part.circuits[-1]


def verdict(*documents: object, witness: object = None, files: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the verifier's exit code and its words."""
    verifier = Verifier([KEY.public_key()], files)
    if witness is not None:
        verifier.witness(witness)
    for one in documents:
        verifier.take(one)
    judgement = verifier.conclude()
    return judgement.exit_code, "\n".join(one.english for one in judgement.said)


async def by_hand(url: str, statements: Iterable[str]) -> None:
    """Do to carbon's tables what only the owner of the database can: with the triggers off."""
    conn = await asyncpg.connect(url, server_settings={"search_path": "carbon"})
    try:
        await conn.execute("set session_replication_role = replica")
        for statement in statements:
            assert await conn.execute(statement) not in ("UPDATE 0", "DELETE 0"), statement
    finally:
        await conn.close()


def flipped(text: str) -> str:
    """Return a signature with one bit changed."""
    raw = bytearray(base64.b64decode(text))
    raw[0] ^= 1
    return base64.b64encode(raw).decode()
