"""HTTP of reports: definitions, editions that are made as jobs, finished ones with their files and tables."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.jobs import Job
from libs.common.recurrence import RULE_LENGTH_MAX, Schedule
from services.carbon.api.access import Body, View
from services.carbon.api.common import Reader, Writer
from services.carbon.api.common import Text as Line
from services.carbon.api.figures import DIGEST, PAGE_MAX, AskedPage, statement_reply
from services.carbon.domain.reports.content import Language, ReportKind, Text
from services.carbon.domain.reports.definitions import STATED_MAX, Definition, FileFormat, SubjectKind
from services.carbon.domain.reports.inventory import Stated
from services.carbon.reports.frames import TableFormat, convert
from services.carbon.store.reports import Edition, StoredDefinition
from services.carbon.usecases.reports import Reports

TAGS = ["reports"]
LANGUAGES_MAX, FORMATS_MAX = len(Language), len(FileFormat)

DefinitionId = Annotated[str, Path(max_length=48, pattern=r"^[a-z0-9][a-z0-9-]*$", description="of a definition")]
EditionName = Annotated[
    str,
    Path(
        max_length=64,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="2026-03-01, 2026-W09, 2026-03, 2026; v3 of an inventory; the id of a contract's statement",
    ),
]
JobId = Annotated[str, Path(max_length=64)]
Version = Annotated[int, Path(ge=1, le=2_000_000_000)]
AskedLanguage = Annotated[Language, Query(alias="lang", description="language")]
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the file, whose SHA-256 is in the header",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {DIGEST: {"schema": {"type": "string"}}},
    }
}


class ScheduleBody(Body):
    """When reports are made by themselves."""

    rule: str = Field(max_length=RULE_LENGTH_MAX)
    """RFC 5545 recurrence in civil time, at most once a day: ``FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6``."""
    since: CalendarDate
    """The first day that counts."""


class DefinitionBody(Body):
    """What is to be reported."""

    version: int = Field(ge=1, le=2_000_000_000)
    """1 for a new definition, else the one after the latest."""
    kind: ReportKind
    name: Line
    name_zh: Line
    subject_kind: SubjectKind
    subject_id: str = Field(min_length=1, max_length=64)
    languages: list[Language] = Field(default=[Language.CHINESE], min_length=1, max_length=LANGUAGES_MAX)
    formats: list[FileFormat] = Field(default=[FileFormat.EXCEL, FileFormat.PDF], max_length=FORMATS_MAX)
    schedule: ScheduleBody | None = None
    stated: dict[Stated, Annotated[str, Field(min_length=1, max_length=STATED_MAX)]] = Field(default={})
    """For an inventory: who is responsible, the base year, verification and what else no computation knows."""

    def definition(self, definition_id: str) -> Definition:
        """Return the definition."""
        schedule = self.schedule
        return Definition(
            definition_id=definition_id,
            version=self.version,
            kind=self.kind,
            name=Text(self.name, self.name_zh),
            subject_kind=self.subject_kind,
            subject_id=self.subject_id,
            languages=tuple(self.languages),
            formats=tuple(self.formats),
            schedule=None if schedule is None else Schedule(schedule.rule, schedule.since),
            stated=dict(self.stated),
        )


class ScheduleView(View):
    """When reports are made by themselves."""

    rule: str
    since: CalendarDate


class DefinitionView(View):
    """A definition as it is."""

    definition_id: str
    version: int
    kind: ReportKind
    name: str
    name_zh: str
    subject_kind: SubjectKind
    subject_id: str
    languages: list[Language]
    formats: list[FileFormat]
    schedule: ScheduleView | None
    stated: dict[Stated, str]
    changed_by: str
    changed_at: UtcTime


class EditionView(View):
    """A finished report; it never changes."""

    definition_id: str
    definition_version: int
    edition: str
    version: int
    """Made again, an edition has the next version; the earlier ones stay."""
    kind: ReportKind
    start: UtcTime
    end: UtcTime
    completeness: float | None
    """The least of its headline figures, 0 to 1; null where none can be incomplete."""
    digest: str
    """SHA-256 of the filed content."""
    made_at: UtcTime
    made_by: str


class JobView(View):
    """How far a report is."""

    job_id: str
    definition_id: str
    edition: str
    asked_by: str
    asked_at: UtcTime
    state: str
    """``queued``, ``running``, ``succeeded`` or ``failed``; a job whose worker died is run again."""
    done: int
    total: int | None
    note: str | None
    """What is being done."""
    error: dict[str, Any] | None
    """Why there is no report."""
    report: EditionView | None
    """What has come of it; null in lists."""


class AskedView(View):
    """A report that will be made."""

    job_id: str


def build_report_router(reports: Reports) -> APIRouter:
    """Return the routes of reports."""
    router = APIRouter(prefix="/api/v1", tags=list(TAGS))

    @router.get("/reports/definitions", summary="What is reported, by id")
    async def definitions(who: Reader, page: AskedPage) -> Sequence[DefinitionView]:
        after = "" if page.after is None else page.after[0]
        return [_definition(one) for one in await reports.definitions(after=after, limit=page.limit, who=who)]

    @router.get("/reports/definitions/{definition_id}", summary="A definition as it is")
    async def definition(who: Reader, definition_id: DefinitionId) -> DefinitionView:
        await reports.check_definition(who, definition_id)
        return _definition(await reports.definition(definition_id))

    @router.put("/reports/definitions/{definition_id}", summary="Store the next version of a definition")
    async def put(body: DefinitionBody, who: Writer, definition_id: DefinitionId) -> DefinitionView:
        return _definition(await reports.put(body.definition(definition_id), who))

    @router.post(
        "/reports/definitions/{definition_id}/editions/{edition}",
        summary="Make the next version of an edition; it becomes a job",
        status_code=202,
    )
    async def request(who: Writer, definition_id: DefinitionId, edition: EditionName) -> AskedView:
        await reports.check_definition(who, definition_id)
        return AskedView(job_id=await reports.request(definition_id, edition, who))

    @router.get("/reports/jobs/{job_id}", summary="How far a report is, and what has come of it")
    async def job(who: Reader, job_id: JobId) -> JobView:
        await reports.check_job(who, job_id)
        return _job(*await reports.job(job_id))

    @router.get("/reports/jobs", summary="How far reports are, the youngest first")
    async def jobs(
        who: Reader,
        before: Annotated[str | None, Query(max_length=64, description="older than this job")] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    ) -> Sequence[JobView]:
        return [_job(one, None) for one in await reports.list_jobs(before=before, limit=limit, who=who)]

    @router.post("/reports/jobs/{job_id}/cancel", summary="End a report that waits or is being made")
    async def cancel(who: Writer, job_id: JobId) -> JobView:
        await reports.check_job(who, job_id)
        await reports.cancel(job_id, who)
        return _job(*await reports.job(job_id))

    @router.get("/reports", summary="Finished reports, by id and version")
    async def editions(
        who: Reader,
        page: AskedPage,
        definition: Annotated[str | None, Query(max_length=48, description="those of one definition")] = None,
    ) -> Sequence[EditionView]:
        found = await reports.editions(definition_id=definition, after=page.after, limit=page.limit, who=who)
        return [_edition(one) for one in found]

    @router.get(
        "/reports/{definition_id}/{edition}/versions/{version}",
        summary="The content of a finished report as it was filed: what its digest is of",
        response_class=Response,
        responses={200: {**_FILE[200], "content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def content(
        who: Reader, definition_id: DefinitionId, edition: EditionName, version: Version
    ) -> Response:  # fmt: skip
        await reports.check_report(who, definition_id, edition, version)
        return statement_reply(*await reports.content(definition_id, edition, version))

    @router.get(
        "/reports/{definition_id}/{edition}/versions/{version}/files/{form}",
        summary="A finished report as a file for people: Excel or PDF",
        response_class=Response,
        responses=_FILE,
    )
    async def file(
        who: Reader,
        definition_id: DefinitionId,
        edition: EditionName,
        version: Version,
        form: FileFormat,
        lang: AskedLanguage = Language.CHINESE,
    ) -> Response:
        await reports.check_report(who, definition_id, edition, version)
        found = await reports.file(definition_id, edition, version, form, lang)
        name = f"{definition_id}-{edition}-v{version}-{lang}.{form}"
        return Response(
            found.body,
            media_type=form.media_type,
            headers={DIGEST: found.digest, "content-disposition": f'attachment; filename="{quote(name)}"'},
        )

    @router.get(
        "/reports/{definition_id}/{edition}/versions/{version}/tables/{table}",
        summary="A table of a finished report for programs: CSV, Parquet or Arrow",
        response_class=Response,
        responses=_FILE,
    )
    async def table(
        who: Reader,
        definition_id: DefinitionId,
        edition: EditionName,
        version: Version,
        table: Annotated[str, Path(max_length=64, description="key of a table of the content")],
        form: Annotated[TableFormat, Query(alias="format")] = TableFormat.CSV,
        lang: AskedLanguage = Language.CHINESE,
    ) -> Response:
        await reports.check_report(who, definition_id, edition, version)
        found = await reports.table(definition_id, edition, version, table, lang)
        body = await asyncio.to_thread(convert, found, form)
        name = f"{definition_id}-{edition}-v{version}-{table}.{form}"
        return Response(
            body,
            media_type=form.media_type,
            headers={"content-disposition": f'attachment; filename="{quote(name)}"'},
        )

    return router


def _definition(row: StoredDefinition) -> DefinitionView:
    one = row.definition
    schedule = one.schedule
    return DefinitionView(
        definition_id=one.definition_id,
        version=one.version,
        kind=one.kind,
        name=one.name.en,
        name_zh=one.name.zh,
        subject_kind=one.subject_kind,
        subject_id=one.subject_id,
        languages=list(one.languages),
        formats=list(one.formats),
        schedule=None if schedule is None else ScheduleView(rule=schedule.rule, since=schedule.since),
        stated=dict(one.stated),
        changed_by=row.changed_by,
        changed_at=row.changed_at,
    )


def _edition(one: Edition) -> EditionView:
    return EditionView(
        definition_id=one.definition_id,
        definition_version=one.definition_version,
        edition=one.edition,
        version=one.version,
        kind=one.kind,
        start=one.start,
        end=one.end,
        completeness=one.completeness,
        digest=one.digest,
        made_at=one.made_at,
        made_by=one.made_by,
    )


def _job(job: Job, made: Edition | None) -> JobView:
    return JobView(
        job_id=job.id,
        definition_id=job.payload["definition_id"],
        edition=job.payload["edition"],
        asked_by=job.actor,
        asked_at=job.created_at,
        state=job.state,
        done=job.done,
        total=job.total,
        note=job.note,
        error=None if job.error is None else dict(job.error),
        report=None if made is None else _edition(made),
    )
