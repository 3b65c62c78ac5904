"""``wattring pull …``: a pull file is checked, tried on its source without anything being taken, and watched."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.outgoing import AddressGuard
from libs.common.secretstore import SecretStore
from libs.common.settings import CommonSettings, load_section
from libs.suite.api import LocalApi, Refused
from libs.suite.words import Words
from services.ingest.domain.pull import PulledRow, WrongRow, read_rows
from services.ingest.domain.pull_source import PullFile, RestSource
from services.ingest.drivers.means import Means
from services.ingest.drivers.pull_port import Page, PullSource
from services.ingest.drivers.pull_rest import RestPull
from services.ingest.drivers.pull_sql import SqlPull
from services.ingest.drivers.pushed import PushBoard
from services.ingest.files.pull_file import load_pull
from services.ingest.settings import IngestSettings

Say = Callable[[str], None]
KINDS = ("pull", "file")
MAX_LINES = 10_000
"""Lines of the registry that are looked through."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the source is, as the line will say it."""

    endpoint: str
    secret: str | None = None
    tls: str | None = None


def check(files: Sequence[Path], words: Words, say: Say) -> None:
    """Say what each pull file would do.

    Raises:
        InvalidFile: One is wrong; every place is listed with line, field and what was expected.
    """
    for path in files:
        file = load_pull(path)
        kind = "rest" if isinstance(file.source, RestSource) else "postgresql"
        points = ", ".join(point.name for point in file.rows.points)
        say(words(f"{path}: {kind}, every {file.every_s:g} s: ", f"{path}:{kind},每 {file.every_s:g} 秒:") + points)


def try_pull(settings: CommonSettings, path: Path, source: Source, *, rows: int, words: Words, say: Say) -> bool:
    """Read the first page of a source and say what becomes of its rows; nothing is taken and no watermark is moved.

    Returns:
        Whether there were rows and all that were shown can be read.

    Raises:
        PlatformError: The file or the source cannot be used.
    """
    file = load_pull(path)
    ingest = load_section("ingest", IngestSettings)
    page = asyncio.run(_first_page(settings, ingest, file, source))
    shown = read_rows(page.rows[:rows], file.rows)
    for one in shown:
        say(_told(one, words))
    wrong = sum(isinstance(one, WrongRow) for one in shown)
    say(
        words(
            f"{len(page.rows)} rows on the first page, {len(shown)} reports shown, {wrong} of them refused",
            f"首页 {len(page.rows)} 行,显示 {len(shown)} 条,其中 {wrong} 条被拒",
        )
    )
    return bool(shown) and not wrong


def list_pulls(settings: CommonSettings, words: Words, say: Say) -> None:
    """Say of every line that is pulled how far it has been read, and why it cannot be."""
    with LocalApi(settings) as api:
        for line in _lines(api):
            try:
                found = api.get(f"lines/{line['id']}/progress")
            except Refused as exc:
                if exc.status != 404:
                    raise
                say(f"{line['id']:24} " + words("never read", "尚未读取"))
                continue
            counts = words(
                f"{found['rows_taken']} taken, {found['rows_refused']} refused",
                f"已取 {found['rows_taken']},被拒 {found['rows_refused']}",
            )
            last = found["last_success_at"] or "-"
            mark = "-" if found["watermark"] is None else found["watermark"]
            say(f"{line['id']:24} {line['kind']:5} {last:32} {mark!s:32} {counts}")
            if found["failing_since"]:
                why = words(found["detail"], found["detail_zh"] or found["detail"])
                say(
                    "    "
                    + words(f"fails since {found['failing_since']}: ", f"自 {found['failing_since']} 起失败:")
                    + why
                )


def _lines(api: LocalApi) -> Iterator[dict[str, Any]]:
    """Yield the lines that are pulled."""
    cursor = None
    for _ in range(MAX_LINES // 200):
        page = api.get("lines", limit=200, cursor=cursor)
        yield from (line for line in page["items"] if line["kind"] in KINDS)
        cursor = page.get("next_cursor")
        if cursor is None:
            return


async def _first_page(settings: CommonSettings, ingest: IngestSettings, file: PullFile, where: Source) -> Page:
    clock = SystemClock()
    line = Line(
        id="line", name="line", kind=LineKind.PULL, endpoint=where.endpoint, credentials_ref=where.secret,
        settings=None if where.tls is None else {"tls": where.tls}, valid_from=clock.now(), version=1,
        changed_by="user:cli",
    )  # fmt: skip
    with TemporaryDirectory() as nowhere:
        means = Means(
            SecretStore(ingest.secrets_dir or settings.data_dir / "secrets"),
            AddressGuard(ingest.outgoing_allowed),
            PushBoard(clock),
            _nothing,
            Path(nowhere),
        )
        source: PullSource = (
            RestPull(line, file.source, clock, means)
            if isinstance(file.source, RestSource)
            else SqlPull(line, file.source, file.rows.time.zone, clock, means)
        )
        try:
            async for page in source.pages(None):
                return page
        finally:
            await source.close()
    raise InvalidInput("the source gave no page", message_zh="数据源未返回任何页")


async def _nothing(_: str) -> None:
    return None


def _told(one: PulledRow | WrongRow, words: Words) -> str:
    if isinstance(one, WrongRow):
        return f"refused  {one.refused.reason}: {words(one.refused.detail, one.refused.detail_zh)}"
    values = "  ".join(f"{name}={'-' if value is None else f'{value:.6g}'}" for name, value in one.said.points.items())
    return f"good     {one.device:20} {one.said.source_time.isoformat()}  {values}"
