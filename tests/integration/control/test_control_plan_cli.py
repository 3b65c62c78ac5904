"""``wattring plan`` against whole control and whole ingest: both kinds of plans from a file to their end."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from libs.common.errors import InvalidInput
from libs.suite import plancli
from libs.suite.api import Refused
from libs.suite.words import Words
from tests.integration.control.test_control_load_kinds import COOLER, LAMP, House, house
from tests.integration.ingest.conftest import until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]
__all__ = ["house"]


class Door:
    """Control's API for commands that run in a thread."""

    def __init__(self, house: House) -> None:
        self._house, self._loop = house, asyncio.get_running_loop()

    def get(self, path: str, **params: Any) -> Any:
        wanted = urlencode({name: value for name, value in params.items() if value is not None})
        return self._call("GET", f"{path}?{wanted}")

    def post(self, path: str, body: Any = None) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        asked = self._house.call("control", method, f"/api/v1/{path}", body)
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result(30)
        if answer.is_success:
            return answer.json()
        raise Refused(answer.json()["detail"], status=answer.status_code)


async def said(house: House, command: Callable[..., None], **arguments: Any) -> list[str]:
    """Return what a command says."""
    lines: list[str] = []
    await asyncio.to_thread(command, Door(house), Words(chinese=False), lines.append, **arguments)
    return lines


def window(house: House, start_in_s: float, length_s: float) -> dict[str, Any]:
    start = house.field.clock.now() + timedelta(seconds=start_in_s, hours=8)
    end = start + timedelta(seconds=length_s)
    return {
        "first_date": start.date().isoformat(), "last_date": start.date().isoformat(),
        "windows": [{"start": start.strftime("%H:%M:%S"), "end": end.strftime("%H:%M:%S")}],
    }  # fmt: skip


def around(house: House) -> dict[str, str]:
    now = house.field.clock.now()
    return {"start": (now - timedelta(hours=1)).isoformat(), "end": (now + timedelta(hours=1)).isoformat()}


async def test_a_savings_plan_from_a_file_is_followed_to_its_end(house: House, tmp_path: Path) -> None:
    assert await said(house, plancli.list_plans, state=None) == ["no plans"]
    file = tmp_path / "lamp.json"
    file.write_text(json.dumps({"name": "closing time", "note": "hall", "load_ids": [LAMP], **window(house, 5, 10)}))

    # The same file is previewed and simulated as it will be stored.
    previewed = await said(house, plancli.preview_plan, file=file)
    assert previewed[0].startswith("windows: 1, loads: 1, ")
    simulated = await said(house, plancli.simulate_plan, plan=str(file), first="2026-03-01", last="2026-03-03")
    assert f"{'together':20} 0 of 3 shutdowns, 0.0 h off, saved: not known" in simulated
    assert any(line.startswith("  3 x stale_data: ") for line in simulated), "nothing is known of these days"
    with pytest.raises(Refused, match="a simulation is about past days"):
        await said(house, plancli.simulate_plan, plan=str(file), first=None, last=None)
    assert await said(house, plancli.list_plans, state=None) == ["no plans"]

    drafted = await said(house, plancli.draft_plan, file=file)
    assert drafted[:-1] == previewed
    plan = drafted[-1].removeprefix("drafted: wattring plan approve ")
    approved = await said(house, plancli.approve_plan, plan=plan)
    assert approved[0].startswith(f"{plan}  approved  closing time  ")
    assert approved[0].endswith("  loads: 1")
    assert approved[1] == f"approved: wattring plan progress {plan}"

    rival = tmp_path / "rival.json"
    rival.write_text(json.dumps({"name": "later", "load_ids": [LAMP, COOLER], **window(house, 5, 10)}))
    assert f"gives way to {plan} (closing time): windows: 1, loads: 1" in await said(
        house, plancli.preview_plan, file=rival
    )

    async def woken() -> list[str]:
        lines = await said(house, plancli.show_progress, plan=plan, **around(house))
        return lines if lines[-1] == "1  awake 1" else []

    row, _ = await until(woken, "the lamp was off and is on again", within_s=60)
    assert row.startswith(f"  {LAMP}  ")
    assert "off -" not in row
    assert "on -" not in row

    long = tmp_path / "long.json"
    long.write_text(json.dumps({"name": "long", "load_ids": [LAMP], **window(house, 3600, 600)}))
    other = (await said(house, plancli.draft_plan, file=long))[-1].split()[-1]
    await said(house, plancli.approve_plan, plan=other)
    (ended,) = await said(house, plancli.end_plan, plan=other, reason="a feast")
    assert ended.startswith(f"{other}  ended  long  ")
    shown = await said(house, plancli.show_plan, plan=other)
    assert any(line.startswith("  ended by user:duty  ") and line.endswith("  a feast") for line in shown)
    listed = await said(house, plancli.list_plans, state="ended")
    assert other in [line.split()[0] for line in listed]
    with pytest.raises(Refused, match=f"plan {other} is ended"):
        await said(house, plancli.approve_plan, plan=other)
    with pytest.raises(Refused, match="no plan nowhere"):
        await said(house, plancli.show_plan, plan="nowhere")


async def test_a_plan_of_set_points_from_a_file_is_followed_to_its_end(house: House, tmp_path: Path) -> None:
    file = tmp_path / "night.json"
    body = {
        "name": "night", "point": "temperature_setpoint", "unit": "degC", "value": 28.0, "value_after": 26.0,
        "device_ids": ["ac-1"], **window(house, -60, 1200),
    }  # fmt: skip
    file.write_text(json.dumps(body))
    assert (await said(house, plancli.preview_plan, file=file))[0].startswith("windows: 1, devices: 1, ")
    with pytest.raises(InvalidInput, match=r"night\.json: a plan of set points switches nothing"):
        await said(house, plancli.simulate_plan, plan=str(file), first=None, last=None)
    drafted = await said(house, plancli.draft_plan, file=file)
    plan = drafted[-1].removeprefix("drafted: wattring plan approve ")
    assert (await said(house, plancli.list_plans, state=None))[0].endswith("  temperature_setpoint 28 / 26, devices: 1")
    previewed, shown = drafted[:-1], await said(house, plancli.show_plan, plan=plan)
    assert shown[2:] == previewed
    await said(house, plancli.approve_plan, plan=plan)

    async def stands_at(state: str) -> list[str]:
        lines = await said(house, plancli.show_progress, plan=plan, **around(house))
        return lines if lines[-1] == f"1  {state} 1" else []

    row, _ = await until(lambda: stands_at("begun"), "the window has begun", within_s=60)
    assert "set in: 1, orders " in row
    house.clock.ahead = timedelta(seconds=1260)
    await until(lambda: stands_at("done"), "it is set back", within_s=60)
    shown = await said(house, plancli.show_plan, plan=plan)
    assert shown[1].startswith("  drafted by user:duty  ")
    assert any("  done  set in: 1" in line for line in shown)
