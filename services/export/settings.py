"""Settings of export: ``WATTRING_EXPORT__…``."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from libs.common.outgoing import AddressGuard
from libs.common.settings import SettingsModel


class CardSettings(SettingsModel):
    """The operator's card platform (CTWing CMP); without an address nobody can tell how a card is."""

    url: str | None = Field(
        default=None, description="base of its gateway, such as https://cmp-api.ctwing.cn:20164; none: not asked"
    )
    app_key: str = Field(default="", description="AppKey of the account")
    secret: SecretStr = Field(default=SecretStr(""), description="secret of the account")
    customer: str = Field(default="", description="customer number (custNumber) of batch questions")
    allowed: tuple[str, ...] = Field(
        default=(), description="networks, addresses or names inside that may be called all the same"
    )
    timeout_s: float = Field(default=4.0, gt=0, le=60, description="for one call; a question is up to four")
    arrears_path: str | None = Field(
        default=None,
        description="path of the question what is owed (queryOwe), where the account has it; none: not asked",
    )
    remember_s: float = Field(
        default=600.0, ge=0, le=86_400, description="an answer is not asked for again within this"
    )
    calls_per_minute: int = Field(
        default=300, ge=1, le=100_000, description="more are not sent; the platform's own quota is 500"
    )


class PlatformSettings(SettingsModel):
    """The device platform (CTWing AEP), asked about silent devices; commands are the business of ingest."""

    url: str | None = Field(default=None, description="base of its API: https://ag-api.ctwing.cn; none: not asked")
    app_key: str = Field(default="", description="key of the application")
    app_secret: SecretStr = Field(default=SecretStr(""), description="secret of the application")
    products: Mapping[str, SecretStr] = Field(
        default_factory=dict, description="JSON object of product to MasterKey; others are not asked about"
    )
    allowed: tuple[str, ...] = Field(
        default=(), description="networks, addresses or names inside that may be called all the same"
    )
    timeout_s: float = Field(default=4.0, gt=0, le=60, description="for one call; a question is up to four")
    calls_per_minute: int = Field(default=300, ge=1, le=100_000, description="more are not sent")


class CallbackSettings(SettingsModel):
    """Callbacks to endpoints that people and programs have named."""

    allowed: tuple[str, ...] = Field(
        default=(), description="networks, addresses or names inside that may be called all the same"
    )
    max_endpoints: int = Field(default=500, ge=0, le=10_000, description="more are refused; 0 takes none")
    max_waiting: int = Field(
        default=200_000, ge=100, description="what waits for one endpoint beyond this is given up, the oldest first"
    )
    max_age_s: float = Field(
        default=5 * 86400.0, gt=60, description="what could not be delivered for so long is given up"
    )
    retention_s: float = Field(
        default=30 * 86400.0, gt=3600, description="age at which finished deliveries leave the log"
    )
    batch_s: float = Field(
        default=5.0, ge=0, le=30, description="how long readings and intervals wait for company in a batch"
    )
    batch_age_s: float = Field(
        default=86400.0, gt=60, description="age at which batches are given up, and finished ones leave the log"
    )
    max_batches: int = Field(
        default=10_000, ge=10, description="batches that may wait for one endpoint, besides all else; the oldest go"
    )

    @field_validator("allowed")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressGuard(value)
        return value


class FeedSettings(SettingsModel):
    """Feeds of readings to third parties."""

    allowed: tuple[str, ...] = Field(
        default=(),
        description="networks, addresses or names inside that may be called all the same, proxies among them",
    )
    max_feeds: int = Field(default=50, ge=0, le=1000, description="more are refused; 0 takes none")
    max_destinations: int = Field(default=20, ge=1, le=200, description="of one feed; more are refused")
    max_bytes: int = Field(
        default=4 << 30, ge=1 << 20, description="of one feed, compressed; beyond it the oldest batches go, told or not"
    )

    @field_validator("allowed")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressGuard(value)
        return value


