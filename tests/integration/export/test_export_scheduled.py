"""Exports from due time to destination: FTP, SFTP and S3 servers that we did not write, downtimes, failures, people."""

import getpass
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import orjson
import polars as pl
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from werkzeug.serving import make_server

from libs.common import jobs
from libs.common.db import Database
from libs.common.errors import InvalidInput, Unavailable
from libs.common.jobs import JobContext
from libs.common.outgoing import AddressGuard
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.export.domain.exports import (
    Column,
    ColumnKind,
    Dataset,
    Destination,
    DestinationKind,
    ExportPlan,
    FileForm,
    Period,
    Row,
    Run,
    RunState,
    Span,
)
from services.export.exports import making, outlet, rows
from services.export.exports.making import ExportMaker
from services.export.exports.outlet import FileOutlet
from services.export.exports.sources import ReportFile
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor
from services.export.usecases.exports import ExportAdministration, RunNotOpen, VersionTaken
from services.export.worker.exports import Exports
from tests.integration.export.test_export_file_server import centre as implicit_tls
from tests.peers.certificates import Authority
from tests.peers.file_servers import PASSWORD, USER, FileServer, proftpd, sshd

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

ACTOR = Actor("user:wang", None)
START = datetime(2026, 3, 1, 4, 1, tzinfo=UTC)
KEY, SECRET, REGION, BUCKET = "an-access-key", "a-secret-key", "cn-north-1", "wattring-files"
COLUMNS = (Column("at", ColumnKind.TIME), Column("energy_kwh", ColumnKind.NUMBER, "kWh"))


