"""``wattring feeds``: the list, what files have of a day, and how both sides compare."""

import json
from pathlib import Path

import pytest
import typer

from libs.suite.feedcli import compare_files, list_feeds, tally_of_files
from libs.suite.words import Words
from services.export.domain.feeds import Format
from services.export.domain.rendering import Batch, render
from services.export.domain.rows import tally_of
from tests.unit.suite.test_callbackcli import Suite

LINES = (
    "s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220.5\t",
    "s-1\tm-1\tvoltage_b\t2026-03-08T06:02:11.000000Z\t\tstale",
    "s-1\tm-1\tvoltage_a\t2026-03-08T16:00:00.000000Z\t221\t",
)
FEED = {"id": "f-1", "name": "both", "owner": "user:li", "last_batch": 7}
DESTINATION = {
    "id": "d-1", "name": "esco", "kind": "http", "state": "active", "state_zh": "启用", "waiting": 2, "error": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
def test_files_as_they_were_sent_have_the_tally_of_the_day(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"1.{kind}"
    file.write_bytes(render(Format(kind=kind), Batch("f-1", 1, "", LINES)))
    assert tally_of_files([file], "2026-03-08") == tally_of(LINES[:2])
    assert tally_of_files([file], "2026-03-09") == tally_of(LINES[2:])
    assert tally_of_files([file, file], "2026-03-09").rows == 2


def test_other_columns_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "1.csv"
    file.write_text("a,b\r\n1,2\r\n")
    with pytest.raises(typer.BadParameter, match="expected rows with site_id"):
        tally_of_files([file], "2026-03-08")


@pytest.mark.parametrize(
    ("chinese", "lines"),
    [
        (False, ["f-1  both  user:li  7 batches", "  d-1  esco  http  active  2 waiting"]),
        (True, ["f-1  both  user:li  已成批 7", "  d-1  esco  http  启用  待发 2"]),
    ],
)
def test_each_feed_and_destination_is_a_line(chinese: bool, lines: list[str]) -> None:
    said: list[str] = []
    list_feeds(Suite([FEED], [DESTINATION]), Words(chinese=chinese), said.append)
    assert said == lines


def test_what_differs_is_said(tmp_path: Path) -> None:
    file = tmp_path / "1.json"
    file.write_bytes(render(Format(), Batch("f-1", 1, "", LINES)))
    agreed = {"agrees": True, "differences": [], "missing_batches": []}
    differs = {"agrees": False, "differences": [{"what": "rows", "ours": "3", "theirs": "2"}], "missing_batches": [9]}
    suite, said = Suite(agreed, differs), list[str]()
    words = Words(chinese=False)
    assert compare_files(suite, words, said.append, "f-1", "d-1", "2026-03-08", [file]) == 0
    assert compare_files(suite, words, said.append, "f-1", "d-1", "2026-03-08", [file]) == 1
    document = tally_of(LINES[:2]).document()
    assert suite.asked[0] == ("feeds/f-1/destinations/d-1/checks/2026-03-08", json.loads(json.dumps(document)))
    assert said[1:] == ["rows: acknowledged 3, in the files 2", "not acknowledged yet: [9]"]
