"""Child processes: start, notice the end, start again with growing pauses, see stalls, stop within a bound.

A child that ends is started again at once the first time, then after pauses that double up to ``BACKOFF_CAP_S``;
one that has run for ``SETTLED_S`` begins anew. A child with a probe that does not answer (or answers that a loop of
its is stuck) ``STALLS`` times in a row is ended and so started again. Children are not ended with their supervisor:
if it is killed, what they do goes on (a breaker that is open is still closed in time), and the next ``wattring up``
stops them before it starts its own.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from libs.common.backoff import Backoff
from libs.common.errors import Bilingual
from libs.suite.folders import write_private

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often a child's end is looked for. [s]"""
BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0
SETTLED_S = 60.0
"""A child that ran this long had started well. [s]"""
PROBE_EVERY_S = 5.0
PROBE_TIMEOUT_S = 5.0
STALLS = 3
"""Failed probes in a row that end a child: with the pauses 20 to 30 s of standstill."""
STARTUP_GRACE_S = 90.0
"""A child that has never answered is given this long. [s]"""
KILL_AFTER_S = 20.0
"""A child that was asked to stop and has not is killed after this. [s]"""
LOG_BYTES_MAX = 20_000_000


class Process(Protocol):
    """What is kept running."""

    name: str

    def spawn(self) -> int:
        """Start it and return its process id."""

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """End it."""

    def why(self) -> Bilingual:
        """Return its last words."""


@dataclass
class Program:
    """A program with its log file, as a child process."""

    name: str
    arguments: Sequence[str]
    log: Path
    environ: Mapping[str, str]
    nice: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def spawn(self) -> int:
        """Start it and return its process id."""
        rotate(self.log)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environ),
                start_new_session=True,  # Ctrl-C is for the supervisor, which then stops all in order
            )
        if self.nice:
            ours = os.getpriority(os.PRIO_PROCESS, 0)  # who is not root may not take less than that
            os.setpriority(os.PRIO_PROCESS, self._process.pid, min(ours + self.nice, 19))
        return self._process.pid

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""
        return 0 if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def why(self) -> Bilingual:
        """Return its last words."""
        return last_words(self.log)


def rotate(log: Path) -> None:
    """Put a log that has grown large aside; one old file is kept."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def trim(log: Path) -> None:
    """Empty a log that has grown large while its process writes to it; a copy of it is kept."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.with_name(log.name + ".1").write_bytes(log.read_bytes())
            os.truncate(log, 0)  # the writer appends (O_APPEND), so it goes on at the new end


