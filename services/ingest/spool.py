"""The local spool: what the bus could not take yet, on this machine's disk, durable before anyone is told so.

Append-only segments of records. A record is ``marker length crc sequence accepted_at payload``; it counts
only when its checksum holds, so a record torn by a crash vanishes and everything before it stays. Appends
that come together share one ``fdatasync``. Readers get the records in order and say how far they got; a
segment whose records have all been read is deleted. Nothing else ever deletes, and nothing rewrites.

The folder belongs to one process at a time (``flock``). All file work happens in one thread of its own.
"""

import asyncio
import errno
import fcntl
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from libs.common.errors import PlatformError, Unavailable

logger = logging.getLogger(__name__)

MARKER = b"\xa5WS1"
_HEAD = struct.Struct(">4sIIQd")
"""Marker, length of the payload, CRC-32 of what follows it and of the length, sequence, accepted_at (POSIX). """
MAX_RECORD_BYTES = 1 << 20
SEGMENT_BYTES = 8 << 20
"""A segment is closed above this; it is also what a reader holds in memory. [B]"""
MOST_SEQUENCE = 1 << 62
"""No spool has had so many records; a cursor beyond it is damaged."""
_NAME = re.compile(r"[0-9]{20}\.seg")
CURSOR_FILE = "cursor"
LOCK_FILE = "lock"

Returned = TypeVar("Returned")


class SpoolFull(Unavailable):
    """The spool has no room, or the disk has none; nothing was taken."""

    code = "spool_full"
    title_zh = "本地缓存已满"


class SpoolBusy(PlatformError):
    """Another process uses this spool."""

    code = "spool_busy"
    title_zh = "本地缓存被占用"


@dataclass(frozen=True, slots=True)
class Record:
    """What was appended, with its place in the order."""

    sequence: int
    accepted_at: float
    """POSIX time. [s]"""
    payload: bytes = field(repr=False)


@dataclass(slots=True)
class _Segment:
    """One file."""

    path: Path
    first: int
    """Sequence of its first record."""
    size: int = 0
    """Bytes that hold whole, durable records. [B]"""
    end: int = 0
    """Sequence after its last record."""


def encode_record(sequence: int, accepted_at: float, payload: bytes) -> bytes:
    """Return the bytes of one record."""
    length = len(payload)
    body = struct.pack(">Qd", sequence, accepted_at)
    crc = zlib.crc32(payload, zlib.crc32(body, zlib.crc32(struct.pack(">I", length))))
    return _HEAD.pack(MARKER, length, crc, sequence, accepted_at) + payload


