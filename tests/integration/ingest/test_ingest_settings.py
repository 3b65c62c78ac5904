"""Thresholds written into a device over Modbus, read back, refused and not followed; the peer is not ours."""

from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import envelope, topics
from libs.common.clock import SystemClock
from libs.common.contracts.control import Command, CommandAction
from libs.common.ids import new_id
from libs.common.tokens import canonical
from tests.integration.ingest.conftest import SITE, Peer, RunningIngest, quick, running, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

OVERVOLTAGE = 0x0002
CONTROL = (
    "  - {name: set_overvoltage, function: write_single_register, area: holding, addr: 0x0002, value: null,"
    " min: 230, max: 300, settle_s: 0.1, verify_within_s: 1, read_back: {points: [setting_overvoltage]}}\n"
    # Takes what is written and goes by something else.
    "  - {name: set_overcurrent, function: write_single_register, area: holding, addr: 0x0040, value: null,"
    " min: 1, max: 63, settle_s: 0.1, verify_within_s: 1, read_back: {points: [setting_overcurrent]}}\n"
    "  - {name: restart, function: write_single_register, area: holding, addr: 0x0050, value: 0x55AA, settle_s: 0.1,"
    " verify_within_s: 30}\n"
)
CLOCK = "clock: {addr: 0x0060, registers: [yy/mo, dd/hh, mi/ss]}\n"


@pytest.fixture
async def ingest(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningIngest]:
    """One ingest that knows a breaker whose overvoltage threshold can be written."""
    shipped = files("libs.common").joinpath("data", "device_profiles", "lx47le_125.yaml").read_text(encoding="utf-8")
    folder = tmp_path / "profiles"
    folder.mkdir()
    made = shipped.replace("feedback:\n", CONTROL + "feedback:\n", 1).replace("points:\n", CLOCK + "points:\n", 1)
    (folder / "settable_breaker.yaml").write_text(made, encoding="utf-8")
    quick(monkeypatch)
    async with running(postgres_url, tmp_path, profile_dirs=(folder,)) as found:
        yield found


async def create(ingest: RunningIngest, endpoint: str) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/lines/line-1", {"name": "Port", "kind": "tcp", "endpoint": endpoint})
    await ingest.create(
        "/api/v1/devices/breaker-1",
        {"name": "Breaker", "kind": "breaker", "profile": "settable_breaker", "site": "site-1", "line": "line-1",
         "address": "1"},
    )  # fmt: skip


async def order(
    ingest: RunningIngest, action: CommandAction, arguments: dict[str, Any], device_id: str = "breaker-1"
) -> str:
    now = SystemClock().now()
    unsigned = Command(
        command_id=new_id(), site_id="site-1", device_id=device_id, line_id="line-1", action=action,
        arguments=arguments, not_after=now + timedelta(seconds=60), issued_at=now, signature="",
    )  # fmt: skip
    signature = ingest.platform.keys.sign_bytes("control", canonical(unsigned.signing_payload()))
    command = unsigned.model_copy(update={"signature": signature})
    message = envelope.message(
        topics.COMMANDS, command.site_id, command, source="control", time=now, event_id=command.command_id
    )
    await ingest.platform.bus.publish([message], timeout_s=5)
    return command.command_id


async def ended(ingest: RunningIngest, command_id: str) -> dict[str, Any]:
    """Return the last word on a command."""

    async def found() -> Any:
        stages = [m for m in await ingest.messages(topics.RESULTS) if m["command_id"] == command_id]
        return next((m for m in stages if m["stage"] not in ("accepted", "executed")), None)

    result: dict[str, Any] = await until(found, f"{command_id} ends")
    return result


async def held(ingest: RunningIngest) -> None:
    """Wait until ingest holds the line: what is ordered before is for nobody."""

    async def polled() -> Any:
        return await ingest.messages(topics.READINGS)

    await until(polled, "the breaker is polled")


