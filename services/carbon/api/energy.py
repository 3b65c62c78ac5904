"""HTTP of energy and emissions by period."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from services.carbon.api.common import From, Reader, To, asked_place, require_visible
from services.carbon.api.factors import FactorReply, factor_fields
from services.carbon.domain.factors import Choice
from services.carbon.domain.levels.periods import Step
from services.carbon.queries import Emissions, Energy, Queries
from services.carbon.tree import Node, NodeKind


class PeriodEnergy(BaseModel):
    """Energy of one half-open period."""

    start: datetime
    end: datetime
    energy_kwh: float | None = Field(description="null where it is unknown, which is not zero [kWh]")
    provisional: bool = Field(description="the period is not over; the figure will grow")
    interval_completeness: float | None = Field(
        description="measured intervals over expected ones, each circuit weighted by what it usually uses, 0 to 1"
    )
    usable_share: float | None = Field(description="the same of measured and estimated intervals, 0 to 1")
    estimated_share: float = Field(
        description="share of the energy that was interpolated, allocated, or that the next level stood in for, 0 to 1"
    )
    from_parts_share: float = Field(description="share of the energy that the next metering level stood in for, 0 to 1")
    lower_bound: bool = Field(description="a register was reset: what was used before is unknown")
    uncertain: bool


class EnergyReply(BaseModel):
    """Energy of a node."""

    node: str
    node_kind: NodeKind
    step: Step
    circuits: list[str] = Field(
        description="the circuits that were summed: the node's feeds, none of them within another"
    )
    periods: list[PeriodEnergy]


class ChosenFactor(FactorReply):
    """The factor behind an emission."""

    provisional: bool = Field(description="no factor of the year is published yet; an earlier one stands in")
    fallback: bool = Field(description="no factor of the province; a wider region's stands in")


class PeriodEmission(PeriodEnergy):
    """Energy and location-based emission of one period."""

    emission_kg_co2: float | None = Field(description="null where energy or factor is unknown [kgCO2]")
    factor_ids: list[str] | None = Field(description="the factors of the node's grids and the period's years")


class EmissionsReply(BaseModel):
    """Location-based emissions of purchased electricity."""

    node: str
    method: str = "scope 2, location-based (GHG Protocol Scope 2 Guidance 2015, ch. 6): E = A · EF"
    step: Step
    factors: list[ChosenFactor]
    periods: list[PeriodEmission]


def add_energy_routes(router: APIRouter, queries: Queries) -> None:
    """Add the routes of energy and emissions."""
    Place = Annotated[Node, Depends(asked_place(queries.boundaries))]  # noqa: N806  # a type

    @router.get("/energy", tags=["energy"], summary="Energy of any node of the tree by period")
    async def energy(who: Reader, node: Place, start: From, end: To, step: Step = Step.HOUR) -> EnergyReply:
        require_visible(who, queries.boundaries, node, start, end)
        return _energy(await queries.energy(node=node, start=start, end=end, step=step))

    @router.get("/emissions", tags=["emissions"], summary="Location-based emissions of a node by period")
    async def emissions(who: Reader, node: Place, start: From, end: To, step: Step = Step.HOUR) -> EmissionsReply:
        require_visible(who, queries.boundaries, node, start, end)
        return emissions_reply(await queries.emissions(node=node, start=start, end=end, step=step))


def _chosen(choice: Choice) -> ChosenFactor:
    return ChosenFactor(**factor_fields(choice.factor), provisional=choice.provisional, fallback=choice.fallback)


def _energy(found: Energy) -> EnergyReply:
    return EnergyReply(
        node=found.node.id,
        node_kind=found.node.kind,
        step=found.step,
        circuits=list(found.circuits),
        periods=[PeriodEnergy(**row) for row in found.frame.to_dicts()],
    )


def emissions_reply(found: Emissions) -> EmissionsReply:
    """Return what is said of emissions."""
    return EmissionsReply(
        node=found.energy.node.id,
        step=found.energy.step,
        factors=[_chosen(choice) for choice in found.choices],
        periods=[PeriodEmission(**row) for row in found.frame.to_dicts()],
    )
