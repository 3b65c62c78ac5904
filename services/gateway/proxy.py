"""The one door: every path of the API goes to the service that owns it, with a token of ours.

What the caller brought as credentials never goes further; the service sees who asks, with which rights and for
which sites, signed by the gateway for a minute. Bodies are streamed both ways. A path goes on segment by segment as
it was written: ``..``, and what an HTTP library would resolve or cut off, leads nowhere else.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote, unquote_to_bytes

import httpx
from fastapi import Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from libs.common.errors import Bilingual, NotFound, Unavailable
from libs.common.runtime import Platform
from libs.common.tokens import Principal
from libs.common.web import http_client
from services.gateway.domain import SERVICE_OF, SERVICES

logger = logging.getLogger(__name__)

DROPPED = frozenset(
    {"authorization", "cookie", "host", "connection", "keep-alive", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade", "content-length", "x-forwarded-for", "forwarded", "accept-encoding"}
)  # fmt: skip
"""Request headers that end here: credentials, and what belongs to one connection (RFC 9110, 7.6.1)."""
DROPPED_BACK = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "set-cookie", "server", "date"})

DESCRIPTION_TIMEOUT_S = 30.0
"""A service makes its description when it is first asked for it: seconds of a processor."""


class Proxy:
    """Passes requests on; one connection pool per service."""

    def __init__(self, platform: Platform, *, timeout_s: float) -> None:
        self._platform = platform
        self._timeout_s = timeout_s
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __aenter__(self) -> "Proxy":
        self._clients = {name: http_client(self._platform.settings.service_urls.get(name), name) for name in SERVICES}
        return self

    async def __aexit__(self, *exc: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def forward(self, request: Request, principal: Principal) -> Response:
        """Pass a request on and stream the answer back.

        Raises:
            NotFound: No service owns the path.
            Unavailable: The service does not answer.
        """
        segments = segments_of(request.scope["raw_path"])
        service = SERVICE_OF.get(segments[0]) if segments else None
        if service is None:
            path = request.url.path
            raise NotFound(f"there is no {path}", message_zh=f"没有 {path}")
        client = self._client(service)
        headers = {name: value for name, value in request.headers.items() if name not in DROPPED}
        headers["authorization"] = f"Bearer {self._token(service, principal)}"
        outgoing = client.build_request(
            request.method,
            "/api/v1/" + "/".join(quote(segment, safe="") for segment in segments),
            params=request.query_params,
            headers=headers,
            content=_body(request),
            timeout=self._timeout_s,
        )
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"{service} does not answer: {exc or type(exc).__name__}", message_zh=f"服务 {service} 没有应答"
            ) from exc
        kept = {name: value for name, value in answer.headers.items() if name not in DROPPED_BACK}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def post(
        self,
        service: str,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        subject: str,
        scope: str,
        timeout_s: float,
    ) -> httpx.Response:
        """Post a body for somebody who has no account, with one right; ``subject`` is the address it came from.

        Raises:
            Unavailable: The service does not answer.
        """
        token = self._platform.keys.sign_token(
            "gateway", audience=service, subject=subject, kind="service", scopes=[scope]
        )
        try:
            return await self._client(service).post(
                path, content=body, headers={**headers, "authorization": f"Bearer {token}"}, timeout=timeout_s
            )
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"{service} does not answer: {exc or type(exc).__name__}", message_zh=f"服务 {service} 没有应答"
            ) from exc

    async def openapi(self, service: str) -> Mapping[str, object] | None:
        """Return a service's description, None when it does not answer."""
        try:
            answer = await self._client(service).get("/openapi.json", timeout=DESCRIPTION_TIMEOUT_S)
            answer.raise_for_status()
        except (httpx.HTTPError, Unavailable) as exc:
            logger.info("no API description", extra={"service": service, "reason": str(exc)})
            return None
        found: Mapping[str, object] = answer.json()
        return found

    async def readiness(self, service: str) -> Mapping[str, Bilingual]:
        """Return what keeps a service from working, by name."""
        token = self._platform.keys.sign_token("gateway", audience=service, scopes=(f"{service}:read",))
        try:
            answer = await self._client(service).get(
                "/readyz", timeout=6.0, headers={"authorization": f"Bearer {token}"}
            )
            found = answer.json()
            if found["status"] != "ready" and "reasons" not in found:
                return {"process": Bilingual("it does not tell us why; do the clocks agree?", "未告知原因;请检查时钟")}
            english, chinese = found.get("reasons", {}), found.get("reasons_zh", {})
        except (httpx.HTTPError, ValueError, KeyError, Unavailable) as exc:
            reason = str(exc) or type(exc).__name__
            return {"process": Bilingual(f"does not answer: {reason}", f"没有应答:{reason}")}
        return {name: Bilingual(reason, chinese[name]) for name, reason in english.items()}

    def _client(self, service: str) -> httpx.AsyncClient:
        try:
            return self._clients[service]
        except KeyError:
            raise Unavailable(f"{service}: not connected yet", message_zh=f"服务 {service} 尚未连接") from None

    def _token(self, service: str, principal: Principal) -> str:
        wanted = ("*", service)
        scopes = [scope for scope in principal.scopes if scope.partition(":")[0] in wanted]
        return self._platform.keys.sign_token(
            "gateway",
            audience=service,
            subject=principal.subject,
            kind=principal.kind,
            scopes=scopes,
            sites=principal.sites,
        )


def segments_of(raw_path: bytes) -> list[str]:
    """Return the segments behind ``/api/v1/`` of a path as it was sent, decoded.

    Nothing where one of them is no name: ``.`` and ``..``, a separator or a control character that was written in
    percent, or no UTF-8. No id has any of these, and the service behind would read them as another path.
    """
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw_path.split(b"/")[3:]]
    except UnicodeDecodeError:
        return []
    if any(segment in (".", "..") or _NO_NAME.intersection(segment) for segment in segments):
        return []
    return segments


_NO_NAME = frozenset("/\\\x7f").union(map(chr, range(0x20)))


async def _stream(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk


def _body(request: Request) -> AsyncIterator[bytes] | None:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    return _stream(request) if has_body else None
