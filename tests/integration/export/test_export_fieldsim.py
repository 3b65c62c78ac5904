"""Two sides written apart from each other after the same pages: the service and the simulated centre, strict."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.clock import SystemClock
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from tests.integration.export.conftest import Export, Kit

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_a_strict_centre_finds_nothing_to_say(export: Export, kit: Kit) -> None:
    unit_url = f"http://127.0.0.1:{export.unit_port}/services/FSUService"
    policy = Policy(strict=True, info_every_s=1.0, data_every_s=1.0, unit_urls={"*": unit_url})
    centre = SupervisionCentre(clock=SystemClock(), policy=policy)
    await centre.start()
    polls = asyncio.create_task(centre.run(), name="centre")
    try:
        await export.connect(centre, login_interval_s=180)
        now = datetime.now(UTC)
        began, over = now - timedelta(seconds=20), now - timedelta(seconds=5)
        await export.publish(kit.reading({"voltage_a": 152.3, "frequency": 50.0}))
        await export.publish(kit.begin("a-1", began_at=began), kit.begin("a-2", "0s16001001", began_at=began))
        await export.publish(kit.end("a-1", began_at=began, ended_at=over))

        def names() -> set[object]:
            return {entry["name"] for entry in centre.journal.after()}

        async def all_seen() -> bool:
            delivered = await export.deliveries(state="delivered")
            return len(delivered) == 3 and {"GET_DATA", "GET_FSUINFO", "TIME_CHECK"} <= names()

        await kit.until(all_seen)
    finally:
        polls.cancel()
        await asyncio.wait([polls])
        await centre.stop()
    assert centre.journal.after(findings_only=True) == []
