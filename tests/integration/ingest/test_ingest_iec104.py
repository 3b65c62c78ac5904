"""IEC 60870-5-104 against a station by lib60870, and against peers that break its rules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from libs.common.clocksync import ClockState
from libs.common.contracts.base import Phase
from libs.common.contracts.registry import LineKind
from libs.common.contracts.telemetry import Quality
from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.switching import Switch, switch_of
from services.ingest.drivers.iec60870 import master
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.peers.processes import Peer, free_port, peer
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec60870_breaker_example")
BREAKER = device(id="b-1", kind="breaker", profile=PROFILE.name, address="47")
SWITCH = cast(Switch, switch_of(PROFILE, None))
MEASURED = range(0x4001, 0x400A)


@asynccontextmanager
async def station(port: int) -> AsyncIterator[Peer]:
    async with peer("iec104", "c104_station.py", str(port)) as found:
        for number, address in enumerate(MEASURED):
            await found.ask(set=address, value=100 + number)
        await found.ask(set=0x6401, value=123456)
        await found.ask(set=1, value=2)
        yield found


@asynccontextmanager
async def held(tmp_path: Path, port: int, **settings: float | str) -> AsyncIterator[TellingField]:
    the_line = line(
        kind=LineKind.IEC104, endpoint=f"127.0.0.1:{port}",
        settings={"zone": "UTC", "confirm_s": 5, "terminate_s": 5, **settings},
    )  # fmt: skip
    async with telling_field(tmp_path, the_line, {"b-1": (BREAKER, PROFILE)}) as found:
        yield found


async def test_station_is_interrogated_and_listened_to(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("energy_active_import"), "counters")
        assert (field.last("voltage_a"), field.last("breaker_state")) == (100, 1)
        assert field.last("energy_active_import") == pytest.approx(1234.56)
        await peer_.ask(set=0x4001, value=231.5, tell="SPONTANEOUS")
        await eventually(lambda: field.last("voltage_a") == 231.5, "a change")
        await peer_.ask(set=0x4002, value=99, quality=["Invalid"], tell="SPONTANEOUS")
        await eventually(lambda: field.readings()[-1].quality, "a bad value")
        bad = field.readings()[-1]
        assert (bad.points["voltage_b"], bad.quality) == (None, {"voltage_b": Quality.INVALID})
        assert field.rejected() == []


async def test_sequence_of_events_keeps_the_stations_milliseconds(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        before = datetime.now(UTC)
        await peer_.ask(set=3, value=1, ms_ago=40, tell="SPONTANEOUS")
        await peer_.ask(set=1, value=1, ms_ago=20, tell="SPONTANEOUS")
        await peer_.ask(set=3, value=0, tell="SPONTANEOUS")
        await eventually(lambda: len(field.events()) == 3, "three events")
        alarm, moved, over = field.events()
        assert [alarm.code, moved.code, over.code] == ["pretrip_alarm", "breaker_state", "pretrip_alarm"]
        assert [alarm.phase, moved.phase, over.phase] == [Phase.BEGIN, Phase.ONCE, Phase.END]
        assert alarm.source_time < over.source_time
        assert all(abs(event.source_time - before) < timedelta(seconds=10) for event in field.events())
        await eventually(lambda: field.last("breaker_state") == 0, "the state")


async def test_breaker_is_selected_operated_and_proven(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        target = field.target(BREAKER, PROFILE)
        opened = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (opened.stage, opened.evidence.feedback_value, opened.evidence.answer) == (
            "verified", 0, "confirmed and terminated",
        )  # fmt: skip
        closed = await field.switcher.close(target, SWITCH, channel=None, meter=None)
        assert (closed.stage, closed.evidence.feedback_value) == ("verified", 1)
        heard = await peer_.ask(heard=True)
        assert heard["commands"] == ["24577 Double.OFF", "24577 Double.ON"]  # one each: the selection moves nothing
        await eventually(lambda: [event.value for event in field.events()] == [0, 1], "both movements")


async def test_breaker_that_refuses_is_no_success(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        target = field.target(BREAKER, PROFILE)
        await peer_.ask(refuse=True)
        refused = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (refused.stage, refused.reason) == ("failed", "device_refused")


async def test_breaker_that_confirms_and_stands_still_is_no_success(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        await peer_.ask(obey=False)
        session = field.runner.session(field.runner._intake.devices["b-1"].address)
        await field.runner.first(lambda: session.write(PROFILE.controls["breaker_open"], None))
        read = await field.runner.read_now("b-1", ["breaker_state"])
        assert read is not None
        assert read[0] == {"breaker_state": 1}  # confirmed and terminated, and it has not moved


async def test_station_that_dies_is_found_again_and_told_down(tmp_path: Path) -> None:
    port = free_port()
    async with held(tmp_path, port) as field:
        async with station(port):
            await eventually(lambda: field.last("breaker_state"), "interrogation")
        count = len(field.readings())
        async with station(port) as peer_:
            await eventually(lambda: len(field.readings()) > count, "interrogated again")
            await peer_.ask(set=0x4001, value=7, tell="SPONTANEOUS")
            await eventually(lambda: field.last("voltage_a") == 7, "a change on the new connection")


async def test_load_is_woken_over_a_second_connection_while_somebody_else_holds_the_line(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        await peer_.ask(set=1, value=1, tell="SPONTANEOUS")
        await eventually(lambda: field.last("breaker_state") == 0, "open")
        field.lines.held = None
        closed = await field.switcher.close(field.target(BREAKER, PROFILE), SWITCH, channel=None, meter=None)
        assert closed.stage == "verified"
        assert (await peer_.ask(heard=True))["commands"] == ["24577 Double.ON"]
        await eventually(lambda: field.last("breaker_state") == 1, "the holder goes on listening")


async def test_clock_of_the_station_is_set_when_ours_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "clock_state", lambda: ClockState(synchronised=True, max_error_s=0.01))
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        (told,) = (await peer_.ask(heard=True))["clock"]
        assert abs(datetime.fromisoformat(told).replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=10)
    monkeypatch.setattr(master, "clock_state", lambda: ClockState(synchronised=False, max_error_s=16.0))
    port = free_port()
    async with station(port) as peer_, held(tmp_path / "second", port) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        assert (await peer_.ask(heard=True))["clock"] == []  # better its own clock than our wrong one
