"""A breaker that does not answer: what becomes of its OFF and of its ON, from the API to the alarm, for real.

Beside it what else C-12 asks of commands: a load that may never be off within a place, and orders that contradict.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.fieldsim.faults import parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from tests.integration.control.with_ingest import Both, both
from tests.integration.ingest.conftest import SITE, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

UNITS = ("aau", "hospital")
FIELD: dict[str, Any] = {
    "schema": "field/1",
    "loads": [{"id": name, "constant_kw": 0.75, "gain": 0.0} for name in UNITS],
    "lines": [{"id": f"line-{name}"} for name in UNITS],
    "devices": [
        {"id": f"breaker-{name}", "site": "s", "line": f"line-{name}", "unit": 1, "profile": "lx47le_125",
         "loads": [name], "motor_delay_s": 0}
        for name in UNITS
    ],
}  # fmt: skip


@asynccontextmanager
async def with_field(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Both, Field]]:
    times = {"STALE_AFTER_S": "3", "OVERDUE_MARGIN_S": "2", "ON_RETRY_CAP_S": "2", "VERIFY_TIMEOUT_S": "5"}
    for name, value in times.items():
        monkeypatch.setenv(f"WATTRING_CONTROL__{name}", value)
    field = Field(FieldFile.model_validate(FIELD), clock=SystemClock(), refresh_s=0)
    await field.start()
    try:
        async with both(postgres_url, folder, monkeypatch, alarm=True) as found:
            create = found.ingest.create
            await create("/api/v1/sites/site-1", SITE)
            for name in UNITS:
                endpoint = field.endpoints[f"line-{name}"]
                await create(f"/api/v1/lines/line-{name}", {"name": name, "kind": "tcp", "endpoint": endpoint})
                await create(
                    f"/api/v1/devices/breaker-{name}",
                    {"name": name, "kind": "breaker", "profile": "lx47le_125", "site": "site-1",
                     "line": f"line-{name}", "address": "1"},
                )  # fmt: skip
                await create(
                    f"/api/v1/loads/{name}",
                    {"name": name, "kind": "aau", "site": "site-1", "sector": "1", "never_off": name == "hospital",
                     "coverage_layer": name == "hospital", "breaker": {"device": f"breaker-{name}"}},
                )  # fmt: skip
            yield found, field
    finally:
        await field.stop()


async def off(found: Both, **changes: Any) -> Any:
    body = {"action": "open", "load_id": "aau", "restore_at": in_s(found, 3600)} | changes
    return await found.call("POST", "commands", {name: value for name, value in body.items() if value is not None})


def in_s(found: Both, seconds: float) -> str:
    return (found.platform.clock.now() + timedelta(seconds=seconds)).isoformat()


async def ended(found: Both, command_id: str, *states: str) -> dict[str, Any]:
    async def over() -> Any:
        command = await found.get(f"commands/{command_id}")
        return command if command["state"] in states else None

    command: dict[str, Any] = await until(over, f"{command_id} has ended as {states}")
    return command


async def never_off_in_a_place(found: Both, field: Field) -> str:
    """The load that may never be off is listed with its guard, the other one goes off."""

    async def known() -> bool:
        answers = [await found.call("GET", "guards", load=name) for name in UNITS]
        return all(answer.status_code == 200 for answer in answers)

    async def taken() -> Any:
        answer = await off(found, load_id=None, site_id="site-1")
        return answer.json() if answer.status_code == 202 else None

    await until(known, "control knows both")

    group = await until(taken, "the order for the site is taken")
    assert [(one["load_id"], one["guard"]) for one in group["refused"]] == [("hospital", "never_off")]
    assert group["refused"][0]["message_zh"] == "负载禁止关断"
    assert [one["load_id"] for one in group["commands"]] == ["aau"]
    await ended(found, group["commands"][0]["command_id"], "succeeded")
    assert (field.breakers["breaker-aau"].closed, field.breakers["breaker-hospital"].closed) == (False, True)
    return str(group["commands"][0]["pair_id"])


async def an_on_is_escalated_and_comes_through(found: Both, field: Field, wake_up_id: str) -> None:
    """An ON to a breaker that is silent has no end: it is sent again, a person is called, and it comes through."""
    silent = field.faults.place("breaker-aau", parse_order("silent"), field.clock.now().timestamp())
    answer = await found.call("POST", "commands", {"action": "close", "load_id": "aau"})
    on_id = answer.json()["commands"][0]["command_id"]

    async def alarm() -> Any:
        overdue = [one for one in await found.alarms(state="active") if one["signal"].endswith("wake_up_overdue")]
        return overdue[0] if overdue else None

    raised = await until(alarm, "a person is called")
    assert raised["level"] == 1

    async def again() -> Any:
        command = await found.get(f"commands/{on_id}")
        return command if command["attempt"] >= 2 else None

    trying = await until(again, "it is sent again")
    assert trying["state"] not in ("expired", "failed", "rejected", "cancelled")
    assert not field.breakers["breaker-aau"].closed
    field.faults.withdraw(silent.fault_id)
    await ended(found, on_id, "succeeded")
    assert field.breakers["breaker-aau"].closed

    async def over() -> bool:
        return await alarm() is None

    await until(over, "the alarm has ended")
    await ended(found, wake_up_id, "succeeded", "superseded")


async def an_off_is_queued_until_its_end_and_expires(found: Both, field: Field) -> None:
    silent = field.faults.place("breaker-aau", parse_order("silent"), field.clock.now().timestamp())

    async def stale() -> bool:
        guards = {one["guard"]: one for one in await found.get("guards", load="aau")}
        return bool(guards["stale_data"]["refuses"])

    await until(stale, "its data are stale")
    # Without an end of its own an OFF for a breaker that nobody has read is refused at once.
    at_once = await off(found)
    assert at_once.status_code == 400, at_once.text
    moved = len([one for one in field.events.after() if one.what == "command"])

    async def queued() -> Any:
        answer = await off(found, not_after=in_s(found, 3))
        return answer.json()["commands"][0] if answer.status_code == 202 else None

    waiting = await until(queued, "an OFF with an end of its own is taken")
    assert waiting["state"] == "scheduled"
    expired = await ended(found, waiting["command_id"], "expired", "succeeded", "failed")
    assert (expired["state"], expired["attempt"]) == ("expired", 0)
    evidence = expired["history"][-1]["evidence"]
    # Alarm may have noticed by then that the breaker is silent, which is a guard as well.
    assert evidence["guard"] == expired["reason"]
    assert evidence["guard"] in ("stale_data", "active_alarm")
    assert evidence["message"]
    assert evidence["message_zh"]
    assert (await found.get(f"commands/{waiting['pair_id']}"))["state"] == "cancelled"
    field.faults.withdraw(silent.fault_id)
    assert field.breakers["breaker-aau"].closed
    assert len([one for one in field.events.after() if one.what == "command"]) == moved


async def orders_that_contradict(found: Both, field: Field) -> None:
    """An ON takes back the OFF that waits; a second OFF of another end is refused and named."""

    async def taken() -> Any:
        answer = await off(found, not_before=in_s(found, 600), restore_at=in_s(found, 7200))
        return answer.json() if answer.status_code == 202 else None

    first = (await until(taken, "the OFF for later is taken"))["commands"][0]
    again = await off(found, not_before=in_s(found, 600), restore_at=in_s(found, 3600), priority="upstream_app")
    assert again.status_code == 400, again.text
    refusal = again.json()["facts"]["refused"][0]
    assert (refusal["guard"], refusal["value"]) == ("already_pending", first["command_id"])
    answer = await found.call("POST", "commands", {"action": "close", "load_id": "aau"})
    await ended(found, answer.json()["commands"][0]["command_id"], "succeeded")
    assert (await found.get(f"commands/{first['command_id']}"))["state"] == "superseded"
    assert field.breakers["breaker-aau"].closed


async def a_preview_names_what_will_stay_on(found: Both) -> None:
    body = {"load_ids": ["aau"], "first_date": "2099-01-01", "last_date": "2099-01-02",
            "windows": [{"start": "01:00", "end": "02:00"}]}  # fmt: skip
    assert (await found.call("POST", "plans/preview", body)).json()["stays_on"] == []
    response = await found.ingest.http.get("/api/v1/loads/aau", headers=found.ingest.headers())
    changed = {"name": "aau", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-aau"}}
    etag = {"if-match": response.headers["etag"]} if "etag" in response.headers else {}
    answer = await found.ingest.put("/api/v1/loads/aau", changed, **etag)
    assert answer.status_code == 200, answer.text

    async def shown() -> Any:
        return (await found.call("POST", "plans/preview", body)).json()["stays_on"]

    (one,) = await until(shown, "the preview knows that its layer is not known any more")
    assert (one["load_id"], one["guard"]) == ("aau", "coverage_layer")
    assert "coverage layer" in one["message"]
    assert "覆盖层" in one["message_zh"]


async def test_commands_to_a_breaker_that_is_offline(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_field(postgres_url, tmp_path, monkeypatch) as (found, field):
        wake_up_id = await never_off_in_a_place(found, field)
        await an_on_is_escalated_and_comes_through(found, field, wake_up_id)
        await an_off_is_queued_until_its_end_and_expires(found, field)
        await orders_that_contradict(found, field)
        await a_preview_names_what_will_stay_on(found)
