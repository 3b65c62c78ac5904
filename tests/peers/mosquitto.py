"""A mosquitto of the test's own: started, stopped and started again on one port, with what a broker keeps on disk."""

import asyncio
import shutil
import socket
from pathlib import Path

from tests.conftest import missing


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """One broker; ``extra`` are further lines of its configuration, which may hold ``{folder}``."""

    def __init__(self, folder: Path, *extra: str, anonymous: bool = True) -> None:
        program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
        if program is None:
            missing("mosquitto; `deploy/setup/backing-services` installs it")
        self._program: str = program
        self._folder = folder
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(anonymous).lower()}",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 1",
            "max_queued_messages 0",
            "log_dest file {folder}/log",
            "log_type all",
            *extra,
        ]
        if not any(line.startswith("user ") for line in extra):
            lines.append("user root")  # or it would drop to an account that may not write here
        (folder / "conf").write_text("\n".join(lines).replace("{folder}", str(folder)) + "\n")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it wrote since it was first started."""
        return (self._folder / "log").read_text()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(self._program, "-c", self._folder / "conf")
        async with asyncio.timeout(20):
            while not await self._answers():  # it tells nobody
                assert self._process.returncode is None, self.log()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop it in order: it saves sessions and messages."""
        await self._end("terminate")

    async def kill(self) -> None:
        await self._end("kill")

    async def _end(self, how: str) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            getattr(process, how)()
            await process.wait()

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def __aenter__(self) -> "Mosquitto":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
