"""Stored secrets: what a line's or a channel's ``credentials_ref`` and certificates are, in a folder of files.

The registry is published and shown, and so are channels, so they only ever hold the *name* of a secret. The file of
that name lies in ``WATTRING_<SERVICE>__SECRETS_DIR``: a Kubernetes secret mounted there, or files that an operator
wrote. A file is either
``name=value`` lines (``user=``, ``password=`` …) or a text of its own, such as a key in PEM.

A file is looked at each time it is needed and read again when it has changed, so a changed password counts from the
next connection on. One that other accounts of the machine could read or change is not used: it is no secret.
"""

import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.common.errors import InvalidInput

REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_BYTES = 64 * 1024
"""A longer file is no credential. [B]"""
SETTLED_S = 2.0
"""A file that was changed less than this before it was read is read again: the machine's times of files are coarse, and
another change in the same moment would not show. [s]"""
MAX_KNOWN = 1_000
"""Secrets that are kept in memory."""
TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP
"""What nobody may: others anything, the group write. Kubernetes mounts a secret readable by the pod's group."""


class SecretUnusable(InvalidInput):
    """A stored secret is not there, is open to others, or does not say what is needed."""

    code = "secret_unusable"
    title_zh = "密钥文件不可用"


Print = tuple[int, int, int, int, int, int]
"""What shows that a file is the one that was read: device, inode, mode, size, times of content and inode."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of named values."""

    place: Path
    """Where it came from, for messages."""
    values: Mapping[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        """Return a value, None where the file does not give it."""
        return self.values.get(name)

    def require(self, name: str) -> str:
        """Return a value.

        Raises:
            SecretUnusable: The file does not give it.
        """
        value = self.values.get(name)
        if not value:
            raise SecretUnusable(
                f"{self.place}: expected a line {name}=…", message_zh=f"{self.place}:缺少 {name}=… 一行"
            )
        return value

    def check_host(self, host: str) -> None:
        """Return when the values may be sent to a host: any, unless the file has a line ``host=`` with those allowed.

        Who may edit a line chooses endpoint and secret; only who writes the file can say that they belong together.

        Raises:
            SecretUnusable: They may not.
        """
        allowed = self.values.get("host", "").lower().replace(",", " ").split()
        if allowed and host.lower() not in allowed:
            raise SecretUnusable(
                f"{self.place}: is for {', '.join(allowed)}, not for {host}",
                message_zh=f"{self.place}:仅用于 {', '.join(allowed)},不用于 {host}",
            )


class SecretStore:
    """Reads secrets out of one folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare; the folder need not exist while no line refers to a secret."""
        self._folder = folder
        self._known: dict[str, tuple[Print, Secret]] = {}

    def read(self, ref: str) -> Secret:
        """Return the named values of a secret.

        Lines are ``name=value``, without the blanks around either; empty ones and those that begin with ``#`` do not
        count. A value may itself contain ``=``.

        Raises:
            SecretUnusable: It cannot be read, others could, or a line is none of these.
        """
        known = self._known.get(ref)
        if known is not None and known[0] == self._print(ref):
            return known[1]
        _check_name(ref)
        # Looked at before it is read: a change in between shows at the next look.
        before, now = self._print(ref), time.time()
        secret = self._parsed(ref)
        self._known.pop(ref, None)
        if before is not None and now - max(before[-2:]) / 1e9 > SETTLED_S:
            self._known[ref] = before, secret
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return secret

    def _print(self, ref: str) -> Print | None:
        """Return what the file looks like now, None where there is none."""
        try:
            found = os.stat(f"{self._folder}/{ref}")
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _parsed(self, ref: str) -> Secret:
        values: dict[str, str] = {}
        for number, line in enumerate(self.text(ref).splitlines(), start=1):
            name, equals, value = (part.strip() for part in line.partition("="))
            if not line.strip() or name.startswith("#"):
                continue
            if not equals or not name:  # the message shows nothing of the line
                raise self._unusable(ref, f"line {number}: expected name=value", f"第 {number} 行应为 名称=取值")
            values[name] = value
        return Secret(self._folder / ref, values)

    def text(self, ref: str) -> str:
        """Return the whole text of a secret. Raises ``SecretUnusable``."""
        content = self._content(ref)
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass  # raised below, outside the handler: this error carries the bytes
        raise self._unusable(ref, "expected UTF-8 text", "应为 UTF-8 文本")

    def path(self, ref: str) -> Path:
        """Return the checked file of a secret, for libraries that want a path. Raises ``SecretUnusable``."""
        self._content(ref)
        return self._folder / ref

    def _content(self, ref: str) -> bytes:
        _check_name(ref)
        try:
            with (self._folder / ref).open("rb") as file:
                # Of the file that is open, not of what the name means a moment later.
                status = os.fstat(file.fileno())
                content = file.read(MAX_BYTES + 1)
        except OSError as exc:
            reason = exc.strerror or "unreadable"
            raise self._unusable(ref, f"cannot be read: {reason}", f"无法读取:{reason}") from None
        if status.st_mode & TOO_OPEN:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise self._unusable(
                ref,
                f"other accounts can read or change it (mode {mode}); expected 0600",
                f"其他账户可读取或修改该文件(权限 {mode}),应为 0600",
            )
        if len(content) > MAX_BYTES:
            raise self._unusable(ref, f"expected at most {MAX_BYTES} bytes", f"不得超过 {MAX_BYTES} 字节")
        return content

    def _unusable(self, ref: str, english: str, chinese: str) -> SecretUnusable:
        place = self._folder / ref
        return SecretUnusable(f"secret {place}: {english}", message_zh=f"密钥文件 {place}:{chinese}")


def _check_name(ref: str) -> None:
    """Return when a name is that of a secret. Raises ``SecretUnusable``."""
    if REF.fullmatch(ref) is None:
        raise SecretUnusable(
            f"{ref[:80]!r} is no name of a secret: expected letters, digits, '.', '_' and '-', at most 64",
            message_zh=f"密钥名 {ref[:80]!r} 无效:应由字母、数字及 . _ - 组成,最多 64 个字符",
        )
