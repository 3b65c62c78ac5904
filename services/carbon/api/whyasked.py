"""What a request for a trace asks about."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query

from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.contracts.registry import CircuitRole
from libs.common.ids import CircuitId, SiteId
from services.carbon.api.common import asked_node
from services.carbon.api.costs import CostStep
from services.carbon.api.media import Fuel
from services.carbon.domain.booking import floor
from services.carbon.domain.levels.balance import PueCategory
from services.carbon.domain.levels.comparison import Against
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.electrical import Rating
from services.carbon.domain.levels.facts import FactKind
from services.carbon.domain.tariff.basic import Mode
from services.carbon.domain.why import Page
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.media import Assumed
from services.carbon.usecases.why import (
    Figure,
    Flow,
    LoadBand,
    Method,
    Wanted,
)
from services.carbon.usecases.why.asked import HOLD_MONTHS
from services.carbon.usecases.why.energy import STEP

INPUTS_MAX = 1_000
"""Inputs of one page."""
QUARTERS = frozenset(
    {
        Figure.INTERVAL, Figure.PARTS, Figure.DELIVERED, Figure.VIRTUAL_INTERVAL, Figure.REACTIVE,
        Figure.MEDIUM_INTERVAL,
    }
)  # fmt: skip
"""Figures of one quarter hour, which ``start`` lies in."""
Name = Annotated[str | None, Query(max_length=64)]


@dataclass(frozen=True, slots=True)
class _OfLoad:
    rating: Rating | None
    band: LoadBand | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class _OfMedium:
    point: str | None
    assumed: Assumed


@dataclass(frozen=True, slots=True)
class _OfFee:
    mode: Mode | None
    hold_months: int


def asked_of_load(
    rating: Annotated[Rating | None, Query(description="of a load rate; line is its name")] = None,
    band: Annotated[LoadBand | None, Query(description="of the time of a load rate")] = None,
    at: Annotated[UtcTime | None, Query(description="a time in the quarter hour that is asked about")] = None,
) -> _OfLoad:
    """Return what is asked of a load rate."""
    return _OfLoad(rating, band, at)


def asked_of_medium(
    point: Annotated[str | None, Query(max_length=64, description="register of a medium or of reactive energy")] = None,
    gas: Fuel = None,
    fuel: Fuel = None,
    cop: Annotated[float | None, Query(gt=0, le=30, description="of the plant that made the cold [1]")] = None,
    steam_kj_per_kg: Annotated[float | None, Query(ge=84, le=4000, description="enthalpy of the steam")] = None,
) -> _OfMedium:
    """Return what is asked of a medium, and what no meter says of it."""
    return _OfMedium(point, Assumed(gas, fuel, cop, steam_kj_per_kg))


def asked_of_fee(
    mode: Annotated[Mode | None, Query(description="of a basic fee; none is the best plan")] = None,
    hold_months: Annotated[int, Query(ge=1, le=24, description="how long a plan keeps each mode")] = HOLD_MONTHS,
) -> _OfFee:
    """Return what is asked of a basic fee."""
    return _OfFee(mode, hold_months)


def asked_why(
    of_load: Annotated[_OfLoad, Depends(asked_of_load)],
    of_medium: Annotated[_OfMedium, Depends(asked_of_medium)],
    of_fee: Annotated[_OfFee, Depends(asked_of_fee)],
    figure: Annotated[
        Figure | None, Query(description="by default an interval where start is given, else energy")
    ] = None,
    site: Name = None,
    circuit: Name = None,
    room: Name = None,
    region: Name = None,
    organisation: Name = None,
    virtual: Name = None,
    account: Annotated[str | None, Query(max_length=64, description="of a cost, in place of a node")] = None,
    begin: Annotated[UtcTime | None, Query(alias="from", description="start of the figure's span, with offset")] = None,
    to: Annotated[UtcTime | None, Query(description="end of the span, not included, with offset")] = None,
    start: Annotated[UtcTime | None, Query(description="a time in the interval that is asked about")] = None,
    role: CircuitRole | None = None,
    tag: Name = None,
    use: Name = None,
    level: Annotated[int | None, Query(ge=1, le=9)] = None,
    category: Annotated[PueCategory | None, Query(description="of a PUE, or of the circuits that measure IT")] = None,
    booked: Annotated[bool, Query(description="without what is running now, as figures of levels are")] = False,
    part: Annotated[str | None, Query(max_length=64, description="only this circuit of the node")] = None,
    of_site: Annotated[str | None, Query(max_length=64, description="only what the node has at this site")] = None,
    kind: Annotated[FactKind | None, Query(description="what an intensity is per")] = None,
    against: Annotated[Against, Query(description="what a change is against")] = Against.YEAR,
    step: Annotated[CostStep, Query(description="of the lines of a cost")] = CostStep.MONTH,
    line: Annotated[
        str | None,
        Query(
            max_length=64,
            description="number of a line of a cost, saving or statement, or of a bill; id of a line of an "
            "inventory, of a measure, of a meter, of a flow; name of a transformer or line; stage or "
            "account of a footprint",
        ),
    ] = None,
    flow: Annotated[Flow | None, Query(description="of a balance")] = None,
    id: Annotated[
        str | None,
        Query(
            max_length=64,
            description="of a target, an inventory, an occurrence, a project, a statement, a product, a standard of "
            "efficiency",
        ),
    ] = None,
    plan: Annotated[str | None, Query(max_length=64, description="of shutdowns, in place of an occurrence")] = None,
    version: Annotated[
        int | None, Query(ge=1, le=2_000_000_000, description="of an inventory, of avoided emissions or of a product")
    ] = None,
    scope2: Annotated[Method, Query(description="by which method an inventory is asked about")] = Method.LOCATION,
    as_of: Annotated[
        CalendarDate | None,
        Query(
            description="of a target or an accrual, by default today; of a footprint the day as of which its factors "
            "are, by default that of its version"
        ),
    ] = None,
) -> Wanted:
    """Return what a request asks about.

    Raises:
        InvalidInput: It names several nodes.
    """
    node = None
    if any(one is not None for one in (site, circuit, room, region, organisation)):
        node = asked_node(site, circuit, room, region, organisation)
    elif virtual is not None:
        node = Node(NodeKind.VIRTUAL, virtual)  # its definition is read with its figure
    figure = figure or (Figure.INTERVAL if start is not None else Figure.ENERGY)
    at = start or begin
    if figure in QUARTERS and at is not None:
        begin, to = floor(at), floor(at) + STEP
    return Wanted(
        figure=figure,
        node=node,
        account=account,
        start=begin,
        end=to,
        dimension=Dimension(role=role, tag=tag, use=use, level=level),
        category=category,
        booked=booked,
        part=None if part is None else CircuitId(part),
        of_site=None if of_site is None else SiteId(of_site),
        kind=kind,
        against=against,
        daily=step is CostStep.DAY,
        flow=flow,
        line=line,
        id=id,
        plan=plan,
        rating=of_load.rating,
        band=of_load.band,
        at=of_load.at,
        mode=of_fee.mode,
        hold_months=of_fee.hold_months,
        point=of_medium.point,
        assumed=of_medium.assumed,
        version=version,
        method=scope2,
        as_of=as_of,
    )


def asked_inputs(
    first: Annotated[int, Query(ge=0, le=100_000_000, description="the first input shown, counted from 0")] = 0,
    limit: Annotated[int, Query(ge=1, le=INPUTS_MAX, description="inputs of a page")] = 100,
) -> Page:
    """Return which inputs a request asks for."""
    return Page(first, limit)
