"""Definitions of reports, finished reports, and what makes the ones into the others: by request and by schedule."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from libs.common import jobs
from libs.common.clock import Clock
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, Forbidden, NotFound
from libs.common.jobs import Job, JobContext, JobId, JobNotFound
from libs.common.tokens import Principal
from services.carbon.domain.factors import FactorLibrary
from services.carbon.domain.reports.content import Language, Report
from services.carbon.domain.reports.definitions import Definition, FileFormat
from services.carbon.domain.statements import Stated, StatementKind
from services.carbon.reports.encoding import digest_of, encode_report
from services.carbon.reports.frames import write_arrow
from services.carbon.store import inventories as statements
from services.carbon.store import reports as store
from services.carbon.store.reports import Edition, ReportFile, ReportTable, StoredDefinition
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.inventories import StatementAltered
from services.carbon.usecases.ports import Audit, audit_event

REPORT_JOB = "report"
CATCH_UP = timedelta(days=35)
"""So far back, reports that fell due while nothing ran are made: a month of daily ones, and the month itself."""
MAKER = Principal("carbon", "service", frozenset({"carbon:read"}))
"""Who asks for what falls due, and reads the books for every report."""
OPEN_MAX = 1_000
"""Reports that wait or are made at a time; at a minute each, more would be waited for till tomorrow."""
COMPARED = timedelta(days=800)
"""So far back a report looks for what it compares its period with: a year, and the year's own length."""
DEFINITIONS_MAX = 10_000
"""Definitions of reports, each of which may have a schedule."""


class UnknownDefinition(NotFound):
    """No definition of that id."""

    code = "unknown_report_definition"
    title_zh = "报表定义不存在"


class UnknownReport(NotFound):
    """No finished report of that name."""

    code = "unknown_report"
    title_zh = "报表不存在"


class UnknownTable(NotFound):
    """A finished report has no table of that key."""

    code = "unknown_report_table"
    title_zh = "报表中没有该表"


class QueueFull(Conflict):
    """So many reports wait to be made that no other is taken."""

    code = "report_queue_full"
    title_zh = "报表任务队列已满"


class Contents(Protocol):
    """Puts the content of a report together (``usecases/reportcontents.py``)."""

    async def of(self, definition: Definition, edition: str) -> Report:
        """Return what a report says now."""


class Library(Protocol):
    """The factors that are known (``usecases/inventories.py``)."""

    async def library(self) -> FactorLibrary:
        """Return every revision of every factor."""


class Publish(Protocol):
    """Tells that a report was made, in the transaction that files it (``bus.finished_report``)."""

    async def __call__(self, conn: WriteConn, one: Edition, files: Sequence[ReportFile], name: str) -> None:
        """Publish it."""


Render = Callable[[Report, Language, str], bytes]


class Sight(Protocol):
    """Who may see which part of the site tree (``sites.Sites``)."""

    def may_see(self, who: Principal, node: Node) -> bool:
        """Return whether somebody may see all of a node now."""

    def may_see_throughout(self, who: Principal, node: Node, start: datetime, end: datetime) -> bool:
        """Return whether somebody may see all that a node had within a span."""


