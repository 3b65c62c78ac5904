"""Who may do what, and which service answers for which path.

Rights are scopes ``<service>:<read|write|switch|admin>``, and ``control:app`` of an upstream application, which may
order what control's limits of its key say. A role is a set of scopes; a user has roles, an API key has scopes of its
own, and both may be limited to a part of the site tree. Deny is the default: a path that
is not listed here is not passed on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

SERVICE_OF: Mapping[str, str] = {
    **dict.fromkeys(
        ("regions", "organisations", "sites", "rooms", "circuits", "devices", "bindings", "sims", "loads", "lines",
         "profiles", "readings", "imports", "rejected", "completeness"),
        "ingest",
    ),
    **dict.fromkeys(
        ("alarms", "signals", "alarm-rules", "maintenance-windows", "diagnoses", "notifications"), "alarm"
    ),
    **dict.fromkeys(("plans", "occurrences", "commands", "wake-ups", "guards", "calendars"), "control"),
    **dict.fromkeys(
        ("energy", "demand", "tariffs", "bills", "factors", "emissions", "inventories", "savings", "projects",
         "targets", "reports", "attestations"),
        "carbon",
    ),
    **dict.fromkeys(
        ("sc-connections", "mappings", "callbacks", "feeds", "subscriptions", "deliveries", "connectors", "exports"),
        "export",
    ),
}  # fmt: skip
"""First segment after ``/api/v1/`` to the service that owns it."""

SERVICES = ("ingest", "alarm", "control", "carbon", "export")


class Role(StrEnum):
    """What a person does here."""

    VIEWER = "viewer"
    ENGINEER = "engineer"
    OPERATOR = "operator"
    MANAGER = "manager"
    ADMIN = "admin"
    APP = "app"


READ = frozenset(f"{service}:read" for service in (*SERVICES, "gateway"))
SCOPES: Mapping[Role, frozenset[str]] = {
    Role.VIEWER: READ,
    Role.ENGINEER: READ | {"ingest:write", "export:write"},
    Role.OPERATOR: READ | {"alarm:write", "control:switch"},
    Role.MANAGER: READ | {"alarm:write", "control:write", "carbon:write"},
    Role.ADMIN: frozenset({"*:*"}),
    Role.APP: frozenset({"control:app"}),
}
"""Installing, watching and planning are different rights; only an operator switches by hand. An upstream application
has a key with the scopes of ``app``: without limits in control it may do nothing, and it sees what is its own."""


def scopes_of(roles: Iterable[Role]) -> frozenset[str]:
    """Return all scopes that the roles give together."""
    return frozenset(scope for role in roles for scope in SCOPES[role])


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account of this installation."""

    user_id: str
    name: str
    roles: tuple[Role, ...]
    sites: tuple[str, ...] | None
    """Sites (or ``region:<id>``) that the user is limited to; None is all."""
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key for a program; its secret is shown once."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    sites: tuple[str, ...] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def usable(self, now: datetime) -> bool:
        """Return whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Throttle:
    """After ``failures`` wrong passwords within ``window_s`` an account and address must wait it out."""

    failures: int = 5
    window_s: float = 900.0
    """[s]"""

    def closed(self, failures: int) -> bool:
        """Return whether another attempt is refused."""
        return failures >= self.failures


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody did, as it was heard on ``audit.events``."""

    entry_id: str
    at: datetime
    actor: str
    door: str
    action: str
    subject: str
    before: object
    after: object
