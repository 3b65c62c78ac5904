"""HTTP of the signal table, rules with overrides, and what holds for a device."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Flag, Number
from libs.common.web import (
    Cursor,
    Limit,
    Page,
    key_cursor,
    read_key_cursor,
)
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.domain.model import SECOND_US, EffectiveRule, Measure, Need, NoData, Rule, Signal
from services.alarm.domain.rulebook import Scope, Target, class_code
from services.alarm.domain.signal_table import signal_for
from services.alarm.usecases.rules import OverrideRequest, Rules
from services.alarm.views import StoredOverride

ScopeId = Annotated[str, Path(min_length=1, max_length=100)]


class SignalReply(BaseModel):
    """One row of the standard signal table (标准信号表)."""

    code: str = Field(description="one code for all classes; the s of a ten-digit code stands for the class's digit")
    class_codes: Mapping[str, str] = Field(description="station class of the table to its code")
    dictionary: str
    equipment_type: str
    equipment_zh: str
    kind: Literal["DI", "AI", "DO", "AO"]
    name: str
    name_zh: str
    unit: str | None
    levels: Mapping[str, int] = Field(description="station class to level; a class without one has no such alarm")
    thresholds: Mapping[str, float]
    start_delay_s: float | None = Field(description="null: by level, 60, 120, 180 or 240 s")
    end_delay_s: float
    period_s: float | None = Field(description="storage period")
    absolute_change: float | None
    alarm_text_zh: str | None
    normal_text_zh: str | None
    required: bool
    points: Sequence[str] = Field(description="points of the platform that the signal speaks of")
    note: str | None
    retired: bool = Field(description="the table has it no more; rules over it sleep")


class ClassDefaults(BaseModel):
    """What table and rule give for one class of stations."""

    enabled: bool
    level: int | None
    threshold: float | None
    hysteresis: float
    start_delay_s: float | None
    end_delay_s: float
    max_gap_s: float
    no_data: NoData


class OverrideReply(BaseModel):
    """An override; what is null is inherited."""

    rule_id: str
    scope: Scope
    scope_id: str
    version: int
    enabled: bool | None
    level: int | None
    threshold: float | None
    hysteresis: float | None
    start_delay_s: float | None
    end_delay_s: float | None
    max_gap_s: float | None
    no_data: NoData | None
    changed_by: str
    changed_at: datetime
    reason: str | None


class RuleReply(BaseModel):
    """A rule of the table."""

    rule_id: str
    signal: str
    name: str
    name_zh: str
    measure: Measure = Field(description="what of the points is compared with the threshold")
    expression: str | None = Field(description="the formula, where the measure is expression")
    comparison: str
    quantifier: str = Field(description="how many of the points must violate: any, all, or some but not all")
    points: Sequence[str]
    unit: str
    device_kinds: Sequence[str] = Field(description="empty: every kind that has the points")
    band: str | None
    group: str | None
    needs: Sequence[Need] = Field(description="where one of these is lacking, that explains the alarm")
    takes: Need | None = Field(description="what its alarm says that the device lacks, and all behind it")
    version: int
    defaults: Mapping[str, ClassDefaults]


class RuleDetailReply(RuleReply):
    """A rule with its overrides."""

    overrides: Sequence[OverrideReply]


class EffectiveReply(BaseModel):
    """What holds for a device, and where each parameter comes from."""

    rule_id: str
    signal: str
    class_code: str = Field(description="code of the signal for the station class of the device's site")
    name: str
    name_zh: str
    measure: Measure
    expression: str | None
    comparison: str
    quantifier: str
    points: Sequence[str] = Field(description="of the rule's points those that the device has")
    unit: str
    active: bool = Field(description="false: asleep, because it is switched off or has no level or threshold")
    enabled: bool
    level: int | None
    threshold: float | None
    hysteresis: float
    recovery_threshold: float | None
    start_delay_s: float
    end_delay_s: float
    max_gap_s: float
    no_data: NoData = Field(description="what it means when usable values stay away for longer than max_gap_s")
    version: int
    sources: Mapping[str, str] = Field(description="parameter to dictionary, policy or <scope>:<id>")


class EffectiveRulesReply(BaseModel):
    """All rules of a device."""

    device_id: str
    site_id: str
    device_kind: str
    station_class: str
    dictionary_class: str
    profile: str
    rules: Sequence[EffectiveReply]


class OverrideBody(BaseModel):
    """What to change for a scope; a parameter that is left out is inherited from the more general scopes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    enabled: Flag | None = None
    level: int | None = Field(strict=True, default=None, description="1 (worst) to 4")
    threshold: Number | None = None
    hysteresis: Number | None = None
    start_delay_s: Number | None = None
    end_delay_s: Number | None = None
    max_gap_s: Number | None = None
    no_data: NoData | None = Field(default=None, description="hold, alarm or clear")
    unit: str | None = Field(default=None, description="unit of the numbers; refused when it is not the rule's")
    reason: str | None = Field(default=None, max_length=1000)


