"""PostgreSQL: one pool per service, its schema on the search path, transactions opened by the use case.

Reading and writing connections are different types, so that a read path cannot write by accident.

What goes wrong within a connection's block is sorted when it leaves the block; inside it is still asyncpg's own:

* ``DatabaseUnavailable`` (``Unavailable``): the server is away, starting, full or read-only; the session was ended;
  no connection is free. Waiting may mend it.
* ``DatabaseBusy``: a deadlock, a serialisation failure, a statement that took too long. The same again may pass.
* ``InvalidInput``: a text holds what PostgreSQL cannot store (the character NUL).
* Anything else stays what it is. A wrong statement, or asyncpg used wrongly (two operations at once on one
  connection, a connection used after its block), is a bug and must not look like an absent server.
"""

import asyncio
import errno
import logging
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NewType
from urllib.parse import urlsplit

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from libs.common.errors import InvalidInput, PlatformError, Unavailable
from libs.common.settings import DatabaseSettings

logger = logging.getLogger(__name__)

Connection = asyncpg.Connection | PoolConnectionProxy
ReadConn = NewType("ReadConn", Connection)  # type: ignore[valid-newtype]  # asyncpg's two classes share one interface
WriteConn = NewType("WriteConn", Connection)  # type: ignore[valid-newtype]

CLOSE_S = 5.0
"""A connection that does not come back to the pool within this, when it closes, is cut. [s]"""

AWAY = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,  # what a session says that the server ended while it was idle (asyncpg 0.32)
)
"""What means that the server is away or cannot take it now, as opposed to a wrong statement."""
BUSY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.QueryCanceledError)
"""What others caused, or our own haste."""
REFUSED = (
    asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)  # fmt: skip
"""What the server says of a wrong user, password or name; waiting mends none of them."""
NOT_REACHED = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Whatever happens before there is a connection: nothing of the caller's has been done yet."""
UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)


class DatabaseUnavailable(Unavailable):
    """PostgreSQL is away, full or starting."""

    code = "database_unavailable"
    title_zh = "数据库不可用"


class DatabaseBusy(Unavailable):
    """Others were in the way, or a statement took too long; the same may pass later."""

    code = "database_busy"
    title_zh = "数据库繁忙"


class UnstorableText(InvalidInput):
    """A text holds a character that PostgreSQL cannot store."""

    code = "unstorable_text"
    title_zh = "文本包含无法存储的字符"


class _Session(asyncpg.Connection):
    """A session of the pool. Setting it back is a round trip with every use; most uses leave nothing behind."""

    is_changed = False
    """Whether something may have been set, locked or listened to that outlasts a transaction."""

    def expect_changes(self, are_expected: bool) -> None:
        """Say whether the session has to be set back when it returns to the pool."""
        self.is_changed = are_expected

    def get_reset_query(self) -> str:
        """Return what sets the session back; asyncpg itself ends a transaction that was left open."""
        return str(super().get_reset_query()) if self.is_changed else ""


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
        return "(no DATABASE_URL)" if self._settings.url is None else place_of(self._settings.url.get_secret_value())

    async def open(self) -> None:
        """Connect; a pool that is open stays as it is.

        Raises:
            DatabaseUnavailable: The server does not answer, or does not let us in.
        """
        if self._pool is not None:
            return
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
                connection_class=_Session,
            )
            async with pool.acquire(timeout=self._settings.connect_timeout_s):
                self._pool = pool
        except NOT_REACHED as exc:
            raise self._unavailable(exc, pool) from exc
        finally:
            if self._pool is None and pool is not None:
                pool.terminate()

    async def close(self) -> None:
        """Close the pool; a connection that does not come back within ``CLOSE_S`` is cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConn]:
        """Yield a connection for statements that change nothing, in the session neither."""
        async with self._acquire() as conn:
            yield ReadConn(conn)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConn]:
        """Yield a connection in one transaction, committed when the block ends without an error.

        What it sets and locks has to end with the transaction: ``set local``, ``pg_advisory_xact_lock``.
        """
        async with self._acquire() as conn, conn.transaction():
            yield WriteConn(conn)

    @asynccontextmanager
    async def effects(self) -> AsyncIterator[WriteConn]:
        """Like ``write``, but the server ends the transaction when we fall silent within it.

        A frozen consumer must not hold row locks while another member takes over its partitions.
        """
        timeout_ms = max(1, int(self._settings.effects_idle_timeout_s * 1000))  # 0 would be never
        async with self._acquire() as conn, conn.transaction():
            await conn.execute(f"set local idle_in_transaction_session_timeout = {timeout_ms:d}")
            yield WriteConn(conn)

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[WriteConn]:
        """Yield a connection on which every statement is a transaction of its own, saving two round trips.

        The session may be changed too.
        """
        async with self._acquire(changes=True) as conn:
            yield WriteConn(conn)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Connection]:
        """Yield a connection to LISTEN on; it is one of the pool's, held for as long as the block."""
        async with self._acquire(changes=True) as conn:
            yield conn

    async def check(self) -> None:
        """Raise ``DatabaseUnavailable`` with the reason when the server does not answer."""
        async with self.read() as conn:
            await conn.fetchval("select 1", timeout=self._settings.connect_timeout_s)

    @asynccontextmanager
    async def _acquire(self, *, changes: bool = False) -> AsyncIterator[Connection]:
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailable(f"database {self.place}: not connected", message_zh="数据库尚未连接")
        try:
            conn = await pool.acquire(timeout=self._settings.connect_timeout_s)
        except NOT_REACHED as exc:
            raise self._unavailable(exc, pool) from exc
        _expect_changes(conn, changes)
        ended = False
        try:
            try:
                yield conn
            except BaseException:
                ended = _has_ended(conn)
                if not ended:  # whatever it was in the middle of
                    _expect_changes(conn, True)
                raise
            finally:
                await self._release(pool, conn)
        except Exception as exc:
            if _is_being_cancelled():
                # What goes wrong on the way out must not take the place of a cancellation: whoever waits for this
                # task to end would wait for ever.
                raise asyncio.CancelledError from exc
            sorted_out = self._sorted(exc, pool, ended=ended)
            if sorted_out is None:
                raise
            raise sorted_out from exc

    async def _release(self, pool: asyncpg.Pool, conn: PoolConnectionProxy) -> None:
        try:
            await pool.release(conn)
        except asyncpg.InterfaceError:
            if self._pool is pool:
                raise
            logger.debug("a connection came back to a pool that had been closed")

    def _sorted(self, exc: Exception, pool: asyncpg.Pool, *, ended: bool) -> PlatformError | None:
        """Return what an error of a block means to the caller; None when it is nothing of ours to change."""
        if isinstance(exc, UNSTORABLE):
            return UnstorableText(f"a text cannot be stored: {exc}", message_zh=f"文本无法存储:{exc}")
        if isinstance(exc, BUSY) or (isinstance(exc, TimeoutError) and _from_driver(exc.__traceback__)):
            reason = str(exc) or f"a statement took longer than {self._settings.command_timeout_s:g} s"
            return DatabaseBusy(f"database {self.place}: {reason}", message_zh=f"数据库 {self.place}:{reason}")
        if isinstance(exc, AWAY) or (isinstance(exc, OSError) and _from_driver(exc.__traceback__)):
            return self._unavailable(exc, pool)
        # asyncpg says the same of a session that has ended as of a misuse; only the session tells them apart.
        misuse = isinstance(exc, asyncpg.InterfaceError) and not isinstance(exc, ValueError)
        if misuse and (ended or self._pool is not pool):
            return self._unavailable(exc, pool)
        return None

    def _unavailable(self, exc: BaseException, pool: asyncpg.Pool | None) -> DatabaseUnavailable:
        url, wait_s = self._settings.url, self._settings.connect_timeout_s
        busy = pool is not None and pool.get_size() >= pool.get_max_size() and pool.get_idle_size() == 0
        if isinstance(exc, TimeoutError) and pool is not None and busy:
            return DatabaseUnavailable(
                f"database {self.place}: all {pool.get_max_size()} connections were in use for {wait_s:g} s",
                message_zh=f"数据库 {self.place}:全部 {pool.get_max_size()} 个连接在 {wait_s:g} 秒内均被占用",
            )
        if self._role is not None and f'role "{self._role}" does not exist' in str(exc):
            return DatabaseUnavailable(
                f"database {self.place}: {exc}: run `wattring migrate`",
                message_zh=f"数据库 {self.place}:{exc}:请运行 `wattring migrate`",
            )
        return not_reached("" if url is None else url.get_secret_value(), exc, waited_s=wait_s)


