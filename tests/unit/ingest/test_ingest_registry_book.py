"""The registry as a workbook: what goes out comes in again, and what is wrong is named by sheet, row and field."""

import io
import zipfile
from datetime import UTC, datetime
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common import workbook
from libs.common.contracts.registry import Device, Entity, EntityKind, Line
from libs.common.errors import InvalidFile
from libs.common.registry import parse_registry_yaml, read_registry
from services.ingest.domain.registry import facts
from services.ingest.files.registry_book import read_registry_book, write_registry_book

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
# Excel knows no offset.
MIDNIGHT = SINCE.replace(tzinfo=None)
HALF_PAST_EIGHT = MIDNIGHT.replace(hour=8, minute=30)
FILE = """
schema: registry/1
regions:
  - {id: region-1, code: 440100, name: Guangzhou, name_zh: 广州市}
sites:
  - {id: site-1, code: "007", name: "=1+1", kind: base_station, region: region-1, account_number: 0300100200300,
     lon: 113.27, sc_routing: [sc-1, sc-2], tags: [north]}
lines:
  - {id: line-1, name: Bus, kind: serial, endpoint: /dev/ttyS1, settings: {baud: 2400, parity: E}}
sims:
  - {id: sim-1, name: SIM, iccid: 89860322482004123456, expires_on: 2027-12-31}
devices:
  - {id: meter-1, name: Meter, kind: meter_3p, site: site-1, line: line-1, address: 000000001234, ct_ratio: 20.5,
     sim: sim-1, installed_at: 2026-01-01T08:00:00+08:00}
loads:
  - {id: load-1, name: AAU, kind: aau, site: site-1, sector: 1, coverage_layer: false,
     breaker: {device: meter-1, channel: 2}}
"""


def entities_of(document: Any) -> list[Entity]:
    return read_registry(document, valid_from=SINCE, changed_by="import:x")


def by_kind(entities: list[Entity]) -> dict[EntityKind, list[Entity]]:
    found: dict[EntityKind, list[Entity]] = {}
    for entity in entities:
        found.setdefault(entity.kind_of, []).append(entity)
    return found


def book_of(sheets: dict[str, list[list[Any]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for title, rows in sheets.items():
        page = book.create_sheet(title)
        for row in rows:
            page.append(row)
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


def test_what_goes_out_comes_in_again() -> None:
    entities = parse_registry_yaml(FILE, "x.yaml", valid_from=SINCE, changed_by="import:x")
    again = entities_of(read_registry_book(write_registry_book(by_kind(entities)), "x.xlsx"))
    assert [facts(one) for one in again] == [facts(one) for one in entities]
    assert [one.valid_from for one in again] == [one.valid_from for one in entities]


def test_a_text_that_looks_like_a_formula_stays_a_text() -> None:
    entities = parse_registry_yaml(FILE, "x.yaml", valid_from=SINCE, changed_by="import:x")
    page = openpyxl.load_workbook(io.BytesIO(write_registry_book(by_kind(entities))))["sites"]
    [head, row] = list(page.iter_rows())
    cell = row[[one.value for one in head].index("name")]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


def test_a_workbook_of_a_person_is_read() -> None:
    found = entities_of(
        read_registry_book(
            book_of(
                {
                    "sites": [["id", "code", "name", "kind"], ["site-1", "007", "One", "base_station"]],
                    "lines": [
                        ["id", "name", "kind", "endpoint", "settings.baud", "settings.parity"],
                        ["line-1", "Bus", "serial", "/dev/ttyS1", 2400, "E"],
                    ],
                    "devices": [
                        ["id", "name", "kind", "site", "line", "address", "tags", "installed_at"],
                        [],
                        ["d-1", "A", "meter_3p", "site-1", "line-1", 12, "a,b; c", HALF_PAST_EIGHT],
                    ],
                    "empty": [],
                }
            ),
            "x.xlsx",
        )
    )
    [device] = [one for one in found if isinstance(one, Device)]
    [line] = [one for one in found if isinstance(one, Line)]
    assert (device.address, device.tags) == ("12", ("a", "b", "c"))
    assert device.installed_at == datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
    assert line.settings == {"baud": 2400, "parity": "E"}


def test_every_wrong_place_is_named_by_row_and_field() -> None:
    sheets: dict[str, list[list[Any]]] = {
        "sites": [
            ["id", "code", "name", "kind", "colour"],
            ["site-1", "007", "One", "base_station", None],
            ["site-2", "008", None, "castle", "red"],
        ],
        "devices": [["id", "name", "kind", "site", "installed_at"],
                    ["d-1", "A", "meter_3p", "site-9", MIDNIGHT]],
    }  # fmt: skip
    with pytest.raises(InvalidFile) as caught:
        entities_of(read_registry_book(book_of(sheets), "x.xlsx"))
    found = {(problem.line, problem.field) for problem in caught.value.problems}
    assert found == {
        (3, "sites[1].name"), (3, "sites[1].kind"), (3, "sites[1].colour"),
        (2, "devices[0].installed_at"),
    }  # fmt: skip


def test_a_sheet_that_is_no_kind_and_a_heading_twice_are_refused() -> None:
    with pytest.raises(InvalidFile, match="meters"):
        read_registry_book(book_of({"meters": [["id"], ["x"]]}), "x.xlsx")
    with pytest.raises(InvalidFile, match="id stands twice"):
        read_registry_book(book_of({"sites": [["id", "id"], ["x", "y"]]}), "x.xlsx")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "MAX_UNPACKED_BYTES", 1000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"0" * 100_000)
    with pytest.raises(InvalidFile, match="at most 1000 bytes"):
        read_registry_book(packed.getvalue(), "x.xlsx")


def test_entities_of_the_document_type_are_not_expanded() -> None:
    good = book_of({"sites": [["id", "code", "name", "kind"], ["site-1", "007", "One", "base_station"]]})
    evil, poisoned = io.BytesIO(), False
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(evil, "w") as target:
        for part in source.infolist():
            data = source.read(part)
            if b"One" in data:
                levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
                head = f'<!DOCTYPE x [<!ENTITY e0 "boom">{levels}]>'.encode()
                data = head + data.replace(b"One", b"&e9;")
                poisoned = True
            target.writestr(part, data)
    assert poisoned
    with pytest.raises(InvalidFile, match="undamaged"):
        entities_of(read_registry_book(evil.getvalue(), "x.xlsx"))


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_wrong_file(noise: bytes) -> None:
    with pytest.raises(InvalidFile):
        read_registry_book(workbook.MAGIC + noise, "x.xlsx")
