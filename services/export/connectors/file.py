"""File destinations: a file per batch on a party's FTP or SFTP server, complete under its name or not there at all.

``address``: ``url`` (``ftp://``, ``ftps://`` or ``sftp://host:port/folder``), ``name`` with ``{feed}`` and ``{batch}``,
``host_key`` of an SFTP server. ``secrets``: ``username``, ``password``, ``private_key``. A file that is told again
replaces itself.

The libraries open their own connections, so a way of one's own (proxy, source address, trust store) is refused here
rather than not gone. They are given the address that was checked; but FTP over TLS goes by the name, which its
certificate has to show.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard
from services.export.connectors.http import not_told
from services.export.connectors.port import BadAddress, known_only, text_of
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
        clock: Clock,
    ) -> None:
        """Prepare; the arguments are those of ``HttpConnector``, and the way. Raises ``BadAddress``."""
        known_only(address, "url", "name", "host_key")
        if egress != Egress():
            raise BadAddress("egress: a file's server is reached directly; expected none")
        host_key = text_of(address, "host_key") if "host_key" in address else None
        target = PushTarget(url=text_of(address, "url"), host_key=host_key, timeout_s=timeout_s).with_account(secrets)
        found = target.problem()
        if found is not None:
            raise BadAddress(f"address.{found}")
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
            parts = urlsplit(self._target.url)
            address = await self._guard.address_of(parts.hostname or "", parts.port or PORTS[parts.scheme])
            name = self._file_name(batch.feed_id, batch.number)
            await push_all(self._target, "", [(name, render(self._format, batch))], address=address)
        except PlatformError as exc:
            return not_told(exc, self._clock.monotonic() - began_s)
        return Outcome(Verdict.DELIVERED, self._clock.monotonic() - began_s)

    def _file_name(self, feed_id: str, number: int) -> str:
        name = self._name.format(feed=feed_id, batch=f"{number:0{NUMBER_DIGITS}d}")
        return f"{name}.{EXTENSIONS[self._format.kind]}"
