"""The state file: what a second run of a simulated field has to know, as JSON, replaced atomically."""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from libs.common.errors import InvalidFile, Problem

VERSION = 1


class StateFile:
    """One JSON file with an object per device and per load."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, dict[str, object]]:
        """Return what was saved last; empty when nothing was.

        Raises:
            InvalidFile: The file is not one of ours; it is not touched.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            raise InvalidFile(
                str(self.path), [Problem(line=exc.lineno, field="document", expected="JSON", found=exc.msg)]
            ) from exc
        if not isinstance(content, dict) or content.get("version") != VERSION:
            found = content.get("version") if isinstance(content, dict) else type(content).__name__
            raise InvalidFile(str(self.path), [Problem(line=None, field="version", expected=str(VERSION), found=found)])
        return {name: part for name, part in content.items() if isinstance(part, dict)}

    def save(self, parts: Mapping[str, Mapping[str, object]]) -> None:
        """Replace the file: the old content stays until the new one is on the disk."""
        write_atomically(self.path, orjson.dumps({"version": VERSION, **parts}, option=orjson.OPT_INDENT_2))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by a new one under the same name; a crash leaves one of the two whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
