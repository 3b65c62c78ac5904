"""Imports: a registry file, taken whole or not at all; an archive of readings, line by line.

Small ones are done at once. Large ones are jobs: a process of its own works them off, may die at any line, and
goes on behind the last line that is committed.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NoReturn
from zoneinfo import ZoneInfo

from libs.common import jobs, workbook, yamlfile
from libs.common.bus import outbox, topics
from libs.common.bus.port import Message
from libs.common.clock import Clock
from libs.common.contracts.registry import Device, DeviceRecord
from libs.common.db import Database
from libs.common.errors import Forbidden, InvalidFile, InvalidInput, NotFound, Problem
from libs.common.ids import DeviceId, new_id
from libs.common.profiles import ProfileCatalogue, parse_profile
from libs.common.registry import read_registry
from libs.common.yamlfile import YamlDocument, parse_yaml
from services.ingest import metrics
from services.ingest.bus import reading_message, rejected_message
from services.ingest.domain.acceptance import Limits, Refused, judge
from services.ingest.domain.report import Rejection, Report
from services.ingest.domain.submission import Submission, report_of, unknown_device
from services.ingest.files.archive import Entry, open_archive, unpacked, unpacks_to
from services.ingest.files.registry_book import read_registry_book
from services.ingest.store import imports as store
from services.ingest.store import registry as registry_store
from services.ingest.store.imports import Import, WrongLine
from services.ingest.usecases.registry import Actor, ImportCounts, Registry
from services.ingest.usecases.topology import in_use

logger = logging.getLogger(__name__)

Kind = Literal["registry", "readings"]

REGISTRY_JOB = "import.registry"
READINGS_JOB = "import.readings"
LINES_AT_A_TIME = 500
OUTBOX_CROWDED = 2000
"""Messages in the outbox above which an import waits: what is behind them waits for a tenth of a second."""
OUTBOX_LOOK_S = 0.1
MAX_REGISTRY_BYTES = yamlfile.MAX_BYTES
MAX_PROBLEMS = 100
"""Wrong lines that are shown with the import itself."""
MAX_LISTED_LINES = 100_000
"""Wrong lines that are listed one by one; those of a real import are all under ``/api/v1/rejected`` besides."""
DRIVER = "import"

Progress = Callable[[int], Awaitable[None]]


def zone_of(name: str | None) -> ZoneInfo | None:
    """Return a time zone by its name.

    Raises:
        InvalidInput: There is none of that name.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise InvalidInput(
            f"timezone: expected an IANA name such as Asia/Shanghai, found {name!r}",
            message_zh=f"timezone:应为 IANA 时区名,如 Asia/Shanghai,实际为 {name!r}",
        ) from exc


class UnknownImport(NotFound):
    """There is no such import."""

    code = "unknown_import"
    title_zh = "导入任务不存在"


