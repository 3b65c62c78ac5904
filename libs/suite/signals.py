"""``wattring signals``: the standard signal table (标准信号表) out to a file, and in again as its next version."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from libs.common.errors import PlatformError
from libs.suite.api import Refused
from libs.suite.importing import NotImported
from libs.suite.words import Words

SHOWN = 200
"""Changed rows that are shown."""
OF_THE_TABLE = ("dictionary", "policy")
"""Origins of a parameter that no override changes."""
FORMATS = {".xlsx": "xlsx", ".csv": "csv"}

Say = Callable[[str], None]


class NotExported(PlatformError):
    """The table cannot be written to the file."""

    code = "not_exported"
    title_zh = "未导出"


class SignalsApi(Protocol):
    """The suite's API, as far as the signal table needs it."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET."""

    def fetch(self, path: str, **params: Any) -> bytes:
        """Return the file that a GET answers with."""

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        """Return the parsed answer of a POST of a file's content."""


def list_tables(api: SignalsApi, words: Words, say: Say) -> None:
    """Say which tables there are, at which version, and who made it."""
    for table in api.get("signals/tables")["items"]:
        latest = table["latest"]
        name = words(table["name"], table["name_zh"])
        say(
            words(
                f"{table['dictionary']}: {name}, version {latest['version']}, {latest['rows']} rows, "
                f"{latest['imported_by']}, {latest['imported_at']}",
                f"{table['dictionary']}:{name},第 {latest['version']} 版,{latest['rows']} 行,"
                f"{latest['imported_by']},{latest['imported_at']}",
            )
        )


def list_versions(api: SignalsApi, dictionary: str, words: Words, say: Say) -> None:
    """Say which versions of a table there are, the youngest first, and who made each when and why.

    Raises:
        PlatformError: There is no such table.
    """
    for one in api.get(f"signals/tables/{dictionary}/versions")["items"]:
        version = words(f"version {one['version']}: {one['rows']} rows", f"第 {one['version']} 版:{one['rows']} 行")
        facts = (version, one["imported_by"], one["imported_at"], one["file_name"], one["reason"])
        say(words(", ", ",").join(fact for fact in facts if fact))


def list_rules(api: SignalsApi, device: str, words: Words, say: Say) -> None:
    """Say by which rules a device is judged, and which override each parameter comes from, unless from the table.

    Raises:
        PlatformError: There is no such device.
    """
    for rule in api.get("alarm-rules/effective", device=device)["rules"]:
        level = _value(rule["level"])
        what = rule["comparison"] if rule["measure"] == "value" else f"{rule['measure']} {rule['comparison']}"
        unit = "" if rule["unit"] == "1" else f" {rule['unit']}"
        limit = f"{what} -" if rule["threshold"] is None else f"{what} {rule['threshold']:g}{unit}"
        start, end = f"{rule['start_delay_s']:g}", f"{rule['end_delay_s']:g}"
        asleep = "" if rule["active"] else words(", asleep", ",未启用")
        origins = "".join(
            words(f"; {name} from {source}", f";{name} 来自 {source}")
            for name, source in rule["sources"].items()
            if source not in OF_THE_TABLE
        )
        say(
            words(
                f"{rule['rule_id']}: {rule['name']}, level {level}, {limit}, "
                f"start {start} s, end {end} s{asleep}{origins}",
                f"{rule['rule_id']}:{rule['name_zh']},{level} 级,{limit},"
                f"开始延时 {start} 秒,结束延时 {end} 秒{asleep}{origins}",
            )
        )


def export_table(api: SignalsApi, dictionary: str, file: Path, version: int | None, words: Words, say: Say) -> None:
    """Write a version of a table to a file; its ending says which kind.

    Raises:
        NotExported: The ending is unknown, or the file cannot be written.
        PlatformError: There is no such table.
    """
    wanted = FORMATS.get(file.suffix.lower())
    if wanted is None:
        raise NotExported(
            f"{file}: expected a name that ends with .xlsx or .csv", message_zh=f"{file}:文件名应以 .xlsx 或 .csv 结尾"
        )
    body = api.fetch(f"signals/tables/{dictionary}/export", format=wanted, version=version)
    try:
        file.write_bytes(body)
    except OSError as exc:
        raise NotExported(
            f"{file} cannot be written: {exc.strerror}", message_zh=f"无法写入 {file}:{exc.strerror}"
        ) from exc
    say(words(f"{dictionary} is in {file}", f"{dictionary} 已导出至 {file}"))


def import_table(api: SignalsApi, dictionary: str, file: Path, words: Words, say: Say, **how: Any) -> None:
    """Import a file as the next version of a table, and say row by row what changes.

    Args:
        api: Of the suite.
        dictionary: Id of the table.
        file: Excel or CSV.
        words: The language.
        say: Told what changes.
        how: ``dry_run``, ``missing``, ``name`` and ``reason`` of the API; None is left out.

    Raises:
        NotImported: The file cannot be read, or places in it are wrong; all are named.
        Unavailable: No suite answers.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise NotImported(
            f"{file} cannot be read: {exc.strerror}", message_zh=f"无法读取 {file}:{exc.strerror}"
        ) from exc
    params = {name: value for name, value in how.items() if value is not None}
    try:
        done = api.upload(
            f"signals/tables/{dictionary}/imports",
            content,
            media_type="application/octet-stream",
            file=file.name[-200:],
            **params,
        )
    except Refused as exc:
        raise NotImported(exc.message, message_zh=exc.message_zh) from exc
    for row in done["diff"]["rows"][:SHOWN]:
        say(_shown(row, words))
    if (more := len(done["diff"]["rows"]) - SHOWN) > 0:
        say(words(f"… and {more} more", f"…… 另有 {more} 行"))
    for note in done["notes"][:SHOWN]:
        say(
            words(
                f"line {note['line']}: {note['field']}: {note['text']}",
                f"第 {note['line']} 行:{note['field']}:{note['text_zh']}",
            )
        )
    diff = done["diff"]
    added, changed, removed, same = (diff[name] for name in ("added", "changed", "removed", "unchanged"))
    say(
        words(
            f"{added} new, {changed} changed, {removed} gone, {same} as they were",
            f"新增 {added} 行,变更 {changed} 行,删除 {removed} 行,未变 {same} 行",
        )
    )
    if done["dry_run"]:
        say(words("nothing was imported", "未导入"))
    else:
        say(words(f"{dictionary} is at version {done['version']}", f"{dictionary} 当前为第 {done['version']} 版"))


def _shown(row: Mapping[str, Any], words: Words) -> str:
    mark = {"added": "+", "changed": "~", "removed": "-"}[row["change"]]
    fields = "; ".join(f"{one['field']} {_value(one['before'])} → {_value(one['after'])}" for one in row["fields"])
    rules = words(f"; rules {', '.join(row['rules'])}", f";规则 {', '.join(row['rules'])}") if row["rules"] else ""
    return f"{mark} {row['code']} {row['name_zh']}{': ' + fields if fields else ''}{rules}"


def _value(value: object) -> str:
    return "-" if value in (None, "", {}, []) else str(value)
