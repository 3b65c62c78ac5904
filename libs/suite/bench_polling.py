"""A thousand Modbus TCP meters, each asked once a second by ingest on one core; some of them slow or dead."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import asyncpg
import httpx

from libs.suite.bench_ingest import PERIOD_S, Running, registry_of, running_ingest
from services.ingest.domain.polling import offset_s

WARM_UP_S = 15.0
WATCHED_S = 30.0
STORED_WITHIN_S = 30.0
EARLY_S = 0.05
DEAD_SHARE = 5
"""One meter in so many is dead, where some are."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Polling:
    """What a round of polling showed."""

    points_per_s: float
    overruns: float
    """Share of the polls that were due and could not be done. [1]"""
    lateness_p50_s: float
    """Of the answers, against their slots. [s]"""
    lateness_p99_s: float
    core: float
    """Part of its core that ingest used. [1]"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the simulated meters are; ``bench_slaves.py`` says what each does."""

    prompt: int
    slow: int
    silent: int
    refusing: int
    unreachable: int


class Field(Enum):
    """How the meters behave."""

    PROMPT = "all answer at once"
    SLOW = "all answer after 20 ms"
    SOME_DEAD = "one in five is dead: a third of these says nothing, a third refuses, a third cannot be reached"

    def port_of(self, ports: Ports) -> Callable[[int], int]:
        """Return where meter ``n`` is."""
        dead = (ports.silent, ports.refusing, ports.unreachable)
        match self:
            case Field.PROMPT:
                return lambda n: ports.prompt
            case Field.SLOW:
                return lambda n: ports.slow
            case Field.SOME_DEAD:
                return lambda n: ports.prompt if n % DEAD_SHARE else dead[n // DEAD_SHARE % len(dead)]


def polling(profile: str, field: Field) -> Polling:
    """Poll a thousand meters of a profile every second."""
    with _slaves() as ports, running_ingest(registry_of(profile, field.port_of(ports))) as running:
        return asyncio.run(_watch(running))


@contextmanager
def _slaves() -> Iterator[Ports]:
    process = subprocess.Popen(
        [sys.executable, "-m", "libs.suite.bench_slaves"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None  # noqa: S101 - piped above
        yield Ports(*(int(word) for word in process.stdout.readline().split()))
    finally:
        process.terminate()
        process.wait(timeout=10)


async def _watch(running: Running) -> Polling:
    await asyncio.sleep(WARM_UP_S)
    before = _Count.of(running)
    began, wall = time.perf_counter(), datetime.now(UTC)
    await asyncio.sleep(WATCHED_S)
    took = time.perf_counter() - began
    after = _Count.of(running)
    answered, missed = after.answered - before.answered, after.missed - before.missed
    reports = await _stored(running, wall, took, 0.98 * answered)
    # A timer may wake us a moment before the slot: that is early, not a period late.
    lateness = sorted(
        (at - offset_s(device_id, PERIOD_S) + EARLY_S) % PERIOD_S - EARLY_S for device_id, at, _ in reports
    )
    return Polling(
        points_per_s=sum(points for _, _, points in reports) / took,
        overruns=missed / (answered + missed),
        lateness_p50_s=lateness[len(lateness) // 2],
        lateness_p99_s=lateness[int(len(lateness) * 0.99)],
        core=(after.cpu_s - before.cpu_s) / took,
    )


async def _stored(running: Running, since: datetime, took_s: float, least: float) -> list[tuple[str, float, int]]:
    """Return device, POSIX time and number of points of that time's reports, once all are in the history.

    Raises:
        RuntimeError: It has fewer than ``least``, and no more are coming.
    """
    end, stored = time.monotonic() + STORED_WITHIN_S, 0
    conn = await asyncpg.connect(running.database_url)
    try:
        while True:
            rows = await conn.fetch(
                """
                select d.device_id, extract(epoch from r.source_time)::float8 as at,
                       cardinality(l.gauges) + cardinality(l.counters) as points
                  from ingest.readings r
                  join ingest.devices d on d.no = r.device_no
                  join ingest.layouts l on l.no = r.layout
                 where r.source_time >= $1 and r.source_time < $1 + make_interval(secs => $2)
                """,
                since,
                took_s,
            )
            if len(rows) >= least and len(rows) == stored:
                return [(row["device_id"], row["at"], row["points"]) for row in rows]
            stored = len(rows)
            if time.monotonic() > end:
                raise RuntimeError(f"{least:.0f} reports are expected in the history, {len(rows)} are there")
            await asyncio.sleep(1.0)
    finally:
        await conn.close()


@dataclass(frozen=True, slots=True)
class _Count:
    """What ingest has done so far."""

    answered: float
    missed: float
    """Slots that could not be kept."""
    cpu_s: float

    @classmethod
    def of(cls, running: Running) -> "_Count":
        """Ask ingest and the kernel."""
        answer = httpx.get(
            f"http://127.0.0.1:{running.cluster.ports['ingest']}/metrics",
            headers=running.cluster.credentials("ingest"),
            trust_env=False,
            timeout=30,
        )
        answer.raise_for_status()
        answered = missed = 0.0
        for line in answer.text.splitlines():
            if line.startswith("wattring_ingest_polls_total") and 'outcome="ok"' in line:
                answered += float(line.rpartition(" ")[2])
            elif line.startswith("wattring_ingest_poll_overrun_total"):
                missed += float(line.rpartition(" ")[2])
        fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
        return cls(answered, missed, (int(fields[11]) + int(fields[12])) / TICKS_PER_S)
