"""Everything of ours is dead while a unit is off: its breaker closes by its own timer, and everything later agrees."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import PlatformError
from tests.e2e.control.test_control_wake_cli import UNITS, House, house
from tests.integration.control.fake_ingest import until

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(400)]

LEFT_S = 5.0
"""So long before its wake-up a unit must be off for everything to die in time. [s]"""
LENGTHS_S = (12.0, 45.0, 120.0)
"""Off times that are tried: the first is long enough, unless the machine is very busy. [s]"""


async def command(found: House, command_id: str) -> Any:
    try:
        return await found.call("control", "GET", f"/api/v1/commands/{command_id}")
    except PlatformError:
        return {"state": "unknown"}


async def take_off(found: House) -> tuple[str, int]:
    """Take unit 0 off; return its OFF, and the timer that its device shows. [s]"""
    unit = found.units[0]
    for length_s in LENGTHS_S:
        restore_at = datetime.now(UTC) + timedelta(seconds=length_s)
        body = {"action": "open", "load_id": "aau-0", "restore_at": restore_at.isoformat()}
        ordered = await found.call("control", "POST", "/api/v1/commands", body)
        off_id = ordered["commands"][0]["command_id"]

        async def over(off_id: str = off_id) -> bool:
            return (await command(found, off_id))["state"] in ("succeeded", "failed", "rejected", "expired")

        await until(over, "the OFF is over", timeout_s=150)
        left_s = (restore_at - datetime.now(UTC)).total_seconds()
        if not unit.closed and left_s > LEFT_S:
            assert left_s < unit.timer_s <= length_s + 3, "what is left and the margin of 2 s, rounded up"
            return off_id, unit.timer_s
        await until(lambda: unit.closed, "woken again", timeout_s=150)
    raise AssertionError("the machine is too busy to take a unit off in two minutes")


async def test_with_all_of_us_dead_the_device_closes_by_itself_and_everything_agrees_later(tmp_path: Path) -> None:
    async with house(tmp_path / "data", timer=True) as found:
        unit = found.units[0]
        off_id, timer_s = await take_off(found)
        await asyncio.gather(*(process.kill() for process in found.processes.values()))
        assert not unit.closed
        switched = unit.switched
        await until(lambda: unit.closed, "closed by its own timer", timeout_s=timer_s + 60)
        for process in found.processes.values():
            await process.start()

        async def agreed() -> bool:
            off = await command(found, off_id)
            on = await command(found, off.get("pair_id") or off_id)
            return bool(off["state"] == "succeeded" and on["state"] == "succeeded" and on["action"] == "close")

        await until(agreed, "control knows that it is on", timeout_s=120)
        await found.answers("ingest", "/direct/v1/loads", lambda answer: len(answer["loads"]) == UNITS and all(
            one["breaker_state"] == 1 and one["off_lease"] is None for one in answer["loads"]
        ))  # fmt: skip
        await found.answers("watchdog", "/leases", lambda answer: (
            answer["leases"] == [] and answer["waking"] == {} and answer["findings"] == []
        ))  # fmt: skip
        assert unit.switched == switched + 1, "nobody moved it besides its timer"
        assert unit.timer_s == 0, "and the timer is stopped"
