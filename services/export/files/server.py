"""The units' file server: FTP by pyftpdlib in a thread of its own, one locked-in folder per account.

Reading is all that an account may do, unless uploads are permitted, and then into one folder only. Whoever asks must
come from a network of the account's centre. Sessions, their time, uploads and attempts are bounded.
"""

import hmac
import ipaddress
import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.common import metrics
from libs.common.errors import PlatformError

with warnings.catch_warnings():
    # Up to Python 3.11 it stands on asyncore of the standard library, later on a package of its own.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pyftpdlib.authorizers import AuthenticationFailed
    from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
    from pyftpdlib.ioloop import IOLoop
    from pyftpdlib.servers import FTPServer

logger = logging.getLogger(__name__)

# The library tells every session and transfer at this name; here they are counted, and failures are told by us.
logging.getLogger("pyftpdlib").setLevel(logging.WARNING)

READ = frozenset("elr")
"""Change the folder, list, fetch: letters of pyftpdlib's permissions."""
UPLOAD = "w"
STEP_S = 0.5
"""The server's thread looks so often whether it is to stop. [s]"""
SOCKETS_PER_SESSION = 3
"""The session itself, its passive listener, its transfer."""
BACKLOG = 50
"""Connections that wait to be accepted."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LoginRefused = Callable[[str], None]
"""Told the address of each login that was refused, in the server's thread."""

_logins = metrics.counter("export_file_logins_total", "Logins at the units' file server", ("outcome",))


class FileServerFailed(PlatformError):
    """The file server cannot listen, or has ended."""

    code = "file_server_failed"
    title_zh = "文件服务无法运行"


@dataclass(frozen=True, slots=True)
class Account:
    """Who may fetch files of one unit."""

    username: str
    password: str = field(repr=False)
    home: Path
    networks: tuple[Network, ...]
    """Whence it may come."""
    login_folder: str = ""
    """Where a session begins, below ``home``."""
    upload_folder: str | None = None
    """Below ``home``, empty for ``home`` itself; None permits no upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """How the server listens and what it bears."""

    host: str
    port: int
    public_address: str | None = None
    """What passive connections are told, behind a translated address."""
    passive_ports: tuple[int, int] | None = None
    max_sessions: int = 64
    max_sessions_per_address: int = 8
    idle_s: float = 120.0
    max_upload_bytes: int = 64 << 20
    certificate: Path | None = None
    """PEM with the key in it; with it sessions may be encrypted (explicit TLS)."""
    tls_required: bool = False


class _Authorizer:
    """Answers the library from a snapshot of the accounts; replaced whole, so the thread needs no lock."""

    def __init__(self) -> None:
        self.accounts: Mapping[str, Account] = {}
        self.refused: LoginRefused = lambda _: None

    def validate_authentication(self, username: str, password: str, handler: Any) -> None:
        account = self.accounts.get(username)
        expected = "" if account is None else account.password
        right = hmac.compare_digest(password.encode(), expected.encode())
        if account is None or not right or not _within(handler.remote_ip, account.networks):
            logger.warning("file account refused", extra={"account": username[:64], "peer": handler.remote_ip})
            _logins.labels("refused").inc()
            self.refused(handler.remote_ip)
            raise AuthenticationFailed("Authentication failed.")
        _logins.labels("accepted").inc()

    def has_user(self, username: str) -> bool:
        return username in self.accounts

    def get_home_dir(self, username: str) -> str:
        return str(self._account(username).home)

    def has_perm(self, username: str, perm: str, path: str | None = None) -> bool:
        account = self.accounts.get(username)
        if account is None:  # taken away during the session
            return False
        if perm in READ:
            return True
        if perm != UPLOAD or account.upload_folder is None or path is None:
            return False
        return Path(os.path.realpath(path)).parent == (account.home / account.upload_folder).resolve()

    def get_perms(self, username: str) -> str:
        return "".join(sorted(READ))

    def get_msg_login(self, username: str) -> str:
        return "Login successful."

    def get_msg_quit(self, username: str) -> str:
        return "Goodbye."

    def impersonate_user(self, username: str, password: str) -> None:
        """Files are read with the rights of this process."""

    def terminate_impersonation(self, username: str) -> None:
        """See ``impersonate_user``."""

    def _account(self, username: str) -> Account:
        account = self.accounts.get(username)
        if account is None:
            raise AuthenticationFailed("The account is gone.")
        return account


class FileServer:
    """The server; ``start`` and ``stop`` are called by a worker."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._authorizer = _Authorizer()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: Any = None

    @property
    def is_running(self) -> bool:
        """Whether accounts can be used."""
        return self._thread is not None and self._thread.is_alive()

    def use(self, accounts: Sequence[Account]) -> None:
        """Take these accounts from now on; the folders must exist."""
        self._authorizer.accounts = {account.username: account for account in accounts}

    def start(self, refused: LoginRefused) -> None:
        """Listen.

        Args:
            refused: Called in the server's thread; must not block it.

        Raises:
            FileServerFailed: The address cannot be had, or the certificate cannot be read.
        """
        limits = self.limits
        self._authorizer.refused = refused
        try:
            handler = _handler(limits, self._authorizer)
            self._server = FTPServer((limits.host, limits.port), handler, ioloop=IOLoop(), backlog=BACKLOG)
        except Exception as exc:  # OpenSSL and sockets each have their own
            raise FileServerFailed(
                f"WATTRING_EXPORT__FILES__PORT: {limits.host}:{limits.port} cannot be listened at: {exc}",
                message_zh=f"WATTRING_EXPORT__FILES__PORT:无法监听 {limits.host}:{limits.port}:{exc}",
            ) from exc
        # The library counts every socket, its own and those of transfers; sessions are counted as they connect.
        self._server.max_cons = limits.max_sessions * SOCKETS_PER_SESSION + 1
        self._server.max_cons_per_ip = limits.max_sessions_per_address
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name="ftp", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all sessions and the thread; takes up to ``STEP_S``."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                self._server.ioloop.loop(timeout=STEP_S, blocking=False)
        finally:
            self._server.close_all()


