"""``wattring import-readings``: hand years of readings to the running suite, part by part.

A part is small enough for a request and for the memory of whoever works on it. It has a key made of the file's content
and its number: whoever begins again sends only what has not been taken, and a part that was cut short goes on behind
its last committed line. What is taken goes by ``telemetry.backfill``, beside the live readings and never before them.
"""

import csv
import gzip
import hashlib
import io
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from polars.exceptions import PanicException, PolarsError

from libs.suite.importing import NotImported
from libs.suite.words import Words

PART_BYTES = 8 << 20
"""Of text, before it is packed. [B]"""
PART_ROWS = 100_000
"""Of Parquet, fewer where they are wide."""
PART_CELLS = 2_000_000
"""Of Parquet: 16 MiB at eight bytes each, before they are packed."""
AHEAD = 2
"""Parts that are sent and not done: one is worked on, the next waits."""
POLL_S = 0.5
SHOWN_PROBLEMS = 20
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
KEYS = ("device_id", "source_time")


class ImportsApi(Protocol):
    """The suite's API, as far as imports need it."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET."""

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        """Return the parsed answer of a POST of a file's content."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an archive that is an archive itself."""

    number: int
    body: bytes
    rows: int
    before: int
    """Lines (of text) or rows (of Parquet) of the archive that the part's own line numbers lack."""
    share: float
    """Of the archive, up to the end of this part. [1]"""


@dataclass(slots=True)
class _Sent:
    part: Part
    found: Mapping[str, Any]


def import_archive(
    api: ImportsApi,
    file: Path,
    *,
    words: Words,
    say: Callable[[str], None],
    timezone: str | None = None,
    dry_run: bool = False,
) -> Counter[str]:
    """Import an archive of readings: JSON lines, CSV (plain or gzip) or Parquet; return what became of its rows.

    Args:
        api: Of the suite.
        file: Of any size.
        words: The language.
        say: Told how far it is and which lines are wrong.
        timezone: IANA name of the zone of times without an offset.
        dry_run: Check only.

    Raises:
        NotImported: The file cannot be read, or a part of it was refused; those before it are taken.
        Unavailable: No suite answers; the same call goes on from where this one got.
    """
    progress = _Progress(words, say)
    try:
        name = f"{_digest(file)}:{timezone or '-'}:{'check' if dry_run else 'take'}"
        waiting: list[_Sent] = []
        for part in parts(file):
            if len(waiting) == AHEAD:
                progress.add(_finished(api, waiting.pop(0), file, words))
            waiting.append(_send(api, part, file, f"{name}:{part.number}", timezone, dry_run))
        for sent in waiting:
            progress.add(_finished(api, sent, file, words))
    except (OSError, EOFError, PolarsError, PanicException, zlib.error, csv.Error) as exc:
        raise NotImported(f"{file} cannot be read: {exc}", message_zh=f"无法读取 {file}:{exc}") from exc
    return progress.counts


def parts(file: Path) -> Iterator[Part]:
    """Yield a file in parts; the same file gives the same parts, of which one is in memory at a time."""
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic == PARQUET:
        yield from _parquet_parts(file)
    else:
        yield from _text_parts(file, packed=magic.startswith(GZIP))


