"""The whole embedded suite as a user runs it: real processes, real field; kills, stop, second start."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.children import Roster, start_ticks
from libs.suite.folders import DataFolder

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.timeout(300)]

COMMAND = [sys.executable, "-m", "libs.suite", "--lang", "en"]


class Suite:
    """A running ``wattring up --demo``."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder = DataFolder(folder)
        self.output = output
        self.environ = {**os.environ, "WATTRING_DATA_DIR": str(folder), "PORT": "0"}
        self.settings = CommonSettings(data_dir=folder)
        with output.open("wb") as target:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--demo"], env=self.environ, stdout=target, stderr=target, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def until(self, pattern: str, *, within_s: float = 90.0) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def said() -> bool:
            assert self.process.poll() is None, self.text
            found[:] = filter(None, [re.search(pattern, self.text, re.MULTILINE)])
            return bool(found)

        wait_for(said, within_s=within_s, else_show=lambda: self.text)
        return found[0]

    def pids(self) -> dict[str, int]:
        return Roster(self.folder.children).left_behind()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environ, capture_output=True, text=True, timeout=200, check=False
        )


def wait_for(condition: Callable[[], bool], *, within_s: float = 60.0, else_show: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, else_show()
        time.sleep(0.1)


@contextmanager
def running(folder: Path, output: Path) -> Iterator[Suite]:
    suite = Suite(folder, output)
    try:
        suite.until("^  stop +Ctrl-C$")
        yield suite
    finally:
        pids = suite.pids()
        suite.process.send_signal(signal.SIGINT)
        code = suite.process.wait(90)
    assert code == 0, suite.text
    assert suite.text.rstrip().endswith("stopped")
    assert [pid for pid in pids.values() if start_ticks(pid) is not None] == [], "nothing is left running"


def test_story_kill_stop_and_second_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with running(folder, tmp_path / "first.out") as suite:
        assert set(suite.pids()) == {"postgres", "suite", "watchdog", "jobs", "field"}
        suite.until("savings plan in force")

        # The process with all six services dies just before the breaker is to open, and the story goes on.
        os.kill(suite.pids()["suite"], signal.SIGKILL)
        suite.until(r"suite +ended unexpectedly \(signal SIGKILL\)")
        suite.until(r"suite +started again")

        report = suite.command("demo-report", "--wait", "150")
        assert report.returncode == 0, report.stdout + report.stderr + suite.text
        assert "MISSING" not in report.stdout
        assert re.search(r"alarm raised after the start delay.*≤ 8 s", report.stdout)

        doctor = suite.command("doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert f"running (process {suite.process.pid})" in doctor.stdout
        with LocalApi(suite.settings) as api:
            plans = len(api.get("plans")["items"])
        password = re.search(r"password +(\S+) ", suite.text)
        assert password is not None
        assert password[1] not in "".join(log.read_text() for log in suite.folder.logs.iterdir())

    with running(folder, tmp_path / "second.out") as suite:
        assert "password" not in suite.text
        suite.until("savings plan in force")
        assert re.search(r"registry imported: 0 entities new, 0 changed", suite.text)
        with LocalApi(suite.settings) as api:
            assert len(api.get("devices", limit=100)["items"]) == 10
            assert len(api.get("plans")["items"]) == plans + 1
            imports = [one["file"] for one in api.get("imports")["items"]]
            assert imports.count("history.ndjson.gz") == 1
        wrong_registry_file_is_refused_place_by_place_and_nothing_of_it_is_taken(suite, tmp_path)
        misspelt_setting_is_refused_with_what_was_meant(suite)
        signal_table_goes_out_and_in_by_command_line(suite, tmp_path)
        everything_is_woken_by_command_line(suite)


def wrong_registry_file_is_refused_place_by_place_and_nothing_of_it_is_taken(suite: Suite, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "schema: registry/1\n"
        "sites:\n"
        "  - {id: site-new, name: New, kind: castle}\n"
        "devices:\n"
        "  - {id: meter-new, name: New, kind: meter_3p, site: nowhere}\n"
    )
    done = suite.command("import", str(wrong))
    assert done.returncode == 1
    assert re.search(rf"{wrong}:3: .*kind.*: expected ", done.stderr), done.stderr
    with LocalApi(suite.settings) as api:
        assert "site-new" not in [one["id"] for one in api.get("sites")["items"]]


def signal_table_goes_out_and_in_by_command_line(suite: Suite, tmp_path: Path) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        done = suite.command("signals", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    file, book, wrong = (str(tmp_path / name) for name in ("table.csv", "table.xlsx", "wrong.csv"))
    said("export", "telecom-2020-excerpt", file)
    text = Path(file).read_text(encoding="utf-8-sig")
    assert "评估级别" in text
    shown = said("import", "guangdong", file, "--dry-run")
    assert shown.endswith("13 new, 0 changed, 0 gone, 0 as they were\nnothing was imported\n")
    assert "guangdong" not in said("list")
    Path(wrong).write_text(text.replace("遥测", "遥感", 1), encoding="utf-8")
    refused = said("import", "guangdong", wrong, code=1)
    assert "wrong.csv: 1 problem(s), nothing was imported" in refused
    assert "wrong.csv:4: 信号类别: expected one of 遥测" in refused
    assert said("import", "guangdong", file, "--reason", "pilot").endswith("guangdong is at version 1\n")
    assert re.search(r"^version 1: 13 rows, .*, table.csv, pilot$", said("versions", "guangdong"), re.M)
    said("export", "guangdong", book)
    assert said("import", "guangdong", book).endswith("13 as they were\nguangdong is at version 1\n")
    with LocalApi(suite.settings) as api:
        meter = next(one["id"] for one in api.get("devices", limit=100)["items"] if one["kind"] == "meter_3p")
        api.put(f"alarm-rules/0s16002001/overrides/device/{meter}", {"threshold": 255})
    judged = said("rules", meter)
    assert re.search(r"^0s16002001: .* above 255 V, .*; threshold from device:", judged, re.M), judged


def misspelt_setting_is_refused_with_what_was_meant(suite: Suite) -> None:
    misspelt = subprocess.run(
        [*COMMAND, "doctor"],
        env={**suite.environ, "WATTRING_DATABASE__POOL_MXA": "3"},
        capture_output=True,
        text=True,
    )
    assert misspelt.returncode == 1
    assert "did you mean WATTRING_DATABASE__POOL_MAX?" in misspelt.stderr


def everything_is_woken_by_command_line(suite: Suite) -> None:
    woken = suite.command("wake", "--all", "--reason", "storm")
    assert "through the API of the gateway" in woken.stdout, woken.stdout + woken.stderr
    assert woken.returncode == 0, woken.stdout + woken.stderr
    assert woken.stdout.rstrip().endswith("all awake")
    with LocalApi(suite.settings) as api:
        (order,) = api.get("wake-ups")["items"]
        assert (order["actor"], order["reason"], order["state"]) == ("service:cli", "storm", "done")
        released = suite.command("wake", "--release", order["wake_up_id"])
        assert released.stdout.strip() == "released by service:cli", released.stdout + released.stderr
        assert api.get(f"wake-ups/{order['wake_up_id']}")["released_at"] is not None
    wrong = suite.command("wake", "--site", "nowhere")
    assert wrong.returncode == 1
    assert "no load in site nowhere" in wrong.stderr
    assert "exactly one of" in suite.command("wake").stderr
