"""Reading other systems by pulling, from a little before the watermark each time, for what comes late there.

What of that was seen before is known by its key. Keys, watermark and reports are written in one transaction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import orjson

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.contracts.telemetry import RejectReason
from libs.common.db import Database, WriteConn
from libs.common.lease import Lease
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.loose import printable
from services.ingest.domain.pull import (
    DeviceKey,
    Mark,
    PulledRow,
    Row,
    RowMap,
    WrongRow,
    key_of,
    read_rows,
    without_open_end,
)
from services.ingest.domain.pull_source import PullFile
from services.ingest.domain.submission import unknown_device
from services.ingest.drivers.pull_port import Page, PullSource
from services.ingest.store import pulls as store
from services.ingest.store.pulls import NoLongerOurs
from services.ingest.usecases.taking import Piece, Refusal, Taking

DRIVER = "pull"
ROWS_AT_A_TIME = 250
"""Some milliseconds of the event loop."""
MAX_WAITING = 5_000
"""Value rows of one time that are put together over pieces and pages; more become several reports."""

HeldLease = Callable[[], Lease]
"""The lease of the source as it is now."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What came of one reading."""

    rows: int
    new: int
    refused: int
    behind: bool
    """There is more, to be read at once."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One reading of one source."""

    line: Line
    file: PullFile
    epoch: int
    number: int


class Pulls:
    """Reads sources."""

    def __init__(self, *, db: Database, clock: Clock, taking: Taking, files: Mapping[str, PullFile]) -> None:
        self._db = db
        self._clock = clock
        self._taking = taking
        self._files = files

    def file_of(self, line: Line) -> PullFile | None:
        """Return the declarative file of a line, None when there is none of that name."""
        return self._files.get(str((line.settings or {}).get("file", "")))

    async def cycle(self, line: Line, file: PullFile, source: PullSource, lease: HeldLease) -> Cycle:
        """Read a source once, to its end or to a page that is full.

        Raises:
            PullFailed, InvalidInput: It cannot be read.
            NoLongerOurs: Another process reads it.
            DatabaseUnavailable: Nothing can be noted.
        """
        epoch = lease().epoch
        async with self._db.write() as conn:
            progress = await store.claim(conn, line.id, epoch)
        turn = _Turn(line, file, epoch, progress.cycle + 1)
        return await self._read(turn, source, progress.mark, lease)

    async def failed(self, line_id: str, detail: str, detail_zh: str | None) -> None:
        """Note why a source cannot be read."""
        async with self._db.write() as conn:
            # It may quote the other side, and a database keeps no NUL.
            shown_zh = None if detail_zh is None else printable(detail_zh)
            await store.fail(conn, line_id, at=self._clock.now(), detail=printable(detail), detail_zh=shown_zh)

    def knows(self, line_id: str | None, device: str) -> bool:
        """Return whether a device is known; nothing of a pull is parked, so nobody asks."""
        return line_id is not None and self._taking.device_on(line_id, device, self._clock.now()) is not None

    async def again(self, raw: bytes, *, line_id: str | None, received_at: datetime) -> Refused | None:
        """Take a row that was rejected before, as it was or mended; return why not, on record again.

        Raises:
            DatabaseUnavailable: It was not taken.
        """
        line = None if line_id is None else self._taking.line(line_id, self._clock.now())
        file = None if line is None else self.file_of(line)
        if line is None or file is None:
            return Refused(RejectReason.UNKNOWN_DEVICE, f"there is no pull {line_id}", f"没有拉取配置 {line_id}")
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError as exc:
            return Refused(RejectReason.UNDECODABLE, f"expected JSON, {exc}", f"不是合法的 JSON:{exc}")
        rows = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, Mapping)]
        pieces = [self._piece(line.id, file.rows, one, received_at) for one in read_rows(rows, file.rows)]

        async def nothing(conn: WriteConn, refusals: Sequence[Refusal]) -> None:
            """A replay is no progress."""

        refusals = await self._taking.take(pieces, source=line.id, driver=DRIVER, note=nothing)
        return refusals[0].refused if refusals else None

    async def _read(self, turn: _Turn, source: PullSource, mark: Mark | None, lease: HeldLease) -> Cycle:
        rows = new = refused = 0
        behind = False
        waiting: list[Row] = []
        async with aclosing(source.pages(mark)) as pages:  # type: ignore[type-var]
            async for page in pages:
                for some, is_last in _in_pieces(page.rows):
                    done = is_last and page.complete
                    waiting += some
                    batch, waiting = without_open_end(waiting, turn.file.rows)
                    if done or len(waiting) > MAX_WAITING:
                        batch, waiting = batch + waiting, []
                    if batch or done:
                        await self._taking.wait_for_room()
                        _check_held(turn, lease())
                        taken, wrong = await self._take(turn, batch, page if done else None)
                        rows, new, refused = rows + len(batch), new + taken, refused + wrong
                behind = page.behind
        return Cycle(rows, new, refused, behind)

    async def _take(self, turn: _Turn, rows: Sequence[Row], last: Page | None) -> tuple[int, int]:
        """Take the rows that were not seen before; return how many reports were taken and how many refused."""
        line_id, map_, now = turn.line.id, turn.file.rows, self._clock.now()
        by_key = {key_of(row, map_): row for row in rows}
        async with self._db.read() as conn:
            seen = await store.seen_keys(conn, line_id, list(by_key))
        unseen = [row for key, row in by_key.items() if key not in seen]
        pieces = [self._piece(line_id, map_, one, now) for one in read_rows(unseen, map_)]
        counted = 0

        async def note(conn: WriteConn, refusals: Sequence[Refusal]) -> None:
            nonlocal counted
            await store.hold(conn, line_id, turn.epoch)
            await store.note_keys(conn, line_id, list(by_key), turn.number)
            await store.count(conn, line_id, taken=len(pieces) - len(refusals), refused=len(refusals))
            counted = len(refusals)
            if last is not None:
                await store.complete(conn, line_id, cycle=turn.number, mark=last.mark, at=self._clock.now())

        await self._taking.take(pieces, source=line_id, driver=DRIVER, note=note)
        return len(pieces) - counted, counted

    def _piece(self, line_id: str, map_: RowMap, row: PulledRow | WrongRow, now: datetime) -> Piece:
        if isinstance(row, WrongRow):
            return Piece("", row.raw, row.refused)
        by_id = map_.device_by is DeviceKey.ID
        device = self._taking.device(row.device, now) if by_id else self._taking.device_on(line_id, row.device, now)
        if device is None or device.line != line_id:
            return Piece("", row.raw, unknown_device(row.device))
        return Piece("", row.raw, self._taking.report(row.said, device, now, DRIVER), device.id)


def _in_pieces(rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], bool]]:
    """Yield some rows at a time, and whether they are the last; none of an empty page are."""
    for start in range(0, max(len(rows), 1), ROWS_AT_A_TIME):
        yield rows[start : start + ROWS_AT_A_TIME], start + ROWS_AT_A_TIME >= len(rows)


def _check_held(turn: _Turn, lease: Lease) -> None:
    if not lease.valid or lease.epoch != turn.epoch:
        raise NoLongerOurs(f"{turn.line.id}: the lease has run out", message_zh=f"{turn.line.id}:租约已失")
