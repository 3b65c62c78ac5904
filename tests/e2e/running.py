"""Programs of ours as a user runs them: a command to its end, or one that runs, with what it says and answers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

PATIENCE_S = 90.0
STOP_S = 90.0


def environment(folder: Path, **ours: str) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WATTRING_", "KAFKA_", "DATABASE_", "PORT"))
    }
    return {**clean, "WATTRING_DATA_DIR": str(folder), "WATTRING_EXPORT__UNIT_PORT": "0", "PORT": "0", **ours}


def wattring(*arguments: str, env: Mapping[str, str], lang: str = "en") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "libs.suite", "--lang", lang, *arguments],
        env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


class Running:
    """A program of ours that runs, what it says, and what it answers."""

    def __init__(self, *arguments: str, env: Mapping[str, str], output: Path) -> None:
        self._output = output
        self.env = env
        with output.open("wb") as target:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "libs.suite", "--lang", "en", *arguments],
                env=env, stdout=target, stderr=target, start_new_session=True,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE_S
        while not (got := found()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text}"
            assert time.monotonic() < end, f"no {what}:\n{self.text}"
            time.sleep(0.05)
        return got

    def said(self, pattern: str) -> re.Match[str]:
        found: re.Match[str] = self.until(pattern, lambda: re.search(pattern, self.text, re.MULTILINE))
        return found

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.env['PORT']}{path}", timeout=PATIENCE_S, trust_env=False)

    def monitored(self, path: str) -> httpx.Response:
        """Return what monitoring is told, on the internal listener."""
        url = f"http://127.0.0.1:{self.env['WATTRING_INTERNAL_PORT']}{path}"
        return httpx.get(url, timeout=PATIENCE_S, trust_env=False)

    def readiness(self) -> tuple[int, dict[str, str], dict[str, str]]:
        """Return status and reasons, in both languages; 0 while nobody listens."""
        try:
            answer = self.monitored("/readyz")
        except httpx.TransportError:
            return 0, {}, {}
        found = answer.json()
        return answer.status_code, found.get("reasons", {}), found.get("reasons_zh", {})

    def not_ready_for(self, part: str) -> tuple[str, str]:
        """Return why it is not ready, in both languages, once ``part`` stands in it."""

        def found() -> tuple[str, str] | None:
            status, reasons, reasons_zh = self.readiness()
            text = " ".join(reasons.values())
            return (text, " ".join(reasons_zh.values())) if status == 503 and part in text else None

        why: tuple[str, str] = self.until(f"{part!r} in /readyz", found)
        return why

    def ready(self) -> None:
        self.until("readiness", lambda: self.readiness()[0] == 200)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(STOP_S)
        finally:
            self.process.kill()
        if kind is None:
            assert code == 0, self.text