def add_signal_routes(router: APIRouter, rules: Rules) -> None:
    """Add the routes of the signal table."""

    @router.get("/signals", tags=["signals"], summary="The standard signal table")
    async def list_signals(
        _: Reader,
        equipment_type: str | None = None,
        dictionary: str | None = None,
        retired: Annotated[
            bool, Query(description="those that the table has no more, which alarms still name")
        ] = False,
        limit: Limit = 200,
        cursor: Cursor = None,
    ) -> Page[SignalReply]:
        after = read_key_cursor(cursor)
        found = [
            signal
            for signal in await rules.signals()
            if (after is None or signal.code > after)
            and (equipment_type is None or signal.equipment_type == equipment_type)
            and (dictionary is None or signal.dictionary == dictionary)
            and signal.retired == retired
        ]
        page = [_signal(signal) for signal in found[:limit]]
        return Page(items=page, next_cursor=key_cursor(page[-1].code) if len(found) > limit else None)

    @router.get("/signals/{code}", tags=["signals"], summary="One signal")
    async def get_signal(code: str, _: Reader) -> SignalReply:
        return _signal(await rules.signal(code))


def add_rule_routes(router: APIRouter, rules: Rules) -> None:
    """Add the routes of rules and overrides."""

    @router.get("/alarm-rules", tags=["alarm-rules"], summary="All rules as the table ships them")
    async def list_rules(_: Reader, limit: Limit = 200, cursor: Cursor = None) -> Page[RuleReply]:
        after = read_key_cursor(cursor)
        book, signals = await rules.book()
        found = [rule for rule_id, rule in sorted(book.rules.items()) if after is None or rule_id > after]
        page = [RuleReply(**_rule(rule, signals[rule.signal])) for rule in found[:limit]]
        return Page(items=page, next_cursor=key_cursor(page[-1].rule_id) if len(found) > limit else None)

    @router.get("/alarm-rules/effective", tags=["alarm-rules"], summary="What holds for a device, and why")
    async def effective_rules(device: str, who: Reader) -> EffectiveRulesReply:
        target, found, signals = await rules.effective(device, who)
        dictionary_class = rules.dictionary_class(target)

        def named(signal: Signal) -> Signal:
            return signal_for(signal, lambda: rules.order_of(device))

        return EffectiveRulesReply(
            device_id=target.device_id,
            site_id=target.site_id,
            device_kind=target.kind,
            station_class=target.station_class,
            dictionary_class=dictionary_class,
            profile=target.profile,
            rules=[_effective(one, named(signals[one.signal]), target, dictionary_class) for one in found],
        )

    @router.get("/alarm-rules/{rule_id}", tags=["alarm-rules"], summary="One rule with its overrides")
    async def get_rule(rule_id: str, _: Reader) -> RuleDetailReply:
        return detail_reply(*await rules.rule(rule_id))

    @router.put(
        "/alarm-rules/{rule_id}/overrides/{scope}/{scope_id}",
        tags=["alarm-rules"],
        summary="Override parameters of a rule for a device kind, a site class, a site or a device",
    )
    async def put_override(
        rule_id: str, scope: Scope, scope_id: ScopeId, body: OverrideBody, who: Writer, request: Request
    ) -> OverrideReply:
        wanted = OverrideRequest(**body.model_dump())
        return _override(await rules.put_override(rule_id, scope, scope_id, wanted, who, request_id(request)))

    @router.delete(
        "/alarm-rules/{rule_id}/overrides/{scope}/{scope_id}",
        tags=["alarm-rules"],
        summary="Take an override back",
        status_code=204,
    )
    async def delete_override(rule_id: str, scope: Scope, scope_id: ScopeId, who: Writer, request: Request) -> Response:
        await rules.delete_override(rule_id, scope, scope_id, who, request_id(request))
        return Response(status_code=204)


