"""Children are started again, stalls are noticed, a stop has a bound, and nothing of a dead supervisor is left."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libs.common.errors import Bilingual
from libs.suite import children
from libs.suite.children import Child, Program, Roster, end_left_behind, get, last_words, post, start_ticks, trim

pytestmark = pytest.mark.integration

OBEDIENT = "import time\nprint('up', flush=True)\nwhile True: time.sleep(60)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{OBEDIENT}"
SHORT_LIVED = "import sys\nprint('the disk is missing', flush=True)\nsys.exit(3)"
SERVER = """
import http.server, os, socketserver, sys
status = int(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b'looking')
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers['content-length'])))
    def answer(self, body):
        self.send_response(status); self.end_headers(); self.wfile.write(body)
    def address_string(self): return 'local'
    def log_message(self, *args): pass
if os.path.exists(sys.argv[1]): os.unlink(sys.argv[1])
with socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler) as server: server.serve_forever()
"""

DRAINING = f"""
import signal, time
def drain(*_):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))  # the second one is force
    server.socket.close()
    time.sleep(1.5)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
{SERVER}"""


class Seen:
    """Records what happens to children."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.changed = asyncio.Event()

    def _add(self, *event: str) -> None:
        self.events.append(event)
        self.changed.set()

    def started(self, name: str, pid: int, *, again: bool) -> None:
        self._add("again" if again else "started", name)

    def ended(self, name: str, code: int, why: Bilingual, *, pause_s: float) -> None:
        self._add("ended", name, str(code), why.english)

    def stalled(self, name: str, why: str) -> None:
        self._add("stalled", name, why)

    async def until(self, condition: Callable[[list[tuple[str, ...]]], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition(self.events):
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(children, "POLL_S", 0.01)
    monkeypatch.setattr(children, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(children, "STARTUP_GRACE_S", 0.5)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def program(tmp_path: Path, code: str, *arguments: str, name: str = "child") -> Program:
    return Program(name, [sys.executable, "-c", code, *arguments], tmp_path / f"{name}.log", dict(os.environ))


@asynccontextmanager
async def kept(child: Child) -> AsyncIterator[None]:
    child.start()
    task = asyncio.create_task(child.keep())
    try:
        yield
    finally:
        await child.stop(kill_after_s=5)
        async with asyncio.timeout(10):
            await task


async def test_child_that_ends_is_started_again_with_its_last_words(tmp_path: Path) -> None:
    seen, roster = Seen(), Roster(tmp_path / "roster.json")
    child = Child(program(tmp_path, SHORT_LIVED), seen, roster)
    async with kept(child):
        await seen.until(lambda events: events.count(("again", "child")) >= 2)
    assert seen.events[:3] == [("started", "child"), ("ended", "child", "3", "the disk is missing"), ("again", "child")]
    assert child.ends >= 2


async def test_killed_child_is_started_again_under_another_process(tmp_path: Path) -> None:
    seen, roster = Seen(), Roster(tmp_path / "roster.json")
    child = Child(program(tmp_path, OBEDIENT), seen, roster)
    async with kept(child):
        first = child.pid
        assert first is not None
        await until(lambda: (tmp_path / "child.log").read_text() == "up\n")
        assert Roster(tmp_path / "roster.json").left_behind() == {"child": first}
        os.kill(first, signal.SIGKILL)
        await seen.until(lambda events: ("again", "child") in events)
        assert child.pid != first
        assert Roster(tmp_path / "roster.json").left_behind() == {"child": child.pid}
    assert ("ended", "child", "-9", "up") in seen.events
    assert Roster(tmp_path / "roster.json").left_behind() == {}


async def test_stop_waits_for_the_obedient_and_kills_the_stubborn(tmp_path: Path) -> None:
    seen, roster = Seen(), Roster(tmp_path / "roster.json")
    obedient = Child(program(tmp_path, OBEDIENT, name="obedient"), seen, roster)
    stubborn = Child(program(tmp_path, STUBBORN, name="stubborn"), seen, roster)
    for child in (obedient, stubborn):
        child.start()
    await until(lambda: all((tmp_path / f"{child.name}.log").read_text() == "up\n" for child in (obedient, stubborn)))
    assert await obedient.stop(kill_after_s=20) is True
    assert await stubborn.stop(kill_after_s=0.2) is False
    assert stubborn.process.poll() == -signal.SIGKILL


async def test_child_that_ends_what_it_began_is_not_taken_for_a_stalled_one(tmp_path: Path) -> None:
    seen, roster, socket = Seen(), Roster(tmp_path / "roster.json"), tmp_path / "s"
    child = Child(program(tmp_path, DRAINING, str(socket), "200"), seen, roster, probes=[socket])
    async with kept(child):
        await until(lambda: child._answered)
        assert await child.stop(kill_after_s=20) is True
    assert child.process.poll() == 0
    assert seen.events == [("started", "child")]


async def test_child_that_answers_badly_is_ended_and_started_again(tmp_path: Path) -> None:
    seen, roster, socket = Seen(), Roster(tmp_path / "roster.json"), tmp_path / "s"
    child = Child(program(tmp_path, SERVER, str(socket), "503"), seen, roster, probes=[socket])
    async with kept(child):
        bad = ("stalled", "child", "s: looking")  # on a busy machine it may be ended before it could answer at all
        await seen.until(lambda events: bad in events and ("again", "child") in events[events.index(bad) :])


async def test_frozen_child_is_ended_and_a_healthy_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "PROBE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(children, "KILL_AFTER_S", 0.2)
    seen, roster = Seen(), Roster(tmp_path / "roster.json")
    healthy = Child(
        program(tmp_path, SERVER, str(tmp_path / "h"), "200", name="healthy"), seen, roster, probes=[tmp_path / "h"]
    )
    frozen = Child(
        program(tmp_path, SERVER, str(tmp_path / "f"), "200", name="frozen"), seen, roster, probes=[tmp_path / "f"]
    )
    async with kept(healthy), kept(frozen):
        await until((tmp_path / "f").exists)
        assert frozen.pid is not None
        os.kill(frozen.pid, signal.SIGSTOP)
        await seen.until(lambda events: ("again", "frozen") in events)
    assert ("stalled", "frozen", "f: no answer") in seen.events
    assert [event for event in seen.events if event[1] == "healthy"] == [("started", "healthy")]


async def test_requests_over_a_socket(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    child = Child(program(tmp_path, SERVER, str(socket), "200"), Seen(), Roster(tmp_path / "r"))
    assert await get(socket, "/readyz") == (0, "")
    async with kept(child):
        await until(socket.exists)
        assert await post(socket, "/x", '{"name": "电表"}') == (200, '{"name": "电表"}')


def test_what_a_killed_supervisor_left_is_ended_and_strangers_are_not(tmp_path: Path) -> None:
    ours = subprocess.Popen([sys.executable, "-c", OBEDIENT], stdout=subprocess.DEVNULL)
    stranger = subprocess.Popen([sys.executable, "-c", OBEDIENT], stdout=subprocess.DEVNULL)
    try:
        roster = Roster(tmp_path / "roster.json")
        roster.add("suite", ours.pid)
        roster.add("jobs", stranger.pid)
        entries = json.loads((tmp_path / "roster.json").read_text())
        assert entries["jobs"] == [stranger.pid, start_ticks(stranger.pid)]
        entries["jobs"][1] -= 100  # the process id was given to somebody else since
        (tmp_path / "roster.json").write_text(json.dumps(entries))
        said: list[str] = []
        end_left_behind(Roster(tmp_path / "roster.json"), said=lambda name, pid: said.append(name))
        assert said == ["suite"]
        assert ours.wait(10) == -signal.SIGTERM
        assert stranger.poll() is None
    finally:
        for process in (ours, stranger):
            process.kill()
            process.wait(10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("Traceback …\nValueError: no\n\n", "ValueError: no", id="text"),
        pytest.param(
            '{"level": "CRITICAL", "message": "cannot run", "reason": "no keys"}\n{"level": "INFO", "message": "x"}\n',
            "cannot run: no keys",
            id="reason in JSON",
        ),
        pytest.param(
            '{"level": "ERROR", "message": "stopped", "exc_info": "Traceback\\n  x\\nKeyError: 1"}\n',
            "stopped: KeyError: 1",
            id="exception in JSON",
        ),
        pytest.param('{"level": "INFO", "message": "stopped"}\n', "", id="nothing wrong"),
    ],
)
def test_last_words(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_words(tmp_path / "log") == (expected, expected)


def test_last_words_in_chinese(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '{"level": "CRITICAL", "message": "cannot run", "reason": "no keys", "reason_zh": "没有密钥"}\n'
    )
    assert last_words(tmp_path / "log") == ("cannot run: no keys", "没有密钥")


def test_log_that_grew_is_emptied_and_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES_MAX", 10)
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a line that is long enough\n")
        trim(log)
        writer.write(b"next\n")
        trim(log)
    assert log.read_bytes() == b"next\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"a line that is long enough\n"


def test_full_disk_does_not_keep_children_from_being_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roster = Roster(tmp_path / "children.json")
    roster.add("suite", os.getpid())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(children, "write_private", full)
    roster.add("watchdog", os.getpid())
    roster.remove("suite")
    assert set(roster.left_behind()) == {"suite"}, "what was written last stands"
