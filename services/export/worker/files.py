"""Runs the units' file server: its thread, the accounts that it knows, and the configuration files in their folders.

Addresses whose logins are refused there are watched like those that are turned away at the units' SOAP service.
"""

import asyncio
import contextlib
import ipaddress
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import PlatformError, Unavailable
from services.export.dialects import Dialects
from services.export.domain.connection import Connection, Unit, split_address
from services.export.domain.mapping import SourceKind
from services.export.files import accounts, shelf
from services.export.files.configuration import files_of
from services.export.files.server import Account, FileServer, FileServerFailed, Network
from services.export.orders import option_books
from services.export.orders.neighbours import Held, ThresholdKeeper
from services.export.secrets import Secrets
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""Accounts that another replica has changed are taken within this. [s]"""
CONFIGURE_EVERY_S = 300.0
"""Configuration files follow mapping and thresholds within this. [s]"""
ASK_WITHIN_S = 5.0
"""Alarm is asked for a device's thresholds no longer than this. [s]"""
MOST_REFUSED = 1000
"""Refused logins that are remembered until they are looked at; the oldest go first."""
WRONG_LOGIN = "wrong_file_login"
"""What a refused login is called where addresses that are turned away are told of."""


class FileService:
    """The file server of this process."""

    def __init__(
        self,
        server: FileServer,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        dialects: Dialects,
        thresholds: ThresholdKeeper,
        folder: Path,
        always: Sequence[str],
        turned_away: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """Prepare it.

        Args:
            server: Not started.
            db: Where the accounts are.
            clock: For the pauses.
            secrets: Decrypts the passwords.
            dialects: Say what folders and files there are.
            thresholds: What stands in configuration files.
            folder: Below it each unit has a folder.
            always: Networks that may use any account.
            turned_away: Told the peer of each refused login, and that it was one.
        """
        self._server = server
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._dialects = dialects
        self._thresholds = thresholds
        self._folder = folder
        self._configure_at = 0.0
        self._always: tuple[Network, ...] = tuple(ipaddress.ip_network(each, strict=False) for each in always)
        self._turned_away = turned_away
        self._refused: deque[str] = deque(maxlen=MOST_REFUSED)
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look at the accounts now."""
        self._changed.set()

    async def run(self, beat: Callable[[], None]) -> None:
        """Serve for ever.

        Raises:
            FileServerFailed: It cannot listen, or its thread has ended.
        """
        loop = asyncio.get_running_loop()

        def refused(peer: str) -> None:
            """Remember a refused login; called in the server's thread."""
            self._refused.append(peer)
            with contextlib.suppress(RuntimeError):  # the loop has been closed: this process ends
                loop.call_soon_threadsafe(self._changed.set)

        self._server.start(refused)
        try:
            while True:
                beat()
                if not self._server.is_running:
                    raise FileServerFailed("the file server's thread has ended", message_zh="文件服务线程已退出")
                self._changed.clear()
                while self._refused:
                    await self._turned_away(self._refused.popleft(), WRONG_LOGIN)
                await self._refresh()
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            await asyncio.to_thread(self._server.stop)

    async def _refresh(self) -> None:
        try:
            async with self._db.read() as conn:
                stored = {each.unit_key: each for each in await accounts.fetch_all(conn)}
                found: list[tuple[Connection, Unit]] = []
                for connection in await connection_store.fetch_connections(conn):
                    if connection.enabled and not connection.removed:
                        units = await unit_store.fetch_units(conn, connection.id)
                        found += [(connection, unit) for unit in units if unit.key in stored]
            ready = [self._account(connection, unit, stored[unit.key]) for connection, unit in found]
            await asyncio.to_thread(_make_folders, ready)
        except Unavailable as exc:
            logger.warning("file accounts cannot be read", extra={"reason": exc.message})
        except (PlatformError, OSError) as exc:
            logger.error("file accounts cannot be used", extra={"reason": str(exc)})
        else:
            self._server.use([account for account, _ in ready])
            if self._clock.monotonic() >= self._configure_at:
                self._configure_at = self._clock.monotonic() + CONFIGURE_EVERY_S
                for connection, unit in found:
                    await self._configure(connection, unit)

    async def _configure(self, connection: Connection, unit: Unit) -> None:
        """Write a unit's configuration files where they have changed; while alarm is away those that are there stay."""
        try:
            async with self._db.read() as conn:
                mapping = await mapping_store.fetch_mapping(conn, unit.key)
                book = await option_books.fetch_book(conn, connection.id)
            dialect = self._dialects.named(connection.dialect)
            held: dict[tuple[str, str], Held] = {}
            if dialect.files.shape is not None:
                for device_id in sorted({each.device_id for each in mapping.points if each.kind is SourceKind.SIGNAL}):
                    for one in await self._thresholds.thresholds(device_id, timeout_s=ASK_WITHIN_S):
                        held[one.device_id, one.signal] = one
            made = files_of(dialect, unit.ref.unit_id, mapping, held, book)
            await asyncio.to_thread(_write_changed, self._folder / str(unit.key), made)
        except (Unavailable, OSError) as exc:
            logger.warning(
                "configuration files stay as they were", extra={"unit": unit.ref.unit_id, "reason": str(exc)}
            )

    def _account(
        self, connection: Connection, unit: Unit, stored: accounts.StoredAccount
    ) -> tuple[Account, tuple[str, ...]]:
        layout = self._dialects.named(connection.dialect).files
        assigned = split_address(unit.assigned_address)[0] if unit.assigned_address else ""
        own = (ipaddress.ip_network(assigned),) if assigned else ()
        account = Account(
            username=stored.username,
            password=self._secrets.unseal(stored.sealed)["password"],
            home=self._folder / str(unit.key),
            networks=(*self._always, *connection.networks(), *own),
            login_folder=layout.login,
            upload_folder=layout.uploads if stored.uploads else None,
        )
        return account, layout.folders


def _write_changed(home: Path, made: Mapping[tuple[str, str], bytes]) -> None:
    for (folder, name), content in made.items():
        if shelf.read(home, folder, name) != content:
            shelf.put(home, folder, name, content)


def _make_folders(ready: Sequence[tuple[Account, tuple[str, ...]]]) -> None:
    for account, folders in ready:
        for name in ("", *folders):
            (account.home / name).mkdir(parents=True, exist_ok=True, mode=0o750)
