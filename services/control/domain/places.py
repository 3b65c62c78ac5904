"""What goes on at a place and forbids OFFs there: alarms, maintenance windows, emergency mode."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from services.control.domain.guards import Policy
from services.control.domain.loads import LoadInfo


@dataclass(frozen=True, slots=True)
class ActiveAlarm:
    """An alarm that stands and that nothing else explains."""

    alarm_id: str
    site_id: str
    device_id: str | None
    level: int
    signal: str
    began_at: datetime

    def __str__(self) -> str:
        """Return it as a guard's value."""
        return f"{self.signal} level {self.level} since {self.began_at.isoformat()} ({self.alarm_id})"


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """Time in which work goes on at a site or at some devices of it; half-open."""

    window_id: str
    site_id: str
    device_ids: tuple[str, ...] | None
    """None: the whole site."""
    starts_at: datetime
    ends_at: datetime

    def covers(self, load: LoadInfo, at: datetime) -> bool:
        """Return whether work goes on at the load, its breaker or its meter then."""
        if self.site_id != load.site_id or not self.starts_at <= at < self.ends_at:
            return False
        return self.device_ids is None or not {load.device_id, load.meter_device_id}.isdisjoint(self.device_ids)

    def __str__(self) -> str:
        """Return it as a guard's value."""
        return f"{self.window_id} until {self.ends_at.isoformat()}"


@dataclass(frozen=True, slots=True)
class EmergencyMode:
    """A person has declared that nothing is switched off there; only a person ends it."""

    emergency_id: str
    scope: str
    """``site``, ``region`` or ``all``."""
    target: str
    reason: str
    declared_by: str
    declared_at: datetime
    ended_by: str | None = None
    ended_at: datetime | None = None

    def covers(self, load: LoadInfo) -> bool:
        """Return whether the load lies within."""
        match self.scope:
            case "site":
                return load.site_id == self.target
            case "region":
                return self.target in load.region_ids
            case _:
                return True

    def __str__(self) -> str:
        """Return it as a guard's value."""
        place = self.scope if self.scope == "all" else f"{self.scope} {self.target}"
        return f"{self.emergency_id}, {place}, by {self.declared_by} since {self.declared_at.isoformat()}"


def blocking_alarm(alarms: Iterable[ActiveAlarm], load: LoadInfo, policy: Policy) -> ActiveAlarm | None:
    """Return the worst alarm that the load's policy names."""
    own = {load.device_id, load.meter_device_id} - {None}
    found = [
        alarm
        for alarm in alarms
        if alarm.site_id == load.site_id
        and (
            alarm.level <= policy.alarm_level
            or (alarm.device_id in own and alarm.level <= policy.device_alarm_level)
            or _matches(alarm.signal, policy.alarm_signals)
        )
    ]
    return min(found, key=lambda alarm: (alarm.level, alarm.began_at, alarm.alarm_id), default=None)


def backup_power(alarms: Iterable[ActiveAlarm], load: LoadInfo, policy: Policy) -> ActiveAlarm | None:
    """Return the alarm that says that battery or generator feeds the load's site."""
    found = [
        alarm
        for alarm in alarms
        if alarm.site_id == load.site_id and _matches(alarm.signal, policy.backup_power_signals)
    ]
    return min(found, key=lambda alarm: (alarm.began_at, alarm.alarm_id), default=None)


def _matches(signal: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(signal, pattern) for pattern in patterns)