async def test_a_threshold_is_written_read_back_looked_at_refused_and_not_followed(
    ingest: RunningIngest, peer: Peer
) -> None:
    peer.bank.set_holding_registers(OVERVOLTAGE, [275, 175, 6300])
    peer.bank.set_input_registers(0x0000, [0x00F0])
    await create(ingest, peer.endpoint)
    await held(ingest)
    wanted = {"point": "setting_overvoltage", "value": 265.0}
    done = await ended(ingest, await order(ingest, CommandAction.SET_THRESHOLD, wanted))
    assert (done["stage"], done["evidence"]["feedback_point"], done["evidence"]["feedback_value"]) == (
        "verified", "setting_overvoltage", 265,
    )  # fmt: skip
    assert peer.bank.get_holding_registers(OVERVOLTAGE, 1) == [265]
    peer.bank.set_holding_registers(OVERVOLTAGE, [280])
    seen = await ended(ingest, await order(ingest, CommandAction.READ_BACK, {"point": "setting_overvoltage"}))
    assert (seen["stage"], seen["evidence"]["feedback_value"]) == ("verified", 280)

    # What the device cannot, or does not do.
    for arguments in (
        {"point": "setting_undervoltage", "value": 180.0},  # nothing writes it
        {"point": "setting_overvoltage", "value": True},
        {"value": 265.0},
    ):
        refused = await ended(ingest, await order(ingest, CommandAction.SET_THRESHOLD, arguments))
        assert (refused["stage"], refused["reason"]) == ("refused", "bad_arguments")
    unknown = await ended(ingest, await order(ingest, CommandAction.READ_BACK, {"point": "setting_leakage"}))
    assert (unknown["stage"], unknown["reason"]) == ("refused", "bad_arguments")
    wanted = {"point": "setting_overcurrent", "value": 50.0}
    stuck = await ended(ingest, await order(ingest, CommandAction.SET_SAMPLING_PERIOD, wanted))
    assert (stuck["stage"], stuck["reason"], stuck["evidence"]["feedback_value"]) == ("failed", "not_followed", 63)


async def test_the_clock_and_the_restart_of_a_profile_are_done_and_a_set_point_of_an_air_conditioner_follows(
    ingest: RunningIngest, peer: Peer
) -> None:
    peer.bank.set_holding_registers(OVERVOLTAGE, [275, 175, 6300])
    peer.bank.set_input_registers(0x0000, [0x00F0])
    peer.bank.set_holding_registers(0x0014, [24])
    await create(ingest, peer.endpoint)
    await ingest.create(
        "/api/v1/devices/ac-1",
        {"name": "Cooling", "kind": "ac_unit", "profile": "gree_umatch_ac", "site": "site-1", "line": "line-1",
         "address": "1"},
    )  # fmt: skip
    await held(ingest)
    set_ = await ended(ingest, await order(ingest, CommandAction.SET_CLOCK, {"within_s": 10.0}))
    assert (set_["stage"], abs(set_["evidence"]["feedback_value"]) <= 10) == ("verified", True)
    year_month = peer.bank.get_holding_registers(0x0060, 1)[0]
    assert 2026 <= 2000 + (year_month >> 8) < 2100
    looked = await ended(ingest, await order(ingest, CommandAction.READ_BACK, {"clock": True}))
    # The peer's registers stand still, so its clock falls behind by what has passed since.
    assert (looked["stage"], looked["evidence"]["feedback_value"] <= 0.5) == ("verified", True)
    done = await ended(ingest, await order(ingest, CommandAction.RESTART, {}))
    assert (done["stage"], "answers again" in done["evidence"]["answer"]) == ("verified", True)
    assert peer.bank.get_holding_registers(0x0050, 1) == [0x55AA]
    wanted = {"point": "temperature_setpoint", "value": 26.0}
    cooled = await ended(ingest, await order(ingest, CommandAction.SET_POINT, wanted, device_id="ac-1"))
    assert (cooled["stage"], cooled["evidence"]["feedback_value"]) == ("verified", 26)
    assert peer.bank.get_holding_registers(0x0014, 1) == [26]
    power = {"point": "ac_power_state", "value": 0.0}
    refused = await ended(ingest, await order(ingest, CommandAction.SET_POINT, power, device_id="ac-1"))
    assert (refused["stage"], refused["reason"]) == ("refused", "switching_point")
