"""The units' folders on disk: files appear whole or not at all, and the oldest make room."""

import os
import secrets
from pathlib import Path


def put(home: Path, folder: str, name: str, content: bytes) -> None:
    """Write a file, or replace it; who reads sees the old one or the new one.

    Raises:
        OSError: It cannot be written.
    """
    place = home / folder
    place.mkdir(parents=True, exist_ok=True, mode=0o750)
    draft = place / f".{name}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(place / name)
    finally:
        draft.unlink(missing_ok=True)


def read(home: Path, folder: str, name: str) -> bytes | None:
    """Return a file's content, None when it is gone."""
    try:
        return (home / folder / name).read_bytes()
    except FileNotFoundError:
        return None


def drop(home: Path, folder: str, name: str) -> None:
    """Remove a file that has been kept long enough."""
    (home / folder / name).unlink(missing_ok=True)
