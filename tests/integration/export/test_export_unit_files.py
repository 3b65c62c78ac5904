"""Measurement files: made once, whole, and brought to servers that we did not write, in order, whatever happens."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.contracts.alarm import Condition
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.export.dialects.messages import DeviceRef, PointType, UnitFacts, UnitRef
from services.export.domain.connection import Connection, ConnectionId, UnitKey
from services.export.domain.latest import LatestReadings
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.domain.unitfiles import Column, FileTemplate, Shows
from services.export.files import queue
from services.export.files.push import PushFailed, PushTarget, push
from services.export.files.queue import FilePlan, FileState, PushPlace, UnitFile
from services.export.secrets import Secrets
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store
from services.export.usecases.administration import Actor
from services.export.usecases.unitfiles import UnitFileAdministration
from services.export.worker.unit_files import UnitFiles
from tests.integration.export.conftest import free_port, reading
from tests.peers.file_servers import PASSWORD, USER, FileServer, proftpd, sshd

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

METER = "44010641600021"
ACTOR = Actor("user:wang", None)
TEMPLATE = FileTemplate(
    id="measured",
    name="{unit_id}_{end:%Y%m%d%H%M}.csv",
    folder="data/now",
    every_s=900,
    columns=(
        Column(heading="time", shows=Shows.TIME),
        Column(heading="point", shows=Shows.POINT_ID),
        Column(heading="value", shows=Shows.VALUE, format=".1f"),
        Column(heading="state", shows=Shows.STATE),
    ),
    keep=3,
)


@dataclass
class World:
    """A unit of one connection with a meter, and the maker of its files."""

    db: Database
    clock: FakeClock
    files: UnitFiles
    administration: UnitFileAdministration
    latest: LatestReadings
    folder: Path
    key: UnitKey

    async def tell(self, volts: float | None) -> None:
        self.latest.observe(reading({"voltage_a": volts}, at=self.clock.now()))

    async def plan(self, place: PushPlace | None = None, account: dict[str, str] | None = None) -> FilePlan:
        return await self.administration.put("gd", [TEMPLATE], place, account, ACTOR)

    async def go(self, seconds: float = 0) -> None:
        await self.clock.advance(seconds)
        for plan in await self.files.make(lambda: None):
            await self.files.bring(plan)

    async def listed(self) -> list[UnitFile]:
        async with self.db.read() as conn:
            found = await queue.fetch_page(conn, "gd", unit_id=None, state=None, sites=None, before=None, limit=100)
        return found[::-1]

    async def states(self) -> list[FileState]:
        return [file.state for file in await self.listed()]

    @property
    def home(self) -> Path:
        return self.folder / str(self.key) / "data" / "now"


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[World]:
    clock = FakeClock(start=datetime(2026, 3, 1, 4, 1, tzinfo=UTC))
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    try:
        mapping = Mapping(
            devices=(MappedDevice(ref=DeviceRef(METER, METER), name="智能电表"),),
            points=tuple(
                MappedPoint(device_id="m-1", kind=SourceKind.POINT, source=source, sc_device_id=METER, point_id=point,
                            type=PointType.AI)
                for source, point in (("voltage_a", "0416104001"), ("frequency", "0416118001"))
            ),
        )  # fmt: skip
        async with db.write() as conn:
            connection = Connection(id=ConnectionId("gd"), name="SC", dialect="T", url="http://127.0.0.1:1/")
            await connection_store.put_connection(
                conn, connection, credentials=None, keep_credentials=False, now=clock.now()
            )
            key = await unit_store.put_unit(
                conn, "gd", UnitRef("44010643800017", "44010643800017"), name="u", sites=["s-1"], facts=UnitFacts()
            )
            await mapping_store.put_mapping(conn, key, mapping)
        secrets, latest = Secrets(Fernet.generate_key().decode()), LatestReadings()
        latest.keep({"m-1"})
        files = UnitFiles(
            db=db, clock=clock, secrets=secrets, latest=latest, folder=folder, owner="test", lease_s=9, poll_s=1,
            committed=lambda: None,
        )  # fmt: skip
        administration = UnitFileAdministration(db=db, clock=clock, secrets=secrets, changed=lambda: None)
        yield World(db, clock, files, administration, latest, folder, key)
    finally:
        await db.close()


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(postgres_url, tmp_path / "files") as found:
        yield found


async def test_a_file_is_made_when_its_period_is_over_once_and_the_oldest_make_room(world: World) -> None:
    await world.plan()
    await world.go()
    assert await world.listed() == []  # the period before the template is not made up
    await world.go(13 * 60)
    await world.tell(228.44)
    await world.go(71)
    [first] = await world.listed()
    assert (first.name, first.state) == ("44010643800017_202603011215.csv", FileState.KEPT)
    assert (world.home / first.name).read_bytes() == (
        b"time,point,value,state\r\n2026-03-01 12:15:00,0416104001,228.4,0\r\n2026-03-01 12:15:00,0416118001,,6\r\n"
    )
    await world.go(60)
    assert len(await world.listed()) == 1
    for _ in range(4):
        await world.go(900)
    names = [file.name for file in await world.listed()]
    assert names == [f"44010643800017_20260301{time}.csv" for time in ("1245", "1300", "1315")]
    assert sorted(path.name for path in world.home.iterdir()) == names
    assert b"0416104001,,6" in (world.home / names[-1]).read_bytes()  # stale by then


def ftp(server: FileServer) -> PushPlace:
    return PushPlace(url=f"ftp://127.0.0.1:{server.port}/inbox", retry_first_s=10)


async def test_files_reach_an_ftp_server_in_order_after_it_was_away(world: World, tmp_path: Path) -> None:
    account = {"username": USER, "password": PASSWORD}
    await world.plan(PushPlace(url=f"ftp://127.0.0.1:{free_port()}/inbox", retry_first_s=10), account)
    for _ in range(3):
        await world.go(900)
    assert await world.states() == [FileState.RETRYING, FileState.QUEUED]
    first = (await world.listed())[0]
    assert (first.attempts, first.error is not None) == (2, True)
    async with proftpd(tmp_path / "centre") as server:
        await world.plan(ftp(server), account)
        await world.go(3600)
        await world.go(1)
        told = [(file.state, file.error) for file in await world.listed()]
        assert told[:2] == [(FileState.DELIVERED, None)] * 2
        await world.go(1)
        listed = await world.listed()
        assert {file.state for file in listed} == {FileState.DELIVERED}
        inbox = server.root / "inbox" / "data" / "now"
        assert sorted(path.name for path in inbox.iterdir()) == [file.name for file in listed]
        assert [file.finished_at for file in listed] == sorted(file.finished_at or world.clock.now() for file in listed)


async def test_files_that_wait_for_an_hour_are_told_until_they_are_gone(world: World, tmp_path: Path) -> None:
    async def told() -> list[tuple[str, str, str]]:
        await world.files.measure()
        async with world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        found = [Condition.from_json(row["value"]) for row in rows]
        return [(each.kind, each.subject, each.phase.value) for each in found]

    begun, ended = (("files_waiting", "gd", phase) for phase in ("begin", "end"))
    account = {"username": USER, "password": PASSWORD}
    await world.plan(PushPlace(url=f"ftp://127.0.0.1:{free_port()}/inbox", retry_cap_s=3600), account)
    await world.go()
    await world.go(900)
    await world.clock.advance(3590)
    assert await told() == []
    await world.clock.advance(30)
    assert await told() == [begun]
    assert await told() == [begun], "once"
    await world.plan(None)
    assert await told() == [begun, ended], "nothing is to be brought any more"
    async with proftpd(tmp_path / "centre") as server:
        await world.plan(ftp(server), account)
        assert await told() == [begun, ended, begun]
        await world.go(4000)
        while FileState.QUEUED in await world.states():
            await world.go(1)
    assert await told() == [begun, ended, begun, ended]


async def test_a_wrong_account_is_tried_again_until_a_person_gives_up(world: World, tmp_path: Path) -> None:
    async with proftpd(tmp_path / "centre") as server:
        await world.plan(ftp(server), {"username": USER, "password": "wrong"})
        await world.go(1)
        await world.go(900)
        [file] = await world.listed()
        assert file.state is FileState.RETRYING
        assert "wrong" not in (file.error or "")
        await world.go(9)
        await world.go(9)
        assert (await world.listed())[0].attempts == 2
        await world.administration.give_up("gd", file.id, "the centre does not want it", ACTOR)
        await world.go(60)
        assert await world.states() == [FileState.GIVEN_UP]


async def test_sftp_only_where_the_agreed_key_is_shown(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(sshd(tmp_path / "centre"))
        other = await stack.enter_async_context(sshd(tmp_path / "stranger"))
        import getpass

        place = tmp_path / "inbox"
        target = PushTarget(
            url=f"sftp://127.0.0.1:{server.port}{place}", host_key=server.host_key, username=getpass.getuser(),
            private_key=server.client_key or "", timeout_s=20,
        )  # fmt: skip
        assert target.problem() is None
        for content in (b"first", b"second"):
            await push(target, "now", "a.csv", content)
            assert (place / "now" / "a.csv").read_bytes() == content
        assert [path.name for path in (place / "now").iterdir()] == ["a.csv"]
        with pytest.raises(PushFailed):
            await push(replace(target, host_key=other.host_key), "now", "b.csv", b"x")
        with pytest.raises(PushFailed):
            await push(replace(target, private_key=other.client_key or ""), "now", "b.csv", b"x")
        assert not (place / "now" / "b.csv").exists()


async def test_what_cannot_be_used_is_refused_with_every_problem(world: World) -> None:
    bad = replace(TEMPLATE, name="{unit_id.__class__}.csv", every_s=7, folder="../x", columns=())
    place = PushPlace(url="sftp://10.0.0.1/x")
    with pytest.raises(InvalidInput) as caught:
        await world.administration.put("gd", [bad, bad], place, None, ACTOR)
    for part in ("every_s", "folder", "columns", "name", "each id once", "push.host_key"):
        assert part in caught.value.message, part
    assert (await world.administration.plan("gd")).templates == ()


async def test_an_account_is_never_sent_to_another_address(world: World) -> None:
    first = PushPlace(url="ftp://10.0.0.1/in")
    await world.plan(first, {"username": "u", "password": "p"})
    assert (await world.plan(first)).sealed is not None
    assert (await world.plan(PushPlace(url="ftp://10.0.0.2/in"))).sealed is None


async def test_a_start_goes_on_where_the_last_process_stopped(world: World, postgres_url: str) -> None:
    await world.plan()
    await world.go()
    await world.go(900)
    async with opened(postgres_url, world.folder) as again:
        await again.clock.advance((world.clock.now() - again.clock.now()).total_seconds())
        await again.go(timedelta(minutes=1).total_seconds())
        assert len(await again.listed()) == 1
        await again.go(900)
        assert len(await again.listed()) == 2
