"""HTTP/1.1 for calls by the thousand: one write out, one wake-up when the answer is there, connections that are kept.

A client library took most of what a callback costs, and callbacks go by the thousand a second. h11 knows the protocol;
here are the sockets, and the bounds on a receiver that may do as it likes. A request that cannot be misread is written,
and an answer that came in one piece and is as plain as nearly all are is read, without h11, which decides on every
other. A connection only ever leads to an address
that was checked when it was opened, no redirection is followed, no proxy is heeded. ``GuardedClient`` is for the calls
that are few: it unpacks answers, and tells of failures in two languages.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import h11

from libs.common.outgoing import CUT_AFTER_S, URLS_KNOWN, AddressGuard, parse_url

MAX_ANSWER_BYTES = 4096
"""More of an answer is not read where its status is what counts. [B]"""
MAX_HEAD_BYTES = 16 * 1024
"""Of an answer. [B]"""
IDLE_S = 4.0
"""A connection that was idle for longer is not used again: servers commonly close theirs after five seconds, and what
is sent at that moment is lost. [s]"""
BODILESS = frozenset({"GET", "DELETE", "HEAD"})
"""Methods whose requests say nothing of a body that is empty."""
AGE_S = 60.0
"""A connection is used for no longer, so that a name that means another address is heeded. [s]"""


CONNECT_S = 5.0
"""A connection that takes longer to one address is not waited for; a host's next address is tried. [s]"""


class NotConnected(ConnectionError):
    """There was no connection: nothing was sent."""


class NotConnectedInTime(NotConnected, TimeoutError):
    """Nobody has taken the connection within the time: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, whatever its status."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes
    """Its beginning, as far as it came."""
    is_whole: bool
    """Whether the body is all of it."""

    def header(self, name: str) -> str | None:
        """Return what a header says, None where there is none of that name, which is in lower case."""
        wanted = name.encode()
        return next((value.decode("latin-1") for found, value in self.headers if found == wanted), None)


@dataclass(frozen=True, slots=True)
class _Target:
    """The parts of a URL."""

    scheme: str
    host: str
    port: int
    path: bytes
    authority: bytes

    @property
    def place(self) -> tuple[str, str, int]:
        """What a connection leads to."""
        return self.scheme, self.host, self.port


_LINES = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+: [!-~]+(?:[ \t]+[!-~]+)*\r\n)+")
"""Headers that are read by everybody as they are meant, if there are as many lines as headers."""
_TARGET = re.compile(rb"[!-~]+")
_PLAIN = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [^\r\n\x00]*)?\r\n((?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[^\r\n\x00]*\r\n)*)\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,9}")
_BESIDE_LENGTH = frozenset({b"transfer-encoding", b"connection", b"upgrade"})
"""Headers with which a length is not all that there is to know."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request."""

    method: str
    target: bytes
    headers: Sequence[tuple[str, str]]

    def for_h11(self) -> h11.Request:
        """Return it as h11 knows it.

        Raises:
            h11.LocalProtocolError: It would not be read as it is meant.
        """
        return h11.Request(method=self.method, target=self.target, headers=list(self.headers))

    def written(self) -> bytes:
        """Return it as it is sent. Raises as ``for_h11``."""
        text = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        lines = text.encode("ascii", "replace")
        is_safe = text.isascii() and lines.count(b"\r\n") == len(self.headers) and _LINES.fullmatch(lines) is not None
        if is_safe and self.method.isalpha() and _TARGET.fullmatch(self.target) is not None:
            return b"%b %b HTTP/1.1\r\n%b\r\n" % (self.method.encode("ascii"), self.target, lines)
        return h11.Connection(h11.CLIENT).send(self.for_h11()) or b""


@lru_cache(URLS_KNOWN)
def _target(url: str) -> _Target:
    found = parse_url(url)
    port = found.port or (443 if found.scheme == "https" else 80)
    return _Target(found.scheme, found.raw_host.decode("ascii"), port, found.raw_path, found.netloc)


