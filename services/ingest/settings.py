"""Settings of ingest: ``WATTRING_INGEST__…``. Names say their unit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from libs.common.outgoing import AddressGuard
from libs.common.settings import SettingsModel


class PollingSettings(SettingsModel):
    """How devices are read."""

    interval_s: float = Field(default=60.0, ge=0.1, le=86400, description="between two polls, where nothing else says")
    interval_by_kind_s: Mapping[str, float] = Field(
        default_factory=dict, description='JSON object device kind -> seconds, such as {"breaker": 10}'
    )
    response_timeout_s: float = Field(default=1.0, gt=0, le=60, description="for one answer of a device")
    quiet_s: float = Field(default=0.2, gt=0, le=10, description="silence on an RTU-over-TCP line after a failure")
    max_gap: int = Field(default=16, ge=0, le=120, description="unasked registers read along to save a request")
    retries: int = Field(default=1, ge=0, le=2, description="further attempts of a read that was not answered")
    breaker_failures: int = Field(default=2, ge=1, le=20, description="unanswered polls until a device is only probed")
    breaker_waits_s: tuple[float, ...] = Field(
        default=(30.0, 60.0, 120.0, 300.0, 600.0), min_length=1, description="pauses between probes, the last repeats"
    )
    reconnect_cap_s: float = Field(default=30.0, gt=0, le=600, description="longest pause between connection attempts")
    lease_s: float = Field(default=9.0, ge=1, le=60, description="a dead holder's lines are taken over after this")
    offline_after_missed: int = Field(default=3, ge=1, le=100, description="missed polls until a device is offline")

    def interval_of(self, kind: str, own_s: float | None) -> float:
        """Return how often a device of a kind is polled: its own period, its kind's, or the general one. [s]"""
        return own_s or self.interval_by_kind_s.get(kind, self.interval_s)


class AcceptanceSettings(SettingsModel):
    """What is believed, and what happens while the bus is away."""

    max_skew_s: float = Field(default=300.0, gt=0, description="a device clock that is off by more is not used")
    max_future_s: float = Field(default=86400.0, gt=0, description="a report further ahead than this is rejected")
    max_lateness_s: float = Field(default=60.0, gt=0, description="a spooled report older than this is not live")
    park_s: float = Field(default=60.0, ge=0, le=3600, description="an unknown device's report waits this long")
    spool_max_bytes: int = Field(default=1 << 30, ge=1 << 16, description="size of the local spool")
    spool_max_age_s: float = Field(default=7 * 86400.0, ge=60, description="older spooled reports are dropped")
    heartbeat_s: float = Field(default=1.0, gt=0, le=60, description="between two heartbeats into every partition")


class SwitchingSettings(SettingsModel):
    """How commands are executed."""

    clock_sync: Literal["required", "assumed"] = Field(
        default="required", description="an OFF needs a synchronised clock; assumed is for containers that cannot see"
    )
    settle_s: float = Field(default=0.5, ge=0, le=60, description="from a write to the first look at the feedback")
    verify_within_s: float = Field(default=15.0, gt=0, le=300, description="for the feedback to follow a write")
    read_back_every_s: float = Field(default=1.0, gt=0, le=60, description="between two looks at the feedback")
    restart_settle_s: float = Field(default=10.0, ge=0, le=120, description="from a restart to the first look")
    restart_within_s: float = Field(default=120.0, gt=0, le=200, description="for a restarted device to answer again")
    meter_wait_s: float = Field(default=5.0, ge=0, le=120, description="for the load's meter to show the switching")
    idle_power_kw: float = Field(
        default=0.05, ge=0, le=10, description="a meter that shows less shows a load that is off"
    )
    restore_margin_s: float = Field(default=30.0, ge=0, le=3600, description="after restore_at we close by ourselves")
    timer_margin_s: float = Field(
        default=120.0,
        ge=0,
        le=3600,
        description="after restore_at a device that can closes by itself: others do before",
    )
    retry_first_s: float = Field(default=2.0, gt=0, le=600, description="first pause between closings of a load")
    retry_cap_s: float = Field(default=60.0, gt=0, le=3600, description="longest pause between closings of a load")
    off_lease_margin_s: float = Field(
        default=2.0, ge=0, le=30, description="validity that the line's lease must have left for an OFF"
    )


