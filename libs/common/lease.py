"""Leases: who may do something that only one process may do, until when, and how often it changed hands.

A lease is a row with an owner, an end in the database's time and an epoch that rises with every change of
hands. The holder counts by its own monotonic clock from *before* it asked, less a margin, so that it stops
before the database gives the lease away, whatever happened in between: a slow answer, a paused machine, a
wall clock that was set. The epoch fences what a former holder still has in flight: whoever receives an
action compares it with the highest one seen.

An owner that asks again for what it holds gets it at once, under a new epoch: a process that was killed and
started again need not wait for its former self. So two living processes never share an owner's name.

The same primitive serves lines, members of embedded consumer groups and outbox relays.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable

logger = logging.getLogger(__name__)

SAFETY_SHARE = 0.1
"""Part of its life by which a lease ends earlier for its holder than for the database."""
LET_GO_WITHIN_S = 1.0
"""A process that stops waits no longer for the database. [s]"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as its holder sees it; renewing gives a new one."""

    name: str
    owner: str
    epoch: int
    deadline: float
    """Monotonic time at which the holder must have stopped. [s]"""
    _clock: Clock = field(repr=False, compare=False)

    def valid_for_s(self) -> float:
        """Return how long the holder may still act, by the local monotonic clock; never below 0. [s]"""
        return max(self.deadline - self._clock.monotonic(), 0.0)

    @property
    def valid(self) -> bool:
        """Whether the holder may act now."""
        return self.valid_for_s() > 0


class LeaseKeeper:
    """Takes, renews and gives back leases in one service's schema, for one owner.

    Every method raises ``DatabaseUnavailable`` when the database is away; what is held then runs out by itself.
    """

    def __init__(self, db: Database, clock: Clock, owner: str, ttl_s: float) -> None:
        """Prepare a keeper.

        Args:
            db: The pool whose schema has the table ``leases``.
            clock: Whose monotonic time the validity is counted in.
            owner: Name of the holder; no two living processes may share one.
            ttl_s: How long a lease lasts unless it is renewed. [s]
        """
        self._db = db
        self._clock = clock
        self._owner = owner
        self._ttl_s = ttl_s

    async def acquire(self, name: str) -> Lease | None:
        """Return the lease under a new epoch, or None while another owner holds it."""
        found = await self.acquire_many([name], 1)
        return found[0] if found else None

    async def acquire_many(self, names: Sequence[str], limit: int) -> list[Lease]:
        """Take up to ``limit`` of the leases that are free, have run out, or are our own; in the order of ``names``."""
        if not names or limit <= 0:
            return []
        asked_at = self._clock.monotonic()
        async with self._db.write() as conn:
            await conn.execute(
                "insert into leases (name) select unnest($1::text[]) on conflict (name) do nothing", sorted(names)
            )
            # Rows that another process is taking at this moment are passed over, not waited for.
            rows = await conn.fetch(
                """
                with free as (
                    select l.name
                      from leases l join unnest($1::text[]) with ordinality as wanted(name, place) using (name)
                     where l.owner is null or l.owner = $2 or l.until <= clock_timestamp()
                     order by wanted.place
                     limit $3
                       for update of l skip locked
                )
                update leases l
                   set owner = $2, epoch = l.epoch + 1, until = clock_timestamp() + make_interval(secs => $4)
                  from free
                 where l.name = free.name
                returning l.name, l.epoch
                """,
                names,
                self._owner,
                limit,
                self._ttl_s,
            )
        epochs = {row["name"]: row["epoch"] for row in rows}
        return [self._lease(name, epochs[name], asked_at) for name in dict.fromkeys(names) if name in epochs]

    async def take_over(self, names: Sequence[str]) -> list[Lease]:
        """Take leases also from whoever holds them; in the order of ``names``.

        Only for what its holder cannot use any more, and whoever takes can show that: the former holder believes
        in its lease until it next renews.
        """
        if not names:
            return []
        asked_at = self._clock.monotonic()
        async with self._db.write() as conn:
            await conn.execute(
                "insert into leases (name) select unnest($1::text[]) on conflict (name) do nothing", sorted(names)
            )
            rows = await conn.fetch(
                """
                with wanted as (
                    select l.name from leases l where l.name = any($1::text[]) order by l.name for update of l
                )
                update leases l
                   set owner = $2, epoch = l.epoch + 1, until = clock_timestamp() + make_interval(secs => $3)
                  from wanted
                 where l.name = wanted.name
                returning l.name, l.epoch
                """,
                names,
                self._owner,
                self._ttl_s,
            )
        epochs = {row["name"]: row["epoch"] for row in rows}
        return [self._lease(name, epochs[name], asked_at) for name in dict.fromkeys(names)]

    async def renew(self, lease: Lease) -> Lease | None:
        """Return the lease with a new end under the same epoch, or None when it ran out or was taken."""
        found = await self.renew_many([lease])
        return found[0] if found else None

    async def renew_many(self, leases: Iterable[Lease]) -> list[Lease]:
        """Return those of the leases that are still ours, with a new end."""
        held = sorted(leases, key=lambda lease: lease.name)
        if not held:
            return []
        asked_at = self._clock.monotonic()
        async with self._db.statements() as conn:
            rows = await conn.fetch(
                """
                update leases l
                   set until = clock_timestamp() + make_interval(secs => $4)
                  from unnest($1::text[], $2::bigint[]) as held(name, epoch)
                 where l.name = held.name and l.epoch = held.epoch and l.owner = $3 and l.until > clock_timestamp()
                returning l.name, l.epoch
                """,
                [lease.name for lease in held],
                [lease.epoch for lease in held],
                self._owner,
                self._ttl_s,
            )
        return [self._lease(row["name"], row["epoch"], asked_at) for row in rows]

    async def release(self, lease: Lease) -> None:
        """Give the lease back, so that nobody has to wait for its end; nothing happens if it is lost already."""
        await self.release_many([lease])

    async def release_many(self, leases: Iterable[Lease]) -> None:
        """Give the leases back."""
        held = sorted(leases, key=lambda lease: lease.name)
        if not held:
            return
        async with self._db.statements() as conn:
            await conn.execute(
                """
                update leases l
                   set owner = null, until = '-infinity'
                  from unnest($1::text[], $2::bigint[]) as held(name, epoch)
                 where l.name = held.name and l.epoch = held.epoch and l.owner = $3
                """,
                [lease.name for lease in held],
                [lease.epoch for lease in held],
                self._owner,
            )

    async def holders(self, prefix: str) -> dict[str, str]:
        """Return the owner of every lease in force whose name begins with ``prefix``."""
        async with self._db.read() as conn:
            rows = await conn.fetch(
                """
                select name, owner from leases
                 where starts_with(name, $1) and owner is not null and until > clock_timestamp()
                 order by name
                """,
                prefix,
            )
        return {row["name"]: row["owner"] for row in rows}

    def _lease(self, name: str, epoch: int, asked_at: float) -> Lease:
        return Lease(name, self._owner, epoch, asked_at + self._ttl_s * (1 - SAFETY_SHARE), self._clock)


