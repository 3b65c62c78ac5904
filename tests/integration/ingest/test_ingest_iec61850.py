"""IEC 61850 against an IED by libiec61850: reading, reports, control models, lost associations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
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
INTERMEDIATE, OFF, ON = 0, 1, 2
INVALID, SUBSTITUTED, TEST, BLOCKED = 2, 1 << 10, 1 << 11, 1 << 12
"""Qualities, as libiec61850 codes them."""
BLOCKED_BY_INTERLOCKING = 10


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
        kind=LineKind.IEC61850, endpoint=f"127.0.0.1:{port}", settings={"read_s": 3600, "terminate_s": 2, **settings}
    )
    async with telling_field(tmp_path, the_line, {"b-1": (IED, PROFILE)}) as found:
        yield found


async def settled(field: TellingField) -> None:
    """Return once both report control blocks and the first reading have told everything."""
    await eventually(lambda: len(field.readings()) >= 3, "interrogated and read")


class Way:
    """A way to the IED that can be cut while the IED goes on."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.open = True
        self.made = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Way":
        self.server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self.server.close()

    def cut(self) -> None:
        self.open = False
        for task in self.tasks:
            task.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        self.made += 1

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
            finally:
                target.close()

        for pair in ((reader, back), (there, writer)):
            task = asyncio.create_task(pass_on(*pair))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


async def test_attributes_are_read_and_changes_reported(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        assert field.last("energy_active_import") == pytest.approx(1234.5)
        assert (field.last("active_power_total"), field.last("voltage_a")) == (3.5, 230)
        assert (field.last("breaker_state"), field.last("door_state")) == (1, 0)
        at_ms = int(datetime.now(UTC).timestamp() * 1000) + 1
        await peer_.ask(set="MMXU1.TotW.mag.f", value=1800, time_ms=at_ms)
        await eventually(lambda: field.last("active_power_total") == 1.8, "a report of a whole object")
        assert field.readings()[-1].source_time.timestamp() == pytest.approx(at_ms / 1000, abs=0.002)
        assert field.events() == []
        assert field.rejected() == []


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        (INVALID, Quality.INVALID),
        (TEST, Quality.INVALID),
        (SUBSTITUTED, Quality.SUBSTITUTED),
        (BLOCKED, Quality.FROZEN),
    ],
    ids=["invalid", "test", "substituted", "operator blocked"],
)
async def test_quality_of_an_attribute_is_kept(tmp_path: Path, quality: int, said: Quality) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        await peer_.ask(set="MMXU1.TotW.mag.f", value=1700, quality=quality)
        await eventually(lambda: field.readings()[-1].quality, "its quality")
        told = field.readings()[-1]
        assert told.quality == {"active_power_total": said}
        assert told.points["active_power_total"] == (None if said.is_bad else 1.7)


async def test_time_of_a_clock_that_follows_nothing_is_not_believed(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        long_ago = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000)
        await peer_.ask(set="MMXU1.TotW.mag.f", value=1700, time_ms=long_ago, unsynchronized=True)
        await eventually(lambda: field.last("active_power_total") == 1.7, "the change")
        assert datetime.now(UTC) - field.readings()[-1].source_time < timedelta(minutes=5)


async def test_movements_are_events_with_the_ieds_time(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        await peer_.ask(set="CSWI1.Pos.stVal", value=INTERMEDIATE)
        await peer_.ask(set="CSWI1.Pos.stVal", value=ON)  # it went back
        await peer_.ask(set="CSWI1.Pos.stVal", value=INTERMEDIATE)
        at_ms = int((datetime.now(UTC) - timedelta(milliseconds=300)).timestamp() * 1000)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF, time_ms=at_ms)
        await peer_.ask(set="GGIO1.Ind1.stVal", value=1)
        await eventually(lambda: len(field.events()) == 2, "both events")
        moved, opened = field.events()
        assert (moved.code, moved.value) == ("breaker_state", 0)  # that it was on its way is no event
        assert moved.source_time.timestamp() == pytest.approx(at_ms / 1000, abs=0.002)
        assert (opened.code, opened.phase, opened.severity) == ("door_open", "begin", 4)
        await eventually(lambda: field.last("door_state") == 1, "the state")


