"""Puts a file at a centre's server: FTP, FTP over TLS or SFTP; under another name first, then renamed.

The library for FTP is aioftp (Apache-2.0), for SFTP asyncssh (EPL-2.0): both are asynchronous, kept up, and may be
used unmodified beside our licence. A centre that reads while we write sees no half file. The first target of SFTP loads
asyncssh, which would be a tenth of what the whole service loads.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import aioftp
from aioftp.common import SSLSessionBoundContext

from libs.common.errors import Unavailable

PORTS = {"ftp": 21, "ftps": 990, "sftp": 22}
"""Ports by kind; ``ftps`` is implicit TLS, the only kind that the library speaks as a client."""
DRAFT = ".part"
"""What the name of an unfinished file ends with."""
CHUNK_BYTES = 256 * 1024
"""So much of a file on disk is in memory at a time. [B]"""


Dial = Callable[[int], Awaitable[socket.socket]]
"""Returns a socket that is connected to a port of the target's host."""


class PushFailed(Unavailable):
    """The centre did not take the file; it is tried again."""

    code = "push_failed"
    title_zh = "文件推送失败"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushTarget:
    """Where files of a connection go."""

    url: str
    """``ftp://host:port/folder``, ``ftps://…`` or ``sftp://…``; without an account."""
    host_key: str | None = None
    """Public key of an SFTP server, as in ``known_hosts``: ``ssh-ed25519 AAAA…``; needed for one."""
    trust: str | None = None
    """PEM of the authorities that the certificate of an FTPS server is checked against; None: the machine's."""
    timeout_s: float = 30.0
    """For one file. [s]"""
    username: str = ""
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    """OpenSSH or PEM, for SFTP in place of a password."""

    def problem(self) -> str | None:
        """Return what is wrong with it, None when it can be used."""
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            return "url: it cannot be read"
        if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.username is not None:
            return "url: expected ftp://, ftps:// or sftp://host:port/folder without an account"
        if parts.scheme != "sftp":
            return None if self.trust is None else trust_problem(self.trust)
        if not self.host_key:
            return "host_key: needed for SFTP, or anybody could be the centre"
        import asyncssh

        try:
            asyncssh.import_public_key(self.host_key)
            if self.private_key:
                asyncssh.import_private_key(self.private_key)
        except (asyncssh.KeyImportError, ValueError):
            return "host_key, private_key: a key cannot be read"
        return None

    def with_account(self, account: Mapping[str, str]) -> "PushTarget":
        """Return the target with the account that is stored apart."""
        return replace(
            self, username=account.get("username", ""), password=account.get("password", ""),
            private_key=account.get("private_key", ""),
        )  # fmt: skip


def trust_problem(pem: str) -> str | None:
    """Return what is wrong with certificates, None when they can be read."""
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError):
        return "trust: expected certificates in PEM"
    return None


async def push(target: PushTarget, folder: str, name: str, content: bytes | Path) -> None:
    """Put one file, or replace it.

    Raises:
        PushFailed: Nobody answered in time, refused, or does not show the key that was agreed.
    """
    await push_all(target, folder, [(name, content)])


