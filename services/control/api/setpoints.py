"""HTTP of the rules for set points and the policies that change them."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from libs.common.contracts.base import UtcTime
from libs.common.errors import NotFound
from libs.common.web import Limit
from services.control.api.common import Model, Read, Switch, View, actor_of, door_of, require_all_sites
from services.control.directory import RegistryDevices
from services.control.domain.setpoints import Place, SetpointRule, SetpointScope
from services.control.store.setpoints import SetpointPolicyRow
from services.control.usecases.setpoints import SetpointPolicies


class SetpointRuleView(View):
    """A rule."""

    rule: str
    point: str
    min: float | None
    """Least value, in the point's unit."""
    max: float | None
    season: tuple[str, str]
    """First and last day of the year, both included, month and day."""
    zone: str
    site_kinds: list[str]
    """Kinds of sites that it holds for; empty: all."""
    effect: str
    """``refuse``, or ``approve``: a second person has to agree."""
    source: str
    source_zh: str
    said_by: str
    """Which policy says it; ``shipped`` with the version of the data."""


class SetpointPolicyIn(Model):
    """Rules of one place, in place of those of the more general ones."""

    rules: dict[str, dict[str, Any] | None]
    """By name: ``point``, ``min``, ``max``, ``from``, ``to`` (``MM-DD``), ``zone``, ``site_kinds``, ``effect``
    (``refuse`` or ``approve``), ``source``, ``source_zh``; null takes the rule of that name away there."""
    source: str = Field(min_length=1, max_length=500)
    """Who or what says so."""


class SetpointPolicyView(View):
    """One version of a policy."""

    revision: int
    scope: SetpointScope
    target: str
    rules: Mapping[str, Any] | None
    """Null: the policy was taken away."""
    source: str
    changed_by: str
    changed_at: UtcTime


class DropIn(Model):
    """Why a policy is taken away."""

    reason: str = Field(min_length=1, max_length=500)


def build_setpoint_router(policies: SetpointPolicies, devices: RegistryDevices) -> APIRouter:
    """Return the routes; they come before those of the guards' policies."""
    router = APIRouter(prefix="/api/v1/guards/setpoints", tags=["guards"])

    @router.get("", summary="Rules for set points: those that ship, or those that hold for a device")
    async def list_rules(_: Read, device: str | None = None) -> list[SetpointRuleView]:
        book = await policies.book()
        if device is None:
            return [_rule_view(rule) for rule in book.everywhere()]
        known = devices.get(device)
        if known is None:
            raise NotFound(f"there is no device {device}", message_zh=f"设备 {device} 不存在")
        place = Place(known.device_id, known.site_id, known.site_kind, known.region_ids)
        return [_rule_view(rule) for rule in book.of(place)]

    @router.get("/policies", summary="List the policies that hold")
    async def list_policies(_: Read) -> list[SetpointPolicyView]:
        return [_policy_view(row) for row in await policies.policies()]

    @router.get("/policies/{scope}/{target}", summary="List the versions of a policy, the youngest first")
    async def list_versions(_: Read, scope: SetpointScope, target: str, limit: Limit = 100) -> list[SetpointPolicyView]:
        return [_policy_view(row) for row in await policies.versions(scope, target, limit)]

    @router.put("/policies/{scope}/{target}", summary="Set a policy; the default one has the target -")
    async def put_policy(scope: SetpointScope, target: str, body: SetpointPolicyIn, who: Switch) -> SetpointPolicyView:
        require_all_sites(who)
        return _policy_view(await policies.put(scope, target, body.rules, body.source, actor_of(who), door_of(who)))

    @router.post("/policies/{scope}/{target}/remove", summary="Take a policy away")
    async def remove_policy(scope: SetpointScope, target: str, body: DropIn, who: Switch) -> SetpointPolicyView:
        require_all_sites(who)
        return _policy_view(await policies.drop(scope, target, body.reason, actor_of(who), door_of(who)))

    return router


def _rule_view(rule: SetpointRule) -> SetpointRuleView:
    return SetpointRuleView(
        rule=rule.name, point=rule.point, min=rule.low, max=rule.high,
        season=(f"{rule.first_day[0]:02d}-{rule.first_day[1]:02d}", f"{rule.last_day[0]:02d}-{rule.last_day[1]:02d}"),
        zone=rule.zone, site_kinds=sorted(rule.site_kinds), effect=rule.effect.value, source=rule.source,
        source_zh=rule.source_zh, said_by=rule.said_by,
    )  # fmt: skip


def _policy_view(row: SetpointPolicyRow) -> SetpointPolicyView:
    return SetpointPolicyView(
        revision=row.revision, scope=SetpointScope(row.scope), target=row.target,
        rules=None if row.rules is None else dict(row.rules), source=row.source, changed_by=row.changed_by,
        changed_at=row.changed_at,
    )  # fmt: skip
