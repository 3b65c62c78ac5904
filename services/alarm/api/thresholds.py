"""HTTP of thresholds as a supervision centre reads and writes them; export asks in its name."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Number
from libs.common.errors import PlatformError
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.usecases.thresholds import Outcome, ThresholdOrder, Thresholds

MAX_ORDERS = 1000
"""Thresholds in one message of a centre."""
Name = Annotated[str, Field(min_length=1, max_length=100)]


class OrderBody(BaseModel):
    """What the threshold of one signal of one device shall be."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    device_id: Name
    signal: Name = Field(description="code as the signal table writes it")
    threshold: Number | None = Field(default=None, description="null: stays as it is, like all below")
    hysteresis: Number | None = None
    start_delay_s: Number | None = None
    end_delay_s: Number | None = None
    unit: Name | None = Field(default=None, description="refused when it is not the rule's; null: not checked")


class OrdersBody(BaseModel):
    """What a centre wants."""

    model_config = ConfigDict(extra="forbid")

    connection: Name = Field(description="the centre, as export knows it; noted as the reason")
    orders: list[OrderBody] = Field(min_length=1, max_length=MAX_ORDERS)


class ThresholdReply(BaseModel):
    """What holds for one signal of one device."""

    device_id: str
    signal: str
    rule_id: str
    threshold: float | None
    hysteresis: float
    start_delay_s: float
    end_delay_s: float
    unit: str
    level: int | None
    active: bool
    source: str = Field(description="dictionary or <scope>:<id>")
    version: int


class OutcomeReply(BaseModel):
    """What became of one order."""

    device_id: str
    signal: str
    accepted: bool
    now: ThresholdReply | None = Field(description="what holds; null when it was refused")
    code: str | None = None
    detail: str | None = None
    detail_zh: str | None = None


class OutcomesReply(BaseModel):
    """What became of each order, in their order."""

    outcomes: Sequence[OutcomeReply]


class ThresholdsReply(BaseModel):
    """What holds for a device."""

    device_id: str
    thresholds: Sequence[ThresholdReply]


def add_threshold_routes(router: APIRouter, thresholds: Thresholds) -> None:
    """Add the routes; before those of rules, whose paths would match."""

    @router.get(
        "/alarm-rules/thresholds", tags=["alarm-rules"], summary="Thresholds of a device, as a centre reads them"
    )
    async def read_thresholds(
        device: str,
        who: Reader,
        signal: Annotated[list[str] | None, Query(max_length=MAX_ORDERS, description="only these")] = None,
    ) -> ThresholdsReply:
        found = await thresholds.read(device, signal, who)
        return ThresholdsReply(
            device_id=device, thresholds=[ThresholdReply.model_validate(one, from_attributes=True) for one in found]
        )

    @router.put(
        "/alarm-rules/thresholds", tags=["alarm-rules"], summary="Write thresholds for a centre (services only)"
    )
    async def write_thresholds(body: OrdersBody, who: Writer, request: Request) -> OutcomesReply:
        orders = [ThresholdOrder(**order.model_dump()) for order in body.orders]
        outcomes = await thresholds.write(orders, body.connection, who, request_id(request))
        return OutcomesReply(
            outcomes=[_outcome(order, outcome) for order, outcome in zip(orders, outcomes, strict=True)]
        )


def _outcome(order: ThresholdOrder, outcome: Outcome) -> OutcomeReply:
    if isinstance(outcome, PlatformError):
        english, chinese = outcome.both
        return OutcomeReply(
            device_id=order.device_id,
            signal=order.signal,
            accepted=False,
            now=None,
            code=outcome.code,
            detail=english,
            detail_zh=chinese,
        )
    return OutcomeReply(
        device_id=order.device_id,
        signal=order.signal,
        accepted=True,
        now=ThresholdReply.model_validate(outcome, from_attributes=True),
    )
