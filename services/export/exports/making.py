"""Makes the files of one run, as a job: rows of their owners into a file, its digest, and the manifest last.

A file is made below a name of its own run and is noted only when it is whole, so a job that dies leaves nothing that
anybody would bring; making it again makes it anew.
"""

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

from libs.common.errors import InvalidInput, PlatformError
from libs.common.jobs import JobContext, JobEnded
from services.export.domain.exports import (
    Column,
    Dataset,
    ExportPlan,
    MadeFile,
    Period,
    Run,
    RunState,
    file_name,
    manifest,
    manifest_name,
    wait_s,
)
from services.export.exports import rows
from services.export.exports.sources import Source

if TYPE_CHECKING:
    from services.export.exports.writers import FileWriter

logger = logging.getLogger(__name__)

EXPORT_JOB = "export"
READ_BYTES = 1 << 20


class FileTooLarge(PlatformError):
    """The file would be larger than an operator allows."""

    code = "export_too_large"
    title_zh = "导出文件过大"


def run_folder(root: Path, export_id: str, run_id: int) -> Path:
    """Return where the files of a run lie until they are where they are to go."""
    return root / export_id / str(run_id)


class ExportMaker:
    """Makes runs."""

    def __init__(self, *, source: Source, root: Path, max_file_bytes: int, random: Callable[[], float] | None = None):
        """Keep what is needed.

        Args:
            source: Of the rows.
            root: Below it each run has a folder.
            max_file_bytes: A larger file is not made. [B]
            random: 0 to 1, spreads retries.
        """
        self._source = source
        self._root = root
        self._max_file_bytes = max_file_bytes
        self._random = random or Random().random  # noqa: S311 - spreads retries

    async def make(self, context: JobContext) -> Mapping[str, Any]:
        """Make the run that a job is of; what cannot be made is noted and tried again later."""
        run_id = int(context.job.payload["run_id"])
        async with context.db.read() as conn:
            run = await rows.fetch_run(conn, run_id)
            stored = None if run is None else await rows.fetch_export(conn, run.export_id)
        if run is None or stored is None or run.state is not RunState.DUE or run.job_id != context.job.id:
            return {"outcome": "nothing to do"}
        try:
            files = await self._write(context, stored.plan, run)
        except JobEnded:
            raise
        except (PlatformError, OSError) as exc:
            message = exc.message if isinstance(exc, PlatformError) else f"{type(exc).__name__}: {exc.strerror}"
            return await self._not_made(context, stored.plan, run, message)
        result = {"outcome": "made", "files": [file.as_json() for file in files]}
        async with context.db.write() as conn:
            known = await rows.save_made(
                conn, run.id, context.job.id, version=stored.plan.version, files=files, now=context.clock.now()
            )
            await context.finish(conn, result)
        return result if known else {"outcome": "nothing to do"}

    async def _write(self, context: JobContext, plan: ExportPlan, run: Run) -> list[MadeFile]:
        folder = run_folder(self._root, run.export_id, run.id)
        await asyncio.to_thread(_empty, folder)
        path = folder / file_name(plan, run.due_at)
        columns = list(self._source.columns(plan))
        period = Period(run.start, run.end)
        left_out: list[str] = []
        if plan.dataset is Dataset.REPORTS:
            made = await self._reports(context, plan, period, folder, left_out)
        else:
            made = [await self._table(context, plan, period, path, columns)]
        said = manifest(plan, run, made, columns, context.clock.now(), left_out)
        note = folder / manifest_name(path.name)
        await asyncio.to_thread(note.write_bytes, orjson.dumps(said, option=orjson.OPT_INDENT_2))
        return [*made, await asyncio.to_thread(_measured, note, 0)]

    async def _reports(
        self, context: JobContext, plan: ExportPlan, period: Period, folder: Path, left_out: list[str]
    ) -> list[MadeFile]:
        """Return the reports of a period as they were filed; what was not filed in that form goes to ``left_out``."""
        made: list[MadeFile] = []
        async for one in self._source.reports(plan, period):
            if one.body is None:
                left_out.append(one.name)
                continue
            path = folder / one.name
            if path.parent != folder:  # no name of carbon's looks so
                raise InvalidInput(f"{one.name[:200]}: expected a plain file name", message_zh="报表文件名无效")
            await asyncio.to_thread(path.write_bytes, one.body)
            made.append(await asyncio.to_thread(_measured, path, 0))
            if sum(each.size_bytes for each in made) > self._max_file_bytes:
                raise _too_large(one.name, self._max_file_bytes)
            await context.progress(len(made), note=one.name)
        return made

    async def _table(
        self, context: JobContext, plan: ExportPlan, period: Period, path: Path, columns: list[Column]
    ) -> MadeFile:
        folder = path.parent
        writer = await asyncio.to_thread(_open_writer, plan, path, columns)
        try:
            async for page in self._source.pages(plan, period):
                await asyncio.to_thread(writer.add, page)
                if await asyncio.to_thread(_size_of, folder) > self._max_file_bytes:
                    raise _too_large(path.name, self._max_file_bytes)
                await context.progress(writer.rows, note=path.name)
        except BaseException as exc:
            await asyncio.to_thread(writer.__exit__, type(exc), exc, exc.__traceback__)
            raise
        await asyncio.to_thread(writer.__exit__, None, None, None)
        made = await asyncio.to_thread(_measured, path, writer.rows)
        if made.size_bytes > self._max_file_bytes:
            raise _too_large(path.name, self._max_file_bytes)
        return made

    async def _not_made(self, context: JobContext, plan: ExportPlan, run: Run, reason: str) -> Mapping[str, Any]:
        attempts = run.attempts + 1
        wait = timedelta(seconds=wait_s(plan.destination, attempts, self._random()))
        logger.warning("an export cannot be made", extra={"export": run.export_id, "run": run.id, "reason": reason})
        async with context.db.write() as conn:
            await rows.save_not_made(
                conn, run.id, context.job.id, attempts=attempts, next_attempt_at=context.clock.now() + wait,
                error=reason[:500],
            )  # fmt: skip
        return {"outcome": "not made", "reason": reason[:500]}


def _open_writer(plan: ExportPlan, path: Path, columns: Sequence[Column]) -> "FileWriter":
    """Begin the file; its libraries, a quarter of what the service would load, are loaded with the first one."""
    from services.export.exports.writers import WRITERS

    return WRITERS[plan.form](path, columns, plan.zone_info).__enter__()


def _too_large(name: str, bound: int) -> FileTooLarge:
    return FileTooLarge(
        f"{name} is larger than {bound} bytes; ask for fewer sites or a shorter period "
        "(WATTRING_EXPORT__EXPORTS__MAX_FILE_BYTES)",
        message_zh=f"{name} 超过 {bound} 字节;请减少局站或缩短周期(WATTRING_EXPORT__EXPORTS__MAX_FILE_BYTES)",
    )


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o750)


def _size_of(folder: Path) -> int:
    """Return what lies in a folder, parts of files too. [B]"""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def _measured(path: Path, count: int) -> MadeFile:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return MadeFile(path.name, count, size, digest.hexdigest())
