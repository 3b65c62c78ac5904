"""Settings of alarm: ``WATTRING_ALARM__…``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from libs.common.outgoing import AddressGuard
from libs.common.settings import SettingsModel
from services.alarm.domain.model import CLASSES

DictionaryClass = Literal["A", "B", "C", "D"]


class DiagnosisSettings(SettingsModel):
    """How faults are localised (故障定位)."""

    settle_s: float = Field(
        default=60.0, ge=0, le=3600, description="a silent device is looked at so much later: its neighbours may follow"
    )
    repeat_s: float = Field(
        default=600.0, gt=0, le=86_400, description="least time between two looks, unless a person asks"
    )
    recheck_s: float = Field(
        default=3600.0, gt=0, le=604_800, description="an open diagnosis is looked at again after this without news"
    )
    per_minute: int = Field(default=120, ge=1, le=100_000, description="looks that may begin within a minute")
    at_a_time: int = Field(default=8, ge=1, le=100, description="looks at the same time")
    timeout_s: float = Field(default=20.0, gt=0, le=300, description="for one question to another platform")
    group_more_than: int = Field(
        default=5,
        ge=1,
        le=100_000,
        description="more devices than this with one cause within group_within_s are a group",
    )
    group_within_s: float = Field(default=600.0, gt=0, le=86_400, description="see group_more_than")
    our_address: str | None = Field(
        default=None, description="address or name that devices report to, for cards with directed traffic"
    )
    battery_low_v: float | None = Field(
        default=None, gt=0, le=1000, description="voltage of a device's own battery below which it is low; none: only %"
    )
    card_check_hour: int = Field(
        default=3, ge=0, le=23, description="hour of the civil day from which all cards are looked at once"
    )
    card_expiry_days: int = Field(default=30, ge=0, le=3650, description="a card that ends within this is told of")


class AlarmSettings(SettingsModel):
    """What alarm can be told."""

    max_batch: int = Field(default=2000, ge=1, le=100_000, description="messages per transaction")
    class_map: Mapping[Literal["A", "B", "C", "D", "E"], DictionaryClass] = Field(
        default={"E": "D"},
        description="JSON object: station class of the registry -> class of the signal table; A to D are themselves",
    )
    default_class: Literal["A", "B", "C", "D", "E"] = Field(
        default="D", description="station class of a site that has none"
    )
    max_future_s: float = Field(
        default=300.0, gt=0, le=86_400, description="a report dated later than this after its acceptance is not judged"
    )
    max_past_s: float = Field(
        default=3600.0,
        ge=300,
        le=604_800,
        description="a report dated earlier than this before its acceptance is history and not judged",
    )
    tick_grace_s: float = Field(
        default=2.0,
        ge=0,
        le=300,
        description="a report in flight may contradict a delay that ran out on the partition's clock",
    )
    wake_settle_s: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="after a shutdown or another cause has ended, what it explained has this long to end as well",
    )
    flap_count: int = Field(
        default=5, ge=2, le=100, description="an alarm that begins so often within flap_within_s is held"
    )
    flap_within_s: float = Field(
        default=600.0, gt=0, le=86_400, description="and ends only after it has stayed away for so long"
    )
    storm_count: int = Field(
        default=30, ge=2, le=100_000, description="so many alarms of one site within storm_within_s are a storm"
    )
    storm_within_s: float = Field(default=60.0, gt=0, le=3600, description="see storm_count")
    storm_quiet_s: float = Field(
        default=300.0, gt=0, le=86_400, description="a storm ends once fewer than half as many came within this time"
    )
    storm_told_level: int = Field(
        default=1, ge=0, le=4, description="alarms of this level and worse are told in a storm too; 0: none"
    )
    ingest_silent_s: float = Field(
        default=30.0,
        ge=20,
        le=3600,
        description="a process of ingest without heartbeats for so long is silent, and did not listen meanwhile",
    )
    ingest_gone_s: float = Field(
        default=900.0,
        ge=60,
        le=604_800,
        description="others have beaten so long without it: it no longer keeps devices from being called silent",
    )
    max_window_s: float = Field(default=2_592_000.0, gt=0, le=31_536_000, description="longest maintenance window")
    max_shelf_s: float = Field(default=604_800.0, gt=0, le=31_536_000, description="longest time on a shelf")
    secrets_dir: Path | None = Field(
        default=None,
        description="folder with one file per stored secret, named as credentials_ref; default <data_dir>/secrets",
    )
    outgoing_allowed: tuple[str, ...] = Field(
        default=(),
        description="JSON list of networks, addresses and host names inside that notifications may go to",
    )
    notify_every_s: float = Field(default=1.0, gt=0, le=60, description="how often it is looked whom to tell")
    notify_max_attempts: int = Field(default=8, ge=1, le=100, description="then a message to people is given up")
    notify_max_age_s: float = Field(
        default=14_400.0, gt=0, le=604_800, description="a message that was not taken for so long is given up"
    )
    notify_keep_days: float = Field(default=90.0, gt=0, le=3650, description="how long messages can be looked at")
    diagnosis: DiagnosisSettings = DiagnosisSettings()
    measure_s: float = Field(default=10.0, gt=0, le=600, description="how often active alarms are counted for metrics")

    @field_validator("outgoing_allowed")
    @classmethod
    def _can_be_allowed(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        AddressGuard(allowed)
        return allowed

    @property
    def classes(self) -> Mapping[str, str]:
        """Station class of the registry to class of the signal table, all of them."""
        named = {str(station_class): str(class_) for station_class, class_ in self.class_map.items()}
        return {class_: class_ for class_ in CLASSES} | {"E": CLASSES[-1]} | named
