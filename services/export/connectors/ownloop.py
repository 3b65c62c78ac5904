"""An event loop of its own for a library that opens connections by the loop it runs on, and by nothing else.

Such a library knows neither our proxies nor the check of addresses. So it runs on a loop in another thread, whose
``create_connection`` has the dialler open each connection on the loop of everything else; the library is given one end
of a pair of sockets, and TLS if it wants that, as on any other loop.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpcore

from libs.common.errors import PlatformError
from services.export.connectors.dial import Dialler
from services.export.connectors.relay import handed

T = TypeVar("T")


class OwnLoop:
    """Runs coroutines in a thread of its own; made, used and closed on one other loop."""

    def __init__(self, dialler: Dialler, *, timeout_s: float) -> None:
        """Start the thread.

        Args:
            dialler: Opens the connections.
            timeout_s: For each. [s]
        """
        self.trouble: PlatformError | None = None
        """Why the last connection could not be opened; libraries keep such reasons to themselves."""
        self._dialler = dialler
        self._timeout_s = timeout_s
        self._passing: set[asyncio.Task[None]] = set()
        self._loop = _DialledLoop(self._open, asyncio.get_running_loop())
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="own-loop", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns in the other thread; raises what it raises."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        """Cancel what still runs, end the thread and its connections."""
        self._loop.call_soon_threadsafe(self._ended.set)
        await asyncio.to_thread(self._thread.join)
        for task in self._passing:
            task.cancel()
        if self._passing:
            await asyncio.wait(self._passing)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._wait())

    async def _wait(self) -> None:
        await self._ended.wait()

    async def _open(self, host: str, port: int) -> socket.socket:
        """Return a socket behind which a connection to a host is.

        Raises:
            OSError: It cannot be opened; that is what libraries expect, ``trouble`` has the reason.
        """
        self.trouble = None
        try:
            stream = await self._dialler.connect_tcp(host, port, self._timeout_s)
        except PlatformError as exc:
            self.trouble = exc
            raise ConnectionError(exc.message) from exc
        except (httpcore.NetworkError, httpcore.TimeoutException) as exc:
            raise ConnectionError(str(exc) or type(exc).__name__) from exc
        sock, passing = await handed(stream)
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)
        return sock


class _DialledLoop(asyncio.SelectorEventLoop):
    """A loop that has somebody else open what is connected to by name."""

    def __init__(
        self, opened: Callable[[str, int], Coroutine[Any, Any, socket.socket]], home: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__()
        self._opened = opened
        self._home = home

    async def create_connection(  # type: ignore[override]  # of its many forms this one
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None = None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Return transport and protocol of a connection to a host."""
        sock = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._opened(host, port), self._home))
        return await super().create_connection(
            protocol_factory, sock=sock, ssl=ssl, server_hostname=host if ssl is not None else None
        )
