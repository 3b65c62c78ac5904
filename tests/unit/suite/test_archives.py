"""Archives in parts: nothing left out, nothing twice, the same file the same parts, begun again where it stopped."""

import gzip
import io
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import Unavailable
from libs.suite import archives
from libs.suite.archives import import_archive, parts
from libs.suite.importing import NotImported
from libs.suite.words import words_for
from services.ingest.domain.submission import Submission
from services.ingest.files.archive import Entry, open_archive

START = datetime(2023, 1, 1, tzinfo=UTC)
ENGLISH = words_for("en")


def entries(file: Path) -> list[Entry]:
    """Return the reports of all parts, as ingest reads them, under their lines in the file."""
    found = []
    for part in parts(file):
        for entry in open_archive(part.body, "x", ZoneInfo("Asia/Shanghai")):
            assert isinstance(entry.found, Submission), entry.found
            found.append(Entry(entry.line + part.before, entry.raw, entry.found))
    return found


@settings(max_examples=25)
@given(rows=st.integers(0, 60), part_bytes=st.integers(1, 400), packed=st.booleans(), long=st.booleans())
def test_parts_hold_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, rows: int, part_bytes: int, packed: bool, long: bool
) -> None:
    file = tmp_path_factory.mktemp("archive") / "archive.csv"
    if long:
        text = "device_id,source_time,point,value\n" + "".join(
            f"m-{n // 3 % 2},{START + timedelta(minutes=n // 3)},{point},{n}\n"
            for n in range(rows)
            for point in ("voltage_a", "voltage_b")
        )
    else:
        text = "device_id,source_time,voltage_a\n" + "".join(
            f"m-1,{START + timedelta(minutes=n)},{n}\n" for n in range(rows)
        )
    body = text.encode()
    file.write_bytes(gzip.compress(body) if packed else body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "PART_BYTES", max(part_bytes, 200))
        found = entries(file)
        again = entries(file)
    whole = [entry for entry in open_archive(body, "x", None) if isinstance(entry.found, Submission)]
    assert [(entry.line, entry.found) for entry in found] == [(entry.line, entry.found) for entry in whole]
    assert found == again


def test_parquet_is_cut_by_rows_with_its_times_and_empty_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "archive.parquet"
    times = [START + timedelta(minutes=15 * n) for n in range(25)]
    values = [None if n == 7 else n / 2 for n in range(25)]
    pl.DataFrame({"device_id": "m-1", "source_time": times, "active_power_total [W]": values}).write_parquet(file)
    monkeypatch.setattr(archives, "PART_ROWS", 10)
    with pytest.raises(AssertionError):
        entries(file)  # a row without a value is no report
    kept = [n for n in range(25) if n != 7]
    pl.DataFrame({"device_id": "m-1", "source_time": times, "active_power_total [W]": values})[kept].write_parquet(file)
    found = [entry.found for entry in entries(file)]
    assert [one.source_time for one in found if isinstance(one, Submission)] == [times[n] for n in kept]
    assert [dict(one.points) for one in found if isinstance(one, Submission)] == [
        {"active_power_total": n / 2000} for n in kept
    ]


class Api:
    """A suite that does what it is sent at once; goes away after so many parts."""

    def __init__(self) -> None:
        self.imports: dict[str, dict[str, Any]] = {}
        self.uploads: list[str] = []
        self.away_after: int | None = None
        self.fails: str | None = None
        self.looks = itertools.count()

    def get(self, path: str, **params: Any) -> Any:
        if path == "imports":
            return {"items": [self.imports[params["key"]]] if params["key"] in self.imports else []}
        [found] = [one for one in self.imports.values() if one["id"] == path.removeprefix("imports/")]
        found["state"] = "failed" if self.fails == found["key"][-1] else "succeeded"
        return found

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        if self.away_after is not None and len(self.uploads) == self.away_after:
            raise Unavailable("gone")
        self.uploads.append(params["key"])
        taken = list(open_archive(content, "x", None))
        wrong = [entry.line for entry in taken if not isinstance(entry.found, Submission)]
        self.imports[params["key"]] = {
            "id": params["key"], "key": params["key"], "state": "queued",
            "counts": {"accepted": len(taken) - len(wrong), "rejected": len(wrong)},
            "problems": [{"line": line, "expected": "a number"} for line in wrong],
        }  # fmt: skip
        return self.imports[params["key"]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of some parts, with a wrong line near its end."""
    monkeypatch.setattr(archives, "PART_BYTES", 500)
    monkeypatch.setattr(archives, "POLL_S", 0.0)
    found = tmp_path / "archive.csv"
    lines = [f"m-1,{(START + timedelta(minutes=n)).isoformat()},{n}\n" for n in range(100)]
    lines[90] = "m-1,2023-01-01T01:30:00Z,much\n"
    found.write_text("device_id,source_time,voltage_a\n" + "".join(lines))
    return found


def test_import_that_was_cut_short_goes_on_and_sends_no_part_twice(file: Path) -> None:
    api, said = Api(), list[str]()
    api.away_after = 3
    with pytest.raises(Unavailable):
        import_archive(api, file, words=ENGLISH, say=said.append)
    api.away_after = None
    counts = import_archive(api, file, words=ENGLISH, say=said.append)
    assert (counts["accepted"], counts["rejected"]) == (99, 1)
    assert len(api.uploads) == len(set(api.uploads)) > 4
    assert "line 92: a number" in said
    assert said[-1].startswith("100%: 100 rows, 1 not taken")


def test_part_that_fails_ends_it_and_is_sent_again(file: Path) -> None:
    api = Api()
    api.fails = "2"
    with pytest.raises(NotImported, match="part 2 was refused"):
        import_archive(api, file, words=ENGLISH, say=lambda _: None)
    api.fails = None
    assert import_archive(api, file, words=ENGLISH, say=lambda _: None)["accepted"] == 99
    assert api.uploads.count(next(key for key in api.uploads if key.endswith(":2"))) == 2


def test_another_file_or_another_zone_is_another_import(file: Path) -> None:
    api = Api()
    import_archive(api, file, words=ENGLISH, say=lambda _: None)
    import_archive(api, file, words=ENGLISH, say=lambda _: None, timezone="Asia/Shanghai")
    file.write_bytes(file.read_bytes() + b"m-1,2024-01-01T00:00:00Z,1\n")
    import_archive(api, file, words=ENGLISH, say=lambda _: None)
    assert len({key.rpartition(":")[0] for key in api.uploads}) == 3


def test_damaged_file_is_told(tmp_path: Path) -> None:
    packed = tmp_path / "archive.csv.gz"
    body = io.BytesIO()
    with gzip.GzipFile(fileobj=body, mode="wb") as opened:
        opened.write(b"device_id,source_time,voltage_a\n")
    packed.write_bytes(body.getvalue()[:-6])
    with pytest.raises(NotImported, match="cannot be read"):
        import_archive(Api(), packed, words=ENGLISH, say=lambda _: None)
    parquet = tmp_path / "archive.parquet"
    parquet.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(NotImported, match="cannot be read"):
        import_archive(Api(), parquet, words=ENGLISH, say=lambda _: None)
