"""What the routes of carbon share."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import UtcTime
from libs.common.errors import Forbidden, InvalidInput
from libs.common.tokens import Principal
from libs.common.web import require
from libs.common.workbook import MEDIA_TYPE
from services.carbon.boundary import Boundaries
from services.carbon.tablefile import MAX_FILE_BYTES
from services.carbon.tree import Node, NodeKind

CSV = "text/csv"

Reader = Annotated[Principal, Depends(require("carbon:read"))]
Writer = Annotated[Principal, Depends(require("carbon:write"))]


def _whole(who: Principal) -> Principal:
    """Refuse somebody who may see some sites only: statements are of boundaries that may name any."""
    if who.sites is not None:
        raise Forbidden(
            f"{who.subject} is limited to sites, and statements are of whole boundaries",
            message_zh=f"{who.subject} 仅限部分局站,而报表涉及整个核算边界",
        )
    return who


def whole_reader(who: Reader) -> Principal:
    """Return who may read what holds for all sites."""
    return _whole(who)


def whole_writer(who: Writer) -> Principal:
    """Return who may change what holds for all sites."""
    return _whole(who)


WholeReader = Annotated[Principal, Depends(whole_reader)]
WholeWriter = Annotated[Principal, Depends(whole_writer)]
From = Annotated[UtcTime, Query(alias="from", description="start, RFC 3339 with offset")]
To = Annotated[UtcTime, Query(alias="to", description="end, not included")]


AskedSite = Annotated[str | None, Query(description="id of a site: the sum of its feeds", max_length=64)]
AskedCircuit = Annotated[str | None, Query(description="id of a circuit", max_length=64)]
AskedRoom = Annotated[str | None, Query(description="id of a room: the sum of its feeds", max_length=64)]
AskedRegion = Annotated[str | None, Query(description="id of a province, city or district", max_length=64)]
AskedOrganisation = Annotated[
    str | None, Query(description="id of an organisation, with those beneath it", max_length=64)
]
AskedVirtual = Annotated[str | None, Query(description="id of a virtual meter", max_length=64)]


def asked_node(
    site: AskedSite = None,
    circuit: AskedCircuit = None,
    room: AskedRoom = None,
    region: AskedRegion = None,
    organisation: AskedOrganisation = None,
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


def asked_place(boundaries: Boundaries) -> Callable[..., Awaitable[Node]]:
    """Return what reads the one node that a request names, which may be a virtual meter too."""

    async def place(
        site: AskedSite = None,
        circuit: AskedCircuit = None,
        room: AskedRoom = None,
        region: AskedRegion = None,
        organisation: AskedOrganisation = None,
        virtual: AskedVirtual = None,
    ) -> Node:
        if virtual is None:
            return asked_node(site, circuit, room, region, organisation)
        if any(one is not None for one in (site, circuit, room, region, organisation)):
            raise InvalidInput(
                "virtual: expected without site, circuit, room, region and organisation",
                message_zh="virtual 不能与 site、circuit、room、region、organisation 同时使用",
            )
        return await boundaries.virtual(virtual)

    return place


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


def request_id(request: Request) -> str | None:
    """Return the id that the caller or the gateway gave the request."""
    return request.headers.get("x-request-id")


def file_body(what: str) -> dict[str, Any]:
    """Return the description of a body that is a table as a file."""
    return {
        "requestBody": {
            "required": True,
            "description": f"{what} as an Excel workbook or CSV (UTF-8 or GB 18030), at most {MAX_FILE_BYTES} bytes",
            "content": {
                MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
                CSV: {"schema": {"type": "string"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


async def file_of(request: Request) -> bytes:
    """Return the body, none of which is kept once it is too long.

    Raises:
        InvalidInput: It is larger than a table may be.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FILE_BYTES:
            raise InvalidInput(
                f"the file is larger than {MAX_FILE_BYTES} bytes", message_zh=f"文件超过 {MAX_FILE_BYTES} 字节"
            )
    return bytes(body)


FileName = Annotated[str, Query(alias="file", max_length=200, pattern=r"^[^/\\\x00-\x1f]+$", description="its name")]
"""Of an imported file, as messages call it."""
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
"""A short text of one line."""
Exact = Annotated[Decimal, Field(max_digits=30, decimal_places=12, allow_inf_nan=False)]
"""An exact number, written as JSON number or text."""


class Body(BaseModel):
    """What is sent; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid")
