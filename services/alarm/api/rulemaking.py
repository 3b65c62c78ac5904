"""HTTP of rules that people add, change, disable and remove."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Flag, JsonObject, Number
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.api.rules import OverrideReply, RuleDetailReply, detail_reply
from services.alarm.domain.expressions import MAX_LENGTH
from services.alarm.domain.model import Band, Comparison, Measure, Need, NoData, Quantifier
from services.alarm.domain.ruledata import MAX_POINTS, RuleRow
from services.alarm.usecases.rulemaking import RuleMaking
from services.alarm.usecases.rules import Rules

Word = Annotated[str, Field(min_length=1, max_length=100)]
Expected = Annotated[int | None, Query(ge=0, description="refused (409) when the rule is at another version")]
Reason = Annotated[str | None, Query(max_length=1000)]


class RuleBody(BaseModel):
    """A rule over a signal of the table; what is null is as the signal has it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    signal: Word = Field(description="code of a signal of the table that is an alarm")
    measure: Measure = Field(
        default=Measure.VALUE, description="what of the points is compared; silence: reports missed in a row, no points"
    )
    expression: str | None = Field(
        default=None, max_length=MAX_LENGTH, description="the formula, of measure expression"
    )
    comparison: Comparison
    quantifier: Quantifier = Field(
        default=Quantifier.ANY, description="how many of the points must violate: any, all, or some but not all"
    )
    points: list[Word] = Field(max_length=MAX_POINTS)
    unit: Word = Field(description="of what is compared, and so of threshold and hysteresis")
    device_kinds: list[Word] = Field(
        default_factory=list, max_length=50, description="empty: every kind with the points"
    )
    band: Band | None = Field(default=None, description="place of the threshold among those of its group")
    group: Word | None = Field(default=None, description="rules of one group keep the order of their bands")
    needs: list[Need] = Field(default_factory=list, max_length=3)
    takes: Need | None = None
    threshold: Number | None = Field(default=None, description="in place of the signal's, for all classes")
    hysteresis: Number = 0.0
    max_gap_s: Number = 900.0
    no_data: NoData = Field(default=NoData.HOLD, description="what it means when values stay away for longer")
    enabled: Flag = True
    level: int | None = Field(strict=True, default=None, description="in place of the signal's: 1 (worst) to 4")
    start_delay_s: Number | None = None
    end_delay_s: Number | None = None
    reason: str | None = Field(default=None, max_length=1000)

    def row(self, rule_id: str) -> RuleRow:
        """Return it in the domain's words."""
        facts = self.model_dump(exclude={"reason", "points", "device_kinds", "needs"})
        return RuleRow(
            rule_id=rule_id,
            points=tuple(self.points),
            device_kinds=tuple(dict.fromkeys(self.device_kinds)),
            needs=frozenset(self.needs),
            **facts,
        )


class NewRuleBody(RuleBody):
    """A rule with the id that it shall have."""

    rule_id: Word = Field(description="letters, digits, points, hyphens and underscores; never given twice")


class ChangedRuleBody(RuleBody):
    """What a rule becomes."""

    version: int | None = Field(default=None, ge=0, description="refused (409) when the rule is at another version")


class RuleVersionReply(BaseModel):
    """What somebody made of a rule."""

    version: int
    removed: bool
    definition: JsonObject
    changed_by: str
    changed_at: datetime
    reason: str | None


class RuleHistoryReply(BaseModel):
    """Versions of a rule and of its overrides, the youngest first; an override with nothing in it was taken back."""

    rule_id: str
    definitions: Sequence[RuleVersionReply]
    overrides: Sequence[OverrideReply]


def add_rulemaking_routes(router: APIRouter, making: RuleMaking, rules: Rules) -> None:
    """Add the routes."""

    @router.post("/alarm-rules", tags=["alarm-rules"], summary="Add a rule", status_code=201)
    async def add_rule(body: NewRuleBody, who: Writer, request: Request) -> RuleDetailReply:
        facts = RuleBody(**body.model_dump(exclude={"rule_id"}))
        await making.add(facts.row(body.rule_id), body.reason, who, request_id(request))
        return detail_reply(*await rules.rule(body.rule_id))

    @router.put("/alarm-rules/{rule_id}", tags=["alarm-rules"], summary="Give a rule another definition")
    async def change_rule(rule_id: str, body: ChangedRuleBody, who: Writer, request: Request) -> RuleDetailReply:
        facts = RuleBody(**body.model_dump(exclude={"version"}))
        await making.change(facts.row(rule_id), body.version, body.reason, who, request_id(request))
        return detail_reply(*await rules.rule(rule_id))

    @router.delete("/alarm-rules/{rule_id}", tags=["alarm-rules"], summary="Remove a rule", status_code=204)
    async def remove_rule(
        rule_id: str, who: Writer, request: Request, version: Expected = None, reason: Reason = None
    ) -> Response:
        await making.remove(rule_id, version, reason, who, request_id(request))
        return Response(status_code=204)

    @router.get("/alarm-rules/{rule_id}/versions", tags=["alarm-rules"], summary="What people made of a rule, and when")
    async def rule_versions(rule_id: str, _: Reader) -> RuleHistoryReply:
        definitions, overrides = await making.history(rule_id)
        return RuleHistoryReply(
            rule_id=rule_id,
            definitions=[
                RuleVersionReply(
                    version=one.version,
                    removed=one.removed,
                    definition=one.definition,
                    changed_by=one.changed_by,
                    changed_at=one.changed_at,
                    reason=one.reason,
                )
                for one in definitions
            ],
            overrides=[OverrideReply.model_validate(one) for one in overrides],
        )
