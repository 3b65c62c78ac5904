"""``wattring down``: stop the suite of a data folder, supervised or left behind by a supervisor that was killed."""

import os
import signal
import time
from collections.abc import Callable

from libs.common.errors import PlatformError
from libs.common.settings import CommonSettings
from libs.suite.children import Roster, end_left_behind
from libs.suite.folders import DataFolder
from libs.suite.postgres import EmbeddedPostgres
from libs.suite.supervisor import STOP_BOUND_S
from libs.suite.words import Words


def stop_suite(settings: CommonSettings, words: Words, say: Callable[[str], None]) -> None:
    """Stop what runs on the data folder and wait for it; nothing running is no error.

    Raises:
        PlatformError: It did not stop in time, or belongs to somebody else.
    """
    folder = DataFolder(settings.data_dir)
    holder = folder.holder()
    if holder:
        _ask(holder)
        deadline = time.monotonic() + STOP_BOUND_S
        while folder.holder() is not None:
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"process {holder} did not stop within {STOP_BOUND_S:.0f} s",
                    message_zh=f"进程 {holder} 未在 {STOP_BOUND_S:.0f} 秒内停止",
                )
            time.sleep(0.1)
        say(words("stopped", "已停止"))
        return
    left = Roster(folder.children).left_behind()
    if left and folder.root.exists():
        with folder.locked():
            end_left_behind(Roster(folder.children), said=lambda name, pid: say(f"{name} ({pid})"))
            if settings.database.url is None and EmbeddedPostgres(folder.postgres).cluster.exists():
                EmbeddedPostgres(folder.postgres).stop_leftover()
        say(words("stopped what a killed supervisor had left", "已停止异常退出遗留的进程"))
        return
    say(words("nothing is running", "没有正在运行的服务"))


def _ask(process: int) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as exc:
        raise PlatformError(
            f"process {process} belongs to another user", message_zh=f"进程 {process} 属于其他用户"
        ) from exc
