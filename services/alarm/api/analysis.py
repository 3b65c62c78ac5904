"""HTTP of the analysis of alarms."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.base import UtcTime
from libs.common.workbook import MEDIA_TYPE
from services.alarm.api.common import Reader
from services.alarm.routebody import is_a_zone
from services.alarm.store.analysis import Scope
from services.alarm.usecases.analysis import Analysis, Floods, NamedCount

By = Literal["level", "signal", "kind", "site", "region", "end_reason", "hour", "day", "hour_of_day", "weekday"]
Operators = Annotated[int, Field(ge=1, le=10_000, description="among whom the alarms were shared")]


class ScopeQuery(BaseModel):
    """Which alarms, by when they were raised; half-open."""

    model_config = ConfigDict(extra="forbid")

    start: UtcTime = Field(alias="from", description="RFC 3339 with offset")
    end: UtcTime = Field(alias="to", description="at most 400 days later")
    site: list[str] | None = Field(default=None, max_length=1000)
    signal: str | None = None
    level: list[Annotated[int, Field(ge=1, le=4)]] | None = None
    told: bool | None = Field(default=None, description="only those that nothing explains, or only the others")

    def scope(self) -> Scope:
        """Return the store's."""
        return Scope(self.start, self.end, self.site, self.signal, self.level, self.told)


class CountQuery(ScopeQuery):
    """What is counted."""

    by: By
    timezone: Annotated[str, AfterValidator(is_a_zone)] = CIVIL_ZONE.key


class FloodQuery(ScopeQuery):
    """Whose load."""

    operators: Operators = 1


class WorkbookQuery(FloodQuery):
    """What the workbook is of."""

    timezone: Annotated[str, AfterValidator(is_a_zone)] = CIVIL_ZONE.key


class MapQuery(BaseModel):
    """Which sites."""

    model_config = ConfigDict(extra="forbid")

    all: bool = Field(default=False, description="sites at which nothing is active, too")


class CountReply(BaseModel):
    """How many alarms have something in common."""

    key: str
    name: str | None
    name_zh: str | None
    alarms: int
    active: int
    told: int = Field(description="of these, those that nothing explains")
    share: float


class DurationReply(BaseModel):
    """How long alarms of a level took."""

    level: int
    alarms: int
    acknowledged: int
    acknowledge_median_s: float | None
    acknowledge_p90_s: float | None
    ended: int
    clear_median_s: float | None
    clear_p90_s: float | None


class FloodReply(BaseModel):
    """A time with more alarms than anybody can answer."""

    start: datetime
    end: datetime
    alarms: int
    peak: int


class ChatterReply(BaseModel):
    """What comes and goes three times a minute."""

    device_id: str
    signal: str
    bursts: int


class StaleReply(BaseModel):
    """What has been active for more than a day."""

    alarm_id: str
    site_id: str
    device_id: str | None
    signal: str
    level: int
    began_at: datetime


class FloodsReply(BaseModel):
    """Measures of ISA-18.2, of told alarms."""

    operators: int
    alarms: int
    mean_per_10_min: float = Field(description="of one operator; about 1 is manageable")
    peak_per_10_min: float
    windows: int
    windows_above_10: int
    flood_share: float = Field(description="part of the time that was flood, 0 to 1; under 0.01 is good")
    floods: Sequence[FloodReply]
    most_frequent: Sequence[CountReply]
    most_frequent_share: float
    chattering: Sequence[ChatterReply]
    stale: int
    oldest: Sequence[StaleReply]


class MapReply(BaseModel):
    """A site on the map."""

    site_id: str
    name: str
    name_zh: str | None
    lon: float | None
    lat: float | None
    worst_level: int | None = Field(description="of what is active and told; null: nothing is")
    alarms: int
    unacknowledged: int


def build_analysis_router(analysis: Analysis) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1", tags=["alarms"])

    @router.get("/alarms/statistics/counts", summary="How many alarms there were, by something")
    async def counts(who: Reader, query: Annotated[CountQuery, Query()]) -> list[CountReply]:
        return [_count(one) for one in await analysis.counts(query.scope(), query.by, query.timezone, who)]

    @router.get("/alarms/statistics/durations", summary="Time to acknowledge and to clear, median and p90")
    async def durations(who: Reader, query: Annotated[ScopeQuery, Query()]) -> list[DurationReply]:
        return [DurationReply(**asdict(one)) for one in await analysis.durations(query.scope(), who)]

    @router.get("/alarms/statistics/floods", summary="Measures of ISA-18.2: load, floods, stale")
    async def floods(who: Reader, query: Annotated[FloodQuery, Query()]) -> FloodsReply:
        return _floods(await analysis.floods(query.scope(), query.operators, who))

    @router.get("/alarms/statistics/map", summary="Sites by the worst that is active and told")
    async def sites(who: Reader, query: Annotated[MapQuery, Query()]) -> list[MapReply]:
        return [
            MapReply(
                site_id=one.place.site_id,
                name=one.place.name,
                name_zh=one.place.name_zh,
                lon=one.place.lon,
                lat=one.place.lat,
                worst_level=None if one.state is None else one.state.worst_level,
                alarms=0 if one.state is None else one.state.alarms,
                unacknowledged=0 if one.state is None else one.state.unacknowledged,
            )
            for one in await analysis.map(who, all_sites=query.all)
        ]

    @router.get(
        "/alarms/statistics/workbook",
        summary="All statistics as Excel",
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {}}}},
    )
    async def workbook(who: Reader, query: Annotated[WorkbookQuery, Query()]) -> Response:
        body = await analysis.workbook(query.scope(), query.timezone, query.operators, who)
        headers = {"content-disposition": 'attachment; filename="alarm-statistics.xlsx"'}
        return Response(body, media_type=MEDIA_TYPE, headers=headers)

    return router


def _count(one: NamedCount) -> CountReply:
    return CountReply(**asdict(one.count), name=one.name, name_zh=one.name_zh, share=one.share)


def _floods(found: Floods) -> FloodsReply:
    load = found.load
    return FloodsReply(
        operators=found.operators,
        alarms=load.alarms,
        mean_per_10_min=load.mean_per_window,
        peak_per_10_min=load.peak_per_window,
        windows=load.windows,
        windows_above_10=load.windows_above,
        flood_share=load.flood_share,
        floods=[FloodReply(**asdict(one)) for one in load.floods],
        most_frequent=[_count(one) for one in found.most_frequent],
        most_frequent_share=sum(one.share for one in found.most_frequent),
        chattering=[ChatterReply(**asdict(one)) for one in found.chattering],
        stale=found.stale,
        oldest=[StaleReply(**asdict(one)) for one in found.oldest],
    )
