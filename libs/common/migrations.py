"""Schema changes: one chain of Alembic revisions per service, forward only, safe beside the old release.

Each service keeps its revisions in ``services/<name>/migrations/`` (the bus in ``libs/common/bus/migrations``),
numbered and named for the moment they may run:

* ``0003_pre_<what>.py`` runs before the new code starts. It only adds, so that the old release keeps
  running on the new schema; ``non_additive`` is the check, and a test applies it to every revision.
* ``0004_post_<what>.py`` runs when no old process is left, and may take away.

``migrate(url, services)`` goes up to the first revision marked *post*, ``phase="post"`` all the way. A schema
that is new has no old release to respect and always goes all the way. A revision is a plain Alembic file with
one SQL statement per ``op.execute`` call; its ``revision`` is its number::

    \"\"\"Readings history.\"\"\"
    from alembic import op
    revision = "0001"
    down_revision = None
    def upgrade() -> None:
        op.execute("create table readings (...)")

Every service has a schema of its name, owned by the role ``wattring_<service>`` which can do nothing outside it
except use the schema ``bus``, as a member of ``wattring_bus``. Revisions run as that role with the schema on the
search path, so that whatever they create belongs to the service. The version reached is kept in
``<service>.schema_version``. Concurrent runs wait for each other; a statement that waits longer than
``LOCK_TIMEOUT_S`` for a lock gives way, so that a migration never queues up the traffic behind it.

``python -m libs.common.prepare`` is what a container runs before its service; ``wattring migrate`` is for people.
"""

import asyncio
import importlib.util
import logging
import re
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg

from libs.common.db import NOT_REACHED, DatabaseUnavailable, not_reached
from libs.common.errors import PlatformError, Unavailable
from libs.common.settings import SERVICES, DatabaseSettings

logger = logging.getLogger(__name__)

BUS = "bus"
ALL_SCHEMAS = (BUS, *SERVICES)

LOCK_TIMEOUT_S = 4
"""A change that cannot have its lock within this gives way to the traffic. [s]"""
STATEMENT_TIMEOUT_S = 60
"""One statement; a revision that needs longer says ``set local statement_timeout``. [s]"""
TURN_TIMEOUT_S = 120.0
"""How long to wait for another migration that is running. [s]"""
ATTEMPTS = 5
"""How often a revision that found its table locked is tried."""
RETRY_PAUSE_S = 2.0

TURN_LOCK = 0x77617474
"""Key of the advisory lock that lets one migration run at a time in a database ("watt")."""

_pause = asyncio.sleep

Phase = Literal["pre", "post"]
FILE_NAME = re.compile(r"^(?P<number>\d{4})_(?P<phase>pre|post)_(?P<what>[a-z0-9_]+)\.py$")


class MigrationFailed(PlatformError):
    """A revision could not be applied; what came before it stands."""

    code = "migration_failed"
    title_zh = "数据库迁移失败"


class SchemaOutdated(Unavailable):
    """The database lacks revisions that this release needs."""

    code = "schema_outdated"
    title_zh = "数据库结构版本过旧"


@dataclass(frozen=True, slots=True)
class Revision:
    """One numbered change of a service's schema."""

    service: str
    number: str
    phase: Phase
    path: Path

    @property
    def name(self) -> str:
        """``<service>/0001_pre_<what>``."""
        return f"{self.service}/{self.path.stem}"


def revisions(service: str) -> list[Revision]:
    """Return the service's revisions in order; a service without tables has none.

    Raises:
        MigrationFailed: A file is misnamed or a number is missing or used twice.
    """
    folder = folder_of(service)
    found: list[Revision] = []
    for path in sorted(folder.glob("*.py")) if folder.is_dir() else []:
        if path.name == "__init__.py":
            continue
        match = FILE_NAME.match(path.name)
        if match is None:
            raise MigrationFailed(
                f"{service}: {path.name} is not named <number>_pre_<what>.py or <number>_post_<what>.py"
            )
        phase: Phase = "pre" if match["phase"] == "pre" else "post"
        found.append(Revision(service, match["number"], phase, path))
    for position, revision in enumerate(found, start=1):
        if revision.number != f"{position:04d}":
            raise MigrationFailed(f"{revision.name}: expected number {position:04d}; numbers run without gap or double")
    return found


def folder_of(service: str) -> Path:
    """Return the folder with the revisions of a service or of the bus."""
    package = "libs.common.bus" if service == BUS else f"services.{service}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MigrationFailed(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "migrations"


