"""The distributed shape on one machine: every service a process of its own, for tests and benchmarks.

The bus and the database are given; what is started here is exactly what a container runs (``python -m services.…``),
with ports and folders of its own. Processes are not kept running: a test kills them and starts them again, as an
orchestrator would.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from libs.common.clock import SystemClock
from libs.common.settings import SERVICES
from libs.common.tokens import KeyRing

WATCHDOG = "watchdog"
MODULES = {name: f"services.{name}" for name in SERVICES} | {WATCHDOG: "services.control.watchdog"}
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
PATIENCE_S = 0.05


class ClusterError(RuntimeError):
    """A process does not do what it should; the message holds the end of its log."""


@dataclass
class Cluster:
    """Seven processes: six services and the watchdog."""

    folder: Path
    database_url: str
    kafka: str
    environ: Mapping[str, str] = field(default_factory=dict)
    """Added to every process."""
    names: Iterable[str] = tuple(MODULES)
    ports: dict[str, int] = field(init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Choose ports and make keys."""
        self.names = tuple(self.names)
        self.ports = {name: free_port() for name in MODULES}
        KeyRing.create(self.folder / "keys")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def gateway(self) -> str:
        """Address of the one door."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def settings(self) -> dict[str, str]:
        """Return the variables that all processes share."""
        urls = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WATTRING_", "PORT"))},
            "DATABASE_URL": self.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "WATTRING_KEYS_DIR": str(self.folder / "keys"),
            "WATTRING_SERVICE_URLS": orjson.dumps(urls).decode(),
            "WATTRING_BUS__SITE_PARTITIONS": "8",
            "WATTRING_INGEST__SWITCHING__CLOCK_SYNC": "assumed",
            "WATTRING_CONTROL__CLOCK_SYNC": "assumed",
            **self.environ,
        }

    def prepare(self) -> None:
        """Migrate the database and create the topics, as the jobs before a deployment do."""
        environ = {**self.settings(), "WATTRING_DATA_DIR": str(self.folder / "prepare")}
        for arguments in (["migrate", "--phase", "post"], ["topics"]):
            done = subprocess.run(  # our own program
                [sys.executable, "-m", "libs.suite", *arguments],
                env=environ,
                capture_output=True,
                timeout=180,
                check=False,
            )
            if done.returncode:
                raise ClusterError(f"wattring {arguments[0]}: {done.stdout.decode()}{done.stderr.decode()}")

    def start(self, *names: str) -> None:
        """Start processes; all of them when none is named."""
        for name in names or tuple(self.names):
            data = self.folder / name
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.log(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(  # our own program
                    [sys.executable, "-m", MODULES[name]],
                    env={**self.settings(), "WATTRING_DATA_DIR": str(data), "PORT": str(self.ports[name])},
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
            said = ""
            while True:
                code = self._processes[name].poll()
                if code is not None:
                    raise ClusterError(f"{name} ended with {code}\n{self.last_words(name)}")
                try:
                    answer = httpx.get(f"http://127.0.0.1:{self.ports[name]}/readyz", timeout=6.0, trust_env=False)
                    if answer.status_code == 200:
                        break
                    said = answer.text
                except httpx.HTTPError as exc:
                    said = str(exc)
                if time.monotonic() > end:
                    raise ClusterError(f"{name} is not ready: {said}\n{self.last_words(name)}")
                time.sleep(PATIENCE_S)

    def kill(self, name: str) -> None:
        """End a process as a crash does."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(timeout=STOP_TIMEOUT_S)

    def stop(self) -> None:
        """Stop all processes cleanly; what does not stop in time is killed."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(timeout=max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=STOP_TIMEOUT_S)
        self._processes.clear()

    def last_words(self, name: str, count: int = 25) -> str:
        """Return the end of a process's log."""
        if not self.log(name).exists():
            return ""
        return "\n".join(self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

    def call(self, service: str, method: str, path: str, **arguments: Any) -> Any:
        """Call a service itself, with the command line's key.

        Raises:
            ClusterError: It refuses.
        """
        keys = KeyRing.open(self.folder / "keys", SystemClock())
        token = keys.sign_token("cli", audience=service, scopes=["*:*"])
        answer = httpx.request(
            method,
            f"http://127.0.0.1:{self.ports[service]}{path}",
            headers={"authorization": f"Bearer {token}"},
            timeout=60.0,
            trust_env=False,
            **arguments,
        )
        if answer.is_error:
            raise ClusterError(f"{method} {path}: {answer.status_code} {answer.text}")
        return orjson.loads(answer.content) if answer.content else None


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
