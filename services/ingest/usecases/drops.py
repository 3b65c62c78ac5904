"""Files that are dropped into a folder for us, as behind a one-way isolation device (隔离装置), where nothing is asked.

A file is taken once it has stood still for a while: its lines become reports, wrong ones are on record, and it goes to
``done/`` or ``bad/`` with a report beside it. How far it was taken is noted with its reports, by its content; so a
file goes on where a killed process stopped, and one that is dropped again is moved and not taken twice.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.contracts.telemetry import RejectReason
from libs.common.db import Database, WriteConn
from libs.common.errors import InvalidFile, InvalidInput, Problem
from libs.common.lease import Lease
from libs.common.workbook import unusable
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.loose import printable
from services.ingest.domain.submission import unknown_device
from services.ingest.drivers.line_settings import one_of, seconds
from services.ingest.files.archive import Entry, open_archive
from services.ingest.store import pulls as store
from services.ingest.store.pulls import DroppedFile, NoLongerOurs
from services.ingest.usecases.imports import zone_of
from services.ingest.usecases.taking import Piece, Refusal, Taking

logger = logging.getLogger(__name__)

DRIVER = "file"
LINES_AT_A_TIME = 250
SETTLE_S = 5.0
"""A file that has not changed for this long has been written to its end. [s]"""
MAX_FILE_BYTES = 64 << 20
"""A larger file is refused: it is read into memory; larger archives are imported. [B]"""
MAX_FILES = 10_000
"""Files for us in one folder that are looked at together; the others have their turn when these are gone."""
MAX_ENTRIES = 200_000
"""Names of any kind that are looked at in one folder."""
CHECKSUMS = ("sha256", "sha1", "md5")
"""A file ``<name>.sha256`` … beside a file holds its checksum, as the tools of these names write it."""
CHECKSUM_WITHIN_S = 600.0
"""Where a checksum is required it has to come within this, from when the file has stood still. [s]"""
MAX_CHECKSUM_BYTES = 4096
KINDS = (".csv", ".json", ".jsonl", ".ndjson", ".xlsx")
"""Ends of names that are taken, also with ``.gz`` behind; what is called otherwise may still be on its way."""
DONE, BAD = "done", "bad"
KEPT_BYTES = 4096
"""Of a file that cannot be read, for the record. [B]"""

HeldLease = Callable[[], Lease]


class FolderUnusable(InvalidInput):
    """The folder is not one that an operator gave us, or cannot be used."""

    code = "folder_unusable"
    title_zh = "目录不可用"


@dataclass(frozen=True, slots=True)
class Look:
    """A file as it was when it was looked at."""

    name: str
    size: int
    modified_ns: int
    inode: int
    checksum: "Look | None" = None
    """The file beside it that holds its checksum."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is being taken."""

    line: Line
    epoch: int
    name: str
    sha256: bytes
    zone: ZoneInfo | None
    is_archive: bool