def installed_schemas() -> tuple[str, ...]:
    """Return the bus and the services whose packages are installed; an image holds only one of them."""
    return tuple(
        name for name in ALL_SCHEMAS if name == BUS or importlib.util.find_spec(f"services.{name}") is not None
    )


async def version(conn: asyncpg.Connection, service: str) -> str | None:
    """Return the number of the last revision applied, or None for a new schema."""
    try:
        number: str | None = await conn.fetchval(f'select version_num from "{_known(service)}".schema_version')  # noqa: S608 - from a fixed list
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return number


async def pending(url: str, services: Sequence[str] | None = None, *, connect_timeout_s: float = 5.0) -> list[Revision]:
    """Return the revisions that the database has not seen, without loading Alembic.

    Raises:
        OSError, asyncpg.PostgresError: The database cannot be reached.
    """
    conn = await asyncpg.connect(url, timeout=connect_timeout_s)
    try:
        missing: list[Revision] = []
        for service in installed_schemas() if services is None else services:
            reached = await version(conn, service) or "0000"
            missing += [revision for revision in revisions(service) if revision.number > reached]
        return missing
    finally:
        await conn.close(timeout=connect_timeout_s)


async def require_current(conn: Any, service: str) -> None:
    """Check that every *pre* revision of this release is in the database; for readiness.

    A database that is ahead of this release is fine: that is what *pre* promises.

    Raises:
        SchemaOutdated: Revisions are missing; the message names the first and the command.
    """
    reached = await version(conn, service) or "0000"
    missing = [revision for revision in revisions(service) if revision.phase == "pre" and revision.number > reached]
    if missing:
        raise SchemaOutdated(
            f"database lacks {missing[0].name} (and {len(missing) - 1} more): run `wattring migrate`",
            message_zh=f"数据库缺少迁移 {missing[0].name}(另有 {len(missing) - 1} 个):请运行 `wattring migrate`",
        )


async def migrate(url: str, services: Sequence[str] | None = None, *, phase: Phase = "pre") -> list[str]:
    """Bring schemas up to date and return the names of the revisions applied.

    Args:
        url: ``postgresql://…`` of a user who may create roles and schemas (or finds them created).
        services: Names, or None for the bus and every installed service.
        phase: ``pre`` stops before the first revision marked *post*; ``post`` applies everything.

    Raises:
        MigrationFailed: A revision failed, or waits behind a *post* revision of an earlier release.
        OSError, asyncpg.PostgresError: The database cannot be reached.
    """
    applied: list[str] = []
    async with _turn(url):
        for service in installed_schemas() if services is None else services:
            todo = await _plan(url, service, phase)
            await _prepare(url, service)
            for revision in todo:
                await _apply(url, revision)
                applied.append(revision.name)
                logger.info("schema changed", extra={"revision": revision.name})
    return applied


async def _plan(url: str, service: str, phase: Phase) -> list[Revision]:
    conn = await asyncpg.connect(url, timeout=10)
    try:
        reached = await version(conn, service)
    finally:
        await conn.close(timeout=5)
    todo = [revision for revision in revisions(service) if revision.number > (reached or "0000")]
    if phase == "post" or reached is None:
        return todo
    stop = next((index for index, revision in enumerate(todo) if revision.phase == "post"), len(todo))
    behind = [revision for revision in todo[stop:] if revision.phase == "pre"]
    if behind:
        raise MigrationFailed(
            f"{behind[0].name} waits behind {todo[stop].name} of an earlier release: "
            "stop what is left of that release and run `wattring migrate --phase post`",
            message_zh=f"{behind[0].name} 须等待旧版本的 {todo[stop].name}:"
            "请停止旧版本进程后运行 `wattring migrate --phase post`",
        )
    return todo[:stop]


@asynccontextmanager
async def _turn(url: str) -> AsyncIterator[None]:
    """Hold the lock that lets one migration run at a time in this database."""
    conn = await asyncpg.connect(url, timeout=10, server_settings={"application_name": "wattring-migrate-turn"})
    try:
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                # Polled: a session that waits for the lock would hold back the other's CREATE INDEX CONCURRENTLY.
                while not await conn.fetchval("select pg_try_advisory_lock($1)", TURN_LOCK):
                    await _pause(0.1)
        except TimeoutError:
            raise MigrationFailed(f"another migration has been running for {TURN_TIMEOUT_S:.0f} s") from None
        yield
    finally:
        await conn.close(timeout=5)