@dataclass
class Scripted:
    """Says what it is told to: five rows for each day, in two batches."""

    away: bool = False
    asked: list[Period] = field(default_factory=list)
    padding: int = 0
    filed: list[ReportFile] = field(default_factory=list)

    async def reports(self, plan: ExportPlan, period: Period) -> AsyncIterator[ReportFile]:
        for one in self.filed:
            yield one

    def columns(self, plan: ExportPlan) -> Sequence[Column]:
        return (*COLUMNS, Column("text", ColumnKind.TEXT))

    async def pages(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        self.asked.append(period)
        if self.away:
            raise Unavailable("carbon is not available")
        for number in range(5):
            yield [
                {"at": period.start + timedelta(hours=number), "energy_kwh": 1.5, "text": "x" * self.padding or None}
            ]


@dataclass
class World:
    """One process of the service, without its loops."""

    db: Database
    clock: FakeClock
    exports: Exports
    administration: ExportAdministration
    source: Scripted
    maker: ExportMaker
    root: Path

    async def work(self) -> None:
        """Do what jobs there are, as the job worker would."""
        async with self.db.read() as conn:
            ids = [row["id"] for row in await conn.fetch("select id from jobs where state = 'queued' order by id")]
            found = [await jobs.fetch_job(conn, one) for one in ids]
        for job in found:
            await self.maker.make(JobContext(job, None, self.db, self.clock))
            async with self.db.write() as conn:
                await conn.execute(
                    "update jobs set state = 'succeeded', finished_at = now() where id = $1 and state = 'queued'",
                    job.id,
                )

    async def look(self) -> None:
        """Look once, as the loop does."""
        await self.exports.schedule()
        await self.exports.enqueue()
        await self.work()
        for export_id in await self.exports.to_bring():
            await self.exports.bring(export_id)

    async def go(self, days: float = 0, *, looks: int = 1) -> None:
        await self.clock.advance(days * 86_400)
        for _ in range(looks):
            await self.look()

    async def runs(self, export_id: str = "daily") -> list[Run]:
        async with self.db.read() as conn:
            found = await rows.fetch_runs(conn, export_id, state=None, before=None, limit=1000)
        return found[::-1]

    async def states(self, export_id: str = "daily") -> list[RunState]:
        return [run.state for run in await self.runs(export_id)]


@asynccontextmanager
async def opened(url: str, root: Path, clock: FakeClock | None = None) -> AsyncIterator[World]:
    clock = clock or FakeClock(start=START)
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    secrets, source = Secrets(SECRETS_KEY), Scripted()
    try:
        yield World(
            db,
            clock,
            Exports(
                db=db, clock=clock, secrets=secrets, outlet=FileOutlet(AddressGuard(["127.0.0.1"])), root=root,
                owner="test", lease_s=9, poll_s=1, retention_s=30 * 86_400, random=lambda: 0.0,
            ),
            ExportAdministration(db=db, clock=clock, secrets=secrets, max_exports=10, changed=lambda: None),
            source,
            ExportMaker(source=source, root=root, max_file_bytes=1 << 26, random=lambda: 0.0),
            root,
        )  # fmt: skip
    finally:
        await db.close()


SECRETS_KEY = Fernet.generate_key().decode()


@pytest.fixture
async def world(module_postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(module_postgres_url, tmp_path / "exports") as found:
        async with found.db.write() as conn:
            await conn.execute("truncate exports, export_versions, export_runs, jobs")
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FileServer]:
    async with proftpd(tmp_path_factory.mktemp("centre")) as server:
        yield server


@pytest.fixture
def there(ftp_server: FileServer, tmp_path: Path) -> FileServer:
    """The server, seen from a folder of the test's own."""
    return replace(ftp_server, root=ftp_server.root / tmp_path.name)


NOBODY = FileServer(1, Path("inbox"))
"""A port at which nobody listens."""


def plan(destination: Destination, **changed: Any) -> ExportPlan:
    return replace(
        ExportPlan(
            export_id="daily", version=1, name="Energy", dataset=Dataset.ENERGY, form=FileForm.CSV, span=Span.DAY,
            rule="FREQ=DAILY;BYHOUR=1", file_name="energy_{start:%Y%m%d}", destination=destination,
            since=date(2026, 3, 2), sites=("s-1",), folder="energy/day",
        ),
        **changed,
    )  # fmt: skip


def ftp(server: FileServer) -> Destination:
    url = f"ftp://127.0.0.1:{server.port}/{server.root.name}"
    return Destination(kind=DestinationKind.FTP, url=url, timeout_s=60, retry_first_s=60)


ACCOUNT = {"username": USER, "password": PASSWORD}


def checked(folder: Path) -> list[str]:
    """Return the files that a receiver takes: those whose manifest is there, each as the manifest says."""
    found = []
    for path in sorted(folder.glob("*.manifest.json")):
        for one in orjson.loads(path.read_bytes())["files"]:
            content = (folder / one["name"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (one["bytes"], one["sha256"])
            found.append(one["name"])
    assert len(list(folder.iterdir())) == 2 * len(found)  # no draft is left
    return found


async def test_runs_of_a_downtime_reach_an_ftp_server_in_order_with_manifests(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(there)), ACCOUNT, ACTOR)
    await world.go()
    assert await world.runs() == []  # nothing is due yet
    await world.go(4.0, looks=5)  # nobody has looked for four days
    runs = await world.runs()
    assert [run.state for run in runs] == [RunState.DELIVERED] * 4
    assert [period.start.day for period in world.source.asked] == [28, 1, 2, 3]  # UTC: the evening before
    assert [run.finished_at for run in runs] == sorted(run.finished_at or START for run in runs)
    inbox = there.root / "energy" / "day"
    assert checked(inbox) == [f"energy_2026030{day}.csv" for day in (1, 2, 3, 4)]
    text = (inbox / "energy_20260302.csv").read_text().splitlines()
    assert text[:2] == ["at,energy_kwh,text", "2026-03-02T00:00:00.000000+08:00,1.5,"]
    said = orjson.loads((inbox / "energy_20260302.csv.manifest.json").read_bytes())
    assert (said["files"][0]["rows"], said["plan_version"], said["dataset"]) == (5, 1, "energy")
    assert [path for path in world.root.rglob("*") if path.is_file()] == []  # what is there need not lie here


async def test_a_destination_that_is_away_keeps_its_order_and_nobody_waits(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    await world.administration.put(plan(ftp(there), export_id="other"), ACCOUNT, ACTOR)
    for _ in range(3):
        await world.go(1.0, looks=2)
    assert await world.states("other") == [RunState.DELIVERED] * 3
    waiting = await world.runs()
    assert [run.state for run in waiting] == [RunState.MADE] * 3
    assert [run.attempts > 0 for run in waiting] == [True, False, False]  # the youngest do not overtake
    assert waiting[0].error is not None
    await world.administration.put(plan(ftp(there), version=2), ACCOUNT, ACTOR)
    await world.go(1.0, looks=2)
    assert await world.states() == [RunState.DELIVERED] * 4


async def test_what_cannot_be_made_is_made_when_its_owner_is_back(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(there)), ACCOUNT, ACTOR)
    world.source.away = True
    await world.go(1.0)
    [run] = await world.runs()
    assert (run.state, run.attempts, run.job_id) == (RunState.DUE, 1, None)
    assert "carbon is not available" in (run.error or "")
    await world.go(0)
    assert len(world.source.asked) == 1  # not before its time
    world.source.away = False
    await world.go(61 / 86_400)
    [run] = await world.runs()
    assert (run.state, run.error) == (RunState.DELIVERED, None)


async def test_people_retry_and_give_up(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    await world.go(2.0, looks=2)
    first, _ = await world.runs()
    assert (first.state, first.attempts) == (RunState.MADE, 1)
    assert (await world.administration.retry("daily", first.id, ACTOR)).next_attempt_at == world.clock.now()
    await world.go()
    assert (await world.runs())[0].attempts == 2
    await world.administration.give_up("daily", first.id, "nobody wants it", ACTOR)
    with pytest.raises(RunNotOpen):
        await world.administration.give_up("daily", first.id, "again", ACTOR)
    await world.administration.put(plan(ftp(there), version=2), ACCOUNT, ACTOR)
    await world.go(0, looks=2)
    assert await world.states() == [RunState.GIVEN_UP, RunState.DELIVERED]
    await world.administration.retry("daily", first.id, ACTOR)  # after all
    await world.go(0, looks=2)
    assert await world.states() == [RunState.DELIVERED] * 2
    assert len(checked(there.root / "energy" / "day")) == 2


async def test_a_new_process_goes_on_where_the_last_one_stopped(
    world: World, module_postgres_url: str, there: FileServer
) -> None:
    await world.administration.put(plan(ftp(there)), ACCOUNT, ACTOR)
    await world.clock.advance(2 * 86_400)
    await world.exports.schedule()
    await world.exports.enqueue()
    async with world.db.write() as conn:  # its worker dies five times
        await conn.execute("update jobs set state = 'failed', finished_at = now(), error = null")
    async with opened(module_postgres_url, world.root, world.clock) as again:
        await again.go(0, looks=3)
        assert await again.states() == [RunState.DELIVERED] * 2
        await again.go(1.0)
        assert await again.states() == [RunState.DELIVERED] * 3


async def test_files_that_are_gone_are_made_again(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    await world.go(1.0)
    [run] = await world.runs()
    making.run_folder(world.root, "daily", run.id).joinpath(run.files[0].name).unlink()
    await world.administration.put(plan(ftp(there), version=2), ACCOUNT, ACTOR)
    await world.go(61 / 86_400, looks=2)
    [run] = await world.runs()
    assert run.state is RunState.DUE
    assert "not here" in (run.error or "")
    await world.go(61 / 86_400)
    assert await world.states() == [RunState.DELIVERED]
    assert checked(there.root / "energy" / "day") == ["energy_20260301.csv"]


async def test_old_runs_and_folders_nobody_needs_go(world: World) -> None:
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    await world.go(1.0)
    [run] = await world.runs()
    await world.exports.keep()
    assert making.run_folder(world.root, "daily", run.id).is_dir()
    await world.administration.remove("daily", ACTOR)
    await world.exports.keep()
    assert not making.run_folder(world.root, "daily", run.id).exists()
    assert await world.states() == [RunState.GIVEN_UP]
    await world.clock.advance(31 * 86_400)
    await world.exports.keep()
    assert await world.runs() == []


async def test_sftp_takes_files_from_whom_shows_the_agreed_key(world: World, tmp_path: Path) -> None:
    async with sshd(tmp_path / "there") as server:
        inbox = tmp_path / "inbox"
        to = Destination(
            kind=DestinationKind.SFTP, url=f"sftp://127.0.0.1:{server.port}{inbox}", host_key=server.host_key,
            timeout_s=60,
        )  # fmt: skip
        account = {"username": getpass.getuser(), "password": "", "private_key": server.client_key or ""}
        await world.administration.put(plan(to, form=FileForm.PARQUET), account, ACTOR)
        await world.go(1.0)
        assert checked(inbox / "energy" / "day") == ["energy_20260301.parquet"]
        frame = pl.read_parquet(inbox / "energy" / "day" / "energy_20260301.parquet")
        assert frame["energy_kwh"].sum() == 7.5


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


async def test_an_s3_store_gets_large_files_in_parts_and_the_manifest_last(
    world: World, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    to = Destination(
        kind=DestinationKind.S3, url=endpoint, bucket=BUCKET, prefix="wattring/", region=REGION, timeout_s=60
    )
    monkeypatch.setattr(outlet, "PART_BYTES", 5 << 20)
    world.source.padding = 5 << 18
    await world.administration.put(plan(to), {"username": KEY, "password": SECRET}, ACTOR)
    await world.go(1.0)
    [run] = await world.runs()
    assert (run.state, run.error) == (RunState.DELIVERED, None)
    listed = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    name = "wattring/energy/day/energy_20260301.csv"
    assert [one["Key"] for one in listed] == [name, f"{name}.manifest.json"]
    content = client.get_object(Bucket=BUCKET, Key=name)
    body = content["Body"].read()
    assert content["ETag"].strip('"').endswith("-2")  # 6.25 MiB and a little in parts of 5 MiB
    said = orjson.loads(client.get_object(Bucket=BUCKET, Key=f"{name}.manifest.json")["Body"].read())
    assert said["files"][0]["sha256"] == hashlib.sha256(body).hexdigest()
    client.close()


CENTRE_ACCOUNT = {"username": "scftp", "password": "of-the-unit"}
"""At the FTP server with TLS."""


async def test_what_is_brought_over_tls_is_brought_to_whom_is_trusted_and_to_no_other(
    world: World, tmp_path: Path
) -> None:
    authority, stranger = Authority(), Authority("Somebody else")
    certificate = tmp_path / "server.pem"
    certificate.write_bytes(b"".join(authority.issue("centre.test")))
    root = tmp_path / "root"
    root.mkdir()
    with implicit_tls(root, certificate) as ftps, s3_over_tls(certificate) as s3:
        trusting = authority.pem.decode()
        client = boto3.client(
            "s3", endpoint_url=s3, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            verify=str(write(tmp_path / "authority.pem", trusting)),
        )  # fmt: skip
        client.create_bucket(Bucket="over-tls", CreateBucketConfiguration={"LocationConstraint": REGION})
        by_ftps = Destination(kind=DestinationKind.FTPS, url=f"ftps://127.0.0.1:{ftps}/inbox", timeout_s=60)
        by_s3 = Destination(kind=DestinationKind.S3, url=s3, bucket="over-tls", region=REGION, timeout_s=60)
        for name, to, account in (("f", by_ftps, CENTRE_ACCOUNT), ("s", by_s3, {"username": KEY, "password": SECRET})):
            wary = replace(to, trust=stranger.pem.decode())
            await world.administration.put(plan(wary, export_id=name), account, ACTOR)
            await world.administration.put(plan(replace(to, trust=trusting), export_id=name + "-t"), account, ACTOR)
        await world.go(1.0, looks=4)
        for name in ("f", "s"):
            [run] = await world.runs(name)
            assert (run.state, run.attempts) == (RunState.MADE, 1), name
            assert await world.states(name + "-t") == [RunState.DELIVERED], await world.runs(name + "-t")
        assert checked(root / "inbox" / "energy" / "day") == ["energy_20260301.csv"]
        assert len(client.list_objects_v2(Bucket="over-tls")["Contents"]) == 2
        client.close()
    with pytest.raises(InvalidInput, match="trust: expected certificates"):
        await world.administration.put(plan(replace(by_ftps, trust="none"), export_id="x"), ACCOUNT, ACTOR)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@contextmanager
def s3_over_tls(certificate: Path) -> Iterator[str]:
    """Run the store's server with TLS; gives its endpoint."""
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=(str(certificate), str(certificate)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_reports_are_brought_as_they_were_filed(world: World, there: FileServer) -> None:
    world.source.filed = [ReportFile("a-2026-02-v1-zh.pdf", b"%PDF-1"), ReportFile("b-2026-02-v2-zh.pdf", None)]
    wanted = plan(ftp(there), dataset=Dataset.REPORTS, form=FileForm.PDF, sites=())
    await world.administration.put(wanted, ACCOUNT, ACTOR)
    await world.go(1.0)
    assert await world.states() == [RunState.DELIVERED]
    inbox = there.root / "energy" / "day"
    assert sorted(path.name for path in inbox.iterdir()) == ["a-2026-02-v1-zh.pdf", "energy_20260301.pdf.manifest.json"]
    assert (inbox / "a-2026-02-v1-zh.pdf").read_bytes() == b"%PDF-1"
    said = orjson.loads((inbox / "energy_20260301.pdf.manifest.json").read_bytes())
    assert [one["sha256"] for one in said["files"]] == [hashlib.sha256(b"%PDF-1").hexdigest()]
    assert said["left_out"] == ["b-2026-02-v2-zh.pdf"]
    world.source.filed = []
    await world.go(1.0)  # a day without reports has a manifest all the same
    assert await world.states() == [RunState.DELIVERED] * 2
    assert orjson.loads((inbox / "energy_20260302.pdf.manifest.json").read_bytes())["files"] == []
    for changes in ({"form": FileForm.CSV}, {"dataset": Dataset.ENERGY}, {"sites": ("s-1",)}):
        with pytest.raises(InvalidInput):
            await world.administration.put(replace(wanted, version=2, **changes), ACCOUNT, ACTOR)


async def test_an_s3_store_without_the_bucket_is_tried_again(world: World, endpoint: str) -> None:
    to = Destination(kind=DestinationKind.S3, url=endpoint, bucket="another-one", region=REGION, timeout_s=60)
    await world.administration.put(plan(to), {"username": KEY, "password": SECRET}, ACTOR)
    await world.go(1.0)
    [run] = await world.runs()
    assert (run.state, run.attempts) == (RunState.MADE, 1)
    assert SECRET not in (run.error or "")


async def test_nothing_inside_is_called_that_nobody_has_allowed(world: World) -> None:
    for number, url in enumerate(("ftp://127.0.0.2/x", "ftp://169.254.169.254/x")):
        one = Destination(kind=DestinationKind.FTP, url=url)
        await world.administration.put(plan(one, export_id=f"e{number}"), ACCOUNT, ACTOR)
    await world.go(1.0)
    for number in range(2):
        [run] = await world.runs(f"e{number}")
        assert (run.state, run.attempts) == (RunState.MADE, 1)
        assert "not allowed" in (run.error or "")


async def test_a_file_that_is_too_large_is_not_made(world: World) -> None:
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    world.maker = ExportMaker(source=world.source, root=world.root, max_file_bytes=1000, random=lambda: 0.0)
    world.source.padding = 500
    await world.go(1.0)
    [run] = await world.runs()
    assert run.state is RunState.DUE
    assert "larger than 1000 bytes" in (run.error or "")


async def test_what_cannot_be_used_is_refused_and_versions_follow_each_other(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.administration.put(plan(replace(ftp(NOBODY), url="http://x/"), rule=None), None, ACTOR)
    for part in ("rule", "destination.url"):
        assert part in caught.value.message, part
    await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    with pytest.raises(VersionTaken):
        await world.administration.put(plan(ftp(NOBODY)), ACCOUNT, ACTOR)
    assert (await world.administration.put(plan(ftp(NOBODY), version=2), None, ACTOR)).sealed is not None
    assert (await world.administration.put(plan(ftp(replace(NOBODY, port=2)), version=3), None, ACTOR)).sealed is None


async def test_a_change_of_rhythm_goes_on_from_now(world: World, there: FileServer) -> None:
    await world.administration.put(plan(ftp(there)), ACCOUNT, ACTOR)
    await world.go(2.0, looks=3)
    hourly = plan(ftp(there), version=2, span=Span.HOUR, rule=None, file_name="h_{start:%Y%m%d%H}", delay_s=60)
    found = await world.administration.put(hourly, None, ACTOR)
    assert found.next_due_at - world.clock.now() <= timedelta(hours=1, minutes=1)
    await world.go(3 / 24, looks=4)
    runs = await world.runs()
    assert [run.end - run.start for run in runs] == [timedelta(days=1)] * 2 + [timedelta(hours=1)] * 3
    assert {run.state for run in runs} == {RunState.DELIVERED}
