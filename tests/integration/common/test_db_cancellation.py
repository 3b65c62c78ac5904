"""A task that is cancelled while its connection breaks ends as cancelled; nobody waits for it in vain."""

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.db import Database
from libs.common.settings import DatabaseSettings

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def test_an_error_on_the_way_out_does_not_take_the_place_of_a_cancellation(postgres_url: str) -> None:
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="control")
    await db.open()
    inside = asyncio.Event()

    async def work() -> None:
        async with db.listen():
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise asyncpg.InterfaceError("the connection has been released back to the pool")

    try:
        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    finally:
        await db.close()
