"""What control knows of a load, from the registry: where its switch is and what forbids switching it."""

from dataclasses import dataclass

from libs.common.ids import DeviceId, LineId, LoadId, SiteId


@dataclass(frozen=True, slots=True)
class LoadInfo:
    """A load as it can be switched."""

    load_id: LoadId
    name: str
    site_id: SiteId
    region_ids: tuple[str, ...] = ()
    """The site's region and those above it."""
    device_id: DeviceId | None = None
    """The breaker."""
    channel: int | None = None
    line_id: LineId | None = None
    obstacle: str | None = None
    """Why it may not enter a plan: ``never_off``, ``no_breaker``, ``no_sector``; None when it may."""
    command_latency_s: float | None = None
    """How long the breaker may take to hear a command; None is a device that always listens. [s]"""
    meter_device_id: DeviceId | None = None
    """The meter behind the breaker, whose power proves the switching."""
    tags: tuple[str, ...] = ()
    kind: str = "other"
    """``LoadKind``."""
    is_radio: bool = False
    """Whether coverage depends on its kind."""
    sector: str | None = None
    keeps_coverage: bool = False
    """A radio unit of the coverage layer, or one of which the registry does not say that it is not."""
    site_kind: str | None = None
    site_class: str | None = None

    @classmethod
    def nowhere(cls) -> "LoadInfo":
        """Return a load of which nothing is known, so that only what holds everywhere holds for it."""
        return cls(load_id=LoadId(""), name="", site_id=SiteId(""), kind="")

    @property
    def can_wake(self) -> bool:
        """Whether there is a way to reach its breaker at all."""
        return self.device_id is not None and self.line_id is not None

    @property
    def off_obstacle(self) -> str | None:
        """Why nobody may switch it off through us; a missing sector keeps it out of plans only."""
        if self.obstacle == "no_sector":
            return None
        if self.obstacle is None and not self.can_wake:
            return "no_line"
        return self.obstacle
