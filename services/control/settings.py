"""Settings of control and of the watchdog, from ``WATTRING_CONTROL__…`` and ``WATTRING_WATCHDOG__…``."""

from typing import Literal

from pydantic import Field

from libs.common.settings import SettingsModel
from services.control.domain.guards import Policy
from services.control.domain.inrush import InrushLimits


class ControlSettings(SettingsModel):
    """When control may switch."""

    off_grace_s: float = Field(default=600, gt=0, le=86400, description="a late OFF is dropped after this")
    min_off_s: float = Field(default=300, gt=0, le=86400, description="shorter shutdowns are not worth a switching")
    min_on_s: float = Field(default=300, ge=0, le=86400, description="least time between a wake-up and the next OFF")
    max_offs_per_day: int = Field(default=12, ge=1, le=1000, description="OFFs of one load within 24 hours")
    stale_after_s: float = Field(
        default=300, gt=0, le=86400, description="a breaker not read for this long is not switched off"
    )
    max_command_latency_s: float = Field(
        default=60, gt=0, le=86400, description="a device that hears commands later is not switched off"
    )
    overdue_margin_s: float = Field(
        default=60, gt=0, le=3600, description="a wake-up not verified this long after its time raises an alarm"
    )
    off_power_max_kw: float = Field(
        default=0.05, ge=0, le=100, description="a load that draws more behind an open breaker is not off"
    )
    accept_timeout_s: float = Field(
        default=10, gt=0, le=300, description="a sending that no line's holder has accepted by then is void"
    )
    verify_timeout_s: float = Field(
        default=45, gt=0, le=3600, description="an accepted command is executed and read back by then"
    )
    on_retry_first_s: float = Field(default=2, gt=0, le=300, description="first pause between sendings of an ON")
    on_retry_cap_s: float = Field(default=60, gt=0, le=3600, description="longest pause between sendings of an ON")
    settle_s: float = Field(
        default=2, ge=0, le=60, description="wait before a read-back; also how much our clock and ingest's may differ"
    )
    prepare_s: float = Field(
        default=30, gt=0, le=600, description="an occurrence gets its commands this long before its OFF"
    )
    tick_s: float = Field(default=0.5, gt=0, le=10, description="the scheduler looks this often")
    scheduler_lease_s: float = Field(
        default=6.0, gt=1, le=60, description="a scheduler that died is replaced after this"
    )
    clock_sync: Literal["required", "assumed"] = Field(
        default="required",
        description="required: no OFF unless the kernel calls its clock synchronised; assumed: the operator vouches",
    )
    watchdog: Literal["required", "absent"] = Field(
        default="required", description="required: no OFF before the watchdog has its lease on disk"
    )
    doors: tuple[str, ...] = Field(
        default=(), description="ingest's direct doors, JSON list of URLs; default: ingest in WATTRING_SERVICE_URLS"
    )
    two_person_plans: bool = Field(default=False, description="whoever drafted a plan may not approve it")

    inrush_per_site: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="planned wake-ups of a site within inrush_step_s; more wait",
    )
    inrush_per_line: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="planned wake-ups on a line within inrush_step_s; more wait",
    )
    inrush_step_s: float = Field(default=1, gt=0, le=10, description="time over which wake-ups are counted")
    inrush_margin_s: float = Field(
        default=20, ge=0, le=25, description="no wake-up waits longer than this for others of its site or line"
    )

    def inrush(self) -> InrushLimits:
        """Return how many planned wake-ups are sent at once."""
        return InrushLimits(
            per_site=self.inrush_per_site,
            per_line=self.inrush_per_line,
            step_s=self.inrush_step_s,
            margin_s=self.inrush_margin_s,
        )

    def policy(self) -> Policy:
        """Return the limits as the domain wants them."""
        return Policy(
            off_grace_s=self.off_grace_s,
            min_off_s=self.min_off_s,
            min_on_s=self.min_on_s,
            max_offs_per_day=self.max_offs_per_day,
            stale_after_s=self.stale_after_s,
            max_command_latency_s=self.max_command_latency_s,
            accept_timeout_s=self.accept_timeout_s,
            verify_timeout_s=self.verify_timeout_s,
            settle_s=self.settle_s,
            on_retry_first_s=self.on_retry_first_s,
            on_retry_cap_s=self.on_retry_cap_s,
            overdue_margin_s=self.overdue_margin_s,
            off_power_max_kw=self.off_power_max_kw,
        )
