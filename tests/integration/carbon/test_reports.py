"""Reports on a real database: asked for or due, made, filed, handed out; never changed and never made twice."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import openpyxl
import polars as pl
import pytest

from libs.common import jobs
from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.carbon import FinishedReport
from libs.common.jobs import JobContext, JobEnded, JobWorker
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.carbon.api.reports import build_report_router
from services.carbon.bus import audit
from services.carbon.domain.emissions.certificates import Certificate
from services.carbon.domain.factors import Place
from services.carbon.domain.inventory.boundary import Approach, Boundary, Exclusion, Part, Span
from services.carbon.domain.inventory.sources import ElectricityUse, Inputs, Source
from services.carbon.domain.reports.content import Report, ReportKind, Text
from services.carbon.domain.reports.definitions import Definition, SubjectKind
from services.carbon.jobs import report_maker
from services.carbon.library import load_coal, load_library
from services.carbon.reports.encoding import decode_report
from services.carbon.settings import CarbonSettings
from services.carbon.sites import Sites
from services.carbon.store import inventories as books
from services.carbon.topology import Topology
from services.carbon.tree import Node
from services.carbon.usecases import reports as reports_module
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.reports import CATCH_UP, MAKER, REPORT_JOB, Contents, Reports
from services.carbon.usecases.why import Figure, InventoryWhys, Method, Wanted
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import City, city, open_city
from tests.integration.carbon.why_world import open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

NOW = datetime(2026, 3, 3, 1, tzinfo=UTC)
"""09:00 of 3 March in the civil zone."""
DAY = "2026-03-02"
USED = [1.0 + quarter % 4 for quarter in range(96)]
DAILY: dict[str, Any] = {
    "version": 1,
    "kind": "energy_daily",
    "name": "Energy of a day",
    "name_zh": "每日用能",
    "subject_kind": "site",
    "subject_id": "site-1",
    "languages": ["zh", "en"],
}


@dataclass
class Office:
    """Who asks for reports, and who makes them."""

    city: City
    door: Door
    clock: FakeClock
    reports: Reports

    async def work(self, job_id: str) -> dict[str, Any]:
        """Do a job as the job worker would."""
        async with self.door.db.read() as conn:
            job = await jobs.fetch_job(conn, job_id)
        context = JobContext(job, None, self.door.db, self.clock)
        maker = await report_maker(context, ProfileCatalogue.load(), CarbonSettings())
        return dict(await maker.make(context))

    async def make(self, definition_id: str, edition: str) -> dict[str, Any]:
        asked = await self.door.ask("POST", f"/reports/definitions/{definition_id}/editions/{edition}", status=202)
        return await self.work(asked["job_id"])

    async def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of these states, as somebody who asks for it sees."""
        async with asyncio.timeout(60):
            while True:
                shown: dict[str, Any] = await self.door.ask("GET", f"/reports/jobs/{job_id}")
                if shown["state"] in states:
                    return shown
                await asyncio.sleep(0.02)

    async def queued(self) -> list[dict[str, Any]]:
        async with self.door.db.read() as conn:
            return [row["payload"] for row in await conn.fetch("select payload from jobs order by id")]


