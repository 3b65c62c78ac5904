"""Files that are made to hang, to fill the memory or to be taken for something else: what their sender is told."""

import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import openpyxl
import pytest
from hypothesis import example, given

from libs.common import workbook
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidFile
from libs.common.workbook import read_workbook
from libs.common.yamlfile import parse_yaml
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.submission import Submission
from services.ingest.files import archive, table
from services.ingest.files.archive import Entry, open_archive, unpacks_to
from services.ingest.files.registry_book import read_registry_book

CHINA = ZoneInfo("Asia/Shanghai")
HEAD = "device_id,source_time,voltage_a\n"
ROW = "m-1,2026-03-01T12:00:00+08:00,230.1\n"
NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)


def entries(body: bytes | str) -> list[Entry]:
    return list(open_archive(body.encode() if isinstance(body, str) else body, "x", CHINA))


def reasons(body: bytes | str) -> list[RejectReason | None]:
    """Return of each report of an archive why it is not taken, None where it is."""
    return [entry.found.reason if isinstance(entry.found, Refused) else None for entry in entries(body)]


def sheet(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


def altered(body: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return a workbook one part of which is another."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            content = old.read(item)
            new.writestr(item, change(content) if item.filename == part else content)
    return found.getvalue()


SHEET, STYLES = "xl/worksheets/sheet1.xml", "xl/styles.xml"
BOOK = sheet(HEAD.strip().split(","), ROW.strip().split(","))


class TestTables:
    """CSV."""

    @pytest.mark.parametrize("cell", ["1" * 100_000 + "x", "1" * 100_000, "." * 100_000, "1e" + "9" * 50_000, "\u00b2"])
    def test_cell_that_looks_like_a_number_for_long_is_refused_at_once(self, cell: str) -> None:
        assert reasons(f"{HEAD}m-1,2026-03-01T12:00:00+08:00,{cell}\n{ROW}") == [RejectReason.NOT_A_NUMBER, None]

    @pytest.mark.parametrize("seq", ["\u00b2", "9" * 5000, "-1", "1.5", "\u0665"])
    def test_sequence_number_that_is_none_is_left_out(self, seq: str) -> None:
        [entry] = entries(f"device_id,source_time,voltage_a,seq\nm-1,2026-03-01T12:00:00+08:00,230.1,{seq}\n")
        assert isinstance(entry.found, Submission)
        assert entry.found.seq is None

    def test_quotation_that_never_ends_costs_the_rows_that_it_swallows_and_no_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table, "MAX_ROW_CHARS", 10 * len(ROW))
        found = reasons(HEAD + ROW + '"' + ROW * 25 + ROW)
        assert found[0] is None
        assert found[1] is RejectReason.UNDECODABLE
        assert found[-1] is None
        assert found.count(None) > 10

    def test_row_of_endless_quoted_cells_does_not_fill_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table, "MAX_ROW_CHARS", 1000)
        taken: list[str] = []

        def lines() -> Iterator[str]:
            yield HEAD
            for _ in range(10_000):
                taken.append('"\n')
                yield '"\n' if len(taken) == 1 else '","\n'
                if len(taken) == 500:
                    assert first, "nothing was given up after 500 lines"

        first: list[table.TableRow] = []
        for row in table.csv_reports(lines(), "x", CHINA):
            first.append(row)
        assert isinstance(first[0].payload, Refused)
        assert "quotation" in first[0].payload.detail

    def test_cell_with_a_line_end_is_still_one_cell(self) -> None:
        assert reasons(HEAD + '"m-1","2026-03-01T12:00:00+08:00","\n230.1\n"\n' + ROW) == [None, None]

    @pytest.mark.parametrize(
        ("time", "expected"),
        [
            ("46082.5", None),
            ("0", None),
            ("1772337600", None),
            ("2026-03-01 12:00:00", NOON),
            ("2026/3/1 12:00", NOON),
            ("2026-02-30 12:00", None),
            ("03/01/2026 12:00", None),
            ("\uff12\uff10\uff12\uff16-03-01 12:00", None),
        ],
    )
    def test_time_is_read_or_refused_and_never_guessed(self, time: str, expected: datetime | None) -> None:
        """46082.5 is how Excel counts days: as text it could be anything."""
        [entry] = entries(f"{HEAD}m-1,{time},230.1\n")
        if expected is None:
            assert isinstance(entry.found, Refused)
            assert entry.found.reason is RejectReason.UNREADABLE_TIME
        else:
            assert isinstance(entry.found, Submission)
            assert entry.found.source_time == expected

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk"])
    def test_encodings_of_excel_in_china_say_the_same(self, encoding: str) -> None:
        body = (HEAD + ROW + "m-1,2026-03-01T12:01:00+08:00,\u4e8c\u767e\u4e09\n").encode(encoding)
        assert reasons(body) == [None, RejectReason.NOT_A_NUMBER]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_encoding_that_is_not_known_is_named_and_not_guessed(self, encoding: str) -> None:
        with pytest.raises(InvalidFile):
            entries((HEAD + ROW).encode(encoding))

    @given(st.text(alphabet=st.sampled_from('m-1,;\t"\n\r2026:0+Z.eE\0\ufeff\u00b2\uff11 xX[]W'), max_size=200))
    @example('"')
    @example("m-1,2026-01-01 00:00,1e999")
    def test_any_rows_are_reports_or_refused(self, rows: str) -> None:
        for entry in entries(HEAD + rows):
            assert isinstance(entry.found, Submission | Refused)