def _handler(limits: ServerLimits, authorizer: _Authorizer) -> type:
    """Return a handler class of our own: the library keeps a server's settings in its class."""
    tls = limits.certificate is not None

    class Transfer(TLS_DTPHandler if tls else DTPHandler):  # type: ignore[misc]  # the library ships without types
        def handle_read(self) -> None:
            super().handle_read()
            if self.receive and self.get_transmitted_bytes() > limits.max_upload_bytes and not self._closed:
                self.transfer_finished = False
                self._resp = (f"552 More than {limits.max_upload_bytes} bytes.", logger.warning)
                self.close()

        handle_read_event = handle_read

    class Session(TLS_FTPHandler if tls else FTPHandler):  # type: ignore[misc]
        def on_connect(self) -> None:
            if len(self.server.ip_map) > limits.max_sessions:
                self.handle_max_cons()

        def on_login(self, username: str) -> None:
            account = authorizer.accounts.get(username)
            if account is not None and account.login_folder:
                self.fs.cwd = f"/{account.login_folder}"

        def on_incomplete_file_received(self, file: str) -> None:
            Path(file).unlink(missing_ok=True)

    settings: dict[str, Any] = {
        "authorizer": authorizer, "dtp_handler": Transfer, "banner": "ready", "timeout": limits.idle_s,
        "auth_failed_timeout": 1, "max_login_attempts": 3, "masquerade_address": limits.public_address,
        "use_gmt_times": True, "permit_foreign_addresses": False, "permit_privileged_ports": False,
    }  # fmt: skip
    if limits.passive_ports is not None:
        settings["passive_ports"] = range(limits.passive_ports[0], limits.passive_ports[1] + 1)
    if tls:
        settings |= {
            "certfile": str(limits.certificate), "tls_control_required": limits.tls_required,
            "tls_data_required": limits.tls_required,
        }  # fmt: skip
    for name, value in settings.items():
        setattr(Session, name, value)
    return Session


def _within(peer: str, networks: Sequence[Network]) -> bool:
    address = ipaddress.ip_address(peer)
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
