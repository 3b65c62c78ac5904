"""Moves days of the history into Parquet files, and merges into these what came late.

A day's partition is dropped in the transaction that lets readers find its files, and only when these have been read
back and hold exactly what the partition holds. A process that dies at any step leaves the partition as it was, and at
most a file that nobody looks for or that holds what the partition holds too; readers take a report once. So the work
is simply done again.

While a day is moved its partition is read and written like any other. Whoever writes to an old day raises its version
first; the partition is dropped only at the version with which the moving began.
"""

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl

from libs.common.clock import Clock
from libs.common.db import Connection, Database, DatabaseBusy
from libs.common.errors import PlatformError
from services.ingest.domain.cold import ROW_GROUP, devices_of, file_of, folder_of, part_of
from services.ingest.domain.layout import DoesNotFit, Layout
from services.ingest.store import counts, days, frames, history
from services.ingest.store.coldfiles import ColdFiles, reading
from services.ingest.store.counts import Hours
from services.ingest.store.days import ColdFile
from services.ingest.store.frames import KEY, Block, Oddity, unpacked
from services.ingest.store.history import DeviceDay, OddRow, PackedBlock

logger = logging.getLogger(__name__)

REPORTS_AT_A_TIME = 200_000
"""Reports in memory at a time: some 200 MB with 60 points."""
PASSES = 3
"""How often a day that is written to meanwhile is tried before it is left for later."""
COMPRESSION_LEVEL = 7
"""Of zstd; below it the file is a tenth larger, above it only slower."""
PAGE_BYTES = 4 << 20
"""A column of a row group is one page: in pages of 64 KiB it takes a sixth more."""

Progress = Callable[[int], Awaitable[None]]


class NotTheSame(PlatformError):
    """What was read back from a file is not what was to be written; the day stays where it is."""

    code = "cold_history_differs"
    title_zh = "冷数据校验不一致"


@dataclass(slots=True)
class _Pass:
    """One attempt to move a day."""

    version: int
    held: Mapping[int, DeviceDay]
    """By number of the device: what the partition holds of it."""
    layouts: Mapping[int, Layout]
    points: Sequence[str]
    """Of all layouts: every file of a day has the same columns."""
    old: Mapping[int, ColdFile]
    written: dict[int, ColdFile] = field(default_factory=dict)

    def devices(self, part: int) -> dict[int, DeviceDay]:
        """Return the devices of a part that have reports in the partition."""
        return {number: self.held[number] for number in devices_of(part) if number in self.held}

    def reports(self, part: int) -> int:
        """Return how many reports of a part are in the partition."""
        return sum(held.reports for held in self.devices(part).values())