def _parquet_parts(file: Path) -> Iterator[Part]:
    frame = pl.scan_parquet(file)
    total = int(frame.select(pl.len()).collect().item())
    most = max(min(PART_ROWS, PART_CELLS // len(frame.collect_schema())), 1)
    for number, begin in enumerate(range(0, total, most)):
        rows = frame.slice(begin, most).collect()
        body = io.BytesIO()
        rows.write_parquet(body, compression="zstd")
        yield Part(number, body.getvalue(), rows.height, begin, (begin + rows.height) / total)


def _text_parts(file: Path, *, packed: bool) -> Iterator[Part]:
    size = file.stat().st_size
    with file.open("rb") as raw:
        opened: Any = gzip.open(raw) if packed else raw
        # One that never ends does not fill the memory: it is cut, and refused as too long.
        lines = iter(lambda: opened.readline(PART_BYTES), b"")
        head = next(lines, b"")
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            head, first = b"", head
        else:
            first = b""
        key_of = _key_reader(head)
        chunk, chunk_bytes, number, before = [first] if first else [], len(first), 0, 0
        last_key: object = None
        for line in lines:
            key = key_of(line)
            if chunk_bytes >= PART_BYTES and (key is None or key != last_key or chunk_bytes >= 2 * PART_BYTES):
                yield _text_part(number, head, chunk, before, raw.tell() / size)
                number, before = number + 1, before + len(chunk)
                chunk, chunk_bytes = [], 0
            chunk.append(line)
            chunk_bytes += len(line)
            last_key = key
        if chunk or number == 0:
            yield _text_part(number, head, chunk, before, 1.0)


def _text_part(number: int, head: bytes, lines: list[bytes], before: int, share: float) -> Part:
    return Part(number, gzip.compress(head + b"".join(lines), 1, mtime=0), len(lines), before, min(share, 1.0))


def _key_reader(head: bytes) -> Callable[[bytes], object]:
    """Return what tells device and time of a line of CSV that has a row per value; else every line stands alone."""
    text = head.decode("utf-8-sig", "replace").strip()
    delimiter = max(",;\t", key=text.count)
    names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
    if not {*KEYS, "point", "value"} <= set(names):
        return lambda line: None
    places = [names.index(name) for name in KEYS]
    most = max(places) + 1
    mark = delimiter.encode()

    def key(line: bytes) -> object:
        cells = line.split(mark, most)
        return tuple(cells[place].strip(b' "') for place in places) if len(cells) >= most else line

    return key


def _send(api: ImportsApi, part: Part, file: Path, key: str, timezone: str | None, dry_run: bool) -> _Sent:
    known = api.get("imports", key=key)["items"]
    if known and known[0]["state"] != "failed":
        return _Sent(part, known[0])
    params: dict[str, Any] = {"kind": "readings", "file": file.name[-200:], "dry_run": dry_run, "key": key}
    if timezone is not None:
        params["timezone"] = timezone
    return _Sent(part, api.upload("imports", part.body, media_type="application/octet-stream", **params))


def _finished(api: ImportsApi, sent: _Sent, file: Path, words: Words) -> _Sent:
    """Wait until a part is done.

    Raises:
        NotImported: It failed.
    """
    found = sent.found
    while found["state"] in ("queued", "running"):
        time.sleep(POLL_S)
        found = api.get(f"imports/{found['id']}")
    if found["state"] != "succeeded":
        raise NotImported(
            f"{file}: part {sent.part.number} was refused: {found.get('detail') or found['state']}",
            message_zh=f"{file}:第 {sent.part.number} 部分被拒绝:{found.get('detail_zh') or found['state']}",
        )
    return _Sent(sent.part, found)


class _Progress:
    """What has been taken so far, told part by part."""

    def __init__(self, words: Words, say: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._words = words
        self._say = say
        self._shown = 0
        self._began = time.monotonic()
        self._rows = 0

    def add(self, sent: _Sent) -> None:
        """Count a part that is done."""
        counts = {name: int(count) for name, count in (sent.found.get("counts") or {}).items()}
        self.counts.update(counts)
        self._rows += sent.part.rows
        for problem in sent.found.get("problems") or ():
            if self._shown < SHOWN_PROBLEMS:
                self._shown += 1
                line = sent.part.before + int(problem["line"])
                detail = self._words(problem["expected"], problem.get("expected_zh") or problem["expected"])
                self._say(self._words(f"line {line}: {detail}", f"第 {line} 行:{detail}"))
        per_s, wrong = self._rows / max(time.monotonic() - self._began, 1e-3), self.counts["rejected"]
        self._say(
            self._words(
                f"{sent.part.share:.0%}: {self._rows:,} rows, {wrong:,} not taken, {per_s:,.0f} a second",
                f"{sent.part.share:.0%}:{self._rows:,} 行,未导入 {wrong:,} 行,每秒 {per_s:,.0f} 行",
            )
        )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:32]


def run(file: Path, words: Words, say: Callable[[str], None], api: ImportsApi, **how: Any) -> None:
    """Import an archive and say what came of it.

    Raises:
        PlatformError: As ``import_archive``.
    """
    counts = import_archive(api, file, words=words, say=say, **how)
    taken, wrong = counts["accepted"] + counts["skipped"], counts["rejected"]
    say(words(f"{taken:,} reports taken, {wrong:,} not", f"已导入 {taken:,} 条,未导入 {wrong:,} 条"))
    if wrong:
        say(
            words(
                "every wrong line is under /api/v1/imports/{id}/lines and /api/v1/rejected",
                "未导入的各行见 /api/v1/imports/{id}/lines 与 /api/v1/rejected",
            )
        )
