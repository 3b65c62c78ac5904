"""File destinations: a file per batch on a party's FTP or SFTP server, complete under its name or not there at all.

``address``: ``url`` (``ftp://``, ``ftps://`` or ``sftp://host:port/folder``), ``name`` with ``{feed}`` and ``{batch}``,
``host_key`` of an SFTP server. ``secrets``: ``username``, ``password``, ``private_key``. A file that is told again
replaces itself.

Both go any way: the libraries are given connections that the dialler has opened, FTP one more for each file, always to
the address that was checked and never where the server says. FTP over TLS takes a trust store. Without a way of its own
a library is given the address that was checked; but FTP over TLS goes by the name, which its certificate has to show.
"""

import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import httpcore

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard
from libs.common.redact import redact
from services.export.connectors.dial import Dialler
from services.export.connectors.http import not_told
from services.export.connectors.port import ERROR_CHARS, BadAddress, known_only, text_of
from services.export.connectors.relay import joined
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Egress, Format
from services.export.domain.rendering import EXTENSIONS, Batch, render
from services.export.files.push import PORTS, PushTarget, push_all

NUMBER_DIGITS = 12
"""Names sort as numbers do."""


class FileConnector:
    """Puts files on one destination's server."""

    def __init__(
        self,
        *,
        address: Mapping[str, object],
        secrets: Mapping[str, str],
        format_: Format,
        egress: Egress,
        timeout_s: float,
        guard: AddressGuard,
        dialler: Dialler,
        clock: Clock,
    ) -> None:
        """Prepare; the arguments are those of ``HttpConnector``, and the way. Raises ``BadAddress``."""
        known_only(address, "url", "name", "host_key")
        host_key = text_of(address, "host_key") if "host_key" in address else None
        target = PushTarget(
            url=text_of(address, "url"), host_key=host_key, trust=egress.trust, timeout_s=timeout_s
        ).with_account(secrets)
        found = target.problem()
        if found is not None:
            raise BadAddress(f"egress.{found}" if found.startswith("trust") else f"address.{found}")
        scheme = urlsplit(target.url).scheme
        own_way = egress.proxy is not None or egress.source_address is not None
        if egress.trust is not None and scheme != "ftps":
            raise BadAddress("egress.trust: only FTP over TLS (ftps://) shows a certificate; SFTP has host_key")
        self._dialler = dialler if own_way else None
        self._target = target
        self._format = format_
        self._name = text_of(address, "name", "{feed}-{batch}")
        try:
            shown = self._file_name("f", 1)
        except (KeyError, IndexError, ValueError, AttributeError) as exc:
            raise BadAddress("address.name: expected only {feed} and {batch} in braces") from exc
        if "/" in shown or shown.startswith(".") or "{batch}" not in self._name or not shown.isprintable():
            raise BadAddress("address.name: expected a name with {batch}, without a folder")
        self._guard = guard
        self._clock = clock

    async def close(self) -> None:
        """Nothing stays open between batches."""

    async def tell(self, batch: Batch) -> Outcome:
        """Put a batch there; see ``Connector.tell``."""
        began_s = self._clock.monotonic()
        try:
            name = self._file_name(batch.feed_id, batch.number)
            await self._put([(name, render(self._format, batch))])
        except PlatformError as exc:
            return not_told(exc, self._clock.monotonic() - began_s)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
            took_s = self._clock.monotonic() - began_s
            return Outcome(Verdict.FAILED, took_s, error=redact(str(exc) or type(exc).__name__)[:ERROR_CHARS])
        return Outcome(Verdict.DELIVERED, self._clock.monotonic() - began_s)

    async def _put(self, files: Sequence[tuple[str, bytes]]) -> None:
        parts = urlsplit(self._target.url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        address = await self._guard.address_of(host, port)
        dialler = self._dialler
        if dialler is None:
            await push_all(self._target, "", files, address=address)
            return
        async with AsyncExitStack() as ways:

            async def dial(port: int) -> socket.socket:
                stream = await dialler.dial(address, port, self._target.timeout_s)
                return await ways.enter_async_context(joined(stream))

            await push_all(self._target, "", files, address=address, dial=dial)

    def _file_name(self, feed_id: str, number: int) -> str:
        name = self._name.format(feed=feed_id, batch=f"{number:0{NUMBER_DIGITS}d}")
        return f"{name}.{EXTENSIONS[self._format.kind]}"
