"""What a container runs before its service, and the gate that waits for it."""

import asyncio
import os
import sys

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from libs.common.bus import topics
from libs.common.db import DatabaseUnavailable
from libs.common.migrations import SchemaGate, SchemaOutdated, pending
from libs.common.settings import DatabaseSettings

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def prepare(*arguments: str, **environ: str) -> tuple[int | None, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WATTRING_", "KAFKA_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.common.prepare", *arguments,
        env={**kept, **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def gate(url: str, *schemas: str) -> SchemaGate:
    return SchemaGate(DatabaseSettings.model_validate({"url": url}), *schemas)


@pytest.mark.sql
async def test_gate_opens_when_the_schemas_are_prepared(empty_postgres_url: str) -> None:
    with pytest.raises(SchemaOutdated, match=r"alarm/0001_pre_\w+ .*wattring migrate"):
        await gate(empty_postgres_url, "alarm").__aenter__()
    code, said = await prepare("bus", "alarm", DATABASE_URL=empty_postgres_url)
    assert code == 0, said
    async with gate(empty_postgres_url, "bus", "alarm"):
        assert await pending(empty_postgres_url, ["bus", "alarm"]) == []
    with pytest.raises(SchemaOutdated, match="carbon/0001"):
        await gate(empty_postgres_url, "bus", "alarm", "carbon").__aenter__()


async def test_gate_waits_for_a_database_that_is_away() -> None:
    with pytest.raises(
        DatabaseUnavailable, match=r"database 127\.0\.0\.1:1/db: Connection refused; check DATABASE_URL"
    ):
        await gate("postgresql://u:p@127.0.0.1:1/db", "alarm").__aenter__()


@pytest.mark.kafka
async def test_topics_are_made_where_a_broker_is_named(empty_postgres_url: str, kafka_bootstrap: str) -> None:
    for _ in range(2):  # a second replica finds them made
        code, said = await prepare("bus", DATABASE_URL=empty_postgres_url, KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap)
        assert code == 0, said
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        assert set(await admin.list_topics()) >= set(topics.ALL)
    finally:
        await admin.close()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "no database: set DATABASE_URL"),
        (
            {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/db"},
            "database 127.0.0.1:1/db: Connection refused; check DATABASE_URL",
        ),
        ({"WATTRING_DATABSE__URL": "x"}, "there is no such setting"),
    ],
)
async def test_what_is_wrong_is_one_line_and_an_error(environ: dict[str, str], reason: str) -> None:
    code, said = await prepare(**environ)
    assert code == 1
    assert reason in said
    assert "Traceback" not in said


async def test_absent_database_is_no_error_where_it_must_not_hold_up_what_comes_after() -> None:
    code, said = await prepare("--if-reachable", DATABASE_URL="postgresql://u:p@127.0.0.1:1/db")
    assert code == 0
    assert "left unprepared" in said
    code, said = await prepare("--if-reachable")
    assert code == 1, "that none is named is a mistake, which waiting does not mend"
