"""A database whose user is killed at chosen steps: a step is a transaction that has written something."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import Any

from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable


class Fate(Enum):
    """What becomes of the process at a step."""

    LIVES = "lives"
    DIES_BEFORE = "dies before the commit"
    DIES_AFTER = "dies after the commit"


class Killed(Exception):
    """The process ended here."""

    def __init__(self, *, committed: bool) -> None:
        super().__init__("after the commit" if committed else "before the commit")
        self.committed = committed


class Mortal:
    """``fate`` is asked at every step; ``away`` is a database server that has been killed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.fate: Callable[[], Fate] = lambda: Fate.LIVES
        self.away = False
        self.steps = 0
        self.deaths = 0

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        self._check()
        async with self._db.read() as conn:
            yield conn

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConn]:
        async with self._mortally(self._db.write) as conn:
            yield conn

    @asynccontextmanager
    async def effects(self) -> AsyncIterator[WriteConn]:
        async with self._mortally(self._db.effects) as conn:
            yield conn

    def _check(self) -> None:
        if self.away:
            raise Unavailable("database: killed")

    @asynccontextmanager
    async def _mortally(self, begin: Callable[[], AbstractAsyncContextManager[WriteConn]]) -> AsyncIterator[WriteConn]:
        self._check()
        fate = Fate.LIVES
        async with begin() as conn:
            yield conn
            # A transaction without an identity has changed nothing: being killed at it is being killed before it.
            if await conn.fetchval("select pg_current_xact_id_if_assigned() is not null"):
                self.steps += 1
                fate = self.fate()
            if fate is Fate.DIES_BEFORE:
                self.deaths += 1
                raise Killed(committed=False)
        if fate is Fate.DIES_AFTER:
            self.deaths += 1
            raise Killed(committed=True)


class Fuse:
    """Death at the step with that number, counted from 0; None: never."""

    def __init__(self) -> None:
        self.steps: int | None = None
        self.how = Fate.DIES_BEFORE

    def __call__(self) -> Fate:
        if self.steps is None:
            return Fate.LIVES
        self.steps -= 1
        if self.steps >= 0:
            return Fate.LIVES
        self.steps = None
        return self.how
