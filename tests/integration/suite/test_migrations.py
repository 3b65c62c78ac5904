"""Schemas, roles and phases on a real server."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from libs.common import migrations
from libs.common.migrations import (
    MigrationFailed,
    SchemaOutdated,
    installed_schemas,
    migrate,
    pending,
    require_current,
    revisions,
    version,
)

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

REVISION = '''"""For a test."""

from alembic import op

revision = "{number}"
down_revision = {previous!r}


def upgrade() -> None:
{body}
'''


class Chain:
    """Revisions of the service ``alarm`` in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def add(self, phase: str, *statements: str) -> None:
        self._count += 1
        body = "\n".join(f"    op.execute({statement!r})" for statement in statements)
        previous = f"{self._count - 1:04d}" if self._count > 1 else None
        text = REVISION.format(number=f"{self._count:04d}", previous=previous, body=body)
        (self.folder / f"{self._count:04d}_{phase}_change.py").write_text(text)


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    # A percent sign, as in a folder that somebody named so: Alembic's configuration treats it specially.
    folder = tmp_path / "100% done"
    folder.mkdir()
    monkeypatch.setattr(migrations, "folder_of", lambda service: folder)
    return Chain(folder)


async def fetch(url: str, query: str, *, role: str | None = None) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url, server_settings={"role": role} if role else {})
    try:
        return [tuple(row.values()) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_every_installed_chain_applies_to_an_empty_database_and_then_nothing_is_pending(
    empty_postgres_url: str,
) -> None:
    applied = await migrate(empty_postgres_url, phase="post")
    assert applied == [revision.name for service in installed_schemas() for revision in revisions(service)]
    assert await pending(empty_postgres_url) == []
    assert await migrate(empty_postgres_url, phase="post") == []


async def test_new_schema_goes_all_the_way_and_a_later_release_stops_before_post(
    empty_postgres_url: str, chain: Chain
) -> None:
    chain.add("pre", "create table states (id int primary key, old int)")
    chain.add("post", "alter table states drop column old")
    assert await migrate(empty_postgres_url, ["alarm"]) == ["alarm/0001_pre_change", "alarm/0002_post_change"]

    chain.add("pre", "alter table states add column new int")
    chain.add("post", "alter table states drop column new")
    assert await migrate(empty_postgres_url, ["alarm"]) == ["alarm/0003_pre_change"]
    assert [revision.name for revision in await pending(empty_postgres_url, ["alarm"])] == ["alarm/0004_post_change"]
    assert await migrate(empty_postgres_url, ["alarm"], phase="post") == ["alarm/0004_post_change"]


async def test_pre_behind_a_forgotten_post_is_refused_with_the_command(empty_postgres_url: str, chain: Chain) -> None:
    chain.add("pre", "create table states (id int)")
    await migrate(empty_postgres_url, ["alarm"])
    chain.add("post", "drop table states")
    chain.add("pre", "create table others (id int)")
    with pytest.raises(MigrationFailed, match=r"0003_pre_change waits behind alarm/0002_post_change.*--phase post"):
        await migrate(empty_postgres_url, ["alarm"])
    async with asyncio.timeout(5):
        assert await fetch(empty_postgres_url, "select version_num from alarm.schema_version") == [("0001",)]


async def test_failed_revision_leaves_nothing_and_keeps_what_came_before(empty_postgres_url: str, chain: Chain) -> None:
    chain.add("pre", "create table first (id int)")
    chain.add("pre", "create table second (id int)", "create table second (id int)")
    with pytest.raises(MigrationFailed, match=r"alarm/0002_pre_change: .*already exists"):
        await migrate(empty_postgres_url, ["alarm"])
    tables = await fetch(empty_postgres_url, "select tablename from pg_tables where schemaname = 'alarm' order by 1")
    assert tables == [("first",), ("schema_version",)]


async def test_services_role_owns_its_schema_uses_the_bus_and_sees_no_other(empty_postgres_url: str) -> None:
    await migrate(empty_postgres_url, ["bus", "alarm", "carbon"], phase="post")
    role = "wattring_alarm"
    await fetch(empty_postgres_url, "create table alarm.probe (id int)", role=role)
    await fetch(empty_postgres_url, "create table bus.probe (id int)", role=role)
    for forbidden in ("create table carbon.probe (id int)", "create schema another"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fetch(empty_postgres_url, forbidden, role=role)
    await fetch(empty_postgres_url, "create table carbon.secret (id int)", role="wattring_carbon")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(empty_postgres_url, "select * from carbon.secret", role=role)
    owners = await fetch(
        empty_postgres_url,
        "select distinct tableowner from pg_tables where schemaname = 'alarm'",
    )
    assert owners == [("wattring_alarm",)]


async def test_user_without_superuser_rights_migrates_when_it_may_create_roles(
    postgres_server: str, empty_postgres_url: str, chain: Chain
) -> None:
    chain.add("pre", "create table states (id int)")
    parts = empty_postgres_url.split("//", 1)[1].partition("@")[2]
    password = empty_postgres_url.split(":", 2)[2].split("@", 1)[0]
    login = f"migrator_{empty_postgres_url.split('?')[0].rsplit('/', 1)[1]}"
    await fetch(postgres_server, f"create role {login} login createrole password '{password}'")
    database = parts.split("?")[0].lstrip("/").rsplit("/", 1)[-1]
    await fetch(postgres_server, f'alter database "{database}" owner to {login}')
    try:
        # Roles are the server's: in this run they may exist already, made by the superuser.
        for service in ("bus", "alarm"):
            await migrate(empty_postgres_url, [service])
            await fetch(postgres_server, f"grant wattring_{service} to {login}")
        limited = f"postgresql://{login}:{password}@{parts}"
        chain.add("pre", "create table more (id int)")
        assert await migrate(limited, ["alarm"]) == ["alarm/0002_pre_change"]
    finally:
        await fetch(postgres_server, f'alter database "{database}" owner to current_user')
        await fetch(postgres_server, f"drop owned by {login}")
        await fetch(postgres_server, f"drop role {login}")


async def test_two_migrations_at_once_apply_each_revision_once(empty_postgres_url: str, chain: Chain) -> None:
    chain.add("pre", "create table states (id int)")
    chain.add("pre", "create table more (id int)")
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(migrate(empty_postgres_url, ["alarm"])) for _ in range(3)]
    applied = [name for run in runs for name in run.result()]
    assert sorted(applied) == ["alarm/0001_pre_change", "alarm/0002_pre_change"]


async def test_change_that_cannot_have_its_lock_gives_way_and_tries_again(
    empty_postgres_url: str, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.add("pre", "create table states (id int)")
    await migrate(empty_postgres_url, ["alarm"])
    chain.add("pre", "alter table states add column more int")
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_S", 0.1)
    blocker = await asyncpg.connect(empty_postgres_url)
    refused = asyncio.Event()

    async def release_after_a_refusal(_pause_s: float) -> None:
        if not blocker.is_closed():
            await blocker.close()
        refused.set()

    try:
        await blocker.execute("begin")
        await blocker.execute("lock table alarm.states in access share mode")
        monkeypatch.setattr(migrations, "_pause", release_after_a_refusal)
        assert await migrate(empty_postgres_url, ["alarm"]) == ["alarm/0002_pre_change"]
        assert refused.is_set()
    finally:
        await blocker.close()


async def test_readiness_names_the_missing_revision_and_accepts_a_newer_database(
    empty_postgres_url: str, chain: Chain
) -> None:
    chain.add("pre", "create table states (id int)")
    connection = await asyncpg.connect(empty_postgres_url)
    try:
        with pytest.raises(SchemaOutdated, match=r"alarm/0001_pre_change .*wattring migrate"):
            await require_current(connection, "alarm")
        await migrate(empty_postgres_url, ["alarm"])
        await require_current(connection, "alarm")
        await connection.execute("update alarm.schema_version set version_num = '0007'")
        await require_current(connection, "alarm")
        assert await migrate(empty_postgres_url, ["alarm"]) == []
        assert await version(connection, "alarm") == "0007"
    finally:
        await connection.close()


def test_misnamed_or_missing_number_is_named(chain: Chain) -> None:
    chain.add("pre", "select 1")
    (chain.folder / "0003_pre_gap.py").write_text("")
    with pytest.raises(MigrationFailed, match=r"0003_pre_gap: expected number 0002"):
        revisions("alarm")
    (chain.folder / "0002-later.py").write_text("")
    with pytest.raises(MigrationFailed, match=r"0002-later\.py is not named"):
        revisions("alarm")
