"""The users that ``deploy/postgres/roles.sql`` makes: each signs in, works in its own schema, and sees no other."""

import os
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from libs.common.db import Database
from libs.common.migrations import migrate
from libs.common.settings import SERVICES, DatabaseSettings
from libs.suite.postgres import bundled_binaries

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]
ROLES = Path(__file__).parents[3] / "deploy" / "postgres" / "roles.sql"


def run_roles(url: str, password: str) -> None:
    ran = subprocess.run(
        [bundled_binaries() / "psql", url, "-X", "-q", "-f", ROLES],
        env={**os.environ, "WATTRING_DB_PASSWORD": password}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def as_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.partition("@")[2] or parse_qs(parts.query)["host"][0]
    if host.startswith("/"):
        return f"postgresql://{user}:{password}@{parts.path}?host={host}"
    return f"postgresql://{user}:{password}@{host}{parts.path}"


async def test_services_sign_in_as_themselves_and_stay_in_their_schema(empty_postgres_url: str) -> None:
    run_roles(empty_postgres_url, "first")
    await migrate(empty_postgres_url, phase="post")
    run_roles(empty_postgres_url, "second")  # again: changes the passwords, nothing else
    for service in SERVICES:
        settings = DatabaseSettings.model_validate({"url": as_user(empty_postgres_url, service, "second")})
        own = Database(settings, schema=service, role=f"wattring_{service}")
        bus = Database(settings, schema="bus", role="wattring_bus")
        for database in (own, bus):
            await database.open()
        try:
            async with own.write() as conn:
                await conn.execute("create table probe (id int)")
            async with bus.read() as conn:
                assert await conn.fetchval("select current_user") == "wattring_bus"
            other = "alarm" if service != "alarm" else "carbon"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with own.read() as conn:
                    await conn.fetch(f"select * from {other}.schema_version")
        finally:
            for database in (own, bus):
                await database.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(as_user(empty_postgres_url, "alarm", "first"))
