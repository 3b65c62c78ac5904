"""Peers as processes of their own, which take orders as lines of JSON and answer each with one."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.conftest import ROOT
from tests.peers.environments import peer_python

START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 30.0


class Peer:
    """A running peer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, **order: Any) -> Any:
        """Give an order and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(orjson.dumps(order) + b"\n")
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return orjson.loads(await self.process.stdout.readline())

    async def kill(self) -> None:
        """End it without a word."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def peer(environment: str, script: str, *arguments: str) -> AsyncIterator[Peer]:
    """Run ``tests/peers/<script>`` in an environment that ``deploy/setup/test-peers`` made, until it says "ready"."""
    process = await asyncio.create_subprocess_exec(
        peer_python(environment), ROOT / "tests" / "peers" / script, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "TZ": "UTC"},
    )  # fmt: skip
    found = Peer(process)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_WITHIN_S):
            assert await process.stdout.readline() == b"ready\n"
        yield found
    finally:
        await found.kill()


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
