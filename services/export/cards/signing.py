"""Signature of the card platform's gateway."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime


def timestamp(now: datetime) -> str:
    """Return a time as the header ``Timestamp`` wants it: GMT, ``yyyyMMddHHmmss``."""
    return now.astimezone(UTC).strftime("%Y%m%d%H%M%S")


def sign(*, secret: str, stamp: str, query: Mapping[str, str], body: str) -> str:
    """Return the header ``Sign``.

    The MD5 text of sorted query, body, secret and time is hex-encoded a second time, so it has 64 characters. MD5 is
    the platform's choice; the way there is protected by TLS.

    Args:
        secret: Of the account.
        stamp: As in the header ``Timestamp``.
        query: Parameters of the query, empty for a POST.
        body: As it is sent, empty for a GET.
    """
    joined = "&".join(f"{name}={query[name]}" for name in sorted(query))
    digest = hashlib.md5(f"{joined}{body}{secret}{stamp}".encode(), usedforsecurity=False).hexdigest()
    return digest.encode().hex().upper()
