"""``wattring import``: hand a registry file to the running suite, and say what came of it, line by line."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from libs.common.errors import PlatformError
from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi, Refused
from libs.suite.words import Words

POLL_S = 0.5


class NotImported(PlatformError):
    """The file was refused; nothing of it was taken."""

    code = "not_imported"
    title_zh = "未导入"


def import_file(settings: CommonSettings, file: Path, words: Words, say: Callable[[str], None]) -> None:
    """Import a file and wait until it is done.

    Raises:
        NotImported: Places in it are wrong; the message lists them as ``file:line: field: what was expected``.
        Unavailable: No suite answers.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise NotImported(
            f"{file} cannot be read: {exc.strerror}", message_zh=f"无法读取 {file}:{exc.strerror}"
        ) from exc
    with LocalApi(settings) as api:
        try:
            job = api.upload("imports", content, media_type="application/yaml", kind="registry", file=file.name)
        except Refused as exc:
            raise _refused(file, exc) from exc
        while job["state"] in ("queued", "running"):
            time.sleep(POLL_S)
            job = api.get(f"imports/{job['id']}")
    if job["state"] != "succeeded":
        raise _refused(file, PlatformError(job.get("detail") or job["state"], message_zh=job.get("detail_zh")))
    created, changed, same = (
        sum(((job.get("counts") or {}).get(name) or {}).values()) for name in ("created", "changed", "unchanged")
    )
    say(
        words(
            f"imported: {created} new, {changed} changed, {same} as they were",
            f"已导入:新增 {created} 项,变更 {changed} 项,未变 {same} 项",
        )
    )


def _refused(file: Path, problem: PlatformError) -> NotImported:
    """Return the suite's answer, which has a line per wrong place, with the file as it is called here."""
    english, chinese = (
        re.sub(rf"^( *){re.escape(file.name)}(?=[::])", lambda found: f"{found[1]}{file}", text, flags=re.MULTILINE)
        for text in problem.both
    )
    return NotImported(english, message_zh=chinese)
