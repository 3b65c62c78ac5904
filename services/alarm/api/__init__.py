"""HTTP of alarm: the signal table, rules with overrides and what holds for a device, alarms, maintenance windows."""

from fastapi import APIRouter

from services.alarm.api.alarms import add_alarm_routes
from services.alarm.api.maintenance import add_maintenance_routes
from services.alarm.api.rulemaking import add_rulemaking_routes
from services.alarm.api.rules import add_rule_routes, add_signal_routes
from services.alarm.api.tables import add_table_routes
from services.alarm.api.thresholds import add_threshold_routes
from services.alarm.usecases.alarms import Alarms
from services.alarm.usecases.maintenance import Maintenance
from services.alarm.usecases.rulemaking import RuleMaking
from services.alarm.usecases.rules import Rules
from services.alarm.usecases.tables import Tables
from services.alarm.usecases.thresholds import Thresholds


def build_router(
    *,
    rules: Rules,
    making: RuleMaking,
    thresholds: Thresholds,
    tables: Tables,
    alarms: Alarms,
    maintenance: Maintenance,
) -> APIRouter:
    """Return the routes of alarm."""
    router = APIRouter(prefix="/api/v1")
    add_table_routes(router, tables)
    add_signal_routes(router, rules)
    add_threshold_routes(router, thresholds)
    add_rule_routes(router, rules)
    add_rulemaking_routes(router, making, rules)
    add_alarm_routes(router, alarms)
    add_maintenance_routes(router, maintenance)
    return router