async def test_breaker_is_selected_operated_and_proven(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        target = field.target(IED, PROFILE)
        opened = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (opened.stage, opened.evidence.feedback_value, opened.evidence.answer) == (
            "verified", 0, "accepted and terminated",
        )  # fmt: skip
        closed = await field.switcher.close(target, SWITCH, channel=None, meter=None)
        assert closed.stage == "verified"
        assert await peer_.ask(heard=True) == ["CSWI1.Pos False", "CSWI1.Pos True"]
        await peer_.ask(refuse=BLOCKED_BY_INTERLOCKING)
        refused = await field.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (refused.stage, refused.reason) == ("failed", "device_refused")
        assert "blocked by interlocking" in str(refused)
        assert len(await peer_.ask(heard=True)) == 2


async def order(field: TellingField, subject: str, model: str, value: float | None = False, **changes: Any) -> str:
    control = Iec61850Control(
        **{
            "name": "breaker_open", "read_back": ReadBack(("breaker_state",), 0.0), "reference": f"LD0/{subject}",
            "model": ControlModel(model), "value": value, **changes,
        }
    )  # fmt: skip
    session = field.runner.session(Address("b-1", "ied1", PROFILE))
    return await field.runner.first(lambda: session.write(control, 7.0 if value is None else None))


async def test_every_control_model_is_answered_refused_and_failed(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        models = {"CSWI1": "sbo_enhanced", "CSWI2": "direct_enhanced", "CSWI3": "sbo", "XCBR1": "direct"}
        for node, model in models.items():
            enhanced = model.endswith("enhanced")
            wanted = "accepted and terminated" if enhanced else "accepted"
            assert await order(field, f"{node}.Pos", model) == wanted
            await peer_.ask(refuse=BLOCKED_BY_INTERLOCKING)
            # Without enhanced security this IED does not say why.
            reason = {"sbo": "not selected", "direct": "temporarily unavailable"}.get(model, "blocked by interlocking")
            with pytest.raises(DeviceRefused, match=reason):
                await order(field, f"{node}.Pos", model)
            await peer_.ask(refuse=None, jam=True)
            if enhanced:
                with pytest.raises(DeviceRefused, match="ended without success: invalid position"):
                    await order(field, f"{node}.Pos", model)
            await peer_.ask(jam=False)
        heard = await peer_.ask(heard=True)
        assert heard == [f"{node}.Pos False" for node in ("CSWI1", "CSWI1", "CSWI2", "CSWI2", "CSWI3", "XCBR1")]


async def test_command_that_does_not_fit_the_object_is_told_apart(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        with pytest.raises(DeviceRefused, match="object not selected"):
            await order(field, "CSWI1.Pos", "direct")  # wants to be selected
        with pytest.raises(DeviceSilent, match="end of the command"):
            await order(field, "XCBR1.Pos", "direct_enhanced")  # it tells no end
        with pytest.raises(DeviceRefused, match="XCBR9"):
            await order(field, "XCBR9.Pos", "direct")
        with pytest.raises(InvalidInput, match="does not take"):
            await order(field, "XCBR1.Pos", "direct", 3.5)
        assert await order(field, "GGIO1.AnOut1", "direct", None, min=0.0, max=10.0) == "accepted"
        with pytest.raises(InvalidInput, match="from 0 to 5"):
            await order(field, "GGIO1.AnOut1", "direct", None, min=0.0, max=5.0)
        assert await peer_.ask(heard=True) == ["XCBR1.Pos False", "GGIO1.AnOut1 7.0"]


async def test_what_a_buffer_kept_while_the_way_was_cut_is_told_afterwards(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, Way(port) as way, held(tmp_path, way.port) as field:
        await settled(field)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
        await eventually(lambda: len(field.events()) == 1, "a report before")
        way.cut()
        began_ms = int(datetime.now(UTC).timestamp() * 1000)
        await peer_.ask(set="CSWI1.Pos.stVal", value=ON, time_ms=began_ms)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF, time_ms=began_ms + 10)
        await peer_.ask(set="CSWI1.Pos.stVal", value=ON, time_ms=began_ms + 20)
        await peer_.ask(set="GGIO1.Ind1.stVal", value=1)
        await asyncio.sleep(0.5)  # it gathers an entry for 50 ms, and a busy machine takes longer
        ended = datetime.now(UTC)
        count = len(field.readings())
        way.open = True
        await eventually(lambda: len(field.readings()) >= count + 3, "interrogated and read again")
        await eventually(lambda: len(field.events()) == 5, "all movements")
        *moved, opened = field.events()[1:]
        assert [event.value for event in moved] == [1, 0, 1]
        moved_at = [event.source_time.timestamp() * 1000 - began_ms for event in moved]
        assert moved_at == pytest.approx([0, 10, 20], abs=2)
        # Of the door's time nothing was reported; the entry in the buffer has one, from before the way was open.
        assert opened.code == "door_open"
        assert began_ms / 1000 - 0.01 <= opened.source_time.timestamp() <= ended.timestamp()
        kept = [dict(reading.points) for reading in field.readings(topics.BACKFILL)]
        assert kept == [{"breaker_state": 1}, {"breaker_state": 0}, {"breaker_state": 1}, {"door_state": 1}]
        assert (field.last("breaker_state"), field.last("door_state")) == (1, 1)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
        await eventually(lambda: field.last("breaker_state") == 0, "reports go on, live")
        assert len(field.readings(topics.BACKFILL)) == 4


async def test_ied_that_was_started_anew_is_asked_anew(tmp_path: Path) -> None:
    port = free_port()
    async with held(tmp_path, port) as field:
        async with ied(port) as peer_:
            await settled(field)
            await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
            await eventually(lambda: field.last("breaker_state") == 0, "a report with an entry")
        count = len(field.readings())
        async with ied(port) as peer_:
            await eventually(lambda: len(field.readings()) > count + 2, "interrogated and read again")
            # Its buffer has begun anew and cannot tell the movement; the reading has.
            await eventually(lambda: field.last("breaker_state") == 1, "how things are now")
            await eventually(lambda: len(field.events()) == 2, "the event of it")
            await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
            await eventually(lambda: field.last("breaker_state") == 0, "a report on the new association")


async def test_without_reports_attributes_are_read_in_turn(tmp_path: Path) -> None:
    port = free_port()
    the_line = line(kind=LineKind.IEC61850, endpoint=f"127.0.0.1:{port}", settings={"read_s": 0.2})
    quiet = replace(PROFILE, control_blocks=("LD0/LLN0.RP.urcbGone",))
    async with ied(port) as peer_, telling_field(tmp_path, the_line, {"b-1": (IED, quiet)}) as field:
        await eventually(lambda: field.last("breaker_state"), "the first reading")
        await peer_.ask(set="MMXU1.TotW.mag.f", value=900)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
        await eventually(lambda: field.last("active_power_total") == 0.9, "the next reading")
        await eventually(lambda: len(field.events()) == 1, "a movement that was read is an event too")
        assert field.readings(topics.BACKFILL) == []


async def test_everything_is_told_again_in_the_time_that_was_asked_for(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port), held(tmp_path, port, integrity_s=0.2) as field:
        await settled(field)
        await eventually(lambda: len(field.readings()) >= 8, "integrity reports")
        assert field.last("active_power_total") == 3.5
        assert field.events() == []


async def test_two_devices_of_one_ied_share_its_reports(tmp_path: Path) -> None:
    port = free_port()
    the_line = line(kind=LineKind.IEC61850, endpoint=f"127.0.0.1:{port}", settings={"read_s": 3600})
    other = IED.model_copy(update={"id": "b-2"})
    both = {"b-1": (IED, PROFILE), "b-2": (other, PROFILE)}
    async with ied(port) as peer_, telling_field(tmp_path, the_line, both) as field:
        await eventually(lambda: len(field.readings()) >= 6, "both are read")
        await peer_.ask(set="MMXU1.TotW.mag.f", value=900)
        await eventually(lambda: all(field.last("active_power_total", d) == 0.9 for d in both), "both are told")


async def test_load_is_woken_over_a_second_association(tmp_path: Path) -> None:
    port = free_port()
    async with ied(port) as peer_, held(tmp_path, port) as field:
        await settled(field)
        await peer_.ask(set="CSWI1.Pos.stVal", value=OFF)
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
