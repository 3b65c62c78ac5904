"""``wattring feeds …``: how feeds and destinations are doing, a day's statement, and what files have of it."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from libs.suite.callbackcli import Suite
from libs.suite.calls import Say, Settings
from libs.suite.words import Words

if TYPE_CHECKING:
    from services.export.domain.rows import Tally


def add_feeds(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring feeds``; the arguments are those of ``add_callbacks``."""
    group = typer.Typer(
        help=words("readings told to third parties in numbered batches", "向第三方推送数据(双送与对账)"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="feeds")
    feed = typer.Argument(metavar="FEED", help=words("its id", "数据流编号"))
    day_ = typer.Argument(metavar="DAY", help=words("civil day in Shanghai, 2026-03-08", "北京时间日期,2026-03-08"))
    files_ = typer.Argument(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help=words("CSV, NDJSON or batches in JSON", "CSV、NDJSON 或批次 JSON"),
    )

    @group.command("list", help=words("feeds and their destinations", "数据流与目的地"))
    def list_() -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_feeds(api, words, say)

    @group.command(help=words("what a feed has of a day, and who has acknowledged it", "某日对账单"))
    def statement(feed_id: Annotated[str, feed], day: Annotated[str, day_]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            say(json.dumps(api.get(f"feeds/{feed_id}/statements/{day}"), ensure_ascii=False, indent=2))

    @group.command(help=words("what files of received rows have of a day; asks nobody", "统计已收文件某日的条数与哈希"))
    def tally(day: Annotated[str, day_], files: Annotated[list[Path], files_]) -> None:
        say(json.dumps(tally_of_files(files, day).document(), ensure_ascii=False, indent=2))

    @group.command(help=words("compare files of received rows with what was acknowledged", "用已收文件与平台对账"))
    def compare(
        feed_id: Annotated[str, feed],
        destination_id: Annotated[str, typer.Argument(metavar="DESTINATION")],
        day: Annotated[str, day_],
        files: Annotated[list[Path], files_],
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            raise typer.Exit(compare_files(api, words, say, feed_id, destination_id, day, files))


def list_feeds(api: Suite, words: Words, say: Say) -> None:
    """Say one line for each feed, and one for each of its destinations."""
    feeds = api.get("feeds")
    if not feeds:
        say(words("no feeds", "没有数据流"))
    for feed in feeds:
        say(words(f"{feed['id']}  {feed['name']}  {feed['owner']}  {feed['last_batch']} batches",
                  f"{feed['id']}  {feed['name']}  {feed['owner']}  已成批 {feed['last_batch']}"))  # fmt: skip
        for each in api.get(f"feeds/{feed['id']}/destinations"):
            state = words(each["state"], each["state_zh"])
            waiting = words(f"{each['waiting']} waiting", f"待发 {each['waiting']}")
            parts = [each["id"], each["name"], each["kind"], state, waiting, each["error"] or ""]
            say("  " + "  ".join(part for part in parts if part))


def compare_files(
    api: Suite, words: Words, say: Say, feed_id: str, destination_id: str, day: str, files: Sequence[Path]
) -> int:
    """Compare, say what differs, and return the command's status: 0 for none."""
    document = tally_of_files(files, day).document()
    found: Mapping[str, Any] = api.post(f"feeds/{feed_id}/destinations/{destination_id}/checks/{day}", document)
    if found["agrees"] and not found["missing_batches"]:
        say(words(f"both have {document['rows']} rows, hash {document['hash']}",
                  f"双方一致:{document['rows']} 条,哈希 {document['hash']}"))  # fmt: skip
        return 0
    for each in found["differences"]:
        say(words(f"{each['what']}: acknowledged {each['ours']}, in the files {each['theirs']}",
                  f"{each['what']}:已确认 {each['ours']},文件中 {each['theirs']}"))  # fmt: skip
    if found["missing_batches"]:
        say(words(f"not acknowledged yet: {found['missing_batches']}", f"尚未确认的批次:{found['missing_batches']}"))
    return 1


def tally_of_files(files: Sequence[Path], day: str) -> "Tally":
    """Return the tally of a civil day's rows in files with our own column names; a row that is there twice counts so.

    Raises:
        typer.BadParameter: A file has other columns.
    """
    from services.export.domain.rows import day_of, tally_of

    lines = [line for file in files for line in _lines(file)]
    return tally_of(line for line in lines if day_of(line).isoformat() == day)


def _lines(file: Path) -> Iterator[str]:
    from services.export.domain.rows import COLUMNS, decimal_text

    for row in _rows(file):
        try:
            fields = [row[name] for name in COLUMNS]
        except (KeyError, TypeError) as exc:
            raise typer.BadParameter(f"{file}: expected rows with {', '.join(COLUMNS)}") from exc
        yield "\t".join(decimal_text(each) if isinstance(each, int | float) else each or "" for each in fields)


def _rows(file: Path) -> Iterable[Mapping[str, Any]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if file.suffix == ".ndjson":
        return [json.loads(line) for line in text.splitlines() if line]
    document = json.loads(text)
    rows: Iterable[Mapping[str, Any]] = document["rows"] if isinstance(document, dict) else document
    return rows
