"""What an upstream application may order: which loads, what with them, how many, how often, how long and when.

Nothing is allowed that is not said: an app without limits may switch nothing, nor one whose lists are empty. Its
priority is always the lowest. What a site has opted out of is answered and not done.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from libs.common.clock import CIVIL_ZONE
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import Window
from services.control.domain.refusals import Refusal

OPTED_OUT = "opted_out"
"""The guard that says that a site has opted out."""


class AppAction(StrEnum):
    """What an app may order."""

    OFF = "off"
    ON = "on"
    PLANS = "plans"
    SETTINGS = "settings"
    """Set points inside devices, one at a time."""


@dataclass(frozen=True, slots=True)
class AppLimits:
    """What one app may order."""

    actions: frozenset[AppAction] = frozenset()
    load_ids: frozenset[str] = frozenset()
    """A load is the app's when one of the four lists has it."""
    tags: frozenset[str] = frozenset()
    site_ids: frozenset[str] = frozenset()
    region_ids: frozenset[str] = frozenset()
    device_ids: frozenset[str] = frozenset()
    """Devices in which it may set something, besides those at its sites, in its regions and with its tags."""
    max_off: int = 100
    """Loads that are off by its orders and plans at the same time."""
    orders_per_hour: int = 60
    """Orders and drafts of plans."""
    orders_per_day: int = 500
    longest_off_s: float = 86400.0
    windows: tuple[Window, ...] = ()
    """Times of day that an OFF has to lie within, with its end; none allows any."""
    zone: str = CIVIL_ZONE.key
    """IANA zone of the windows."""
    plan_approval: bool = True
    """Whether an operator has to approve its plans; else the app may do so itself."""

    def lists(self, load: LoadInfo) -> bool:
        """Return whether the load is the app's."""
        return (
            load.load_id in self.load_ids
            or load.site_id in self.site_ids
            or not self.tags.isdisjoint(load.tags)
            or not self.region_ids.isdisjoint(load.region_ids)
        )

    def lists_device(self, device_id: str, *, site_id: str, tags: Collection[str], region_ids: Collection[str]) -> bool:
        """Return whether the app may set something in the device."""
        return (
            device_id in self.device_ids
            or site_id in self.site_ids
            or not self.tags.isdisjoint(tags)
            or not self.region_ids.isdisjoint(region_ids)
        )

    def span_refusal(self, off_at: datetime, on_at: datetime | None) -> Refusal | None:
        """Return what speaks against an OFF from one time to another."""
        if on_at is None:
            return None  # refused as an OFF without an end
        length_s = (on_at - off_at).total_seconds()
        if length_s > self.longest_off_s:
            return Refusal("app_longest_off", length_s, self.longest_off_s, True)
        if self.windows and not any(self._within(window, off_at, on_at) for window in self.windows):
            zone = ZoneInfo(self.zone)
            span = f"{off_at.astimezone(zone):%H:%M:%S}-{on_at.astimezone(zone):%H:%M:%S}"
            return Refusal("app_window", span, ", ".join(_words(window) for window in self.windows), True)
        return None

    def _within(self, window: Window, off_at: datetime, on_at: datetime) -> bool:
        zone = ZoneInfo(self.zone)
        day = off_at.astimezone(zone).date()
        for first in (day, day - timedelta(days=1)):
            start = datetime.combine(first, window.start, zone)
            end = datetime.combine(first + timedelta(days=window.days), window.end, zone)
            if start <= off_at and on_at <= end:
                return True
        return False

    def as_json(self) -> dict[str, Any]:
        """Return the limits as they are stored and shown."""
        return {
            "actions": sorted(self.actions),
            "load_ids": sorted(self.load_ids),
            "tags": sorted(self.tags),
            "site_ids": sorted(self.site_ids),
            "region_ids": sorted(self.region_ids),
            "device_ids": sorted(self.device_ids),
            "max_off": self.max_off,
            "orders_per_hour": self.orders_per_hour,
            "orders_per_day": self.orders_per_day,
            "longest_off_s": self.longest_off_s,
            "windows": [{"start": window.start.isoformat(), "end": window.end.isoformat()} for window in self.windows],
            "zone": self.zone,
            "plan_approval": self.plan_approval,
        }

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "AppLimits":
        """Read what ``as_json`` has written."""
        windows = (Window(time.fromisoformat(one["start"]), time.fromisoformat(one["end"])) for one in raw["windows"])
        return cls(
            actions=frozenset(AppAction(action) for action in raw["actions"]),
            load_ids=frozenset(raw["load_ids"]),
            tags=frozenset(raw["tags"]),
            site_ids=frozenset(raw["site_ids"]),
            region_ids=frozenset(raw["region_ids"]),
            device_ids=frozenset(raw.get("device_ids", ())),  # limits of before it had any
            max_off=raw["max_off"],
            orders_per_hour=raw["orders_per_hour"],
            orders_per_day=raw["orders_per_day"],
            longest_off_s=raw["longest_off_s"],
            windows=tuple(windows),
            zone=raw["zone"],
            plan_approval=raw["plan_approval"],
        )


