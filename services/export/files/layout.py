"""Folders of a unit's file server by dialect, as far as the texts say them; the rest is the connection's to say.

Sources: T: the specification of 2016, section on FTP (``PIC`` is the first level and where a session begins; firmware
is put into the root). M: configuration in ``Config``, firmware into ``upgrade``. Of Y, C and U no folder is public.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one dialect."""

    folders: tuple[str, ...] = ()
    login: str = ""
    """Where a session begins, below the account's root."""
    uploads: str = ""
    """Where firmware may be put, when that is permitted."""


PLAIN = Layout()
LAYOUTS: Mapping[str, Layout] = {
    "T": Layout(folders=("PIC",), login="PIC"),
    "M": Layout(folders=("Config", "upgrade"), uploads="upgrade"),
}


def layout_of(dialect: str) -> Layout:
    """Return the folders of a dialect."""
    return LAYOUTS.get(dialect, PLAIN)
