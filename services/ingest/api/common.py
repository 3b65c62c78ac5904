"""What the routers share: who asks, how far they see, pages and cursors."""

from typing import Annotated

from fastapi import Depends, Request

from libs.common.contracts.registry import EntityKind, Site
from libs.common.tokens import Principal
from libs.common.web import require
from services.ingest.usecases.registry import Actor
from services.ingest.usecases.topology import Topology

Reader = Annotated[Principal, Depends(require("ingest:read"))]
Writer = Annotated[Principal, Depends(require("ingest:write"))]

REGION = "region:"


def actor_of(principal: Principal, request: Request, topology: Topology, *, door: str = "api") -> Actor:
    """Return who changes something, for checks and for the audit."""
    sites = allowed_sites(principal, topology, request)
    return Actor(
        name=f"{principal.kind}:{principal.subject}",
        door=door,
        sites=sites,
        address=None if request.client is None else request.client.host,
        request_id=request.headers.get("x-request-id"),
    )


def allowed_sites(principal: Principal, topology: Topology, request: Request) -> frozenset[str] | None:
    """Return the sites that somebody may see, None for all; a region stands for the sites in it."""
    if principal.sites is None:
        return None
    now = request.app.state.platform.clock.now()
    sites = {name for name in principal.sites if not name.startswith(REGION)}
    regions = {name.removeprefix(REGION) for name in principal.sites if name.startswith(REGION)}
    if regions:
        for site in topology.index.all_of(Site, now):
            if site.region is not None and regions & set(topology.index.regions_above(site.region, now)):
                sites.add(site.id)
    return frozenset(sites)


def sees_device(device_id: str, allowed: frozenset[str] | None, topology: Topology) -> bool:
    """Return whether somebody limited to sites may see a device's data, by where it is or last was."""
    if allowed is None:
        return True
    record = topology.index.record(EntityKind.DEVICE, device_id)
    return record is not None and getattr(record.latest, "site", None) in allowed
