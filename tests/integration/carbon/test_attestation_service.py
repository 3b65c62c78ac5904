"""Carbon as a process that is killed while it commits, and what is checked over HTTP by one file without Wattring."""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from libs.common import verifier
from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.contracts.registry import Circuit, CircuitRole, Region, Site, SiteKind, record_of
from libs.common.db import Database
from libs.common.ids import CircuitId, RegionId, SiteId
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store import intervals as store
from tests.integration.carbon.carbon_process import Process, process

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

BOOKED = 12_000
"""Several turns' worth."""
PATIENCE_S = 120.0
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
COMMON = {"valid_from": LONG_AGO, "version": 1, "changed_by": "user:test"}
ENTITIES = [
    Region(id="gd", name="Guangdong", code="440000", **COMMON),
    Site(id="site-1", name="One", code="1", kind=SiteKind.ACCESS_ROOM, region=RegionId("gd"), **COMMON),
    Site(id="site-2", name="Two", code="2", kind=SiteKind.ACCESS_ROOM, **COMMON),
    Circuit(id="c-0", name="Feed", level=1, role=CircuitRole.SITE_FEED, site=SiteId("site-1"), **COMMON),
]


@asynccontextmanager
async def books(url: str) -> AsyncIterator[tuple[Database, PgLogBus]]:
    """The database with a registry, and with intervals that nobody has committed yet."""
    settings = DatabaseSettings(url=SecretStr(url))
    db = Database(settings, schema="carbon", role="wattring_carbon")
    bus = PgLogBus(settings, BusSettings(), SystemClock())
    await db.open()
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        records = [
            envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=LONG_AGO)
            for one in ENTITIES
        ]
        await bus.publish(records, timeout_s=20)
        async with db.write() as conn:
            for first in range(0, BOOKED, 4000):
                await store.book(conn, [interval(number) for number in range(first, first + 4000)])
        yield db, bus
    finally:
        await bus.stop()
        await db.close()


def interval(number: int) -> BookedInterval:
    """The hundred circuits take turns; every other one is at the second site."""
    quarter, circuit = divmod(number, 100)
    start = LONG_AGO + timedelta(minutes=15 * quarter)
    return BookedInterval(
        CircuitId(f"c-{circuit}"), SiteId(f"site-{1 + circuit % 2}"), start, 900, 1, 0.25 * quarter, Grade.MEASURED,
        False, False, start + timedelta(minutes=16),
    )  # fmt: skip


async def count(db: Database, what: str) -> int:
    async with db.read() as conn:
        return int(await conn.fetchval(f"select count(*) from {what}"))


