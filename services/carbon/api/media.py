"""HTTP of other media: what a node used of water, gas, heat, cold, steam and fuel, and what that emitted."""

import math
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Query

from libs.common.contracts.base import UtcTime
from libs.common.contracts.carbon import Medium
from services.carbon.api.access import View
from services.carbon.api.common import AskedNode, From, Reader, To, require_visible
from services.carbon.domain.levels.periods import Step
from services.carbon.tree import NodeKind
from services.carbon.usecases.media import Assumed, Emitted, MediaUses, Use

TAGS: list[str | Enum] = ["energy"]
Fuel = Annotated[
    str | None, Query(max_length=20, pattern=r"^[A-Z][A-Z0-9-]*$", description="as the factor library names it")
]


class MediumPeriod(View):
    """What was used in one half-open period."""

    start: UtcTime
    end: UtcTime
    quantity: float | None
    """Null where it is unknown, which is not zero."""
    provisional: bool
    """The period is not over; the figure will grow."""
    interval_completeness: float | None
    """Measured quarter hours over expected ones, 0 to 1."""
    usable_share: float | None
    """The same of measured and estimated ones."""
    estimated_share: float
    """Share of the quantity that was interpolated, allocated or stood in for."""
    lower_bound: bool
    """A register was reset: what was used before is unknown."""
    uncertain: bool


class MediumView(View):
    """What was used of one register's medium."""

    point: str
    medium: Medium
    unit: str
    """Of a gas with its reference condition; a bare ``m3`` says none."""
    circuits: list[str]
    """What was summed; none of them lies within another."""
    periods: list[MediumPeriod]


class MediaReply(View):
    """Other media than electricity; they are never summed with it or with each other."""

    node: str
    node_kind: NodeKind
    step: Step
    media: list[MediumView]


class EmittedPeriod(MediumPeriod):
    """What was used and what it emitted."""

    emission_kg_co2e: float | None
    """Null where quantity or factor is unknown. [kgCO2e]"""
    marks: list[str]
    """What a reader has to know of it, such as a factor of an earlier year."""


class EmittedView(View):
    """What one medium emitted."""

    point: str
    medium: Medium
    unit: str
    circuits: list[str]
    formula: str | None
    factors: list[str]
    """Ids and revisions of the factors used."""
    why: str | None
    """Why nothing can be said; null where something can."""
    why_zh: str | None
    periods: list[EmittedPeriod]


class MediaEmissionsReply(View):
    """What other media than electricity emitted."""

    node: str
    node_kind: NodeKind
    step: Step
    media: list[EmittedView]


def build_media_router(media: MediaUses) -> APIRouter:
    """Return the routes of other media."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/energy/media", tags=TAGS, summary="Water, gas, heat, cold, steam and fuel of any node by period")
    async def used(who: Reader, node: AskedNode, start: From, end: To, step: Step = Step.DAY) -> MediaReply:
        require_visible(who, media.boundaries, node, start, end)
        found = await media.used(node, start, end, step)
        return MediaReply(node=node.id, node_kind=node.kind, step=step, media=[_used(one) for one in found])

    @router.get("/emissions/media", tags=["emissions"], summary="What other media than electricity emitted, by period")
    async def emitted(
        who: Reader,
        node: AskedNode,
        start: From,
        end: To,
        step: Step = Step.MONTH,
        gas: Fuel = None,
        fuel: Fuel = None,
        cop: Annotated[float | None, Query(gt=0, le=30, description="of the plant that made the cold [1]")] = None,
        steam_kj_per_kg: Annotated[float | None, Query(ge=84, le=4000, description="enthalpy of the steam")] = None,
    ) -> MediaEmissionsReply:
        require_visible(who, media.boundaries, node, start, end)
        found = await media.emitted(await media.used(node, start, end, step), Assumed(gas, fuel, cop, steam_kj_per_kg))
        return MediaEmissionsReply(node=node.id, node_kind=node.kind, step=step, media=[_emitted(one) for one in found])

    return router


def _rows(use: Use) -> list[dict[str, Any]]:
    return use.frame.select(*MediumPeriod.model_fields).to_dicts()


def _used(use: Use) -> MediumView:
    return MediumView(
        point=use.of.point,
        medium=use.of.medium,
        unit=use.of.unit,
        circuits=[*use.circuits],
        periods=[MediumPeriod(**row) for row in _rows(use)],
    )


def _emitted(found: Emitted) -> EmittedView:
    use, every = found.use, [one for some in found.by_period.values() for one in some]
    periods = []
    for row in _rows(use):
        emissions = found.by_period.get(row["start"], ())
        values = [one.figure.value for one in emissions]
        known = [value for value in values if value is not None]
        periods.append(
            EmittedPeriod(
                **row,
                emission_kg_co2e=math.fsum(known) if known and len(known) == len(values) else None,
                marks=sorted({mark.value for one in emissions for mark in one.figure.marks}),
            )
        )
    return EmittedView(
        point=use.of.point,
        medium=use.of.medium,
        unit=use.of.unit,
        circuits=[*use.circuits],
        formula=every[0].figure.formula if every else None,
        factors=sorted({f"{factor.factor_id} r{factor.revision}" for one in every for factor in one.used}),
        why=None if found.why is None else found.why[0],
        why_zh=None if found.why is None else found.why[1],
        periods=periods,
    )
