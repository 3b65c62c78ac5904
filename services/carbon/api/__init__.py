"""HTTP of carbon: energy and emissions by period, factors, inventories, and why a figure is what it is."""

from fastapi import APIRouter

from services.carbon.api.avoided import add_avoided_routes
from services.carbon.api.coal import add_coal_routes
from services.carbon.api.energy import add_energy_routes
from services.carbon.api.factors import add_factor_routes
from services.carbon.api.inventories import add_inventory_routes
from services.carbon.queries import Queries
from services.carbon.usecases.inventories import Inventories


def build_router(queries: Queries, inventories: Inventories) -> APIRouter:
    """Return the routes of carbon."""
    router = APIRouter(prefix="/api/v1")
    add_energy_routes(router, queries)
    add_factor_routes(router, inventories)
    add_inventory_routes(router, inventories)
    add_avoided_routes(router, inventories)
    add_coal_routes(router, inventories.coal)
    return router