async def _prepare(url: str, service: str) -> None:
    """Create the schema and its role, unless they are there."""
    conn = await asyncpg.connect(url, timeout=10)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with conn.transaction():
                    for statement in _role_statements(service):
                        await conn.execute(statement)
            except asyncpg.InternalServerError:
                # Roles belong to the whole server; another database's migration changed the same one.
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(0.1)
            else:
                return
    except asyncpg.InsufficientPrivilegeError as exc:
        raise MigrationFailed(
            f"{service}: this database user may not create the role or schema ({exc}). As an administrator run:\n"
            + ";\n".join(" ".join(statement.split()) for statement in _role_statements(service))
        ) from exc
    finally:
        await conn.close(timeout=5)


def _role_statements(service: str) -> list[str]:
    schema, role = _known(service), f"wattring_{_known(service)}"
    statements = [_create_role(role), _grant(role, to="current_user", right=_MAY_SET_ROLE)]
    if service != BUS:
        statements += [_create_role("wattring_bus"), _grant("wattring_bus", to=role, right="'usage'")]
    statements.append(f'create schema if not exists "{schema}" authorization "{role}"')
    return statements


_MAY_SET_ROLE = "case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end"


def _create_role(role: str) -> str:
    return f"""
        do $$ begin
            if not exists (select from pg_roles where rolname = '{role}') then create role "{role}" nologin; end if;
        exception when duplicate_object or unique_violation then null;
        end $$"""


def _grant(role: str, *, to: str, right: str) -> str:
    """Grant membership unless it is there already; a superuser needs none."""
    member = to if to == "current_user" else f"'{to}'"
    return f"""
        do $$ begin
            if not pg_has_role({member}, '{role}', {right}) then grant "{role}" to {to}; end if;
        end $$"""


async def _apply(url: str, revision: Revision) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await asyncio.to_thread(asyncio.run, _upgrade(url, revision))
        except Exception as exc:
            if _sqlstate(exc) == "55P03" and attempt < ATTEMPTS:  # lock_not_available
                logger.warning("schema change waits for a lock", extra={"revision": revision.name, "attempt": attempt})
                await _pause(RETRY_PAUSE_S)
                continue
            raise MigrationFailed(
                f"{revision.name}: {exc}", message_zh=f"迁移 {revision.name} 失败:{exc}", revision=revision.name
            ) from exc
        return


async def _upgrade(url: str, revision: Revision) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    settings = {
        "application_name": f"wattring-migrate-{revision.service}",
        "role": f"wattring_{revision.service}",
        "search_path": revision.service,
        "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}ms",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    }

    async def connect(*_args: object, **_kwargs: object) -> asyncpg.Connection:
        return await asyncpg.connect(url, timeout=10, server_settings=settings)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run_alembic, revision)
            await connection.commit()
    finally:
        await engine.dispose()


# Alembic's ``op`` is one proxy per process.
_one_at_a_time = threading.Lock()


def _run_alembic(connection: Any, revision: Revision) -> None:
    from alembic import command

    config = _config(revision.service)
    config.attributes["connection"] = connection
    config.attributes["schema"] = revision.service
    with _one_at_a_time:
        command.upgrade(config, revision.number)


def _config(service: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _escaped(Path(__file__).with_name("alembic_env")))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escaped(folder_of(service)))
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _sqlstate(exc: BaseException | None) -> str | None:
    while exc is not None:
        state = getattr(exc, "sqlstate", None) or getattr(getattr(exc, "orig", None), "sqlstate", None)
        if state:
            return str(state)
        exc = exc.__cause__
    return None


def _known(service: str) -> str:
    if service not in ALL_SCHEMAS:
        raise MigrationFailed(f"unknown service {service!r}; known are {', '.join(ALL_SCHEMAS)}")
    return service


class SchemaGate:
    """A service's first resource: entered only once the database has what this release needs.

    The runtime retries it, so a service that is started before its migration waits and says for what.
    """

    def __init__(self, settings: DatabaseSettings, *schemas: str) -> None:
        self._settings = settings
        self._schemas = schemas

    async def __aenter__(self) -> None:
        """Check all schemas.

        Raises:
            SchemaOutdated: Revisions are missing.
            DatabaseUnavailable: The database does not answer.
        """
        if self._settings.url is None:
            raise DatabaseUnavailable("no database: set DATABASE_URL", message_zh="未配置数据库:请设置 DATABASE_URL")
        url, patience_s = self._settings.url.get_secret_value(), self._settings.connect_timeout_s
        try:
            conn = await asyncpg.connect(url, timeout=patience_s)
        except NOT_REACHED as exc:
            raise not_reached(url, exc, waited_s=patience_s) from exc
        try:
            for schema in self._schemas:
                await require_current(conn, schema)
        finally:
            await conn.close(timeout=self._settings.connect_timeout_s)

    async def __aexit__(self, *exc: object) -> None:
        """Hold nothing."""
