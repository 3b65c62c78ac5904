"""IEC 61850 against an IED by libiec61850: reading, reports, control models, a lost association."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.registry import LineKind
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput
from libs.common.profiles import ControlModel, Iec61850Control, ProfileCatalogue, ReadBack
from services.ingest.domain.switching import Switch, switch_of
from services.ingest.drivers.iec61850.line import Habits, Iec61850Line
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.peers.processes import Peer, free_port, peer
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec61850_breaker_example")
IED = device(id="b-1", kind="breaker", profile=PROFILE.name, address="ied1")
SWITCH = cast(Switch, switch_of(PROFILE, None))


@asynccontextmanager
async def ied(port: int) -> AsyncIterator[Peer]:
    async with peer("iec61850", "iec61850_ied.py", str(port)) as found:
        await found.ask(set="MMXU1.TotW.mag.f", value=3500)
        await found.ask(set="MMXU1.PhV.phsA.cVal.mag.f", value=230)
        await found.ask(set="MMTR1.TotWh.actVal", value=1234500)
        yield found


@asynccontextmanager
async def held(tmp_path: Path, port: int, **settings: float) -> AsyncIterator[TellingField]:
    the_line = line(
        kind=LineKind.IEC61850, endpoint=f"127.0.0.1:{port}", settings={"read_s": 3600, "terminate_s": 5, **settings}
    )
    async with telling_field(tmp_path, the_line, {"b-1": (IED, PROFILE)}) as found:
        yield found


async def test_attributes_are_read_and_changes_reported(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("energy_active_import"), "the first reading")
        assert field.last("energy_active_import") == pytest.approx(1234.5)
        assert (field.last("active_power_total"), field.last("voltage_a")) == (3.5, 230)
        assert field.last("breaker_state") == 1
        await peer_.ask(set="MMXU1.TotW.mag.f", value=1800)
        await eventually(lambda: field.last("active_power_total") == 1.8, "a report of a whole object")
        await peer_.ask(set="MMXU1.TotW.mag.f", value=1700, bad=True)
        await eventually(lambda: field.readings()[-1].quality, "a bad value")
        bad = field.readings()[-1]
        assert (bad.points["active_power_total"], bad.quality) == (None, {"active_power_total": Quality.INVALID})
        assert field.events() == []


async def test_movements_are_events_with_the_ieds_time(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        await peer_.ask(set="CSWI1.Pos.stVal", value=0)
        await peer_.ask(set="CSWI1.Pos.stVal", value=1)
        await peer_.ask(set="GGIO1.Ind1.stVal", value=1)
        await eventually(lambda: len(field.events()) == 2, "both events")
        moved, opened = field.events()
        assert (moved.code, moved.value) == ("breaker_state", 0)  # that it was on its way is no event
        assert (opened.code, opened.phase, opened.severity) == ("door_open", "begin", 4)
        assert abs(moved.source_time - datetime.now(UTC)) < timedelta(seconds=30)
        await eventually(lambda: field.last("door_state") == 1, "the state")


async def test_breaker_is_selected_operated_and_proven(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        target = field.target(IED, PROFILE)
        opened = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (opened.stage, opened.evidence.feedback_value, opened.evidence.answer) == (
            "verified", 0, "accepted and terminated",
        )  # fmt: skip
        closed = await field.switcher.close(target, SWITCH, channel=None, meter=None)
        assert closed.stage == "verified"
        assert (await peer_.ask(heard=True))["operated"] == ["CSWI1 False", "CSWI1 True"]


async def test_ied_that_refuses_says_why(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        await peer_.ask(refuse=True)
        target = field.target(IED, PROFILE)
        refused = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (refused.stage, refused.reason) == ("failed", "device_refused")
        assert (await peer_.ask(heard=True))["operated"] == []


async def order(field: TellingField, **changes: Any) -> str:
    control = Iec61850Control(
        **{
            "name": "breaker_open", "read_back": ReadBack(("breaker_state",), 0.0), "reference": "LD0/XCBR1.Pos",
            "model": ControlModel.DIRECT, "value": False, **changes,
        }
    )  # fmt: skip
    session = field.runner.session(Address("b-1", "ied1", PROFILE))
    return await field.runner.first(lambda: session.write(control, None))


async def test_control_models(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        assert await order(field) == "accepted"
        assert await order(field, value=True) == "accepted"
        assert (await peer_.ask(heard=True))["operated"] == ["XCBR1 False", "XCBR1 True"]
        with pytest.raises(DeviceRefused, match="not selected"):
            await order(field, reference="LD0/CSWI1.Pos")  # wants to be selected
        with pytest.raises(DeviceSilent, match="end of the command"):
            await order(field, model=ControlModel.DIRECT_ENHANCED)  # it tells no end
        with pytest.raises(DeviceRefused):
            await order(field, reference="LD0/XCBR9.Pos")
        with pytest.raises(InvalidInput, match="does not take"):
            await order(field, value=3.5)


async def test_association_that_is_lost_is_made_again_and_reports_go_on(tmp_path: Path) -> None:
    port = free_port()
    async with held(tmp_path, port) as field:
        async with ied(port):
            await eventually(lambda: field.last("breaker_state"), "the first reading")
        count = len(field.readings())
        async with ied(port) as peer_:
            await eventually(lambda: len(field.readings()) > count, "read again")
            await peer_.ask(set="CSWI1.Pos.stVal", value=1)
            await eventually(lambda: field.last("breaker_state") == 0, "a report on the new association")


async def test_without_reports_attributes_are_read_in_turn(tmp_path: Path) -> None:
    port = free_port()
    quiet = PROFILE.__class__(
        **{**{n: getattr(PROFILE, n) for n in PROFILE.__dataclass_fields__}, "control_blocks": ()}
    )
    the_line = line(kind=LineKind.IEC61850, endpoint=f"127.0.0.1:{port}", settings={"read_s": 0.2})
    async with ied(port) as peer_, telling_field(tmp_path, the_line, {"b-1": (IED, quiet)}) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        await peer_.ask(set="MMXU1.TotW.mag.f", value=900)
        await eventually(lambda: field.last("active_power_total") == 0.9, "the next reading")
        assert field.readings(topics.BACKFILL) == []


async def test_load_is_woken_over_a_second_association(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await peer_.ask(set="CSWI1.Pos.stVal", value=1)
        await eventually(lambda: field.last("breaker_state") == 0, "open")
        field.lines.held = None
        closed = await field.switcher.close(field.target(IED, PROFILE), SWITCH, channel=None, meter=None)
        assert closed.stage == "verified"
        await eventually(lambda: field.last("breaker_state") == 1, "the holder goes on listening")


async def test_peer_of_another_protocol_is_a_line_that_is_down(tmp_path: Path) -> None:
    tried = 0

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with held(tmp_path, port, connect_s=1):
        await eventually(lambda: tried >= 2, "tried again")
    server.close()


def test_address_is_the_name_of_an_ied() -> None:
    found = Iec61850Line("h", 102, clock=SystemClock(), habits=Habits(), beside=False)
    for text in (None, "", "LD0/x", "a b"):
        with pytest.raises(InvalidInput, match="name of the IED"):
            found.session(Address("d", text, PROFILE))
