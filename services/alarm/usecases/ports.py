"""What the use cases of alarm are given."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from libs.common.contracts.audit import AuditEvent
from libs.common.db import WriteConn
from libs.common.tokens import Principal
from services.alarm.domain.energy import CircuitFacts
from services.alarm.domain.places import Place
from services.alarm.domain.rulebook import (
    Target,
)


class Directory(Protocol):
    """The registry in alarm's words."""

    def target(self, device_id: str) -> Target | None:
        """Return what the rules need to know of a device."""

    def targets(self) -> Iterable[Target]:
        """Return all devices."""

    def kinds(self) -> Mapping[str, frozenset[str]]:
        """Return the numeric points that devices of each kind can have, by the known profiles."""

    def order_of(self, device_id: str) -> int:
        """Return the order number of the circuit that a device measures among those of its kind, from 1 on."""

    def has_site(self, site_id: str) -> bool:
        """Return whether there is such a site."""

    def devices_of(self, site_id: str) -> frozenset[str]:
        """Return the devices of a site."""

    def place(self, site_id: str) -> Place | None:
        """Return where a site is."""

    def places(self) -> Iterable[Place]:
        """Return all sites."""

    def device_name(self, device_id: str, language: str) -> str:
        """Return what people call a device."""

    def region_name(self, region_id: str, language: str) -> str:
        """Return what people call a region."""

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        """Return the sites that somebody is limited to, None for all."""


class Circuits(Protocol):
    """The circuits of the registry."""

    def circuit(self, circuit_id: str) -> CircuitFacts | None:
        """Return what energy rules need to know of a circuit, None when there is no such circuit."""


class Audit(Protocol):
    """Publishes what somebody changed, in the transaction of the change."""

    async def __call__(self, conn: WriteConn, event: AuditEvent) -> None:
        """Publish one change."""


def actor_of(who: Principal) -> str:
    """Return how the audit log names who acts."""
    return f"{who.kind}:{who.subject}"
