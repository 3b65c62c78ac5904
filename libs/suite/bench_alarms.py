"""How long the statistics of alarms take over a million of them: ``python -m libs.suite.bench_alarms``."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from libs.common.db import Database
from libs.common.migrations import migrate
from libs.common.settings import DatabaseSettings
from libs.suite.postgres import EmbeddedPostgres
from services.alarm.dictionary import load_shipped
from services.alarm.domain.floods import CHATTER_COUNT, CHATTER_WITHIN, STALE_AFTER
from services.alarm.store import analysis as store
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store.analysis import KEYS, Scope

ALARMS = 1_000_000
SITES = 12_604
"""As many as the operator of the requirements has."""
DEVICES = 50_000
DAYS = 365
ZONE = "Asia/Shanghai"
ROUNDS = 3
END = datetime(2026, 3, 1, tzinfo=UTC)

_FILL = """
    insert into alarms (alarm_id, site_id, device_id, rule_id, signal, level, sequence, began_at, raised_at, ended_at,
           closed_at, end_reason, inhibited_by, acknowledged_at, partition)
    select 'a-' || n, 's-' || mod(n::bigint * 7919, $2), 'd-' || mod(n::bigint * 7919, $3),
           c.codes[1 + mod(n, cardinality(c.codes))], c.codes[1 + mod(n, cardinality(c.codes))], 1 + mod(n, 4), 2,
           b.at, b.at + interval '2 seconds',
           case when mod(n, 50) > 0 then b.at + make_interval(secs => mod(n::bigint * 31, 20000)) end,
           case when mod(n, 50) > 0 then b.at + make_interval(secs => mod(n::bigint * 31, 20000)) end,
           case when mod(n, 50) > 0 then 'recovered' end,
           case when mod(n, 7) = 0 then 'window:w' end,
           case when mod(n, 3) = 0 then b.at + make_interval(secs => mod(n::bigint * 17, 4000)) end,
           mod(n, 12)
      from generate_series(1, $1::integer) as n
           cross join (select array_agg(code order by code) as codes from signals where kind = 'DI') as c
           cross join lateral (select $4::timestamptz - make_interval(secs => n * $5::float8) as at) as b
"""


@dataclass(frozen=True, slots=True)
class Took:
    """One question and how long its answer took."""

    question: str
    range_days: int
    rows: int
    seconds: float


async def measure() -> list[Took]:
    """Fill a database with a year of alarms and ask."""
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place, EmbeddedPostgres(Path(place)) as server:
        await migrate(server.url, phase="post")
        db = Database(DatabaseSettings(url=server.url, command_timeout_s=300.0), schema="alarm", role="wattring_alarm")
        await db.open()
        try:
            async with db.write() as conn:
                await rulebook_store.seed(conn, load_shipped(), END)
                await conn.execute(_FILL, ALARMS, SITES, DEVICES, END, DAYS * 86_400 / ALARMS)
            async with db.statements() as conn:
                await conn.execute("analyze alarms")
            return await _ask(db)
        finally:
            await db.close()


async def _ask(db: Database) -> list[Took]:
    found: list[Took] = []

    async def ask(question: str, days: int, answer: Callable[[], Awaitable[int]]) -> None:
        took = []
        rows = 0
        for _ in range(ROUNDS):
            began = time.perf_counter()
            rows = await answer()
            took.append(time.perf_counter() - began)
        found.append(Took(question, days, rows, sorted(took)[ROUNDS // 2]))

    async with db.read() as conn:
        for days in (7, DAYS):
            scope = Scope(END - timedelta(days=days), END)

            async def counted(scope: Scope, key: str) -> int:
                return len(await store.fetch_counts(conn, scope, key, ZONE))

            for by in KEYS:
                await ask(f"counts by {by}", days, lambda scope=scope, by=by: counted(scope, by))  # type: ignore[misc]

            async def durations(scope: Scope = scope) -> int:
                return len(await store.fetch_durations(conn, scope))

            async def windows(scope: Scope = scope) -> int:
                return len(await store.fetch_windows(conn, scope))

            async def chatter(scope: Scope = scope) -> int:
                within_s = CHATTER_WITHIN.total_seconds()
                return len(await store.fetch_chatter(conn, scope, count=CHATTER_COUNT, within_s=within_s, limit=100))

            await ask("time to acknowledge and to clear", days, durations)
            await ask("alarms of each ten minutes", days, windows)
            await ask("chattering", days, chatter)

        async def stale() -> int:
            return (await store.fetch_stale(conn, None, END - STALE_AFTER, 100))[0]

        async def sites() -> int:
            return len(await store.fetch_site_states(conn, None))

        await ask("stale", DAYS, stale)
        await ask("map", DAYS, sites)
    return found


def main() -> None:
    """Print the times."""
    for one in asyncio.run(measure()):
        sys.stdout.write(f"{one.question:36} {one.range_days:4} days {one.rows:8} rows {one.seconds * 1000:9.1f} ms\n")


if __name__ == "__main__":
    main()
