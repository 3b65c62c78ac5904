"""The off book: one small file per load that this process has opened, on its own disk before the load is opened.

A file is written beside, flushed, renamed and the folder flushed; so after any crash it is there whole or not at
all. It holds everything that closing the load takes, the line's address and the device's profile among it: neither
database nor bus is needed for it.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from libs.common.errors import Unavailable
from services.ingest.domain.switching import Moment, OffLease, deadline_after_reboot, switch_key

logger = logging.getLogger(__name__)


class OffBookBroken(Unavailable):
    """The off book cannot be written; nothing may be switched off."""

    code = "off_book_broken"
    title_zh = "断电登记无法写入"


class OffBook:
    """The leases of this process, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._leases: dict[str, OffLease] = {}
        self._gone: set[str] = set()
        """Keys of forgotten leases whose files are to be removed."""
        self._busy: set[str] = set()
        """Keys whose files another thread is at: one at a time each."""
        self._freed = asyncio.Condition()
        self._removal: asyncio.Task[None] | None = None
        self._next_removal: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._leases)

    def load(self, now: Moment) -> None:
        """Read what a former process left; a file that cannot be read is put aside and said loudly."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._folder.glob("*.json")):
            try:
                lease = _read(path.read_bytes())
            except (OSError, ValueError, TypeError, KeyError) as exc:
                logger.error("off book: file cannot be read", extra={"file": path.name, "reason": str(exc)})
                path.replace(path.with_suffix(".bad"))
                continue
            if lease.boot != now.boot:
                changed = {**asdict(lease), "boot": now.boot, "deadline": deadline_after_reboot(lease, now)}
                lease = OffLease(**changed)
                _write(path, lease)
            self._leases[lease.key] = lease

    def get(self, device_id: str, channel: int | None) -> OffLease | None:
        """Return the lease of a switch."""
        return self._leases.get(switch_key(device_id, channel))

    def all(self) -> list[OffLease]:
        """Return all leases."""
        return list(self._leases.values())

    def holds_line(self, line_id: str) -> bool:
        """Return whether a load on the line is in the book."""
        return any(lease.line_id == line_id for lease in self._leases.values())

    async def put(self, lease: OffLease) -> None:
        """Return once the lease is on disk, in place of what the book had about this switch.

        Raises:
            OffBookBroken: It is not on disk.
        """
        key = lease.key
        async with self._freed:
            await self._freed.wait_for(lambda: key not in self._busy)
            self._busy.add(key)
        try:
            await asyncio.to_thread(_write, self._path(key), lease)
        except OSError as exc:
            raise OffBookBroken(f"{key}: {exc.strerror}", message_zh=f"断电登记写入失败:{exc.strerror}") from exc
        else:
            self._leases[key] = lease
            self._gone.discard(key)
        finally:
            await self._free({key})

    def remove(self, lease: OffLease) -> None:
        """Forget a lease: its load is closed, or was never opened. A younger one of the same switch stays.

        Nobody waits for its file to go. One that a crash leaves behind is found again, where the breaker reads closed.
        """
        known = self._leases.get(lease.key)
        if known is None or known.command_id != lease.command_id:
            return
        del self._leases[lease.key]
        self._gone.add(lease.key)
        if self._next_removal is None:
            self._next_removal = asyncio.create_task(self._remove_gone(), name="off book: remove")

    async def settled(self) -> None:
        """Return when the files of all that was forgotten until now are gone."""
        removals = [one for one in (self._removal, self._next_removal) if one is not None]
        if removals:
            await asyncio.wait(removals)

    async def _remove_gone(self) -> None:
        """Remove the files of all that was forgotten: ten thousand go to another thread a few times only."""
        if self._removal is not None:
            await asyncio.wait([self._removal])
        self._removal, self._next_removal = self._next_removal, None  # what comes from now on goes with the next
        keys = self._gone - self._busy  # what is busy is being written, about a younger lease
        self._gone -= keys
        self._busy |= keys
        try:
            await asyncio.to_thread(_remove, self._folder, keys)
        finally:
            await self._free(keys)

    async def _free(self, keys: Set[str]) -> None:
        self._busy -= keys
        async with self._freed:
            self._freed.notify_all()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def leases_in(folder: Path) -> list[OffLease]:
    """Return what stands in an off book whose process is not asked; what cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(_read(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as exc:
            logger.warning("off book: file cannot be read", extra={"file": path.name, "reason": str(exc)})
    return found


def _write(path: Path, lease: OffLease) -> None:
    blob = orjson.dumps(asdict(lease), option=orjson.OPT_UTC_Z)
    beside = path.with_suffix(".new")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(blob)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(folder: Path, keys: Iterable[str]) -> None:
    place = os.fspath(folder)
    for key in keys:
        try:
            os.unlink(f"{place}/{key}.json")  # to make ten thousand Paths takes longer than to remove them
        except FileNotFoundError:
            continue
        except OSError as exc:
            # Found again after a restart, where the breaker reads closed and it goes then.
            logger.warning("off book: file not removed", extra={"file": f"{key}.json", "reason": exc.strerror})


def _read(blob: bytes) -> OffLease:
    raw: Mapping[str, Any] = orjson.loads(blob)
    times = {
        name: None if raw.get(name) is None else datetime.fromisoformat(raw[name])
        for name in ("stored_at", "restore_at")
    }
    return OffLease(**{**raw, **times})