class FileSettings(SettingsModel):
    """The units' file server (FTP), from which centres fetch files."""

    host: str = Field(default="127.0.0.1", description="address that it listens on")
    port: int = Field(default=0, ge=0, le=65535, description="its port; 0 opens none, and GET_FTP says no")
    public_port: int | None = Field(
        default=None, ge=1, le=65535, description="port that centres are told, where it differs from port"
    )
    public_address: str | None = Field(
        default=None, description="address that passive connections are told, behind a translated address"
    )
    passive_ports: str | None = Field(
        default=None,
        pattern=r"^[0-9]{4,5}-[0-9]{4,5}$",
        description="range of ports for data connections, such as 50000-50099; none: any",
    )
    max_sessions: int = Field(default=64, ge=1, le=1000, description="sessions at the same time")
    max_sessions_per_address: int = Field(default=8, ge=1, le=1000, description="of these from one address")
    idle_s: float = Field(default=120.0, gt=1, le=3600, description="a session that says nothing for so long ends")
    max_upload_bytes: int = Field(default=64 << 20, ge=1024, description="largest file an account may put there")
    folder: Path | None = Field(
        default=None, description="where the units' files are; none: <data_dir>/unit-files; replicas share it"
    )
    certificate: Path | None = Field(
        default=None, description="PEM of certificate and key; with it sessions may be encrypted (explicit TLS)"
    )
    tls_required: bool = Field(default=False, description="whether sessions without TLS are refused")

    @model_validator(mode="after")
    def _agree(self) -> "FileSettings":
        if self.tls_required and self.certificate is None:
            raise ValueError("tls_required needs a certificate")
        first, last = self.passive_range or (1, 65535)
        if not 1024 <= first <= last <= 65535 and self.passive_range is not None:
            raise ValueError("passive_ports: expected first-last between 1024 and 65535")
        return self

    @property
    def passive_range(self) -> tuple[int, int] | None:
        """First and last port of data connections."""
        if self.passive_ports is None:
            return None
        first, _, last = self.passive_ports.partition("-")
        return int(first), int(last)


class ScheduledFileSettings(SettingsModel):
    """Files that are made again and again and brought to others (``/api/v1/exports``)."""

    allowed: tuple[str, ...] = Field(
        default=(), description="networks, addresses or names inside that files may be brought to all the same"
    )
    max_exports: int = Field(default=500, ge=0, le=10_000, description="more are refused; 0 takes none")
    folder: Path | None = Field(
        default=None,
        description="where files lie until they are brought; none: <data_dir>/exports; replicas and the job worker "
        "share it",
    )
    max_file_bytes: int = Field(default=4 << 30, ge=1 << 20, le=64 << 30, description="a larger file is not made")
    retention_s: float = Field(
        default=180 * 86400.0, gt=86400, description="age at which finished runs leave the database"
    )

    @field_validator("allowed")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressGuard(value)
        return value


class RecordSettings(SettingsModel):
    """Records of tables 1 to 6 of the data-access standard that come in (``/api/v1/exports/standard/records``)."""

    senders: tuple[str, ...] = Field(
        default=(), max_length=1000,
        description="who may deliver them beside administrators, with the right export:write: key:<id>, user:<name>",
    )  # fmt: skip
    folder: Path | None = Field(default=None, description="where files of them are dropped; none takes no files")
    settle_s: float = Field(default=5.0, ge=0, le=600, description="a file that has not changed for this long is whole")
    retention_s: float = Field(
        default=180 * 86400.0, gt=86400, description="age at which finished deliveries leave the database"
    )


class ExportSettings(SettingsModel):
    """What export is told besides the common settings."""

    unit_host: str = Field(default="127.0.0.1", description="address that the units' SOAP service listens on")
    unit_port: int = Field(
        default=8080, ge=0, le=65535, description="its port; the specifications imply 8080, 0 opens no listener"
    )
    unit_address: str = Field(
        default="127.0.0.1", description="address that units report to centres as theirs, unless a unit has its own"
    )
    unit_public_port: int | None = Field(
        default=None, ge=1, le=65535, description="port that units report, where it differs from unit_port"
    )
    allowed_peers: tuple[str, ...] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="networks that may call the units' service, besides each connection's own peers",
    )
    max_message_bytes: int = Field(default=4 << 20, ge=1024, le=64 << 20, description="largest SOAP message taken")
    max_values: int = Field(
        default=200_000, ge=1, description="values in one answer, at most; a longer history is refused"
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="keys that credentials are encrypted with (Fernet, base64; several with commas, the first "
        "encrypts); none keeps one in <keys_dir>/export-secrets.key",
    )
    dialects_dir: Path | None = Field(
        default=None,
        description="folder with the operator's own variants of the B interface (*.yaml); none: shipped ones",
    )
    cards: CardSettings = CardSettings()
    platform: PlatformSettings = PlatformSettings()
    callbacks: CallbackSettings = CallbackSettings()
    feeds: FeedSettings = FeedSettings()
    files: FileSettings = FileSettings()
    exports: ScheduledFileSettings = ScheduledFileSettings()
    records: RecordSettings = RecordSettings()
    lease_s: float = Field(default=9.0, gt=1, le=300, description="a dead replica's units are taken over after this")
    poll_s: float = Field(default=1.0, gt=0, le=60, description="how often the queues are looked at without a call")
    look_back_s: float = Field(
        default=1800.0, gt=0, le=86400, description="how far back readings are read at the start for latest values"
    )
    sample_retention_s: float = Field(
        default=35 * 86400.0, gt=3600, description="age at which hourly samples leave the database"
    )
    delivery_retention_s: float = Field(
        default=180 * 86400.0, gt=86400, description="age at which finished deliveries leave the database"
    )

    @field_validator("allowed_peers")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value
