"""HTTP of the device platform for other services: what alarm asks when a device is silent."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from libs.common.tokens import Principal
from libs.common.web import require
from services.export.platforms.aep import PlatformPort

PlatformReader = Annotated[Principal, Depends(require("export:platforms"))]
Id = Annotated[str, Query(min_length=1, max_length=100)]


class PlatformReply(BaseModel):
    """What the platform says of a device; a fact that is absent is not known."""

    facts: Mapping[str, bool | float | str]
    at: datetime
    missing: Sequence[str] = Field(description="interfaces that did not answer, though others did")


def build_platforms_router(platforms: PlatformPort) -> APIRouter:
    """Return the route."""
    router = APIRouter(prefix="/platforms/v1", tags=["platforms"])

    @router.get("/devices", summary="How a device is at its platform")
    async def device(product: Id, device: Id, _: PlatformReader) -> PlatformReply:
        found = await platforms.device(product, device)
        return PlatformReply(facts=found.facts, at=found.at, missing=found.missing)

    return router
