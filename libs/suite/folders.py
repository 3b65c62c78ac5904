"""The data folder of an embedded suite: what lies where, all of it private, and one suite at a time in it.

<data folder>/                 0700
    keys/                      service keys
    postgres/                  the cluster (postgres.py)
    run/                       sockets, the database's URL, who runs; nothing of it outlives a run's meaning
    log/                       one file per process
    lock                       held while a suite runs
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from libs.common.errors import PlatformError

SOCKET_PATH_MAX = 107
"""Longest path of a Unix socket (sockaddr_un, without the closing zero). [B]"""
NAME_MAX = len("/.s.PGSQL.5432.lock")
"""The longest name that one of our sockets (or PostgreSQL's lock beside its own) has. [B]"""


class FolderInUse(PlatformError):
    """Another suite runs on this data folder."""

    code = "folder_in_use"
    title_zh = "数据目录正在使用"


class FolderUnusable(PlatformError):
    """The data folder cannot be created or written."""

    code = "folder_unusable"
    title_zh = "数据目录不可用"


def socket_folder(inside: Path) -> Path:
    """Return ``inside``, or a folder of our own in the temporary folder when sockets there had too long a path."""
    if len(os.fsencode(inside.absolute())) + NAME_MAX <= SOCKET_PATH_MAX:
        return inside.absolute()
    digest = hashlib.sha256(os.fsencode(inside.absolute())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"wattring-{os.geteuid()}-{digest}"


def make_private(folder: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Create a folder that only its owner may enter, and make sure that it is one.

    Args:
        folder: The last part is created; what is above exists.
        owner: User and group id; ourselves when left out.

    Raises:
        FolderUnusable: Somebody else's folder or link has that name.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(folder, *owner, follow_symlinks=False)
    status = folder.lstat()
    ours = os.geteuid() if owner is None else owner[0]
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != ours:
        raise FolderUnusable(
            f"{folder} is not ours alone: remove it and start again",
            message_zh=f"{folder} 不归本程序独有:请删除后重新启动",
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)


class DataFolder:
    """Paths of one data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.keys = self.root / "keys"
        self.postgres = self.root / "postgres"
        self.cold = self.root / "history"
        """Days of the readings that are no longer new, as Parquet files."""
        self.run = self.root / "run"
        self.logs = self.root / "log"
        self.sockets = socket_folder(self.run)
        self.database_url = self.run / "database-url"
        """The embedded server's URL with its password; for the children and the command line."""
        self.children = self.run / "children.json"
        self.first_password = self.run / "first-password"
        """There until the password has been shown to a person who can sign in with it."""
        self.password_shown = self.run / "password-shown"

    def create(self) -> None:
        """Create the folders that are missing.

        Raises:
            FolderUnusable: They cannot be created or written; the message says which and why.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.root, self.run, self.logs, self.sockets):
                make_private(folder)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def socket(self, name: str) -> Path:
        """Return the path of a process's or service's socket."""
        return self.sockets / f"{name}.sock"

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.logs / f"{name}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for the length of the block; the lock ends with the process at the latest.

        Raises:
            FolderInUse: Another suite holds it; the message names its process.
            FolderUnusable: It cannot be written.
        """
        try:
            file = (self.root / "lock").open("a+")
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise self._unusable(exc) from exc
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "?"
                raise FolderInUse(
                    f"another Wattring (process {holder}) runs on {self.root}: stop it with `wattring down`, "
                    "or choose another folder with WATTRING_DATA_DIR",
                    message_zh=f"另一个 Wattring(进程 {holder})正在使用 {self.root}:"
                    "请用 `wattring down` 停止它,或用 WATTRING_DATA_DIR 另选目录",
                    process=holder,
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def holder(self) -> int | None:
        """Return the process that holds the folder, None when nobody does."""
        try:
            with self.locked():
                return None
        except FolderInUse as exc:
            return int(exc.facts["process"]) if str(exc.facts["process"]).isdigit() else 0
        except FileNotFoundError:
            return None

    def _unusable(self, exc: OSError) -> FolderUnusable:
        return FolderUnusable(
            f"cannot use the data folder {self.root}: {exc.strerror}; choose another with WATTRING_DATA_DIR",
            message_zh=f"无法使用数据目录 {self.root}:{exc.strerror};请用 WATTRING_DATA_DIR 另选",
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
