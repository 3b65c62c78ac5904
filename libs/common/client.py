"""Calls between services: a token of our own, a bound in time, our own errors."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import httpx
import orjson

from libs.common import errors
from libs.common.log import current_context
from libs.common.tokens import CENTRE, KeyRing
from libs.common.tracing import current_traceparent

CALL_TIMEOUT_S = 10.0
"""A call to another service must be answered within this. [s]"""
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=20.0)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For connections without TLS: httpx would otherwise read all public authorities, 30 ms of work for each client."""
"""An idle connection is let go before the other side closes it (``listening.KEEP_ALIVE_S``)."""

_KINDS: Mapping[int, type[errors.PlatformError]] = {
    400: errors.InvalidInput, 403: errors.Forbidden, 404: errors.NotFound, 405: errors.InvalidInput,
    409: errors.Conflict, 413: errors.InvalidInput, 415: errors.InvalidInput, 422: errors.InvalidInput,
}  # fmt: skip
"""Any other status means that the service did not do its part: ``Unavailable``. So does 401: it refuses our own
token, which is no matter of whoever called us."""


class ServiceClient:
    """Calls to one other service.

    "Not available" is always ``Unavailable``, whatever happened on the way: no address, no connection, no answer in
    time, an answer that is not ours, a redirection. A refusal keeps its kind, code, message and facts.
    """

    def __init__(self, keys: KeyRing, url: str | None, *, caller: str, audience: str, scopes: Sequence[str]) -> None:
        """Prepare calls.

        Args:
            keys: Signs the tokens.
            url: Where it is: ``http://host:port`` or ``unix:/path``; None says so at each call.
            caller: Whose token it is.
            audience: Whom to call.
            scopes: The rights that the token asks for.
        """
        self.url = url
        self._keys = keys
        self._caller = caller
        self._audience = audience
        self._scopes = scopes
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._client = http_client(self.url) if self.url else None
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def get(
        self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, centre: str | None = None, **params: Any
    ) -> Any:
        """Return the parsed answer of a GET; ``centre`` asks in the name of that supervision centre (export only)."""
        return await self._call("GET", path, timeout_s, centre=centre, params=params)

    async def post(
        self,
        path: str,
        body: Any,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        idempotency_key: str | None = None,
        take_by: datetime | None = None,
        centre: str | None = None,
    ) -> Any:
        """Return the parsed answer of a POST of JSON, or of bytes as they are (a file).

        Args:
            path: Where to.
            body: What becomes JSON, or the bytes.
            timeout_s: The answer must be there within this. [s]
            idempotency_key: Makes the same request sent again one request.
            take_by: When the request is worth nothing any more, for services that heed it.
            centre: Orders in the name of that supervision centre (export only).
        """
        headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        if take_by is not None:
            headers["take-by"] = take_by.isoformat()
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self._call("POST", path, timeout_s, headers, centre=centre, content=content)

    async def put(self, path: str, body: Any, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Return the parsed answer of a PUT of JSON."""
        return await self._call("PUT", path, timeout_s, content=orjson.dumps(body))

    async def download(self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> bytes:
        """Return the answer of a GET as it is: a file."""
        response = await self._response("GET", path, timeout_s, params=params)
        if response.is_success:
            return response.content
        try:
            detail = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            detail = None
        raise self._refusal(response.status_code, detail if isinstance(detail, dict) else {})

    async def _call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        further: Mapping[str, str] | None = None,
        *,
        centre: str | None = None,
        **arguments: Any,
    ) -> Any:
        response = await self._response(method, path, timeout_s, further, centre=centre, **arguments)
        if response.is_success and not response.content:
            return None
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            status = response.status_code
            raise self._away(f"it answered {status} without JSON", f"应答 {status} 不是 JSON") from exc
        if response.is_success:
            return answer
        raise self._refusal(response.status_code, answer if isinstance(answer, dict) else {})

    async def _response(
        self,
        method: str,
        path: str,
        timeout_s: float,
        further: Mapping[str, str] | None = None,
        *,
        centre: str | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        if self._client is None:
            raise self._away("it is not connected; is its address in WATTRING_SERVICE_URLS?", "尚未连接或未配置地址")
        headers = {"content-type": "application/json", "accept": "application/json", **(further or {})}
        headers |= {"authorization": f"Bearer {self._token(centre)}"}
        if (traceparent := current_traceparent()) is not None:
            headers["traceparent"] = traceparent
        if (request_id := current_context().get("request_id")) is not None:
            headers["x-request-id"] = str(request_id)
        try:
            # The library's own bound is for each step; one byte now and then would keep it waiting for ever.
            async with asyncio.timeout(timeout_s):
                return await self._client.request(method, path, timeout=timeout_s, headers=headers, **arguments)
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise self._away(f"no answer within {timeout_s:g} s", f"{timeout_s:g} 秒内无应答") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._away(str(exc) or type(exc).__name__, str(exc) or type(exc).__name__) from exc

    def _token(self, centre: str | None) -> str:
        if centre is None:
            return self._keys.sign_token(self._caller, audience=self._audience, scopes=self._scopes)
        return self._keys.sign_token(
            self._caller, audience=self._audience, scopes=self._scopes, kind=CENTRE, subject=centre
        )

    def _refusal(self, status: int, detail: Mapping[str, Any]) -> errors.PlatformError:
        said, said_zh = detail.get("detail"), detail.get("detail_zh")
        text = said if isinstance(said, str) else f"it answered {status}"
        text_zh = said_zh if isinstance(said_zh, str) else f"应答 {status}"
        kind = _KINDS.get(status)
        error: errors.PlatformError = self._away(text, text_zh) if kind is None else kind(text, message_zh=text_zh)
        code, facts = detail.get("code"), detail.get("facts")
        if kind is not None and isinstance(code, str):
            error.code = code
        if isinstance(facts, dict):
            error.facts = dict(facts)
        return error

    def _away(self, reason: str, reason_zh: str) -> errors.Unavailable:
        return errors.Unavailable(
            f"{self._audience} is not available: {reason}", message_zh=f"服务 {self._audience} 不可用:{reason_zh}"
        )


def http_client(url: str | None, service: str = "the service") -> httpx.AsyncClient:
    """Return a client for ``http://host:port`` or ``unix:/path`` (a service in this machine's Unix socket).

    It follows no redirection and heeds no proxy of the environment: services call each other directly.

    Args:
        url: Where it is.
        service: What it is called, for the message when that is not known.

    Raises:
        Unavailable: No address is configured.
    """
    if not url:
        raise errors.Unavailable(
            f"no address of {service} in WATTRING_SERVICE_URLS",
            message_zh=f"WATTRING_SERVICE_URLS 中没有 {service} 的地址",
        )
    if url.startswith("unix:"):
        socket = url.removeprefix("unix:")
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=NO_TLS, limits=_LIMITS, trust_env=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)
    verify = True if url.startswith("https:") else NO_TLS
    return httpx.AsyncClient(base_url=url, verify=verify, trust_env=False, limits=_LIMITS)
