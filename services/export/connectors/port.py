"""What every connector is: it tells a batch and says what became of it."""

from collections.abc import Mapping
from typing import Protocol

from services.export.domain.callbacks import Outcome
from services.export.domain.rendering import Batch

ERROR_CHARS = 300


class Connector(Protocol):
    """A way to tell one destination its batches; opened by the first one, closed when the destination changes."""

    async def tell(self, batch: Batch) -> Outcome:
        """Tell a batch within the destination's time; told again under its number it must do no harm.

        Expected failures are outcomes; nothing is raised for them.
        """

    async def close(self) -> None:
        """Let the connection go."""


class BadAddress(ValueError):
    """The destination's address cannot be used; the text says which field, and what was expected."""


def text_of(address: Mapping[str, object], name: str, default: str | None = None) -> str:
    """Return a text of an address.

    Raises:
        BadAddress: It is none, or missing without a default.
    """
    value = address.get(name, default)
    if not isinstance(value, str) or not value:
        raise BadAddress(f"address.{name}: expected a text")
    return value


def port_of(address: Mapping[str, object], default: int) -> int:
    """Return the port of an address.

    Raises:
        BadAddress: It is none.
    """
    port = address.get("port", default)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise BadAddress("address.port: expected a number from 1 to 65535")
    return port


def known_only(address: Mapping[str, object], *names: str) -> None:
    """Check that an address has no other fields.

    Raises:
        BadAddress: It has; a misspelt option would silently not hold.
    """
    strange = sorted(address.keys() - set(names))
    if strange:
        raise BadAddress(f"address.{strange[0]}: not known; known are {', '.join(names)}")