class DtuSettings(SettingsModel):
    """Where data terminals (DTU) dial in."""

    port: int | None = Field(default=None, ge=0, le=65535, description="to listen on; none: lines of kind dtu are off")
    host: str = Field(default="0.0.0.0", description="address to listen on")  # noqa: S104  # the terminals are outside
    registration_within_s: float = Field(default=10.0, gt=0, le=300, description="from connecting to being known")
    max_registration_bytes: int = Field(default=512, ge=1, le=4096, description="of a registration packet")
    max_connections: int = Field(default=20_000, ge=1, le=1_000_000, description="terminals at one process")
    idle_s: float = Field(default=900.0, gt=0, le=86400, description="a terminal silent for so long is disconnected")
    timeout_s: float = Field(default=5.0, gt=0, le=60, description="for one answer through a terminal")
    quiet_s: float = Field(default=2.0, gt=0, le=60, description="silence on a terminal's line after a failure")


class GapSettings(SettingsModel):
    """When silence is a gap, and how gaps are filled."""

    after_intervals: float = Field(default=3.0, ge=1.5, le=1000, description="silence of so many intervals is a gap")
    settle_s: float = Field(default=300.0, ge=0, le=3600, description="an hour is looked at so long after its end")
    filled_share: float = Field(default=0.9, gt=0, le=1, description="with so many of its reports a gap is filled")
    late_wait_s: float = Field(
        default=3600.0, ge=0, le=30 * 86400, description="late reports are waited for, of devices without a memory"
    )
    give_up_s: float = Field(default=7 * 86400.0, ge=60, description="what cannot be filled is given up after this")
    share: float = Field(default=0.2, gt=0, le=1, description="of a line's time, at most, for asking what was missed")
    lines_at_once: int = Field(default=20, ge=1, le=1000, description="lines of a process that are asked together")
    retry_s: float = Field(default=300.0, ge=1, le=86400, description="between two attempts to fill a gap; it doubles")


class ColdSettings(SettingsModel):
    """Where days that are no longer new are kept as Parquet files."""

    url: str | None = Field(
        default=None,
        min_length=1,
        description="a folder or s3://bucket/prefix, the same for every process of ingest; "
        "none keeps all days in PostgreSQL. `wattring up` takes a folder below its data",
    )
    s3_endpoint: str | None = Field(default=None, min_length=1, description="http(s)://host:port; none is AWS")
    s3_region: str | None = Field(default=None, min_length=1, description="such as cn-north-1")
    s3_access_key: str | None = Field(default=None, min_length=1, description="none: as the AWS environment says")
    s3_secret_key: SecretStr | None = Field(default=None, description="belongs to the access key")


class HistorySettings(SettingsModel):
    """How long readings are kept, and where."""

    retention_days: int = Field(default=400, ge=1, le=36500, description="days older than this are dropped")
    hot_days: int = Field(default=8, ge=3, le=36500, description="older days are moved to cold files, if there are any")
    settle_s: float = Field(
        default=900.0, ge=0, le=86400, description="an old day that is written to is moved when this long nobody did"
    )
    cold: ColdSettings = ColdSettings()
    days_ahead: int = Field(default=3, ge=1, le=60, description="daily partitions made in advance")
    max_batch: int = Field(default=5000, ge=1, le=50000, description="reports stored in one transaction")
    gather_s: float = Field(default=0.1, ge=0, le=5, description="between two transactions while there is no backlog")


class PullSettings(SettingsModel):
    """Which other systems may be read."""

    folders: tuple[Path, ...] = Field(default=(), description="JSON list of folders with files of pulls; a later wins")
    drop_dirs: tuple[Path, ...] = Field(
        default=(), description="JSON list of folders below which lines of kind file may take files"
    )
    lease_s: float = Field(default=9.0, ge=1, le=60, description="a dead process's pulls are taken over after this")


class IngestSettings(SettingsModel):
    """All of it."""

    polling: PollingSettings = PollingSettings()
    acceptance: AcceptanceSettings = AcceptanceSettings()
    switching: SwitchingSettings = SwitchingSettings()
    dtu: DtuSettings = DtuSettings()
    history: HistorySettings = HistorySettings()
    gaps: GapSettings = GapSettings()
    pulls: PullSettings = PullSettings()
    secrets_dir: Path | None = Field(
        default=None,
        description="folder with one file per stored secret, named as credentials_ref; default <data_dir>/secrets",
    )
    outgoing_allowed: tuple[str, ...] = Field(
        default=(),
        description="JSON list of networks, addresses and host names inside that lines may call; others are refused",
    )
    import_sync_bytes: int = Field(
        default=64 * 1024,
        ge=0,
        description="an import up to this size is done at once, a larger one by the job worker",
    )

    @field_validator("outgoing_allowed")
    @classmethod
    def _can_be_allowed(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        AddressGuard(allowed)
        return allowed
