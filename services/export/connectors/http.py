"""HTTP destinations: a request per batch, authenticated in one of five ways; 2xx is an acknowledgement.

``address``: ``url``; ``method`` (POST or PUT); ``headers``; ``auth``: ``none``, ``basic``, ``bearer``, ``oauth2``
(client credentials, with ``token_url``, ``scope`` and ``audience`` as the server wants them) or ``hmac`` (Standard
Webhooks). ``secrets``: ``username``, ``password``; ``token``; ``client_id``, ``client_secret``; ``signing_key``
(``whsec_…``).

Client credentials are one POST (RFC 6749, 4.4), made by the same guarded client as everything else; a library for it
would bring a client of its own that goes where it likes.
"""

import base64
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import httpcore
import httpx
import orjson

from libs.common import webhooks
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, PlatformError
from libs.common.outgoing import AddressGuard, Answer, CallFailed, GuardedClient, NotAllowed, parse_url
from libs.common.redact import redact
from services.export.connectors.dial import Dialler, PinnedDialler
from services.export.connectors.port import ERROR_CHARS, BadAddress, known_only, text_of
from services.export.domain.callbacks import RETRY_AFTER_CAP_S, Outcome, Verdict, verdict_of
from services.export.domain.feeds import Format
from services.export.domain.rendering import CONTENT_TYPES, Batch, render

AUTHS = ("none", "basic", "bearer", "oauth2", "hmac")
USER_AGENT = "Wattring-Feeds/1.0"
MAX_ANSWER_BYTES = 4096
MAX_TOKEN_BYTES = 64 << 10
TOKEN_EARLY_S = 30.0
"""A token is fetched anew this long before it ends. [s]"""
TOKEN_DEFAULT_S = 300.0
"""How long a token counts whose server does not say. [s]"""
_OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "authorization", "content-type", "user-agent",
     "proxy-authorization", "idempotency-key"}
)  # fmt: skip
_NEEDED = {
    "none": (), "basic": ("username", "password"), "bearer": ("token",), "oauth2": ("client_id", "client_secret"),
    "hmac": ("signing_key",),
}  # fmt: skip


class DialledTransport(httpx.AsyncHTTPTransport):
    """The HTTP library's own transport over connections that a dialler opens."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, context: ssl.SSLContext, *, max_connections: int) -> None:
        super().__init__(verify=context, trust_env=False)
        # The library has no argument for the network of its pool (httpx 0.28); everything else of it is kept.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, max_connections=max_connections, keepalive_expiry=20.0, network_backend=network
        )


class HttpConnector:
    """Tells one destination by HTTP."""

    def __init__(
        self,
        *,
        address: Mapping[str, object],
        secrets: Mapping[str, str],
        format_: Format,
        timeout_s: float,
        guard: AddressGuard,
        dialler: Dialler,
        context: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: See the module.
            secrets: Decrypted.
            format_: How rows are written.
            timeout_s: For one batch, a token included. [s]
            guard: Knows what may be called.
            dialler: Opens connections.
            context: For TLS.
            clock: For tokens and signatures.

        Raises:
            BadAddress: Something is missing, or cannot be used.
        """
        known_only(address, "url", "method", "headers", "auth", "token_url", "scope", "audience")
        self._url = _url(address, "url")
        self._method = text_of(address, "method", "POST")
        if self._method not in ("POST", "PUT"):
            raise BadAddress(f"address.method: expected POST or PUT, found {self._method[:20]!r}")
        self._headers = _headers(address.get("headers"))
        self._auth = text_of(address, "auth", "none")
        if self._auth not in AUTHS:
            raise BadAddress(f"address.auth: expected one of {', '.join(AUTHS)}, found {self._auth[:20]!r}")
        missing = [name for name in _NEEDED[self._auth] if not secrets.get(name)]
        if missing:
            raise BadAddress(f"secrets.{missing[0]}: needed for auth {self._auth}")
        self._token_url = _url(address, "token_url") if self._auth == "oauth2" else ""
        self._signing_key = _signing_key(secrets["signing_key"]) if self._auth == "hmac" else b""
        self._grant = {name: text_of(address, name) for name in ("scope", "audience") if name in address}
        self._secrets = dict(secrets)
        self._format = format_
        self._timeout_s = timeout_s
        self._clock = clock
        self._client = GuardedClient(
            guard, transport=DialledTransport(PinnedDialler(dialler), context, max_connections=2)
        )
        self._token = ""
        self._token_until_s = float("-inf")

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.close()

    async def tell(self, batch: Batch) -> Outcome:
        """Send a batch; see ``Connector.tell``."""
        began_s = self._clock.monotonic()
        try:
            answer = await self._send(batch, began_s)
            if answer.status == 401 and self._auth == "oauth2" and self._token_until_s > float("-inf"):
                # A token may be taken back before it ends: once more with a new one.
                self._token_until_s = float("-inf")
                answer = await self._send(batch, began_s)
        except PlatformError as exc:
            return not_told(exc, self._clock.monotonic() - began_s)
        return _told(answer, self._clock.monotonic() - began_s)

    async def _send(self, batch: Batch, began_s: float) -> Answer:
        body = render(self._format, batch)
        headers = {
            **self._headers,
            "content-type": CONTENT_TYPES[self._format.kind],
            "user-agent": USER_AGENT,
            "idempotency-key": f"{batch.feed_id}:{batch.number}",
            "wattring-feed": batch.feed_id,
            "wattring-batch": str(batch.number),
            "wattring-rows": str(len(batch.lines)),
            "wattring-hash": batch.hash,
            **await self._authentication(batch, body, began_s),
        }
        return await self._client.request(
            self._method, self._url, headers=headers, content=body, timeout_s=self._left_s(began_s),
            max_bytes=MAX_ANSWER_BYTES, cut=True,
        )  # fmt: skip

    async def _authentication(self, batch: Batch, body: bytes, began_s: float) -> Mapping[str, str]:
        match self._auth:
            case "basic":
                return {"authorization": _basic(self._secrets["username"], self._secrets["password"])}
            case "bearer":
                return {"authorization": f"Bearer {self._secrets['token']}"}
            case "oauth2":
                return {"authorization": f"Bearer {await self._access_token(began_s)}"}
            case "hmac":
                message_id = f"{batch.feed_id}:{batch.number}"
                return webhooks.signed_headers(message_id, self._clock.now(), body, [self._signing_key])
            case _:
                return {}

    async def _access_token(self, began_s: float) -> str:
        """Return a token that still counts, a new one if need be.

        Raises:
            CallFailed: The server gave none.
        """
        now_s = self._clock.monotonic()
        if now_s < self._token_until_s:
            return self._token
        # RFC 6749, 2.3.1: id and secret are form-encoded before they are joined.
        client_id, secret = quote(self._secrets["client_id"], safe=""), quote(self._secrets["client_secret"], safe="")
        answer = await self._client.request(
            "POST",
            self._token_url,
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/json",
                "user-agent": USER_AGENT,
                "authorization": _basic(client_id, secret),
            },
            content=urlencode({"grant_type": "client_credentials", **self._grant}).encode(),
            timeout_s=self._left_s(began_s),
            max_bytes=MAX_TOKEN_BYTES,
        )
        self._token, counts_s = _token_of(answer)
        self._token_until_s = now_s + max(counts_s - TOKEN_EARLY_S, counts_s / 2)
        return self._token

    def _left_s(self, began_s: float) -> float:
        return max(self._timeout_s - (self._clock.monotonic() - began_s), 0.1)