@pytest.fixture
async def office(postgres_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    clock = FakeClock(NOW)
    async with open_city(postgres_url, [[one] for one in city()]) as town:
        reports = Reports(db=town.db, clock=clock, audit=audit)
        async with open_door(town.db, tmp_path, clock, [build_report_router(reports)]) as door:
            yield Office(town, door, clock, reports)


async def test_a_day_becomes_a_report_with_its_files_which_stays(office: Office) -> None:
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", DAILY)
    made = await office.make("day", DAY)
    assert (made["version"], made["edition"]) == (1, DAY)

    text = await office.door.client.get(
        f"/api/v1/reports/day/{DAY}/versions/1", headers=authorised(office.door)
    )  # fmt: skip
    assert hashlib.sha256(text.content).hexdigest() == made["digest"] == text.headers["X-Statement-SHA256"]
    report = decode_report(text.text)
    summary = next(one for one in report.tables if one.key == "summary")
    energy = summary.rows[0][1]
    assert energy.value == pytest.approx(sum(USED), rel=1e-9)  # type: ignore[union-attr]
    assert energy.completeness == 1.0  # type: ignore[union-attr]

    hours = await office.door.ask("GET", f"/reports/day/{DAY}/versions/1/tables/course", format="parquet", lang="en")
    frame = pl.read_parquet(io.BytesIO(hours))
    assert frame["energy_kwh"].to_list() == pytest.approx([10.0] * 24, rel=1e-9)
    assert frame["max_kw"].to_list() == pytest.approx([16.0] * 24, rel=1e-9)
    assert set(frame["energy_kwh_why"]) == {"energy"}

    text_table = (await office.door.ask("GET", f"/reports/day/{DAY}/versions/1/tables/course")).decode("utf-8-sig")
    assert text_table.splitlines()[1].startswith("00:00,10.0,1.0,energy,")

    for language in ("zh", "en"):
        book = await office.door.ask("GET", f"/reports/day/{DAY}/versions/1/files/xlsx", lang=language)
        assert len(openpyxl.load_workbook(io.BytesIO(book)).worksheets) > 3
        pdf = await office.door.ask("GET", f"/reports/day/{DAY}/versions/1/files/pdf", lang=language)
        assert pdf.startswith(b"%PDF-1.")

    listed = await office.door.ask("GET", "/reports", definition="day")
    assert [(one["edition"], one["version"], one["made_by"]) for one in listed] == [(DAY, 1, "user:wang")]
    async with office.door.db.read() as conn:
        waiting = await conn.fetch("select subject, version from attest_pending where kind = 'report'")
        told = await conn.fetch("select value from outbox where topic = $1", topics.REPORTS)
    assert [tuple(row) for row in waiting] == [(f"report:report/day/{DAY}", 1)]
    finished = FinishedReport.from_json(told[0]["value"])
    assert (finished.report, finished.version, finished.digest) == (f"day/{DAY}", 1, made["digest"])
    assert {(one.format, one.language) for one in finished.files} == {
        (form, language) for form in ("xlsx", "pdf") for language in ("zh", "en")
    }


async def test_whoever_is_limited_to_sites_reports_their_own(postgres_url: str, tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    body = {
        "version": 1, "kind": "energy_daily", "name": "Day", "name_zh": "日报", "subject_kind": "site",
        "subject_id": "site-1", "formats": [],
    }  # fmt: skip
    async with open_town(postgres_url, tmp_path) as town:
        for circuit in ("feed", "tenant"):
            await town.book(circuit, USED)
        reports = Reports(
            db=town.city.db, clock=clock, audit=audit, sight=Sites(town.city.boundaries.tree, town.city.view, clock)
        )
        (tmp_path / "door").mkdir()
        async with open_door(town.city.db, tmp_path / "door", clock, [build_report_router(reports)]) as door:
            ask = door.ask
            mine: dict[str, Any] = {"sites": ("site-1",)}
            kept = await ask("PUT", "/reports/definitions/one", body, **mine)
            assert kept["subject_id"] == "site-1"
            job_id = (await ask("POST", f"/reports/definitions/one/editions/{DAY}", status=202, **mine))["job_id"]
            context = JobContext((await reports.job(job_id))[0], None, town.city.db, clock)
            await (await report_maker(context, ProfileCatalogue.load(), CarbonSettings())).make(context)
            version = f"/reports/one/{DAY}/versions/1"
            for path in ("/reports/definitions/one", f"/reports/jobs/{job_id}", version, f"{version}/tables/summary"):
                await ask("GET", path, **mine)
                refused = await ask("GET", path, status=404, sites=("site-2",))
                assert refused["detail_zh"]
            for path in ("/reports/definitions", "/reports/jobs", "/reports"):
                assert [one["definition_id"] for one in await ask("GET", path, **mine)] == ["one"]
                assert await ask("GET", path, sites=("site-2",)) == []
            # Another site's node, a region with more sites, and what is of no node are refused; so is taking over.
            for other in (
                {"subject_id": "site-2"}, {"subject_kind": "region", "subject_id": "gz"},
                {"subject_id": "nowhere"}, {"kind": "savings"},
            ):  # fmt: skip
                await ask("PUT", "/reports/definitions/two", {**body, **other}, status=403, **mine)
            taken = {**body, "version": 2, "subject_id": "site-2"}
            await ask("PUT", "/reports/definitions/one", taken, status=403, sites=("site-2",))
            await ask("POST", f"/reports/definitions/one/editions/{DAY}", status=404, sites=("site-2",))
            await ask("POST", f"/reports/jobs/{job_id}/cancel", status=404, sites=("site-2",))
            # A later version of another site's makes no earlier report theirs.
            await ask("PUT", "/reports/definitions/one", taken)
            await ask("GET", version, status=404, sites=("site-2",))
            await ask("GET", version, **mine)


async def test_what_a_report_prints_its_traces_answer(postgres_url: str, tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    async with open_town(postgres_url, tmp_path) as town:
        for circuit, share in (("feed", 1.0), ("cool", 0.4), ("lift", 0.1)):
            await town.book(circuit, [share * used for used in USED])
        reports = Reports(db=town.city.db, clock=clock, audit=audit)
        kind, name = ReportKind.ENERGY_DAILY, Text("Energy of a day", "每日用能")
        await reports.put(
            Definition(
                definition_id="day",
                version=1,
                kind=kind,
                name=name,
                subject_kind=SubjectKind.SITE,
                subject_id="site-1",
                formats=(),
            ),
            MAKER,
        )
        job, _ = await reports.job(await reports.request("day", DAY, MAKER))
        context = JobContext(job, None, town.city.db, clock)
        maker = await report_maker(context, ProfileCatalogue.load(), CarbonSettings())
        await maker.make(context)
        report = decode_report((await reports.content("day", DAY, 1))[0])
        kinds: set[str] = set()
        for table in report.tables:
            for row, column, one in table.figures():
                if not one.trace or (table.key == "course" and row[0] not in ("00:00", "23:00")):
                    continue
                asked: dict[str, Any] = dict(parse_qsl(urlsplit(one.trace).query))
                answered = await town.ask("GET", "/energy/trace", **asked)
                kinds.add(answered["figure"])
                value = answered["quality"]["estimated_share"] if column.key == "estimated_share" else answered["value"]
                if one.value is None:
                    assert value is None, one.trace
                else:
                    assert float(value) == pytest.approx(one.value, rel=1e-12), one.trace
        for reason in report.reasons:
            told_at = urlsplit(reason.path)
            question: dict[str, Any] = dict(parse_qsl(told_at.query))
            await town.ask("GET", told_at.path.removeprefix("/api/v1"), **question)
        assert kinds == {
            "energy", "emission", "demand", "lowest", "mean_load", "load_factor", "cost", "tariff_energy",
            "tariff_cost", "change", "like_for_like", "share",
        }  # fmt: skip


async def test_made_again_it_is_the_next_version_and_late_data_show(office: Office) -> None:
    await office.city.book("feed", [*USED[:48], *[None] * 48])
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": []})
    first = await office.make("day", DAY)
    assert first["completeness"] == pytest.approx(0.5, abs=0.01)
    await office.city.book("feed", USED[48:], first=48, version=2)
    second = await office.make("day", DAY)
    assert second["version"] == 2
    before, after = [
        decode_report((await office.reports.content("day", DAY, version))[0]) for version in (1, 2)
    ]  # fmt: skip
    energies = [one.tables[0].rows[0][1].value for one in (before, after)]  # type: ignore[union-attr]
    assert energies == pytest.approx([sum(USED[:48]), sum(USED)], rel=1e-9)


class Held:
    """Contents that wait in the middle of a report."""

    def __init__(self, inner: Contents) -> None:
        self.inner = inner
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def of(self, definition: Definition, edition: str) -> Report:
        self.reached.set()
        await self.let_go.wait()
        return await self.inner.of(definition, edition)


@asynccontextmanager
async def working(office: Office) -> AsyncIterator[Held]:
    """Run a job worker whose reports wait until they are let go."""
    held: Held = Held(None)  # type: ignore[arg-type]  # set when a report begins

    async def handler(context: JobContext) -> Mapping[str, Any]:
        maker = await report_maker(context, ProfileCatalogue.load(), CarbonSettings())
        held.inner, maker._contents = maker._contents, held
        return await maker.make(context)

    worker = JobWorker(db=office.door.db, clock=SystemClock(), handlers={REPORT_JOB: handler})
    running = asyncio.create_task(worker.run(lambda: None))
    try:
        yield held
    finally:
        running.cancel()
        await asyncio.wait([running])


async def reached(held: Held) -> None:
    async with asyncio.timeout(60):
        await held.reached.wait()


async def test_a_job_that_was_done_is_not_done_again(office: Office) -> None:
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": []})
    asked = await office.door.ask("POST", f"/reports/definitions/day/editions/{DAY}", status=202)
    await office.work(asked["job_id"])
    with pytest.raises(JobEnded):
        await office.work(asked["job_id"])
    assert len(await office.door.ask("GET", "/reports")) == 1
    shown = await office.door.ask("GET", f"/reports/jobs/{asked['job_id']}")
    assert (shown["state"], shown["report"]["version"]) == ("succeeded", 1)
    await office.door.ask("POST", f"/reports/jobs/{asked['job_id']}/cancel", status=409)


async def test_what_a_dead_worker_left_the_next_one_makes_once(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": []})
    asked = await office.door.ask("POST", f"/reports/definitions/day/editions/{DAY}", status=202)
    async with working(office) as held:
        await reached(held)
        shown = await office.door.ask("GET", f"/reports/jobs/{asked['job_id']}")
        assert (shown["state"], shown["note"], shown["done"], shown["total"]) == ("running", "content", 0, 2)
    assert await office.door.ask("GET", "/reports") == []
    async with working(office) as held:
        held.let_go.set()
        shown = await office.until(asked["job_id"], "succeeded", "failed")
    assert (shown["state"], shown["report"]["version"]) == ("succeeded", 1)
    assert len(await office.door.ask("GET", "/reports")) == 1


async def test_a_cancelled_report_is_not_filed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": []})
    asked = [
        (await office.door.ask("POST", f"/reports/definitions/day/editions/{day}", status=202))["job_id"]
        for day in ("2026-03-02", "2026-03-01", "2026-02-28")
    ]
    async with working(office) as held:
        await reached(held)
        for job_id in asked[:2]:  # one that runs, one that waits
            shown = await office.door.ask("POST", f"/reports/jobs/{job_id}/cancel")
            assert (shown["state"], shown["error"]["code"], shown["report"]) == ("failed", "cancelled", None)
        held.let_go.set()
        await office.until(asked[2], "succeeded", "failed")
    assert [one["edition"] for one in await office.door.ask("GET", "/reports")] == ["2026-02-28"]
    listed = await office.door.ask("GET", "/reports/jobs")
    assert [(one["edition"], one["state"]) for one in listed] == [
        ("2026-02-28", "succeeded"),
        ("2026-03-01", "failed"),
        ("2026-03-02", "failed"),
    ]
    await office.door.ask("POST", f"/reports/jobs/{asked[0]}/cancel", status=409)
    cancelled = [one for one in await office.door.audits() if one.action == "report.cancel"]
    assert [one.actor for one in cancelled] == ["user:wang"] * 2


async def test_what_waits_is_asked_for_once_and_no_more_than_the_queue_takes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_module, "OPEN_MAX", 1)
    await office.door.ask("PUT", "/reports/definitions/day", DAILY)
    one = await office.door.ask("POST", f"/reports/definitions/day/editions/{DAY}", status=202)
    assert await office.door.ask("POST", f"/reports/definitions/day/editions/{DAY}", status=202) == one
    await office.door.ask("POST", "/reports/definitions/day/editions/2026-03-01", status=409)
    monkeypatch.setattr(reports_module, "DEFINITIONS_MAX", 1)
    await office.door.ask("PUT", "/reports/definitions/other", DAILY, status=409)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "version": 2})


async def test_every_period_falls_due_once_also_those_in_which_nothing_ran(office: Office) -> None:
    schedule = {"rule": "FREQ=DAILY;BYHOUR=6", "since": "2026-01-01"}
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "schedule": schedule})
    assert await office.reports.enqueue_due() == 0
    office.clock.set_wall(NOW + timedelta(days=1))
    assert await office.reports.enqueue_due() == 1
    assert await office.reports.enqueue_due() == 0
    office.clock.set_wall(NOW + timedelta(days=4))
    assert await office.reports.enqueue_due() == 3
    days = ["2026-03-03", "2026-03-04", "2026-03-05", "2026-03-06"]
    assert [one["edition"] for one in await office.queued()] == days
    # What lies too far back is not made any more.
    office.clock.set_wall(NOW + timedelta(days=400))
    assert await office.reports.enqueue_due() == 1 + CATCH_UP.days
    # Without its schedule it is due no more.
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "version": 2})
    office.clock.set_wall(NOW + timedelta(days=420))
    assert await office.reports.enqueue_due() == 0


