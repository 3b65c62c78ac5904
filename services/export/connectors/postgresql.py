"""PostgreSQL destinations: the rows of a batch into a table of theirs, in one transaction with its number.

``address``: ``host``, ``port`` (5432), ``database``, ``user``, ``table`` (perhaps ``schema.table``), ``batches`` (a
table with the columns ``feed``, ``batch``, ``rows``, ``hash``, where feed and batch are unique), ``tls``. ``secrets``:
``password``.
``format.columns`` are the columns of the table; the format's kind does not matter.

A batch whose number stands in ``batches`` is there already and is not written again, which is what makes a second
telling harmless. The tables are the receiver's, and our account needs to insert into both, nothing else.

The library is asyncpg (Apache-2.0), which the whole project speaks to PostgreSQL by.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence

import asyncpg
import httpcore

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.redact import redact
from services.export.connectors.http import not_told
from services.export.connectors.port import ERROR_CHARS, BadAddress, known_only, port_of, text_of
from services.export.connectors.relay import relay
from services.export.connectors.tls import secured
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Format
from services.export.domain.rendering import Batch
from services.export.domain.rows import COLUMNS

TLS_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""SSLRequest: PostgreSQL, Frontend/Backend Protocol, Message Formats."""
_CASTS = {"source_time": "::timestamptz", "value": "::numeric"}
_REFUSED = (
    asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidAuthorizationSpecificationError,
)  # fmt: skip


class PostgresqlConnector:
    """Writes batches into the tables of one destination."""

    def __init__(
        self,
        *,
        address: Mapping[str, object],
        secrets: Mapping[str, str],
        format_: Format,
        timeout_s: float,
        dialler: httpcore.AsyncNetworkBackend,
        context: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        """Prepare; the arguments are those of ``HttpConnector``. Raises ``BadAddress``."""
        known_only(address, "host", "port", "database", "user", "table", "batches", "tls")
        self._host = text_of(address, "host")
        self._port = port_of(address, 5432)
        self._database, self._user = text_of(address, "database"), text_of(address, "user")
        self._tls = address.get("tls", True)
        if not isinstance(self._tls, bool):
            raise BadAddress("address.tls: expected true or false")
        self._claim = (
            f"insert into {_name(address, 'batches')} (feed, batch, rows, hash) "  # noqa: S608 - names are quoted
            "values ($1, $2, $3, $4) on conflict do nothing returning 1"
        )
        self._insert = _insert(_name(address, "table"), format_.columns)
        self._columns = [COLUMNS.index(source) for source in format_.columns.values() if source in COLUMNS]
        self._password = secrets.get("password")
        self._timeout_s = timeout_s
        self._dialler = dialler
        self._context = context
        self._clock = clock

    async def close(self) -> None:
        """Nothing stays open between batches."""

    async def tell(self, batch: Batch) -> Outcome:
        """Write a batch; see ``Connector.tell``."""
        began_s = self._clock.monotonic()
        verdict = Verdict.FAILED
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._write(batch)
        except PlatformError as exc:
            return not_told(exc, self._clock.monotonic() - began_s)
        except TimeoutError:
            return Outcome(Verdict.TIMEOUT, self._timeout_s, error=f"no answer within {self._timeout_s:g} s")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, httpcore.NetworkError, httpcore.TimeoutException,
                OSError) as exc:  # fmt: skip
            if isinstance(exc, _REFUSED):
                verdict = Verdict.REFUSED
            reason = redact(str(exc) or type(exc).__name__)
            return Outcome(verdict, self._clock.monotonic() - began_s, error=reason[:ERROR_CHARS])
        return Outcome(Verdict.DELIVERED, self._clock.monotonic() - began_s)

    async def _write(self, batch: Batch) -> None:
        stream = await self._dialler.connect_tcp(self._host, self._port, self._timeout_s)
        if self._tls:
            stream = await _with_tls(stream, self._context, self._host, self._timeout_s)
        # The library looks for a socket of this name in a folder.
        async with relay(stream, f".s.PGSQL.{self._port}") as path:
            connection = await asyncpg.connect(
                host=str(path.parent), port=self._port, user=self._user, password=self._password or "",
                database=self._database, timeout=self._timeout_s, command_timeout=self._timeout_s, ssl=False,
                passfile="/dev/null", statement_cache_size=0,
            )  # fmt: skip
            try:
                async with connection.transaction():
                    claimed = await connection.fetchval(
                        self._claim, batch.feed_id, batch.number, len(batch.lines), batch.hash
                    )
                    if claimed is not None:
                        rows = [line.split("\t") for line in batch.lines]
                        await connection.execute(
                            self._insert, *[[row[place] or None for row in rows] for place in self._columns]
                        )
            finally:
                connection.terminate()


async def _with_tls(
    stream: httpcore.AsyncNetworkStream, context: ssl.SSLContext, host: str, timeout_s: float
) -> httpcore.AsyncNetworkStream:
    try:
        await stream.write(TLS_REQUEST, timeout_s)
        # One byte: what came behind it in the clear would be somebody's who stands between (CVE-2021-23222).
        if await stream.read(1, timeout_s) != b"S":
            raise httpcore.ConnectError("the server speaks no TLS; address.tls false allows that")
    except BaseException:
        await stream.aclose()
        raise
    return await secured(stream, context, host, timeout_s)


def _insert(table: str, columns: Mapping[str, str]) -> str:
    """Return the statement: an array per column of ours, a fixed text for the others."""
    arrays = [source for source in columns.values() if source in COLUMNS]
    if not arrays:
        raise BadAddress(f"format.columns: expected at least one of {', '.join(COLUMNS)}")
    place = 0
    values: list[str] = []
    for source in columns.values():
        if source in COLUMNS:
            values.append(f"c{place}{_CASTS.get(source, '')}")
            place += 1
        else:
            values.append("'" + source[1:].replace("'", "''") + "'")
    given = ", ".join(f"${number}::text[]" for number in range(1, len(arrays) + 1))
    named = ", ".join(f"c{number}" for number in range(len(arrays)))
    into = ", ".join(_quoted(name) for name in columns)
    return f"insert into {table} ({into}) select {', '.join(values)} from unnest({given}) as given({named})"  # noqa: S608


def _name(address: Mapping[str, object], field: str) -> str:
    parts: Sequence[str] = text_of(address, field).split(".")
    if len(parts) > 2 or not all(parts):
        raise BadAddress(f"address.{field}: expected table or schema.table")
    return ".".join(_quoted(part) for part in parts)


def _quoted(name: str) -> str:
    if "\0" in name:
        raise BadAddress("expected names without NUL")
    return '"' + name.replace('"', '""') + '"'
