"""The B interface in its variants: neutral messages, one data file per dialect, hardened XML and SOAP."""

from collections.abc import Mapping

from libs.common.errors import InvalidInput
from services.export.dialects.base import Dialect
from services.export.dialects.tower import TOWER

__all__ = ["DIALECTS", "Dialect", "dialect_named"]

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (TOWER,)}
"""Every dialect that can be spoken, by the name that a connection gives."""


def dialect_named(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        InvalidInput: There is none; the message lists those that exist.
    """
    try:
        return DIALECTS[name]
    except KeyError:
        known = ", ".join(sorted(DIALECTS))
        raise InvalidInput(
            f"dialect: {name!r} is not known; known are {known}",
            message_zh=f"未知的B接口方言 {name!r};可用:{known}",
        ) from None
