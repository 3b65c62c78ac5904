"""Serial lines without hardware: pairs of pseudo terminals, by socat."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conftest import missing


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Two pseudo terminals that are the ends of one line."""
    if shutil.which("socat") is None:
        missing("socat")
    ends = (folder / "ttyA", folder / "ttyB")
    options = "pty,raw,echo=0,link="
    process = await asyncio.create_subprocess_exec("socat", f"{options}{ends[0]}", f"{options}{ends[1]}")
    try:
        async with asyncio.timeout(20):
            while not all(end.exists() for end in ends):  # noqa: ASYNC110  # socat tells nobody
                await asyncio.sleep(0.01)
        yield str(ends[0]), str(ends[1])
    finally:
        process.kill()
        await process.wait()
