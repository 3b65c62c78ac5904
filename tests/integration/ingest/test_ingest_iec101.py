"""IEC 60870-5-101 on pseudo terminals, with stations by hat-drivers at the other end of the pair."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hat.drivers import iec101
from hat.drivers.iec60870 import link

from libs.common.clock import SystemClock
from libs.common.contracts.base import Phase
from libs.common.contracts.registry import LineKind
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.switching import Switch, switch_of
from services.ingest.drivers.factory import open_line
from services.ingest.settings import PollingSettings
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.peers.terminals import pair
from tests.unit.ingest.ingest_fakes import MEANS, device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec60870_breaker_example")
SWITCH = cast(Switch, switch_of(PROFILE, None))
OCTETS = {"cause_octets": 1, "common_address_octets": 1, "object_address_octets": 2}
STATE, VOLTAGE, ENERGY, COMMAND = 1, 0x4001, 0x6401, 0x6001
GOOD = iec101.MeasurementQuality(False, False, False, False, False)
GOOD_STATE = iec101.IndicationQuality(False, False, False, False)


@dataclass
class Station:
    """One station of a few objects."""

    address: int
    closed: bool = True
    volts: float = 230.0
    selected: bool = False
    commands: list[int] = field(default_factory=list)
    connection: Any = None

    async def serve(self, connection: link.Connection) -> None:
        self.connection = iec101.Connection(
            connection, iec101.CauseSize.ONE, iec101.AsduAddressSize.ONE, iec101.IoAddressSize.TWO
        )
        while True:
            for message in await self.connection.receive():
                if message.asdu_address == self.address:
                    await self.connection.send(self.answers(message))

    def answers(self, message: Any) -> list[Any]:
        if isinstance(message, iec101.InterrogationMsg):
            cause = iec101.DataResCause.INTERROGATED_STATION
            return [_replied(message, 7), self.state(cause), self.voltage(cause), _replied(message, 10)]
        if isinstance(message, iec101.CounterInterrogationMsg):
            return [_replied(message, 7), self.energy(), _replied(message, 10)]
        if isinstance(message, iec101.CommandMsg):
            if message.command.select:
                self.selected = True
                return [_replied(message, 7)]
            if not self.selected:
                return [_replied(message, 7)._replace(is_negative_confirm=True)]
            self.selected = False
            self.closed = message.command.value is iec101.DoubleValue.ON
            self.commands.append(message.command.value.value)
            moved = self.state(iec101.DataResCause.REMOTE_COMMAND)
            return [_replied(message, 7), moved, _replied(message, 10)]
        return []

    def state(self, cause: Any, time: Any = None) -> Any:
        value = iec101.DoubleValue.ON if self.closed else iec101.DoubleValue.OFF
        return self._data(STATE, iec101.DoubleData(value, GOOD_STATE), cause, time)

    def voltage(self, cause: Any) -> Any:
        return self._data(VOLTAGE, iec101.FloatingData(iec101.FloatingValue(self.volts), GOOD), cause)

    def energy(self) -> Any:
        quality = iec101.CounterQuality(False, False, False, 1)
        data = iec101.BinaryCounterData(iec101.BinaryCounterValue(100_000 * self.address), quality)
        return self._data(ENERGY, data, iec101.DataResCause.INTERROGATED_COUNTER)

    def _data(self, address: int, data: Any, cause: Any, time: Any = None) -> Any:
        return iec101.DataMsg(False, 0, self.address, address, data, time, cause)

    async def tell(self, message: Any) -> None:
        await self.connection.send([message])


def _replied(message: Any, cause: int) -> Any:
    return message._replace(cause=iec101.CommandResCause(cause))


@asynccontextmanager
async def unbalanced(port: str, *stations: Station) -> AsyncIterator[None]:
    slave = await link.create_slave_link(port, link.AddressSize.ONE, baudrate=115200)

    async def serve(station: Station) -> None:
        await station.serve(await slave.open_connection(station.address))

    tasks = [asyncio.create_task(serve(station), name="station") for station in stations]
    try:
        yield
    finally:
        await slave.async_close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()


@asynccontextmanager
async def held(tmp_path: Path, port: str, *addresses: int, **settings: float | str) -> AsyncIterator[TellingField]:
    devices = {
        f"b-{address}": (device(id=f"b-{address}", profile=PROFILE.name, address=str(address)), PROFILE)
        for address in addresses
    }
    the_line = line(
        kind=LineKind.IEC101, endpoint=port,
        settings={"baud": 115200, "timeout_s": 0.5, "poll_s": 0.05, "confirm_s": 10, **OCTETS, **settings},
    )  # fmt: skip
    async with telling_field(tmp_path, the_line, devices) as found:
        yield found


async def test_stations_on_one_line_are_polled_in_turn_and_a_dead_one_does_not_stop_them(tmp_path: Path) -> None:
    first, second = Station(1), Station(2, volts=180.0)
    async with pair(tmp_path) as (ours, theirs), unbalanced(theirs, first, second):
        async with held(tmp_path / "spool", ours, 1, 2, 9) as field_:
            await eventually(lambda: field_.last("energy_active_import", "b-2"), "counters of the second one")
            assert field_.last("voltage_a", "b-1") == 230
            assert field_.last("voltage_a", "b-2") == 180
            assert field_.last("energy_active_import", "b-2") == 2000
            first.volts = 199.0
            await first.tell(first.voltage(iec101.DataResCause.SPONTANEOUS))
            await eventually(lambda: field_.last("voltage_a", "b-1") == 199, "a change")


async def test_old_time_tags_say_the_minute_only(tmp_path: Path) -> None:
    station = Station(1)
    async with pair(tmp_path) as (ours, theirs), unbalanced(theirs, station):
        async with held(tmp_path / "spool", ours, 1) as field_:
            await eventually(lambda: field_.last("breaker_state"), "interrogation")
            station.closed = False
            when = iec101.time_from_datetime(field_.readings()[-1].received_at)
            short = when._replace(size=iec101.TimeSize.THREE)
            await station.tell(station.state(iec101.DataResCause.SPONTANEOUS, short))
            await eventually(lambda: field_.events(), "an event")
            (event,) = field_.events()
            assert (event.code, event.phase, event.value) == ("breaker_state", Phase.ONCE, 0)
            assert abs((event.source_time - field_.readings()[0].received_at).total_seconds()) < 60


async def test_breaker_is_switched_and_proven(tmp_path: Path) -> None:
    station = Station(1)
    async with pair(tmp_path) as (ours, theirs), unbalanced(theirs, station):
        async with held(tmp_path / "spool", ours, 1) as field_:
            await eventually(lambda: field_.last("breaker_state"), "interrogation")
            target = field_.target(device(id="b-1", address="1"), PROFILE)
            opened = await field_.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
            assert (opened.stage, opened.evidence.feedback_value) == ("verified", 0)
            closed = await field_.switcher.close(target, SWITCH, channel=None, meter=None)
            assert closed.stage == "verified"
            assert station.commands == [1, 2]


async def test_station_that_comes_back_is_interrogated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "services.ingest.drivers.iec60870.unbalanced")
    async with pair(tmp_path) as (ours, theirs):
        async with held(tmp_path / "spool", ours, 1) as field_:
            async with unbalanced(theirs, Station(1)):
                await eventually(lambda: field_.last("energy_active_import"), "counters")
            await eventually(lambda: "station does not answer" in caplog.text, "it is missed")
            async with unbalanced(theirs, Station(1, volts=111.0)):
                await eventually(lambda: field_.last("voltage_a") == 111, "the next one")


@asynccontextmanager
async def balanced(port: str, station: Station) -> AsyncIterator[None]:
    found = await link.create_balanced_link(port, link.AddressSize.ONE, baudrate=115200)

    async def serve() -> None:
        await station.serve(await found.open_connection(link.Direction.B_TO_A, station.address, response_timeout=1))

    task = asyncio.create_task(serve(), name="station")
    try:
        yield
    finally:
        await found.async_close()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()


async def test_balanced_line_lets_both_sides_begin(tmp_path: Path) -> None:
    station = Station(3)
    async with pair(tmp_path) as (ours, theirs), balanced(theirs, station):
        async with held(tmp_path / "spool", ours, 3, link="balanced") as field_:
            await eventually(lambda: field_.last("energy_active_import"), "counters")
            station.volts = 222.0
            await station.tell(station.voltage(iec101.DataResCause.SPONTANEOUS))
            await eventually(lambda: field_.last("voltage_a") == 222, "what it begins by itself")
            target = field_.target(device(id="b-3", address="3"), PROFILE)
            opened = await field_.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
            assert (opened.stage, station.commands) == ("verified", [1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"object_address_octets": 4}, "object_address_octets"),
        ({"link": "circular"}, "settings.link"),
        ({"baud": 3}, "settings.baud"),
        ({"link_address": 255}, "link_address"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Mapping[str, Any], message: str) -> None:
    wrong = line(kind=LineKind.IEC101, endpoint="/dev/null", settings=settings)
    with pytest.raises(InvalidInput, match=message):
        open_line(wrong, SystemClock(), PollingSettings(), MEANS)
