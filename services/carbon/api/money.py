"""HTTP of money, as one router."""

from fastapi import APIRouter

from services.carbon.api.bills import add_bill_routes
from services.carbon.api.costs import add_cost_routes
from services.carbon.api.targets import add_target_routes
from services.carbon.api.tariffs import add_tariff_routes
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs
from services.carbon.usecases.targets import Targets
from services.carbon.usecases.tariffs import Tariffs


def build_money_router(tariffs: Tariffs, bills: Bills, costs: Costs, targets: Targets) -> APIRouter:
    """Return the routes of tariffs, prices, accounts, bills, costs and targets."""
    router = APIRouter(prefix="/api/v1")
    add_tariff_routes(router, tariffs)
    add_bill_routes(router, bills, costs)
    add_cost_routes(router, costs)
    add_target_routes(router, targets)
    return router