class OneHolder:
    """The lease of a loop that one process runs at a time: taken when it is free, and kept while the loop runs."""

    def __init__(self, *, db: Database, clock: Clock, owner: str, name: str, ttl_s: float) -> None:
        """Prepare, holding nothing; the arguments are those of ``LeaseKeeper``, and the name of the lease."""
        self._keeper = LeaseKeeper(db, clock, owner, ttl_s)
        self._name = name
        self._ttl_s = ttl_s
        self._lease: Lease | None = None

    @property
    def held(self) -> bool:
        """What ``hold`` has answered last."""
        return self._lease is not None

    def valid_for_s(self) -> float:
        """Return how long this process may still act; 0 when another holds the lease. [s]"""
        return 0.0 if self._lease is None else self._lease.valid_for_s()

    async def hold(self) -> bool:
        """Take the lease, or renew it when half of its life has passed; return whether this process holds it.

        Raises:
            DatabaseUnavailable: Nobody can tell.
        """
        if self.valid_for_s() > self._ttl_s / 2:
            return True
        self._lease = None if self._lease is None else await self._keeper.renew(self._lease)
        if self._lease is None:
            self._lease = await self._keeper.acquire(self._name)
        return self._lease is not None

    async def let_go(self) -> None:
        """Give the lease back; where that cannot be done soon it runs out by itself."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with asyncio.timeout(LET_GO_WITHIN_S):
                await self._keeper.release(lease)
        except (Unavailable, TimeoutError):
            logger.debug("lease left to run out", extra={"lease": self._name})