class Reports:
    """Keeps definitions, puts reports into the queue, and hands out finished ones.

    Whoever is limited to sites has to do with reports of energy of nodes that lie within these sites, and with no
    others: what a report of savings, an inventory or a contract names may lie anywhere.
    """

    def __init__(self, *, db: Database, clock: Clock, audit: Audit, sight: Sight | None = None) -> None:
        """Keep what is needed; without ``sight`` nobody who is limited to sites sees anything."""
        self._db = db
        self._clock = clock
        self._audit = audit
        self._sight = sight

    # Who may see what

    async def check_definition(self, who: Principal, definition_id: str) -> None:
        """Let nobody know of a definition who may not see its node.

        Raises:
            UnknownDefinition: There is none that the asker may see.
        """
        if who.sites is not None and not self._sees(who, (await self.definition(definition_id)).definition):
            raise _unknown_definition(definition_id)

    async def check_report(self, who: Principal, definition_id: str, edition: str, version: int) -> None:
        """Let nobody know of a finished report who may not see all that its node had in its period.

        Raises:
            UnknownReport: There is none that the asker may see.
        """
        if who.sites is None:
            return
        statement_id = f"{definition_id}/{edition}"
        async with self._db.read() as conn:
            found = await store.fetch_edition(conn, statement_id, version)
            visible = found is not None and await self._sees_edition(conn, who, found)
        if not visible:
            raise _unknown_report(statement_id, version)

    async def check_job(self, who: Principal, job_id: str) -> None:
        """Let nobody know of a job who may not see the node of its report.

        Raises:
            JobNotFound: There is none that the asker may see.
        """
        if who.sites is None:
            return
        async with self._db.read() as conn:
            visible = await self._sees_job(conn, who, await jobs.fetch_job(conn, job_id))
        if not visible:
            raise JobNotFound(f"there is no job {job_id}", message_zh=f"任务 {job_id} 不存在")

    def _sees(self, who: Principal, definition: Definition) -> bool:
        """Return whether somebody may have to do with a definition as its node is now."""
        node = _node_of(definition)
        if who.sites is None:
            return True
        if node is None or self._sight is None:
            return False
        try:
            return self._sight.may_see(who, node)
        except NotFound:
            return False

    async def _sees_edition(self, conn: ReadConn, who: Principal, one: Edition) -> bool:
        row = await store.fetch_definition_version(conn, one.definition_id, one.definition_version)
        node = None if row is None else _node_of(row.definition)
        if row is None or node is None or self._sight is None or not self._sees(who, row.definition):
            return False
        # What a period is compared with may have had other sites.
        before = COMPARED if node.kind.is_group else timedelta()
        return self._sight.may_see_throughout(who, node, one.start - before, one.end)

    async def _sees_job(self, conn: ReadConn, who: Principal, job: Job) -> bool:
        asked = job.payload
        row = await store.fetch_definition_version(conn, asked["definition_id"], asked["version"])
        return row is not None and self._sees(who, row.definition)

    # Definitions

    async def put(self, definition: Definition, who: Principal) -> StoredDefinition:
        """Store a version of a definition: 1 for a new one, else the one after the latest.

        Raises:
            Conflict: It is another version.
            Forbidden: Who is limited to sites may not see its node, or that of the version before.
        """
        row = StoredDefinition(definition=definition, changed_by=who.actor, changed_at=self._clock.now())
        name = definition.definition_id
        if not self._sees(who, definition):
            raise Forbidden(
                f"{who.subject} is limited to sites, and {definition.kind} of {definition.subject_kind} "
                f"{definition.subject_id} is not of these",
                message_zh=f"{who.subject} 仅限部分局站,不能定义 {definition.subject_id} 的该类报表",
            )
        async with self._db.write() as conn:
            await store.lock_definition(conn, name)
            before = await store.fetch_definition(conn, name)
            if before is not None and not self._sees(who, before.definition):
                raise Forbidden(
                    f"definition {name} is of something that {who.subject} may not see; choose another id",
                    message_zh=f"报表定义 {name} 不属于 {who.subject} 可见的范围,请使用其他编号",
                )
            latest = 0 if before is None else before.definition.version
            if before is None and await store.count_definitions(conn) >= DEFINITIONS_MAX:
                raise Conflict(
                    f"there are {DEFINITIONS_MAX} definitions of reports, and no more are taken",
                    message_zh=f"报表定义已达 {DEFINITIONS_MAX} 个上限",
                )
            if definition.version != latest + 1:
                raise Conflict(
                    f"definition {name}: expected version {latest + 1}, found {definition.version}",
                    message_zh=f"报表定义 {name}:版本应为 {latest + 1},实际为 {definition.version}",
                )
            await store.add_definition(conn, row)
            schedule = definition.schedule
            await store.put_due(conn, name, None if schedule is None else schedule.next_after(row.changed_at))
            event = audit_event(
                who, "report_definition.put", f"report_definition:{name}", row.changed_at, after=definition.document()
            )
            await self._audit(conn, event)
        return row

    async def definition(self, definition_id: str) -> StoredDefinition:
        """Return a definition as it is.

        Raises:
            UnknownDefinition: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_definition(conn, definition_id)
        if found is None:
            raise _unknown_definition(definition_id)
        return found

    async def definitions(self, *, after: str, limit: int, who: Principal | None = None) -> Sequence[StoredDefinition]:
        """Return the definitions by id; those that ``who`` may see."""
        found: list[StoredDefinition] = []
        async with self._db.read() as conn:
            while page := await store.fetch_definitions(conn, after=after, limit=limit):
                found += [one for one in page if who is None or self._sees(who, one.definition)]
                after = page[-1].definition.definition_id
                if len(found) >= limit or len(page) < limit:
                    break
        return found[:limit]

    # Making

    async def request(self, definition_id: str, edition: str, who: Principal) -> JobId:
        """Put an edition into the queue: its next version is made by the job worker.

        What waits there already is not put in again; one that is being made may have read the books already, so
        another follows it.

        Raises:
            UnknownDefinition: There is no such definition.
            InvalidInput: There is no such edition, or it is not over.
            QueueFull: Too many wait.
        """
        row = await self.definition(definition_id)
        row.definition.check_edition(edition, self._clock.now())
        async with self._db.write() as conn:
            await store.lock_definition(conn, definition_id)
            payload = _payload(row.definition, edition)
            waiting = await store.fetch_waiting_job(conn, REPORT_JOB, payload)
            if waiting is not None:
                return JobId(waiting)
            if await store.count_open_jobs(conn) >= OPEN_MAX:
                raise QueueFull(
                    f"{OPEN_MAX} reports wait or are being made; no more are taken until some are done",
                    message_zh=f"已有 {OPEN_MAX} 个报表等待或正在生成,请稍后再试",
                )
            job_id = await jobs.enqueue(conn, REPORT_JOB, payload, actor=who.actor)
            at = self._clock.now()
            event = audit_event(
                who, "report.request", f"report:{definition_id}/{edition}", at, after={"job_id": job_id}
            )
            await self._audit(conn, event)
        return job_id

    async def cancel(self, job_id: str, who: Principal) -> None:
        """End a job that waits or runs; nothing of it is filed.

        Raises:
            JobNotFound: There is no such job, or it ended long ago.
            JobEnded: It has ended before; a report that was filed stays.
        """
        async with self._db.write() as conn:
            await jobs.cancel(conn, job_id, actor=who.actor)
            await self._audit(
                conn,
                audit_event(
                    who, "report.cancel", f"report_job:{job_id}", self._clock.now(), after={"state": "cancelled"}
                ),
            )

    async def list_jobs(self, *, before: str | None, limit: int, who: Principal | None = None) -> Sequence[Job]:
        """Return how far reports are, the youngest first: those that were asked for and those that fell due."""
        found: list[Job] = []
        async with self._db.read() as conn:
            while page := await jobs.list_jobs(conn, before=before, limit=limit):
                for one in page:
                    if who is None or who.sites is None or await self._sees_job(conn, who, one):
                        found.append(one)
                before = page[-1].id
                if len(found) >= limit or len(page) < limit:
                    break
        return found[:limit]

    async def enqueue_due(self) -> int:
        """Put what has fallen due into the queue; return how many reports that are.

        What was missed while nothing ran is made up for, each time with the period that was over then, as far back as
        ``CATCH_UP``.
        """
        count = 0
        while await self._enqueue_next():
            count += 1
        return count

    async def job(self, job_id: str) -> tuple[Job, Edition | None]:
        """Return how far a report is, and what has come of it.

        Raises:
            JobNotFound: There is no such job, or it ended long ago.
        """
        async with self._db.read() as conn:
            found = await jobs.fetch_job(conn, job_id)
            return found, await store.fetch_edition_of_job(conn, job_id)

    # Finished ones

    async def editions(
        self, *, definition_id: str | None, after: tuple[str, int] | None, limit: int, who: Principal | None = None
    ) -> Sequence[Edition]:
        """Return finished reports by id and version; those that ``who`` may see."""
        found: list[Edition] = []
        async with self._db.read() as conn:
            while page := await store.fetch_editions(conn, definition_id=definition_id, after=after, limit=limit):
                for one in page:
                    if who is None or who.sites is None or await self._sees_edition(conn, who, one):
                        found.append(one)
                after = (page[-1].statement_id, page[-1].version)
                if len(found) >= limit or len(page) < limit:
                    break
        return found[:limit]

    async def content(self, definition_id: str, edition: str, version: int) -> tuple[str, str]:
        """Return the filed content of a finished report and its SHA-256.

        Raises:
            UnknownReport: There is none.
            StatementAltered: It was changed behind this program's back.
        """
        statement_id = f"{definition_id}/{edition}"
        async with self._db.read() as conn:
            found = await statements.fetch_statement(conn, StatementKind.REPORT, statement_id, version)
        if found is None:
            raise _unknown_report(statement_id, version)
        text, digest = found
        if digest_of(text.encode()) != digest:
            raise StatementAltered(
                f"report {statement_id} version {version} is not what was filed: its digest is another one",
                message_zh=f"报表 {statement_id} 版本 {version} 与存档内容不符:摘要不一致",
            )
        return text, digest

    async def file(
        self, definition_id: str, edition: str, version: int, form: FileFormat, language: Language
    ) -> ReportFile:
        """Return a rendered report.

        Raises:
            UnknownReport: There is none of that format and language.
            StatementAltered: It was changed behind this program's back.
        """
        statement_id = f"{definition_id}/{edition}"
        async with self._db.read() as conn:
            found = await store.fetch_file(conn, statement_id, version, form, language)
        if found is None:
            raise _unknown_report(f"{statement_id} ({form}, {language})", version)
        if digest_of(found.body) != found.digest:
            raise StatementAltered(
                f"report {statement_id} version {version} ({form}, {language}) is not what was filed",
                message_zh=f"报表 {statement_id} 版本 {version}({form}、{language})与存档文件不符",
            )
        return found

    async def table(self, definition_id: str, edition: str, version: int, key: str, language: Language) -> bytes:
        """Return a table of a finished report as an Arrow file, as it was written when the report was made.

        Raises:
            UnknownReport: There is no such report.
            UnknownTable: It has no such table.
        """
        statement_id = f"{definition_id}/{edition}"
        async with self._db.read() as conn:
            found = await store.fetch_table(conn, statement_id, version, key, language)
            known = [] if found is not None else await store.fetch_table_keys(conn, statement_id, version)
        if found is not None:
            return found
        if not known:
            raise _unknown_report(statement_id, version)
        raise UnknownTable(
            f"report {statement_id} version {version} has no table {key}; it has {', '.join(known)}",
            message_zh=f"报表 {statement_id} 版本 {version} 没有表 {key};现有 {'、'.join(known)}",
        )

    async def _enqueue_next(self) -> bool:
        async with self._db.write() as conn:
            due = await store.take_due(conn, self._clock.now())
            if due is None:
                return False
            definition_id, due_at = due
            row = await store.fetch_definition(conn, definition_id)
            schedule = None if row is None else row.definition.schedule
            if row is not None and schedule is not None:
                payload = _payload(row.definition, row.definition.due_edition(due_at))
                await jobs.enqueue(conn, REPORT_JOB, payload, actor=MAKER.actor)
            since = max(due_at, self._clock.now() - CATCH_UP)
            await store.put_due(conn, definition_id, None if schedule is None else schedule.next_after(since))
        return True


@dataclass(frozen=True, slots=True)
class Made:
    """A report that is about to be filed."""

    definition: Definition
    edition: str
    report: Report
    text: str
    digest: str
    """SHA-256 of the text."""
    files: Sequence[ReportFile]
    tables: Sequence[ReportTable]


class ReportMaker:
    """Makes reports, in the job worker: content, files, and one transaction that files all of it."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        audit: Audit,
        publish: Publish,
        contents: Contents,
        library: Library,
        renderers: Mapping[FileFormat, Render],
    ) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit
        self._publish = publish
        self._contents = contents
        self._library = library
        self._renderers = renderers

    async def make(self, context: JobContext) -> Mapping[str, Any]:
        """Make a report and file it as the next version of its edition, and end the job with that.

        Raises:
            UnknownDefinition: The definition is not there.
            InvalidInput, NotFound: There is nothing to report.
            JobEnded: Somebody cancelled the job, or another worker has it by now; nothing was filed.
        """
        asked = context.job.payload
        async with self._db.read() as conn:
            row = await store.fetch_definition_version(conn, asked["definition_id"], asked["version"])
        if row is None:
            raise _unknown_definition(asked["definition_id"])
        definition = row.definition
        steps = 2 + len(definition.languages) * len(definition.formats)
        await context.progress(0, steps, "content")
        report = await self._contents.of(definition, asked["edition"])
        text = await asyncio.to_thread(encode_report, report)
        digest = digest_of(text.encode())
        files: list[ReportFile] = []
        for language in definition.languages:
            for form in definition.formats:
                await context.progress(1 + len(files), steps, f"{form} {language}")
                body = await asyncio.to_thread(self._renderers[form], report, language, digest)
                files.append(ReportFile(format=form, language=language, body=body, digest=digest_of(body)))
        await context.progress(steps - 1, steps, "filing")
        tables = await asyncio.to_thread(_tables, report)
        made = Made(definition, asked["edition"], report, text, digest, files, tables)
        return await self._file(context, made)

    async def _file(self, context: JobContext, made: Made) -> Mapping[str, Any]:
        library = await self._library.library()
        now = self._clock.now()
        definition, report, actor = made.definition, made.report, context.job.actor
        statement_id = definition.statement_id(made.edition)
        async with self._db.write() as conn:
            await statements.lock_statement(conn, StatementKind.REPORT, statement_id)
            version = await statements.last_version(conn, StatementKind.REPORT, statement_id) + 1
            filed = Stated(
                kind=StatementKind.REPORT,
                statement_id=statement_id,
                version=version,
                name=definition.name.en,
                digest=made.digest,
                table_digest=library.digest(report.known_on),
                known_on=report.known_on,
                published_at=now,
                published_by=actor,
            )
            await statements.add_statement(conn, filed, made.text)
            edition = Edition(
                statement_id=statement_id,
                version=version,
                definition_id=definition.definition_id,
                definition_version=definition.version,
                edition=made.edition,
                kind=definition.kind,
                start=report.start,
                end=report.end,
                completeness=report.completeness,
                job_id=context.job.id,
                digest=made.digest,
                made_at=now,
                made_by=actor,
            )
            await store.add_edition(conn, edition, made.files, made.tables)
            await self._publish(conn, edition, made.files, definition.name.en)
            digests = {f"{one.format}.{one.language}": one.digest for one in made.files}
            said = {"asked_by": actor, "digest": made.digest, "files": digests}
            event = audit_event(MAKER, "report.file", f"report:{statement_id}:{version}", now, after=said)
            await self._audit(conn, event)
            result = _result(edition)
            await context.finish(conn, result)
        return result


