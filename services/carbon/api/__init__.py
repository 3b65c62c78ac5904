"""HTTP of carbon: energy and emissions by period, the factor library, and why a figure is what it is."""

from fastapi import APIRouter

from services.carbon.api.energy import add_energy_routes
from services.carbon.api.factors import add_factor_routes
from services.carbon.queries import Queries


def build_router(queries: Queries) -> APIRouter:
    """Return the routes of carbon."""
    router = APIRouter(prefix="/api/v1")
    add_energy_routes(router, queries)
    add_factor_routes(router, queries)
    return router
