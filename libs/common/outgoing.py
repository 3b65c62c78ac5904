"""Calls to addresses that somebody configured: never to the inside unless an operator allowed it.

Who may edit a line or a subscription must not be able to make this machine call its own neighbours. A name is resolved
here, every address it has is checked, and the connection goes to an address that was checked: a name that means
something else a moment later leads nowhere. No redirection is followed, no proxy of the environment is heeded, an
answer has a largest size, and everything together a largest time.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from types import TracebackType
from typing import Any, Self, cast

import httpx
import orjson

from libs.common.errors import Forbidden, InvalidInput, Unavailable

MAX_ANSWER_BYTES = 32 << 20
"""Largest answer that is read, unpacked. [B]"""
CUT_AFTER_S = 2.0
"""How long the body of an answer is waited for whose status is all that counts. [s]"""
RESOLVE_WITHIN_S = 5.0
URLS_KNOWN = 1024
"""Whose parts are remembered: callbacks go to the same ones a thousand times a second."""
DEFAULT_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "Wattring",
}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERYWHERE = ("0.0.0.0/0", "::/0")
"""Networks for a guard of addresses that only an operator can set."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotAllowed(Forbidden):
    """The address lies inside, and no operator allowed it."""

    code = "address_not_allowed"
    title_zh = "目标地址未获允许"


class CallFailed(Unavailable):
    """Nobody answered, or not in time, or too much; ``facts["sent"]``: whether the request may have been read."""

    code = "call_failed"
    title_zh = "外部调用失败"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx; a redirection is none."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body parsed.

        Raises:
            orjson.JSONDecodeError: It is no JSON.
        """
        return orjson.loads(self.body)


class AddressGuard:
    """Which addresses may be called."""

    def __init__(self, allowed: Sequence[str] = (), *, setting: str = "WATTRING_INGEST__OUTGOING_ALLOWED") -> None:
        """Prepare.

        Args:
            allowed: What may be called though it lies inside: networks (``10.1.0.0/16``), addresses, host names.
            setting: Where an operator allows more, for the message.

        Raises:
            ValueError: One of them is none of these.
        """
        self._setting = setting
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for text in allowed:
            try:
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                if not text or any(sign in text for sign in "/:@? "):
                    raise ValueError(f"{text!r} is no network, address or host name") from None
                self._names.add(text.lower().rstrip("."))

    async def address_of(self, host: str, port: int) -> str:
        """Return the first address of a host that may be called; errors as for ``addresses_of``."""
        return (await self.addresses_of(host, port))[0]

    async def addresses_of(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host that may be called, at least one.

        Raises:
            NotAllowed: One of its addresses lies inside and is not allowed.
            CallFailed: It has no address.
        """
        try:
            literal = str(ipaddress.ip_address(host))
        except ValueError:
            pass  # a name, or a number that the system's resolver takes for an address
        else:
            self.check(literal)
            return [literal]
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as exc:
            reason = str(exc) or "no answer in time"
            raise CallFailed(
                f"{host}: no address: {reason}", message_zh=f"{host}:无法解析地址:{reason}", sent=False
            ) from exc
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        if host.lower().rstrip(".") not in self._names:
            for address in addresses:
                self.check(address)
        return addresses

    def check(self, address: str) -> None:
        """Return when an address may be called.

        Raises:
            NotAllowed: It may not.
        """
        ip = ipaddress.ip_address(address)
        if is_outside(ip) or any(ip in network for network in self._networks if network.version == ip.version):
            return
        raise NotAllowed(
            f"{address} is an address inside and is not allowed; an operator can allow it ({self._setting})",
            message_zh=f"{address} 为内部地址且未获允许;可由运维在 {self._setting} 中放行",
            address=address,
        )


