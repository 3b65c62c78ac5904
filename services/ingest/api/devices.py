"""What is done with the registry besides changing single entities: exchanging a device, coverage, the workbook."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from libs.common.contracts.base import Number, UtcTime
from libs.common.errors import Forbidden
from libs.common.workbook import MEDIA_TYPE
from services.ingest.api.common import Reader, Writer, actor_of, allowed_sites
from services.ingest.files.registry_book import write_registry_book
from services.ingest.usecases.coverage import CoverageBy, Coverages
from services.ingest.usecases.registry import Registry
from services.ingest.usecases.replacement import RegisterPair, Replacement, Replacements
from services.ingest.usecases.topology import Topology


class RegistersIn(BaseModel):
    """The registers of one channel at the exchange. [kWh]"""

    model_config = ConfigDict(extra="forbid")

    channel: int = Field(default=1, ge=1)
    final: Number | None
    """What the old device shows last; null when it cannot be read any more."""
    initial: Number | None
    """What the new device shows first."""


class ReplacementIn(BaseModel):
    """A device is exchanged."""

    model_config = ConfigDict(extra="forbid")

    new: dict[str, JsonValue] = Field(
        description="fields of the new device that differ from the old one's, id at least"
    )
    at: UtcTime
    registers: list[RegistersIn] = Field(default_factory=list, max_length=100)
    reason: str | None = Field(default=None, max_length=500)


class ReplacedOut(BaseModel):
    """What was changed, or would be."""

    old: str
    new: str
    at: datetime
    ended_bindings: list[str]
    new_bindings: list[str]
    loads: list[str]
    children: list[str]
    dry_run: bool


class CoverageOut(BaseModel):
    """One group of sites."""

    group: str | None
    name: str | None
    sites: int
    metered: int
    live: int
    ratio: float | None


class CoveragesOut(BaseModel):
    """The groups."""

    by: CoverageBy
    items: list[CoverageOut]


def build_router(
    *, registry: Registry, replacements: Replacements, coverages: Coverages, topology: Topology
) -> APIRouter:
    """Return the router; to be included before the registry's own, whose paths would match."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/devices/{device_id}/replacement", tags=["registry"])
    async def replace(
        device_id: str, body: ReplacementIn, request: Request, principal: Writer, dry_run: bool = False
    ) -> ReplacedOut:
        """Exchange a device: bindings end and begin with their registers, loads and circuits go over, all or nothing.

        The new device takes the old one's site, room, profile, line, address and SIM card unless ``new`` says
        otherwise.
        """
        asked = Replacement(
            old=device_id,
            new=body.new,
            at=body.at,
            registers={one.channel: RegisterPair(one.final, one.initial) for one in body.registers},
            reason=body.reason,
        )
        done = await replacements.replace(asked, actor_of(principal, request, topology), dry_run=dry_run)
        return ReplacedOut(**{name: getattr(done, name) for name in ReplacedOut.model_fields})

    @router.get("/sites/coverage", tags=["registry"])
    async def coverage(
        request: Request, principal: Reader, by: Annotated[CoverageBy, Query()] = CoverageBy.ALL
    ) -> CoveragesOut:
        """Count sites with a live meter among all sites, by class, kind or region."""
        allowed = allowed_sites(principal, topology, request)
        found = await coverages.count(by, allowed)
        items = [CoverageOut(**{name: getattr(one, name) for name in CoverageOut.model_fields}) for one in found]
        return CoveragesOut(by=by, items=items)

    @router.get("/imports/registry.xlsx", tags=["imports"], response_class=Response,
                responses={200: {"content": {MEDIA_TYPE: {}}, "description": "the workbook"}})  # fmt: skip
    async def workbook(
        principal: Reader,
        content: Annotated[Literal["all", "empty"], Query(description="empty: headings only")] = "all",
    ) -> Response:
        """Return the registry as it is now as a workbook that can be changed and imported again."""
        if principal.sites is not None:
            raise Forbidden("the workbook is for those who see all sites", message_zh="仅不限局站的账号可以导出")
        entities = {} if content == "empty" else await registry.all_active()
        body = await asyncio.to_thread(write_registry_book, entities)
        return Response(
            body, media_type=MEDIA_TYPE, headers={"content-disposition": 'attachment; filename="registry.xlsx"'}
        )

    return router
