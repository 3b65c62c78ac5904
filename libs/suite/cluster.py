"""The distributed shape on one machine: every service a process of its own, for tests and benchmarks.

The bus and the database are given; what is started here is exactly what a container runs (``python -m services.…``),
with a port, a folder and the keys of its own. A process that ends is started again only by ``revive``, after a pause,
as an orchestrator would; every end is noted, so that a test can say which of them it caused.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from libs.common.clock import SystemClock
from libs.common.settings import SERVICES, load_common
from libs.common.tokens import ISSUERS, KeyRing
from libs.suite.api import LocalApi
from libs.suite.jobworker import services_with_jobs
from libs.suite.ports import free_port

WATCHDOG = "watchdog"
JOBS = {f"{name}-jobs": f"services.{name}.jobs" for name in services_with_jobs()}
MODULES = {**{name: f"services.{name}" for name in SERVICES}, WATCHDOG: "services.control.watchdog", **JOBS}
"""What runs as what, by the names of deploy/compose.yaml."""
ADDRESSED = (*SERVICES, WATCHDOG)
"""Who is called by others, and therefore has a place in ``WATTRING_SERVICE_URLS``."""
ON_ONE_MACHINE: Mapping[str, str] = {
    "WATTRING_BUS__SITE_PARTITIONS": "8",
    "WATTRING_INGEST__SWITCHING__CLOCK_SYNC": "assumed",
    "WATTRING_CONTROL__CLOCK_SYNC": "assumed",
}
"""What a broker of one node and a machine whose clock nobody synchronises need, and an installation does not."""
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
PATIENCE_S = 0.05


class ClusterError(RuntimeError):
    """A process does not do what it should; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A process that ended without ``stop``."""

    name: str
    code: int
    """Negative: the signal that killed it."""
    at: float
    """Monotonic time at which it was noticed. [s]"""
    by_us: bool
    """By ``kill``."""


@dataclass
class Cluster:
    """The processes of deploy/compose.yaml: six services, the watchdog, and a worker where a service has jobs."""

    folder: Path
    database_url: str
    """Of an administrator, who migrates; and of every process that ``database_urls`` does not name."""
    kafka: str
    environ: Mapping[str, str] = field(default_factory=dict)
    """Added to every process."""
    names: Iterable[str] = tuple(MODULES)
    database_urls: Mapping[str, str] = field(default_factory=dict)
    """By service: its own user, as compose and the manifests have it."""
    endings: list[Ending] = field(default_factory=list, init=False)
    ports: dict[str, int] = field(init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _ended: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Choose ports and make keys."""
        self.names = tuple(self.names)
        self.ports = {name: free_port() for name in MODULES}
        everybody = self.folder / "keys" / "all"
        KeyRing.create(everybody)
        for issuer in ISSUERS:  # as deploy/setup/compose-secrets does
            own = self._keys(issuer)
            own.mkdir(exist_ok=True)
            for file in (*everybody.glob("*.pub"), everybody / f"{issuer}.key"):
                shutil.copy2(file, own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def gateway(self) -> str:
        """Address of the one door."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def settings(self, name: str) -> dict[str, str]:
        """Return the environment of a process."""
        service = service_of(name)
        urls = {name: f"http://127.0.0.1:{self.ports[name]}" for name in ADDRESSED}
        carriers = {
            "DATABASE_URL": self.database_urls.get(service, self.database_url),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
        }
        ours = ("WATTRING_", "PORT", *carriers)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            **({} if name == WATCHDOG else carriers),  # it works without them, so it is given none
            "PORT": str(self.ports[name]),
            "WATTRING_DATA_DIR": str(self.folder / name),
            "WATTRING_KEYS_DIR": str(self._keys(WATCHDOG if name == WATCHDOG else service)),
            "WATTRING_SERVICE_URLS": orjson.dumps(urls).decode(),
            **ON_ONE_MACHINE,
            **self.environ,
        }

    def prepare(self) -> None:
        """Migrate the database and create the topics, as the containers before a service do.

        Raises:
            ClusterError: It fails; with what it said.
        """
        done = subprocess.run(  # our own program
            [sys.executable, "-m", "libs.common.prepare", "--phase", "post"],
            env={**self.settings("ingest"), "DATABASE_URL": self.database_url},
            capture_output=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"prepare: {done.stdout.decode()}{done.stderr.decode()}")

    def start(self, *names: str) -> None:
        """Start processes; all of them when none is named."""
        for name in names or tuple(self.names):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._ended.pop(name, None)
            with self.log(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(  # our own program
                    [sys.executable, "-m", MODULES[name]],
                    env=self.settings(name),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def log(self, name: str) -> Path:
        """Return the file with everything that a process has said."""
        return self.folder / f"{name}.log"

    def wait_ready(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until processes can do their work.

        Raises:
            ClusterError: One ended, or is not ready in time; with its reasons.
        """
        end = time.monotonic() + timeout_s
        for name in names or tuple(self.names):
            while (said := self._not_ready(name)) is not None:
                if time.monotonic() > end:
                    raise ClusterError(f"{name} is not ready: {said}\n{self.last_words(name)}")
                time.sleep(PATIENCE_S)

    def _not_ready(self, name: str) -> str | None:
        """Return why a process cannot work yet, None when it can."""
        code = self._processes[name].poll()
        if code is not None:
            raise ClusterError(f"{name} ended with {code}\n{self.last_words(name)}")
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{self.ports[name]}/readyz",
                headers=self.credentials("jobs" if name in JOBS else name),
                timeout=6.0,
                trust_env=False,
            )
        except httpx.HTTPError as exc:
            return str(exc) or type(exc).__name__
        return None if answer.status_code == 200 else answer.text

    def pid(self, name: str) -> int:
        """Return the process that runs under a name."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """End a process as a crash does; it stays away until it is started or revived."""
        process = self._processes.pop(name)
        process.kill()
        self._note(name, process.wait(timeout=STOP_TIMEOUT_S), by_us=True)

    def revive(self, pause_s: float) -> None:
        """Start what has ended, at the earliest ``pause_s`` after its end was noticed; call it again and again."""
        for name, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                del self._processes[name]
                self._note(name, code, by_us=False)
        for name, at in list(self._ended.items()):
            if time.monotonic() - at >= pause_s:
                self.start(name)

    def _note(self, name: str, code: int, *, by_us: bool) -> None:
        now = time.monotonic()
        self.endings.append(Ending(name, code, now, by_us))
        self._ended[name] = now

    def stop(self) -> dict[str, int]:
        """Stop all processes cleanly and return how each ended; what does not stop in time is killed."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_TIMEOUT_S
        codes: dict[str, int] = {}
        for name, process in self._processes.items():
            try:
                codes[name] = process.wait(timeout=max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait(timeout=STOP_TIMEOUT_S)
        self._processes.clear()
        self._ended.clear()
        return codes

    def last_words(self, name: str, count: int = 25) -> str:
        """Return the end of a process's log."""
        if not self.log(name).exists():
            return ""
        return "\n".join(self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

    def api(self) -> LocalApi:
        """Return a client of the gateway with the command line's key; enter it to use it."""
        environ = self.settings("gateway")
        ours = ("PORT", "WATTRING_SERVICE_URLS")
        settings = {name: environ[name] for name in ours}
        settings |= {"WATTRING_DATA_DIR": str(self.folder / "cli"), "WATTRING_KEYS_DIR": str(self._keys("cli"))}
        return LocalApi(load_common(settings))

    def call(self, service: str, method: str, path: str, **arguments: Any) -> Any:
        """Call a service itself, with the command line's key.

        Raises:
            ClusterError: It refuses.
        """
        answer = httpx.request(
            method,
            f"http://127.0.0.1:{self.ports[service]}{path}",
            headers=self.credentials(service),
            timeout=60.0,
            trust_env=False,
            **arguments,
        )
        if answer.is_error:
            raise ClusterError(f"{method} {path}: {answer.status_code} {answer.text}")
        return orjson.loads(answer.content) if answer.content else None

    def credentials(self, audience: str) -> dict[str, str]:
        """Return the header by which a process knows the command line."""
        return {"authorization": f"Bearer {self._ring.sign_token('cli', audience=audience, scopes=['*:*'])}"}

    @cached_property
    def _ring(self) -> KeyRing:
        return KeyRing.open(self._keys("cli"), SystemClock())

    def _keys(self, issuer: str) -> Path:
        return self.folder / "keys" / issuer


def service_of(name: str) -> str:
    """Return the service that a process belongs to: its image, its schema, its user of the database."""
    return "control" if name == WATCHDOG else name.removesuffix("-jobs")
