"""What the probes of a service answer: whether its loops make progress, and what keeps it from working."""

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common.clock import Clock
from libs.common.errors import Bilingual, PlatformError, Unavailable

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
"""A condition of readiness that is not answered within this does not hold. [s]"""

DISK_FULL_BYTES = 32 << 20
"""With less, what must be durable will soon not be. [B]"""

Beat = Callable[[], None]


@dataclass(frozen=True)
class Worker:
    """A loop that runs as long as the process."""

    name: str
    run: Callable[[Beat], Awaitable[None]]
    """Called with ``beat``; calls it at least every ``max_silence_s`` and never returns by itself."""
    max_silence_s: float = 60.0


@dataclass(frozen=True)
class Check:
    """One condition of readiness."""

    name: str
    probe: Callable[[], Awaitable[None]]
    """Raises ``PlatformError`` with the reason when the condition does not hold."""


def flag_check(name: str, holds: Callable[[], bool], otherwise: str, otherwise_zh: str) -> Check:
    """Return the check of a plain condition; ``otherwise`` says what is awaited while it does not hold."""

    async def probe() -> None:
        if not holds():
            raise Unavailable(otherwise, message_zh=otherwise_zh)

    return Check(name, probe)


def group_check(name: str, holds: Callable[[], bool], group: str) -> Check:
    """Return the check that a consumer group has its positions."""
    return flag_check(name, holds, f"the group {group} has no positions yet", f"消费组 {group} 尚未就绪")


def disk_check(folder: Path) -> Check:
    """Return the check that the disk of a folder has room; one that is not there, or not ours to write, needs none."""

    async def probe() -> None:
        if not os.access(folder, os.W_OK):
            return
        free = shutil.disk_usage(folder).free
        if free < DISK_FULL_BYTES:
            raise Unavailable(
                f"disk full: {free >> 20} MB left at {folder}; free some space",
                message_zh=f"磁盘已满:{folder} 仅剩 {free >> 20} MB,请清理空间",
            )

    return Check("disk", probe)


class Health:
    """What the probes of one service answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beats: dict[str, tuple[float, float]] = {}
        self._said_stuck: list[str] = []
        self._said_reasons: frozenset[str] = frozenset()
        self.starting: Bilingual | None = Bilingual("starting", "启动中")
        """Why the service has not started yet; None once it has."""
        self.draining = False
        self.streams: set[asyncio.Task[Any]] = set()
        """Requests whose answer ends only when we end it; ``drain`` cancels them."""
        self.checks: Sequence[Check] = ()
        self.always_open: tuple[str, ...] = ()
        """Beginnings of paths that are served before the service has started: they need no dependency."""

    def beat(self, worker: Worker) -> Beat:
        """Return the function by which a worker says that it makes progress."""

        def beat() -> None:
            self._beats[worker.name] = (self._clock.monotonic(), worker.max_silence_s)

        beat()
        return beat

    def drain(self) -> None:
        """Answer 503 on ``/readyz`` from now on, and end the live streams."""
        self.draining = True
        for task in tuple(self.streams):
            task.cancel()

    def stuck(self) -> list[str]:
        """Return the workers that have been silent for too long; the process should be restarted.

        While draining there are none: workers that have been cancelled do not beat.
        """
        now = self._clock.monotonic()
        found = [name for name, (last, limit) in self._beats.items() if now - last > limit and not self.draining]
        if found != self._said_stuck:
            self._said_stuck = found
            if found:
                logger.error("workers make no progress", extra={"workers": found})
            else:
                logger.info("all workers make progress again")
        return found

    async def not_ready(self) -> dict[str, Bilingual]:
        """Return what keeps the service from working, by name; empty when it is ready."""
        if self.draining:
            return {"process": Bilingual("draining", "正在停止")}
        if self.starting is not None:
            return {"process": self.starting}
        answers = await asyncio.gather(*(_examine(check) for check in self.checks))
        reasons = {check.name: answer for check, answer in zip(self.checks, answers, strict=True) if answer is not None}
        if reasons.keys() != self._said_reasons:
            self._said_reasons = frozenset(reasons)
            if reasons:
                said = {name: reason.english for name, reason in reasons.items()}
                logger.warning("not ready", extra={"reasons": said})
            else:
                logger.info("ready")
        return reasons


async def _examine(check: Check) -> Bilingual | None:
    """Return why a condition does not hold, None when it does."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await check.probe()
    except PlatformError as exc:
        return exc.both
    except TimeoutError:
        return Bilingual(f"no answer within {PROBE_TIMEOUT_S:g} s", f"{PROBE_TIMEOUT_S:g} 秒内无应答")
    except Exception as exc:  # a probe with a bug must not look like a service that is ready, nor end the answer
        logger.exception("a check of readiness failed", extra={"check": check.name})
        return Bilingual(f"the check failed: {type(exc).__name__}: {exc}", f"检查失败:{type(exc).__name__}:{exc}")
    return None


async def wait_beating(wait: Callable[[], Awaitable[None]], beat: Beat) -> None:
    """Wait for something that may take long, as a worker that is alive meanwhile."""
    waiting = asyncio.ensure_future(wait())
    try:
        while not waiting.done():
            beat()
            await asyncio.wait([waiting], timeout=5.0)
        waiting.result()
    finally:
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5.0)  # so that what it holds is given back before we go on
