"""``wattring up`` from outside, with stand-ins for the services: what is kept running, said, and left behind."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.common.settings import SERVICES, CommonSettings
from libs.suite import children, supervisor
from libs.suite.children import start_ticks
from libs.suite.supervisor import Commands, Supervisor
from libs.suite.words import Words

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

STAND_IN = '''
"""Listens where the services it is named after would, and answers what a file says."""
import http.server, json, os, pathlib, signal, socketserver, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
folder = pathlib.Path(os.environ["WATTRING_DATA_DIR"])
for crash in folder.glob("crash-" + sys.argv[1]):
    sys.exit("the " + sys.argv[1] + " is broken")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        unready = folder / ("unready-" + self.server.name)
        reasons = {"database": unready.read_text()} if unready.exists() else {}
        self.answer(503 if reasons and self.path == "/readyz" else 200, {"reasons": reasons})
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        place = os.environ.get("WATTRING_GATEWAY__FIRST_PASSWORD_FILE")
        right = place and pathlib.Path(place).read_text() == given["password"]
        self.answer(200 if right and not (folder / "has-users").exists() else 401, {})
    def answer(self, status, body):
        self.send_response(status); self.end_headers(); self.wfile.write(json.dumps(body).encode())
    def address_string(self): return "local"
    def log_message(self, *args): pass
class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
servers = []
for name in sys.argv[1:]:
    place = json.loads(os.environ["WATTRING_SERVICE_URLS"])[name].removeprefix("unix:")
    if os.path.exists(place): os.unlink(place)
    server = Server(place, Handler)
    server.name = name
    servers.append(server)
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
(folder / ("environ-" + sys.argv[1])).write_text(json.dumps(dict(os.environ)))
signal.sigwait({signal.SIGTERM})
'''
SAYS = "import sys; print('helper ran', flush=True); sys.exit(0)"
FAILS = "import sys; print('error: the schema is from the future', flush=True); sys.exit(1)"


def stand_in(*names: str) -> tuple[str, ...]:
    return (sys.executable, "-c", STAND_IN, *names)


COMMANDS = Commands(
    suite=stand_in(*SERVICES),
    watchdog=stand_in("watchdog"),
    jobs=stand_in("jobs"),
    schema=(sys.executable, "-c", SAYS),
    field=(sys.executable, "-c", "import signal; signal.pause()"),
    seed=(sys.executable, "-c", SAYS),
)


class Run:
    """One run of the supervisor and what it said."""

    def __init__(self, folder: Path, *, commands: Commands = COMMANDS, chinese: bool = False, **settings: Any) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._said = asyncio.Event()
        common = CommonSettings.model_validate({"data_dir": folder, "port": 0, **settings})
        self.supervisor = Supervisor(common, demo=False, words=Words(chinese=chinese), say=self._say, commands=commands)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _say(self, line: str) -> None:
        self.lines.append(line)
        self._said.set()

    async def until(self, pattern: str, *, task: "asyncio.Task[int] | None" = None) -> re.Match[str]:
        async with asyncio.timeout(60):
            while (found := re.search(pattern, self.text, re.MULTILINE)) is None:
                assert task is None or not task.done(), self.text
                self._said.clear()
                await self._said.wait()
        return found

    def pids(self) -> dict[str, int]:
        roster = json.loads((self.folder / "run" / "children.json").read_text())
        return {name: pid for name, (pid, _) in roster.items()}


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[Run]:
    """Run until ready, and stop at the end as SIGTERM does."""
    task = asyncio.create_task(run.supervisor.run())
    try:
        await run.until("^ +(stop|停止) +Ctrl-C", task=task)
        yield run
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await task == 0, run.text
    assert run.lines[-1].endswith(("stopped", "已停止"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what another process does has no event here
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(supervisor, "READY_EVERY_S", 0.05)
    for name in [name for name in os.environ if name.startswith("WATTRING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WATTRING_EXPORT__UNIT_PORT", "0")  # the stand-ins open none


async def test_first_start_tells_the_password_once_and_the_second_goes_on_with_the_data(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")) as first:
        pids = first.pids()
        assert set(pids) == {"postgres", "suite", "watchdog", "jobs"}
        password = await first.until(r"password\s+(\S{16})\s+\(shown this once")
        assert re.search(r"address\s+http://127\.0\.0\.1:[1-9]\d+$", first.text, re.MULTILINE)
        assert os.getpriority(os.PRIO_PROCESS, pids["jobs"]) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    assert all(start_ticks(pid) is None for pid in pids.values()), "nothing is left running"
    assert not (tmp_path / "data" / "run" / "first-password").exists()
    assert password[1] not in "".join(path.read_text() for path in (tmp_path / "data" / "log").iterdir())

    async with running(Run(tmp_path / "data")) as second:
        assert "password" not in second.text
        assert "first start" not in second.text


async def test_everything_below_the_data_folder_is_private(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")):
        for path in (tmp_path / "data").iterdir():
            if path.is_dir():
                assert path.stat().st_mode & 0o777 == 0o700, path
        for path in (tmp_path / "data" / "keys").glob("*.key"):
            assert path.stat().st_mode & 0o777 == 0o600, path


async def test_children_are_told_where_everything_is_and_no_password_in_the_open(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")) as run:
        environ = json.loads((run.folder / "environ-ingest").read_text())
        assert environ["WATTRING_DATA_DIR"] == str(run.folder)
        assert environ["WATTRING_DATABASE__URL_FILE"] == str(run.folder / "run" / "database-url")
        assert (run.folder / "run" / "database-url").read_text().startswith("postgresql://")
        assert set(json.loads(environ["WATTRING_SERVICE_URLS"])) == {*SERVICES, "watchdog", "jobs"}
        assert not [value for value in environ.values() if value.startswith("postgresql://")]
        watchdog = json.loads((run.folder / "environ-watchdog").read_text())
        assert watchdog["WATTRING_UDS"].endswith("/watchdog.sock")


async def test_internal_port_is_the_suites_and_not_its_peers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRING_INTERNAL_PORT", "9000")
    async with running(Run(tmp_path / "data")) as run:
        await until(lambda: all((run.folder / f"environ-{name}").exists() for name in ("ingest", "watchdog", "jobs")))
        having = {
            name: json.loads((run.folder / f"environ-{name}").read_text()).get("WATTRING_INTERNAL_PORT")
            for name in ("ingest", "watchdog", "jobs")
        }
        assert having == {"ingest": "9000", "watchdog": None, "jobs": None}


@pytest.mark.parametrize("name", ["suite", "watchdog", "jobs", "postgres"])
async def test_killed_process_is_started_again_and_said(tmp_path: Path, name: str) -> None:
    async with running(Run(tmp_path / "data")) as run:
        await until(lambda: name in run.pids())
        before = run.pids()
        os.kill(before[name], signal.SIGKILL)
        await run.until(rf"{name}\s+ended unexpectedly \(signal SIGKILL\); starting it again in \d")
        await run.until(rf"{name}\s+started again \(process \d+\)$")
        after = run.pids()
        assert after[name] != before[name]
        assert {other: pid for other, pid in after.items() if other != name} == {
            other: pid for other, pid in before.items() if other != name
        }


async def test_loss_and_return_of_readiness_are_said_with_the_reason_once(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")) as run:
        for service in ("alarm", "carbon"):
            (run.folder / f"unready-{service}").write_text("connection refused")
        await run.until(r"not ready: (alarm, carbon|alarm|carbon): database: connection refused$")
        await run.until(r"not ready: alarm, carbon: database: connection refused$")
        for service in ("alarm", "carbon"):
            (run.folder / f"unready-{service}").unlink()
        await run.until(r"ready again$")


async def test_process_that_cannot_start_ends_the_run_with_its_last_words_and_log(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "crash-watchdog").touch()
    run = Run(folder)
    assert await run.supervisor.run() == 1
    assert (
        f"cannot run: watchdog does not start: the watchdog is broken\nits log: {folder}/log/watchdog.log" in run.text
    )
    assert run.pids() == {}


async def test_schema_that_cannot_be_brought_up_to_date_ends_the_run(tmp_path: Path) -> None:
    commands = Commands(
        suite=COMMANDS.suite, watchdog=COMMANDS.watchdog, jobs=COMMANDS.jobs, schema=(sys.executable, "-c", FAILS)
    )
    run = Run(tmp_path / "data", commands=commands)
    assert await run.supervisor.run() == 1
    assert "cannot run: the schema is from the future" in run.lines
    assert run.pids() == {}


@pytest.mark.parametrize(("chinese", "words"), [(False, "did you mean"), (True, "是否想写")])
async def test_misspelt_setting_of_a_service_is_a_line_and_nothing_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chinese: bool, words: str
) -> None:
    monkeypatch.setenv("WATTRING_ALARM__MAX_BATHC", "3")
    run = Run(tmp_path / "data", chinese=chinese)
    assert await run.supervisor.run() == 1
    assert len(run.lines) == 2
    assert f"{words} WATTRING_ALARM__MAX_BATCH?" in run.lines[0]
    assert not (tmp_path / "data" / "postgres").exists()


async def test_wrong_profile_of_the_operators_own_is_named_place_by_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("schema: device-profile/1\nprotocol: modbus\nvendor: 1\ncolour: red\n")
    run = Run(tmp_path / "data", profile_dirs=[tmp_path])
    assert await run.supervisor.run() == 1
    assert f"{tmp_path}/mine.yaml:4: colour: expected one of the fields" in run.text
    assert not (tmp_path / "data" / "postgres").exists()


async def test_process_that_says_a_setting_is_wrong_is_not_tried_three_times(tmp_path: Path) -> None:
    commands = Commands(
        suite=(sys.executable, "-c", "import sys; print('no such folder'); sys.exit(78)"),
        watchdog=COMMANDS.watchdog, jobs=COMMANDS.jobs, schema=COMMANDS.schema,
    )  # fmt: skip
    run = Run(tmp_path / "data", commands=commands)
    assert await run.supervisor.run() == 1
    assert "cannot run: suite does not start: no such folder" in run.text
    assert run.text.count("ended unexpectedly") < supervisor.EARLY_ENDS


async def test_taken_port_is_a_line_and_nothing_was_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        run = Run(tmp_path / "data", port=other.getsockname()[1])
        assert await run.supervisor.run() == 1
    assert len(run.lines) == 2
    assert re.match(
        r"cannot run: cannot listen on 127\.0\.0\.1:\d+ \(.*\); choose another port with PORT=", run.lines[0]
    )
    assert not (tmp_path / "data" / "postgres").exists()


async def test_taken_port_of_the_units_is_a_line_that_names_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("WATTRING_EXPORT__UNIT_PORT", str(other.getsockname()[1]))
        run = Run(tmp_path / "data")
        assert await run.supervisor.run() == 1
    assert "choose another port with WATTRING_EXPORT__UNIT_PORT=" in run.lines[0]


async def test_full_disk_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "DISK_NEEDED_BYTES", 1 << 60)
    run = Run(tmp_path / "data")
    assert await run.supervisor.run() == 1
    assert run.lines[0].startswith("cannot run: disk full: ")


async def test_second_suite_on_the_same_folder_is_refused_and_the_first_runs_on(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")) as first:
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "libs.suite", "--lang", "en", "up",
            env={**os.environ, "WATTRING_DATA_DIR": str(tmp_path / "data"), "PORT": "0"},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await second.communicate()
        assert second.returncode == 1
        assert f"another Wattring (process {os.getpid()}) runs on {tmp_path}/data" in said.decode()
        assert all(start_ticks(pid) is not None for pid in first.pids().values())


async def killed_supervisor(tmp_path: Path) -> tuple[asyncio.subprocess.Process, dict[str, int]]:
    """Run a supervisor until ready and kill it; return it and what it left."""
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests_supervisor import COMMANDS, Run\n"
        "run = Run(__import__('pathlib').Path(sys.argv[2]))\n"
        "asyncio.run(run.supervisor.run())\n"
    )
    (tmp_path / "tests_supervisor.py").symlink_to(__file__)
    doomed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path), str(tmp_path / "data"))
    run = Run(tmp_path / "data")
    await until(lambda: (tmp_path / "data" / "run" / "password-shown").exists() and "jobs" in run.pids())
    left = run.pids()
    doomed.kill()
    await doomed.wait()
    assert all(start_ticks(pid) is not None for pid in left.values()), "what they do goes on"
    return doomed, left


async def test_what_a_killed_supervisor_left_is_stopped_first(tmp_path: Path) -> None:
    _, left = await killed_supervisor(tmp_path)
    async with running(Run(tmp_path / "data")) as ours:
        for name in ("suite", "watchdog", "jobs"):
            assert re.search(rf"{name}\s+left over .*process {left[name]}\): stopping it", ours.text)
        assert not set(left.values()) & set(ours.pids().values())


async def down(folder: Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.suite", "--lang", "en", "down",
        env={**os.environ, "WATTRING_DATA_DIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode().strip()


async def test_down_stops_what_runs_and_waits_for_it(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data")) as run:
        pids = run.pids()
        assert await down(tmp_path / "data") == (0, "stopped")
        assert all(start_ticks(pid) is None for pid in pids.values())
    assert await down(tmp_path / "data") == (0, "nothing is running")
    assert await down(tmp_path / "never used") == (0, "nothing is running")


async def test_down_stops_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    doomed, left = await killed_supervisor(tmp_path)
    code, said = await down(tmp_path / "data")
    assert (code, said.splitlines()[-1]) == (0, "stopped what a killed supervisor had left")
    assert [name for name, pid in left.items() if start_ticks(pid) is not None] == []
    assert doomed.returncode == -signal.SIGKILL


async def test_given_database_with_users_of_its_own_shows_no_password(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "has-users").touch()
    url = "postgresql://u:p@127.0.0.1:1/wattring"
    async with running(Run(folder, database={"url": url})) as run:
        assert "postgres" not in run.pids(), "no embedded server beside a given one"
        await run.until(r"user\s+as before; this database has its users already$")
        assert "password" not in run.text


async def test_lines_in_chinese(tmp_path: Path) -> None:
    async with running(Run(tmp_path / "data", chinese=True)) as run:
        assert "首次启动,正在创建数据库" in run.text
        assert re.search(r"密码\s+\S{16}\s+\(仅显示一次", run.text)