class Connection(asyncio.Protocol):
    """One connection, with one call on it at a time."""

    def __init__(self, place: tuple[str, str, int]) -> None:
        """Prepare one to a place: scheme, host and port."""
        self.place = place
        self._loop = asyncio.get_running_loop()
        self.opened_s = self.idle_since_s = self._loop.time()
        self.is_usable = True
        """Whether it can take a call, or one more."""
        self._http: h11.Connection | None = None
        """Reads the answer, if it is not a plain one."""
        self._asked: tuple[Head, bytes] | None = None
        """Head and body of the call."""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        """What the call waits for."""
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._cut: asyncio.TimerHandle | None = None
        self._cut_after_s: float | None = None
        self._max_bytes = MAX_ANSWER_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call; an answer whose head has come is one."""
        self.is_usable = False
        if self._head is not None:
            self._say(is_whole=exc is None and self._ends_here())
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the connection was closed without an answer"))

    def data_received(self, data: bytes) -> None:
        """Take in what has come, which is bounded: the call hears of it once it is whole or enough."""
        if self._answer is None or self._answer.done():
            self.close()  # nobody has asked
            return
        if self._http is None:
            plain = _plain(data, self._max_bytes)
            if plain is not None:
                self.is_usable = True
                self._answer.set_result(plain)
                return
            self._http = self._after_asking()
        self._http.receive_data(data)
        try:
            self._read(self._http)
        except h11.RemoteProtocolError as exc:
            if self._head is not None:
                self._say()  # the status has come, and it counts
            else:
                self._answer.set_exception(exc)

    async def call(
        self, head: Head, body: bytes, *, cut_after_s: float | None, max_bytes: int = MAX_ANSWER_BYTES
    ) -> Answer:
        """Send a request and return its answer; a connection that cannot take another one is closed.

        Args:
            head: Of the request.
            body: All of it.
            cut_after_s: How long the rest of an answer is waited for whose head has come; None is for all of it. [s]
            max_bytes: So much of an answer's body is read. [B]

        Raises:
            OSError: The connection was lost.
            h11.ProtocolError: What came is no HTTP, or what was to be sent.
        """
        self.is_usable, self._http, self._head = False, None, None
        self._asked = head, body
        self._cut_after_s, self._max_bytes = cut_after_s, max_bytes
        self._body.clear()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        try:
            assert self._transport is not None  # noqa: S101 - the connection was made
            self._transport.write(head.written() + body)
            return await answer
        finally:
            self._answer = self._head = None
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None
            if not self.is_usable:
                self.close()

    def close(self) -> None:
        """Close it at once."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def _after_asking(self) -> h11.Connection:
        """Return h11's idea of the connection, after it has sent the request."""
        assert self._asked is not None  # noqa: S101 - somebody waits for the answer
        head, body = self._asked
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        for event in (head.for_h11(), *((h11.Data(data=body),) if body else ()), h11.EndOfMessage()):
            http.send(event)
        return http

    def _read(self, http: h11.Connection) -> None:
        """Take in what has come.

        Raises:
            h11.RemoteProtocolError: It is no answer.
        """
        while (event := http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._head = event
            elif isinstance(event, h11.Data):
                room = self._max_bytes - len(self._body)
                self._body += event.data[:room]
                if len(event.data) > room:
                    self._say()
                    return
            elif isinstance(event, h11.EndOfMessage):
                self.is_usable = (
                    http.our_state is h11.DONE and http.their_state is h11.DONE and not http.trailing_data[0]
                )
                self._say(is_whole=True)
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the receiver changes the protocol")
        if self._head is not None and self._cut is None and self._cut_after_s is not None:
            self._cut = self._loop.call_later(self._cut_after_s, self._say)

    def _ends_here(self) -> bool:
        """Return whether a body ends where the connection does: one that said no length."""
        if self._http is None:
            return False
        try:
            self._http.receive_data(b"")
            return isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    def _say(self, *, is_whole: bool = False) -> None:
        """Tell the call what has come; once the head has."""
        if self._answer is not None and not self._answer.done() and self._head is not None:
            self._answer.set_result(
                Answer(self._head.status_code, self._head.headers, bytes(self._body), is_whole=is_whole)
            )


class Wire:
    """Calls one receiver; who uses it bounds how many calls there are at a time."""

    def __init__(self, guard: AddressGuard, trust: ssl.SSLContext) -> None:
        """Prepare; connections are opened when they are needed.

        Args:
            guard: Knows what may be called.
            trust: How certificates are checked.
        """
        self._guard = guard
        self._trust = trust
        self._idle: list[Connection] = []
        """The one that was used last is the last."""
        self._is_closed = False

    def close(self) -> None:
        """Close the connections: those that a call is on once it has ended."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def close_old(self) -> None:
        """Close those that would not be used again."""
        now_s = asyncio.get_running_loop().time()
        while self._idle and not _is_fresh(self._idle[0], now_s):
            self._idle.pop(0).close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """Post what is only to arrive: the status is what counts, and little more of an answer is waited for.

        Arguments and errors as for ``call``.
        """
        cut_after_s = min(CUT_AFTER_S, timeout_s / 4)
        return await self.call("POST", url, headers, body, timeout_s=timeout_s, cut_after_s=cut_after_s)

    async def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        timeout_s: float,
        cut_after_s: float | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Call, and return what was answered.

        Args:
            method: GET, POST …; not HEAD.
            url: ``http`` or ``https``.
            headers: Besides those that HTTP needs.
            body: What is said.
            timeout_s: For everything together. [s]
            cut_after_s: How long the rest of an answer is waited for whose head has come; None is for all of it. [s]
            max_bytes: So much of an answer's body is read. [B]

        Raises:
            InvalidInput: No URL that can be called.
            NotAllowed: It leads inside.
            CallFailed: Its name has no address; nothing was sent.
            NotConnected: No connection; nothing was sent. With ``NotConnectedInTime`` nobody has said no.
            TimeoutError: No answer in time.
            OSError: The connection was lost.
            h11.ProtocolError: No HTTP was answered.
        """
        target = _target(url)
        length = [("content-length", str(len(body)))] if body or method not in BODILESS else []
        usual = ("host", target.authority.decode()), ("accept-encoding", "identity")
        head = Head(method, target.path, (*usual, *length, *headers.items()))
        until_s = asyncio.get_running_loop().time() + timeout_s
        connection = self._kept(target) or await self._open(target, until_s)
        async with asyncio.timeout_at(until_s):
            answer = await connection.call(head, body, cut_after_s=cut_after_s, max_bytes=max_bytes)
        if self._is_closed:
            connection.close()
        elif connection.is_usable:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        return answer

    def _kept(self, target: _Target) -> Connection | None:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            found = self._idle.pop()
            if found.is_usable and found.place == target.place and _is_fresh(found, now_s):
                return found
            found.close()
        return None

    async def _open(self, target: _Target, until_s: float) -> Connection:
        """Return a new connection, to the first of a host's addresses that takes one."""
        try:
            async with asyncio.timeout_at(until_s):
                *others, last = await self._guard.addresses_of(target.host, target.port)
                for address in others:
                    with suppress(OSError):
                        return await self._open_to(address, target)
                return await self._open_to(last, target)
        except TimeoutError as exc:
            raise NotConnectedInTime("nobody has taken the connection in time") from exc
        except OSError as exc:
            raise NotConnected(str(exc) or type(exc).__name__) from exc

    async def _open_to(self, address: str, target: _Target) -> Connection:
        is_tls = target.scheme == "https"
        async with asyncio.timeout(CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(target.place), address, target.port,
                ssl=self._trust if is_tls else None, server_hostname=target.host if is_tls else None,
            )  # fmt: skip
        return connection


def _plain(data: bytes, max_bytes: int) -> Answer | None:
    """Return an answer that came in one piece and holds a length, or nothing, and a whole body; None for any other."""
    found = _PLAIN.match(data)
    if found is None:
        return None
    status, body = int(found[1]), data[found.end() :]
    headers = [(name.lower(), value.strip(b" \t")) for name, _, value in
               (line.partition(b":") for line in found[2].split(b"\r\n")[:-1])]  # fmt: skip
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(name in _BESIDE_LENGTH for name, _ in headers) or len(body) > max_bytes:
        return None
    if status in (204, 304):
        return None if body or lengths else Answer(status, headers, b"", is_whole=True)
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None or int(lengths[0]) != len(body):
        return None
    return Answer(status, headers, body, is_whole=True)


def _is_fresh(connection: Connection, now_s: float) -> bool:
    return now_s - connection.idle_since_s < IDLE_S and now_s - connection.opened_s < AGE_S
