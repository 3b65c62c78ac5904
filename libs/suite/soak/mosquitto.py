"""A mosquitto of the soak's own, as a separate process; what it keeps for others survives an orderly stop."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

from libs.common.errors import PlatformError
from libs.suite.ports import free_port

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


class NoMosquitto(PlatformError):
    """There is no mosquitto, or it does not start."""

    code = "no_mosquitto"
    title_zh = "缺少 mosquitto"


class Mosquitto:
    """One broker on a port of its own."""

    def __init__(self, folder: Path) -> None:
        """Prepare. Raises ``NoMosquitto``."""
        program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
        if program is None:
            raise NoMosquitto(
                "there is no mosquitto; deploy/setup/backing-services installs it",
                message_zh="未找到 mosquitto,可用 deploy/setup/backing-services 安装",
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._command = (program, "-c", str(folder / "conf"))
        self._log = folder / "log"
        self.port = free_port()
        lines = (
            f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence true",
            f"persistence_location {folder}/", "max_queued_messages 0", f"log_dest file {self._log}", "user root",
        )  # fmt: skip
        (folder / "conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens. Raises ``NoMosquitto``."""
        self._process = subprocess.Popen(self._command, start_new_session=True)
        end = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                raise NoMosquitto(f"mosquitto does not start; see {self._log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it in order: it saves sessions and messages."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(timeout=STOP_TIMEOUT_S)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True
