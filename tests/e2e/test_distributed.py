"""The demonstration's story with every service a process of its own, on Apache Kafka and a PostgreSQL server.

Seven processes and the import worker are started as the containers are, each with its own user of the database and
its own keys; the field is the simulators' own process; all is seeded by the gateway's public API and judged by
``wattring demo-report``. Then again with one process killed at a moment that is drawn; ``WATTRING_TEST_KILL_SEED``
repeats a draw, ``WATTRING_TEST_KILL=control@31.5`` names victim and moment (or ``=control`` the victim alone). The
broker is this test's own: topics cannot be shared with other tests.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from libs.suite.cluster import Cluster
from libs.suite.demo import OFF_FOR_S, OPENS_IN_S
from libs.suite.kafka_node import KafkaNode, KafkaNodeError
from libs.suite.ports import free_port
from libs.suite.supervisor import DEMO_SETTINGS, UNIT_PORT_VARIABLE
from tests.conftest import missing
from tests.e2e.distributed_story import (
    VICTIMS,
    Kill,
    SimulatedField,
    Telling,
    drawn,
    everything_once,
    nothing_against_us,
    own_users,
    say,
    switched_off_and_on_once,
)

pytestmark = [
    pytest.mark.e2e, pytest.mark.integration, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(900),
]  # fmt: skip

LONG_OFF_S = 40
"""A shutdown that leaves time for a process to come back: a late OFF is dropped when too little of it is left. [s]"""
SOONER = {"WATTRING_CONTROL__VERIFY_TIMEOUT_S": "20"}
"""An answer that died with the holder of the line is given up within the shutdown, and the breaker is read instead."""
_numbers = itertools.count(1)


@pytest.fixture
async def users(postgres_url: str, postgres_server: str) -> AsyncIterator[dict[str, str]]:
    """URLs of the database for each service's own user."""
    suffix = f"{os.getpid()}_{next(_numbers)}"
    urls = await own_users(postgres_url, suffix)
    yield urls
    conn = await asyncpg.connect(postgres_server, timeout=30)
    try:
        for service in urls:
            await conn.execute(f"drop role {service}_{suffix}")
    finally:
        await conn.close(timeout=10)


async def tell(place: Path, database_url: str, users: dict[str, str], kill: Kill | None, off_for_s: int) -> None:
    """Start everything, let the story happen, and look at what it left."""
    unit_port = free_port()
    environ = {**DEMO_SETTINGS, **SOONER, UNIT_PORT_VARIABLE: str(unit_port)}
    with ExitStack() as stack:
        try:
            node = stack.enter_context(KafkaNode(place / "kafka", "-XX:TieredStopAtLevel=1"))
        except KafkaNodeError as exc:
            missing(f"Kafka: {exc.message}")
        cluster = stack.enter_context(
            Cluster(place, database_url, node.bootstrap, environ=environ, database_urls=users)
        )
        await asyncio.to_thread(cluster.prepare)
        cluster.start()
        field = stack.enter_context(
            SimulatedField(place / "field", f"http://127.0.0.1:{unit_port}/services/FSUService")
        )
        telling = Telling(cluster, field, off_for_s)
        with telling.told_on_failure():
            await asyncio.to_thread(cluster.wait_ready)
            await asyncio.to_thread(telling.tell, kill)
            say(telling.report())
            switched_off_and_on_once(field)
            await everything_once(cluster)
            nothing_against_us(field, telling.outage)
            assert [ending for ending in cluster.endings if not ending.by_us] == []
            assert await asyncio.to_thread(cluster.stop) == dict.fromkeys(cluster.names, 0)


async def test_story_is_told_by_processes_of_their_own(
    tmp_path: Path, postgres_url: str, users: dict[str, str]
) -> None:
    await tell(tmp_path, postgres_url, users, kill=None, off_for_s=OFF_FOR_S)


async def test_story_holds_whoever_is_killed_at_any_moment(
    tmp_path: Path, postgres_url: str, users: dict[str, str]
) -> None:
    kill = drawn("any", VICTIMS, (0.0, OPENS_IN_S + LONG_OFF_S + 5.0))
    await tell(tmp_path, postgres_url, users, kill, off_for_s=LONG_OFF_S)


async def test_story_holds_when_ingest_or_control_is_killed_during_the_shutdown(
    tmp_path: Path, postgres_url: str, users: dict[str, str]
) -> None:
    kill = drawn("shutdown", ("ingest", "control"), (OPENS_IN_S - 1.0, OPENS_IN_S + LONG_OFF_S + 3.0))
    await tell(tmp_path, postgres_url, users, kill, off_for_s=LONG_OFF_S)
