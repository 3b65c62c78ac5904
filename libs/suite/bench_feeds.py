"""How many points a second one process of export tells two parties (数据双送), each in numbered batches by HTTP.

The database is a server of our own, the parties are one process with two sockets that answer. Readings are handed to
the consumer's handler in transactions of its size, as a group would; everything behind it is the product's own:
canonical rows and their tallies, batches in the database, two destinations with a bearer token over real connections,
the delivery log. In the end both parties have every batch, and the day's statement has every row.

    python -m libs.suite.bench_feeds [points]
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import uvloop
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import Reading
from libs.common.db import Database
from libs.common.ids import DeviceId, SiteId
from libs.common.migrations import migrate
from libs.common.outgoing import AddressGuard
from libs.common.settings import DatabaseSettings
from libs.suite.postgres import EmbeddedPostgres
from services.export.domain.feeds import DestinationKind, Egress, Feed, Format, Selection
from services.export.domain.rows import DAY_ZONE
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from services.export.usecases.feeds import DestinationWish, FeedAdministration, FeedWish
from services.export.worker.feed_cutter import MAX_BATCH, FeedCutter
from services.export.worker.feed_telling import FeedTelling

POINTS = 1_500_000
POINTS_OF_READING = 30
DEVICES = 1000
PARTIES = 2
PATIENCE_S = 600.0
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BEGAN = datetime(2026, 3, 8, 2, 0, tzinfo=UTC)


class _Nowhere:
    def places_of(self, site_id: str) -> frozenset[str]:
        return frozenset({site_id})


async def parties() -> None:
    """Be the parties: say their ports, then the rows that each has, every time somebody asks by a line."""
    rows = [0] * PARTIES

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(_field(head, b"content-length"))
                writer.write(ANSWER)
                rows[number] += _field(head, b"wattring-rows")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    servers = [
        await asyncio.start_server(partial(serve, number), "127.0.0.1", 0, limit=1 << 22) for number in range(PARTIES)
    ]
    _say(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers))
    while await asyncio.to_thread(sys.stdin.readline):
        _say(" ".join(str(each) for each in rows))


def _field(head: bytes, name: bytes) -> int:
    return int(head.partition(name + b": ")[2].partition(b"\r\n")[0])


async def run(points: int) -> dict[str, float]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        await asyncio.to_thread(server.start)
        try:
            await migrate(server.url, ["bus", "export"], phase="post")
            return await _measure(server.url, Path(folder), points)
        finally:
            await asyncio.to_thread(server.stop, timeout_s=20)


async def _measure(url: str, folder: Path, points: int) -> dict[str, float]:
    clock = SystemClock()
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    guard = AddressGuard(["127.0.0.1"])
    secrets = Secrets.open(None, folder)
    telling = FeedTelling(
        db=db, clock=clock, guard=guard, secrets=secrets, owner="bench", lease_s=30.0, poll_s=0.5, max_bytes=1 << 40,
        committed=lambda: None,
    )  # fmt: skip
    administration = FeedAdministration(
        db=db, clock=clock, secrets=secrets, guard=guard, max_feeds=10, max_destinations=10, changed=telling.wake
    )
    cutter = FeedCutter(clock, _Nowhere(), wake=telling.wake)
    peers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.suite.bench_feeds", "--parties", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert peers.stdin is not None and peers.stdout is not None  # noqa: S101, PT018  # both are pipes
    try:
        ports = [int(each) for each in (await peers.stdout.readline()).split()]
        feed = await _feed(administration, ports)
        arrivals = list(_arrivals(points))
        told = sum(len(each) for each in arrivals) * POINTS_OF_READING
        working = asyncio.create_task(telling.run(lambda: None))
        began, cpu = time.perf_counter(), time.process_time()
        for arrived in arrivals:
            async with db.effects() as conn:
                await cutter.handle(conn, arrived)
            cutter.committed()
        cut_s = time.perf_counter() - began
        have = 0
        while have < told:
            if time.perf_counter() - began > PATIENCE_S:
                raise TimeoutError(f"{have} of {told} points after {PATIENCE_S:g} s")
            await asyncio.sleep(0.05)
            peers.stdin.write(b"\n")
            have = min(int(each) for each in (await peers.stdout.readline()).split())
        took_s = time.perf_counter() - began
        used_s = time.process_time() - cpu
        await _check(administration, feed, told)
        working.cancel()
        await asyncio.wait([working])
    finally:
        peers.kill()
        await peers.wait()
        await db.close()
    return {
        "points": told, "seconds": round(took_s, 2), "points_per_s": round(told / took_s), "cut_s": round(cut_s, 2),
        "cpu_us_per_point": round(1e6 * used_s / told, 2),
    }  # fmt: skip


CALLER = Caller(Actor("user:bench", None), None, sees_all=True)


async def _feed(administration: FeedAdministration, ports: list[int]) -> Feed:
    feed = await administration.create(FeedWish("bench", Selection(), 5000, 1.0, 3600.0), CALLER)
    for port in ports:
        wish = DestinationWish(
            name=str(port), kind=DestinationKind.HTTP, egress=Egress(), format=Format(), timeout_s=30.0,
            address={"url": f"http://127.0.0.1:{port}/", "auth": "bearer"}, min_interval_s=0.0, party=None,
            secrets={"token": "a-token-of-the-bench"},
        )  # fmt: skip
        await administration.add(feed.id, wish, CALLER, from_batch=None)
    return feed


def _arrivals(points: int) -> Iterator[list[Received]]:
    """Yield what one transaction of the consumer brings: readings of meters, each of some thirty points."""
    arrived: list[Received] = []
    later = datetime.now(UTC) + timedelta(hours=1)  # the feed has what comes after it was made
    for number in range(points // POINTS_OF_READING):
        at = BEGAN + timedelta(seconds=number // DEVICES)
        site = SiteId(f"site-{number % DEVICES // 10}")
        values = {
            f"point_{n}": round((number * 7919 + n * 104729) % 400_000 / 1000, 3) for n in range(POINTS_OF_READING)
        }
        reading = Reading(
            device_id=DeviceId(f"meter-{number % DEVICES}"), site_id=site, source_time=at, received_at=at,
            driver="modbus", points=values,
        )  # fmt: skip
        message = envelope.message(topics.READINGS, site, reading, source="bench", time=at)
        arrived.append(Received(message.topic, 0, number, message.key, message.value, message.headers, later))
        if len(arrived) == MAX_BATCH:
            yield arrived
            arrived = []
    if arrived:
        yield arrived


async def _check(administration: FeedAdministration, feed: Feed, told: int) -> None:
    """Wait until all is written down, and hold the statement against what was told."""
    async with asyncio.timeout(60):
        while True:
            statement = await administration.statement(feed.id, BEGAN.astimezone(DAY_ZONE).date(), CALLER, through=None)
            if all(not side.missing for side in statement.sides):
                break
            await asyncio.sleep(0.05)
    if statement.whole.rows != told or any(side.tally != statement.whole for side in statement.sides):
        raise AssertionError("the statement does not have what was told")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["--parties"]:
        uvloop.run(parties())
    else:
        _say(json.dumps(uvloop.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else POINTS))))
