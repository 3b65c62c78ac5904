"""Passwords (argon2id) and random secrets.

argon2-cffi: the reference implementation's binding, MIT, maintained, its defaults follow RFC 9106.
"""

import asyncio
import functools
import hashlib
import hmac
import secrets

import argon2

from libs.common.errors import InvalidInput

MIN_LENGTH = 12
"""Shortest password taken; length beats composition rules (NIST SP 800-63B)."""
MAX_LENGTH = 256

_hasher = argon2.PasswordHasher()


@functools.cache
def _nobody() -> str:
    """Return a hash that no password has; made when first needed, because it takes as long as a real one."""
    return _hasher.hash(secrets.token_urlsafe(16))


async def hash_password(password: str) -> str:
    """Return the hash to store.

    Raises:
        InvalidInput: Too short, or longer than anybody types.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(
            f"password: expected {MIN_LENGTH} to {MAX_LENGTH} characters",
            message_zh=f"密码长度应为 {MIN_LENGTH} 到 {MAX_LENGTH} 个字符",
        )
    # Hashing takes tens of milliseconds on purpose; it releases the interpreter and must not stop the loop.
    return await asyncio.to_thread(_hasher.hash, password)


async def matches(password: str, stored: str | None) -> bool:
    """Return whether the password is the stored one; takes the same time when there is no such user."""

    def check() -> bool:
        try:
            return _hasher.verify(stored or _nobody(), password[:MAX_LENGTH]) and stored is not None
        except argon2.exceptions.VerificationError:
            return False

    return await asyncio.to_thread(check)


def new_secret() -> str:
    """Return a secret of 256 random bits, for sessions and API keys."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """Return what is stored of a random secret; it needs no salt and no stretching."""
    return hashlib.sha256(secret.encode()).digest()


def same(one: bytes, other: bytes) -> bool:
    """Compare without telling by the time it takes."""
    return hmac.compare_digest(one, other)
