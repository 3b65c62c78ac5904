"""An archive of readings, as JSON lines, CSV, Parquet or a workbook; text plain or gzip, in UTF-8 or GB 18030."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from libs.common import workbook
from libs.common.contracts.telemetry import RejectReason
from libs.common.workbook import unusable
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.submission import Submission, parse_submission, read_submission
from services.ingest.files import columnar
from services.ingest.files.table import TableRow, csv_reports, sheet_reports

MAX_UNPACKED_BYTES = 1 << 30
"""A compressed archive may become this large, and no larger. [B]"""
MAX_LINE_BYTES = 256 * 1024
GZIP = b"\x1f\x8b"
ENCODINGS = ("utf-8-sig", "gb18030")
"""Of tables, in the order in which they are tried: Chinese Excel writes the second."""
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One report of an archive."""

    line: int
    """Where it begins, counted from 1."""
    raw: bytes
    found: Submission | Refused
    content_type: str = "application/json"


def open_archive(body: bytes, file: str, zone: ZoneInfo | None) -> Iterator[Entry]:
    """Return the reports of an archive; that it can be unpacked to its end is checked before the first is yielded.

    Args:
        body: The file.
        file: Its name, for messages.
        zone: Of times in tables that have no offset; without it they are refused.

    Raises:
        InvalidFile: It is damaged, too large, in no known encoding, or a table without usable headings.
    """
    if body.startswith(workbook.MAGIC):
        return _sheet(body, file, zone)
    if body.startswith(columnar.MAGIC):
        return _from_rows(columnar.parquet_reports(body, file, zone))
    head = _checked(body, file)
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] in (b"{", b"[", b""):
        return (Entry(number, line, _parsed(line)) for number, line in enumerate(_lines(body, file), 1) if line.strip())
    return _from_rows(csv_reports(_text(body, file, _encoding(body, file)), file, zone))


def unpacks_to(body: bytes, limit: int) -> bool:
    """Return whether a file is at most this long when it is unpacked; a damaged one is told as soon as it is read.

    Parquet counts as longer: it can hold any number of rows in a few bytes.
    """
    if body.startswith(columnar.MAGIC):
        return False
    if not body.startswith(GZIP):
        return True
    try:
        return len(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body, limit + 1)) <= limit
    except zlib.error:
        return True


def unpacked(body: bytes, file: str, *, limit: int = MAX_UNPACKED_BYTES) -> Iterator[bytes]:
    """Yield a file in pieces, unpacked when it is gzip, up to a bound.

    Raises:
        InvalidFile: It is damaged, or becomes too large.
    """
    if not body.startswith(GZIP):
        yield body
        return
    total = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as packed:
            while piece := packed.read(PIECE_BYTES):
                total += len(piece)
                if total > limit:
                    raise unusable(file, f"at most {limit} bytes when unpacked", f"解压后不超过 {limit} 字节")
                yield piece
    except (OSError, EOFError, zlib.error) as exc:
        raise unusable(file, "an undamaged gzip", "完好的 gzip 文件", exc) from exc


def _checked(body: bytes, file: str) -> bytes:
    """Unpack a file to its end, and return its first bytes."""
    head = b""
    for piece in unpacked(body, file):
        head = head or piece[:1024]
    return head


def _encoding(body: bytes, file: str) -> str:
    """Return the encoding that the whole file is in."""
    for name in ENCODINGS:
        decoder = codecs.getincrementaldecoder(name)()
        try:
            for piece in unpacked(body, file):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return name
    raise unusable(file, "text in UTF-8 or GB 18030", "UTF-8 或 GB 18030 编码的文本")


def _text(body: bytes, file: str, encoding: str) -> Iterator[str]:
    """Yield lines with their ends; one that never ends is cut, so that no more than it is lost."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    for piece in unpacked(body, file):
        rest += decoder.decode(piece)
        *whole, rest = rest.split("\n")
        yield from (line + "\n" for line in whole)
        while len(rest) > MAX_LINE_BYTES:
            yield rest[:MAX_LINE_BYTES] + "\n"
            rest = rest[MAX_LINE_BYTES:]
    if rest:
        yield rest


def _lines(body: bytes, file: str) -> Iterator[bytes]:
    """Yield the lines of a file; one that never ends is cut into pieces, which are rejected as too large."""
    rest = b""
    for piece in unpacked(body, file):
        rest += piece
        *whole, rest = rest.split(b"\n")
        yield from whole
        while len(rest) > 2 * MAX_LINE_BYTES:
            yield rest[: MAX_LINE_BYTES + 1]
            rest = rest[MAX_LINE_BYTES + 1 :]
    if rest:
        yield rest


def _parsed(line: bytes) -> Submission | Refused:
    if len(line) > MAX_LINE_BYTES:
        return Refused(RejectReason.TOO_LARGE, f"expected a line of at most {MAX_LINE_BYTES} bytes", "该行超出长度限制")
    return parse_submission(line.removeprefix(codecs.BOM_UTF8))


def _sheet(body: bytes, file: str, zone: ZoneInfo | None) -> Iterator[Entry]:
    sheets = workbook.read_workbook(body, file)
    if len(sheets) != 1:
        raise unusable(file, "a workbook with one sheet", "只含一个工作表的工作簿", f"{len(sheets)}")
    [sheet] = sheets
    return _from_rows(sheet_reports(sheet.columns, ((row.number, row.cells) for row in sheet.rows), file, zone))


def _from_rows(rows: Iterator[TableRow]) -> Iterator[Entry]:
    first = next(rows, None)  # the headings are judged now
    return iter(()) if first is None else (_entry(row) for row in _chained(first, rows))


def _chained(first: TableRow, rows: Iterator[TableRow]) -> Iterator[TableRow]:
    yield first
    yield from rows


def _entry(row: TableRow) -> Entry:
    found = row.payload if isinstance(row.payload, Refused) else read_submission(row.payload)
    return Entry(row.line, row.raw, found, "text/csv")
