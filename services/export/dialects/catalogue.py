"""All dialects that can be spoken: the shipped files, and those of the operator's own folder."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import JsonValue

from libs.common.errors import InvalidFile, InvalidInput, Problem
from libs.common.yamlfile import YamlDocument
from services.export.dialects.base import Dialect, Incoming
from services.export.dialects.files import NAME, parse_dialect_file, read_dialect

MAX_FILE_BYTES = 1 << 20
"""A dialect file has some tens of kB. [B]"""


class Dialects:
    """Dialects by the name that a connection gives."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        # Where nothing else decides, a dialect whose commands have codes goes first: they say more.
        self._dialects = dict(sorted(dialects.items(), key=lambda each: (_codeless(each[1]), each[0])))

    @staticmethod
    @cache
    def shipped() -> "Dialects":
        """Return the dialects that come with export."""
        return Dialects(_read(_shipped_texts()))

    @staticmethod
    def load(folder: Path | None) -> "Dialects":
        """Return the shipped dialects and those of a folder's ``*.yaml``; a file there may replace a shipped one.

        Raises:
            InvalidFile: A file is wrong, or the folder is none; every place is listed.
        """
        if folder is None:
            return Dialects.shipped()
        return Dialects(_read({**_shipped_texts(), **_folder_texts(folder)}))

    def __iter__(self) -> Iterator[Dialect]:
        return iter(self._dialects.values())

    def named(self, name: str) -> Dialect:
        """Return the dialect of that name.

        Raises:
            InvalidInput: There is none; the message lists those that exist.
        """
        try:
            return self._dialects[name]
        except KeyError:
            known = ", ".join(sorted(self._dialects))
            raise InvalidInput(
                f"dialect: {name!r} is not known; known are {known}",
                message_zh=f"未知的B接口方言 {name!r};可用:{known}",
            ) from None

    def paths(self) -> Sequence[str]:
        """Return the paths of the units' services, each once."""
        return list(dict.fromkeys(each.unit.path for each in self))

    def at(self, path: str, incoming: Incoming | None = None) -> Sequence[Dialect]:
        """Return what may be spoken at a path, likelier ones first; by the command where one is given.

        Several dialects share a path. Which one a unit speaks is its connection's business; this is for messages
        that name no unit of ours.
        """
        here = [each for each in self if each.unit.path == path]
        if incoming is None:
            return here
        known = [(each, command) for each in here if (command := each.named(incoming)) is not None]
        exact = [each for each, command in known if command.code == incoming.code]
        return exact or [each for each, _ in known] or here


def _codeless(dialect: Dialect) -> bool:
    return all(command.code is None for command in dialect.commands)


def _shipped_texts() -> dict[str, tuple[str, str]]:
    """Return name to file name and text of the shipped dialects."""
    folder = files("services.export.dialects")
    found = sorted((each for each in folder.iterdir() if each.name.endswith(".yaml")), key=lambda each: each.name)
    return dict(_named(each.name, each.read_text(encoding="utf-8")) for each in found)


def _folder_texts(folder: Path) -> dict[str, tuple[str, str]]:
    if not folder.is_dir():
        raise _wrong(str(folder), "a folder with dialect files (*.yaml)", "含方言文件(*.yaml)的目录")
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _wrong(str(path), f"at most {MAX_FILE_BYTES} bytes", f"不超过 {MAX_FILE_BYTES} 字节")
        try:
            name, read = _named(str(path), path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise _wrong(str(path), "UTF-8", "UTF-8 编码") from None
        if name in found:
            raise _wrong(str(path), f"another name than {name}, which {found[name][0]} has", f"名称 {name} 已被使用")
        found[name] = read
    return found


def _named(source: str, text: str) -> tuple[str, tuple[str, str]]:
    document = parse_dialect_file(text, source, lambda _: {})
    name = document.data.get("name") if isinstance(document.data, dict) else None
    if not isinstance(name, str) or not NAME.match(name):
        expected = "name: letters, digits, _ and -, at most 20"
        raise InvalidFile(source, [document.problem(("name",), expected, "name:字母、数字、_、-,最多20个", name)])
    return name, (source, text)


def _read(texts: Mapping[str, tuple[str, str]]) -> dict[str, Dialect]:
    def document_of(name: str, inside: tuple[str, ...]) -> YamlDocument:
        """Return a dialect's file with its base's fields in it."""
        source, text = texts[name]
        return parse_dialect_file(text, source, lambda base: base_data(base, (*inside, name)))

    def base_data(name: str, inside: tuple[str, ...]) -> JsonValue:
        if name in inside:
            raise KeyError(name)  # nothing is its own base
        return document_of(name, inside).data

    return {name: read_dialect(document_of(name, ())) for name in texts}


def _wrong(source: str, expected: str, expected_zh: str) -> InvalidFile:
    return InvalidFile(source, [Problem(line=None, field="file", expected=expected, expected_zh=expected_zh)])
