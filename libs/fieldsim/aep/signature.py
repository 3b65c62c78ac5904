"""The check of a request's signature, written from the description and not from any client of ours."""

import base64
import hashlib
import hmac
from collections.abc import Mapping


def expected(secret: str, application: str, timestamp: str, named: Mapping[str, str], body: bytes) -> str:
    """Return the signature that a request has to carry.

    Args:
        secret: Of the application.
        application: Its key.
        timestamp: Header of that name, milliseconds as text.
        named: Query parameters, and ``MasterKey`` where the interface asks for it.
        body: As it came; empty where there is none.

    Source:
        southbound.md 11.1.
    """
    text = f"application:{application}\ntimestamp:{timestamp}\n"
    for name in sorted(named):
        text += f"{name}:{named[name]}\n"
    signed = text.encode() + (body + b"\n" if body else b"")
    return base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha1).digest()).decode()