class Cooling:
    """Moves days, one at a time; runs in the job worker."""

    def __init__(self, *, db: Database, files: ColdFiles, clock: Clock) -> None:
        self._db = db
        self._files = files
        self._clock = clock

    async def cool(self, day: date, progress: Progress) -> Mapping[str, Any]:
        """Move a day, or merge into its files what has come since; return what was done.

        Raises:
            ColdUnavailable: The files cannot be written or read; the day stays where it is.
            NotTheSame: They do not hold what they should; the day stays where it is.
        """
        async with self._db.listen() as session:
            if not await days.try_claim(session, day):
                return {"day": day.isoformat(), "outcome": "another process moves it"}
            try:
                return await self._cool(session, day, progress)
            finally:
                if not session.is_closed():
                    await days.release(session, day)

    async def _cool(self, session: Connection, day: date, progress: Progress) -> Mapping[str, Any]:
        await asyncio.to_thread(self._files.sweep, folder_of(day))
        before: _Pass | None = None
        for _ in range(PASSES):
            found = await self._look(day)
            if found is None:
                return {"day": day.isoformat(), "outcome": "nothing to move"}
            done = 0
            for part in sorted({part_of(number) for number in found.held}):
                if before is not None and part in before.written and before.devices(part) == found.devices(part):
                    found.written[part] = before.written[part]
                else:
                    # Should another process have taken over, we must not write over what it wrote.
                    await session.execute("select 1")
                    found.written[part] = await self._write_part(day, part, found, progress, done)
                done += found.reports(part)
                await progress(done)
            if await self._finish(day, found):
                return {
                    "day": day.isoformat(),
                    "outcome": "moved",
                    "reports": sum(held.reports for held in found.held.values()),
                    "files": len(found.written),
                    "bytes": sum(file.bytes for file in found.written.values()),
                }
            before = found
        return {"day": day.isoformat(), "outcome": "is being written to, left for later"}

    async def _look(self, day: date) -> _Pass | None:
        async with self._db.write() as conn:
            version = await days.fetch_version(conn, day, self._clock.now())
        # Read after the version: what comes from now on raises it.
        async with self._db.read() as conn:
            if not await history.has_partition(conn, day):
                return None
            layouts = await history.fetch_layouts(conn)
            return _Pass(
                version=version,
                held=await history.count_per_device(conn, day),
                layouts=layouts,
                points=sorted({name for layout in layouts.values() for name in layout.points}),
                old=await days.fetch_files_of_day(conn, day),
            )

    async def _finish(self, day: date, found: _Pass) -> bool:
        """Let the files stand for the partition; return False when it has been written to."""
        try:
            async with self._db.write() as conn:
                if await days.lock_version(conn, day) != found.version:
                    return False
                await days.put_files(conn, list(found.written.values()), self._clock.now())
                await history.drop_partition(conn, day)
        except asyncpg.LockNotAvailableError as exc:
            raise DatabaseBusy(
                f"day {day} is in use and stays for now", message_zh=f"{day} 的数据正被使用,稍后再移"
            ) from exc
        logger.info("day moved to files", extra={"day": str(day), "files": len(found.written)})
        return True

    async def _write_part(self, day: date, part: int, found: _Pass, progress: Progress, done: int) -> ColdFile:
        """Write the file of a part anew, read it back, and return what it is."""
        name, old = file_of(day, part), found.old.get(part)
        devices = found.devices(part)
        sizes = {held.device_id: held.reports for held in devices.values()}
        if old is not None:
            for device_id, count in (await asyncio.to_thread(self._old_sizes, old)).items():
                sizes[device_id] = sizes.get(device_id, 0) + count
        numbers = {held.device_id: number for number, held in devices.items()}
        with tempfile.TemporaryDirectory(prefix="wattring-cold-") as folder:
            pieces: list[_Piece] = []
            for ids in _chunks(sizes):
                here = {numbers[device_id]: device_id for device_id in ids if device_id in numbers}
                async with self._db.read() as conn:
                    blocks, odd = await history.fetch_day(conn, day, list(here))
                    layouts = {**found.layouts, **await _missing_layouts(conn, blocks, found.layouts)}
                piece = _Piece(Path(folder) / f"{len(pieces):06d}.arrow", ids[0], ids[-1])
                await asyncio.to_thread(self._write_piece, piece, blocks, odd, here, layouts, found.points, old)
                pieces.append(piece)
                done += sum(devices[number].reports for number in here)
                await progress(done)
            written = await asyncio.to_thread(self._files.put, name, lambda path: _write_parquet(pieces, path))
            hours = await asyncio.to_thread(self._check, name, pieces)
        async with self._db.write() as conn:
            # What came twice while it was counted has been taken once. What comes from now on is counted besides, and
            # lets the day be looked at again.
            known = await history.fetch_device_numbers(conn, sorted(hours))
            await counts.set_counts(conn, day, {known[name]: one for name, one in hours.items()})
        return ColdFile(day, part, name, sum(piece.reports for piece in pieces), written.bytes, written.sha256)

    def _old_sizes(self, old: ColdFile) -> dict[str, int]:
        with reading(old.name):
            counted = self._files.scan(old.name).group_by("device_id").len().collect()
        return dict(zip(counted["device_id"].to_list(), counted["len"].to_list(), strict=True))

    def _write_piece(
        self,
        piece: "_Piece",
        blocks: Sequence[PackedBlock],
        odd: Sequence[OddRow],
        ids: Mapping[int, str],
        layouts: Mapping[int, Layout],
        points: Sequence[str],
        old: ColdFile | None,
    ) -> None:
        """Put some devices' reports, those of the file and those of the partition, into a piece of the new file."""
        read = [unpacked(block, ids[block.device_no]) for block in blocks]
        odd_of = [Oddity(ids[row.device_no], row.source_time, row.layout_no, row.quality, row.extra) for row in odd]
        known = {name for block in read for name in layouts[block.layout_no].points}
        frame = frames.frame_of(read, odd_of, layouts, [*points, *known])
        _must_be_packed_alike(frame, read, layouts)
        if old is not None:
            with reading(old.name):
                before = self._files.scan(old.name).filter(_between(piece)).collect()
            frame = frames.merged(before, frame)
        frame.write_ipc(piece.path)

    def _check(self, name: str, pieces: Sequence["_Piece"]) -> dict[str, Hours]:
        """Read a file back, compare it with its pieces and return the reports of each device in each hour.

        Raises:
            NotTheSame: It differs.
        """
        hours: dict[str, Hours] = {}
        with reading(name):
            scanned = self._files.scan(name)
            total = scanned.select(pl.len()).collect().item()
            for piece in pieces:
                found = scanned.filter(_between(piece)).collect()
                expected = frames.with_points(pl.read_ipc(piece.path), frames.points_of(found.columns)).select(
                    found.columns
                )
                if not found.equals(expected, null_equal=True):
                    raise _differs(name, f"reports of {piece.first} to {piece.last}")
                if expected.select(pl.struct(*KEY).n_unique()).item() != len(expected):
                    raise _differs(name, f"a report of {piece.first} to {piece.last} stands twice")
                piece.reports = len(expected)
                hours.update(frames.hours_of(expected))
        if total != sum(piece.reports for piece in pieces):
            raise _differs(name, f"{total} reports instead of {sum(piece.reports for piece in pieces)}")
        return hours


