"""Where the files of cold days lie: a folder, or an S3-compatible store. All of it blocks: call it in a thread.

A file appears and is replaced as a whole. In a folder it is written under another name, flushed and renamed; a store
shows an object when all of it has come.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import polars as pl

from libs.common.errors import InvalidInput, Unavailable
from services.ingest.settings import ColdSettings

TEMPORARY = ".tmp"
DAMAGE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""How a file that is not whole shows; some of its bytes make the library panic, which Python sees as no usual error."""
REQUEST_TIMEOUT = timedelta(seconds=60)
RETRIES = 3


class ColdUnavailable(Unavailable):
    """A file of a cold day cannot be read or written."""

    code = "cold_history_unavailable"
    title_zh = "冷数据存储不可用"


@dataclass(frozen=True, slots=True)
class Written:
    """A file as it was written."""

    bytes: int
    sha256: str


Write = Callable[[Path], None]
"""Writes a Parquet file to a path."""


class ColdFiles(Protocol):
    """The files, by name."""

    place: str
    """What is said of it in messages; without credentials."""

    def put(self, name: str, write: Write) -> Written:
        """Let ``write`` make a file, and put it under a name, in the place of what is there. Raises ColdUnavailable."""

    def scan(self, name: str) -> pl.LazyFrame:
        """Return a file to be read; what goes wrong is raised when it is collected, within ``reading``."""

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error. Raises ColdUnavailable."""

    def sweep(self, folder: str) -> None:
        """Remove what a killed process left half written in a folder; nobody else writes there now."""


def open_cold_files(settings: ColdSettings) -> ColdFiles | None:
    """Return where cold days lie, None when they stay in PostgreSQL.

    Raises:
        InvalidInput: The address is none.
    """
    if settings.url is None:
        return None
    parts = urlsplit(settings.url)
    if parts.scheme in ("", "file"):
        return LocalFiles(Path(parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidInput(
            f"WATTRING_INGEST__HISTORY__COLD__URL: expected a folder or s3://bucket/prefix, found {settings.url!r}",
            message_zh=f"WATTRING_INGEST__HISTORY__COLD__URL:应为目录或 s3://桶/前缀,实际为 {settings.url!r}",
        )
    return S3Files(parts.netloc, parts.path.strip("/"), settings)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say of what goes wrong while a file is read that the cold history is not available.

    Raises:
        ColdUnavailable: The file is absent, damaged or out of reach.
    """
    try:
        yield
    except DAMAGE as exc:
        raise ColdUnavailable(f"{name}: {_first_line(exc)}", message_zh=f"历史文件 {name} 无法读取") from exc


class LocalFiles:
    """In a folder."""

    def __init__(self, root: Path) -> None:
        self.place = str(root)
        self._root = root

    def put(self, name: str, write: Write) -> Written:
        """See ``ColdFiles``."""
        path = self._root / name
        fresh = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(fresh)
            written = _measured(fresh)
            _flush(fresh)
            fresh.replace(path)
            _flush(path.parent)
        except OSError as exc:
            raise _not_written(str(path), exc) from exc
        finally:
            fresh.unlink(missing_ok=True)
        return written

    def scan(self, name: str) -> pl.LazyFrame:
        """See ``ColdFiles``."""
        return pl.scan_parquet(self._root / name, glob=False, hive_partitioning=False)

    def delete(self, name: str) -> None:
        """See ``ColdFiles``."""
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as exc:
            raise _not_written(str(path), exc) from exc

    def sweep(self, folder: str) -> None:
        """See ``ColdFiles``."""
        for path in (self._root / folder).glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)


class S3Files:
    """In a bucket."""

    def __init__(self, bucket: str, prefix: str, settings: ColdSettings) -> None:
        self._root = f"s3://{bucket}/{prefix}".rstrip("/")
        self.place = self._root
        secret = None if settings.s3_secret_key is None else settings.s3_secret_key.get_secret_value()
        given = {
            "endpoint": settings.s3_endpoint,
            "region": settings.s3_region,
            "access_key_id": settings.s3_access_key,
            "secret_access_key": secret,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        insecure = (settings.s3_endpoint or "").startswith("http://")
        # Memory that a process without S3 need not spend.
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        self._error: type[Exception] = BaseError
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"allow_http": insecure, "timeout": REQUEST_TIMEOUT},
            retry_config={"max_retries": RETRIES},
            virtual_hosted_style_request=False,
            **known,
        )
        self._options: Mapping[str, Any] = {
            **{f"aws_{'endpoint_url' if name == 'endpoint' else name}": value for name, value in known.items()},
            "aws_allow_http": str(insecure).lower(),
            "max_retries": RETRIES,
        }
        self._own_credentials = secret is not None

    def put(self, name: str, write: Write) -> Written:
        """See ``ColdFiles``."""
        with tempfile.TemporaryDirectory(prefix="wattring-cold-") as folder:
            path = Path(folder) / "part.parquet"
            try:
                write(path)
                written = _measured(path)
                self._store.put(name, path)
            except (OSError, self._error) as exc:
                raise _not_written(f"{self._root}/{name}", exc) from exc
        return written

    def scan(self, name: str) -> pl.LazyFrame:
        """See ``ColdFiles``."""
        return pl.scan_parquet(
            f"{self._root}/{name}",
            glob=False,
            hive_partitioning=False,
            storage_options=dict(self._options),
            credential_provider=None if self._own_credentials else "auto",
        )

    def delete(self, name: str) -> None:
        """See ``ColdFiles``."""
        try:
            self._store.delete(name)
        except FileNotFoundError:
            pass  # gone already
        except (OSError, self._error) as exc:
            raise _not_written(f"{self._root}/{name}", exc) from exc

    def sweep(self, folder: str) -> None:
        """See ``ColdFiles``; an object that is not whole is not shown, and the bucket's own rule removes its parts."""


def _measured(path: Path) -> Written:
    with path.open("rb") as file:
        return Written(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(where: str, exc: Exception) -> ColdUnavailable:
    return ColdUnavailable(f"{where}: {_first_line(exc)}", message_zh=f"冷数据存储 {where} 无法写入")


def _first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0][:300]