async def judge(folder: Path, documents: dict[str, Any], *, witness: Any = None) -> tuple[int, str]:
    """Ask the verifier, as a file by itself with the public key that the operator has handed over."""
    place = folder / "outside"
    place.mkdir(exist_ok=True)
    shutil.copy(verifier.__file__, place / "verifier.py")
    shutil.copy(folder / "keys" / "carbon.pub", place / "carbon.pub")
    command = [sys.executable, "-I", "verifier.py", "--key", "carbon.pub"]
    for name, document in documents.items():
        (place / f"{name}.json").write_text(json.dumps(document))
        command.append(f"{name}.json")
    if witness is not None:
        (place / "witness.json").write_text(json.dumps(witness))
        command += ["--witness", "witness.json"]
    running = await asyncio.create_subprocess_exec(
        *command, cwd=place, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, wrong = await running.communicate()
    assert not wrong, wrong.decode()
    return running.returncode or 0, said.decode()


async def test_killed_while_it_commits_it_goes_on_and_all_of_it_is_proved_over_http(
    postgres_url: str, tmp_path: Path
) -> None:
    async with books(postgres_url) as (db, bus), process(postgres_url, tmp_path) as carbon:
        for share in (4, 2):

            async def has_gone_on(least: int = BOOKED // share) -> bool:
                return await count(db, "attest_leaves") >= least

            await until(has_gone_on, within_s=PATIENCE_S)
            await carbon.end(signal.SIGKILL)
            await carbon.start()

        async def is_done() -> bool:
            waiting = await count(db, "attest_pending")
            unsigned = await count(
                db,
                "attest_log l where not exists (select from attest_heads h where h.tree = l.tree and h.size = l.size)",
            )
            return waiting == unsigned == 0 and await carbon.is_ready()

        await until(is_done, within_s=PATIENCE_S)
        assert await count(db, "attest_leaves where kind = 'interval'") == BOOKED
        once = "(select from attest_leaves where kind = 'interval' group by subject, at, version having count(*) = 1)"
        assert await count(db, f"{once} as once") == BOOKED
        await everything_holds(carbon)
        await nobody_sees_more_than_is_his(carbon)
        await questions_that_are_wrong_are_refused(carbon)
        await heads_are_on_their_topic(db, bus)
        assert b"PRIVATE" not in (tmp_path / "carbon.log").read_bytes()


async def everything_holds(carbon: Process) -> None:
    heads = await carbon.document("heads", **{"from": "2026-01-01", "to": "2100-01-01", "limit": 1000})
    for tree in {head["tree"] for head in heads}:
        part: dict[str, Any] = {"next": 0}
        while part["next"] is not None:
            part = await carbon.document("check", tree=tree, first=part["next"])
            assert part["faults"] == []
    assert await carbon.document("check/books") == {"circuits": 10, "next": "c-17", "faults": []}
    interval = await carbon.document("inclusion", subject="circuit:c-7", at="2026-01-01T00:15:00Z")
    first, last = heads[0], interval["head"]
    documents = {
        "interval": interval,
        "leaf": await carbon.document(f"leaves/{first['tree']}/17"),
        "factor": await carbon.document("inclusion", subject="factors:shipped"),
        "from_the_first": await carbon.document("consistency", old_tree=first["tree"], old_size=first["size"]),
        "since": await carbon.document("consistency", old_tree=last["tree"], old_size=last["size"]),
        "chain": await carbon.document("chain", subject="circuit:c-7", limit=1000),
        "head": await carbon.document("heads/latest"),
    }
    code, said = await judge(carbon.folder, documents, witness=documents["since"]["new"])
    assert code == 0, said
    assert "circuit:c-7 #2: 0.25 kWh in [2026-01-01T00:15:00Z, 2026-01-01T00:30:00Z), measured, version 1" in said
    assert "was committed before you were given head" in said
    assert "It does not say that the meter was right" in said
    assert said.endswith("Everything that was given holds.\n")
    document = documents["interval"]
    changed = {**document, "leaf": document["leaf"].replace('"value":"0.25"', '"value":"0.24"')}
    assert changed != document
    code, said = await judge(carbon.folder, {"changed": changed})
    assert (code, said.endswith("SOMETHING DOES NOT HOLD.\n")) == (1, True)


async def nobody_sees_more_than_is_his(carbon: Process) -> None:
    first: dict[str, Any] = {"subject": "circuit:c-0", "at": "2026-01-01T00:00:00Z"}
    second: dict[str, Any] = {"subject": "circuit:c-1", "at": "2026-01-01T00:00:00Z"}
    for sites in (("site-1",), ("region:gd",)):
        assert (await carbon.get("inclusion", sites=sites, **first)).status_code == 200
        assert (await carbon.get("chain", sites=sites, subject="circuit:c-0")).status_code == 200
        assert (await carbon.get("inclusion", sites=sites, subject="factors:shipped")).status_code == 200
        assert (await carbon.get("heads/latest", sites=sites)).status_code == 200
        for path, question in (
            ("inclusion", second), ("chain", {"subject": "circuit:c-1"}), ("check", {"tree": "2026-01-01"}),
            ("check/books", {}),
        ):  # fmt: skip
            answer = await carbon.get(path, sites=sites, **question)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
            assert answer.json()["detail_zh"]
    for path in (
        "inclusion",
        "chain",
        "check",
        "check/books",
        "heads/latest",
        "heads",
        "consistency",
        "leaves/2026-01-01/0",
    ):
        assert (await carbon.get(path, scopes=("ingest:read",))).status_code == 403, path


async def questions_that_are_wrong_are_refused(carbon: Process) -> None:
    wrong: list[tuple[str, dict[str, Any], int]] = [
        ("inclusion", {"subject": "circuit:c-999"}, 404),
        ("inclusion", {"subject": "circuit:c-0", "at": "yesterday"}, 422),
        ("inclusion", {"subject": "circuit:c-0", "version": 0}, 422),
        ("inclusion", {"subject": "x" * 201}, 422),
        ("leaves/2026-01-01/0", {}, 404),
        ("leaves/2026-01-01/-1", {}, 422),
        ("consistency", {"old_tree": "2026-01-01", "old_size": 1}, 404),
        ("consistency", {"old_tree": "2026-01-01", "old_size": 1, "new_size": 2}, 400),
        ("check", {"tree": "2026-01-01"}, 404),
        ("chain", {"subject": "circuit:c-0", "limit": 10_001}, 422),
        ("heads", {"from": "2026-01-01", "to": "2026-01-02", "limit": 0}, 422),
    ]
    for path, question, status in wrong:
        answer = await carbon.get(path, **question)
        assert answer.status_code == status, (path, question, answer.text)
        assert answer.json()["detail_zh"]


async def heads_are_on_their_topic(db: Database, bus: PgLogBus) -> None:
    """Whatever was killed: each head that was signed is told, under one event id, in the order of the log."""
    async with db.read() as conn:
        signed = await conn.fetch("select tree, size, final from attest_heads order by tree, size, final")
    told: dict[str, tuple[Any, ...]] = {}

    async with asyncio.timeout(40), bus.tail((topics.ATTESTATIONS,), StartAt(beginning=True)) as reader:
        while len(told) < len(signed):
            for received in await reader.fetch(timeout_s=0.2, max_messages=1000):
                head = json.loads(received.value or b"")
                told.setdefault(str(received.header("ce_id")), (head["tree"], head["size"], head["final"]))
    # At midnight one more may have come since.
    assert list(told.values())[: len(signed)] == [(str(row["tree"]), row["size"], row["final"]) for row in signed]