@dataclass(slots=True)
class ReadingsResult:
    """What became of the lines of an archive."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, line: int, refused: Refused) -> None:
        """Count a line that was not taken, and show the first of them."""
        self.counts["rejected"] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(
                {"line": line, "field": refused.reason, "expected": refused.detail, "expected_zh": refused.detail_zh}
            )


class Imports:
    """Takes files, at once or as jobs."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        registry: Registry,
        catalogue: ProfileCatalogue,
        limits: Limits,
        published: Callable[[], None],
        sync_bytes: int = 0,
    ) -> None:
        self._db = db
        self._clock = clock
        self._registry = registry
        self._catalogue = catalogue
        self._limits = limits
        self._published = published
        self._sync_bytes = sync_bytes

    async def start(
        self,
        kind: Kind,
        file: str,
        body: bytes,
        actor: Actor,
        *,
        dry_run: bool,
        timezone: str | None = None,
        key: str | None = None,
    ) -> Import:
        """Do a small import, or put a large one into the queue.

        ``timezone`` is the IANA name of the zone of times in tables that have no offset. What was sent under a ``key``
        and has not failed is not taken again.

        Raises:
            InvalidFile: A small file is wrong; nothing of it was taken, and the import is on record as failed.
            InvalidInput: There is no such time zone.
            Forbidden: The actor is limited to some sites.
        """
        zone_of(timezone)
        if actor.sites is not None:
            raise Forbidden("imports are for those who see all sites", message_zh="仅不限局站的账号可以导入")
        if key is not None:
            before = await self.page(before=None, limit=1, key=key)
            if before and before[0].state != "failed":
                return before[0]
        at_once = len(body) <= self._sync_bytes and unpacks_to(body, self._sync_bytes)
        found = Import(
            id=new_id(),
            kind=kind,
            file=file,
            actor=actor.name,
            dry_run=dry_run,
            state="running" if at_once else "queued",
            bytes=len(body),
            created_at=self._clock.now(),
            key=key,
        )
        if not at_once:
            async with self._db.write() as conn:
                job = REGISTRY_JOB if kind == "registry" else READINGS_JOB
                payload = {
                    "import_id": found.id, "file": file, "dry_run": dry_run, "actor": actor.name, "timezone": timezone
                }  # fmt: skip
                job_id = await jobs.enqueue(conn, job, payload, actor=actor.name, body=body)
                found = replace(found, job_id=job_id)
                await store.insert(conn, found)
            return found
        async with self._db.write() as conn:
            await store.insert(conn, found)
        await self.run(
            found.id, kind, file, body, actor.name, dry_run=dry_run, timezone=timezone, progress=_no_progress
        )
        return await self.get(found.id)

    async def run(
        self,
        import_id: str,
        kind: Kind,
        file: str,
        body: bytes,
        actor: str,
        *,
        dry_run: bool,
        progress: Progress,
        timezone: str | None = None,
        done: int = 0,
    ) -> Mapping[str, Any]:
        """Do an import and keep what came of it; return its counts.

        Raises:
            InvalidFile: The file is wrong; that is kept too.
        """
        try:
            problems: list[dict[str, Any]] = []
            changes: list[dict[str, Any]] | None = None
            counts: Mapping[str, Any]
            if kind == "registry":
                taken = await self.take_registry(file, body, actor, dry_run=dry_run)
                counts, changes = taken.as_dict(), taken.changes
            else:
                result = await self.take_readings(
                    import_id, file, body, dry_run=dry_run, progress=progress, zone=zone_of(timezone), done=done
                )
                counts, problems = dict(result.counts), result.problems
        except InvalidFile as exc:
            async with self._db.write() as conn:
                await store.finish(
                    conn,
                    import_id,
                    state="failed",
                    at=self._clock.now(),
                    problems=[problem.as_dict() for problem in exc.problems],
                    detail=exc.message,
                    detail_zh=exc.message_zh,
                )
            exc.facts["import_id"] = import_id
            raise
        async with self._db.write() as conn:
            await store.finish(
                conn,
                import_id,
                state="succeeded",
                at=self._clock.now(),
                counts=counts,
                problems=problems,
                changes=changes,
            )
        return counts

    async def get(self, import_id: str) -> Import:
        """Return an import.

        Raises:
            UnknownImport: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch(conn, import_id)
        if found is None:
            raise UnknownImport(f"there is no import {import_id}", message_zh=f"导入任务 {import_id} 不存在")
        return found

    async def wrong_lines(self, import_id: str, *, after: int, limit: int) -> list[WrongLine]:
        """Return the lines of an archive that were not taken, in order, from behind the line ``after``.

        Raises:
            UnknownImport: There is no such import.
        """
        await self.get(import_id)
        async with self._db.read() as conn:
            return await store.fetch_wrong_lines(conn, import_id, after=after, limit=limit)

    async def page(self, *, before: str | None, limit: int, key: str | None = None) -> list[Import]:
        """Return imports, of all keys or of one, the youngest first."""
        async with self._db.read() as conn:
            return await store.fetch_page(conn, before=before, limit=limit, key=key)

    async def take_registry(self, file: str, body: bytes, actor: str, *, dry_run: bool) -> ImportCounts:
        """Take a registry file, YAML or a workbook, all of it or nothing.

        Raises:
            InvalidFile: It is wrong.
        """
        document = await asyncio.to_thread(_registry_document, body, file)
        entities = await asyncio.to_thread(
            read_registry,
            document,
            valid_from=self._clock.now(),
            changed_by=f"import:{file}",
            known=await self._registry.known(),
            profiles=self._catalogue.names,
        )
        counts = await self._registry.take(entities, Actor(name=actor, door="import"), dry_run=dry_run, note=file)
        return counts

    async def take_readings(
        self,
        import_id: str,
        file: str,
        body: bytes,
        *,
        dry_run: bool,
        progress: Progress,
        zone: ZoneInfo | None = None,
        done: int = 0,
    ) -> ReadingsResult:
        """Take an archive of readings; wrong lines are rejected, the others go in.

        Args:
            import_id: Under which its wrong lines are listed.
            file: Its name.
            body: JSON lines, CSV or a workbook; text plain or gzip.
            dry_run: Count and list only.
            zone: Of times in tables that have no offset.
            progress: Told the number of lines that are committed.
            done: Lines that an earlier attempt has committed; they are counted as ``skipped``.

        Raises:
            InvalidFile: It cannot be unpacked, or its headings cannot be used.
        """
        entries = await asyncio.to_thread(open_archive, body, file, zone)
        result = ReadingsResult()
        chunk: list[Entry] = []
        for entry in entries:
            if entry.line <= done:
                result.counts["skipped"] += 1
                continue
            chunk.append(entry)
            if len(chunk) == LINES_AT_A_TIME:
                await self._wait_for_room(progress, chunk[0].line - 1)
                await self._take_chunk(import_id, file, chunk, result, dry_run=dry_run)
                await progress(entry.line)
                chunk = []
        await self._take_chunk(import_id, file, chunk, result, dry_run=dry_run)
        return result

    async def _wait_for_room(self, progress: Progress, done: int) -> None:
        """Wait while the outbox is crowded: changes of the registry must not queue behind an archive."""
        while True:
            async with self._db.read() as conn:
                if not await store.outbox_is_crowded(conn, OUTBOX_CROWDED):
                    return
            await progress(done)
            await self._clock.sleep(OUTBOX_LOOK_S)

    async def _take_chunk(
        self, import_id: str, file: str, chunk: Sequence[Entry], result: ReadingsResult, *, dry_run: bool
    ) -> None:
        if not chunk:
            return
        now = self._clock.now()
        devices = await self._devices({one.found.device_id for one in chunk if isinstance(one.found, Submission)})
        messages: list[Message] = []
        wrong: list[WrongLine] = []
        for entry in chunk:
            found = entry.found
            report = self._report(found, devices, now) if isinstance(found, Submission) else found
            if isinstance(report, Report):
                verdict = judge(report, None, self._limits, history=True)
                report = verdict if isinstance(verdict, Refused) else verdict.report
            if isinstance(report, Refused):
                result.refuse(entry.line, report)
                wrong.append(WrongLine(entry.line, report.reason, report.detail, report.detail_zh))
                device_id = found.device_id if isinstance(found, Submission) else None
                messages.append(rejected_message(_rejection(report, entry, file, now, device_id)))
                metrics.REJECTED.labels(report.reason).inc()
                continue
            result.counts["accepted"] += 1
            metrics.POINTS.labels(DRIVER, "late").inc(len(report.points))
            messages.append(reading_message(report, topics.BACKFILL))
        if dry_run and not wrong:
            return
        async with self._db.write() as conn:
            if wrong and result.counts["rejected"] - len(wrong) < MAX_LISTED_LINES:
                await store.list_wrong_lines(conn, import_id, wrong)
            if not dry_run:
                await outbox.put(conn, messages)
        self._published()

    async def _devices(self, ids: set[str]) -> dict[str, DeviceRecord]:
        async with self._db.read() as conn:
            records = await registry_store.fetch_records(conn, sorted(ids))
        return {found: record for found, record in records.items() if isinstance(record, DeviceRecord)}

    def _report(self, found: Submission, devices: Mapping[str, DeviceRecord], now: datetime) -> Report | Refused:
        record = devices.get(found.device_id)
        device: Device | None = None if record is None else record.at(found.source_time)
        if device is None or not in_use(device, found.source_time):
            return unknown_device(found.device_id)
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        return report_of(found, device, profile, now, DRIVER)


def _rejection(refused: Refused, entry: Entry, file: str, now: datetime, device_id: str | None) -> Rejection:
    return Rejection(
        reason=refused.reason,
        source=f"import:{file}",
        received_at=now,
        raw=entry.raw,
        detail=f"line {entry.line}: {refused.detail}",
        detail_zh=f"第 {entry.line} 行:{refused.detail_zh}",
        device_id=None if device_id is None else DeviceId(device_id),
        driver=DRIVER,
        content_type=entry.content_type,
    )


def _registry_document(body: bytes, file: str) -> YamlDocument:
    """Return a registry file as parsed, not yet judged.

    Raises:
        InvalidFile: It is neither plain YAML nor a workbook, or it is a device profile.
    """
    if body.startswith(workbook.MAGIC):
        return read_registry_book(body, file)
    try:
        text = b"".join(unpacked(body, file, limit=MAX_REGISTRY_BYTES)).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise workbook.unusable(file, "UTF-8 text", "UTF-8 文本", exc) from exc
    if _PROFILE.search(text):
        _refuse_profile(text, file)
    return parse_yaml(text, file)


_PROFILE = re.compile(r"^schema:\s*[\"']?device-profile/", re.MULTILINE)


def _refuse_profile(text: str, file: str) -> NoReturn:
    """Say what is wrong with a device profile, and that a right one goes another way: services read them at start.

    Raises:
        InvalidFile: Always.
    """
    parse_profile(text, name=file.removesuffix(".yaml"), source=file)
    problem = Problem(
        line=next(number for number, line in enumerate(text.splitlines(), start=1) if _PROFILE.match(line)),
        field="schema",
        expected="registry/1; this is a device profile without mistakes: put it into a folder of "
        "WATTRING_PROFILE_DIRS, and start again",
        expected_zh="registry/1;这是一个无误的设备模板:请放入 WATTRING_PROFILE_DIRS 所列目录,然后重新启动",
        found="device-profile/1",
    )
    raise InvalidFile(file, [problem])


async def _no_progress(_: int) -> None:
    return None
