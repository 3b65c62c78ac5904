"""Many simulated breakers behind one product of a device platform (CTWing AEP), as cheap as they can be.

The platform takes commands over its API without looking at their signatures, and pushes what follows as the real one
does: SENT, DELIVERED, what the device reports, SUCCESSFUL; or only what the device reports, where no more is wanted.
A breaker that cannot be reached leaves its command saved.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import orjson

from libs.suite.breakers import Breaker, document_of

PROFILE = "aep_breaker_example"
PRODUCT, TENANT = "10000001", "20001234"
LINE = "product-1"
TOKEN = "bench-token-of-thirty-two-letters-"  # noqa: S105 - of a platform that lives for some minutes
SECRET = "\n".join(("app_key=bench", "app_secret=bench", "master_key=bench", f"push_token={TOKEN}"))
SAVED, COMPLETED = 1, 4
PUSHERS = 64
"""Connections over which is pushed, one message at a time on each."""
RENEWED_S = 30.0
"""The gateway's word is made anew after so long: it is believed for a minute or two. [s]"""
AGAIN_S = 0.2
"""A push that was not taken is tried again after so long. [s]"""
BACKLOG = 4096
END = b"\r\n\r\n"


class AepBreakerField:
    """The breakers, and the platform in front of them."""

    def __init__(self, count: int, *, reports_only: bool = False) -> None:
        """Prepare ``count`` breakers that are open; with ``reports_only`` nothing is pushed of commands themselves."""
        self._reports_only = reports_only
        self.breakers = [Breaker(closed=False) for _ in range(count)]
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Opens one connection to push over; None before the beginning and after the end."""
        self._opening: set[asyncio.Task[None]] = set()
        self._pushers: set[_Pusher] = set()
        self._idle: list[_Pusher] = []
        self._waiting: deque[bytes] = deque()
        self._tasks = 0
        self._states: dict[str, int] = {}

    async def start(self) -> None:
        """Take commands."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(partial(_Api, self), "127.0.0.1", 0, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    def push_to(self, port: int, authorization: Callable[[], str]) -> None:
        """Push to ingest from here on, beginning with a report of every breaker.

        Args:
            port: Of ingest, on this machine.
            authorization: Makes what the gateway says who it is by; asked again before that gets too old.
        """
        head, loop = _Head(authorization), asyncio.get_running_loop()

        async def opened() -> None:
            _, pusher = await loop.create_connection(partial(_Pusher, self, head), "127.0.0.1", port)
            self._pushers.add(pusher)
            self.next_of(pusher)

        self._open = opened
        for _ in range(PUSHERS):
            self._open_one()
        for number in range(len(self.breakers)):
            self._report(number)

    async def stop(self) -> None:
        """Take and push no more."""
        self._open = None
        await asyncio.gather(*self._opening)
        self._waiting.clear()
        for pusher in self._pushers:
            pusher.close()
        if self._server is not None:
            self._server.close()

    def command(self, order: dict[str, Any]) -> dict[str, object]:
        """Take a command and return what the platform says of it."""
        self._tasks += 1
        task, number = str(self._tasks), int(order["deviceId"].removeprefix("dev"))
        breaker = self.breakers[number]
        self._states[task] = SAVED
        if breaker.reachable:
            breaker.write(int(order["content"]["params"]["switch"]))
            self._states[task] = COMPLETED
            self._respond(number, task, "SENT")
            self._respond(number, task, "DELIVERED")
            self._report(number)
            self._respond(number, task, "SUCCESSFUL")
        return self.state(task)

    def state(self, task: str) -> dict[str, object]:
        """Return how far a command is."""
        return {"commandId": task, "commandStatus": self._states.get(task, SAVED), "createTime": _now_ms()}

    def _report(self, number: int) -> None:
        one = self.breakers[number]
        payload = {
            "voltage": 2301, "current": 4100 if one.closed else 0, "active_power": 943 if one.closed else 0,
            "energy": 100_000, "switch_state": int(one.closed), "local_lock": int(one.locked),
            "trip_reason": one.trip_reason,
        }  # fmt: skip
        self._push(number, messageType="dataReport", serviceId="data_report", payload=payload)

    def _respond(self, number: int, task: str, code: str) -> None:
        if self._reports_only:
            return
        result = {"resultCode": code, "resultDetail": ""}
        self._push(number, messageType="commandResponse", taskId=int(task), result=result)

    def _push(self, number: int, **content: object) -> None:
        message = {
            "tenantId": TENANT, "productId": PRODUCT, "deviceId": f"dev{number}", "protocol": "lwm2m",
            "timestamp": _now_ms(), "IMEI": f"86{number:013d}", "deviceType": "", "topic": "v1/up/ad19", **content,
        }  # fmt: skip
        self._waiting.append(orjson.dumps(message))
        if self._idle:
            self._idle.pop().push(self._waiting.popleft())

    def _open_one(self) -> None:
        if self._open is not None:
            task = asyncio.create_task(self._open(), name="a connection of the platform")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def lost(self, pusher: "_Pusher", unanswered: bytes) -> None:
        """Open another connection in place of one that ingest has ended, and push again what was not answered."""
        self._pushers.discard(pusher)
        if pusher in self._idle:
            self._idle.remove(pusher)
        if unanswered:
            self._waiting.appendleft(unanswered)
        self._open_one()

    def next_of(self, pusher: "_Pusher") -> None:
        """Let a connection push what waits next."""
        if self._waiting:
            pusher.push(self._waiting.popleft())
        else:
            self._idle.append(pusher)


