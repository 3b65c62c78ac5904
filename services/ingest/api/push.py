"""Pushes of platforms that cannot sign in: the gateway passes them on and says where they come from."""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request, Response

from libs.common.contracts.registry import Line
from libs.common.lean import LeanDoor, LeanRequest
from libs.common.tokens import Principal
from libs.common.web import require

SCOPE = "ingest:push"
LEAN_BODY_BYTES = 256 * 1024
"""Longer ones take the usual way, and are refused there. [B]"""
Pusher = Annotated[Principal, Depends(require(SCOPE))]
"""The gateway; its subject is the address of the sender."""


class Pushes(Protocol):
    """Takes the messages of one platform."""

    def line_of(self, line_id: str, token: str, sender: str) -> Line:
        """Return the line that a path belongs to; raises ``NotFound`` whatever is wrong with it."""

    def take(self, line: Line, body: bytes, headers: Mapping[str, str]) -> asyncio.Future[None] | None:
        """Take one message; it is safe, or on record as refused, once what is returned is done, or at once for None.

        The future, which may be that of another message, fails with ``SpoolFull``.
        """


AEP_PATH = re.compile(r"/push/aep/(?P<line_id>[^/]+)/(?P<token>[^/]+)")


def lean_door(*, aep: Pushes) -> LeanDoor:
    """Return the way that pushes of the device platform take: they come four to a command."""

    def take(request: LeanRequest) -> asyncio.Future[None] | None:
        line = aep.line_of(request.parts["line_id"], request.parts["token"], request.principal.subject)
        return aep.take(line, request.body, request.headers)

    return LeanDoor(AEP_PATH, SCOPE, LEAN_BODY_BYTES, take)


def build_router(*, aep: Pushes) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/push", tags=["push"])

    @router.post("/aep/{line_id}/{token}", response_class=Response)
    async def from_aep(request: Request, sender: Pusher, line_id: str, token: str) -> Response:
        """Take a message that the device platform (CTWing AEP) pushes; 200 once it is safe, 503 to be tried again."""
        line = aep.line_of(line_id, token, sender.subject)
        safe = aep.take(line, await request.body(), request.headers)
        if safe is not None:
            await asyncio.shield(safe)
        return Response(status_code=200)

    return router
