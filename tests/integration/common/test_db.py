"""The pool on a real server: who may see what, what an error means, and how it comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.db import Database, DatabaseBusy, DatabaseUnavailable, UnstorableText
from libs.common.errors import NotFound
from libs.common.settings import SERVICES, DatabaseSettings
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


def settings(url: str, **changes: float) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": url, "pool_max": 3, **changes})


@asynccontextmanager
async def opened(db: Database) -> AsyncIterator[Database]:
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
async def db(empty_postgres_url: str) -> AsyncIterator[Database]:
    """A pool of a user who may do everything, with one table."""
    async with opened(Database(settings(empty_postgres_url), schema="public")) as found:
        async with found.statements() as conn:
            await conn.execute("create table things (id integer primary key, name text)")
            await conn.execute("insert into things values (1, 'one'), (2, 'two')")
        yield found


async def names(db: Database) -> list[str]:
    async with db.read() as conn:
        return [row["name"] for row in await conn.fetch("select name from things order by id")]


# -- who may see what -----------------------------------------------------------------------------


async def test_a_service_sees_its_own_schema_and_no_others(postgres_url: str) -> None:
    async with opened(Database(settings(postgres_url), schema="alarm", role="wattring_alarm")) as db:
        async with db.write() as conn:
            assert await conn.fetchval("select current_user") == "wattring_alarm"
            await conn.execute("create table mine (id integer)")
            assert await conn.fetchval("select 'mine'::regclass::oid = 'alarm.mine'::regclass::oid")
        for other in (name for name in SERVICES if name != "alarm"):
            table = f'"{other}".schema_version'
            for statement in (
                f"select * from {table}",
                f"update {table} set version_num = 'x'",
                f"create table {other}.mine (id integer)",
            ):
                async with db.read() as conn:
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await conn.fetch(statement)
        async with db.read() as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch("select * from pg_authid")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute("create table public.mine (id integer)")


@pytest.mark.parametrize("use", [Database.statements, Database.listen])
async def test_what_one_user_of_a_connection_sets_the_next_does_not_inherit(
    postgres_url: str, use: Callable[[Database], AbstractAsyncContextManager[Any]]
) -> None:
    db = Database(settings(postgres_url, pool_max=1), schema="alarm", role="wattring_alarm")
    async with opened(db):
        async with use(db) as conn:
            pid = await conn.fetchval("select pg_backend_pid()")
            await conn.execute("set search_path = public; set statement_timeout = 1234")
        async with db.read() as conn:
            assert await conn.fetchval("select pg_backend_pid()") == pid
            assert await conn.fetchval("show search_path") == "alarm,public"
            assert await conn.fetchval("show statement_timeout") == "0"
            assert await conn.fetchval("select current_user") == "wattring_alarm"
            assert await conn.fetchval("show application_name") == "wattring-alarm"


# -- transactions ---------------------------------------------------------------------------------


async def test_a_write_is_kept_when_its_block_ends_and_undone_when_it_fails(db: Database) -> None:
    async with db.write() as conn:
        await conn.execute("insert into things values (3, 'three')")

    async def fail() -> None:
        async with db.write() as conn:
            await conn.execute("insert into things values (4, 'four')")
            raise NotFound("nothing there")

    with pytest.raises(NotFound):
        await fail()
    assert await names(db) == ["one", "two", "three"]


async def test_statements_are_transactions_of_their_own(db: Database) -> None:
    async def fail() -> None:
        async with db.statements() as conn:
            await conn.execute("insert into things values (3, 'three')")
            raise NotFound("nothing there")

    with pytest.raises(NotFound):
        await fail()
    assert await names(db) == ["one", "two", "three"]


async def test_json_goes_in_and_out_as_values(db: Database) -> None:
    value = {"a": [1, 2.5, None, "中"], "b": {"c": True}}
    async with db.read() as conn:
        assert await conn.fetchval("select $1::jsonb", value) == value
        assert await conn.fetchval("select $1::json", value) == value


async def test_a_frozen_consumer_does_not_hold_its_locks(empty_postgres_url: str, db: Database) -> None:
    frozen = Database(settings(empty_postgres_url, effects_idle_timeout_s=0.2), schema="public")

    async def freeze(locked: asyncio.Event, thaw: asyncio.Event) -> None:
        async with frozen.effects() as conn:
            await conn.execute("update things set name = 'frozen' where id = 1")
            locked.set()
            await thaw.wait()
            await conn.execute("update things set name = 'too late' where id = 2")

    async with opened(frozen):
        locked, thaw = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(freeze(locked, thaw))
        await locked.wait()
        async with asyncio.timeout(20), db.write() as conn:  # waits for the server to end the frozen transaction
            await conn.execute("update things set name = 'taken over' where id = 1")
        thaw.set()
        with pytest.raises(DatabaseUnavailable):
            await task
        assert await names(db) == ["taken over", "two"]
        async with frozen.effects() as conn:  # thawed: a new connection, the timeout is gone with the old one
            assert await conn.fetchval("select name from things where id = 1") == "taken over"
        async with frozen.write() as conn:
            assert await conn.fetchval("show idle_in_transaction_session_timeout") == "0"


# -- what an error means --------------------------------------------------------------------------


async def test_a_statement_that_takes_too_long_is_busy_and_leaves_the_connection_usable(
    empty_postgres_url: str,
) -> None:
    slow = Database(settings(empty_postgres_url, command_timeout_s=0.2, pool_max=1), schema="public")

    async def ours() -> None:
        async with slow.write() as conn:
            await conn.execute("select pg_sleep(60)")

    async def the_servers() -> None:
        async with slow.write() as conn:
            await conn.execute("set local statement_timeout = 50")
            await conn.execute("select pg_sleep(60)", timeout=30)

    async with opened(slow):
        with pytest.raises(DatabaseBusy, match=r"a statement took longer than 0\.2 s"):
            await ours()
        with pytest.raises(DatabaseBusy, match="statement timeout"):
            await the_servers()
        async with slow.read() as conn:
            assert await conn.fetchval("select 1") == 1


async def test_a_deadlock_is_busy(empty_postgres_url: str, db: Database) -> None:
    both_hold = asyncio.Barrier(2)

    async def take(first: int, second: int) -> None:
        async with db.write() as conn:
            await conn.execute("set local deadlock_timeout = '50ms'")
            await conn.execute("update things set name = 'x' where id = $1", first)
            await both_hold.wait()
            await conn.execute("update things set name = 'x' where id = $1", second)

    outcomes = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DatabaseBusy", "NoneType"]


@pytest.mark.parametrize(
    "statement",
    ["insert into things values (3, $1)", "insert into things values (3, jsonb_build_object('name', $1::text))"],
)
async def test_a_text_that_cannot_be_stored_is_the_callers_to_change(db: Database, statement: str) -> None:
    with pytest.raises(UnstorableText, match="cannot be stored"):
        async with db.write() as conn:
            await conn.execute(statement, "nul \x00 inside")


async def test_a_wrong_statement_is_a_bug_and_no_absent_server(db: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        async with db.read() as conn:
            await conn.fetch("select * from nothing")
    with pytest.raises(asyncpg.DataError):
        async with db.read() as conn:
            await conn.fetchval("select $1::integer", "no number")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with db.write() as conn:
            await conn.execute("insert into things values (1, 'again')")


async def test_a_misuse_of_the_connection_is_a_bug_and_no_absent_server(db: Database) -> None:
    with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
        async with db.read() as conn:
            await asyncio.gather(conn.fetch("select pg_sleep(0.05)"), conn.fetch("select 1"))
    async with db.read() as conn:
        kept = conn
    with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
        async with db.read():
            await kept.fetchval("select 1")
    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        async with db.read() as conn:
            await conn.fetchval("select $1::integer", 1, 2)


@pytest.mark.parametrize("mine", [TimeoutError("mine"), FileNotFoundError("mine"), ValueError("mine")])
async def test_an_error_of_the_blocks_own_passes_through(db: Database, mine: Exception) -> None:
    with pytest.raises(type(mine), match="mine"):
        async with db.write():
            raise mine


async def test_a_timeout_of_the_blocks_own_around_a_statement_stays_a_timeout(db: Database) -> None:
    with pytest.raises(TimeoutError):
        async with db.read() as conn, asyncio.timeout(0.05):
            await conn.execute("select pg_sleep(60)")
    assert await names(db) == ["one", "two"]


async def test_a_cancelled_block_gives_its_connection_back(empty_postgres_url: str) -> None:
    db = Database(settings(empty_postgres_url, pool_max=1), schema="public")
    async with opened(db):
        started = asyncio.Event()

        async def work() -> None:
            async with db.write() as conn:
                started.set()
                await conn.execute("select pg_sleep(60)")

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with db.read() as conn:
            assert await conn.fetchval("select 1") == 1


async def test_no_free_connection_is_said_within_the_time_to_connect(empty_postgres_url: str) -> None:
    db = Database(settings(empty_postgres_url, pool_max=2, connect_timeout_s=0.3), schema="public")
    async with opened(db), db.read(), db.read():
        with pytest.raises(DatabaseUnavailable, match=r"all 2 connections were in use for 0\.3 s") as caught:
            await db.check()
        assert "全部 2 个连接" in (caught.value.message_zh or "")


@pytest.mark.parametrize("how", ["by another", "by itself"])
async def test_a_session_that_the_server_ended_is_away_and_the_next_one_works(db: Database, how: str) -> None:
    async def work() -> None:
        async with db.write() as conn, db.read() as other:
            pid = await conn.fetchval("select pg_backend_pid()")
            await (conn if how == "by itself" else other).execute("select pg_terminate_backend($1)", pid)
            await conn.execute("select 1")

    with pytest.raises(DatabaseUnavailable):
        await work()
    assert await names(db) == ["one", "two"]


async def test_idle_sessions_that_the_server_ended_do_not_fail_for_long(db: Database) -> None:
    async with db.read(), db.read(), db.read():
        pass  # all three connections exist and are idle
    async with db.read() as conn:
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 "
            "and pid <> pg_backend_pid()",
            "wattring-public",
        )
    failures = 0
    for _ in range(10):
        try:
            assert await names(db) == ["one", "two"]
        except DatabaseUnavailable:
            failures += 1
    assert failures <= 2  # those whose end had not been noticed yet


async def test_a_pool_that_closes_under_its_user_is_away(empty_postgres_url: str) -> None:
    db = Database(settings(empty_postgres_url), schema="public")
    await db.open()

    async def close_within() -> None:
        async with db.read():
            closing.append(asyncio.create_task(db.close()))
            await asyncio.sleep(0)
            await db.check()

    closing: list[asyncio.Task[None]] = []
    with pytest.raises(DatabaseUnavailable, match="not connected"):
        await close_within()
    await closing[0]
    with pytest.raises(DatabaseUnavailable, match="not connected"):
        await db.check()


# -- reaching the server --------------------------------------------------------------------------


def other(url: str, change: Callable[[str], str]) -> str:
    changed = change(url)
    assert changed != url
    return changed


async def refused(db: Database) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        await db.open()
    with pytest.raises(DatabaseUnavailable, match="not connected"):
        await db.check()
    return caught.value.message


async def test_whatever_keeps_us_out_is_said_without_the_password(empty_postgres_url: str) -> None:
    password = empty_postgres_url.partition(":")[2].partition(":")[2].partition("@")[0]
    assert len(password) > 20
    database = empty_postgres_url.partition("@/")[2].partition("?")[0]
    wrong = other(empty_postgres_url, lambda url: url.replace(password, "hunter2"))
    absent = other(empty_postgres_url, lambda url: url.replace(database, "absent"))
    nowhere = other(empty_postgres_url, lambda url: url.replace("host=", "host=/nowhere"))
    assert "password authentication failed" in await refused(Database(settings(wrong), schema="public"))
    assert '"absent" does not exist' in await refused(Database(settings(absent), schema="public"))
    assert "No such file" in await refused(Database(settings(nowhere), schema="public"))
    message = await refused(Database(settings(empty_postgres_url), schema="public", role="wattring_nobody"))
    assert 'role "wattring_nobody" does not exist' in message
    assert message.startswith(f"database local socket:5432/{database}: ")
    for url in (wrong, absent, nowhere):
        assert password not in await refused(Database(settings(url), schema="public"))
    with pytest.raises(DatabaseUnavailable, match="no database: set DATABASE_URL"):
        await Database(DatabaseSettings(), schema="public").open()


async def test_a_server_that_takes_the_call_and_says_nothing_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        silent = Database(settings(f"postgresql://u:p@127.0.0.1:{port}/x", connect_timeout_s=0.2), schema="public")
        assert await refused(silent) == f"database 127.0.0.1:{port}/x: no answer within 0.2 s; check DATABASE_URL"


async def test_opening_twice_keeps_the_pool(db: Database) -> None:
    async with db.read() as conn:
        await db.open()
        assert await conn.fetchval("select 1") == 1
    assert await names(db) == ["one", "two"]


async def test_it_comes_back_after_the_server_did(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", settings=EXPENDABLE)
    await asyncio.to_thread(server.start)
    try:
        db = Database(settings(server.url_of("postgres"), connect_timeout_s=2.0), schema="public")
        async with opened(db):
            for end in (server.stop, server.kill):
                async with db.read(), db.read():
                    await db.check()
                await asyncio.to_thread(end)
                for _ in range(5):  # the pool's old connections one after the other, then the absent socket
                    with pytest.raises(DatabaseUnavailable):
                        await db.check()
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await db.check()
                        except DatabaseUnavailable:
                            await asyncio.sleep(0.05)
                        else:
                            break
                async with db.write() as conn:
                    assert await conn.fetchval("select 1") == 1
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:hunter2@db.example:6432/name", "db.example:6432/name"),
        ("postgresql://u:hunter2@db.example/name", "db.example:5432/name"),
        ("postgresql://u:hunter2@a:5432,b:5433/name", "a:5432,b:5433/name"),
        ("postgresql://u:hunter2@[::1]:5433/name", "[::1]:5433/name"),
        (f"postgresql://u:hunter2@/name?host={quote('/run/pg')}", "local socket:5432/name"),
        ("postgresql:///name", "local socket:5432/name"),
    ],
)
def test_a_place_is_named_without_credentials(url: str, place: str) -> None:
    assert Database(DatabaseSettings(url=SecretStr(url)), schema="public").place == place
