"""An OFF is believed when contact and meter say so: a breaker with welded contacts, ingest and control, for real."""

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

AAU_KW = 0.75
FIELD: dict[str, Any] = {
    "schema": "field/1",
    "loads": [{"id": "aau", "constant_kw": AAU_KW, "gain": 0.0}],
    "lines": [{"id": "gateway"}],
    "devices": [
        {"id": "meter", "site": "s", "line": "gateway", "unit": 1, "profile": "eastron_sdm630", "loads": ["aau"]},
        {"id": "breaker", "site": "s", "line": "gateway", "unit": 2, "profile": "lx47le_125", "loads": ["aau"],
         "motor_delay_s": 0},
    ],
}  # fmt: skip


async def register(found: Both, endpoint: str) -> None:
    create = found.ingest.create
    await create("/api/v1/sites/site-1", SITE)
    await create("/api/v1/lines/line-1", {"name": "Port", "kind": "tcp", "endpoint": endpoint})
    for name, profile, unit in (("meter", "eastron_sdm630", "1"), ("breaker", "lx47le_125", "2")):
        body = {"name": name, "kind": "breaker" if name == "breaker" else "meter_3p", "profile": profile,
                "site": "site-1", "line": "line-1", "address": unit}  # fmt: skip
        await create(f"/api/v1/devices/{name}", body)
    await create("/api/v1/circuits/circuit-1", {"name": "AAU", "level": 3, "role": "load", "site": "site-1"})
    await create("/api/v1/bindings/binding-1", {"name": "AAU", "device": "meter", "circuit": "circuit-1"})
    await create(
        "/api/v1/loads/aau",
        {"name": "AAU", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker"},
         "meter": "circuit-1", "coverage_layer": False},
    )  # fmt: skip


async def switched_off(found: Both, restore_s: float = 3600) -> dict[str, Any]:
    """Order an OFF as soon as nothing speaks against it, and return it when it has ended."""

    async def taken() -> dict[str, Any] | None:
        restore_at = (found.platform.clock.now() + timedelta(seconds=restore_s)).isoformat()
        answer = await found.call("POST", "commands", {"action": "open", "load_id": "aau", "restore_at": restore_at})
        body: dict[str, Any] = answer.json()
        return body if answer.status_code == 202 else None

    group = await until(taken, "the order is taken")
    command_id = group["commands"][0]["command_id"]

    async def ended() -> Any:
        command = await found.get(f"commands/{command_id}")
        return command if command["state"] in ("succeeded", "failed", "rejected", "expired") else None

    command: dict[str, Any] = await until(ended, "the OFF has ended")
    return command


async def test_an_off_that_still_draws_300_w_failed_and_is_woken_from_at_once(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(FieldFile.model_validate(FIELD), clock=SystemClock(), refresh_s=0)
    await field.start()
    try:
        async with both(postgres_url, tmp_path, monkeypatch) as found:
            await register(found, field.endpoints["gateway"])
            placed = field.faults.place("breaker", parse_order("welded:share=0.4"), field.clock.now().timestamp())
            off = await switched_off(found)
            assert (off["state"], off["reason"]) == ("failed", "still_draws_power")
            evidence = off["history"][-1]["evidence"]
            assert (evidence["feedback_point"], evidence["feedback_value"]) == ("breaker_state", 0)
            assert evidence["meter_device_id"] == "meter"
            assert evidence["meter_power_kw"] == pytest.approx(0.4 * AAU_KW, rel=0.02)
            assert off["fault"]["code"] == "S13"
            assert "meter still shows power" in off["fault"]["text"]
            assert "仍有功率" in off["fault"]["text_zh"]

            async def awake() -> Any:
                on = await found.get(f"commands/{off['pair_id']}")
                return on if on["state"] == "succeeded" else None

            # An hour before its time: what is no proven shutdown is woken from at once.
            on = await until(awake, "it is on again")
            assert on["sent_at"] < off["restore_at"]
            assert on["history"][-1]["evidence"]["feedback_value"] == 1
            assert field.breakers["breaker"].closed

            # The same breaker once its contacts part: proven by contact and meter.
            field.faults.withdraw(placed.fault_id)
            off = await switched_off(found)
            assert (off["state"], off["fault"]) == ("succeeded", None), off["history"]
            assert off["history"][-1]["evidence"]["meter_power_kw"] == pytest.approx(0, abs=0.005)
    finally:
        await field.stop()
