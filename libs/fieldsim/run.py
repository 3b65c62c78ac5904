"""One process of simulators: starts, says that it is ready, stops within bounds."""

import asyncio
import contextlib
import logging
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import orjson

from libs.common.errors import Unavailable
from libs.fieldsim.control_api import ControlServer, build_app
from libs.fieldsim.field import Field
from libs.fieldsim.sc.server import SupervisionCentre
from libs.fieldsim.state import write_atomically

logger = logging.getLogger(__name__)

WANTED_FILES = 65_536


def raise_file_limit() -> int:
    """Allow this process as many connections as the system lets it; return how many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted, soft)


async def serve(
    *,
    field: Field | None,
    centre: SupervisionCentre | None,
    control: ControlServer,
    describe: Callable[[], Mapping[str, object]],
    announce: Callable[[Mapping[str, object]], None],
    stop: asyncio.Event,
) -> None:
    """Run simulators until ``stop`` is set.

    Args:
        field: Devices, or none.
        centre: A supervision centre, or none.
        control: The control API.
        describe: Makes the field description once every port is known; may take a while, it runs in a thread.
        announce: Called with the description when everything listens.
        stop: Ends it.

    Raises:
        Unavailable: A port is taken.
    """
    async with AsyncExitStack() as stack:
        with _ports_are_free():
            if field is not None:
                stack.push_async_callback(field.stop)
                await field.start()
            if centre is not None:
                stack.push_async_callback(centre.stop)
                await centre.start()
            control.bind()
        if field is not None:
            field.settle()  # what the last run left under way, before the description's thread looks at it
        description = await asyncio.to_thread(describe)
        async with asyncio.TaskGroup() as tasks:
            background = []
            if field is not None:
                background.append(tasks.create_task(field.keep_saving(), name="field state"))
            if centre is not None:
                background.append(tasks.create_task(centre.run(), name="sc"))
            app = build_app(field, centre, description)
            background.append(tasks.create_task(control.run(app), name="control api"))
            announce(description)
            await stop.wait()
            for task in background:
                task.cancel()


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` at SIGTERM and Ctrl-C."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def announcer(ready_file: Path | None) -> Callable[[Mapping[str, object]], None]:
    """Return what writes the description to standard output, and to a file that appears when it is whole."""

    def announce(description: Mapping[str, object]) -> None:
        text = orjson.dumps(description, option=orjson.OPT_INDENT_2)
        if ready_file is not None:
            write_atomically(ready_file, text)
        sys.stdout.write(text.decode() + "\n")
        sys.stdout.flush()

    return announce


@contextlib.contextmanager
def _ports_are_free() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise Unavailable(f"cannot listen: {exc.strerror}", message_zh=f"无法监听端口：{exc.strerror}") from exc
