"""Servers of a centre that we did not write: ProFTPD and OpenSSH, each as a process on a free port."""

import asyncio
import grp
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.conftest import missing

USER, PASSWORD = "wattring", "of-the-centre"


@dataclass
class FileServer:
    """A running one."""

    port: int
    root: Path
    """What its client sees as the root."""
    host_key: str | None = None
    client_key: str | None = None


def binary(name: str) -> str:
    """Return where a server is; without it a test is skipped at home and fails in the pipeline."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if found is None:
        missing(f"{name}; `deploy/setup/backing-services` installs it")
    return found


@asynccontextmanager
async def proftpd(folder: Path) -> AsyncIterator[FileServer]:
    """Run ProFTPD with one account, locked into its folder."""
    program, port = binary("proftpd"), _free_port()
    root = _prepare_proftpd(folder, port)
    async with _process([program, "-n", "-q", "-c", str(folder / "conf")], port, folder):
        yield FileServer(port, root)


def _prepare_proftpd(folder: Path, port: int) -> Path:
    root = folder / "root"
    root.mkdir(parents=True)
    uid, gid = os.getuid(), os.getgid()
    digest = _said("openssl", "passwd", "-6", PASSWORD)
    passwords = folder / "passwords"
    passwords.write_text(f"{USER}:{digest}:{uid}:{gid}::{root}:/bin/false\n")
    passwords.chmod(0o600)
    (folder / "conf").write_text(
        f"""
        ServerName centre
        ServerType standalone
        DefaultServer on
        DefaultAddress 127.0.0.1
        SocketBindTight on
        Port {port}
        UseIPv6 off
        UseReverseDNS off
        User {pwd.getpwuid(uid).pw_name}
        Group {grp.getgrgid(gid).gr_name}
        AuthPAM off
        AuthOrder mod_auth_file.c
        AuthUserFile {passwords}
        RequireValidShell off
        RootLogin on
        WtmpLog off
        TransferLog none
        SystemLog {folder}/log
        PidFile {folder}/pid
        ScoreboardFile {folder}/scoreboard
        DefaultRoot ~
        AllowOverwrite on
        """
    )
    return root


@asynccontextmanager
async def sshd(folder: Path) -> AsyncIterator[FileServer]:
    """Run OpenSSH for SFTP only, with a key for its client."""
    program, port = binary("sshd"), _free_port()
    _prepare_sshd(folder, port)
    async with _process([program, "-D", "-e", "-f", str(folder / "conf")], port, folder):
        key = " ".join(_read(folder / "host.pub").split()[:2])
        yield FileServer(port, Path("/"), key, _read(folder / "client"))


def _prepare_sshd(folder: Path, port: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "client"):
        _said("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (folder / "allowed").write_text(_read(folder / "client.pub"))
    (folder / "conf").write_text(
        f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host
        AuthorizedKeysFile {folder}/allowed
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        PermitRootLogin prohibit-password
        PidFile none
        Subsystem sftp internal-sftp
        """
    )


def _log(folder: Path) -> BinaryIO:
    return (folder / "out").open("wb")


def _read(path: Path) -> str:
    return path.read_text()


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@asynccontextmanager
async def _process(command: list[str], port: int, folder: Path) -> AsyncIterator[None]:
    with _log(folder) as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
    try:
        async with asyncio.timeout(30):
            while True:
                if process.returncode is not None:
                    raise AssertionError(_read(folder / "out"))
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                await writer.wait_closed()
                break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(20):
                await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