def is_outside(ip: Address) -> bool:
    """Return whether an address belongs to the public internet, also when it is wrapped into an IPv6 one."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_outside(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        inner = ip.ipv4_mapped or ip.sixtofour or (None if ip.teredo is None else ip.teredo[1])
        if inner is not None:
            return is_outside(inner)
    return ip.is_global and not ip.is_multicast and not ip.is_unspecified


@cache
def public_authorities() -> ssl.SSLContext:
    """Return the context that trusts public authorities, made once: each reads megabytes for hundredths of a second."""
    return httpx.create_ssl_context(trust_env=False)


class GuardedClient:
    """Calls over HTTP(S) to addresses that the guard lets through."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        verify: ssl.SSLContext | bool = True,
        max_connections: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare; connections are opened when they are needed and kept for a while.

        Args:
            guard: Knows what may be called.
            verify: How the other side's certificate is checked; False is for tests.
            max_connections: At a time; a call beyond them waits, and fails when its time is over.
            transport: Opens and keeps connections in place of the library's own, which the two before are for; it is
                told addresses that were checked, and the name in the certificate as ``sni_hostname``.
        """
        self._guard = guard
        limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=20.0
        )
        # The transport alone: it knows no redirections, proxies and cookies, and half of a call's work is not done.
        self._transport = transport or httpx.AsyncHTTPTransport(
            trust_env=False, limits=limits, verify=public_authorities() if verify is True else verify
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float = 10.0,
        max_bytes: int = MAX_ANSWER_BYTES,
        cut: bool = False,
    ) -> Answer:
        """Call, and return what was answered.

        Args:
            method: GET, POST …
            url: ``http`` or ``https``; credentials in it are refused.
            headers: Besides those that HTTP needs.
            params: Added to the query.
            content: The body.
            timeout_s: For everything together. [s]
            max_bytes: A longer answer is a failure. [B]
            cut: Whether the status is all that counts: a body that is longer, or does not come to its end, is cut.

        Raises:
            InvalidInput: No URL that can be called.
            NotAllowed: It leads inside.
            CallFailed: No answer, none in time, or too long a one.
        """
        target = parse_url(url)
        try:
            async with asyncio.timeout(timeout_s):
                address = await self._guard.address_of(target.host, _port_of(target))
                place = _pinned(url, address) if not params else _at(target.copy_merge_params(params), address)
                request = httpx.Request(
                    method,
                    place,
                    headers=_headers(headers or {}, target),
                    content=content,
                    extensions={
                        "sni_hostname": target.host,
                        "timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s),
                    },
                )
                return await self._send(request, target, timeout_s, max_bytes, cut=cut)
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise _failed(target, f"no answer within {timeout_s:g} s", f"{timeout_s:g} 秒内无应答") from exc
        except (httpx.HTTPError, httpx.StreamError) as exc:
            reason = str(exc) or type(exc).__name__
            raise _failed(target, reason, reason, sent=not isinstance(exc, httpx.ConnectError)) from exc

    async def _send(
        self, request: httpx.Request, target: httpx.URL, timeout_s: float, max_bytes: int, *, cut: bool
    ) -> Answer:
        response = await self._transport.handle_async_request(request)
        body = bytearray()
        try:
            if cut:
                with suppress(TimeoutError, httpx.HTTPError, httpx.StreamError):
                    async with asyncio.timeout(min(CUT_AFTER_S, timeout_s / 4)):
                        await _read_into(body, response, max_bytes)
            else:
                await _read_into(body, response, max_bytes)
        finally:
            await response.aclose()
        if len(body) > max_bytes and not cut:
            raise _failed(target, f"the answer is longer than {max_bytes} bytes", f"应答超过 {max_bytes} 字节")
        return Answer(response.status_code, response.headers, bytes(body[:max_bytes]))


async def _read_into(body: bytearray, response: httpx.Response, max_bytes: int) -> None:
    """Add what comes, until it is more than it may be."""
    async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                return


def _port_of(target: httpx.URL) -> int:
    return target.port or (443 if target.scheme == "https" else 80)


def _headers(given: Mapping[str, str], target: httpx.URL) -> list[tuple[str, str]]:
    names = {name.lower() for name in given}
    usual = [(name, value) for name, value in DEFAULT_HEADERS.items() if name not in names]
    return [("host", target.netloc.decode()), *usual, *given.items()]


def _at(target: httpx.URL, address: str) -> httpx.URL:
    return target.copy_with(host=address)


@lru_cache(URLS_KNOWN)
def _pinned(url: str, address: str) -> httpx.URL:
    """Return a URL with an address that was checked in the place of its host."""
    return _at(parse_url(url), address)


@lru_cache(URLS_KNOWN)
def parse_url(url: str) -> httpx.URL:
    """Return a URL that can be called.

    Raises:
        InvalidInput: It is none: another scheme, no host, or with credentials, which belong into a secret.
    """
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        found = None
    if found is None or found.scheme not in ("http", "https") or not found.host or found.userinfo:
        shown = url if found is None or not found.userinfo else f"{found.scheme}://{found.host}/…"
        raise InvalidInput(
            f"expected a URL http://… or https://… without user and password, found {shown[:200]!r}",
            message_zh=f"应为不含用户名和密码的 http:// 或 https:// 地址,收到 {shown[:200]!r}",
        )
    return found


def _failed(target: httpx.URL, reason: str, reason_zh: str, *, sent: bool = True) -> CallFailed:
    place = f"{target.scheme}://{target.netloc.decode()}"  # the path and the query may hold secrets
    return CallFailed(f"{place}: {reason}", message_zh=f"{place}:{reason_zh}", sent=sent)
