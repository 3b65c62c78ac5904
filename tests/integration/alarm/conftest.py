"""Alarm on a fresh database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.alarm.alarm_door import Door, open_door
from tests.integration.alarm.alarm_world import World, database


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    """The judging handler, loaded, with one three-phase meter at a class D site."""
    async with database(postgres_url) as db:
        found = World(db)
        await found.load()
        yield found


@pytest.fixture
async def door(world: World, tmp_path: Path) -> AsyncIterator[Door]:
    """The API over the world, with a meter at another site and a sensor besides."""
    async with open_door(world, tmp_path) as found:
        yield found
