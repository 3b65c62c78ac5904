"""The door for platforms that push to us and cannot sign in: a path that nobody can guess, off by default.

``POST /push/<kind>/<line>/<token>`` goes to ingest, which knows the token and the senders of each line. The gateway
knows neither; it bounds what comes (size, time, number) and says, signed, from which address it came.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Sequence

from fastapi import Request, Response

from libs.common.errors import InvalidInput, NotFound, Unavailable
from services.gateway.proxy import Proxy
from services.gateway.settings import PushSettings

logger = logging.getLogger(__name__)

SERVICE = "ingest"
SCOPE = "ingest:push"
_PATH = re.compile(r"/push/[a-z]{1,20}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}){1,3}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PushDoor:
    """Takes pushes and passes them on."""

    def __init__(self, proxy: Proxy, settings: PushSettings) -> None:
        self._proxy = proxy
        self._settings = settings
        self._trusted: list[Network] = [ipaddress.ip_network(text, strict=False) for text in settings.trusted_proxies]
        self._under_way = 0

    async def take(self, request: Request) -> Response:
        """Pass one push on and answer what ingest answers.

        Raises:
            NotFound: The door is closed, or the path has not the shape of one.
            InvalidInput: The body is too large, or comes too slowly.
            Unavailable: Too many at once, or ingest does not answer: the sender tries again.
        """
        path = request.url.path
        if not self._settings.enabled or _PATH.fullmatch(path) is None:
            raise NotFound("there is nothing here", message_zh="此处无内容")
        if self._under_way >= self._settings.at_once_max:
            raise Unavailable("too many pushes at once", message_zh="推送并发过多")
        self._under_way += 1
        try:
            body = await self._body(request)
            answer = await self._proxy.post(
                SERVICE,
                path,
                body,
                headers={name: value for name, value in request.headers.items() if name in _PASSED},
                subject=sender_of(request, self._trusted),
                scope=SCOPE,
                timeout_s=self._settings.timeout_s,
            )
        finally:
            self._under_way -= 1
        kept = {name: value for name, value in answer.headers.items() if name == "content-type"}
        return Response(answer.content, answer.status_code, kept)

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.body_max_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_within_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise InvalidInput(
                            f"the body is larger than {limit} bytes", message_zh=f"请求体超过 {limit} 字节"
                        )
        except TimeoutError:
            raise InvalidInput("the body comes too slowly", message_zh="请求体传输过慢") from None
        return bytes(body)


_PASSED = frozenset({"content-type", "content-encoding", "x-request-id", "signature", "timestamp", "nonce"})
"""Headers that go on: the last three are where an account that signs its pushes would put that."""


def sender_of(request: Request, trusted: Sequence[Network]) -> str:
    """Return the address of the sender: the peer's, or behind trusted proxies what the last of them was called by."""
    address = request.client.host if request.client is not None else ""
    if not address:
        return "local"  # a Unix socket: whoever reaches it is on this machine
    forwarded = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    while forwarded and _is_in(address, trusted):
        address = forwarded.pop()
    return address if _is_address(address) else "unknown"


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    if not _is_address(address):
        return False
    ip = ipaddress.ip_address(address)
    return any(ip in network for network in networks if network.version == ip.version)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