@dataclass(slots=True)
class _Piece:
    """Part of a file: neighbouring devices, as many as fit into memory together."""

    path: Path
    first: str
    last: str
    reports: int = 0


def _chunks(sizes: Mapping[str, int]) -> list[list[str]]:
    """Return the devices in order, in groups of so many reports as fit into memory."""
    groups: list[list[str]] = []
    room = 0
    for device_id in sorted(sizes):
        if not groups or sizes[device_id] > room:
            groups.append([])
            room = REPORTS_AT_A_TIME
        groups[-1].append(device_id)
        room -= sizes[device_id]
    return groups


def _between(piece: _Piece) -> pl.Expr:
    return pl.col("device_id").is_between(pl.lit(piece.first), pl.lit(piece.last))


def _write_parquet(pieces: Sequence[_Piece], path: Path) -> None:
    # A layout that was made since the first piece may have brought a point.
    pl.concat([pl.scan_ipc(piece.path) for piece in pieces], how="diagonal").sink_parquet(
        path,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        row_group_size=ROW_GROUP,
        data_page_size=PAGE_BYTES,
        statistics=True,
        maintain_order=True,
    )


async def _missing_layouts(
    conn: Any, blocks: Sequence[PackedBlock], known: Mapping[int, Layout]
) -> Mapping[int, Layout]:
    """Return layouts that were made since the pass began."""
    missing = sorted({block.layout_no for block in blocks} - known.keys())
    return await history.fetch_layouts(conn, missing) if missing else {}


def _must_be_packed_alike(frame: pl.DataFrame, blocks: Sequence[Block], layouts: Mapping[int, Layout]) -> None:
    """Compare rows with the reports that they were made of, byte by byte.

    Raises:
        NotTheSame: They differ.
    """
    try:
        again = frames.bodies_of(frame, layouts)
    except DoesNotFit as exc:
        raise _differs("rows", str(exc)) from exc
    if again != {(block.device_id, block.layout_no): block.bodies for block in blocks}:
        raise _differs("rows", "packed again they are not what is in the partition")


def _differs(name: str, detail: str) -> NotTheSame:
    return NotTheSame(f"{name}: {detail}", message_zh=f"{name}:写入后读回的数据不一致")
