"""Accounts of the units' file server: given by people, told to the centre, changed by it when that is permitted."""

import re
from collections.abc import Callable

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from services.export import bus
from services.export.dialects import messages as m
from services.export.domain.connection import Unit
from services.export.domain.permits import OrderKind
from services.export.files import accounts
from services.export.files.accounts import StoredAccount
from services.export.orders import permits as permit_store
from services.export.secrets import Secrets
from services.export.store import units as unit_store
from services.export.usecases.administration import Actor

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}")
"""USER_LENGTH of every dialect is 20."""
PASSWORD = re.compile(r"[\x21-\x7e]{8,32}")
"""PASSWORD_LEN is 20, but some centres send a digest of 32 digits; shorter than 8 is no password."""


class AccountTaken(Conflict):
    """Another unit's account has the name."""

    code = "file_account_taken"
    title_zh = "文件账号已被占用"


class FileAccounts:
    """Accounts, one for each unit."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        port: Callable[[], int | None],
        changed: Callable[[], None],
    ) -> None:
        """Prepare it.

        Args:
            db: Of the service.
            clock: For the audit.
            secrets: Encrypts passwords.
            port: Where centres reach the file server; None while there is none.
            changed: Called after every change.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._port = port
        self._changed = changed

    # ---- for the centre --------------------------------------------------------------------------

    async def read(self, unit: Unit) -> m.FileAccount:
        """Return the account as the centre is told it; Result 0 when there is none, or no server."""
        async with self._db.read() as conn:
            found = await accounts.fetch(conn, unit.key)
        port = self._port()
        if found is None or port is None:
            return m.FileAccount(unit.ref, False)
        return m.FileAccount(unit.ref, True, found.username, self._secrets.unseal(found.sealed)["password"], port)

    async def write(self, unit: Unit, request: m.WriteFileAccount, peer: str) -> m.Outcome:
        """Change the account at the centre's word, when it may; Result 0 otherwise. Audited without the password."""
        actor = f"sc:{unit.connection_id}"
        async with self._db.write() as conn:
            permits = await permit_store.fetch_current(conn, unit.connection_id)
            refused = "not_permitted"
            if OrderKind.FILE_ACCOUNT in permits.kinds and request.port not in (None, self._port()):
                refused = "other_port"  # the port is the operator's: all units share the server
            elif OrderKind.FILE_ACCOUNT in permits.kinds:
                refused = await self._change(conn, unit, request.username, request.password, None, actor)
            audited = bus.order_audited(
                unit, "file_account.write", points=[request.username[:64]], address=peer, succeeded=not refused,
                at=self._clock.now(), reason=refused or None,
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()
        return m.Outcome(unit.ref, not refused)

    async def _change(
        self, conn: WriteConn, unit: Unit, username: str, password: str, uploads: bool | None, by: str
    ) -> str:
        """Write an account; return why not, empty when it was."""
        if not USERNAME.fullmatch(username) or not PASSWORD.fullmatch(password):
            return "not_acceptable"
        await accounts.lock(conn)
        before = await accounts.fetch(conn, unit.key)
        kept = before.uploads if before is not None else False
        done = await accounts.put(
            conn, unit.key, username, self._secrets.seal({"password": password}),
            uploads=kept if uploads is None else uploads, changed_by=by, at=self._clock.now(),
        )  # fmt: skip
        return "" if done else "name_taken"

    # ---- for people ------------------------------------------------------------------------------

    async def stored(self, connection_id: str, unit_id: str) -> StoredAccount:
        """Return a unit's account; its password is sealed.

        Raises:
            NotFound: There is no such unit, or it has none.
        """
        async with self._db.read() as conn:
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            found = None if unit is None else await accounts.fetch(conn, unit.key)
        if found is None:
            raise _none(connection_id, unit_id)
        return found

    async def put(
        self, connection_id: str, unit_id: str, username: str, password: str, *, uploads: bool, actor: Actor
    ) -> StoredAccount:
        """Give a unit an account, or change it.

        Raises:
            NotFound: There is no such unit.
            InvalidInput: Name or password is not acceptable.
            AccountTaken: Another unit has the name.
        """
        async with self._db.write() as conn:
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            if unit is None:
                raise _none(connection_id, unit_id)
            refused = await self._change(conn, unit, username, password, uploads, actor.name)
            if refused == "name_taken":
                raise AccountTaken(
                    f"account {username} is another unit's", message_zh=f"账号 {username} 已被其他单元使用"
                )
            if refused:
                raise InvalidInput(
                    "username: up to 20 letters, digits, dots, dashes; password: 8 to 32 characters, no blank",
                    message_zh="用户名最多20个字母、数字、点或短横;密码为8至32个可见字符,不含空格",
                )
            await self._audit(conn, actor, "file_account.put", unit_id, {"username": username, "uploads": uploads})
            found = await accounts.fetch(conn, unit.key)
        self._changed()
        if found is None:
            raise _none(connection_id, unit_id)
        return found

    async def remove(self, connection_id: str, unit_id: str, actor: Actor) -> None:
        """Take a unit's account away; running sessions can do nothing any more.

        Raises:
            NotFound: There is no such unit, or it has none.
        """
        async with self._db.write() as conn:
            unit = await unit_store.fetch_unit(conn, connection_id, unit_id)
            if unit is None or not await accounts.remove(conn, unit.key):
                raise _none(connection_id, unit_id)
            await self._audit(conn, actor, "file_account.remove", unit_id, None)
        self._changed()

    async def _audit(
        self, conn: WriteConn, actor: Actor, action: str, unit_id: str, after: dict[str, object] | None
    ) -> None:
        message = bus.change_audited(
            actor.name, action, f"unit:{unit_id}", after=after, request_id=actor.request_id, at=self._clock.now()
        )
        await outbox.put(conn, [message])


def _none(connection_id: str, unit_id: str) -> NotFound:
    return NotFound(
        f"connection {connection_id} has no unit {unit_id} with a file account",
        message_zh=f"连接 {connection_id} 下没有带文件账号的单元 {unit_id}",
    )
