"""Puts a file at a centre's server: FTP, FTP over TLS or SFTP; under another name first, then renamed.

The library for FTP is aioftp (Apache-2.0), for SFTP asyncssh (EPL-2.0): both are asynchronous, kept up, and may be
used unmodified beside our licence. A centre that reads while we write sees no half file.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import aioftp
import asyncssh

from libs.common.errors import Unavailable

PORTS = {"ftp": 21, "ftps": 990, "sftp": 22}
"""Ports by kind; ``ftps`` is implicit TLS, the only kind that the library speaks as a client."""
DRAFT = ".part"
"""What the name of an unfinished file ends with."""


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
            return None
        if not self.host_key:
            return "host_key: needed for SFTP, or anybody could be the centre"
        try:
            asyncssh.import_public_key(self.host_key)
            if self.private_key:
                asyncssh.import_private_key(self.private_key)
        except (asyncssh.KeyImportError, ValueError):
            return "host_key, private_key: a key cannot be read"
        return None

    def with_account(self, account: Mapping[str, str]) -> "PushTarget":
        """Return the target with the account that is stored apart."""
        return PushTarget(
            url=self.url, host_key=self.host_key, timeout_s=self.timeout_s, username=account.get("username", ""),
            password=account.get("password", ""), private_key=account.get("private_key", ""),
        )  # fmt: skip


async def push(target: PushTarget, folder: str, name: str, content: bytes) -> None:
    """Put one file, or replace it.

    Raises:
        PushFailed: Nobody answered in time, refused, or does not show the key that was agreed.
    """
    parts = urlsplit(target.url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    place = PurePosixPath("/", unquote(parts.path).lstrip("/"), folder)
    try:
        async with asyncio.timeout(target.timeout_s):
            if parts.scheme == "sftp":
                await _by_sftp(target, host, port, place, name, content)
            else:
                await _by_ftp(target, host, port, place, name, content, tls=parts.scheme == "ftps")
    except TimeoutError as exc:
        raise _failed(f"no end within {target.timeout_s:g} s") from exc
    except (aioftp.AIOFTPException, asyncssh.Error, OSError, ssl.SSLError) as exc:
        raise _failed(str(exc) or type(exc).__name__) from exc


async def _by_ftp(
    target: PushTarget, host: str, port: int, place: PurePosixPath, name: str, content: bytes, *, tls: bool
) -> None:
    context = ssl.create_default_context() if tls else None
    client = aioftp.Client(ssl=context, socket_timeout=target.timeout_s)
    try:
        await client.connect(host, port)
        await client.login(target.username or "anonymous", target.password)
        if place != PurePosixPath("/"):
            await client.make_directory(place)
        async with client.upload_stream(place / (name + DRAFT)) as stream:
            await stream.write(content)
        await client.rename(place / (name + DRAFT), place / name)
        await client.quit()
    finally:
        client.close()


async def _by_sftp(target: PushTarget, host: str, port: int, place: PurePosixPath, name: str, content: bytes) -> None:
    known = asyncssh.import_known_hosts(f"[{host}]:{port} {target.host_key}\n{host} {target.host_key}\n")
    options = asyncssh.SSHClientConnectionOptions(
        username=target.username, password=target.password or None, known_hosts=known, agent_path=None, config=None,
        client_keys=[asyncssh.import_private_key(target.private_key)] if target.private_key else None,
        login_timeout=target.timeout_s,
    )  # fmt: skip
    async with asyncssh.connect(host, port, options=options) as connection, connection.start_sftp_client() as sftp:
        await sftp.makedirs(str(place), exist_ok=True)
        draft, final = str(place / (name + DRAFT)), str(place / name)
        async with sftp.open(draft, "wb") as file:
            await file.write(content)
        try:
            await sftp.posix_rename(draft, final)
        except asyncssh.SFTPOpUnsupported:  # a server that is not OpenSSH: it renames onto nothing that is there
            await sftp.rename(draft, final)


def _failed(reason: str) -> PushFailed:
    return PushFailed(f"the file was not taken: {reason}"[:500], message_zh=f"文件未被接收:{reason}"[:500])
