"""Settings of the watchdog: ``WATTRING_WATCHDOG__…``."""

from pathlib import Path

from pydantic import Field

from libs.common.settings import SettingsModel


class WatchdogSettings(SettingsModel):
    """How the watchdog looks and wakes."""

    look_every_s: float = Field(default=1.0, gt=0, le=60, description="it asks the direct doors this often")
    margin_s: float = Field(
        default=60.0, ge=0, le=3600, description="a lease is honoured this long after its end: others wake first"
    )
    alarm_after_s: float = Field(
        default=15.0, ge=0, le=3600, description="an opening without a lease that lasts longer raises an alarm"
    )
    retry_first_s: float = Field(default=2.0, gt=0, le=300, description="first pause between attempts to wake a load")
    retry_cap_s: float = Field(default=60.0, gt=0, le=3600, description="longest pause between attempts")
    at_once: int = Field(default=50, ge=1, le=1000, description="loads that are being woken at the same time")
    first_word_s: float = Field(
        default=120.0,
        ge=0,
        le=3600,
        description="with an empty or damaged file nothing is woken for this long unless control has told everything",
    )
    doors: tuple[str, ...] = Field(
        default=(), description="ingest's direct doors, JSON list of URLs; default: ingest in WATTRING_SERVICE_URLS"
    )
    file: Path | None = Field(default=None, description="its journal; default <data_dir>/watchdog/leases.journal")
