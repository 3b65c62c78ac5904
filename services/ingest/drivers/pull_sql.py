"""Rows of a transfer database (中转库): one query in a read-only transaction, bounded in rows and time."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import asyncpg

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput
from libs.common.outgoing import CallFailed, NotAllowed
from services.ingest.domain.pull import Mark, MarkKind, larger
from services.ingest.domain.pull_source import SqlSource
from services.ingest.drivers.line_settings import one_of
from services.ingest.drivers.means import Means
from services.ingest.drivers.pull_port import Page, PullFailed

logger = logging.getLogger(__name__)

CONNECT_WITHIN_S = 10.0
DEFAULT_PORT = 5432
TLS = ("prefer", "require", "verify-full")
MAX_ROWS = 50_000
"""Asked for at once, however far an overlap reaches."""
WIDENING = 4
"""How many times more is asked for when a query brought nothing beyond the watermark."""


class SqlPull:
    """One query; implements ``PullSource``."""

    def __init__(self, line: Line, source: SqlSource, zone: ZoneInfo | None, clock: Clock, means: Means) -> None:
        """Prepare; nothing is connected yet.

        Args:
            line: ``endpoint`` is ``postgresql://host:port/database``, the secret has ``user`` and ``password``;
                ``settings.tls`` is ``prefer``, ``require`` or ``verify-full``.
            source: The query.
            zone: Of a watermark without one.
            clock: Ours.
            means: Secrets, and where one may go.

        Raises:
            InvalidInput: The line is wrong.
        """
        self._line = line
        self._source = source
        self._zone = zone
        self._clock = clock
        self._means = means
        self._host, self._port, self._database = _place(line)
        settings = line.settings or {}
        tls = one_of(line, "tls", settings.get("tls", "prefer"), TLS)
        self._tls: Literal["prefer", "require", "verify-full"] = cast(Any, tls)

    async def close(self) -> None:
        """Do nothing: each reading has a connection of its own."""

    async def pages(self, mark: Mark | None) -> AsyncIterator[Page]:
        """Yield the rows behind a watermark, as many as the file asks for; more where the overlap alone fills that."""
        start = mark or self._source.initial
        limit = self._source.limit
        while True:
            rows = await self._fetch(self._argument(start), limit)
            marks = [self._mark_of(row) for row in rows]
            self._check_order(marks)
            full = len(rows) >= limit
            reached = self._reached(start, marks, full=full)
            if reached is not None:
                yield Page(rows, True, reached, behind=full)
                return
            if limit >= MAX_ROWS:
                raise PullFailed(
                    f"the overlap, or one watermark, has more than {MAX_ROWS} rows: nothing new can be read",
                    message_zh=f"重叠区或同一水位的行数超过 {MAX_ROWS},无法前进",
                )
            limit = min(limit * WIDENING, MAX_ROWS)

    def _reached(self, start: Mark, marks: Sequence[Mark], *, full: bool) -> Mark | None:
        """Return how far these rows lead, None when that is nowhere because the query was cut off."""
        if not marks:
            return start
        # A time that is yet to come must not make us skip what comes in between.
        now = Mark(MarkKind.TIME, self._clock.now())
        believed = [mark for mark in marks if mark.kind is not MarkKind.TIME or larger(mark, now) is now]
        if not full:
            return larger(start, believed[-1]) if believed else start
        newest = believed[-1] if believed else start
        if newest == marks[-1]:
            # More rows of the last one may have been cut off: it is read again from just before it.
            newest = next((one for one in reversed(believed) if one != newest), start)
        return newest if newest != start and larger(start, newest) is newest else None

    def _check_order(self, marks: Sequence[Mark]) -> None:
        for before, after in pairwise(marks):
            if larger(before, after) is before and before != after:
                column = self._source.mark_column
                raise PullFailed(
                    f"the rows are not in the order of {column}: the query needs order by {column}",
                    message_zh=f"结果未按 {column} 排序,请在 SQL 中加 order by {column}",
                )

    async def _fetch(self, since: object, limit: int) -> list[Mapping[str, Any]]:
        source = self._source
        try:
            conn = await self._connect()
        except (CallFailed, NotAllowed) as exc:
            raise PullFailed(exc.message, message_zh=exc.message_zh) from exc
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise self._failed(exc) from exc
        try:
            async with conn.transaction(readonly=True):
                await conn.execute(f"set local statement_timeout = {int(source.timeout_s * 1000)}")
                # One statement only: the extended protocol takes no second one, and nothing in it can write.
                cursor = await conn.cursor(source.sql, since, limit)
                # Also a query that does not heed $2 gives no more than was asked for.
                found = await cursor.fetch(limit)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise self._failed(exc) from exc
        finally:
            await _close(conn)
        return [dict(row.items()) for row in found]

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        address = await self._means.guard.address_of(self._host, self._port)
        if self._line.credentials_ref is None:
            raise InvalidInput(
                f"line {self._line.id}: credentials_ref: a database needs user and password",
                message_zh=f"线路 {self._line.id}:数据库需要 credentials_ref(user、password)",
            )
        secret = self._means.secrets.read(self._line.credentials_ref)
        secret.check_host(self._host)
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            # A certificate is checked against the name; otherwise to the address that was checked, and no other.
            host=self._host if self._tls == "verify-full" else address,
            port=self._port,
            database=self._database,
            user=secret.require("user"),
            password=secret.require("password"),
            ssl=self._tls,
            timeout=CONNECT_WITHIN_S,
            command_timeout=self._source.timeout_s + 5.0,
            server_settings={"application_name": "wattring", "default_transaction_read_only": "on"},
        )
        return conn

    def _argument(self, mark: Mark) -> object:
        """Return the watermark as the query takes it, less the overlap."""
        value, overlap = mark.value, self._source.overlap
        if isinstance(value, datetime):
            moved = value - timedelta(seconds=overlap)
            return moved.astimezone(self._zone).replace(tzinfo=None) if self._source.zone_naive else moved
        return value - int(overlap) if isinstance(value, int) else value

    def _mark_of(self, row: Mapping[str, Any]) -> Mark:
        value = row.get(self._source.mark_column)
        match self._source.mark_kind:
            case MarkKind.INTEGER if isinstance(value, int):
                return Mark(MarkKind.INTEGER, value)
            case MarkKind.TEXT if isinstance(value, str):
                return Mark(MarkKind.TEXT, value)
            case MarkKind.TIME if isinstance(value, datetime):
                return Mark(MarkKind.TIME, value if value.tzinfo is not None else value.replace(tzinfo=self._zone))
            case _:
                column, kind = self._source.mark_column, self._source.mark_kind
                raise PullFailed(
                    f"column {column}: expected a watermark of type {kind} in every row, found {value!r}"[:300],
                    message_zh=f"列 {column}:每行应有类型为 {kind} 的水位值",
                )

    def _failed(self, exc: Exception) -> PullFailed:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        return PullFailed(
            f"{self._host}:{self._port}: {reason}"[:500], message_zh=f"{self._host}:{self._port}:{reason}"[:500]
        )


def _place(line: Line) -> tuple[str, int, str]:
    """Return host, port and database of a line.

    Raises:
        InvalidInput: The endpoint is none, or has a password in it.
    """
    try:
        parts = urlsplit(line.endpoint)
        host, port, database = parts.hostname, parts.port or DEFAULT_PORT, unquote(parts.path.lstrip("/"))
        right = parts.scheme in ("postgresql", "postgres") and bool(host) and bool(database) and not parts.username
    except ValueError:
        right, host, port, database = False, None, 0, ""
    if not right or host is None:
        raise InvalidInput(
            f"line {line.id}: endpoint: expected postgresql://host:port/database without user and password",
            message_zh=f"线路 {line.id}:endpoint 应为 postgresql://主机:端口/库名,不含用户名和密码",
        )
    return host, port, database


async def _close(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    try:
        await conn.close(timeout=5.0)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        logger.debug("connection not closed in order", extra={"reason": str(exc)})
