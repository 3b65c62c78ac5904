"""How calls of China Telecom's device platform (CTWing AEP) are signed; two services call it.

Source:
    southbound.md 11.1, from public clients of the platform.
"""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AppKey:
    """What an application signs with, and what a product's interfaces ask for."""

    key: str
    secret: str = field(repr=False)
    master_key: str | None = field(repr=False)
    """None for an interface that asks for none."""


def signed_headers(
    app: AppKey, *, timestamp_ms: int, version: str, params: Mapping[str, str], body: bytes
) -> dict[str, str]:
    """Return the headers of a request.

    The text that is signed holds the MasterKey: it is never logged.

    Args:
        app: Who calls.
        timestamp_ms: Of the platform's clock.
        version: Date code of the interface.
        params: Query parameters, unencoded.
        body: As it is sent; empty where there is none.

    Source:
        southbound.md 11.1: Base64(HMAC-SHA1(secret, text)), the lines of parameters and MasterKey sorted by name.
    """
    master_key = {} if app.master_key is None else {"MasterKey": app.master_key}
    named = sorted({**params, **master_key}.items())
    lines = [f"application:{app.key}", f"timestamp:{timestamp_ms}", *(f"{name}:{value}" for name, value in named)]
    text = "".join(f"{line}\n" for line in lines).encode() + (body + b"\n" if body else b"")
    signature = base64.b64encode(hmac.digest(app.secret.encode(), text, "sha1")).decode()
    return {
        "application": app.key,
        "timestamp": str(timestamp_ms),
        "version": version,
        "signature": signature,
        **master_key,
        "Content-Type": "application/json; charset=UTF-8",
    }
