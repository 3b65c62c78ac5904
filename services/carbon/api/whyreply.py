"""The document that every trace is answered with."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field

from libs.common.contracts.base import UtcTime
from services.carbon.api.figures import UsedFactor, used_reply
from services.carbon.domain.why import Because, InputKind, Page, Rule, Why
from services.carbon.queries import Trace
from services.carbon.usecases.why import (
    Figure,
    Wanted,
    trace_link,
)


class InputReply(BaseModel):
    """A number that went into a figure."""

    name: str
    value: float | Decimal | None = Field(description="null is unknown, not zero; money is exact and written as text")
    unit: str
    kind: InputKind
    id: str = Field(description="of the circuit, register's meter, factor, price sheet, line")
    version: int | None = Field(description="of the interval, factor, price sheet")
    source: str = Field(description="document, notice, meter")
    start: UtcTime | None = Field(description="of an interval or day; time of a register")
    grade: str | None = Field(description="interval_flag; running; set_aside, uncertain or manual of a register")
    trace: str | None = Field(description="what answers why this input is what it is; null where nothing stands behind")


class QualityReply(BaseModel):
    """How well what a figure rests on is known."""

    interval_completeness: float | None
    usable_share: float | None
    estimated_share: float
    from_parts_share: float
    provisional: bool
    lower_bound: bool
    uncertain: bool


class VersionRow(BaseModel):
    """One version of an interval."""

    version: int
    energy_kwh: float | None
    interval_flag: str
    lower_bound: bool
    uncertain: bool
    computed_at: datetime


class RegisterRow(BaseModel):
    """A register as the meter showed it."""

    device_id: str
    source_time: datetime
    shown_kwh: float = Field(description="kW where the binding's point is a power")
    ratio: float
    uncertain: bool
    set_aside: bool
    manual: bool = Field(description="whether a person has read it")


class BindingRow(BaseModel):
    """A meter that served a circuit."""

    device_id: str
    valid_from: UtcTime
    valid_to: UtcTime | None
    point: str = Field(
        description="what of the meter is booked: its register; where it has none, the energy of its own intervals, or "
        "power"
    )
    period_s: float | None = Field(description="how long the meter's own intervals are, which end at the time shown")
    initial_register: float | None
    final_register: float | None
    modulus_kwh: float | None = Field(description="first value that its register cannot show [kWh]")
    resets: Sequence[UtcTime] = Field(description="when its register is on record to have been set to zero")


class GapRow(BaseModel):
    """Two registers far apart, with an interval between them."""

    start: datetime
    end: datetime
    energy_kwh: float = Field(description="measured; laid over the gap's intervals as was usual before it, else flat")


class TraceReply(BaseModel):
    """A figure with everything that it was made of; the same document for every figure."""

    figure: Figure
    node: str = Field(description="node, account, or id of a target, inventory or occurrence")
    start: UtcTime | None
    end: UtcTime | None
    value: float | Decimal | None = Field(description="null is unknown, not zero; money is exact and written as text")
    unit: str
    rule: Rule = Field(description="how the value follows from the inputs of all pages")
    formula: str
    source: str = Field(description="standard or method, with its clause")
    marks: Sequence[str] = Field(description="what to know before relying on it, or why it is unknown")
    recomputed: bool | None = Field(
        description="whether the rule gave just this value again out of the inputs; null where a rule needs more than "
        "numbers (registers, frozen formulas)"
    )
    quality: QualityReply | None
    inputs: Sequence[InputReply]
    inputs_total: int
    next: str | None = Field(description="the next page of inputs")
    factors: Sequence[UsedFactor]
    versions: Sequence[VersionRow] = Field(description="of an interval, oldest first; the last one holds")
    bindings: Sequence[BindingRow] = Field(description="meters behind an interval")
    registers: Sequence[RegisterRow] = Field(description="registers behind an interval, of each meter by time")
    gap: GapRow | None = Field(description="of an interval whose registers are far apart: what is known of its energy")
    rated_kw: float | None = Field(description="of the circuit of an interval: the limit of possible steps [kW]")


def trace_reply(wanted: Wanted, found: Why, below: Trace | None, page: Page, more: str | None) -> TraceReply:
    """Return a trace as it is answered; ``more`` is the page after."""
    by_numbers = found.rule not in (Rule.REGISTERS, Rule.STATED)
    return TraceReply(
        figure=wanted.figure,
        node=found.node,
        start=found.start,
        end=found.end,
        value=found.value,
        unit=found.unit,
        rule=found.rule,
        formula=found.formula,
        source=found.source,
        marks=found.marks,
        recomputed=found.again() == found.value if by_numbers else None,
        quality=None if found.quality is None else QualityReply.model_validate(found.quality, from_attributes=True),
        inputs=[_input(one) for one in page.of(found.inputs)],
        inputs_total=len(found.inputs),
        next=more,
        factors=[used_reply(row) for row in found.factors],
        versions=[] if below is None else _versions(below),
        bindings=[] if below is None else _bindings(below),
        registers=[] if below is None else _registers(below),
        gap=None if below is None else _gap(below),
        rated_kw=None if below is None else below.rated_kw,
    )


def _input(one: Because) -> InputReply:
    return InputReply(
        name=one.name,
        value=one.value,
        unit=one.unit,
        kind=one.kind,
        id=one.id,
        version=one.version,
        source=one.source,
        start=one.start,
        grade=one.grade,
        trace=None if one.question is None else trace_link(one.question),
    )


def _versions(below: Trace) -> list[VersionRow]:
    return [
        VersionRow(
            version=one.version,
            energy_kwh=one.energy_kwh,
            interval_flag=one.grade.flag,
            lower_bound=one.lower_bound,
            uncertain=one.uncertain,
            computed_at=one.computed_at,
        )
        for one in below.versions
    ]


def _bindings(below: Trace) -> list[BindingRow]:
    return [BindingRow.model_validate(one, from_attributes=True) for one in below.bindings]


def _gap(below: Trace) -> GapRow | None:
    gap = below.gap()
    return None if gap is None else GapRow.model_validate(gap, from_attributes=True)


def _registers(below: Trace) -> list[RegisterRow]:
    return [
        RegisterRow(
            device_id=one.device_id,
            source_time=one.source_time,
            shown_kwh=one.shown,
            ratio=one.ratio,
            uncertain=one.uncertain,
            set_aside=one.set_aside,
            manual=one.manual,
        )
        for one in below.registers
    ]
