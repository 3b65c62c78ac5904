"""Who may see and change what of savings: the right of the service, and the part of the site tree."""

from collections.abc import Iterable
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from libs.common.errors import Forbidden
from libs.common.ids import SiteId
from libs.common.tokens import Principal


class Places(Protocol):
    """Where a site lies (``loads.py``)."""

    def places_of(self, site: SiteId) -> list[str]:
        """Return a site and the regions that it lies in."""


class Body(BaseModel):
    """Base of requests: an unknown field is a mistake of the caller."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class View(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, from_attributes=True)


def sees(who: Principal, site: SiteId | None, places: Places) -> bool:
    """Return whether a site lies in the caller's part of the site tree; what is nowhere only who sees all may see."""
    if who.sites is None:
        return True
    if site is None:
        return False
    site_id, *regions = places.places_of(site)
    return not {site_id, *(f"region:{region}" for region in regions)}.isdisjoint(who.sites)


def require_sites(who: Principal, sites: Iterable[SiteId | None], places: Places) -> None:
    """Check that all sites lie in the caller's part of the site tree.

    Raises:
        Forbidden: One does not.
    """
    for site in sites:
        if not sees(who, site, places):
            raise Forbidden(
                f"{who.subject} is limited to some sites, which {site or 'what was asked for'} is not among",
                message_zh=f"{who.subject} 仅限部分局站,不包括 {site or '所请求的对象'}",
            )
