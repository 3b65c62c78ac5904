"""HTTP of alarm: the signal table, rules with overrides and what holds for a device, alarms and their history."""

from fastapi import APIRouter

from services.alarm.api.alarms import add_alarm_routes
from services.alarm.api.rules import add_rule_routes, add_signal_routes
from services.alarm.usecases.alarms import Alarms
from services.alarm.usecases.rules import Rules


def build_router(rules: Rules, alarms: Alarms) -> APIRouter:
    """Return the routes of alarm."""
    router = APIRouter(prefix="/api/v1")
    add_signal_routes(router, rules)
    add_rule_routes(router, rules)
    add_alarm_routes(router, alarms)
    return router
