"""Standard Webhooks 1.0.0: how a call of ours is signed, so that its receiver knows who sent it and when.

The headers are ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``: HMAC-SHA256 over id, time and body, in
Base64 behind ``v1,``. While a secret is being replaced the call bears a signature with each.

Source:
    github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md, 1.0.0.
"""

import base64
import binascii
import re
import secrets as random
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from libs.common.errors import InvalidInput

PREFIX = "whsec_"
SECRET_BYTES = 32
"""The specification asks for 24 to 64. [B]"""
_ID = re.compile(r"[A-Za-z0-9_:/-]{1,200}")


class WrongSecret(InvalidInput):
    """A secret has the prefix of one in Base64, and is none; the message shows nothing of it."""

    code = "wrong_webhook_secret"
    title_zh = "回调密钥格式错误"


def new_secret() -> str:
    """Return a new secret in the form that receivers' libraries take."""
    return PREFIX + base64.b64encode(random.token_bytes(SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for; one without the prefix is the key itself, as text.

    Raises:
        WrongSecret: It begins with the prefix, and no Base64 is behind it, or nothing.
    """
    if not secret.startswith(PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if not key:
        raise WrongSecret(
            f"the secret begins with {PREFIX}, and Base64 is expected behind it",
            message_zh=f"密钥以 {PREFIX} 开头，其后应为 Base64",
        )
    return key


def is_id(text: str) -> bool:
    """Return whether a text can be a ``webhook-id``: no dot, which separates what is signed, and nothing odd."""
    return _ID.fullmatch(text) is not None


def signed_headers(message_id: str, at: datetime, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of one call.

    Args:
        message_id: The same whenever the same thing is sent again.
        at: When this attempt is made, aware.
        body: The body, UTF-8.
        keys: A signature is made with each; without any the call is not signed.
    """
    at, text = at.astimezone(UTC), body.decode()
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp()))}
    if keys:
        headers["webhook-signature"] = " ".join(Webhook(key).sign(message_id, at, text) for key in keys)
    return headers