class Drops:
    """Takes files out of one line's folder."""

    def __init__(self, *, db: Database, clock: Clock, taking: Taking, allowed: Sequence[Path]) -> None:
        """Prepare.

        Args:
            db: Where progress is noted.
            clock: Ours.
            taking: The way to the bus.
            allowed: Folders that an operator gave us; others are not looked into.
        """
        self._db = db
        self._clock = clock
        self._taking = taking
        self._allowed = [path.resolve() for path in allowed]
        self._looks: dict[tuple[str, str], tuple[Look, float]] = {}
        self._begun: dict[str, int] = {}
        """Line to the lease's epoch under which it was first looked at."""

    def folder_of(self, line: Line) -> Path:
        """Return the folder of a line.

        Raises:
            FolderUnusable: It is not within one that an operator gave us, or is none.
        """
        folder = Path(line.endpoint)
        real = folder.resolve()
        if not folder.is_absolute() or not any(real == one or one in real.parents for one in self._allowed):
            raise FolderUnusable(
                f"line {line.id}: {line.endpoint} is not within a folder of WATTRING_INGEST__PULLS__DROP_DIRS",
                message_zh=f"线路 {line.id}:{line.endpoint} 不在 WATTRING_INGEST__PULLS__DROP_DIRS 所列目录内",
            )
        if not real.is_dir():
            raise FolderUnusable(
                f"line {line.id}: {line.endpoint} is no folder", message_zh=f"线路 {line.id}:{line.endpoint} 不是目录"
            )
        return real

    async def look(self, line: Line, lease: HeldLease) -> int:
        """Take the files that stand still; return how many were finished.

        Raises:
            FolderUnusable, OSError: The folder cannot be used.
            NoLongerOurs: Another process has it.
            DatabaseUnavailable: Nothing can be noted.
        """
        folder = await asyncio.to_thread(self.folder_of, line)
        settle_s = seconds(line, "settle_s", SETTLE_S, most=3600)
        required = one_of(line, "checksum", (line.settings or {}).get("checksum", "optional"), ("optional", "required"))
        looks = await asyncio.to_thread(_scan, folder)
        if self._begun.get(line.id) != lease().epoch:
            async with self._db.write() as conn:
                await store.note_gone(conn, line.id, [_shown_name(look.name) for look in looks], self._clock.now())
            self._begun[line.id] = lease().epoch
        finished = 0
        wrong: OSError | InvalidInput | None = None
        for look in self._standing_still(line.id, looks, settle_s, checksums=required == "required"):
            if not lease().valid:
                raise _lost(line.id)
            try:
                await self._take_file(line, folder, look, lease)
                finished += 1
            except (OSError, InvalidInput) as exc:
                wrong = wrong or exc  # told below; one file must not stand in the way of the others
        if wrong is not None:
            raise wrong
        return finished

    def _standing_still(self, line_id: str, looks: Sequence[Look], settle_s: float, *, checksums: bool) -> list[Look]:
        """Return the files that have not changed for a while, the oldest first.

        Args:
            line_id: Whose they are.
            looks: As they are now.
            settle_s: How long a while is. [s]
            checksums: A file without one is waited for longer.
        """
        now = self._clock.monotonic()
        still: list[Look] = []
        for look in looks:
            before, since = self._looks.get((line_id, look.name), (None, now))
            if before != look:
                self._looks[line_id, look.name] = (look, now)
            elif now - since >= settle_s + (CHECKSUM_WITHIN_S if checksums and look.checksum is None else 0.0):
                still.append(look)
        there = {look.name for look in looks}
        for key in [key for key in self._looks if key[0] == line_id and key[1] not in there]:
            del self._looks[key]
        return sorted(still, key=lambda look: (look.modified_ns, look.name))

    async def _take_file(self, line: Line, folder: Path, look: Look, lease: HeldLease) -> None:
        epoch, name = lease().epoch, look.name
        body = await asyncio.to_thread(_read, folder / name)
        settings = line.settings or {}
        zone = settings.get("timezone")
        file = _File(
            line=line,
            epoch=epoch,
            name=_shown_name(name),
            sha256=await asyncio.to_thread(_digest, body),
            zone=zone_of(None if zone is None else str(zone)),
            is_archive=settings.get("live", True) is False,
        )
        async with self._db.write() as conn:
            await store.claim(conn, line.id, epoch)
            known = await store.begin_file(
                conn, line.id, sha256=file.sha256, name=file.name, size=len(body), epoch=epoch, at=self._clock.now()
            )
        if known.finished_at is None:
            try:
                if len(body) > MAX_FILE_BYTES:
                    raise _too_large(file.name)
                await asyncio.to_thread(_check, folder, look, body, required=settings.get("checksum") == "required")
                entries = await asyncio.to_thread(open_archive, body, file.name, file.zone)
                await self._take_lines(file, entries, known, lease)
            except InvalidFile as exc:
                await self._refuse(file, body, exc)
        await self._move(file, folder, look, lease)

    async def _take_lines(self, file: _File, entries: Iterator[Entry], known: DroppedFile, lease: HeldLease) -> None:
        counts = Counter(known.counts)
        done = known.lines_done
        while True:
            chunk = await asyncio.to_thread(lambda: list(islice(entries, LINES_AT_A_TIME)))
            some = [entry for entry in chunk if entry.line > done]
            if some:
                await self._taking.wait_for_room()
                if not lease().valid or lease().epoch != file.epoch:
                    raise _lost(file.line.id)
                await self._take_some(file, some, counts)
            if len(chunk) < LINES_AT_A_TIME:
                break
        outcome = "taken" if counts["taken"] or not counts["refused"] else "refused"
        async with self._db.write() as conn:
            await store.hold(conn, file.line.id, file.epoch)
            await store.finish_file(conn, file.line.id, file.sha256, outcome=outcome, at=self._clock.now(), problems=[])
            await store.complete(conn, file.line.id, cycle=0, mark=None, at=self._clock.now())

    async def _take_some(self, file: _File, some: Sequence[Entry], counts: Counter[str]) -> None:
        line_id = file.line.id
        updated = Counter(counts)

        async def note(conn: WriteConn, refusals: Sequence[Refusal]) -> None:
            await store.hold(conn, line_id, file.epoch)
            updated["refused"] += len(refusals)
            updated["taken"] += len(some) - len(refusals)
            problems = [_problem(one) for one in refusals]
            await store.note_lines(
                conn, line_id, file.sha256, done=some[-1].line, counts=dict(updated), problems=problems
            )
            await store.count(conn, line_id, taken=len(some) - len(refusals), refused=len(refusals))

        pieces = [self._piece(file, entry) for entry in some]
        await self._taking.take(pieces, source=line_id, driver=DRIVER, note=note, history=file.is_archive)
        counts.clear()
        counts.update(updated)

    def _piece(self, file: _File, entry: Entry) -> Piece:
        place, now = f"{file.name}, line {entry.line}", self._clock.now()
        said = entry.found
        if isinstance(said, Refused):
            return Piece(place, entry.raw, said, content_type=entry.content_type)
        device = self._taking.device(said.device_id, now) or self._taking.device_on(file.line.id, said.device_id, now)
        if device is None:
            return Piece(place, entry.raw, unknown_device(said.device_id), said.device_id, entry.content_type)
        report = self._taking.report(said, device, now, DRIVER)
        return Piece(place, entry.raw, report, device.id, entry.content_type)

    async def _refuse(self, file: _File, body: bytes, exc: InvalidFile) -> None:
        """Put a file on record that cannot be read at all."""
        problems = [
            {name: printable(value) if isinstance(value, str) else value for name, value in problem.as_dict().items()}
            for problem in exc.problems
        ]
        message = printable(exc.message)
        refused = Refused(RejectReason.UNDECODABLE, message, printable(exc.message_zh or message))

        async def note(conn: WriteConn, _: Sequence[Refusal]) -> None:
            await store.hold(conn, file.line.id, file.epoch)
            await store.finish_file(
                conn, file.line.id, file.sha256, outcome="refused", at=self._clock.now(), problems=problems
            )

        piece = Piece(file.name, body[:KEPT_BYTES], refused, content_type="application/octet-stream")
        await self._taking.take([piece], source=file.line.id, driver=DRIVER, note=note)

    async def _move(self, file: _File, folder: Path, look: Look, lease: HeldLease) -> None:
        """Put a finished file where it belongs, its report first; one that has grown meanwhile stays, as a new one."""
        async with self._db.read() as conn:
            found = await store.fetch_file(conn, file.line.id, file.sha256)
        if found is None or found.outcome is None or not lease().valid:
            return
        target = folder / (DONE if found.outcome == "taken" else BAD)
        report = orjson.dumps(
            {
                "file": file.name,
                "sha256": file.sha256.hex(),
                "outcome": found.outcome,
                "found_at": found.found_at,
                "finished_at": found.finished_at,
                "lines": dict(found.counts),
                "problems": list(found.problems),
            },
            option=orjson.OPT_INDENT_2,
        )
        if await asyncio.to_thread(_look, folder, look.name) == look:
            await asyncio.to_thread(_move, folder, look, target, file.sha256, report)
            logger.info("dropped file finished", extra={"line_id": file.line.id, "outcome": found.outcome})
        async with self._db.write() as conn:
            await store.note_moved(conn, file.line.id, file.sha256, self._clock.now())


