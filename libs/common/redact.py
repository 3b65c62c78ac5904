"""Secrets taken out of what people and machines may read: log lines, error texts, the settings in use.

Nothing secret should come here in the first place; this is the net below. It knows secrets by the name they stand
under (``password``, ``token``, ``authorization`` …) and by their shape (a URL with a password, a bearer token, a JWT,
a private key in PEM). It would rather hide too much than too little.
"""

import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

from pydantic import SecretBytes, SecretStr

HIDDEN = "***"
TEXT_MAX = 4000
"""A fact longer than this is cut: whole payloads do not belong in a log. [characters]"""
DEPTH_MAX = 6
NAME_KEPT = 64
"""Of names up to this long it is remembered whether they are a secret's. [characters]"""
INT64_MAX = 2**63 - 1

_WORD = r"pass(?:word|wd|phrase)|pa(?:s|sc)word|pwd"
_NAME = rf"(?:{_WORD}|secret|token|authorization|cookie|credential|(?:api|private|secret|signing)[_-]?key)s?"
_SECRET_NAME = re.compile(rf"{_NAME}(?:_hash)?$", re.IGNORECASE)

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # A port and a path with an @ in it are no password, unless they cannot be told apart.
    (re.compile(r"(://[^\s/:@?#]*:)(?!\d{1,5}(?:[/?#]|$))\S*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\bey[JK][\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(r"\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)[^\r\n\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b((?:set-)?cookie[\"']?\s*[:=]\s*[\"']?)[^\r\n\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # name=value and "name": "value", in whatever quotes, escaped ones too
    (
        re.compile(
            rf"(\b[\w-]*{_NAME}(?:\\?[\"'])?\s*(?:=\s*|:\s*(?=\\?[\"'])))"
            r"(?:\\\"[^\"\\]*\\\"|\"(?:[^\"\\]|\\.)*\"|\\'[^'\\]*\\'|'(?:[^'\\]|\\.)*'|[^\s,;&}\"']+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # password: value, except where one of our variables is told what is wrong with it
    (re.compile(rf"(\b(?!WATTRING_)[\w-]*(?:{_WORD})\s*:\s+)[^\s,;&}}\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(<[\w:]*{_NAME}(?:\s[^>]*)?>)[^<]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)

_HINT = re.compile(r"[:=<]|-----|ey[JK]|bearer", re.IGNORECASE)
"""Every shape has one of these in it, and most of what is logged has none."""


def redact(text: str) -> str:
    """Return the text without the secrets that can be told by their name or shape."""
    if _HINT.search(text) is None:
        return text
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def shown_path(path: str) -> str:
    """Return the path of a request as anyone may read it: ``/push/<kind>/<line>/<token>`` without its token."""
    parts = path.split("/")
    return "/".join([*parts[:4], HIDDEN]) if path.startswith("/push/") and len(parts) > 4 else path


def presentable(value: object, name: str = "", *, depth: int = 0) -> Any:
    """Return a copy that JSON can carry and anyone may read.

    Args:
        value: Anything; what JSON does not know becomes text, bytes become their number.
        name: What the value stands under; a text under the name of a secret is hidden.
        depth: How deep it lies; below ``DEPTH_MAX`` only a text is left of it.
    """
    if type(value) is str:  # nearly all of them, and most are plain
        return HIDDEN if value and _is_secret(name) else _text(value)
    if isinstance(value, SecretStr | SecretBytes):
        return HIDDEN
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -INT64_MAX <= value <= INT64_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < DEPTH_MAX and not (_is_secret(name) and value):
        if isinstance(value, Mapping):
            names = [key if type(key) is str else str(key) for key in value]
            parts = zip(names, value.values(), strict=True)
            return {_text(one): presentable(part, one, depth=depth + 1) for one, part in parts}
        if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
            name = value[0] if isinstance(value[0], str) else value[0].decode("latin-1")  # a header
            return [_text(name), presentable(value[1], name, depth=depth + 1)]
        if isinstance(value, list | tuple | set | frozenset):
            return [presentable(part, name, depth=depth + 1) for part in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return HIDDEN if _is_secret(name) and value else _text(str(value))


def _is_secret(name: str) -> bool:
    """Return whether what stands under a name is hidden."""
    return _is_secret_known(name) if len(name) <= NAME_KEPT else _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=1024)
def _is_secret_known(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _text(text: str) -> str:
    length = len(text)
    if length <= TEXT_MAX and text.isascii() and _HINT.search(text) is None:
        return text
    # Cut twice, so that the second cut cannot leave half of a secret that no longer has its shape.
    shown = text[: 2 * TEXT_MAX]
    shown = redact(shown if shown.isascii() else shown.encode("utf-8", "replace").decode())
    return shown if length <= TEXT_MAX else f"{shown[:TEXT_MAX]}… ({length - TEXT_MAX} more)"