def _node_of(definition: Definition) -> Node | None:
    """Return the node whose energy is reported; None for every other kind of report."""
    if not definition.kind.is_energy:
        return None
    return Node(NodeKind(definition.subject_kind.value), definition.subject_id)


def _tables(report: Report) -> list[ReportTable]:
    """Return every table in both languages, so that no request has to make one out of the content."""
    return [
        ReportTable(key=one.key, language=language, body=write_arrow(one, language))
        for one in report.tables
        for language in Language
    ]


def _payload(definition: Definition, edition: str) -> dict[str, Any]:
    return {"definition_id": definition.definition_id, "version": definition.version, "edition": edition}


def question_of(definition: Definition, edition: str) -> str:
    """Return what was asked for, as canonical JSON."""
    asked = {**definition.document(), "definition_version": definition.version, "edition": edition}
    return json.dumps(asked, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _result(one: Edition) -> Mapping[str, Any]:
    return {
        "definition_id": one.definition_id,
        "edition": one.edition,
        "version": one.version,
        "digest": one.digest,
        "completeness": one.completeness,
    }


def _unknown_definition(definition_id: str) -> UnknownDefinition:
    return UnknownDefinition(
        f"there is no report definition {definition_id}", message_zh=f"报表定义 {definition_id} 不存在"
    )


def _unknown_report(what: str, version: int) -> UnknownReport:
    return UnknownReport(
        f"there is no report {what} of version {version}", message_zh=f"报表 {what} 的版本 {version} 不存在"
    )