class _Head:
    """The beginning of a push, made anew before the gateway's word in it gets too old."""

    def __init__(self, authorization: Callable[[], str]) -> None:
        self._authorization = authorization
        self._head, self._made_at = b"", float("-inf")

    def now(self) -> bytes:
        if time.monotonic() - self._made_at > RENEWED_S:
            self._head, self._made_at = _head(self._authorization()), time.monotonic()
        return self._head


class _Pusher(asyncio.Protocol):
    """One connection over which the platform pushes."""

    def __init__(self, field: AepBreakerField, head: _Head) -> None:
        self._field = field
        self._head = head
        self._body = b""
        self._answer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._field.lost(self, self._body)

    def push(self, body: bytes) -> None:
        """Push a message; the next one after it was answered."""
        self._body = body
        if self._transport is not None and not self._transport.is_closing():
            length = b"content-length: %d" % len(body)
            self._transport.write(self._head.now() + length + END + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data
        end = answer.find(END)
        if end < 0 or len(answer) < end + len(END) + _length(answer[: end + len(END)]):
            return
        self._answer = b""
        if answer.startswith(b"HTTP/1.1 200 "):
            self._body = b""
            self._field.next_of(self)
        else:  # the line is not known yet, or the spool is full: the platform goes on
            asyncio.get_running_loop().call_later(AGAIN_S, self._again)

    def _again(self) -> None:
        if self._transport is not None:  # else it waits for another connection already
            self.push(self._body)


class _Api(asyncio.Protocol):
    """One connection to the platform's API."""

    def __init__(self, field: AepBreakerField) -> None:
        self._field = field
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (at := self._rest.find(END)) >= 0:
            head, end = self._rest[:at], at + len(END) + _length(self._rest[: at + len(END)])
            if len(self._rest) < end:
                return
            body, self._rest = self._rest[at + len(END) : end], self._rest[end:]
            self._answer(head.split(b" ", 2), body)

    def _answer(self, request: list[bytes], body: bytes) -> None:
        method, path = request[0], request[1]
        if method == b"POST" and path.startswith(b"/aep_device_command/command"):
            result = self._field.command(orjson.loads(body))
        else:
            task = path.rpartition(b"commandId=")[2].partition(b"&")[0].decode()
            result = self._field.state(task)
        payload = orjson.dumps({"code": 0, "msg": "ok", "result": result})
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-ag-timestamp: %d\r\ncontent-length: %d"
                % (_now_ms(), len(payload))
                + END
                + payload
            )


def registry_of(field: AepBreakerField, *, per_site: int = 20) -> dict[str, Any]:
    """Return a registry document: device ``dev<n>`` of the platform is load ``aau-n`` behind breaker ``brk-n``."""
    line = {
        "id": LINE, "name": "Product", "kind": "aep", "endpoint": f"http://127.0.0.1:{field.port}",
        "credentials_ref": "ctwing", "settings": {"product": int(PRODUCT), "tenant": TENANT},
    }  # fmt: skip
    wiring = [
        {"profile": PROFILE, "line": LINE, "address": f"dev{n}", "serial": f"86{n:013d}"}
        for n in range(len(field.breakers))
    ]
    return document_of([line], wiring, per_site=per_site)


def _head(authorization: str) -> bytes:
    """Return the beginning of a push."""
    path = f"/push/aep/{LINE}/{TOKEN}"
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: {authorization}\r\n"
        "content-type: application/json\r\n"
    ).encode()


def _length(head: bytes) -> int:
    """Return the length of the body that a head announces. [B]"""
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _now_ms() -> int:
    return int(time.time() * 1000)
