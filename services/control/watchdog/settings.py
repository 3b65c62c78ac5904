"""Settings of the watchdog: ``WATTRING_WATCHDOG__…``."""

from pathlib import Path

import orjson
from pydantic import Field, SecretStr, field_validator

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
    call_url: SecretStr | None = Field(
        default=None,
        description="webhook (http or https) that the watchdog itself calls while nobody takes its alarms, the last "
        "way to a person; none: its log and metrics only",
    )
    call_body: str = Field(
        default='{"text": {text}}',
        description="what is posted there; {text} is put in as a JSON string: a robot of WeCom or DingTalk wants "
        '{"msgtype": "text", "text": {"content": {text}}}',
    )
    call_after_s: float = Field(
        default=60.0, ge=0, le=3600, description="alarms nobody has taken for so long are called out"
    )
    call_again_s: float = Field(default=900.0, ge=60, le=86400, description="and again, while nobody does")
    file: Path | None = Field(default=None, description="its journal; default <data_dir>/watchdog/leases.journal")

    @field_validator("call_body")
    @classmethod
    def _is_json_with_a_text(cls, body: str) -> str:
        try:
            orjson.loads(call_body(body, "x"))
        except orjson.JSONDecodeError as exc:
            raise ValueError("expected JSON with {text} in place of a string") from exc
        if "{text}" not in body:
            raise ValueError("expected {text} somewhere in it")
        return body


def call_body(body: str, text: str) -> bytes:
    """Return what is posted to the webhook."""
    return body.replace("{text}", orjson.dumps(text).decode()).encode()
