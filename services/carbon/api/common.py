"""What the routes of carbon share."""

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query

from libs.common.contracts.base import UtcTime
from libs.common.errors import Forbidden, InvalidInput
from libs.common.tokens import Principal
from libs.common.web import require
from services.carbon.boundary import Boundaries
from services.carbon.tree import Node, NodeKind

Reader = Annotated[Principal, Depends(require("carbon:read"))]
Writer = Annotated[Principal, Depends(require("carbon:write"))]
From = Annotated[UtcTime, Query(alias="from", description="start, RFC 3339 with offset")]
To = Annotated[UtcTime, Query(alias="to", description="end, not included")]


def asked_node(
    site: Annotated[str | None, Query(description="id of a site: the sum of its feeds", max_length=64)] = None,
    circuit: Annotated[str | None, Query(description="id of a circuit", max_length=64)] = None,
    room: Annotated[str | None, Query(description="id of a room: the sum of its feeds", max_length=64)] = None,
    region: Annotated[str | None, Query(description="id of a province, city or district", max_length=64)] = None,
    organisation: Annotated[
        str | None, Query(description="id of an organisation, with those beneath it", max_length=64)
    ] = None,
) -> Node:
    """Return the one node that a request names.

    Raises:
        InvalidInput: It names none, or several.
    """
    named = [
        Node(kind, found)
        for kind, found in (
            (NodeKind.SITE, site),
            (NodeKind.CIRCUIT, circuit),
            (NodeKind.ROOM, room),
            (NodeKind.REGION, region),
            (NodeKind.ORGANISATION, organisation),
        )
        if found is not None
    ]
    if len(named) != 1:
        raise InvalidInput(
            f"name one of site, circuit, room, region and organisation, found {len(named)}",
            message_zh=f"请在 site、circuit、room、region、organisation 中指定一个,实际 {len(named)} 个",
        )
    return named[0]


AskedNode = Annotated[Node, Depends(asked_node)]


def require_visible(who: Principal, boundaries: Boundaries, node: Node, start: datetime, end: datetime) -> None:
    """Check that all of a node lies in the caller's part of the site tree.

    Raises:
        Forbidden: Some of it does not.
        NotFound: There never was such a node.
    """
    if who.sites is None:
        return
    limits = frozenset(who.sites)
    for site, first, _ in boundaries.tree.sites(node, start, end):
        if boundaries.tree.places_of(site, first).isdisjoint(limits):
            raise Forbidden(
                f"{who.subject} may not see site {site}, which {node.kind} {node.id} belongs to",
                message_zh=f"{who.subject} 无权查看局站 {site}",
            )
