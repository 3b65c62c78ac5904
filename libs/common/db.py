"""PostgreSQL: one pool per service, its schema on the search path, transactions opened by the use case.

Reading and writing connections are different types, so that a read path cannot write by accident.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NewType
from urllib.parse import urlsplit

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from libs.common.errors import Unavailable
from libs.common.settings import DatabaseSettings

logger = logging.getLogger(__name__)

Connection = asyncpg.Connection | PoolConnectionProxy
ReadConn = NewType("ReadConn", Connection)  # type: ignore[valid-newtype]  # asyncpg's two classes share one interface
WriteConn = NewType("WriteConn", Connection)  # type: ignore[valid-newtype]

AWAY = (
    ConnectionError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a session says that the server ended while it was idle (asyncpg 0.32)
)
"""What means that the server is away or cannot take it now, as opposed to a wrong statement."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL is away, full or starting."""

    code = "database_unavailable"
    title_zh = "数据库不可用"


class Database:
    """A service's pool. Open it before use; until then every use raises ``DatabaseUnavailable``."""

    def __init__(self, settings: DatabaseSettings, *, schema: str, role: str | None = None) -> None:
        """Prepare the pool.

        Args:
            settings: Where the server is.
            schema: The service's schema, first on the search path.
            role: Role that the connections take on; limited to the schema.
        """
        self._settings = settings
        self.schema = schema
        self._role = role
        self._pool: asyncpg.Pool | None = None

    @property
    def place(self) -> str:
        """Host, port and database without credentials, for messages."""
        if self._settings.url is None:
            return "(no DATABASE_URL)"
        parts = urlsplit(self._settings.url.get_secret_value())
        return f"{parts.hostname or 'local socket'}:{parts.port or 5432}{parts.path}"

    async def open(self) -> None:
        """Connect.

        Raises:
            DatabaseUnavailable: The server does not answer.
        """
        if self._settings.url is None:
            raise DatabaseUnavailable("no database: set DATABASE_URL", message_zh="未配置数据库:请设置 DATABASE_URL")
        server_settings = {
            "search_path": f"{self.schema},public",
            "application_name": f"wattring-{self.schema}",
        }
        if self._role is not None:
            server_settings["role"] = self._role
        pool: asyncpg.Pool | None = None
        try:
            # Connections are opened when they are needed. With a minimum, asyncpg (0.32) keeps a task of its own that
            # logs a traceback every second while the server is away, and may outlive the pool.
            pool = await asyncpg.create_pool(
                self._settings.url.get_secret_value(),
                min_size=0,
                max_size=self._settings.pool_max,
                timeout=self._settings.connect_timeout_s,
                command_timeout=self._settings.command_timeout_s,
                server_settings=server_settings,
                init=_set_codecs,
            )
            async with pool.acquire(timeout=self._settings.connect_timeout_s):
                self._pool = pool
        except (*AWAY, OSError, asyncpg.PostgresError) as exc:
            if pool is not None:
                pool.terminate()
            raise DatabaseUnavailable(f"database {self.place}: {exc or type(exc).__name__}") from exc

    async def close(self) -> None:
        """Close the pool; a connection that does not come back within 5 s is cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(5.0):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConn]:
        """Yield a connection for statements that change nothing."""
        async with self._acquire() as conn:
            yield ReadConn(conn)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConn]:
        """Yield a connection in one transaction, committed when the block ends without an error."""
        async with self._acquire() as conn, conn.transaction():
            yield WriteConn(conn)

    @asynccontextmanager
    async def effects(self) -> AsyncIterator[WriteConn]:
        """Like ``write``, but the server ends the transaction when we fall silent within it.

        A frozen consumer must not hold row locks while another member takes over its partitions.
        """
        timeout_ms = int(self._settings.effects_idle_timeout_s * 1000)
        async with self._acquire() as conn, conn.transaction():
            await conn.execute(f"set local idle_in_transaction_session_timeout = {timeout_ms:d}")
            yield WriteConn(conn)

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[WriteConn]:
        """Yield a connection on which every statement is a transaction of its own, saving two round trips."""
        async with self._acquire() as conn:
            yield WriteConn(conn)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Connection]:
        """Yield a connection outside the pool's accounting rules, for LISTEN; released at the end."""
        async with self._acquire() as conn:
            yield conn

    async def check(self) -> None:
        """Raise ``DatabaseUnavailable`` with the reason when the server does not answer."""
        async with self.read() as conn:
            await conn.fetchval("select 1", timeout=self._settings.connect_timeout_s)

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            raise DatabaseUnavailable(f"database {self.place}: not connected yet")
        try:
            async with self._pool.acquire(timeout=self._settings.connect_timeout_s) as conn:
                yield conn
        except AWAY as exc:
            if isinstance(exc, ValueError):
                raise  # asyncpg's own word for a value that does not fit its column; waiting would not mend it
            raise DatabaseUnavailable(f"database {self.place}: {exc or type(exc).__name__}") from exc


async def _set_codecs(conn: Any) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )
