"""A route as people write it and as it is stored; ``to_route`` makes the domain's of it."""

from datetime import time
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.base import Flag
from libs.common.errors import WrongValue
from services.alarm.domain.routing import EVERY_DAY, GroupBy, Hours, Match, Route, Step

Id = Annotated[str, Field(min_length=1, max_length=100)]
Day = Annotated[int, Field(strict=True, ge=1, le=7)]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["08:00"])]


def is_a_zone(value: str) -> str:
    """Return the name of a time zone, or raise ``WrongValue``."""
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as exc:
        raise WrongValue("an IANA time zone such as Asia/Shanghai", "IANA 时区名，如 Asia/Shanghai") from exc
    return value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class HoursBody(_Body):
    """Hours of days of the week in local time; an end that is not later than the begin is the next day's."""

    start: Clock = Field(alias="from")
    end: Clock = Field(alias="to")
    days: tuple[Day, ...] = Field(default=(1, 2, 3, 4, 5, 6, 7), description="1: Monday")

    def to_hours(self) -> Hours:
        """Return the domain's."""
        days = frozenset(day - 1 for day in self.days)
        return Hours(time.fromisoformat(self.start), time.fromisoformat(self.end), days or EVERY_DAY)


class MatchBody(_Body):
    """Which alarms; what is left out does not limit."""

    regions: tuple[Id, ...] | None = Field(default=None, min_length=1, max_length=1000)
    sites: tuple[Id, ...] | None = Field(default=None, min_length=1, max_length=10_000)
    station_classes: tuple[Literal["A", "B", "C", "D", "E"], ...] | None = Field(default=None, min_length=1)
    levels: tuple[Annotated[int, Field(strict=True, ge=1, le=4)], ...] | None = Field(default=None, min_length=1)
    signals: tuple[Id, ...] | None = Field(
        default=None, min_length=1, max_length=1000, description="codes of the table; one that ends in * is a beginning"
    )
    device_kinds: tuple[Id, ...] | None = Field(default=None, min_length=1, max_length=100)

    def to_match(self) -> Match:
        """Return the domain's."""
        return Match(
            regions=_set(self.regions),
            sites=_set(self.sites),
            station_classes=_set(self.station_classes),
            levels=None if self.levels is None else frozenset(self.levels),
            signals=self.signals,
            device_kinds=_set(self.device_kinds),
        )


class StepBody(_Body):
    """Whom to tell as well when nobody has acknowledged for so long."""

    after_s: float = Field(strict=True, ge=60, le=604_800)
    channels: tuple[Id, ...] = Field(min_length=1, max_length=20)


class RouteBody(_Body):
    """Who is told of which alarms, and how."""

    name: str = Field(min_length=1, max_length=200)
    position: int = Field(default=100, strict=True, ge=0, le=1_000_000, description="routes are asked in this order")
    enabled: Flag = True
    match: MatchBody = MatchBody()
    times: tuple[HoursBody, ...] = Field(default=(), max_length=20, description="when it counts; none: always")
    timezone: Annotated[str, AfterValidator(is_a_zone)] = CIVIL_ZONE.key
    channels: tuple[Id, ...] = Field(min_length=1, max_length=20)
    group_by: tuple[GroupBy, ...] = Field(default=(GroupBy.REGION, GroupBy.SIGNAL), max_length=4)
    group_wait_s: float = Field(default=30.0, strict=True, ge=0, le=3600)
    group_interval_s: float = Field(default=300.0, strict=True, ge=1, le=86_400)
    repeat_interval_s: float = Field(
        default=14_400.0, strict=True, ge=0, le=604_800, description="0: nobody is reminded"
    )
    quiet_hours: tuple[HoursBody, ...] = Field(default=(), max_length=20)
    quiet_told_level: int = Field(default=1, strict=True, ge=0, le=4, description="with worse ones, told always")
    digest_at: tuple[Clock, ...] = Field(default=(), max_length=24, description="told together at these times only")
    escalation: tuple[StepBody, ...] = Field(default=(), max_length=10)
    tell_ends: Flag = True
    continues: Flag = Field(default=False, description="routes behind this one may take the alarm too")

    @model_validator(mode="after")
    def _steps_rise(self) -> "RouteBody":
        after = [step.after_s for step in self.escalation]
        if after != sorted(set(after)):
            raise WrongValue("steps of escalation with rising after_s", "升级步骤的 after_s 应递增")
        if 0 < self.repeat_interval_s < 60:
            raise WrongValue("repeat_interval_s of 0, or at least 60", "repeat_interval_s 应为 0 或不小于 60")
        return self

    def named_channels(self) -> set[str]:
        """Return all channels that it names."""
        return {*self.channels, *(channel for step in self.escalation for channel in step.channels)}

    def to_route(self, route_id: str) -> Route:
        """Return the domain's."""
        return Route(
            route_id=route_id,
            position=self.position,
            channels=tuple(dict.fromkeys(self.channels)),
            match=self.match.to_match(),
            times=tuple(one.to_hours() for one in self.times),
            zone=self.timezone,
            group_by=tuple(dict.fromkeys(self.group_by)),
            group_wait_s=self.group_wait_s,
            group_interval_s=self.group_interval_s,
            repeat_interval_s=self.repeat_interval_s,
            quiet=tuple(one.to_hours() for one in self.quiet_hours),
            quiet_told_level=self.quiet_told_level,
            digest_at=tuple(time.fromisoformat(at) for at in self.digest_at),
            escalation=tuple(Step(step.after_s, step.channels) for step in self.escalation),
            tell_ends=self.tell_ends,
            continues=self.continues,
        )


def _set(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
