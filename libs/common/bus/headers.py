"""Headers in a text column: a flat JSON array of names and values, readable with psql.

Header values are bytes; they are written as Latin-1, which keeps every byte and shows ASCII as it is.
"""

from collections.abc import Sequence

import orjson

from libs.common.bus.port import Header


def pack_headers(headers: Sequence[Header]) -> str:
    """Return the headers as text."""
    return orjson.dumps([part for name, value in headers for part in (name, value.decode("latin-1"))]).decode()


def pack_header(header: Header) -> str:
    """Return one header as it stands within ``pack_headers``."""
    name, value = header
    return f"{orjson.dumps(name).decode()},{orjson.dumps(value.decode('latin-1')).decode()}"


def unpack_headers(text: str) -> tuple[Header, ...]:
    """Return the headers that ``pack_headers`` wrote."""
    flat: list[str] = orjson.loads(text)
    return tuple([(flat[i], flat[i + 1].encode("latin-1")) for i in range(0, len(flat), 2)])
