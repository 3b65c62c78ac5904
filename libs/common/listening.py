"""Where a process is called: applications served over HTTP, each at an address of its own.

An address that cannot be had is said at once and in words: which, why, and what to do. A Unix socket that a dead
process left is replaced; one that somebody answers on is not.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from libs.common.errors import PlatformError
from libs.common.inside import Inside
from libs.common.lean import Lean, LeanEntrance

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be taken; ten thousand devices that come back together need a long queue."""
KEEP_ALIVE_S = 30.0
"""An idle connection is closed after this; our own clients let go sooner (``web.py``). [s]"""
MAX_HEAD_BYTES = 64 * 1024
"""Of a request: what comes before its body. [B]"""
PROBE_S = 1.0
"""A living owner of a Unix socket answers within this. [s]"""


class CannotListen(PlatformError):
    """The address cannot be listened on."""

    code = "cannot_listen"
    title_zh = "无法监听"


class PortTaken(CannotListen):
    """The address to listen on is in use."""

    code = "port_taken"
    title_zh = "端口被占用"


@dataclass(frozen=True)
class Listener:
    """An address that one application is served on."""

    app: ASGIApp
    host: str | None = None
    port: int | None = None
    uds: Path | None = None
    setting: str = "PORT"
    """Variable that chooses another port, for the message when this one is taken."""
    internal: bool = False
    """Only what monitoring asks, and all of it: for an address that nobody else reaches."""

    @property
    def place(self) -> str:
        """The address, for people."""
        return str(self.uds) if self.uds is not None else f"{self.host or '127.0.0.1'}:{self.port or 0}"


class Serving:
    """One application while it is served."""

    def __init__(self, place: Listener) -> None:
        self._place = place
        app: ASGIApp = place.app
        entrance: LeanEntrance | None = None if place.internal else getattr(app, "entrance", None)
        if place.internal or place.uds is not None:
            app = Inside(app, probes_only=place.internal)
        self._server = _Server(
            uvicorn.Config(
                app,
                uds=None if place.uds is None else str(place.uds),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(KEEP_ALIVE_S),
                http=cast(Any, partial(_Conversation, entrance)),
                ws="none",
            )
        )
        self.task: asyncio.Task[None]
        """Ends when nothing is served any more, by ``stop`` or by a failure."""
        self._inode: int | None = None

    @classmethod
    async def start(cls, place: Listener) -> Self:
        """Serve from now on.

        Raises:
            CannotListen: The address cannot be had.
        """
        found = cls(place)
        try:
            sockets = None if place.uds is not None else [_bind(place)]
            if place.uds is not None:
                _make_way(place.uds)
        except OSError as exc:
            raise _refusal(place, exc) from exc
        found.task = asyncio.create_task(found._server.serve(sockets=sockets), name=f"http {place.place}")
        try:
            while not found._server.started and not found.task.done():  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            found.task.cancel()
            raise
        if found.task.done():
            failure = found.task.exception()
            if isinstance(failure, OSError):
                raise _refusal(place, failure) from failure
            raise CannotListen(f"cannot listen on {place.place}: {failure}") from failure
        address = place.place
        if place.uds is not None:
            place.uds.chmod(0o600)
            found._inode = place.uds.stat().st_ino
        elif sockets is not None:
            address = f"{place.host or '127.0.0.1'}:{sockets[0].getsockname()[1]}"
        logger.info("listening", extra={"address": address})
        return found

    async def stop(self, within_s: float) -> bool:
        """Take no more calls, let those under way finish, and return whether all did in time. [s]"""
        self._server.config.timeout_graceful_shutdown = max(1, int(within_s))
        self._server.should_exit = True
        await asyncio.wait([self.task], timeout=within_s + 1.0)
        clean = self.task.done()
        if not clean:
            self._server.force_exit = True
            self.task.cancel()
            await asyncio.wait([self.task], timeout=1.0)
        if self._place.uds is not None:
            with contextlib.suppress(OSError):  # gone already, or somebody else's by now
                if self._place.uds.stat().st_ino == self._inode:
                    self._place.uds.unlink()
        return clean


