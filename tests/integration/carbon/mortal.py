"""A database whose user is killed at any statement, and what of it must be as it was."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from libs.common.db import Database
from libs.common.errors import Unavailable


class Killed(Exception):
    """The process ends here."""


class Mortal:
    """A database whose user is killed at the n-th statement: before the server has seen it, or before its answer."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.left: int | None = None
        self.answered = False

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        async with self._db.write() as conn:
            yield Dying(conn, self)

    async def pass_on(self, conn: Any, call: Any, arguments: Sequence[Any]) -> Any:
        """Run a statement, unless the process dies at it."""
        dies = self.left == 0
        if self.left is not None:
            self.left -= 1
        if not dies or self.answered:
            answer = await call(*arguments)
        if dies:
            conn.terminate()  # what the server sees of a process that was killed: the socket is gone
            raise Killed
        return answer


class Dying:
    """A connection of it."""

    def __init__(self, conn: Any, mortal: Mortal) -> None:
        self._conn, self._mortal = conn, mortal

    def transaction(self) -> Any:
        return self._conn.transaction()

    async def execute(self, *arguments: Any) -> Any:
        return await self._mortal.pass_on(self._conn, self._conn.execute, arguments)

    async def executemany(self, *arguments: Any) -> Any:
        return await self._mortal.pass_on(self._conn, self._conn.executemany, arguments)

    async def fetch(self, *arguments: Any) -> Any:
        return await self._mortal.pass_on(self._conn, self._conn.fetch, arguments)

    async def fetchrow(self, *arguments: Any) -> Any:
        return await self._mortal.pass_on(self._conn, self._conn.fetchrow, arguments)

    async def fetchval(self, *arguments: Any) -> Any:
        return await self._mortal.pass_on(self._conn, self._conn.fetchval, arguments)

    async def copy_from_query(self, *arguments: Any, **named: Any) -> Any:
        return await self._mortal.pass_on(self._conn, partial(self._conn.copy_from_query, **named), arguments)

    async def copy_to_table(self, *arguments: Any, **named: Any) -> Any:
        return await self._mortal.pass_on(self._conn, partial(self._conn.copy_to_table, **named), arguments)


async def everything(db: Database, kept: Sequence[str]) -> dict[str, list[Any]]:
    """Return the rows of tables."""
    async with db.read() as conn:
        return {one: [tuple(row) for row in await conn.fetch(f"select * from {one} order by 1, 2")] for one in kept}


async def kill_at_every_statement(db: Database, before: Mapping[str, list[Any]], work: Callable[[Any], Any]) -> int:
    """Let ``work`` be killed at its first statement, its second …, until it comes through; return how often it was."""
    mortal = Mortal(db)
    deaths = 0
    for statement in range(100):
        for answered in (False, True):
            mortal.left, mortal.answered = statement, answered
            try:
                await work(mortal)
            except (Killed, Unavailable):
                deaths += 1
                assert await everything(db, [*before]) == before
            else:
                return deaths
    pytest.fail("it had no end")