def scan(data: bytes, start: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield every whole record from ``start`` on, with the offset after it.

    What is not a record is stepped over up to the next marker: one damaged place costs the records it hits.
    """
    at = data.find(MARKER, start)
    while at != -1 and at + _HEAD.size <= len(data):
        _, length, crc, sequence, accepted_at = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if length <= MAX_RECORD_BYTES and end <= len(data):
            payload = data[at + _HEAD.size : end]
            if zlib.crc32(payload, zlib.crc32(data[at + 12 : at + 28], zlib.crc32(data[at + 4 : at + 8]))) == crc:
                yield end, Record(sequence, accepted_at, payload)
                at = data.find(MARKER, end)
                continue
        at = data.find(MARKER, at + 1)


class Spool:
    """One process's spool. Enter it to open the folder; then append, read and advance."""

    def __init__(
        self, folder: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES, wall: Callable[[], float]
    ) -> None:
        """Prepare a spool.

        Args:
            folder: Where the segments are; created when missing.
            max_bytes: All segments together, at most. [B]
            segment_bytes: Size at which a segment is closed. [B]
            wall: Returns the POSIX time that records are stamped with. [s]
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._wall = wall
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pending: list[tuple[list[bytes], asyncio.Future[None]]] = []
        self._flushing = False
        # From here on touched by the thread only, apart from reads of plain numbers.
        self._segments: list[_Segment] = []
        self._file: int | None = None
        self._lock: int | None = None
        self._next = 0
        self._read = 0
        self._total = 0
        self._waiting_bytes = 0

    @property
    def records(self) -> int:
        """How many records wait to be read."""
        return self._next - self._read

    @property
    def size_bytes(self) -> int:
        """What the segments take on disk. [B]"""
        return self._total

    async def __aenter__(self) -> Self:
        """Open the folder and find what a former process left.

        Raises:
            SpoolBusy: Another process holds it.
            SpoolFull: The folder cannot be used (permissions, a full or broken disk).
        """
        await self._in_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is pending and close."""
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Return once all payloads are on disk.

        Raises:
            SpoolFull: They were not taken, none of them; a larger disk or a working bus is needed.
        """
        if not payloads:
            return
        size = sum(len(payload) + _HEAD.size for payload in payloads)
        largest = max(len(payload) for payload in payloads)
        if self._total + self._waiting_bytes + size > self._max_bytes or largest > MAX_RECORD_BYTES:
            raise SpoolFull(
                f"spool {self._folder.name}: {self._total} of {self._max_bytes} bytes used, {size} more do not fit",
                message_zh=f"本地缓存已满:已用 {self._total} / {self._max_bytes} 字节",
            )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((list(payloads), done))
        self._waiting_bytes += size
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        # Whoever is cancelled here no longer waits; the bytes are written all the same.
        await asyncio.shield(done)

    async def read(self, limit: int) -> list[Record]:
        """Return the oldest records that nobody has advanced over, at most ``limit``; may be empty."""
        return await self._in_thread(lambda: self._read_from_disk(limit))

    async def advance(self, sequence: int) -> None:
        """Forget all records before ``sequence``."""
        await self._in_thread(lambda: self._advance(sequence))

    def _flush(self) -> None:
        """Hand everything that is pending to the thread, as one write."""
        batch, self._pending = self._pending, []
        loop = asyncio.get_running_loop()
        size = sum(len(payload) + _HEAD.size for payloads, _ in batch for payload in payloads)
        written = self._thread.submit(self._write, [payload for payloads, _ in batch for payload in payloads])

        def finish(outcome: "Future[None]") -> None:
            self._waiting_bytes -= size
            exc = outcome.exception()
            for _, done in batch:
                if done.done():
                    continue
                if exc is None:
                    done.set_result(None)
                else:
                    done.set_exception(exc)
                    done.exception()  # a waiter that was cancelled does not ask for it
            if self._pending:
                self._flush()
            else:
                self._flushing = False

        written.add_done_callback(lambda outcome: loop.call_soon_threadsafe(finish, outcome))

    async def _in_thread(self, work: Callable[[], Returned]) -> Returned:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # What follows runs in the thread.

    def _open(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SpoolBusy(
                f"{self._folder} is used by another process; give each its own WATTRING_INSTANCE",
                message_zh=f"{self._folder} 正被另一进程使用,请为每个进程设置不同的 WATTRING_INSTANCE",
            ) from exc
        except OSError as exc:
            raise SpoolFull(f"{self._folder}: {exc.strerror}", message_zh=f"{self._folder}:{exc.strerror}") from exc
        self._recover()

    def _recover(self) -> None:
        self._segments = []
        for path in sorted(self._folder.glob("*.seg")):
            if not _NAME.fullmatch(path.name):
                logger.warning("file in the spool is none of it, and is left alone", extra={"file": path.name})
                continue
            data = path.read_bytes()
            segment = _Segment(path, first=int(path.stem))
            segment.end = segment.first
            for end, record in scan(data):
                segment.size, segment.end = end, record.sequence + 1
            torn = len(data) - segment.size
            if torn:
                logger.warning("spool segment ends in a torn record", extra={"segment": path.name, "bytes": torn})
                os.truncate(path, segment.size)
            if segment.size == 0:
                path.unlink()
                continue
            self._segments.append(segment)
        self._total = sum(segment.size for segment in self._segments)
        read = self._saved_cursor()
        end = self._segments[-1].end if self._segments else MOST_SEQUENCE
        if not 0 <= read <= end:
            logger.error("spool cursor is damaged, everything is read again", extra={"cursor": read, "end": end})
            read = 0
        self._next = max([segment.end for segment in self._segments] + [read])
        self._read = max(read, self._segments[0].first) if self._segments else self._next
        self._drop_read_segments()

    def _saved_cursor(self) -> int:
        try:
            return int((self._folder / CURSOR_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return 0  # everything is read again; readers are idempotent

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, payloads: Sequence[bytes]) -> None:
        now = self._wall()
        blob = b"".join(encode_record(self._next + i, now, payload) for i, payload in enumerate(payloads))
        try:
            segment = self._segment_for_append()
            assert self._file is not None  # noqa: S101  # opened just now
            try:
                _write_all(self._file, blob)
                os.fdatasync(self._file)
            except OSError:
                os.ftruncate(self._file, segment.size)
                raise
        except OSError as exc:
            full = exc.errno == errno.ENOSPC
            reason, reason_zh = ("disk full", "磁盘已满") if full else (exc.strerror, exc.strerror)
            raise SpoolFull(f"{self._folder}: {reason}", message_zh=f"{self._folder}:{reason_zh}") from exc
        segment.size += len(blob)
        self._total += len(blob)
        self._next += len(payloads)
        segment.end = self._next

    def _segment_for_append(self) -> _Segment:
        if self._file is not None and self._segments and self._segments[-1].size < self._segment_bytes:
            return self._segments[-1]
        if self._file is not None:
            os.close(self._file)
            self._file = None
        path = self._folder / f"{self._next:020d}.seg"
        # A file of that name holds no whole record: recovery would have counted them.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _sync_folder(self._folder)
        segment = _Segment(path, first=self._next, end=self._next)
        self._segments.append(segment)
        return segment

    def _read_from_disk(self, limit: int) -> list[Record]:
        found: list[Record] = []
        for segment in self._segments:
            if segment.end <= self._read:
                continue
            with segment.path.open("rb") as file:
                data = file.read(segment.size)
            for _, record in scan(data):
                if record.sequence >= self._read:
                    found.append(record)
                    if len(found) == limit:
                        return found
            if not found:
                # Nothing of it can be read any more (a damaged disk): go on behind it.
                logger.error("spool segment cannot be read", extra={"segment": segment.path.name})
                self._read = segment.end
        return found

    def _advance(self, sequence: int) -> None:
        self._read = max(self._read, min(sequence, self._next))
        temporary = self._folder / (CURSOR_FILE + ".new")
        try:
            temporary.write_text(str(self._read))
            temporary.rename(self._folder / CURSOR_FILE)
        except OSError as exc:
            # Only repetition is at stake, and on a full disk deleting is what helps.
            logger.warning("spool cursor not written", extra={"reason": exc.strerror})
        self._drop_read_segments()

    def _drop_read_segments(self) -> None:
        while self._segments and self._segments[0].end <= self._read:
            segment = self._segments.pop(0)
            if not self._segments and self._file is not None:
                os.close(self._file)
                self._file = None
            segment.path.unlink(missing_ok=True)
            self._total -= segment.size


def _write_all(file: int, blob: bytes) -> None:
    view = memoryview(blob)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
