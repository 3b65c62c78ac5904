"""Settings of the gateway: ``WATTRING_GATEWAY__…``."""

import ipaddress

from pydantic import Field, SecretStr, field_validator

from libs.common.settings import SettingsModel


class PushSettings(SettingsModel):
    """The door for platforms that push to us."""

    enabled: bool = Field(default=False, description="pass /push/… on to ingest, without signing in")
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="JSON list of networks whose X-Forwarded-For is believed, for the senders' allow-lists"
    )
    body_max_bytes: int = Field(default=256 * 1024, ge=1024, le=16 << 20, description="largest push")
    body_within_s: float = Field(default=10.0, gt=0, le=60, description="a push must have arrived within this")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="ingest must answer within this")
    at_once_max: int = Field(default=500, ge=1, le=10_000, description="pushes under way; more are refused with 503")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for text in networks:
            ipaddress.ip_network(text, strict=False)
        return networks


class GatewaySettings(SettingsModel):
    """What the gateway can be told."""

    first_password: SecretStr | None = Field(
        default=None, description="password of the user admin, created when there is no user at all", min_length=12
    )
    session_s: float = Field(default=12 * 3600.0, gt=60, le=30 * 86400, description="a session ends after this")
    session_idle_s: float = Field(default=3600.0, gt=60, le=86400, description="or when unused for this long")
    secure_cookie: bool = Field(default=False, description="send the cookie over TLS only; true behind TLS")
    sign_in_failures: int = Field(default=5, ge=1, le=100, description="wrong passwords before a pause")
    sign_in_window_s: float = Field(default=900.0, gt=0, le=86400, description="length of that pause")
    proxy_timeout_s: float = Field(default=30.0, gt=0, le=600, description="a service must answer within this")
    live_clients_max: int = Field(default=200, ge=1, le=10_000, description="pages with live push at once")
    live_queue_max: int = Field(default=2000, ge=10, le=100_000, description="events waiting for a slow page")
    push: PushSettings = PushSettings()
