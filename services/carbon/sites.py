"""What money asks of the registry: sites, the circuits that feed them, their accounts, and who may see them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.clock import Clock
from libs.common.contracts.carbon import Medium
from libs.common.errors import Forbidden, NotFound
from libs.common.ids import CircuitId, SiteId
from libs.common.registry import RegistryView
from libs.common.tokens import Principal
from services.carbon.tree import EVER, Node, NodeKind, Tree

ARCHIVED_ACCOUNTS: Final = {
    Medium.WATER: "t3_account_number",
    Medium.HEAT: "t4_account_number",
    Medium.COLD: "t4_account_number",
}
"""Where a site's archive has the account of a medium: tables 3 and 4 of the data-access standard."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Questions to the tree as it is now, and to the registry."""

    tree: Tree
    view: RegistryView
    clock: Clock

    def feeds_of(self, site: SiteId, start: datetime, end: datetime) -> list[CircuitId]:
        """Return the circuits whose sum the energy of a site is within ``[start, end)``, by id.

        Raises:
            NotFound: There never was such a site.
        """
        return sorted({term.circuit for term in self.tree.terms(Node(NodeKind.SITE, site), start, end)})

    def site_of_account(self, account_number: str) -> SiteId | None:
        """Return the site whose registry entry names the electricity account."""
        found = sorted(site.id for site in self.view.sites() if site.account_number == account_number)
        return SiteId(found[0]) if found else None

    def medium_accounts(self, medium: Medium) -> dict[str, SiteId]:
        """Return the site whose archive names an account of a medium, by the account's number."""
        key = ARCHIVED_ACCOUNTS.get(medium)
        found: dict[str, SiteId] = {}
        for site in sorted(self.view.sites(), key=lambda one: one.id):
            number = None if key is None or site.archive is None else site.archive.get(key)
            if number:
                found.setdefault(number, SiteId(site.id))
        return found

    def contains(self, whole: Node, part: Node) -> bool:
        """Return whether a node lies in another one, or is it.

        Raises:
            NotFound: There never was one of them.
        """
        if whole == part:
            return True
        now = self.clock.now()
        inside = {site for site, *_ in self.tree.sites(part, now, EVER[1])}
        around = {site for site, *_ in self.tree.sites(whole, now, EVER[1])}
        if not inside or not inside <= around:
            return False
        if whole.kind in (NodeKind.SITE, NodeKind.REGION, NodeKind.ORGANISATION):
            return True
        return {one.circuit for one in self.tree.branches(part, now, EVER[1])} <= {
            one.circuit for one in self.tree.branches(whole, now, EVER[1])
        }

    def sites_of(self, node: Node) -> list[SiteId]:
        """Return the sites that a node lies in or consists of now, by id.

        Raises:
            NotFound: There never was such a node.
        """
        return [site for site, *_ in self.tree.sites(node, self.clock.now(), EVER[1])]

    def may_see(self, who: Principal, node: Node) -> bool:
        """Return whether all of a node lies in somebody's part of the site tree.

        Raises:
            NotFound: There never was such a node.
        """
        now = self.clock.now()
        sites = self.tree.sites(node, now, EVER[1])
        if who.sites is None:
            return True
        limits = frozenset(who.sites)
        return bool(sites) and not any(self.tree.places_of(site, now).isdisjoint(limits) for site, *_ in sites)

    def may_see_site(self, who: Principal, site: str | None) -> bool:
        """Return whether a site is among somebody's; one that the registry does not know is only for who sees all."""
        if who.sites is None:
            return True
        try:
            return site is not None and self.may_see(who, Node(NodeKind.SITE, site))
        except NotFound:
            return False

    def may_see_throughout(self, who: Principal, node: Node, start: datetime, end: datetime) -> bool:
        """Return whether all of a node within ``[start, end)`` lies in somebody's part of the site tree.

        A region may have had sites that it has no longer; one that nothing is known of is nobody's.
        """
        if who.sites is None:
            return True
        limits = frozenset(who.sites)
        try:
            sites = self.tree.sites(node, start, end)
        except NotFound:
            return False
        return bool(sites) and not any(self.tree.places_of(site, at).isdisjoint(limits) for site, at, _ in sites)

    def check(self, who: Principal, node: Node) -> None:
        """Refuse whoever is limited to other sites.

        Raises:
            NotFound: There never was such a node.
            Forbidden: Some of it lies outside.
        """
        if not self.may_see(who, node):
            raise Forbidden(
                f"{who.subject} may not see all of {node.kind} {node.id}",
                message_zh=f"{who.subject} 无权访问 {node.id}",
            )
