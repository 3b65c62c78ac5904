"""The way to a destination: through a proxy or not, from an address of ours, to an address that was checked.

One way for every connector, whatever it speaks on it. The guard checks both: the proxy, and where the proxy is asked to
go, so that nobody reaches the inside through a proxy that stands there. A proxy is given an address that was checked,
never a name that it would look up itself.

Not the proxies of the HTTP library: its CONNECT takes the name in the certificate from where it is told to go, which
here is an address (httpcore 1.0, ``http_proxy.py``), and nothing but HTTP could use them.

Source:
    RFC 9110, 9.3.6 (CONNECT); RFC 1928 and RFC 1929 (SOCKS 5, user and password).
"""

import asyncio
import base64
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpcore

from libs.common.errors import Unavailable
from libs.common.outgoing import AddressGuard

MAX_PROXY_ANSWER_BYTES = 8192
"""Of the head of what an HTTP proxy answers. [B]"""
DIAL_WITHIN_S = 10.0
"""A connection through a proxy, ready to be spoken on, unless the caller's own time is shorter. [s]"""
PORTS = {"http": 8080, "socks5": 1080}

_REPLIES = {
    1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
    5: "connection refused", 6: "time exceeded", 7: "command not supported", 8: "address type not supported",
}  # fmt: skip
"""Of a SOCKS server: RFC 1928, 6."""


class ProxyFailed(Unavailable):
    """The proxy does not answer, does not take us, or does not get there."""

    code = "proxy_failed"
    title_zh = "代理连接失败"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and our account there."""

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, *, username: str = "", password: str = "") -> "Proxy":
        """Return the proxy of a URL.

        Raises:
            ValueError: It is none that we can use.
        """
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or parts.username is not None or parts.path.strip("/"):
            raise ValueError("proxy: expected http://host:port or socks5://host:port without an account")
        if len(username.encode()) > 255 or len(password.encode()) > 255 or (":" in username):
            raise ValueError("proxy: expected a user without ':', user and password of at most 255 bytes each")
        return cls(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme], username, password)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.scheme}://{self.host}:{self.port}"


class Dialler(httpcore.AsyncNetworkBackend):
    """Opens connections by one way; for the HTTP library it is the network."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        proxy: Proxy | None = None,
        source_address: str | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """Prepare.

        Args:
            guard: Knows what may be called.
            proxy: Whom to go through.
            source_address: Our own address that connections come from.
            network: What opens sockets; the library's own unless told.

        Raises:
            ValueError: The source address is none.
        """
        self._guard = guard
        self._proxy = proxy
        self._source = None if source_address is None else str(ipaddress.ip_address(source_address))
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to a host that may be called, ready to be spoken on.

        Raises:
            NotAllowed: The proxy or the host lies inside, and no operator allowed it.
            CallFailed: One of them has no address.
            ProxyFailed: The proxy does not get us there.
            httpcore.ConnectError, httpcore.ConnectTimeout: Nobody listens there, or nobody answers.
        """
        return await self.dial(await self._guard.address_of(host, port), port, timeout)

    async def dial(self, address: str, port: int, timeout_s: float | None) -> httpcore.AsyncNetworkStream:
        """Return a connection to an address that was checked; raises as ``connect_tcp`` does.

        Args:
            address: Of the destination, no name.
            port: There.
            timeout_s: For the connection; ``DIAL_WITHIN_S`` bounds what is said to a proxy. [s]
        """
        ipaddress.ip_address(address)
        if self._proxy is None:
            return await self._network.connect_tcp(address, port, timeout_s, self._source)
        proxy_address = await self._guard.address_of(self._proxy.host, self._proxy.port)
        try:
            stream = await self._network.connect_tcp(proxy_address, self._proxy.port, timeout_s, self._source)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
            raise _failed(self._proxy, str(exc) or type(exc).__name__) from exc
        try:
            async with asyncio.timeout(DIAL_WITHIN_S if timeout_s is None else min(timeout_s, DIAL_WITHIN_S)):
                if self._proxy.scheme == "http":
                    await _through_http(stream, self._proxy, address, port)
                else:
                    await _through_socks5(stream, self._proxy, address, port)
        except TimeoutError as exc:
            await stream.aclose()
            raise _failed(self._proxy, "no answer in time") from exc
        except (httpcore.NetworkError, httpcore.TimeoutException) as exc:
            await stream.aclose()
            raise _failed(self._proxy, str(exc) or type(exc).__name__) from exc
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def sleep(self, seconds: float) -> None:
        """Wait; the library asks for it between its own tries."""
        await self._network.sleep(seconds)


class PinnedDialler(httpcore.AsyncNetworkBackend):
    """The network of a client that checks addresses itself and names none (``GuardedClient``)."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to an address that was checked; a name is refused."""
        return await self._dialler.dial(host, port, timeout)

    async def sleep(self, seconds: float) -> None:
        """Wait; the library asks for it between its own tries."""
        await self._dialler.sleep(seconds)


