"""How a source is asked: an HTTP API with paging and signatures, or a query on a database."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

from services.ingest.domain.pull import Mark, MarkKind, RowMap, TimeField


class AuthKind(StrEnum):
    """How we show who we are."""

    NONE = "none"
    BASIC = "basic"
    """Secret: ``user``, ``password``."""
    BEARER = "bearer"
    """Secret: ``token``."""
    OAUTH2 = "oauth2"
    """Client credentials. Secret: ``client_id``, ``client_secret``."""
    HEADER = "header"
    """A fixed key in a header. Secret: ``key``."""
    HMAC = "hmac"
    """Secret: ``key``, ``secret``."""


@dataclass(frozen=True, slots=True)
class Signing:
    """A request signed with a shared secret: the text that is signed, and what is sent."""

    text: str
    """With ``{method} {path} {query} {timestamp} {nonce} {body} {body_sha256} {key}``."""
    headers: Mapping[str, str]
    """The same, and ``{signature}``."""
    algorithm: str = "sha256"
    encoding: str = "hex"
    """``hex``, ``hex_upper`` or ``base64``."""
    timestamp_form: str = "ms"

    def headers_for(self, secret: str, facts: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of one request.

        Args:
            secret: What it is signed with.
            facts: The placeholders but ``signature``.
        """
        digest = hmac.new(secret.encode(), filled(self.text, facts).encode(), getattr(hashlib, self.algorithm)).digest()
        match self.encoding:
            case "base64":
                signature = base64.b64encode(digest).decode()
            case "hex_upper":
                signature = digest.hex().upper()
            case _:
                signature = digest.hex()
        return {name: filled(text, {**facts, "signature": signature}) for name, text in self.headers.items()}


@dataclass(frozen=True, slots=True)
class Auth:
    """How we show who we are."""

    kind: AuthKind = AuthKind.NONE
    token_url: str | None = None
    """Of OAuth2: a path of the endpoint, or a URL."""
    scope: str | None = None
    header: str | None = None
    """Of a fixed key."""
    signing: Signing | None = None


class PagingKind(StrEnum):
    """How one gets the next page."""

    NONE = "none"
    PAGE = "page"
    """``{page}`` counts up; the last page is shorter than ``size``."""
    OFFSET = "offset"
    """``{offset}`` counts items."""
    CURSOR = "cursor"
    """``{cursor}`` is what the last answer gave."""
    LINK = "link"
    """The header ``Link: <…>; rel="next"``."""


@dataclass(frozen=True, slots=True)
class Paging:
    """How one gets the next page."""

    kind: PagingKind = PagingKind.NONE
    first: int = 1
    size: int = 200
    next_field: str | None = None
    """Of a cursor: where in the answer the next one is."""


@dataclass(frozen=True, slots=True)
class TimeMark:
    """How far an API was read, by a time that its items carry."""

    time: TimeField
    """Also how ``{since}`` and ``{until}`` are written."""
    overlap: timedelta = timedelta(minutes=5)
    """Read again each time: what comes late there."""
    initial: timedelta = timedelta(days=1)
    """How far back the first reading goes."""
    longest: timedelta = timedelta(days=1)
    """What is asked for at once."""


@dataclass(frozen=True, slots=True)
class RestSource:
    """An HTTP API."""

    path: str
    items: str
    """Where in the answer the list is; empty is the answer itself."""
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """JSON of a POST; a text that is a placeholder and nothing else becomes a number where it is one."""
    auth: Auth = Auth()
    paging: Paging = Paging()
    mark: TimeMark | None = None
    ok_field: str | None = None
    """Where the answer says whether it is one, and …"""
    ok_value: str | None = None
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SqlSource:
    """A query on PostgreSQL: ``$1`` is the watermark, ``$2`` the number of rows."""

    sql: str
    mark_column: str
    mark_kind: MarkKind
    initial: Mark
    overlap: float = 0
    """Read again each time: seconds, or numbers, before the watermark."""
    zone_naive: bool = False
    """The column is a ``timestamp`` without zone, in the zone of the file's time."""
    limit: int = 1000
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PullFile:
    """One declarative file."""

    name: str
    source: RestSource | SqlSource
    rows: RowMap
    every_s: float


def filled(text: str, facts: Mapping[str, str]) -> str:
    """Return a text with its placeholders filled in; what is none of them stays."""
    for name, value in facts.items():
        text = text.replace("{" + name + "}", value)
    return text


def filled_json(value: Any, facts: Mapping[str, str]) -> Any:
    """Return JSON with placeholders filled in; a text that is one and nothing else becomes a number where it is one."""
    if isinstance(value, Mapping):
        return {name: filled_json(part, facts) for name, part in value.items()}
    if isinstance(value, list):
        return [filled_json(part, facts) for part in value]
    if not isinstance(value, str):
        return value
    text = filled(value, facts)
    alone = value.startswith("{") and value[1:-1] in facts and value.endswith("}")
    return int(text) if alone and text.lstrip("-").isdecimal() and len(text) <= 18 else text


def query_text(params: Mapping[str, str]) -> str:
    """Return query parameters as they are sent and signed, in their order."""
    return urlencode(params)
