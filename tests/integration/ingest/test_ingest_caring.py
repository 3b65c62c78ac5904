"""Clocks and restarts over the wire: DL/T 645 and YD/T 1363 equipment, 104 stations of others and of the simulator."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.control import Stage
from libs.common.contracts.registry import Line, LineKind
from libs.common.profiles import ProfileCatalogue
from libs.common.secretstore import SecretStore
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import Address, Care, CaredSession, DeviceRefused, NotOffered, TellingLine
from services.ingest.settings import PollingSettings, SwitchingSettings
from services.ingest.usecases.caring import Caretaker
from tests.integration.fieldsim.test_fieldsim_outstation import PROFILE as STATION
from tests.integration.fieldsim.test_fieldsim_outstation import outstation
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.integration.ingest.test_ingest_iec104 import BREAKER, PROFILE, held, station
from tests.peers.processes import free_port
from tests.unit.ingest.ingest_fakes import MEANS, device, line

pytestmark = pytest.mark.integration

PASSWORD = "731946"
RIGHT = timedelta(seconds=2.5)
"""Meters tell whole seconds, and each question takes its time."""


class ClockAt(SystemClock):
    """A clock that runs on from some time of day in Shanghai."""

    def __init__(self, local: str) -> None:
        self._ahead = datetime.fromisoformat(f"2026-05-20T{local}+08:00") - datetime.now(UTC)

    def now(self) -> datetime:
        return super().now() + self._ahead


@asynccontextmanager
async def room(
    folder: Path,
    local: str,
    *,
    meter_off_s: float = 0.0,
    rectifier_off_s: float = 0.0,
    password: str | None = PASSWORD,
    **settings: Any,
) -> AsyncIterator[tuple[Field, dict[str, CaredSession]]]:
    """Run a meter and a rectifier on one line, with clocks that are off."""
    clock = ClockAt(local)
    here: dict[str, Any] = {"site": "site-1", "line": "line-1", "loads": ["room"]}
    file = FieldFile.model_validate(
        {
            "schema": "field/1",
            "loads": [{"id": "room", "constant_kw": 6.0, "gain": 0.0}],
            "lines": [{"id": "line-1", "framing": "stream"}],
            "devices": [
                {"id": "meter-1", "address": "1234", "profile": "dlt645_2007_meter", "password": PASSWORD,
                 "clock_offset_s": meter_off_s, **here},
                {"id": "rectifier-1", "address": "1", "profile": "yd1363_rectifier", "counts": {"module": 2},
                 "clock_offset_s": rectifier_off_s, **here},
            ],
        }
    )  # fmt: skip
    field = Field(file, clock=clock, refresh_s=0.05)
    await field.start()
    if password is not None:
        (folder / "room").touch(0o600)
        (folder / "room").write_text(f"password={password}\noperator=20\n")
    the_line = Line(
        id="line-1", name="Line", valid_from=datetime(2026, 1, 1, tzinfo=UTC), version=1, changed_by="user:test",
        kind=LineKind.RTU_OVER_TCP, endpoint=field.endpoints["line-1"], settings={"timeout_s": 10, **settings},
        credentials_ref=None if password is None else "room",
    )  # fmt: skip
    driver = open_line(the_line, clock, PollingSettings(), replace(MEANS, secrets=SecretStore(folder)))
    assert not isinstance(driver, TellingLine)
    catalogue = ProfileCatalogue.load()
    sessions: dict[str, CaredSession] = {}
    for part in file.devices:
        session = driver.session(Address(part.id, part.place, catalogue.get(part.profile)))
        assert isinstance(session, CaredSession)
        sessions[part.id] = session
    try:
        yield field, sessions
    finally:
        await driver.close()
        await field.stop()


def kinds(field: Field) -> list[str]:
    """Return what has happened to clocks."""
    return [one.what for one in field.events.after(0) if "clock" in one.what]


async def test_a_meters_clock_is_written_with_password_and_read_again(tmp_path: Path) -> None:
    async with room(tmp_path, "12:00:00", meter_off_s=-3600.0) as (field, sessions):
        meter = sessions["meter-1"]
        before = (await meter.care(Care.READ_CLOCK)).skew
        assert before is not None
        assert abs(before + timedelta(hours=1)) < RIGHT
        done = await meter.care(Care.SET_CLOCK)
        assert done.skew is not None
        assert abs(done.skew) < RIGHT
        assert "was off by -36" in done.answer
        assert kinds(field) == ["clock_written"]  # the date was right
        assert "left as it is" in (await meter.care(Care.SET_CLOCK)).answer
        with pytest.raises(NotOffered, match="knows no restart"):
            await meter.care(Care.RESTART)


async def test_a_wrong_date_is_written_too_but_not_around_midnight(tmp_path: Path) -> None:
    async with room(tmp_path, "00:10:00", meter_off_s=-900.0) as (field, sessions):
        done = await sessions["meter-1"].care(Care.SET_CLOCK)
        assert done.skew is not None
        assert abs(done.skew) < RIGHT
        assert kinds(field) == ["clock_written", "clock_written"]
    folder = tmp_path / "midnight"
    folder.mkdir()
    async with room(folder, "23:59:30", meter_off_s=900.0) as (field, sessions):
        with pytest.raises(DeviceRefused, match="midnight"):
            await sessions["meter-1"].care(Care.SET_CLOCK)
        assert kinds(field) == []


async def test_a_wrong_password_is_refused_and_shown_nowhere(tmp_path: Path) -> None:
    async with room(tmp_path, "12:00:00", meter_off_s=-3600.0, password="111222") as (_, sessions):
        with pytest.raises(DeviceRefused) as refused:
            await sessions["meter-1"].care(Care.SET_CLOCK)
        assert "111222" not in f"{refused.value.message} {refused.value.facts}"


async def test_without_a_password_a_small_error_is_mended_by_broadcast_where_that_is_allowed(tmp_path: Path) -> None:
    async with room(tmp_path, "12:00:00", meter_off_s=-120.0, password=None, set_clock=True) as (field, sessions):
        done = await sessions["meter-1"].care(Care.SET_CLOCK)
        assert "broadcast" in done.answer
        assert done.skew is not None
        assert abs(done.skew) < RIGHT
    for number, (off_s, settings) in enumerate(((-120.0, {}), (-3600.0, {"set_clock": True}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with room(folder, "12:00:00", meter_off_s=off_s, password=None, **settings) as (field, sessions):
            with pytest.raises(NotOffered, match="without the line's credentials_ref") as refused:
                await sessions["meter-1"].care(Care.SET_CLOCK)
            assert refused.value.message_zh
            assert kinds(field) == []


async def test_the_clock_of_power_equipment_is_set_and_read(tmp_path: Path) -> None:
    async with room(tmp_path, "23:59:50", rectifier_off_s=86400.0) as (_, sessions):
        rectifier = sessions["rectifier-1"]
        before = (await rectifier.care(Care.READ_CLOCK)).skew
        assert before is not None
        assert abs(before - timedelta(days=1)) < RIGHT
        done = await rectifier.care(Care.SET_CLOCK)
        assert (done.answer, done.skew is not None and abs(done.skew) < RIGHT) == ("4E accepted", True)
        with pytest.raises(NotOffered):
            await rectifier.care(Care.RESTART)


def caretaker(field: TellingField) -> Caretaker:
    settings = SwitchingSettings(restart_settle_s=0.1, restart_within_s=60, read_back_every_s=0.1)
    return Caretaker(reach=field.switcher._reach, clock=SystemClock(), settings=settings)


async def test_a_station_of_others_takes_the_time_and_says_that_it_knows_no_reset(tmp_path: Path) -> None:
    port = free_port()
    async with station(port) as peer_, held(tmp_path, port, set_clock=False) as field:
        await eventually(lambda: field.last("breaker_state"), "interrogation")
        assert (await peer_.ask(heard=True))["clock"] == []
        done = await caretaker(field).set_clock(field.target(BREAKER, PROFILE), within_s=10)
        assert (done.stage, done.reason) == (Stage.VERIFIED, "confirmed_only")
        (told,) = (await peer_.ask(heard=True))["clock"]
        assert abs(datetime.fromisoformat(told).replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=10)
        looked = await caretaker(field).read_clock(field.target(BREAKER, PROFILE), within_s=10)
        assert (looked.stage, looked.reason) == (Stage.REFUSED, "unsupported")
        refused = await caretaker(field).restart(field.target(BREAKER, PROFILE), may_send=lambda: None)
        assert (refused.stage, refused.reason) == (Stage.FAILED, "device_refused")


async def test_a_station_that_begins_anew_answers_again_on_a_new_connection(tmp_path: Path) -> None:
    the_device = device(id="breaker-1", kind="breaker", profile=STATION.name, address="1")
    async with outstation(FaultBoard()) as running:
        the_line = line(
            kind=LineKind.IEC104, endpoint=f"127.0.0.1:{running.port}",
            settings={"zone": "UTC", "confirm_s": 10, "set_clock": False},
        )  # fmt: skip
        async with telling_field(tmp_path, the_line, {"breaker-1": (the_device, STATION)}) as field:
            await eventually(lambda: field.last("breaker_state"), "interrogation")
            target = field.target(the_device, STATION)
            forbidden = await caretaker(field).restart(target, may_send=lambda: "load_off")
            assert (forbidden.stage, forbidden.reason, running.restarts) == (Stage.REFUSED, "load_off", 0)
            async with asyncio.timeout(60):
                done = await caretaker(field).restart(target, may_send=lambda: None)
            assert (done.stage, done.reason, running.restarts) == (Stage.VERIFIED, None, 1)
            assert done.evidence.answer is not None
            assert "answers again" in done.evidence.answer
            assert field.last("breaker_state") == 1
            done = await caretaker(field).set_clock(target, within_s=10)
            assert (done.stage, list(running.clocks)) == (Stage.VERIFIED, [1])