async def test_a_definition_that_nothing_can_be_made_by_is_refused(office: Office) -> None:
    refused: list[tuple[dict[str, Any], int]] = [
        ({"version": 2}, 409),
        ({"subject_kind": "plan"}, 400),
        ({"languages": ["zh", "zh"]}, 400),
        ({"stated": {"base_year": "2020"}}, 400),
        ({"schedule": {"rule": "FREQ=MINUTELY", "since": "2026-01-01"}}, 400),
        ({"surplus": 1}, 422),
    ]
    for changed, status in refused:
        await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, **changed}, status=status)
    assert await office.door.ask("GET", "/reports/definitions") == []


async def test_who_may_ask_for_what(office: Office) -> None:
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": ["xlsx"]})
    await office.make("day", DAY)
    report = f"/reports/day/{DAY}/versions/1"
    reads = (
        "/reports/definitions",
        "/reports/definitions/day",
        "/reports",
        "/reports/jobs",
        "/reports/jobs/any",
        report,
        f"{report}/files/xlsx",
        f"{report}/tables/course",
    )
    changes = (
        ("PUT", "/reports/definitions/day", {**DAILY, "version": 2}),
        ("POST", f"/reports/definitions/day/editions/{DAY}", None),
        ("POST", "/reports/jobs/any/cancel", None),
    )
    for path in reads:
        await office.door.ask("GET", path, scopes=("alarm:read",), status=403)
    for method, path, body in changes:
        await office.door.ask(method, path, body, scopes=("carbon:read",), status=403)
    # Nobody says here which sites are whose, so who is limited to some sees nothing.
    for path in reads:
        if path in ("/reports/definitions", "/reports", "/reports/jobs"):
            assert await office.door.ask("GET", path, sites=("site-1",)) == []
        else:
            await office.door.ask("GET", path, sites=("site-1",), status=404)
    for method, path, body in changes:
        await office.door.ask(method, path, body, sites=("site-1",), status=403 if method == "PUT" else 404)