async def _through_http(stream: httpcore.AsyncNetworkStream, proxy: Proxy, address: str, port: int) -> None:
    authority = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if proxy.username or proxy.password:
        account = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        head += f"Proxy-Authorization: Basic {account}\r\n"
    await stream.write(f"{head}\r\n".encode())
    answer = bytearray()
    # Byte by byte: what follows the head is the destination's already.
    while not answer.endswith(b"\r\n\r\n"):
        if len(answer) >= MAX_PROXY_ANSWER_BYTES:
            raise _failed(proxy, f"its answer's head is longer than {MAX_PROXY_ANSWER_BYTES} bytes")
        answer += await _exactly(stream, 1, proxy)
    version, _, rest = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    status = rest.partition(" ")[0]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()):
        raise _failed(proxy, "it does not answer as an HTTP proxy")
    if not 200 <= int(status) < 300:
        raise _failed(proxy, f"it answered {status}")


async def _through_socks5(stream: httpcore.AsyncNetworkStream, proxy: Proxy, address: str, port: int) -> None:
    with_account = bool(proxy.username or proxy.password)
    await stream.write(b"\x05\x02\x00\x02" if with_account else b"\x05\x01\x00")
    version, method = await _exactly(stream, 2, proxy)
    if version != 5:
        raise _failed(proxy, "it does not answer as a SOCKS 5 server")
    if method == 2 and with_account:
        username, password = proxy.username.encode(), proxy.password.encode()
        await stream.write(bytes([1, len(username)]) + username + bytes([len(password)]) + password)
        _, status = await _exactly(stream, 2, proxy)
        if status != 0:
            raise _failed(proxy, "it refused user and password")
    elif method != 0:
        raise _failed(proxy, "it wants an account" if not with_account else "it takes no user and password")
    ip = ipaddress.ip_address(address)
    kind = b"\x01" if ip.version == 4 else b"\x04"
    await stream.write(b"\x05\x01\x00" + kind + ip.packed + port.to_bytes(2, "big"))
    version, reply, _, bound_kind = await _exactly(stream, 4, proxy)
    if version != 5:
        raise _failed(proxy, "it does not answer as a SOCKS 5 server")
    if reply != 0:
        raise _failed(proxy, _REPLIES.get(reply, f"it answered {reply}"))
    length = {1: 4, 4: 16}.get(bound_kind)
    if length is None:
        length = (await _exactly(stream, 1, proxy))[0]  # a name
    await _exactly(stream, length + 2, proxy)


async def _exactly(stream: httpcore.AsyncNetworkStream, size: int, proxy: Proxy) -> bytes:
    found = bytearray()
    while len(found) < size:
        chunk = await stream.read(size - len(found))
        if not chunk:
            raise _failed(proxy, "it closed the connection")
        found += chunk
    return bytes(found)


def _failed(proxy: Proxy, reason: str) -> ProxyFailed:
    return ProxyFailed(f"proxy {proxy.place}: {reason}", message_zh=f"代理 {proxy.place}:{reason}")