@dataclass(frozen=True, slots=True)
class OptOut:
    """A site takes no part in what upstream apps order, for a time."""

    opt_out_id: str
    site_id: str
    starts_at: datetime
    until: datetime
    """Not included."""
    reason: str
    declared_by: str
    declared_at: datetime
    ended_by: str | None = None
    ended_at: datetime | None = None

    def meets(self, site_id: str, off_at: datetime, on_at: datetime) -> bool:
        """Return whether an OFF at a site would lie in it, if only in part."""
        return self.ended_at is None and self.site_id == site_id and self.starts_at < on_at and off_at < self.until


@dataclass(slots=True)
class AppJudge:
    """Says of each load whether an app may have it off; OFFs that pass are noted by ``passed``."""

    limits: Mapping[str, AppLimits | None]
    """By caller; None: they were taken away. Who is not here is no app, and only opt-outs hold for it."""
    opt_outs: Sequence[OptOut] = ()
    off: dict[str, int] = field(default_factory=dict)
    """Loads that are off by each caller's orders, or about to be."""
    busy: frozenset[str] = frozenset()
    """Callers whose counts somebody else is reading."""

    def lists(self, caller: str, load: LoadInfo) -> bool:
        """Return whether a load is an app's."""
        limits = self.limits.get(caller)
        return limits is not None and limits.lists(load)

    def refusal(self, caller: str, load: LoadInfo, off_at: datetime, on_at: datetime | None) -> Refusal | None:
        """Return what speaks against an OFF that is being accepted."""
        found = self.standing(caller, load, off_at, on_at)
        limits = self.limits.get(caller)
        if found is not None or limits is None:
            return found
        found = limits.span_refusal(off_at, on_at)
        if found is None and self.off.get(caller, 0) >= limits.max_off:
            found = Refusal("app_max_off", self.off.get(caller, 0) + 1, limits.max_off, True)
        return found

    def standing(self, caller: str, load: LoadInfo, off_at: datetime, on_at: datetime | None) -> Refusal | None:
        """Return what speaks against an OFF also later, when it is about to be sent."""
        if caller in self.limits:
            limits = self.limits[caller]
            if limits is None:
                return Refusal("app_no_limits", caller, None, True)
            if not limits.lists(load):
                return Refusal("app_load", load.load_id, None, True)
        end = on_at or datetime.max.replace(tzinfo=off_at.tzinfo)
        opted = next((one for one in self.opt_outs if one.meets(load.site_id, off_at, end)), None)
        return None if opted is None else Refusal(OPTED_OUT, opted.opt_out_id, opted.until.isoformat(), True)

    def passed(self, caller: str) -> None:
        """Count a load whose OFF goes on."""
        self.off[caller] = self.off.get(caller, 0) + 1


def _words(window: Window) -> str:
    return f"{window.start:%H:%M:%S}-{window.end:%H:%M:%S}"