async def test_what_is_not_there_is_said(office: Office) -> None:
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": ["xlsx"], "languages": ["zh"]})
    await office.make("day", DAY)
    report = f"/reports/day/{DAY}/versions"
    await office.door.ask("POST", f"/reports/definitions/other/editions/{DAY}", status=404)
    await office.door.ask("POST", "/reports/definitions/day/editions/2026-03-03", status=400)  # not over
    await office.door.ask("POST", "/reports/definitions/day/editions/2026-03", status=400)  # a month
    await office.door.ask("GET", f"{report}/2", status=404)
    await office.door.ask("GET", f"{report}/2/tables/course", status=404)
    missing = await office.door.client.get(f"/api/v1{report}/1/tables/curse", headers=authorised(office.door))
    assert missing.status_code == 404
    assert "it has summary, comparison, course" in missing.json()["detail"]
    await office.door.ask("GET", f"{report}/1/files/pdf", status=404)
    await office.door.ask("GET", f"{report}/1/files/xlsx", lang="en", status=404)
    await office.door.ask("GET", "/reports/jobs/none", status=404)
    await office.door.ask("POST", "/reports/jobs/none/cancel", status=404)


async def test_nobody_changes_a_finished_report(office: Office) -> None:
    await office.city.book("feed", USED)
    await office.door.ask("PUT", "/reports/definitions/day", {**DAILY, "formats": ["xlsx"]})
    await office.make("day", DAY)
    for statement in (
        "update report_files set body = 'x'",
        "delete from report_editions",
        "delete from report_tables",
        "update report_definitions set document = '{}'",
        "update published_statements set statement = '{}' where kind = 'report'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with office.door.db.write() as conn:
                await conn.execute(statement)


async def test_a_published_inventory_becomes_a_report_of_its_own_figures(office: Office) -> None:
    clock = office.clock
    inventories = Inventories(
        db=office.city.db,
        books=books,
        metering=Metering(
            nodes=Topology(office.city.view), energy=office.city.boundaries, clock=clock, intervals_max=1_000_000
        ),
        clock=clock,
        shipped=load_library(),
        coal=load_coal(),
        audit=audit,
        software="0.1.0",
    )
    span = Span(datetime(2025, 12, 31, 16, tzinfo=UTC), datetime(2026, 2, 28, 16, tzinfo=UTC))
    certificates: list[Certificate] = []
    inputs = Inputs(
        boundary=Boundary(
            "operator",
            Approach.OPERATIONAL_CONTROL,
            [Part("site-1", span)],
            [Exclusion("commuting", "not significant", 0.001)],
        ),
        sources=[
            Source(
                line_id="bill",
                node="site-1",
                place=Place("44"),
                category="electricity",
                span=span,
                activity=ElectricityUse(imported_kwh=10_000.0),
                origin="bill 2026-01",
                completeness=0.97,
            )
        ],
        certificates=certificates,
    )
    published = await inventories.publish("org-2026", "2026", inputs, who=MAKER)
    definition = {
        **DAILY,
        "kind": "inventory",
        "subject_kind": "inventory",
        "subject_id": "org-2026",
        "formats": ["pdf", "xlsx"],
        "languages": ["zh"],
        "stated": {"responsible": "王工", "base_year": "2025"},
    }
    await office.door.ask("PUT", "/reports/definitions/ghg", definition)
    await office.make("ghg", "v1")
    report = decode_report((await office.reports.content("ghg", "v1", 1))[0])
    tables = {one.key: one for one in report.tables}
    total = published.publication.location.kg_co2e
    assert total is not None
    assert tables["totals"].rows[0][1].value == pytest.approx(total / 1000, rel=1e-12)  # type: ignore[union-attr]
    line = tables["lines"].rows[0][5]
    assert line.completeness == 0.97  # type: ignore[union-attr]
    reason = next(one for one in report.reasons if one.key == line.why)  # type: ignore[union-attr]
    assert any("factor" in one for one in reason.origins)
    assert reason.path == "/api/v1/inventories/org-2026/versions/1#bill"
    for key in ("totals", "lines"):
        for _, _, figure in tables[key].figures():
            asked = dict(parse_qsl(urlsplit(figure.trace).query))
            wanted = Wanted(
                figure=Figure(asked["figure"]),
                id=asked["id"],
                version=int(asked["version"]),
                line=asked.get("line"),
                method=Method(asked["scope2"]),
            )
            whys = InventoryWhys(inventories, nodes=Nowhere())
            answered = await (whys.inventory if wanted.line is None else whys.inventory_line)(wanted)
            assert answered.value == pytest.approx((figure.value or 0.0) * 1000, rel=1e-12)
    said = {row[0].zh: row[1] for row in tables["who"].rows}  # type: ignore[union-attr]
    assert said["报告负责人"] == "王工"
    assert said["依据标准"].zh == "未说明"  # type: ignore[union-attr]
    sections = {one.key for one in report.sections}
    assert {row[2] for row in tables["required"].rows} <= sections
    await office.door.ask("POST", "/reports/definitions/ghg/editions/2026", status=400)


class Nowhere:
    """A registry that knows no node."""

    def node(self, name: str) -> Node | None:
        return None


def authorised(door: Door) -> dict[str, str]:
    token = door.keys.sign_token(
        "gateway", subject="wang", kind="user", audience="carbon", scopes=("carbon:read",), sites=None
    )  # fmt: skip
    return {"authorization": f"Bearer {token}"}
