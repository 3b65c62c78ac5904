"""Who gets notifications: an HTTP server and a mail server that this project did not write, and what they were sent."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.smtp import SMTP


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpReceiver:
    """An HTTP server that answers what it is told to."""

    port: int = 0
    status: int = 200
    answer: bytes = b"{}"
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.calls.append(Call(self.command, self.path, headers, self.rfile.read(length)))
            self.send_response(receiver.status)
            self.send_header("content-length", str(len(receiver.answer)))
            self.end_headers()
            self.wfile.write(receiver.answer)

        do_GET = do_POST = _take  # noqa: N815  # the names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """What a mail server was given; ``refuse`` is what it answers to receivers it does not know."""

    mails: list[Any] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    port: int = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


@asynccontextmanager
async def mail_receiver(**options: Any) -> AsyncIterator[Mailbox]:
    """Serve mail in this loop; ``options`` are those of aiosmtpd's ``SMTP``, ``context`` is TLS from the first byte."""
    box = Mailbox()
    context = options.pop("context", None)
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()

    def served() -> SMTP:
        with warnings.catch_warnings():
            # It does not see that TLS from the first byte protects a password too.
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
            return SMTP(box, hostname="mail.test", loop=loop, **options)

    server = await loop.create_server(served, "127.0.0.1", 0, ssl=context)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        await server.wait_closed()
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