def detail_reply(rule: Rule, signal: Signal, overrides: Sequence[StoredOverride]) -> RuleDetailReply:
    """Return a rule with its overrides."""
    return RuleDetailReply(**_rule(rule, signal), overrides=[_override(one) for one in overrides])


def _signal(signal: Signal) -> SignalReply:
    return SignalReply(
        code=signal.code,
        class_codes={name: class_code(signal.code, name) for name in sorted(signal.levels) or "ABCD"},
        dictionary=signal.dictionary,
        equipment_type=signal.equipment_type,
        equipment_zh=signal.equipment_zh,
        kind=signal.kind.value,
        name=signal.name_en,
        name_zh=signal.name_zh,
        unit=signal.unit,
        levels=signal.levels,
        thresholds=signal.thresholds,
        start_delay_s=signal.start_delay_s,
        end_delay_s=signal.end_delay_s,
        period_s=signal.period_s,
        absolute_change=signal.absolute_change,
        alarm_text_zh=signal.alarm_text_zh,
        normal_text_zh=signal.normal_text_zh,
        required=signal.required,
        points=signal.points,
        note=signal.note,
        retired=signal.retired,
    )


def _rule(rule: Rule, signal: Signal) -> dict[str, object]:
    return {
        "rule_id": rule.rule_id,
        "signal": rule.signal,
        "name": signal.name_en,
        "name_zh": signal.name_zh,
        "measure": rule.measure,
        "expression": rule.expression,
        "comparison": rule.comparison.value,
        "quantifier": rule.quantifier.value,
        "points": rule.points,
        "unit": rule.unit,
        "device_kinds": sorted(rule.device_kinds),
        "band": None if rule.band is None else rule.band.value,
        "group": rule.group,
        "needs": sorted(rule.needs),
        "takes": rule.takes,
        "version": rule.version,
        "defaults": {
            name: ClassDefaults(
                enabled=params.enabled,
                level=params.level,
                threshold=params.threshold,
                hysteresis=params.hysteresis,
                start_delay_s=params.start_delay_s,
                end_delay_s=params.end_delay_s,
                max_gap_s=params.max_gap_s,
                no_data=params.no_data,
            )
            for name, params in rule.defaults.items()
        },
    }


def _effective(rule: EffectiveRule, signal: Signal, target: Target, dictionary_class: str) -> EffectiveReply:
    return EffectiveReply(
        rule_id=rule.rule.rule_id,
        signal=rule.signal,
        class_code=class_code(rule.signal, dictionary_class),
        name=signal.name_en,
        name_zh=signal.name_zh,
        measure=rule.rule.measure,
        expression=rule.rule.expression,
        comparison=rule.rule.comparison.value,
        quantifier=rule.rule.quantifier.value,
        points=[name for name in rule.rule.points if name in target.all_points],
        unit=rule.rule.unit,
        active=rule.active,
        enabled=rule.enabled,
        level=rule.level,
        threshold=rule.threshold,
        hysteresis=rule.hysteresis,
        recovery_threshold=rule.recovery_threshold,
        start_delay_s=rule.start_delay_us / SECOND_US,
        end_delay_s=rule.end_delay_us / SECOND_US,
        max_gap_s=rule.max_gap_us / SECOND_US,
        no_data=rule.no_data,
        version=rule.version,
        sources=rule.sources,
    )


def _override(stored: StoredOverride) -> OverrideReply:
    return OverrideReply(
        **asdict(stored.override), changed_by=stored.changed_by, changed_at=stored.changed_at, reason=stored.reason
    )
