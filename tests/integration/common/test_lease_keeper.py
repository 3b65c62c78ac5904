"""Leases in a real database: one holder at a time, rising epochs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.lease import SAFETY_SHARE, LeaseKeeper
from libs.common.settings import DatabaseSettings
from libs.common.testing.bus import create_effects_schema
from libs.common.testing.clock import FakeClock

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

TTL_S = 60.0


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    db = Database(DatabaseSettings.model_validate({"url": postgres_url}), schema="probe")
    await db.open()
    await create_effects_schema(db)
    yield db
    await db.close()


async def run_out(db: Database) -> None:
    """Let all leases end, as time does."""
    async with db.write() as conn:
        await conn.execute("update leases set until = clock_timestamp() - interval '1 ms' where owner is not null")


async def test_a_lease_has_one_owner_until_it_runs_out_and_its_epoch_rises(db: Database) -> None:
    one, two = (LeaseKeeper(db, SystemClock(), owner, TTL_S) for owner in ("one", "two"))
    first = await one.acquire("line-1")
    assert first is not None
    assert (first.owner, first.epoch) == ("one", 1)
    assert await two.acquire("line-1") is None
    await run_out(db)
    second = await two.acquire("line-1")
    assert second is not None
    assert (second.owner, second.epoch) == ("two", 2)
    assert await one.renew(first) is None
    assert await one.acquire("line-1") is None
    renewed = await two.renew(second)
    assert renewed is not None
    assert renewed.epoch == 2


async def test_the_holder_stops_before_the_database_gives_the_lease_away(db: Database) -> None:
    clock = FakeClock()
    lease = await LeaseKeeper(db, clock, "one", TTL_S).acquire("line-1")
    assert lease is not None
    assert lease.valid_for_s() == pytest.approx(TTL_S * (1 - SAFETY_SHARE))
    async with db.read() as conn:
        left_s = await conn.fetchval("select extract(epoch from until - clock_timestamp()) from leases")
    assert lease.valid_for_s() < float(left_s)
    await clock.advance(TTL_S)
    assert not lease.valid


async def test_a_lease_that_ran_out_is_not_renewed_even_if_nobody_took_it(db: Database) -> None:
    keeper = LeaseKeeper(db, SystemClock(), "one", TTL_S)
    lease = await keeper.acquire("line-1")
    assert lease is not None
    await run_out(db)
    assert await keeper.renew(lease) is None
    again = await keeper.acquire("line-1")
    assert again is not None
    assert again.epoch == 2


async def test_a_lease_given_back_is_free_at_once(db: Database) -> None:
    one, two = (LeaseKeeper(db, SystemClock(), owner, TTL_S) for owner in ("one", "two"))
    first = await one.acquire("line-1")
    assert first is not None
    await one.release(first)
    second = await two.acquire("line-1")
    assert second is not None
    assert second.epoch == 2
    await one.release(first)  # too late: it is another's now
    assert await two.renew(second) is not None


async def test_a_restarted_owner_takes_its_leases_back_and_fences_its_former_self(db: Database) -> None:
    before, after = (LeaseKeeper(db, SystemClock(), "one", TTL_S) for _ in range(2))
    first = await before.acquire("line-1")
    second = await after.acquire("line-1")
    assert first is not None
    assert second is not None
    assert second.epoch == 2
    assert await before.renew(first) is None
    await before.release(first)
    assert await after.renew(second) is not None


async def test_many_are_taken_in_the_order_wished_up_to_the_limit(db: Database) -> None:
    one, two = (LeaseKeeper(db, SystemClock(), owner, TTL_S) for owner in ("one", "two"))
    names = [f"line-{number}" for number in range(6)]
    assert [lease.name for lease in await one.acquire_many(names, 2)] == ["line-0", "line-1"]
    wish = ["line-1", "line-5", "line-0", "line-4", "line-3"]
    assert [lease.name for lease in await two.acquire_many(wish, 2)] == ["line-5", "line-4"]
    assert await two.acquire_many(["line-0", "line-1"], 2) == []
    assert await two.acquire_many([], 2) == []
    assert await two.acquire_many(names, 0) == []
    assert await one.holders("line-") == {"line-0": "one", "line-1": "one", "line-4": "two", "line-5": "two"}
    assert await one.holders("line-5") == {"line-5": "two"}
    await run_out(db)
    assert await one.holders("line-") == {}


async def test_renewing_many_returns_those_that_are_still_ours(db: Database) -> None:
    one, two = (LeaseKeeper(db, SystemClock(), owner, TTL_S) for owner in ("one", "two"))
    leases = await one.acquire_many(["a", "b", "c"], 3)
    await one.release(leases[1])
    assert await two.acquire("b") is not None
    assert sorted(lease.name for lease in await one.renew_many(leases)) == ["a", "c"]
    await one.release_many(leases)
    assert await one.holders("") == {"b": "two"}


async def test_of_many_who_grab_at_once_each_lease_goes_to_one(db: Database) -> None:
    names = [f"line-{number}" for number in range(20)]
    keepers = [LeaseKeeper(db, SystemClock(), f"owner-{number}", TTL_S) for number in range(5)]
    taken = await asyncio.gather(*(keeper.acquire_many(names, 20) for keeper in keepers))
    held = [lease.name for leases in taken for lease in leases]
    assert len(held) == len(set(held))
    rest = [lease.name for lease in await keepers[0].acquire_many([n for n in names if n not in held], 20)]
    assert sorted(held + rest) == sorted(names)


async def test_a_lease_that_is_taken_over_is_lost_to_its_former_owner(db: Database) -> None:
    one, two = (LeaseKeeper(db, SystemClock(), owner, TTL_S) for owner in ("one", "two"))
    first = await one.acquire("line-1")
    assert first is not None
    taken = await two.take_over(["line-2", "line-1"])
    assert [(lease.name, lease.epoch) for lease in taken] == [("line-2", 1), ("line-1", 2)]
    assert await one.renew(first) is None
    assert {lease.name for lease in await two.renew_many(taken)} == {"line-1", "line-2"}
    assert await two.take_over([]) == []