def place_of(url: str) -> str:
    """Return host, port and database of a URL without its credentials, for messages."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2] or "local socket"
    return f"{hosts if re.search(r':[0-9]+$', hosts) else hosts + ':5432'}{parts.path}"


def not_reached(url: str, exc: BaseException, *, waited_s: float | None = None) -> DatabaseUnavailable:
    """Return why there is no connection, with the address and, where that may be wrong, the setting that says it.

    Args:
        url: Where the server should be; its credentials are not shown.
        exc: What the driver or the system said.
        waited_s: How long an answer was waited for. [s]
    """
    reason = reason_zh = str(exc) or type(exc).__name__
    if isinstance(exc, TimeoutError) and exc.errno is None:
        reason, reason_zh = "no answer", "无应答"
        if waited_s is not None:
            reason, reason_zh = f"no answer within {waited_s:g} s", f"{waited_s:g} 秒内无应答"
    elif isinstance(exc, OSError) and exc.errno in _UNREACHED_ZH:
        reason, reason_zh = os.strerror(exc.errno), _UNREACHED_ZH[exc.errno]
    elif isinstance(exc, socket.gaierror):
        reason, reason_zh = f"the host cannot be looked up ({exc.strerror})", "无法解析主机名"
    # The embedded server is on a socket, and its address is nobody's mistake.
    if isinstance(exc, REFUSED) or (isinstance(exc, OSError) and urlsplit(url).netloc.rpartition("@")[2]):
        reason, reason_zh = f"{reason}; check DATABASE_URL", f"{reason_zh};请检查 DATABASE_URL"
    place = place_of(url)
    return DatabaseUnavailable(f"database {place}: {reason}", message_zh=f"数据库 {place}:{reason_zh}")


_UNREACHED_ZH = {
    errno.ECONNREFUSED: "连接被拒绝",
    errno.ECONNRESET: "连接被重置",
    errno.ETIMEDOUT: "连接超时",
    errno.EHOSTUNREACH: "主机不可达",
    errno.ENETUNREACH: "网络不可达",
}


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _expect_changes(conn: Any, are_expected: bool) -> None:
    """Pass on to the session what its proxy, as it is typed, does not know."""
    conn.expect_changes(are_expected)


def _has_ended(conn: PoolConnectionProxy) -> bool:
    """Return whether the session is over; asyncpg then takes the connection from its user by itself."""
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        return True


def _from_driver(trace: TracebackType | None) -> bool:
    """Return whether an error was raised within asyncpg, and not by the block's own code."""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith("asyncpg"):
            return True
        trace = trace.tb_next
    return False


async def _set_codecs(conn: Any) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )
