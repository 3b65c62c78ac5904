"""Credentials of other systems: encrypted before they reach the database, with a key that never does.

The key comes from the environment, or is made once in the keys folder with mode 0600. Several keys are a
rotation: the first encrypts, all decrypt.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from libs.common.errors import PlatformError

FILE_NAME = "export-secrets.key"


class SecretsUnreadable(PlatformError):
    """The key is missing, malformed or another one than the credentials were encrypted with."""

    code = "secrets_unreadable"
    title_zh = "凭据无法解密"


class Secrets:
    """Encrypts and decrypts credentials."""

    def __init__(self, keys: str) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key.strip()) for key in keys.split(",")])
        except ValueError as exc:
            raise SecretsUnreadable(
                "WATTRING_EXPORT__SECRET_KEY: expected 32 bytes in URL-safe base64, several joined by commas",
                message_zh="WATTRING_EXPORT__SECRET_KEY 应为 URL 安全 base64 编码的 32 字节,多个以逗号分隔",
            ) from exc

    @classmethod
    def open(cls, configured: str | None, folder: Path) -> "Secrets":
        """Return the secrets under the configured keys, or under the folder's own, made at first use.

        Raises:
            SecretsUnreadable: The key cannot be read or is none.
        """
        if configured:
            return cls(configured)
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                _create(path)
            return cls(path.read_text(encoding="ascii").strip())
        except OSError as exc:
            raise SecretsUnreadable(f"{path}: {exc.strerror}") from exc

    def seal(self, credentials: Mapping[str, str]) -> bytes:
        """Return the credentials encrypted."""
        return self._fernet.encrypt(orjson.dumps(dict(credentials)))

    def unseal(self, sealed: bytes | None) -> dict[str, str]:
        """Return credentials that were encrypted; none when there are none.

        Raises:
            SecretsUnreadable: They were encrypted with a key that we do not have.
        """
        if sealed is None:
            return {}
        try:
            opened: dict[str, str] = orjson.loads(self._fernet.decrypt(sealed))
        except InvalidToken as exc:
            raise SecretsUnreadable(
                "credentials were encrypted with another key", message_zh="凭据由其他密钥加密"
            ) from exc
        return opened


def _create(path: Path) -> None:
    """Make a key; of two processes that do so at once one wins, and nobody sees half a file."""
    draft = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(Fernet.generate_key().decode())
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
