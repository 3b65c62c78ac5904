"""The watchdog's file: an append-only journal, on disk before anything is acknowledged.

One record a line: a checksum, a space, JSON. A record is acknowledged after fsync. A last line that is torn was never
acknowledged and is cut off at the start. When the file has grown it is replaced, atomically, by one record with the
whole state. A line in the middle that cannot be read means that the disk has lost something: the rest is used and
``is_damaged`` says so.
"""

import logging
import os
import zlib
from pathlib import Path
from typing import IO, Any

import orjson

from services.control.domain.watch import Book

logger = logging.getLogger(__name__)

COMPACT_BYTES = 8 << 20
"""A journal larger than this, and than four times its state, is replaced. [B]"""


class Journal:
    """The book and the file that it is a fold of."""

    def __init__(self, path: Path, *, compact_bytes: int = COMPACT_BYTES) -> None:
        """Prepare; ``open`` reads."""
        self._path = path
        self._compact_bytes = compact_bytes
        self._file: IO[bytes] | None = None
        self._size = 0
        self._state_size = 0
        self.book = Book()
        self.is_damaged = False
        """A record that was acknowledged once cannot be read."""

    def open(self) -> None:
        """Read what is there and get ready to append.

        Raises:
            OSError: The place cannot be written to.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.with_suffix(".new").unlink(missing_ok=True)
        content = self._path.read_bytes() if self._path.exists() else b""
        good = self.read(content)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        if good < len(content):
            self._file.truncate(good)
            os.fsync(self._file.fileno())
        self._file.seek(good)
        self._size = good
        _sync_folder(self._path.parent)

    def __enter__(self) -> "Journal":
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, *records: dict[str, Any]) -> None:
        """Put records on disk, then take them into the book.

        Raises:
            OSError: They could not be written; the book is as it was, and so is the file once it is read again.
        """
        if self._file is None:
            raise OSError("the journal is not open")
        data = b"".join(_line(record) for record in records)
        try:
            self._write(data)
            os.fsync(self._file.fileno())
        except OSError:
            # What may have been written in part is overwritten by the next record.
            self._file.seek(self._size)
            self._file.truncate(self._size)
            raise
        self._size += len(data)
        for record in records:
            self.book.apply(record)
        if self._size > max(self._compact_bytes, 4 * self._state_size):
            self._compact()

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101 - checked by the caller
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def read(self, content: bytes) -> int:
        """Fold what can be read, and leave the file alone; return its length up to the last good record. [B]"""
        position = good = 0
        bad = 0
        while position < len(content):
            end = content.find(b"\n", position)
            line = content[position:] if end < 0 else content[position:end]
            record = _record(line) if end >= 0 else None
            position = len(content) if end < 0 else end + 1
            if record is None:
                bad += 1
                continue
            try:
                self.book.apply(record)
            except (KeyError, TypeError, ValueError):
                bad += 1
                continue
            if bad:
                self.is_damaged = True
                bad = 0
            good = position
        if self.is_damaged:
            logger.error("the watchdog's journal is damaged; what can be read of it is used")
        return good

    def _compact(self) -> None:
        """Replace the file by one record with the whole state."""
        assert self._file is not None  # noqa: S101 - called by append only
        data = _line(self.book.as_record())
        fresh = self._path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)
        self._file.close()
        self._file = self._path.open("r+b", buffering=0)
        self._file.seek(len(data))
        self._size = self._state_size = len(data)


def read_book(path: Path) -> Book:
    """Return what a journal says whose process is not asked; empty where there is none.

    Raises:
        OSError: It may not be read.
    """
    journal = Journal(path)
    if path.exists():
        journal.read(path.read_bytes())
    return journal.book


def _line(record: dict[str, Any]) -> bytes:
    body = orjson.dumps(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _record(line: bytes) -> dict[str, Any] | None:
    checksum, _, body = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        record: dict[str, Any] = orjson.loads(body)
    except ValueError:
        return None
    return record


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries durable, so that a file that was renamed is found after a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
