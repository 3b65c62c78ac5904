"""The registry as records ask it: an index of names, made once for a delivery."""

from collections.abc import Iterable, Mapping

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, LineKind, Organisation, Site
from libs.common.ids import CircuitId, DeviceId, LineId, SiteId
from libs.common.registry import RegistryView
from services.export.domain.records import TAG

ARCHIVED = frozenset({3, 4})
"""Tables whose account numbers stand in a site's archive; that of table 2 has a field."""


class RegistryPlaces:
    """See ``Places``; what it says is what the registry says now, and names are looked up in an index."""

    def __init__(self, view: RegistryView, clock: Clock) -> None:
        """Keep the projection; the index is made at the first question."""
        self._view = view
        self._clock = clock
        self._sites: Mapping[str, str | None] | None = None
        self._organisations: Mapping[str, str | None] | None = None
        self._tagged: Mapping[str, str | None] | None = None
        self._accounts: dict[int, frozenset[str]] = {}

    def organisation(self, subject: str) -> str | None:
        """See ``Places``."""
        if self._organisations is None:
            now = self._clock.now()
            self._organisations = _index(
                (name, one.id) for one in self._view.index.all_of(Organisation, now)
                for name in (one.id, one.name, one.name_zh)
            )  # fmt: skip
        return self._organisations.get(subject)

    def site(self, subject: str) -> str | None:
        """See ``Places``."""
        if self._view.site(SiteId(subject)) is not None:
            return subject
        if self._sites is None:
            self._sites = _index(
                (name, one.id) for one in self._view.sites() for name in (one.code, one.account_number)
            )
        return self._sites.get(subject)

    def circuit(self, subject: str) -> str | None:
        """See ``Places``."""
        return None if self._view.circuit(CircuitId(subject)) is None else subject

    def account(self, table: int, subject: str) -> str | None:
        """See ``Places``."""
        if table in ARCHIVED and subject in self._archived_accounts(table):
            return subject  # also where the grid company has given the number to another site
        site_id = self.site(subject)
        site = None if site_id is None else self._view.site(SiteId(site_id))
        if site is None:
            return subject
        return _archived(site, table) if table in ARCHIVED else site.account_number

    def _archived_accounts(self, table: int) -> frozenset[str]:
        if table not in self._accounts:
            numbers = (_archived(site, table) for site in self._view.sites())
            self._accounts[table] = frozenset(number for number in numbers if number is not None)
        return self._accounts[table]

    def pushed_device(self, subject: str, tag: str) -> str | None:
        """See ``Places``."""
        named = self._view.device(DeviceId(subject))
        if named is None:
            if self._tagged is None:
                self._tagged = _index(
                    (each, one.id) for one in self._view.devices() for each in one.tags if each.startswith(f"{TAG}:")
                )
            found = self._tagged.get(tag)
            named = None if found is None else self._view.device(DeviceId(found))
        return named.id if named is not None and self._is_pushed(named) else None

    def _is_pushed(self, device: Device) -> bool:
        line = None if device.line is None else self._view.line(LineId(device.line))
        return line is not None and line.kind is LineKind.PUSH


def _archived(site: Site, table: int) -> str | None:
    return (site.archive or {}).get(f"t{table}_account_number")


def _index(pairs: Iterable[tuple[str | None, str]]) -> dict[str, str | None]:
    """Return what has which name; None where several have it."""
    found: dict[str, str | None] = {}
    for name, one in pairs:
        if name:
            found[name] = one if found.get(name, one) == one else None
    return found
