"""Alarm on a fresh database."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.alarm.alarm_world import World, database


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    """The judging handler, loaded, with one three-phase meter at a class D site."""
    async with database(postgres_url) as db:
        found = World(db)
        await found.load()
        yield found
