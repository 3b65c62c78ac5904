"""One node of Apache Kafka with a folder and ports of its own, for tests and benchmarks that need a broker alone."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from libs.common.errors import PlatformError
from libs.suite.ports import free_port

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "kafka.sh"
START_TIMEOUT_S = 110.0
STOP_TIMEOUT_S = 60.0


class KafkaNodeError(PlatformError):
    """The node cannot be started or stopped; the message is the script's."""

    code = "kafka_node"
    title_zh = "Kafka 节点错误"


@dataclass
class KafkaNode:
    """A node that is started and stopped by ``deploy/kafka/kafka.sh``; its data stay in the folder."""

    folder: Path
    java_options: str = ""
    """``-XX:TieredStopAtLevel=1`` starts in half the time and runs slower."""
    settings: str = ""
    """Further lines of its settings, which win."""
    format_options: str = ""
    """For its first start, such as users to be created."""
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Address of the node."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process, once it was started."""
        return int((self.folder / "pid").read_text())

    def start(self) -> None:
        """Start the node and wait until it answers.

        Raises:
            KafkaNodeError: It does not come up; with the reason.
        """
        self._run("start", START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop the node; the next start continues with its data.

        Raises:
            KafkaNodeError: It does not stop.
        """
        self._run("stop", STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the node as a crash does; the next start continues with its data."""
        self.signal(signal.SIGKILL)
        end = time.monotonic() + STOP_TIMEOUT_S
        while self._alive() and time.monotonic() < end:
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send the node a signal: SIGSTOP lets it hang, SIGCONT go on."""
        if self._alive():
            os.kill(self.pid, number)

    def _alive(self) -> bool:
        """Return whether the process of the pid file is this node."""
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (OSError, ValueError):
            return False
        return f"kafka.Kafka {self.folder}/".encode() in command  # a dead one that nobody has waited for has none

    def _run(self, action: str, timeout_s: float) -> None:
        further = self.folder / "further.properties"
        if self.settings:
            self.folder.mkdir(parents=True, exist_ok=True)
            further.write_text(self.settings, encoding="utf-8")
        environ = {
            **os.environ,
            "KAFKA_DATA": str(self.folder),
            "KAFKA_SETTINGS": str(further) if self.settings else "",
            "KAFKA_FORMAT": self.format_options,
            "KAFKA_PORT": str(self.port),
            "KAFKA_CONTROLLER_PORT": str(self.controller_port),
            "KAFKA_JAVA_OPTS": self.java_options,
        }
        try:
            done = subprocess.run(
                [SCRIPT, action], env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise KafkaNodeError(f"kafka.sh {action}: {exc}", message_zh=f"kafka.sh {action}:{exc}") from exc
        if done.returncode:
            reason = done.stderr.strip() or f"kafka.sh {action} ended with {done.returncode}"
            raise KafkaNodeError(reason, message_zh=reason)
