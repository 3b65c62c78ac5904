"""The units' file server by itself, without a database: TLS, sessions and passive ports; and files pushed over TLS."""

import asyncio
import ftplib
import io
import ipaddress
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.export.files.push import PushFailed, PushTarget, push
from services.export.files.server import Account, FileServer, FileServerFailed, ServerLimits
from tests.integration.export.conftest import free_port
from tests.peers.certificates import Authority

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # asyncore, as in the server itself
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import TLS_FTPHandler
    from pyftpdlib.ioloop import IOLoop
    from pyftpdlib.servers import FTPServer

pytestmark = [pytest.mark.integration]

USER, PASSWORD = "scftp", "of-the-unit"
CONTENT = bytes(range(256)) * 100
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return certificate and key in one file, as the setting wants it."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(b"".join(authority.issue("unit.test")))
    return path


@contextmanager
def server(folder: Path, refused: Callable[[str], None] = lambda _: None, **limits: Any) -> Iterator[int]:
    """Run the product's server with one account and one file; gives its port."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / "a.csv").write_bytes(CONTENT)
    port = free_port()
    running = FileServer(ServerLimits(host="127.0.0.1", port=port, **limits))
    running.use([Account(username=USER, password=PASSWORD, home=home, networks=LOOPBACK)])
    running.start(refused)
    try:
        yield port
    finally:
        running.stop()


def connected(port: int) -> ftplib.FTP:
    ftp = ftplib.FTP(timeout=20)
    ftp.connect("127.0.0.1", port)
    return ftp


def fetched(ftp: ftplib.FTP) -> bytes:
    taken = io.BytesIO()
    ftp.retrbinary("RETR a.csv", taken.write)
    return taken.getvalue()


def test_with_tls_required_nothing_is_said_or_fetched_in_the_clear(
    tmp_path: Path, authority: Authority, certificate: Path
) -> None:
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    with server(tmp_path, certificate=certificate, tls_required=True) as port:
        with connected(port) as plain, pytest.raises(ftplib.error_perm, match="550"):
            plain.login(USER, PASSWORD)
        with ftplib.FTP_TLS(timeout=20, context=trusting) as ftp:
            ftp.connect("127.0.0.1", port)
            ftp.login(USER, PASSWORD)  # asks for TLS first
            assert isinstance(ftp.sock, ssl.SSLSocket)
            with pytest.raises(ftplib.error_perm, match="550"):
                fetched(ftp)  # the file itself would go in the clear
            ftp.prot_p()
            assert fetched(ftp) == CONTENT
        with ftplib.FTP_TLS(timeout=20, context=ssl.create_default_context()) as stranger:
            stranger.connect("127.0.0.1", port)
            with pytest.raises(ssl.SSLError):
                stranger.login(USER, PASSWORD)


def test_where_tls_is_offered_a_centre_without_it_is_served_too(tmp_path: Path, certificate: Path) -> None:
    with server(tmp_path, certificate=certificate) as port, connected(port) as plain:
        plain.login(USER, PASSWORD)
        assert fetched(plain) == CONTENT


def test_a_certificate_that_cannot_be_read_is_said_at_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(FileServerFailed), server(tmp_path, certificate=broken):
        pass


def test_as_many_sessions_as_are_allowed_and_their_transfers_and_no_more(tmp_path: Path) -> None:
    with server(tmp_path, max_sessions=2, max_sessions_per_address=8) as port, ExitStack() as stack:
        sessions = [stack.enter_context(connected(port)) for _ in range(2)]
        for ftp in sessions:
            ftp.login(USER, PASSWORD)
            assert fetched(ftp) == CONTENT  # a transfer is no session
        assert turned_away(port) == "421"
        sessions[0].quit()
        with connected(port) as again:
            again.login(USER, PASSWORD)


def test_one_address_has_no_more_than_its_sessions(tmp_path: Path) -> None:
    with server(tmp_path, max_sessions=8, max_sessions_per_address=1) as port, connected(port) as first:
        first.login(USER, PASSWORD)
        assert turned_away(port) == "421"
        assert fetched(first) == CONTENT


def test_passive_connections_come_from_the_ports_that_are_open_for_them(tmp_path: Path) -> None:
    only = free_port()
    with server(tmp_path, passive_ports=(only, only)) as port, connected(port) as ftp:
        ftp.login(USER, PASSWORD)
        host, told = ftp.makepasv()
        assert (host, told) == ("127.0.0.1", only)
        assert fetched(ftp) == CONTENT


def test_each_refused_login_is_told_with_its_address(tmp_path: Path) -> None:
    told: list[str] = []
    with server(tmp_path, told.append) as port, connected(port) as ftp:
        for username, password in ((USER, "guessed"), ("root", PASSWORD)):
            with pytest.raises(ftplib.error_perm):
                ftp.login(username, password)
        ftp.login(USER, PASSWORD)
    assert told == ["127.0.0.1"] * 2


def turned_away(port: int) -> str:
    """Return what a connection too many is answered."""
    ftp = ftplib.FTP(timeout=20)
    with pytest.raises(ftplib.error_temp) as caught:
        ftp.connect("127.0.0.1", port)
    ftp.close()
    return str(caught.value)[:3]


# ---- pushes -------------------------------------------------------------------------------------------


class ImplicitTls(TLS_FTPHandler):  # type: ignore[misc]  # the library ships without types
    """A centre's server that speaks TLS from the first byte, on connections for data too."""

    def handle(self) -> None:
        self.secure_connection(self.ssl_context)

    def handle_ssl_established(self) -> None:
        self._pbsz = self._prot = True
        super().handle()


@contextmanager
def centre(root: Path, certificate: Path) -> Iterator[int]:
    """Run a centre's FTP server with implicit TLS; gives its port."""
    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(root), perm="elradfmw")
    handler = type("Handler", (ImplicitTls,), {"authorizer": authorizer, "certfile": str(certificate)})
    running = FTPServer(("127.0.0.1", 0), handler, ioloop=IOLoop())
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            running.ioloop.loop(timeout=0.1, blocking=False)
        running.close_all()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield running.socket.getsockname()[1]
    finally:
        stopping.set()
        thread.join()


async def test_files_are_pushed_over_tls_to_a_centre_that_is_trusted_and_to_no_other(
    tmp_path: Path, authority: Authority, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.pem)
    root = tmp_path / "centre"
    root.mkdir()
    with centre(root, certificate) as port:
        target = PushTarget(url=f"ftps://127.0.0.1:{port}/inbox", username=USER, password=PASSWORD, timeout_s=20)
        with pytest.raises(PushFailed, match="certificate"):
            await push(target, "now", "a.csv", b"first")
        assert list(root.iterdir()) == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        for content in (b"first", CONTENT):
            await push(target, "now", "a.csv", content)
            assert await asyncio.to_thread((root / "inbox" / "now" / "a.csv").read_bytes) == content
    assert [path.name for path in (root / "inbox" / "now").iterdir()] == ["a.csv"]
