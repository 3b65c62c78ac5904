"""The registry as exports ask it."""

from collections.abc import Mapping, Sequence

from libs.common.clock import Clock
from libs.common.contracts.registry import Circuit, EntityKind, Organisation
from libs.common.ids import SiteId
from libs.common.registry import RegistryView
from services.export.exports.standard import CircuitFacts, SiteFacts


class RegistrySites:
    """The registry as the service's own table has it now."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        """Keep the projection."""
        self._view = view
        self._clock = clock

    def all_sites(self) -> Sequence[str]:
        """See ``Registry``."""
        return sorted(site.id for site in self._view.sites())

    def devices_at(self, site_id: str) -> Sequence[str]:
        """See ``Registry``."""
        return sorted(device.id for device in self._view.devices(SiteId(site_id)))

    def site(self, site_id: str) -> SiteFacts | None:
        """See ``Registry``."""
        found = self._view.site(SiteId(site_id))
        if found is None:
            return None
        parent = None
        if found.organisation is not None:
            held = self._view.at(EntityKind.ORGANISATION, found.organisation, self._clock.now())
            parent = held if isinstance(held, Organisation) else None
        return SiteFacts(
            name=found.name_zh or found.name,
            address=found.address,
            account_number=found.account_number,
            organisation=None if parent is None else (parent.name_zh or parent.name),
            valid_from=found.valid_from,
            archive={**((parent and parent.archive) or {}), **(found.archive or {})},
        )

    def circuits_at(self, site_id: str) -> Sequence[CircuitFacts]:
        """See ``Registry``."""
        known = {one.id: one for one in self._view.circuits(SiteId(site_id))}
        return [
            CircuitFacts(
                one.id, one.name_zh or one.name, one.level, _path(one, known), one.valid_from, one.archive or {}
            )
            for one in sorted(known.values(), key=lambda one: one.id)
        ]


def _path(circuit: Circuit, known: Mapping[str, Circuit]) -> str:
    """Return the names from the site's feed down to a circuit; a ring in the registry ends where it begins."""
    names: list[str] = []
    seen: set[str] = set()
    above: Circuit | None = circuit
    while above is not None and above.id not in seen:
        seen.add(above.id)
        names.append(above.name_zh or above.name)
        above = None if above.parent is None else known.get(above.parent)
    return "/".join(reversed(names))
