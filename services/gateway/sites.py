"""Which sites a principal may see: all, named ones, or those of named regions."""

from libs.common.ids import RegionId, SiteId
from libs.common.registry import RegistryView
from libs.common.tokens import Principal
from services.gateway.live import Allowed

REGION = "region:"


class SiteScope:
    """Answers for live push; the services answer for their own paths by the sites in the token."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view

    def allowed(self, who: Principal) -> Allowed:
        """Return the question whether ``who`` may see what concerns a site."""
        limits = who.sites
        if limits is None:
            return lambda _: True
        sites = frozenset(limit for limit in limits if not limit.startswith(REGION))
        regions = frozenset(limit.removeprefix(REGION) for limit in limits if limit.startswith(REGION))

        def may_see(site_id: str | None) -> bool:
            if site_id is None:
                return False
            if site_id in sites:
                return True
            site = self._view.site(SiteId(site_id)) if regions else None
            if site is None or site.region is None:
                return False
            return not regions.isdisjoint(self._view.regions_above(RegionId(site.region)))

        return may_see
