"""Who may see and change what of savings: the right of the service, and the part of the site tree."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from libs.common.contracts.base import UtcTime
from libs.common.errors import Forbidden
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from libs.common.web import Page, key_cursor


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


class VersionView(View):
    """Heading of one version of something that people write."""

    version: int
    changed_by: str
    changed_at: UtcTime


R = TypeVar("R")
V = TypeVar("V", bound=VersionView)


def visible_page(
    found: Sequence[R], *, limit: int, seen: Callable[[R], bool], key: Callable[[R], str], view: type[V]
) -> Page[V]:
    """Return those of the rows found that the caller may see, and where the next page begins.

    Args:
        found: Rows in the order of their keys, at most ``limit``; so many of them, and there may be more.
        limit: How many were asked for; a page may have fewer, as the caller may not see all.
        seen: Whether the caller may see a row.
        key: By what rows are ordered.
        view: How one is shown.
    """
    return Page(
        items=[view.model_validate(one) for one in found if seen(one)],
        next_cursor=key_cursor(key(found[-1])) if len(found) == limit else None,
    )


def sees_all(who: Principal, sites: Iterable[SiteId | None], places: Places) -> bool:
    """Return whether all of these lie in the caller's part of the site tree; see ``sees``."""
    return all(sees(who, site, places) for site in sites)


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