def _shown_name(name: str) -> str:
    """Return a file's name as text that a database keeps: other systems write names in GB 18030 too."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("gb18030", errors="replace")
    return printable(name)


def _problem(refusal: Refusal) -> dict[str, Any]:
    return {
        "line": int(refusal.place.rpartition(" ")[2]),
        "reason": str(refusal.refused.reason),
        "detail": refusal.refused.detail,
        "detail_zh": refusal.refused.detail_zh,
    }


def _scan(folder: Path) -> list[Look]:
    """Return the files of a folder that could be for us; links and folders are not."""
    found: list[Look] = []
    with os.scandir(folder) as entries:
        for entry in islice(entries, MAX_ENTRIES):
            name = entry.name.lower().removesuffix(".gz")
            if entry.name.startswith((".", "~")) or not name.endswith(KINDS):
                continue
            if entry.is_file(follow_symlinks=False):
                found.append(_look(folder, entry.name))
            if len(found) >= MAX_FILES:
                break
    return found


def _look(folder: Path, name: str) -> Look:
    for algorithm in CHECKSUMS:
        with contextlib.suppress(FileNotFoundError):
            return _look_at(folder / name, _look_at(folder / f"{name}.{algorithm}"))
    return _look_at(folder / name)


def _look_at(path: Path, checksum: Look | None = None) -> Look:
    status = path.lstat()
    return Look(path.name, status.st_size, status.st_mtime_ns, status.st_ino, checksum)


def _check(folder: Path, look: Look, body: bytes, *, required: bool) -> None:
    """Compare a file with the checksum beside it.

    Raises:
        InvalidFile: It is another, or there is none where one has to be.
    """
    name = _shown_name(look.name)
    if look.checksum is None:
        if required:
            names = f"{name}.{CHECKSUMS[0]}"
            raise _wrong_checksum(name, f"{names} beside the file", f"同目录下的 {names}", None)
        return
    algorithm = look.checksum.name.rpartition(".")[2]
    words = _read(folder / look.checksum.name, MAX_CHECKSUM_BYTES).decode("ascii", errors="replace").split()
    wanted = words[0].lower().removeprefix("\\") if words else ""
    found = hashlib.new(algorithm, body, usedforsecurity=False).hexdigest()
    if wanted != found:
        both = (
            f"{algorithm} {wanted[:128] or '…'} as {name}.{algorithm} has it",
            f"{algorithm} 应与 {name}.{algorithm} 一致",
        )
        raise _wrong_checksum(name, *both, found)


def _wrong_checksum(name: str, expected: str, expected_zh: str, found: str | None) -> InvalidFile:
    problem = Problem(line=None, field="checksum", expected=expected, expected_zh=expected_zh, found=found)
    return InvalidFile(name, [problem])


def _read(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Read a file, but no further than what is too large."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most + 1)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _move(folder: Path, look: Look, target: Path, sha256: bytes, report: bytes) -> None:
    """Write the report, then move the file and its checksum; doing it again changes nothing."""
    target.mkdir(mode=0o750, exist_ok=True)
    name = look.name
    if (target / name).exists():
        name = f"{sha256.hex()[:8]}-{name}"
    written = target / f".{name}.report.json.new"
    with written.open("wb") as file:
        file.write(report)
        file.flush()
        os.fsync(file.fileno())
    written.replace(target / f"{name}.report.json")
    if look.checksum is not None:
        (folder / look.checksum.name).replace(target / (name + Path(look.checksum.name).suffix))
    (folder / look.name).replace(target / name)
    for changed in (target, folder):
        descriptor = os.open(changed, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _too_large(name: str) -> InvalidFile:
    return unusable(name, f"at most {MAX_FILE_BYTES} bytes", f"不超过 {MAX_FILE_BYTES} 字节")


def _lost(line_id: str) -> NoLongerOurs:
    return NoLongerOurs(f"{line_id}: the lease has run out", message_zh=f"{line_id}:租约已失")
