"""Which processes of ingest live, and since when one of them has been alone."""

from collections.abc import AsyncIterator

import pytest

from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.ingest.store.instances import PgInstances

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

FOREVER = float("inf")


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


async def test_one_is_alone_from_the_moment_at_which_it_was_seen_that_nobody_else_lives(db: Database) -> None:
    times = [10.0]
    one, other = (PgInstances(db, alive_s=60.0, monotonic=lambda: times[0]) for _ in range(2))
    assert one.alone_since() == FOREVER, "nobody has looked yet"
    assert await one.seen("one") == 1
    times[0] = 20.0
    await one.seen("one")
    assert one.alone_since() == 10.0
    assert await other.seen("other") == 2
    assert await one.seen("one") == 2
    assert (one.alone_since(), other.alone_since()) == (FOREVER, FOREVER)
    await other.gone("other")
    times[0] = 30.0
    assert await one.seen("one") == 1
    assert one.alone_since() == 30.0, "what was heard before may have gone to the other"
