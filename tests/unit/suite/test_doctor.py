"""What the doctor makes of what it finds."""

import asyncio
import resource
from pathlib import Path

import pytest

from libs.common.clocksync import ClockState, clock_state
from libs.common.settings import CommonSettings
from libs.suite.doctor import (
    clock_finding,
    database_finding,
    examine,
    files_finding,
    settings_with_embedded_database,
)
from libs.suite.folders import DataFolder
from libs.suite.words import Words

ENGLISH = Words(chinese=False)


@pytest.mark.parametrize(
    ("limit", "level"), [(1024, "doubtful"), (65_535, "doubtful"), (65_536, "good"), (resource.RLIM_INFINITY, "good")]
)
def test_open_files(limit: int, level: str) -> None:
    finding = files_finding(limit, ENGLISH)
    assert finding.level == level
    assert ("LimitNOFILE" in finding.mend) == (level != "good")


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (None, "doubtful"),
        (ClockState(synchronised=False, max_error_s=16.0), "doubtful"),
        (ClockState(synchronised=True, max_error_s=0.02), "good"),
    ],
)
def test_clock(state: ClockState | None, level: str) -> None:
    finding = clock_finding(state, ENGLISH)
    assert finding.level == level
    assert bool(finding.mend) == (level != "good")


def test_kernel_tells_of_its_clock() -> None:
    state = clock_state()
    assert state is None or state.max_error_s >= 0


@pytest.mark.parametrize(
    ("version", "skew_s", "level", "word"),
    [
        (140_012, 0.0, "bad", "use PostgreSQL 15 or newer"),
        (150_020, 0.1, "good", ""),
        (180_004, 5.0, "doubtful", "synchronise both clocks"),
    ],
)
def test_database(version: int, skew_s: float, level: str, word: str) -> None:
    finding = database_finding(version, skew_s, ENGLISH)
    assert finding.level == level
    assert word in finding.mend


def test_embedded_database_is_found_by_its_file_and_a_given_one_wins(tmp_path: Path) -> None:
    settings = CommonSettings(data_dir=tmp_path)
    assert settings_with_embedded_database(settings).database.url is None
    folder = DataFolder(tmp_path)
    folder.create()
    folder.database_url.write_text("postgresql://u:p@/db?host=/x")
    found = settings_with_embedded_database(settings).database.url
    assert found is not None
    assert found.get_secret_value() == "postgresql://u:p@/db?host=/x"
    given = CommonSettings.model_validate({"data_dir": tmp_path, "database": {"url": "postgresql://given/db"}})
    assert settings_with_embedded_database(given) is given


async def test_machine_without_a_suite_is_examined_whole(tmp_path: Path) -> None:
    findings = {one.what: one for one in await examine(CommonSettings(data_dir=tmp_path / "new", port=0), ENGLISH)}
    assert set(findings) >= {"versions", "data folder", "disk", "open files", "clock", "database", "bus", "port"}
    assert all(one.mend for one in findings.values() if one.level != "good")
    assert findings["database"].detail == "embedded; it starts with `wattring up`"


async def test_database_that_is_away_is_bad_and_says_what_to_do(tmp_path: Path) -> None:
    settings = CommonSettings.model_validate(
        {"data_dir": tmp_path, "port": 0, "database": {"url": "postgresql://u@127.0.0.1:1/db"}}
    )
    [finding] = [one for one in await examine(settings, ENGLISH) if one.what == "database"]
    assert finding.level == "bad"
    assert "check DATABASE_URL" in finding.mend


async def test_broker_that_is_away_is_bad_and_says_what_to_do(tmp_path: Path) -> None:
    settings = CommonSettings.model_validate(
        {"data_dir": tmp_path, "port": 0, "bus": {"bootstrap_servers": "127.0.0.1:1"}}
    )
    [finding] = [one for one in await examine(settings, ENGLISH) if one.what == "bus"]
    assert finding.level == "bad"
    assert "KAFKA_BOOTSTRAP_SERVERS" in finding.mend


def test_open_data_folder_is_doubtful(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = asyncio.run(examine(CommonSettings(data_dir=tmp_path, port=0), ENGLISH))
    findings = {one.what: one for one in found}
    assert findings["data folder"].level == "doubtful"
    assert findings["data folder"].mend == f"chmod 700 {tmp_path}"
