"""Settings from the environment: ``WATTRING_<FIELD>`` and ``WATTRING_<SERVICE>__<FIELD>__<FIELD>``.

A misspelt name stops the start with the names that exist. Any variable may be given as ``<NAME>_FILE``
instead, a path whose content is the value, so that secrets need not stand in the environment. A few
names that operators know keep them: ``DATABASE_URL``, ``KAFKA_BOOTSTRAP_SERVERS``, ``LOG_LEVEL``, ``PORT``.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from libs.common.errors import PlatformError

SERVICES = ("ingest", "alarm", "control", "carbon", "export", "gateway")
SECTIONS = (*SERVICES, "watchdog", "fieldsim")
PREFIX = "WATTRING_"
WELL_KNOWN = {
    "DATABASE_URL": "WATTRING_DATABASE__URL",
    "KAFKA_BOOTSTRAP_SERVERS": "WATTRING_BUS__BOOTSTRAP_SERVERS",
    "LOG_LEVEL": "WATTRING_LOG_LEVEL",
    "PORT": "WATTRING_PORT",
}


class InvalidSettings(PlatformError):
    """The environment cannot be understood; the process does not start."""

    code = "invalid_settings"
    title_zh = "配置有误"


class SettingsModel(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DatabaseSettings(SettingsModel):
    """Where PostgreSQL is and how patient we are with it."""

    url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host:port/name; none means the embedded server"
    )
    pool_max: int = Field(default=6, ge=1, le=200, description="connections at most per service")
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="to open a connection")
    command_timeout_s: float = Field(default=30.0, gt=0, le=3600, description="for one statement")
    effects_idle_timeout_s: float = Field(
        default=1.5,
        gt=0,
        le=60,
        description="a frozen consumer's transaction is ended by the server after this",
    )


class BusSettings(SettingsModel):
    """Which bus, and its limits."""

    kind: Literal["postgres", "kafka"] = Field(default="postgres", description="log in PostgreSQL, or Apache Kafka")
    bootstrap_servers: str | None = Field(default=None, description="host:port,host:port of Kafka; sets kind=kafka")
    site_partitions: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="partitions of every site-keyed topic: 8 embedded, 48 on Kafka",
    )
    replication_factor: int = Field(default=1, ge=1, le=7, description="copies of each Kafka partition")
    publish_timeout_s: float = Field(default=2.0, gt=0, le=60, description="acknowledgement must come within this")
    linger_s: float = Field(default=0.005, ge=0, le=1, description="how long a batch may wait for company")
    session_timeout_s: float = Field(
        default=12.0, gt=1, le=300, description="a silent Kafka member is dropped after this"
    )
    lease_s: float = Field(
        default=3.0, gt=0.2, le=60, description="a silent member of the embedded bus is dropped after this"
    )
    readings_retention_s: float = Field(
        default=7200.0, gt=60, description="age at which readings leave the embedded log"
    )
    readings_retention_bytes: int = Field(default=4 << 30, gt=1 << 20, description="size at which they leave it")
    events_retention_s: float = Field(default=7 * 86400.0, gt=60, description="age at which events leave the bus")

    @property
    def effective_kind(self) -> Literal["postgres", "kafka"]:
        """The bus in use: naming Kafka servers chooses Kafka."""
        return "kafka" if self.bootstrap_servers else self.kind

    @property
    def effective_site_partitions(self) -> int:
        """Partitions of site-keyed topics."""
        return self.site_partitions or (48 if self.effective_kind == "kafka" else 8)


class CommonSettings(SettingsModel):
    """What every process of Wattring is told."""

    data_dir: Path = Field(default=Path(".data"), description="spool, leases, keys and the embedded database")
    host: str = Field(default="127.0.0.1", description="address the HTTP listeners bind to")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP listener")
    uds: Path | None = Field(default=None, description="Unix socket of the HTTP listener in place of host and port")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="least severe log line")
    log_format: Literal["json", "text"] = Field(default="json", description="JSON for machines, text for people")
    instance: str = Field(default="0", pattern=r"^[a-z0-9-]{1,40}$", description="stable name of this replica")
    drain_s: float = Field(default=10.0, gt=0, le=300, description="time to stop cleanly before tasks are cancelled")
    keys_dir: Path | None = Field(default=None, description="service keys; default <data_dir>/keys")
    service_urls: Mapping[str, str] = Field(
        default_factory=dict, description="JSON object service -> URL, http://host:port or unix:/path"
    )
    database: DatabaseSettings = DatabaseSettings()
    bus: BusSettings = BusSettings()

    @property
    def effective_keys_dir(self) -> Path:
        """Where the service keys lie."""
        return self.keys_dir or self.data_dir / "keys"


Model = TypeVar("Model", bound=SettingsModel)


def load_common(environ: Mapping[str, str] | None = None) -> CommonSettings:
    """Return the settings common to all processes.

    Raises:
        InvalidSettings: A variable is unknown or has an impossible value; the message names it.
    """
    return _validate(CommonSettings, _tree(environ)[0], PREFIX)


def load_section(section: str, model: type[Model], environ: Mapping[str, str] | None = None) -> Model:
    """Return one service's own settings, from ``WATTRING_<SECTION>__…``.

    Raises:
        InvalidSettings: A variable is unknown or has an impossible value; the message names it.
    """
    return _validate(model, _tree(environ)[1].get(section, {}), f"{PREFIX}{section.upper()}__")


def _tree(environ: Mapping[str, str] | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split the environment into the common tree and a tree per section."""
    values = {WELL_KNOWN.get(name, name): value for name, value in _with_files(environ or os.environ).items()}
    common: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name, text in values.items():
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        node = sections.setdefault(path.pop(0), {}) if path[0] in SECTIONS and len(path) > 1 else common
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise InvalidSettings(f"{name}: {part} already has a plain value")
        node[path[-1]] = _value(name, text)
    return common, sections


def _with_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Replace ``<NAME>_FILE`` by ``<NAME>`` with the file's content."""
    values: dict[str, str] = {}
    for name, text in environ.items():
        ours = name.startswith(PREFIX) or name.removesuffix("_FILE") in WELL_KNOWN
        if ours and name.endswith("_FILE"):
            try:
                values[name.removesuffix("_FILE")] = Path(text).read_text(encoding="utf-8").strip()
            except OSError as exc:
                raise InvalidSettings(f"{name}: cannot read {text}: {exc.strerror}") from exc
        elif ours or name in WELL_KNOWN:
            values.setdefault(name, text)
    return values


def _value(name: str, text: str) -> Any:
    if not text.startswith(("[", "{")):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidSettings(f"{name}: expected JSON, {exc}") from exc


def _validate(model: type[Model], values: Mapping[str, Any], prefix: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        lines = []
        for error in exc.errors():
            variable = prefix + "__".join(str(part) for part in error["loc"]).upper()
            if error["type"] == "extra_forbidden":
                known = _variables(model, prefix)
                near = difflib.get_close_matches(variable, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                lines.append(f"{variable}: there is no such setting{hint}")
            else:
                lines.append(f"{variable}: {error['msg']}")
        raise InvalidSettings("\n".join(lines)) from exc


def _variables(model: type[BaseModel], prefix: str) -> list[str]:
    names: list[str] = []
    for field, info in model.model_fields.items():
        name = prefix + field.upper()
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _variables(inner, name + "__")
        else:
            names.append(name)
    return names
