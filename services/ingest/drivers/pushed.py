"""What devices have said by pushes that come to the process and not to a line's own connection.

A platform pushes over HTTP to whichever process answers; the line's driver, which issues commands, looks here for
what became of them. Memory only, and bounded: what is lost with the process is asked of the platform again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from libs.common.clock import Clock
from services.ingest.domain.aep import TaskState

MAX_TASKS = 10_000
MAX_DEVICES = 100_000

Raw = Mapping[str, float | int | None]
Key = TypeVar("Key")
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Said:
    """The last value of one point that a device has pushed."""

    value: float | int | None
    received_at: datetime
    monotonic: float
    """When that was. [s]"""


class PushBoard:
    """The last raw values of devices, and how far commands are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: OrderedDict[str, dict[str, Said]] = OrderedDict()
        self._tasks: OrderedDict[tuple[str, str], TaskState] = OrderedDict()
        self._tasks_told: dict[str, float] = {}
        """By line: when there was news of any command, also from its device, last, by the monotonic clock. [s]"""
        self._issued: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When commands were issued of which no news has come, by the monotonic clock. [s]"""
        self._given: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """By device that was given a command and has not spoken since: its line, and when that was. [s]"""
        self._told_until: dict[str, float] = {}
        """By line: when the youngest command was issued of which there was news, by the monotonic clock. [s]"""
        self._awaited: dict[tuple[str, str], list[asyncio.Future[TaskState | None]]] = {}
        self._followed: dict[str, list[_Following]] = {}
        """By device that was given a command."""
        self._listened: OrderedDict[str, asyncio.Event] = OrderedDict()
        """By device of which somebody waits to hear."""

    def note_values(self, device_id: str, raw: Raw, received_at: datetime) -> None:
        """Take what a device has reported, after it was accepted."""
        points = self._said.setdefault(device_id, {})
        now = self._clock.monotonic()
        points.update({name: Said(value, received_at, now) for name, value in raw.items()})
        given = self._given.pop(device_id, None)
        if given is not None:
            self._note_told(*given)
        _keep_within(self._said, device_id, MAX_DEVICES)
        listened = self._listened.pop(device_id, None)
        if listened is not None:
            listened.set()
        for one in self._followed.get(device_id, ()):
            if not one.answer.done() and one.shows(raw):
                one.answer.set_result(None)

    def note_issued(self, line_id: str, task: str, device_id: str, at: float) -> None:
        """Note when a command was issued for a device, by the monotonic clock. [s]"""
        key = line_id, task
        self._issued[key] = at
        _keep_within(self._issued, key, MAX_TASKS)
        self._given[device_id] = line_id, at
        _keep_within(self._given, device_id, MAX_TASKS)

    def note_task(self, line_id: str, task: str, state: TaskState) -> None:
        """Take news of a command; older ones than known change nothing."""
        key = line_id, task
        known = self._tasks.get(key)
        state = state if known is None else max(known, state)
        self._tasks[key] = state
        _keep_within(self._tasks, key, MAX_TASKS)
        self._note_told(line_id, self._issued.pop(key, float("-inf")))
        if state.is_final:
            for waiting in self._awaited.pop(key, ()):
                if not waiting.done():
                    waiting.set_result(state)

    def _note_told(self, line_id: str, issued_at: float) -> None:
        self._tasks_told[line_id] = self._clock.monotonic()
        self._told_until[line_id] = max(self._told_until.get(line_id, issued_at), issued_at)

    def said(self, device_id: str) -> Mapping[str, Said]:
        """Return the last values of a device's points, as far as they came to this process."""
        return self._said.get(device_id, {})

    def listen(self, device_id: str, since: float) -> asyncio.Event:
        """Return what is set as soon as a device has reported anything after a moment of the monotonic clock. [s]"""
        if any(one.monotonic > since for one in self.said(device_id).values()):
            heard = asyncio.Event()
            heard.set()
            return heard
        listened = self._listened.setdefault(device_id, asyncio.Event())
        _keep_within(self._listened, device_id, MAX_DEVICES)
        return listened

    def task(self, line_id: str, task: str) -> TaskState | None:
        """Return how far a command is, None when nothing was pushed about it."""
        return self._tasks.get((line_id, task))

    def tasks_told_s(self, line_id: str) -> float:
        """Return how long ago there was news of any command of a line, from the platform or from its device. [s]"""
        return self._clock.monotonic() - self._tasks_told.get(line_id, float("-inf"))

    def has_told_of_later(self, line_id: str, than: float) -> bool:
        """Return whether there was news of a command of a line that was issued later than that. [s]"""
        return self._told_until.get(line_id, float("-inf")) > than

    async def outcome(
        self, line_id: str, task: str, *, device_id: str, since: float, shows: Callable[[Raw], bool] | None
    ) -> TaskState | None:
        """Return what became of a command as soon as that was pushed, or None once its device shows that it was done.

        Args:
            line_id: The product.
            task: The command.
            device_id: Which device was told to.
            since: When, by the monotonic clock. [s]
            shows: Whether a report says that it was done; None where no report does.
        """
        key = line_id, task
        known = self._tasks.get(key)
        if known is not None and known.is_final:
            return known
        shows = shows or _never
        if self._has_shown(device_id, since, shows):
            return None  # it was there before the platform had answered
        with self._following(device_id, shows) as answer:
            self._awaited.setdefault(key, []).append(answer)
            try:
                return await answer
            finally:
                _leave(self._awaited, key, answer)

    async def shown(self, device_id: str, *, since: float, shows: Callable[[Raw], bool], within_s: float) -> None:
        """Return as soon as a device shows that something was done, at the latest after ``within_s``. [s]

        Args:
            device_id: Which.
            since: When it was told to, by the monotonic clock. [s]
            shows: Whether a report says that it was done.
            within_s: How long to wait. [s]
        """
        if self._has_shown(device_id, since, shows):
            return
        with self._following(device_id, shows) as answer, suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await answer

    def _has_shown(self, device_id: str, since: float, shows: Callable[[Raw], bool]) -> bool:
        return shows({name: one.value for name, one in self.said(device_id).items() if one.monotonic > since})

    @contextmanager
    def _following(self, device_id: str, shows: Callable[[Raw], bool]) -> "Iterator[asyncio.Future[TaskState | None]]":
        """Give what is done, with None, once a device shows that something was done."""
        answer: asyncio.Future[TaskState | None] = asyncio.get_running_loop().create_future()
        following = _Following(answer, shows)
        self._followed.setdefault(device_id, []).append(following)
        try:
            yield answer
        finally:
            _leave(self._followed, device_id, following)


@dataclass(frozen=True, slots=True, eq=False)
class _Following:
    """Somebody who waits until a device shows that it has followed."""

    answer: asyncio.Future[TaskState | None]
    shows: Callable[[Raw], bool]


def _never(raw: Raw) -> bool:
    return False


def _leave(waiting: dict[Key, list[Kept]], key: Key, one: Kept) -> None:
    others = waiting.get(key, [])
    if one in others:
        others.remove(one)
        if not others:
            del waiting[key]


def _keep_within(kept: OrderedDict[Key, Kept], key: Key, most: int) -> None:
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
