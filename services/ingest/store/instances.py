"""Which ingest processes live, so that lines are shared out evenly."""

import time
from collections.abc import Callable

from libs.common.db import Database


class PgInstances:
    """The table ``instances``."""

    def __init__(self, db: Database, *, alive_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare; an instance that was not seen for ``alive_s`` does not count. [s]"""
        self._db = db
        self._alive_s = alive_s
        self._monotonic = monotonic
        self._alone_since = float("inf")

    def alone_since(self) -> float:
        """Return from which moment of the monotonic clock on no other instance has lived; infinite where one does. [s]

        Looked at whenever this one says that it lives: more often than an instance that dies is forgotten.
        """
        return self._alone_since

    async def seen(self, instance: str) -> int:
        """Note that we live, and return how many instances do."""
        async with self._db.write() as conn:
            await conn.execute(
                """
                insert into instances (instance, seen_at) values ($1, clock_timestamp())
                on conflict (instance) do update set seen_at = excluded.seen_at
                """,
                instance,
            )
            alive: int = await conn.fetchval(
                "select count(*) from instances where seen_at > clock_timestamp() - make_interval(secs => $1)",
                self._alive_s,
            )
        self._alone_since = min(self._alone_since, self._monotonic()) if alive == 1 else float("inf")
        return alive

    async def gone(self, instance: str) -> None:
        """Note that we stop."""
        async with self._db.write() as conn:
            await conn.execute("delete from instances where instance = $1", instance)