async def push_all(
    target: PushTarget,
    folder: str,
    files: Sequence[tuple[str, bytes | Path]],
    *,
    address: str | None = None,
    dial: Dial | None = None,
) -> None:
    """Put files in their order over one connection, or replace them.

    Args:
        target: Where and as whom; its time is for each of them.
        folder: Below the target's own folder.
        files: What each will be called, and what stands in it or the file on disk that is sent piece by piece.
        address: Of the host, where it was looked up and checked before; with TLS the name is looked up again, since
            the certificate is of the name.
        dial: Opens the connections, by a way of the caller's; None has the library open them.

    Raises:
        PushFailed: Nobody answered in time, refused, or does not show the key that was agreed.
    """
    parts = urlsplit(target.url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    there = address or host
    place = PurePosixPath("/", unquote(parts.path).lstrip("/"), folder)
    bound_s = target.timeout_s * len(files)
    try:
        async with asyncio.timeout(bound_s):
            if parts.scheme == "sftp":
                await _by_sftp(target, there, port, place, files, None if dial is None else await dial(port))
            else:
                tls = parts.scheme == "ftps"
                await _by_ftp(target, host if tls else there, port, place, files, tls=tls, dial=dial)
    except TimeoutError as exc:
        raise _failed(f"no end within {bound_s:g} s") from exc
    except (aioftp.AIOFTPException, OSError, ssl.SSLError) as exc:
        raise _failed(str(exc) or type(exc).__name__) from exc


async def _by_ftp(
    target: PushTarget,
    host: str,
    port: int,
    place: PurePosixPath,
    files: Sequence[tuple[str, bytes | Path]],
    *,
    tls: bool,
    dial: Dial | None,
) -> None:
    context = ssl.create_default_context(cadata=target.trust) if tls else None
    if dial is None:
        client = aioftp.Client(ssl=context, socket_timeout=target.timeout_s)
    else:
        client = _DialledClient(dial, host, context, timeout_s=target.timeout_s)
    try:
        await client.connect(host, port)
        await client.login(target.username or "anonymous", target.password)
        if place != PurePosixPath("/"):
            await client.make_directory(place)
        for name, content in files:
            async with client.upload_stream(place / (name + DRAFT)) as stream:
                async for piece in _pieces(content):
                    await stream.write(piece)
            await client.rename(place / (name + DRAFT), place / name)
        await client.quit()
    finally:
        client.close()


class _DialledClient(aioftp.Client):
    """An FTP client whose connections somebody else opens: the first one, and one more for each file.

    The library opens them all in one method, which is not documented as a place to step in: its version is bound in
    the service's dependencies, and the test behind a proxy breaks when it goes elsewhere.
    """

    def __init__(self, dial: Dial, host: str, context: ssl.SSLContext | None, *, timeout_s: float) -> None:
        super().__init__(ssl=context, socket_timeout=timeout_s)
        self._dial = dial
        self._host = host
        self._context = context
        self._first: ssl.SSLObject | None = None
        """The TLS of the first connection, whose session the others go on with: some servers insist on it."""

    async def _open_connection(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the server's port; wherever the server says that it is, it is where we know it."""
        sock = await self._dial(port)
        if self._context is None:
            return await asyncio.open_connection(sock=sock)
        context = self._context
        if self._first is not None and self._first.session is not None:
            context = SSLSessionBoundContext(ssl.PROTOCOL_TLS_CLIENT, self._context, self._first.session)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=self._host)
        self._first = self._first or writer.get_extra_info("ssl_object")
        return reader, writer


async def _by_sftp(
    target: PushTarget,
    host: str,
    port: int,
    place: PurePosixPath,
    files: Sequence[tuple[str, bytes | Path]],
    sock: socket.socket | None,
) -> None:
    import asyncssh

    known = asyncssh.import_known_hosts(f"[{host}]:{port} {target.host_key}\n{host} {target.host_key}\n")
    options = asyncssh.SSHClientConnectionOptions(
        username=target.username, password=target.password or None, known_hosts=known, agent_path=None, config=None,
        client_keys=[asyncssh.import_private_key(target.private_key)] if target.private_key else None,
        login_timeout=target.timeout_s,
    )  # fmt: skip
    try:
        async with (
            asyncssh.connect(host, port, options=options, sock=sock) as connection,
            connection.start_sftp_client() as sftp,
        ):
            await sftp.makedirs(str(place), exist_ok=True)
            for name, content in files:
                draft, final = str(place / (name + DRAFT)), str(place / name)
                async with sftp.open(draft, "wb") as file:
                    async for piece in _pieces(content):
                        await file.write(piece)
                try:
                    await sftp.posix_rename(draft, final)
                except asyncssh.SFTPOpUnsupported:  # not OpenSSH: it renames onto nothing that is there
                    await sftp.rename(draft, final)
    except asyncssh.Error as exc:
        raise _failed(str(exc) or type(exc).__name__) from exc


async def _pieces(content: bytes | Path) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    file = await asyncio.to_thread(content.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
    finally:
        file.close()


def _failed(reason: str) -> PushFailed:
    return PushFailed(f"the file was not taken: {reason}"[:500], message_zh=f"文件未被接收:{reason}"[:500])
