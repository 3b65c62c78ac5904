"""Backing services for tests, and the checks that every test is under.

* ``postgres_url``: a fresh database per test, cloned from a template that all migrations have run on. The server is
  the embedded one, one per test process; ``WATTRING_TEST_POSTGRES_BIN`` names the programs of another version
  (``/usr/lib/postgresql/15/bin``), ``WATTRING_TEST_DATABASE_URL`` a server that is there already.
* ``tmp_path`` and the servers' data lie in memory where there is room for them (``/dev/shm``), else where pytest puts
  them; what a passed test wrote is removed with it. ``--basetemp`` chooses another place. ``.ci/demonstration`` is what
  runs on a disk.
* ``kafka_bootstrap``: a real broker: ``KAFKA_BOOTSTRAP_SERVERS``, or one node from ``deploy/kafka``, shared by all
  test processes of a run.
* ``WATTRING_TEST_LONG=1`` gives what has a long form in that form; `make fuzz` does.
* What is missing skips a test at home and fails it with ``CI=true``.
* An async test that leaves a task running fails.
"""

import asyncio
import contextlib
import fcntl
import inspect
import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
import pytest_asyncio

from libs.common.migrations import migrate
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres, PostgresError

ROOT = Path(__file__).parents[1]
SPARED = ROOT / "tests" / "data" / "spared.txt"
LONG = os.environ.get("WATTRING_TEST_LONG") == "1"
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""Free memory from which on folders lie there; all that a whole run writes was 1 GiB. [B]"""

# Examples are not timed: a machine that is busy elsewhere proves nothing. `make fuzz` takes the second profile.
hypothesis.settings.register_profile("wattring", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=20_000)
hypothesis.settings.load_profile("wattring")
_numbers = itertools.count(1)


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it in the pipeline, because a backing service is absent."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"backing service is missing: {what}")
    pytest.skip(what)


def pytest_configure(config: pytest.Config) -> None:
    """Let temporary folders lie in memory, where there is room: a database of ours is a thousand small files."""
    if config.option.basetemp is None and _has_room(IN_MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def _has_room(folder: Path) -> bool:
    """Return whether programs may be written to the folder and run, and memory holds what a whole run writes."""
    try:
        place, memory = os.statvfs(folder), Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return False
    available = re.search(r"^MemAvailable: +(\d+) kB$", memory, re.MULTILINE)
    free = min(place.f_bavail * place.f_frsize, int(available[1]) * 1024 if available else 0)
    return os.access(folder, os.W_OK) and not place.f_flag & os.ST_NOEXEC and free >= ROOM_BYTES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the stories of whole processes: what takes a minute would otherwise end alone."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    spared = set(SPARED.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in spared:
            item.add_marker("spared")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put every async test under ``no_task_left``; the others need no event loop for it."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.fixturenames.insert(0, "no_task_left")


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task running; its other fixtures have been taken down by then."""
    before = asyncio.all_tasks()
    yield
    for _ in range(3):  # tasks that were cancelled and only have to hear of it
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
    assert not left, f"tasks left running: {', '.join(f'{task.get_name()} {task.get_coro()}' for task in left)}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server's administrative database on which this test process may create databases."""
    given = os.environ.get("WATTRING_TEST_DATABASE_URL")
    if given:
        yield given
        return
    binaries = os.environ.get("WATTRING_TEST_POSTGRES_BIN")
    if binaries and not Path(binaries, "postgres").exists():
        missing(f"no PostgreSQL in {binaries}")
    folder = tmp_path_factory.mktemp("postgres")
    server = EmbeddedPostgres(folder, binaries=Path(binaries) if binaries else None, settings=EXPENDABLE)
    try:
        server.start()
    except PostgresError as exc:
        missing(str(exc))
    try:
        yield server.url_of("postgres")
    finally:
        server.stop(timeout_s=10)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of a database with the schemas of all services, to be cloned."""
    name = f"wattring_template_{os.getpid()}"

    async def create() -> None:
        await _statement(postgres_server, f'create database "{name}"')
        await migrate(database_url(postgres_server, name), phase="post")

    asyncio.run(create())
    yield name
    asyncio.run(_statement(postgres_server, f'drop database "{name}" with (force)'))


@pytest.fixture
async def postgres_url(postgres_server: str, postgres_template: str) -> AsyncIterator[str]:
    """URL of a fresh database with the schemas of all services."""
    async for url in _database(postgres_server, f'template "{postgres_template}" strategy file_copy'):
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_postgres_url(postgres_server: str, postgres_template: str) -> AsyncIterator[str]:
    """URL of one database for all tests of a module, which empty what they use themselves."""
    async for url in _database(postgres_server, f'template "{postgres_template}" strategy file_copy'):
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """URL of a fresh database without any schema of ours."""
    async for url in _database(postgres_server, ""):
        yield url


async def _database(server: str, template: str) -> AsyncIterator[str]:
    name = f"wattring_test_{os.getpid()}_{next(_numbers)}"
    await _statement(server, f'create database "{name}" {template}')
    try:
        yield database_url(server, name)
    finally:
        await _statement(server, f'drop database "{name}" with (force)')


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a real broker."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        return given
    worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if worker else tmp_path_factory.getbasetemp()
    address, script = shared / "kafka.address", ROOT / "deploy" / "kafka" / "kafka.sh"
    with (shared / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if address.exists():
            return address.read_text()
        environ = {
            **os.environ,
            "KAFKA_DATA": str(shared / "kafka"),
            "KAFKA_PORT": str(_two_free_ports()),
            "KAFKA_JAVA_OPTS": "-XX:TieredStopAtLevel=1",
        }
        try:
            started = subprocess.run([script, "start"], env=environ, capture_output=True, text=True, timeout=110)
        except (OSError, subprocess.TimeoutExpired) as exc:
            missing(f"Kafka: {exc}")
        if started.returncode != 0:
            missing(f"Kafka: {started.stderr.strip()}")
        # Whoever comes last cannot be known, and a killed run would leave the broker: this one outlives the run, whose
        # end may have taken the folder away.
        run, node = os.getppid() if worker else os.getpid(), (shared / "kafka" / "pid").read_text().strip()
        after = f"""(
            while kill -0 {run}; do sleep 1; done
            kill {node}; while kill -0 {node}; do sleep 1; done
            rm -rf "$0"
        ) </dev/null >/dev/null 2>&1 &"""
        subprocess.run(["/bin/sh", "-c", after, shared / "kafka"], start_new_session=True, timeout=10, check=True)
        address.write_text(started.stdout.strip())
        return address.read_text()


def _two_free_ports() -> int:
    """Return a port that is free and has a free one after it: the broker's and its controller's."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise RuntimeError("no two free ports in a row")


def database_url(server: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    parts = urlsplit(server)
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))


async def _statement(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        await connection.execute(statement, timeout=60)
    finally:
        await connection.close(timeout=10)