def last_words(log: Path) -> Bilingual:
    """Return the last line that says something, out of a text or JSON log; in Chinese as far as the log has it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8000))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return Bilingual("", "")
    for line in reversed(lines):
        try:
            facts = json.loads(line)
        except ValueError:
            return Bilingual(line.strip(), line.strip())
        if isinstance(facts, dict) and facts.get("level") in ("ERROR", "CRITICAL"):
            trace = str(facts.get("exc_info") or "").strip().splitlines()
            words = [str(facts[name]) for name in ("message", "reason") if facts.get(name)]
            text = ": ".join([*words, *trace[-1:]])
            return Bilingual(text, str(facts.get("reason_zh") or text))
    return Bilingual("", "")


class Event(Protocol):
    """Told what happens to children."""

    def started(self, name: str, pid: int, *, again: bool) -> None:
        """A child was started."""

    def ended(self, name: str, code: int, why: Bilingual, *, pause_s: float) -> None:
        """A child ended by itself and is started again after a pause."""

    def stalled(self, name: str, why: str) -> None:
        """A child makes no progress and is ended."""


class Child:
    """Keeps one process running until it is told to stop."""

    def __init__(self, process: Process, events: Event, roster: "Roster", *, probes: Sequence[Path] = ()) -> None:
        """Prepare.

        Args:
            process: What to keep running.
            events: Told of starts and ends.
            roster: Where its process id is written down.
            probes: Sockets whose ``/livez`` must answer 200; none means no check.
        """
        self.process = process
        self.name = process.name
        self.pid: int | None = None
        self.ends = 0
        """How often it has ended by itself."""
        self.mends = True
        """Whether starting it again can help: not when it said that a person has to change something."""
        self._events = events
        self._roster = roster
        self._probes = probes
        self._backoff = Backoff(first_s=BACKOFF_FIRST_S, cap_s=BACKOFF_CAP_S)
        self._started_at = 0.0
        self._answered = False
        self._stopping = False

    def start(self) -> None:
        """Start the process now; ``keep`` then keeps it."""
        self.pid = self.process.spawn()
        self._started_at = time.monotonic()
        self._answered = False
        self._roster.add(self.name, self.pid)
        self._events.started(self.name, self.pid, again=self.ends > 0)

    async def keep(self) -> None:
        """Start the process again whenever it ends; returns when it was stopped."""
        async with asyncio.TaskGroup() as group:
            prober = group.create_task(self._probe(), name=f"probe {self.name}") if self._probes else None
            try:
                await self._restart_for_ever()
            finally:
                if prober is not None:
                    prober.cancel()

    async def _restart_for_ever(self) -> None:
        while True:
            code = await self._end()
            if self._stopping:
                return
            self.ends += 1
            self.mends = code != os.EX_CONFIG
            if time.monotonic() - self._started_at > SETTLED_S:
                self._backoff.reset()
            pause_s = self._backoff.next_s()
            self._events.ended(self.name, code, self.process.why(), pause_s=pause_s)
            await asyncio.sleep(pause_s)
            if self._stopping:
                return
            self.start()

    async def stop(self, *, kill_after_s: float = KILL_AFTER_S) -> bool:
        """Stop the process; return whether it stopped by itself."""
        self._stopping = True
        self.process.terminate()
        try:
            async with asyncio.timeout(kill_after_s):
                await self._end()
        except TimeoutError:
            self.process.kill()
            await self._end()
            return False
        finally:
            self._roster.remove(self.name)
        return True

    async def _end(self) -> int:
        while (code := self.process.poll()) is None:  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(POLL_S)
        return code

    async def _probe(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self.process.poll() is not None:
                failures = 0
                continue
            why = await self._complaint()
            if self._stopping:
                return  # it has closed its doors and ends what it began: asked a second time it would break that off
            if why is None:
                self._answered, failures = True, 0
                continue
            if not self._answered and time.monotonic() - self._started_at < STARTUP_GRACE_S:
                continue
            failures += 1
            if failures >= STALLS:
                failures = 0
                self._events.stalled(self.name, why)
                await self._end_stalled()

    async def _end_stalled(self) -> None:
        self.process.terminate()
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await self._end()
        except TimeoutError:
            self.process.kill()

    async def _complaint(self) -> str | None:
        """Return what is wrong by the probes, None when all answer well."""
        for socket in self._probes:
            status, body = await get(socket, "/livez", timeout_s=PROBE_TIMEOUT_S)
            if status != 200:
                return f"{socket.stem}: {body or 'no answer'}"
        return None


async def get(socket: Path, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> tuple[int, str]:
    """Return status and body of a GET over a Unix socket; status 0 when there is no answer in time."""
    return await ask(socket, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", timeout_s)


async def post(socket: Path, path: str, body: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> tuple[int, str]:
    """Return status and body of a POST of JSON over a Unix socket; status 0 when there is no answer in time."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return await ask(socket, f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}", timeout_s)


async def ask(socket: Path, request: str, timeout_s: float) -> tuple[int, str]:
    """Send a request and return status and body; an HTTP library would double the supervisor's memory."""
    writer: asyncio.StreamWriter | None = None
    answer = b""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(request.encode())
            while chunk := await reader.read(1 << 16):
                answer += chunk
    except (OSError, TimeoutError):
        return 0, ""
    finally:
        if writer is not None:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return 0, ""
    return status, body.decode(errors="replace")


class Roster:
    """The process ids of the children, on disk, so that the next supervisor finds what this one left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, list[int]] = {}

    def add(self, name: str, pid: int) -> None:
        """Write a child down."""
        self._entries[name] = [pid, start_ticks(pid) or 0]
        self._save()

    def remove(self, name: str) -> None:
        """Strike a child out."""
        if self._entries.pop(name, None) is not None:
            self._save()

    def left_behind(self) -> dict[str, int]:
        """Return the children of an earlier supervisor that are still alive, by name."""
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        # The start time tells a child from a stranger that was given its process id later.
        return {name: pid for name, (pid, ticks) in entries.items() if start_ticks(pid) == ticks}

    def _save(self) -> None:
        try:
            write_private(self._path, json.dumps(self._entries))
        except OSError as exc:  # on a full disk children are still started again and stopped in order
            logger.warning("process ids were not written down", extra={"reason": exc.strerror})


def start_ticks(pid: int) -> int | None:
    """Return when a process was started (clock ticks since boot), None when there is none of that id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def end_left_behind(roster: Roster, *, kill_after_s: float = KILL_AFTER_S, said: Callable[[str, int], None]) -> None:
    """Stop the children of a supervisor that died, before new ones are started."""
    left = roster.left_behind()
    ticks = {pid: start_ticks(pid) for pid in left.values()}
    for name, pid in left.items():
        said(name, pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + kill_after_s
    while any(start_ticks(pid) == ticks[pid] for pid in left.values()):
        if time.monotonic() > deadline:
            for pid in left.values():
                if start_ticks(pid) == ticks[pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 5.0
        time.sleep(POLL_S)
