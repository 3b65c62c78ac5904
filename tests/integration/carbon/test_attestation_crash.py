"""The appender killed between any two statements: nothing is committed twice, nothing and no signed head is lost."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.carbon.domain.booking import BookedInterval
from services.carbon.library import load_shipped
from tests.integration.carbon.attest_world import House, appender, interval, verdict
from tests.integration.carbon.mortal import everything, kill_at_every_statement

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

KEPT = ("attest_pending", "attest_leaves", "attest_ends", "attest_tiles", "attest_heads", "attest_log", "outbox")


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    found = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="carbon", role="wattring_carbon")
    await found.open()
    try:
        yield found
    finally:
        await found.close()


async def told(db: Database) -> list[dict[str, Any]]:
    async with db.read() as conn:
        rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.ATTESTATIONS)
    return [orjson.loads(row["value"]) for row in rows]


async def test_killed_at_any_statement_the_log_is_as_if_it_had_lived(db: Database) -> None:
    house = House(db)

    async def turn(mortal: Any) -> None:
        await appender(mortal, house.clock).turn()

    async def note(mortal: Any) -> None:
        await appender(mortal, house.clock).note_factors(load_shipped()[:3])

    nights: list[tuple[timedelta, list[BookedInterval]]] = [
        (timedelta(), [interval(quarter, 0.5 * quarter) for quarter in range(20)]),
        (timedelta(minutes=1), [interval(20, 1.0)]),
        (timedelta(hours=1), [interval(3, None, version=2), interval(0, 2.0, circuit="c-2")]),
        (timedelta(hours=14), [interval(3, 1.25, version=3)]),  # past midnight in China: a tree is closed
        (timedelta(hours=1), []),
    ]
    deaths = []
    for after, booked in nights:
        house.clock.set_wall(house.clock.now() + after)
        if booked:
            await house.book(*booked)
        deaths.append(await kill_at_every_statement(db, await everything(db, KEPT), turn))
        committed = await everything(db, KEPT)
        assert committed["attest_pending"] == []
        # Killed after its commit it has committed, and whoever comes after it finds nothing to do.
        await turn(db)
        assert await everything(db, KEPT) == committed
    assert await kill_at_every_statement(db, await everything(db, KEPT), note) > 4
    await note(db)
    await house.commit(after=timedelta(hours=1))
    assert deaths[3] > 2 * 15, "a turn over midnight: a closing head, the next tree and what waited"
    await check_whole(house, intervals=sum(len(booked) for _, booked in nights), factors=3 + 1)


async def check_whole(house: House, *, intervals: int, factors: int) -> None:
    """Check that everything was committed once, in its order, under heads that were all told."""
    async with house.db.read() as conn:
        kinds = dict(await conn.fetch("select kind, count(*) from attest_leaves group by kind"))
        doubled = await conn.fetch(
            "select subject, at, version from attest_leaves group by subject, at, version having count(*) > 1"
        )
        missing = await conn.fetch(
            """
            select circuit_id, start, version from intervals i where not exists (
                select from attest_leaves l
                 where l.subject = 'circuit:' || circuit_id and l.at = i.start and l.version = i.version)
            """
        )
        subjects = [row["subject"] for row in await conn.fetch("select distinct subject from attest_leaves")]
        trees = [row["tree"] for row in await conn.fetch("select distinct tree from attest_leaves order by tree")]
    assert doubled == missing == []
    assert kinds["interval"] == intervals
    assert kinds.get("factor", 0) + kinds.get("factor_table", 0) == factors
    heads = await house.proofs.heads(trees[0], trees[-1], 1000)
    assert heads
    assert heads == sorted(await told(house.db), key=lambda one: (one["tree"], one["size"], one["final"]))
    places = [(date.fromisoformat(one["tree"]), one["size"]) for one in heads]
    for old in places:
        assert verdict(await house.proofs.consistency(old, places[-1]))[0] == 0
    for subject in subjects:
        assert verdict(await house.proofs.chain(subject, 0, 10_000))[0] == 0
    for tree in trees:
        assert await house.faults(tree) == []