def _url(address: Mapping[str, object], name: str) -> str:
    text = text_of(address, name)
    try:
        target = parse_url(text)
    except InvalidInput as exc:
        raise BadAddress(f"address.{name}: {exc.message}") from exc
    if target.fragment:
        raise BadAddress(f"address.{name}: expected none with a fragment (#…)")
    return text


def _headers(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise BadAddress("address.headers: expected texts by name")
    for name, text in value.items():
        plain = all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in name)
        if not name or not plain or name.lower() in _OWN_HEADERS or name.lower().startswith(("wattring-", "webhook-")):
            raise BadAddress(f"address.headers: {name[:60]!r} cannot be set")
        if not text.isascii() or not text.isprintable():
            raise BadAddress(f"address.headers.{name}: expected printable ASCII")
    return dict(value)


def _signing_key(text: str) -> bytes:
    try:
        return webhooks.key_of(text)
    except InvalidInput as exc:
        raise BadAddress("secrets.signing_key: expected whsec_ and base64") from exc


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _token_of(answer: Answer) -> tuple[str, float]:
    """Return the token and how long it counts. [s]"""
    document: Any = None
    if answer.is_success:
        try:
            document = answer.json()
        except orjson.JSONDecodeError:
            document = None
    token = document.get("access_token") if isinstance(document, dict) else None
    kind = document.get("token_type", "bearer") if isinstance(document, dict) else None
    usable = isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token and bool(token)
    if not usable or not isinstance(kind, str) or kind.lower() != "bearer":
        # What it says may repeat the secret, and is not shown.
        raise CallFailed(
            f"the token server answered {answer.status} without a bearer token",
            message_zh=f"令牌服务器应答 {answer.status},未给出 bearer 令牌",
        )
    counts = document.get("expires_in")
    return str(token), float(counts) if isinstance(counts, int | float) and counts > 0 else TOKEN_DEFAULT_S


def not_told(exc: PlatformError, took_s: float) -> Outcome:
    """Return the outcome of a call that nobody answered."""
    if isinstance(exc, NotAllowed):
        verdict = Verdict.NOT_ALLOWED
    elif isinstance(exc, CallFailed) and isinstance(exc.__cause__, TimeoutError | httpx.TimeoutException):
        verdict = Verdict.TIMEOUT
    else:
        verdict = Verdict.FAILED
    return Outcome(verdict, took_s, error=redact(exc.message)[:ERROR_CHARS])


def _told(answer: Answer, took_s: float) -> Outcome:
    verdict = verdict_of(answer.status)
    if verdict is Verdict.DELIVERED:
        return Outcome(verdict, took_s, answer.status)
    said = " ".join(redact(answer.body.decode(errors="replace")).split())
    shown = "".join(sign if sign.isprintable() else "?" for sign in said)
    error = f"it answered {answer.status}" + (f": {shown}" if shown else "")
    return Outcome(verdict, took_s, answer.status, error[:ERROR_CHARS], _retry_after_s(answer))


def _retry_after_s(answer: Answer) -> float | None:
    """Return the seconds that it wants to be left alone; a date is not heeded, its own waits come anyway. [s]"""
    text = answer.headers.get("retry-after", "")
    if answer.status not in (429, 503) or not text.isascii() or not text.isdigit():
        return None
    return min(float(text), RETRY_AFTER_CAP_S)
