"""How many callbacks a second one process of export makes, with one receiver of a hundred dead.

The database is a server of our own, the receivers are one process with a socket that answers and one that never does.
Events are handed to the consumer's handler in portions, as a group would; everything behind it is the product's own:
queues, claims, signatures, calls over HTTP, the delivery log.

    python -m libs.suite.bench_callbacks [events]
"""

import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent
from libs.common.db import Database
from libs.common.ids import CommandId, LoadId, SiteId
from libs.common.migrations import migrate
from libs.common.outgoing import AddressGuard
from libs.common.settings import DatabaseSettings
from libs.suite import processor
from libs.suite.postgres import EmbeddedPostgres
from services.export.callbacks.outlet import Outlet
from services.export.domain.callbacks import Choice, NewsType
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import CallbackAdministration, Caller, Wish
from services.export.worker.callback_queue import CallbackQueue
from services.export.worker.callbacks import Callbacks

EVENTS = 300
ENDPOINTS = 100
PORTION = 20
"""Events in one transaction of the consumer."""
PATIENCE_S = 600.0
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class _Nowhere:
    def places_of(self, site_id: str) -> frozenset[str]:
        return frozenset({site_id})

    def kind_of(self, _: str) -> None:
        return None


async def receivers() -> None:
    """Be the receivers: say the two ports, then the number of calls each time somebody asks by a line."""
    count = 0

    async def alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(ANSWER)
                count += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def dead(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    servers = [await asyncio.start_server(each, "127.0.0.1", 0) for each in (alive, dead)]
    _say(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers))
    while await asyncio.to_thread(sys.stdin.readline):
        _say(str(count))


async def run(events: int) -> dict[str, float]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        await asyncio.to_thread(server.start)
        try:
            await migrate(server.url, ["bus", "export"], phase="post")
            assert server.pid is not None  # noqa: S101 - it has been started
            return await _measure(server.url, server.pid, Path(folder), events)
        finally:
            await asyncio.to_thread(server.stop, timeout_s=20)


async def _measure(url: str, server: int, folder: Path, events: int) -> dict[str, float]:
    clock = SystemClock()
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    guard = AddressGuard(["127.0.0.1"])
    outlet = Outlet(guard, clock)
    secrets = Secrets.open(None, folder)
    sender = Callbacks(
        db=db, clock=clock, outlet=outlet, secrets=secrets, owner="bench", poll_s=0.5, committed=lambda: None
    )
    administration = CallbackAdministration(
        db=db, clock=clock, secrets=secrets, guard=guard, outlet=outlet, max_endpoints=1000, changed=sender.changed
    )
    handler = CallbackQueue(clock, _Nowhere(), wake=sender.wake)
    peers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.suite.bench_callbacks", "--receivers", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert peers.stdin is not None and peers.stdout is not None  # noqa: S101, PT018  # both are pipes
    try:
        alive, dead = (await peers.stdout.readline()).split()
        choice = Choice(frozenset({NewsType.COMMAND_RESULT}))
        for number in range(ENDPOINTS):
            place = f"http://127.0.0.1:{int(dead if number == 0 else alive)}/{number}"
            caller = Caller(Actor("key:bench", None), None, sees_all=True)
            await administration.create(Wish(str(number), place, choice, 8, 15.0), caller, owner=None)
        working = asyncio.create_task(sender.run(lambda: None))
        began, cpu, database_cpu = time.perf_counter(), time.process_time(), _database_s(server)
        for first in range(0, events, PORTION):
            batch = [_event(number) for number in range(first, min(first + PORTION, events))]
            async with db.effects() as conn:
                await handler.handle(conn, batch)
            handler.committed()
        queued_s = time.perf_counter() - began
        wanted, made = events * (ENDPOINTS - 1), 0
        while made < wanted:
            if time.perf_counter() - began > PATIENCE_S:
                raise TimeoutError(f"{made} of {wanted} callbacks after {PATIENCE_S:g} s")
            await asyncio.sleep(0.05)
            peers.stdin.write(b"\n")
            made = int(await peers.stdout.readline())
        took_s = time.perf_counter() - began
        used_s, database_s = time.process_time() - cpu, _database_s(server) - database_cpu
        working.cancel()
        await asyncio.wait([working])
    finally:
        peers.kill()
        await peers.wait()
        await outlet.close()
        await db.close()
    return {
        "callbacks": made, "seconds": round(took_s, 2), "callbacks_per_s": round(made / took_s),
        "queued_s": round(queued_s, 2), "cpu_ms_per_callback": round(1000 * used_s / made, 3),
        "database_cpu_ms_per_callback": round(1000 * database_s / made, 3),
    }  # fmt: skip


def _database_s(pid: int) -> float:
    return processor.used_s({"postgres": pid})["postgres"]


def _event(number: int) -> Received:
    now = datetime.now(UTC)
    event = ControlEvent(
        site_id=SiteId(f"s-{number % 50}"), state=CommandState.SUCCEEDED, at=now, reason="",
        command_id=CommandId(f"c-{number}"), load_id=LoadId(f"l-{number % 200}"), action=CommandAction.CLOSE,
        actor="key:bench",
    )  # fmt: skip
    message = envelope.message(topics.CONTROL_EVENTS, event.site_id, event, source="control", time=now)
    return Received(message.topic, 0, number, message.key, message.value, message.headers, now)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["--receivers"]:
        uvloop.run(receivers())
    else:
        _say(json.dumps(uvloop.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))))