class _Conversation(HttpToolsProtocol):
    """Uvicorn's requests on one connection, read by httptools, with the bound on their heads that it does without.

    What the lean door takes does not become a cycle of its own and a task; to uvicorn it is a cycle all the same, so
    what comes behind it on the connection waits for its answer.
    """

    def __init__(self, entrance: LeanEntrance | None, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._entrance = entrance
        self._taken: _Taken | None = None
        """The last request that the lean door took."""
        self._kept_bytes = 0
        """What has come since a head or a part of a body was whole: the parser keeps it. [B]"""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._taken is not None:
            self._taken.lean.lose()

    def shutdown(self) -> None:
        super().shutdown()
        if self._taken is not None:
            self._taken.lean.drain()

    def data_received(self, data: bytes) -> None:
        self._kept_bytes += len(data)
        super().data_received(data)
        if self._taken is not None:
            self._taken.lean.wait()
        if self._kept_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        self._kept_bytes = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise ValueError("the head of the request is too long")  # the parser says that the request is none
        if not self._enter():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._kept_bytes = 0
        if not isinstance(self.cycle, _Taken):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.lean.body += body

    def on_message_complete(self) -> None:
        self._kept_bytes = 0
        if not isinstance(self.cycle, _Taken):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self.cycle.lean.take()

    def _enter(self) -> bool:
        """Return whether the lean door takes a request whose head has come, and no other is before it."""
        parser = self.parser
        if (
            self._entrance is None
            or not (self.cycle is None or self.cycle.response_complete)
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return False
        lean = self._entrance.enter(parser.get_method(), self.url, self.headers, self._answer)
        if lean is not None:
            self._taken = self.cycle = _Taken(lean)
        return lean is not None

    def _answer(self, response: Response | None) -> None:
        """Answer what the lean door took."""
        taken = self._taken
        assert taken is not None  # noqa: S101 - it is what is answered
        taken.response_complete = True
        status, headers, body = 200, _NOTHING, b""
        if response is not None:
            status, headers, body = response.status_code, response.raw_headers, bytes(response.body)
        parts = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers, (b"x-request-id", taken.lean.request_id)):
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if taken.keep_alive else b"connection: close\r\n\r\n")
        parts.append(body)
        self.transport.write(b"".join(parts))
        if not taken.keep_alive:
            self.transport.close()
        self.on_response_complete()


_NOTHING = [(b"content-length", b"0")]


class _Taken(RequestResponseCycle):
    """What uvicorn sees of a request that the lean door took."""

    def __init__(self, lean: Lean) -> None:
        self.lean = lean
        self.response_complete = self.disconnected = False
        self.keep_alive = True
        self.message_event = asyncio.Event()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the runtime has its own, and uvicorn's raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _bind(place: Listener) -> socket.socket:
    host = place.host or "127.0.0.1"
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, place.port or 0))
        sock.listen(BACKLOG)  # two who start together both bind; only one of them may listen
    except BaseException:
        sock.close()
        raise
    return sock


def _make_way(path: Path) -> None:
    """Prepare the folder of a Unix socket and remove what a dead process left there.

    Raises:
        OSError: The folder cannot be used, a living process answers on the socket, or it is no socket.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        return
    if not path.is_socket():
        raise FileExistsError(errno.EEXIST, "there is a file of that name", str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # too busy to take the call, but there
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _refusal(place: Listener, exc: OSError) -> CannotListen:
    if exc.errno == errno.EADDRINUSE:
        other = "another process answers there; stop it first"
        other_zh = "已有进程在该套接字上应答,请先停止它"
        if place.uds is None:
            other = f"another program holds it. Choose another with {place.setting}=…"
            other_zh = f"端口已被占用。请用 {place.setting}=… 另选端口"
        return PortTaken(f"cannot listen on {place.place}; {other}", message_zh=f"无法监听 {place.place},{other_zh}")
    reason = exc.strerror or str(exc)
    hint, hint_zh = "", ""
    if exc.errno in (errno.EACCES, errno.EPERM) and place.uds is None:
        hint = f"; ports below 1024 need rights, choose another with {place.setting}=…"
        hint_zh = f";1024 以下端口需要权限,请用 {place.setting}=… 另选端口"
    elif exc.errno == errno.EADDRNOTAVAIL:
        hint = "; it is no address of this machine, see WATTRING_HOST"
        hint_zh = ";该地址不属于本机,请检查 WATTRING_HOST"
    return CannotListen(
        f"cannot listen on {place.place}: {reason}{hint}", message_zh=f"无法监听 {place.place}:{reason}{hint_zh}"
    )
