"""HTTP of virtual meters: signed sums of circuits, with what is known of them."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path
from pydantic import Field

from libs.common.contracts.base import Number, UtcTime
from libs.common.contracts.carbon import IntervalFlag
from services.carbon.api.access import Body, View
from services.carbon.api.common import From, Reader, Text, To, Writer, require_visible
from services.carbon.api.energy import EmissionsReply, emissions_reply
from services.carbon.api.levels import ProfileReply, profile_reply
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.virtual import FACTOR_MAX, TERMS_MAX, Term, VirtualMeter
from services.carbon.queries import Queries, SiteEmission
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.ports import refuse_limited
from services.carbon.usecases.virtual import Read, VirtualMeters

TAGS: list[str | Enum] = ["energy"]
Id = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", description="its id")]


class TermBody(Body):
    """One part of a sum."""

    child: str = Field(min_length=1, max_length=64)
    """Id of a circuit or of another virtual meter."""
    factor: Number = Field(default=1.0, ge=-FACTOR_MAX, le=FACTOR_MAX)
    """+1, -1, a share, or 1 plus a share that is lost."""


class VirtualMeterBody(Body):
    """How a virtual meter is computed."""

    name: Text
    terms: list[TermBody] = Field(min_length=1, max_length=TERMS_MAX)
    constant_kw: Number = 0.0
    """Used or lost at any time, such as the iron loss of a transformer. [kW]"""
    allow_partial: bool = False
    """Whether the known parts make a result while others are unknown."""


class TermView(View):
    """One part of a sum."""

    child: str
    factor: float


class VirtualMeterView(View):
    """A definition as it holds."""

    meter_id: str
    version: int
    name: str
    terms: list[TermView]
    constant_kw: float
    allow_partial: bool


class VirtualIntervalView(View):
    """One quarter hour."""

    start: UtcTime
    energy_kwh: float | None
    """Null where it is unknown, which is not zero; may be negative. [kWh]"""
    interval_flag: IntervalFlag
    present_share: float
    """How many of the circuits behind it are known, by their factors, 0 to 1."""
    lower_bound: bool
    """It was at least this much."""
    upper_bound: bool
    """It was at most this much."""


class VirtualReply(View):
    """What a virtual meter says of a span."""

    meter_id: str
    energy_kwh: float | None
    """Sum of the quarter hours that are known; null when none is. [kWh]"""
    known_share: float
    """Share of the quarter hours that have a value."""
    present_share: float
    measured_share: float
    circuits: dict[str, float]
    """The circuits behind it, each with what it counts in all."""
    intervals: list[VirtualIntervalView]


class SiteEmissionView(View):
    """What of a virtual meter is of one site, in one civil year."""

    site: str
    year: int
    energy_kwh: float
    """Of the quarter hours that are known. [kWh]"""
    share: float | None
    """Of the meter's energy; null where that is zero. [1]"""
    factor_id: str | None
    """Of the site's own grid; null where it has none, and then the emission is unknown."""
    emission_kg_co2: float | None


class VirtualEmissionsReply(EmissionsReply):
    """Location-based emissions of a virtual meter: each site's energy by the factor of its own grid."""

    sites: list[SiteEmissionView]


def build_virtual_router(meters: VirtualMeters, levels: Levels, queries: Queries) -> APIRouter:
    """Return the routes of virtual meters."""
    router = APIRouter(prefix="/api/v1")

    @router.put("/energy/virtual-meters/{meter_id}", tags=TAGS, summary="Define a virtual meter, or its next version")
    async def define(who: Writer, meter_id: Id, body: VirtualMeterBody) -> VirtualMeterView:
        refuse_limited(who, "virtual meters", "虚拟表")
        one = VirtualMeter(
            id=meter_id,
            terms=[Term(term.child, term.factor) for term in body.terms],
            constant_kw=body.constant_kw,
            allow_partial=body.allow_partial,
        )
        version = await meters.define(one, name=body.name, who=who)
        return _view(one, body.name, version)

    @router.get("/energy/virtual-meters", tags=TAGS, summary="All virtual meters")
    async def defined(who: Reader) -> Sequence[VirtualMeterView]:
        refuse_limited(who, "virtual meters", "虚拟表")
        return [_view(one.meter, one.name, one.version) for one in await meters.all()]

    @router.get("/energy/virtual-meters/{meter_id}", tags=TAGS, summary="Quarter hours and total of a virtual meter")
    async def read(who: Reader, meter_id: Id, start: From, end: To) -> VirtualReply:
        require_visible(who, meters.boundaries, await meters.node(meter_id), start, end)
        return _reply(meter_id, await meters.read(meter_id, start, end))

    @router.get(
        "/energy/virtual-meters/{meter_id}/profile", tags=TAGS, summary="Energy and load curve of a virtual meter"
    )
    async def profile(who: Reader, meter_id: Id, start: From, end: To, step: Step = Step.DAY) -> ProfileReply:
        node = await meters.node(meter_id)
        levels.boundaries.check_span(start, end)
        require_visible(who, levels.boundaries, node, start, end)
        return profile_reply(node, step, await levels.profile(node, start, end, step=step, dimension=Dimension()))

    @router.get(
        "/energy/virtual-meters/{meter_id}/emissions",
        tags=["emissions"],
        summary="Location-based emissions of a virtual meter",
    )
    async def emissions(
        who: Reader, meter_id: Id, start: From, end: To, step: Step = Step.MONTH
    ) -> VirtualEmissionsReply:
        node = await meters.node(meter_id)
        require_visible(who, queries.boundaries, node, start, end)
        found = await queries.emissions(node=node, start=start, end=end, step=step)
        return VirtualEmissionsReply(**dict(emissions_reply(found)), sites=_sites(found.by_site))

    return router


def _sites(parts: Sequence[SiteEmission]) -> list[SiteEmissionView]:
    whole = math.fsum(one.energy_kwh for one in parts)
    return [
        SiteEmissionView(
            site=one.site,
            year=one.year,
            energy_kwh=one.energy_kwh,
            share=one.energy_kwh / whole if whole else None,
            factor_id=None if one.choice is None else one.choice.factor.factor_id,
            emission_kg_co2=None if one.choice is None else one.energy_kwh * float(one.choice.factor.value),
        )
        for one in parts
    ]


def _view(one: VirtualMeter, name: str, version: int) -> VirtualMeterView:
    return VirtualMeterView(
        meter_id=one.id,
        version=version,
        name=name,
        terms=[TermView(child=term.child, factor=term.factor) for term in one.terms],
        constant_kw=one.constant_kw,
        allow_partial=one.allow_partial,
    )


def _reply(meter_id: str, found: Read) -> VirtualReply:
    rows = found.intervals
    return VirtualReply(
        meter_id=meter_id,
        energy_kwh=found.total.energy_kwh,
        known_share=found.total.known_share,
        present_share=found.total.present_share,
        measured_share=found.total.measured_share,
        circuits=found.circuits,
        intervals=[
            VirtualIntervalView(
                start=datetime.fromtimestamp(float(rows.start[i]), UTC),
                energy_kwh=float(rows.energy_kwh[i]) if np.isfinite(rows.energy_kwh[i]) else None,
                interval_flag=IntervalFlag(Grade(int(rows.grade[i])).flag),
                present_share=float(rows.present_share[i]),
                lower_bound=bool(rows.lower_bound[i]),
                upper_bound=bool(rows.upper_bound[i]),
            )
            for i in range(rows.start.size)
        ],
    )
