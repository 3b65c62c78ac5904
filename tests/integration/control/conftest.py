"""A world for control's integration tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.testing.clock import FakeClock
from services.control.domain.guards import Policy
from tests.integration.control.control_world import World, database, new_keys


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Control on a fresh database, with the clock at 2026-03-01 12:00 in Shanghai."""
    clock = FakeClock()
    db = database(postgres_url)
    await db.open()
    try:
        yield World(db, clock, new_keys(tmp_path / "keys", clock), Policy())
    finally:
        await db.close()
