"""Settings of carbon: ``WATTRING_CARBON__…``."""

from pydantic import Field

from libs.common.settings import SettingsModel


class CarbonSettings(SettingsModel):
    """What carbon can be told."""

    max_batch: int = Field(default=2000, ge=1, le=100_000, description="readings per transaction")
    recompute_poll_s: float = Field(
        default=1.0, gt=0, le=60, description="how often circuits to recompute are looked for"
    )
    targets_poll_s: float = Field(
        default=1800.0, gt=0, le=86_400, description="how often running targets are held against the books, in seconds"
    )
    query_days_max: int = Field(default=400, ge=1, le=4000, description="longest span of one query, in days")
    query_intervals_max: int = Field(
        default=4_000_000,
        ge=1000,
        le=100_000_000,
        description="intervals that one query may read: circuits times quarter hours",
    )
    inventory_intervals_max: int = Field(
        default=40_000_000,
        ge=1000,
        le=10_000_000_000,
        description="metered intervals that one inventory may read: circuits times quarter hours",
    )
    query_periods_max: int = Field(default=10_000, ge=1, le=100_000, description="periods of one answer")
    reports_poll_s: float = Field(
        default=60.0, gt=0, le=86_400, description="how often reports that have fallen due are looked for, in seconds"
    )
    attest_poll_s: float = Field(default=1.0, gt=0, le=60, description="how often what waits is attested")
    attest_head_every_s: float = Field(
        default=3600.0, ge=1, le=86_400, description="how often a head of the attestation log is signed and told"
    )
