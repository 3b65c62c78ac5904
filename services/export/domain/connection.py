"""Connections to supervision centres and the units that report over them.

A unit's life: *new* → LOGIN → *registered*, or *refused*, or *lost* when nothing is heard any more; every
way back is a LOGIN. Two LOGINs of one unit are at least the dialect's interval apart, whatever happened in
between: the time of the last one is kept in the database and written before it is sent. A LOGIN that never
left (nobody listens there) does not count. A removed unit is *leaving* until its LOGOUT has been answered.
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from urllib.parse import urlsplit, urlunsplit

from services.export.dialects.messages import UnitFacts, UnitRef

ConnectionId = NewType("ConnectionId", str)
UnitKey = NewType("UnitKey", int)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Phase(StrEnum):
    """Where a unit stands with its centre."""

    NEW = "new"
    REGISTERED = "registered"
    REFUSED = "refused"
    """The centre let it not in (RightLevel 0 or none)."""
    LOST = "lost"
    """It was or would be registered, but the centre does not answer."""
    LEAVING = "leaving"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How to deal with one centre."""

    login_interval_s: float | None = None
    """Least time between two LOGINs of a unit; None is the dialect's. [s]"""
    timeout_s: float = 10.0
    """For a whole call. [s]"""
    batch_size: int = 20
    """Alarms in one message, at most."""
    concurrency: int = 8
    """Units that talk to the centre at the same time, at most."""
    logins_per_s: float = 10.0
    """LOGINs of different units are spread to this rate. [1/s]"""
    silence_s: float | None = 600.0
    """Nothing heard from the centre for this long means that the connection is lost; None never. [s]"""
    failures_to_lost: int = 3
    """So many failed calls in a row mean that the connection is lost."""
    retry_first_s: float = 1.0
    """Wait after the first failed delivery; doubles from there. [s]"""
    retry_cap_s: float = 60.0
    """Longest wait between two attempts. [s]"""
    push_values_s: float = 300.0
    """Latest values are pushed so often, in dialects whose units push them. [s]"""
    time_tolerance_s: float = 300.0
    """A centre's clock that differs more is answered with a no. [s]"""
    allow_write_registration: bool = False
    """Whether the centre may move its units to another address (SET_LOGININFO)."""
    peers: tuple[str, ...] = ()
    """Networks the centre polls from, besides the addresses that it was given or assigned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One supervision centre."""

    id: ConnectionId
    name: str
    dialect: str
    url: str
    """Registration address, the whole URL of the centre's service."""
    options: ConnectionOptions = ConnectionOptions()
    enabled: bool = True
    removed: bool = False

    def networks(self) -> tuple[Network, ...]:
        """Return whence this centre may poll, as configured: its peers and its own address if it is a number."""
        found = [ipaddress.ip_network(text, strict=False) for text in self.peers_and_host() if _is_network(text)]
        return tuple(found)

    def peers_and_host(self) -> tuple[str, ...]:
        """Return the configured peers and the host of the registration address."""
        return (*self.options.peers, urlsplit(self.url).hostname or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit that Wattring plays towards one centre, with what it knows of its session."""

    key: UnitKey
    connection_id: ConnectionId
    ref: UnitRef
    name: str
    sites: tuple[str, ...]
    facts: UnitFacts
    phase: Phase = Phase.NEW
    assigned_address: str | None = None
    right: int | None = None
    last_login_at: datetime | None = None
    """When the last LOGIN was sent that may have arrived."""
    login_not_before: datetime | None = None
    login_failures: int = 0
    logged_in_at: datetime | None = None
    heard_at: datetime | None = None
    """When the centre last asked us something, let us in or acknowledged an alarm."""
    send_failures: int = 0
    error: str | None = None
    clock_skew_s: float | None = None
    """The centre's clock minus ours, at its last time check. [s]"""
    heartbeat_s: float | None = None
    """How often the centre says that it asks for the unit's status. [s]"""
    finding: str | None = None
    """Kind of the platform condition that is open for this unit."""

    @property
    def site_id(self) -> str | None:
        """The site that stands for the unit where one is wanted."""
        return self.sites[0] if self.sites else None


def service_url(connection: Connection, assigned: str | None) -> str:
    """Return where events go: the registration address with the assigned host, and port if one was assigned."""
    if not assigned or not valid_address(assigned):
        return connection.url
    parts = urlsplit(connection.url)
    host, port = split_address(assigned)
    port = port or parts.port
    place = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, place if port is None else f"{place}:{port}", parts.path, parts.query, ""))


def valid_address(text: str) -> bool:
    """Return whether an assigned address is an IP address of somebody, with or without a port."""
    host, port = split_address(text)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    nobody = address.is_unspecified or address.is_multicast
    return not nobody and (port is None or 0 < port < 65536)


def split_address(text: str) -> tuple[str, int | None]:
    """Return host and port of ``1.2.3.4``, ``1.2.3.4:80``, ``::1`` or ``[::1]:80``; port -1 when it is no number."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, _port(rest.removeprefix(":"))
    host, _, port = text.partition(":")
    return (text, None) if ":" in port else (host, _port(port))


def _port(text: str) -> int | None:
    if not text:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def retry_after_s(attempts: int, options: ConnectionOptions, jitter: float) -> float:
    """Return the wait before the next attempt: doubling, capped, reduced by up to a third. [s]

    Args:
        attempts: Attempts made so far, at least 1.
        options: First wait and cap.
        jitter: 0 to 1, so that units that failed together do not come back together.
    """
    wait_s = min(options.retry_first_s * 2.0 ** min(attempts - 1, 30), options.retry_cap_s)
    return wait_s * (1 - jitter / 3)