class TestPacked:
    """gzip."""

    BOMB = gzip.compress(b"\0" * (64 << 20))

    def test_bomb_is_given_up_at_the_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1 << 20)
        assert len(self.BOMB) < 1 << 20
        with pytest.raises(InvalidFile, match="at most"):
            list(archive.unpacked(self.BOMB, "x", limit=1 << 20))
        assert not unpacks_to(self.BOMB, 1 << 20)

    @pytest.mark.parametrize("cut", [1, 5, 12, -1, -8])
    def test_archive_that_is_cut_off_is_refused_whole(self, cut: int) -> None:
        with pytest.raises(InvalidFile):
            entries(gzip.compress((HEAD + ROW * 50).encode())[:cut])

    def test_bomb_in_a_bomb_is_no_table(self) -> None:
        with pytest.raises(InvalidFile):
            entries(gzip.compress(self.BOMB))


class TestWorkbooks:
    """Excel."""

    def test_workbook_of_these_tests_is_one(self) -> None:
        assert reasons(BOOK) == [None]

    @pytest.mark.parametrize("number", [b"2000000000", b"2e9"])
    def test_row_with_an_absurd_number_is_not_walked_to(self, number: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workbook, "MAX_ROW_NUMBER", 10_000)
        body = altered(BOOK, SHEET, lambda xml: xml.replace(b'<row r="2"', b'<row r="' + number + b'"'))
        with pytest.raises(InvalidFile, match="no row behind"):
            read_workbook(body, "x")

    @pytest.mark.parametrize("size", [b"A1:C2000000000", b"A1:XFD1048576", b"A1", b"A1:A1"])
    def test_size_that_is_not_true_neither_hangs_nor_hides_rows(self, size: bytes) -> None:
        change = lambda xml: re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="' + size + b'"', xml)  # noqa: E731
        body = altered(BOOK, SHEET, change)
        assert size in zipfile.ZipFile(io.BytesIO(body)).read(SHEET)
        assert reasons(body) == [None]

    @pytest.mark.parametrize("prefix", [b"", b"x:"])
    def test_row_of_endless_cells_is_refused_before_it_is_parsed(
        self, prefix: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workbook, "MAX_ROW_ELEMENTS", 1000)
        monkeypatch.setattr(workbook, "_PIECE_BYTES", 64)
        row = b"<" + prefix + b'row r="3">'
        small, large = row + b"<c/>" * 900, row + b"<c/>" * 1100
        rows = altered(BOOK, SHEET, lambda xml: xml.replace(b"</sheetData>", small + small + b"</sheetData>"))
        with zipfile.ZipFile(io.BytesIO(rows)) as unpacked, unpacked.open(SHEET) as part:
            assert workbook._is_bounded(iter(lambda: part.read(64), b""))
        body = altered(BOOK, SHEET, lambda xml: xml.replace(b"</sheetData>", large + b"</sheetData>"))
        with pytest.raises(InvalidFile, match="millions of cells"):
            read_workbook(body, "x")

    def test_endless_styles_are_refused_before_they_are_parsed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workbook, "MAX_ELEMENTS", 1000)
        body = altered(BOOK, STYLES, lambda xml: xml.replace(b"</styleSheet>", b"<x/>" * 2000 + b"</styleSheet>"))
        with pytest.raises(InvalidFile, match="millions of cells"):
            read_workbook(body, "x")

    def test_workbook_that_unpacks_to_too_much_is_refused_before_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workbook, "MAX_UNPACKED_BYTES", 1 << 16)
        with pytest.raises(InvalidFile, match="at most"):
            read_workbook(altered(BOOK, STYLES, lambda xml: xml + b" " * (1 << 17)), "x")

    @pytest.mark.parametrize(
        "definition",
        [b'<!ENTITY a "aaaaaaaaaa"><!ENTITY e "&a;&a;&a;&a;&a;&a;">', b'<!ENTITY e SYSTEM "file:///etc/hostname">'],
        ids=["entities", "a file of ours"],
    )
    def test_entities_are_not_followed(self, definition: bytes) -> None:
        begin = b"<!DOCTYPE x [" + definition + b"]>"
        body = altered(BOOK, SHEET, lambda xml: begin + xml.replace(b"m-1", b"&e;"))
        with pytest.raises(InvalidFile, match="undamaged"):
            read_workbook(body, "x")

    def test_dates_of_excel_are_times_of_the_zone_that_was_named(self) -> None:
        head = HEAD.strip().split(",")
        book = sheet(head, ["m-1", NOON.astimezone(CHINA).replace(tzinfo=None), 230.1], ["m-1", 46082.5, 230.1])
        assert reasons(book) == [None, RejectReason.UNREADABLE_TIME]

    @pytest.mark.filterwarnings("ignore:Cell B2 is marked as a date")
    def test_cell_that_is_marked_as_a_date_and_none_costs_its_row_only(self) -> None:
        head = HEAD.strip().split(",")
        times = [datetime(2026, 3, 1, hour) for hour in (12, 13)]  # noqa: DTZ001  # Excel knows no offset
        book = sheet(head, *(["m-1", time, 230.1] for time in times))
        first = re.search(rb'<c r="A2".*?<c r="B2"[^>]*><v>([^<]*)</v>', zipfile.ZipFile(io.BytesIO(book)).read(SHEET))
        assert first is not None
        body = altered(book, SHEET, lambda xml: xml.replace(b"<v>" + first[1] + b"</v>", b"<v>1e300</v>", 1))
        assert reasons(body) == [RejectReason.UNREADABLE_TIME, None]

    @given(st.binary(max_size=300), st.integers(0, 5000))
    def test_damaged_workbook_is_refused_or_read(self, noise: bytes, at: int) -> None:
        place = at % len(BOOK)
        for read in (read_workbook, read_registry_book):
            try:
                read(BOOK[:place] + noise + BOOK[place + len(noise) :], "x")
            except InvalidFile:
                pass


class TestYaml:
    """The registry as YAML."""

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
            "[" * 100_000,
            "{" * 100_000,
            "- " * 50_000 + "x",
            "a: !!python/object/apply:os.system ['true']\n",
            "a: 1\na: 2\n",
            "\0",
            "a: \x07\n",
            "%YAML 9.9\n---\n",
            "? " * 20_000,
        ],
        ids=["aliases", "lists", "maps", "items", "an object", "twice", "NUL", "bell", "version", "keys"],
    )
    def test_document_that_is_none_is_refused_with_its_line(self, text: str) -> None:
        with pytest.raises(InvalidFile):
            parse_yaml(text, "x.yaml")
